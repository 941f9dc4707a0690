//! The `external-secrets.io` API types that Lockstep serves: what a manifest may say, and nothing about what happens then.
//!
//! One file a kind, provider specs under [`store`], condition types, reasons and events in [`conditions`]. The crate knows no
//! client and no SDK. [`all_crds`] is what `config/crd/` holds and `lockstep crds` prints.

pub mod conditions;
pub mod duration;
pub mod external_secret;
pub mod fan_out;
pub mod generator;
pub mod meta;
pub mod push_secret;
mod schema;
pub mod store;

pub use external_secret::{ExternalSecret, ExternalSecretSpec, ExternalSecretStatus};
pub use fan_out::{ClusterExternalSecret, ClusterPushSecret};
pub use generator::{ClusterGenerator, GeneratorState};
pub use push_secret::{PushSecret, PushSecretSpec, PushSecretStatus};
pub use schema::all_crds;
pub use store::{ClusterSecretStore, SecretStore, SecretStoreSpec, SecretStoreStatus};

/// API group of the stores, ExternalSecrets and PushSecrets.
pub const GROUP: &str = "external-secrets.io";
/// Label on every Secret that an ExternalSecret writes; the operator watches Secrets by it.
pub const LABEL_MANAGED: &str = "reconcile.external-secrets.io/managed";
/// Label on a Secret that one ExternalSecret made: the hash of that object's namespace and name.
pub const LABEL_CREATED_BY: &str = "reconcile.external-secrets.io/created-by";
/// Annotation on a Secret that one ExternalSecret made: a keyed hash of the data last written.
pub const ANNOTATION_DATA_HASH: &str = "reconcile.external-secrets.io/data-hash";
