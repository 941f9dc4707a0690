//! PushSecret: which keys of a Secret, or of a generator, go into which stores.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conditions::{Condition, date_time};
use crate::external_secret::{GeneratorRef, RewriteRegexp, RewriteTransform, StoreKind, Template};
use crate::generator::others::anything;
use crate::meta::name;

/// Keeps remote secrets of stores in lockstep with a Secret.
#[expect(clippy::duplicated_attributes, reason = "every column has a type of its own")]
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[kube(
    group = "external-secrets.io",
    version = "v1alpha1",
    kind = "PushSecret",
    plural = "pushsecrets",
    namespaced,
    status = "PushSecretStatus",
    shortname = "ps",
    category = "external-secrets",
    derive = "PartialEq",
    derive = "Default",
    doc = "Keeps remote secrets of stores in lockstep with a Secret.",
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Last Sync", type_ = "date", json_path = ".status.refreshTime")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.data) && size(self.data) > 0) || (has(self.dataTo) && size(self.dataTo) > 0)")
        .message("data and dataTo are empty; name what is to be pushed"),
    validation = Rule::new("!has(self.data) || size(self.data) == 0 || size(self.secretStoreRefs) > 0")
        .message("secretStoreRefs is empty; name the stores of data"),
)]
pub struct PushSecretSpec {
    /// How often the stores are looked at: a Go duration such as 1h or 15m; 0 pushes once and on changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "1h0m0s"))]
    pub refresh_interval: Option<String>,
    /// The stores of `data`, by name or by label.
    pub secret_store_refs: Vec<PushStoreRef>,
    /// What happens to a remote secret that is there already.
    #[serde(default)]
    pub update_policy: PushUpdatePolicy,
    /// What becomes of the remote secrets when the entry, or the PushSecret, goes.
    #[serde(default)]
    pub deletion_policy: PushDeletionPolicy,
    /// What is pushed.
    pub selector: PushSelector,
    /// Single keys, each into one remote secret of every store of secretStoreRefs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<PushData>,
    /// Many keys at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_to: Vec<PushDataTo>,
    /// How the values are made from the Secret's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

/// Stores: one by name, or all that carry labels.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.labelSelector)")
        .message("a store must be named, or labels of stores be given")
)]
pub struct PushStoreRef {
    /// Name of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub name: Option<String>,
    /// Labels of the stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Kind of the store.
    #[serde(default)]
    pub kind: StoreKind,
}

/// What happens to a remote secret that is there already.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum PushUpdatePolicy {
    /// Its value is replaced, if it is managed by this API.
    #[default]
    Replace,
    /// It is left alone.
    IfNotExists,
}

/// What becomes of remote secrets that are pushed no more.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum PushDeletionPolicy {
    /// They are deleted.
    Delete,
    /// They stay.
    #[default]
    None,
}

/// What is pushed: exactly one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PushSelector {
    /// A Secret, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<PushSecretSelector>,
    /// What a generator gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_ref: Option<GeneratorRef>,
}

/// Secrets of the namespace: one by name, or all that carry labels.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.name) != has(self.selector)").message("exactly one of name and selector must be set"))]
pub struct PushSecretSelector {
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub name: Option<String>,
    /// Labels of the Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// One key, and where it goes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PushData {
    /// Which, and where.
    #[serde(rename = "match")]
    pub match_: PushMatch,
    /// What the provider is told about the remote secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub metadata: Option<Value>,
    /// Whether `_U0020_` in a key of the Secret becomes the character that it stands for.
    #[serde(default)]
    pub conversion_strategy: PushConversionStrategy,
}

/// Which key goes where.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PushMatch {
    /// The key of the Secret. None: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// Where.
    pub remote_ref: PushRemoteRef,
}

/// A remote secret, or one property of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PushRemoteRef {
    /// Its name in the store; its form is the provider's.
    pub remote_key: String,
    /// The property; the others are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
}

/// How keys are read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum PushConversionStrategy {
    /// As they are.
    #[default]
    None,
    /// `_U0020_` becomes the character that it stands for.
    ReverseUnicode,
}

/// Many keys, and where they go.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storeRef) && (has(self.storeRef.name) || has(self.storeRef.labelSelector))")
        .message("storeRef must name a store, or labels of stores"),
    validation = Rule::new("!has(self.remoteKey) || !has(self.rewrite) || size(self.rewrite) == 0")
        .message("remoteKey takes all keys in one remote secret: there is nothing to rewrite"),
)]
pub struct PushDataTo {
    /// The stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<PushStoreRef>,
    /// One remote secret that takes all keys as a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_key: Option<String>,
    /// Which keys. None: all of them.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub match_: Option<PushDataToMatch>,
    /// How keys become names of remote secrets, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<PushRewrite>,
    /// What the provider is told about the remote secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub metadata: Option<Value>,
    /// Whether `_U0020_` in a key of the Secret becomes the character that it stands for.
    #[serde(default)]
    pub conversion_strategy: PushConversionStrategy,
}

/// Which keys.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct PushDataToMatch {
    /// A regular expression (RE2 syntax), unanchored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regexp: Option<String>,
}

/// One change of names: exactly one of the two.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.regexp) && !has(self.transform)) || (!has(self.regexp) && has(self.transform))")
        .message("exactly one of regexp and transform must be set")
)]
pub struct PushRewrite {
    /// By a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regexp: Option<RewriteRegexp>,
    /// By a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<RewriteTransform>,
}

/// What was pushed where: entries by remote key (and property), by store.
pub type SyncedPushSecrets = BTreeMap<String, BTreeMap<String, PushData>>;

/// How the last push went.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PushSecretStatus {
    /// When everything was last in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub refresh_time: Option<String>,
    /// `<generation>-<hash of labels and annotations>` that the last push was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_resource_version: Option<String>,
    /// What was pushed where: by store, as Kind/name, and remote key with its property behind a slash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub synced_push_secrets: SyncedPushSecrets,
    /// Ready, and what other operators wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
