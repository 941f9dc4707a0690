//! Values arrive, change, and are put back.

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use lockstep_crds::{ANNOTATION_DATA_HASH, LABEL_CREATED_BY, LABEL_MANAGED};
use lockstep_e2e::harness::eventually;
use serde_json::json;

use lockstep_e2e::case::Case;

#[tokio::test]
async fn a_first_sync_makes_the_secret_with_its_labels_its_owner_and_one_event() {
    // With an operator of its own: one that syncs much at once leaves out events that tell of nothing wrong.
    let case = Case::with_own_class("first").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    case.vault_store().await;
    case.put("app", json!({"user": "CANARY-ada", "nested": {"pin": 1234}})).await;
    let spec = json!({
        "data": [case.data("user", "app", "user"), case.data("pin", "app", "nested.pin")],
        "dataFrom": [{"extract": {"key": case.key("app")}}],
        "target": {"name": "app-secret"},
    });
    case.external_secret("app", spec).await;
    let nested = r#"{"pin":1234}"#;
    case.secret_is("app-secret", &[("user", "CANARY-ada"), ("pin", "1234"), ("nested", nested)]).await;
    case.synced("app").await;

    let secret = case.secrets().get("app-secret").await.unwrap();
    let object = case.objects().get("app").await.unwrap();
    assert_eq!(secret.labels().get(LABEL_MANAGED).map(String::as_str), Some("true"));
    assert!(secret.labels().contains_key(LABEL_CREATED_BY));
    assert!(secret.annotations().contains_key(ANNOTATION_DATA_HASH));
    assert_eq!(secret.owner_references()[0].uid, object.uid().unwrap());
    let status = object.status.clone().unwrap();
    let binding = status.binding.unwrap();
    assert_eq!((binding.name.as_str(), binding.uid), ("app-secret", secret.uid()));
    assert!(status.refresh_time.is_some());

    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(case.client.clone(), &case.name);
    let reasons = eventually("an event", async || {
        let list = events.list(&Default::default()).await.unwrap().items;
        let about =
            list.into_iter().filter(|e| e.regarding.as_ref().is_some_and(|r| r.kind.as_deref() == Some("ExternalSecret")));
        let reasons: Vec<String> = about.filter_map(|e| e.reason).collect();
        (!reasons.is_empty()).then_some(reasons)
    })
    .await;
    assert_eq!(reasons, ["Created"]);
}

#[tokio::test]
async fn a_value_that_changes_in_vault_arrives_at_the_next_refresh_and_at_once_when_forced() {
    let case = Case::new("change").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    case.external_secret("often", json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    case.external_secret("seldom", json!({"data": [case.data("p", "app", "p")]})).await;
    case.secret_is("often", &[("p", "CANARY-1")]).await;
    case.secret_is("seldom", &[("p", "CANARY-1")]).await;
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.secret_is("often", &[("p", "CANARY-2")]).await;
    assert_eq!(case.secret("seldom").await.unwrap()["p"], "CANARY-1", "not due for an hour");
    case.force_sync("seldom").await;
    case.secret_is("seldom", &[("p", "CANARY-2")]).await;
}

#[tokio::test]
async fn a_target_that_is_edited_loses_a_key_or_is_deleted_is_put_back() {
    let case = Case::new("touched").await;
    case.vault_store().await;
    case.put("app", json!({"a": "CANARY-a", "b": "CANARY-b"})).await;
    case.external_secret("app", json!({"dataFrom": [{"extract": {"key": case.key("app")}}]})).await;
    let whole = [("a", "CANARY-a"), ("b", "CANARY-b")];
    case.secret_is("app", &whole).await;
    case.synced("app").await;
    for patch in [
        json!({"stringData": {"a": "edited"}}),
        json!({"data": {"b": null}}),
        json!({"stringData": {"c": "added"}}),
        json!({"metadata": {"labels": {LABEL_MANAGED: null}}, "stringData": {"a": "hidden"}}),
    ] {
        case.secrets().patch("app", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        case.secret_is("app", &whole).await;
    }
    let before = case.secrets().get("app").await.unwrap().uid();
    case.secrets().delete("app", &DeleteParams::default()).await.unwrap();
    eventually("it is made anew", async || {
        let secret = case.secrets().get_opt("app").await.unwrap()?;
        (secret.uid() != before).then_some(())
    })
    .await;
    case.secret_is("app", &whole).await;
}

#[tokio::test]
async fn metadata_that_others_put_on_the_target_stays_and_costs_no_provider_read() {
    let case = Case::new("metadata").await;
    case.vault_store().await;
    case.put("app", json!({"a": "CANARY-a"})).await;
    case.external_secret("app", json!({"data": [case.data("a", "app", "a")]})).await;
    case.synced("app").await;
    let reads = case.reads("app");
    let patch = json!({"metadata": {"annotations": {"tool.example/note": "theirs"}}});
    case.secrets().patch("app", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let version = case.secrets().get("app").await.unwrap().resource_version();
    // The operator has looked once the binding names the version that the other's write made.
    eventually("the operator has looked", async || {
        let binding = case.objects().get("app").await.unwrap().status?.binding?;
        (binding.resource_version == version).then_some(())
    })
    .await;
    assert_eq!(case.reads("app"), reads);
    case.put("app", json!({"a": "CANARY-b"})).await;
    case.force_sync("app").await;
    case.secret_is("app", &[("a", "CANARY-b")]).await;
    let secret = case.secrets().get("app").await.unwrap();
    assert_eq!(secret.annotations().get("tool.example/note").map(String::as_str), Some("theirs"));
}

#[tokio::test]
async fn a_changed_spec_is_synced_at_once_and_labels_follow_the_object() {
    let case = Case::new("spec").await;
    case.vault_store().await;
    case.put("app", json!({"a": "CANARY-a", "b": "CANARY-b"})).await;
    case.external_secret("app", json!({"data": [case.data("k", "app", "a")]})).await;
    case.secret_is("app", &[("k", "CANARY-a")]).await;
    case.external_secret("app", json!({"data": [case.data("k", "app", "b"), case.data("l", "app", "a")]})).await;
    case.secret_is("app", &[("k", "CANARY-b"), ("l", "CANARY-a")]).await;
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"team": value}}});
    for (value, expected) in [(json!("a"), Some("a")), (json!("b"), Some("b")), (json!(null), None)] {
        case.objects().patch("app", &PatchParams::default(), &Patch::Merge(&label(value))).await.unwrap();
        eventually("the label follows", async || {
            let secret = case.secrets().get("app").await.unwrap();
            (secret.labels().get("team").map(String::as_str) == expected).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_renamed_target_is_made_under_its_new_name() {
    let case = Case::new("rename").await;
    case.vault_store().await;
    case.put("app", json!({"a": "CANARY-a"})).await;
    case.external_secret("app", json!({"data": [case.data("a", "app", "a")], "target": {"name": "one"}})).await;
    case.secret_is("one", &[("a", "CANARY-a")]).await;
    case.external_secret("app", json!({"data": [case.data("a", "app", "a")], "target": {"name": "two"}})).await;
    case.secret_is("two", &[("a", "CANARY-a")]).await;
    case.synced("app").await;
}

#[tokio::test]
async fn versions_metadata_and_kv_version_1_are_read_as_asked() {
    let case = Case::new("kinds").await;
    case.vault_store().await;
    let vault = &case.harness.vault;
    case.put("app", json!({"p": "CANARY-old"})).await;
    case.put("app", json!({"p": "CANARY-new"})).await;
    vault.write(&format!("secret/metadata/{}", case.key("app")), json!({"custom_metadata": {"owner": "team-a"}})).await;
    let mount = format!("kv1-{}/deep", case.name);
    vault.write(&format!("sys/mounts/{mount}"), json!({"type": "kv", "options": {"version": "1"}})).await;
    vault.write(&format!("{mount}/app"), json!({"p": "CANARY-v1"})).await;
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}});
    let kv1 = json!({"vault": {"server": vault.url, "path": mount, "version": "v1", "auth": auth}});
    case.apply_store("kv1", kv1).await;
    let mut old = case.data("old", "app", "p");
    old["remoteRef"]["version"] = json!("1");
    let mut owner = case.data("owner", "app", "owner");
    owner["remoteRef"]["metadataPolicy"] = json!("Fetch");
    let other_store =
        json!({"secretKey": "v1", "remoteRef": {"key": "app", "property": "p"}, "sourceRef": {"storeRef": {"name": "kv1"}}});
    let whole = json!({"secretKey": "whole", "remoteRef": {"key": case.key("app")}});
    case.external_secret("app", json!({"data": [case.data("new", "app", "p"), old, owner, other_store, whole]})).await;
    let expected = [
        ("new", "CANARY-new"),
        ("old", "CANARY-old"),
        ("owner", "team-a"),
        ("v1", "CANARY-v1"),
        ("whole", r#"{"p":"CANARY-new"}"#),
    ];
    case.secret_is("app", &expected).await;
}

#[tokio::test]
async fn fifty_objects_on_one_remote_secret_make_one_read() {
    let case = Case::new("fifty").await;
    case.put("app", json!({"a": "CANARY-a", "b": "CANARY-b"})).await;
    for i in 0..50 {
        let spec = json!({"data": [case.data("a", "app", "a"), case.data("b", "app", "b")]});
        case.external_secret(&format!("app-{i}"), spec).await;
    }
    case.failed("app-49", "does not exist").await;
    assert_eq!(case.reads("app"), 0);
    case.vault_store().await;
    for i in 0..50 {
        case.secret_is(&format!("app-{i}"), &[("a", "CANARY-a"), ("b", "CANARY-b")]).await;
    }
    assert_eq!(case.reads("app"), 1);
    let saved = ["store=\"SecretStore ", &format!("{}/vault", case.name)];
    // Two keys of each of fifty objects are a hundred wants.
    assert_eq!(case.shared_operator().metric("lockstep_provider_calls_saved_total", &saved).await, 99);
}
