//! References that every kind uses: to keys of Secrets and ConfigMaps and to service accounts.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const NAMESPACE: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const KEY: &str = r"^[-._a-zA-Z0-9]+$";

/// Name of an object (RFC 1123 subdomain).
pub(crate) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": NAME})
}

/// Name of a namespace (RFC 1123 label).
pub(crate) fn namespace(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": NAMESPACE})
}

/// Names of namespaces.
pub(crate) fn namespaces(g: &mut SchemaGenerator) -> Schema {
    let item = namespace(g);
    json_schema!({"type": "array", "items": item})
}

/// Key of a Secret or ConfigMap.
pub(crate) fn key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": KEY})
}

/// Base64 of bytes.
pub(crate) fn bytes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "byte"})
}

/// A key of a Secret.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub name: Option<String>,
    /// Namespace of the Secret: for a cluster store only; a namespaced store reads its own namespace. A cluster store that
    /// names none reads the namespace of each ExternalSecret that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace")]
    pub namespace: Option<String>,
    /// Key in the Secret's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "key")]
    pub key: Option<String>,
}

/// A service account, and the audiences of the tokens asked for it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSelector {
    /// Name of the service account.
    #[schemars(schema_with = "name")]
    pub name: String,
    /// Namespace of the service account: for a cluster store only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace")]
    pub namespace: Option<String>,
    /// Audiences of the token, beside those that the provider itself asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
}

/// Which kind of object holds a CA bundle.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
pub enum CaProviderType {
    /// A key of a Secret.
    Secret,
    /// A key of a ConfigMap.
    ConfigMap,
}

/// Where a PEM bundle of certificate authorities lies.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaProvider {
    /// Kind of the object.
    #[serde(rename = "type")]
    pub type_: CaProviderType,
    /// Name of the object.
    #[schemars(schema_with = "name")]
    pub name: String,
    /// Key in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "key")]
    pub key: Option<String>,
    /// Namespace of the object: for a cluster store only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace")]
    pub namespace: Option<String>,
}
