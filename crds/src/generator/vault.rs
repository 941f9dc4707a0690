//! VaultDynamicSecret: what a path of Vault issues, such as the credentials of a database.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::others::anything;
use crate::store::RetrySettings;
use crate::store::vault::VaultProvider;

/// What a path of Vault issues.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "VaultDynamicSecret",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Gives what a path of Vault issues. Its lease is kept alive as long as it is used, and revoked then."
)]
#[serde(rename_all = "camelCase")]
pub struct VaultDynamicSecretSpec {
    /// Class of the operator that serves it. Empty: the default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Where Vault is, and as whom it is asked; a KV engine's path and version mean nothing here.
    pub provider: VaultProvider,
    /// The path, such as database/creds/app.
    pub path: String,
    /// HTTP method. Default: GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Body of a request that is no GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub parameters: Option<Value>,
    /// Query of a GET.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub get_parameters: BTreeMap<String, Vec<String>>,
    /// Which part of the answer is taken.
    #[serde(default)]
    pub result_type: VaultResultType,
    /// Whether an answer without anything is none of an error.
    #[serde(default)]
    pub allow_empty_response: bool,
    /// How failed requests are tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_settings: Option<RetrySettings>,
}

/// A part of Vault's answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum VaultResultType {
    /// `data`: what engines answer.
    #[default]
    Data,
    /// `auth`: a token with what belongs to it.
    Auth,
    /// All of it.
    Raw,
}
