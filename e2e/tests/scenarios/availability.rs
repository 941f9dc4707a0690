//! Restarts, crashes and a second replica.

use std::time::Duration;

use kube::ResourceExt;
use lockstep_e2e::harness::eventually;
use lockstep_e2e::proxy::Proxy;
use serde_json::json;

use crate::case::Case;

#[tokio::test]
async fn a_restart_with_synced_objects_reads_no_secret_and_writes_nothing() {
    let case = Case::with_own_class("restart").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    let first = case.own_operator("a", &[]);
    first.wait_working();
    for i in 0..10 {
        case.external_secret(&format!("app-{i}"), json!({"data": [case.data("p", "app", "p")]})).await;
        case.synced(&format!("app-{i}")).await;
    }
    case.store_is("vault", "True", "Valid", "").await;
    let reads = case.reads("app");
    first.process.signal("TERM");
    assert!(first.process.wait_gone(Duration::from_secs(5)));
    let versions = async || {
        let mut all: Vec<_> =
            case.objects().list(&Default::default()).await.unwrap().iter().map(|o| o.resource_version()).collect();
        all.extend(case.secrets().list(&Default::default()).await.unwrap().iter().map(|s| s.resource_version()));
        all
    };
    let before = versions().await;

    let second = case.own_operator("b", &[]);
    second.wait_working();
    // It has gone through all of them once it has synced one that was made after them.
    case.put("later", json!({"p": "CANARY-p"})).await;
    case.external_secret("later", json!({"data": [case.data("p", "later", "p")]})).await;
    case.synced("later").await;
    assert_eq!(case.reads("app"), reads);
    let after: Vec<_> = versions().await;
    assert!(before.iter().all(|v| after.contains(v)), "nothing that was there was written");
    assert_eq!(second.metric("lockstep_api_requests_total", &["resource=\"secrets\"", "verb=\"create\""]).await, 1);
    assert_eq!(second.metric("lockstep_api_requests_total", &["resource=\"secrets\"", "verb=\"update\""]).await, 0);
    // One GET for the token of the store, and none for the targets.
    assert_eq!(second.metric("lockstep_api_requests_total", &["resource=\"secrets\"", "verb=\"get\""]).await, 1);
    // The target that was touched while nobody looked is put back.
    drop(second);
    let patch = json!({"stringData": {"p": "edited"}});
    case.secrets().patch("app-3", &Default::default(), &kube::api::Patch::Merge(&patch)).await.unwrap();
    let third = case.own_operator("c", &[]);
    third.wait_working();
    case.secret_is("app-3", &[("p", "CANARY-p")]).await;
}

#[tokio::test]
async fn a_crash_between_the_two_writes_of_a_sync_converges() {
    let case = Case::with_own_class("crash").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    let mut operator = case.own_operator("first", &["--lease-duration", "3s"]);
    operator.wait_working();
    let spec = json!({"data": [case.data("p", "app", "p")]});
    // Killed as soon as the Secret is there, until a kill has fallen between its two writes.
    let mut between = 0;
    for i in 0..12 {
        let name = format!("app-{i}");
        case.external_secret(&name, spec.clone()).await;
        eventually("the Secret is there", async || case.secret(&name).await.map(drop)).await;
        operator.process.signal("KILL");
        assert!(operator.process.wait_gone(Duration::from_secs(5)));
        between += usize::from(case.ready_of(&name).await.is_none());
        let uid = case.secrets().get(&name).await.unwrap().uid();
        operator = case.own_operator(&format!("r{i}"), &["--lease-duration", "3s"]);
        operator.wait_working();
        case.synced(&name).await;
        case.secret_is(&name, &[("p", "CANARY-p")]).await;
        assert_eq!(case.secrets().get(&name).await.unwrap().uid(), uid, "it was taken up, not made anew");
        if between > 0 {
            break;
        }
    }
    assert!(between > 0, "no kill fell between the two writes");
}

#[tokio::test]
async fn when_the_leader_is_killed_the_other_replica_takes_over() {
    let case = Case::with_own_class("leader").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let leader = case.own_operator("a", &["--lease-duration", "4s"]);
    leader.wait_working();
    let standby = case.own_operator("b", &["--lease-duration", "4s"]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    eventually("the standby is ready, and waits", async || {
        let url = format!("http://127.0.0.1:{}/readyz", standby.health_port);
        client.get(url).send().await.ok().filter(|r| r.status().is_success()).map(drop)
    })
    .await;
    case.external_secret("app", json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    assert!(!standby.process.output().contains("caches filled; working"));
    leader.process.signal("KILL");
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.secret_is("app", &[("p", "CANARY-2")]).await;
    assert!(standby.process.output().contains("caches filled; working"));
    // A clean stop lets the lease go: the next one need not wait for its end.
    let third = case.own_operator("c", &["--lease-duration", "60s"]);
    standby.process.signal("TERM");
    assert!(standby.process.wait_gone(Duration::from_secs(5)), "it stops inside of 5 s");
    third.wait_working();
}

#[tokio::test]
async fn a_leader_that_can_not_reach_the_api_server_ends_before_its_lease_does() {
    let case = Case::with_own_class("lost").await;
    let url = &case.harness.control_plane.url;
    let proxy = Proxy::to(url.trim_start_matches("https://"));
    let text = std::fs::read_to_string(case.harness.folder.path().join("operator.kubeconfig")).unwrap();
    let kubeconfig = case.harness.folder.path().join(format!("{}.kubeconfig", case.name));
    std::fs::write(&kubeconfig, text.replace(url.as_str(), &format!("https://{}", proxy.address))).unwrap();
    let args =
        ["--controller-class", &case.name, "--lease-name", &case.name, "--lease-duration", "3s"].map(str::to_owned).to_vec();
    let options = lockstep_e2e::operator::OperatorOptions { args, name: "lost".into() };
    let operator =
        lockstep_e2e::operator::Operator::start(&case.harness.binary, &kubeconfig, case.harness.folder.path(), &options);
    operator.wait_working();
    proxy.take_away();
    assert!(operator.process.wait_gone(Duration::from_secs(20)), "it ends");
    assert!(operator.process.output().contains("the lease was lost"), "{}", operator.process.output());
}
