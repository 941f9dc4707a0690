//! The one door to what a store refers to: it knows the tenant, refuses to leave its namespace, and remembers what was read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use lockstep_crds::external_secret::StoreKind;
use lockstep_crds::meta::{CaProvider, CaProviderType, SecretKeySelector, ServiceAccountSelector};
use lockstep_providers::{Caller, Error, OwnCluster, Resolver, Result, SecretBytes, Source};
use serde_json::Value;

use crate::connections::ConnectionKey;
use crate::context::Context;
use crate::generator::lease;
use crate::keys::{GeneratorKey, Referrer};
use crate::kube_io;
use crate::metrics::Metrics;
use crate::push_secret::plan::Given;
use crate::refs::{RefKind, RefObject, Refs, THERE, User, generator_version, identity_version, set_version};

/// On whose behalf references are read: a connection to a store, or a generator. Most public advisories on this kind of operator
/// are a reference that did not go through a place like this (docs/reliability.md).
pub trait Tenant: User {
    /// The namespace that a reference is read in; `named` is the one that stands there.
    ///
    /// # Errors
    /// [`Error::Invalid`] when that is not the tenant's to read.
    fn namespace_of<'a>(&'a self, field: &str, named: Option<&'a str>) -> Result<&'a str>;

    /// Whether an administrator of the cluster wrote it: such may be the operator itself.
    fn is_of_cluster(&self) -> bool;

    /// What it and its like are called, for messages.
    fn kinds(&self) -> (&'static str, &'static str);

    /// What providers are told of it.
    fn caller(&self) -> Caller;
}

impl Tenant for ConnectionKey {
    /// A store's own namespace for a SecretStore, the one that is named for a cluster store, else the namespace of the object that
    /// uses the cluster store.
    fn namespace_of<'a>(&'a self, field: &str, named: Option<&'a str>) -> Result<&'a str> {
        let named = named.filter(|n| !n.is_empty());
        match (self.store.kind(), named) {
            (StoreKind::SecretStore, None) => Ok(self.store.namespace.as_deref().unwrap_or_default()),
            (StoreKind::SecretStore, Some(named)) if self.store.namespace.as_deref() == Some(named) => Ok(named),
            (StoreKind::SecretStore, Some(named)) => Err(Error::invalid(
                field,
                format!(
                    "names namespace {named}; a SecretStore reads its own namespace only (a ClusterSecretStore can name others)"
                ),
            )),
            (StoreKind::ClusterSecretStore, Some(named)) => Ok(named),
            (StoreKind::ClusterSecretStore, None) => self
                .scope
                .as_deref()
                .ok_or_else(|| Error::invalid(field, "names no namespace; a ClusterSecretStore's own reference must name one")),
        }
    }

    fn is_of_cluster(&self) -> bool {
        self.store.kind() == StoreKind::ClusterSecretStore
    }

    fn kinds(&self) -> (&'static str, &'static str) {
        ("SecretStore", "ClusterSecretStores")
    }

    fn caller(&self) -> Caller {
        let Self { store, scope } = self;
        Caller {
            cluster_store: store.kind() == StoreKind::ClusterSecretStore,
            store: store.name.to_string(),
            namespace: store.namespace.as_deref().or(scope.as_deref()).map(str::to_owned),
        }
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
pub struct StoreResolver<T: Tenant = ConnectionKey> {
    /// For requests to the operator's API server.
    pub client: Client,
    /// On whose behalf.
    pub caller: T,
    /// Where what was read is watched from then on.
    pub refs: Arc<Refs<T>>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The operator's own API server.
    pub own_cluster: OwnCluster,
    /// File with the pod's own token.
    pub token_file: std::path::PathBuf,
    /// Whether SecretStores may be the operator: its rights end at the namespaces that it serves, or a flag says so.
    pub shares_identity: bool,
}

impl<T: Tenant> StoreResolver<T> {
    fn note(&self, kind: RefKind, namespace: &str, name: &str, version: Option<String>) {
        self.refs.note(&self.caller, RefObject::new(kind, namespace, name), version);
    }

    async fn secret(&self, field: &str, namespace: &str, name: &str) -> Result<Secret> {
        self.metrics.api_request("get", "secrets");
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let found = kube_io::in_time(|| api.get_opt(name)).await;
        let found = found.map_err(|error| api_error(field, &format!("Secret {namespace}/{name}"), &error))?;
        self.note(RefKind::Secret, namespace, name, found.as_ref().and_then(|s| s.resource_version()));
        found.ok_or_else(|| Error::invalid(field, format!("Secret {namespace}/{name} does not exist; create it")))
    }
}

/// Reads what an ExternalSecret or a PushSecret itself refers to: in its own namespace, for its references name no other.
pub struct ObjectResolver<'a> {
    ctx: &'a Context,
    user: Referrer,
    noted: Mutex<Vec<(RefObject, Option<String>)>>,
}

impl<'a> ObjectResolver<'a> {
    /// On behalf of an object.
    pub fn new(ctx: &'a Context, user: Referrer) -> Self {
        Self { ctx, user, noted: Mutex::default() }
    }

    /// What was read since the beginning is all that the object refers to: whatever it read earlier is forgotten.
    pub fn end(&self) {
        let refs = &self.ctx.object_refs;
        if !refs.is_empty() {
            let noted = self.noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let objects: Vec<RefObject> = noted.iter().map(|(object, _)| object.clone()).collect();
            refs.retain_of(&self.user, &objects);
        }
    }

    /// An object was read, or written; it is watched from then on.
    pub fn note(&self, object: RefObject, version: Option<String>) {
        self.ctx.object_refs.note_anew(&self.user, object.clone(), version.clone());
        let mut noted = self.noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if noted.iter().any(|(known, at)| *known == object && *at != version) {
            // Two reads of one run that saw two versions.
            self.ctx.source_changed(&self.user);
        }
        noted.push((object, version));
    }

    /// The object's own: its references name no other.
    fn namespace(&self) -> &Arc<str> {
        &self.user.key().namespace
    }

    /// A generator, with its kind and its spec; it is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there or may not be read; [`Error::Unavailable`].
    pub async fn generator(&self, field: &str, key: &GeneratorKey) -> Result<DynamicObject> {
        let object = RefObject::generator(key);
        let api: Api<DynamicObject> = object.generator_api(self.ctx.client.clone());
        self.ctx.metrics.api_request("get", object.resource());
        let found =
            kube_io::in_time(|| api.get_opt(&key.name)).await.map_err(|error| api_error(field, &key.to_string(), &error))?;
        self.note(object, found.as_ref().map(|found| generator_version(&found.metadata)));
        found.ok_or_else(|| Error::invalid(field, format!("{key} does not exist; create it")))
    }

    /// A Secret with what goes along with its data; it is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there or may not be read; [`Error::Unavailable`].
    pub async fn whole_secret(&self, field: &str, name: &str) -> Result<Given> {
        let what = format!("Secret {}/{name}", self.namespace());
        self.ctx.metrics.api_request("get", "secrets");
        let api = Api::<Secret>::namespaced(self.ctx.client.clone(), self.namespace());
        let found = kube_io::in_time(|| api.get_opt(name)).await.map_err(|error| api_error(field, &what, &error))?;
        self.note(RefObject::new(RefKind::Secret, self.namespace(), name), found.as_ref().and_then(|s| s.resource_version()));
        let found = found.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))?;
        let data = found.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, SecretBytes::new(bytes.0))).collect();
        let source = Source {
            type_: found.type_,
            labels: found.metadata.labels.unwrap_or_default(),
            annotations: found.metadata.annotations.unwrap_or_default(),
        };
        Ok(Given { name: what, data, source, volatile: false })
    }

    /// Names of the Secrets that carry labels, from their metadata alone; which ones do is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they may not be listed; [`Error::Unavailable`].
    pub async fn secrets_with(&self, field: &str, selector: &LabelSelector) -> Result<Vec<String>> {
        let text = selector_text(selector).map_err(|why| Error::invalid(format!("{field}.selector"), why))?;
        self.ctx.metrics.api_request("list", "secrets");
        let api = Api::<PartialObjectMeta<Secret>>::namespaced(self.ctx.client.clone(), self.namespace());
        let params = ListParams::default().labels(&text);
        let listed = kube_io::in_time(|| api.list(&params)).await;
        let listed = listed.map_err(|error| api_error(field, &format!("the Secrets of {}", self.namespace()), &error))?;
        let versions = listed.items.iter().filter_map(|s| Some((s.metadata.name.clone()?, s.metadata.resource_version.clone()?)));
        let versions: BTreeMap<String, String> = versions.collect();
        self.note(RefObject::new(RefKind::Labelled, self.namespace(), &text), Some(set_version(&versions)));
        Ok(versions.into_keys().collect())
    }

    /// The values that are kept beside a GeneratorState of this namespace; none: they are not there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they may not be read; [`Error::Unavailable`].
    pub async fn kept_values(&self, name: &str, state_uid: &str) -> Result<Option<SecretBytes>> {
        self.ctx.metrics.api_request("get", "secrets");
        let api = Api::<Secret>::namespaced(self.ctx.client.clone(), self.namespace());
        let found = kube_io::in_time(|| api.get_opt(name)).await;
        let found = found.map_err(|error| api_error("generator", &format!("Secret {}/{name}", self.namespace()), &error))?;
        Ok(found.and_then(|secret| lease::values_in(secret, state_uid)))
    }

    /// A ConfigMap's data; it is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there or may not be read; [`Error::Unavailable`].
    pub async fn config_map(&self, field: &str, name: &str) -> Result<BTreeMap<String, SecretBytes>> {
        let what = format!("ConfigMap {}/{name}", self.namespace());
        self.ctx.metrics.api_request("get", "configmaps");
        let api = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), self.namespace());
        let found = kube_io::in_time(|| api.get_opt(name)).await.map_err(|error| api_error(field, &what, &error))?;
        self.note(RefObject::new(RefKind::ConfigMap, self.namespace(), name), found.as_ref().and_then(|c| c.resource_version()));
        let found = found.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))?;
        Ok(found.data.unwrap_or_default().into_iter().map(|(key, text)| (key, SecretBytes::from(text))).collect())
    }

    /// A Secret's data; it is watched from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not there or may not be read; [`Error::Unavailable`].
    pub async fn secret(&self, field: &str, name: &str) -> Result<BTreeMap<String, SecretBytes>> {
        let what = format!("Secret {}/{name}", self.namespace());
        self.ctx.metrics.api_request("get", "secrets");
        let api = Api::<Secret>::namespaced(self.ctx.client.clone(), self.namespace());
        let found = kube_io::in_time(|| api.get_opt(name)).await.map_err(|error| api_error(field, &what, &error))?;
        self.note(RefObject::new(RefKind::Secret, self.namespace(), name), found.as_ref().and_then(|s| s.resource_version()));
        let found = found.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))?;
        Ok(found.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, SecretBytes::new(bytes.0))).collect())
    }
}

/// A label selector as the API server reads it in a query.
fn selector_text(selector: &LabelSelector) -> Result<String, String> {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| Ok(format!("{key}={value}")));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(",");
        Ok(match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "Exists" => e.key.clone(),
            "DoesNotExist" => format!("!{}", e.key),
            other => return Err(format!("operator {other} is none of In, NotIn, Exists and DoesNotExist")),
        })
    });
    let parts: Vec<String> = equal.chain(expressions).collect::<Result<_, _>>()?;
    // An empty selector would mean every Secret there is.
    if parts.is_empty() { Err("names no labels".into()) } else { Ok(parts.join(",")) }
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
impl<T: Tenant> Resolver for StoreResolver<T> {
    async fn secret_key(&self, field: &str, selector: &SecretKeySelector, default_key: Option<&str>) -> Result<SecretBytes> {
        let name = selector.name.as_deref().ok_or_else(|| Error::invalid(format!("{field}.name"), "is not set"))?;
        let namespace = self.caller.namespace_of(&format!("{field}.namespace"), selector.namespace.as_deref())?;
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
        let namespace = self.caller.namespace_of(&format!("{field}.namespace"), selector.namespace.as_deref())?;
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
        let namespace = self.caller.namespace_of(&format!("{field}.namespace"), provider.namespace.as_deref())?;
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
                let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
                let found = kube_io::in_time(|| api.get_opt(name)).await;
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
        let namespace = self.caller.namespace_of(&format!("{field}.namespace"), account.namespace.as_deref())?;
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
        // A token more than is used ends by itself.
        let params = PostParams::default();
        match kube_io::in_time(|| api.create_token_request(name, &params, &request)).await {
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
            Err(kube::Error::Api(status)) if status.code == 403 => Err(Error::invalid(
                field,
                format!(
                    "the operator may not create a token of ServiceAccount {namespace}/{name} (code 403); config/rbac/tokens, or a Role \
                     with create on serviceaccounts/token of that name, must allow it"
                ),
            )),
            Err(error) => Err(api_error(field, &format!("a token of ServiceAccount {namespace}/{name}"), &error)),
        }
    }

    async fn service_account_annotations(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
    ) -> Result<BTreeMap<String, String>> {
        let namespace = self.caller.namespace_of(&format!("{field}.namespace"), account.namespace.as_deref())?;
        let (name, what) = (account.name.as_str(), format!("ServiceAccount {namespace}/{}", account.name));
        self.metrics.api_request("get", "serviceaccounts");
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let found = kube_io::in_time(|| api.get_metadata_opt(name)).await;
        let found = found.map_err(|error| api_error(field, &what, &error))?;
        let annotations = found.map(|found| found.metadata.annotations.unwrap_or_default());
        self.note(RefKind::Identity, namespace, name, annotations.clone().map(identity_version));
        annotations.ok_or_else(|| Error::invalid(field, format!("{what} does not exist; create it")))
    }

    /// Whoever may write a SecretStore would be the operator, with all that it may read, and names where its token goes.
    fn check_own_identity(&self, field: &str) -> Result<()> {
        if self.caller.is_of_cluster() || self.shares_identity {
            return Ok(());
        }
        let (one, clusters) = self.caller.kinds();
        let why = format!(
            "names no identity; the operator's own is for {clusters} only, so name one (or let every {one} use it: --share-own-identity)"
        );
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
        self.caller.caller()
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
            assert_eq!(caller.namespace_of("f", named).ok(), expected, "{store:?} {scope:?} {named:?}");
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
