//! What every scenario begins with: a namespace of its own, and short ways to say things.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::canary;
use crate::faults::{Faults, Left, Seen};
use crate::harness::{self, Harness, eventually};
use crate::operator::{Operator, OperatorOptions};
use crate::proxy::Proxy;
use crate::vault::ROOT;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use lockstep_crds::conditions::Condition;
use lockstep_crds::{ClusterSecretStore, ExternalSecret, SecretStore};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A scenario's own corner of the cluster and of Vault.
pub struct Case {
    /// What runs.
    pub harness: Arc<Harness>,
    operator: Option<&'static Operator>,
    /// A client with all rights.
    pub client: Client,
    /// Namespace in the cluster, and prefix of its keys in Vault.
    pub name: String,
    /// Class of the operator that serves it, when it is not the shared one.
    pub class: Option<String>,
}

/// A condition as a test reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Such as `True`.
    pub status: String,
    /// Such as `SecretSynced`.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Case {
    /// A case that the shared operator serves.
    pub async fn new(topic: &str) -> Self {
        let (harness, operator) = harness::shared().await;
        let mut case = Self::on(harness, topic).await;
        case.operator = Some(operator);
        case
    }

    /// A case on a cluster where no operator runs that is shared.
    pub async fn apart(topic: &str) -> Self {
        let mut case = Self::on(harness::installed().await, topic).await;
        case.class = Some(case.name.clone());
        case
    }

    async fn on(harness: Arc<Harness>, topic: &str) -> Self {
        let client = harness.client().await;
        let name = format!("{topic}-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        harness::create_namespace(&client, &name).await;
        Self { harness, operator: None, client, name, class: None }
    }

    /// The operator that serves all cases without a class of their own.
    pub fn shared_operator(&self) -> &'static Operator {
        self.operator.expect("the case has the shared operator")
    }

    /// A case whose stores only an operator of its own serves.
    pub async fn with_own_class(topic: &str) -> Self {
        let mut case = Self::new(topic).await;
        case.class = Some(case.name.clone());
        case
    }

    /// Starts an operator for this case's class.
    pub fn own_operator(&self, replica: &str, more: &[&str]) -> Operator {
        self.own_operator_with(replica, more, &[])
    }

    /// The same with variables in its environment.
    pub fn own_operator_with(&self, replica: &str, more: &[&str], env: &[(&str, &str)]) -> Operator {
        let mut args = vec!["--controller-class", self.class.as_deref().unwrap(), "--log-level", "trace"];
        let lease = format!("lease-{}", self.name);
        args.extend(["--lease-name", &lease]);
        args.extend(more);
        let args = args.into_iter().map(str::to_owned).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.harness.operator(&OperatorOptions { args, name: format!("{}-{replica}", self.name), env })
    }

    /// Starts an operator that reaches the API server through a proxy, with these arguments.
    pub fn operator_behind_a_proxy(&self, args: &[&str]) -> (Operator, Proxy) {
        let url = self.harness.api_url();
        let proxy = Proxy::to(url.trim_start_matches("https://"));
        let text = std::fs::read_to_string(self.harness.folder.path().join("operator.kubeconfig")).unwrap();
        let path = self.harness.folder.path().join(format!("{}.kubeconfig", self.name));
        std::fs::write(&path, text.replace(url, &format!("https://{}", proxy.address))).unwrap();
        let options = OperatorOptions {
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            name: self.name.clone(),
            ..OperatorOptions::default()
        };
        (Operator::start(&self.harness.binary, &path, self.harness.folder.path(), &options), proxy)
    }

    /// A CRD that is newer than the operator: it lets a value through that the operator does not know, as `spec` has it.
    pub async fn serve_a_newer_schema(&self, spec: &Value) {
        static SERVED: OnceCell<()> = OnceCell::const_new();
        SERVED
            .get_or_init(async || {
                let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
                let path =
                    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/target/properties/creationPolicy/enum";
                let add = json!([{"op": "add", "path": format!("{path}/-"), "value": "Sideways"}]);
                let patch: json_patch::Patch = serde_json::from_value(add).unwrap();
                let name = "externalsecrets.external-secrets.io";
                crds.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await.unwrap();
            })
            .await;
        eventually("the newer schema is served", async || self.try_external_secret("probe", spec.clone()).await.ok()).await;
        self.delete("probe").await;
    }

    /// A key of this case in Vault.
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Puts a value under a key of this case in Vault.
    pub async fn put(&self, name: &str, value: Value) {
        self.harness.vault.put(&self.key(name), value).await;
    }

    /// How often a key of this case was read from Vault.
    pub fn reads(&self, name: &str) -> usize {
        self.harness.vault.requests("read", &format!("secret/data/{}", self.key(name)))
    }

    /// Applies an object, in this case's namespace unless it names one.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn apply(&self, object: Value) -> kube::Result<()> {
        harness::apply(&self.client, Some(&self.name), object).await.map(drop)
    }

    /// Applies a Secret.
    pub async fn apply_secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<&str, &str> = data.iter().copied().collect();
        self.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})).await.unwrap();
    }

    /// The spec of a Vault provider at `server` with this `auth`.
    pub fn vault_at(&self, server: &str, auth: Value) -> Value {
        json!({"vault": {"server": server, "path": "secret", "version": "v2", "auth": auth}})
    }

    /// Applies a SecretStore of this case's class.
    pub async fn apply_store(&self, name: &str, provider: Value) {
        let mut spec = json!({"provider": provider});
        if let Some(class) = &self.class {
            spec["controller"] = json!(class);
        }
        self.apply(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": name}, "spec": spec,
        }))
        .await
        .unwrap();
    }

    /// Changes a store's spec.
    pub async fn change_store(&self, name: &str, spec: Value) {
        let api: Api<SecretStore> = Api::namespaced(self.client.clone(), &self.name);
        api.patch(name, &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await.unwrap();
    }

    /// With `retrySettings`, two failures in a row of a store's provider are told to nobody. The store is one like `store`: a change
    /// of that one might be seen only after the failures.
    pub async fn rides_two_failures_out(&self, store: &str, data: Value, fail_twice: impl FnOnce() -> Left) {
        let api: Api<SecretStore> = Api::namespaced(self.client.clone(), &self.name);
        let mut spec = json!(api.get(store).await.unwrap().spec);
        spec["retrySettings"] = json!({"maxRetries": 2, "retryInterval": "20ms"});
        let store = format!("{store}-patient");
        self.apply(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": store}, "spec": spec,
        }))
        .await
        .unwrap();
        self.external_secret("before", json!({"secretStoreRef": {"name": store}, "data": data})).await;
        self.synced("before").await;
        let failures = fail_twice();
        self.external_secret("patient", json!({"secretStoreRef": {"name": store}, "data": data})).await;
        self.synced("patient").await;
        assert_eq!(self.events("patient").await.get("UpdateFailed"), None);
        assert_eq!(failures.get(), 0, "both failures came");
    }

    /// A store on Vault with the root token, named `vault`.
    pub async fn vault_store(&self) {
        let url = self.harness.vault.url.clone();
        self.vault_store_at(&url).await;
    }

    /// The same behind another URL.
    pub async fn vault_store_at(&self, url: &str) {
        self.apply_secret("vault-token", &[("token", ROOT)]).await;
        self.apply_store("vault", self.vault_at(url, json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}}))).await;
    }

    /// A proxy before Vault, whose requests are kept and can go wrong; the URL first.
    pub fn watched_vault(&self) -> (String, Faults, Seen) {
        let faults = Faults::default();
        let seen = faults.seen();
        (faults.proxy(&self.harness.vault.url, None).unwrap(), faults, seen)
    }

    /// An ExternalSecret; `spec` is merged over a store reference and an hour's interval, and null takes a field away.
    pub async fn external_secret(&self, name: &str, spec: Value) {
        self.try_external_secret(name, spec).await.unwrap();
    }

    /// The same.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn try_external_secret(&self, name: &str, spec: Value) -> kube::Result<()> {
        let mut all = json!({"refreshInterval": "1h", "secretStoreRef": {"name": "vault"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.apply(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": name}, "spec": all,
        }))
        .await
    }

    /// One key of the Secret from one property.
    pub fn data(&self, secret_key: &str, key: &str, property: &str) -> Value {
        json!({"secretKey": secret_key, "remoteRef": {"key": self.key(key), "property": property}})
    }

    /// The ExternalSecrets of this case.
    pub fn objects(&self) -> Api<ExternalSecret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The Secrets of this case.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Deletes an ExternalSecret.
    pub async fn delete(&self, name: &str) {
        self.objects().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// A Secret's data as text.
    pub async fn secret(&self, name: &str) -> Option<BTreeMap<String, String>> {
        harness::secret(&self.client, &self.name, name).await
    }

    /// Waits until a Secret has exactly these values.
    pub async fn secret_is(&self, name: &str, expected: &[(&str, &str)]) {
        let expected: BTreeMap<String, String> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut last = None;
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while tokio::time::Instant::now() < end {
            last = self.secret(name).await;
            if last.as_ref() == Some(&expected) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("Secret {}/{name} is {last:?} and not {expected:?}; {:?}", self.name, self.ready_of(name).await);
    }

    /// Waits until a Secret is gone.
    pub async fn secret_gone(&self, name: &str) {
        eventually(&format!("Secret {name} goes"), async || self.secret(name).await.is_none().then_some(())).await;
    }

    /// The condition Ready of an object, if it has one.
    pub async fn ready_of(&self, name: &str) -> Option<Ready> {
        // As plain JSON: a scenario may have made an object that the types do not know.
        let identity = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret"});
        let object = harness::api_of(&self.client, Some(&self.name), &identity).get_opt(name).await.unwrap()?;
        let conditions = object.data["status"]["conditions"].clone();
        ready(&serde_json::from_value::<Vec<Condition>>(conditions).unwrap_or_default())
    }

    /// Waits until the operator has answered the last change, with a sync or with a failure.
    pub async fn caught_up_or_failed(&self, name: &str) {
        eventually(&format!("{name} is answered"), async || {
            let object = self.objects().get(name).await.unwrap();
            let current = lockstep::external_secret::plan::synced_version(&object);
            let status = object.status?;
            let failed = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False");
            (failed || status.synced_resource_version == Some(current)).then_some(())
        })
        .await;
    }

    /// Waits until Ready has this status and reason and a message with `needle`; gives the message.
    pub async fn ready_is(&self, name: &str, status: &str, reason: &str, needle: &str) -> String {
        let mut last = None;
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while tokio::time::Instant::now() < end {
            last = self.ready_of(name).await;
            if let Some(r) = last.as_ref().filter(|r| r.status == status && r.reason == reason && r.message.contains(needle)) {
                return r.message.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{}/{name} is {last:?}, and not {status} {reason} with {needle:?}", self.name);
    }

    /// The reasons of all events about an ExternalSecret, by their number.
    pub async fn events(&self, name: &str) -> BTreeMap<String, usize> {
        self.events_about("ExternalSecret", name).await
    }

    /// The same about an object of any kind.
    pub async fn events_about(&self, kind: &str, name: &str) -> BTreeMap<String, usize> {
        let api: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.client.clone(), &self.name);
        let mut all = BTreeMap::new();
        for event in api.list(&Default::default()).await.unwrap().items {
            if event.regarding.is_some_and(|r| r.kind.as_deref() == Some(kind) && r.name.as_deref() == Some(name)) {
                *all.entry(event.reason.unwrap_or_default()).or_default() += 1;
            }
        }
        all
    }

    /// Waits until an ExternalSecret is synced.
    pub async fn synced(&self, name: &str) {
        self.ready_is(name, "True", "SecretSynced", "secret synced").await;
    }

    /// Waits until an ExternalSecret says that it failed, and how.
    pub async fn failed(&self, name: &str, needle: &str) -> String {
        self.ready_is(name, "False", "SecretSyncedError", needle).await
    }

    /// Waits for the condition of a SecretStore.
    pub async fn store_is(&self, name: &str, status: &str, reason: &str, needle: &str) -> String {
        let api: Api<SecretStore> = Api::namespaced(self.client.clone(), &self.name);
        let mut last = None;
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while tokio::time::Instant::now() < end {
            let store = api.get(name).await.unwrap();
            last = ready(store.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default());
            if let Some(r) = last.as_ref().filter(|r| r.status == status && r.reason == reason && r.message.contains(needle)) {
                return r.message.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("SecretStore {}/{name} is {last:?}, and not {status} {reason} with {needle:?}", self.name);
    }

    /// Asks for a refresh as people do.
    pub async fn force_sync(&self, name: &str) {
        let stamp = format!("{}", NEXT.fetch_add(1, Ordering::SeqCst));
        let patch = json!({"metadata": {"annotations": {"force-sync": stamp}}});
        self.objects().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Waits until the object's last sync was for the object as it is now.
    pub async fn caught_up(&self, name: &str) {
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let object = self.objects().get(name).await.unwrap();
            let current = lockstep::external_secret::plan::synced_version(&object);
            if object.status.and_then(|s| s.synced_resource_version) == Some(current) {
                return;
            }
            let ready = self.ready_of(name).await;
            assert!(tokio::time::Instant::now() < end, "{name} is not synced as it is: {ready:?}");
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    }

    /// A cluster store named after the case.
    pub async fn apply_cluster_store(&self, name: &str, provider: Value, conditions: Value) {
        let spec = json!({"provider": provider, "conditions": conditions, "controller": self.class});
        let mut object = json!({"apiVersion": "external-secrets.io/v1", "kind": "ClusterSecretStore", "metadata": {"name": name}, "spec": spec});
        if self.class.is_none() {
            object["spec"].as_object_mut().unwrap().remove("controller");
        }
        self.apply(object).await.unwrap();
    }

    /// Deletes a ClusterSecretStore.
    pub async fn delete_cluster_store(&self, name: &str) {
        let api: Api<ClusterSecretStore> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

/// Ends an operator as Kubernetes does: its lease is free at once.
pub fn stop(operator: Operator) {
    operator.process.signal("TERM");
    assert!(operator.process.wait_gone(std::time::Duration::from_secs(20)), "the operator ends when it is told to");
}

impl Drop for Case {
    /// The shared operator logs at TRACE, and must not have said a value by the end of any scenario.
    fn drop(&mut self) {
        if let Some(operator) = self.operator.filter(|_| !std::thread::panicking()) {
            let form = canary::find(operator.process.output().as_bytes(), canary::MARK.as_bytes());
            assert_eq!(form, None, "a planted value is in the operator's log");
        }
    }
}

fn ready(conditions: &[Condition]) -> Option<Ready> {
    let c = conditions.iter().find(|c| c.type_ == "Ready")?;
    Some(Ready {
        status: c.status.clone(),
        reason: c.reason.clone().unwrap_or_default(),
        message: c.message.clone().unwrap_or_default(),
    })
}
