//! Histories: the whole operator on an API server and a provider in memory, under virtual time.
//!
//! What people, providers, networks and crashes do is a list of steps; a list that breaks an invariant is shortened to the least
//! one that still does. The invariants: a Secret holds only what its store held under that very key; nothing is deleted or dropped
//! that the provider did not say to be gone; nobody else's Secret is written; a provider that asks for time gets it; and when all is
//! well again everything is as it should be, and nobody writes any more.

mod api;
mod remote;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::clients::{Cluster, Streams};
use crate::context::{Context, Options};
use crate::controller;
use crate::ownership::{Hold, Ownership};
use api::{Place, Server, Weather};
use lockstep_providers::OwnCluster;
use remote::{Mood, Remote};

/// Numbers that a seed decides (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Time passes.
    Wait(u16),
    /// A key gets a new value, or goes.
    Put(u8),
    Remove(u8),
    Mood(Mood),
    Weather(Weather),
    /// Watches tell late.
    Delay(u16),
    Cut(bool),
    /// Somebody writes an object: its keys, its deletion policy, its interval.
    Object(u16, u8, u8, u8),
    ObjectGoes(u16),
    /// Somebody edits a target, or deletes it.
    Touch(u16),
    TargetGoes(u16),
    /// Somebody else makes a Secret of that name.
    Foreign(u16),
    Crash(u16),
}

fn steps(objects: u16, length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let who = 0..objects;
    let step = prop_oneof![
        4 => (1_u16..200).prop_map(Step::Wait),
        3 => (0_u8..5).prop_map(Step::Put),
        2 => (0_u8..5).prop_map(Step::Remove),
        1 => prop_oneof![Just(Mood::Well), Just(Mood::Away), Just(Mood::Denies), (1_u64..40).prop_map(|s| Mood::Throttles(Duration::from_secs(s)))]
            .prop_map(Step::Mood),
        1 => prop_oneof![Just(Weather::Fair), Just(Weather::Storm), Just(Weather::Silence), Just(Weather::Late)].prop_map(Step::Weather),
        1 => (0_u16..3000).prop_map(Step::Delay),
        1 => any::<bool>().prop_map(Step::Cut),
        3 => (who.clone(), 1_u8..32, 0_u8..3, 0_u8..3).prop_map(|(o, k, p, i)| Step::Object(o, k, p, i)),
        1 => who.clone().prop_map(Step::ObjectGoes),
        2 => who.clone().prop_map(Step::Touch),
        1 => who.clone().prop_map(Step::TargetGoes),
        1 => who.prop_map(Step::Foreign),
        1 => (0_u16..60).prop_map(Step::Crash),
    ];
    proptest::collection::vec(step, length)
}

fn place(resource: &str, object: u16) -> Place {
    (resource.into(), "ns".into(), format!("o{object}"))
}

fn owner_of(secret: &Value) -> Option<&str> {
    secret["metadata"]["ownerReferences"][0]["uid"].as_str()
}

fn decoded(secret: &Value) -> BTreeMap<String, String> {
    let data = secret["data"].as_object().into_iter().flatten();
    let text = |v: &Value| STANDARD.decode(v.as_str().unwrap_or_default()).ok().and_then(|b| String::from_utf8(b).ok());
    data.map(|(k, v)| (k.clone(), text(v).unwrap_or_default())).collect()
}

/// Secret keys are named like the remote ones.
fn judge(remote: &Remote, asked: &Asked, verb: &str, there: Option<&Value>, sent: Option<&Value>) -> Option<String> {
    if let (Some(there), Some(owner)) = (there, there.and_then(owner_of)) {
        let same = sent.is_none_or(|sent| owner_of(sent) == Some(owner));
        if !same {
            return Some(format!("{verb}: another owner for {}", there["metadata"]["name"]));
        }
    } else if let Some(there) = there {
        return Some(format!("{verb} of somebody else's Secret {}", there["metadata"]["name"]));
    }
    let (before, after) = (there.map(decoded).unwrap_or_default(), sent.map(decoded).unwrap_or_default());
    if let Some((key, value)) = after.iter().find(|(key, value)| !remote.held(key, value)) {
        return Some(format!("{verb}: {key} gets {value}, which its store never held"));
    }
    let name = there.or(sent).and_then(|s| s["metadata"]["name"].as_str()).unwrap_or_default();
    let asked = asked.lock().unwrap_or_else(|p| p.into_inner());
    let ever = asked.get(name).map(Vec::as_slice).unwrap_or_default();
    let lacks_all = |spec: &Spec| spec.deletes && spec.keys.iter().all(|key| remote.was_lacking(key));
    if sent.is_none() {
        return (!ever.iter().any(lacks_all)).then(|| format!("{name} is deleted, and nobody said that all of it is gone"));
    }
    let dropped = before.keys().find(|key| {
        let wanted = KEYS.contains(&key.as_str()) && ever.iter().all(|spec| spec.keys.contains(key));
        wanted && !after.contains_key(*key) && !remote.was_lacking(key)
    });
    dropped.map(|key| format!("{name} loses {key}, and nobody said that it is gone"))
}

/// What an object has asked for at some time.
struct Spec {
    keys: Vec<String>,
    deletes: bool,
}

/// By its name.
type Asked = Arc<Mutex<BTreeMap<String, Vec<Spec>>>>;

struct Life {
    token: CancellationToken,
    stop: CancellationToken,
}

struct World {
    server: Arc<Server>,
    remote: Arc<Remote>,
    life: Life,
    generations: u64,
    start: Instant,
    asked: Asked,
}

fn begin(server: &Arc<Server>, remote: &Arc<Remote>, start: Instant) -> Life {
    let (token, stop) = (CancellationToken::new(), CancellationToken::new());
    let client = server.client(token.clone());
    let same = client.clone();
    let streams = Arc::new(Streams::new(move || same.clone()));
    let cluster = Cluster { leases: client.clone(), client, streams, own: OwnCluster::default(), namespace: "default".into() };
    let alone = Arc::new(Ownership::new(1, Hold::Forever));
    let began: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let clock = move || began + start.elapsed();
    let ctx = Context::new(cluster, Options::default(), alone, (Arc::default(), Audit::off()), Box::new(clock));
    ctx.connections.script(remote.clone());
    let until = stop.clone();
    tokio::spawn(async move { controller::run(ctx, until, || {}).await });
    Life { token, stop }
}

impl World {
    fn new(seed: u64) -> Self {
        let remote = Remote::new(seed);
        let asked = Asked::default();
        let (judging, told) = (remote.clone(), asked.clone());
        let judge = move |verb: &str, resource: &str, there: Option<&Value>, sent: Option<&Value>| {
            (resource == "secrets").then(|| judge(&judging, &told, verb, there, sent)).flatten()
        };
        let server = Server::new(seed ^ 0xabcd, Box::new(judge));
        KEYS.iter().for_each(|key| remote.put(key));
        server.change(&("secretstores".into(), "ns".into(), "s".into()), |_| {
            Some(json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"generation": 1},
                "spec": {"provider": {"fake": {"data": []}}}}))
        });
        let start = Instant::now();
        let life = begin(&server, &remote, start);
        Self { server, remote, life, generations: 1, start, asked }
    }

    fn object(&mut self, object: u16, keys: u8, policy: u8, interval: u8) {
        self.generations += 1;
        let named = KEYS.iter().enumerate().filter(|(i, _)| keys & (1 << i) != 0);
        let keys: Vec<String> = named.map(|(_, key)| (*key).to_owned()).collect();
        let data: Vec<Value> = keys.iter().map(|key| json!({"secretKey": key, "remoteRef": {"key": key}})).collect();
        let policy = ["Retain", "Delete", "Merge"][usize::from(policy % 3)];
        let interval = ["10s", "1m", "1h"][usize::from(interval % 3)];
        let spec = json!({"secretStoreRef": {"name": "s"}, "refreshInterval": interval, "target": {"deletionPolicy": policy}, "data": data});
        let generation = self.generations;
        let mut asked = self.asked.lock().unwrap_or_else(|p| p.into_inner());
        asked.entry(format!("o{object}")).or_default().push(Spec { keys, deletes: policy == "Delete" });
        drop(asked);
        self.server.change(&place("externalsecrets", object), |there| {
            let mut new = there
                .unwrap_or_else(|| json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {}}));
            new["spec"] = spec;
            new["metadata"]["generation"] = json!(generation);
            Some(new)
        });
    }

    async fn take(&mut self, step: Step) {
        let second = |n: u16| Duration::from_millis(u64::from(n) * 100);
        match step {
            Step::Wait(n) => tokio::time::sleep(second(n)).await,
            Step::Put(key) => self.remote.put(KEYS[usize::from(key)]),
            Step::Remove(key) => self.remote.remove(KEYS[usize::from(key)]),
            Step::Mood(mood) => self.remote.set_mood(mood),
            Step::Weather(weather) => self.server.set_weather(weather),
            Step::Delay(ms) => self.server.set_delay(Duration::from_millis(ms.into())),
            Step::Cut(forget) => self.server.cut(forget),
            Step::Object(object, keys, policy, interval) => self.object(object, keys, policy, interval),
            Step::ObjectGoes(object) => self.server.change(&place("externalsecrets", object), |_| None),
            Step::Touch(object) => self.server.change(&place("secrets", object), |there| {
                let mut secret = there?;
                secret["data"]["a"] = json!(STANDARD.encode("somebody's"));
                Some(secret)
            }),
            Step::TargetGoes(object) => self.server.change(&place("secrets", object), |_| None),
            Step::Foreign(object) => self.server.change(&place("secrets", object), |there| {
                there.or_else(|| {
                    Some(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"a": STANDARD.encode("theirs")}}))
                })
            }),
            Step::Crash(down) => {
                self.life.token.cancel();
                self.life.stop.cancel();
                tokio::time::sleep(second(down)).await;
                self.remote.forgets_who_asked();
                self.life = begin(&self.server, &self.remote, self.start);
            }
        }
    }

    /// What is not as it should be once all is well again.
    fn unsettled(&self, objects: u16) -> Vec<String> {
        let mut wrongs = Vec::new();
        for object in 0..objects {
            let secret = self.server.get(&place("secrets", object));
            let Some(es) = self.server.get(&place("externalsecrets", object)) else {
                if secret.as_ref().is_some_and(|s| owner_of(s).is_some()) {
                    wrongs.push(format!("o{object} is gone, and its Secret is there"));
                }
                continue;
            };
            let ready = &es["status"]["conditions"][0];
            let told = format!("o{object}: {} {}", ready["status"], ready["message"]);
            let keys = es["spec"]["data"].as_array().into_iter().flatten().filter_map(|d| d["secretKey"].as_str());
            let wanted: BTreeMap<String, Option<String>> = keys.map(|key| (key.to_owned(), self.remote.value(key))).collect();
            let there: BTreeMap<String, String> = wanted.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect();
            let holds = secret.as_ref().map(decoded);
            let policy = es["spec"]["target"]["deletionPolicy"].as_str().unwrap_or_default();
            if secret.as_ref().is_some_and(|s| owner_of(s).is_none()) {
                // Where the provider has nothing either there is nothing to write, and nobody in the way.
                if ready["status"] != "False" && !(policy == "Delete" && there.is_empty()) {
                    wrongs.push(format!("{told}, and the Secret is somebody else's"));
                }
                continue;
            }
            let right = match (there.len() == wanted.len(), policy) {
                (true, _) | (false, "Merge") => ready["status"] == "True" && holds == Some(there),
                (false, "Delete") if there.is_empty() => ready["status"] == "True" && holds.is_none(),
                (false, "Delete") => ready["status"] == "True" && holds == Some(there),
                (false, _) => ready["status"] == "False",
            };
            if !right {
                wrongs.push(format!("{told}; {policy}, wanted {wanted:?}, holds {:?}", secret.as_ref().map(decoded)));
            }
        }
        wrongs
    }

    /// All is well from now on; what is still wrong after its time, and who still writes.
    async fn settles(&mut self, objects: u16) -> Vec<String> {
        self.remote.set_mood(Mood::Well);
        self.server.set_weather(Weather::Fair);
        self.server.set_delay(Duration::ZERO);
        self.server.cut(true);
        // An hour is the longest interval, and seven minutes the longest back-off.
        tokio::time::sleep(Duration::from_secs(75 * 60)).await;
        let mut wrongs = self.unsettled(objects);
        let before = self.versions(objects);
        let (_, asked) = self.server.counts();
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        if before != self.versions(objects) {
            wrongs.push("Secrets are written though nothing happens".into());
        }
        let requests = self.server.counts().1 - asked;
        // Nothing but a heartbeat each five minutes, and looks at what is refused.
        if requests > 40 + usize::from(objects) * 12 {
            wrongs.push(format!("{requests} requests in ten minutes though nothing happens"));
        }
        wrongs.extend(self.server.wrongs());
        wrongs.extend(self.remote.wrongs());
        wrongs
    }

    fn versions(&self, objects: u16) -> Vec<Option<String>> {
        let version = |o| self.server.get(&place("secrets", o)).map(|s| s["metadata"]["resourceVersion"].to_string());
        (0..objects).map(version).collect()
    }

    fn end(&self) {
        self.life.token.cancel();
        self.life.stop.cancel();
    }
}

/// Tells a history; answers what was wrong.
fn told(seed: u64, objects: u16, steps: &[Step]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed);
        for object in 0..objects {
            world.object(object, 1 + (object % 31) as u8, (object / 31 % 3) as u8, (object / 93 % 3) as u8);
        }
        for step in steps {
            world.take(*step).await;
        }
        let wrongs = world.settles(objects).await;
        world.end();
        wrongs
    })
}

/// `LOCKSTEP_HISTORIES` tries more of them; a failing one is printed as short as it gets.
fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("LOCKSTEP_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, failure_persistence: None, max_shrink_time: 60_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(60))]
    #[test]
    fn any_history_ends_as_it_should_and_loses_nothing_on_the_way(seed: u64, steps in steps(4, 1..60)) {
        let wrongs = told(seed, 4, &steps);
        prop_assert!(wrongs.is_empty(), "{wrongs:#?}");
    }
}

#[test]
fn a_thousand_objects_come_through_outages_and_crashes() {
    let mut chance = Chance(7);
    let mut history = vec![Step::Wait(100)];
    for round in 0..12 {
        history.extend([
            Step::Put(round % 5),
            Step::Touch(chance.below(1000) as u16),
            Step::TargetGoes(chance.below(1000) as u16),
        ]);
        history.extend(
            (0..20).map(|_| Step::Object(chance.below(1000) as u16, 1 + chance.below(31) as u8, chance.below(3) as u8, 1)),
        );
        history.push(match round % 4 {
            0 => Step::Mood(Mood::Away),
            1 => Step::Weather(Weather::Storm),
            2 => Step::Mood(Mood::Throttles(Duration::from_secs(20))),
            _ => Step::Crash(30),
        });
        history.extend([
            Step::Wait(300),
            Step::Mood(Mood::Well),
            Step::Weather(Weather::Fair),
            Step::Cut(round % 2 == 0),
            Step::Wait(150),
        ]);
    }
    let wrongs = told(1, 1000, &history);
    assert!(wrongs.is_empty(), "{:#?}", &wrongs[..wrongs.len().min(5)]);
}
