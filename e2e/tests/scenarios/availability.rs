//! Restarts, crashes and a second replica.

use std::time::Duration;

use kube::ResourceExt;
use lockstep_e2e::control_plane::kubeconfig;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::operator::{Operator, OperatorOptions};
use serde_json::json;

use lockstep_e2e::case::Case;

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

/// The kubeconfig of a service account that may do all that the operator may, but not write an ExternalSecret's status.
async fn kubeconfig_without_status(case: &Case) -> std::path::PathBuf {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "half"}});
    case.apply(account).await.unwrap();
    let text = std::fs::read_to_string(harness::root().join("config/rbac/rbac.yaml")).unwrap();
    let mut role = harness::documents(&text).into_iter().find(|o| o["kind"] == "ClusterRole").unwrap();
    role["metadata"]["name"] = json!(case.name);
    let mut left_out = 0;
    for rule in role["rules"].as_array_mut().unwrap() {
        let resources = rule["resources"].as_array_mut().unwrap();
        let before = resources.len();
        resources.retain(|r| r != "externalsecrets/status");
        left_out += before - resources.len();
    }
    assert_eq!(left_out, 1);
    harness::apply(&case.client, None, role).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": case.name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": case.name},
        "subjects": [{"kind": "ServiceAccount", "name": "half", "namespace": case.name}]});
    harness::apply(&case.client, None, binding).await.unwrap();
    let token = harness::service_account_token(&case.client, &case.name, "half").await;
    let cluster = &case.harness.control_plane;
    let path = case.harness.folder.path().join(format!("{}-half.kubeconfig", case.name));
    std::fs::write(&path, kubeconfig(&cluster.url, &cluster.ca, &format!("token: {token}"))).unwrap();
    path
}

#[tokio::test]
async fn a_crash_between_the_two_writes_of_a_sync_converges() {
    let case = Case::with_own_class("crash").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    // Its second write is refused, so that it is killed between the two for certain.
    let path = kubeconfig_without_status(&case).await;
    let args = ["--controller-class", &case.name, "--leader-elect=false"].map(str::to_owned).to_vec();
    let options = OperatorOptions { args, name: format!("{}-half", case.name), ..OperatorOptions::default() };
    let half = Operator::start(&case.harness.binary, &path, case.harness.folder.path(), &options);
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    half.process.signal("KILL");
    assert!(half.process.wait_gone(Duration::from_secs(5)));
    assert!(case.ready_of("app").await.is_none());
    let uid = case.secrets().get("app").await.unwrap().uid();
    let version = case.secrets().get("app").await.unwrap().resource_version();

    let whole = case.own_operator("whole", &[]);
    whole.wait_working();
    case.synced("app").await;
    let secret = case.secrets().get("app").await.unwrap();
    assert_eq!((secret.uid(), secret.resource_version()), (uid, version), "it was taken up, and not written again");
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
}

#[tokio::test]
async fn a_clean_stop_lets_the_lease_go_so_that_the_next_one_need_not_wait_for_its_end() {
    let case = Case::with_own_class("let-go").await;
    // An hour: whoever had to wait for its end would not be seen working here.
    let leader = case.own_operator("a", &["--lease-duration", "1h"]);
    leader.wait_working();
    let standby = case.own_operator("b", &["--lease-duration", "1h"]);
    eventually("the standby waits", async || standby.process.output().contains("listening").then_some(())).await;
    assert!(!standby.process.output().contains("leading"));
    leader.process.signal("TERM");
    assert!(leader.process.wait_gone(Duration::from_secs(5)), "it stops inside of 5 s");
    standby.wait_working();
}

#[tokio::test]
async fn a_leader_that_can_not_reach_the_api_server_ends_before_its_lease_does() {
    let case = Case::with_own_class("lost").await;
    let args = ["--controller-class", &case.name, "--lease-name", &case.name, "--lease-duration", "3s"];
    let (operator, proxy) = case.operator_behind_a_proxy(&args);
    operator.wait_working();
    proxy.take_away();
    assert!(operator.process.wait_gone(Duration::from_secs(20)), "it ends");
    assert!(operator.process.output().contains("the lease was lost"), "{}", operator.process.output());
}

#[tokio::test]
async fn a_leader_that_was_paused_beyond_its_lease_writes_nothing_when_it_goes_on() {
    let case = Case::with_own_class("paused").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let first = case.own_operator("a", &["--lease-duration", "4s"]);
    first.wait_working();
    case.external_secret("app", json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    let second = case.own_operator("b", &["--lease-duration", "4s"]);
    first.process.signal("STOP");
    second.wait_working();
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.secret_is("app", &[("p", "CANARY-2")]).await;
    // With the new leader halted too, whatever is written from here on is written by the old one.
    second.process.signal("STOP");
    let patch = json!({"stringData": {"p": "edited"}});
    case.secrets().patch("app", &Default::default(), &kube::api::Patch::Merge(&patch)).await.unwrap();
    let status = case.objects().get("app").await.unwrap().resource_version();
    first.process.signal("CONT");
    assert!(first.process.wait_gone(Duration::from_secs(20)), "it ends");
    assert!(first.process.output().contains("the lease was lost"), "{}", first.process.output());
    assert_eq!(case.secret("app").await.unwrap()["p"], "edited");
    assert_eq!(case.objects().get("app").await.unwrap().resource_version(), status);
    second.process.signal("KILL");
    second.process.signal("CONT");
    let third = case.own_operator("c", &["--lease-duration", "4s"]);
    third.wait_working();
    case.secret_is("app", &[("p", "CANARY-2")]).await;
}
