//! The ClusterExternalSecrets and ClusterPushSecrets that there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use lockstep_crds::conditions::Condition;
use lockstep_crds::fan_out::{FailedNamespace, FanOutMetadata};
use lockstep_crds::{ClusterExternalSecret, ClusterPushSecret};
use serde_json::{Value, json};

use crate::hash::PartsHash;
use crate::keys::{ObjectKey, StoreKey};
use crate::kube_io::version_of;

/// Annotation with the hash of what an object was made from.
pub const ANNOTATION: &str = "reconcile.external-secrets.io/fanned-out";

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FanOutKind {
    /// ClusterExternalSecret.
    ExternalSecrets,
    /// ClusterPushSecret.
    PushSecrets,
}

impl FanOutKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ExternalSecrets, Self::PushSecrets];

    /// The kind.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::ExternalSecrets => "ClusterExternalSecret",
            Self::PushSecrets => "ClusterPushSecret",
        }
    }

    /// The kind of what it makes.
    pub const fn made(self) -> &'static str {
        match self {
            Self::ExternalSecrets => "ExternalSecret",
            Self::PushSecrets => "PushSecret",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::ExternalSecrets => "external-secrets.io/v1",
            Self::PushSecrets => "external-secrets.io/v1alpha1",
        }
    }

    /// Plural of what it makes, for metrics.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::ExternalSecrets => "externalsecrets",
            Self::PushSecrets => "pushsecrets",
        }
    }

    /// Its status, for metrics.
    pub const fn own_status(self) -> &'static str {
        match self {
            Self::ExternalSecrets => "clusterexternalsecrets/status",
            Self::PushSecrets => "clusterpushsecrets/status",
        }
    }
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FanOutKey {
    /// Its kind.
    pub kind: FanOutKind,
    /// Its name.
    pub name: Arc<str>,
}

impl FanOutKey {
    /// Its place among the shards.
    pub fn as_object(&self) -> ObjectKey {
        ObjectKey::new("", &self.name)
    }
}

impl fmt::Display for FanOutKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.kind(), self.name)
    }
}

/// What one says, whichever its kind.
#[derive(Clone, Debug)]
pub struct FanOut {
    kind: FanOutKind,
    name: String,
    /// Its UID.
    pub uid: String,
    /// Its resource version; 0: unknown.
    pub version: u64,
    /// Its generation.
    pub generation: i64,
    /// Whether it is being deleted.
    pub deleted: bool,
    object_name: String,
    spec: Value,
    metadata: FanOutMetadata,
    /// Labels of namespaces, any of which will do.
    pub selectors: Vec<LabelSelector>,
    /// Names of namespaces.
    pub namespaces: Vec<String>,
    /// What its status says.
    pub told: Told,
}

/// What a status says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Name of the objects.
    pub object_name: Option<String>,
    /// Where they could not be made.
    pub failed: Vec<FailedNamespace>,
    /// Where they are.
    pub provisioned: Vec<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

fn parts(meta: &ObjectMeta) -> (String, String, u64, i64, bool) {
    let (name, uid) = (meta.name.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
    let version = version_of(meta.resource_version.as_deref());
    (name, uid, version, meta.generation.unwrap_or(0), meta.deletion_timestamp.is_some())
}

impl From<ClusterExternalSecret> for FanOut {
    fn from(object: ClusterExternalSecret) -> Self {
        let (name, uid, version, generation, deleted) = parts(&object.metadata);
        let (spec, status) = (object.spec, object.status.unwrap_or_default());
        let filled = |name: Option<String>| name.filter(|n| !n.is_empty());
        Self {
            kind: FanOutKind::ExternalSecrets,
            object_name: filled(spec.external_secret_name).unwrap_or_else(|| name.clone()),
            name,
            uid,
            version,
            generation,
            deleted,
            spec: json!(spec.external_secret_spec),
            metadata: spec.external_secret_metadata.unwrap_or_default(),
            selectors: spec.namespace_selector.into_iter().chain(spec.namespace_selectors).collect(),
            namespaces: spec.namespaces,
            told: Told {
                object_name: status.external_secret_name,
                failed: status.failed_namespaces,
                provisioned: status.provisioned_namespaces,
                conditions: status.conditions,
            },
        }
    }
}

impl From<ClusterPushSecret> for FanOut {
    fn from(object: ClusterPushSecret) -> Self {
        let (name, uid, version, generation, deleted) = parts(&object.metadata);
        let (spec, status) = (object.spec, object.status.unwrap_or_default());
        Self {
            kind: FanOutKind::PushSecrets,
            object_name: spec.push_secret_name.filter(|n| !n.is_empty()).unwrap_or_else(|| name.clone()),
            name,
            uid,
            version,
            generation,
            deleted,
            spec: json!(spec.push_secret_spec),
            metadata: spec.push_secret_metadata.unwrap_or_default(),
            selectors: spec.namespace_selectors,
            namespaces: Vec::new(),
            told: Told {
                object_name: status.push_secret_name,
                failed: status.failed_namespaces,
                provisioned: status.provisioned_namespaces,
                conditions: status.conditions,
            },
        }
    }
}

impl FanOut {
    /// Its kind.
    pub fn kind(&self) -> FanOutKind {
        self.kind
    }

    /// Name of the objects that it makes.
    pub fn object_name(&self) -> &str {
        &self.object_name
    }

    /// The spec of each.
    pub fn spec(&self) -> &Value {
        &self.spec
    }

    /// The cluster stores that each names.
    pub fn cluster_stores(&self) -> Vec<StoreKey> {
        let list = |field: &str| self.spec[field].as_array().into_iter().flatten();
        let entries = ["data", "dataFrom"].into_iter().flat_map(list).map(|entry| &entry["sourceRef"]["storeRef"]);
        let named = entries.chain(list("secretStoreRefs")).chain([&self.spec["secretStoreRef"]]);
        let cluster = named.filter(|r| r["kind"] == "ClusterSecretStore").filter_map(|r| r["name"].as_str());
        cluster.map(|name| StoreKey { namespace: None, name: name.into() }).collect()
    }

    /// Hash of what each is made from.
    pub fn fingerprint(&self) -> String {
        let mut hash = PartsHash::default();
        hash.add(self.spec.to_string().as_bytes());
        hash.add(json!(self.metadata).to_string().as_bytes());
        hash.hex()
    }

    /// The object for a namespace.
    pub fn manifest(&self, namespace: &str) -> Value {
        let mut annotations = self.metadata.annotations.clone();
        annotations.insert(ANNOTATION.into(), self.fingerprint());
        json!({
            "apiVersion": self.kind.version(),
            "kind": self.kind.made(),
            "metadata": {
                "name": self.object_name, "namespace": namespace, "labels": self.metadata.labels, "annotations": annotations,
                "ownerReferences": [{
                    "apiVersion": self.kind.version(), "kind": self.kind.kind(), "name": self.name, "uid": self.uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": self.spec,
        })
    }

    /// What an event is about.
    pub fn reference(&self, key: &FanOutKey) -> ObjectReference {
        ObjectReference {
            api_version: Some(key.kind.version().into()),
            kind: Some(key.kind.kind().into()),
            name: Some(key.name.to_string()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct FanOuts(Mutex<HashMap<FanOutKey, Arc<FanOut>>>);

impl FanOuts {
    fn lock(&self) -> MutexGuard<'_, HashMap<FanOutKey, Arc<FanOut>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One of them.
    pub fn get(&self, key: &FanOutKey) -> Option<Arc<FanOut>> {
        self.lock().get(key).cloned()
    }

    /// The keys of all.
    pub fn keys(&self) -> Vec<FanOutKey> {
        self.lock().keys().cloned().collect()
    }

    /// This process wrote its status: what a watch shows of an earlier time tells nothing of it.
    pub fn told(&self, key: &FanOutKey, uid: &str, version: u64, told: Told) {
        if let Some(known) = self.lock().get_mut(key).filter(|known| known.uid == uid && known.version <= version) {
            *known = Arc::new(FanOut { version, told, ..(**known).clone() });
        }
    }

    /// Takes one in; answers whether a person changed it. What is older than this process' own write is no news: that one's echo
    /// follows.
    pub fn applied(&self, key: FanOutKey, fan_out: FanOut) -> bool {
        let mark = |f: &FanOut| (f.uid.clone(), f.generation, f.deleted);
        let mut all = self.lock();
        if all.get(&key).is_some_and(|known| known.uid == fan_out.uid && known.version > fan_out.version) {
            return false;
        }
        let before = all.insert(key, Arc::new(fan_out.clone()));
        before.is_none_or(|before| mark(&before) != mark(&fan_out))
    }

    /// Lets one go.
    pub fn deleted(&self, key: &FanOutKey) {
        self.lock().remove(key);
    }

    /// Those that make objects of a name.
    pub fn of_name(&self, kind: FanOutKind, name: &str) -> Vec<FanOutKey> {
        let all = self.lock();
        all.iter().filter(|(key, f)| key.kind == kind && f.object_name == name).map(|(key, _)| key.clone()).collect()
    }
}
