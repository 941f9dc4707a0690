//! Azure: the server of our own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_e2e::azure::Application;
use lockstep_e2e::harness::azure;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Failure, Fixture, Search};
use serde_json::{Value, json};

use super::{fault, provider, provider_within};
use crate::azure::TENANT;
use lockstep_e2e::case::Case;

struct OnAzure {
    case: Case,
}

impl OnAzure {
    /// Every reference is answered with one text, which is the application's id and secret at once.
    fn spec(&self) -> Value {
        let any = json!({"name": "any", "key": "any"});
        let auth = json!({"clientId": any, "clientSecret": any});
        let cloud = json!({"activeDirectoryEndpoint": azure().entra()});
        json!({"azurekv": {
            "vaultUrl": azure().vault(&self.case.name), "tenantId": TENANT, "authSecretRef": auth, "customCloudConfig": cloud,
        }})
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
    async fn put_version(&self, name: &str, fields: &BTreeMap<String, String>) -> Option<(String, String)> {
        Some((name.to_owned(), azure().put(&self.case.name, name, &json!(fields).to_string(), json!({}))))
    }
    // Text of at most 25 KB.
    async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 25_600)?;
        azure().put(&self.case.name, name, text, json!({}));
        Some(name.to_owned())
    }
    async fn fail(&self, failure: Failure) -> bool {
        let body = |status: u16, code: &str| (status, json!({"error": {"code": code, "message": "as the test\r\nasked"}}));
        let host = format!("{}.vault.azure.net", self.case.name);
        let fault = fault(failure, body(429, "Throttled"), body(503, "ServiceUnavailable"));
        azure().faults.add(1, fault, move |parts, _| {
            let to = parts.headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
            // Not the first request of a client, which only asks for the challenge.
            to.starts_with(&host) && parts.uri.path().contains("/failing") && parts.headers.contains_key("authorization")
        });
        true
    }
    async fn fail_search(&self, failure: Failure) -> bool {
        let body = |status: u16, code: &str| (status, json!({"error": {"code": code, "message": "as the test asked"}}));
        let host = format!("{}.vault.azure.net", self.case.name);
        azure().faults.add(1, fault(failure, body(429, "Throttled"), body(503, "ServiceUnavailable")), move |parts, _| {
            let to = parts.headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
            to.starts_with(&host) && parts.uri.path() == "/secrets" && parts.headers.contains_key("authorization")
        });
        true
    }
    async fn impatient(&self, timeout: Duration) -> Option<Arc<dyn Provider>> {
        Some(provider_within(&self.spec(), &self.case.name, timeout).await)
    }
    async fn expire(&self) -> bool {
        azure().expire(&self.case.name);
        true
    }
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        let client = format!("{}-neighbour", self.case.name);
        azure().application(TENANT, &client, Application { secrets: vec![client.clone()], ..Application::default() });
        azure().grant(&client, &[&format!("{}/secrets/shut-theirs", self.case.name)]);
        azure().put(&self.case.name, "shut-theirs", "CANARY-conformance", json!({}));
        Some((provider(&self.spec(), &client).await, "shut-theirs".into()))
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
    let open =
        ["", "one", "many-", "gone", "found-", "tagged-", "foreign", "new-", "bytes-", "odd", "versions", "described", "failing"];
    let open = open.map(|name| format!("{}/secrets/{name}", case.name));
    azure().grant(&case.name, &open.each_ref().map(String::as_str));
    conformance::run(&OnAzure { case }).await;
}
