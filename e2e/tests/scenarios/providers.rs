//! The Kubernetes and the fake provider in the operator.

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use lockstep_e2e::control_plane::ControlPlane;
use lockstep_e2e::faults::{Fault, Faults};
use lockstep_e2e::harness;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// A service account that may read the Secrets of a namespace, and no others.
pub async fn account(case: &Case, namespace: &str, verbs: &[&str]) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}});
    case.apply(account).await.unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "read", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]});
    harness::apply(&case.client, None, role).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "read", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": case.name}]});
    harness::apply(&case.client, None, binding).await.unwrap();
}

pub fn ca_bundle(case: &Case) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &case.harness.control_plane.ca)
}

#[tokio::test]
async fn secrets_of_another_namespace_arrive_by_each_kind_of_auth() {
    let case = Case::new("remote").await;
    let source = Case::new("source").await;
    source.apply_secret("app", &[("user", "CANARY-u"), ("json", r#"{"deep": "CANARY-d"}"#)]).await;
    let labelled = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "labelled", "labels": {"owner": "team-a"}}, "stringData": {"p": "CANARY"}});
    source.apply(labelled).await.unwrap();
    account(&case, &source.name, &["get", "list"]).await;
    let cluster = &case.harness.control_plane;
    let token = harness::service_account_token(&case.client, &case.name, "reader").await;
    let admin = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
    let pair = harness::documents(&admin).remove(0)["users"][0]["user"].clone();
    let decode = |name: &str| {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, pair[name].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let inline = lockstep_e2e::control_plane::kubeconfig(&cluster.url, &cluster.ca, &format!("token: {token}"));
    let with_program =
        lockstep_e2e::control_plane::kubeconfig(&cluster.url, &cluster.ca, "exec: {command: touch, args: [/tmp/pwned]}");
    case.apply_secret(
        "credentials",
        &[
            ("token", &token),
            ("crt", &decode("client-certificate-data")),
            ("key", &decode("client-key-data")),
            ("config", &inline),
            ("program", &with_program),
        ],
    )
    .await;
    let server = json!({"url": cluster.url, "caBundle": ca_bundle(&case)});
    let key = |key: &str| json!({"name": "credentials", "key": key});
    let spec = |more: Value| {
        let mut spec = json!({"remoteNamespace": source.name});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"kubernetes": spec})
    };
    let stores = [
        ("token", spec(json!({"server": server, "auth": {"token": {"bearerToken": key("token")}}}))),
        ("cert", spec(json!({"server": server, "auth": {"cert": {"clientCert": key("crt"), "clientKey": key("key")}}}))),
        // Without a server it is the operator's own, as the service account and never as the operator.
        ("account", spec(json!({"auth": {"serviceAccount": {"name": "reader"}}}))),
        ("config", spec(json!({"authRef": key("config")}))),
    ];
    for (name, spec) in stores {
        case.apply_store(name, spec).await;
        let entry = |secret_key: &str, remote: Value| json!({"secretKey": secret_key, "remoteRef": remote});
        let data = json!([
            entry("user", json!({"key": "app", "property": "user"})),
            entry("deep", json!({"key": "app", "property": "json.deep"})),
            entry("owner", json!({"key": "labelled", "property": "labels.owner", "metadataPolicy": "Fetch"})),
        ]);
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": data})).await;
    }
    for name in ["token", "cert", "account", "config"] {
        case.secret_is(name, &[("user", "CANARY-u"), ("deep", "CANARY-d"), ("owner", "team-a")]).await;
    }
    // Another service account may not, though the operator might.
    case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}})).await.unwrap();
    let stranger = harness::service_account_token(&case.client, &case.name, "stranger").await;
    let config = lockstep_e2e::control_plane::kubeconfig(&cluster.url, &cluster.ca, &format!("token: {stranger}"));
    case.apply_secret("stranger", &[("config", &config)]).await;
    for (name, auth) in [
        ("other-account", json!({"auth": {"serviceAccount": {"name": "stranger"}}})),
        ("other-config", json!({"authRef": {"name": "stranger", "key": "config"}})),
    ] {
        case.apply_store(name, spec(auth)).await;
        let data = json!([{"secretKey": "user", "remoteRef": {"key": "app", "property": "user"}}]);
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": data})).await;
        case.failed(name, "a Role must allow get on secrets there").await;
    }
    let find = json!({"find": {"tags": {"owner": "team-a"}}, "rewrite": [{"transform": {"template": "found-{{ .value }}"}}]});
    case.external_secret("found", json!({"secretStoreRef": {"name": "token"}, "dataFrom": [find]})).await;
    case.synced("found").await;
    assert!(case.secret("found").await.unwrap().contains_key("found-labelled"));
    case.apply_store("program", spec(json!({"authRef": key("program")}))).await;
    case.store_is("program", "False", "InvalidProviderConfig", "exec is refused").await;
    case.apply_store("nobody", spec(json!({"server": server}))).await;
    case.store_is("nobody", "False", "InvalidProviderConfig", "names no identity").await;
    let secrets: Api<Secret> = Api::namespaced(case.client.clone(), &case.name);
    assert!(secrets.get_opt("program").await.unwrap().is_none());
}

#[tokio::test]
async fn a_store_that_says_so_tries_again() {
    let case = Case::new("k8s-patient").await;
    case.apply_secret("app", &[("user", "CANARY-u")]).await;
    account(&case, &case.name, &["get", "list"]).await;
    let token = harness::service_account_token(&case.client, &case.name, "reader").await;
    case.apply_secret("reader", &[("token", &token)]).await;
    let (faults, cluster) = (Faults::default(), &case.harness.control_plane);
    let url = faults.proxy(&cluster.url, Some(cluster.ca.as_bytes())).unwrap();
    let auth = json!({"token": {"bearerToken": {"name": "reader", "key": "token"}}});
    let server = json!({"url": url, "caBundle": ca_bundle(&case)});
    case.apply_store("there", json!({"kubernetes": {"server": server, "auth": auth, "remoteNamespace": case.name}})).await;
    let data = json!([{"secretKey": "user", "remoteRef": {"key": "app", "property": "user"}}]);
    case.rides_two_failures_out("there", data, || {
        let body =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable", "code": 503});
        let failing = Fault::Answer { status: 503, retry_after: None, body: body.to_string() };
        faults.add(2, failing, |parts, _| parts.uri.path().ends_with("/secrets/app"))
    })
    .await;
}

#[tokio::test]
async fn secrets_of_another_cluster_arrive() {
    let case = Case::new("cluster2").await;
    let folder = case.harness.folder.path().join("another-cluster");
    let started = tokio::task::spawn_blocking(move || ControlPlane::start(&folder, &|text| eprintln!("{text}")));
    let there = started.await.unwrap().unwrap();
    let client = harness::client(&there.kubeconfig).await;
    harness::create_namespace(&client, "shop").await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": "shop"}});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "read", "namespace": "shop"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "read", "namespace": "shop"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "shop"}]});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app", "namespace": "shop"}, "stringData": {"user": "CANARY-there"}});
    for object in [account, role, binding, secret] {
        harness::apply(&client, None, object).await.unwrap();
    }
    let token = harness::service_account_token(&client, "shop", "reader").await;
    case.apply_secret("there", &[("token", &token), ("ca.crt", &there.ca)]).await;
    let ca = json!({"type": "Secret", "name": "there", "key": "ca.crt"});
    let auth = json!({"token": {"bearerToken": {"name": "there", "key": "token"}}});
    let spec = |server: Value| json!({"kubernetes": {"server": server, "auth": auth, "remoteNamespace": "shop"}});
    case.apply_store("there", spec(json!({"url": there.url, "caProvider": ca}))).await;
    case.store_is("there", "True", "Valid", "").await;
    let data = json!([{"secretKey": "user", "remoteRef": {"key": "app", "property": "user"}}]);
    case.external_secret("app", json!({"secretStoreRef": {"name": "there"}, "data": data})).await;
    case.secret_is("app", &[("user", "CANARY-there")]).await;
    // This cluster does not know that token.
    case.apply_store("here", spec(json!({"url": case.harness.control_plane.url, "caBundle": ca_bundle(&case)}))).await;
    case.store_is("here", "False", "InvalidProviderConfig", "code 401").await;
}

#[tokio::test]
async fn the_fake_provider_serves_values_and_versions_of_its_spec() {
    let case = Case::new("fake").await;
    let data = json!([{"key": "k", "value": "CANARY-1", "version": "v1"}, {"key": "k", "value": "CANARY-2", "version": "v2"}, {"key": "j", "value": "{\"a\": {\"b\": 1.50}}"}]);
    case.apply_store("fake", json!({"fake": {"data": data}})).await;
    let entry = |secret_key: &str, remote: Value| json!({"secretKey": secret_key, "remoteRef": remote});
    let data = json!([
        entry("latest", json!({"key": "k"})),
        entry("old", json!({"key": "k", "version": "v1"})),
        entry("number", json!({"key": "j", "property": "a.b"})),
    ]);
    case.external_secret("app", json!({"secretStoreRef": {"name": "fake"}, "data": data})).await;
    case.secret_is("app", &[("latest", "CANARY-2"), ("old", "CANARY-1"), ("number", "1.5")]).await;
    case.apply_store("invalid", json!({"fake": {"data": [], "validationResult": 2}})).await;
    case.store_is("invalid", "False", "InvalidProviderConfig", "validationResult").await;
}
