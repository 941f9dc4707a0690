//! Names of objects, cheap to clone and to hash.

use std::fmt;
use std::sync::Arc;

use kube::Resource;
use lockstep_crds::external_secret::{GeneratorRef, StoreKind, StoreRef};
use lockstep_crds::generator::GeneratorKind;

/// A hash that is the same in every process of every version: phases of refreshes and shards are reckoned from it.
///
/// FNV-1a over the parts, each followed by a byte that no name holds, with the finish of MurmurHash3 for its upper bits.
pub fn stable_hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53_u64] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// Namespace and name of a namespaced object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Of an object; none of a cluster-scoped one.
    pub fn of<K: Resource>(object: &K) -> Option<Self> {
        let meta = object.meta();
        Some(Self { namespace: meta.namespace.as_deref()?.into(), name: meta.name.as_deref()?.into() })
    }

    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An object that refers to others in its namespace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Referrer {
    /// An ExternalSecret.
    ExternalSecret(ObjectKey),
    /// A PushSecret.
    PushSecret(ObjectKey),
}

impl Referrer {
    /// Its namespace and name.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::ExternalSecret(key) | Self::PushSecret(key) => key,
        }
    }
}

/// A SecretStore or a ClusterSecretStore.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey {
    /// Namespace; none of a ClusterSecretStore.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
}

impl StoreKey {
    /// The store that an object of `namespace` refers to.
    pub fn referred(namespace: &Arc<str>, reference: &StoreRef) -> Self {
        let namespace = match reference.kind.unwrap_or_default() {
            StoreKind::SecretStore => Some(namespace.clone()),
            StoreKind::ClusterSecretStore => None,
        };
        Self { namespace, name: reference.name.as_deref().unwrap_or_default().into() }
    }

    /// Kind of the store.
    pub fn kind(&self) -> StoreKind {
        match self.namespace {
            Some(_) => StoreKind::SecretStore,
            None => StoreKind::ClusterSecretStore,
        }
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "SecretStore {namespace}/{}", self.name),
            None => write!(f, "ClusterSecretStore {}", self.name),
        }
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A generator, as somebody of a namespace uses it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GeneratorKey {
    /// The namespace of whoever uses it; that of the generator itself too, unless it is a ClusterGenerator.
    pub namespace: Arc<str>,
    /// Its kind; none: a ClusterGenerator.
    pub kind: Option<GeneratorKind>,
    /// Name.
    pub name: Arc<str>,
}

impl GeneratorKey {
    /// The generator that an object of `namespace` refers to.
    ///
    /// # Errors
    /// A sentence about a kind that is not served.
    pub fn referred(namespace: &Arc<str>, reference: &GeneratorRef) -> Result<Self, String> {
        let kind = match reference.kind.as_str() {
            "ClusterGenerator" => None,
            kind => Some(GeneratorKind::of(kind).ok_or_else(|| {
                let known: Vec<&str> = GeneratorKind::ALL.iter().map(|kind| kind.as_str()).collect();
                format!("kind {kind} is not served; there are {} and ClusterGenerator", known.join(", "))
            })?),
        };
        Ok(Self { namespace: namespace.clone(), kind, name: reference.name.as_str().into() })
    }
}

impl fmt::Display for GeneratorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "{kind} {}/{}", self.namespace, self.name),
            None => write!(f, "ClusterGenerator {}", self.name),
        }
    }
}

impl fmt::Debug for GeneratorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
