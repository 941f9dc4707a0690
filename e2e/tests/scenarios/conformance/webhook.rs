//! Webhook: a small HTTP API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_e2e::http_api::HttpApi;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Failure, Fixture, Search};
use serde_json::{Value, json};

use super::{fault, provider, provider_within};
use lockstep_e2e::case::Case;

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
        Some("shut/any".into())
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
    // JSON holds text.
    async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Option<String> {
        self.api.put(name, json!(std::str::from_utf8(bytes).ok()?));
        Some(name.to_owned())
    }
    fn unicode_name(&self) -> Option<String> {
        Some("gro\u{df}e-\u{79d8}\u{5bc6}".into())
    }
    async fn fail(&self, failure: Failure) -> bool {
        // Any JSON is an answer of some API; what is not there for its path is another matter.
        let is_answer = |body: &[u8]| serde_json::from_slice::<serde_json::Map<String, Value>>(body).is_ok_and(|o| !o.is_empty());
        if matches!(failure, Failure::Body(body) if is_answer(body)) {
            return false;
        }
        let fault = fault(failure, (429, json!({})), (503, json!({})));
        self.api.faults.add(1, fault, |parts, _| parts.uri.path().ends_with("/failing"));
        true
    }
    async fn impatient(&self, timeout: Duration) -> Option<Arc<dyn Provider>> {
        Some(provider_within(&self.spec(), "CANARY-token", timeout).await)
    }
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        self.api.put("shut/theirs", json!({"user": "CANARY-conformance"}));
        Some((provider(&self.spec(), "CANARY-other-token").await, "shut/theirs".into()))
    }
    // The URL that writes is another one than the URL that reads.
    fn new_key(&self, _: &str) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn the_webhook_provider_passes_the_conformance_suite_of_what_it_can() {
    let _case = Case::new("conformance-http").await;
    let api = HttpApi::start("CANARY-token").await;
    api.shut("shut/", "CANARY-other-token");
    conformance::run(&OnHttp { api }).await;
}
