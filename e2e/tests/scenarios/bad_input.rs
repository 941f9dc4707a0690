//! Bad input gets a clear condition, and nothing else is disturbed.

use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// A good object beside the bad ones is synced all the same.
async fn nothing_else_is_disturbed(case: &Case) {
    case.put("good", json!({"p": "CANARY-good"})).await;
    case.external_secret("good", json!({"data": [case.data("p", "good", "p")]})).await;
    case.secret_is("good", &[("p", "CANARY-good")]).await;
    assert!(case.shared_operator().metric("lockstep_panics_total", &[]).await == 0, "nothing panicked");
}

#[tokio::test]
async fn a_store_with_a_bad_url_ca_or_token_says_so() {
    let case = Case::new("badstore").await;
    case.vault_store().await;
    case.apply_secret("newline", &[("token", "CANARY-a\nCANARY-b")]).await;
    let token = |name: &str| json!({"tokenSecretRef": {"name": name, "key": "token"}});
    let url = case.harness.vault.url.clone();
    let with = |field: &str, value: Value| {
        let mut provider = case.vault_at(&url, token("vault-token"));
        provider["vault"][field] = value;
        provider
    };
    let two = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}, "kubernetes": {"role": "r"}});
    for (i, (provider, needle)) in [
        (with("server", json!("vault at home")), "spec.provider.vault.server: is no URL"),
        (with("server", json!("ftp://vault.example.com")), "spec.provider.vault.server: is no http or https URL"),
        (with("server", json!("https://user:CANARY@vault.example.com")), "spec.provider.vault.server: holds credentials"),
        (with("caBundle", json!("bm90IGEgcGVt")), "spec.provider.vault.caBundle: holds no PEM certificate"),
        (case.vault_at(&url, token("newline")), "spec.provider.vault.auth.tokenSecretRef: the token holds a line break"),
        (with("headers", json!({"bad header": "x"})), "spec.provider.vault.headers.bad header: is no header name"),
        (
            with("headers", json!({"X-Vault-Token": "CANARY"})),
            "spec.provider.vault.headers.X-Vault-Token: is set by the operator",
        ),
        (with("path", json!("../sys")), "spec.provider.vault.path: has an empty, `.` or `..` segment"),
        (with("version", json!("v1")), "spec.provider.vault.version: secret is a KV engine of version 2; write version: v2"),
        (case.vault_at(&url, two), "spec.provider.vault.auth: names tokenSecretRef and kubernetes; keep one"),
        (case.vault_at(&url, json!({"iam": {"vaultRole": "r"}})), "spec.provider.vault.auth.iam: names no identity"),
        (case.vault_at(&url, json!({"gcp": {"role": "r"}})), "spec.provider.vault.auth.gcp: names no identity"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad-{i}");
        case.apply_store(&name, provider).await;
        let message = case.store_is(&name, "False", "InvalidProviderConfig", needle).await;
        assert!(!message.contains("CANARY"), "{message}");
        case.external_secret(&name, json!({"secretStoreRef": {"name": name}, "data": [case.data("p", "good", "p")]})).await;
        case.failed(&name, needle).await;
    }
    nothing_else_is_disturbed(&case).await;
}

#[tokio::test]
async fn an_object_that_asks_for_what_can_not_be_says_so() {
    let case = Case::new("badobject").await;
    case.vault_store().await;
    case.put("text", json!({"p": "CANARY-p", "list": [1, 2]})).await;
    case.put("odd", json!({"a b": "CANARY-1", "a_b": "CANARY-2"})).await;
    case.put("dots", json!({"..": "CANARY-3"})).await;
    let third = format!("CANARY{}", "x".repeat(700_000));
    case.put("big", json!({"a": third, "b": third, "c": third})).await;
    case.apply_store("fake", json!({"fake": {"data": [{"key": "plain", "value": "CANARY plain text"}]}})).await;
    let fake = |property: &str| json!({"secretStoreRef": {"name": "fake"}, "data": [{"secretKey": "k", "remoteRef": {"key": "plain", "property": property}}]});
    let data = |entry: Value| json!({"data": [entry]});
    let extract = |key: &str| json!({"dataFrom": [{"extract": {"key": case.key(key)}}]});
    let mut version = case.data("k", "text", "p");
    version["remoteRef"]["version"] = json!("banana");
    let mut interval = data(case.data("k", "text", "p"));
    interval["refreshInterval"] = json!("banana");
    let mut none = data(case.data("k", "text", "p"));
    none["secretStoreRef"] = json!({"name": "not-there"});
    for (i, (spec, needle)) in [
        (data(case.data("k", "not-there", "p")), "Vault has nothing at secret/data/"),
        (data(case.data("k", "text", "not-there")), "the value has no property not-there; it has list, p"),
        (data(case.data("k", "../../sys/mounts", "p")), "remoteRef.key: has an empty, `.` or `..` segment"),
        (fake("x"), "property x is asked of a value that is not JSON"),
        (extract("odd"), r#"keys "a b" and "a_b" both become "a_b"; rename one of them"#),
        (extract("dots"), r#"key ".." is no key that a Secret can have"#),
        (
            data(json!({"secretKey": "k", "remoteRef": {"key": case.key("big")}})),
            "a Secret holds at most 1048576; the largest key is k",
        ),
        (data(version), "remoteRef.version: is no positive number"),
        (interval, r#"spec.refreshInterval: "banana" is no duration; write for example 1h, 15m or 90s"#),
        (none, "/not-there does not exist; create it, or name another in spec.secretStoreRef"),
        (data(case.data("k", "text", "@pretty")), "the modifier @pretty is not supported"),
        (data(case.data("..", "text", "p")), r#"secretKey ".." is no key that a Secret can have"#),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad-{i}");
        case.external_secret(&name, spec).await;
        let message = case.failed(&name, needle).await;
        assert!(!message.contains("CANARY"), "{message}");
        assert!(case.secret(&name).await.is_none());
    }
    nothing_else_is_disturbed(&case).await;
}

#[tokio::test]
async fn what_the_schema_can_tell_is_refused_at_apply() {
    let case = Case::new("refused").await;
    case.vault_store().await;
    let refused = async |spec: Value, needle: &str| {
        let error = case.try_external_secret("bad", spec).await.expect_err(needle).to_string();
        assert!(error.contains(needle), "{error}");
    };
    let key = case.key("app");
    refused(
        json!({"dataFrom": [{"extract": {"key": key}, "find": {"path": "x"}}]}),
        "exactly one of extract, find and sourceRef.generatorRef",
    )
    .await;
    refused(json!({"dataFrom": [{"rewrite": []}]}), "exactly one of extract, find and sourceRef.generatorRef").await;
    for policy in ["Orphan", "Merge", "CreateOrMerge", "None"] {
        let target = json!({"creationPolicy": policy, "deletionPolicy": "Delete"});
        refused(json!({"target": target}), "deletionPolicy Delete needs creationPolicy Owner").await;
    }
    refused(json!({"target": {"creationPolicy": "None", "deletionPolicy": "Merge"}}), "no target whose keys could go").await;
    refused(json!({"target": {"deletionPolicy": "Sideways"}}), "Unsupported value").await;
    refused(
        json!({"target": {"manifest": {"apiVersion": "v1", "kind": "ConfigMap"}, "immutable": true}}),
        "immutable is for Secrets, and manifest names another kind",
    )
    .await;
    refused(
        json!({"target": {"template": {"templateFrom": [{"target": "Data"}]}}}),
        "at least one of configMap, secret and literal must be set",
    )
    .await;
    refused(
        json!({"dataFrom": [{"extract": {"key": key}, "rewrite": [{"regexp": {"source": "a", "target": "b"}, "transform": {"template": ""}}]}]}),
        "at most 1",
    )
    .await;
    for (more, needle) in [
        (json!({"data": []}), "data and dataTo are empty"),
        (json!({"secretStoreRefs": []}), "secretStoreRefs is empty; name the stores of data"),
        (json!({"secretStoreRefs": [{"kind": "SecretStore"}]}), "a store must be named, or labels of stores be given"),
        (json!({"selector": {"secret": {"name": "s", "selector": {}}}}), "exactly one of name and selector must be set"),
        (json!({"selector": {"secret": {}}}), "exactly one of name and selector must be set"),
        (json!({"selector": {"secret": {"name": "s"}, "generatorRef": {"kind": "UUID", "name": "u"}}}), "at most 1"),
        (
            json!({"dataTo": [{"storeRef": {"name": "s"}, "remoteKey": "a", "rewrite": [{"transform": {"template": "x"}}]}]}),
            "nothing to rewrite",
        ),
    ] {
        let mut spec = json!({"secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "s"}},
            "data": [{"match": {"remoteRef": {"remoteKey": "r"}}}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "bad"}, "spec": spec});
        let error = case.apply(object).await.expect_err(needle).to_string();
        assert!(error.contains(needle), "{error}");
    }
    refused(json!({"data": [{"secretKey": "bad key", "remoteRef": {"key": key}}]}), "should match").await;
    let store = |provider: Value| json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": "bad"}, "spec": {"provider": provider}});
    let error = case.apply(store(json!({}))).await.expect_err("no provider").to_string();
    assert!(error.contains("at least 1 properties"), "{error}");
    let error = case.apply(store(json!({"fake": {"data": []}, "acme": {}}))).await.expect_err("two providers").to_string();
    assert!(error.contains("at most 1"), "{error}");
    // An entry may take its extract from another store.
    case.external_secret("good", json!({"dataFrom": [{"extract": {"key": key}, "sourceRef": {"storeRef": {"name": "vault"}}}]}))
        .await;
}

#[tokio::test]
async fn an_object_that_does_not_parse_is_told_so_and_stalls_nobody() {
    let case = Case::new("malformed").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    let spec = json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": "Sideways"}});
    case.serve_a_newer_schema(&spec).await;
    case.external_secret("odd", spec).await;
    case.failed("odd", "the object does not parse: unknown variant `Sideways`").await;
    nothing_else_is_disturbed(&case).await;
    // Corrected, it is synced.
    case.external_secret("odd", json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": "Owner"}})).await;
    case.secret_is("odd", &[("p", "CANARY-p")]).await;
    case.synced("odd").await;
}
