//! Azure: the server of our own.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_e2e::azure::Application;
use lockstep_e2e::harness::azure;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Fixture, Search};
use serde_json::{Value, json};

use super::provider;
use crate::azure::TENANT;
use crate::case::Case;

struct OnAzure {
    case: Case,
}

impl OnAzure {
    /// Every reference is answered with one text, which is the application's id and secret at once.
    fn spec(&self) -> Value {
        let any = json!({"name": "any", "key": "any"});
        let auth = json!({"clientId": any, "clientSecret": any});
        json!({"azurekv": {"vaultUrl": azure().vault(&self.case.name), "tenantId": TENANT, "authSecretRef": auth}})
    }
}

#[async_trait]
impl Fixture for OnAzure {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec(), &self.case.name).await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        azure().put(&self.case.name, name, &json!(fields).to_string(), json!({}));
        name.to_owned()
    }
    async fn remove(&self, key: &str) -> bool {
        azure().purge(&self.case.name, "secrets", key)
    }
    async fn denied_key(&self) -> Option<String> {
        Some("shut".into())
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        Some(provider(&self.spec(), "nobody").await)
    }
    fn search(&self) -> Option<Search> {
        Some(Search { path: None, tags: true })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String {
        azure().put(&self.case.name, name, &json!(fields).to_string(), json!({"tags": tags}));
        name.to_owned()
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(format!("new-{name}"))
    }
}

#[tokio::test]
async fn azure_passes_the_conformance_suite() {
    let case = Case::new("az-conformance").await;
    azure().application(TENANT, &case.name, Application { secrets: vec![case.name.clone()], ..Application::default() });
    // Everything in the vault but what begins with "shut".
    let open = ["", "one", "many-", "gone", "found-", "tagged-", "foreign", "new-"];
    let open = open.map(|name| format!("{}/secrets/{name}", case.name));
    azure().grant(&case.name, &open.each_ref().map(String::as_str));
    conformance::run(&OnAzure { case }).await;
}
