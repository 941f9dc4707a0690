//! GCRAccessToken: a token of Google Cloud.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::store::gcpsm::GcpAuth;

/// A token.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "GCRAccessToken",
    plural = "gcraccesstokens",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Gives a token of Google Cloud, for its registries among others: username, password and expiry."
)]
#[serde(rename_all = "camelCase")]
pub struct GcrAccessTokenSpec {
    /// The project.
    #[serde(rename = "projectID")]
    pub project_id: String,
    /// As whom.
    #[schemars(schema_with = "auth")]
    pub auth: GcpAuth,
}

/// The store's schema, with what this kind demands.
fn auth(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = GcpAuth::json_schema(generator);
    if let Some(identity) = schema.pointer_mut("/properties/workloadIdentity").and_then(|s| s.as_object_mut()) {
        identity.insert("required".into(), serde_json::json!(["clusterLocation", "clusterName", "serviceAccountRef"]));
    }
    schema
}
