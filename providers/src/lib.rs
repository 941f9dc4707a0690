//! Secret providers behind one trait: what the operator asks of a store, and nothing about Kubernetes objects.
//!
//! The operator hands [`registry::connect`] a store's `spec.provider` and a [`Resolver`] that reads the objects which the
//! spec refers to, and gets a [`Provider`]. What always holds: a provider reads nothing of the operator's environment or
//! identity that the spec does not ask for, and no error, log line or `Debug` output holds a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod egress;
pub mod error;
#[cfg(feature = "fake")]
mod fake;
mod find;
#[cfg(feature = "gcp")]
mod gcp;
pub mod generator;
#[cfg(feature = "http")]
#[cfg_attr(
    not(any(feature = "aws", feature = "azure", feature = "gcp")),
    allow(dead_code, reason = "shared by providers that this build may lack")
)]
mod held;
#[cfg(feature = "conformance")]
pub mod hostile;
#[cfg(feature = "http")]
#[cfg_attr(
    not(all(feature = "aws", feature = "kubernetes", feature = "vault", feature = "webhook")),
    allow(dead_code, reason = "shared by providers that this build may lack")
)]
mod http;
#[cfg(any(feature = "azure", feature = "gcp"))]
mod jwt;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg_attr(
    not(all(feature = "aws", feature = "kubernetes", feature = "vault", feature = "webhook")),
    allow(dead_code, reason = "shared by providers that this build may lack")
)]
mod push;
pub mod registry;
pub mod resolver;
#[cfg_attr(
    not(all(feature = "aws", feature = "kubernetes", feature = "vault", feature = "webhook")),
    allow(dead_code, reason = "shared by providers that this build may lack")
)]
mod secret_bytes;
#[cfg(feature = "vault")]
mod vault;
#[cfg(feature = "webhook")]
mod webhook;

pub use error::{Error, Result};
pub use find::{Find, Found};
pub use push::{CLUSTER_CREDENTIALS, Deleted, MANAGED_BY, Push, Pushed, Source, Target};
pub use resolver::{Caller, OwnCluster, Resolver};
pub use secret_bytes::SecretBytes;

/// One read of one remote secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// The remote secret's name, in the provider's own form.
    pub key: String,
    /// The version asked for; none is the latest.
    pub version: Option<String>,
    /// The provider's metadata as a JSON object instead of the value.
    pub metadata: bool,
    /// The property, for a provider whose capabilities say that it takes it.
    pub property: Option<String>,
    /// The namespace of who asks, likewise.
    pub namespace: Option<String>,
    /// The version last seen, as [`Fetched::Value`] gave it: lets a provider answer [`Fetched::Unchanged`].
    pub seen: Option<Arc<str>>,
}

impl Want {
    /// The latest value of a remote secret.
    pub fn latest(key: impl Into<String>) -> Self {
        Self { key: key.into(), version: None, metadata: false, property: None, namespace: None, seen: None }
    }
}

/// What a provider answered.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The remote secret is still at the version of [`Want::seen`].
    Unchanged,
    /// The value, and the version to hand back in [`Want::seen`] where the provider has one.
    Value {
        /// The value.
        payload: Arc<Payload>,
        /// An opaque version that differs whenever the value does.
        version: Option<Arc<str>>,
    },
}

/// A remote secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes: text, JSON or binary.
    Bytes(SecretBytes),
    /// What [`Want::property`] asked for: no path goes into it any more.
    Property(SecretBytes),
    /// Named values that may be binary, such as a Secret's data.
    Fields(BTreeMap<String, SecretBytes>),
}

/// Runs reads side by side, at most `limit` at once; the answers keep their order.
#[cfg(feature = "http")]
async fn in_order<F: Future>(reads: Vec<F>, limit: usize) -> Vec<F::Output> {
    use futures::StreamExt;
    futures::stream::iter(reads).buffered(limit).collect().await
}

/// What a provider's validation found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// The provider was reached and took the identity.
    Valid,
    /// There is no cheap way to tell.
    Unknown,
}

/// What a provider can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What `status.capabilities` of a store says.
    pub access: Access,
    /// How many wants one call of [`Provider::get`] takes at best.
    pub batch: usize,
    /// How many calls may run at once.
    pub concurrency: usize,
    /// Whether [`Want::property`] and [`Want::namespace`] mean something to it.
    pub takes_property: bool,
}

/// What `status.capabilities` of a store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Values can be read.
    ReadOnly,
    /// Values can be read and pushed.
    ReadWrite,
}

impl Access {
    /// The word as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "ReadOnly",
            Self::ReadWrite => "ReadWrite",
        }
    }
}

/// A connection to one store as one identity. Dropped futures leave it usable: every method is cancel-safe.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Logs in where that is needed and checks what can be checked without reading a value.
    async fn validate(&self) -> Result<Validity>;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Reads remote secrets; the results stand in the order of `wants`, each with a fate of its own.
    ///
    /// # Errors
    /// [`Error::NotFound`] only when the provider said with authority that nothing is there.
    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>>;

    /// Looks for remote secrets.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the provider can't search that way. Nothing found is an empty answer.
    async fn find(&self, _query: &Find) -> Result<Vec<Found>> {
        Err(Error::Unsupported("dataFrom.find: this provider can't search".into()))
    }

    /// Makes a remote secret have a value, with at most one new version of it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a remote secret that is there and does not carry [`MANAGED_BY`]: it is left alone.
    async fn push(&self, _push: &Push) -> Result<Pushed> {
        Err(Error::Unsupported("this provider can't be pushed to".into()))
    }

    /// Deletes a remote secret, or one property of it and the whole with the last one.
    ///
    /// # Errors
    /// Whatever keeps it from being deleted; that it is gone already, or not ours to delete, is an answer.
    async fn delete(&self, _target: &Target) -> Result<Deleted> {
        Err(Error::Unsupported("this provider can't be pushed to, so nothing is deleted".into()))
    }

    /// Ends the connection: logins that it made are revoked. Errors are logged, not returned.
    async fn close(&self) {}
}
