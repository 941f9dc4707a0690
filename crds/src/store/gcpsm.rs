//! `spec.provider.gcpsm`: Google Cloud Secret Manager.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{SecretKeySelector, ServiceAccountSelector, key, name, namespace};

/// Google Cloud Secret Manager.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpProvider {
    /// The project that holds the secrets. Default: that of the identity.
    #[serde(default, rename = "projectID", skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Location of regional secrets. None: global secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// As whom. None: the identity of the operator's own pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<GcpAuth>,
    /// What a key without a version reads when the latest version is disabled or destroyed: LatestOrFail, or
    /// LatestOrFetch, which takes the latest that is enabled.
    #[serde(default = "latest_or_fail")]
    pub secret_version_selection_policy: String,
}

fn latest_or_fail() -> String {
    "LatestOrFail".into()
}

/// As whom: at most one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpAuth {
    /// A service account's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<GcpKey>,
    /// GKE's workload identity, as a Kubernetes service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<GcpWorkloadIdentity>,
    /// Workload identity federation: an identity of another cloud or cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity_federation: Option<GcpFederation>,
}

/// A service account's key.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpKey {
    /// Where the JSON key lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_access_key_secret_ref: Option<SecretKeySelector>,
}

/// GKE's workload identity.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpWorkloadIdentity {
    /// The Kubernetes service account; its annotation `iam.gke.io/gcp-service-account` names the Google one.
    pub service_account_ref: ServiceAccountSelector,
    /// The cluster's location. Default: the metadata server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_location: Option<String>,
    /// The cluster's name. Default: the metadata server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// The cluster's project. Default: `projectID`.
    #[serde(default, rename = "clusterProjectID", skip_serializing_if = "Option::is_none")]
    pub cluster_project_id: Option<String>,
}

/// Workload identity federation: exactly one of `credConfig`, `serviceAccountRef` and `awsSecurityCredentials`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpFederation {
    /// Audience that the token exchange asks for: the identity pool's provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// A ConfigMap's key with an external_account configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cred_config: Option<ConfigMapKey>,
    /// A Kubernetes service account whose token is exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountSelector>,
    /// AWS credentials that are exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_security_credentials: Option<GcpAwsCredentials>,
    /// Google service account to impersonate after the exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "service_account_email")]
    pub gcp_service_account_email: Option<String>,
    /// URL that gives the external token, instead of the one in `credConfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_token_endpoint: Option<String>,
}

fn service_account_email(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "minLength": 1, "pattern": r"^.*@.*\.iam\.gserviceaccount\.com$"})
}

/// A key of a ConfigMap.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct ConfigMapKey {
    /// Name of the ConfigMap.
    #[schemars(schema_with = "name")]
    pub name: String,
    /// Key in its data.
    #[schemars(schema_with = "key")]
    pub key: String,
    /// Namespace of the ConfigMap: for a cluster store only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace")]
    pub namespace: Option<String>,
}

/// AWS credentials.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpAwsCredentials {
    /// A Secret with aws_access_key_id, aws_secret_access_key and, for temporary keys, aws_session_token.
    pub aws_credentials_secret_ref: SecretSelector,
    /// AWS region.
    #[schemars(schema_with = "region")]
    pub region: String,
}

fn region(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": 50, "pattern": "^[a-z0-9-]+$"})
}

/// A Secret.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct SecretSelector {
    /// Its name.
    #[schemars(schema_with = "name")]
    pub name: String,
    /// Its namespace: for a cluster store only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespace")]
    pub namespace: Option<String>,
}
