//! ClusterGenerator: a generator for all namespaces. What it refers to is read in the namespace of whoever uses it.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::acr::AcrAccessTokenSpec;
use super::aws::{EcrAuthorizationTokenSpec, StsSessionTokenSpec};
use super::fake::FakeSpec;
use super::gcr::GcrAccessTokenSpec;
use super::others::{
    BeyondtrustSpec, CloudsmithAccessTokenSpec, GithubAccessTokenSpec, GitlabDeployTokenSpec, GrafanaSpec, MfaSpec,
    QuayAccessTokenSpec,
};
use super::password::PasswordSpec;
use super::ssh_key::SshKeySpec;
use super::uuid::UuidSpec;
use super::vault::VaultDynamicSecretSpec;
use super::webhook::WebhookSpec;
use crate::external_secret::GENERATOR_KINDS;

/// A generator of any kind.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "ClusterGenerator",
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "A generator for all namespaces; what it refers to is read in the namespace of whoever uses it."
)]
pub struct ClusterGeneratorSpec {
    /// Kind of the generator.
    #[schemars(schema_with = "kind")]
    pub kind: String,
    /// The spec of a generator of that kind, under its own name.
    #[schemars(with = "GeneratorSpecs")]
    pub generator: Map<String, Value>,
}

fn kind(_: &mut SchemaGenerator) -> Schema {
    let kinds: Vec<&str> = GENERATOR_KINDS.into_iter().filter(|kind| *kind != "ClusterGenerator").collect();
    schemars::json_schema!({"type": "string", "enum": kinds})
}

/// The specs of all kinds, for the schema only.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[expect(dead_code, reason = "the schema is all that is wanted of it")]
struct GeneratorSpecs {
    /// Of an ACRAccessToken.
    acr_access_token_spec: Option<AcrAccessTokenSpec>,
    /// Of a BeyondtrustWorkloadCredentialsDynamicSecret, which Lockstep does not serve.
    #[serde(rename = "beyondtrustWorkloadCredentialsDynamicSecretSpec")]
    beyondtrust: Option<BeyondtrustSpec>,
    /// Of a CloudsmithAccessToken, which Lockstep does not serve.
    cloudsmith_access_token_spec: Option<CloudsmithAccessTokenSpec>,
    /// Of an ECRAuthorizationToken.
    ecr_authorization_token_spec: Option<EcrAuthorizationTokenSpec>,
    /// Of a Fake.
    fake_spec: Option<FakeSpec>,
    /// Of a GCRAccessToken.
    gcr_access_token_spec: Option<GcrAccessTokenSpec>,
    /// Of a GithubAccessToken, which Lockstep does not serve.
    github_access_token_spec: Option<GithubAccessTokenSpec>,
    /// Of a GitlabDeployToken, which Lockstep does not serve.
    gitlab_deploy_token_spec: Option<GitlabDeployTokenSpec>,
    /// Of a Grafana, which Lockstep does not serve.
    grafana_spec: Option<GrafanaSpec>,
    /// Of an MFA, which Lockstep does not serve.
    mfa_spec: Option<MfaSpec>,
    /// Of a Password.
    password_spec: Option<PasswordSpec>,
    /// Of a QuayAccessToken, which Lockstep does not serve.
    quay_access_token_spec: Option<QuayAccessTokenSpec>,
    /// Of an SSHKey.
    ssh_key_spec: Option<SshKeySpec>,
    /// Of an STSSessionToken.
    sts_session_token_spec: Option<StsSessionTokenSpec>,
    /// Of a UUID.
    uuid_spec: Option<UuidSpec>,
    /// Of a VaultDynamicSecret.
    vault_dynamic_secret_spec: Option<VaultDynamicSecretSpec>,
    /// Of a Webhook.
    webhook_spec: Option<WebhookSpec>,
}
