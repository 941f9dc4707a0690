//! Where PushSecrets push to, what goes along, and when generators are asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::api::{Api, Patch, PatchParams};
use lockstep_e2e::harness::{self, eventually, service_account_token};
use serde_json::{Value, json};

use crate::generators::{from, generator};
use crate::providers::{account, ca_bundle};
use crate::push::Pushing;

/// An engine of its own in Vault.
async fn engine(on: &Pushing, name: &str) -> String {
    let path = format!("{}-{name}", on.0.name);
    on.0.harness.vault.write(&format!("sys/mounts/{path}"), json!({"type": "kv", "options": {"version": "2"}})).await;
    path
}

/// A store on such an engine.
fn store(on: &Pushing, kind: &str, name: &str, engine: &str, label: Option<&str>) -> Value {
    let mut token = json!({"name": "vault-token", "key": "token"});
    if kind == "ClusterSecretStore" {
        token["namespace"] = json!(on.0.name);
    }
    let mut provider = on.0.vault_at(&on.0.harness.vault.url, json!({"tokenSecretRef": token}));
    provider["vault"]["path"] = json!(engine);
    let labels = label.map(|l| json!({"push": l})).unwrap_or_default();
    json!({"apiVersion": "external-secrets.io/v1", "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": {"provider": provider}})
}

async fn holds(on: &Pushing, engine: &str, key: &str, expected: Value) {
    eventually(&format!("{engine}/{key} is {expected}"), async || {
        let value = on.0.harness.vault.read(&format!("{engine}/data/{key}")).await;
        (value["data"]["data"] == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn data_goes_to_every_store_of_a_label_of_either_kind_and_to_one_that_comes_later() {
    let on = Pushing::new("pushlabels").await;
    let label = on.0.name.clone();
    let mut engines = Vec::new();
    for name in ["one", "cluster", "late", "other"] {
        engines.push(engine(&on, name).await);
    }
    let [one, cluster, late, other] = &engines[..] else { unreachable!() };
    on.0.apply(store(&on, "SecretStore", "one", one, Some(&label))).await.unwrap();
    on.0.apply(store(&on, "SecretStore", "other", other, Some("other"))).await.unwrap();
    on.0.apply(store(&on, "ClusterSecretStore", &on.0.name, cluster, Some(&label))).await.unwrap();
    let selector = json!({"matchLabels": {"push": label}});
    let refs = json!([{"labelSelector": selector}, {"labelSelector": selector, "kind": "ClusterSecretStore"}]);
    on.push("push", json!({"secretStoreRefs": refs, "data": [on.entry(Some("user"), "app", Some("user"))]})).await;
    on.synced("push").await;
    let key = on.key("app");
    let value = json!({"user": "CANARY-u"});
    holds(&on, one, &key, value.clone()).await;
    holds(&on, cluster, &key, value.clone()).await;
    assert_eq!(
        on.places("push").await,
        [format!("ClusterSecretStore/{} {key}/user", on.0.name), format!("SecretStore/one {key}/user")]
    );
    // A store of that label comes, and another gets it.
    on.0.apply(store(&on, "SecretStore", "late", late, Some(&label))).await.unwrap();
    holds(&on, late, &key, value.clone()).await;
    on.0.apply(store(&on, "SecretStore", "other", other, Some(&label))).await.unwrap();
    holds(&on, other, &key, value).await;
    eventually("the status lists all", async || (on.places("push").await.len() == 4).then_some(())).await;
    on.0.delete_cluster_store(&on.0.name).await;
}

#[tokio::test]
async fn all_keys_go_where_a_rule_names_none() {
    let on = Pushing::new("pushall").await;
    let engine = engine(&on, "all").await;
    on.0.apply(store(&on, "SecretStore", "all", &engine, None)).await.unwrap();
    on.0.apply_secret("all", &[("a", r#"{"v":"CANARY-a"}"#), ("b.c", r#"{"v":"CANARY-b"}"#)]).await;
    let rule = json!([{"storeRef": {"name": "all"}}]);
    on.push("push", json!({"secretStoreRefs": [{"name": "all"}], "selector": {"secret": {"name": "all"}}, "dataTo": rule})).await;
    holds(&on, &engine, "a", json!({"v": "CANARY-a"})).await;
    holds(&on, &engine, "b.c", json!({"v": "CANARY-b"})).await;
    on.synced("push").await;
    // A key that comes goes too.
    on.0.apply_secret("all", &[("a", r#"{"v":"CANARY-a"}"#), ("b.c", r#"{"v":"CANARY-b"}"#), ("d", r#"{"v":"CANARY-d"}"#)]).await;
    holds(&on, &engine, "d", json!({"v": "CANARY-d"})).await;
}

#[tokio::test]
async fn metadata_is_what_the_provider_is_told_beside_the_value() {
    let on = Pushing::new("pushmeta").await;
    let there = format!("{}-there", on.0.name);
    harness::create_namespace(&on.0.client, &there).await;
    account(&on.0, &there, &["get", "list", "create", "update", "patch", "delete"]).await;
    let token = service_account_token(&on.0.client, &on.0.name, "reader").await;
    on.0.apply_secret("reader", &[("token", &token)]).await;
    let server = json!({"url": on.0.harness.control_plane.url, "caBundle": ca_bundle(&on.0)});
    let auth = json!({"token": {"bearerToken": {"name": "reader", "key": "token"}}});
    on.0.apply_store("there", json!({"kubernetes": {"server": server, "auth": auth, "remoteNamespace": there}})).await;
    let metadata = |spec: Value| json!({"apiVersion": "kubernetes.external-secrets.io/v1alpha1", "kind": "PushSecretMetadata", "spec": spec});
    let entry = |metadata: Value| json!([{"match": {"secretKey": "user", "remoteRef": {"remoteKey": "app", "property": "user"}}, "metadata": metadata}]);
    let spec = |data: Value| json!({"secretStoreRefs": [{"name": "there"}], "data": data});
    let told = metadata(json!({"labels": {"team": "a"}, "annotations": {"note": "n"}}));
    on.push("push", spec(entry(told))).await;
    on.synced("push").await;
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(on.0.client.clone(), &there);
    let made = secrets.get("app").await.unwrap();
    assert_eq!(made.metadata.labels.unwrap().get("team").map(String::as_str), Some("a"));
    assert_eq!(made.metadata.annotations.unwrap().get("note").map(String::as_str), Some("n"));
    // Other words, at once; and words that the provider does not know.
    on.push("push", spec(entry(metadata(json!({"labels": {"team": "b"}}))))).await;
    eventually("the label changes", async || {
        (secrets.get("app").await.unwrap().metadata.labels?.get("team")? == "b").then_some(())
    })
    .await;
    on.push("push", spec(entry(metadata(json!({"lables": {"team": "c"}}))))).await;
    let said = on.failed("push", "is no PushSecretMetadata of this provider").await;
    assert!(said.contains("lables"), "{said}");
    on.push("push", spec(entry(json!({"apiVersion": "v1", "kind": "PushSecretMetadata"})))).await;
    on.failed("push", "must be apiVersion kubernetes.external-secrets.io/v1alpha1").await;
    // A rule has metadata too.
    let rule =
        json!([{"storeRef": {"name": "there"}, "remoteKey": "bundle", "metadata": metadata(json!({"labels": {"by": "rule"}}))}]);
    on.push("rule", json!({"secretStoreRefs": [{"name": "there"}], "dataTo": rule})).await;
    on.synced("rule").await;
    assert_eq!(secrets.get("bundle").await.unwrap().metadata.labels.unwrap().get("by").map(String::as_str), Some("rule"));
}

#[tokio::test]
async fn generators_are_asked_again_at_each_refresh() {
    let on = Pushing::new("pushgen").await;
    generator(&on.0, "Password", "password", json!({"length": 16})).await;
    let spec = json!({"secretStoreRef": null, "refreshInterval": "1s", "dataFrom": [from("Password", "password")]});
    on.0.external_secret("timed", spec).await;
    let selector = json!({"generatorRef": from("Password", "password")["sourceRef"]["generatorRef"]});
    let data = json!([on.entry(Some("password"), "made", Some("password"))]);
    on.push("timed", json!({"refreshInterval": "1s", "selector": selector, "data": data})).await;
    let (mut made, mut pushed) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    eventually("time alone brings new values", async || {
        made.extend(on.0.secret("timed").await.map(|s| s["password"].clone()));
        pushed.extend(on.remote("made").await["password"].as_str().map(str::to_owned));
        (made.len() >= 3 && pushed.len() >= 3).then_some(())
    })
    .await;
    let patch = json!({"spec": {"refreshInterval": "0"}});
    on.api().patch("timed", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn a_place_that_gets_another_name_keeps_what_is_wanted_there() {
    let on = Pushing::new("pushsame").await;
    let spec = |data: Value| json!({"deletionPolicy": "Delete", "refreshInterval": "0", "data": data});
    // The whole becomes one property of it, and that the whole again; a key gets its mount before it, another store's name.
    on.push("push", spec(json!([on.entry(None, "app", None)]))).await;
    on.remote_is("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    on.push("push", spec(json!([on.entry(Some("pass"), "app", Some("pw"))]))).await;
    on.synced("push").await;
    eventually("the places follow", async || {
        (on.places("push").await == [format!("SecretStore/vault {}/pw", on.key("app"))]).then_some(())
    })
    .await;
    on.remote_is("app", json!({"pw": "CANARY-p"})).await;
    on.push("push", spec(json!([on.entry(None, "app", None)]))).await;
    on.synced("push").await;
    on.remote_is("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    let mut whole = on.entry(None, "app", None);
    whole["match"]["remoteRef"]["remoteKey"] = json!(format!("secret/data/{}", on.key("app")));
    on.push("push", spec(json!([whole]))).await;
    on.synced("push").await;
    eventually("the places follow", async || {
        (on.places("push").await == [format!("SecretStore/vault secret/data/{}", on.key("app"))]).then_some(())
    })
    .await;
    on.remote_is("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;

    // Two objects push to one place: the one that goes leaves it to the other.
    let data = json!([on.entry(Some("user"), "shared", Some("user"))]);
    for name in ["before", "after"] {
        on.push(name, spec(data.clone())).await;
        on.synced(name).await;
    }
    on.api().delete("before", &Default::default()).await.unwrap();
    eventually("it goes", async || on.api().get_opt("before").await.unwrap().is_none().then_some(())).await;
    on.remote_is("shared", json!({"user": "CANARY-u"})).await;
    on.api().delete("after", &Default::default()).await.unwrap();
    eventually("it goes", async || on.api().get_opt("after").await.unwrap().is_none().then_some(())).await;
    on.remote_is("shared", Value::Null).await;
}

#[tokio::test]
async fn a_store_that_works_again_is_pushed_to_at_once_and_a_template_source_is_followed() {
    let on = Pushing::new("pushback").await;
    let good = lockstep_e2e::vault::ROOT;
    on.0.apply_secret("vault-token", &[("token", "wrong")]).await;
    on.0.store_is("vault", "False", "InvalidProviderConfig", "code 403").await;
    on.0.apply_secret("text", &[("conf", r#"{"dsn": "{{ .user }}"}"#)]).await;
    let template = json!({"templateFrom": [{"secret": {"name": "text", "items": [{"key": "conf"}]}}]});
    on.push("push", json!({"template": template, "data": [on.entry(Some("conf"), "conf", None)]})).await;
    on.failed("push", "code 403").await;
    // Its own next try is an hour away.
    on.0.apply_secret("vault-token", &[("token", good)]).await;
    on.remote_is("conf", json!({"dsn": "CANARY-u"})).await;
    on.synced("push").await;
    on.0.apply_secret("text", &[("conf", r#"{"url": "{{ .user }}"}"#)]).await;
    on.remote_is("conf", json!({"url": "CANARY-u"})).await;
}

#[tokio::test]
async fn keys_of_one_value_stay_together_though_some_could_not_be_pushed_at_first() {
    let on = Pushing::new("pushpair").await;
    let (url, faults, _) = on.0.watched_vault();
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}});
    on.0.apply_store("watched", on.0.vault_at(&url, auth)).await;
    generator(&on.0, "Password", "pair", json!({"length": 24, "secretKeys": ["a", "b"]})).await;
    let failing = lockstep_e2e::faults::Fault::Answer {
        status: 403,
        retry_after: None,
        body: r#"{"errors":["permission denied"]}"#.into(),
    };
    let second = on.key("second");
    let denied = Arc::new(AtomicBool::new(true));
    let still = denied.clone();
    faults.add(usize::MAX, failing, move |parts, _| {
        still.load(Ordering::SeqCst) && parts.method == "POST" && parts.uri.path().contains(&second)
    });
    let selector = json!({"generatorRef": from("Password", "pair")["sourceRef"]["generatorRef"]});
    // The first pushes a into both places, the second b: whatever fails in between, they are of one call.
    let entry = |key: &str, remote: &str| on.entry(Some(key), remote, Some(key));
    let data = json!([entry("a", "first"), entry("a", "second"), entry("b", "third")]);
    let stores = json!([{"name": "watched"}]);
    let spec = json!({"updatePolicy": "IfNotExists", "selector": selector, "refreshInterval": "2s", "secretStoreRefs": stores, "data": data});
    on.push("pair", spec).await;
    on.failed("pair", "code 403").await;
    let first = on.remote("first").await["a"].clone();
    assert!(first.is_string());
    denied.store(false, Ordering::SeqCst);
    eventually("the second follows", async || on.remote("second").await["a"].is_string().then_some(())).await;
    assert_eq!(on.remote("second").await["a"], first);
    on.synced("pair").await;
    let patch = json!({"spec": {"refreshInterval": "0"}});
    on.api().patch("pair", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn a_source_that_changes_while_nobody_looks_is_pushed_after_the_start() {
    let case = lockstep_e2e::case::Case::with_own_class("pushrestart").await;
    let operator = case.own_operator("a", &[]);
    case.vault_store().await;
    case.apply_secret("source", &[("k", "CANARY-1")]).await;
    let push = json!({"refreshInterval": "0", "secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "source"}},
        "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key("app"), "property": "k"}}}]});
    case.apply(
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "push"}, "spec": push}),
    )
    .await
    .unwrap();
    let holds = async |value: &str| {
        eventually(value, async || {
            let remote = case.harness.vault.read(&format!("secret/data/{}", case.key("app"))).await;
            (remote["data"]["data"]["k"] == value).then_some(())
        })
        .await;
    };
    holds("CANARY-1").await;
    eventually("it is told", async || case.events_about("PushSecret", "push").await.get("Synced").map(drop)).await;
    lockstep_e2e::case::stop(operator);
    case.apply_secret("source", &[("k", "CANARY-2")]).await;
    let operator = case.own_operator("b", &[]);
    holds("CANARY-2").await;
    // And it is watched from then on.
    case.apply_secret("source", &[("k", "CANARY-3")]).await;
    holds("CANARY-3").await;
    lockstep_e2e::case::stop(operator);
}
