//! One ClusterExternalSecret or ClusterPushSecret: an object of its own in each namespace that it selects, and nowhere else.
//!
//! The objects are owned by it, so they go with it without a finalizer; the namespaces carry nothing. What the two kinds have in
//! common is all but the object that they make: [`FanOut`] hides that.

pub mod cache;
pub mod plan;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, Preconditions};
use lockstep_crds::{ClusterExternalSecret, ClusterPushSecret, ExternalSecret, PushSecret};
use tokio::time::Instant;

use crate::context::Context;
use crate::controller::Active;
use crate::external_secret::kube_error;
use crate::external_secret::target::FIELD_MANAGER;
use crate::keys::ObjectKey;
use crate::kube_io;
use crate::queue::Next;
use crate::store;
use cache::{FanOut, FanOutKey, FanOutKind};
use plan::{Action, Step};
use status::Failed;

/// When what failed is tried again.
const AGAIN: Duration = Duration::from_secs(15);

/// Brings all namespaces of one in line; answers when to look again.
pub async fn reconcile(ctx: &Arc<Context>, key: &FanOutKey, active: &mut Active) -> Option<Next> {
    let started = Instant::now();
    let Some(fan_out) = ctx.fan_outs.get(key) else { return tell_malformed(ctx, key).await };
    if !ctx.ownership.owns(&key.as_object()) {
        return None;
    }
    if fan_out.deleted {
        return None;
    }
    if ctx.state.are_foreign(fan_out.cluster_stores().into_iter(), &ctx.options.controller_class) {
        return None;
    }
    if store::is_yet_to_be_seen(ctx, fan_out.cluster_stores().into_iter()).await {
        return Some(Next::at(Instant::now() + Duration::from_secs(1)));
    }
    let existing = ctx.existing(key, &fan_out);
    let made = plan::Made::of(&existing);
    let steps = match plan::plan(&fan_out, &ctx.state.namespaces(), &made) {
        Ok(steps) => steps,
        Err(why) => {
            let report = status::rejected(&fan_out, why, (ctx.clock)());
            return tell(ctx, key, &fan_out, report, started).await;
        }
    };
    let done = active.while_waiting(futures::future::join_all(steps.iter().map(|step| act(ctx, key, &fan_out, step)))).await;
    let failed: Vec<Failed> = done.into_iter().flatten().collect();
    let retry = failed.iter().any(|failed| failed.retry);
    let report = status::report(&fan_out, &steps, &failed, (ctx.clock)());
    let next = tell(ctx, key, &fan_out, report, started).await;
    next.or_else(|| retry.then(|| Next::at(Instant::now() + AGAIN)))
}

fn url(ctx: &Context, kind: FanOutKind, namespace: &str) -> String {
    match kind {
        FanOutKind::ExternalSecrets => Api::<ExternalSecret>::namespaced(ctx.client.clone(), namespace).resource_url().to_owned(),
        FanOutKind::PushSecrets => Api::<PushSecret>::namespaced(ctx.client.clone(), namespace).resource_url().to_owned(),
    }
}

/// Takes one step; answers what keeps it from being taken.
async fn act(ctx: &Arc<Context>, key: &FanOutKey, fan_out: &FanOut, step: &Step) -> Option<Failed> {
    let (namespace, name) = (&step.namespace, fan_out.object_name());
    let failed = |reason: String, retry: bool| Some(Failed { namespace: namespace.to_string(), reason, retry });
    let home = key.as_object();
    match &step.action {
        Action::Keep => None,
        Action::Foreign => failed(format!("{} {name} exists and was not made by this object", key.kind.made()), false),
        Action::Apply => {
            let _permit = ctx.writes.acquire().await.ok()?;
            // Not onto one that a watch has not shown yet: its owner is looked at first.
            match owner_of(ctx, key.kind, namespace, name).await {
                Ok(Some(owner)) if owner.as_deref() != Some(&*fan_out.uid) => {
                    return failed(format!("{} {name} exists and was not made by this object", key.kind.made()), false);
                }
                Ok(_) => {}
                Err(error) => return failed(kube_error(&error), true),
            }
            ctx.metrics.api_request("patch", key.kind.resource());
            let manifest = fan_out.manifest(namespace);
            let url = url(ctx, key.kind, namespace);
            match ctx.writer(&home).apply(&url, name, &manifest, FIELD_MANAGER).await {
                Ok(_) => None,
                // The API server's words about a spec name its fields, and hold no value.
                Err(kube::Error::Api(status)) => {
                    failed(format!("code {}: {}", status.code, clip(&status.message)), status.code != 422)
                }
                Err(error) => failed(kube_error(&error), true),
            }
        }
        Action::Delete { name, uid } => {
            let _permit = ctx.writes.acquire().await.ok()?;
            ctx.metrics.api_request("delete", key.kind.resource());
            let only = Preconditions { uid: Some(uid.clone()), resource_version: None };
            match ctx.writer(&home).delete(&url(ctx, key.kind, namespace), name, only).await {
                Ok(()) => None,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => None,
                Err(error) => failed(format!("{} {name} could not be deleted ({})", key.kind.made(), kube_error(&error)), true),
            }
        }
    }
}

fn clip(text: &str) -> String {
    text.chars().take(300).collect()
}

/// The UID of who controls an object; none: it is not there.
async fn owner_of(ctx: &Context, kind: FanOutKind, namespace: &str, name: &str) -> kube::Result<Option<Option<String>>> {
    ctx.metrics.api_request("get", kind.resource());
    let meta = match kind {
        FanOutKind::ExternalSecrets => {
            let api = Api::<ExternalSecret>::namespaced(ctx.client.clone(), namespace);
            kube_io::in_time(|| api.get_metadata_opt(name)).await?.map(|found| found.metadata)
        }
        FanOutKind::PushSecrets => {
            let api = Api::<PushSecret>::namespaced(ctx.client.clone(), namespace);
            kube_io::in_time(|| api.get_metadata_opt(name)).await?.map(|found| found.metadata)
        }
    };
    let controller = |meta: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        meta.owner_references.into_iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.uid)
    };
    Ok(meta.map(controller))
}

fn own_url(ctx: &Context, kind: FanOutKind) -> String {
    match kind {
        FanOutKind::ExternalSecrets => Api::<ClusterExternalSecret>::all(ctx.client.clone()).resource_url().to_owned(),
        FanOutKind::PushSecrets => Api::<ClusterPushSecret>::all(ctx.client.clone()).resource_url().to_owned(),
    }
}

async fn tell(ctx: &Arc<Context>, key: &FanOutKey, fan_out: &FanOut, report: status::Report, started: Instant) -> Option<Next> {
    ctx.metrics.reconciled(key.kind.kind(), if report.ready { "synced" } else { "error" }, "", started.elapsed());
    if let Some(patch) = &report.patch {
        ctx.metrics.api_request("patch", key.kind.own_status());
        match ctx.writer(&key.as_object()).patch_status(&own_url(ctx, key.kind), &key.name, patch).await {
            Ok(meta) => {
                let version = kube_io::version_of(meta.metadata.resource_version.as_deref());
                ctx.fan_outs.told(key, &fan_out.uid, version, report.told.clone());
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return None,
            Err(error) => {
                tracing::warn!(object = %key, error = %kube_error(&error), "status could not be written; trying again");
                return Some(Next::at(Instant::now() + Duration::from_secs(5)));
            }
        }
        tracing::info!(object = %key, ready = report.ready, message = %report.message, "fanned out");
    }
    if report.patch.is_some() && !report.ready {
        ctx.events.publish(fan_out.reference(key), lockstep_crds::conditions::EventReason::UpdateFailed, report.message);
    }
    None
}

/// Writes the condition of one that does not parse, once for each of its generations.
async fn tell_malformed(ctx: &Arc<Context>, key: &FanOutKey) -> Option<Next> {
    let odd = ctx.malformed_fan_outs.untold(key).filter(|_| ctx.ownership.owns(&key.as_object()))?;
    let reason = lockstep_crds::conditions::FanOutReason::NotReady;
    let Some(conditions) = odd.conditions(reason.as_str(), (ctx.clock)()) else {
        ctx.malformed_fan_outs.told(key);
        return None;
    };
    let patch = serde_json::json!({"status": {"conditions": conditions}});
    ctx.metrics.api_request("patch", key.kind.own_status());
    match ctx.writer(&key.as_object()).patch_status(&own_url(ctx, key.kind), &key.name, &patch).await {
        Ok(_) => ctx.malformed_fan_outs.told(key),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(_) => return Some(Next::at(Instant::now() + Duration::from_secs(5))),
    }
    None
}

/// The object that owns another one, if that is a fan-out.
pub fn owner_key(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<FanOutKey> {
    meta.owner_references.iter().flatten().filter(|o| o.controller == Some(true)).find_map(|owner| {
        let kind = FanOutKind::ALL.into_iter().find(|kind| kind.kind() == owner.kind)?;
        Some(FanOutKey { kind, name: owner.name.as_str().into() })
    })
}

impl Context {
    /// The objects that a fan-out has made, and those that stand in its way.
    fn existing(&self, key: &FanOutKey, fan_out: &FanOut) -> Vec<plan::Existing> {
        match key.kind {
            FanOutKind::ExternalSecrets => self.state.made_by(&fan_out.uid, fan_out.object_name()),
            FanOutKind::PushSecrets => self.push_secrets.made_by(&fan_out.uid, fan_out.object_name()),
        }
    }

    /// An object came, changed or went: the fan-outs that make one of that name look at it.
    pub fn wake_fan_outs_of(&self, kind: FanOutKind, key: &ObjectKey) {
        for fan_out in self.fan_outs.of_name(kind, &key.name) {
            self.fans.wake(fan_out, crate::queue::Wake::timer(Instant::now()));
        }
    }
}
