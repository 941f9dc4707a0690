//! `spec.provider.fake`: values that stand in the spec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Values that stand in the spec: for demos and tests.
#[derive(Clone, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FakeProvider {
    /// The remote secrets.
    pub data: Vec<FakeData>,
    /// What validation answers: 0 valid, 1 unknown, 2 invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_result: Option<i64>,
}

/// One remote secret.
#[derive(Clone, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct FakeData {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Its version, which a remoteRef must name too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}
