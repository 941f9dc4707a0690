//! The bare client: the writes that a job needs, as the operator sends them (the same fields, of the same length, asking for the same
//! answer), and nothing else; nothing is watched or read.
//!
//! It runs as a process of its own, as the operator's service account, with as many threads and the same allocator, so that its
//! CPU time is its own and the API server treats it as it treats the operator.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use lockstep::external_secret::target::created_by;
use lockstep::keys::ObjectKey;
use lockstep::kube_io::Writer;
use lockstep::ownership::{Hold, Ownership};
use lockstep_crds::{ANNOTATION_DATA_HASH, ClusterSecretStore, ExternalSecret, LABEL_CREATED_BY, SecretStore};
use serde_json::json;

use super::Layout;
use crate::harness;

/// Label of what it writes: as long as the operator's.
pub const LABEL: &str = "bench-bare.scale.lockstep.dev/managed";

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// For each object: creates a Secret, patches a status.
    Sync,
    /// For each object: patches its Secret, patches its status.
    Update,
    /// For each object: patches its status twice, that it failed and that it works again.
    Tell,
    /// Lists what an operator has to know when it starts.
    List,
}

/// Does the job and prints what it sent, as JSON.
pub async fn run(kubeconfig: &Path, job: Job, layout: &Layout, concurrency: usize) {
    let client = harness::client(kubeconfig).await;
    let uids = if job == Job::List { HashMap::new() } else { uids(&client, layout).await };
    println!("ready");
    // Whoever measures has to see the process before it begins.
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    let begun = Instant::now();
    let requests = match job {
        Job::List => {
            let all = ListParams::default();
            Api::<ExternalSecret>::all(client.clone()).list(&all).await.expect("a list");
            Api::<SecretStore>::all(client.clone()).list(&all).await.expect("a list");
            Api::<ClusterSecretStore>::all(client.clone()).list(&all).await.expect("a list");
            Api::<PartialObjectMeta<Secret>>::all(client.clone())
                .list(&all.labels(lockstep_crds::LABEL_MANAGED))
                .await
                .expect("a list");
            json!({"list": 4})
        }
        Job::Sync | Job::Update | Job::Tell => {
            let ownership = Ownership::new(1, Hold::Forever);
            let bare = Bare { writer: Writer::new(&client, &ownership, 0), client: &client, layout, uids };
            futures::stream::iter(0..layout.objects).for_each_concurrent(concurrency, |i| bare.one(job, i)).await;
            match job {
                Job::Sync => json!({"create secrets": layout.objects, "patch externalsecrets/status": layout.objects}),
                Job::Tell => json!({"patch externalsecrets/status": 2 * layout.objects}),
                _ => json!({"patch secrets": layout.objects, "patch externalsecrets/status": layout.objects}),
            }
        }
    };
    println!("{}", json!({"seconds": begun.elapsed().as_secs_f64(), "requests": requests}));
    // Its CPU time is read while it is still there.
    let _ = std::io::stdin().read_line(&mut line);
}

/// Who owns the Secrets: read before anything is measured.
async fn uids(client: &kube::Client, layout: &Layout) -> HashMap<String, String> {
    let mut all = HashMap::new();
    for n in 0..layout.namespaces {
        let api: Api<PartialObjectMeta<ExternalSecret>> = Api::namespaced(client.clone(), &layout.namespace_at(n));
        let mut page = ListParams::default().limit(500);
        loop {
            let list = api.list(&page).await.expect("a list");
            all.extend(list.items.into_iter().filter_map(|o| Some((o.name_any(), o.metadata.uid?))));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
    }
    all
}

struct Bare<'a> {
    writer: Writer<'a>,
    client: &'a kube::Client,
    layout: &'a Layout,
    uids: HashMap<String, String>,
}

impl Bare<'_> {
    async fn one(&self, job: Job, i: u64) {
        let (namespace, name) = (self.layout.namespace(i), self.layout.name(i));
        match job {
            Job::Sync => self.create(&namespace, &name, i).await,
            Job::Update => self.update(&namespace, &name, i).await,
            Job::Tell => self.tell(&namespace, &name, "False", "SecretSyncedError", "2026-01-01T00:30:00Z").await,
            Job::List => {}
        }
        let at = if job == Job::Sync { "2026-01-01T00:00:00Z" } else { "2026-01-01T01:00:00Z" };
        self.tell(&namespace, &name, "True", "SecretSynced", at).await;
    }

    async fn create(&self, namespace: &str, name: &str, i: u64) {
        let created_by = created_by(&ObjectKey::new(namespace, name));
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": name, "namespace": namespace, "annotations": {ANNOTATION_DATA_HASH: created_by[..32]},
                "labels": {LABEL: "true", LABEL_CREATED_BY: created_by},
                "ownerReferences": [{"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": name,
                    "uid": self.uids[name], "controller": true}],
            },
            "data": {"user": STANDARD.encode(format!("user-{i}")), "password": STANDARD.encode(format!("password-{i}"))},
        });
        let url = Api::<Secret>::namespaced(self.client.clone(), namespace).resource_url().to_owned();
        self.writer.create(&url, &secret, "lockstep").await.expect("the Secret is made");
    }

    async fn update(&self, namespace: &str, name: &str, i: u64) {
        let data = json!({"password": STANDARD.encode(format!("password-{i}-changed"))});
        let patch = Patch::Merge(json!({"data": data}));
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        secrets.patch_metadata(name, &PatchParams::default(), &patch).await.expect("the Secret is patched");
    }

    async fn tell(&self, namespace: &str, name: &str, status: &str, reason: &str, at: &str) {
        let condition =
            json!({"type": "Ready", "status": status, "reason": reason, "message": "secret synced", "lastTransitionTime": at});
        let binding = json!({"name": name, "uid": "00000000-0000-0000-0000-000000000000", "resourceVersion": "1000000"});
        let synced = "1-0123456789abcdef0123456789ab";
        let status = json!({"conditions": [condition], "refreshTime": at, "binding": binding, "syncedResourceVersion": synced});
        let url = Api::<ExternalSecret>::namespaced(self.client.clone(), namespace).resource_url().to_owned();
        let patch = json!({"metadata": {"uid": self.uids[name]}, "status": status});
        self.writer.patch_status(&url, name, &patch).await.expect("the status is patched");
    }
}
