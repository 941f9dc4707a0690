//! Azure Key Vault: every kind of identity, what is read, and what errors look like.

use lockstep_e2e::azure::{Application, Azure};
use lockstep_e2e::faults::Fault;
use lockstep_e2e::harness::azure;
use lockstep_e2e::rsa::Rsa;
use lockstep_providers::{Deleted, Fetched, Payload, Push, Pushed, SecretBytes, Source, Target, Want};
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";

/// A case with a vault and an application of its own.
struct OnAzure {
    case: Case,
    azure: &'static Azure,
    client: String,
}

impl OnAzure {
    async fn new(topic: &str) -> Self {
        Self::of(Case::new(topic).await)
    }

    fn of(case: Case) -> Self {
        let client = format!("app-{}", case.name);
        let on = Self { case, azure: azure(), client };
        let application = Application { secrets: vec!["CANARY-client-secret".into()], ..Application::default() };
        on.azure.application(TENANT, &on.client, application);
        on.azure.grant(&on.client, &[&on.case.name]);
        on
    }

    fn put(&self, name: &str, value: &str, more: Value) -> String {
        self.azure.put(&self.case.name, name, value, more)
    }

    async fn credentials(&self, client: &str, secret: &str) {
        self.case.apply_secret("azure", &[("id", client), ("secret", secret)]).await;
    }

    fn secret_auth(&self) -> Value {
        let key = |key: &str| json!({"name": "azure", "key": key});
        json!({"tenantId": TENANT, "authSecretRef": {"clientId": key("id"), "clientSecret": key("secret")}})
    }

    async fn store(&self, name: &str, auth: Value) {
        self.case.apply_store(name, self.spec(auth)).await;
    }

    fn spec(&self, auth: Value) -> Value {
        let cloud = json!({"activeDirectoryEndpoint": self.azure.entra()});
        let mut spec = json!({"vaultUrl": self.azure.vault(&self.case.name), "customCloudConfig": cloud});
        spec.as_object_mut().unwrap().extend(auth.as_object().unwrap().clone());
        json!({"azurekv": spec})
    }

    async fn object(&self, name: &str, store: &str, entries: Value) {
        self.case.external_secret(name, json!({"secretStoreRef": {"name": store}, "data": entries})).await;
    }

    async fn account(&self, annotations: Value) {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "annotations": annotations}});
        self.case.apply(account).await.unwrap();
    }
}

fn entry(secret_key: &str, remote: Value) -> Value {
    json!({"secretKey": secret_key, "remoteRef": remote})
}

#[tokio::test]
async fn key_vault_serves_secrets_keys_and_certificates() {
    let on = OnAzure::new("az-read").await;
    let old = on.put("app", r#"{"user": "CANARY-old"}"#, json!({}));
    on.put(
        "app",
        r#"{"user": "CANARY-new"}"#,
        json!({"tags": {"team": "a", "json": "{\"deep\": \"b\"}"}, "attributes": {"exp": 1_900_000_000}}),
    );
    let key = |n: &str| json!({"key": {"kty": "RSA", "n": n, "e": "AQAB", "key_ops": ["verify"]}, "tags": {"team": "k"}});
    let old_key = on.azure.put_object(&on.case.name, "keys", "signing", key("AQAB"));
    on.azure.put_object(&on.case.name, "keys", "signing", key("AQAC"));
    let certificate = |cer: &str| json!({"cer": cer, "tags": {"team": "c"}});
    let old_certificate = on.azure.put_object(&on.case.name, "certificates", "web", certificate("Q0FOQVJZLW9sZA=="));
    on.azure.put_object(&on.case.name, "certificates", "web", certificate("Q0FOQVJZLWRlcg=="));
    on.credentials(&on.client, "CANARY-client-secret").await;
    on.store("kv", on.secret_auth()).await;
    on.case.store_is("kv", "True", "Valid", "store validated").await;
    let entries = json!([
        entry("new", json!({"key": "app", "property": "user"})),
        entry("old", json!({"key": "secret/app", "property": "user", "version": old})),
        entry("team", json!({"key": "app", "metadataPolicy": "Fetch", "property": "team"})),
        entry("deep", json!({"key": "app", "metadataPolicy": "Fetch", "property": "json.deep"})),
        entry("ends", json!({"key": "app", "metadataPolicy": "Fetch", "property": "attribute.expires"})),
        entry("kind", json!({"key": "key/signing", "property": "kty"})),
        entry("n", json!({"key": "key/signing", "property": "n"})),
        entry("old-n", json!({"key": "key/signing", "property": "n", "version": old_key})),
        entry("key-team", json!({"key": "key/signing", "metadataPolicy": "Fetch", "property": "team"})),
        entry("cer", json!({"key": "cert/web"})),
        entry("old-cer", json!({"key": "cert/web", "version": old_certificate})),
        entry("cert-team", json!({"key": "cert/web", "metadataPolicy": "Fetch", "property": "team"})),
    ]);
    on.object("app", "kv", entries).await;
    let expected = [
        ("new", "CANARY-new"),
        ("old", "CANARY-old"),
        ("team", "a"),
        ("deep", "b"),
        ("ends", "2030-03-17T17:46:40Z"),
        ("kind", "RSA"),
        ("n", "AQAC"),
        ("old-n", "AQAB"),
        ("key-team", "k"),
        ("cer", "CANARY-der"),
        ("old-cer", "CANARY-old"),
        ("cert-team", "c"),
    ];
    on.case.secret_is("app", &expected).await;

    on.put("off", "CANARY", json!({"attributes": {"enabled": false}}));
    for (name, remote, needle) in [
        ("gone", json!({"key": "nowhere"}), "not found: Azure has nothing at GET /secrets/nowhere/"),
        ("keyless", json!({"key": "key/nowhere"}), "not found: Azure has nothing at GET /keys/nowhere/"),
        ("disabled", json!({"key": "off"}), "remoteRef.key: is disabled in the vault"),
        ("malformed", json!({"key": "db_password"}), "is no name of an object in a vault"),
        ("kind", json!({"key": "password/app"}), "is no kind of object"),
        ("nonsense", json!({"key": "app", "version": "../x"}), "is no version of an object"),
    ] {
        on.object(name, "kv", json!([entry("x", remote)])).await;
        on.case.failed(name, needle).await;
    }
    on.azure.grant(&on.client, &[&format!("{}/secrets/app", on.case.name)]);
    on.object("denied", "kv", json!([entry("x", json!({"key": "other"}))])).await;
    on.case.failed("denied", "Forbidden/ForbiddenByRbac").await;
    on.case.failed("denied", "Key Vault Secrets User").await;
}

#[tokio::test]
async fn a_store_that_says_so_tries_again() {
    let on = OnAzure::new("az-patient").await;
    on.put("app", "CANARY-v", json!({}));
    on.credentials(&on.client, "CANARY-client-secret").await;
    on.store("kv", on.secret_auth()).await;
    let host = format!("{}.vault.azure.net", on.case.name);
    on.case
        .rides_two_failures_out("kv", json!([entry("x", json!({"key": "app"}))]), || {
            let body = json!({"error": {"code": "ServiceUnavailable", "message": "as the test asked"}}).to_string();
            let failing = Fault::Answer { status: 503, retry_after: None, body };
            on.azure.faults.add(2, failing, move |parts, _| {
                let to = parts.headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
                to.starts_with(&host) && parts.headers.contains_key("authorization")
            })
        })
        .await;
}

#[tokio::test]
async fn each_environment_has_vaults_of_its_own() {
    let on = OnAzure::of(Case::with_own_class("az-cloud").await);
    let operator = on.case.own_operator("a", &["--resolve", "*.vault.stack.example=127.0.0.1"]);
    on.credentials(&on.client, "CANARY-client-secret").await;
    let spec = |url: &str, environment: &str, cloud: Value| {
        let mut spec = json!({"vaultUrl": url, "environmentType": environment});
        for part in [on.secret_auth(), cloud] {
            spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        json!({"azurekv": spec})
    };
    let of_azure = on.azure.vault(&on.case.name);
    for (name, environment, needle) in [
        ("government", "USGovernmentCloud", "is no vault of USGovernmentCloud, whose names end in .vault.usgovcloudapi.net"),
        ("china", "ChinaCloud", "is no vault of ChinaCloud, whose names end in .vault.azure.cn"),
        ("german", "GermanCloud", "was closed in 2021"),
        ("stackless", "AzureStackCloud", "needs it: name its activeDirectoryEndpoint"),
    ] {
        on.case.apply_store(name, spec(&of_azure, environment, json!({}))).await;
        on.case.store_is(name, "False", "InvalidProviderConfig", needle).await;
    }
    // A cloud of one's own has vaults of any name.
    on.put("app", "CANARY-stack", json!({}));
    on.azure.challenge(&on.case.name, "https://vault.stack.example");
    let url = of_azure.replace(".vault.azure.net", ".vault.stack.example");
    let cloud = json!({"customCloudConfig": {"activeDirectoryEndpoint": on.azure.entra()}});
    on.case.apply_store("stack", spec(&url, "AzureStackCloud", cloud)).await;
    on.object("app", "stack", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.secret_is("app", &[("x", "CANARY-stack")]).await;
    lockstep_e2e::case::stop(operator);
}

#[tokio::test]
async fn a_client_secret_that_is_wrong_is_named_and_a_right_one_taken_up_at_once() {
    let on = OnAzure::new("az-secret").await;
    on.put("app", "CANARY-v", json!({}));
    on.credentials(&on.client, "CANARY-wrong").await;
    on.store("kv", on.secret_auth()).await;
    on.object("app", "kv", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "invalid_client, AADSTS7000215: Invalid client secret provided.").await;
    on.case.store_is("kv", "False", "InvalidProviderConfig", "AADSTS7000215").await;
    on.credentials("nobody", "CANARY-client-secret").await;
    on.case.failed("app", "AADSTS700016").await;
    on.credentials("CANARY-nobody", "CANARY-client-secret").await;
    on.case.failed("app", "of spec.provider.azurekv.authSecretRef.clientId in tenant").await;
    let mut other = on.secret_auth();
    other["tenantId"] = json!("nowhere");
    on.store("kv", other).await;
    on.case.failed("app", "AADSTS90002").await;
    on.credentials(&on.client, "CANARY-client-secret").await;
    on.store("kv", on.secret_auth()).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;

    // A token that has ended before its time is renewed once, and nobody notices.
    on.azure.expire(&on.client);
    on.put("app", "CANARY-w", json!({}));
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-w")]).await;
}

#[tokio::test]
async fn a_certificate_is_an_applications_credential() {
    let on = OnAzure::new("az-cert").await;
    on.put("app", "CANARY-v", json!({}));
    let (key, other) = (Rsa::new("a"), Rsa::new("b"));
    on.case.apply_secret("azure", &[("id", &on.client), ("pem", &format!("{}{}", other.certificate(), other.pem()))]).await;
    on.azure.application(TENANT, &on.client, Application { certificates: vec![key.certificate()], ..Application::default() });
    let of = |key: &str| json!({"name": "azure", "key": key});
    let auth = json!({"tenantId": TENANT, "authSecretRef": {"clientId": of("id"), "clientCertificate": of("pem")}});
    on.store("kv", auth).await;
    on.object("app", "kv", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "AADSTS700027").await;
    on.case.apply_secret("azure", &[("id", &on.client), ("pem", "CANARY-no-pem")]).await;
    on.case.failed("app", "spec.provider.azurekv.authSecretRef.clientCertificate: is no PEM").await;
    on.case
        .apply_secret(
            "azure",
            &[("id", &on.client), ("pem", &format!("{}{}{}", other.certificate(), key.certificate(), key.pem()))],
        )
        .await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn a_service_account_is_federated_with_an_application() {
    let on = OnAzure::new("az-wi").await;
    on.put("app", "CANARY-v", json!({}));
    on.account(json!({})).await;
    let auth = json!({"authType": "WorkloadIdentity", "serviceAccountRef": {"name": "app"}});
    on.store("kv", auth.clone()).await;
    on.object("app", "kv", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "ServiceAccount app has no annotation azure.workload.identity/client-id").await;
    let annotations = json!({"azure.workload.identity/client-id": on.client, "azure.workload.identity/tenant-id": TENANT});
    on.account(annotations).await;
    on.case.failed("app", "AADSTS700213").await;
    on.case.failed("app", "needs a federated credential").await;
    let subjects = vec![format!("system:serviceaccount:{}:app", on.case.name)];
    on.azure.application(TENANT, &on.client, Application { subjects, ..Application::default() });
    on.case.apply_secret("azure", &[("id", &on.client), ("tenant", TENANT)]).await;
    // Without the annotations, from a Secret.
    on.account(json!({})).await;
    let of = |key: &str| json!({"name": "azure", "key": key});
    let mut from_secret = auth.clone();
    from_secret["authSecretRef"] = json!({"clientId": of("id"), "tenantId": of("tenant")});
    on.store("kv", from_secret).await;
    on.case.secret_is("app", &[("x", "CANARY-v")]).await;
    on.account(json!({"azure.workload.identity/client-id": on.client})).await;
    let mut with_tenant = auth;
    with_tenant["tenantId"] = json!(TENANT);
    on.store("kv", with_tenant).await;
    on.put("app", "CANARY-w", json!({}));
    on.case.force_sync("app").await;
    on.case.secret_is("app", &[("x", "CANARY-w")]).await;
}

#[tokio::test]
async fn a_machines_identity_is_the_operators_and_for_cluster_stores() {
    let on = OnAzure::new("az-own").await;
    on.put("app", "CANARY-v", json!({}));
    let user = format!("assigned-{}", on.case.name);
    on.store("kv", json!({"authType": "ManagedIdentity"})).await;
    on.object("app", "kv", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "the operator's own is for ClusterSecretStores only").await;
    let name = format!("own-{}", on.case.name);
    let assigned = on.spec(json!({"authType": "ManagedIdentity", "identityId": user}));
    on.case.apply_cluster_store(&name, assigned.clone(), json!([])).await;
    let store = json!({"name": name, "kind": "ClusterSecretStore"});
    let object = json!({"secretStoreRef": store, "data": [entry("x", json!({"key": "app"}))]});
    on.case.external_secret("cluster", object).await;
    on.case.failed("cluster", "invalid_request, Identity not found").await;
    on.azure.machine(&user, &on.client);
    on.azure.machine("", &on.client);
    on.case.apply_cluster_store(&name, on.spec(json!({"authType": "ManagedIdentity"})), json!([])).await;
    on.case.secret_is("cluster", &[("x", "CANARY-v")]).await;
    on.put("app", "CANARY-w", json!({}));
    on.case.apply_cluster_store(&name, assigned, json!([])).await;
    on.case.force_sync("cluster").await;
    on.case.secret_is("cluster", &[("x", "CANARY-w")]).await;
    // Without a service account it is the operator's own, which has no federated token here.
    on.case.apply_cluster_store(&name, on.spec(json!({"authType": "WorkloadIdentity"})), json!([])).await;
    on.case.failed("cluster", "AZURE_FEDERATED_TOKEN_FILE").await;
    on.case.delete_cluster_store(&name).await;
}

#[tokio::test]
async fn the_operators_own_pod_may_be_federated() {
    let case = Case::with_own_class("az-pod").await;
    let client = format!("app-{}", case.name);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}});
    case.apply(account).await.unwrap();
    let subjects = vec![format!("system:serviceaccount:{}:operator", case.name)];
    azure().application(TENANT, &client, Application { subjects, ..Application::default() });
    azure().grant(&client, &[&case.name]);
    azure().put(&case.name, "app", "CANARY-v", json!({}));
    let token = lockstep_e2e::harness::token_for(&case.client, &case.name, "operator", &["api://AzureADTokenExchange"]).await;
    let file = case.harness.folder.path().join(format!("{}.token", case.name));
    std::fs::write(&file, token).unwrap();
    let file = file.display().to_string();
    let env = [("AZURE_CLIENT_ID", client.as_str()), ("AZURE_TENANT_ID", TENANT), ("AZURE_FEDERATED_TOKEN_FILE", file.as_str())];
    let operator = case.own_operator_with("own", &["--share-own-identity"], &env);
    operator.wait_working();
    let evil = json!({"activeDirectoryEndpoint": "https://evil.example"});
    let spec = json!({"authType": "WorkloadIdentity", "vaultUrl": azure().vault(&case.name), "customCloudConfig": evil});
    case.apply_store("evil", json!({"azurekv": spec})).await;
    case.store_is("evil", "False", "InvalidProviderConfig", "gets no token of it").await;
    case.apply_store("kv", json!({"azurekv": {"authType": "WorkloadIdentity", "vaultUrl": azure().vault(&case.name)}})).await;
    case.external_secret("app", json!({"secretStoreRef": {"name": "kv"}, "data": [entry("x", json!({"key": "app"}))]})).await;
    case.secret_is("app", &[("x", "CANARY-v")]).await;
}

#[tokio::test]
async fn tokens_go_to_the_vault_that_they_are_for_and_nowhere_else() {
    let on = OnAzure::new("az-evil").await;
    on.put("app", "CANARY-v", json!({}));
    on.credentials(&on.client, "CANARY-client-secret").await;
    on.azure.challenge(&on.case.name, "https://management.azure.com");
    on.store("kv", on.secret_auth()).await;
    on.object("app", "kv", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("app", "spec.provider.azurekv.vaultUrl").await;
    on.azure.challenge(&on.case.name, "https://azure.net");
    on.store("other", on.secret_auth()).await;
    on.object("other", "other", json!([entry("x", json!({"key": "app"}))])).await;
    on.case.failed("other", "asks for a token for").await;
    assert!(on.azure.calls(&on.client).is_empty(), "no token was sent");
    for (name, url, needle) in [
        ("http", format!("http://{}.vault.azure.net", on.case.name), "must be https"),
        ("path", format!("https://{}.vault.azure.net/x", on.case.name), "has a path"),
        ("metadata", "https://169.254.169.254".to_owned(), "spec.provider.azurekv.vaultUrl"),
    ] {
        let mut spec = on.spec(on.secret_auth());
        spec["azurekv"]["vaultUrl"] = json!(url);
        on.case.apply_store(name, spec).await;
        on.case.store_is(name, "False", "InvalidProviderConfig", needle).await;
    }
}

#[tokio::test]
async fn keys_and_certificates_are_pushed_once_and_again_after_they_were_deleted() {
    let on = OnAzure::new("az-push").await;
    // Every reference is answered with one text.
    let application = Application { secrets: vec![on.client.clone()], ..Application::default() };
    on.azure.application(TENANT, &on.client, application);
    let any = json!({"name": "any", "key": "any"});
    let spec = on.spec(json!({"tenantId": TENANT, "authSecretRef": {"clientId": any, "clientSecret": any}}));
    let provider = crate::conformance::provider(&spec, &on.client).await;
    let push = |key: &str, value: &str| Push {
        target: Target { key: key.to_owned(), ..Target::default() },
        value: Payload::Bytes(SecretBytes::from(value)),
        only_new: false,
        source: Source::default(),
    };
    let (one, two) = (Rsa::new("one"), Rsa::new("two"));
    let curves = [rcgen::KeyPair::generate().unwrap().serialize_pem(), rcgen::KeyPair::generate().unwrap().serialize_pem()];
    for (key, first, second) in [
        ("key/rsa", one.pem(), two.pem()),
        ("key/ec", curves[0].clone(), curves[1].clone()),
        ("cert/pem", format!("{}{}", one.pem(), one.certificate()), format!("{}{}", two.pem(), two.certificate())),
    ] {
        let (collection, name) = (if key.starts_with("key") { "keys" } else { "certificates" }, key.split_once('/').unwrap().1);
        let versions = || on.azure.versions(&on.case.name, collection, name).len();
        assert_eq!(provider.push(&push(key, &first)).await, Ok(Pushed::Created), "{key}");
        assert_eq!(provider.push(&push(key, &first)).await, Ok(Pushed::Unchanged), "{key}");
        assert_eq!(versions(), 1, "{key}");
        assert_eq!(provider.push(&push(key, &second)).await, Ok(Pushed::Updated), "{key}");
        assert_eq!(versions(), 2, "{key}");
        let property = Target { key: key.to_owned(), property: Some("p".into()), ..Target::default() };
        assert!(provider.delete(&property).await.is_err(), "{key} has no properties");
        let whole = Target { key: key.to_owned(), ..Target::default() };
        assert_eq!(provider.delete(&whole).await, Ok(Deleted::Done), "{key}");
        assert_eq!(provider.delete(&whole).await, Ok(Deleted::Absent), "{key}");
        // The name is that of a deleted object, which is ours: it is recovered.
        assert_eq!(provider.push(&push(key, &first)).await, Ok(Pushed::Created), "{key}");
        assert_eq!(versions(), 3, "{key}");
    }
    // What is read back is the public part.
    let read = provider.get(&[Want::latest("key/ec"), Want::latest("cert/pem")]).await;
    for (answer, has) in read.into_iter().zip([&b"\"crv\":\"P-256\""[..], b"one"]) {
        let Ok(Fetched::Value { payload, .. }) = answer else { panic!("{answer:?}") };
        let Payload::Bytes(bytes) = &*payload else { panic!("bytes") };
        assert!(bytes.expose().windows(has.len()).any(|window| window == has));
        assert!(!bytes.expose().windows(5).any(|window| window == b"\"d\":\""));
    }
    for (key, value) in [("key/x", "-----BEGIN CANARY-----"), ("cert/x", "CANARY-no-certificate")] {
        let error = provider.push(&push(key, value)).await.expect_err("nothing that can be imported").to_string();
        assert!(!error.contains("CANARY"), "{error}");
    }
    // A foreign object is left alone.
    on.azure.put_object(&on.case.name, "keys", "theirs", json!({"key": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}));
    assert!(provider.push(&push("key/theirs", &one.pem())).await.is_err());
    let theirs = Target { key: "key/theirs".into(), ..Target::default() };
    assert_eq!(provider.delete(&theirs).await, Ok(Deleted::NotOurs));
}

#[tokio::test]
async fn secrets_are_found_by_name_and_tags() {
    let on = OnAzure::new("azure-find").await;
    for (name, team) in [("db-a", "x"), ("db-b", "y"), ("web-c", "x")] {
        on.put(name, &format!("CANARY-{team}"), json!({"tags": {"team": team}}));
    }
    on.credentials(&on.client, "CANARY-client-secret").await;
    on.store("kv", on.secret_auth()).await;
    for (name, find, expected) in [
        ("name", json!({"name": {"regexp": "^db-"}}), &[("db-a", "CANARY-x"), ("db-b", "CANARY-y")]),
        ("tags", json!({"tags": {"team": "x"}}), &[("db-a", "CANARY-x"), ("web-c", "CANARY-x")]),
    ] {
        on.case.external_secret(name, json!({"secretStoreRef": {"name": "kv"}, "dataFrom": [{"find": find}]})).await;
        on.case.secret_is(name, expected).await;
    }
}
