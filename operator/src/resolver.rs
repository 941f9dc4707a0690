//! The one door to what a store refers to: it knows the tenant, refuses to leave its namespace, and remembers what was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use lockstep_crds::external_secret::StoreKind;
use lockstep_crds::meta::{CaProvider, CaProviderType, SecretKeySelector, ServiceAccountSelector};
use lockstep_providers::{Caller, Error, OwnCluster, Resolver, Result, SecretBytes};
use serde_json::Value;

use crate::connections::ConnectionKey;
use crate::context::Context;
use crate::keys::ObjectKey;
use crate::kube_io;
use crate::metrics::Metrics;
use crate::refs::{RefKind, RefObject, Refs, THERE, identity_version};

/// The namespace that a store's reference is read in: its own for a SecretStore, the one it names for a cluster store, else
/// the namespace of the ExternalSecret that uses the cluster store.
///
/// # Errors
/// [`Error::Invalid`] when a SecretStore names a namespace that is not its own, or a cluster store names none outside of a
/// user's namespace. Every reference goes through here: both public advisories on this kind of operator that leaked across
/// tenants were a reference that did not.
pub fn namespace_of<'a>(caller: &'a ConnectionKey, field: &str, named: Option<&'a str>) -> Result<&'a str> {
    let named = named.filter(|n| !n.is_empty());
    match (caller.store.kind(), named) {
        (StoreKind::SecretStore, None) => Ok(caller.store.namespace.as_deref().unwrap_or_default()),
        (StoreKind::SecretStore, Some(named)) if caller.store.namespace.as_deref() == Some(named) => Ok(named),
        (StoreKind::SecretStore, Some(named)) => Err(Error::invalid(
            field,
            format!("names namespace {named}; a SecretStore reads its own namespace only (a ClusterSecretStore can name others)"),
        )),
        (StoreKind::ClusterSecretStore, Some(named)) => Ok(named),
        (StoreKind::ClusterSecretStore, None) => caller
            .scope
            .as_deref()
            .ok_or_else(|| Error::invalid(field, "names no namespace; a ClusterSecretStore's own reference must name one")),
    }
}

/// Whether a provider is told who uses its store: AWS with session tags that name the namespace.
pub fn tells_its_user(provider: &str, spec: &Value) -> bool {
    provider == "aws" && matches!(spec["sessionTagsPolicy"].as_str(), Some("Simple" | "Custom"))
}

/// Whether a provider's spec holds a reference without a namespace. A reference is an object with a `name` and nothing but
/// the fields of the API's selectors.
pub fn names_no_namespace(spec: &Value) -> bool {
    match spec {
        Value::Object(fields) => {
            let selector = fields.get("name").is_some_and(Value::is_string)
                && fields.keys().all(|k| matches!(k.as_str(), "name" | "namespace" | "key" | "audiences" | "type"));
            let named = fields.get("namespace").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
            (selector && !named) || fields.values().any(names_no_namespace)
        }
        Value::Array(items) => items.iter().any(names_no_namespace),
        _ => false,
    }
}

/// Reads for one connection.
pub struct StoreResolver {
    /// For requests to the operator's API server.
    pub client: Client,
    /// On whose behalf.
    pub caller: ConnectionKey,
    /// Where what was read is watched from then on.
    pub refs: Arc<Refs>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The operator's own API server.
    pub own_cluster: OwnCluster,
    /// File with the pod's own token.
    pub token_file: std::path::PathBuf,
    /// Whether SecretStores may be the operator: its rights end at the namespaces that it serves, or a flag says so.
    pub shares_identity: bool,
}

impl StoreResolver {
    fn note(&self, kind: RefKind, namespace: &str, name: &str, version: Option<String>) {
        self.refs.note(&self.caller, RefObject::new(kind, namespace, name), version);
    }

    async fn secret(&self, field: &str, namespace: &str, name: &str) -> Result<Secret> {
        self.metrics.api_request("get", "secrets");
        let found = Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await;
        let found = found.map_err(|error| api_error(field, &format!("Secret {namespace}/{name}"), &error))?;
        self.note(RefKind::Secret, namespace, name, found.as_ref().and_then(|s| s.resource_version()));
        found.ok_or_else(|| Error::invalid(field, format!("Secret {namespace}/{name} does not exist; create it")))
    }
}

/// Reads what an ExternalSecret itself refers to: in its own namespace, for its references name no other.
pub struct ObjectResolver<'a> {
    /// Everything.
    pub ctx: &'a Context,
    /// On whose behalf.
    pub key: &'a ObjectKey,
}

impl ObjectResolver<'_> {
    /// Forgets what was read before: what is read from now on is all that the object refers to.
    pub fn begin(&self) {
        if !self.ctx.template_refs.is_empty() {
            self.ctx.template_refs.forget(self.key);
        }
    }

    fn note(&self, kind: RefKind, name: &str, version: Option<String>) {
        self.ctx.template_refs.note(self.key, RefObject::new(kind, &self.key.namespace, name), version);
    }

    /// A ConfigMap's data; it is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there or may not be read; [`Error::Unavailable`].
    pub async fn config_map(&self, field: &str, name: &str) -> Result<BTreeMap<String, SecretBytes>> {
        let what = format!("ConfigMap {}/{name}", self.key.namespace);
        self.ctx.metrics.api_request("get", "configmaps");
        let api = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.key.namespace);
        let found = kube_io::in_time(api.get_opt(name)).await.map_err(|error| api_error(field, &what, &error))?;
        self.note(RefKind::ConfigMap, name, found.as_ref().and_then(|c| c.resource_version()));
        let found = found.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))?;
        Ok(found.data.unwrap_or_default().into_iter().map(|(key, text)| (key, SecretBytes::from(text))).collect())
    }

    /// A Secret's data; it is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there or may not be read; [`Error::Unavailable`].
    pub async fn secret(&self, field: &str, name: &str) -> Result<BTreeMap<String, SecretBytes>> {
        let what = format!("Secret {}/{name}", self.key.namespace);
        self.ctx.metrics.api_request("get", "secrets");
        let api = Api::<Secret>::namespaced(self.ctx.client.clone(), &self.key.namespace);
        let found = kube_io::in_time(api.get_opt(name)).await.map_err(|error| api_error(field, &what, &error))?;
        self.note(RefKind::Secret, name, found.as_ref().and_then(|s| s.resource_version()));
        let found = found.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))?;
        Ok(found.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, SecretBytes::new(bytes.0))).collect())
    }
}

/// A failed request to our own API server, without its body.
fn api_error(field: &str, what: &str, error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            Error::invalid(field, format!("the operator may not read {what} (code 403); its ClusterRole must allow it"))
        }
        kube::Error::Api(status) => Error::unavailable(format!("the API server answered {what} with code {}", status.code)),
        _ => Error::unavailable(format!("the API server did not answer for {what}")),
    }
}

#[async_trait]
impl Resolver for StoreResolver {
    async fn secret_key(&self, field: &str, selector: &SecretKeySelector, default_key: Option<&str>) -> Result<SecretBytes> {
        let name = selector.name.as_deref().ok_or_else(|| Error::invalid(format!("{field}.name"), "is not set"))?;
        let namespace = namespace_of(&self.caller, &format!("{field}.namespace"), selector.namespace.as_deref())?;
        let key = selector.key.as_deref().filter(|k| !k.is_empty()).or(default_key);
        let key = key.ok_or_else(|| Error::invalid(format!("{field}.key"), "is not set"))?;
        let mut secret = self.secret(field, namespace, name).await?;
        let mut data = secret.data.take().unwrap_or_default();
        match data.remove(key) {
            Some(bytes) => Ok(SecretBytes::new(bytes.0)),
            None => {
                let there = keys_of(data.keys());
                Err(Error::invalid(field, format!("Secret {namespace}/{name} has no key {key}; it has {there}")))
            }
        }
    }

    async fn secret_data(
        &self,
        field: &str,
        selector: &SecretKeySelector,
        label: Option<(&str, &str)>,
    ) -> Result<BTreeMap<String, SecretBytes>> {
        let name = selector.name.as_deref().ok_or_else(|| Error::invalid(format!("{field}.name"), "is not set"))?;
        let namespace = namespace_of(&self.caller, &format!("{field}.namespace"), selector.namespace.as_deref())?;
        let secret = self.secret(field, namespace, name).await?;
        if let Some((label, value)) = label
            && secret.labels().get(label).map(String::as_str) != Some(value)
        {
            let why =
                format!("Secret {namespace}/{name} does not carry the label {label}={value}; whoever may use it must set it");
            return Err(Error::invalid(field, why));
        }
        Ok(secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, SecretBytes::new(bytes.0))).collect())
    }

    async fn document(&self, field: &str, provider: &CaProvider) -> Result<Vec<u8>> {
        let namespace = namespace_of(&self.caller, &format!("{field}.namespace"), provider.namespace.as_deref())?;
        let key = provider.key.as_deref().filter(|k| !k.is_empty()).unwrap_or("ca.crt");
        let (kind, name) = (provider.type_, provider.name.as_str());
        match kind {
            CaProviderType::Secret => {
                let selector =
                    SecretKeySelector { name: Some(name.into()), namespace: provider.namespace.clone(), key: Some(key.into()) };
                self.secret_key(field, &selector, None).await.map(|bytes| bytes.expose().to_vec())
            }
            CaProviderType::ConfigMap => {
                self.metrics.api_request("get", "configmaps");
                let what = format!("ConfigMap {namespace}/{name}");
                let found = Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await;
                let found = found.map_err(|error| api_error(field, &what, &error))?;
                self.note(RefKind::ConfigMap, namespace, name, found.as_ref().and_then(|c| c.resource_version()));
                let data = found.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))?.data;
                let mut data = data.unwrap_or_default();
                data.remove(key)
                    .map(String::into_bytes)
                    .ok_or_else(|| Error::invalid(field, format!("{what} has no key {key}; it has {}", keys_of(data.keys()))))
            }
        }
    }

    async fn service_account_token(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
        audiences: &[String],
        life: Duration,
    ) -> Result<SecretBytes> {
        let namespace = namespace_of(&self.caller, &format!("{field}.namespace"), account.namespace.as_deref())?;
        let name = account.name.as_str();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences.iter().chain(&account.audiences).cloned().collect()),
                expiration_seconds: i64::try_from(life.as_secs()).ok(),
                bound_object_ref: None,
            }),
            ..TokenRequest::default()
        };
        self.metrics.api_request("create", "serviceaccounts/token");
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        match api.create_token_request(name, &PostParams::default(), &request).await {
            Ok(answer) => {
                // One whose annotations were read is watched already.
                if !self.refs.refers(&self.caller, &RefObject::new(RefKind::Identity, namespace, name)) {
                    self.note(RefKind::ServiceAccount, namespace, name, Some(THERE.to_owned()));
                }
                let token = answer.status.and_then(|s| s.token).unwrap_or_default();
                Ok(SecretBytes::from(token))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.note(RefKind::ServiceAccount, namespace, name, None);
                Err(Error::invalid(field, format!("ServiceAccount {namespace}/{name} does not exist; create it")))
            }
            Err(error) => Err(api_error(field, &format!("a token of ServiceAccount {namespace}/{name}"), &error)),
        }
    }

    async fn service_account_annotations(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
    ) -> Result<BTreeMap<String, String>> {
        let namespace = namespace_of(&self.caller, &format!("{field}.namespace"), account.namespace.as_deref())?;
        let (name, what) = (account.name.as_str(), format!("ServiceAccount {namespace}/{}", account.name));
        self.metrics.api_request("get", "serviceaccounts");
        let found = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace).get_metadata_opt(name).await;
        let found = found.map_err(|error| api_error(field, &what, &error))?;
        let annotations = found.map(|found| found.metadata.annotations.unwrap_or_default());
        self.note(RefKind::Identity, namespace, name, annotations.clone().map(identity_version));
        annotations.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))
    }

    /// Whoever may write a SecretStore would be the operator, with all that it may read, and names where its token goes.
    fn check_own_identity(&self, field: &str) -> Result<()> {
        if self.caller.store.kind() == StoreKind::ClusterSecretStore || self.shares_identity {
            return Ok(());
        }
        let why = "names no identity; the operator's own is for ClusterSecretStores only, so name one (or let every SecretStore use it: \
                   --share-own-identity)";
        Err(Error::invalid(field, why))
    }

    async fn own_token(&self, field: &str) -> Result<SecretBytes> {
        self.check_own_identity(field)?;
        let read = tokio::fs::read(&self.token_file).await;
        read.map(SecretBytes::new).map_err(|error| {
            let file = self.token_file.display();
            Error::invalid(
                field,
                format!("names no serviceAccountRef or secretRef, and the pod's own token can't be read from {file} ({error})"),
            )
        })
    }

    fn own_cluster(&self) -> OwnCluster {
        self.own_cluster.clone()
    }

    fn caller(&self) -> Caller {
        let ConnectionKey { store, scope } = &self.caller;
        Caller {
            cluster_store: store.kind() == StoreKind::ClusterSecretStore,
            store: store.name.to_string(),
            namespace: store.namespace.as_deref().or(scope.as_deref()).map(str::to_owned),
        }
    }
}

/// Key names for a message: sorted, at most ten; never values.
pub fn keys_of<'a>(keys: impl Iterator<Item = &'a String>) -> String {
    let mut all: Vec<&str> = keys.map(String::as_str).collect();
    all.sort_unstable();
    let more = all.len().saturating_sub(10);
    all.truncate(10);
    match (all.is_empty(), more) {
        (true, _) => "no keys".into(),
        (false, 0) => all.join(", "),
        (false, more) => format!("{} and {more} more", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::keys::StoreKey;

    fn caller(store: Option<&str>, scope: Option<&str>) -> ConnectionKey {
        ConnectionKey { store: StoreKey { namespace: store.map(Into::into), name: "s".into() }, scope: scope.map(Into::into) }
    }

    #[test]
    fn a_reference_never_leaves_its_tenant() {
        for (store, scope, named, expected) in [
            (Some("a"), None, None, Some("a")),
            (Some("a"), None, Some("a"), Some("a")),
            (Some("a"), None, Some(""), Some("a")),
            (Some("a"), None, Some("b"), None),
            (Some("a"), Some("b"), Some("b"), None),
            (None, None, Some("b"), Some("b")),
            (None, Some("c"), None, Some("c")),
            (None, Some("c"), Some("b"), Some("b")),
            (None, None, None, None),
        ] {
            let caller = caller(store, scope);
            assert_eq!(namespace_of(&caller, "f", named).ok(), expected, "{store:?} {scope:?} {named:?}");
        }
    }

    #[test]
    fn references_without_a_namespace_are_found_wherever_they_stand() {
        let vault = |auth: Value| json!({"vault": {"server": "https://v", "path": "kv", "auth": auth}});
        for (spec, expected) in [
            (vault(json!({"tokenSecretRef": {"name": "t", "key": "k"}})), true),
            (vault(json!({"tokenSecretRef": {"name": "t", "namespace": "n", "key": "k"}})), false),
            (vault(json!({"kubernetes": {"role": "r", "serviceAccountRef": {"name": "sa", "audiences": ["a"]}}})), true),
            (json!({"kubernetes": {"server": {"caProvider": {"type": "ConfigMap", "name": "ca", "key": "k"}}}}), true),
            (json!({"webhook": {"secrets": [{"name": "x", "secretRef": {"name": "s", "namespace": "n"}}]}}), false),
            (json!({"fake": {"data": [{"key": "a", "value": "b"}]}}), false),
        ] {
            assert_eq!(names_no_namespace(&spec), expected, "{spec}");
        }
    }
}
