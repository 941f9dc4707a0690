//! When providers are asked: policies, intervals, windows, and what is told of it.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use lockstep_e2e::harness::eventually;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

async fn patch(case: &Case, name: &str, patch: Value) {
    case.objects().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn on_change_follows_spec_labels_and_annotations_and_an_interval_of_none_only_those() {
    let case = Case::new("onchange").await;
    case.vault_store().await;
    for key in ["change", "never", "often", "once"] {
        case.put(key, json!({"p": "CANARY-1", "q": "CANARY-q"})).await;
    }
    let data = |key: &str, property: &str| json!([case.data("p", key, property)]);
    case.external_secret("change", json!({"refreshPolicy": "OnChange", "refreshInterval": "1s", "data": data("change", "p")}))
        .await;
    case.external_secret("never", json!({"refreshInterval": "0", "data": data("never", "p")})).await;
    case.external_secret("often", json!({"refreshInterval": "1s", "data": data("often", "p")})).await;
    case.external_secret("once", json!({"refreshPolicy": "CreatedOnce", "refreshInterval": "1s", "data": data("once", "p")}))
        .await;
    for name in ["change", "never", "often", "once"] {
        case.secret_is(name, &[("p", "CANARY-1")]).await;
    }
    // Time alone refreshes only the one that has an interval.
    let mut number = 1;
    let mut next = async || {
        number += 1;
        let value = format!("CANARY-{number}");
        for key in ["change", "never", "often"] {
            case.put(key, json!({"p": value, "q": "CANARY-q"})).await;
        }
        case.secret_is("often", &[("p", &value)]).await;
        value
    };
    next().await;
    next().await;
    assert_eq!((case.reads("change"), case.reads("never")), (1, 1));
    // A store that comes back asks nothing of OnChange either.
    case.apply_secret("vault-token", &[("token", lockstep_e2e::vault::ROOT), ("more", "x")]).await;
    let value = next().await;
    assert_eq!(case.reads("change"), 1);
    for (at, change) in [
        json!({"metadata": {"labels": {"team": "a"}}}),
        json!({"metadata": {"annotations": {"note": "b"}}}),
        json!({"metadata": {"labels": {"team": null}}}),
    ]
    .into_iter()
    .enumerate()
    {
        let value = if at == 0 { value.clone() } else { next().await };
        patch(&case, "once", change.clone()).await;
        for name in ["change", "never"] {
            patch(&case, name, change.clone()).await;
            case.secret_is(name, &[("p", &value)]).await;
        }
        assert_eq!(case.reads("change"), 2 + at);
    }
    for name in ["change", "never"] {
        patch(&case, name, json!({"spec": {"data": data(name, "q")}})).await;
        case.secret_is(name, &[("p", "CANARY-q")]).await;
    }
    // Neither time nor a label or an annotation: once is once.
    next().await;
    assert_eq!((case.reads("once"), case.secret("once").await.unwrap()["p"].as_str()), (1, "CANARY-1"));
}

#[tokio::test]
async fn the_status_says_when_and_for_what_the_last_refresh_was() {
    let case = Case::new("status").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1", "q": "CANARY-q"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    let status = async || {
        case.caught_up("app").await;
        let object = case.objects().get("app").await.unwrap();
        let status = object.status.unwrap();
        let version = status.synced_resource_version.unwrap();
        let (generation, hash) = version.split_once('-').map(|(g, h)| (g.to_owned(), h.to_owned())).unwrap();
        assert_eq!(generation, object.metadata.generation.unwrap().to_string());
        assert_eq!(status.binding.unwrap().name, "app");
        (generation, hash, status.refresh_time.unwrap().parse::<Timestamp>().unwrap())
    };
    let first = status().await;
    // A second is what a time in a status can tell.
    let later = async |than: Timestamp| {
        eventually("time goes on", async || (Timestamp::now() > than + Duration::from_secs(1)).then_some(())).await;
    };
    later(first.2).await;
    patch(&case, "app", json!({"metadata": {"labels": {"a": "b"}}})).await;
    let labelled = status().await;
    assert!(labelled.0 == first.0 && labelled.1 != first.1 && labelled.2 > first.2, "{first:?} {labelled:?}");
    // An edit that is put back is no refresh.
    later(labelled.2).await;
    let edit = Patch::Merge(json!({"stringData": {"p": "by hand"}}));
    case.secrets().patch("app", &PatchParams::default(), &edit).await.unwrap();
    case.secret_is("app", &[("p", "CANARY-1")]).await;
    patch(&case, "app", json!({"metadata": {"labels": {"a": null}}})).await;
    let back = status().await;
    assert_eq!((&back.0, &back.1), (&first.0, &first.1), "the same labels have the same hash");
    patch(&case, "app", json!({"spec": {"data": [case.data("p", "app", "q")]}})).await;
    let changed = status().await;
    assert!(changed.0 != first.0 && changed.1 == first.1);
}

#[tokio::test]
async fn events_tell_of_changes_and_of_nothing_else() {
    let case = Case::with_own_class("events").await;
    // An operator of its own: good news is left out where there is much of it.
    let _operator = case.own_operator("a", &[]);
    case.vault_store().await;
    for key in ["deleted", "retained"] {
        case.put(key, json!({"p": "CANARY-1"})).await;
    }
    let target = json!({"deletionPolicy": "Delete"});
    case.external_secret("deleted", json!({"data": [case.data("p", "deleted", "p")], "target": target})).await;
    case.external_secret("retained", json!({"data": [case.data("p", "retained", "p")]})).await;
    let both = ["deleted", "retained"];
    let are = async |name: &str, expected: &[(&str, usize)]| {
        let expected = expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        eventually(&format!("the events of {name} are {expected:?}"), async || {
            (case.events(name).await == expected).then_some(())
        })
        .await;
    };
    for name in both {
        case.synced(name).await;
        are(name, &[("Created", 1)]).await;
        case.put(name, json!({"p": "CANARY-2"})).await;
        case.force_sync(name).await;
        are(name, &[("Created", 1), ("Updated", 1)]).await;
        // Nothing new is no news.
        for _ in 0..2 {
            case.force_sync(name).await;
            case.caught_up(name).await;
        }
    }
    // What is wrong is told once, however often it is tried.
    for name in both {
        patch(
            &case,
            name,
            json!({"spec": {"data": [{"secretKey": "p", "remoteRef": {"key": "somebody/else", "version": "x"}}]}}),
        )
        .await;
        for _ in 0..2 {
            case.failed(name, "version").await;
            case.force_sync(name).await;
            case.caught_up_or_failed(name).await;
        }
        patch(&case, name, json!({"spec": {"data": [case.data("p", name, "p")]}})).await;
        case.synced(name).await;
    }
    let so_far = [("Created", 1), ("Updated", 1), ("UpdateFailed", 1)];
    for name in both {
        are(name, &so_far).await;
        case.harness.vault.remove(&case.key(name)).await;
        for _ in 0..3 {
            case.force_sync(name).await;
            case.caught_up_or_failed(name).await;
        }
    }
    are("deleted", &[&so_far[..], &[("Deleted", 1)]].concat()).await;
    are("retained", &[&so_far[..], &[("MissingProviderSecret", 1)]].concat()).await;
}

#[tokio::test]
async fn closed_windows_keep_refreshes_away_until_the_next_opening_which_is_not_polled() {
    let case = Case::with_own_class("windows").await;
    // Windows are in UTC, wherever the operator runs.
    let _operator = case.own_operator_with("a", &[], &[("TZ", "Pacific/Kiritimati")]);
    case.vault_store().await;
    let never = "0 0 29 2 *";
    let hour = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour();
    // Two hours from the one before: the edge of an hour does not matter. There it is fourteen hours later.
    let (here, there) = (format!("0 {} * * *", (hour + 23) % 24), format!("0 {} * * *", (hour + 13) % 24));
    let begun = SystemTime::now();
    for (name, kind, schedule, duration) in [
        ("closed", "allow", never, "1m"),
        ("open", "deny", never, "1m"),
        ("utc", "allow", here.as_str(), "2h"),
        ("local", "allow", there.as_str(), "2h"),
        ("denied", "deny", here.as_str(), "2h"),
        ("pulse", "allow", "@every 8s", "2s"),
    ] {
        case.put(name, json!({"p": "CANARY-1"})).await;
        let windows = json!({"kind": kind, "windows": [{"schedule": schedule, "duration": duration}]});
        let spec = json!({"refreshInterval": "1s", "syncWindows": windows, "data": [case.data("p", name, "p")]});
        case.external_secret(name, spec).await;
        case.secret_is(name, &[("p", "CANARY-1")]).await;
        case.put(name, json!({"p": "CANARY-2"})).await;
    }
    for name in ["open", "utc", "pulse"] {
        case.secret_is(name, &[("p", "CANARY-2")]).await;
    }
    // Three openings of the one that opens for two of eight seconds.
    eventually("time goes on", async || (begun.elapsed().unwrap() > Duration::from_secs(26)).then_some(())).await;
    for name in ["closed", "local", "denied"] {
        assert_eq!(case.reads(name), 1, "{name}");
        assert_eq!(case.secret(name).await.unwrap()["p"], "CANARY-1");
    }
    let seconds = case.harness.vault.requests_by_second(&format!("secret/data/{}", case.key("pulse")), begun, 26);
    let first = i64::try_from(begun.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let inside = |second: usize| {
        // The first read is the object's own; those after it lie in a window, or a second behind it on a busy machine.
        let at = (first + 1000 * second as i64) % 8000;
        at <= 3500 || at >= 6900
    };
    let outside: u64 = seconds.iter().enumerate().filter(|(second, _)| !inside(*second)).map(|(_, count)| count).sum();
    assert!(outside <= 1 && seconds.iter().sum::<u64>() >= 3, "{seconds:?} from {first}");
}

#[tokio::test]
async fn refreshes_are_spread_over_the_interval_also_after_a_restart() {
    let case = Case::with_own_class("spread").await;
    let operator = case.own_operator("a", &[]);
    case.vault_store().await;
    let names: Vec<String> = (0..30).map(|i| format!("app-{i}")).collect();
    for name in &names {
        case.put(name, json!({"p": "CANARY"})).await;
        case.external_secret(name, json!({"refreshInterval": "10s", "data": [case.data("p", name, "p")]})).await;
    }
    for name in &names {
        case.synced(name).await;
    }
    let prefix = format!("secret/data/{}/", case.name);
    let spread = async |begun: SystemTime, what: &str| {
        eventually("an interval goes by", async || (begun.elapsed().unwrap() > Duration::from_secs(14)).then_some(())).await;
        let seconds = case.harness.vault.requests_by_second(&prefix, begun, 14);
        let (busiest, used) = (seconds.iter().max().unwrap(), seconds.iter().filter(|s| **s > 0).count());
        assert!(*busiest <= 15 && used >= 5, "{what}: {seconds:?}");
        assert!(seconds.iter().sum::<u64>() >= 30, "{what}: all are refreshed: {seconds:?}");
    };
    spread(SystemTime::now(), "made at once").await;
    operator.process.signal("TERM");
    assert!(operator.process.wait_gone(Duration::from_secs(20)));
    let stopped = SystemTime::now();
    eventually("all are overdue", async || (stopped.elapsed().unwrap() > Duration::from_secs(11)).then_some(())).await;
    let operator = case.own_operator("b", &[]);
    operator.wait_working();
    spread(SystemTime::now(), "after a restart").await;
}
