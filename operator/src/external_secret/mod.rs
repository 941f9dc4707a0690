//! One ExternalSecret, from what is observed to what is reported: the shell around [`plan`] and [`status`].
//!
//! Read [`reconcile`] from top to bottom. Each step either decides without IO or does IO without deciding; an object's
//! target is written first and its status last, so a crash between any two requests converges on the next start.

pub mod audited;
pub mod data;
pub mod generic;
pub mod manifest;
mod memo;
pub mod plan;
pub mod rest;
pub mod rewrite;
#[cfg(test)]
mod shell_tests;
mod sources;
pub mod status;
pub mod target;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use lockstep_crds::ExternalSecret;
use lockstep_crds::conditions::SecretReason;
use lockstep_crds::external_secret::{Binding, CreationPolicy};
use lockstep_providers::{Error, Fetched};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::controller::Active;
use crate::generator::{Definition, Undefined};
use crate::generator_state::{self, plan::OwnerView};
use crate::keys::{GeneratorKey, ObjectKey, Referrer, StoreKey};
use crate::queue::{Next, Wake};
use crate::reads::Asking;
use crate::refs::RefObject;
use crate::resolver::ObjectResolver;
use crate::store::{self, plan::is_class};
pub use memo::Memo;
use plan::{Observed, Plan, Settings};
use sources::{Answer, Asker, assemble, fetch, version_of};
use status::{Failure, Gone, Outcome, Report, Requeue};

/// How old a shared answer may be for a periodic refresh, as a share of its interval.
const SLACK: f64 = 0.1;
/// How far apart those that are refreshed together may come.
const TOGETHER: Duration = Duration::from_secs(5);

/// Brings one object in line; answers when to look again.
pub async fn reconcile(ctx: &Arc<Context>, key: &ObjectKey, wake: Wake, mut active: Active) -> Option<Next> {
    let started = Instant::now();
    let epoch = ctx.ownership.epoch(key)?;
    let Some((object, memo)) = ctx.state.object(key) else {
        return Box::pin(tell_malformed(ctx, key)).await;
    };
    let first = memo.is_none();
    let memo = memo.map_or_else(|| Memo::of(&object), |memo| memo.corrected(&object));
    let now = (ctx.clock)();
    let target = seen(ctx, key, &object, memo.binding.as_ref());
    let observed = Observed {
        object: &object,
        memo: &memo,
        claimed_by: ctx.state.claimed_by(key, &object),
        stores: ctx.state.store_verdict(key, &object, &ctx.options),
        referent: ctx.state.is_referent(&object, key),
        is_default_class: is_class(None, &ctx.options.controller_class),
        lapsed: object.metadata.uid.as_deref().is_some_and(|uid| ctx.states.has_lapsed(uid)),
        target,
        first,
        wake,
        now,
    };
    let plan = plan::plan(&observed);
    let lacks_target = observed.target == target::Seen::Absent
        && object.spec.target.creation_policy != CreationPolicy::None
        && !memo.deleted_by_policy;
    if let (Plan::Fetch(_), Some(wait)) = (&plan, ctx.crowded(key, &object, wake.changed)) {
        // Its store has enough to do: whoever waits for another store must not wait behind this one.
        let spread = wait.mul_f64(f64::from(rand::random::<f32>()));
        return Some(Next { again: Some(wake), ..Next::at(Instant::now() + wait + spread) });
    }
    // One that is missing is made again at once, whoever took it away.
    let undone = wake.target && !lacks_target && !(wake.changed || wake.store || wake.source || wake.turn);
    if let (Plan::Inspect(_) | Plan::Fetch(_), true) = (&plan, undone)
        && let Some(until) = ctx.rests.until(key, Instant::now())
    {
        return Some(Next { again: Some(wake), ..Next::at(until) });
    }
    if first && plan != Plan::Ignore {
        adopt_generators(ctx, key, &object);
        if let (Some(manifest), Some(binding)) = (&object.spec.target.manifest, &memo.binding) {
            Box::pin(generic::adopt(ctx, key, manifest, binding)).await;
        }
    }
    // Nothing is read or written of an object that its generators say is another operator's.
    if matches!(plan, Plan::Inspect(_) | Plan::Reject(_)) && Box::pin(is_of_another_class(ctx, key, &object)).await {
        return None;
    }
    if matches!(plan, Plan::Reject(_)) && Box::pin(store::is_yet_to_be_seen(ctx, stores_of(key, &object))).await {
        return Some(Next { again: Some(wake), ..Next::at(Instant::now() + store::SEEN_BY) });
    }
    let (outcome, settings) = match plan {
        Plan::Ignore => return None,
        Plan::Skip(due) => {
            if first {
                // What its templates are read from may have changed before this process came: its turn tells.
                let owed = memo.owed || plan::is_unseen(&object);
                ctx.state.remember(key, &object, Memo { owed, ..memo });
            }
            return due.map(|due| next(now, Requeue::Turn(due)));
        }
        Plan::Reject(why) => (Outcome::Failed(Failure::rejected(why)), plan::settings(&object, false).ok()),
        Plan::Inspect(settings) => {
            (Box::pin(inspect(ctx, key, &object, &memo, wake, &settings, &mut active)).await?, Some(settings))
        }
        Plan::Fetch(settings) => (sync(ctx, key, &object, &memo, wake, &settings, &mut active).await?, Some(settings)),
    };
    if ctx.ownership.epoch(key) != Some(epoch) {
        // Somebody else had it meanwhile, and it was or will be looked at anew.
        return None;
    }
    if let (Outcome::Synced { change: target::Change::Updated, .. }, true) = (&outcome, undone)
        && ctx.rests.put_right(key, Instant::now())
    {
        let target = object.target_name();
        tracing::warn!(object = %key, target, "somebody else writes the target again and again; it is put right at longer and longer intervals");
    }
    let now = (ctx.clock)();
    let report = status::report(&object, &memo, outcome, settings.as_ref(), lacks_target, now, ctx.options.heartbeat);
    // A refresh takes its turn after a store's rest; a change is what somebody waits for.
    let again = (report.label.0 == "deferred" && (wake.changed || wake.store || wake.source || wake.target)).then_some(wake);
    let next = Box::pin(tell(ctx, key, &object, &memo, report, started)).await?;
    Some(again.map_or(next, |again| Next { turn: None, again: Some(again), ..next }))
}

fn stores_of(key: &ObjectKey, object: &ExternalSecret) -> impl Iterator<Item = StoreKey> {
    object.store_refs().map(|reference| StoreKey::referred(&key.namespace, reference))
}

/// Whether an object reads from no store, and one of its generators is of another class.
async fn is_of_another_class(ctx: &Arc<Context>, key: &ObjectKey, object: &ExternalSecret) -> bool {
    if !plan::is_storeless(object) {
        return false;
    }
    let resolver = ObjectResolver::new(ctx, Referrer::ExternalSecret(key.clone()));
    for (i, reference) in object.generator_refs() {
        let field = format!("spec.dataFrom[{i}].sourceRef.generatorRef");
        let Ok(generator) = GeneratorKey::referred(&key.namespace, reference) else { continue };
        let Ok(manifest) = resolver.generator(&field, &generator).await else { continue };
        if matches!(Definition::new(&generator, &manifest, &ctx.options.controller_class), Err(Undefined::Foreign(_))) {
            return true;
        }
    }
    false
}

/// From the wall clock that an object's times are told by to the one that the queue goes by.
pub fn next(now: Timestamp, requeue: Requeue) -> Next {
    // Durations of years, such as a refreshInterval can be, have no place on a timer.
    const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
    match requeue {
        Requeue::After(wait) => Next::at(Instant::now() + wait.min(FAR)),
        Requeue::Turn(due) => {
            let over = status::until(due.at, now);
            let at = Instant::now() + status::until(now, due.at).min(FAR);
            Next { turn: Some(due.turn), ..Next::at(at.checked_sub(over).unwrap_or(at)) }
        }
    }
}

/// The target was touched: if it still holds what was written no provider is asked.
async fn inspect(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    memo: &Memo,
    wake: Wake,
    settings: &Settings,
    active: &mut Active,
) -> Option<Outcome> {
    let Some(binding) = memo.binding.as_ref().filter(|_| object.spec.target.manifest.is_none()) else {
        return sync(ctx, key, object, memo, wake, settings, active).await;
    };
    match Box::pin(target::intact(ctx, object, binding)).await {
        Ok(Some(binding)) => Some(Outcome::Intact(binding)),
        Ok(None) => sync(ctx, key, object, memo, wake, settings, active).await,
        Err(error) => Some(Outcome::Failed(Failure::writing(error))),
    }
}

/// Asks the providers and makes the target what they say; none: the object turns out to be another operator's.
async fn sync(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    memo: &Memo,
    wake: Wake,
    settings: &Settings,
    active: &mut Active,
) -> Option<Outcome> {
    let epoch = ctx.ownership.epoch(key);
    let sources = match plan::sources(object, &key.namespace) {
        Ok(sources) => sources,
        Err(why) => return Some(Outcome::Failed(Failure::rejected(why))),
    };
    let seen = seen(ctx, key, object, memo.binding.as_ref());
    let settled =
        memo.ready == Some(true) && !wake.changed && !wake.store && !wake.source && !seen.differs(memo.binding.as_ref());
    let known = if settled && memo.synced.as_deref() == Some(&plan::synced_version(object)) { &memo.versions[..] } else { &[] };
    let asking = Asking { fresh_after: fresh_after(memo, wake, settings), urgent: wake.changed };

    // What is looked for has no version: with it, everything is read.
    let known = if sources.iter().any(|s| s.remote().is_none()) { &[] } else { known };
    let resolver = ObjectResolver::new(ctx, Referrer::ExternalSecret(key.clone()));
    let asker = Asker { object, resolver: &resolver };
    let mut answers = active.while_waiting(fetch(ctx, key, &sources, known, asking, &asker)).await;
    if answers.iter().any(|answer| matches!(answer, Ok(Answer::Foreign))) {
        return None;
    }
    let unchanged = |a: &Result<Answer, Error>| matches!(a, Ok(Answer::Read(Fetched::Unchanged)));
    if answers.iter().all(unchanged) {
        return Some(Outcome::Unchanged);
    }
    if answers.iter().any(unchanged) {
        // Some changed: the others' values are needed too, to write the whole.
        answers = active.while_waiting(fetch(ctx, key, &sources, &[], asking, &asker)).await;
    }

    let assembled = assemble(ctx, &sources, &answers).await;
    let failures = assembled.problems.iter().any(|(_, e)| !matches!(e, Error::NotFound(_)));
    if failures {
        return Some(Outcome::Failed(Failure::reading(&assembled.problems)));
    }
    let missing: Vec<String> = assembled.problems.iter().map(|(what, error)| format!("{what}: {error}")).collect();
    if !missing.is_empty() {
        match status::gone(object.spec.target.deletion_policy, assembled.lacking, sources.len()) {
            Gone::KeepAndSay => {
                let mut failure = Failure::reading(&assembled.problems);
                failure.message.push_str("; the Secret is kept as it is (deletionPolicy Retain)");
                return Some(Outcome::Failed(failure));
            }
            Gone::DeleteTarget => {
                if ctx.ownership.epoch(key) != epoch {
                    let taken = target::ApplyError::Conflict("another replica has taken over".into());
                    return Some(Outcome::Failed(Failure::writing(taken)));
                }
                let deleted = match &object.spec.target.manifest {
                    Some(manifest) => Box::pin(generic::delete(ctx, key, object, manifest, memo.binding.as_ref())).await,
                    None => Box::pin(target::delete(ctx, object, &seen, memo.binding.as_ref())).await,
                };
                let outcome = match deleted {
                    Ok(was_there) => Outcome::Deleted { was_there },
                    Err(error) => Outcome::Failed(Failure::writing(error)),
                };
                audited::deleted(ctx, key, object, memo.binding.as_ref(), &outcome);
                return Some(outcome);
            }
            Gone::DropKeys => {}
        }
    }
    let versions = answers.into_iter().map(|a| a.ok().and_then(version_of)).collect();
    // What most of those that wait never come to has no place in what each of them holds.
    let mut hashes = serde_json::Value::Null;
    let told = &mut hashes;
    let written = Box::pin(async {
        let content = match template::content(ctx, key, object, assembled.data, &resolver).await {
            Ok(content) => content,
            Err(failure) => return Outcome::Failed(failure),
        };
        if ctx.ownership.epoch(key) != epoch {
            return Outcome::Failed(Failure::writing(target::ApplyError::Conflict("another replica has taken over".into())));
        }
        if ctx.audit.is_on() {
            *told = ctx.audit.hashes(&content.data);
        }
        if let Some(manifest) = &object.spec.target.manifest {
            return generic::write(ctx, key, object, manifest, content, memo, &resolver, versions, missing).await;
        }
        write(ctx, object, content, &seen, memo, versions, missing).await
    });
    let outcome = written.await;
    audited::synced(ctx, key, object, &sources, hashes, memo.binding.as_ref(), &outcome);
    if !matches!(outcome, Outcome::Failed(_)) {
        resolver.end();
    }
    Some(outcome)
}

async fn write(
    ctx: &Context,
    object: &ExternalSecret,
    content: template::Content,
    seen: &target::Seen,
    memo: &Memo,
    versions: Box<[Option<Arc<str>>]>,
    missing: Vec<String>,
) -> Outcome {
    let volatile = content.volatile.clone();
    let mut desired = match target::Desired::new(object, content) {
        Ok(desired) => desired,
        Err(why) => return Outcome::Failed(Failure { category: "invalid", ..Failure::rejected(why) }),
    };
    if object.spec.target.creation_policy == CreationPolicy::None {
        return Outcome::Synced { binding: None, change: target::Change::None, versions, missing };
    }
    let written = {
        let Ok(_permit) = ctx.writes.acquire().await else {
            return Outcome::Failed(Failure::writing(target::ApplyError::Conflict("the operator is stopping".into())));
        };
        let settled = match &volatile {
            Some(inputs) => target::settle(ctx, &mut desired, inputs).await,
            None => Ok(()),
        };
        match settled {
            Ok(()) => target::apply(ctx, &desired, seen, memo.binding.as_ref()).await,
            Err(error) => Err(error),
        }
    };
    match written {
        Ok((binding, change)) => Outcome::Synced { binding: Some(binding), change, versions, missing },
        Err(error) => Outcome::Failed(Failure::writing(error)),
    }
}

/// The moment that no answer may be older than: the cause of the wake, save that a periodic refresh takes an answer that is
/// young against its interval.
fn fresh_after(memo: &Memo, wake: Wake, settings: &Settings) -> Instant {
    let periodic = memo.ready == Some(true) && memo.failures == 0 && !(wake.changed || wake.store || wake.source || wake.target);
    let slack = settings.interval.filter(|_| periodic).map_or(Duration::ZERO, |i| i.mul_f64(SLACK));
    let since = wake.at.checked_sub(slack).unwrap_or(wake.at);
    // One that is served late is not content with what was new when it was due.
    let late = Instant::now().checked_sub(slack.max(TOGETHER)).filter(|_| wake.turn);
    late.map_or(since, |late| since.max(late))
}

/// The target as it was last seen.
fn seen(ctx: &Context, key: &ObjectKey, object: &ExternalSecret, binding: Option<&Binding>) -> target::Seen {
    match object.spec.target.manifest {
        Some(_) => ctx.generic.seen(key, binding),
        None => ctx.state.target(&key.namespace, object.target_name()),
    }
}

/// What an earlier process read of an object's generators: a change of one from now on is seen.
fn adopt_generators(ctx: &Context, key: &ObjectKey, object: &ExternalSecret) {
    let user = Referrer::ExternalSecret(key.clone());
    for (_, reference) in object.generator_refs() {
        if let Ok(generator) = GeneratorKey::referred(&key.namespace, reference) {
            ctx.object_refs.adopt(&user, RefObject::generator(&generator));
        }
    }
}

/// Whether its target holds what it asks for, and from which of its generators.
pub fn settled(object: &ExternalSecret, memo: Option<Memo>) -> OwnerView {
    let memo = memo.unwrap_or_else(|| Memo::of(object));
    match memo.refreshed {
        Some(at) if memo.ready == Some(true) && memo.synced.as_deref() == Some(&plan::synced_version(object)) => {
            OwnerView::Settled { at, slots: plan::slots(object).into_iter().map(|(_, slot)| slot).collect() }
        }
        _ => OwnerView::Unsettled,
    }
}

/// Writes the status if there is anything to tell, then remembers.
async fn tell(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    before: &Memo,
    report: Report,
    started: Instant,
) -> Option<Next> {
    let Report { patch, event, mut memo, requeue, label } = report;
    ctx.metrics.reconciled("ExternalSecret", label.0, label.1, started.elapsed());
    if label.0 == "error" {
        tracing::warn!(object = %key, category = label.1, message = memo.message.as_deref().unwrap_or_default(), "sync failed");
    } else {
        tracing::debug!(object = %key, result = label.0, "reconciled");
    }
    if let Some(patch) = patch {
        ctx.metrics.api_request("patch", "externalsecrets/status");
        let url = Api::<ExternalSecret>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned();
        let permit = ctx.writes.acquire().await;
        let sent = ctx.writer(key).patch_status(&url, &key.name, &patch).await;
        drop(permit);
        match sent {
            Ok(meta) => {
                let version = meta.metadata.resource_version.and_then(|v| v.parse().ok());
                memo.told_version = version.unwrap_or(memo.told_version);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return None,
            Err(error) => {
                // What was not told is told by the next run: only what does not stand in the status is remembered.
                tracing::warn!(object = %key, error = %kube_error(&error), "status could not be written; trying again");
                let untold = Memo {
                    sync_calls: memo.sync_calls,
                    sync_errors: memo.sync_errors,
                    failures: memo.failures,
                    untold: before.untold.saturating_add(1),
                    ready: None,
                    ..before.clone()
                };
                let wait = status::tell_again(untold.untold, memo.retry, requeue.as_ref());
                ctx.state.remember(key, object, untold);
                return Some(next((ctx.clock)(), Requeue::After(wait)));
            }
        }
    }
    memo.untold = 0;
    if let Some((reason, note)) = event {
        ctx.events.publish(ctx.events.about(object), reason, note);
    }
    let leased = memo.ready == Some(true) && object.generator_refs().next().is_some();
    ctx.state.remember(key, object, memo);
    if leased && let Some(uid) = &object.metadata.uid {
        generator_state::owner_settled(ctx, uid);
    }
    requeue.map(|requeue| next((ctx.clock)(), requeue))
}

/// Writes the condition of an object that does not parse, once for each of its generations.
async fn tell_malformed(ctx: &Arc<Context>, key: &ObjectKey) -> Option<Next> {
    let odd = ctx.malformed_objects.untold(key)?;
    let stores = || odd.stores.iter().map(|r| StoreKey::referred(&key.namespace, r));
    if ctx.state.are_foreign(stores(), &ctx.options.controller_class) {
        return None;
    }
    if store::is_yet_to_be_seen(ctx, stores()).await {
        return Some(Next::at(Instant::now() + store::SEEN_BY));
    }
    let Some(conditions) = odd.conditions(SecretReason::SecretSyncedError.as_str(), (ctx.clock)()) else {
        ctx.malformed_objects.told(key);
        return None;
    };
    let url = Api::<ExternalSecret>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned();
    ctx.metrics.api_request("patch", "externalsecrets/status");
    match ctx.writer(key).patch_status(&url, &key.name, &json!({"status": {"conditions": conditions}})).await {
        Ok(_) => ctx.malformed_objects.told(key),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            tracing::warn!(object = %key, error = %kube_error(&error), "status could not be written; trying again");
            return Some(next((ctx.clock)(), Requeue::After(Duration::from_secs(5))));
        }
    }
    None
}

/// A client error without any body.
pub fn kube_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("code {} {}", status.code, status.reason),
        kube::Error::SerdeError(_) => "an answer that does not parse".into(),
        other => {
            let text = other.to_string();
            text.chars().take(200).collect()
        }
    }
}
