//! The Secret that is written: what it should be, whose it is, and whether it is what it should be already. Pure; what is
//! sent is in [`write`].

mod owner;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use lockstep_crds::external_secret::{Binding, CreationPolicy};
use lockstep_crds::{ANNOTATION_DATA_HASH, ExternalSecret, LABEL_CREATED_BY, LABEL_MANAGED};
use lockstep_providers::error::foreign_text;
use lockstep_providers::{CLUSTER_CREDENTIALS, SecretBytes};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::data::MAX_SECRET_BYTES;
use super::template::{self, Content, Metadata};
use crate::hash::PartsHash;
use crate::keys::ObjectKey;

pub use owner::foreign;
use owner::{OwnFields, own_fields};
pub use write::{ApplyError, Change, apply, delete, intact, settle};

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
        uid: Box<str>,
        /// Its resource version.
        version: Box<str>,
    },
}

impl Seen {
    /// Whether it is something else than what was written last.
    pub fn differs(&self, binding: Option<&Binding>) -> bool {
        binding.is_some_and(|b| match self {
            Self::Absent => true,
            Self::There { uid, version } => b.uid.as_deref() != Some(&**uid) || b.resource_version.as_deref() != Some(&**version),
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
    finalizers: Vec<String>,
    /// Names of the labels and annotations that a template gave.
    rendered: Option<(BTreeSet<String>, BTreeSet<String>)>,
    data: BTreeMap<String, SecretBytes>,
    owner: Option<OwnerReference>,
    policy: CreationPolicy,
    /// Of everything above, salted with the object's UID: equal values of two objects have different hashes.
    pub hash: String,
    object: ObjectKey,
    uid: String,
}

/// Begins the annotation that says what was rendered by chance.
const MARK_PREFIX: &str = "reconcile.external-secrets.io/rendered-";

/// Refuses types that would grant rights in the cluster.
///
/// # Errors
/// A sentence that names the type.
pub fn check_type(type_: &str) -> Result<(), String> {
    match CLUSTER_CREDENTIALS.contains(&type_) {
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
    pub fn new(object: &ExternalSecret, content: Content) -> Result<Self, String> {
        let Content { data, metadata, .. } = content;
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
        let names = |map: &BTreeMap<String, String>| map.keys().cloned().collect();
        let rendered = metadata.as_ref().map(|metadata| (names(&metadata.labels), names(&metadata.annotations)));
        let (mut labels, annotations) = metadata_of(object, metadata);
        let of_template = target.template.as_ref().and_then(|t| t.metadata.as_ref());
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
            annotations,
            rendered,
            finalizers: of_template.map(|m| m.finalizers.clone()).unwrap_or_default(),
            data,
            owner: (policy == CreationPolicy::Owner).then(|| object.controller_owner_ref(&())).flatten(),
            policy,
            hash: String::new(),
            object: key,
            uid: object.uid().unwrap_or_default(),
        };
        desired.seal();
        Ok(desired)
    }

    fn fingerprint(&self) -> String {
        let mut hash = PartsHash::default();
        let mut part = |bytes: &[u8]| hash.add(bytes);
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
        hash.hex()
    }

    /// Finalizers that a Secret does not have yet; one that is going gets none.
    fn lacking_finalizers<'a>(&'a self, existing: &'a Secret) -> impl Iterator<Item = &'a String> {
        let meta = &existing.metadata;
        let wanted: &[String] = if meta.deletion_timestamp.is_none() { &self.finalizers } else { &[] };
        wanted.iter().filter(|f| !meta.finalizers.as_ref().is_some_and(|all| all.contains(f)))
    }

    /// What was rendered from the same inputs before, and not touched since, stays as it is: chance and the clock are asked once.
    /// `inputs` is the hash of what was rendered; a mark in the Secret says what was there when it was written.
    pub fn keep(&mut self, there: Option<&Secret>, inputs: &str) {
        let name = self.mark();
        let marked = there.and_then(|s| s.metadata.annotations.as_ref()).and_then(|a| a.get(&name));
        if let (Some(existing), Some(marked)) = (there, marked) {
            let fresh = (self.data.clone(), self.labels.clone(), self.annotations.clone());
            for (key, value) in &mut self.data {
                if let Some(bytes) = existing.data.as_ref().and_then(|data| data.get(key)) {
                    *value = SecretBytes::new(bytes.0.clone());
                }
            }
            let (labels, annotations) = self.rendered.clone().unwrap_or_default();
            let of_existing = [
                (labels, &mut self.labels, &existing.metadata.labels),
                (annotations, &mut self.annotations, &existing.metadata.annotations),
            ];
            for (names, wanted, there) in of_existing {
                for (key, value) in wanted.iter_mut().filter(|(key, _)| names.contains(*key)) {
                    if let Some(now) = there.as_ref().and_then(|t| t.get(key)) {
                        value.clone_from(now);
                    }
                }
            }
            if *marked != format!("{inputs}.{}", self.of_chance()) {
                (self.data, self.labels, self.annotations) = fresh;
            }
        }
        self.annotations.remove(ANNOTATION_DATA_HASH);
        self.annotations.remove(&name);
        self.seal();
        self.annotations.insert(name, format!("{inputs}.{}", self.of_chance()));
    }

    /// Hash of what templates gave, and of nothing that comes from elsewhere: that may change by itself.
    fn of_chance(&self) -> String {
        let mut hash = PartsHash::default();
        let mut part = |bytes: &[u8]| hash.add(bytes);
        part(self.uid.as_bytes());
        for (key, value) in &self.data {
            part(key.as_bytes());
            part(value.expose());
        }
        let (labels, annotations) = self.rendered.clone().unwrap_or_default();
        for (names, map) in [(labels, &self.labels), (annotations, &self.annotations)] {
            for name in names {
                part(name.as_bytes());
                part(map.get(&name).map(String::as_bytes).unwrap_or_default());
            }
        }
        hash.hex()
    }

    /// Whether the API server's words about this Secret may quote what a template gave: they are not repeated then.
    pub fn has_rendered_metadata(&self) -> bool {
        self.rendered.is_some()
    }

    /// The annotation that says what was rendered by chance from which inputs.
    fn mark(&self) -> String {
        format!("{MARK_PREFIX}{}", &created_by(&self.object)[..16])
    }

    /// Computes the hash, and writes it down where the whole Secret is ours.
    fn seal(&mut self) {
        self.hash = self.fingerprint();
        if is_exact(self.policy) {
            self.annotations.insert(ANNOTATION_DATA_HASH.into(), self.hash.clone());
        }
    }

    fn encoded(&self) -> BTreeMap<&str, String> {
        self.data.iter().map(|(k, v)| (k.as_str(), STANDARD.encode(v.expose()))).collect()
    }

    /// The manifest of a new Secret, or of a server-side apply on the one that has `uid`.
    fn manifest(&self, existing: Option<&Secret>) -> Manifest<'_> {
        let uid = existing.and_then(|s| s.metadata.uid.as_deref());
        // One that is going gets no finalizer that it has not.
        let going = existing.filter(|s| s.metadata.deletion_timestamp.is_some());
        let stays = |f: &&String| going.is_none_or(|s| s.metadata.finalizers.as_ref().is_some_and(|all| all.contains(f)));
        let finalizers: Vec<&String> = self.finalizers.iter().filter(stays).collect();
        Manifest {
            api_version: "v1",
            kind: "Secret",
            metadata: without_empty(json!({
                "name": self.name, "namespace": self.namespace, "labels": self.labels, "annotations": self.annotations,
                "ownerReferences": self.owner.iter().collect::<Vec<_>>(), "uid": uid, "finalizers": finalizers,
            })),
            type_: self.type_.as_deref(),
            immutable: self.immutable.then_some(true),
            data: self.encoded(),
        }
    }

    /// The manifest that replaces `existing`, keeping what others put into its metadata.
    fn replacement<'a>(&'a self, existing: &'a Secret) -> Manifest<'a> {
        let own = own_fields(&existing.metadata, FIELD_MANAGER);
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
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.extend(self.lacking_finalizers(existing).cloned());
        Manifest {
            api_version: "v1",
            kind: "Secret",
            metadata: without_empty(json!({
                "name": self.name, "namespace": self.namespace, "uid": meta.uid, "resourceVersion": meta.resource_version,
                "labels": kept(meta.labels.as_ref(), &own.labels, &self.labels),
                "annotations": kept(meta.annotations.as_ref(), &own.annotations, &self.annotations),
                "ownerReferences": owners, "finalizers": finalizers,
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
        let rendered = self.labels.values().chain(self.annotations.values()).map(String::as_str);
        let values: Vec<&str> =
            self.data.values().filter_map(SecretBytes::as_text).chain(rendered).filter(|v| v.len() > 3).collect();
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

/// Whether the policy owns the whole Secret, and not only its own keys.
pub fn is_exact(policy: CreationPolicy) -> bool {
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

/// The labels and annotations of a target: those of its template, else those of the object.
pub fn metadata_of(object: &ExternalSecret, rendered: Option<Metadata>) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    match rendered {
        Some(Metadata { labels, annotations }) => (labels, annotations),
        None => copied_metadata(object),
    }
}

/// What this very Secret says, as if templates had just given it.
fn content_of(existing: &Secret, object: &ExternalSecret, own: &OwnFields, exact: bool) -> Content {
    let mine = |key: &String| exact || own.data.contains(key);
    let data = existing.data.iter().flatten().filter(|(k, _)| mine(k));
    let data = data.map(|(k, v)| (k.clone(), SecretBytes::new(v.0.clone()))).collect();
    let chosen = |there: &Option<BTreeMap<String, String>>, own: &BTreeSet<String>| {
        let kept = there.iter().flatten().filter(|(k, _)| own.contains(*k) && !k.starts_with("reconcile.external-secrets.io/"));
        kept.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let metadata = object.spec.target.template.as_ref().filter(|t| template::gives_metadata(t)).map(|_| Metadata {
        labels: chosen(&existing.metadata.labels, &own.labels),
        annotations: chosen(&existing.metadata.annotations, &own.annotations),
    });
    Content { data, metadata, ..Content::default() }
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
    /// It can't be changed, and a watch tells when it goes.
    Fixed(String),
}

/// Compares the Secret that is there with the one that should be. `bound_before`: the object has written this very Secret.
pub fn judge(existing: &Secret, desired: &Desired, bound_before: bool) -> Verdict {
    let name = format!("Secret {}/{}", desired.namespace, desired.name);
    if is_exact(desired.policy)
        && let Some(refusal) = foreign(&existing.metadata, &desired.object, &desired.uid, &name, bound_before)
    {
        return Verdict::Refuse(refusal);
    }
    if holds(existing, desired) {
        return Verdict::Keep;
    }
    // Those with the label are watched.
    let is_managed = existing.metadata.labels.as_ref().and_then(|l| l.get(LABEL_MANAGED)).is_some_and(|v| v == "true");
    let refuse = |why| if is_managed { Verdict::Fixed(why) } else { Verdict::Refuse(why) };
    if existing.immutable == Some(true) {
        return refuse(format!("{name} is immutable and differs; delete it to have it made anew"));
    }
    let there = existing.type_.as_deref().unwrap_or("Opaque");
    if CLUSTER_CREDENTIALS.contains(&there) {
        return refuse(format!("{name} has type {there}, a credential of the cluster itself, and is left alone"));
    }
    match desired.type_.as_deref() {
        Some(wanted) if wanted != there => {
            refuse(format!("{name} has type {there}, which can't be changed to {wanted}; delete it to have it made anew"))
        }
        _ => Verdict::Write,
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
        let own = own_fields(&existing.metadata, FIELD_MANAGER);
        data.len() == desired.data.len()
            && own.labels.iter().all(|l| desired.labels.contains_key(l))
            && own.annotations.iter().all(|a| desired.annotations.contains_key(a))
    } else {
        let own = own_fields(&existing.metadata, &desired.merge_manager());
        own.data.iter().all(|k| desired.data.contains_key(k))
            && own.labels.iter().all(|l| desired.labels.contains_key(l))
            && own.annotations.iter().all(|a| desired.annotations.contains_key(a))
    };
    let owned = owned_by(existing, &desired.uid) == desired.owner.is_some();
    let type_ = desired.type_.as_deref().is_none_or(|t| existing.type_.as_deref() == Some(t));
    same && exact
        && owned
        && type_
        && (!desired.immutable || existing.immutable == Some(true))
        && desired.lacking_finalizers(existing).next().is_none()
        && contains(existing.metadata.labels.as_ref(), &desired.labels)
        && contains(existing.metadata.annotations.as_ref(), &desired.annotations)
}

#[cfg(test)]
mod tests;
