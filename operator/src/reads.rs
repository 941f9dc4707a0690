//! Reads of one connection, shared by everybody who uses it.
//!
//! A read serves everyone who asked before it was made: a want names the moment that its answer must not be older than, so
//! sharing never makes an answer stale. Reads of one remote secret are one call however many objects wait for it, calls are
//! filled up to the provider's batch, and are bounded in number and rate ([`crate::limits`]). A value is kept for as long as
//! somebody waits who may take it, then only its version is: that answers whoever saw the same one. While the provider
//! throttles, or is away, nobody waits for it: everyone gets the same error at once, until the time that it named is over or
//! a probe reached it.

mod search;
mod writes;

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared;
use lockstep_providers::{Capabilities, Error, Fetched, Payload, Provider, Result, Want};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::audit::{Action, Trail};
use crate::limits::{Limiter, Limits, Permission};
use crate::metrics::Metrics;

use search::Searched;
pub use search::{Listed, Search};

/// How long an unused value is kept at most, whoever waits.
const RETAIN: Duration = Duration::from_secs(20);
/// How long an unused value is kept though nobody is known to wait: those at work may be about to ask.
const GRACE: Duration = Duration::from_secs(2);
/// How long the version of what was read is remembered.
const REMEMBER: Duration = Duration::from_secs(600);
/// How long a call waits for another want that may fill its batch; and how long for all of them, and for those that wait for a
/// worker.
const FILL: Duration = Duration::from_millis(10);
const FILLED: Duration = Duration::from_millis(250);
/// Wants that may wait for a call, and for how long: more than that come again later instead of holding up everybody else.
const CROWD: usize = 256;
const LONG: Duration = Duration::from_secs(20);
/// How soon a connection looks again whose store is busy with calls of its other connections.
const OTHERS: Duration = Duration::from_millis(20);
/// How long a throttled connection rests when the provider does not say.
const REST: Duration = Duration::from_secs(5);

/// What makes two wants the same read.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ReadKey {
    key: String,
    version: Option<String>,
    metadata: bool,
    property: Option<String>,
    namespace: Option<String>,
}

impl ReadKey {
    fn of(want: &Want) -> Self {
        Self {
            key: want.key.clone(),
            version: want.version.clone(),
            metadata: want.metadata,
            property: want.property.clone(),
            namespace: want.namespace.clone(),
        }
    }
}

/// How somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// No answer may be older.
    pub fresh_after: Instant,
    /// Whether a person's change waits for it: that goes before refreshes that nobody waits for.
    pub urgent: bool,
}

impl From<Instant> for Asking {
    fn from(fresh_after: Instant) -> Self {
        Self { fresh_after, urgent: false }
    }
}

type Answer = Shared<oneshot::Receiver<Result<Fetched>>>;

/// A read under way, or done and still of use.
struct Read {
    id: u64,
    /// None while it waits for a call.
    started: Option<Instant>,
    seen: Option<Arc<str>>,
    answer: Answer,
    last_used: Instant,
}

#[derive(Default)]
struct Slot {
    read: Option<Read>,
    /// The version that the remote secret had, and when.
    known: Option<(Arc<str>, Instant)>,
}

struct Pending {
    id: u64,
    want: Want,
    since: Instant,
    reply: oneshot::Sender<Result<Fetched>>,
}

struct State {
    slots: HashMap<ReadKey, Slot>,
    /// The urgent ones first.
    pending: VecDeque<Pending>,
    urgent: usize,
    /// Calls of this connection that are under way.
    calling: usize,
    /// When pending calls are looked at again.
    timer: Option<Instant>,
    next_id: u64,
    sweeping: bool,
    throttled_until: Option<Instant>,
    away: Option<Error>,
    /// Searches under way, and those that were made a moment ago.
    searches: HashMap<Search, Searched>,
}

impl State {
    fn queue(&mut self, pending: Pending, urgent: bool) {
        match urgent {
            true => {
                self.pending.insert(self.urgent, pending);
                self.urgent += 1;
            }
            false => self.pending.push_back(pending),
        }
    }

    /// Somebody joined a want that is urgent to them.
    fn promote(&mut self, id: u64) {
        let at = self.pending.iter().position(|pending| pending.id == id).filter(|at| *at >= self.urgent);
        if let Some(pending) = at.and_then(|at| self.pending.remove(at)) {
            self.queue(pending, true);
        }
    }

    /// Until when pending wants wait for more that fill their call, each of which comes within a gap of the one before.
    fn filled_at(&self, gap: Duration) -> Option<Instant> {
        let since = || self.pending.iter().map(|pending| pending.since);
        Some((since().max()? + gap).min(since().min()? + FILLED))
    }

    fn take_pending(&mut self, most: usize) -> Vec<Pending> {
        let count = self.pending.len().min(most);
        self.urgent = self.urgent.saturating_sub(count);
        self.pending.drain(..count).collect()
    }
}

/// Shares the reads of one connection.
pub struct Reader {
    provider: Arc<dyn Provider>,
    capabilities: Capabilities,
    retries: Retries,
    state: Mutex<State>,
    /// Shared by all connections of the store.
    limiter: Arc<Mutex<Limiter>>,
    labels: StoreLabels,
    metrics: Arc<Metrics>,
    trail: Trail,
    hooks: Hooks,
}

/// What a reader asks of, and tells to, those around it.
pub struct Hooks {
    /// Told when the provider turns out to be away.
    pub on_trouble: Box<dyn Fn() + Send + Sync>,
    /// Whether somebody may still come who takes an answer made at that moment.
    pub is_awaited: Arc<dyn Fn(Instant) -> bool + Send + Sync>,
}

enum Joined {
    Now(Result<Fetched>),
    Later(Answer),
}

/// `spec.retrySettings` of a store: tries after the first, within one reconcile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// How many.
    pub max: u32,
    /// Time between them.
    pub interval: Duration,
}

/// Labels of a store's metrics.
#[derive(Clone, Debug)]
pub struct StoreLabels {
    /// The store, as in messages.
    pub store: String,
    /// The provider's name.
    pub provider: String,
}

impl Reader {
    /// See [`Capabilities::takes_property`].
    pub fn takes_property(&self) -> bool {
        self.capabilities.takes_property
    }

    /// A reader for a connection.
    pub fn new(
        provider: Arc<dyn Provider>,
        retries: Retries,
        limiter: Arc<Mutex<Limiter>>,
        labels: StoreLabels,
        metrics: Arc<Metrics>,
        trail: Trail,
        hooks: Hooks,
    ) -> Arc<Self> {
        let capabilities = provider.capabilities();
        let state = State {
            slots: HashMap::new(),
            pending: VecDeque::new(),
            urgent: 0,
            calling: 0,
            timer: None,
            next_id: 0,
            sweeping: false,
            throttled_until: None,
            away: None,
            searches: HashMap::new(),
        };
        Arc::new(Self { provider, capabilities, retries, state: Mutex::new(state), limiter, labels, metrics, trail, hooks })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the limits that people set from here on.
    pub fn set_limits(&self, limits: Limits) {
        self.limiter().set(limits);
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// For how long there is enough to do: whoever comes now had better come later. What is urgent waits for what is urgent only.
    pub fn crowded(&self, urgent: bool) -> Option<Duration> {
        let waiting = {
            let state = self.lock();
            if urgent { state.urgent } else { state.pending.len() }
        };
        let size = self.capabilities.batch.max(1);
        let takes = self.limiter().takes(waiting.div_ceil(size) + 1);
        let many = waiting >= CROWD.max(size * 4);
        (many || takes > LONG).then(|| takes.clamp(Duration::from_secs(1), LONG * 3))
    }

    /// Reads remote secrets. Answers stand in the order of `wants`.
    pub async fn read(self: &Arc<Self>, wants: &[Want], asking: impl Into<Asking>) -> Vec<Result<Fetched>> {
        let asking = asking.into();
        if let Some(error) = self.closed(Instant::now()) {
            return wants.iter().map(|_| Err(error.clone())).collect();
        }
        let joined: Vec<Joined> = {
            let mut state = self.lock();
            wants.iter().map(|want| self.join(&mut state, want, asking)).collect()
        };
        self.pump();
        let lost = || Err(Error::unavailable("the read was given up"));
        let mut answers = Vec::with_capacity(joined.len());
        for joined in joined {
            answers.push(match joined {
                Joined::Now(answer) => answer,
                Joined::Later(answer) => answer.await.unwrap_or_else(|_| lost()),
            });
        }
        answers
    }

    /// Makes one call that nobody shares, when the limits allow it; answers with when it was begun.
    async fn one_call<T>(
        self: &Arc<Self>,
        name: &'static str,
        begin: impl FnOnce(Instant),
        call: impl Future<Output = Result<T>>,
    ) -> Result<(T, Instant)> {
        loop {
            let permission = self.limiter().take(Instant::now());
            match permission {
                Permission::Now => break,
                Permission::At(at) => tokio::time::sleep_until(at).await,
                Permission::WhenOneEnds => tokio::time::sleep(OTHERS).await,
            }
        }
        let begun = Instant::now();
        begin(begun);
        let mut slot = TakenSlot { reader: self, throttled: false, begun };
        let answer = match self.closed(begun) {
            Some(error) => Err(error),
            None => match AssertUnwindSafe(call).catch_unwind().await {
                Ok(answer) => answer,
                Err(_) => {
                    self.metrics.panicked();
                    tracing::error!(store = %self.labels.store, "a provider panicked; please report it");
                    Err(Error::unavailable("the provider failed unexpectedly; please report it"))
                }
            },
        };
        self.metrics.provider_call(&self.labels, name, answer.as_ref().map_or_else(Error::category, |_| "ok"));
        slot.throttled = matches!(answer, Err(Error::Throttled { .. }));
        drop(slot);
        if let Err(error) = &answer {
            let away = matches!(error, Error::Unavailable { everybody: true, .. }).then(|| error.clone());
            self.settle(&[Err(error.clone())], away);
        }
        self.pump();
        self.sweep_later();
        answer.map(|answer| (answer, begun))
    }

    /// Why nobody may ask right now.
    fn closed(&self, now: Instant) -> Option<Error> {
        closed(&self.lock(), now)
    }

    /// A read that is under way or done and young enough, what is known without one, or a new one.
    fn join(&self, state: &mut State, want: &Want, asking: Asking) -> Joined {
        let now = Instant::now();
        let key = ReadKey::of(want);
        let Some(slot) = state.slots.get_mut(&key) else { return self.start(state, key, want, asking) };
        if let Some(read) = &mut slot.read
            && read.started.is_none_or(|started| started >= asking.fresh_after)
            && !passed(&read.answer)
        {
            match read.started {
                None if read.seen != want.seen => read.seen = None,
                Some(_) if read.seen.is_some() && read.seen != want.seen => return self.start(state, key, want, asking),
                _ => {}
            }
            read.last_used = now;
            self.metrics.calls_saved(&self.labels, "shared", 1);
            let (id, answer) = (read.id, read.answer.clone());
            if asking.urgent {
                state.promote(id);
            }
            return Joined::Later(answer);
        }
        if let (Some((version, at)), Some(seen)) = (&slot.known, &want.seen)
            && *at >= asking.fresh_after
            && version == seen
        {
            self.metrics.calls_saved(&self.labels, "known", 1);
            return Joined::Now(Ok(Fetched::Unchanged));
        }
        self.start(state, key, want, asking)
    }

    fn start(&self, state: &mut State, key: ReadKey, want: &Want, asking: Asking) -> Joined {
        let now = Instant::now();
        let (reply, receiver) = oneshot::channel();
        let answer = receiver.shared();
        state.next_id += 1;
        let id = state.next_id;
        state.queue(Pending { id, want: want.clone(), since: now, reply }, asking.urgent);
        let read = Read { id, started: None, seen: want.seen.clone(), answer: answer.clone(), last_used: now };
        state.slots.entry(key).or_default().read = Some(read);
        Joined::Later(answer)
    }

    /// Makes the calls that may be made now, each in a task of its own: whoever goes away while it runs takes nobody's answer
    /// along.
    fn pump(self: &Arc<Self>) {
        let size = self.capabilities.batch.max(1);
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.pending.is_empty() {
                return;
            }
            if state.pending.len() < size {
                let gap = if (self.hooks.is_awaited)(now) { FILLED } else { FILL };
                if let Some(filled) = state.filled_at(gap).filter(|filled| now < *filled) {
                    return self.pump_at(&mut state, filled);
                }
            }
            match self.limiter().take(now) {
                Permission::Now => state.calling += 1,
                Permission::At(at) => return self.pump_at(&mut state, at),
                Permission::WhenOneEnds if state.calling > 0 => return,
                Permission::WhenOneEnds => return self.pump_at(&mut state, now + OTHERS),
            }
            let batch = state.take_pending(size);
            let reader = self.clone();
            tokio::spawn(async move { reader.call(batch).await });
        }
    }

    fn pump_at(self: &Arc<Self>, state: &mut State, at: Instant) {
        if state.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        state.timer = Some(at);
        let reader = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            let Some(reader) = reader.upgrade() else { return };
            reader.lock().timer.take_if(|timer| *timer <= at);
            reader.pump();
        });
    }

    async fn call(self: Arc<Self>, mut batch: Vec<Pending>) {
        let begun = self.begin(&mut batch);
        let (mut wants, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for pending in batch {
            wants.push(pending.want);
            replies.push(pending.reply);
        }
        let (answers, asked) = match self.closed(Instant::now()) {
            Some(error) => (wants.iter().map(|_| Err(error.clone())).collect(), false),
            // A slot of the limiter must not be lost with a call that panics.
            None => match AssertUnwindSafe(self.ask(&wants)).catch_unwind().await {
                Ok(answers) => (answers, true),
                Err(_) => {
                    self.metrics.panicked();
                    tracing::error!(store = %self.labels.store, "a provider panicked; please report it");
                    let error = Error::unavailable("the provider failed unexpectedly; please report it");
                    (wants.iter().map(|_| Err(error.clone())).collect(), true)
                }
            },
        };
        self.metrics.calls_saved(&self.labels, "batch", wants.len().saturating_sub(1) as u64);
        self.learn(&wants, &answers, begun);
        let throttled = asked && answers.iter().any(|a: &Result<Fetched>| matches!(a, Err(Error::Throttled { .. })));
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
        self.limiter().ended(throttled, begun, Instant::now());
        self.lock().calling -= 1;
        self.pump();
        self.sweep_later();
    }

    /// Remembers which versions were read.
    fn learn(&self, wants: &[Want], answers: &[Result<Fetched>], begun: Instant) {
        let mut state = self.lock();
        for (want, answer) in wants.iter().zip(answers) {
            let Some(slot) = state.slots.get_mut(&ReadKey::of(want)) else { continue };
            let version = match answer {
                Ok(Fetched::Value { version, .. }) => version.clone(),
                Ok(Fetched::Unchanged) => want.seen.clone(),
                Err(_) => None,
            };
            if slot.known.as_ref().is_none_or(|(_, at)| *at <= begun) {
                slot.known = version.map(|version| (version, begun));
            }
        }
    }

    /// From here on the answer is as of now; those who joined meanwhile may have seen another version, or none.
    fn begin(&self, batch: &mut [Pending]) -> Instant {
        let mut state = self.lock();
        let now = Instant::now();
        for pending in batch {
            let key = ReadKey::of(&pending.want);
            let read = state.slots.get_mut(&key).and_then(|slot| slot.read.as_mut());
            if let Some(read) = read.filter(|read| read.id == pending.id) {
                read.started = Some(now);
                pending.want.seen.clone_from(&read.seen);
            }
        }
        now
    }

    async fn ask(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        let mut tries = 0;
        loop {
            let answers = self.provider.get(wants).await;
            self.metrics.provider_call(&self.labels, "get", answers.first().map_or("ok", result_label));
            wants
                .iter()
                .zip(&answers)
                .for_each(|(want, answer)| self.trail.record(Action::Get, || got(&self.trail, want, answer), answer));
            let away = answers.iter().find_map(|a| match a {
                Err(error @ Error::Unavailable { everybody: true, .. }) => Some(error.clone()),
                _ => None,
            });
            let failed = answers.iter().any(|a| matches!(a, Err(Error::Unavailable { .. })));
            if failed && tries < self.retries.max {
                tries += 1;
                tokio::time::sleep(self.retries.interval).await;
                continue;
            }
            self.settle(&answers, away);
            return answers;
        }
    }

    fn settle(&self, answers: &[Result<Fetched>], away: Option<Error>) {
        let rest = answers.iter().filter_map(|a| match a {
            Err(Error::Throttled { retry_after, .. }) => Some(retry_after.unwrap_or(REST)),
            _ => None,
        });
        // Whether the identity is refused, or only these keys are, the store's own validation tells.
        if answers.iter().any(|a| matches!(a, Err(Error::Denied(_)))) {
            (self.hooks.on_trouble)();
        }
        let mut state = self.lock();
        if let Some(rest) = rest.max() {
            state.throttled_until = state.throttled_until.max(Some(Instant::now() + rest));
        }
        if let Some(error) = away {
            let news = state.away.is_none();
            state.away = Some(error);
            drop(state);
            if news {
                (self.hooks.on_trouble)();
            }
            state = self.lock();
        }
        // Nobody waits for a closed door.
        if let Some(error) = closed(&state, Instant::now()) {
            let pending = state.take_pending(usize::MAX);
            for p in &pending {
                if let Some(slot) = state.slots.get_mut(&ReadKey::of(&p.want)) {
                    slot.read.take_if(|read| read.id == p.id);
                }
            }
            drop(state);
            pending.into_iter().for_each(|p| drop(p.reply.send(Err(error.clone()))));
        }
    }

    /// Asks the provider whether it is there and takes the identity; an answer opens the way for the others.
    pub async fn probe(&self) -> Result<lockstep_providers::Validity> {
        let answer = self.provider.validate().await;
        self.metrics.provider_call(&self.labels, "validate", answer.as_ref().map_or_else(Error::category, |_| "ok"));
        self.trail.record(Action::Validate, || Value::Null, &answer);
        let mut state = self.lock();
        match &answer {
            Err(error @ Error::Unavailable { everybody: true, .. }) => state.away = Some(error.clone()),
            _ => state.away = None,
        }
        answer
    }

    /// As if the provider had asked for a rest.
    #[cfg(test)]
    pub fn rest(&self, wait: Duration) {
        self.lock().throttled_until = Some(Instant::now() + wait);
    }

    /// What the provider can do, for a store's status.
    pub fn access(&self) -> lockstep_providers::Access {
        self.capabilities.access
    }

    /// Whether the provider is known to be away.
    pub fn is_away(&self) -> bool {
        self.lock().away.is_some()
    }

    /// Drops values that nobody needs, and later what is known of them; the task ends with the last one.
    fn sweep_later(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().sweeping, true) {
            return;
        }
        let reader = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(GRACE / 2).await;
                let Some(reader) = reader.upgrade() else { return };
                if reader.sweep(Instant::now()) {
                    return;
                }
            }
        });
    }

    fn sweep(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.slots.retain(|_, slot| {
            let unused = |read: &mut Read| {
                let idle = now - read.last_used;
                read.started.is_some_and(|at| idle >= RETAIN || idle >= GRACE && !(self.hooks.is_awaited)(at))
            };
            slot.read.take_if(unused);
            slot.known.take_if(|(_, at)| now - *at >= REMEMBER);
            slot.read.is_some() || slot.known.is_some()
        });
        state.searches.retain(|_, searched| searched.started.is_none_or(|started| now - started < RETAIN));
        if state.slots.is_empty() && state.searches.is_empty() {
            state.slots.shrink_to_fit();
            state.sweeping = false;
        }
        !state.sweeping
    }

    /// Ends the connection.
    pub async fn close(&self) {
        self.provider.close().await;
    }
}

/// A slot of the limiter: it is not lost with a call that somebody gives up waiting for.
struct TakenSlot<'a> {
    reader: &'a Reader,
    throttled: bool,
    begun: Instant,
}

impl Drop for TakenSlot<'_> {
    fn drop(&mut self) {
        self.reader.limiter().ended(self.throttled, self.begun, Instant::now());
    }
}

/// Why nobody may ask right now.
fn closed(state: &State, now: Instant) -> Option<Error> {
    if let Some(until) = state.throttled_until.filter(|until| now < *until) {
        let message = "the store rests until the time that the provider named".into();
        return Some(Error::Throttled { retry_after: Some(until - now), message });
    }
    state.away.clone()
}

/// Whether an answer is a failure that may have passed: nobody else is given it.
fn passed(answer: &Answer) -> bool {
    // Nobody may have looked at it yet.
    matches!(answer.clone().now_or_never(), Some(Ok(Err(Error::Unavailable { .. } | Error::Throttled { .. })) | Err(_)))
}

/// A remote secret that was asked for, as the audit trail has it.
fn got(trail: &Trail, want: &Want, answer: &Result<Fetched>) -> Value {
    let (version, hash) = match answer {
        Ok(Fetched::Value { payload, version }) => (version.clone(), payload_hash(trail, payload)),
        Ok(Fetched::Unchanged) => (want.seen.clone(), None),
        Err(_) => (None, None),
    };
    json!({
        "key": want.key, "asked": want.version, "property": want.property, "namespace": want.namespace, "version": version.as_deref(),
        "unchanged": matches!(answer, Ok(Fetched::Unchanged)).then_some(true), "metadata": want.metadata.then_some(true), "hash": hash,
    })
}

/// Of named values the hash is that of their names and hashes, in order.
fn payload_hash(trail: &Trail, payload: &Payload) -> Option<String> {
    match payload {
        Payload::Bytes(bytes) | Payload::Property(bytes) => trail.hash(bytes.expose()),
        Payload::Fields(fields) => {
            let parts = fields.iter().map(|(name, value)| Some(format!("{name}={}", trail.hash(value.expose())?)));
            trail.hash(parts.collect::<Option<Vec<_>>>()?.join("\n").as_bytes())
        }
    }
}

fn result_label(answer: &Result<Fetched>) -> &'static str {
    match answer {
        Ok(Fetched::Unchanged) => "unchanged",
        Ok(Fetched::Value { .. }) => "ok",
        Err(error) => error.category(),
    }
}

#[cfg(test)]
#[path = "reads_tests.rs"]
mod tests;
