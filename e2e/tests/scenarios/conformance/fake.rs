//! The fake provider: what stands in its spec is somebody else's, what is pushed is ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_providers::conformance::{self, Fixture, Search};
use lockstep_providers::{Payload, Provider, Push, SecretBytes, Source, Target};
use serde_json::{Value, json};

use super::provider;

struct OnFake {
    /// Pushed values live as long as the connection.
    connection: Arc<dyn Provider>,
}

impl OnFake {
    async fn keep(&self, name: &str, value: SecretBytes) -> String {
        let target = Target { key: name.to_owned(), ..Target::default() };
        let push = Push { target, value: Payload::Bytes(value), only_new: false, source: Source::default() };
        self.connection.push(&push).await.unwrap();
        name.to_owned()
    }
}

#[async_trait]
impl Fixture for OnFake {
    async fn provider(&self) -> Arc<dyn Provider> {
        self.connection.clone()
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        match name {
            "foreign" => name.to_owned(),
            _ => self.keep(name, json!(fields).to_string().into()).await,
        }
    }
    async fn remove(&self, key: &str) -> bool {
        self.connection.delete(&Target { key: key.to_owned(), ..Target::default() }).await.is_ok()
    }
    async fn denied_key(&self) -> Option<String> {
        None
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        None
    }
    fn search(&self) -> Option<Search> {
        Some(Search { path: None, tags: false })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, _: &BTreeMap<String, String>) -> String {
        self.put(name, fields).await
    }
    async fn put_version(&self, name: &str, fields: &BTreeMap<String, String>) -> Option<(String, String)> {
        Some((name.to_owned(), format!("v{}", fields["a"])))
    }
    async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Option<String> {
        Some(self.keep(name, SecretBytes::new(bytes.to_vec())).await)
    }
    fn unicode_name(&self) -> Option<String> {
        Some("gro\u{df}e \u{79d8}\u{5bc6}".into())
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }
}

#[tokio::test]
async fn the_fake_provider_passes_the_conformance_suite_of_what_it_can() {
    let given = |key: &str, value: Value, version: Value| json!({"key": key, "value": value.to_string(), "version": version});
    let data = [
        given("foreign", json!({"a": "CANARY-conformance"}), Value::Null),
        given("versions", json!({"a": "1"}), json!("v1")),
        given("versions", json!({"a": "2"}), json!("v2")),
    ];
    conformance::run(&OnFake { connection: provider(&json!({"fake": {"data": data}}), "").await }).await;
}
