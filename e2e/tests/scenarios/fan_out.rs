//! ClusterExternalSecret and ClusterPushSecret: one object in each of many namespaces.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use lockstep_crds::{ExternalSecret, PushSecret};
use lockstep_e2e::harness::{self, eventually, secret};
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

fn cluster(kind: &str, name: &str, spec: Value) -> Value {
    let version = if kind == "ClusterPushSecret" { "v1alpha1" } else { "v1" };
    json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

async fn namespace(case: &Case, suffix: &str, team: &str) -> String {
    let name = format!("{}-{suffix}", case.name);
    let labels = json!({"team": format!("{}-{team}", case.name)});
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    harness::apply(&case.client, None, object).await.unwrap();
    name
}

fn api(case: &Case, kind: &str) -> Api<DynamicObject> {
    harness::api_of(&case.client, None, &cluster(kind, "x", json!({})))
}

fn team(case: &Case, team: &str) -> Value {
    json!({"matchLabels": {"team": format!("{}-{team}", case.name)}})
}

/// Waits until the status says where the objects are, and where not; gives the condition's message.
async fn told(case: &Case, kind: &str, provisioned: &[&str], failed: &[&str]) -> String {
    let mut last = Value::Null;
    for _ in 0..2400 {
        last = api(case, kind).get(&case.name).await.unwrap().data["status"].clone();
        let names = |field: &str| -> Vec<String> {
            let all = last[field].as_array().cloned().unwrap_or_default();
            all.iter().map(|n| n["namespace"].as_str().or(n.as_str()).unwrap_or_default().to_owned()).collect()
        };
        if names("provisionedNamespaces") == provisioned && names("failedNamespaces") == failed {
            let ready = if failed.is_empty() { "True" } else { "False" };
            assert_eq!(last["conditions"][0]["status"], ready, "{last}");
            return last["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{kind} {} says {last}, and not {provisioned:?} and {failed:?}", case.name);
}

async fn shared_store(case: &Case) {
    case.put("app", json!({"user": "CANARY-u"})).await;
    case.apply_secret("vault-token", &[("token", lockstep_e2e::vault::ROOT)]).await;
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "namespace": case.name, "key": "token"}});
    case.apply_cluster_store(&case.name, case.vault_at(&case.harness.vault.url, auth), json!([])).await;
}

fn from_shared(case: &Case) -> Value {
    json!({"secretStoreRef": {"name": case.name, "kind": "ClusterSecretStore"}, "data": [case.data("user", "app", "user")]})
}

#[tokio::test]
async fn each_selected_namespace_has_its_object_and_no_other() {
    let case = Case::new("fan").await;
    shared_store(&case).await;
    let (a, b, c) = (namespace(&case, "a", "x").await, namespace(&case, "b", "y").await, namespace(&case, "c", "x").await);
    // Somebody has an ExternalSecret of that name in one of them.
    let mut foreign = from_shared(&case);
    foreign["refreshInterval"] = json!("9m");
    let theirs = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "app", "namespace": c},
        "spec": foreign});
    harness::apply(&case.client, None, theirs).await.unwrap();
    let spec = |more: Value| {
        let mut spec = json!({
            "externalSecretSpec": from_shared(&case), "externalSecretName": "app", "namespaceSelectors": [team(&case, "x")],
            "externalSecretMetadata": {"labels": {"from": "fan"}, "annotations": {"note": "n"}}, "refreshTime": "1m",
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cluster("ClusterExternalSecret", &case.name, spec)
    };
    case.apply(spec(json!({"namespaces": [b]}))).await.unwrap();
    let message = told(&case, "ClusterExternalSecret", &[&a, &b], &[&c]).await;
    assert!(message.contains(&format!("{c}: ExternalSecret app exists and was not made by this object")), "{message}");
    for namespace in [&a, &b] {
        eventually("its Secret", async || secret(&case.client, namespace, "app").await.filter(|s| s["user"] == "CANARY-u")).await;
    }
    let objects = |namespace: &str| Api::<ExternalSecret>::namespaced(case.client.clone(), namespace);
    let made = objects(&a).get("app").await.unwrap();
    assert_eq!(made.metadata.labels.unwrap()["from"], "fan");
    assert_eq!(made.metadata.annotations.unwrap()["note"], "n");
    let left_alone = objects(&c).get("app").await.unwrap();
    assert_eq!(left_alone.spec.refresh_interval.as_deref(), Some("9m"));
    assert!(left_alone.metadata.labels.is_none() && left_alone.metadata.annotations.is_none());

    // A namespace comes, one is selected no more, and one is edited by hand.
    let d = namespace(&case, "d", "x").await;
    namespace(&case, "a", "none").await;
    let edit = json!({"spec": {"refreshInterval": "7m"}});
    objects(&b).patch("app", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    told(&case, "ClusterExternalSecret", &[&b, &d], &[&c]).await;
    eventually("a loses its object", async || objects(&a).get_opt("app").await.unwrap().is_none().then_some(())).await;
    eventually("and its Secret", async || secret(&case.client, &a, "app").await.is_none().then_some(())).await;
    eventually("b's is as it should be", async || {
        (objects(&b).get("app").await.unwrap().spec.refresh_interval.as_deref() == Some("1h0m0s")).then_some(())
    })
    .await;
    objects(&d).delete("app", &DeleteParams::default()).await.unwrap();
    eventually("d's is made again", async || secret(&case.client, &d, "app").await).await;

    // The foreign one goes; a spec that changes reaches all; another name replaces the old.
    objects(&c).delete("app", &DeleteParams::default()).await.unwrap();
    told(&case, "ClusterExternalSecret", &[&b, &c, &d], &[]).await;
    case.apply(spec(json!({"namespaces": [b], "externalSecretName": "renamed"}))).await.unwrap();
    for namespace in [&b, &c, &d] {
        eventually("the new name", async || secret(&case.client, namespace, "renamed").await).await;
        eventually("the old name goes", async || objects(namespace).get_opt("app").await.unwrap().is_none().then_some(())).await;
    }
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(case.client.clone());
    let finalizers = namespaces.get(&b).await.unwrap().metadata.finalizers.unwrap_or_default();
    assert!(finalizers.iter().all(|f| !f.contains("external")), "{finalizers:?}");

    api(&case, "ClusterExternalSecret").delete(&case.name, &DeleteParams::default()).await.unwrap();
    for namespace in [&b, &c, &d] {
        eventually("all go", async || secret(&case.client, namespace, "renamed").await.is_none().then_some(())).await;
    }
}

#[tokio::test]
async fn a_fan_out_that_selects_nothing_or_that_is_refused_says_so() {
    let case = Case::new("fanwrong").await;
    let a = namespace(&case, "a", "x").await;
    case.apply(cluster("ClusterExternalSecret", &case.name, json!({"externalSecretSpec": from_shared(&case)}))).await.unwrap();
    let said = async |needle: &str| {
        eventually(needle, async || {
            let status = api(&case, "ClusterExternalSecret").get(&case.name).await.unwrap().data["status"].clone();
            status["conditions"][0]["message"].as_str().filter(|m| m.contains(needle)).map(str::to_owned)
        })
        .await
    };
    said("names no namespaces: set spec.namespaceSelectors or spec.namespaces").await;
    // The API server takes the spec there, and not here: the rules of a target hold in both.
    let spec = json!({"externalSecretSpec": from_shared(&case), "namespaces": [a], "externalSecretName": "x".repeat(253)});
    case.apply(cluster("ClusterExternalSecret", &case.name, spec)).await.unwrap();
    told(&case, "ClusterExternalSecret", &[&a], &[]).await;
    api(&case, "ClusterExternalSecret").delete(&case.name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn any_of_several_selectors_selects_and_metadata_that_changes_reaches_all() {
    let case = Case::new("fanany").await;
    shared_store(&case).await;
    let (a, b) = (namespace(&case, "a", "x").await, namespace(&case, "b", "y").await);
    let neither = namespace(&case, "c", "z").await;
    let spec = |metadata: Value| {
        let selectors = json!([team(&case, "x"), team(&case, "y"), {"matchLabels": {"team": "nobody"}}]);
        cluster(
            "ClusterExternalSecret",
            &case.name,
            json!({"externalSecretSpec": from_shared(&case), "namespaceSelectors": selectors, "externalSecretMetadata": metadata}),
        )
    };
    case.apply(spec(json!({"labels": {"from": "fan", "one": "1"}, "annotations": {"note": "n"}}))).await.unwrap();
    told(&case, "ClusterExternalSecret", &[&a, &b], &[]).await;
    // Without a name for them, they have its own.
    let object = async |namespace: &str| {
        Api::<ExternalSecret>::namespaced(case.client.clone(), namespace).get_opt(&case.name).await.unwrap()
    };
    assert!(object(&neither).await.is_none());
    let mut wrong = spec(json!({"labels": {"from": "fan", "one": "1"}, "annotations": {"note": "n"}}));
    wrong["spec"]["namespaceSelectors"] = json!([{"matchExpressions": [{"key": "team", "operator": "in", "values": ["x"]}]}]);
    case.apply(wrong).await.unwrap();
    eventually("a wrong selector is named", async || {
        let status = api(&case, "ClusterExternalSecret").get(&case.name).await.unwrap().data["status"].clone();
        status["conditions"][0]["message"].as_str()?.contains("\"in\" is no operator").then_some(())
    })
    .await;
    assert!(object(&a).await.is_some() && object(&b).await.is_some(), "and takes nothing away");
    case.apply(spec(json!({"labels": {"from": "fan", "one": "1"}, "annotations": {"note": "n"}}))).await.unwrap();
    eventually("it is right again", async || {
        let status = api(&case, "ClusterExternalSecret").get(&case.name).await.unwrap().data["status"].clone();
        (status["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    told(&case, "ClusterExternalSecret", &[&a, &b], &[]).await;
    for namespace in [&a, &b] {
        eventually("its Secret", async || secret(&case.client, namespace, &case.name).await.filter(|s| s["user"] == "CANARY-u"))
            .await;
    }
    case.apply(spec(json!({"labels": {"from": "other"}, "annotations": {"note": "m", "more": "x"}}))).await.unwrap();
    for namespace in [&a, &b] {
        eventually("the new metadata", async || {
            let meta = object(namespace).await.unwrap().metadata;
            let (labels, annotations) = (meta.labels?, meta.annotations?);
            let labelled = labels.get("from")? == "other" && !labels.contains_key("one");
            (labelled && annotations.get("note")? == "m" && annotations.get("more")? == "x").then_some(())
        })
        .await;
    }
    api(&case, "ClusterExternalSecret").delete(&case.name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_cluster_push_secret_pushes_from_each_of_its_namespaces_and_from_no_other() {
    let case = Case::new("fanpushes").await;
    shared_store(&case).await;
    let (a, b, c) = (namespace(&case, "a", "x").await, namespace(&case, "b", "x").await, namespace(&case, "c", "y").await);
    for namespace in [&a, &b, &c] {
        let data = json!({(namespace): format!(r#"{{"k": "CANARY-{namespace}"}}"#)});
        let source = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "source", "namespace": namespace}, "stringData": data});
        harness::apply(&case.client, None, source).await.unwrap();
    }
    // Somebody's own PushSecret has the name in one of them.
    let rewrite = json!([{"regexp": {"source": "^", "target": format!("{}/", case.name)}}]);
    let store = json!({"name": case.name, "kind": "ClusterSecretStore"});
    let push = json!({"secretStoreRefs": [store], "selector": {"secret": {"name": "source"}}, "deletionPolicy": "Delete",
        "dataTo": [{"storeRef": store, "rewrite": rewrite}]});
    let mut foreign = push.clone();
    foreign["refreshInterval"] = json!("9m");
    foreign["selector"] = json!({"secret": {"name": "nothing"}});
    harness::apply(
        &case.client,
        None,
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret",
        "metadata": {"name": case.name, "namespace": b}, "spec": foreign}),
    )
    .await
    .unwrap();
    let spec = json!({"pushSecretSpec": push, "namespaceSelectors": [team(&case, "x")], "pushSecretMetadata": {"labels": {"from": "fan"}, "annotations": {"note": "n"}}});
    case.apply(cluster("ClusterPushSecret", &case.name, spec)).await.unwrap();
    let said = told(&case, "ClusterPushSecret", &[&a], &[&b]).await;
    assert!(said.contains(&format!("{b}: PushSecret {} exists and was not made by this object", case.name)), "{said}");
    let remote = async |namespace: &str| {
        case.harness.vault.read(&format!("secret/data/{}", case.key(namespace))).await["data"]["data"]["k"].clone()
    };
    let arrives = async |namespace: &str| {
        eventually("its value arrives", async || (remote(namespace).await == format!("CANARY-{namespace}")).then_some(())).await;
    };
    arrives(&a).await;
    let pushes = |namespace: &str| Api::<PushSecret>::namespaced(case.client.clone(), namespace);
    let made = pushes(&a).get(&case.name).await.unwrap().metadata;
    assert_eq!((made.labels.unwrap()["from"].as_str(), made.annotations.unwrap()["note"].as_str()), ("fan", "n"));
    let theirs = pushes(&b).get(&case.name).await.unwrap();
    assert_eq!(theirs.spec.refresh_interval.as_deref(), Some("9m"));
    assert_eq!((remote(&b).await, remote(&c).await), (Value::Null, Value::Null));
    // A namespace comes by its label; the foreign one goes; the first is selected no more, and what it pushed is deleted.
    namespace(&case, "c", "x").await;
    arrives(&c).await;
    pushes(&b).delete(&case.name, &DeleteParams::default()).await.unwrap();
    arrives(&b).await;
    namespace(&case, "a", "none").await;
    told(&case, "ClusterPushSecret", &[&b, &c], &[]).await;
    eventually("what it pushed goes", async || (remote(&a).await == Value::Null).then_some(())).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(case.client.clone());
    assert!(namespaces.get(&b).await.unwrap().metadata.finalizers.unwrap_or_default().iter().all(|f| !f.contains("external")));
    api(&case, "ClusterPushSecret").delete(&case.name, &DeleteParams::default()).await.unwrap();
    for namespace in [&b, &c] {
        eventually("all go", async || (remote(namespace).await == Value::Null).then_some(())).await;
    }
}

#[tokio::test]
async fn pushes_are_fanned_out_too() {
    let case = Case::new("fanpush").await;
    shared_store(&case).await;
    let (a, b) = (namespace(&case, "a", "x").await, namespace(&case, "b", "x").await);
    for namespace in [&a, &b] {
        let source = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "source", "namespace": namespace}, "stringData": {"k": namespace}});
        harness::apply(&case.client, None, source).await.unwrap();
    }
    let push = json!({
        "secretStoreRefs": [{"name": case.name, "kind": "ClusterSecretStore"}], "selector": {"secret": {"name": "source"}},
        "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key("pushed"), "property": "k"}}}],
    });
    // Both push to one place, which is their author's business: each of the two is made and does its part.
    let spec = json!({"pushSecretSpec": push, "namespaceSelectors": [team(&case, "x")], "pushSecretName": "push",
        "pushSecretMetadata": {"labels": {"from": "fan"}}});
    case.apply(cluster("ClusterPushSecret", &case.name, spec)).await.unwrap();
    told(&case, "ClusterPushSecret", &[&a, &b], &[]).await;
    let pushes = |namespace: &str| Api::<PushSecret>::namespaced(case.client.clone(), namespace);
    for namespace in [&a, &b] {
        eventually("it is pushed", async || {
            let status = pushes(namespace).get("push").await.unwrap().status?;
            status.conditions.iter().any(|c| c.status == "True").then_some(())
        })
        .await;
    }
    api(&case, "ClusterPushSecret").delete(&case.name, &DeleteParams::default()).await.unwrap();
    eventually("they go with it", async || pushes(&a).get_opt("push").await.unwrap().is_none().then_some(())).await;
}

#[tokio::test]
async fn a_thousand_namespaces_of_one_remote_secret_make_one_read_an_interval() {
    let case = Case::new("fanmany").await;
    shared_store(&case).await;
    let names: Vec<String> = (0..1000).map(|i| format!("{}-{i}", case.name)).collect();
    for chunk in names.chunks(50) {
        let made = chunk.iter().map(|name| {
            let labels = json!({"team": case.name});
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            let client = &case.client;
            async move { harness::apply(client, None, object).await.map(drop) }
        });
        futures::future::join_all(made).await.into_iter().for_each(|made| made.unwrap());
    }
    let mut spec = from_shared(&case);
    spec["refreshInterval"] = json!("30s");
    let fan = json!({"externalSecretSpec": spec, "namespaceSelectors": [{"matchLabels": {"team": case.name}}]});
    case.apply(cluster("ClusterExternalSecret", &case.name, fan)).await.unwrap();
    let objects = Api::<ExternalSecret>::all(case.client.clone());
    let selected = kube::api::ListParams::default();
    let refreshed = async || {
        let all = objects.list(&selected).await.unwrap().items;
        let ours = all.into_iter().filter(|o| o.metadata.name.as_deref() == Some(case.name.as_str()));
        ours.filter_map(|o| o.status?.refresh_time).count()
    };
    let mut waited = 0;
    while refreshed().await < 1000 {
        assert!(waited < 240, "{} of 1000 are synced", refreshed().await);
        waited += 1;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    // From here on only refreshes read: two intervals, with a share of one for what was synced out of phase.
    let since = case.reads("app");
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let reads = case.reads("app") - since;
    assert!((1..=4).contains(&reads), "{reads} reads in two intervals of 1,000 objects");
    api(&case, "ClusterExternalSecret").delete(&case.name, &DeleteParams::default()).await.unwrap();
    eventually("they go", async || (refreshed().await == 0).then_some(())).await;
}
