//! ExternalSecret: which remote secrets, from which stores, into which Secret, how often.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::{Condition, date_time};
use crate::meta::{key, name};

/// Keeps one Secret in lockstep with secrets of one or several stores.
#[expect(clippy::duplicated_attributes, reason = "every column has a type of its own")]
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[kube(
    group = "external-secrets.io",
    version = "v1",
    kind = "ExternalSecret",
    plural = "externalsecrets",
    namespaced,
    status = "ExternalSecretStatus",
    shortname = "es",
    category = "external-secrets",
    selectable = ".spec.secretStoreRef.name",
    selectable = ".spec.secretStoreRef.kind",
    selectable = ".spec.target.name",
    derive = "PartialEq",
    derive = "Default",
    doc = "Keeps one Secret in lockstep with secrets of one or several stores.",
    printcolumn(name = "StoreType", type_ = "string", json_path = ".spec.secretStoreRef.kind"),
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.secretStoreRef.name"),
    printcolumn(name = "Refresh Interval", type_ = "string", json_path = ".spec.refreshInterval"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Last Sync", type_ = "date", json_path = ".status.refreshTime")
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalSecretSpec {
    /// The store of every entry that names none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_store_ref: Option<StoreRef>,
    /// The Secret that is written.
    #[serde(default)]
    #[schemars(extend("default" = default_target()))]
    pub target: Target,
    /// When the providers are asked again. Default: Periodic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_policy: Option<RefreshPolicy>,
    /// How often the providers are asked with refreshPolicy Periodic: a Go duration such as 1h or 15m; 0 asks once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "1h0m0s"))]
    pub refresh_interval: Option<String>,
    /// Hours at which periodic refreshes may, or may not, happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_windows: Option<SyncWindows>,
    /// Single keys of the Secret, each from one remote secret. They win over dataFrom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<Data>,
    /// Many keys at once; a later entry wins over an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_from: Vec<DataFrom>,
}

fn default_target() -> serde_json::Value {
    serde_json::json!({"creationPolicy": "Owner", "deletionPolicy": "Retain"})
}

/// Kinds of store.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
pub enum StoreKind {
    /// In the namespace of its users.
    #[default]
    SecretStore,
    /// For many namespaces.
    ClusterSecretStore,
}

/// Which store.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// Name of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub name: Option<String>,
    /// Kind of the store. Default: SecretStore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<StoreKind>,
}

/// When the providers are asked again.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum RefreshPolicy {
    /// At refreshInterval, and on every change of the object.
    #[default]
    Periodic,
    /// Once for each object; a target that is deleted is made again.
    CreatedOnce,
    /// When the object's spec, labels or annotations change.
    OnChange,
}

/// Hours at which periodic refreshes may, or may not, happen.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncWindows {
    /// Whether the windows allow or deny.
    pub kind: SyncWindowKind,
    /// The windows.
    #[schemars(length(min = 1))]
    pub windows: Vec<SyncWindow>,
}

/// Whether windows allow or deny.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyncWindowKind {
    /// Refresh inside of the windows only.
    Allow,
    /// Refresh outside of the windows only.
    Deny,
}

/// One window.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncWindow {
    /// When it opens: five cron fields in UTC, or a descriptor such as @daily.
    #[schemars(
        length(min = 1),
        regex(pattern = r"^(@(annually|yearly|monthly|weekly|daily|midnight|hourly)|@every [^\s]+.*|[^\s]+( [^\s]+){4})$")
    )]
    pub schedule: String,
    /// How long it stays open: a Go duration.
    pub duration: String,
}

/// One key of the Secret.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.sourceRef) || !has(self.sourceRef.generatorRef)")
        .message("a generator gives several keys; call it from spec.dataFrom and rename them with rewrite")
)]
pub struct Data {
    /// The key in the Secret.
    #[schemars(schema_with = "key")]
    pub secret_key: String,
    /// What it holds.
    pub remote_ref: RemoteRef,
    /// Another store or a generator instead of secretStoreRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ref: Option<SourceRef>,
}

/// A remote secret, or a part of one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteRef {
    /// The secret's name in the store; its form is the provider's.
    pub key: String,
    /// A gjson path into the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
    /// A version; its form is the provider's. Default: the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Fetch takes the provider's metadata as JSON instead of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_policy: Option<MetadataPolicy>,
    /// What becomes of characters that a Secret key can't have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion_strategy: Option<ConversionStrategy>,
    /// How the value is decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding_strategy: Option<DecodingStrategy>,
    /// Whether a NUL byte in the value is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_byte_policy: Option<NullBytePolicy>,
}

/// Value or metadata.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
pub enum MetadataPolicy {
    /// The value.
    #[default]
    None,
    /// The provider's metadata as JSON.
    Fetch,
}

/// What becomes of characters that a Secret key can't have.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum ConversionStrategy {
    /// Each becomes an underscore.
    #[default]
    Default,
    /// Each becomes its code point, as in _U0020_.
    Unicode,
}

/// How a value is decoded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum DecodingStrategy {
    /// As Base64 or Base64URL where it is one, else as it is.
    Auto,
    /// From standard Base64.
    Base64,
    /// From URL-safe Base64.
    #[serde(rename = "Base64URL")]
    Base64Url,
    /// As it is.
    #[default]
    None,
}

/// Whether a NUL byte in a value is an error.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum NullBytePolicy {
    /// NUL bytes are kept.
    #[default]
    Ignore,
    /// A NUL byte fails the sync.
    Fail,
}

/// Another store or a generator.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct SourceRef {
    /// Another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<StoreRef>,
    /// A generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_ref: Option<GeneratorRef>,
}

/// Which generator.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GeneratorRef {
    /// API version of the generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "generators.external-secrets.io/v1alpha1"))]
    pub api_version: Option<String>,
    /// Kind of the generator.
    #[schemars(extend("enum" = GENERATOR_KINDS))]
    pub kind: String,
    /// Name of the generator.
    #[schemars(schema_with = "name")]
    pub name: String,
}

/// Kinds of generator that the API knows.
pub const GENERATOR_KINDS: [&str; 18] = [
    "ACRAccessToken",
    "BeyondtrustWorkloadCredentialsDynamicSecret",
    "ClusterGenerator",
    "CloudsmithAccessToken",
    "ECRAuthorizationToken",
    "Fake",
    "GCRAccessToken",
    "GithubAccessToken",
    "GitlabDeployToken",
    "QuayAccessToken",
    "Password",
    "SSHKey",
    "STSSessionToken",
    "UUID",
    "VaultDynamicSecret",
    "Webhook",
    "Grafana",
    "MFA",
];

/// Many keys at once: exactly one of `extract`, `find` and `sourceRef.generatorRef`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.extract) ? 1 : 0) + (has(self.find) ? 1 : 0) + (has(self.sourceRef) && has(self.sourceRef.generatorRef) ? 1 : 0) == 1"
    ).message("exactly one of extract, find and sourceRef.generatorRef must be set")
)]
pub struct DataFrom {
    /// Every key of a remote secret that is a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<RemoteRef>,
    /// Every remote secret that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find: Option<Find>,
    /// Changes of the keys, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<Rewrite>,
    /// Another store instead of secretStoreRef, or a generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ref: Option<SourceRef>,
}

/// Which remote secrets; every criterion that is given must match.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Find {
    /// Where to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// By name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<FindName>,
    /// By tags: all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What becomes of characters that a Secret key can't have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion_strategy: Option<ConversionStrategy>,
    /// How the values are decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding_strategy: Option<DecodingStrategy>,
    /// Whether a NUL byte in a value is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_byte_policy: Option<NullBytePolicy>,
}

/// By name.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct FindName {
    /// A regular expression (RE2 syntax), unanchored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regexp: Option<String>,
}

/// One change of keys: exactly one of the three.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Rewrite {
    /// Joins the values of all keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<RewriteMerge>,
    /// Renames keys by a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regexp: Option<RewriteRegexp>,
    /// Renames keys by a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<RewriteTransform>,
}

/// Joins the values of all keys, which are JSON objects.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewriteMerge {
    /// The key that takes the result with strategy JSON.
    #[serde(default)]
    pub into: String,
    /// Keys in the order of their weight, the last one winning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority: Vec<String>,
    /// What happens when a key of `priority` is missing.
    #[serde(default)]
    pub priority_policy: PriorityPolicy,
    /// What happens when two values hold the same key.
    #[serde(default)]
    pub conflict_policy: ConflictPolicy,
    /// Whether the result's keys, or one JSON text, are taken.
    #[serde(default)]
    pub strategy: MergeStrategy,
}

/// What happens when a key of `priority` is missing.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum PriorityPolicy {
    /// It is passed over.
    IgnoreNotFound,
    /// It is an error.
    #[default]
    Strict,
}

/// What happens when two values hold the same key.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum ConflictPolicy {
    /// The one of more weight wins.
    Ignore,
    /// It is an error.
    #[default]
    Error,
}

/// What a merge gives.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum MergeStrategy {
    /// The keys of the merged object.
    #[default]
    Extract,
    /// The merged object as JSON under the key `into`.
    #[serde(rename = "JSON")]
    Json,
}

/// Renames keys by a regular expression.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct RewriteRegexp {
    /// RE2 syntax.
    pub source: String,
    /// The replacement, with $1.
    pub target: String,
}

/// Renames keys by a template.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct RewriteTransform {
    /// A Go template over .value, the key.
    pub template: String,
}

/// The Secret, or another object, that is written.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!(has(self.deletionPolicy) && self.deletionPolicy == 'Delete' && has(self.creationPolicy) && self.creationPolicy != 'Owner')"
    ).message("deletionPolicy Delete needs creationPolicy Owner: only an owned target may be deleted"),
    validation = Rule::new(
        "!(has(self.deletionPolicy) && self.deletionPolicy == 'Merge' && has(self.creationPolicy) && self.creationPolicy == 'None')"
    ).message("deletionPolicy Merge makes no sense with creationPolicy None: there is no target whose keys could go"),
    validation = Rule::new("!has(self.manifest) || !has(self.immutable) || !self.immutable")
        .message("immutable is for Secrets, and manifest names another kind"),
)]
pub struct Target {
    /// Name of the target. Default: the ExternalSecret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "name")]
    pub name: Option<String>,
    /// Who makes the target and who owns it.
    #[serde(default)]
    pub creation_policy: CreationPolicy,
    /// What becomes of the target when the provider has nothing any more.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Another kind than Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<TargetManifest>,
    /// How the target is built from the provider's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Whether the Secret is made immutable: written once, never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}

/// Who makes the target and who owns it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
pub enum CreationPolicy {
    /// Made with an owner reference; its data is exactly what the object says.
    #[default]
    Owner,
    /// Made without an owner reference: it outlives the object.
    Orphan,
    /// Must exist; only the object's own keys are written.
    Merge,
    /// Nothing is written.
    None,
    /// Made if missing; only the object's own keys are written.
    CreateOrMerge,
}

/// What becomes of the target when the provider has nothing any more.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted.
    Delete,
    /// The object's keys are removed from it.
    Merge,
    /// It is kept as it is.
    #[default]
    Retain,
}

/// Another kind than Secret.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetManifest {
    /// API version of the target.
    #[schemars(length(min = 1))]
    pub api_version: String,
    /// Kind of the target.
    #[schemars(length(min = 1))]
    pub kind: String,
}

/// How the target is built.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// The Secret's type. Default: Opaque.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The template language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["v2"], "default" = "v2"))]
    pub engine_version: Option<String>,
    /// Labels, annotations and finalizers of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// Whether the provider's own keys are kept beside the template's.
    #[serde(default)]
    pub merge_policy: TemplateMergePolicy,
    /// Templates by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Templates from elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub template_from: Vec<TemplateFrom>,
}

/// Labels, annotations and finalizers of the target.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct TemplateMetadata {
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Finalizers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

/// Whether the provider's own keys are kept beside the template's.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum TemplateMergePolicy {
    /// Only the template's keys.
    #[default]
    Replace,
    /// Both.
    Merge,
}

/// Templates from elsewhere.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.configMap) || has(self.secret) || has(self.literal)")
        .message("at least one of configMap, secret and literal must be set")
)]
pub struct TemplateFrom {
    /// Keys of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<TemplateRef>,
    /// Keys of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<TemplateRef>,
    /// A template that stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub literal: Option<String>,
    /// What the result becomes: Data, Labels or Annotations, or a path into a target of another kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Data"))]
    pub target: Option<String>,
    /// How the results are decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values_decoding_strategy: Option<DecodingStrategy>,
}

/// Keys of a ConfigMap or Secret that hold templates.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct TemplateRef {
    /// Name of the object, in the ExternalSecret's namespace.
    #[schemars(schema_with = "name")]
    pub name: String,
    /// Its keys.
    pub items: Vec<TemplateRefItem>,
}

/// One key that holds a template.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateRefItem {
    /// The key.
    #[schemars(schema_with = "key")]
    pub key: String,
    /// Whether the result is one value, or keys and values in YAML.
    #[serde(default)]
    pub template_as: TemplateAs,
}

/// What a template's result is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum TemplateAs {
    /// The value of the key of the same name.
    #[default]
    Values,
    /// YAML with keys and values.
    KeysAndValues,
}

/// What the operator last saw and did.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalSecretStatus {
    /// When the providers last gave everything. Moves forward at most once in a heartbeat while nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub refresh_time: Option<String>,
    /// `<generation>-<hash of labels and annotations>` that the last sync was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_resource_version: Option<String>,
    /// Ready, and what other operators wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The target as it was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut item = Condition::json_schema(generator);
    if let Some(type_) = item.pointer_mut("/properties/type").and_then(|t| t.as_object_mut()) {
        type_.insert("enum".into(), serde_json::json!(["Ready", "Deleted"]));
    }
    schemars::json_schema!({"type": "array", "items": item})
}

/// The target as it was last written: lets a restart see from metadata alone what was touched meanwhile.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the target.
    #[serde(default)]
    pub name: String,
    /// UID of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Resource version that the last write of the target gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Salted hash of what was last written. Never in the object: whoever may read it could try out values against the hash.
    #[serde(skip)]
    pub data_hash: Option<String>,
}

impl ExternalSecret {
    /// Every store that an entry reads from: the object's own first, where any entry uses it; repetitions stand.
    pub fn store_refs(&self) -> impl Iterator<Item = &StoreRef> {
        let own =
            |source: &'_ Option<SourceRef>| source.as_ref().is_some_and(|s| s.store_ref.is_some() || s.generator_ref.is_some());
        let entries = || self.spec.data_from.iter().map(|d| &d.source_ref).chain(self.spec.data.iter().map(|d| &d.source_ref));
        let default_used = entries().any(|s| !own(s));
        self.spec
            .secret_store_ref
            .iter()
            .filter(move |_| default_used)
            .chain(entries().filter_map(|s| s.as_ref().and_then(|s| s.store_ref.as_ref())))
    }

    /// Every generator that an entry of `dataFrom` calls, with the entry's number.
    pub fn generator_refs(&self) -> impl Iterator<Item = (usize, &GeneratorRef)> {
        let sources = self.spec.data_from.iter().map(|entry| entry.source_ref.as_ref());
        sources.enumerate().filter_map(|(i, source)| Some((i, source?.generator_ref.as_ref()?)))
    }

    /// Name of the target: `spec.target.name`, else the object's own.
    pub fn target_name(&self) -> &str {
        self.spec.target.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}
