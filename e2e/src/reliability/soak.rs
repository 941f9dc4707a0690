//! A long walk on the real binary: values, objects and targets change at random while both servers lie now and then. The invariants
//! are those of the histories under virtual time (`operator/src/simulation`), and memory and descriptors stay what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use super::world::{Making, World, counts};
use crate::canary;
use crate::interposer::{Chance, Lie, Sort};

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const OBJECTS: usize = 40;
/// How long lies last, and how long the truth.
const STORM: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(22);

/// What was measured.
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Resident, in kB.
    pub memory: u64,
    /// Open ones.
    pub descriptors: usize,
}

/// What an object asks for.
#[derive(Clone, Default)]
struct Spec {
    keys: Vec<&'static str>,
    policy: &'static str,
}

/// What was true at some time.
#[derive(Default)]
struct Truth {
    values: BTreeMap<&'static str, String>,
    ever: BTreeSet<String>,
    wrongs: BTreeSet<String>,
}

struct Walk {
    world: World,
    chance: Chance,
    specs: Vec<Spec>,
    truth: Arc<Mutex<Truth>>,
    number: usize,
}

/// Walks for so long; answers what was wrong, and what was measured.
pub async fn walk(time: Duration, seed: u64, say: &(impl Fn(&str) + Sync)) -> (Vec<String>, Vec<Sample>) {
    let world = World::new("soak", Making { interval: "2s", seed, ..Making::default() }).await;
    world.case.vault_store_at(&world.vault.url).await;
    let truth = Arc::<Mutex<Truth>>::default();
    let mut walk = Walk { world, chance: Chance::new(seed), specs: vec![Spec::default(); OBJECTS], truth, number: 0 };
    for key in KEYS {
        walk.put(key).await;
    }
    for object in 0..OBJECTS {
        walk.object(object).await;
    }
    walk.world.start().await;
    let watching = walk.watch();
    let (begun, mut samples, mut stormy, mut steps) = (Instant::now(), Vec::new(), false, 0);
    while begun.elapsed() < time {
        let phase = begun.elapsed().as_secs_f64() % (STORM + CALM).as_secs_f64();
        let storm = phase < STORM.as_secs_f64() && begun.elapsed() > CALM && begun.elapsed() + CALM < time;
        if storm != stormy {
            stormy = storm;
            if storm { walk.storm() } else { walk.world.honest() }
        }
        // At the end of each calm: what a storm took has been given back.
        if !storm
            && phase > (STORM + CALM).as_secs_f64() - 1.5
            && samples.last().is_none_or(|s: &Sample| begun.elapsed() > s.at + CALM)
        {
            let sample = walk.sample(begun.elapsed());
            say(&format!("{steps} steps; {} kB, {} descriptors", sample.memory, sample.descriptors));
            samples.push(sample);
        }
        walk.step().await;
        steps += 1;
        tokio::time::sleep(Duration::from_millis(40 + walk.chance.below(120) as u64)).await;
    }
    say(&format!("{steps} steps are done; all must be as it should within a minute, and then nobody writes"));
    walk.world.honest();
    let mut wrongs = walk.settled().await;
    wrongs.extend(flat(&samples));
    drop(watching);
    let logs = walk.world.logs();
    if logs.contains("panicked at") {
        wrongs.push("the operator panicked".into());
    }
    if let Some(form) = canary::find(logs.as_bytes(), b"CANARY") {
        wrongs.push(format!("the log holds a value ({form})"));
    }
    if walk.world.starts() != 1 {
        wrongs.push(format!("the operator was started {} times", walk.world.starts()));
    }
    wrongs.extend(walk.truth().wrongs.iter().cloned());
    if !wrongs.is_empty()
        && let Some(folder) = std::env::var_os("RELIABILITY_KEEP")
    {
        super::lies::keep(&walk.world, std::path::Path::new(&folder));
    }
    walk.world.end().await;
    (wrongs, samples)
}

/// Memory and descriptors of the last third against those of the first.
fn flat(samples: &[Sample]) -> Vec<String> {
    let third = samples.len() / 3;
    if third == 0 {
        return vec!["too short a time to say anything of memory: take three minutes or more".into()];
    }
    let median = |part: &[Sample], of: &dyn Fn(&Sample) -> u64| {
        let mut all: Vec<u64> = part.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let mut wrongs = Vec::new();
    let (before, after) = (median(first, &|s| s.memory), median(last, &|s| s.memory));
    if after > before + before / 5 + 3000 {
        wrongs.push(format!("memory grew from {before} kB to {after} kB"));
    }
    let (before, after) = (median(first, &|s| s.descriptors as u64), median(last, &|s| s.descriptors as u64));
    if after > before + 8 {
        wrongs.push(format!("descriptors grew from {before} to {after}"));
    }
    wrongs
}

impl Walk {
    fn truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn put(&mut self, key: &'static str) {
        self.number += 1;
        let value = format!("CANARY-{key}-{}", self.number);
        self.truth().ever.insert(value.clone());
        self.world.case.put(key, json!({"v": value})).await;
        self.truth().values.insert(key, value);
    }

    async fn remove(&mut self, key: &'static str) {
        self.world.case.harness.vault.remove(&self.world.case.key(key)).await;
        self.truth().values.remove(key);
    }

    async fn object(&mut self, object: usize) {
        let mut keys: Vec<&'static str> = KEYS.into_iter().filter(|_| self.chance.one_in(3)).collect();
        if keys.is_empty() {
            keys.push(KEYS[self.chance.below(KEYS.len())]);
        }
        let policy = ["Retain", "Delete", "Merge"][self.chance.below(3)];
        let case = &self.world.case;
        let data: Vec<Value> = keys.iter().map(|key| case.data(key, key, "v")).collect();
        let spec = json!({"refreshInterval": "2s", "target": {"deletionPolicy": policy}, "data": data});
        case.external_secret(&format!("o{object}"), spec).await;
        self.specs[object] = Spec { keys, policy };
    }

    async fn step(&mut self) {
        let (object, key) = (self.chance.below(OBJECTS), KEYS[self.chance.below(KEYS.len())]);
        let secrets = self.world.case.secrets();
        let name = format!("o{object}");
        match self.chance.below(20) {
            0..=6 => self.put(key).await,
            7 | 8 => self.remove(key).await,
            9..=13 => self.object(object).await,
            14 | 15 => {
                let patch = json!({"data": {"a": "c29tZWJvZHkncw=="}});
                let _ = secrets.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            }
            16 => drop(secrets.delete(&name, &Default::default()).await),
            _ => self.world.case.force_sync(&name).await,
        }
    }

    fn storm(&mut self) {
        let lies = [Lie::Lose, Lie::Half, Lie::Answer(429), Lie::Answer(500), Lie::Silence];
        let watches = [Lie::DropEvents, Lie::Coalesce, Lie::Gone, Lie::Cut];
        let (lie, of_watch, of_vault) = (lies[self.chance.below(5)], watches[self.chance.below(4)], self.chance.one_in(2));
        let chance = Mutex::new(self.chance.clone());
        self.world.script(move |vault, exchange| {
            let mut chance = chance.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match exchange.sort {
                Sort::Watch => of_watch,
                _ if (vault == of_vault) && (vault || counts(exchange)) && chance.one_in(3) => lie,
                _ => Lie::None,
            }
        });
    }

    /// Looks at every Secret that there ever is.
    fn watch(&self) -> tokio_util::task::AbortOnDropHandle<()> {
        let (truth, api) = (self.truth.clone(), self.world.case.secrets());
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            let mut stream = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(secret) = stream.next().await {
                let Ok(Secret { metadata, data: Some(data), .. }) = secret else { continue };
                let name = metadata.name.unwrap_or_default();
                let mut truth = truth.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                for (key, value) in data.iter().filter(|_| name.starts_with('o')) {
                    let text = String::from_utf8_lossy(&value.0);
                    let own = text.starts_with(&format!("CANARY-{key}-")) && truth.ever.contains(&*text);
                    if !own && text != "somebody's" {
                        truth.wrongs.insert(format!("{name} held under {key} what its store never did ({} bytes)", text.len()));
                    }
                }
            }
        }))
    }

    fn sample(&self, at: Duration) -> Sample {
        let pid = self.world.pid();
        let memory = crate::process::usage(pid).rss / 1024;
        // Not attachable: its folder of descriptors is root's, as these tests are.
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0);
        Sample { at, memory, descriptors }
    }

    fn is_right(&self, spec: &Spec, secret: Option<BTreeMap<String, String>>) -> bool {
        let truth = self.truth();
        let there: BTreeMap<String, String> =
            spec.keys.iter().filter_map(|key| Some(((*key).to_owned(), truth.values.get(key)?.clone()))).collect();
        match (there.len() == spec.keys.len(), spec.policy) {
            // What it last had is kept, whatever that was.
            (false, "Retain") => true,
            (false, "Delete") if there.is_empty() => secret.is_none(),
            _ => secret.as_ref() == Some(&there),
        }
    }

    /// Each key of a Secret, and what is to be said of its value.
    fn compared(&self, secret: BTreeMap<String, String>) -> BTreeMap<String, &'static str> {
        let truth = self.truth();
        let word = |key: &str, value: &str| match truth.values.get(key) {
            Some(now) if now == value => "as it is now",
            Some(_) if truth.ever.contains(value) => "as it once was",
            None if truth.ever.contains(value) => "as it once was, and is gone",
            _ => "somebody's",
        };
        secret.into_iter().map(|(key, value)| (key.clone(), word(&key, &value))).collect()
    }

    async fn settled(&self) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(60);
        let mut wrongs;
        loop {
            wrongs = Vec::new();
            for (object, spec) in self.specs.iter().enumerate() {
                let name = format!("o{object}");
                let secret = self.world.case.secret(&name).await;
                if !self.is_right(spec, secret.clone()) {
                    let ready = self.world.case.ready_of(&name).await;
                    let is = secret.map(|secret| self.compared(secret));
                    wrongs.push(format!("{name} ({}, {:?}) is {is:?}, and says {ready:?}", spec.policy, spec.keys));
                }
            }
            if wrongs.is_empty() || Instant::now() > end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let writes =
            || self.world.api.log().iter().filter(|e| counts(e) && e.sort == Sort::Write && self.world.is_own(&e.path)).count();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = writes();
        tokio::time::sleep(Duration::from_secs(10)).await;
        // A heartbeat may fall into these seconds: one status for each object that is well.
        if writes() > before + OBJECTS {
            wrongs.push(format!("{} writes in ten seconds though nothing happens", writes() - before));
        }
        wrongs
    }
}
