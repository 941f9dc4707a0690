//! ClusterExternalSecret and ClusterPushSecret: one object in each of many namespaces.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::Condition;
use crate::external_secret::ExternalSecretSpec;
use crate::meta::{name, namespaces};
use crate::push_secret::PushSecretSpec;

/// One ExternalSecret in each of many namespaces.
#[expect(clippy::duplicated_attributes, reason = "every column has a type of its own")]
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[kube(
    group = "external-secrets.io",
    version = "v1",
    kind = "ClusterExternalSecret",
    plural = "clusterexternalsecrets",
    status = "ClusterExternalSecretStatus",
    shortname = "ces",
    category = "external-secrets",
    derive = "PartialEq",
    derive = "Default",
    doc = "Makes one ExternalSecret in each of many namespaces.",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.externalSecretSpec.secretStoreRef.name"),
    printcolumn(name = "Refresh Interval", type_ = "string", json_path = ".spec.refreshTime"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterExternalSecretSpec {
    /// The spec of each.
    pub external_secret_spec: ExternalSecretSpec,
    /// Their name. Default: this object's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub external_secret_name: Option<String>,
    /// Their labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_secret_metadata: Option<FanOutMetadata>,
    /// Labels of the namespaces (the older form of namespaceSelectors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels of the namespaces: those that any of the selectors matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Names of namespaces, beside those that a selector matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "namespaces")]
    pub namespaces: Vec<String>,
    /// How often the namespaces are looked at. Taken and without effect: changes are seen at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_time: Option<String>,
}

/// One PushSecret in each of many namespaces.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[kube(
    group = "external-secrets.io",
    version = "v1alpha1",
    kind = "ClusterPushSecret",
    plural = "clusterpushsecrets",
    status = "ClusterPushSecretStatus",
    category = "external-secrets",
    derive = "PartialEq",
    derive = "Default",
    doc = "Makes one PushSecret in each of many namespaces.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPushSecretSpec {
    /// The spec of each.
    pub push_secret_spec: PushSecretSpec,
    /// Their name. Default: this object's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub push_secret_name: Option<String>,
    /// Their labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_secret_metadata: Option<FanOutMetadata>,
    /// Labels of the namespaces: those that any of the selectors matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<LabelSelector>,
    /// How often the namespaces are looked at. Taken and without effect: changes are seen at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_time: Option<String>,
}

/// Labels and annotations of what is made.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct FanOutMetadata {
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A namespace without its object, and why.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct FailedNamespace {
    /// The namespace.
    pub namespace: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

macro_rules! status {
    ($(#[$doc:meta])* $name:ident, $(#[$field_doc:meta])* $made:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(#[$field_doc])*
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $made: Option<String>,
            /// Namespaces that should have the object and do not.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub failed_namespaces: Vec<FailedNamespace>,
            /// Namespaces that have the object.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub provisioned_namespaces: Vec<String>,
            /// Ready, and what other operators wrote.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub conditions: Vec<Condition>,
        }
    };
}

status!(
    /// Where the ExternalSecrets are.
    ClusterExternalSecretStatus,
    /// Their name.
    external_secret_name
);
status!(
    /// Where the PushSecrets are.
    ClusterPushSecretStatus,
    /// Their name.
    push_secret_name
);
