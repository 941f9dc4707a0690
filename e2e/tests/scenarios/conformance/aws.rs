//! AWS: both services, on the emulator behind the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_e2e::aws::{Key, REGION};
use lockstep_e2e::harness;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Fixture, Search};
use serde_json::{Value, json};

use super::provider;
use crate::case::Case;

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
