//! The short form of `cargo reliability`: some of the crashes and of the lies, always the same ones.

use lockstep_e2e::interposer::{Lie, Sort};
use lockstep_e2e::reliability::world::{Making, World};
use lockstep_e2e::reliability::{crash, lies, specs, stories};
use serde_json::json;

fn say(text: &str) {
    eprintln!("{text}");
}

#[tokio::test]
async fn a_crash_before_or_after_any_request_leaves_what_a_run_without_one_leaves() {
    let tally = crash::everywhere(stories::ALL, 3, 19, 2, &say).await;
    assert!(tally.failed.is_empty(), "{:#?}", tally.failed);
    assert!(tally.tried >= 25, "only {} crashes came", tally.tried);
}

#[tokio::test]
async fn when_lies_end_everything_is_as_without_them_and_nobody_writes() {
    let tallies = lies::everywhere(stories::ALL, lies::WAYS, 7, 5, 23, 2, &say).await;
    let failed: Vec<&String> = tallies.iter().flat_map(|(_, tally)| &tally.failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let tried: usize = tallies.iter().map(|(_, tally)| tally.tried).sum();
    assert!(tried >= 12, "only {tried} cases had a lie in them");
}

#[tokio::test]
async fn an_object_that_is_seen_before_its_store_is_not_told_that_this_does_not_exist() {
    let world = World::new("ahead", Making::default()).await;
    // What happens to stores is seen later than what happens to all else.
    world.script(|_, exchange| match exchange.sort == Sort::Watch && exchange.path.ends_with("/secretstores") {
        true => Lie::Coalesce,
        false => Lie::None,
    });
    world.start().await;
    let case = &world.case;
    case.apply_store("first", json!({"fake": {"data": []}})).await;
    case.store_is("first", "True", "Valid", "").await;
    let values = json!([{"key": "k", "value": "CANARY-v"}]);
    let provider = json!({"fake": {"data": values}});
    case.apply(json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": "theirs"},
        "spec": {"controller": "somebody-else", "provider": provider}}))
        .await
        .unwrap();
    case.apply_store("later", provider).await;
    for (name, store) in [("foreign", "theirs"), ("ours", "later")] {
        let data = json!([{"secretKey": "v", "remoteRef": {"key": "k"}}]);
        case.external_secret(name, json!({"secretStoreRef": {"name": store}, "data": data})).await;
    }
    case.secret_is("ours", &[("v", "CANARY-v")]).await;
    case.synced("ours").await;
    assert!(case.ready_of("foreign").await.is_none());
    let told = |name: &str| {
        let end = format!("/externalsecrets/{name}/status");
        world.api.log().iter().filter(|e| e.method == "PATCH" && e.path.ends_with(&end)).count()
    };
    assert_eq!((told("foreign"), told("ours")), (0, 1));
    assert!(world.api.lies() > 0, "stores were seen in time");
    world.end().await;
}

#[tokio::test]
async fn a_spec_that_changes_to_any_other_and_back_leaves_what_a_new_object_has() {
    let tally = specs::everywhere(45, 5, &say).await;
    assert!(tally.failed.is_empty(), "{:#?}", tally.failed);
    let count = |title: &str, kind: &str| {
        let note = tally.notes.iter().find(|note| note.starts_with(&format!("specs of {title}: ")) && note.ends_with(kind));
        note.and_then(|note| note.split_whitespace().nth(3)?.parse::<usize>().ok()).unwrap_or(0)
    };
    for (title, served, not) in [
        ("ExternalSecret", 4, 4),
        ("PushSecret", 1, 1),
        ("SecretStore", 1, 1),
        ("ClusterExternalSecret", 1, 0),
        ("ClusterPushSecret", 1, 0),
    ] {
        let found = (count(title, "both are served"), count(title, "can't be served"));
        assert!(found.0 >= served && found.1 >= not, "{title}: {found:?}: {:?}", tally.notes);
    }
    let generated: usize = ["Password", "SSHKey", "UUID", "Fake"].into_iter().map(|kind| count(kind, "both are served")).sum();
    assert!(generated >= 4, "{:?}", tally.notes);
}
