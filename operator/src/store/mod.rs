//! One SecretStore or ClusterSecretStore: whether its provider takes its identity, told to people and to its users.

pub mod plan;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use lockstep_crds::conditions::StoreReason;
use lockstep_crds::external_secret::StoreKind;
use lockstep_crds::{ClusterSecretStore, SecretStore};
use lockstep_providers::{Error, registry};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::controller::Active;
use crate::external_secret::kube_error;
use crate::keys::{StoreKey, stable_hash};
use crate::kube_io::{self, version_of};
use crate::queue::{Next, Wake};
use crate::state::StoreEntry;
use plan::Plan;
use status::{Outcome, Report};

/// What this process knows of a store beside its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreMemo {
    /// Whether the last validation succeeded.
    pub ready: Option<bool>,
    /// When that was.
    pub validated: Option<Timestamp>,
    /// Failures in a row that may pass.
    pub failures: u32,
    /// Whether this process has looked at it before.
    pub met: bool,
    /// Whether a user was refused since it was validated.
    pub doubted: bool,
}

/// Until when a store's watch has shown what the API server has; its users are woken when it does.
pub const SEEN_BY: Duration = Duration::from_secs(5);

/// Whether the API server has one of some stores that no watch has shown yet.
///
/// Each kind has a watch of its own: an object is often seen before the store that was made with it. Whoever tells people that a
/// store does not exist asks here first; otherwise the object of another operator's store would be told so too.
pub async fn is_yet_to_be_seen(ctx: &Context, stores: impl Iterator<Item = StoreKey>) -> bool {
    let malformed = ctx.malformed_stores.keys();
    for store in ctx.state.unseen_stores(stores, &ctx.options).into_iter().filter(|store| !malformed.contains(store)) {
        ctx.metrics.api_request("get", if store.namespace.is_some() { "secretstores" } else { "clustersecretstores" });
        let found = match &store.namespace {
            Some(namespace) => {
                let api = Api::<SecretStore>::namespaced(ctx.client.clone(), namespace);
                kube_io::in_time(|| api.get_metadata_opt(&store.name)).await.map(|found| found.is_some())
            }
            None => {
                let api = Api::<ClusterSecretStore>::all(ctx.client.clone());
                kube_io::in_time(|| api.get_metadata_opt(&store.name)).await.map(|found| found.is_some())
            }
        };
        // Without an answer the watch's word counts.
        if found.unwrap_or(false) {
            return true;
        }
    }
    false
}

/// Brings one store's status in line; answers when to look again.
pub async fn reconcile(ctx: &Arc<Context>, key: &StoreKey, wake: Wake, active: &mut Active) -> Option<Next> {
    let started = Instant::now();
    let Some(entry) = ctx.state.store(key) else {
        ctx.connections.remove(key, &ctx.refs).await;
        ctx.forget_store(key);
        return tell_malformed(ctx, key).await.map(after);
    };
    let mut memo = ctx.store_memo(key);
    if wake.source && !memo.doubted {
        memo.doubted = true;
        ctx.remember_store(key, memo.clone());
    }
    let now = (ctx.clock)();
    let away = ctx.away(key).await;
    // Whose status it is validates it; the others only look for a provider that left their own users waiting.
    if !away && !ctx.ownership.owns_store(key) {
        return None;
    }
    let phase = stable_hash(&[key.namespace.as_deref().unwrap_or_default(), &key.name]);
    match plan::plan(&entry.view.spec, &ctx.options.controller_class, &memo, wake, entry.is_ready(), away, now) {
        Plan::Ignore => return None,
        Plan::Skip(wait) => return Some(after(wait)),
        Plan::InTurn => {
            ctx.remember_store(key, StoreMemo { met: true, ..memo });
            return Some(Next { turn: Some(plan::turn(&entry.view.spec, phase)), ..Next::at(Instant::now()) });
        }
        Plan::Validate => {}
    }
    let outcome = active.while_waiting(validate(ctx, &entry)).await;
    if belongs_to_another_operator(&entry, &outcome) {
        return None;
    }
    let report = status::report(&entry.view.spec, &entry.status, &memo, &outcome, phase, (ctx.clock)());
    tell(ctx, key, &entry, report, Recovery { was_away: away, since: wake.at }, started).await.map(after)
}

fn after(wait: Duration) -> Next {
    Next::at(Instant::now() + wait.min(Duration::from_secs(86_400)))
}

async fn validate(ctx: &Arc<Context>, entry: &StoreEntry) -> Outcome {
    let wrong = entry.view.wrong_limits.as_ref().map(|why| Error::invalid("limits", why));
    let wrong = wrong.or_else(|| plan::check(&entry.view.spec).err().map(|why| Error::invalid("spec", why)));
    if wrong.is_some() || entry.view.is_referent() {
        // Its users have connections all the same, and wait for the provider to come back.
        probe_away(ctx, &entry.view.key).await;
        return wrong.map_or(Outcome::Referent, Outcome::Failed);
    }
    let connect = ctx.connections.get(&entry.view, None, &ctx.refs);
    let reader = match tokio::time::timeout(ctx.options.read_deadline, connect).await {
        Ok(Ok(reader)) => reader,
        Ok(Err(error)) => return Outcome::Failed(error),
        Err(_) => return Outcome::Failed(Error::unavailable("no connection in time")),
    };
    let answer = tokio::time::timeout(ctx.options.read_deadline, reader.probe()).await;
    let access = reader.access();
    let failed = reader.is_away();
    drop(reader);
    if !failed {
        // Connections of another time, such as of a store that left the namespace to its users.
        probe_away(ctx, &entry.view.key).await;
    }
    match answer {
        Ok(Ok(validity)) => Outcome::Answered(validity, access),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) => Outcome::Failed(Error::unavailable("no answer in time")),
    }
}

/// Asks a provider that left users waiting whether it is back. Each connection is its own: one that stays away says nothing of
/// the others.
async fn probe_away(ctx: &Arc<Context>, key: &StoreKey) {
    let away = ctx.connections.of_store(key).await.into_iter().filter(|r| r.is_away());
    let probes = away.map(async |reader| {
        let _ = tokio::time::timeout(ctx.options.read_deadline, reader.probe()).await;
    });
    futures::future::join_all(probes).await;
}

/// A store with a provider that we don't know, whose status somebody else writes, is theirs.
fn belongs_to_another_operator(entry: &StoreEntry, outcome: &Outcome) -> bool {
    let Outcome::Failed(Error::Unsupported(_)) = outcome else { return false };
    let known = registry::the_one(&entry.view.spec.provider.0).is_ok_and(|(name, _)| registry::KNOWN.contains(&name));
    let ours = |m: &str| m.contains("is no provider of this build");
    !known && entry.status.conditions.iter().any(|c| !c.message.as_deref().is_some_and(ours))
}

fn url(ctx: &Context, key: &StoreKey) -> String {
    match key.kind() {
        StoreKind::SecretStore => {
            let namespace = key.namespace.as_deref().unwrap_or_default();
            Api::<SecretStore>::namespaced(ctx.client.clone(), namespace).resource_url().to_owned()
        }
        StoreKind::ClusterSecretStore => Api::<ClusterSecretStore>::all(ctx.client.clone()).resource_url().to_owned(),
    }
}

/// Writes the condition of a store that does not parse, once for each of its generations.
async fn tell_malformed(ctx: &Arc<Context>, key: &StoreKey) -> Option<Duration> {
    if !ctx.ownership.owns_store(key) {
        return None;
    }
    let odd = ctx.malformed_stores.untold(key)?;
    let Some(conditions) = odd.conditions(StoreReason::InvalidProviderConfig.as_str(), (ctx.clock)()) else {
        ctx.malformed_stores.told(key);
        return None;
    };
    ctx.metrics.api_request("patch", "secretstores/status");
    let patch = json!({"status": {"conditions": conditions}});
    match ctx.store_writer(key).patch_status(&url(ctx, key), &key.name, &patch).await {
        Ok(_) => ctx.malformed_stores.told(key),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            tracing::warn!(store = %key, error = %kube_error(&error), "status could not be written; trying again");
            return Some(Duration::from_secs(5));
        }
    }
    None
}

/// What its users are told when a store works again: answers since the cause of this validation are new enough for them.
struct Recovery {
    was_away: bool,
    since: Instant,
}

async fn tell(
    ctx: &Arc<Context>,
    key: &StoreKey,
    entry: &StoreEntry,
    report: Report,
    recovery: Recovery,
    started: Instant,
) -> Option<Duration> {
    let result = if report.memo.ready == Some(true) { "valid" } else { "invalid" };
    ctx.metrics.reconciled("SecretStore", result, "", started.elapsed());
    let owned = ctx.ownership.owns_store(key);
    let (mut requeue, mut memo) = (None, report.memo);
    if let Some(patch) = report.patch.as_ref().filter(|_| owned) {
        let url = url(ctx, key);
        ctx.metrics.api_request("patch", "secretstores/status");
        match ctx.store_writer(key).patch_status(&url, &key.name, patch).await {
            Ok(meta) => {
                let version = version_of(meta.metadata.resource_version.as_deref());
                if let Ok(told) = serde_json::from_value(patch["status"].clone()) {
                    ctx.state.store_told(key, &entry.uid, version, told);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return None,
            Err(error) => {
                tracing::warn!(store = %key, error = %kube_error(&error), "status could not be written; trying again");
                requeue = Some(Duration::from_secs(2));
                // It is validated, and told, once more.
                memo.validated = None;
            }
        }
        tracing::info!(store = %key, result, "store validated");
    }
    if let Some((reason, note)) = report.event.filter(|_| owned && requeue.is_none()) {
        ctx.events.publish(ctx.events.about_store(key, &entry.uid), reason, note);
    }
    ctx.remember_store(key, memo);
    let still_away = ctx.away(key).await;
    let referent = entry.view.is_referent();
    if report.recovered || recovery.was_away && (referent || !still_away) {
        ctx.wake_failed_users(key, recovery.since);
    }
    // A referent store is never told to be away, nor is a wrong one, but their users wait all the same.
    let wait = if still_away { report.requeue.min(status::PROBE_MAX) } else { report.requeue };
    Some(requeue.map_or(wait, |soon| wait.min(soon)))
}
