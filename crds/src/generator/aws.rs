//! ECRAuthorizationToken and STSSessionToken: credentials of AWS that last for hours.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::aws::AwsAuth;

/// A token for a registry.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "ECRAuthorizationToken",
    plural = "ecrauthorizationtokens",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Gives a token for AWS' registries: username, password, proxy_endpoint and expires_at."
)]
pub struct EcrAuthorizationTokenSpec {
    /// The region, such as eu-central-1.
    pub region: String,
    /// As whom. None: the identity of the operator's own pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AwsAuth>,
    /// ARN of a role to assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// private (default) or public: which registries the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// A session.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "STSSessionToken",
    plural = "stssessiontokens",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Gives a session of AWS: access_key_id, secret_access_key, session_token and expiration."
)]
#[serde(rename_all = "camelCase")]
pub struct StsSessionTokenSpec {
    /// The region, such as eu-central-1.
    pub region: String,
    /// As whom. None: the identity of the operator's own pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AwsAuth>,
    /// ARN of a role to assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_parameters: Option<StsRequestParameters>,
}

/// Parameters of GetSessionToken.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StsRequestParameters {
    /// How long the session lasts, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_duration: Option<i32>,
    /// ARN or serial number of the MFA device of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// What that device shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_code: Option<String>,
}
