//! What happens to the operator, and what is asked of it: one function a scenario.

use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use kube::api::{Api, Patch, PatchParams};
use lockstep_crds::ClusterSecretStore;
use serde_json::{Value, json};

use super::bare::Job;
use super::measure::Counts;
use super::report::{Report, note};
use super::{Bench, Layout, Options, cluster_store_ref};
use crate::harness;
use crate::operator::{Operator, sum};
use crate::proxy::Proxy;
use crate::vault::ROOT;

type Outcome = Result<Report, String>;

/// The operator's own default.
const HEARTBEAT: Duration = Duration::from_secs(300);

async fn stopped(operator: Operator) -> Result<(), String> {
    operator.process.signal("TERM");
    if operator.process.wait_gone(Duration::from_secs(10)) { Ok(()) } else { Err("the operator did not stop".into()) }
}

fn resident(operators: &[&Operator]) -> f64 {
    operators.iter().map(|o| o.process.usage().rss as f64 / 1e6).sum()
}

/// N new objects at once; then an unchanged refresh of all, and a restart.
pub async fn burst(options: &Options, objects: u64, sharing: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    note(&format!("{objects} writes of the bare client: a Secret and a status each"));
    let bare = bench.bare(&layout, Job::Sync).await?;
    note(&format!("making {objects} ExternalSecrets on {} remote secrets", layout.distinct()));
    bench.seed_all(&layout, "1h").await;
    let observer = bench.observe();
    note("the operator starts");
    let before = bench.settled(&[]).await;
    let operator = bench.operator("burst", &[]);
    let watch = bench.measure(&[&operator], &observer, true);
    observer.wait("all Secrets exist", |o| o.secrets() as u64 >= objects).await?;
    let all_secrets = watch.begun.elapsed().as_secs_f64();
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let synced = bench.settled(&[&operator]).await;
    let ours = watch.stop(seconds, &observer).counted(&before, &synced);
    let saved = synced.sum("lockstep_provider_calls_saved_total", &[]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = resident(&[&operator]);

    note("an unchanged refresh of all objects");
    // A person's edit of the store makes every object ask again at once; the values are what they were.
    let stores: Api<ClusterSecretStore> = Api::all(bench.client.clone());
    let patch = json!({"spec": {"refreshInterval": 301}});
    stores.patch("scale", &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(|e| e.to_string())?;
    harness::eventually("all are read again", async || (bench.reads() >= synced.reads + layout.distinct()).then_some(())).await;
    let refreshed = bench.settled(&[&operator]).await.requests_since(&synced);
    let writes = |of: &std::collections::BTreeMap<String, u64>| {
        of.iter().filter(|(k, _)| !k.starts_with("get ") && !k.ends_with(" events")).map(|(_, v)| v).sum::<u64>() as f64
    };
    let peak = operator.process.usage().peak_rss as f64 / 1e6;

    note("a restart with all objects synced");
    stopped(operator).await?;
    let before = bench.settled(&[]).await;
    let again = bench.operator("again", &[]);
    again.wait_working();
    let restarted = bench.settled(&[&again]).await;
    let more = vec![
        ("all_secrets_s", "all Secrets exist after, s", all_secrets),
        ("all_ready_s", "all objects Ready after, s", seconds),
        ("distinct_remote_secrets", "distinct remote secrets", layout.distinct() as f64),
        ("provider_calls_saved", "provider calls saved", saved as f64),
        ("rss_after_mb", "memory 10 s after, MB", after),
        ("rss_peak_refresh_mb", "peak memory with an unchanged refresh of all, MB", peak),
        ("unchanged_refresh_writes", "API writes, unchanged refresh of all", writes(&refreshed)),
        ("restart_provider_reads", "provider reads, restart", (restarted.reads - before.reads) as f64),
        ("restart_writes", "API writes, restart", writes(&restarted.requests_since(&before))),
    ];
    let title = format!("{objects} new ExternalSecrets at once, two keys of one of {} remote secrets each", layout.distinct());
    Ok(Report { scenario: "burst", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second: Vec::new() })
}

/// Objects synced by an operator that goes on.
async fn synced(
    bench: &Bench,
    layout: &Layout,
    interval: &str,
    server: &str,
) -> Result<(Operator, std::sync::Arc<super::measure::Observer>), String> {
    note(&format!(
        "making {} ExternalSecrets on {} remote secrets, refreshed every {interval}",
        layout.objects,
        layout.distinct()
    ));
    bench.prepare(layout).await;
    bench.cluster_store(server, &layout.namespace_at(0), ROOT).await;
    let observer = bench.observe();
    let operator = bench.operator("operator", &["--heartbeat", &format!("{}s", HEARTBEAT.as_secs())]);
    operator.wait_working();
    bench.seed(layout, interval, &cluster_store_ref).await;
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= layout.objects).await?;
    bench.settled(&[&operator]).await;
    Ok((operator, observer))
}

/// Objects that are refreshed with nothing changed; then one in a hundred remote secrets changes.
pub async fn steady(
    options: &Options,
    objects: u64,
    sharing: u64,
    interval: Duration,
    minutes: u64,
) -> Result<Vec<Report>, String> {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    let changing = layout.distinct().div_ceil(100);
    let bare_layout = Layout::new(changing * sharing, sharing, "changing");
    note(&format!("the bare client updates {} objects: what a change of one in a hundred needs", bare_layout.objects));
    let bare = bench.bare(&bare_layout, Job::Update).await?;
    let text = format!("{}s", interval.as_secs());
    let syncing = Instant::now();
    let (operator, observer) = synced(&bench, &layout, &text, &bench.harness.vault.url).await?;
    // The intervals in which every object gets to its phase are told apart: one, or two when the first syncs took long against it.
    let settling = if syncing.elapsed() > interval / 6 { interval * 2 } else { interval };
    note(&format!("{} s pass, so that every object has its phase", settling.as_secs()));
    tokio::time::sleep(settling + Duration::from_secs(5)).await;
    note(&format!("{minutes} min with nothing changed"));
    let (before, begun) = (bench.counts(&operator).await, SystemTime::now());
    let watch = bench.measure(&[&operator], &observer, false);
    let window = Duration::from_secs(minutes * 60);
    tokio::time::sleep(window).await;
    let reads_by_second = bench.harness.vault.requests_by_second("secret/data/", begun, window.as_secs());
    let quiet = watch.stop(window.as_secs_f64(), &observer);
    let after = bench.counts(&operator).await;
    let reconciles = |counts: &Counts| counts.sum("lockstep_reconciles_total", &["ExternalSecret"]);
    let refreshes = reconciles(&after) - reconciles(&before);
    let quiet = quiet.counted(&before, &after);
    // Each object may tell once in a heartbeat that it was refreshed.
    let told = quiet.count(|verb, resource| (verb, resource) == ("patch", "externalsecrets/status"));
    let heartbeats = told.min(objects * window.as_secs().div_ceil(HEARTBEAT.as_secs()));
    let mean = reads_by_second.iter().sum::<u64>() as f64 / reads_by_second.len().max(1) as f64;
    let core = quiet.cpu.as_secs_f64() / window.as_secs_f64() * 100.0;
    let more = vec![
        ("unchanged_cpu_percent", "CPU, % of a core", core),
        ("unchanged_refreshes", "refreshes", refreshes as f64),
        ("unchanged_heartbeats", "heartbeats written", heartbeats as f64),
        (
            "unchanged_refresh_writes",
            "other API writes, events included",
            (quiet.count(|verb, _| verb != "get") - heartbeats) as f64,
        ),
        ("distinct_remote_secrets", "distinct remote secrets", layout.distinct() as f64),
        (
            "reads_per_second_asked",
            "provider reads in a second that the objects ask for",
            layout.distinct() as f64 / interval.as_secs_f64(),
        ),
        ("reads_per_second_mean", "provider reads in a second, mean", mean),
        ("reads_per_second_peak", "provider reads in a second, peak", reads_by_second.iter().max().copied().unwrap_or(0) as f64),
    ];
    let title = format!("{objects} objects refreshed every {} s, and nothing changes for {minutes} min", interval.as_secs());
    let steady = Report { scenario: "steady", title, objects, ours: quiet, bare: None, rated: false, more, reads_by_second };

    note(&format!("{changing} remote secrets change"));
    let watch = bench.measure(&[&operator], &observer, false);
    futures::stream::iter(0..changing)
        .for_each_concurrent(16, |i| {
            let (vault, key) = (&bench.harness.vault, layout.remote(i));
            async move { vault.put(&key, json!({"user": "changed", "password": format!("changed-{i}")})).await }
        })
        .await;
    let begun = watch.begun;
    let users = (0..objects).filter(|i| i % layout.distinct() < changing).count();
    observer.wait_for(interval * 2, "all changes have arrived", |o| o.latencies(begun).len() >= users).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let changed = bench.settled(&[&operator]).await;
    let mut ours = watch.stop(seconds, &observer).counted(&after, &changed);
    // The refreshes and heartbeats of all others go on meanwhile: what the changes alone cost can't be told from them.
    (ours.cpu, ours.api_cpu) = (Duration::ZERO, Duration::ZERO);
    let title = format!("of {objects} objects refreshed every {} s, one in a hundred changes", interval.as_secs());
    let changes = Report {
        scenario: "changes",
        title,
        objects: users as u64,
        ours,
        bare: Some(bare),
        rated: false,
        more: vec![("all_ready_s", "all changes arrived after, s", seconds)],
        reads_by_second: Vec::new(),
    };
    Ok(vec![steady, changes])
}

/// One remote secret in many namespaces.
pub async fn fan_out(options: &Options, objects: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, objects, "scale").over(objects);
    let bare = bench.bare(&layout, Job::Sync).await?;
    bench.seed_all(&layout, "30s").await;
    let observer = bench.observe();
    let before = bench.settled(&[]).await;
    let operator = bench.operator("fan-out", &[]);
    let watch = bench.measure(&[&operator], &observer, true);
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let ours = watch.stop(seconds, &observer).counted(&before, &bench.settled(&[&operator]).await);
    note("four intervals pass");
    tokio::time::sleep(Duration::from_secs(32)).await;
    let (reads, begun) = (bench.reads(), SystemTime::now());
    tokio::time::sleep(Duration::from_secs(90)).await;
    let per_interval = (bench.reads() - reads) as f64 / 3.0;
    let more = vec![
        ("all_ready_s", "all objects Ready after, s", seconds),
        ("distinct_remote_secrets", "distinct remote secrets", 1.0),
        ("reads_per_interval", "provider reads in an interval of 30 s", per_interval),
    ];
    let title = format!("one remote secret in {objects} namespaces");
    let reads_by_second = bench.harness.vault.requests_by_second("secret/data/", begun, 90);
    Ok(Report { scenario: "fan-out", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second })
}

/// Many SecretStores, each with a token of its own and an object.
pub async fn stores(options: &Options, objects: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, 1, "scale").over(objects.div_ceil(100));
    let bare = bench.bare(&layout, Job::Sync).await?;
    bench.prepare(&layout).await;
    futures::stream::iter(0..objects)
        .for_each_concurrent(32, |i| {
            let token = format!("token-{i}");
            let auth = json!({"tokenSecretRef": {"name": token, "key": "token"}});
            let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": token}, "stringData": {"token": ROOT}});
            let store = json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": format!("store-{i}")},
                "spec": {"provider": {"vault": {"server": bench.harness.vault.url, "path": "secret", "auth": auth}}}});
            let (client, namespace) = (&bench.client, layout.namespace(i));
            async move {
                harness::apply(client, Some(&namespace), token).await.expect("the token");
                harness::apply(client, Some(&namespace), store).await.expect("the store");
            }
        })
        .await;
    bench.seed(&layout, "1h", &|i| json!({"name": format!("store-{i}")})).await;
    let observer = bench.observe();
    let before = bench.settled(&[]).await;
    let operator = bench.operator("stores", &[]);
    let watch = bench.measure(&[&operator], &observer, true);
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let synced = bench.settled(&[&operator]).await;
    let ours = watch.stop(seconds, &observer).counted(&before, &synced);
    let after = resident(&[&operator]);
    note("a restart with all stores valid");
    stopped(operator).await?;
    let begun = SystemTime::now();
    let again = bench.operator("again", &[]);
    again.wait_working();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let validations = bench.harness.vault.requests_by_second("auth/token/lookup-self", begun, 20);
    let more = vec![
        ("all_ready_s", "all objects Ready after, s", seconds),
        ("distinct_remote_secrets", "distinct remote secrets", objects as f64),
        (
            "provider_validations",
            "validations of stores",
            synced.sum("lockstep_provider_calls_total", &["call=\"validate\""]) as f64,
        ),
        ("rss_after_mb", "memory when all is done, MB", after),
        (
            "restart_validations_per_second",
            "validations in a second after a restart, peak",
            validations.iter().max().copied().unwrap_or(0) as f64,
        ),
    ];
    let title = format!("{objects} SecretStores, each with a token of its own and an object");
    Ok(Report { scenario: "stores", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second: Vec::new() })
}

/// A restart with all objects synced.
pub async fn restart(options: &Options, objects: u64, sharing: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    let (operator, observer) = synced(&bench, &layout, "1h", &bench.harness.vault.url).await?;
    stopped(operator).await?;
    note("the bare client lists what an operator has to know");
    let bare = bench.bare_list(&layout).await?;
    let before = bench.settled(&[]).await;
    let again = bench.operator("again", &[]);
    let watch = bench.measure(&[&again], &observer, true);
    again.wait_working();
    let filled = watch.begun.elapsed().as_secs_f64();
    let counts = bench.settled(&[&again]).await;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let ours = watch.stop(seconds, &observer).counted(&before, &counts);
    let writes = ours.writes() as f64;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = resident(&[&again]);
    let texts = counts.sum("lockstep_cache_bytes", &[]) as f64 / objects as f64;
    let more = vec![
        ("caches_filled_s", "caches filled after, s", filled),
        ("restart_provider_reads", "provider reads, restart", ours.reads as f64),
        ("restart_writes", "API writes, restart", writes),
        ("rss_after_mb", "memory 10 s after, MB", after),
        ("cache_bytes_per_object", "bytes of text kept for an object", texts),
        ("distinct_remote_secrets", "distinct remote secrets", layout.distinct() as f64),
    ];
    let title = format!("a restart with {objects} synced objects");
    Ok(Report { scenario: "restart", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second: Vec::new() })
}

/// A store with a wrong token gets the right one.
pub async fn store_fix(options: &Options, objects: u64, sharing: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    let bare = bench.bare(&layout, Job::Sync).await?;
    bench.prepare(&layout).await;
    bench.cluster_store(&bench.harness.vault.url, &layout.namespace_at(0), "wrong").await;
    bench.seed(&layout, "1h", &cluster_store_ref).await;
    let observer = bench.observe();
    let operator = bench.operator("fix", &[]);
    operator.wait_working();
    harness::eventually("all objects have failed", async || {
        let text = operator.metrics().await;
        (sum(&text, "lockstep_objects", &["kind=\"ExternalSecret\"", "ready=\"false\""]) >= objects).then_some(())
    })
    .await;
    let before = bench.settled(&[&operator]).await;
    let watch = bench.measure(&[&operator], &observer, false);
    bench.token(&layout.namespace_at(0), ROOT).await;
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let (first, _) = observer.ready_after(watch.begun).unwrap_or_default();
    let ours = watch.stop(seconds, &observer).counted(&before, &bench.settled(&[&operator]).await);
    let more = vec![
        ("first_ready_s", "first object Ready after the fix, s", first),
        ("all_ready_s", "all objects Ready after the fix, s", seconds),
        ("distinct_remote_secrets", "distinct remote secrets", layout.distinct() as f64),
    ];
    let title = format!("a store of {objects} objects gets the right token");
    Ok(Report { scenario: "store-fix", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second: Vec::new() })
}

/// Vault goes away for a minute under steady load, and comes back.
pub async fn outage(options: &Options, objects: u64, sharing: u64, interval: Duration) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    note("the bare client patches a status twice for each object: what it takes to say that it failed and that it works again");
    let bare = bench.bare(&Layout::new(objects, sharing, "told"), Job::Tell).await?;
    let proxy = Proxy::to(bench.harness.vault.url.trim_start_matches("http://"));
    let text = format!("{}s", interval.as_secs());
    let (operator, observer) = synced(&bench, &layout, &text, &format!("http://{}", proxy.address)).await?;
    tokio::time::sleep(interval + Duration::from_secs(5)).await;
    let (before, begun) = (bench.counts(&operator).await, SystemTime::now());
    let watch = bench.measure(&[&operator], &observer, false);
    note("a minute of steady load");
    tokio::time::sleep(Duration::from_secs(60)).await;
    note("Vault is away for a minute");
    proxy.take_away();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let failed = objects - observer.ready() as u64;
    note(&format!("Vault is back; {failed} objects had become due meanwhile"));
    let back = Instant::now();
    proxy.bring_back();
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let recovered = back.elapsed().as_secs_f64();
    let kept = bench.count_secrets(&layout).await? as f64;
    let left = Duration::from_secs(200).saturating_sub(watch.begun.elapsed());
    tokio::time::sleep(left).await;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let mut ours = watch.stop(seconds, &observer).counted(&before, &bench.counts(&operator).await);
    let reads_by_second = bench.harness.vault.requests_by_second("secret/data/", begun, seconds as u64);
    ours.reads = reads_by_second.iter().sum();
    let steady = layout.distinct() as f64 / interval.as_secs_f64();
    let after = &reads_by_second[120.min(reads_by_second.len())..];
    let more = vec![
        ("steady_reads_per_second", "provider reads in a second that the objects ask for", steady),
        (
            "return_reads_per_second_peak",
            "provider reads in a second after the return, peak",
            after.iter().max().copied().unwrap_or(0) as f64,
        ),
        ("failed_objects", "objects that became due meanwhile", failed as f64),
        ("recovered_s", "all objects Ready after the return, s", recovered),
        ("secrets_kept", "Secrets that are still there", kept),
        ("distinct_remote_secrets", "distinct remote secrets", layout.distinct() as f64),
    ];
    let title = format!("Vault away for a minute with {objects} objects refreshed every {} s", interval.as_secs());
    Ok(Report { scenario: "outage", title, objects, ours, bare: Some(bare), rated: false, more, reads_by_second })
}

/// All objects go, and their Secrets with them.
pub async fn delete(options: &Options, objects: u64, sharing: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    let (operator, observer) = synced(&bench, &layout, "1h", &bench.harness.vault.url).await?;
    // The garbage collector learns of a new kind only after a while: it is shown to work before it is measured.
    note("one object goes first, until the garbage collector knows the kind");
    let one: Api<lockstep_crds::ExternalSecret> = Api::namespaced(bench.client.clone(), &layout.namespace(0));
    one.delete(&layout.name(0), &kube::api::DeleteParams::default()).await.map_err(|e| e.to_string())?;
    observer.wait("its Secret is gone", |o| (o.secrets() as u64) < objects).await?;
    let before = bench.settled(&[&operator]).await;
    let rss = resident(&[&operator]);
    let watch = bench.measure(&[&operator], &observer, false);
    bench.remove(&layout).await?;
    observer.wait("all Secrets are gone", |o| o.secrets() == 0).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let ours = watch.stop(seconds, &observer).counted(&before, &bench.settled(&[&operator]).await);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = resident(&[&operator]);
    stopped(operator).await?;
    note("the same once more without an operator: what the API server and its garbage collector need for themselves");
    let again = bench.operator("again", &[]);
    again.wait_working();
    bench.seed(&layout, "1h", &cluster_store_ref).await;
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    bench.settled(&[&again]).await;
    stopped(again).await?;
    let watch = bench.measure(&[], &observer, false);
    bench.remove(&layout).await?;
    observer.wait("all Secrets are gone", |o| o.secrets() == 0).await?;
    let alone = watch.begun.elapsed().as_secs_f64();
    let bare = watch.stop(alone, &observer);
    let more = vec![
        ("all_gone_s", "all Secrets gone after, s", seconds),
        ("all_gone_without_operator_s", "the same without an operator, s", alone),
        ("rss_before_mb", "memory before, MB", rss),
        ("rss_after_mb", "memory after, MB", after),
    ];
    let title = format!("{objects} objects are deleted");
    Ok(Report { scenario: "delete", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second: Vec::new() })
}

/// A burst with some replicas, each on its share of 16 shards.
pub async fn replicas(options: &Options, objects: u64, sharing: u64, replicas: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    let bare = bench.bare(&layout, Job::Sync).await?;
    bench.prepare(&layout).await;
    bench.cluster_store(&bench.harness.vault.url, &layout.namespace_at(0), "wrong").await;
    let observer = bench.observe();
    let all: Vec<Operator> = (0..replicas).map(|i| bench.operator(&format!("replica-{i}"), &["--shards", "16"])).collect();
    let operators: Vec<&Operator> = all.iter().collect();
    // All are at work on their shares before the objects can be synced.
    bench.seed(&layout, "1h", &cluster_store_ref).await;
    harness::eventually("all objects have failed, each in one replica", async || {
        let mut failed = Vec::new();
        for operator in &operators {
            let text = operator.metrics().await;
            failed.push(sum(&text, "lockstep_objects", &["kind=\"ExternalSecret\"", "ready=\"false\""]));
        }
        (failed.iter().sum::<u64>() == objects && failed.iter().all(|n| *n > 0)).then_some(())
    })
    .await;
    let before = bench.settled(&operators).await;
    let watch = bench.measure(&operators, &observer, false);
    bench.token(&layout.namespace_at(0), ROOT).await;
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let ours = watch.stop(seconds, &observer).counted(&before, &bench.settled(&operators).await);
    let more = vec![
        ("replicas", "replicas", replicas as f64),
        ("all_ready_s", "all objects Ready after, s", seconds),
        ("distinct_remote_secrets", "distinct remote secrets", layout.distinct() as f64),
    ];
    let title = format!("{objects} objects of a store that gets the right token, with {replicas} replicas at work");
    Ok(Report { scenario: "replicas", title, objects, ours, bare: Some(bare), rated: true, more, reads_by_second: Vec::new() })
}

/// The leader of two replicas stops, and the next one is killed.
pub async fn handover(options: &Options, objects: u64, sharing: u64) -> Outcome {
    let bench = Bench::start(options).await?;
    let layout = Layout::new(objects, sharing, "scale");
    bench.seed_all(&layout, "1h").await;
    let observer = bench.observe();
    let start = |name: &str| bench.operator(name, &["--leader-elect", "--lease-duration", "15s"]);
    let before = bench.settled(&[]).await;
    let first = start("first");
    let watch = bench.measure(&[&first], &observer, true);
    observer.wait("all objects are Ready", |o| o.ready() as u64 >= objects).await?;
    let seconds = watch.begun.elapsed().as_secs_f64();
    let synced = bench.settled(&[&first]).await;
    let ours = watch.stop(seconds, &observer).counted(&before, &synced);
    let second = start("second");
    harness::eventually("the second replica waits", async || second.process.output().contains("listening").then_some(())).await;
    // It has asked for the lease by now, and asks again every second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    note("the leader stops");
    let begun = Instant::now();
    first.process.signal("TERM");
    second.wait_working();
    let stopped_s = begun.elapsed().as_secs_f64();
    bench.settled(&[&second]).await;
    let third = start("third");
    harness::eventually("the third replica waits", async || third.process.output().contains("listening").then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    note("the leader is killed");
    let begun = Instant::now();
    second.process.signal("KILL");
    third.wait_working();
    let killed_s = begun.elapsed().as_secs_f64();
    let taken = bench.settled(&[&third]).await;
    let requests = taken.requests_since(&before);
    let writes: u64 = requests.iter().filter(|(k, _)| !k.starts_with("get ")).map(|(_, v)| v).sum();
    let more = vec![
        ("handover_stop_s", "the next one works after a clean stop, s", stopped_s),
        ("handover_kill_s", "the next one works after a kill, s (lease: 15)", killed_s),
        ("handover_writes", "API writes of the last one after it took over", writes as f64),
        ("handover_reads", "provider reads after both", (taken.reads - synced.reads) as f64),
    ];
    let title = format!("the leader of {objects} objects stops, and the next one is killed");
    Ok(Report { scenario: "handover", title, objects, ours, bare: None, rated: true, more, reads_by_second: Vec::new() })
}

/// Figures of several reports as one JSON value.
pub fn together(mut reports: Vec<Value>) -> Value {
    if reports.len() == 1 { reports.remove(0) } else { Value::Array(reports) }
}
