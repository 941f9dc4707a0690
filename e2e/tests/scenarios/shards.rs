//! Several replicas at work at once, each on its share.

use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use lockstep_e2e::harness::eventually;
use lockstep_e2e::operator::Operator;
use lockstep_e2e::vault::ROOT;
use serde_json::json;

use lockstep_e2e::case::Case;

/// Who holds each of the shards, those that nobody holds left out.
async fn holders(case: &Case) -> std::collections::BTreeMap<String, usize> {
    let api: kube::Api<k8s_openapi::api::coordination::v1::Lease> = kube::Api::namespaced(case.client.clone(), "lockstep-system");
    let selector = format!("lockstep.dev/shards-of=lease-{}", case.name);
    let leases = api.list(&kube::api::ListParams::default().labels(&selector)).await.unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for lease in leases.iter().filter(|l| l.name_any().contains("-shard-")) {
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        if let Some((replica, _)) = holder.rsplit_once('_') {
            *counts.entry(replica.rsplit_once('-').unwrap().1.to_owned()).or_default() += 1;
        }
    }
    counts
}

async fn shares_are(case: &Case, expected: &[(&str, usize)]) {
    let expected = expected.iter().map(|(replica, n)| ((*replica).to_owned(), *n)).collect();
    eventually(&format!("shares are {expected:?}"), async || (holders(case).await == expected).then_some(())).await;
}

#[tokio::test]
async fn replicas_with_shards_all_work_and_take_over_from_one_that_is_killed_or_stops() {
    let case = Case::with_own_class("shards").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let start = |replica: &str| case.own_operator(replica, &["--shards", "4", "--lease-duration", "4s"]);
    // An update from one leader to shards: nobody takes a share while the leader is at work.
    let leader = case.own_operator("leader", &["--lease-duration", "4s"]);
    leader.wait_working();
    let a = start("a");
    eventually("a newcomer waits for the leader's end", async || {
        a.process.output().contains("waiting for its end").then_some(())
    })
    .await;
    assert!(holders(&case).await.is_empty());
    leader.process.signal("TERM");
    shares_are(&case, &[("a", 4)]).await;
    let b = start("b");
    shares_are(&case, &[("a", 2), ("b", 2)]).await;
    let names: Vec<String> = (0..24).map(|i| format!("app-{i}")).collect();
    for name in &names {
        case.external_secret(name, json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    }
    let all_are = async |value: &str| {
        for name in &names {
            case.secret_is(name, &[("p", value)]).await;
            case.synced(name).await;
        }
    };
    all_are("CANARY-1").await;
    let created = ["resource=\"secrets\"", "verb=\"create\""];
    let by = [a.metric("lockstep_api_requests_total", &created).await, b.metric("lockstep_api_requests_total", &created).await];
    assert_eq!(by.iter().sum::<u64>(), 24, "each object was written by one replica");
    assert!(by.iter().all(|n| *n >= 4), "{by:?}");
    let told = "externalsecret_status_condition";
    // Of this case: objects of other scenarios that read from no store are anybody's until their generator is asked.
    let here = format!("namespace=\"{}\"", case.name);
    let shown = async |of: &Operator| of.metric(told, &["status=\"True\"", &here]).await;
    eventually("each replica tells of its own", async || (shown(&a).await + shown(&b).await == 24).then_some(())).await;

    a.process.signal("KILL");
    case.put("app", json!({"p": "CANARY-2"})).await;
    shares_are(&case, &[("b", 4)]).await;
    all_are("CANARY-2").await;
    let c = start("c");
    shares_are(&case, &[("b", 2), ("c", 2)]).await;
    b.process.signal("TERM");
    assert!(b.process.wait_gone(Duration::from_secs(5)));
    assert_eq!(holders(&case).await.get("b"), None, "a clean stop gives everything back");
    shares_are(&case, &[("c", 4)]).await;
    case.put("app", json!({"p": "CANARY-3"})).await;
    all_are("CANARY-3").await;
    // A store that is broken and fixed reaches the objects of every replica.
    case.apply_secret("vault-token", &[("token", "wrong")]).await;
    let d = start("d");
    shares_are(&case, &[("c", 2), ("d", 2)]).await;
    case.store_is("vault", "False", "InvalidProviderConfig", "").await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    case.store_is("vault", "True", "Valid", "").await;
    all_are("CANARY-3").await;
    drop((c, d));
}

/// Objects with a second of interval, `app-0` and on.
async fn objects(case: &Case, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|i| format!("app-{i}")).collect();
    for name in &names {
        case.external_secret(name, json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    }
    names
}

#[tokio::test]
async fn when_the_replica_that_serves_a_broken_store_is_killed_the_others_mend_all_objects() {
    let case = Case::with_own_class("store-owner").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let start =
        |replica: &str| case.own_operator(replica, &["--shards", "4", "--lease-duration", "4s", "--namespace", &case.name]);
    let (a, b) = (start("a"), start("b"));
    shares_are(&case, &[("a", 2), ("b", 2)]).await;
    let names = objects(&case, 12).await;
    for name in &names {
        case.synced(name).await;
    }
    case.apply_secret("vault-token", &[("token", "wrong")]).await;
    case.store_is("vault", "False", "InvalidProviderConfig", "").await;
    for name in &names {
        case.failed(name, "").await;
    }
    let broken = async |of: &Operator| of.metric("lockstep_objects", &["kind=\"SecretStore\"", "ready=\"false\""]).await;
    let owners = [broken(&a).await, broken(&b).await];
    assert_eq!(owners.iter().sum::<u64>(), 1, "the store is one replica's: {owners:?}");
    let (owner, other, name) = if owners[0] == 1 { (a, b, "b") } else { (b, a, "a") };
    owner.process.signal("KILL");
    assert!(owner.process.wait_gone(Duration::from_secs(5)));
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    shares_are(&case, &[(name, 4)]).await;
    case.store_is("vault", "True", "Valid", "").await;
    for name in &names {
        case.secret_is(name, &[("p", "CANARY-2")]).await;
        case.synced(name).await;
    }
    drop(other);
}

#[tokio::test]
async fn a_replica_that_was_paused_beyond_its_leases_writes_nothing_until_it_has_a_share_again() {
    let case = Case::with_own_class("paused-share").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let start = |replica: &str, lease: &str| case.own_operator(replica, &["--shards", "4", "--lease-duration", lease]);
    let a = start("a", "4s");
    shares_are(&case, &[("a", 4)]).await;
    let names = objects(&case, 8).await;
    for name in &names {
        case.synced(name).await;
    }
    a.process.signal("STOP");
    // What the other one holds nobody takes for a minute.
    let b = start("b", "60s");
    shares_are(&case, &[("b", 4)]).await;
    case.put("app", json!({"p": "CANARY-2"})).await;
    for name in &names {
        case.secret_is(name, &[("p", "CANARY-2")]).await;
    }
    b.process.signal("STOP");
    // From here on whatever is written is written by the one that was paused.
    let mut before = Vec::new();
    for name in &names {
        let patch = Patch::Merge(json!({"stringData": {"p": "edited"}}));
        let secret = case.secrets().patch(name, &PatchParams::default(), &patch).await.unwrap();
        before.push((secret.resource_version(), case.objects().get(name).await.unwrap().resource_version()));
    }
    a.process.signal("CONT");
    eventually("it knows that it lost its share", async || a.process.output().contains("a shard's lease was lost").then_some(()))
        .await;
    // Several of the objects' intervals.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (name, before) in names.iter().zip(before) {
        let secret = case.secrets().get(name).await.unwrap().resource_version();
        assert_eq!((secret, case.objects().get(name).await.unwrap().resource_version()), before, "{name}");
    }
    b.process.signal("CONT");
    shares_are(&case, &[("a", 2), ("b", 2)]).await;
    for name in &names {
        case.secret_is(name, &[("p", "CANARY-2")]).await;
    }
}

#[tokio::test]
async fn what_came_up_while_a_replica_could_not_renew_is_made_up_for() {
    let case = Case::with_own_class("gap").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let args = ["--controller-class", &case.name, "--lease-name", &case.name, "--lease-duration", "4s", "--shards", "4"];
    let (operator, proxy) = case.operator_behind_a_proxy(&args);
    let names = objects(&case, 8).await;
    for name in &names {
        case.synced(name).await;
    }
    proxy.take_away();
    eventually("it knows that its leases are over", async || {
        operator.process.output().contains("a shard's lease was lost").then_some(())
    })
    .await;
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.external_secret("late", json!({"data": [case.data("p", "app", "p")]})).await;
    proxy.bring_back();
    for name in names.iter().map(String::as_str).chain(["late"]) {
        case.secret_is(name, &[("p", "CANARY-2")]).await;
        case.synced(name).await;
    }
    assert!(!operator.process.wait_gone(Duration::ZERO), "it is the same process");
}

#[tokio::test]
async fn objects_that_do_not_parse_are_told_so_once_each_by_the_replica_that_has_them() {
    let case = Case::with_own_class("odd-share").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let odd = |sideways: &str| json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": sideways}});
    case.serve_a_newer_schema(&odd("Sideways")).await;
    let start =
        |replica: &str| case.own_operator(replica, &["--shards", "4", "--lease-duration", "4s", "--namespace", &case.name]);
    let (a, b) = (start("a"), start("b"));
    shares_are(&case, &[("a", 2), ("b", 2)]).await;
    let names: Vec<String> = (0..16).map(|i| format!("odd-{i}")).collect();
    for name in &names {
        case.external_secret(name, odd("Sideways")).await;
    }
    for name in &names {
        case.failed(name, "the object does not parse: unknown variant `Sideways`").await;
    }
    let patches = async |of: &Operator| {
        of.metric("lockstep_api_requests_total", &["resource=\"externalsecrets/status\"", "verb=\"patch\""]).await
    };
    eventually("each is told by one of the two", async || {
        let by = [patches(&a).await, patches(&b).await];
        (by.iter().sum::<u64>() == names.len() as u64 && by.iter().all(|n| *n > 0)).then_some(())
    })
    .await;
    // They are the other's after a kill, and hold up nobody.
    a.process.signal("KILL");
    case.external_secret("good", json!({"data": [case.data("p", "app", "p")]})).await;
    case.external_secret("odd-3", odd("Owner")).await;
    shares_are(&case, &[("b", 4)]).await;
    for name in ["good", "odd-3"] {
        case.secret_is(name, &[("p", "CANARY-1")]).await;
        case.synced(name).await;
    }
}
