//! The shell half: at most one write to the target, preceded by one GET where it is not what this operator wrote last.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Preconditions};
use kube::{Resource, ResourceExt};
use lockstep_crds::external_secret::{Binding, CreationPolicy};
use lockstep_crds::{ANNOTATION_DATA_HASH, ExternalSecret};

use super::{Desired, FIELD_MANAGER, Seen, Verdict, content_of, created_by, holds, is_exact, judge, owned_by, owner::own_fields};
use crate::context::Context;
use crate::keys::ObjectKey;
use crate::kube_io;

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
    /// A person must act, and a watch shows it when that is done.
    Fixed(String),
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
                Verdict::Fixed(why) => return Err(ApplyError::Fixed(why)),
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
    let sent = ctx.writer(&desired.object).replace(&url, &desired.name, &secret, FIELD_MANAGER).await;
    sent.map_err(|error| failure(desired, "update", &error))
}

/// The binding to the target as it is now; the watch's echo of our own write then tells nothing new.
fn bound_to(ctx: &Context, desired: &Desired, written: &impl Resource) -> Binding {
    let (uid, version) = (written.meta().uid.clone(), written.meta().resource_version.clone());
    if let (Some(uid), Some(version)) = (&uid, &version) {
        let key = ObjectKey::new(&desired.namespace, &desired.name);
        ctx.state.target_written(&key, Seen::There { uid: uid.as_str().into(), version: version.as_str().into() });
    }
    Binding { name: desired.name.clone(), uid, resource_version: version, data_hash: Some(desired.hash.clone()) }
}

fn api(ctx: &Context, desired: &Desired) -> Api<Secret> {
    Api::namespaced(ctx.client.clone(), &desired.namespace)
}

async fn get(ctx: &Context, desired: &Desired) -> Result<Option<Secret>, ApplyError> {
    ctx.metrics.api_request("get", "secrets");
    let api = api(ctx, desired);
    let found = kube_io::in_time(|| api.get_opt(&desired.name)).await;
    found.map_err(|error| failure(desired, "get", &error))
}

async fn create(ctx: &Context, desired: &Desired) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("create", "secrets");
    let sent = ctx.writer(&desired.object).create(api(ctx, desired).resource_url(), &desired.manifest(None), FIELD_MANAGER).await;
    sent.map_err(|error| failure(desired, "create", &error))
}

async fn replace(ctx: &Context, desired: &Desired, existing: &Secret) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("update", "secrets");
    let url = api(ctx, desired).resource_url().to_owned();
    let sent = ctx.writer(&desired.object).replace(&url, &desired.name, &desired.replacement(existing), FIELD_MANAGER).await;
    sent.map_err(|error| failure(desired, "update", &error))
}

/// With `existing`, only onto that very Secret: its UID in the manifest makes the API server refuse any other.
async fn server_side_apply(ctx: &Context, desired: &Desired, existing: Option<&Secret>) -> Result<kube_io::Meta, ApplyError> {
    ctx.metrics.api_request("patch", "secrets");
    let url = api(ctx, desired).resource_url().to_owned();
    let sent =
        ctx.writer(&desired.object).apply(&url, &desired.name, &desired.manifest(existing), &desired.merge_manager()).await;
    sent.map_err(|error| failure(desired, "patch", &error))
}

fn failure(desired: &Desired, verb: &str, error: &kube::Error) -> ApplyError {
    let name = format!("Secret {}/{}", desired.namespace, desired.name);
    match error {
        kube::Error::Api(status) => {
            let said = match desired.has_rendered_metadata() && matches!(status.code, 400 | 422) {
                true => "its words may quote what the template gave; check the labels and annotations there".into(),
                false => desired.scrub(&status.message),
            };
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
    let found =
        kube_io::in_time(|| secrets.get_opt(&binding.name)).await.map_err(|_| ApplyError::Api(format!("{name}: get failed")))?;
    let Some(existing) = found else { return Ok(false) };
    let mine = object.metadata.uid.as_deref().is_some_and(|own| owned_by(&existing, own));
    if !mine || binding.uid.as_deref() != Some(&**uid) || existing.metadata.uid.as_deref() != Some(&**uid) {
        let object = object.name_any();
        return Err(ApplyError::Refused(format!(
            "{name} is not the one that ExternalSecret {object} wrote and owns; it is not deleted"
        )));
    }
    let version = existing.metadata.resource_version.clone();
    ctx.metrics.api_request("delete", "secrets");
    let only = Preconditions { uid: Some(uid.to_string()), resource_version: version };
    let key = ObjectKey::new(namespace, &object.name_any());
    match ctx.writer(&key).delete(secrets.resource_url(), &binding.name, only).await {
        Ok(()) => {
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

/// Takes over what chance gave before, if the target says that it was rendered from the same inputs.
///
/// # Errors
/// [`ApplyError`] when the target can't be read.
pub async fn settle(ctx: &Context, desired: &mut Desired, inputs: &str) -> Result<(), ApplyError> {
    let existing = get(ctx, desired).await?;
    desired.keep(existing.as_ref(), inputs);
    Ok(())
}

/// Whether a touched target still holds what was written: its own annotation and data say so, and no provider is asked.
pub async fn intact(ctx: &Context, object: &ExternalSecret, binding: &Binding) -> Result<Option<Binding>, ApplyError> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    ctx.metrics.api_request("get", "secrets");
    let secrets = Api::<Secret>::namespaced(ctx.client.clone(), namespace);
    let found = kube_io::in_time(|| secrets.get_opt(&binding.name)).await;
    let found = found.map_err(|_| ApplyError::Api(format!("Secret {namespace}/{}: get failed", binding.name)))?;
    let Some(existing) = found else { return Ok(None) };
    let exact = is_exact(object.spec.target.creation_policy);
    let key = ObjectKey::new(namespace, &object.name_any());
    let manager = if exact { FIELD_MANAGER.to_owned() } else { format!("{FIELD_MANAGER}-{}", &created_by(&key)[..16]) };
    let own = own_fields(&existing.metadata, &manager);
    // What the object would write if the providers gave just this: the same hash means that nothing of it was touched.
    let Ok(mut desired) = Desired::new(object, content_of(&existing, object, &own, exact)) else { return Ok(None) };
    let mark = desired.mark();
    if let Some(marked) = existing.annotations().get(&mark) {
        desired.annotations.insert(mark, marked.clone());
    }
    // After a restart the target's own annotation says what was written.
    let written = binding.data_hash.as_ref().or_else(|| existing.annotations().get(ANNOTATION_DATA_HASH));
    let same = Some(&desired.hash) == written && existing.uid() == binding.uid && holds(&existing, &desired);
    Ok(same.then(|| bound_to(ctx, &desired, &existing)))
}
