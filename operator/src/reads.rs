//! Reads of one connection, shared by everybody who uses it.
//!
//! A read serves everyone who asked before it was made: a want names the moment that its answer must not be older than, so
//! sharing never makes an answer stale. Reads of one remote secret are one call however many objects wait for it, calls are
//! filled up to the provider's batch, and are bounded in number. While the provider throttles, or is away, nobody waits for
//! it: everyone gets the same error at once, until the time that it named is over or a probe reached it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared;
use lockstep_providers::{Capabilities, Error, Fetched, Provider, Result, Want};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How long an answer waits for others who asked before it was made.
const RETAIN: Duration = Duration::from_secs(20);
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

struct Slot {
    id: u64,
    /// None while it waits for a call.
    started: Option<Instant>,
    seen: Option<String>,
    answer: Answer,
    last_used: Instant,
}

struct Pending {
    id: u64,
    want: Want,
    reply: oneshot::Sender<Result<Fetched>>,
}

#[derive(Default)]
struct State {
    slots: HashMap<ReadKey, Slot>,
    pending: Vec<Pending>,
    next_id: u64,
    sweeping: bool,
    throttled_until: Option<Instant>,
    away: Option<Error>,
}

/// Shares the reads of one connection.
pub struct Reader {
    provider: Arc<dyn Provider>,
    capabilities: Capabilities,
    permits: Semaphore,
    retries: Retries,
    state: Mutex<State>,
    labels: StoreLabels,
    metrics: Arc<Metrics>,
    /// Told when the provider turns out to be away.
    on_away: Box<dyn Fn() + Send + Sync>,
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
        labels: StoreLabels,
        metrics: Arc<Metrics>,
        on_away: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let capabilities = provider.capabilities();
        Arc::new(Self {
            provider,
            capabilities,
            permits: Semaphore::new(capabilities.concurrency.max(1)),
            retries,
            state: Mutex::default(),
            labels,
            metrics,
            on_away,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reads remote secrets; no answer is older than `fresh_after`. Answers stand in the order of `wants`.
    pub async fn read(self: &Arc<Self>, wants: &[Want], fresh_after: Instant) -> Vec<Result<Fetched>> {
        if let Some(error) = self.closed(Instant::now()) {
            return wants.iter().map(|_| Err(error.clone())).collect();
        }
        let answers: Vec<Answer> = {
            let mut state = self.lock();
            let answers = wants.iter().map(|want| self.join(&mut state, want, fresh_after)).collect();
            let pending = std::mem::take(&mut state.pending);
            drop(state);
            self.call_all(pending);
            answers
        };
        let lost = || Err(Error::unavailable("the read was given up"));
        futures::future::join_all(answers).await.into_iter().map(|a| a.unwrap_or_else(|_| lost())).collect()
    }

    /// Why nobody may ask right now.
    fn closed(&self, now: Instant) -> Option<Error> {
        let state = self.lock();
        if let Some(until) = state.throttled_until.filter(|until| now < *until) {
            let message = "the store rests until the time that the provider named".into();
            return Some(Error::Throttled { retry_after: Some(until - now), message });
        }
        state.away.clone()
    }

    /// A read that is under way or done and young enough, or a new one.
    fn join(&self, state: &mut State, want: &Want, fresh_after: Instant) -> Answer {
        let now = Instant::now();
        let key = ReadKey::of(want);
        if let Some(slot) = state.slots.get_mut(&key)
            && slot.started.is_none_or(|started| started >= fresh_after)
            && !passed(&slot.answer)
        {
            match slot.started {
                None if slot.seen != want.seen => slot.seen = None,
                Some(_) if slot.seen.is_some() && slot.seen != want.seen => return self.start(state, key, want, now),
                _ => {}
            }
            slot.last_used = now;
            self.metrics.read_shared(&self.labels);
            return slot.answer.clone();
        }
        self.start(state, key, want, now)
    }

    fn start(&self, state: &mut State, key: ReadKey, want: &Want, now: Instant) -> Answer {
        let (reply, receiver) = oneshot::channel();
        let answer = receiver.shared();
        state.next_id += 1;
        let id = state.next_id;
        state.pending.push(Pending { id, want: want.clone(), reply });
        let slot = Slot { id, started: None, seen: want.seen.clone(), answer: answer.clone(), last_used: now };
        state.slots.insert(key, slot);
        answer
    }

    /// Makes the calls, each in a task of its own: whoever goes away while it runs takes nobody's answer along.
    fn call_all(self: &Arc<Self>, mut pending: Vec<Pending>) {
        while !pending.is_empty() {
            let rest = pending.split_off(pending.len().min(self.capabilities.batch.max(1)));
            let batch = std::mem::replace(&mut pending, rest);
            let reader = self.clone();
            tokio::spawn(async move { reader.call(batch).await });
        }
    }

    async fn call(self: Arc<Self>, mut batch: Vec<Pending>) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        self.begin(&mut batch);
        let (mut wants, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for pending in batch {
            wants.push(pending.want);
            replies.push(pending.reply);
        }
        let answers = match self.closed(Instant::now()) {
            Some(error) => wants.iter().map(|_| Err(error.clone())).collect(),
            None => self.ask(&wants).await,
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
        self.sweep_later();
    }

    /// From here on the answer is as of now; those who joined meanwhile may have seen another version, or none.
    fn begin(&self, batch: &mut [Pending]) {
        let mut state = self.lock();
        let now = Instant::now();
        for pending in batch {
            let key = ReadKey::of(&pending.want);
            if let Some(slot) = state.slots.get_mut(&key).filter(|slot| slot.id == pending.id) {
                slot.started = Some(now);
                pending.want.seen.clone_from(&slot.seen);
            }
        }
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
            state.throttled_until = Some(Instant::now() + rest);
        }
        if let Some(error) = away {
            let news = state.away.is_none();
            state.away = Some(error);
            drop(state);
            if news {
                (self.on_away)();
            }
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

    /// Drops answers that nobody used for a while; the task ends with the last one.
    fn sweep_later(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().sweeping, true) {
            return;
        }
        let reader = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RETAIN / 2).await;
                let Some(reader) = reader.upgrade() else { return };
                let mut state = reader.lock();
                let now = Instant::now();
                state.slots.retain(|_, slot| slot.started.is_none() || now - slot.last_used < RETAIN);
                if state.slots.is_empty() {
                    state.slots.shrink_to_fit();
                    state.sweeping = false;
                    return;
                }
            }
        });
    }

    /// Ends the connection.
    pub async fn close(&self) {
        self.provider.close().await;
    }
}

/// Whether an answer is a failure that may have passed: nobody else is given it.
fn passed(answer: &Answer) -> bool {
    matches!(answer.peek(), Some(Ok(Err(Error::Unavailable { .. } | Error::Throttled { .. }))))
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

    fn reader(batch: usize) -> (Arc<Script>, Arc<Reader>) {
        let script = Arc::new(Script { calls: 0.into(), wants: 0.into(), batch, fail: Mutex::new(None) });
        let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "script".into() };
        let reader = Reader::new(script.clone(), Retries::default(), labels, Arc::default(), Box::new(|| {}));
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
    async fn an_answer_goes_once_nobody_needs_it() {
        let (script, reader) = reader(1);
        let asked = Instant::now();
        reader.read(&[Want::latest("a")], asked).await;
        tokio::time::sleep(RETAIN * 3).await;
        assert!(reader.lock().slots.is_empty());
        reader.read(&[Want::latest("a")], asked).await;
        assert_eq!(script.calls.load(Ordering::SeqCst), 2);
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
        let reader = Reader::new(script.clone(), retries, labels, Arc::default(), Box::new(|| {}));
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
}
