//! Who shares a read with whom, and what is kept of it.

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
        Capabilities { access: Access::ReadOnly, batch: self.batch, concurrency: 2, takes_property: false }
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
    Hooks { on_trouble: Box::new(|| {}), is_awaited: Arc::new(|_| false) }
}

fn free() -> Arc<Mutex<Limiter>> {
    Arc::new(Mutex::new(Limiter::new(2, Limits::default(), Instant::now())))
}

fn reader(batch: usize) -> (Arc<Script>, Arc<Reader>) {
    let script = Arc::new(Script { calls: 0.into(), wants: 0.into(), batch, fail: Mutex::new(None) });
    let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "script".into() };
    let reader = Reader::new(script.clone(), Retries::default(), free(), labels, Arc::default(), Trail::default(), nobody());
    (script, reader)
}

fn text(answer: &Result<Fetched>) -> String {
    match answer {
        Ok(Fetched::Value { payload, .. }) => match &**payload {
            Payload::Bytes(bytes) => bytes.as_text().unwrap().to_owned(),
            Payload::Property(_) | Payload::Fields(_) => panic!(),
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
    let hooks = Hooks { on_trouble: Box::new(|| {}), is_awaited };
    let reader = Reader::new(script, Retries::default(), free(), labels, Arc::default(), Trail::default(), hooks);
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
    let script = Arc::new(Script { calls: 0.into(), wants: 0.into(), batch: 1, fail: Mutex::new(Some(Error::unavailable("x"))) });
    let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "script".into() };
    let retries = Retries { max: 2, interval: Duration::from_secs(3) };
    let reader = Reader::new(script.clone(), retries, free(), labels, Arc::default(), Trail::default(), nobody());
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
            Reader::new(script, Retries::default(), limiter.clone(), labels, Arc::default(), Trail::default(), nobody())
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
    assert_eq!(reader.crowded(false), None);
    reader.set_limits(Limits { concurrency: None, per_second: Some(0.1) });
    let wants: Vec<Want> = (0..5).map(|i| Want::latest(format!("k{i}"))).collect();
    let waiting = tokio::spawn({
        let (reader, wants) = (reader.clone(), wants.clone());
        async move { reader.read(&wants, Instant::now()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(reader.crowded(false).is_some_and(|wait| wait > LONG));
    // The next call finds the provider throttling: everybody is told at once.
    *script.fail.lock().unwrap() = Some(Error::Throttled { retry_after: Some(Duration::from_secs(30)), message: "slow".into() });
    let answers = waiting.await.unwrap();
    assert!(answers[1..].iter().all(|a| matches!(a, Err(Error::Throttled { .. }))), "{answers:?}");
    assert_eq!(script.calls.load(Ordering::SeqCst), 2);
    assert_eq!(reader.crowded(false), None, "nobody waits any more");
    *script.fail.lock().unwrap() = None;
    reader.set_limits(Limits { concurrency: None, per_second: Some(100.0) });
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(text(&reader.read(&wants[4..], Instant::now()).await[0]), "k4#3");
}

#[tokio::test(start_paused = true)]
async fn what_a_person_waits_for_is_read_before_refreshes() {
    let (_, reader) = reader(1);
    reader.set_limits(Limits { concurrency: None, per_second: Some(1.0) });
    let begun = Instant::now();
    let ask = |key: String, urgent: bool| {
        let reader = reader.clone();
        tokio::spawn(async move {
            let asking = Asking { fresh_after: begun, urgent };
            reader.read(&[Want::latest(key)], asking).await;
            begun.elapsed().as_secs()
        })
    };
    let refreshes: Vec<_> = (0..30).map(|i| ask(format!("k{i}"), false)).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(reader.crowded(false).is_some() && reader.crowded(true).is_none());
    // One of its own, and one that a refresh has asked for already.
    let urgent = [ask("mine".into(), true), ask("k29".into(), true)];
    let urgent = futures::future::join_all(urgent).await;
    assert!(urgent.iter().all(|s| *s.as_ref().unwrap() <= 3), "{urgent:?}");
    let all: Vec<u64> = futures::future::join_all(refreshes).await.into_iter().map(Result::unwrap).collect();
    assert!(all[28] >= 28 && all[29] <= 3, "{all:?}");
    assert_eq!(reader.lock().urgent, 0);
}

struct Broken;

#[async_trait]
impl Provider for Broken {
    async fn validate(&self) -> Result<Validity> {
        Ok(Validity::Valid)
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadOnly, batch: 1, concurrency: 1, takes_property: false }
    }
    async fn get(&self, _: &[Want]) -> Vec<Result<Fetched>> {
        panic!("a provider's mistake")
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_fails_its_call_and_no_later_one() {
    let labels = StoreLabels { store: "SecretStore a/b".into(), provider: "broken".into() };
    let reader = Reader::new(Arc::new(Broken), Retries::default(), free(), labels, Arc::default(), Trail::default(), nobody());
    for i in 0..5 {
        let answer = reader.read(&[Want::latest(format!("k{i}"))], Instant::now()).await;
        assert!(matches!(&answer[0], Err(Error::Unavailable { message, .. }) if message.contains("please report")), "{answer:?}");
    }
}
