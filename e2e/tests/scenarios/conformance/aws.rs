//! AWS: both services, on the emulator behind the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_e2e::aws::{Key, REGION, Role};
use lockstep_e2e::harness;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Failure, Fixture, Search};
use serde_json::{Value, json};

use super::{fault, provider, provider_within};
use lockstep_e2e::case::Case;

struct OnAws {
    case: Case,
    service: &'static str,
    /// Access keys that may do nothing but be the role.
    key: String,
    role: String,
}

impl OnAws {
    fn is_secrets(&self) -> bool {
        self.service == "SecretsManager"
    }

    fn spec(&self) -> Value {
        let key = |key: &str| json!({"name": "any", "key": key});
        let auth = json!({"secretRef": {"accessKeyIDSecretRef": key("id"), "secretAccessKeySecretRef": key("secret")}});
        let deletion = json!({"forceDeleteWithoutRecovery": true});
        json!({"aws": {"service": self.service, "region": REGION, "auth": auth, "role": self.role, "secretsManager": deletion}})
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
    async fn put_version(&self, name: &str, fields: &BTreeMap<String, String>) -> Option<(String, String)> {
        let key = self.put(name, fields).await;
        let version = match self.is_secrets() {
            true => {
                let found = harness::aws().admin("secretsmanager.GetSecretValue", json!({"SecretId": key})).await;
                format!("uuid/{}", found["VersionId"].as_str()?)
            }
            false => {
                harness::aws().admin("AmazonSSM.GetParameter", json!({"Name": key})).await["Parameter"]["Version"].to_string()
            }
        };
        Some((key, version))
    }
    // A parameter is text of at most 4 KB, and neither may be empty.
    async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Option<String> {
        let (name, text) = (self.name(name), std::str::from_utf8(bytes).ok());
        match (self.is_secrets(), text) {
            (_, Some("")) => return None,
            (true, Some(text)) => harness::aws().put_secret(&name, text).await,
            (true, None) => {
                let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
                harness::aws().admin("secretsmanager.CreateSecret", json!({"Name": name, "SecretBinary": value})).await;
            }
            (false, Some(text)) if text.len() <= 4096 => harness::aws().put_parameter(&name, text).await,
            (false, _) => return None,
        }
        Some(name)
    }
    async fn fail(&self, failure: Failure) -> bool {
        let body = |status: u16, code: &str| (status, json!({"__type": code, "message": "as the test asked"}));
        let fault = fault(failure, body(400, "ThrottlingException"), body(503, "InternalServiceError"));
        let name = self.name("failing");
        harness::aws().faults.add(1, fault, move |_, body| body.windows(name.len()).any(|window| window == name.as_bytes()));
        true
    }
    async fn fail_search(&self, failure: Failure) -> bool {
        let body = |status: u16, code: &str| (status, json!({"__type": code, "message": "as the test asked"}));
        let fault = fault(failure, body(400, "ThrottlingException"), body(503, "InternalServiceError"));
        let name = self.name("");
        harness::aws().faults.add(1, fault, move |parts, body| {
            let action = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
            let lists = action.ends_with("ListSecrets") || action.ends_with("GetParametersByPath");
            lists && body.windows(name.len()).any(|window| window == name.as_bytes())
        });
        true
    }
    async fn impatient(&self, timeout: Duration) -> Option<Arc<dyn Provider>> {
        Some(provider_within(&self.spec(), &self.key, timeout).await)
    }
    async fn expire(&self) -> bool {
        harness::aws().expire_sessions(&self.role);
        true
    }
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        let (key, theirs) = (format!("{}N", self.key), format!("{}-theirs", self.name("").trim_end_matches('/')));
        harness::aws().key(&key, Key { secret: key.clone(), names: vec![theirs.clone()], ..Key::default() });
        let mut spec = self.spec();
        spec["aws"]["role"] = Value::Null;
        match self.is_secrets() {
            true => harness::aws().put_secret(&theirs, "CANARY-conformance").await,
            false => harness::aws().put_parameter(&theirs, "CANARY-conformance").await,
        }
        Some((provider(&spec, &key).await, theirs))
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
        let names = vec![format!("{}/", case.name), format!("/{}/", case.name)];
        harness::aws().key(&key, Key { secret: key.clone(), ..Key::default() });
        let role = harness::aws().role(&case.name, Role { trusts: vec![key.clone()], names, ..Role::default() });
        conformance::run(&OnAws { case, service, key, role }).await;
    }
}
