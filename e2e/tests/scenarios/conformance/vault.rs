//! Vault: both versions of KV, on a real one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_e2e::faults::Faults;
use lockstep_e2e::vault::ROOT;
use lockstep_providers::Provider;
use lockstep_providers::conformance::{self, Failure, Fixture, Search};
use serde_json::{Value, json};

use super::{fault, provider, provider_within};
use lockstep_e2e::case::Case;

struct OnVault {
    case: Case,
    spec: Value,
    v2: bool,
    mount: String,
    /// Before its Vault.
    faults: Faults,
}

const PASSWORD: &str = "CANARY-conformance-password";

async fn user(case: &Case, name: &str, policy: &str) {
    let user = json!({"password": PASSWORD, "token_policies": ["default", policy]});
    case.harness.vault.write(&format!("auth/{}/users/{name}", case.name), user).await;
}

#[async_trait]
impl Fixture for OnVault {
    async fn provider(&self) -> Arc<dyn Provider> {
        provider(&self.spec, PASSWORD).await
    }
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String {
        let (path, body) = if self.v2 {
            (format!("{}/data/open/{name}", self.mount), json!({"data": fields}))
        } else {
            (format!("{}/open/{name}", self.mount), json!(fields))
        };
        self.case.harness.vault.write(&path, body).await;
        format!("open/{name}")
    }
    async fn remove(&self, key: &str) -> bool {
        let vault = &self.case.harness.vault;
        let path = if self.v2 { format!("{}/metadata/{key}", self.mount) } else { format!("{}/{key}", self.mount) };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let sent = client.delete(format!("{}/v1/{path}", vault.url)).header("x-vault-token", ROOT).send().await.unwrap();
        sent.status().is_success()
    }
    async fn denied_key(&self) -> Option<String> {
        Some("shut/any".into())
    }
    async fn stranger(&self) -> Option<Arc<dyn Provider>> {
        Some(provider(&self.spec, "not-the-password").await)
    }
    fn search(&self) -> Option<Search> {
        Some(Search { path: Some("open".into()), tags: self.v2 })
    }
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String {
        let key = self.put(name, fields).await;
        self.case.harness.vault.write(&format!("{}/metadata/{key}", self.mount), json!({"custom_metadata": tags})).await;
        key
    }
    async fn put_version(&self, name: &str, fields: &BTreeMap<String, String>) -> Option<(String, String)> {
        let key = self.put(name, fields).await;
        let read = self.case.harness.vault.read(&format!("{}/metadata/{key}", self.mount)).await;
        self.v2.then(|| (key, read["data"]["current_version"].to_string()))
    }
    fn unicode_name(&self) -> Option<String> {
        Some("gro\u{df}e \u{79d8}\u{5bc6}".into())
    }
    async fn fail(&self, failure: Failure) -> bool {
        // The first version of KV keeps whatever it is given.
        if !self.v2
            && matches!(failure, Failure::Body(body) if serde_json::from_slice::<Value>(body).is_ok_and(|a| a["data"].is_object()))
        {
            return false;
        }
        let throttled = json!({"errors": ["request path \"kv\": rate limit quota exceeded"]});
        let fault = fault(failure, (429, throttled), (503, json!({"errors": ["Vault is sealed"]})));
        self.faults.add(1, fault, |parts, _| parts.uri.path().contains("/failing"));
        true
    }
    async fn fail_search(&self, failure: Failure) -> bool {
        let sealed = json!({"errors": ["Vault is sealed"]});
        self.faults.add(1, fault(failure, (503, sealed.clone()), (503, sealed)), |parts, _| {
            parts.method.as_str() == "LIST" || parts.uri.query().is_some_and(|query| query.contains("list=true"))
        });
        true
    }
    async fn impatient(&self, timeout: Duration) -> Option<Arc<dyn Provider>> {
        Some(provider_within(&self.spec, PASSWORD, timeout).await)
    }
    async fn expire(&self) -> bool {
        let tokens = format!("sys/leases/revoke-force/auth/{}/login/app", self.case.name);
        self.case.harness.vault.write(&tokens, json!({})).await;
        // For five seconds after a login a denial is taken as one of the policy.
        tokio::time::sleep(Duration::from_millis(5100)).await;
        true
    }
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        let vault = &self.case.harness.vault;
        let path = if self.v2 { format!("{}/data/shut/theirs", self.mount) } else { format!("{}/shut/theirs", self.mount) };
        let body = if self.v2 { json!({"data": {"user": "CANARY-conformance"}}) } else { json!({"user": "CANARY-conformance"}) };
        vault.write(&path, body).await;
        let policy = format!("{}-neighbour", self.case.name);
        vault.policy_of(&policy, &["read"], &[&path]).await;
        user(&self.case, "neighbour", &policy).await;
        let mut spec = self.spec.clone();
        spec["vault"]["auth"]["userPass"]["username"] = json!("neighbour");
        Some((provider(&spec, PASSWORD).await, "shut/theirs".into()))
    }
    fn new_key(&self, name: &str) -> Option<String> {
        Some(format!("open/new/{name}"))
    }
}

#[tokio::test]
async fn vault_passes_the_conformance_suite_with_both_versions_of_kv() {
    for v2 in [true, false] {
        let case = Case::new("conformance").await;
        let vault = &case.harness.vault;
        let mount = format!("kv-{}/at/depth", case.name);
        let version = if v2 { "2" } else { "1" };
        vault.write(&format!("sys/mounts/{mount}"), json!({"type": "kv", "options": {"version": version}})).await;
        let open = |below: &str| format!("{mount}{below}/open*");
        let paths = if v2 { vec![open("/data"), open("/metadata")] } else { vec![open("")] };
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        vault.policy_of(&case.name, &["create", "read", "update", "delete", "list"], &paths).await;
        vault.auth(&case.name, "userpass").await;
        user(&case, "app", &case.name).await;
        let faults = Faults::default();
        let auth = json!({"userPass": {"path": case.name, "username": "app", "secretRef": {"name": "any", "key": "any"}}});
        let spec = json!({"vault": {"server": faults.proxy(&vault.url, None).unwrap(), "path": mount, "version": format!("v{version}"), "auth": auth}});
        conformance::run(&OnVault { case, spec, v2, mount, faults }).await;
    }
}
