//! Kubernetes: another namespace of a real API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::api::DeleteParams;
use lockstep_e2e::faults::Faults;
use lockstep_e2e::harness;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Failure, Fixture, Search};
use serde_json::{Value, json};

use super::{fault, provider, provider_within};
use crate::providers::ca_bundle;
use lockstep_e2e::case::Case;

struct OnKubernetes {
    case: Case,
    spec: Value,
    token: String,
    /// Before its API server.
    faults: Faults,
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
        Some("theirs".into())
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
    async fn put_bytes(&self, name: &str, bytes: &[u8]) -> Option<String> {
        let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"value": value}});
        self.case.apply(secret).await.unwrap();
        Some(name.to_owned())
    }
    async fn fail(&self, failure: Failure) -> bool {
        let status = |code: u16, reason: &str| {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "as asked"});
            (code, body)
        };
        let fault = fault(failure, status(429, "TooManyRequests"), status(503, "ServiceUnavailable"));
        self.faults.add(1, fault, |parts, _| parts.uri.path().ends_with("/failing"));
        true
    }
    async fn fail_search(&self, failure: Failure) -> bool {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable", "code": 503, "message": "as asked"});
        let fault = fault(failure, (503, body.clone()), (503, body));
        self.faults.add(1, fault, |parts, _| parts.method == "GET" && parts.uri.path().ends_with("/secrets"));
        true
    }
    async fn impatient(&self, timeout: Duration) -> Option<Arc<dyn Provider>> {
        Some(provider_within(&self.spec, &self.token, timeout).await)
    }
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        self.case.apply_secret("theirs", &[("user", "CANARY-conformance")]).await;
        let names = ["theirs"].map(str::to_owned);
        account(&self.case, "neighbour", &[(&["get"], Some(&names))]).await;
        let token = harness::service_account_token(&self.case.client, &self.case.name, "neighbour").await;
        Some((provider(&self.spec, &token).await, "theirs".into()))
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }
}

/// A service account with these verbs on the case's Secrets: on all, or on those of these names.
async fn account(case: &Case, name: &str, rules: &[(&[&str], Option<&[String]>)]) {
    let rule = |(verbs, names): &(&[&str], Option<&[String]>)| json!({"apiGroups": [""], "resources": ["secrets"], "verbs": verbs, "resourceNames": names});
    let rules: Vec<Value> = rules.iter().map(rule).collect();
    let of = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
    let (mut role, mut binding) = (of("Role"), of("RoleBinding"));
    role["rules"] = json!(rules);
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    binding["subjects"] = json!([{"kind": "ServiceAccount", "name": name, "namespace": case.name}]);
    case.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})).await.unwrap();
    case.apply(role).await.unwrap();
    case.apply(binding).await.unwrap();
}

#[tokio::test]
async fn kubernetes_passes_the_conformance_suite() {
    let case = Case::new("conformance-k8s").await;
    // All that the suite makes, and not what is its neighbour's.
    let many = (0..250).map(|i| format!("many-{i}")).chain((0..300).map(|i| format!("found-{i:03}")));
    let bytes = ["binary", "empty", "text", "large"].map(|name| format!("bytes-{name}"));
    let single = [
        "one",
        "gone",
        "odd",
        "described",
        "failing",
        "tagged-both",
        "tagged-one",
        "tagged-swapped",
        "foreign",
        "pushed",
        "by-property",
    ];
    let names: Vec<String> = many.chain(bytes).chain(single.map(str::to_owned)).collect();
    account(&case, "reader", &[(&["list", "create"], None), (&["get", "update", "delete"], Some(&names))]).await;
    let token = harness::service_account_token(&case.client, &case.name, "reader").await;
    let (faults, cluster) = (Faults::default(), &case.harness.control_plane);
    let url = faults.proxy(&cluster.url, Some(cluster.ca.as_bytes())).unwrap();
    let server = json!({"url": url, "caBundle": ca_bundle(&case)});
    let auth = json!({"token": {"bearerToken": {"name": "any", "key": "any"}}});
    let spec = json!({"kubernetes": {"server": server, "auth": auth, "remoteNamespace": case.name}});
    conformance::run(&OnKubernetes { case, spec, token, faults }).await;
}
