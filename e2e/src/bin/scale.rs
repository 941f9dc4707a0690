//! `cargo scale`: what N ExternalSecrets cost, beside a bare client that makes only the two writes of a first sync.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a bench that can't go on says so and ends")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anstyle::Style;
use clap::Parser;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use lockstep_crds::{ExternalSecret, LABEL_MANAGED};
use lockstep_e2e::harness::{self, Harness};
use lockstep_e2e::operator::{Operator, OperatorOptions, sum};
use lockstep_e2e::process;
use lockstep_e2e::table;
use lockstep_e2e::vault::ROOT;
use serde_json::{Value, json};

/// Measures a first sync of N objects, an unchanged refresh and a restart.
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo scale -- --objects 2000
  cargo scale -- --objects 2000 --json figures.json

Absolute times are those of the machine; the ratio to the bare client in the same run is what counts.")]
struct Args {
    /// How many ExternalSecrets.
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=50_000))]
    objects: u64,
    /// How many objects read each remote secret.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sharing: u64,
    /// Requests at once of the bare client.
    #[arg(long, default_value_t = 32, value_name = "N")]
    bare_concurrency: usize,
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs as the bare client (used by the bench itself).
    #[arg(long, hide = true)]
    bare_client: Option<PathBuf>,
}

const NAMESPACE: &str = "scale";
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

fn note(text: &str) {
    anstream::eprintln!("{DIM}{text}{DIM:#}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(kubeconfig) = &args.bare_client {
        bare_client(kubeconfig, args.objects, args.bare_concurrency).await;
        return ExitCode::SUCCESS;
    }
    match measure(&args).await {
        Ok(figures) => {
            if let Some(path) = &args.json
                && let Err(error) = std::fs::write(path, format!("{:#}\n", figures))
            {
                anstream::eprintln!("scale: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            anstream::eprintln!("scale: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What one phase cost, read from outside: the process' CPU and the operator's own counters.
#[derive(Clone, Default)]
struct Counters {
    cpu: Duration,
    text: String,
}

impl Counters {
    async fn of(operator: &Operator) -> Self {
        Self { cpu: operator.process.usage().cpu, text: operator.metrics().await }
    }

    fn requests(&self, labels: &[&str]) -> u64 {
        sum(&self.text, "lockstep_api_requests_total", labels)
    }

    fn writes(&self) -> u64 {
        ["create", "update", "patch", "delete"].iter().map(|v| self.requests(&[&format!("verb=\"{v}\"")])).sum::<u64>()
            - self.events()
    }

    fn reads(&self) -> u64 {
        self.requests(&["verb=\"get\""])
    }

    fn events(&self) -> u64 {
        self.requests(&["resource=\"events\""])
    }

    fn by_verb(&self) -> BTreeMap<String, u64> {
        let rows = self.text.lines().filter_map(|l| l.strip_prefix("lockstep_api_requests_total{"));
        rows.filter_map(|row| {
            let (labels, value) = row.split_once("} ")?;
            let field = |name: &str| {
                labels.split(',').find_map(|l| l.strip_prefix(&format!("{name}=")).map(|v| v.trim_matches('"').to_owned()))
            };
            Some((format!("{} {}", field("verb")?, field("resource")?), value.parse::<f64>().ok()? as u64))
        })
        .collect()
    }
}

async fn measure(args: &Args) -> Result<Value, String> {
    note("starting a control plane and a Vault; building the operator with --release");
    let started = tokio::task::spawn_blocking(|| Harness::start(true, &note)).await.map_err(|e| e.to_string())?;
    let harness = Arc::new(started?);
    let client = harness.client().await;
    harness.install(&client).await;
    harness.vault.prepare().await;
    harness.vault.audit_on().await;
    harness::create_namespace(&client, NAMESPACE).await;
    let objects = args.objects;
    let distinct = objects.div_ceil(args.sharing);

    note(&format!("{objects} writes of the bare client: a Secret and a status each"));
    let bare = run_bare_client(&harness, args)?;
    note(&format!("seeding Vault with {distinct} secrets, and {objects} ExternalSecrets"));
    seed(&harness, &client, objects, distinct).await;

    note("the operator starts");
    let first = Instant::now();
    let operator = start(&harness);
    let all_secrets = wait_for_secrets(&client, objects, first).await;
    let all_ready = wait_for_ready(&client, objects, first).await;
    settle(&operator).await;
    let synced = Counters::of(&operator).await;
    let reads = harness.vault.requests("read", "secret/data/") as u64;

    note("an unchanged refresh of all objects");
    let refreshed = unchanged_refresh(&harness, &operator, distinct, reads).await;
    let usage = operator.process.usage();

    note("a restart with all objects synced");
    let restart_reads = harness.vault.requests("read", "secret/data/") as u64;
    operator.process.signal("TERM");
    if !operator.process.wait_gone(Duration::from_secs(10)) {
        return Err("the operator did not stop".into());
    }
    drop(operator);
    let again = start(&harness);
    again.wait_working();
    settle(&again).await;
    let restarted = Counters::of(&again).await;
    // Objects whose refresh became due meanwhile are read; with the hour of this run none is.
    let restart_reads = harness.vault.requests("read", "secret/data/") as u64 - restart_reads;

    let rate = objects as f64 / all_ready.as_secs_f64();
    let per = |n: u64| n as f64 / objects as f64;
    let cpu = synced.cpu.as_secs_f64() * 1000.0 / objects as f64;
    let figures = json!({
        "objects": objects,
        "all_secrets_s": round(all_secrets.as_secs_f64()),
        "all_ready_s": round(all_ready.as_secs_f64()),
        "rate_per_s": round(rate),
        "bare_rate_per_s": round(bare.rate),
        "ratio": round(rate / bare.rate),
        "cpu_ms_per_object": round(cpu),
        "bare_cpu_ms_per_object": round(bare.cpu_ms),
        "rss_peak_mb": round(usage.peak_rss as f64 / 1e6),
        "api_writes_per_object": round(per(synced.writes())),
        "api_reads_per_object": round(per(synced.reads())),
        "events_per_object": round(per(synced.events())),
        "provider_reads": reads,
        "distinct_remote_secrets": distinct,
        "unchanged_refresh_writes": refreshed.writes() - synced.writes(),
        "restart_provider_reads": restart_reads,
        "restart_writes": restarted.writes(),
    });
    print(&figures, &synced, refreshed.reads() - synced.reads(), restarted.reads());
    Ok(figures)
}

fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

fn start(harness: &Harness) -> Operator {
    let args = ["--leader-elect=false", "--log-level", "info"].map(str::to_owned).to_vec();
    harness.operator(&OperatorOptions { args, name: "scale".into() })
}

async fn seed(harness: &Arc<Harness>, client: &Client, objects: u64, distinct: u64) {
    let vault = &harness.vault;
    futures::stream::iter(0..distinct)
        .for_each_concurrent(16, |i| async move {
            vault.put(&format!("scale/{i}"), json!({"user": format!("user-{i}"), "password": format!("password-{i}")})).await;
        })
        .await;
    let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault-token"}, "stringData": {"token": ROOT}});
    harness::apply(client, Some(NAMESPACE), token).await.expect("the token");
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "namespace": NAMESPACE, "key": "token"}});
    let store = json!({"apiVersion": "external-secrets.io/v1", "kind": "ClusterSecretStore", "metadata": {"name": "scale"},
        "spec": {"provider": {"vault": {"server": vault.url, "path": "secret", "auth": auth}}}});
    harness::apply(client, None, store).await.expect("the store");
    let api: Api<ExternalSecret> = Api::namespaced(client.clone(), NAMESPACE);
    futures::stream::iter(0..objects)
        .for_each_concurrent(32, |i| {
            let api = api.clone();
            async move {
                let key = format!("scale/{}", i % distinct);
                let entry = |name: &str| json!({"secretKey": name, "remoteRef": {"key": key, "property": name}});
                let object: ExternalSecret = serde_json::from_value(json!({
                    "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": format!("app-{i}")},
                    "spec": {"refreshInterval": "1h", "secretStoreRef": {"name": "scale", "kind": "ClusterSecretStore"},
                        "data": [entry("user"), entry("password")]},
                }))
                .expect("an object");
                api.create(&PostParams::default(), &object).await.expect("the object is made");
            }
        })
        .await;
}

async fn wait_for_secrets(client: &Client, objects: u64, since: Instant) -> Duration {
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), NAMESPACE);
    let config = kube::runtime::watcher::Config::default().labels(&format!("{LABEL_MANAGED}=true"));
    let mut seen = std::collections::HashSet::new();
    let mut events = std::pin::pin!(kube::runtime::watcher(api, config));
    while (seen.len() as u64) < objects {
        use kube::runtime::watcher::Event;
        if let Some(Ok(Event::Apply(object) | Event::InitApply(object))) = events.next().await {
            seen.insert(object.name_any());
        }
    }
    since.elapsed()
}

async fn wait_for_ready(client: &Client, objects: u64, since: Instant) -> Duration {
    let api: Api<ExternalSecret> = Api::namespaced(client.clone(), NAMESPACE);
    let mut ready = std::collections::HashSet::new();
    let mut events = std::pin::pin!(kube::runtime::watcher(api, kube::runtime::watcher::Config::default()));
    while (ready.len() as u64) < objects {
        use kube::runtime::watcher::Event;
        if let Some(Ok(Event::Apply(object) | Event::InitApply(object))) = events.next().await
            && object.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Ready" && c.status == "True")
        {
            ready.insert(object.name_any());
        }
    }
    since.elapsed()
}

/// Waits until nothing is queued or running, and events are written.
async fn settle(operator: &Operator) {
    let mut before = u64::MAX;
    harness::eventually("the operator is idle", async || {
        let text = operator.metrics().await;
        let busy = sum(&text, "lockstep_queue_depth", &[]) + sum(&text, "lockstep_queue_running", &[]);
        let requests = sum(&text, "lockstep_api_requests_total", &[]);
        let idle = busy == 0 && requests == before && !text.is_empty();
        before = requests;
        tokio::time::sleep(Duration::from_millis(300)).await;
        idle.then_some(())
    })
    .await;
}

/// A person's edit of the store makes every object ask again at once; the values are what they were.
async fn unchanged_refresh(harness: &Harness, operator: &Operator, distinct: u64, reads: u64) -> Counters {
    let client = harness.client().await;
    let stores: Api<lockstep_crds::ClusterSecretStore> = Api::all(client);
    let patch = json!({"spec": {"refreshInterval": 301}});
    stores.patch("scale", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the store is patched");
    harness::eventually("all are read again", async || {
        (harness.vault.requests("read", "secret/data/") as u64 >= reads + distinct).then_some(())
    })
    .await;
    settle(operator).await;
    Counters::of(operator).await
}

struct Bare {
    rate: f64,
    cpu_ms: f64,
}

/// Runs this program again as the bare client, so that its CPU time is its own.
fn run_bare_client(harness: &Harness, args: &Args) -> Result<Bare, String> {
    let mut command = std::process::Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.arg("--bare-client").arg(&harness.control_plane.kubeconfig).args([
        "--objects",
        &args.objects.to_string(),
        "--bare-concurrency",
        &args.bare_concurrency.to_string(),
    ]);
    let output = command.output().map_err(|e| e.to_string())?;
    let line: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("the bare client failed: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Bare { rate: line["rate"].as_f64().unwrap_or(f64::NAN), cpu_ms: line["cpu_ms"].as_f64().unwrap_or(f64::NAN) })
}

/// The least that the job needs: for each object a Secret is created and a status patched. Nothing is watched or read.
async fn bare_client(kubeconfig: &std::path::Path, objects: u64, concurrency: usize) {
    let client = harness::client(kubeconfig).await;
    let namespace = "scale-bare";
    harness::create_namespace(&client, namespace).await;
    let api: Api<ExternalSecret> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    // The objects whose status is patched are made beforehand, and with a class that nobody serves.
    futures::stream::iter(0..objects)
        .for_each_concurrent(concurrency, |i| {
            let api = api.clone();
            async move {
                let object: ExternalSecret = serde_json::from_value(json!({
                    "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": format!("app-{i}")},
                    "spec": {"secretStoreRef": {"name": "nobodys"}, "data": [{"secretKey": "k", "remoteRef": {"key": "k"}}]},
                }))
                .expect("an object");
                api.create(&PostParams::default(), &object).await.expect("the object is made");
            }
        })
        .await;
    let (begun, before) = (Instant::now(), process::usage(std::process::id()).cpu);
    futures::stream::iter(0..objects)
        .for_each_concurrent(concurrency, |i| {
            let (api, secrets) = (api.clone(), secrets.clone());
            async move {
                let name = format!("app-{i}");
                let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name}, "stringData": {"user": "user", "password": "password"}})).expect("a Secret");
                secrets.create(&PostParams::default(), &secret).await.expect("the Secret is made");
                let condition = json!({"type": "Ready", "status": "True", "reason": "SecretSynced", "message": "secret synced", "lastTransitionTime": "2026-01-01T00:00:00Z"});
                let status = json!({"status": {"conditions": [condition], "refreshTime": "2026-01-01T00:00:00Z", "binding": {"name": name}}});
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.expect("the status is patched");
            }
        })
        .await;
    let (took, cpu) = (begun.elapsed().as_secs_f64(), process::usage(std::process::id()).cpu - before);
    println!("{}", json!({"rate": objects as f64 / took, "cpu_ms": cpu.as_secs_f64() * 1000.0 / objects as f64}));
    // They would cost the operator under test a watch event and memory each.
    let _ = client
        .request_text(
            http::Request::delete(format!("/apis/external-secrets.io/v1/namespaces/{namespace}/externalsecrets"))
                .body(vec![])
                .expect("a request"),
        )
        .await;
}

fn print(f: &Value, synced: &Counters, refresh_reads: u64, restart_reads: u64) {
    let number = |key: &str| f[key].as_f64().unwrap_or(f64::NAN);
    let show = |x: f64| if x.fract() == 0.0 { format!("{x}") } else { format!("{x:.2}") };
    let row = |what: &str, ours: f64, bare: Option<f64>| {
        vec![
            what.to_owned(),
            show(ours),
            bare.map(show).unwrap_or_default(),
            bare.map(|b| format!("{:.2}", ours / b)).unwrap_or_default(),
        ]
    };
    let rows = vec![
        row("objects synced per second", number("rate_per_s"), Some(number("bare_rate_per_s"))),
        row("CPU per object, ms", number("cpu_ms_per_object"), Some(number("bare_cpu_ms_per_object"))),
        row("all Secrets exist after, s", number("all_secrets_s"), None),
        row("all objects Ready after, s", number("all_ready_s"), None),
        row("peak memory, MB", number("rss_peak_mb"), None),
        row("API writes per first sync", number("api_writes_per_object"), Some(2.0)),
        row("API reads per first sync", number("api_reads_per_object"), None),
        row("events per first sync", number("events_per_object"), None),
        row("Vault reads, first sync", number("provider_reads"), None),
        row("distinct remote secrets", number("distinct_remote_secrets"), None),
        row("API writes, unchanged refresh of all", number("unchanged_refresh_writes"), None),
        row("API reads, unchanged refresh of all", refresh_reads as f64, None),
        row("API writes, restart", number("restart_writes"), None),
        row("API reads, restart", restart_reads as f64, None),
        row("Vault reads, restart", number("restart_provider_reads"), None),
    ];
    anstream::println!("\n{BOLD}{} ExternalSecrets, two keys of one remote secret each{BOLD:#}\n", f["objects"]);
    anstream::println!("{}", table::render(&["", "Lockstep", "bare client", "ratio"], &rows));
    let verbs: Vec<Vec<String>> = synced.by_verb().into_iter().map(|(k, v)| vec![k, v.to_string()]).collect();
    anstream::println!("\n{}", table::render(&["API requests of the first sync", "count"], &verbs));
}
