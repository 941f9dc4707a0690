//! Kubernetes: another namespace of a real API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::DeleteParams;
use lockstep_e2e::harness;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Fixture, Search};
use serde_json::{Value, json};

use super::provider;
use crate::case::Case;
use crate::providers::{account, ca_bundle};

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
