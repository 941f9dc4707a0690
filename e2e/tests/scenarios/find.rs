//! `dataFrom`: what is looked for, and what becomes of keys.

use serde_json::{Value, json};

use lockstep_e2e::case::Case;

async fn services(topic: &str) -> Case {
    let case = Case::new(topic).await;
    case.vault_store().await;
    for (name, value) in [
        ("svc/a-db", json!({"user": "ada", "pass": "CANARY-a"})),
        ("svc/deep/b-db", json!({"user": "bob"})),
        ("svc/c", json!({"k": "v"})),
    ] {
        case.put(name, value).await;
    }
    let metadata = format!("secret/metadata/{}", case.key("svc/deep/b-db"));
    case.harness.vault.write(&metadata, json!({"custom_metadata": {"team": "x"}})).await;
    case
}

fn find(case: &Case, find: Value, more: Value) -> Value {
    let mut entry = json!({"find": {"path": case.key("svc")}});
    entry["find"].as_object_mut().unwrap().extend(find.as_object().unwrap().clone());
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"dataFrom": [entry]})
}

#[tokio::test]
async fn vault_is_searched_by_path_name_and_tags() {
    let case = services("find-vault").await;
    let folder = case.name.replace('/', "_");
    let key = |name: &str| format!("{folder}_svc_{name}");
    let (a, b) = (r#"{"pass":"CANARY-a","user":"ada"}"#, r#"{"user":"bob"}"#);
    case.external_secret("all", find(&case, json!({}), json!({}))).await;
    case.secret_is("all", &[(&key("a-db"), a), (&key("c"), r#"{"k":"v"}"#), (&key("deep_b-db"), b)]).await;
    case.external_secret("named", find(&case, json!({"name": {"regexp": r"[ab]-db$"}}), json!({}))).await;
    case.secret_is("named", &[(&key("a-db"), a), (&key("deep_b-db"), b)]).await;
    case.external_secret("tagged", find(&case, json!({"tags": {"team": "x"}, "conversionStrategy": "Unicode"}), json!({}))).await;
    case.secret_is("tagged", &[(&format!("{}_U002f_svc_U002f_deep_U002f_b-db", case.name), b)]).await;
    // Nothing found is nothing there: the deletion policy says what becomes of the Secret.
    case.external_secret("none", find(&case, json!({"name": {"regexp": "^nothing$"}}), json!({}))).await;
    case.failed("none", "no remote secret matches; the Secret is kept as it is (deletionPolicy Retain)").await;
    let message = case.failed("none", "find: name ^nothing$").await;
    assert!(message.contains(&format!("find: path {}", case.key("svc"))), "{message}");
    case.external_secret("wrong", find(&case, json!({"name": {"regexp": "(["}}), json!({}))).await;
    case.failed("wrong", "find.name.regexp: missing closing ]").await;
}

#[tokio::test]
async fn what_comes_and_goes_is_found_at_the_next_refresh() {
    let case = services("find-change").await;
    let mut spec = find(
        &case,
        json!({}),
        json!({"rewrite": [{"regexp": {"source": ".*/svc/(.*)", "target": "$1"}}, {"regexp": {"source": "/", "target": "."}}]}),
    );
    spec["refreshInterval"] = json!("1s");
    case.external_secret("app", spec).await;
    let (a, b, c) = (("a-db", r#"{"pass":"CANARY-a","user":"ada"}"#), ("deep.b-db", r#"{"user":"bob"}"#), ("c", r#"{"k":"v"}"#));
    case.secret_is("app", &[a, b, c]).await;
    case.put("svc/d", json!({"k": "new"})).await;
    case.secret_is("app", &[a, b, c, ("d", r#"{"k":"new"}"#)]).await;
    case.harness.vault.remove(&case.key("svc/c")).await;
    case.secret_is("app", &[a, b, ("d", r#"{"k":"new"}"#)]).await;
}

#[tokio::test]
async fn what_is_listed_and_can_no_longer_be_read_is_nothing_and_the_deletion_policy_decides() {
    let case = Case::new("find-gone").await;
    case.vault_store().await;
    case.put("svc/only", json!({"k": "CANARY-v"})).await;
    for (name, policy) in [("kept", "Retain"), ("deleted", "Delete")] {
        let mut spec = find(&case, json!({}), json!({"rewrite": [{"transform": {"template": "only"}}]}));
        spec["target"] = json!({"deletionPolicy": policy});
        case.external_secret(name, spec).await;
        case.secret_is(name, &[("only", r#"{"k":"CANARY-v"}"#)]).await;
    }
    // Vault still lists what was deleted and can be undeleted.
    case.harness.vault.write(&format!("secret/delete/{}", case.key("svc/only")), json!({"versions": [1]})).await;
    for name in ["kept", "deleted"] {
        case.force_sync(name).await;
    }
    case.failed("kept", "no remote secret matches; the Secret is kept as it is").await;
    case.secret_is("kept", &[("only", r#"{"k":"CANARY-v"}"#)]).await;
    case.secret_gone("deleted").await;
    case.harness.vault.write(&format!("secret/undelete/{}", case.key("svc/only")), json!({"versions": [1]})).await;
    case.force_sync("deleted").await;
    case.secret_is("deleted", &[("only", r#"{"k":"CANARY-v"}"#)]).await;
}

#[tokio::test]
async fn keys_are_rewritten_in_order_and_two_that_become_one_are_named() {
    let case = services("rewrite").await;
    let short = json!({"regexp": {"source": "^.*/([a-z]+)-db$", "target": "$1"}});
    let spec = |rewrite: Value| find(&case, json!({"name": {"regexp": "-db$"}}), json!({"rewrite": rewrite}));
    let transform = json!({"transform": {"template": "{{ .value | upper }}_JSON"}});
    case.external_secret("renamed", spec(json!([short, transform]))).await;
    case.secret_is("renamed", &[("A_JSON", r#"{"pass":"CANARY-a","user":"ada"}"#), ("B_JSON", r#"{"user":"bob"}"#)]).await;
    case.external_secret("one", spec(json!([{"regexp": {"source": ".*", "target": "same"}}]))).await;
    let message = case.failed("one", r#"rewrite[0].regexp: keys ""#).await;
    for part in [r#"a-db" and "#, r#"b-db" both become "same""#] {
        assert!(message.contains(part), "{part} in {message}");
    }
    // A rewrite switches the conversion of names off: what a Secret can't have is said.
    case.external_secret("slash", spec(json!([{"regexp": {"source": "x", "target": "y"}}]))).await;
    case.failed("slash", "is no key that a Secret can have").await;
    case.external_secret("merged", spec(json!([short, {"merge": {"conflictPolicy": "Ignore", "priority": ["a"]}}]))).await;
    case.secret_is("merged", &[("pass", "CANARY-a"), ("user", "ada")]).await;
    case.external_secret("conflict", spec(json!([short, {"merge": {}}]))).await;
    let message = case.failed("conflict", r#"rewrite[1].merge: "user" stands in "a" and "b""#).await;
    assert!(!message.contains("CANARY"), "{message}");
    let json = json!({"merge": {"strategy": "JSON", "into": "all", "conflictPolicy": "Ignore"}});
    case.external_secret("json", spec(json!([short, json, {"regexp": {"source": "^[ab]$", "target": ""}}]))).await;
    case.secret_is("json", &[("all", r#"{"pass":"CANARY-a","user":"bob"}"#)]).await;
    let extract = json!({"dataFrom": [{"extract": {"key": case.key("svc/a-db")}, "rewrite": [{"transform": {"template": "DB_{{ .value | upper }}"}}]}]});
    case.external_secret("extract", extract).await;
    case.secret_is("extract", &[("DB_PASS", "CANARY-a"), ("DB_USER", "ada")]).await;
    for (i, (rewrite, needle)) in [
        (json!([{"regexp": {"source": "(a+", "target": ""}}]), "rewrite[0].regexp.source: the regexp is not valid"),
        (json!([{"regexp": {"source": "((a{100}){100}){100}", "target": ""}}]), "the regexp is too large"),
        (json!([{"transform": {"template": "{{ .nope }}"}}]), "template transform line 1 column 4"),
        (json!([{"transform": {"template": "{{ range until 100000000 }}x{{ end }}"}}]), "rewrite[0].transform.template"),
        (json!([{"merge": {"priority": ["nobody"]}}]), r#"rewrite[0].merge.priority: there is no key "nobody""#),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad-{i}");
        case.external_secret(&name, spec(rewrite)).await;
        case.failed(&name, needle).await;
    }
}

#[tokio::test]
async fn a_hundred_objects_that_look_for_the_same_make_one_search() {
    let case = services("find-shared").await;
    let listed = || case.harness.vault.requests("list", &format!("secret/metadata/{}", case.key("svc")));
    let before = listed();
    let names: Vec<String> = (0..100).map(|i| format!("app-{i}")).collect();
    futures::future::join_all(names.iter().map(|name| case.external_secret(name, find(&case, json!({}), json!({}))))).await;
    for name in &names {
        case.synced(name).await;
    }
    // The folder and the one in it, once for each wave of objects that came while one was under way.
    let (lists, reads) = (listed() - before, case.reads("svc/a-db"));
    assert!(lists <= 40 && reads <= 20, "{lists} lists, {reads} reads");
}

#[tokio::test]
async fn what_a_provider_can_not_search_by_is_said() {
    let case = Case::new("find-not").await;
    case.apply_store("fake", json!({"fake": {"data": [{"key": "one", "value": "1"}, {"key": "two", "value": "2"}]}})).await;
    let spec = |find: Value| json!({"secretStoreRef": {"name": "fake"}, "dataFrom": [{"find": find}]});
    case.external_secret("named", spec(json!({"name": {"regexp": "^o"}}))).await;
    case.secret_is("named", &[("one", "1")]).await;
    case.external_secret("tags", spec(json!({"tags": {"a": "b"}}))).await;
    case.failed("tags", "the fake provider has names only, no tags and no paths").await;
}
