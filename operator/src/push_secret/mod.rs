//! One PushSecret, from its source to the stores: the shell around [`plan`] and [`status`].
//!
//! With `deletionPolicy: Delete` a place stands in the status before anything is pushed there, and until it is deleted there: a
//! crash between any two requests leaves nothing behind that nobody knows of.

pub mod cache;
pub mod plan;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Resource};
use lockstep_crds::PushSecret;
use lockstep_crds::conditions::PushReason;
use lockstep_crds::push_secret::{PushDeletionPolicy, PushUpdatePolicy, SyncedPushSecrets};
use lockstep_providers::{Deleted, Error, Push, Pushed, Source};
use serde_json::json;
use tokio::time::Instant;

use crate::audit::{self, Action};
use crate::context::Context;
use crate::controller::Active;
use crate::external_secret::plan::StoreVerdict;
use crate::external_secret::status::{Failure, Requeue, Retry, tell_again, until};
use crate::external_secret::target::FIELD_MANAGER;
use crate::external_secret::template;
use crate::external_secret::{kube_error, next};
use crate::generator::{Definition, lease};
use crate::keys::{GeneratorKey, ObjectKey, Referrer, StoreKey};
use crate::kube_io;
use crate::queue::{Next, Wake};
use crate::refs::RefObject;
use crate::resolver::ObjectResolver;
use crate::store;
use cache::Memo;
use plan::{Entry, FINALIZER, Given, Plan, Settings};
use status::{Outcome, Report};

/// How long what a deleted object pushed is tried to be deleted in a namespace that goes, when its stores went before it.
const TERMINATING: Duration = Duration::from_secs(60);

/// Brings one in line; answers when to look again.
pub async fn reconcile(ctx: &Arc<Context>, key: &ObjectKey, wake: Wake, active: &mut Active) -> Option<Next> {
    let started = Instant::now();
    ctx.ownership.epoch(key)?;
    let Some((object, memo)) = ctx.push_secrets.get(key) else { return tell_malformed(ctx, key).await };
    let now = (ctx.clock)();
    let namespace = &key.namespace;
    let stores = stores_of(ctx, &object, namespace);
    let verdict = ctx.state.verdict(namespace, stores.iter().cloned(), &ctx.options);
    if verdict == StoreVerdict::Foreign {
        return None;
    }
    let lapsed = object.metadata.uid.as_deref().is_some_and(|uid| ctx.states.has_lapsed(uid));
    match plan::plan(&object, &memo, wake, lapsed, now) {
        Plan::Skip(due) => {
            if let Some(generator) = object.spec.selector.generator_ref.as_ref().filter(|_| !memo.met)
                && let Ok(generator) = GeneratorKey::referred(namespace, generator)
            {
                // What an earlier process read: a change of it from now on is seen.
                ctx.object_refs.adopt(&Referrer::PushSecret(key.clone()), RefObject::generator(&generator));
            }
            // A source is watched once it was pushed: until then it waits for its turn.
            let met = memo.met || !plan::is_unseen(&object, &memo);
            ctx.push_secrets.remember(key, object.metadata.uid.as_deref(), Memo { met, ..memo });
            due.map(|due| next(now, Requeue::Turn(due)))
        }
        Plan::Finish => active.while_waiting(finish(ctx, key, &object, &memo)).await,
        Plan::Reject(why) => {
            let outcome = Outcome::Failed(Failure::rejected(why));
            tell(ctx, key, &object, &memo, outcome, memo.pushed.clone(), None, started).await
        }
        Plan::Push(settings) => {
            if let StoreVerdict::Unusable(why) = verdict {
                if Box::pin(store::is_yet_to_be_seen(ctx, stores.into_iter())).await {
                    return Some(Next { again: Some(wake), ..Next::at(Instant::now() + store::SEEN_BY) });
                }
                let outcome = Outcome::Failed(Failure::rejected(why));
                return tell(ctx, key, &object, &memo, outcome, memo.pushed.clone(), Some(&settings), started).await;
            }
            let pushed = active.while_waiting(push(ctx, key, &object, &memo)).await?;
            let (outcome, pushed) = pushed;
            tell(ctx, key, &object, &memo, outcome, pushed, Some(&settings), started).await
        }
    }
}

fn with_labels<'a>(
    ctx: &'a Context,
) -> impl Fn(Option<&str>, &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector) -> Vec<StoreKey> + 'a {
    |namespace, selector| ctx.state.stores_with(namespace, |labels| crate::store::plan::selects(selector, labels))
}

fn stores_of(ctx: &Context, object: &PushSecret, namespace: &Arc<str>) -> Vec<StoreKey> {
    let with = with_labels(ctx);
    let mut all: Vec<StoreKey> = plan::store_refs(object).flat_map(|r| plan::stores(namespace, r, &with)).collect();
    all.sort();
    all.dedup();
    all
}

/// Pushes everything; answers what is known to be in place then. None: the object is another operator's.
async fn push(ctx: &Arc<Context>, key: &ObjectKey, object: &PushSecret, memo: &Memo) -> Option<(Outcome, SyncedPushSecrets)> {
    let referrer = Referrer::PushSecret(key.clone());
    let resolver = ObjectResolver::new(ctx, referrer.clone());
    let failed = |failure: Failure| Some((Outcome::Failed(failure), memo.pushed.clone()));
    let given = match Box::pin(given(ctx, key, object, &resolver)).await {
        Ok(given) => given,
        Err(failure) => return failed(failure),
    };
    resolver.end();
    let (entries, problems) = plan::entries(object, &key.namespace, &given, &with_labels(ctx));
    if !problems.is_empty() {
        return failed(Failure { category: "invalid", ..Failure::rejected(problems.join("; ")) });
    }
    let known = match foresee(ctx, key, object, memo, &entries).await {
        Ok(known) => known,
        Err(error) => return failed(api_failure(&error)),
    };
    let results = into_stores(ctx, key, object, &entries).await;
    let (mut problems, mut written, mut in_place) = (Vec::new(), 0, Vec::new());
    for (entry, result) in results {
        match result {
            Ok(did) => {
                written += usize::from(did != Pushed::Unchanged);
                in_place.push(entry.clone());
            }
            Err(error) => problems.push((entry.describe(), error)),
        }
    }
    // Under Delete everything that may be there stays told; else what is.
    let mut pushed = match object.spec.deletion_policy {
        PushDeletionPolicy::Delete => known,
        PushDeletionPolicy::None => plan::with_entries(&kept(&memo.pushed, &entries), &in_place),
    };
    // What could not be pushed everywhere is no reason to take anything away.
    if problems.is_empty() {
        let mut deleted = false;
        for (store, place, data) in plan::leftovers(object, &memo.pushed, &entries) {
            match delete_one(ctx, key, &store, &data).await {
                Ok(did) => {
                    deleted |= did;
                    forget(&mut pushed, &store, &place);
                }
                Err(error) => problems.push((plan::describe(&store.replace('/', " "), &data.match_.remote_ref), error)),
            }
        }
        // Another name may be the same place: a key with and without its mount, a whole secret and a property of it, two stores on
        // one backend. What is wanted there is put back at once.
        if deleted {
            for (entry, result) in into_stores(ctx, key, object, &entries).await {
                if let Err(error) = result {
                    problems.push((entry.describe(), error));
                }
            }
        }
    }
    if problems.is_empty() {
        ctx.push_secrets.keep_unfinished(key, object, None);
    }
    let outcome = match problems.is_empty() {
        true => Outcome::Synced { written },
        false => Outcome::Failed(Failure::reading(&problems)),
    };
    Some((outcome, pushed))
}

/// Entries of the status that are still wanted.
fn kept(pushed: &SyncedPushSecrets, entries: &[Entry]) -> SyncedPushSecrets {
    let mut all = SyncedPushSecrets::new();
    for entry in entries {
        let (store, place) = (plan::store_name(&entry.store), plan::place(&entry.told.match_.remote_ref));
        if let Some(data) = pushed.get(&store).and_then(|places| places.get(&place)) {
            all.entry(store).or_default().insert(place, data.clone());
        }
    }
    all
}

fn forget(pushed: &mut SyncedPushSecrets, store: &str, place: &str) {
    if let Some(places) = pushed.get_mut(store) {
        places.remove(place);
        if places.is_empty() {
            pushed.remove(store);
        }
    }
}

/// Writes down what is about to be pushed where, if it will have to be deleted one day; answers what stands in the status then.
async fn foresee(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &PushSecret,
    memo: &Memo,
    entries: &[Entry],
) -> kube::Result<SyncedPushSecrets> {
    let has = object.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let wants = object.spec.deletion_policy == PushDeletionPolicy::Delete;
    if has != wants {
        let mut finalizers: Vec<&str> =
            object.metadata.finalizers.iter().flatten().map(String::as_str).filter(|f| *f != FINALIZER).collect();
        finalizers.extend(wants.then_some(FINALIZER));
        let meta = &object.metadata;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers}});
        ctx.metrics.api_request("patch", "pushsecrets");
        ctx.writer(key).merge(&url(ctx, key), &key.name, &patch, FIELD_MANAGER).await?;
    }
    if !wants {
        return Ok(memo.pushed.clone());
    }
    let all = plan::with_entries(&memo.pushed, entries);
    if all != memo.pushed {
        let patch = json!({
            "metadata": {"uid": object.metadata.uid},
            "status": {"syncedPushSecrets": status::changes(&memo.pushed, &all)},
        });
        ctx.metrics.api_request("patch", "pushsecrets/status");
        ctx.writer(key).patch_status(&url(ctx, key), &key.name, &patch).await?;
        let uid = object.metadata.uid.as_deref();
        ctx.push_secrets.remember(key, uid, Memo { pushed: all.clone(), ..memo.clone() });
    }
    Ok(all)
}

fn url(ctx: &Context, key: &ObjectKey) -> String {
    Api::<PushSecret>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned()
}

fn api_failure(error: &kube::Error) -> Failure {
    let retry = match error {
        kube::Error::Api(status) if status.code == 409 => Retry::Now,
        _ => Retry::Backoff,
    };
    Failure {
        category: "api_server",
        retry,
        ..Failure::rejected(format!("the PushSecret itself could not be written ({}), so nothing was pushed", kube_error(error)))
    }
}

/// Everything, into all stores at once.
async fn into_stores<'a>(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &PushSecret,
    entries: &'a [Entry],
) -> Vec<(&'a Entry, Result<Pushed, Error>)> {
    let mut by_store: BTreeMap<&StoreKey, Vec<&Entry>> = BTreeMap::new();
    entries.iter().for_each(|entry| by_store.entry(&entry.store).or_default().push(entry));
    let writes = by_store.into_iter().map(|(store, entries)| into_store(ctx, key, object, store, entries));
    futures::future::join_all(writes).await.into_iter().flatten().collect()
}

/// Everything that goes into one store, one after another.
async fn into_store<'a>(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &PushSecret,
    store: &StoreKey,
    entries: Vec<&'a Entry>,
) -> Vec<(&'a Entry, Result<Pushed, Error>)> {
    let connect = tokio::time::timeout(ctx.options.read_deadline, ctx.connect(store, &key.namespace)).await;
    let reader = match connect.unwrap_or_else(|_| Err(Error::unavailable("no connection in time"))) {
        Ok(reader) => reader,
        Err(error) => return entries.into_iter().map(|entry| (entry, Err(error.clone()))).collect(),
    };
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let push = Push {
            target: entry.target.clone(),
            value: entry.value.clone(),
            only_new: object.spec.update_policy == PushUpdatePolicy::IfNotExists || entry.volatile,
            source: entry.source.clone(),
        };
        let result = match ctx.ownership.owns(key) {
            true => reader.push(&push).await,
            false => Err(Error::unavailable("another replica has taken over")),
        };
        if ctx.audit.is_on() {
            let what = json!({
                "object": audit::object(&Referrer::PushSecret(key.clone()), object.metadata.uid.as_deref()),
                "target": {"store": audit::store(store), "key": entry.target.key, "property": entry.target.property},
                "selector": object.spec.selector,
            });
            let said = match &result {
                Ok(Pushed::Created) => "created",
                Ok(Pushed::Updated) => "updated",
                Ok(Pushed::Unchanged) => "unchanged",
                Err(error) => error.category(),
            };
            if said != "unchanged" {
                ctx.audit.record(Action::Write, said, what);
            }
        }
        all.push((entry, result));
    }
    all
}

/// What is pushed: Secrets, or what a generator gives, each through the template if there is one.
async fn given(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &PushSecret,
    resolver: &ObjectResolver<'_>,
) -> Result<Vec<Given>, Failure> {
    let wrong = |what: &str, error: Error| Failure::reading(&[(what.to_owned(), error)]);
    let mut all = Vec::new();
    if let Some(reference) = &object.spec.selector.generator_ref {
        let field = "spec.selector.generatorRef";
        let generator = GeneratorKey::referred(&key.namespace, reference)
            .map_err(|why| Failure { category: "invalid", ..Failure::rejected(format!("{field}: {why}")) })?;
        let name = generator.to_string();
        let made = async {
            let manifest = resolver.generator(field, &generator).await?;
            let definition = Definition::new(&generator, &manifest, &ctx.options.controller_class)?;
            // The keys of one value belong together, wherever some of them are already.
            let of = format!("{} {}", plan::synced_version(object), definition.identity.fingerprint);
            if let Some(values) = ctx.push_secrets.unfinished(key, &of) {
                return Ok((*values).clone());
            }
            let referrer = Referrer::PushSecret(key.clone());
            let uid = object.metadata.uid.as_deref().unwrap_or_default();
            let asker = lease::Asker { referrer: &referrer, uid, owner: object.controller_owner_ref(&()) };
            let values = lease::make(ctx, resolver, &asker, &definition, &slot(object)).await?;
            let keeps = !definition.identity.kind.is_leased();
            ctx.push_secrets.keep_unfinished(key, object, keeps.then(|| (of, Arc::new(values.clone()))));
            Ok(values)
        };
        let late = |_| Err(Error::unavailable("no answer in time"));
        let data = tokio::time::timeout(ctx.options.read_deadline, made).await.unwrap_or_else(late);
        all.push(Given { data: data.map_err(|error| wrong(&name, error))?, name, ..Given::default() });
    }
    if let Some(selector) = &object.spec.selector.secret {
        let field = "spec.selector.secret";
        let names = match (&selector.name, &selector.selector) {
            (Some(name), _) => vec![name.clone()],
            (None, Some(labels)) => resolver.secrets_with(field, labels).await.map_err(|error| wrong(field, error))?,
            (None, None) => Vec::new(),
        };
        if names.is_empty() {
            let why = format!("no Secret of namespace {} has the labels of {field}.selector", key.namespace);
            return Err(Failure { category: "invalid", ..Failure::rejected(why) });
        }
        for name in names {
            let secret = resolver.whole_secret(field, &name).await.map_err(|error| wrong(field, error))?;
            all.push(secret);
        }
    }
    let Some(template) = &object.spec.template else { return Ok(all) };
    let mut rendered = Vec::with_capacity(all.len());
    for given in all {
        let Given { name, data, source, .. } = given;
        let content = template::of_push(ctx, resolver, template, object, data).await?;
        let metadata = content.metadata.unwrap_or_default();
        let source = Source {
            type_: template.type_.clone().or(source.type_),
            labels: if metadata.labels.is_empty() { source.labels } else { metadata.labels },
            annotations: if metadata.annotations.is_empty() { source.annotations } else { metadata.annotations },
        };
        rendered.push(Given { name, data: content.data, source, volatile: content.volatile.is_some() });
    }
    Ok(rendered)
}

/// Which of its generators a state is of: it has but one.
fn slot(object: &PushSecret) -> String {
    let generator = object.spec.selector.generator_ref.as_ref();
    generator.map(|r| format!("{}/{}#1", r.kind, r.name)).unwrap_or_default()
}

/// Whether what it pushes is what it asks for, and from which of its generators.
pub fn settled(object: &PushSecret, memo: &Memo) -> crate::generator_state::plan::OwnerView {
    use crate::generator_state::plan::OwnerView;
    match memo.refreshed {
        Some(at) if memo.ready == Some(true) && memo.synced.as_deref() == Some(&plan::synced_version(object)) => {
            OwnerView::Settled { at, slots: vec![slot(object)] }
        }
        _ => OwnerView::Unsettled,
    }
}

/// Deletes one place, unless another object pushes there too; answers whether it was there. A store that is not there any more is
/// an error.
async fn delete_one(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    store: &str,
    data: &lockstep_crds::push_secret::PushData,
) -> Result<bool, Error> {
    if let Some(other) = ctx.push_secrets.also_pushed_by(key, store, &plan::place(&data.match_.remote_ref)) {
        tracing::info!(push = %key, %other, place = %plan::describe(store, &data.match_.remote_ref), "pushed by another object too, and left alone");
        return Ok(false);
    }
    let store = plan::store_of(&key.namespace, store)
        .ok_or_else(|| Error::invalid("status.syncedPushSecrets", format!("{store} is no store")))?;
    // A store that does not admit the namespace any more is not written to either.
    match ctx.state.verdict(&key.namespace, std::iter::once(store.clone()), &ctx.options) {
        StoreVerdict::Usable => {}
        StoreVerdict::Foreign => return Err(Error::invalid("spec", format!("{store} is of another controller class"))),
        StoreVerdict::Unusable(why) => return Err(Error::invalid("spec", why)),
    }
    let reader = ctx.connect(&store, &key.namespace).await?;
    let answer = reader.delete(&plan::target_of(data)).await;
    if ctx.audit.is_on() && !matches!(answer, Ok(Deleted::Absent | Deleted::NotOurs)) {
        let what = json!({
            "object": audit::object(&Referrer::PushSecret(key.clone()), None),
            "target": {"store": audit::store(&store), "key": data.match_.remote_ref.remote_key, "property": data.match_.remote_ref.property},
        });
        ctx.audit.record(Action::Remove, answer.as_ref().map_or_else(Error::category, |_| "deleted"), what);
    }
    match answer? {
        Deleted::Done => Ok(true),
        Deleted::Absent => Ok(false),
        Deleted::NotOurs => {
            tracing::info!(push = %key, place = %plan::describe(&store.to_string(), &data.match_.remote_ref), "not managed by us, and left alone");
            Ok(false)
        }
    }
}

/// Deletes everything that was pushed, then lets the object go.
async fn finish(ctx: &Arc<Context>, key: &ObjectKey, object: &PushSecret, memo: &Memo) -> Option<Next> {
    let started = Instant::now();
    let mut pushed = memo.pushed.clone();
    let mut problems = Vec::new();
    if object.spec.deletion_policy == PushDeletionPolicy::Delete {
        for (store, place, data) in plan::leftovers(object, &memo.pushed, &[]) {
            match delete_one(ctx, key, &store, &data).await {
                Ok(_) => forget(&mut pushed, &store, &place),
                Err(error) => problems.push((plan::describe(&store.replace('/', " "), &data.match_.remote_ref), error)),
            }
        }
    }
    if !problems.is_empty() && !is_lost(ctx, key, object, &problems).await {
        let mut failure = Failure::reading(&problems);
        failure.message = format!("what was pushed could not be deleted: {}", failure.message);
        // Nothing else tells that a store is back.
        failure.retry = if failure.retry == Retry::AtInterval { Retry::Backoff } else { failure.retry };
        return tell(ctx, key, object, memo, Outcome::Failed(failure), pushed, None, started).await;
    }
    let meta = &object.metadata;
    let others: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": others}});
    ctx.metrics.api_request("patch", "pushsecrets");
    match ctx.writer(key).merge(&url(ctx, key), &key.name, &patch, FIELD_MANAGER).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => {
            tracing::debug!(push = %key, error = %kube_error(&error), "its finalizer could not be taken off; trying again");
            Some(Next::at(Instant::now() + Duration::from_secs(1)))
        }
    }
}

/// Whether nobody is left who could delete it: the namespace goes, and took the stores along.
async fn is_lost(ctx: &Context, key: &ObjectKey, object: &PushSecret, problems: &[(String, Error)]) -> bool {
    let Some(deleted) = &object.metadata.deletion_timestamp else { return false };
    let gone = problems.iter().all(|(_, error)| matches!(error, Error::Invalid { .. }));
    if !gone || until(deleted.0, (ctx.clock)()) < TERMINATING {
        return false;
    }
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let found = kube_io::in_time(|| namespaces.get_metadata_opt(&key.namespace)).await;
    let lost = found.is_ok_and(|found| found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()));
    if lost {
        for (what, error) in problems {
            tracing::warn!(push = %key, %what, %error, "what was pushed stays: its namespace goes, and its store went before");
        }
    }
    lost
}

#[expect(clippy::too_many_arguments, reason = "what happened, to what, and since when")]
async fn tell(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &PushSecret,
    memo: &Memo,
    outcome: Outcome,
    pushed: SyncedPushSecrets,
    settings: Option<&Settings>,
    started: Instant,
) -> Option<Next> {
    let now = (ctx.clock)();
    // What was foreseen is told already.
    let told = ctx.push_secrets.get(key).map_or_else(|| memo.clone(), |(_, memo)| memo);
    let report = status::report(object, &told, outcome, pushed, settings, now, ctx.options.heartbeat);
    let Report { patch, event, memo: mut after, requeue, label } = report;
    ctx.metrics.reconciled("PushSecret", label.0, label.1, started.elapsed());
    if label.0 == "error" {
        tracing::warn!(push = %key, category = label.1, message = after.message.as_deref().unwrap_or_default(), "push failed");
    } else {
        tracing::debug!(push = %key, result = label.0, "reconciled");
    }
    let uid = object.metadata.uid.as_deref();
    if let Some(patch) = patch {
        ctx.metrics.api_request("patch", "pushsecrets/status");
        let permit = ctx.writes.acquire().await;
        let sent = ctx.writer(key).patch_status(&url(ctx, key), &key.name, &patch).await;
        drop(permit);
        match sent {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return None,
            Err(error) => {
                tracing::warn!(push = %key, error = %kube_error(&error), "status could not be written; trying again");
                let untold = Memo { failures: after.failures, untold: told.untold.saturating_add(1), ready: None, ..told };
                let wait = tell_again(untold.untold, after.retry, requeue.as_ref());
                ctx.push_secrets.remember(key, uid, untold);
                return Some(Next::at(Instant::now() + wait));
            }
        }
    }
    if let Some((reason, note)) = event {
        ctx.events.publish(ctx.events.about(object), reason, note);
    }
    after.untold = 0;
    let leased = after.ready == Some(true) && object.spec.selector.generator_ref.is_some();
    ctx.push_secrets.remember(key, uid, after);
    if let Some(uid) = uid.filter(|_| leased) {
        crate::generator_state::owner_settled(ctx, uid);
    }
    requeue.map(|requeue| next((ctx.clock)(), requeue))
}

/// Writes the condition of one that does not parse, once for each of its generations.
async fn tell_malformed(ctx: &Arc<Context>, key: &ObjectKey) -> Option<Next> {
    let odd = ctx.malformed_pushes.untold(key)?;
    let Some(conditions) = odd.conditions(PushReason::Errored.as_str(), (ctx.clock)()) else {
        ctx.malformed_pushes.told(key);
        return None;
    };
    ctx.metrics.api_request("patch", "pushsecrets/status");
    let patch = json!({"status": {"conditions": conditions}});
    match ctx.writer(key).patch_status(&url(ctx, key), &key.name, &patch).await {
        Ok(_) => ctx.malformed_pushes.told(key),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(_) => return Some(Next::at(Instant::now() + Duration::from_secs(5))),
    }
    None
}
