//! Targets of another kind than Secret: the shell half. One server-side apply, preceded by one GET of the metadata, and a watch of
//! that very object, so that a change by hand is put right at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, Preconditions};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::discovery::{Scope, pinned_kind};
use lockstep_crds::external_secret::{Binding, CreationPolicy, TargetManifest};
use lockstep_crds::{ANNOTATION_DATA_HASH, ExternalSecret, LABEL_CREATED_BY, LABEL_MANAGED};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::manifest::{self, ROOM};
use super::status::{Failure, Outcome};
use super::target::{ApplyError, Change, FIELD_MANAGER, Seen, created_by, foreign, is_exact, metadata_of};
use super::template::Content;
use super::{Memo, kube_error};
use crate::context::Context;
use crate::hash::PartsHash;
use crate::keys::{ObjectKey, Referrer};
use crate::kube_io;
use crate::queue::Wake;
use crate::refs::RefObject;
use crate::resolver::ObjectResolver;

/// What is known of targets of other kinds.
#[derive(Default)]
pub struct Generic {
    kinds: Mutex<HashMap<(String, String), ApiResource>>,
    /// Those that a watch has shown to be something else than what was written, each with the number of that news.
    touched: Mutex<HashMap<ObjectKey, (Seen, usize)>>,
    news: AtomicUsize,
}

impl Generic {
    fn touched_ones(&self) -> MutexGuard<'_, HashMap<ObjectKey, (Seen, usize)>> {
        self.touched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The target of an object, as its watch has shown it; before that, as it was written.
    pub fn seen(&self, key: &ObjectKey, binding: Option<&Binding>) -> Seen {
        if let Some((seen, _)) = self.touched_ones().get(key) {
            return seen.clone();
        }
        match binding.map(|b| (b.uid.as_deref(), b.resource_version.as_deref())) {
            Some((Some(uid), Some(version))) => Seen::There { uid: uid.into(), version: version.into() },
            _ => Seen::Absent,
        }
    }

    /// A target is not what was written.
    pub fn touched(&self, ctx: &Context, key: &ObjectKey, there: bool) {
        let seen = if there { Seen::There { uid: "".into(), version: "".into() } } else { Seen::Absent };
        self.note(key, seen);
        ctx.objects.wake(key.clone(), Wake::target(Instant::now()));
    }

    fn note(&self, key: &ObjectKey, seen: Seen) {
        let number = self.news.fetch_add(1, Ordering::Relaxed);
        self.touched_ones().insert(key.clone(), (seen, number));
    }

    /// Which news of a target there is.
    fn mark(&self, key: &ObjectKey) -> Option<usize> {
        self.touched_ones().get(key).map(|(_, number)| *number)
    }

    /// A target is what it should be, by a look or a write that began at `mark`. That it went meanwhile is newer: a watch may be ahead
    /// of the answer to a write.
    fn settled(&self, key: &ObjectKey, mark: Option<usize>) {
        let mut touched = self.touched_ones();
        if touched.get(key).is_some_and(|(seen, number)| *seen != Seen::Absent || Some(*number) == mark) {
            touched.remove(key);
        }
    }

    /// Forgets objects that are none any more.
    pub fn retain(&self, is: impl Fn(&ObjectKey) -> bool) {
        self.touched_ones().retain(|key, _| is(key));
    }
}

/// The resource of a kind.
async fn resource(ctx: &Context, manifest: &TargetManifest) -> Result<ApiResource, ApplyError> {
    let id = (manifest.api_version.clone(), manifest.kind.clone());
    let known = ctx.generic.kinds.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&id).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let field = "spec.target.manifest";
    manifest::check(manifest).map_err(ApplyError::Refused)?;
    let (group, version) = manifest::group_and_version(&manifest.api_version).unwrap_or_default();
    let kind = GroupVersionKind::gvk(group, version, &manifest.kind);
    ctx.metrics.api_request("get", "apis");
    let found = kube_io::in_time(|| pinned_kind(&ctx.client, &kind)).await;
    let (resource, capabilities) = found.map_err(|error| match error {
        kube::Error::Api(status) if status.code != 404 => {
            ApplyError::Api(format!("{field}: {}", kube_error(&kube::Error::Api(status))))
        }
        kube::Error::Api(_) | kube::Error::Discovery(_) => {
            ApplyError::Refused(format!("{field}: the API server serves no kind {} in {}", manifest.kind, manifest.api_version))
        }
        other => ApplyError::Api(format!("{field}: {}", kube_error(&other))),
    })?;
    if capabilities.scope == Scope::Cluster {
        let why =
            format!("{field}: {} has no namespace; a target must lie in the namespace of its ExternalSecret", manifest.kind);
        return Err(ApplyError::Refused(why));
    }
    ctx.generic.kinds.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id, resource.clone());
    Ok(resource)
}

/// After a start: the target is watched, from what was written on.
pub async fn adopt(ctx: &Arc<Context>, key: &ObjectKey, manifest: &TargetManifest, binding: &Binding) {
    if ctx.options.generic_targets
        && let Ok(resource) = resource(ctx, manifest).await
    {
        let target = RefObject::target(&resource, &key.namespace, &binding.name);
        ctx.object_refs.note(&Referrer::ExternalSecret(key.clone()), target, binding.resource_version.clone());
    }
}

/// Builds the manifest and makes the target what it says.
#[expect(clippy::too_many_arguments, reason = "what was read, and what is written")]
pub async fn write(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    target: &TargetManifest,
    content: Content,
    memo: &Memo,
    resolver: &ObjectResolver<'_>,
    versions: Box<[Option<Arc<str>>]>,
    missing: Vec<String>,
) -> Outcome {
    if !ctx.options.generic_targets {
        let why = "spec.target.manifest: targets of other kinds than Secret are not allowed; the operator's flag \
                   --unsafe-allow-generic-targets allows them";
        return Outcome::Failed(Failure::rejected(why.into()));
    }
    let desired = match Desired::new(key, object, target, content) {
        Ok(desired) => desired,
        Err(why) => return Outcome::Failed(Failure { category: "invalid", ..Failure::rejected(why) }),
    };
    if object.spec.target.creation_policy == CreationPolicy::None {
        return Outcome::Synced { binding: None, change: Change::None, versions, missing };
    }
    let Ok(_permit) = ctx.writes.acquire().await else {
        return Outcome::Failed(Failure::writing(ApplyError::Conflict("the operator is stopping".into())));
    };
    match apply(ctx, key, object, target, &desired, memo.binding.as_ref(), resolver).await {
        Ok((binding, change)) => Outcome::Synced { binding: Some(binding), change, versions, missing },
        Err(error) => Outcome::Failed(Failure::writing(error)),
    }
}

/// The target as it should be.
struct Desired {
    manifest: Value,
    hash: String,
    /// The annotation that says from what chance was rendered.
    mark: Option<(String, String)>,
    /// Texts that no message repeats.
    secrets: Vec<String>,
}

impl Desired {
    fn new(key: &ObjectKey, object: &ExternalSecret, target: &TargetManifest, content: Content) -> Result<Self, String> {
        let Content { data, metadata, volatile, placed } = content;
        let mut manifest = Value::Null;
        let mut room = ROOM;
        if !data.is_empty() {
            manifest::default_path(target).put(&mut manifest, manifest::texts(&data)?, &mut room)?;
        }
        for part in placed {
            part.path.put(&mut manifest, part.value, &mut room).map_err(|why| format!("{}: {why}", part.field))?;
        }
        let (mut labels, mut annotations) = metadata_of(object, metadata);
        let hash = {
            let mut hash = PartsHash::default();
            hash.add(object.metadata.uid.as_deref().unwrap_or_default().as_bytes());
            hash.add(manifest.to_string().as_bytes());
            hash.add(json!([labels, annotations]).to_string().as_bytes());
            hash.add(format!("{:?}", object.spec.target.creation_policy).as_bytes());
            hash.hex()
        };
        let mark = volatile.map(|inputs| (format!("reconcile.external-secrets.io/rendered-{}", &created_by(key)[..16]), inputs));
        let secrets = data.values().filter_map(|v| v.as_text()).filter(|t| t.len() > 3).map(str::to_owned).collect();
        labels.insert(LABEL_MANAGED.into(), "true".into());
        annotations.extend(mark.clone());
        let owner = (object.spec.target.creation_policy == CreationPolicy::Owner)
            .then(|| kube::Resource::controller_owner_ref(object, &()))
            .flatten();
        if is_exact(object.spec.target.creation_policy) {
            labels.insert(LABEL_CREATED_BY.into(), created_by(key));
            annotations.insert(ANNOTATION_DATA_HASH.into(), hash.clone());
        }
        let fields = if manifest.is_null() { json!({}) } else { manifest };
        let mut manifest = fields;
        manifest["apiVersion"] = json!(target.api_version);
        manifest["kind"] = json!(target.kind);
        manifest["metadata"] = json!({
            "name": object.target_name(), "namespace": *key.namespace, "labels": labels, "annotations": annotations,
        });
        if let Some(owner) = owner {
            manifest["metadata"]["ownerReferences"] = json!([owner]);
        }
        manifest::check_size(&manifest)?;
        Ok(Self { manifest, hash, mark, secrets })
    }

    fn scrub(&self, text: &str) -> String {
        let secrets: Vec<&str> = self.secrets.iter().map(String::as_str).collect();
        lockstep_providers::error::foreign_text(text, &secrets)
    }
}

type Meta = PartialObjectMeta<DynamicObject>;

async fn get(ctx: &Context, resource: &ApiResource, namespace: &str, name: &str) -> kube::Result<Option<Meta>> {
    ctx.metrics.api_request("get", "targets");
    let api: Api<Meta> = Api::namespaced_with(ctx.client.clone(), namespace, resource);
    kube_io::in_time(|| api.get_opt(name)).await
}

async fn apply(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    target: &TargetManifest,
    desired: &Desired,
    binding: Option<&Binding>,
    resolver: &ObjectResolver<'_>,
) -> Result<(Binding, Change), ApplyError> {
    let resource = resource(ctx, target).await?;
    let (policy, name) = (object.spec.target.creation_policy, object.target_name());
    let exact = is_exact(policy);
    let what = format!("{} {}/{name}", target.kind, key.namespace);
    let reference = RefObject::target(&resource, &key.namespace, name);
    let bound = binding.filter(|b| b.name == name);
    let mark = ctx.generic.mark(key);
    if let Some(bound) = bound.filter(|b| mark.is_none() && b.uid.is_some() && b.data_hash.as_deref() == Some(&desired.hash)) {
        resolver.note(reference, bound.resource_version.clone());
        return Ok((bound.clone(), Change::None));
    }
    let url = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), &key.namespace, &resource).resource_url().to_owned();
    let looked = async || get(ctx, &resource, &key.namespace, name).await.map_err(|error| failure(desired, &what, "get", &error));
    let mut existing = looked().await?;
    let me = object.metadata.uid.as_deref().unwrap_or_default();
    if let Some(owned) = existing.as_ref().filter(|e| !exact && e.owner_references().iter().any(|o| o.uid == me)) {
        // It was ours as a whole: who merges into it takes it along no more.
        let others: Vec<_> = owned.owner_references().iter().filter(|o| o.uid != me).collect();
        let meta = &owned.metadata;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": others,
            "labels": {(LABEL_CREATED_BY): null}, "annotations": {(ANNOTATION_DATA_HASH): null}}});
        ctx.metrics.api_request("patch", "targets");
        let sent = ctx.writer(key).merge(&url, name, &patch, FIELD_MANAGER).await;
        sent.map_err(|error| failure(desired, &what, "patch", &error))?;
        existing = looked().await?;
    }
    if let Some(existing) = &existing {
        let bound_before = bound.is_some_and(|b| b.uid.is_some() && b.uid == existing.metadata.uid);
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        if exact && let Some(why) = foreign(&existing.metadata, key, uid, &what, bound_before) {
            resolver.note(reference, existing.metadata.resource_version.clone());
            return Err(ApplyError::Refused(why));
        }
        // What chance gave from the same inputs stays while nobody touched it.
        let marked = desired.mark.as_ref().is_some_and(|(name, inputs)| existing.annotations().get(name) == Some(inputs));
        let same = bound.is_some_and(|b| b.resource_version == existing.metadata.resource_version);
        if marked && same && bound_before {
            ctx.generic.settled(key, mark);
            resolver.note(reference, existing.metadata.resource_version.clone());
            return Ok((bound_to(desired, name, &existing.metadata), Change::None));
        }
    } else if policy == CreationPolicy::Merge {
        let why = format!("{what} does not exist, and creationPolicy Merge makes none; create it or use CreateOrMerge");
        resolver.note(reference, None);
        return Err(ApplyError::Missing(why));
    }
    let manager = if exact { FIELD_MANAGER.to_owned() } else { format!("{FIELD_MANAGER}-{}", &created_by(key)[..16]) };
    ctx.metrics.api_request("patch", "targets");
    let mut manifest = desired.manifest.clone();
    // Only onto the very object that was looked at.
    if let Some(uid) = existing.as_ref().and_then(|e| e.metadata.uid.as_ref()) {
        manifest["metadata"]["uid"] = json!(uid);
    }
    let sent = ctx.writer(key).apply(&url, name, &manifest, &manager).await;
    let meta = sent.map_err(|error| failure(desired, &what, "patch", &error))?.metadata;
    let change = match &existing {
        None => Change::Created,
        Some(existing) if existing.metadata.resource_version == meta.resource_version => Change::None,
        Some(_) => Change::Updated,
    };
    ctx.generic.settled(key, mark);
    resolver.note(reference, meta.resource_version.clone());
    Ok((bound_to(desired, name, &meta), change))
}

fn bound_to(desired: &Desired, name: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Binding {
    Binding {
        name: name.to_owned(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        data_hash: Some(desired.hash.clone()),
    }
}

/// The fields that the API server names, each with its reason and none with its words.
fn places(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let named: Vec<String> = causes.filter(|c| !c.field.is_empty()).map(|c| format!("{}: {}", c.field, c.reason)).collect();
    match named.is_empty() {
        true => "its words may quote a value; compare what is rendered with the kind's schema".into(),
        false => named.join(", "),
    }
}

fn failure(desired: &Desired, what: &str, verb: &str, error: &kube::Error) -> ApplyError {
    match error {
        kube::Error::Api(status) => {
            // What a value is refused for quotes it: of that only the places are told.
            let said = match matches!(status.code, 400 | 422 | 500) && verb == "patch" {
                true => places(status),
                false => desired.scrub(&status.message),
            };
            match status.code {
                409 => ApplyError::Conflict(format!("{what} is being written by somebody else; trying again")),
                403 => ApplyError::Refused(format!(
                    "{what}: the API server refuses {verb} (code 403: {said}); the operator's role must allow that kind"
                )),
                400 | 404 | 422 => {
                    ApplyError::Refused(format!("{what}: the API server does not take it (code {}: {said})", status.code))
                }
                code => ApplyError::Api(format!("{what}: {verb} failed (code {code}: {said})")),
            }
        }
        _ => ApplyError::Api(format!("{what}: the API server did not answer {verb}")),
    }
}

/// Deletes the target, if it is the very one that this object wrote and owns. Answers whether it was there.
///
/// # Errors
/// [`ApplyError`].
pub async fn delete(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    target: &TargetManifest,
    binding: Option<&Binding>,
) -> Result<bool, ApplyError> {
    let Some(binding) = binding.filter(|b| b.uid.is_some()) else { return Ok(false) };
    let resource = resource(ctx, target).await?;
    let what = format!("{} {}/{}", target.kind, key.namespace, binding.name);
    let found = get(ctx, &resource, &key.namespace, &binding.name).await;
    let found = found.map_err(|error| ApplyError::Api(format!("{what}: get failed ({})", kube_error(&error))))?;
    let Some(existing) = found else { return Ok(false) };
    let mine = existing.owner_references().iter().any(|o| Some(&o.uid) == object.metadata.uid.as_ref());
    if !mine || existing.metadata.uid != binding.uid {
        return Err(ApplyError::Refused(format!(
            "{what} is not the one that ExternalSecret {key} wrote and owns; it is not deleted"
        )));
    }
    let only = Preconditions { uid: binding.uid.clone(), resource_version: existing.metadata.resource_version.clone() };
    ctx.metrics.api_request("delete", "targets");
    let url = Api::<DynamicObject>::namespaced_with(ctx.client.clone(), &key.namespace, &resource).resource_url().to_owned();
    match ctx.writer(key).delete(&url, &binding.name, only).await {
        Ok(()) => {
            ctx.generic.note(key, Seen::Absent);
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(ApplyError::Conflict(format!("{what} changed while it was deleted")))
        }
        Err(error) => Err(ApplyError::Api(format!("{what}: delete failed ({})", kube_error(&error)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_target_went_while_it_was_written_is_not_forgotten() {
        let (generic, key) = (Generic::default(), ObjectKey::new("ns", "app"));
        let binding = Binding { name: "app".into(), uid: Some("u".into()), resource_version: Some("5".into()), data_hash: None };
        let changed = Seen::There { uid: "".into(), version: "".into() };
        // What was known before the write is settled by it, and so is the echo of the write itself.
        generic.note(&key, Seen::Absent);
        let mark = generic.mark(&key);
        generic.settled(&key, mark);
        assert!(!generic.seen(&key, Some(&binding)).differs(Some(&binding)));
        let mark = generic.mark(&key);
        generic.note(&key, changed);
        generic.settled(&key, mark);
        assert_eq!(generic.mark(&key), None);
        // Its end in between is not, whatever was known before.
        for before in [None, Some(Seen::Absent)] {
            before.into_iter().for_each(|seen| generic.note(&key, seen));
            let mark = generic.mark(&key);
            generic.note(&key, Seen::Absent);
            generic.settled(&key, mark);
            assert_eq!(generic.seen(&key, Some(&binding)), Seen::Absent);
        }
    }
}
