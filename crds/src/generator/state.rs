//! GeneratorState: what a generator made outside of the cluster and must be taken back one day, such as a lease of Vault.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::others::anything;
use crate::conditions::{Condition, date_time};

/// Label with the hash of the UID of the object that uses it.
pub const LABEL_OWNER: &str = "generators.external-secrets.io/owner-key";
/// Keeps it until what it stands for is taken back.
pub const FINALIZER: &str = "generatorstate.externalsecrets.io/finalizer";
/// Type of the Secret that keeps the values beside it.
pub const SECRET_TYPE: &str = "generators.external-secrets.io/state";

/// What was made, and by whom.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "GeneratorState",
    namespaced,
    status = "GeneratorStateStatus",
    shortname = "gs",
    category = "external-secrets",
    category = "external-secrets-generators",
    derive = "PartialEq",
    derive = "Default",
    doc = "What a generator made outside of the cluster and must be taken back one day. Written by the operator.",
    printcolumn(name = "GC Deadline", type_ = "string", json_path = ".spec.garbageCollectionDeadline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GeneratorStateSpec {
    /// When it is taken back. None: while it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub garbage_collection_deadline: Option<String>,
    /// The generator as it was then: it may be gone before this is.
    #[schemars(schema_with = "anything")]
    pub resource: Value,
    /// What it takes to renew it and to take it back; never a value.
    #[schemars(schema_with = "anything")]
    pub state: Value,
}

/// Whether it is well.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
pub struct GeneratorStateStatus {
    /// Ready, and what other operators wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
