//! Reads of one connection, shared by everybody who uses it.
//!
//! A read serves everyone who asked before it was made: a want names the moment that its answer must not be older than, so
//! sharing never makes an answer stale. Reads of one remote secret are one call however many objects wait for it, calls are
//! filled up to the provider's batch, and are bounded in number and rate ([`crate::limits`]). A value is kept for as long as
//! somebody waits who may take it, then only its version is: that answers whoever saw the same one. While the provider
//! throttles, or is away, nobody waits for it: everyone gets the same error at once, until the time that it named is over or
//! a probe reached it.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared;
use lockstep_providers::{Capabilities, Error, Fetched, Provider, Result, Want};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::limits::{Limiter, Limits, Permission};
use crate::metrics::Metrics;

/// How long an unused value is kept at most, whoever waits.
const RETAIN: Duration = Duration::from_secs(20);
/// How long an unused value is kept though nobody is known to wait: those at work may be about to ask.
const GRACE: Duration = Duration::from_secs(2);
/// How long the version of what was read is remembered.
const REMEMBER: Duration = Duration::from_secs(600);
/// How long a call waits for others to fill its batch.
const FILL: Duration = Duration::from_millis(5);
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
}

impl ReadKey {
    fn of(want: &Want) -> Self {
        Self { key: want.key.clone(), version: want.version.clone(), metadata: want.metadata }
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
    pending: VecDeque<Pending>,
    /// Calls of this connection that are under way.
    calling: usize,
    /// When pending calls are looked at again.
    timer: Option<Instant>,
    next_id: u64,
    sweeping: bool,
    throttled_until: Option<Instant>,
    away: Option<Error>,
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
    hooks: Hooks,
}

/// What a reader asks of, and tells to, those around it.
pub struct Hooks {
    /// Told when the provider turns out to be away.
    pub on_away: Box<dyn Fn() + Send + Sync>,
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
    /// A reader for a connection.
    pub fn new(
        provider: Arc<dyn Provider>,
        retries: Retries,
        limiter: Arc<Mutex<Limiter>>,
        labels: StoreLabels,
        metrics: Arc<Metrics>,
        hooks: Hooks,
    ) -> Arc<Self> {
        let capabilities = provider.capabilities();
        let state = State {
            slots: HashMap::new(),
            pending: VecDeque::new(),
            calling: 0,
            timer: None,
            next_id: 0,
            sweeping: false,
            throttled_until: None,
            away: None,
        };
        Arc::new(Self { provider, capabilities, retries, state: Mutex::new(state), limiter, labels, metrics, hooks })
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

    /// For how long there is enough to do: whoever comes now had better come later.
    pub fn crowded(&self) -> Option<Duration> {
        let waiting = self.lock().pending.len();
        let size = self.capabilities.batch.max(1);
        let takes = self.limiter().takes(waiting.div_ceil(size) + 1);
        let many = waiting >= CROWD.max(size * 4);
        (many || takes > LONG).then(|| takes.clamp(Duration::from_secs(1), LONG * 3))
    }

    /// Reads remote secrets; no answer is older than `fresh_after`. Answers stand in the order of `wants`.
    pub async fn read(self: &Arc<Self>, wants: &[Want], fresh_after: Instant) -> Vec<Result<Fetched>> {
        if let Some(error) = self.closed(Instant::now()) {
            return wants.iter().map(|_| Err(error.clone())).collect();
        }
        let joined: Vec<Joined> = {
            let mut state = self.lock();
            wants.iter().map(|want| self.join(&mut state, want, fresh_after)).collect()
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

    /// Why nobody may ask right now.
    fn closed(&self, now: Instant) -> Option<Error> {
        closed(&self.lock(), now)
    }

    /// A read that is under way or done and young enough, what is known without one, or a new one.
    fn join(&self, state: &mut State, want: &Want, fresh_after: Instant) -> Joined {
        let now = Instant::now();
        let key = ReadKey::of(want);
        let Some(slot) = state.slots.get_mut(&key) else { return self.start(state, key, want, now) };
        if let Some(read) = &mut slot.read
            && read.started.is_none_or(|started| started >= fresh_after)
            && !passed(&read.answer)
        {
            match read.started {
                None if read.seen != want.seen => read.seen = None,
                Some(_) if read.seen.is_some() && read.seen != want.seen => return self.start(state, key, want, now),
                _ => {}
            }
            read.last_used = now;
            self.metrics.calls_saved(&self.labels, "shared", 1);
            return Joined::Later(read.answer.clone());
        }
        if let (Some((version, at)), Some(seen)) = (&slot.known, &want.seen)
            && *at >= fresh_after
            && version == seen
        {
            self.metrics.calls_saved(&self.labels, "known", 1);
            return Joined::Now(Ok(Fetched::Unchanged));
        }
        self.start(state, key, want, now)
    }

    fn start(&self, state: &mut State, key: ReadKey, want: &Want, now: Instant) -> Joined {
        let (reply, receiver) = oneshot::channel();
        let answer = receiver.shared();
        state.next_id += 1;
        let id = state.next_id;
        state.pending.push_back(Pending { id, want: want.clone(), since: now, reply });
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
            let Some(first) = state.pending.front() else { return };
            let filled = first.since + FILL;
            if state.pending.len() < size && size > 1 && now < filled {
                return self.pump_at(&mut state, filled);
            }
            match self.limiter().take(now) {
                Permission::Now => state.calling += 1,
                Permission::At(at) => return self.pump_at(&mut state, at),
                Permission::WhenOneEnds if state.calling > 0 => return,
                Permission::WhenOneEnds => return self.pump_at(&mut state, now + OTHERS),
            }
            let count = state.pending.len().min(size);
            let batch: Vec<Pending> = state.pending.drain(..count).collect();
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
        let mut state = self.lock();
        if let Some(rest) = rest.max() {
            state.throttled_until = state.throttled_until.max(Some(Instant::now() + rest));
        }
        if let Some(error) = away {
            let news = state.away.is_none();
            state.away = Some(error);
            drop(state);
            if news {
                (self.hooks.on_away)();
            }
            state = self.lock();
        }
        // Nobody waits for a closed door.
        if let Some(error) = closed(&state, Instant::now()) {
            let pending = std::mem::take(&mut state.pending);
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
        let mut state = self.lock();
        match &answer {
            Err(error @ Error::Unavailable { everybody: true, .. }) => state.away = Some(error.clone()),
            _ => state.away = None,
        }
        answer
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
        if state.slots.is_empty() {
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

fn result_label(answer: &Result<Fetched>) -> &'static str {
    match answer {
        Ok(Fetched::Unchanged) => "unchanged",
        Ok(Fetched::Value { .. }) => "ok",
        Err(error) => error.category(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use lockstep_providers::{Access, Payload, SecretBytes, Validity};

    use super::*;

    struct Script {
        calls: AtomicUsize,
        wants: AtomicUsize,
        batch: usize,
        fail: Mutex<Option<Error>>,
    }

    #[async_trait]
    impl Provider for Script {
        async fn validate(&self) -> Result<Validity> {
            self.fail.lock().unwrap().clone().map_or(Ok(Validity::Valid), Err)
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { access: Access::ReadOnly, batch: self.batch, concurrency: 2 }
        }
        async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            self.wants.fetch_add(wants.len(), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            let fail = self.fail.lock().unwrap().clone();
            let one = |want: &Want| match &fail {
                Some(error) => Err(error.clone()),
                None if want.seen.as_deref() == Some("v1") => Ok(Fetched::Unchanged),
                None => Ok(Fetched::Value {
                    payload: Arc::new(Payload::Bytes(SecretBytes::from(format!("{}#{call}", want.key)))),
                    version: Some("v1".into()),
                }),
            };
            wants.iter().map(one).collect()
        }
    }

    /// Nobody waits beside those who ask.
    fn nobody() -> Hooks {
        Hooks { on_away: Box::new(|| {}), is_awaited: Arc::new(|_| false) }
    }

    fn free() -> Arc<Mutex<Limiter>> {
        Arc::new(Mutex::new(Limiter::new(2, Limits::default(), Instant::now())))
    }

    fn reader(batch: usize) -> (Arc<Script>, Arc<Reader>) {
        let script = Arc::new(Script { calls: 0.into(), wants: 0.into(), batch, fail: Mutex::new(None) });
        let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "script".into() };
        let reader = Reader::new(script.clone(), Retries::default(), free(), labels, Arc::default(), nobody());
        (script, reader)
    }

    fn text(answer: &Result<Fetched>) -> String {
        match answer {
            Ok(Fetched::Value { payload, .. }) => match &**payload {
                Payload::Bytes(bytes) => bytes.as_text().unwrap().to_owned(),
                Payload::Fields(_) => panic!(),
            },
            other => format!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_who_ask_before_the_read_share_it_and_one_who_asks_after_gets_a_new_one() {
        let (script, reader) = reader(1);
        let asked = Instant::now();
        let one = [Want::latest("a")];
        let all = futures::future::join_all((0..50).map(|_| reader.read(&one, asked))).await;
        assert_eq!(script.calls.load(Ordering::SeqCst), 1);
        assert!(all.iter().all(|a| text(&a[0]) == "a#1"));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(text(&reader.read(&one, asked).await[0]), "a#1", "asked before the read was made");
        assert_eq!(text(&reader.read(&one, Instant::now()).await[0]), "a#2", "asked after it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_goes_once_nobody_needs_it_and_its_version_answers_those_who_saw_it() {
        let (script, reader) = reader(1);
        let asked = Instant::now();
        reader.read(&[Want::latest("a")], asked).await;
        let has_value = |reader: &Reader| reader.lock().slots.values().any(|slot| slot.read.is_some());
        assert!(has_value(&reader));
        tokio::time::sleep(GRACE * 2).await;
        assert!(!has_value(&reader), "only who it was for could take it, and they are through");
        // The version that the script gives is v1: it has not been read anew.
        let seen = Want { seen: Some("v1".into()), ..Want::latest("a") };
        assert!(matches!(reader.read(std::slice::from_ref(&seen), asked).await[0], Ok(Fetched::Unchanged)));
        assert_eq!(script.calls.load(Ordering::SeqCst), 1);
        let other = Want { seen: Some("v0".into()), ..Want::latest("a") };
        assert_eq!(text(&reader.read(&[other], asked).await[0]), "a#2", "another version was seen: the value is needed");
        assert!(matches!(reader.read(&[seen], Instant::now()).await[0], Ok(Fetched::Unchanged)));
        assert_eq!(script.calls.load(Ordering::SeqCst), 3, "asked after the last read");
        tokio::time::sleep(REMEMBER * 2).await;
        assert!(reader.lock().slots.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_stays_for_as_long_as_somebody_waits_who_may_take_it() {
        let (script, _) = reader(1);
        let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "script".into() };
        let oldest = Arc::new(Mutex::new(Some(Instant::now())));
        let is_awaited = {
            let oldest = oldest.clone();
            Arc::new(move |made| oldest.lock().unwrap().is_some_and(|cause| cause <= made))
        };
        let hooks = Hooks { on_away: Box::new(|| {}), is_awaited };
        let reader = Reader::new(script, Retries::default(), free(), labels, Arc::default(), hooks);
        reader.read(&[Want::latest("a")], Instant::now()).await;
        tokio::time::sleep(GRACE * 3).await;
        assert!(reader.lock().slots.values().all(|slot| slot.read.is_some()));
        *oldest.lock().unwrap() = Some(Instant::now());
        tokio::time::sleep(GRACE * 2).await;
        assert!(reader.lock().slots.values().all(|slot| slot.read.is_none()), "who waits now asked after it was made");
    }

    #[tokio::test(start_paused = true)]
    async fn batches_fill_across_those_who_ask_within_a_few_milliseconds_and_limits_are_kept() {
        let (script, reader) = reader(20);
        let now = Instant::now();
        let wants: Vec<[Want; 1]> = (0..20).map(|i| [Want::latest(format!("k{i}"))]).collect();
        let all = futures::future::join_all(wants.iter().map(|want| reader.read(want, now))).await;
        assert_eq!((script.calls.load(Ordering::SeqCst), script.wants.load(Ordering::SeqCst)), (1, 20));
        assert!(all.iter().all(|a| a[0].is_ok()));

        reader.set_limits(Limits { concurrency: None, per_second: Some(2.0) });
        let begun = Instant::now();
        let wants: Vec<Want> = (0..200).map(|i| Want::latest(format!("m{i}"))).collect();
        assert!(reader.read(&wants, begun).await.iter().all(Result::is_ok));
        assert_eq!(script.calls.load(Ordering::SeqCst), 11, "batches of twenty");
        assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn wants_are_batched_and_answers_keep_their_order() {
        let (script, reader) = reader(10);
        let wants: Vec<Want> = (0..25).map(|i| Want::latest(format!("k{i}"))).collect();
        let answers = reader.read(&wants, Instant::now()).await;
        assert_eq!((script.calls.load(Ordering::SeqCst), script.wants.load(Ordering::SeqCst)), (3, 25));
        for (i, answer) in answers.iter().enumerate() {
            assert!(text(answer).starts_with(&format!("k{i}#")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_settings_are_tries_after_the_first() {
        let script =
            Arc::new(Script { calls: 0.into(), wants: 0.into(), batch: 1, fail: Mutex::new(Some(Error::unavailable("x"))) });
        let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "script".into() };
        let retries = Retries { max: 2, interval: Duration::from_secs(3) };
        let reader = Reader::new(script.clone(), retries, free(), labels, Arc::default(), nobody());
        let begun = Instant::now();
        assert!(reader.read(&[Want::latest("a")], begun).await[0].is_err());
        assert_eq!(script.calls.load(Ordering::SeqCst), 3);
        assert!(begun.elapsed() >= Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn unchanged_is_given_only_to_those_who_saw_that_version() {
        let (script, reader) = reader(1);
        let seen = Want { seen: Some("v1".into()), ..Want::latest("a") };
        let now = Instant::now();
        assert!(matches!(reader.read(&[seen], now).await[0], Ok(Fetched::Unchanged)));
        assert_eq!(text(&reader.read(&[Want::latest("a")], now).await[0]), "a#2");
        assert_eq!(script.calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_store_rests_for_everybody_and_an_absent_one_fails_at_once_until_a_probe_reaches_it() {
        let (script, reader) = reader(1);
        let throttled = Error::Throttled { retry_after: Some(Duration::from_secs(30)), message: "slow".into() };
        *script.fail.lock().unwrap() = Some(throttled);
        reader.read(&[Want::latest("a")], Instant::now()).await;
        *script.fail.lock().unwrap() = None;
        let answer = reader.read(&[Want::latest("b")], Instant::now()).await;
        assert!(matches!(answer[0], Err(Error::Throttled { .. })));
        assert_eq!(script.calls.load(Ordering::SeqCst), 1, "nobody asked while it rests");
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(text(&reader.read(&[Want::latest("b")], Instant::now()).await[0]), "b#2");

        *script.fail.lock().unwrap() = Some(Error::unreachable("gone"));
        reader.read(&[Want::latest("c")], Instant::now()).await;
        reader.read(&[Want::latest("d")], Instant::now()).await;
        assert_eq!(script.calls.load(Ordering::SeqCst), 3, "the second did not ask");
        assert!(reader.probe().await.is_err());
        assert!(reader.is_away());
        *script.fail.lock().unwrap() = None;
        assert!(reader.probe().await.is_ok());
        assert_eq!(text(&reader.read(&[Want::latest("d")], Instant::now()).await[0]), "d#4");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_a_store_share_its_limit_and_none_of_them_is_forgotten() {
        let (limiter, begun) = (free(), Instant::now());
        limiter.lock().unwrap().set(Limits { concurrency: Some(1), per_second: None });
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let script = Arc::new(Script { calls: 0.into(), wants: 0.into(), batch: 1, fail: Mutex::new(None) });
                let labels = StoreLabels { store: "ClusterSecretStore b".into(), provider: "script".into() };
                Reader::new(script, Retries::default(), limiter.clone(), labels, Arc::default(), nobody())
            })
            .collect();
        let wants: Vec<Want> = (0..10).map(|i| Want::latest(format!("k{i}"))).collect();
        let all = futures::future::join_all(readers.iter().map(|reader| reader.read(&wants, begun))).await;
        assert!(all.iter().flatten().all(Result::is_ok));
        // Thirty calls of 10 ms, one at a time.
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_with_enough_to_do_says_so_and_what_a_closed_door_turned_away_is_asked_anew() {
        let (script, reader) = reader(1);
        assert_eq!(reader.crowded(), None);
        reader.set_limits(Limits { concurrency: None, per_second: Some(0.1) });
        let wants: Vec<Want> = (0..5).map(|i| Want::latest(format!("k{i}"))).collect();
        let waiting = tokio::spawn({
            let (reader, wants) = (reader.clone(), wants.clone());
            async move { reader.read(&wants, Instant::now()).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(reader.crowded().is_some_and(|wait| wait > LONG));
        // The next call finds the provider throttling: everybody is told at once.
        *script.fail.lock().unwrap() =
            Some(Error::Throttled { retry_after: Some(Duration::from_secs(30)), message: "slow".into() });
        let answers = waiting.await.unwrap();
        assert!(answers[1..].iter().all(|a| matches!(a, Err(Error::Throttled { .. }))), "{answers:?}");
        assert_eq!(script.calls.load(Ordering::SeqCst), 2);
        assert_eq!(reader.crowded(), None, "nobody waits any more");
        *script.fail.lock().unwrap() = None;
        reader.set_limits(Limits { concurrency: None, per_second: Some(100.0) });
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(text(&reader.read(&wants[4..], Instant::now()).await[0]), "k4#3");
    }

    struct Broken;

    #[async_trait]
    impl Provider for Broken {
        async fn validate(&self) -> Result<Validity> {
            Ok(Validity::Valid)
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { access: Access::ReadOnly, batch: 1, concurrency: 1 }
        }
        async fn get(&self, _: &[Want]) -> Vec<Result<Fetched>> {
            panic!("a provider's mistake")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_panics_fails_its_call_and_no_later_one() {
        let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "broken".into() };
        let reader = Reader::new(Arc::new(Broken), Retries::default(), free(), labels, Arc::default(), nobody());
        for i in 0..5 {
            let answer = reader.read(&[Want::latest(format!("k{i}"))], Instant::now()).await;
            assert!(
                matches!(&answer[0], Err(Error::Unavailable { message, .. }) if message.contains("please report")),
                "{answer:?}"
            );
        }
    }
}
