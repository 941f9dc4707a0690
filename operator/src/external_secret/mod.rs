//! One ExternalSecret, from what is observed to what is reported: the shell around [`plan`] and [`status`].
//!
//! Read [`reconcile`] from top to bottom. Each step either decides without IO or does IO without deciding; an object's
//! target is written first and its status last, so a crash between any two requests converges on the next start.

pub mod data;
pub mod plan;
pub mod rewrite;
#[cfg(test)]
mod shell_tests;
pub mod status;
pub mod target;
pub mod template;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use lockstep_crds::ExternalSecret;
use lockstep_crds::conditions::{ConditionType, SecretReason};
use lockstep_crds::external_secret::{Binding, CreationPolicy, Find, MetadataPolicy, RemoteRef};
use lockstep_providers::{Error, Fetched, Found, Payload, SecretBytes, Want};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::controller::Active;
use crate::keys::{ObjectKey, StoreKey};
use crate::queue::{Next, Wake};
use crate::reads::{Asking, Listed, Reader, Search};
use data::{Treatment, ValueError};
use plan::{Ask, Observed, Plan, Settings, Source};
use status::{Failure, Gone, Outcome, Report, Requeue, Retry};

/// How old a shared answer may be for a periodic refresh, as a share of its interval.
const SLACK: f64 = 0.1;
/// How far apart those that are refreshed together may come.
const TOGETHER: Duration = Duration::from_secs(5);

/// What the condition says when all is well.
const SYNCED: &str = "secret synced";

/// What is known of an object beside its spec: what the status says, and what only this process needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memo {
    /// `status.syncedResourceVersion`.
    pub synced: Option<Box<str>>,
    /// Version of the object whose status says what is remembered here.
    pub told_version: u64,
    /// When the providers last gave everything; ahead of `status.refreshTime` by up to a heartbeat.
    pub refreshed: Option<Timestamp>,
    /// `status.refreshTime`.
    pub told: Option<Timestamp>,
    /// `status.binding`.
    pub binding: Option<Binding>,
    /// Status of the condition Ready.
    pub ready: Option<bool>,
    /// Its reason.
    pub reason: Option<SecretReason>,
    /// Its message.
    pub message: Option<Cow<'static, str>>,
    /// Its last transition.
    pub since: Option<Timestamp>,
    /// The deletion policy took the target away, and the provider still has nothing.
    pub deleted_by_policy: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Rule of the next try after a failure.
    pub retry: Option<Retry>,
    /// Category of the last failure; empty after a success.
    pub category: &'static str,
    /// A refresh was put off by a throttling provider.
    pub owed: bool,
    /// Versions last read, in the order of the entries.
    pub versions: Box<[Option<Arc<str>>]>,
    /// Syncs tried since the start.
    pub sync_calls: u64,
    /// Syncs failed since the start.
    pub sync_errors: u64,
}

impl Memo {
    /// What a fresh process knows: the object's own status.
    pub fn of(object: &ExternalSecret) -> Self {
        let Some(status) = &object.status else { return Self::default() };
        let time = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
        let ready = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
        let word = ready.and_then(|c| c.reason.as_deref());
        let reason = SecretReason::ALL.iter().copied().find(|r| Some(r.as_str()) == word);
        Self {
            told_version: version_of_object(object),
            synced: status.synced_resource_version.as_deref().map(Into::into),
            refreshed: time(&status.refresh_time),
            told: time(&status.refresh_time),
            binding: status.binding.clone(),
            ready: ready.map(|c| c.status == "True"),
            reason,
            message: ready.and_then(|c| c.message.clone()).map(|m| if m == SYNCED { SYNCED.into() } else { m.into() }),
            since: ready.and_then(|c| time(&c.last_transition_time)),
            deleted_by_policy: reason == Some(SecretReason::SecretDeleted),
            ..Self::default()
        }
    }

    /// Takes over what the status says if somebody else has written it since: another replica before it handed the object on,
    /// or a person. It is put right by the next report, which only tells what differs.
    fn corrected(self, object: &ExternalSecret) -> Self {
        if version_of_object(object) <= self.told_version {
            return self;
        }
        let Self { told_version, synced, told, mut binding, ready, reason, message, since, .. } = Self::of(object);
        let same = |a: &Binding, b: &Binding| (&a.name, &a.uid, &a.resource_version) == (&b.name, &b.uid, &b.resource_version);
        if let (Some(there), Some(known)) = (&mut binding, &self.binding)
            && same(there, known)
        {
            there.data_hash.clone_from(&known.data_hash);
        }
        Self { told_version, synced, told, binding, ready, reason, message, since, ..self }
    }

    fn succeeded(&mut self, object: &ExternalSecret, now: Timestamp) {
        self.synced = Some(plan::synced_version(object).into());
        self.refreshed = Some(now);
        self.deleted_by_policy = false;
        self.owed = false;
        self.well();
    }

    /// Nothing is wrong any more.
    fn well(&mut self) {
        self.failures = 0;
        self.retry = None;
        self.category = "";
    }

    /// What a success says: what the last one said, if nothing failed since.
    fn good_message(&self) -> Cow<'static, str> {
        let last = self.message.clone().filter(|_| self.ready == Some(true));
        last.unwrap_or(SYNCED.into())
    }
}

/// Resource versions of one kind grow (KEP-5504).
fn version_of_object(object: &ExternalSecret) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

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
    let target = ctx.state.target(&key.namespace, object.target_name());
    let observed = Observed {
        object: &object,
        memo: &memo,
        claimed_by: ctx.state.claimed_by(key, &object),
        stores: ctx.state.store_verdict(key, &object, &ctx.options),
        referent: ctx.state.is_referent(&object, key),
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
            (Box::pin(inspect(ctx, key, &object, &memo, wake, &settings, &mut active)).await, Some(settings))
        }
        Plan::Fetch(settings) => (sync(ctx, key, &object, &memo, wake, &settings, &mut active).await, Some(settings)),
    };
    if ctx.ownership.epoch(key) != Some(epoch) {
        // Somebody else had it meanwhile, and it was or will be looked at anew.
        return None;
    }
    let now = (ctx.clock)();
    let report = status::report(&object, &memo, outcome, settings.as_ref(), lacks_target, now, ctx.options.heartbeat);
    // A refresh takes its turn after a store's rest; a change is what somebody waits for.
    let again = (report.label.0 == "deferred" && (wake.changed || wake.store || wake.target)).then_some(wake);
    let next = Box::pin(tell(ctx, key, &object, &memo, report, started)).await?;
    Some(again.map_or(next, |again| Next { turn: None, again: Some(again), ..next }))
}

/// From the wall clock that an object's times are told by to the one that the queue goes by.
fn next(now: Timestamp, requeue: Requeue) -> Next {
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
) -> Outcome {
    let Some(binding) = &memo.binding else { return sync(ctx, key, object, memo, wake, settings, active).await };
    match Box::pin(target::intact(ctx, object, binding)).await {
        Ok(Some(binding)) => Outcome::Intact(binding),
        Ok(None) => sync(ctx, key, object, memo, wake, settings, active).await,
        Err(error) => Outcome::Failed(Failure::writing(error)),
    }
}

/// Asks the providers and makes the target what they say.
async fn sync(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    memo: &Memo,
    wake: Wake,
    settings: &Settings,
    active: &mut Active,
) -> Outcome {
    let epoch = ctx.ownership.epoch(key);
    let sources = match plan::sources(object, &key.namespace) {
        Ok(sources) => sources,
        Err(why) => return Outcome::Failed(Failure::rejected(why)),
    };
    let seen = ctx.state.target(&key.namespace, object.target_name());
    let settled = memo.ready == Some(true) && !wake.changed && !wake.store && !seen.differs(memo.binding.as_ref());
    let known = if settled && memo.synced.as_deref() == Some(&plan::synced_version(object)) { &memo.versions[..] } else { &[] };
    let asking = Asking { fresh_after: fresh_after(memo, wake, settings), urgent: wake.changed };

    // What is looked for has no version: with it, everything is read.
    let known = if sources.iter().any(|s| s.remote().is_none()) { &[] } else { known };
    let mut answers = active.while_waiting(fetch(ctx, key, &sources, known, asking)).await;
    let unchanged = |a: &Result<Answer, Error>| matches!(a, Ok(Answer::Read(Fetched::Unchanged)));
    if answers.iter().all(unchanged) {
        return Outcome::Unchanged;
    }
    if answers.iter().any(unchanged) {
        // Some changed: the others' values are needed too, to write the whole.
        answers = active.while_waiting(fetch(ctx, key, &sources, &[], asking)).await;
    }

    let assembled = assemble(ctx, &sources, &answers).await;
    let failures = assembled.problems.iter().any(|(_, e)| !matches!(e, Error::NotFound(_)));
    if failures {
        return Outcome::Failed(Failure::reading(&assembled.problems));
    }
    let missing: Vec<String> = assembled.problems.iter().map(|(what, error)| format!("{what}: {error}")).collect();
    if !missing.is_empty() {
        match status::gone(object.spec.target.deletion_policy, assembled.lacking, sources.len()) {
            Gone::KeepAndSay => {
                let mut failure = Failure::reading(&assembled.problems);
                failure.message.push_str("; the Secret is kept as it is (deletionPolicy Retain)");
                return Outcome::Failed(failure);
            }
            Gone::DeleteTarget => {
                if ctx.ownership.epoch(key) != epoch {
                    return Outcome::Failed(Failure::writing(target::ApplyError::Conflict(
                        "another replica has taken over".into(),
                    )));
                }
                return match Box::pin(target::delete(ctx, object, &seen, memo.binding.as_ref())).await {
                    Ok(was_there) => Outcome::Deleted { was_there },
                    Err(error) => Outcome::Failed(Failure::writing(error)),
                };
            }
            Gone::DropKeys => {}
        }
    }
    let versions = answers.into_iter().map(|a| a.ok().and_then(version_of)).collect();
    // What most of those that wait never come to has no place in what each of them holds.
    Box::pin(async {
        let content = match template::content(ctx, key, object, assembled.data).await {
            Ok(content) => content,
            Err(failure) => return Outcome::Failed(failure),
        };
        if ctx.ownership.epoch(key) != epoch {
            return Outcome::Failed(Failure::writing(target::ApplyError::Conflict("another replica has taken over".into())));
        }
        write(ctx, object, content, &seen, memo, versions, missing).await
    })
    .await
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
    let periodic = memo.ready == Some(true) && memo.failures == 0 && !(wake.changed || wake.store || wake.target);
    let slack = settings.interval.filter(|_| periodic).map_or(Duration::ZERO, |i| i.mul_f64(SLACK));
    let since = wake.at.checked_sub(slack).unwrap_or(wake.at);
    // One that is served late is not content with what was new when it was due.
    let late = Instant::now().checked_sub(slack.max(TOGETHER)).filter(|_| wake.turn);
    late.map_or(since, |late| since.max(late))
}

/// What a source gave.
enum Answer {
    /// One remote secret.
    Read(Fetched),
    /// Those that were found, by name.
    Found(Vec<(String, Result<Arc<Payload>, Error>)>),
}

/// Reads every source, each store's in one go; the answers stand in the order of the sources.
async fn fetch(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    sources: &[Source<'_>],
    known: &[Option<Arc<str>>],
    asking: Asking,
) -> Vec<Result<Answer, Error>> {
    let mut by_store: BTreeMap<&StoreKey, Vec<usize>> = BTreeMap::new();
    for (i, source) in sources.iter().enumerate() {
        by_store.entry(&source.store).or_default().push(i);
    }
    let reads = by_store.into_iter().map(|(store, indices)| async move {
        let read = async {
            match ctx.connect(store, &key.namespace).await {
                Ok(reader) => {
                    let taker = reader.takes_property().then_some(&key.namespace);
                    let seen = |i: usize| known.get(i).cloned().flatten();
                    let wanted = |i: &usize| sources[*i].remote().map(|remote| want(remote, seen(*i), taker));
                    let wants: Vec<Want> = indices.iter().filter_map(wanted).collect();
                    let searches = indices.iter().filter_map(|i| match sources[*i].ask {
                        Ask::Find(find) => Some(search(&reader, find, taker, asking)),
                        _ => None,
                    });
                    let (read, found) = tokio::join!(reader.read(&wants, asking), futures::future::join_all(searches));
                    let (mut read, mut found) = (read.into_iter(), found.into_iter());
                    let answer = |i: &usize| match sources[*i].remote() {
                        Some(_) => read.next().map(|answer| answer.map(Answer::Read)),
                        None => found.next().map(|answer| answer.map(Answer::Found)),
                    };
                    let lost = || Err(Error::unavailable("the read was given up"));
                    indices.iter().map(answer).map(|answer| answer.unwrap_or_else(lost)).collect()
                }
                Err(error) => indices.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
            }
        };
        let late = |_| indices.iter().map(|_| Err(Error::unavailable("no answer in time"))).collect();
        let answers = tokio::time::timeout(ctx.options.read_deadline, read).await.unwrap_or_else(late);
        indices.into_iter().zip(answers).collect::<Vec<_>>()
    });
    let mut all: Vec<_> = futures::future::join_all(reads).await.into_iter().flatten().collect();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, answer)| answer).collect()
}

/// Looks for remote secrets, then reads those whose values the search did not give.
async fn search(
    reader: &Arc<Reader>,
    find: &Find,
    taker: Option<&Arc<str>>,
    asking: Asking,
) -> Result<Vec<(String, Result<Arc<Payload>, Error>)>, Error> {
    let pattern = find.name.as_ref().and_then(|name| name.regexp.clone()).filter(|pattern| !pattern.is_empty());
    let path = find.path.clone().filter(|path| !path.is_empty());
    let search = Search { pattern, path, tags: find.tags.clone() };
    let Listed { found, at } = reader.find(search, asking).await?;
    // What was read before the search may be older than it: a secret that was made meanwhile is not missing.
    let asking = Asking { fresh_after: asking.fresh_after.max(at), ..asking };
    let unread = found.iter().filter(|found| found.payload.is_none());
    let wants: Vec<Want> =
        unread.map(|found| want(&RemoteRef { key: found.key.clone(), ..RemoteRef::default() }, None, taker)).collect();
    let mut read = reader.read(&wants, asking).await.into_iter();
    let value = |found: &Found| match &found.payload {
        Some(payload) => Ok(payload.clone()),
        None => match read.next() {
            Some(Ok(Fetched::Value { payload, .. })) => Ok(payload),
            Some(Err(error)) => Err(error),
            _ => Err(Error::unavailable("the read was given up")),
        },
    };
    let values: Vec<_> = found.iter().map(value).collect();
    // One that went between the search and its read is one that is not found.
    let named = found.iter().map(|found| found.name.clone()).zip(values);
    let there: Vec<_> = named.filter(|(_, value)| !matches!(value, Err(Error::NotFound(_)))).collect();
    if there.is_empty() {
        return Err(Error::NotFound("no remote secret matches".into()));
    }
    Ok(there)
}

/// `taker` is the namespace that asks, for a provider that takes property and namespace.
fn want(remote: &RemoteRef, seen: Option<Arc<str>>, taker: Option<&Arc<str>>) -> Want {
    Want {
        key: remote.key.clone(),
        version: remote.version.clone().filter(|v| !v.is_empty()),
        metadata: remote.metadata_policy == Some(MetadataPolicy::Fetch),
        property: taker.and(remote.property.clone()).filter(|p| !p.is_empty()),
        namespace: taker.map(|namespace| namespace.to_string()),
        seen,
    }
}

fn version_of(answer: Answer) -> Option<Arc<str>> {
    match answer {
        Answer::Read(Fetched::Value { version, .. }) => version,
        Answer::Read(Fetched::Unchanged) | Answer::Found(_) => None,
    }
}

/// The keys of the Secret, and what stood in the way of others.
struct Assembled {
    data: BTreeMap<String, SecretBytes>,
    problems: Vec<(String, Error)>,
    /// How many entries an authority says are not there.
    lacking: usize,
}

impl Assembled {
    fn problem(&mut self, what: String, error: Error) {
        self.lacking += usize::from(matches!(error, Error::NotFound(_)));
        if !self.problems.iter().any(|(w, e)| *w == what && *e == error) {
            self.problems.push((what, error));
        }
    }
}

async fn assemble(ctx: &Context, sources: &[Source<'_>], answers: &[Result<Answer, Error>]) -> Assembled {
    let mut all = Assembled { data: BTreeMap::new(), problems: Vec::new(), lacking: 0 };
    for (source, answer) in sources.iter().zip(answers) {
        let values = match answer {
            Ok(Answer::Read(Fetched::Value { payload, .. })) => of_one(source, payload),
            Ok(Answer::Read(Fetched::Unchanged)) => continue,
            Ok(Answer::Found(found)) => {
                let mut fields = BTreeMap::new();
                for (name, payload) in found {
                    let value = payload.clone().and_then(|payload| {
                        data::whole(&payload).map_err(|error| match error {
                            ValueError::Missing(why) | ValueError::Unusable(why) => Error::invalid("value", why),
                        })
                    });
                    match value {
                        Ok(value) => drop(fields.insert(name.clone(), value)),
                        Err(error) => all.problem(format!("{}, found {name}", source.describe()), error),
                    }
                }
                Ok(fields)
            }
            Err(error) => {
                let what = match error {
                    // A store that can't be connected to fails all of its keys alike: it is named once.
                    Error::Invalid { field, .. } if field.starts_with("spec.") => source.store.to_string(),
                    _ => source.describe(),
                };
                all.problem(what, error.clone());
                continue;
            }
        };
        let values = match values {
            Ok(values) => rewritten(ctx, source, values).await,
            Err(error) => Err(error),
        };
        match values {
            Ok(values) => all.data.extend(values),
            Err(ValueError::Missing(why)) => all.problem(source.describe(), Error::NotFound(why)),
            Err(ValueError::Unusable(why)) => all.problem(source.describe(), Error::invalid("value", why)),
        }
    }
    all
}

/// The keys that one remote secret gives, before they are rewritten.
fn of_one(source: &Source<'_>, payload: &Payload) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    match source.ask {
        Ask::Key(key, remote) => data::check_key(key)
            .map_err(|why| ValueError::Unusable(format!("secretKey {key:?} {why}")))
            .and_then(|()| data::single(payload, remote))
            .map(|value| BTreeMap::from([(key.to_owned(), value)])),
        Ask::Extract(remote) => data::fields(payload, remote),
        Ask::Find(_) => Ok(BTreeMap::new()),
    }
}

/// Rewritten keys, with names that a Secret can have and values that are decoded.
async fn rewritten(
    ctx: &Context,
    source: &Source<'_>,
    values: BTreeMap<String, SecretBytes>,
) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    let (conversion, decoding, nulls) = match source.ask {
        Ask::Key(..) => return Ok(values),
        Ask::Extract(remote) => (remote.conversion_strategy, remote.decoding_strategy, remote.null_byte_policy),
        Ask::Find(find) => (find.conversion_strategy, find.decoding_strategy, find.null_byte_policy),
    };
    if source.rewrite.is_empty() {
        let conversion = Some(conversion.unwrap_or_default());
        return data::treated(values, Treatment { conversion, decoding, nulls });
    }
    let rewrites = source.rewrite.to_vec();
    // Rewrites are templates too: other objects do not wait for them.
    let rewritten = template::apart(ctx, move || rewrite::apply(&rewrites, values)).await;
    let values = rewritten.and_then(|rewritten| rewritten).map_err(ValueError::Unusable)?;
    data::treated(values, Treatment { conversion: None, decoding, nulls })
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
                    failures: before.failures.saturating_add(1),
                    ready: None,
                    ..before.clone()
                };
                ctx.state.remember(key, object, untold);
                return Some(next((ctx.clock)(), Requeue::After(Duration::from_secs(1 << before.failures.min(8)))));
            }
        }
    }
    if let Some((reason, note)) = event {
        ctx.events.publish(ctx.events.about(object), reason, note);
    }
    ctx.state.remember(key, object, memo);
    requeue.map(|requeue| next((ctx.clock)(), requeue))
}

/// Writes the condition of an object that does not parse, once for each of its generations.
async fn tell_malformed(ctx: &Arc<Context>, key: &ObjectKey) -> Option<Next> {
    let odd = ctx.malformed_objects.untold(key)?;
    let stores = odd.stores.iter().map(|r| StoreKey::referred(&key.namespace, r));
    if ctx.state.are_foreign(stores, &ctx.options.controller_class) {
        return None;
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
