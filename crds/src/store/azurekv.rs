//! `spec.provider.azurekv`: Azure Key Vault.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{SecretKeySelector, ServiceAccountSelector};

/// Azure Key Vault.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureProvider {
    /// URL of the vault, such as https://my-vault.vault.azure.net.
    pub vault_url: String,
    /// The tenant (directory) of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Which kind of identity.
    #[serde(default)]
    pub auth_type: AzureAuthType,
    /// What the identity is made from, as `authType` needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<AzureAuthSecretRef>,
    /// For WorkloadIdentity: the service account that is federated. None: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_ref: Option<ServiceAccountSelector>,
    /// For ManagedIdentity: client id of a user-assigned identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_id: Option<String>,
    /// Which cloud.
    #[serde(default)]
    pub environment_type: AzureEnvironment,
    /// Endpoints of an AzureStackCloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_cloud_config: Option<AzureCustomCloud>,
    /// Taken and without effect: Lockstep always uses the current SDK.
    #[serde(default, rename = "useAzureSDK")]
    pub use_azure_sdk: bool,
}

/// Which kind of identity.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum AzureAuthType {
    /// An application with a client secret or a certificate.
    #[default]
    ServicePrincipal,
    /// An identity of the machine.
    ManagedIdentity,
    /// A service account's token, federated with an application.
    WorkloadIdentity,
}

/// Which cloud.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum AzureEnvironment {
    /// Azure.
    #[default]
    PublicCloud,
    /// Azure Government.
    USGovernmentCloud,
    /// Azure operated by 21Vianet.
    ChinaCloud,
    /// Azure Germany (closed in 2021).
    GermanCloud,
    /// Azure Stack: see `customCloudConfig`.
    AzureStackCloud,
}

/// What the identity is made from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureAuthSecretRef {
    /// Where the application's client id lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<SecretKeySelector>,
    /// Where its client secret lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretKeySelector>,
    /// Where its certificate with private key lies: PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<SecretKeySelector>,
    /// Where the tenant id lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<SecretKeySelector>,
}

/// Endpoints of a cloud of one's own.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureCustomCloud {
    /// Where tokens are got.
    pub active_directory_endpoint: String,
    /// The resource that tokens are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_vault_endpoint: Option<String>,
    /// Suffix of the vaults' names in DNS.
    #[serde(default, rename = "keyVaultDNSSuffix", skip_serializing_if = "Option::is_none")]
    pub key_vault_dns_suffix: Option<String>,
    /// The resource manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_manager_endpoint: Option<String>,
}
