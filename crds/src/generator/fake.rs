//! Fake: what stands in its spec, for demos and tests.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Values that stand here.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "Fake",
    plural = "fakes",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Gives what stands in its spec: for demos and tests."
)]
pub struct FakeSpec {
    /// Class of the operator that serves it. Empty: the default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The values by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
}
