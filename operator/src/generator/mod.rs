//! Generators as ExternalSecrets and PushSecrets use them: found, made ready once for everybody with the same rights, and asked.
//!
//! What a generator refers to is read in the namespace of whoever uses it, a ClusterGenerator's too. What it makes outside of the
//! cluster is kept by [`lease`].

pub mod lease;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kube::api::DynamicObject;
use lockstep_crds::generator::{GROUP, GeneratorKind, VERSION};
use lockstep_providers::generator::{self, Generator};
use lockstep_providers::registry::Options;
use lockstep_providers::{Caller, Error, OwnCluster, Result};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::audit::{self, Action, Audit};
use crate::hash::PartsHash;
use crate::keys::{GeneratorKey, Referrer};
use crate::metrics::Metrics;
use crate::reads::StoreLabels;
use crate::refs::Refs;
use crate::resolver::{StoreResolver, Tenant};
use crate::store::plan::is_class;

/// How long a generator that nobody asks stays ready.
const KEEP: Duration = Duration::from_secs(900);
/// How long a failure to make one ready is the answer for everybody.
const FAILURE_HOLDS: Duration = Duration::from_secs(10);

/// A generator with the rights that it is asked with: two tenants never share one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GeneratorIdentity {
    /// Where what it refers to is read.
    pub namespace: Arc<str>,
    /// Its kind.
    pub kind: GeneratorKind,
    /// Whether an administrator of the cluster wrote it.
    pub of_cluster: bool,
    /// Hash of its spec.
    pub fingerprint: Arc<str>,
}

impl fmt::Display for GeneratorIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.kind, self.namespace)
    }
}

impl Tenant for GeneratorIdentity {
    fn namespace_of<'a>(&'a self, field: &str, named: Option<&'a str>) -> Result<&'a str> {
        match named.filter(|n| !n.is_empty() && **n != *self.namespace) {
            None => Ok(&self.namespace),
            Some(other) => {
                let why =
                    format!("names namespace {other}; a generator reads the namespace of whoever uses it, {}", self.namespace);
                Err(Error::invalid(field, why))
            }
        }
    }

    fn is_of_cluster(&self) -> bool {
        self.of_cluster
    }

    fn kinds(&self) -> (&'static str, &'static str) {
        ("generator", "ClusterGenerators")
    }

    fn caller(&self) -> Caller {
        Caller { cluster_store: self.of_cluster, store: String::new(), namespace: Some(self.namespace.to_string()) }
    }
}

/// Why a manifest is not that of a generator that can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undefined {
    /// It is of another controller class.
    #[error("{0} is of another controller class")]
    Foreign(String),
    /// It is wrong, or of a kind that is not served.
    #[error(transparent)]
    Wrong(#[from] Error),
}

impl From<Undefined> for Error {
    fn from(undefined: Undefined) -> Self {
        match undefined {
            Undefined::Foreign(_) => Error::Unsupported(undefined.to_string()),
            Undefined::Wrong(error) => error,
        }
    }
}

/// A generator as its manifest says.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Who it is.
    pub identity: GeneratorIdentity,
    /// Its spec.
    pub spec: Arc<Value>,
    /// The manifest, to be kept beside what it made.
    pub resource: Value,
    /// What it is called, for messages.
    pub name: String,
}

impl Definition {
    /// From a manifest that was read for `key`.
    ///
    /// # Errors
    /// [`Undefined::Wrong`] for a ClusterGenerator that says nothing of its kind, or names one that is not served.
    /// [`Undefined::Foreign`] for one of another controller class.
    pub fn new(key: &GeneratorKey, object: &DynamicObject, class: &str) -> Result<Self, Undefined> {
        let whole = &object.data["spec"];
        let (kind, spec) = match key.kind {
            Some(kind) => (kind, whole),
            None => {
                let word = whole["kind"].as_str().unwrap_or_default();
                let kind = GeneratorKind::of(word).ok_or_else(|| {
                    Error::Unsupported(format!("{key}: spec.kind {word} is not served by this version of Lockstep"))
                })?;
                let field = format!("spec.generator.{}", kind.field());
                let spec = whole["generator"].get(kind.field());
                (kind, spec.ok_or_else(|| Error::invalid(field, format!("is not set, and spec.kind is {kind}")))?)
            }
        };
        if kind.has_class() && !is_class(spec["controller"].as_str(), class) {
            return Err(Undefined::Foreign(key.to_string()));
        }
        let mut hash = PartsHash::default();
        hash.add(kind.as_str().as_bytes());
        hash.add(spec.to_string().as_bytes());
        let identity = GeneratorIdentity {
            namespace: key.namespace.clone(),
            kind,
            of_cluster: key.kind.is_none(),
            fingerprint: hash.hex().into(),
        };
        let named = key.kind.map_or("ClusterGenerator", GeneratorKind::as_str);
        let api_version = format!("{GROUP}/{VERSION}");
        let resource = json!({"apiVersion": api_version, "kind": named, "metadata": {"name": *key.name}, "spec": whole});
        Ok(Self { identity, spec: Arc::new(spec.clone()), resource, name: key.to_string() })
    }

    /// From a manifest that was kept beside what it made.
    ///
    /// # Errors
    /// See [`Definition::new`].
    pub fn of_resource(namespace: &Arc<str>, resource: &Value, class: &str) -> Result<Self, Undefined> {
        let word = resource["kind"].as_str().unwrap_or_default();
        let kind = GeneratorKind::of(word);
        if kind.is_none() && word != "ClusterGenerator" {
            return Err(Error::Unsupported(format!("kind {word} is not served by this version of Lockstep")).into());
        }
        let name = resource["metadata"]["name"].as_str().unwrap_or_default();
        let object: DynamicObject = serde_json::from_value(resource.clone())
            .map_err(|_| Error::invalid("spec.resource", "is no manifest of a generator"))?;
        Self::new(&GeneratorKey { namespace: namespace.clone(), kind, name: name.into() }, &object, class)
    }
}

/// What resolvers are made with.
#[derive(Clone)]
pub struct Reading {
    /// For requests to the operator's API server.
    pub client: kube::Client,
    /// The operator's own API server.
    pub own_cluster: OwnCluster,
    /// File with the pod's own token.
    pub token_file: PathBuf,
    /// Whether generators of namespaces may be the operator.
    pub shares_identity: bool,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The audit trail.
    pub audit: Arc<Audit>,
}

struct Slot {
    made: Option<(Result<Arc<dyn Generator>>, Instant)>,
    used: Instant,
    users: HashSet<Referrer>,
}

type Slots = HashMap<GeneratorIdentity, Arc<tokio::sync::Mutex<Slot>>>;

/// All generators that are ready.
pub struct Generators {
    reading: Reading,
    options: Options,
    refs: Arc<Refs<GeneratorIdentity>>,
    slots: Mutex<Slots>,
}

impl Generators {
    /// None yet.
    pub fn new(reading: Reading, options: Options, refs: Arc<Refs<GeneratorIdentity>>) -> Self {
        Self { reading, options, refs, slots: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The generator, ready to be asked; `user` is told when what it refers to changes.
    ///
    /// # Errors
    /// What [`generator::connect`] answers.
    pub async fn get(&self, definition: &Definition, user: Option<&Referrer>) -> Result<Arc<dyn Generator>> {
        let identity = &definition.identity;
        let new = || Arc::new(tokio::sync::Mutex::new(Slot { made: None, used: Instant::now(), users: HashSet::new() }));
        let slot = self.lock().entry(identity.clone()).or_insert_with(new).clone();
        // Held while it is made ready: whoever comes meanwhile gets the same.
        let mut slot = slot.lock().await;
        slot.used = Instant::now();
        slot.users.extend(user.cloned());
        if let Some((made, at)) = &slot.made
            && (made.is_ok() || at.elapsed() < FAILURE_HOLDS)
        {
            return made.clone();
        }
        self.refs.forget(identity);
        let Reading { client, own_cluster, token_file, shares_identity, metrics, .. } = &self.reading;
        let resolver = StoreResolver {
            client: client.clone(),
            caller: identity.clone(),
            refs: self.refs.clone(),
            metrics: metrics.clone(),
            own_cluster: own_cluster.clone(),
            token_file: token_file.clone(),
            shares_identity: *shares_identity,
        };
        let made = generator::connect(identity.kind, &definition.spec, Arc::new(resolver), &self.options).await;
        slot.made = Some((made.clone(), Instant::now()));
        made
    }

    /// What it was made ready with has changed: the next user makes it ready anew. Answers its users.
    pub async fn invalidate(&self, identity: &GeneratorIdentity) -> HashSet<Referrer> {
        let Some(slot) = self.lock().get(identity).cloned() else { return HashSet::new() };
        let mut slot = slot.lock().await;
        if let Some((Ok(generator), _)) = slot.made.take() {
            tokio::spawn(async move { generator.close().await });
        }
        slot.users.clone()
    }

    /// Closes what nobody has asked for long, unless `is_used`.
    pub async fn tidy(&self, is_used: impl Fn(&GeneratorIdentity) -> bool) {
        let idle: Vec<_> = {
            let mut slots = self.lock();
            let stale = |slot: &Arc<tokio::sync::Mutex<Slot>>| slot.try_lock().is_ok_and(|slot| slot.used.elapsed() > KEEP);
            let idle: Vec<GeneratorIdentity> =
                slots.iter().filter(|(identity, slot)| stale(slot) && !is_used(identity)).map(|(i, _)| i.clone()).collect();
            idle.into_iter().filter_map(|identity| slots.remove(&identity)).collect()
        };
        for slot in idle {
            if let Some((Ok(generator), _)) = slot.lock().await.made.take() {
                generator.close().await;
            }
        }
        self.refs.retain(|identity| self.lock().contains_key(identity));
    }

    /// Closes everything: logins that nothing was issued to are given back.
    pub async fn close_all(&self) {
        let slots: Vec<_> = self.lock().drain().map(|(_, slot)| slot).collect();
        let close = slots.into_iter().map(|slot| async move {
            if let Some((Ok(generator), _)) = slot.lock().await.made.take() {
                generator.close().await;
            }
        });
        futures::future::join_all(close).await;
    }

    /// Counts a call, and writes it down.
    pub fn called<T>(&self, identity: &GeneratorIdentity, call: &'static str, answer: &Result<T>) {
        let labels = StoreLabels { store: "generators".into(), provider: identity.kind.as_str().into() };
        if self.reading.audit.is_on() {
            let generator = json!({
                "kind": identity.kind.as_str(), "namespace": *identity.namespace, "ofCluster": identity.of_cluster,
                "spec": audit::digest_of(identity.fingerprint.as_bytes()),
            });
            let result = answer.as_ref().map_or_else(Error::category, |_| "ok");
            self.reading.audit.record(Action::Generate, result, json!({"generator": generator, "call": call}));
        }
        self.reading.metrics.provider_call(&labels, call, answer.as_ref().map_or_else(Error::category, |_| "ok"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: Option<GeneratorKind>, spec: Value) -> Result<Definition, Undefined> {
        let key = GeneratorKey { namespace: "team".into(), kind, name: "g".into() };
        let object = json!({"metadata": {"name": "g"}, "spec": spec});
        Definition::new(&key, &serde_json::from_value(object).unwrap(), "default")
    }

    #[test]
    fn a_generator_is_known_by_its_spec_and_by_whose_rights_it_has() {
        let own = definition(Some(GeneratorKind::Password), json!({"length": 8})).unwrap();
        let same = definition(Some(GeneratorKind::Password), json!({"length": 8})).unwrap();
        let other = definition(Some(GeneratorKind::Password), json!({"length": 9})).unwrap();
        let cluster = json!({"kind": "Password", "generator": {"passwordSpec": {"length": 8}}});
        let cluster = definition(None, cluster).unwrap();
        assert_eq!(own.identity, same.identity);
        assert_ne!(own.identity, other.identity);
        assert_ne!(own.identity, cluster.identity);
        assert_eq!(own.identity.fingerprint, cluster.identity.fingerprint);
        for definition in [&own, &cluster] {
            let again = Definition::of_resource(&"team".into(), &definition.resource, "default").unwrap();
            assert_eq!(again.identity, definition.identity, "what is kept beside what it made says the same");
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (kind, spec, needle) in [
            (None, json!({"kind": "MFA", "generator": {"mfaSpec": {}}}), "spec.kind MFA is not served"),
            (None, json!({"kind": "UUID", "generator": {"fakeSpec": {}}}), "spec.generator.uuidSpec: is not set"),
            (Some(GeneratorKind::Fake), json!({"controller": "theirs"}), "Fake team/g is of another controller class"),
        ] {
            let error = definition(kind, spec).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn a_reference_of_a_generator_never_leaves_the_namespace_of_its_user() {
        for spec in [json!({"length": 8}), json!({"length": 9})] {
            let identity = definition(Some(GeneratorKind::Password), spec).unwrap().identity;
            assert_eq!(identity.namespace_of("f", None).unwrap(), "team");
            assert_eq!(identity.namespace_of("f", Some("team")).unwrap(), "team");
            assert!(identity.namespace_of("f", Some("other")).is_err());
        }
    }
}
