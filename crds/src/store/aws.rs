//! `spec.provider.aws`: AWS Secrets Manager, and Parameter Store of Systems Manager.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{SecretKeySelector, ServiceAccountSelector};

/// AWS Secrets Manager, or Parameter Store of Systems Manager.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsProvider {
    /// Which service.
    pub service: AwsService,
    /// The region, such as eu-central-1.
    pub region: String,
    /// As whom. None: the identity of the operator's own pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AwsAuth>,
    /// ARN of a role to assume, after `additionalRoles`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// ARNs of roles to assume before `role`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_roles: Vec<String>,
    /// External id for assuming `role`.
    #[serde(default, rename = "externalID", skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// Tags of the session of `role`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub session_tags: Vec<AwsTag>,
    /// Keys of session tags that go on to roles assumed from that session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transitive_tag_keys: Vec<String>,
    /// Tags that the operator adds to the session. Simple: esoNamespace, esoStoreName, esoStoreKind. Custom:
    /// `customSessionTags` besides.
    #[serde(default)]
    pub session_tags_policy: AwsSessionTagsPolicy,
    /// More tags of the session, with `sessionTagsPolicy: Custom`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "custom_session_tags")]
    pub custom_session_tags: BTreeMap<String, String>,
    /// Put before every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How Secrets Manager deletes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_manager: Option<AwsSecretsManager>,
}

fn custom_session_tags(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string"},
        "x-kubernetes-validations": [{
            "rule": "!('esoNamespace' in self) && !('esoStoreName' in self) && !('esoStoreKind' in self)",
            "message": "esoNamespace, esoStoreName and esoStoreKind are set by the operator",
        }],
    })
}

/// A service of AWS.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum AwsService {
    /// Secrets Manager.
    SecretsManager,
    /// Parameter Store of Systems Manager.
    ParameterStore,
    /// Certificate Manager: for pushes.
    CertificateManager,
}

/// Which tags the operator adds to a session.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum AwsSessionTagsPolicy {
    /// None.
    #[default]
    None,
    /// esoNamespace, esoStoreName and esoStoreKind.
    Simple,
    /// Those and `customSessionTags`.
    Custom,
}

/// A session tag.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct AwsTag {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// How Secrets Manager deletes: at most one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsSecretsManager {
    /// At once, without a way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_delete_without_recovery: Option<bool>,
    /// Days for which a deleted secret can be restored: 7 to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_window_in_days: Option<i64>,
}

/// As whom: exactly one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsAuth {
    /// Access keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<AwsKeys>,
    /// A service account's web identity (IRSA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<AwsJwt>,
}

/// Access keys.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsKeys {
    /// Where the access key id lies.
    #[serde(default, rename = "accessKeyIDSecretRef", skip_serializing_if = "Option::is_none")]
    pub access_key_id_secret_ref: Option<SecretKeySelector>,
    /// Where the secret access key lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_access_key_secret_ref: Option<SecretKeySelector>,
    /// Where the session token lies, for temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_secret_ref: Option<SecretKeySelector>,
}

/// A service account's web identity: its annotation `eks.amazonaws.com/role-arn` names the role.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsJwt {
    /// The service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountSelector>,
}
