//! What the fields of a Vault store mean: what Vault is told, and where it is asked.

use lockstep_e2e::control_plane::{Authority, Pair};
use lockstep_e2e::faults::{Asked, Fault, Faults};
use lockstep_e2e::harness::{self, create_namespace, eventually};
use lockstep_e2e::vault::ROOT;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

fn token_auth() -> Value {
    json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}})
}

async fn with_app(topic: &str) -> Case {
    let case = Case::new(topic).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case
}

/// A Vault provider with more fields.
fn vault(case: &Case, url: &str, auth: Value, more: Value) -> Value {
    let mut provider = case.vault_at(url, auth);
    provider["vault"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    provider["vault"].as_object_mut().unwrap().retain(|_, v| !v.is_null());
    provider
}

fn header(asked: &Asked, name: &str) -> Option<String> {
    asked.headers.get(name).map(|v| v.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn namespaces_and_headers_go_with_every_request() {
    let case = with_app("headers").await;
    let mount = format!("up-{}", case.name);
    case.harness.vault.auth(&mount, "userpass").await;
    let login = json!({"password": "CANARY-login", "token_policies": ["root-like"]});
    case.harness.vault.policy_of("root-like", &["read"], &["secret/*"]).await;
    case.harness.vault.write(&format!("auth/{mount}/users/ada"), login).await;
    case.apply_secret("login", &[("password", "CANARY-login")]).await;
    let (url, _, seen) = case.watched_vault();
    let auth = json!({"namespace": "people", "userPass": {"path": mount, "username": "ada", "secretRef": {"name": "login", "key": "password"}}});
    let more = json!({"namespace": "team/a", "headers": {"X-Team": "a", "X-More": "b c"}});
    case.apply_store("vault", vault(&case, &url, auth.clone(), more)).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    let logins = seen.of("POST", &format!("/v1/auth/{mount}/login/ada"));
    let reads = seen.of("GET", "/v1/secret/data/");
    assert_eq!((logins.len(), reads.len()), (1, 1));
    assert_eq!(header(&logins[0], "x-vault-namespace").as_deref(), Some("people"));
    assert_eq!(header(&reads[0], "x-vault-namespace").as_deref(), Some("team/a"));
    for asked in logins.iter().chain(&reads) {
        assert_eq!((header(asked, "x-team").as_deref(), header(asked, "x-more").as_deref()), (Some("a"), Some("b c")));
        assert_eq!(header(asked, "x-vault-inconsistent"), None);
    }
    // Without a namespace for the login, it is the store's; without any, there is none.
    for (name, more, expected) in [("shared", json!({"namespace": "team/b"}), Some("team/b")), ("none", json!({}), None)] {
        let (url, _, seen) = case.watched_vault();
        let mut auth = auth.clone();
        auth.as_object_mut().unwrap().remove("namespace");
        case.apply_store(name, vault(&case, &url, auth, more)).await;
        case.store_is(name, "True", "Valid", "").await;
        let logins = seen.of("POST", "/login/ada");
        assert_eq!(header(&logins[0], "x-vault-namespace").as_deref(), expected, "{name}");
        assert_eq!(header(&logins[0], "x-team"), None);
    }
    // This Vault has no standby to forward for, and says so.
    let (behind, _, seen) = case.watched_vault();
    case.apply_store("behind", vault(&case, &behind, token_auth(), json!({"forwardInconsistent": true}))).await;
    case.store_is("behind", "False", "InvalidProviderConfig", "X-Vault-Inconsistent").await;
    assert_eq!(header(&seen.of("GET", "lookup-self")[0], "x-vault-inconsistent").as_deref(), Some("forward-active-node"));
    for reserved in ["X-Vault-Token", "X-Vault-Namespace"] {
        case.apply_store("reserved", vault(&case, &url, token_auth(), json!({"headers": {reserved: "x"}}))).await;
        case.store_is("reserved", "False", "InvalidProviderConfig", "headers").await;
    }
}

#[tokio::test]
async fn with_read_your_writes_a_read_asks_for_what_was_seen_last() {
    let case = with_app("ryw").await;
    for (name, reads_its_writes) in [("with", true), ("without", false)] {
        let (url, faults, seen) = case.watched_vault();
        case.apply_store(name, vault(&case, &url, token_auth(), json!({"readYourWrites": reads_its_writes}))).await;
        case.store_is(name, "True", "Valid", "").await;
        faults.add(1, Fault::Header("x-vault-index", "v1:seen"), |parts, _| parts.uri.path().contains("/secret/data/"));
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": [case.data("p", "app", "p")]})).await;
        case.synced(name).await;
        case.force_sync(name).await;
        let reads = eventually("a second read", async || {
            let reads = seen.of("GET", "/v1/secret/data/");
            (reads.len() == 2).then_some(reads)
        })
        .await;
        let indexes: Vec<_> = reads.iter().map(|r| header(r, "x-vault-index")).collect();
        assert_eq!(indexes, [None, reads_its_writes.then(|| "v1:seen".to_owned())], "{name}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_wants_one() {
    let case = with_app("mtls").await;
    let authority = Authority::new("mtls-ca");
    let server = authority.issue("server", None, &["127.0.0.1"]);
    let Pair { certificate, key } = authority.issue("client", None, &["client"]);
    let port = Faults::default().proxy_for_certificates(&case.harness.vault.url, &server, &authority.pem).unwrap();
    let url = format!("https://127.0.0.1:{port}");
    case.apply_secret("pair", &[("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &authority.pem)]).await;
    let trusted = json!({"caProvider": {"type": "Secret", "name": "pair", "key": "ca.crt"}});
    case.apply_store("plain", vault(&case, &url, token_auth(), trusted.clone())).await;
    case.store_is("plain", "False", "InvalidProviderConfig", "could not be reached").await;
    let mut shown = trusted;
    shown["tls"] =
        json!({"certSecretRef": {"name": "pair", "key": "tls.crt"}, "keySecretRef": {"name": "pair", "key": "tls.key"}});
    case.apply_store("vault", vault(&case, &url, token_auth(), shown.clone())).await;
    case.store_is("vault", "True", "Valid", "").await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    // One of the two alone, and what is no certificate.
    shown["tls"].as_object_mut().unwrap().remove("keySecretRef");
    case.apply_store("half", vault(&case, &url, token_auth(), shown.clone())).await;
    case.store_is("half", "False", "InvalidProviderConfig", "spec.provider.vault.tls").await;
    shown["tls"]["keySecretRef"] = json!({"name": "vault-token", "key": "token"});
    case.apply_store("none", vault(&case, &url, token_auth(), shown)).await;
    let said = case.store_is("none", "False", "InvalidProviderConfig", "spec.provider.vault.tls").await;
    assert!(!said.contains(ROOT), "{said}");
}

#[tokio::test]
async fn writes_say_which_version_they_replace_where_the_engine_demands_it_and_everywhere() {
    let case = with_app("cas").await;
    case.apply_secret("source", &[("k", "CANARY-1")]).await;
    let mount = format!("cas-{}", case.name);
    case.harness.vault.write(&format!("sys/mounts/{mount}"), json!({"type": "kv", "options": {"version": "2"}})).await;
    eventually("the engine is ready", async || {
        // It is upgraded in the background after it is made.
        let (path, body) = (format!("{mount}/config"), json!({"cas_required": true}));
        case.harness.vault.try_write(&path, body).await.ok()
    })
    .await;
    let (url, _, seen) = case.watched_vault();
    let more = json!({"path": mount, "checkAndSet": {"required": true}});
    case.apply_store("vault", vault(&case, &url, token_auth(), more)).await;
    let push = json!({"secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "source"}},
        "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": "app", "property": "k"}}}]});
    case.apply(
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "push"}, "spec": push}),
    )
    .await
    .unwrap();
    let holds = async |value: &str| {
        eventually("it is pushed", async || {
            (case.harness.vault.read(&format!("{mount}/data/app")).await["data"]["data"]["k"] == value).then_some(())
        })
        .await;
    };
    holds("CANARY-1").await;
    case.apply_secret("source", &[("k", "CANARY-2")]).await;
    holds("CANARY-2").await;
    let writes = seen.of("POST", &format!("/v1/{mount}/data/app"));
    let versions: Vec<Value> =
        writes.iter().map(|w| serde_json::from_slice::<Value>(&w.body).unwrap()["options"]["cas"].clone()).collect();
    assert_eq!(versions, [json!(0), json!(1)]);
}

#[tokio::test]
async fn a_key_may_begin_with_the_mount_and_with_data_and_a_store_may_leave_the_mount_to_it() {
    let case = with_app("keyforms").await;
    let url = case.harness.vault.url.clone();
    case.apply_store("vault", vault(&case, &url, token_auth(), json!({}))).await;
    case.apply_store("open", vault(&case, &url, token_auth(), json!({"path": null}))).await;
    let key = case.key("app");
    let entry = |secret_key: &str, store: &str, key: String| json!({"secretKey": secret_key, "remoteRef": {"key": key, "property": "p"}, "sourceRef": {"storeRef": {"name": store}}});
    let data = json!([
        entry("plain", "vault", key.clone()),
        entry("mount", "vault", format!("secret/{key}")),
        entry("data", "vault", format!("data/{key}")),
        entry("both", "vault", format!("secret/data/{key}")),
        entry("open", "open", format!("secret/{key}")),
        entry("open-data", "open", format!("secret/data/{key}")),
    ]);
    case.external_secret("app", json!({"data": data})).await;
    let names = ["plain", "mount", "data", "both", "open", "open-data"];
    case.secret_is("app", &names.map(|name| (name, "CANARY-p"))).await;
    // Version 1 of the engine has no `data/`: there it is a part of the key.
    let mount = format!("kv1-{}", case.name);
    case.harness.vault.write(&format!("sys/mounts/{mount}"), json!({"type": "kv", "options": {"version": "1"}})).await;
    case.harness.vault.write(&format!("{mount}/app"), json!({"p": "CANARY-one"})).await;
    case.harness.vault.write(&format!("{mount}/data/app"), json!({"p": "CANARY-two"})).await;
    case.apply_store("one", vault(&case, &url, token_auth(), json!({"path": mount, "version": "v1"}))).await;
    let data = json!([
        entry("plain", "one", "app".into()),
        entry("mount", "one", format!("{mount}/app")),
        entry("data", "one", "data/app".into())
    ]);
    case.external_secret("one", json!({"data": data})).await;
    case.secret_is("one", &[("plain", "CANARY-one"), ("mount", "CANARY-one"), ("data", "CANARY-two")]).await;
}

#[tokio::test]
async fn a_cluster_store_logs_in_once_for_all_namespaces_of_one_identity() {
    let case = with_app("onelogin").await;
    let mount = format!("up-{}", case.name);
    let vault_of = &case.harness.vault;
    vault_of.auth(&mount, "userpass").await;
    vault_of.policy(&case.name, &[&format!("secret/data/{}/*", case.name)]).await;
    let login = json!({"password": "CANARY-login", "token_policies": [case.name]});
    vault_of.write(&format!("auth/{mount}/users/ada"), login).await;
    case.apply_secret("login", &[("password", "CANARY-login")]).await;
    let (url, _, seen) = case.watched_vault();
    let secret = json!({"name": "login", "namespace": case.name, "key": "password"});
    let auth = json!({"userPass": {"path": mount, "username": "ada", "secretRef": secret}});
    case.apply_cluster_store(&case.name, vault(&case, &url, auth, json!({})), json!([])).await;
    let mut namespaces = vec![case.name.clone()];
    for i in 0..3 {
        let other = format!("{}-{i}", case.name);
        create_namespace(&case.client, &other).await;
        namespaces.push(other);
    }
    for namespace in &namespaces {
        let object = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "app", "namespace": namespace},
            "spec": {"refreshInterval": "1s", "secretStoreRef": {"name": case.name, "kind": "ClusterSecretStore"}, "data": [case.data("p", "app", "p")]}});
        harness::apply(&case.client, None, object).await.unwrap();
    }
    for namespace in &namespaces {
        eventually("its Secret", async || harness::secret(&case.client, namespace, "app").await).await;
    }
    let reads = seen.of("GET", "/secret/data/").len();
    eventually("three refreshes more", async || (seen.of("GET", "/secret/data/").len() >= reads + 3).then_some(())).await;
    assert_eq!(seen.of("POST", "/login/ada").len(), 1);
    case.delete_cluster_store(&case.name).await;
}
