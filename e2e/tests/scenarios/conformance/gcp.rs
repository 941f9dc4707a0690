//! Google Cloud: the server of our own.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_e2e::harness::gcp;
use lockstep_e2e::rsa::Rsa;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Fixture, Search};
use serde_json::{Value, json};

use super::provider;
use crate::case::Case;

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
        ["one", "many-", "gone", "found-", "tagged-", "foreign", "new-"].map(|name| format!("{project}/secrets/{name}")).into();
    let mut open: Vec<&str> = open.iter().map(String::as_str).collect();
    let lists = format!("{project}/");
    open.push(&lists);
    gcp().grant(&email, &open);
    conformance::run(&OnGcp { case, key }).await;
}
