//! SSHKey: a pair of keys.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pair of keys.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "SSHKey",
    plural = "sshkeys",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Makes a pair of SSH keys under the keys privateKey and publicKey."
)]
#[serde(rename_all = "camelCase")]
pub struct SshKeySpec {
    /// The algorithm.
    #[serde(default)]
    pub key_type: SshKeyType,
    /// Bits: 2048 to 8192 with rsa (default 2048), 256, 384 or 521 with ecdsa (default 256); ed25519 has but one size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 8192))]
    pub key_size: Option<i64>,
    /// Comment at the end of the public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// The algorithm.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SshKeyType {
    /// RSA.
    #[default]
    Rsa,
    /// ECDSA over a curve of NIST.
    Ecdsa,
    /// Ed25519.
    Ed25519,
}
