//! The Secret that is written: what it should be, whether it is that already, and the one write that makes it so.
//!
//! The upper half is pure: [`Desired`], [`judge`], [`own_fields`]. The lower half sends at most one write, preceded by one
//! GET where the target is not what this operator wrote last.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::{Resource, ResourceExt};
use lockstep_crds::external_secret::{Binding, CreationPolicy};
use lockstep_crds::{ANNOTATION_DATA_HASH, ExternalSecret, LABEL_CREATED_BY, LABEL_MANAGED};
use lockstep_providers::SecretBytes;
use lockstep_providers::error::foreign_text;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::data::MAX_SECRET_BYTES;
use crate::context::Context;
use crate::keys::ObjectKey;
use crate::kube_io;

/// Field manager of every write but those of the Merge policies, which have one for each object.
pub const FIELD_MANAGER: &str = "lockstep";

/// The target as the watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No managed Secret of that name.
    Absent,
    /// There.
    There {
        /// Its UID.
        uid: String,
        /// Its resource version.
        version: String,
    },
}

impl Seen {
    /// Whether it is something else than what was written last.
    pub fn differs(&self, binding: Option<&Binding>) -> bool {
        binding.is_some_and(|b| match self {
            Self::Absent => true,
            Self::There { uid, version } => b.uid.as_deref() != Some(uid) || b.resource_version.as_deref() != Some(version),
        })
    }
}

/// The Secret as it should be.
pub struct Desired {
    name: String,
    namespace: String,
    type_: Option<String>,
    immutable: bool,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    data: BTreeMap<String, SecretBytes>,
    owner: Option<OwnerReference>,
    policy: CreationPolicy,
    /// Of everything above, salted with the object's UID: equal values of two objects have different hashes.
    pub hash: String,
    object: ObjectKey,
    uid: String,
}

/// Types that the operator never writes: whoever holds them is somebody else to the cluster.
const REFUSED_TYPES: [&str; 2] = ["bootstrap.kubernetes.io/token", "kubernetes.io/service-account-token"];

/// Refuses types that would grant rights in the cluster.
///
/// # Errors
/// A sentence that names the type.
pub fn check_type(type_: &str) -> Result<(), String> {
    match REFUSED_TYPES.contains(&type_) {
        true => {
            Err(format!("spec.target.template.type: {type_} is refused: such a Secret is a credential of the cluster itself"))
        }
        false => Ok(()),
    }
}

/// What a typed Secret must hold (the API server's own rules, said before the write).
fn check_shape(type_: &str, data: &BTreeMap<String, SecretBytes>) -> Result<(), String> {
    let lacks = |keys: &[&str]| keys.iter().filter(|k| !data.contains_key(**k)).map(|k| (*k).to_owned()).collect::<Vec<_>>();
    let all = |keys: &[&str]| match lacks(keys)[..] {
        [] => Ok(()),
        ref missing => Err(format!("type {type_} needs the key {}", missing.join(" and the key "))),
    };
    let json = |key: &str| {
        all(&[key])?;
        let valid = data.get(key).and_then(SecretBytes::as_text).is_some_and(|t| serde_json::from_str::<Value>(t).is_ok());
        if valid { Ok(()) } else { Err(format!("type {type_} needs JSON under the key {key}")) }
    };
    match type_ {
        "kubernetes.io/tls" => all(&["tls.crt", "tls.key"]),
        "kubernetes.io/dockerconfigjson" => json(".dockerconfigjson"),
        "kubernetes.io/dockercfg" => json(".dockercfg"),
        "kubernetes.io/ssh-auth" => all(&["ssh-privatekey"]),
        "kubernetes.io/basic-auth" if lacks(&["username", "password"]).len() == 2 => {
            Err(format!("type {type_} needs the key username or the key password"))
        }
        _ => Ok(()),
    }
}

impl Desired {
    /// Builds it from an object and its values.
    ///
    /// # Errors
    /// A sentence when no such Secret can be: too large, or not of its type's shape.
    pub fn new(object: &ExternalSecret, data: BTreeMap<String, SecretBytes>) -> Result<Self, String> {
        let size: usize = data.values().map(SecretBytes::len).sum();
        if size > MAX_SECRET_BYTES {
            let largest = data.iter().max_by_key(|(_, v)| v.len()).map_or("", |(k, _)| k);
            return Err(format!(
                "the data is {size} bytes, and a Secret holds at most {MAX_SECRET_BYTES}; the largest key is {largest}"
            ));
        }
        let target = &object.spec.target;
        let type_ = target.template.as_ref().and_then(|t| t.type_.clone());
        check_shape(type_.as_deref().unwrap_or("Opaque"), &data)?;
        let key = ObjectKey::new(object.metadata.namespace.as_deref().unwrap_or_default(), &object.name_any());
        let policy = target.creation_policy;
        let (mut labels, mut annotations) = copied_metadata(object);
        labels.insert(LABEL_MANAGED.into(), "true".into());
        let exact = is_exact(policy);
        if exact {
            labels.insert(LABEL_CREATED_BY.into(), created_by(&key));
        }
        let mut desired = Self {
            name: object.target_name().to_owned(),
            namespace: key.namespace.to_string(),
            type_,
            immutable: target.immutable.unwrap_or(false),
            labels,
            annotations: std::mem::take(&mut annotations),
            data,
            owner: (policy == CreationPolicy::Owner).then(|| object.controller_owner_ref(&())).flatten(),
            policy,
            hash: String::new(),
            object: key,
            uid: object.uid().unwrap_or_default(),
        };
        desired.hash = desired.fingerprint();
        if exact {
            desired.annotations.insert(ANNOTATION_DATA_HASH.into(), desired.hash.clone());
        }
        Ok(desired)
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.uid.as_bytes());
        part(format!("{:?}", self.policy).as_bytes());
        part(self.type_.as_deref().unwrap_or_default().as_bytes());
        part(&[u8::from(self.immutable)]);
        for map in [&self.labels, &self.annotations] {
            part(&(map.len() as u64).to_le_bytes());
            map.iter().for_each(|(k, v)| [k, v].into_iter().for_each(|s| part(s.as_bytes())));
        }
        for (k, v) in &self.data {
            part(k.as_bytes());
            part(v.expose());
        }
        hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
    }

    fn encoded(&self) -> BTreeMap<&str, String> {
        self.data.iter().map(|(k, v)| (k.as_str(), STANDARD.encode(v.expose()))).collect()
    }

    /// The manifest of a new Secret, or of a server-side apply on the one that has `uid`.
    fn manifest(&self, uid: Option<&str>) -> Manifest<'_> {
        Manifest {
            api_version: "v1",
            kind: "Secret",
            metadata: without_empty(json!({
                "name": self.name, "namespace": self.namespace, "labels": self.labels, "annotations": self.annotations,
                "ownerReferences": self.owner.iter().collect::<Vec<_>>(), "uid": uid,
            })),
            type_: self.type_.as_deref(),
            immutable: self.immutable.then_some(true),
            data: self.encoded(),
        }
    }

    /// The manifest that replaces `existing`, keeping what others put into its metadata.
    fn replacement<'a>(&'a self, existing: &'a Secret) -> Manifest<'a> {
        let own = own_fields(existing, FIELD_MANAGER);
        let kept = |there: Option<&BTreeMap<String, String>>, own: &BTreeSet<String>, wanted: &BTreeMap<String, String>| {
            let mut all: BTreeMap<String, String> =
                there.into_iter().flatten().filter(|(k, _)| !own.contains(*k)).map(|(k, v)| (k.clone(), v.clone())).collect();
            all.extend(wanted.iter().map(|(k, v)| (k.clone(), v.clone())));
            all
        };
        let meta = &existing.metadata;
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        if self.owner.is_none() {
            // What was owned under an earlier policy must not be collected with the object.
            owners.retain(|o| o.uid != self.uid);
        }
        if let Some(owner) = self.owner.as_ref().filter(|o| !owners.iter().any(|e| e.uid == o.uid)) {
            owners.push(owner.clone());
        }
        Manifest {
            api_version: "v1",
            kind: "Secret",
            metadata: without_empty(json!({
                "name": self.name, "namespace": self.namespace, "uid": meta.uid, "resourceVersion": meta.resource_version,
                "labels": kept(meta.labels.as_ref(), &own.labels, &self.labels),
                "annotations": kept(meta.annotations.as_ref(), &own.annotations, &self.annotations),
                "ownerReferences": owners, "finalizers": meta.finalizers,
            })),
            type_: existing.type_.as_deref(),
            immutable: (self.immutable || existing.immutable == Some(true)).then_some(true),
            data: self.encoded(),
        }
    }

    /// Field manager of a server-side apply: one an object, so that two that merge into one Secret keep their keys.
    fn merge_manager(&self) -> String {
        format!("{FIELD_MANAGER}-{}", &created_by(&self.object)[..16])
    }

    /// Cuts values out of what the API server says.
    fn scrub(&self, text: &str) -> String {
        let values: Vec<&str> = self.data.values().filter_map(SecretBytes::as_text).filter(|v| v.len() > 3).collect();
        foreign_text(text, &values)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Value,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    type_: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
    data: BTreeMap<&'a str, String>,
}

/// An empty field in a server-side apply would be a claim on it.
fn without_empty(mut metadata: Value) -> Value {
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|_, v| {
            !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty()) && v.as_object().is_none_or(|o| !o.is_empty())
        });
    }
    metadata
}

fn owned_by(secret: &Secret, uid: &str) -> bool {
    secret.metadata.owner_references.iter().flatten().any(|o| o.uid == uid)
}

/// Whether a person, and not one of the Merge policies, has labelled a Secret as managed.
fn handed_over(secret: &Secret) -> bool {
    let labelled = secret.metadata.labels.as_ref().and_then(|l| l.get(LABEL_MANAGED)).is_some_and(|v| v == "true");
    let entries = secret.metadata.managed_fields.as_deref().unwrap_or_default();
    let merging = format!("{FIELD_MANAGER}-");
    let others = entries.iter().filter_map(|e| e.manager.as_deref()).filter(|m| !m.starts_with(&merging));
    labelled && (entries.is_empty() || others.into_iter().any(|m| own_fields(secret, m).labels.contains(LABEL_MANAGED)))
}

/// Whether the policy owns the whole Secret, and not only its own keys.
fn is_exact(policy: CreationPolicy) -> bool {
    match policy {
        CreationPolicy::Owner | CreationPolicy::Orphan => true,
        CreationPolicy::Merge | CreationPolicy::CreateOrMerge | CreationPolicy::None => false,
    }
}

/// Value of the label `created-by`: a hash of namespace and name.
pub fn created_by(object: &ObjectKey) -> String {
    let digest = Sha256::digest(format!("{}/{}", object.namespace, object.name));
    digest[..28].iter().map(|b| format!("{b:02x}")).collect()
}

/// Labels and annotations of the object that its target gets too: all but tools' own notes about the object itself.
fn copied_metadata(object: &ExternalSecret) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let own = |key: &str| {
        key == "kubectl.kubernetes.io/last-applied-configuration"
            || key == "force-sync"
            || key.starts_with("reconcile.external-secrets.io/")
    };
    let copy = |map: &Option<BTreeMap<String, String>>| {
        map.iter().flatten().filter(|(k, _)| !own(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    (copy(&object.metadata.labels), copy(&object.metadata.annotations))
}

/// What a field manager set on a Secret.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OwnFields {
    labels: BTreeSet<String>,
    annotations: BTreeSet<String>,
    data: BTreeSet<String>,
}

/// Reads `managedFields`.
pub fn own_fields(secret: &Secret, manager: &str) -> OwnFields {
    let mut own = OwnFields::default();
    for entry in secret.metadata.managed_fields.iter().flatten().filter(|e| e.manager.as_deref() == Some(manager)) {
        let Some(fields) = entry.fields_v1.as_ref().map(|f| &f.0) else { continue };
        let keys = |path: &str| {
            let map = fields.pointer(path).and_then(Value::as_object);
            map.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("f:")).map(str::to_owned).collect::<Vec<_>>()
        };
        own.labels.extend(keys("/f:metadata/f:labels"));
        own.annotations.extend(keys("/f:metadata/f:annotations"));
        own.data.extend(keys("/f:data"));
    }
    own
}

/// What is to be done with the Secret that is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what it should be.
    Keep,
    /// It may be written, and must be.
    Write,
    /// It is somebody else's, or can't be changed.
    Refuse(String),
}

/// Compares the Secret that is there with the one that should be. `bound_before`: the object has written this very Secret.
pub fn judge(existing: &Secret, desired: &Desired, bound_before: bool) -> Verdict {
    let name = format!("Secret {}/{}", desired.namespace, desired.name);
    if is_exact(desired.policy)
        && let Some(refusal) = foreign(existing, desired, &name, bound_before)
    {
        return Verdict::Refuse(refusal);
    }
    if holds(existing, desired) {
        return Verdict::Keep;
    }
    if existing.immutable == Some(true) {
        return Verdict::Refuse(format!("{name} is immutable and differs; delete it to have it made anew"));
    }
    let there = existing.type_.as_deref().unwrap_or("Opaque");
    match desired.type_.as_deref() {
        Some(wanted) if wanted != there => Verdict::Refuse(format!(
            "{name} has type {there}, which can't be changed to {wanted}; delete it to have it made anew"
        )),
        _ => Verdict::Write,
    }
}

/// Why a Secret is not this object's to overwrite, if it is not. Ownership goes by UID.
fn foreign(existing: &Secret, desired: &Desired, name: &str, bound_before: bool) -> Option<String> {
    let me = &desired.object;
    if let Some(owner) = existing.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true)) {
        return match (owner.uid == desired.uid, owner.kind == "ExternalSecret", *owner.name == *me.name) {
            (true, ..) => None,
            (false, true, true) => {
                Some(format!("{name} still belongs to a deleted ExternalSecret {me}; it is made anew once that is collected"))
            }
            (false, true, false) => Some(format!(
                "{name} belongs to ExternalSecret {}/{}, not to {me}; give one of the two another spec.target.name",
                me.namespace, owner.name
            )),
            (false, false, _) => {
                Some(format!("{name} belongs to {} {}, not to ExternalSecret {me}; name another target", owner.kind, owner.name))
            }
        };
    }
    let labels = existing.metadata.labels.as_ref();
    match labels.and_then(|l| l.get(LABEL_CREATED_BY)) {
        Some(by) if *by == created_by(me) => None,
        Some(_) => Some(format!(
            "{name} was made by another ExternalSecret than {me}; remove its label {LABEL_CREATED_BY} to hand it over"
        )),
        None if bound_before || handed_over(existing) => None,
        None => Some(format!(
            "{name} exists and was not made by ExternalSecret {me}; use creationPolicy Merge to write keys into it, \
             or label it {LABEL_MANAGED}=true to hand it over"
        )),
    }
}

fn holds(existing: &Secret, desired: &Desired) -> bool {
    let contains = |there: Option<&BTreeMap<String, String>>, wanted: &BTreeMap<String, String>| {
        wanted.iter().all(|(k, v)| there.and_then(|t| t.get(k)) == Some(v))
    };
    let empty = BTreeMap::new();
    let data = existing.data.as_ref().unwrap_or(&empty);
    let same = desired.data.iter().all(|(k, v)| data.get(k).is_some_and(|b| b.0 == v.expose()));
    let exact = if is_exact(desired.policy) {
        let own = own_fields(existing, FIELD_MANAGER);
        data.len() == desired.data.len()
            && own.labels.iter().all(|l| desired.labels.contains_key(l))
            && own.annotations.iter().all(|a| desired.annotations.contains_key(a))
    } else {
        own_fields(existing, &desired.merge_manager()).data.iter().all(|k| desired.data.contains_key(k))
    };
    let owned = owned_by(existing, &desired.uid) == desired.owner.is_some();
    let type_ = desired.type_.as_deref().is_none_or(|t| existing.type_.as_deref() == Some(t));
    same && exact
        && owned
        && type_
        && (!desired.immutable || existing.immutable == Some(true))
        && contains(existing.metadata.labels.as_ref(), &desired.labels)
        && contains(existing.metadata.annotations.as_ref(), &desired.annotations)
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing was written.
    None,
    /// The Secret is new.
    Created,
    /// The Secret changed.
    Updated,
}

/// Why the target is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// A person must act.
    Refused(String),
    /// `creationPolicy: Merge` and no Secret to merge into.
    Missing(String),
    /// Somebody else wrote at the same time.
    Conflict(String),
    /// The API server did not do it.
    Api(String),
}

/// How often a write that somebody else outran is tried again in one reconcile.
const CONFLICT_TRIES: usize = 3;

/// Makes the target what it should be: nothing, or one write.
///
/// # Errors
/// [`ApplyError`]; the target is then as it was.
pub async fn apply(
    ctx: &Context,
    desired: &Desired,
    seen: &Seen,
    binding: Option<&Binding>,
) -> Result<(Binding, Change), ApplyError> {
    let bound = binding.filter(|b| b.name == desired.name);
    if let Some(binding) = bound.filter(|b| !seen.differs(Some(b)) && b.data_hash.as_deref() == Some(&desired.hash)) {
        return Ok((binding.clone(), Change::None));
    }
    let mut looked = match (seen, desired.policy) {
        (Seen::Absent, CreationPolicy::Owner | CreationPolicy::Orphan) => None,
        _ => get(ctx, desired).await?,
    };
    if let Some(existing) = looked.as_ref().filter(|s| !is_exact(desired.policy) && owned_by(s, &desired.uid)) {
        disown(ctx, desired, existing).await?;
        looked = get(ctx, desired).await?;
    }
    for _ in 0..CONFLICT_TRIES {
        let written = match (&looked, is_exact(desired.policy)) {
            (None, true) => create(ctx, desired).await,
            (Some(existing), exact) => match judge(existing, desired, is_bound(bound, existing)) {
                Verdict::Keep => return Ok((bound_to(ctx, desired, existing), Change::None)),
                Verdict::Refuse(why) => return Err(ApplyError::Refused(why)),
                Verdict::Write if exact => replace(ctx, desired, existing).await,
                Verdict::Write => server_side_apply(ctx, desired, Some(existing)).await,
            },
            (None, false) if desired.policy == CreationPolicy::Merge => {
                return Err(ApplyError::Missing(format!(
                    "Secret {}/{} does not exist, and creationPolicy Merge makes none; create it or use CreateOrMerge",
                    desired.namespace, desired.name
                )));
            }
            (None, false) => server_side_apply(ctx, desired, None).await,
        };
        match written {
            Ok(meta) => {
                let change = if looked.is_some() { Change::Updated } else { Change::Created };
                return Ok((bound_to(ctx, desired, &meta), change));
            }
            Err(ApplyError::Conflict(_)) => looked = get(ctx, desired).await?,
            Err(error) => return Err(error),
        }
    }
    Err(ApplyError::Conflict(format!(
        "Secret {}/{} is being written by somebody else; trying again",
        desired.namespace, desired.name
    )))
}

/// Whether a binding is to this very Secret, and not to an earlier one of the same name.
fn is_bound(binding: Option<&Binding>, secret: &Secret) -> bool {
    binding.is_some_and(|b| b.uid.is_some() && b.uid == secret.metadata.uid)
}

/// Takes our owner reference off a Secret that the object no longer owns the whole of.
async fn disown(ctx: &Context, desired: &Desired, existing: &Secret) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("update", "secrets");
    let mut secret = existing.clone();
    secret.metadata.owner_references.iter_mut().for_each(|all| all.retain(|o| o.uid != desired.uid));
    secret.metadata.managed_fields = None;
    let url = api(ctx, desired).resource_url().to_owned();
    let sent = kube_io::replace(&ctx.client, &url, &desired.name, &secret, FIELD_MANAGER).await;
    sent.map_err(|error| failure(desired, "update", &error))
}

/// The binding to the target as it is now; the watch's echo of our own write then tells nothing new.
fn bound_to(ctx: &Context, desired: &Desired, written: &impl Resource) -> Binding {
    let (uid, version) = (written.meta().uid.clone(), written.meta().resource_version.clone());
    if let (Some(uid), Some(version)) = (&uid, &version) {
        let key = ObjectKey::new(&desired.namespace, &desired.name);
        ctx.state.target_written(&key, Seen::There { uid: uid.clone(), version: version.clone() });
    }
    Binding { name: desired.name.clone(), uid, resource_version: version, data_hash: Some(desired.hash.clone()) }
}

fn api(ctx: &Context, desired: &Desired) -> Api<Secret> {
    Api::namespaced(ctx.client.clone(), &desired.namespace)
}

async fn get(ctx: &Context, desired: &Desired) -> Result<Option<Secret>, ApplyError> {
    ctx.metrics.api_request("get", "secrets");
    api(ctx, desired).get_opt(&desired.name).await.map_err(|error| failure(desired, "get", &error))
}

async fn create(ctx: &Context, desired: &Desired) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("create", "secrets");
    let sent = kube_io::create(&ctx.client, api(ctx, desired).resource_url(), &desired.manifest(None), FIELD_MANAGER).await;
    sent.map_err(|error| failure(desired, "create", &error))
}

async fn replace(ctx: &Context, desired: &Desired, existing: &Secret) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("update", "secrets");
    let url = api(ctx, desired).resource_url().to_owned();
    let sent = kube_io::replace(&ctx.client, &url, &desired.name, &desired.replacement(existing), FIELD_MANAGER).await;
    sent.map_err(|error| failure(desired, "update", &error))
}

/// With `existing`, only onto that very Secret: its UID in the manifest makes the API server refuse any other.
async fn server_side_apply(ctx: &Context, desired: &Desired, existing: Option<&Secret>) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("patch", "secrets");
    let uid = existing.and_then(|s| s.metadata.uid.as_deref());
    let url = api(ctx, desired).resource_url().to_owned();
    let sent = kube_io::apply(&ctx.client, &url, &desired.name, &desired.manifest(uid), &desired.merge_manager()).await;
    sent.map_err(|error| failure(desired, "patch", &error))
}

fn failure(desired: &Desired, verb: &str, error: &kube::Error) -> ApplyError {
    let name = format!("Secret {}/{}", desired.namespace, desired.name);
    match error {
        kube::Error::Api(status) => {
            let said = desired.scrub(&status.message);
            match status.code {
                409 => ApplyError::Conflict(said),
                404 if verb != "create" => ApplyError::Conflict(said),
                403 => ApplyError::Refused(format!("{name}: the API server refuses {verb} (code 403: {said})")),
                400 | 404 | 422 => {
                    ApplyError::Refused(format!("{name}: the API server does not take it (code {}: {said})", status.code))
                }
                code => ApplyError::Api(format!("{name}: {verb} failed (code {code}: {said})")),
            }
        }
        _ => ApplyError::Api(format!("{name}: the API server did not answer {verb}")),
    }
}

/// Deletes the target, if it is the very Secret that this object wrote and owns. Answers whether it was there.
///
/// # Errors
/// [`ApplyError`].
pub async fn delete(ctx: &Context, object: &ExternalSecret, seen: &Seen, binding: Option<&Binding>) -> Result<bool, ApplyError> {
    let (Some(binding), Seen::There { uid, .. }) = (binding, seen) else { return Ok(false) };
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = format!("Secret {namespace}/{}", binding.name);
    let secrets = Api::<Secret>::namespaced(ctx.client.clone(), namespace);
    ctx.metrics.api_request("get", "secrets");
    let found = secrets.get_opt(&binding.name).await.map_err(|_| ApplyError::Api(format!("{name}: get failed")))?;
    let Some(existing) = found else { return Ok(false) };
    let mine = object.metadata.uid.as_deref().is_some_and(|own| owned_by(&existing, own));
    if !mine || binding.uid.as_deref() != Some(uid) || existing.metadata.uid.as_deref() != Some(uid) {
        let object = object.name_any();
        return Err(ApplyError::Refused(format!(
            "{name} is not the one that ExternalSecret {object} wrote and owns; it is not deleted"
        )));
    }
    let version = existing.metadata.resource_version.clone();
    ctx.metrics.api_request("delete", "secrets");
    let only = Preconditions { uid: Some(uid.clone()), resource_version: version };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    match secrets.delete(&binding.name, &params).await {
        Ok(_) => {
            ctx.state.target_removed(&ObjectKey::new(namespace, &binding.name));
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(ApplyError::Conflict(format!("{name} changed while it was deleted")))
        }
        Err(kube::Error::Api(status)) => Err(ApplyError::Api(format!("{name}: delete failed (code {})", status.code))),
        Err(_) => Err(ApplyError::Api(format!("{name}: the API server did not answer delete"))),
    }
}

/// Whether a touched target still holds what was written: its own annotation and data say so, and no provider is asked.
pub async fn intact(ctx: &Context, object: &ExternalSecret, binding: &Binding) -> Result<Option<Binding>, ApplyError> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    ctx.metrics.api_request("get", "secrets");
    let found = Api::<Secret>::namespaced(ctx.client.clone(), namespace).get_opt(&binding.name).await;
    let found = found.map_err(|_| ApplyError::Api(format!("Secret {namespace}/{}: get failed", binding.name)))?;
    let Some(existing) = found else { return Ok(None) };
    let manager_data = if is_exact(object.spec.target.creation_policy) {
        None
    } else {
        let key = ObjectKey::new(namespace, &object.name_any());
        Some(own_fields(&existing, &format!("{FIELD_MANAGER}-{}", &created_by(&key)[..16])).data)
    };
    let mut data: BTreeMap<String, SecretBytes> =
        existing.data.iter().flatten().map(|(k, v)| (k.clone(), SecretBytes::new(v.0.clone()))).collect();
    if let Some(own) = manager_data {
        data.retain(|k, _| own.contains(k));
    }
    // What the object would write if the providers gave just this: the same hash means that nothing of it was touched.
    let Ok(desired) = Desired::new(object, data) else { return Ok(None) };
    // After a restart the target's own annotation says what was written.
    let written = binding.data_hash.as_ref().or_else(|| existing.annotations().get(ANNOTATION_DATA_HASH));
    let same = Some(&desired.hash) == written && existing.uid() == binding.uid && holds(&existing, &desired);
    Ok(same.then(|| bound_to(ctx, &desired, &existing)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(policy: &str) -> ExternalSecret {
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
            "metadata": {"name": "es", "namespace": "ns", "uid": "uid-1", "labels": {"team": "a"},
                "annotations": {"force-sync": "1", "kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "n"}},
            "spec": {"target": {"creationPolicy": policy, "name": "t"}},
        }))
        .unwrap()
    }

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretBytes> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), SecretBytes::from(*v))).collect()
    }

    fn desired(policy: &str, pairs: &[(&str, &str)]) -> Desired {
        Desired::new(&object(policy), data(pairs)).unwrap()
    }

    fn secret(manifest: &Manifest<'_>) -> Secret {
        serde_json::from_value(serde_json::to_value(manifest).unwrap()).unwrap()
    }

    fn foreign_secret(meta: Value) -> Secret {
        let mut all = json!({"name": "t", "namespace": "ns", "uid": "s"});
        all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": all, "data": {"k": STANDARD.encode("old")}})).unwrap()
    }

    #[test]
    fn what_was_written_is_kept_and_every_difference_is_seen() {
        for policy in ["Owner", "Orphan"] {
            let d = desired(policy, &[("k", "v")]);
            let written = secret(&d.manifest(None));
            assert_eq!(judge(&written, &d, false), Verdict::Keep, "{policy}");
            for change in [
                |s: &mut Secret| drop(s.data.as_mut().unwrap().remove("k")),
                |s: &mut Secret| drop(s.data.as_mut().unwrap().insert("more".into(), k8s_openapi::ByteString(vec![]))),
                |s: &mut Secret| s.data.as_mut().unwrap().get_mut("k").unwrap().0 = b"x".to_vec(),
                |s: &mut Secret| drop(s.metadata.labels.as_mut().unwrap().remove("team")),
                |s: &mut Secret| drop(s.metadata.annotations.as_mut().unwrap().remove("note")),
            ] {
                let mut touched = written.clone();
                change(&mut touched);
                assert_eq!(judge(&touched, &d, true), Verdict::Write, "{policy}");
            }
        }
        let d = desired("Owner", &[("k", "v")]);
        assert_ne!(d.hash, desired("Owner", &[("k", "w")]).hash);
        assert_ne!(d.hash, desired("Orphan", &[("k", "v")]).hash);
        assert!(!d.annotations.contains_key("force-sync") && d.annotations.contains_key("note"));
    }

    #[test]
    fn somebody_elses_secret_is_refused_with_both_names_and_a_way_out() {
        let owner = |kind: &str, name: &str, uid: &str| json!({"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]});
        let by = |manager: &str| {
            json!({"labels": {LABEL_MANAGED: "true"}, "managedFields": [{"manager": manager, "operation": "Apply",
            "fieldsV1": {"f:metadata": {"f:labels": {format!("f:{LABEL_MANAGED}"): {}}}}}]})
        };
        for (meta, bound, needle) in [
            (json!({}), false, Some("was not made by ExternalSecret ns/es")),
            (json!({}), true, None),
            (json!({"labels": {LABEL_MANAGED: "true"}}), false, None),
            (by("kubectl"), false, None),
            (by("lockstep-0123"), false, Some("was not made by ExternalSecret ns/es")),
            (
                json!({"labels": {LABEL_MANAGED: "true", LABEL_CREATED_BY: "other"}}),
                true,
                Some("was made by another ExternalSecret than ns/es"),
            ),
            (owner("ExternalSecret", "es", "uid-1"), false, None),
            (owner("ExternalSecret", "es", "uid-0"), true, Some("still belongs to a deleted ExternalSecret ns/es")),
            (owner("ExternalSecret", "other", "uid-2"), true, Some("belongs to ExternalSecret ns/other, not to ns/es")),
            (owner("Certificate", "cert", "uid-3"), true, Some("belongs to Certificate cert")),
        ] {
            let verdict = judge(&foreign_secret(meta.clone()), &desired("Owner", &[("k", "v")]), bound);
            match (needle, &verdict) {
                (None, Verdict::Write) => {}
                (Some(needle), Verdict::Refuse(why)) if why.contains(needle) => {}
                _ => panic!("{meta} {bound}: {verdict:?}"),
            }
        }
        // The Merge policies write only their own keys, so whose Secret it is does not matter.
        assert_eq!(judge(&foreign_secret(json!({})), &desired("Merge", &[("k", "v")]), false), Verdict::Write);
    }

    #[test]
    fn a_policy_that_no_longer_owns_takes_its_owner_reference_off() {
        let written = secret(&desired("Owner", &[("k", "v")]).manifest(None));
        let orphan = desired("Orphan", &[("k", "v")]);
        assert_eq!(judge(&written, &orphan, true), Verdict::Write);
        assert!(secret(&orphan.replacement(&written)).metadata.owner_references.is_none_or(|o| o.is_empty()));
    }

    #[test]
    fn an_immutable_or_differently_typed_secret_is_an_error_and_no_write() {
        let d = desired("Owner", &[("k", "v")]);
        let mut written = secret(&d.manifest(None));
        written.immutable = Some(true);
        assert_eq!(judge(&written, &d, true), Verdict::Keep);
        let changed = desired("Owner", &[("k", "w")]);
        assert!(matches!(judge(&written, &changed, true), Verdict::Refuse(why) if why.contains("immutable")));
        let mut typed = object("Owner");
        typed.spec.target.template = Some(serde_json::from_value(json!({"type": "kubernetes.io/basic-auth"})).unwrap());
        let typed = Desired::new(&typed, data(&[("password", "p")])).unwrap();
        let plain = secret(&desired("Owner", &[("password", "p")]).manifest(None));
        assert!(matches!(judge(&plain, &typed, true), Verdict::Refuse(why) if why.contains("type Opaque")));
    }

    #[test]
    fn a_replacement_keeps_what_others_added_and_drops_what_was_ours() {
        let d = desired("Owner", &[("k", "v")]);
        let mut existing = foreign_secret(json!({
            "labels": {"theirs": "x", "ours-before": "y", "team": "old"}, "finalizers": ["keep.example/it"],
            "managedFields": [
                {"manager": "lockstep", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:ours-before": {}, "f:team": {}}}}},
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
            ],
        }));
        existing.metadata.resource_version = Some("9".into());
        let replacement = secret(&d.replacement(&existing));
        let labels = replacement.metadata.labels.unwrap();
        assert_eq!(labels.get("theirs").map(String::as_str), Some("x"));
        assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        assert!(!labels.contains_key("ours-before"));
        assert_eq!(replacement.metadata.finalizers.unwrap(), ["keep.example/it"]);
        assert_eq!(replacement.metadata.resource_version.as_deref(), Some("9"));
        assert_eq!(replacement.data.unwrap().len(), 1);
    }

    #[test]
    fn sizes_and_shapes_are_checked_before_the_write() {
        let big = "x".repeat(MAX_SECRET_BYTES + 1);
        let error = Desired::new(&object("Owner"), data(&[("big", &big)])).err().unwrap();
        assert!(error.contains("1048577 bytes") && error.contains("largest key is big"), "{error}");
        for (type_, pairs, needle) in [
            ("kubernetes.io/tls", vec![("tls.crt", "c")], "needs the key tls.key"),
            ("kubernetes.io/dockerconfigjson", vec![(".dockerconfigjson", "canary")], "needs JSON"),
            ("kubernetes.io/ssh-auth", vec![("k", "v")], "ssh-privatekey"),
            ("kubernetes.io/basic-auth", vec![("k", "v")], "username or the key password"),
        ] {
            let error = check_shape(type_, &data(&pairs)).unwrap_err();
            assert!(error.contains(needle) && !error.contains("canary"), "{error}");
        }
        assert!(REFUSED_TYPES.iter().all(|t| check_type(t).is_err()) && check_type("my/type").is_ok());
    }
}
