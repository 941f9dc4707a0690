//! The bare client: the writes that a job needs, to the byte as the operator makes them, and nothing else; nothing is watched or
//! read.
//!
//! It runs as a process of its own, as the operator's service account, so that its CPU time is its own and the API server
//! treats it as it treats the operator.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use lockstep::external_secret::target::created_by;
use lockstep::keys::ObjectKey;
use lockstep_crds::{ANNOTATION_DATA_HASH, ClusterSecretStore, ExternalSecret, LABEL_CREATED_BY, SecretStore};
use serde_json::json;

use super::Layout;
use crate::harness;

/// Label of what it writes.
pub const LABEL: &str = "scale.lockstep.dev/bare";

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// For each object: creates a Secret, patches a status.
    Sync,
    /// For each object: patches its Secret, patches its status.
    Update,
    /// Lists what an operator has to know when it starts.
    List,
}

/// Does the job and prints what it sent, as JSON.
pub async fn run(kubeconfig: &Path, job: Job, layout: &Layout, concurrency: usize) {
    let client = harness::client(kubeconfig).await;
    let uids = if job == Job::Sync { uids(&client, layout).await } else { HashMap::new() };
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
        Job::Sync | Job::Update => {
            futures::stream::iter(0..layout.objects)
                .for_each_concurrent(concurrency, |i| one(&client, job, layout, &uids, i))
                .await;
            let verb = if job == Job::Sync { "create secrets" } else { "patch secrets" };
            json!({verb: layout.objects, "patch externalsecrets/status": layout.objects})
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

async fn one(client: &kube::Client, job: Job, layout: &Layout, uids: &HashMap<String, String>, i: u64) {
    let (namespace, name) = (layout.namespace(i), layout.name(i));
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let data = json!({"user": format!("user-{i}"), "password": format!("password-{i}-{job:?}")});
    let mut secret = json!({"metadata": {"name": name}, "stringData": data});
    if job == Job::Sync {
        let key = ObjectKey::new(&namespace, &name);
        let created_by = created_by(&key);
        secret["metadata"]["annotations"] = json!({ANNOTATION_DATA_HASH: created_by[..32]});
        secret["metadata"]["labels"] = json!({LABEL: "true", LABEL_CREATED_BY: created_by});
        secret["metadata"]["ownerReferences"] = json!([{"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
            "name": name, "uid": uids[&name], "controller": true}]);
        let secret: Secret = serde_json::from_value(secret).expect("a Secret");
        secrets.create(&PostParams::default(), &secret).await.expect("the Secret is made");
    } else {
        secrets.patch(&name, &PatchParams::default(), &Patch::Merge(&secret)).await.expect("the Secret is patched");
    }
    let at = if job == Job::Sync { "2026-01-01T00:00:00Z" } else { "2026-01-01T01:00:00Z" };
    let condition = json!({"type": "Ready", "status": "True", "reason": "SecretSynced", "message": "secret synced", "lastTransitionTime": at});
    let binding = json!({"name": name, "uid": "00000000-0000-0000-0000-000000000000", "resourceVersion": "1000000"});
    let synced = "1-0123456789abcdef0123456789ab";
    let status =
        json!({"status": {"conditions": [condition], "refreshTime": at, "binding": binding, "syncedResourceVersion": synced}});
    let api: Api<ExternalSecret> = Api::namespaced(client.clone(), &namespace);
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.expect("the status is patched");
}
