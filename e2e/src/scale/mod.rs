//! The scale bench: scenarios on real components, each beside a bare client on the same servers in the same run.

pub mod bare;
pub mod measure;
pub mod plot;
pub mod report;
pub mod scenarios;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use lockstep_crds::{ExternalSecret, LABEL_MANAGED};
use serde_json::{Value, json};

use crate::components;
use crate::harness::{self, Harness};
use crate::operator::{Operator, OperatorOptions, sum};
use crate::vault::ROOT;
use bare::Job;
use measure::{Counts, Observer, Phase, Stopwatch};

/// Where the objects are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// How many objects.
    pub objects: u64,
    /// How many of them share a remote secret.
    pub sharing: u64,
    /// In how many namespaces.
    pub namespaces: u64,
    /// What the namespaces are called.
    pub prefix: String,
}

impl Layout {
    /// `objects` of them in one namespace.
    pub fn new(objects: u64, sharing: u64, prefix: &str) -> Self {
        Self { objects, sharing, namespaces: 1, prefix: prefix.into() }
    }

    /// The same, over several namespaces.
    pub fn over(self, namespaces: u64) -> Self {
        Self { namespaces, ..self }
    }

    /// The same, for the bare client.
    pub fn bare(&self) -> Self {
        Self { prefix: format!("{}-bare", self.prefix), ..self.clone() }
    }

    /// Name of a namespace.
    pub fn namespace_at(&self, n: u64) -> String {
        if self.namespaces == 1 { self.prefix.clone() } else { format!("{}-{n}", self.prefix) }
    }

    /// Namespace of an object.
    pub fn namespace(&self, i: u64) -> String {
        self.namespace_at(i % self.namespaces)
    }

    /// Name of an object.
    pub fn name(&self, i: u64) -> String {
        format!("app-{i}")
    }

    /// How many remote secrets there are.
    pub fn distinct(&self) -> u64 {
        self.objects.div_ceil(self.sharing)
    }

    /// The remote secret that an object reads.
    pub fn remote(&self, i: u64) -> String {
        format!("{}/{}", self.prefix, i % self.distinct())
    }
}

/// What all scenarios are given.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests at once of the bare client.
    pub bare_concurrency: usize,
    /// The operator's binary, unless the one of this checkout.
    pub operator: Option<PathBuf>,
}

/// One set of components, and a client.
pub struct Bench {
    /// The components.
    pub harness: Arc<Harness>,
    /// As administrator.
    pub client: Client,
    options: Options,
}

/// The class of objects that the bare client works on: no operator serves it.
const NOBODY: &str = "nobody";

impl Bench {
    /// Starts a control plane and a Vault of its own.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub async fn start(options: &Options) -> Result<Self, String> {
        let given = options.operator.clone();
        let operator = move || given.map_or_else(|| components::operator(true), Ok);
        let start = move || Harness::start(operator, &report::note);
        let harness = tokio::task::spawn_blocking(start).await.map_err(|e| e.to_string())??;
        let client = harness.client().await;
        harness.install(&client).await;
        harness.vault.prepare().await;
        harness.vault.audit_on().await;
        Ok(Self { harness: Arc::new(harness), client, options: options.clone() })
    }

    /// Starts an operator; it works once its caches are filled.
    pub fn operator(&self, name: &str, more: &[&str]) -> Operator {
        let mut args: Vec<String> = more.iter().map(|a| (*a).to_owned()).collect();
        if !more.contains(&"--shards") && !more.contains(&"--leader-elect") {
            args.push("--leader-elect=false".into());
        }
        self.harness.operator(&OperatorOptions { args, name: format!("scale-{name}"), ..OperatorOptions::default() })
    }

    /// Watches the operator's Secrets.
    pub fn observe(&self) -> Arc<Observer> {
        Arc::new(Observer::start(&self.client, &format!("{LABEL_MANAGED}=true")))
    }

    /// Measures processes; what operators that were just started used until now counts.
    pub fn measure(&self, operators: &[&Operator], observer: &Arc<Observer>, new: bool) -> Stopwatch {
        let pids: Vec<u32> = operators.iter().map(|o| o.process.pid).collect();
        Stopwatch::start(&pids, self.harness.control_plane.api_server.pid, observer, new)
    }

    /// Reads of values that Vault has answered so far.
    pub fn reads(&self) -> u64 {
        self.harness.vault.requests("read", "secret/data/") as u64
    }

    /// Makes the namespaces of a layout, and in Vault what its objects read.
    pub async fn prepare(&self, layout: &Layout) {
        futures::stream::iter(0..layout.namespaces)
            .for_each_concurrent(16, |n| async move { harness::create_namespace(&self.client, &layout.namespace_at(n)).await })
            .await;
        futures::stream::iter(0..layout.distinct())
            .for_each_concurrent(16, |i| async move {
                let value = json!({"user": format!("user-{i}"), "password": format!("password-{i}")});
                self.harness.vault.put(&layout.remote(i), value).await;
            })
            .await;
    }

    /// Makes the token of a store.
    pub async fn token(&self, namespace: &str, token: &str) {
        let token =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault-token"}, "stringData": {"token": token}});
        harness::apply(&self.client, Some(namespace), token).await.expect("the token");
    }

    /// Makes a cluster store named `scale` on a Vault, with the token in `namespace`.
    pub async fn cluster_store(&self, server: &str, namespace: &str, token: &str) {
        self.token(namespace, token).await;
        let auth = json!({"tokenSecretRef": {"name": "vault-token", "namespace": namespace, "key": "token"}});
        let store = json!({"apiVersion": "external-secrets.io/v1", "kind": "ClusterSecretStore", "metadata": {"name": "scale"},
            "spec": {"provider": {"vault": {"server": server, "path": "secret", "auth": auth}}}});
        harness::apply(&self.client, None, store).await.expect("the store");
    }

    /// Makes the objects of a layout, each with two keys of its remote secret.
    pub async fn seed(&self, layout: &Layout, interval: &str, store: &(dyn Fn(u64) -> Value + Sync)) {
        futures::stream::iter(0..layout.objects)
            .for_each_concurrent(32, |i| async move {
                let entry = |name: &str| json!({"secretKey": name, "remoteRef": {"key": layout.remote(i), "property": name}});
                let object: ExternalSecret = serde_json::from_value(json!({
                    "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": layout.name(i)},
                    "spec": {"refreshInterval": interval, "secretStoreRef": store(i), "data": [entry("user"), entry("password")]},
                }))
                .expect("an object");
                let api: Api<ExternalSecret> = Api::namespaced(self.client.clone(), &layout.namespace(i));
                api.create(&PostParams::default(), &object).await.expect("the object is made");
            })
            .await;
    }

    /// Prepares, and makes the objects with the cluster store on the bench's Vault.
    pub async fn seed_all(&self, layout: &Layout, interval: &str) {
        self.prepare(layout).await;
        self.cluster_store(&self.harness.vault.url, &layout.namespace_at(0), ROOT).await;
        self.seed(layout, interval, &cluster_store_ref).await;
    }

    /// Runs the bare client on a layout of its own, whose objects nobody else serves, and removes them again.
    ///
    /// # Errors
    /// What the client said.
    pub async fn bare(&self, layout: &Layout, job: Job) -> Result<Phase, String> {
        let bare = layout.bare();
        let store = json!({"apiVersion": "external-secrets.io/v1", "kind": "ClusterSecretStore", "metadata": {"name": NOBODY},
            "spec": {"controller": NOBODY, "provider": {"fake": {"data": []}}}});
        harness::apply(&self.client, None, store).await.expect("the store");
        futures::stream::iter(0..bare.namespaces)
            .for_each_concurrent(16, |n| {
                let name = bare.namespace_at(n);
                async move { harness::create_namespace(&self.client, &name).await }
            })
            .await;
        self.seed(&bare, "1h", &|_| json!({"name": NOBODY, "kind": "ClusterSecretStore"})).await;
        if job != Job::Sync {
            self.bare_process(&bare, Job::Sync).await?;
        }
        let phase = self.bare_process(&bare, job).await?;
        // They would cost the operator under test a watch event and memory each.
        self.remove(&bare).await?;
        // The garbage collector must not be at work on them while the operator is measured.
        for n in 0..bare.namespaces {
            let api: Api<Secret> = Api::namespaced(self.client.clone(), &bare.namespace_at(n));
            let all = ListParams::default().labels(bare::LABEL);
            while !api.list_metadata(&all.clone().limit(1)).await.map_err(|e| e.to_string())?.items.is_empty() {
                let _ = api.delete_collection(&DeleteParams::default(), &all).await;
            }
        }
        Ok(phase)
    }

    /// The bare client lists what a layout holds.
    ///
    /// # Errors
    /// What the client said.
    pub async fn bare_list(&self, layout: &Layout) -> Result<Phase, String> {
        self.bare_process(layout, Job::List).await
    }

    async fn bare_process(&self, layout: &Layout, job: Job) -> Result<Phase, String> {
        let observer = Arc::new(Observer::start(&self.client, bare::LABEL));
        let before = if matches!(job, Job::Update | Job::Tell) { layout.objects as usize } else { 0 };
        observer.wait("the bare client's Secrets are seen", |o| o.secrets() >= before).await?;
        let kubeconfig = self.harness.folder.path().join("operator.kubeconfig");
        let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
        let job_name = format!("{job:?}").to_lowercase();
        command.arg("--bare-client").arg(kubeconfig).args(["--bare-job", &job_name]);
        command.args(["--objects", &layout.objects.to_string(), "--bare-namespaces", &layout.namespaces.to_string()]);
        command.args(["--bare-prefix", &layout.prefix, "--bare-concurrency", &self.options.bare_concurrency.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let (mut input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut output = BufReader::new(output);
        let mut line = String::new();
        let _ = output.read_line(&mut line);
        let watch = Stopwatch::start(&[child.id()], self.harness.control_plane.api_server.pid, &observer, false);
        let _ = input.write_all(b"go\n");
        let answer = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let _ = output.read_line(&mut line);
            line
        });
        let line = answer.await.map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| "the bare client failed".to_owned())?;
        let written = if matches!(job, Job::List | Job::Tell) { 0 } else { layout.objects as usize };
        let begun = watch.begun;
        observer.wait("the bare client's Secrets are seen", |o| o.latencies(begun).len() >= written).await?;
        let mut phase = watch.stop(answer["seconds"].as_f64().unwrap_or(f64::NAN), &observer);
        phase.requests = serde_json::from_value(answer["requests"].clone()).map_err(|e| e.to_string())?;
        drop(input);
        let _ = child.wait();
        Ok(phase)
    }

    /// Deletes all ExternalSecrets of a layout, and waits until they are gone.
    ///
    /// # Errors
    /// When they stay.
    pub async fn remove(&self, layout: &Layout) -> Result<(), String> {
        for n in 0..layout.namespaces {
            let api: Api<ExternalSecret> = Api::namespaced(self.client.clone(), &layout.namespace_at(n));
            let end = Instant::now() + Duration::from_secs(300);
            while !api.list(&ListParams::default().limit(1)).await.map_err(|e| e.to_string())?.items.is_empty() {
                if Instant::now() > end {
                    return Err(format!("the objects of {} do not go", layout.namespace_at(n)));
                }
                let _ = api.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
            }
        }
        Ok(())
    }

    /// What has been counted once nothing is queued, due or running, and events are written.
    pub async fn settled(&self, operators: &[&Operator]) -> Counts {
        let mut counts = Counts { text: String::new(), reads: 0 };
        for operator in operators {
            let mut before = u64::MAX;
            counts.text += &harness::eventually("the operator is idle", async || {
                let text = operator.metrics().await;
                let busy = sum(&text, "lockstep_queue_depth", &[]) + sum(&text, "lockstep_queue_running", &[]);
                let requests = sum(&text, "lockstep_api_requests_total", &[]);
                let idle = busy == 0 && requests == before && !text.is_empty();
                before = requests;
                tokio::time::sleep(Duration::from_millis(300)).await;
                idle.then_some(text)
            })
            .await;
        }
        counts.reads = self.reads();
        counts
    }

    /// What has been counted so far.
    pub async fn counts(&self, operator: &Operator) -> Counts {
        Counts { text: operator.metrics().await, reads: self.reads() }
    }

    /// How many Secrets of a layout exist, as the API server counts them.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn count_secrets(&self, layout: &Layout) -> Result<usize, String> {
        let mut count = 0;
        for n in 0..layout.namespaces {
            let api: Api<Secret> = Api::namespaced(self.client.clone(), &layout.namespace_at(n));
            let list = api.list_metadata(&ListParams::default().labels(LABEL_MANAGED)).await.map_err(|e| e.to_string())?;
            count += list.items.len();
        }
        Ok(count)
    }
}

/// The store that [`Bench::cluster_store`] makes.
pub fn cluster_store_ref(_: u64) -> Value {
    json!({"name": "scale", "kind": "ClusterSecretStore"})
}
