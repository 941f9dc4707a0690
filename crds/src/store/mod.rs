//! SecretStore and ClusterSecretStore: where remote secrets lie, and as whom they are read.
//!
//! `spec.provider` is kept as JSON: a provider that Lockstep does not know survives, and a malformed one becomes a condition
//! of its store instead of an unreadable object. The registry of `lockstep-providers` parses the one that it is.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conditions::Condition;
use crate::meta::namespaces;

/// One line a provider: its module and its key under `spec.provider`.
macro_rules! providers {
    ($($(#[$doc:meta])* $module:ident: $spec:ident),+ $(,)?) => {
        $(pub mod $module;)+
        /// The known providers' fields, for the schema only.
        #[derive(JsonSchema)]
        #[serde(rename_all = "camelCase")]
        #[expect(dead_code, reason = "the schema is all that is wanted of it")]
        struct ProviderSchema {
            $($(#[$doc])* $module: Option<$module::$spec>,)+
            /// OpenBao: the fields are Vault's.
            openbao: Option<vault::VaultProvider>,
        }
    };
}

providers! {
    /// AWS Secrets Manager, or Parameter Store of Systems Manager.
    aws: AwsProvider,
    /// Azure Key Vault.
    azurekv: AzureProvider,
    /// Values that stand in the spec: for demos and tests.
    fake: FakeProvider,
    /// Google Cloud Secret Manager.
    gcpsm: GcpProvider,
    /// Secrets of another namespace or cluster.
    kubernetes: KubernetesProvider,
    /// HashiCorp Vault's KV engine, or OpenBao's.
    vault: VaultProvider,
    /// Any HTTP API.
    webhook: WebhookProvider,
}

/// `spec.provider`: one key, the provider's name, with that provider's spec.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(transparent)]
pub struct Provider(pub BTreeMap<String, Value>);

impl JsonSchema for Provider {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Provider".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = ProviderSchema::json_schema(generator);
        schema.insert(
            "description".into(),
            "The provider: exactly one. Providers that are not listed are kept as they are.".into(),
        );
        schema.insert("minProperties".into(), 1.into());
        schema.insert("maxProperties".into(), 1.into());
        // Another operator's providers under the same kind must survive: see "Beside another operator" in the guide.
        schema.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
        schema
    }
}

/// What a store says: the same for both kinds.
macro_rules! store_kind {
    ($(#[$doc:meta])* $spec:ident, $kind:literal, $plural:literal, $short:literal $(, $scope:ident)?) => {
        $(#[$doc])*
        #[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
        #[kube(
            group = "external-secrets.io",
            version = "v1",
            kind = $kind,
            plural = $plural,
            $($scope,)?
            status = "SecretStoreStatus",
            shortname = $short,
            category = "external-secrets",
            derive = "PartialEq",
            doc = "Where remote secrets lie, and as whom they are read.",
            selectable = ".spec.controller",
            printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
            printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
            printcolumn(name = "Capabilities", type_ = "string", json_path = ".status.capabilities"),
            printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status")
        )]
        #[serde(rename_all = "camelCase")]
        pub struct $spec {
            /// Class of the operator that serves this store. Empty: the default class.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub controller: Option<String>,
            /// The provider.
            pub provider: Provider,
            /// How failed requests to the provider are tried again.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub retry_settings: Option<RetrySettings>,
            /// How often the store is validated again: seconds, or a Go duration. 0 or none: 5 min.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub refresh_interval: Option<IntOrString>,
            /// For a cluster store: the namespaces that may use it. None: all. A namespace is admitted if any entry matches.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub conditions: Vec<StoreCondition>,
        }
    };
}

store_kind!(
    /// A store for its own namespace.
    SecretStoreSpec, "SecretStore", "secretstores", "ss", namespaced
);
store_kind!(
    /// A store for many namespaces.
    ClusterSecretStoreSpec, "ClusterSecretStore", "clustersecretstores", "css"
);

impl From<ClusterSecretStoreSpec> for SecretStoreSpec {
    fn from(spec: ClusterSecretStoreSpec) -> Self {
        let ClusterSecretStoreSpec { controller, provider, retry_settings, refresh_interval, conditions } = spec;
        Self { controller, provider, retry_settings, refresh_interval, conditions }
    }
}

/// How failed requests to a provider are tried again.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySettings {
    /// How many tries after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
    /// Time between tries: a Go duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_interval: Option<String>,
}

/// Which namespaces may use a cluster store: those that match any of the fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreCondition {
    /// By label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// By name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "namespaces")]
    pub namespaces: Vec<String>,
    /// By regular expression, anchored at both ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_regexes: Vec<String>,
}

/// Whether a store works.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
pub struct SecretStoreStatus {
    /// Ready, and what other operators wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// ReadOnly, WriteOnly or ReadWrite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<String>,
}
