//! The conformance suite on the real thing, for every provider, and the Kubernetes provider in the operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{Api, DeleteParams};
use lockstep_crds::store::Provider as Spec;
use lockstep_e2e::aws::{Key, REGION};
use lockstep_e2e::harness;
use lockstep_e2e::http_api::HttpApi;
use lockstep_e2e::vault::ROOT;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Fixture, Search};
use lockstep_providers::registry::{Endpoints, Options, connect};
use lockstep_providers::resolver::Fixed;
use serde_json::{Value, json};

use crate::case::Case;

async fn provider(spec: &Value, token: &str) -> Arc<dyn Provider> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let url = &harness::aws().url;
    let endpoints = ["secretsmanager", "ssm", "sts"].map(|service| (service.to_owned(), url.clone()));
    let options = Options { endpoints: Arc::new(Endpoints(endpoints.into())), ..Options::default() };
    connect(&spec, Arc::new(Fixed(token.to_owned())), &options).await.unwrap()
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
    fn search(&self) -> Option<Search> {
        Some(Search { path: Some("open".into()), tags: self.v2 })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String {
        let key = self.put(name, fields).await;
        self.case.harness.vault.write(&format!("{}/metadata/{key}", self.mount), json!({"custom_metadata": tags})).await;
        key
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(format!("open/new/{name}"))
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
        let open = |below: &str| format!("{mount}{below}/open*");
        let paths = if v2 { vec![open("/data"), open("/metadata")] } else { vec![open("")] };
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        vault.policy_of(&case.name, &["create", "read", "update", "delete", "list"], &paths).await;
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
    fn search(&self) -> Option<Search> {
        Some(Search { path: None, tags: true })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": tags}, "stringData": fields});
        self.case.apply(secret).await.unwrap();
        name.to_owned()
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }
}

/// A service account that may read the Secrets of a namespace, and no others.
async fn reader(case: &Case, namespace: &str) {
    account(case, namespace, &["get"]).await;
}

async fn account(case: &Case, namespace: &str, verbs: &[&str]) {
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

fn ca_bundle(case: &Case) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &case.harness.control_plane.ca)
}

#[tokio::test]
async fn kubernetes_passes_the_conformance_suite() {
    let case = Case::new("conformance-k8s").await;
    account(&case, &case.name, &["get", "list", "create", "update", "delete"]).await;
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
    for name in ["token", "cert", "account", "config"] {
        case.secret_is(name, &[("user", "CANARY-u"), ("deep", "CANARY-d"), ("owner", "team-a")]).await;
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

struct OnAws {
    case: Case,
    service: &'static str,
    key: String,
}

impl OnAws {
    fn is_secrets(&self) -> bool {
        self.service == "SecretsManager"
    }

    fn spec(&self) -> Value {
        let key = |key: &str| json!({"name": "any", "key": key});
        let auth = json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}});
        let deletion = json!({"forceDeleteWithoutRecovery": true});
        json!({"aws": {"service": self.service, "region": REGION, "auth": auth, "secretsManager": deletion}})
    }

    fn name(&self, name: &str) -> String {
        if self.is_secrets() { format!("{}/{name}", self.case.name) } else { format!("/{}/{name}", self.case.name) }
    }
}

#[async_trait]
impl Fixture for OnAws {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec(), &self.key).await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        let (name, value) = (self.name(name), json!(fields).to_string());
        match self.is_secrets() {
            true => harness::aws().put_secret(&name, &value).await,
            false => harness::aws().put_parameter(&name, &value).await,
        }
        name
    }
    async fn remove(&self, key: &str) -> bool {
        match self.is_secrets() {
            true => {
                let body = json!({"SecretId": key, "ForceDeleteWithoutRecovery": true});
                harness::aws().admin("secretsmanager.DeleteSecret", body).await
            }
            false => harness::aws().admin("AmazonSSM.DeleteParameter", json!({"Name": key})).await,
        };
        true
    }
    async fn denied_key(&self) -> Option<String> {
        Some("/somebody/elses".into())
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        Some(provider(&self.spec(), "AKIANOBODY").await)
    }
    // Keys that are not good are found out by using them: a validation costs nothing.
    fn validates_identity(&self) -> bool {
        false
    }
    fn search(&self) -> Option<Search> {
        Some(Search { path: Some(self.name("")), tags: true })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String {
        let name = self.put(name, fields).await;
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        match self.is_secrets() {
            true => harness::aws().admin("secretsmanager.TagResource", json!({"SecretId": name, "Tags": tags})).await,
            false => {
                let body = json!({"ResourceType": "Parameter", "ResourceId": name, "Tags": tags});
                harness::aws().admin("AmazonSSM.AddTagsToResource", body).await
            }
        };
        name
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(self.name(&format!("new/{name}")))
    }
}

#[tokio::test]
async fn aws_passes_the_conformance_suite_with_both_of_its_services() {
    for service in ["SecretsManager", "ParameterStore"] {
        let case = Case::new("on-conformance").await;
        let key = format!("AKIA{}", case.name.to_uppercase().replace('-', ""));
        let names = vec![case.name.clone(), format!("/{}", case.name)];
        harness::aws().key(&key, Key { secret: key.clone(), names, ..Key::default() });
        conformance::run(&OnAws { case, service, key }).await;
    }
}

struct OnHttp {
    api: HttpApi,
}

impl OnHttp {
    fn spec(&self) -> Value {
        let secrets = json!([{"name": "api", "secretRef": {"name": "any"}}]);
        json!({"webhook": {
            "url": format!("{}/secrets/{{{{ .remoteRef.key }}}}", self.api.url),
            "headers": {"Authorization": "Bearer {{ .api.key }}"},
            "result": {"jsonPath": "$.data"},
            "secrets": secrets,
        }})
    }
}

#[async_trait]
impl Fixture for OnHttp {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec(), "CANARY-token").await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        self.api.put(name, json!(fields));
        name.to_owned()
    }
    async fn remove(&self, key: &str) -> bool {
        self.api.remove(key)
    }
    async fn denied_key(&self) -> Option<String> {
        None
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        Some(provider(&self.spec(), "not-the-token").await)
    }
    fn validates_identity(&self) -> bool {
        false
    }
    fn search(&self) -> Option<Search> {
        None
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, _: &BTreeMap<String, String>) -> String {
        self.put(name, fields).await
    }
    // The URL that writes is another one than the URL that reads.
    fn new_key(&self, _: &str) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn the_webhook_provider_passes_the_conformance_suite_of_what_it_can() {
    let _case = Case::new("conformance-http").await;
    conformance::run(&OnHttp { api: HttpApi::start("CANARY-token").await }).await;
}
