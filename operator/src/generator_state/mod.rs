//! One GeneratorState: its lease is prolonged while it is used, and given back after it was replaced or its owner went.

pub mod cache;
pub mod plan;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, Preconditions};
use lockstep_crds::conditions::LeaseReason;
use lockstep_crds::generator::state::FINALIZER;
use lockstep_crds::{ExternalSecret, GeneratorState, PushSecret};
use lockstep_providers::generator::Generator;
use lockstep_providers::{Error, Result};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::controller::Active;
use crate::external_secret::status::{rfc3339, until};
use crate::external_secret::target::FIELD_MANAGER;
use crate::external_secret::{self, kube_error};
use crate::generator::{Definition, lease};
use crate::keys::{GeneratorKey, ObjectKey, Referrer};
use crate::kube_io;
use crate::push_secret;
use crate::queue::{Next, Wake};
use crate::refs::RefObject;
use cache::{Entry, Known};
use plan::{OwnerView, Plan};

/// How long a lease of a namespace that goes is tried to be given back when its credentials went before it.
const TERMINATING: Duration = Duration::from_secs(60);

/// Brings one in line; answers when to look again.
pub async fn reconcile(ctx: &Arc<Context>, key: &ObjectKey, active: &mut Active) -> Option<Next> {
    let started = Instant::now();
    let entry = ctx.states.get(key)?;
    ctx.ownership.epoch(entry.home(key))?;
    let now = (ctx.clock)();
    let newest = entry.owner.as_ref().and_then(|(_, uid)| ctx.states.current(uid, &entry.state.slot));
    let newest = newest.map(|(_, newest)| newest.state.issued);
    let view = entry.owner.as_ref().map_or(OwnerView::Gone, |(owner, uid)| owner_view(ctx, owner, uid));
    let at_work = ctx.states.is_at_work(key, &entry.uid);
    let plan = plan::plan(&entry, newest, &view, at_work, ctx.options.generator_grace, now);
    let (result, next) = match plan {
        Plan::Wait(next) => return next.map(|at| after(now, at)),
        Plan::Renew => ("renewed", active.while_waiting(renew(ctx, key, &entry)).await),
        Plan::Retire(deadline) => ("retired", retire(ctx, key, &entry, deadline).await),
        Plan::Delete => ("deleted", delete(ctx, key, &entry).await),
        Plan::Revoke => ("revoked", active.while_waiting(revoke(ctx, key, &entry)).await),
    };
    ctx.metrics.reconciled("GeneratorState", result, "", started.elapsed());
    next.map(|at| after((ctx.clock)(), at))
}

fn after(now: Timestamp, at: Timestamp) -> Next {
    Next::at(Instant::now() + until(now, at).min(Duration::from_secs(86_400)))
}

/// What this process has seen of the owner, once it has seen all there is.
fn owner_view(ctx: &Context, owner: &Referrer, uid: &str) -> OwnerView {
    if !ctx.filled.load(std::sync::atomic::Ordering::SeqCst) {
        return OwnerView::Unsettled;
    }
    match owner {
        Referrer::ExternalSecret(key) => match ctx.state.object(key) {
            Some((object, memo)) if object.metadata.uid.as_deref() == Some(uid) => external_secret::settled(&object, memo),
            _ => OwnerView::Gone,
        },
        Referrer::PushSecret(key) => match ctx.push_secrets.get(key) {
            Some((object, memo)) if object.metadata.uid.as_deref() == Some(uid) => push_secret::settled(&object, &memo),
            _ => OwnerView::Gone,
        },
    }
}

/// Whoever may write a GeneratorState says what it is of. The rights of a ClusterGenerator come from the very ClusterGenerator that
/// there is, never from what stands in a namespace.
async fn generator_of(ctx: &Arc<Context>, key: &ObjectKey, entry: &Entry) -> Result<Arc<dyn Generator>> {
    let class = &ctx.options.controller_class;
    let mut definition = Definition::of_resource(&key.namespace, &entry.resource, class)?;
    if definition.identity.of_cluster {
        let name = entry.resource["metadata"]["name"].as_str().unwrap_or_default();
        let named = GeneratorKey { namespace: key.namespace.clone(), kind: None, name: name.into() };
        let live = cluster_generator(ctx, &named).await?;
        let live = live.and_then(|object| Definition::new(&named, &object, class).ok());
        definition.identity.of_cluster = live.is_some_and(|live| live.identity == definition.identity);
    }
    ctx.generators.get(&definition, None).await
}

async fn cluster_generator(ctx: &Context, key: &GeneratorKey) -> Result<Option<DynamicObject>> {
    let api: Api<DynamicObject> = RefObject::generator(key).generator_api(ctx.client.clone());
    ctx.metrics.api_request("get", "clustergenerators");
    let found = kube_io::in_time(|| api.get_opt(&key.name)).await;
    found.map_err(|error| Error::unavailable(format!("{key} could not be read ({})", kube_error(&error))))
}

async fn renew(ctx: &Arc<Context>, key: &ObjectKey, entry: &Entry) -> Option<Timestamp> {
    let prolonged = async {
        let generator = generator_of(ctx, key, entry).await?;
        lease::prolong(ctx, key, entry, &*generator).await
    };
    let late = |_| Err(Error::unavailable("no answer in time"));
    let answer = tokio::time::timeout(ctx.options.read_deadline, prolonged).await.unwrap_or_else(late);
    let now = (ctx.clock)();
    let (known, wrong) = match answer {
        Ok(known) => (known, None),
        Err(error) => {
            let known = plan::unknown(entry, now);
            ctx.states.remember(key, &entry.uid, known.clone());
            (known, Some((LeaseReason::RenewalFailed.as_str(), format!("the lease was not prolonged: {error}"))))
        }
    };
    tell(ctx, key, entry, wrong).await;
    if known.ended
        && let Some((owner, _)) = &entry.owner
    {
        // It makes another one.
        ctx.source_changed(owner);
    }
    known.next
}

async fn tell(ctx: &Arc<Context>, key: &ObjectKey, entry: &Entry, wrong: Option<(&str, String)>) {
    if let Some((_, why)) = &wrong {
        tracing::warn!(state = %key, %why, "a lease");
    }
    if let Some(patch) = status::patch(entry, wrong, (ctx.clock)()) {
        ctx.metrics.api_request("patch", "generatorstates/status");
        match ctx.writer(entry.home(key)).patch_status(&url(ctx, key), &key.name, &patch).await {
            Ok(meta) => {
                let conditions = serde_json::from_value(patch["status"]["conditions"].clone()).unwrap_or_default();
                ctx.states.told(key, &entry.uid, meta.metadata.resource_version.unwrap_or_default(), conditions);
            }
            Err(error) => tracing::debug!(state = %key, error = %kube_error(&error), "its status could not be written"),
        }
    }
}

fn url(ctx: &Context, key: &ObjectKey) -> String {
    Api::<GeneratorState>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned()
}

/// When a write that failed is tried again.
fn again(ctx: &Context, key: &ObjectKey, verb: &str, error: &kube::Error) -> Option<Timestamp> {
    match error {
        kube::Error::Api(status) if status.code == 404 => None,
        _ => {
            tracing::debug!(state = %key, verb, error = %kube_error(error), "a GeneratorState could not be written; trying again");
            Some(plan::later((ctx.clock)(), Duration::from_secs(5)))
        }
    }
}

async fn retire(ctx: &Arc<Context>, key: &ObjectKey, entry: &Entry, deadline: Timestamp) -> Option<Timestamp> {
    ctx.metrics.api_request("patch", "generatorstates");
    let patch = json!({"metadata": {"uid": entry.uid}, "spec": {"garbageCollectionDeadline": rfc3339(deadline)}});
    match ctx.writer(entry.home(key)).merge(&url(ctx, key), &key.name, &patch, FIELD_MANAGER).await {
        // The watch brings the deadline back.
        Ok(_) => Some(deadline),
        Err(error) => again(ctx, key, "patch", &error),
    }
}

async fn delete(ctx: &Arc<Context>, key: &ObjectKey, entry: &Entry) -> Option<Timestamp> {
    // Not on account of stale knowledge: what a watch has not shown may be there.
    if entry.deadline.is_none()
        && !entry.state.pending
        && let Some((owner, owner_uid)) = &entry.owner
    {
        match owner_is_there(ctx, owner, owner_uid).await {
            Ok(false) => {}
            Ok(true) => return Some(plan::later((ctx.clock)(), Duration::from_secs(30))),
            Err(error) => return again(ctx, key, "get", &error),
        }
    }
    ctx.metrics.api_request("delete", "generatorstates");
    let only = Preconditions { uid: Some(entry.uid.clone()), resource_version: None };
    match ctx.writer(entry.home(key)).delete(&url(ctx, key), &key.name, only).await {
        Ok(()) => None,
        Err(error) => again(ctx, key, "delete", &error),
    }
}

async fn owner_is_there(ctx: &Context, owner: &Referrer, uid: &str) -> kube::Result<bool> {
    let ObjectKey { namespace, name } = owner.key();
    let found = match owner {
        Referrer::ExternalSecret(_) => {
            let api: Api<ExternalSecret> = Api::namespaced(ctx.client.clone(), namespace);
            kube_io::in_time(|| api.get_metadata_opt(name)).await?.map(|found| found.metadata)
        }
        Referrer::PushSecret(_) => {
            let api: Api<PushSecret> = Api::namespaced(ctx.client.clone(), namespace);
            kube_io::in_time(|| api.get_metadata_opt(name)).await?.map(|found| found.metadata)
        }
    };
    Ok(found.is_some_and(|meta| meta.uid.as_deref() == Some(uid)))
}

async fn revoke(ctx: &Arc<Context>, key: &ObjectKey, entry: &Entry) -> Option<Timestamp> {
    let revoked = async {
        let generator = generator_of(ctx, key, entry).await?;
        let answer = generator.revoke(&entry.state.lease).await;
        if let Some(identity) = &entry.identity {
            ctx.generators.called(identity, "revoke", &answer);
        }
        answer
    };
    let late = |_| Err(Error::unavailable("no answer in time"));
    let answer = tokio::time::timeout(ctx.options.read_deadline, revoked).await.unwrap_or_else(late);
    if let Err(error) = answer {
        let now = (ctx.clock)();
        if !is_over(ctx, key, entry, &error, now).await {
            let failures = entry.known.failures.saturating_add(1);
            let next = plan::revoke_again(failures, now);
            ctx.states.remember(key, &entry.uid, Known { failures, revoke_at: Some(next), ..entry.known.clone() });
            let what = format!("the lease {} was not given back: {error}", entry.state.lease.id);
            tell(ctx, key, entry, Some((LeaseReason::RevocationFailed.as_str(), what))).await;
            return Some(next);
        }
        tracing::warn!(state = %key, %error, "a lease was not given back; it has ended by itself, or will");
    }
    ctx.metrics.api_request("patch", "generatorstates");
    let others: Vec<&String> = entry.finalizers.iter().filter(|f| *f != FINALIZER).collect();
    let patch = json!({"metadata": {"uid": entry.uid, "resourceVersion": entry.version, "finalizers": others}});
    match ctx.writer(entry.home(key)).merge(&url(ctx, key), &key.name, &patch, FIELD_MANAGER).await {
        Ok(_) => None,
        Err(error) => again(ctx, key, "patch", &error),
    }
}

/// Whether nothing is left to be given back, or nobody is left who could: since the object is being deleted its lease is not prolonged.
async fn is_over(ctx: &Context, key: &ObjectKey, entry: &Entry, error: &Error, now: Timestamp) -> bool {
    let Some(deleted) = entry.deleted else { return false };
    let since = until(deleted, now);
    if since > Duration::from_secs(entry.state.lease.seconds) {
        return true;
    }
    if !matches!(error, Error::Invalid { .. } | Error::Denied(_)) || since < TERMINATING {
        return false;
    }
    // A namespace that goes takes the credentials along; it must not wait for a lease of weeks.
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let found = kube_io::in_time(|| namespaces.get_metadata_opt(&key.namespace)).await;
    found.is_ok_and(|found| found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// An owner's sync has ended well: what it replaced can be taken back.
pub fn owner_settled(ctx: &Context, uid: &str) {
    let now = Instant::now();
    ctx.states.of_owner(uid).into_iter().for_each(|key| ctx.leases.wake(key, Wake::timer(now)));
}
