//! The conformance suite on the real thing, for every provider, and the Kubernetes provider in the operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::api::{Api, DeleteParams};
use lockstep_crds::meta::{CaProvider, SecretKeySelector, ServiceAccountSelector};
use lockstep_crds::store::Provider as Spec;
use lockstep_e2e::harness;
use lockstep_e2e::vault::ROOT;
use lockstep_providers::conformance::{self, Fixture};
use lockstep_providers::registry::{Options, connect};
use lockstep_providers::{Error, OwnCluster, Provider, Resolver, Result, SecretBytes};
use serde_json::{Value, json};

use crate::case::Case;

/// Hands out one token, whatever is asked for.
struct Token(String);

#[async_trait]
impl Resolver for Token {
    async fn secret_key(&self, _: &str, _: &SecretKeySelector, _: Option<&str>) -> Result<SecretBytes> {
        Ok(SecretBytes::from(self.0.as_str()))
    }
    async fn ca(&self, field: &str, _: &CaProvider) -> Result<Vec<u8>> {
        Err(Error::invalid(field, "not in this test"))
    }
    async fn service_account_token(
        &self,
        field: &str,
        _: &ServiceAccountSelector,
        _: &[String],
        _: Duration,
    ) -> Result<SecretBytes> {
        Err(Error::invalid(field, "not in this test"))
    }
    async fn own_token(&self, field: &str) -> Result<SecretBytes> {
        Err(Error::invalid(field, "not in this test"))
    }
    fn own_cluster(&self) -> OwnCluster {
        OwnCluster::default()
    }
}

async fn provider(spec: &Value, token: &str) -> Arc<dyn Provider> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    connect(&spec, Arc::new(Token(token.to_owned())), &Options::default()).await.unwrap()
}

struct OnVault {
    case: Case,
    spec: Value,
    v2: bool,
    mount: String,
    token: String,
}

#[async_trait]
impl Fixture for OnVault {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec, &self.token).await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        let (path, body) = if self.v2 {
            (format!("{}/data/open/{name}", self.mount), json!({"data": fields}))
        } else {
            (format!("{}/open/{name}", self.mount), json!(fields))
        };
        self.case.harness.vault.write(&path, body).await;
        format!("open/{name}")
    }
    async fn remove(&self, key: &str) -> bool {
        let vault = &self.case.harness.vault;
        let path = if self.v2 { format!("{}/metadata/{key}", self.mount) } else { format!("{}/{key}", self.mount) };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let sent = client.delete(format!("{}/v1/{path}", vault.url)).header("x-vault-token", ROOT).send().await.unwrap();
        sent.status().is_success()
    }
    async fn denied_key(&self) -> Option<String> {
        Some("shut/any".into())
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        Some(provider(&self.spec, "hvs.not-a-token").await)
    }
}

#[tokio::test]
async fn vault_passes_the_conformance_suite_with_both_versions_of_kv() {
    for v2 in [true, false] {
        let case = Case::new("conformance").await;
        let vault = &case.harness.vault;
        let mount = format!("kv-{}/at/depth", case.name);
        let version = if v2 { "2" } else { "1" };
        vault.write(&format!("sys/mounts/{mount}"), json!({"type": "kv", "options": {"version": version}})).await;
        let path = if v2 { format!("{mount}/data/open/*") } else { format!("{mount}/open/*") };
        vault.policy(&case.name, &[&path]).await;
        let token = vault.token(&["default", &case.name], "1h").await;
        let auth = json!({"tokenSecretRef": {"name": "any", "key": "any"}});
        let spec = json!({"vault": {"server": vault.url, "path": mount, "version": format!("v{version}"), "auth": auth}});
        conformance::run(&OnVault { case, spec, v2, mount, token }).await;
    }
}

struct OnKubernetes {
    case: Case,
    spec: Value,
    token: String,
}

#[async_trait]
impl Fixture for OnKubernetes {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec, &self.token).await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        self.case.apply_secret(name, &fields).await;
        name.to_owned()
    }
    async fn remove(&self, key: &str) -> bool {
        self.case.secrets().delete(key, &DeleteParams::default()).await.is_ok()
    }
    async fn denied_key(&self) -> Option<String> {
        None
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        Some(provider(&self.spec, "not.a.token").await)
    }
}

/// A service account that may read the Secrets of a namespace, and no others.
async fn reader(case: &Case, namespace: &str) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}});
    case.apply(account).await.unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "read", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    harness::apply(&case.client, None, role).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "read", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": case.name}]});
    harness::apply(&case.client, None, binding).await.unwrap();
}

fn ca_bundle(case: &Case) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &case.harness.control_plane.ca)
}

#[tokio::test]
async fn kubernetes_passes_the_conformance_suite() {
    let case = Case::new("conformance-k8s").await;
    reader(&case, &case.name).await;
    let token = harness::service_account_token(&case.client, &case.name, "reader").await;
    let server = json!({"url": case.harness.control_plane.url, "caBundle": ca_bundle(&case)});
    let auth = json!({"token": {"bearerToken": {"name": "any", "key": "any"}}});
    let spec = json!({"kubernetes": {"server": server, "auth": auth, "remoteNamespace": case.name}});
    conformance::run(&OnKubernetes { case, spec, token }).await;
}

#[tokio::test]
async fn secrets_of_another_namespace_arrive_by_each_kind_of_auth() {
    let case = Case::new("remote").await;
    let source = Case::new("source").await;
    source.apply_secret("app", &[("user", "CANARY-u"), ("json", r#"{"deep": "CANARY-d"}"#)]).await;
    let labelled = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "labelled", "labels": {"owner": "team-a"}}, "stringData": {"p": "CANARY"}});
    source.apply(labelled).await.unwrap();
    reader(&case, &source.name).await;
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
    // A path into a key that holds JSON text is not a path into the Secret: the literal keys are all there is.
    for name in ["token", "cert", "account", "config"] {
        case.failed(name, "has no property json.deep; it has json, user").await;
        let data = json!([{"secretKey": "user", "remoteRef": {"key": "app", "property": "user"}},
            {"secretKey": "owner", "remoteRef": {"key": "labelled", "property": "labels.owner", "metadataPolicy": "Fetch"}}]);
        case.external_secret(name, json!({"secretStoreRef": {"name": name}, "data": data})).await;
        case.secret_is(name, &[("user", "CANARY-u"), ("owner", "team-a")]).await;
    }
    case.apply_store("program", spec(json!({"authRef": key("program")}))).await;
    case.store_is("program", "False", "InvalidProviderConfig", "exec is refused").await;
    case.apply_store("nobody", spec(json!({"server": server}))).await;
    case.store_is("nobody", "False", "InvalidProviderConfig", "names no identity").await;
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(case.client.clone(), &case.name);
    assert!(secrets.get_opt("program").await.unwrap().is_none());
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
