//! Password: random text.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Random text.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "Password",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Makes random text."
)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSpec {
    /// How long it is, in characters.
    #[serde(default = "length")]
    pub length: i64,
    /// How many digits. Default: a quarter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<i64>,
    /// How many symbols. Default: a quarter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols: Option<i64>,
    /// The symbols. Default: ~!@#$%^&*()_+`-={}|[]\:"<>?,./
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol_characters: Option<String>,
    /// Whether there are no upper-case letters.
    #[serde(default)]
    pub no_upper: bool,
    /// Whether a character may come twice.
    #[serde(default)]
    pub allow_repeat: bool,
    /// How the text is encoded.
    #[serde(default)]
    pub encoding: PasswordEncoding,
    /// The keys, each with a password of its own. Default: password.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub secret_keys: Vec<String>,
}

fn length() -> i64 {
    24
}

/// How a password is encoded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PasswordEncoding {
    /// Base64.
    Base64,
    /// Base64 for URLs.
    Base64url,
    /// Base32.
    Base32,
    /// Hexadecimal digits.
    Hex,
    /// Not at all.
    #[default]
    Raw,
}
