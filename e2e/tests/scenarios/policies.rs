//! Creation, deletion and refresh policies, and whose Secret it is.

use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use lockstep_crds::LABEL_MANAGED;
use lockstep_e2e::harness::eventually;
use serde_json::json;

use lockstep_e2e::case::Case;

#[tokio::test]
async fn when_the_object_goes_an_owned_secret_goes_and_every_other_stays() {
    let case = Case::new("creation").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_secret("merge", &[("theirs", "CANARY-theirs")]).await;
    for (name, policy) in
        [("owner", "Owner"), ("orphan", "Orphan"), ("merge", "Merge"), ("both", "CreateOrMerge"), ("none", "None")]
    {
        let spec = json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": policy}});
        case.external_secret(name, spec).await;
        case.synced(name).await;
    }
    let own = [("p", "CANARY-p")];
    case.secret_is("owner", &own).await;
    case.secret_is("orphan", &own).await;
    case.secret_is("both", &own).await;
    case.secret_is("merge", &[("p", "CANARY-p"), ("theirs", "CANARY-theirs")]).await;
    assert!(case.secret("none").await.is_none());
    for name in ["owner", "orphan", "merge", "both", "none"] {
        case.delete(name).await;
    }
    case.secret_gone("owner").await;
    case.secret_is("orphan", &own).await;
    case.secret_is("both", &own).await;
    case.secret_is("merge", &[("p", "CANARY-p"), ("theirs", "CANARY-theirs")]).await;

    // An orphan is taken up again by an object of the same name.
    case.put("app", json!({"p": "CANARY-q"})).await;
    case.external_secret("orphan", json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": "Orphan"}})).await;
    case.secret_is("orphan", &[("p", "CANARY-q")]).await;
}

#[tokio::test]
async fn two_objects_merge_into_one_secret_and_each_takes_only_its_own_keys_away() {
    let case = Case::new("merge").await;
    case.vault_store().await;
    case.put("app", json!({"a": "CANARY-a", "b": "CANARY-b", "c": "CANARY-c"})).await;
    let target = json!({"name": "both", "creationPolicy": "Merge", "deletionPolicy": "Merge"});
    let one = |keys: &[&str]| {
        let data: Vec<_> = keys.iter().map(|k| case.data(k, "app", k)).collect();
        json!({"data": data, "target": target})
    };
    case.external_secret("one", one(&["a", "b"])).await;
    case.ready_is("one", "False", "SecretMissing", "creationPolicy Merge makes none").await;
    case.apply_secret("both", &[("theirs", "CANARY-t")]).await;
    case.external_secret("two", one(&["c"])).await;
    case.secret_is("both", &[("a", "CANARY-a"), ("b", "CANARY-b"), ("c", "CANARY-c"), ("theirs", "CANARY-t")]).await;
    case.external_secret("one", one(&["a"])).await;
    case.secret_is("both", &[("a", "CANARY-a"), ("c", "CANARY-c"), ("theirs", "CANARY-t")]).await;
    // Someone edits a key that is ours: it is put back. Someone edits a key that is not: it is left.
    let patch = json!({"stringData": {"a": "edited", "theirs": "CANARY-u"}});
    case.secrets().patch("both", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    case.secret_is("both", &[("a", "CANARY-a"), ("c", "CANARY-c"), ("theirs", "CANARY-u")]).await;
    case.harness.vault.remove(&case.key("app")).await;
    case.force_sync("one").await;
    case.force_sync("two").await;
    case.secret_is("both", &[("theirs", "CANARY-u")]).await;
}

#[tokio::test]
async fn when_the_remote_secret_goes_the_deletion_policy_decides() {
    let case = Case::new("deletion").await;
    case.vault_store().await;
    case.put("all", json!({"p": "CANARY-p", "q": "CANARY-q"})).await;
    let both = json!([case.data("p", "all", "p"), case.data("q", "all", "q")]);
    for policy in ["Retain", "Delete", "Merge"] {
        let name = policy.to_lowercase();
        case.external_secret(&name, json!({"data": both, "target": {"deletionPolicy": policy}})).await;
        case.synced(&name).await;
    }
    let whole = [("p", "CANARY-p"), ("q", "CANARY-q")];
    let names = ["retain", "delete", "merge"];

    // One property goes: a missing property is as authoritative as a missing secret.
    case.put("all", json!({"p": "CANARY-p"})).await;
    for name in names {
        case.force_sync(name).await;
    }
    let message = case.failed("retain", "the value has no property q; it has p").await;
    assert!(message.contains("the Secret is kept as it is (deletionPolicy Retain)"), "{message}");
    case.secret_is("retain", &whole).await;
    case.secret_is("delete", &[("p", "CANARY-p")]).await;
    case.secret_is("merge", &[("p", "CANARY-p")]).await;
    case.ready_is("merge", "True", "SecretSynced", "secret synced without what the provider does not have").await;

    // The whole secret goes.
    case.harness.vault.remove(&case.key("all")).await;
    for name in names {
        case.force_sync(name).await;
    }
    case.failed("retain", "Vault has nothing at secret/data/").await;
    case.secret_is("retain", &whole).await;
    case.secret_gone("delete").await;
    case.ready_is("delete", "True", "SecretDeleted", "deletionPolicy is Delete").await;
    case.secret_is("merge", &[]).await;

    // It comes back.
    case.put("all", json!({"p": "CANARY-p2", "q": "CANARY-q2"})).await;
    for name in names {
        case.force_sync(name).await;
        case.secret_is(name, &[("p", "CANARY-p2"), ("q", "CANARY-q2")]).await;
        case.synced(name).await;
    }
}

#[tokio::test]
async fn created_once_and_on_change_ask_no_more_than_they_say() {
    let case = Case::new("refresh").await;
    case.vault_store().await;
    case.put("once", json!({"p": "CANARY-1"})).await;
    case.put("change", json!({"p": "CANARY-1"})).await;
    let spec =
        |key: &str, policy: &str| json!({"refreshPolicy": policy, "refreshInterval": "1s", "data": [case.data("p", key, "p")]});
    case.external_secret("once", spec("once", "CreatedOnce")).await;
    case.external_secret("change", spec("change", "OnChange")).await;
    case.synced("once").await;
    case.synced("change").await;
    case.put("once", json!({"p": "CANARY-2"})).await;
    case.put("change", json!({"p": "CANARY-2"})).await;

    // A change of the object refreshes OnChange; CreatedOnce stays as it is, and is made again when it is deleted.
    case.force_sync("change").await;
    case.force_sync("once").await;
    case.secret_is("change", &[("p", "CANARY-2")]).await;
    assert_eq!(case.secret("once").await.unwrap()["p"], "CANARY-1");
    assert_eq!(case.reads("once"), 1);
    let reads = case.reads("change");
    assert_eq!(reads, 2, "no timer asked in between");
    case.secrets().delete("once", &DeleteParams::default()).await.unwrap();
    case.secret_is("once", &[("p", "CANARY-2")]).await;
}

#[tokio::test]
async fn two_external_secrets_that_want_one_target_are_told_of_each_other() {
    let case = Case::new("clash").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    let spec = json!({"data": [case.data("p", "app", "p")], "target": {"name": "one"}});
    case.external_secret("first", spec.clone()).await;
    case.synced("first").await;
    let owner = case.secrets().get("one").await.unwrap().owner_references()[0].uid.clone();
    case.external_secret("second", spec).await;
    let message = case.failed("second", "is the target of ExternalSecret").await;
    for name in ["first", "second"] {
        assert!(message.contains(&format!("{}/{name}", case.name)), "{message}");
    }
    assert_eq!(case.secrets().get("one").await.unwrap().owner_references()[0].uid, owner);
    case.synced("first").await;
    // Once the first is gone the second takes its place.
    case.delete("first").await;
    case.synced("second").await;
    case.secret_is("one", &[("p", "CANARY-p")]).await;
}

#[tokio::test]
async fn a_foreign_secret_is_not_overwritten_until_it_is_handed_over() {
    let case = Case::new("foreign").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_secret("app", &[("theirs", "CANARY-theirs")]).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.failed("app", "exists and was not made by ExternalSecret").await;
    case.secret_is("app", &[("theirs", "CANARY-theirs")]).await;
    let patch = json!({"metadata": {"labels": {LABEL_MANAGED: "true"}}});
    case.secrets().patch("app", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    case.synced("app").await;
}

#[tokio::test]
async fn an_immutable_target_is_written_once_and_a_typed_one_has_its_shape() {
    let case = Case::new("immutable").await;
    case.vault_store().await;
    case.put("app", json!({"username": "CANARY-u", "password": "CANARY-p"})).await;
    let spec = json!({"data": [case.data("username", "app", "username")], "target": {"immutable": true}});
    case.external_secret("app", spec).await;
    case.synced("app").await;
    assert_eq!(case.secrets().get("app").await.unwrap().immutable, Some(true));
    case.put("app", json!({"username": "CANARY-v", "password": "CANARY-p"})).await;
    case.force_sync("app").await;
    case.failed("app", "is immutable and differs").await;
    case.secret_is("app", &[("username", "CANARY-u")]).await;

    let typed =
        |type_: &str| json!({"dataFrom": [{"extract": {"key": case.key("app")}}], "target": {"template": {"type": type_}}});
    case.external_secret("basic", typed("kubernetes.io/basic-auth")).await;
    case.synced("basic").await;
    assert_eq!(case.secrets().get("basic").await.unwrap().type_.as_deref(), Some("kubernetes.io/basic-auth"));
    case.external_secret("tls", typed("kubernetes.io/tls")).await;
    case.failed("tls", "needs the key tls.crt and the key tls.key").await;
    case.external_secret("token", typed("kubernetes.io/service-account-token")).await;
    case.failed("token", "is refused: such a Secret is a credential of the cluster itself").await;
    eventually("neither was made", async || {
        (case.secret("tls").await.is_none() && case.secret("token").await.is_none()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sync_windows_gate_periodic_refreshes_and_nothing_else() {
    let case = Case::new("windows").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    let spec = |kind: &str, duration: &str| {
        let windows = json!([{"schedule": "* * * * *", "duration": duration}]);
        json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")], "syncWindows": {"kind": kind, "windows": windows}})
    };
    for (name, kind) in [("allowed", "allow"), ("denied", "deny")] {
        case.external_secret(name, spec(kind, "1m")).await;
        case.secret_is(name, &[("p", "CANARY-1")]).await;
    }
    for value in ["CANARY-2", "CANARY-3"] {
        case.put("app", json!({"p": value})).await;
        case.secret_is("allowed", &[("p", value)]).await;
    }
    assert_eq!(case.secret("denied").await.unwrap()["p"], "CANARY-1", "two refreshes of the other did not come here");
    // What a person asks for, and what somebody touched, is no periodic refresh.
    case.force_sync("denied").await;
    case.secret_is("denied", &[("p", "CANARY-3")]).await;
    case.secrets().delete("denied", &Default::default()).await.unwrap();
    case.secret_is("denied", &[("p", "CANARY-3")]).await;
    let error = case.try_external_secret("refused", {
        let mut refused = spec("allow", "1m");
        refused["syncWindows"]["windows"][0]["schedule"] = json!("whenever");
        refused
    });
    assert!(error.await.unwrap_err().to_string().contains("schedule"));
    let mut wrong = spec("allow", "1m");
    wrong["syncWindows"]["windows"][0]["schedule"] = json!("61 * * * *");
    case.external_secret("wrong", wrong).await;
    case.failed("wrong", r#"spec.syncWindows.windows[0].schedule: "61" is no minute of a cron schedule"#).await;
}
