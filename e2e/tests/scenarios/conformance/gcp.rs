//! Google Cloud: the server of our own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_e2e::harness::gcp;
use lockstep_e2e::rsa::Rsa;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Failure, Fixture, Search};
use serde_json::{Value, json};

use super::{fault, provider, provider_within};
use lockstep_e2e::case::Case;

struct OnGcp {
    case: Case,
    key: Value,
}

impl OnGcp {
    fn spec(&self) -> Value {
        let auth = json!({"secretRef": {"secretAccessKeySecretRef": {"name": "any", "key": "any"}}});
        json!({"gcpsm": {"projectID": self.case.name, "auth": auth}})
    }

    fn name(&self, key: &str) -> String {
        format!("projects/{}/secrets/{key}", self.case.name)
    }
}

#[async_trait]
impl Fixture for OnGcp {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec(), &self.key.to_string()).await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        gcp().put(&self.name(name), json!(fields).to_string().as_bytes());
        name.to_owned()
    }
    async fn remove(&self, key: &str) -> bool {
        gcp().remove(&self.name(key))
    }
    async fn denied_key(&self) -> Option<String> {
        Some("shut".into())
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        let mut key = self.key.clone();
        key["private_key"] = json!(Rsa::new("other").pem());
        Some(provider(&self.spec(), &key.to_string()).await)
    }
    fn search(&self) -> Option<Search> {
        Some(Search { path: None, tags: true })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String {
        gcp().set(&self.name(name), "labels", json!(tags));
        self.put(name, fields).await
    }
    async fn put_version(&self, name: &str, fields: &BTreeMap<String, String>) -> Option<(String, String)> {
        let key = self.put(name, fields).await;
        let (_, versions) = gcp().secret(&self.name(&key))?;
        Some((key, versions.len().to_string()))
    }
    async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Option<String> {
        gcp().put(&self.name(name), bytes);
        Some(name.to_owned())
    }
    async fn fail(&self, failure: Failure) -> bool {
        let body =
            |code: u16, status: &str| (code, json!({"error": {"code": code, "status": status, "message": "as the test asked"}}));
        let path = format!("/v1/{}", self.name("failing"));
        let fault = fault(failure, body(429, "RESOURCE_EXHAUSTED"), body(503, "UNAVAILABLE"));
        gcp().faults.add(1, fault, move |parts, _| parts.uri.path().starts_with(&path));
        true
    }
    async fn fail_search(&self, failure: Failure) -> bool {
        // This is how protocol buffers write a list of nothing.
        if matches!(failure, Failure::Body(b"{}")) {
            return false;
        }
        let body =
            |code: u16, status: &str| (code, json!({"error": {"code": code, "status": status, "message": "as the test asked"}}));
        let path = format!("/v1/projects/{}/secrets", self.case.name);
        let fault = fault(failure, body(429, "RESOURCE_EXHAUSTED"), body(503, "UNAVAILABLE"));
        gcp().faults.add(1, fault, move |parts, _| parts.uri.path() == path);
        true
    }
    async fn impatient(&self, timeout: Duration) -> Option<Arc<dyn Provider>> {
        Some(provider_within(&self.spec(), &self.key.to_string(), timeout).await)
    }
    async fn expire(&self) -> bool {
        gcp().expire(self.key["client_email"].as_str().unwrap());
        true
    }
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        let email = format!("neighbour@{}.iam.gserviceaccount.com", self.case.name);
        let key = gcp().account(&email);
        gcp().grant(&email, &[&self.name("shut-theirs")]);
        gcp().put(&self.name("shut-theirs"), b"CANARY-conformance");
        Some((provider(&self.spec(), &key.to_string()).await, "shut-theirs".into()))
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(format!("new-{name}"))
    }
}

#[tokio::test]
async fn gcp_passes_the_conformance_suite() {
    let case = Case::new("gcp-conformance").await;
    let email = format!("conformance@{}.iam.gserviceaccount.com", case.name);
    let key = gcp().account(&email);
    // Everything in the project but what begins with "shut".
    let project = format!("projects/{}", case.name);
    let open: Vec<String> =
        ["one", "many-", "gone", "found-", "tagged-", "foreign", "new-", "bytes-", "odd", "versions", "described", "failing"]
            .map(|name| format!("{project}/secrets/{name}"))
            .into();
    let mut open: Vec<&str> = open.iter().map(String::as_str).collect();
    let lists = format!("{project}/");
    open.push(&lists);
    gcp().grant(&email, &open);
    conformance::run(&OnGcp { case, key }).await;
}
