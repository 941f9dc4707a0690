//! What is measured: processes from outside, Secrets and objects as a watch shows them, requests as their sender counted them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use lockstep_crds::conditions::Condition;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use crate::operator::sum;
use crate::process::{self, Usage};

/// One moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Seconds since the phase began.
    pub at: f64,
    /// Memory of the process under test (of all replicas), in MB.
    pub rss_mb: f64,
    /// Secrets written so far in this phase.
    pub secrets: usize,
}

/// What a phase cost.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// How long it took.
    pub seconds: f64,
    /// CPU time of the process under test (of all replicas).
    pub cpu: Duration,
    /// CPU time of the API server.
    pub api_cpu: Duration,
    /// Peak of the process' memory so far, in MB.
    pub rss_peak_mb: f64,
    /// Requests to the API server by verb and resource, watches left out.
    pub requests: BTreeMap<String, u64>,
    /// Reads of values that the provider saw.
    pub reads: u64,
    /// Seconds from the change to each Secret.
    pub latencies: Vec<f64>,
    /// What it looked like over time.
    pub series: Vec<Sample>,
}

impl Phase {
    /// A share of the Secrets was there after so many seconds.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let mut all = self.latencies.clone();
        all.sort_by(f64::total_cmp);
        all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1))).copied()
    }

    /// Requests whose verb and resource `wanted` takes.
    pub fn count(&self, wanted: impl Fn(&str, &str) -> bool) -> u64 {
        let matches = |(name, count): (&String, &u64)| name.split_once(' ').filter(|(v, r)| wanted(v, r)).map(|_| *count);
        self.requests.iter().filter_map(matches).sum()
    }

    /// With what was counted between two moments.
    pub fn counted(self, before: &Counts, after: &Counts) -> Self {
        Self { requests: after.requests_since(before), reads: after.reads - before.reads, ..self }
    }

    /// Writes, events left out.
    pub fn writes(&self) -> u64 {
        self.count(|verb, resource| verb != "get" && resource != "events")
    }
}

/// Requests of operators, from the text of their metrics.
fn requests(text: &str) -> BTreeMap<String, u64> {
    let rows = text.lines().filter_map(|l| l.strip_prefix("lockstep_api_requests_total{"));
    let counts = rows.filter_map(|row| {
        let (labels, value) = row.split_once("} ")?;
        let field = |name: &str| {
            labels.split(',').find_map(|l| l.strip_prefix(&format!("{name}=")).map(|v| v.trim_matches('"').to_owned()))
        };
        Some((format!("{} {}", field("verb")?, field("resource")?), value.parse::<f64>().ok()? as u64))
    });
    counts.fold(BTreeMap::new(), |mut all, (name, count)| {
        *all.entry(name).or_default() += count;
        all
    })
}

/// What operators and Vault have counted at a moment.
pub struct Counts {
    /// The text of all operators' metrics.
    pub text: String,
    /// Reads of values that Vault has answered.
    pub reads: u64,
}

impl Counts {
    /// The sum of all series of a name whose labels hold every one of `labels`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        sum(&self.text, name, labels)
    }

    /// Requests since an earlier moment.
    pub fn requests_since(&self, before: &Self) -> BTreeMap<String, u64> {
        difference(&requests(&self.text), &requests(&before.text))
    }
}

/// `after` without `before`.
fn difference(after: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rest = after.iter().map(|(k, v)| (k.clone(), v - before.get(k).unwrap_or(&0).min(v)));
    rest.filter(|(_, v)| *v > 0).collect()
}

/// An ExternalSecret, as far as a watcher of readiness needs it.
#[derive(Clone, Debug, Deserialize)]
struct Brief {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<BriefStatus>,
}

#[derive(Clone, Debug, Deserialize)]
struct BriefStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

impl Resource for Brief {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> std::borrow::Cow<'_, str> {
        "ExternalSecret".into()
    }
    fn group(_: &()) -> std::borrow::Cow<'_, str> {
        "external-secrets.io".into()
    }
    fn version(_: &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }
    fn plural(_: &()) -> std::borrow::Cow<'_, str> {
        "externalsecrets".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Default)]
struct Seen {
    /// The version of each Secret, and when it came.
    secrets: HashMap<String, (String, Instant)>,
    ready: HashMap<String, (bool, Instant)>,
}

/// Watches Secrets and ExternalSecrets, for the operator and for the bare client alike.
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

fn name<K: Resource>(object: &K) -> String {
    format!("{}/{}", object.meta().namespace.as_deref().unwrap_or_default(), object.name_any())
}

impl Observer {
    /// Watches the Secrets that `labels` select, and all ExternalSecrets.
    pub fn start(client: &Client, labels: &str) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let secrets = tokio::spawn({
            let (api, seen, labels) = (Api::<PartialObjectMeta<Secret>>::all(client.clone()), seen.clone(), labels.to_owned());
            async move {
                let mut events = std::pin::pin!(kube::runtime::watcher(api, watcher::Config::default().labels(&labels)));
                while let Some(event) = events.next().await {
                    let mut seen = lock(&seen);
                    match event {
                        Ok(Event::Apply(s) | Event::InitApply(s)) => {
                            let version = s.resource_version().unwrap_or_default();
                            let known = seen.secrets.entry(name(&s)).or_insert_with(|| (String::new(), Instant::now()));
                            if known.0 != version {
                                *known = (version, Instant::now());
                            }
                        }
                        Ok(Event::Delete(s)) => drop(seen.secrets.remove(&name(&s))),
                        Ok(Event::Init | Event::InitDone) | Err(_) => {}
                    }
                }
            }
        });
        let objects = tokio::spawn({
            let (api, seen) = (Api::<Brief>::all(client.clone()), seen.clone());
            async move {
                let mut events = std::pin::pin!(kube::runtime::watcher(api, watcher::Config::default()));
                while let Some(event) = events.next().await {
                    let mut seen = lock(&seen);
                    match event {
                        Ok(Event::Apply(o) | Event::InitApply(o)) => {
                            let conditions = o.status.iter().flat_map(|s| &s.conditions);
                            let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
                            let known = seen.ready.entry(name(&o)).or_insert((!ready, Instant::now()));
                            if known.0 != ready {
                                *known = (ready, Instant::now());
                            }
                        }
                        Ok(Event::Delete(o)) => drop(seen.ready.remove(&name(&o))),
                        Ok(Event::Init | Event::InitDone) | Err(_) => {}
                    }
                }
            }
        });
        Self { seen, _tasks: vec![AbortOnDropHandle::new(secrets), AbortOnDropHandle::new(objects)] }
    }

    /// How many Secrets there are.
    pub fn secrets(&self) -> usize {
        lock(&self.seen).secrets.len()
    }

    /// How many objects are Ready.
    pub fn ready(&self) -> usize {
        lock(&self.seen).ready.values().filter(|(ready, _)| *ready).count()
    }

    /// When the first and when the last of the objects that are Ready became so, in seconds after `since`.
    pub fn ready_after(&self, since: Instant) -> Option<(f64, f64)> {
        let seen = lock(&self.seen);
        let times = || seen.ready.values().filter(|(ready, _)| *ready).map(|(_, at)| *at);
        Some(((times().min()? - since).as_secs_f64(), (times().max()? - since).as_secs_f64()))
    }

    /// Seconds from `since` to each Secret that was made or changed after it.
    pub fn latencies(&self, since: Instant) -> Vec<f64> {
        lock(&self.seen).secrets.values().filter(|(_, at)| *at >= since).map(|(_, at)| (*at - since).as_secs_f64()).collect()
    }

    /// Waits until `done` says so: ten minutes at most.
    ///
    /// # Errors
    /// A sentence with `what` and how far it came.
    pub async fn wait(&self, what: &str, done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        self.wait_for(Duration::ZERO, what, done).await
    }

    /// Waits until `done` says so: so long at most, or ten minutes if that is longer.
    ///
    /// # Errors
    /// A sentence with `what` and how far it came.
    pub async fn wait_for(&self, most: Duration, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let most = most.max(Duration::from_secs(600));
        let end = Instant::now() + most;
        while !done(self) {
            if Instant::now() > end {
                let (secrets, ready) = (self.secrets(), self.ready());
                return Err(format!("not in {} s: {what}; {secrets} Secrets, {ready} ready", most.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Measures a phase of some processes from its beginning on.
pub struct Stopwatch {
    /// When it began.
    pub begun: Instant,
    pids: Vec<u32>,
    api_server: u32,
    before: (Usage, Usage),
    series: Arc<Mutex<Vec<Sample>>>,
    _sampler: AbortOnDropHandle<()>,
}

fn usage(pids: &[u32]) -> Usage {
    pids.iter().map(|pid| process::usage(*pid)).fold(Usage::default(), |a, b| Usage {
        cpu: a.cpu + b.cpu,
        rss: a.rss + b.rss,
        peak_rss: a.peak_rss + b.peak_rss,
    })
}

impl Stopwatch {
    /// Begins. CPU time that new processes have used so far counts when `new`.
    pub fn start(pids: &[u32], api_server: u32, observer: &Arc<Observer>, new: bool) -> Self {
        let begun = Instant::now();
        let series = Arc::<Mutex<Vec<Sample>>>::default();
        let sampler = tokio::spawn({
            let (pids, series, observer) = (pids.to_vec(), series.clone(), observer.clone());
            let mut last = (Instant::now(), 0);
            async move {
                loop {
                    if last.0.elapsed() > Duration::from_millis(400) || last.1 == 0 {
                        last = (Instant::now(), observer.latencies(begun).len());
                    }
                    let at = begun.elapsed().as_secs_f64();
                    let sample = Sample { at, rss_mb: usage(&pids).rss as f64 / 1e6, secrets: last.1 };
                    series.lock().unwrap_or_else(|p| p.into_inner()).push(sample);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        let own = if new { Usage::default() } else { usage(pids) };
        let before = (own, process::usage(api_server));
        Self { begun, pids: pids.to_vec(), api_server, before, series, _sampler: AbortOnDropHandle::new(sampler) }
    }

    /// Ends; what others count is filled in by the caller.
    pub fn stop(self, seconds: f64, observer: &Observer) -> Phase {
        let (own, api) = (usage(&self.pids), process::usage(self.api_server));
        let mut series = self.series.lock().unwrap_or_else(|p| p.into_inner()).clone();
        let latencies = observer.latencies(self.begun);
        series.push(Sample { at: seconds, rss_mb: own.rss as f64 / 1e6, secrets: latencies.len() });
        series.retain(|s| s.at <= seconds + 0.001);
        Phase {
            seconds,
            cpu: own.cpu.saturating_sub(self.before.0.cpu),
            api_cpu: api.cpu.saturating_sub(self.before.1.cpu),
            rss_peak_mb: own.peak_rss as f64 / 1e6,
            latencies,
            series,
            ..Phase::default()
        }
    }
}

/// A number with three decimals.
pub fn round(x: f64) -> Value {
    Value::from((x * 1000.0).round() / 1000.0)
}
