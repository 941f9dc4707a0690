//! Whose a Secret is, what is written on it, and what is never taken from it.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use lockstep_crds::{ANNOTATION_DATA_HASH, LABEL_CREATED_BY, LABEL_MANAGED};
use lockstep_e2e::harness::eventually;
use lockstep_e2e::proxy::Proxy;
use serde_json::{Value, json};

use lockstep_e2e::case::{Case, stop};

async fn with_app(topic: &str) -> Case {
    let case = Case::new(topic).await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p", "q": "CANARY-q"})).await;
    case
}

async fn patch_secret(case: &Case, name: &str, patch: Value) {
    case.secrets().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn hash_of(secret: &Secret) -> Option<String> {
    secret.annotations().get(ANNOTATION_DATA_HASH).cloned()
}

#[tokio::test]
async fn each_creation_policy_marks_its_secret_as_far_as_it_owns_it() {
    let case = with_app("marks").await;
    for name in ["merge", "both"] {
        case.apply_secret(name, &[("theirs", "CANARY-t")]).await;
    }
    for (name, policy) in [("owner", "Owner"), ("orphan", "Orphan"), ("merge", "Merge"), ("both", "CreateOrMerge")] {
        case.external_secret(name, json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": policy}})).await;
        case.synced(name).await;
    }
    let got = async |name: &str| case.secrets().get(name).await.unwrap();
    let owner = got("owner").await;
    let references = owner.owner_references();
    assert_eq!(references.len(), 1);
    let me = case.objects().get("owner").await.unwrap();
    assert_eq!((references[0].kind.as_str(), references[0].controller), ("ExternalSecret", Some(true)));
    assert_eq!(references[0].uid, me.uid().unwrap());
    // The label is a hash of namespace and name: the same for the same, another for another.
    let by = |s: &Secret| s.labels().get(LABEL_CREATED_BY).cloned();
    let key = lockstep::keys::ObjectKey { namespace: case.name.as_str().into(), name: "owner".into() };
    assert_eq!(by(&owner), Some(lockstep::external_secret::target::created_by(&key)));
    assert!(!by(&owner).unwrap().contains("owner"));
    let orphan = got("orphan").await;
    assert!(orphan.owner_references().is_empty());
    case.secret_is("orphan", &[("p", "CANARY-p")]).await;
    for name in ["merge", "both"] {
        let merged = got(name).await;
        assert!(merged.owner_references().is_empty() && by(&merged).is_none(), "{name}");
        case.secret_is(name, &[("p", "CANARY-p"), ("theirs", "CANARY-t")]).await;
    }
    // What is on it for tools to read has these names.
    let names = ["managed", "created-by", "data-hash"].map(|name| format!("reconcile.external-secrets.io/{name}"));
    assert_eq!(names, [LABEL_MANAGED, LABEL_CREATED_BY, ANNOTATION_DATA_HASH]);
    // Salted: nobody sees that two have the same data.
    assert!(hash_of(&owner).is_some() && hash_of(&orphan).is_some() && hash_of(&owner) != hash_of(&orphan));
    // Several may merge into one Secret: there is no hash that would be right for them all.
    assert_eq!((hash_of(&got("merge").await), hash_of(&got("both").await)), (None, None));
    for secret in [&owner, &orphan, &got("merge").await, &got("both").await] {
        assert_eq!(secret.labels().get(LABEL_MANAGED).map(String::as_str), Some("true"), "{}", secret.name_any());
    }
    // Another namespace, another hash.
    let elsewhere = with_app("marks").await;
    elsewhere.external_secret("owner", json!({"data": [elsewhere.data("p", "app", "p")]})).await;
    elsewhere.synced("owner").await;
    let other = elsewhere.secrets().get("owner").await.unwrap();
    assert_ne!(by(&other), by(&got("owner").await));
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.force_sync("owner").await;
    case.secret_is("owner", &[("p", "CANARY-2")]).await;
    assert_ne!(hash_of(&got("owner").await), hash_of(&owner), "other data, another hash");
}

#[tokio::test]
async fn labels_and_annotations_of_the_object_are_copied_but_for_those_of_tools() {
    let case = with_app("copied").await;
    let object = |name: &str, target: Value| {
        json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
            "metadata": {"name": name, "labels": {"team": "a"}, "annotations": {"note": "n", "force-sync": "1"}},
            "spec": {"secretStoreRef": {"name": "vault"}, "data": [case.data("p", "app", "p")], "target": target}})
    };
    case.apply(object("plain", json!({}))).await.unwrap();
    case.apply(object("template", json!({"template": {"metadata": {"labels": {"own": "x"}}}}))).await.unwrap();
    for name in ["plain", "template"] {
        case.synced(name).await;
    }
    let plain = case.secrets().get("plain").await.unwrap();
    assert_eq!(plain.labels().get("team").map(String::as_str), Some("a"));
    assert_eq!(plain.annotations().get("note").map(String::as_str), Some("n"));
    assert!(!plain.annotations().contains_key("force-sync"));
    let template = case.secrets().get("template").await.unwrap();
    assert_eq!(template.labels().get("own").map(String::as_str), Some("x"));
    assert!(!template.labels().contains_key("team") && !template.annotations().contains_key("note"));
}

#[tokio::test]
async fn an_immutable_secret_that_differs_is_an_error_and_no_loop() {
    let case = with_app("fixed").await;
    case.put("clock", json!({"n": "1"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")], "target": {"immutable": true}})).await;
    case.synced("app").await;
    case.put("app", json!({"p": "CANARY-2"})).await;
    case.force_sync("app").await;
    case.failed("app", "is immutable and differs").await;
    let (reads, version) = (case.reads("app"), case.secrets().get("app").await.unwrap().resource_version());
    // Another object is refreshed five times meanwhile.
    case.external_secret("clock", json!({"refreshInterval": "1s", "data": [case.data("n", "clock", "n")]})).await;
    for n in 2..7 {
        case.put("clock", json!({"n": n.to_string()})).await;
        case.secret_is("clock", &[("n", &n.to_string())]).await;
    }
    assert_eq!(case.reads("app"), reads, "it is asked for again at its interval");
    assert_eq!(case.secrets().get("app").await.unwrap().resource_version(), version);
    assert_eq!(case.events("app").await.get("UpdateFailed"), Some(&1));
    // Who deletes it gets the new value.
    case.secrets().delete("app", &DeleteParams::default()).await.unwrap();
    case.secret_is("app", &[("p", "CANARY-2")]).await;
    case.synced("app").await;
}

#[tokio::test]
async fn keys_are_not_merged_into_a_secret_that_another_object_writes_as_a_whole() {
    let case = with_app("mergeowned").await;
    case.external_secret("whole", json!({"data": [case.data("p", "app", "p")], "target": {"name": "one"}})).await;
    case.synced("whole").await;
    for policy in ["Merge", "CreateOrMerge"] {
        let name = policy.to_lowercase();
        let target = json!({"name": "one", "creationPolicy": policy});
        case.external_secret(&name, json!({"data": [case.data("q", "app", "q")], "target": target})).await;
        let message = case.failed(&name, "is the target of ExternalSecret").await;
        for part in ["/whole", &format!("/{name}")] {
            assert!(message.contains(&format!("{}{part}", case.name)), "{message}");
        }
    }
    case.secret_is("one", &[("p", "CANARY-p")]).await;
    case.synced("whole").await;
    case.delete("whole").await;
    case.secret_is("one", &[("q", "CANARY-q")]).await;
}

#[tokio::test]
async fn a_secret_stays_its_objects_by_its_uid_and_another_of_that_name_does_not() {
    let case = Case::with_own_class("adopt").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    let uid = case.secrets().get("app").await.unwrap().uid();
    // Everything that tells whose it is, taken off: it is the one that was written before.
    let labels = json!({LABEL_MANAGED: null, LABEL_CREATED_BY: null});
    patch_secret(&case, "app", json!({"metadata": {"ownerReferences": null, "labels": labels}})).await;
    eventually("it is taken back", async || {
        let secret = case.secrets().get("app").await.unwrap();
        let whole = !secret.owner_references().is_empty() && secret.labels().contains_key(LABEL_CREATED_BY);
        (whole && secret.uid() == uid).then_some(())
    })
    .await;
    case.synced("app").await;

    // While nobody looks, somebody makes another of that name.
    stop(operator);
    case.secrets().delete("app", &DeleteParams::default()).await.unwrap();
    case.apply_secret("app", &[("theirs", "CANARY-t")]).await;
    let operator = case.own_operator("b", &[]);
    operator.wait_working();
    case.failed("app", "exists and was not made by ExternalSecret").await;
    case.secret_is("app", &[("theirs", "CANARY-t")]).await;

    // One that has another controller is refused, whatever its labels say.
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}});
    case.apply(owner).await.unwrap();
    let identity = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let owner = lockstep_e2e::harness::api_of(&case.client, Some(&case.name), &identity).get("owner").await.unwrap();
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid().unwrap(), "controller": true}]);
    let labels = json!({LABEL_MANAGED: "true"});
    patch_secret(&case, "app", json!({"metadata": {"ownerReferences": reference, "labels": labels}})).await;
    let message = case.failed("app", "belongs to ConfigMap owner").await;
    assert!(message.contains(&format!("not to ExternalSecret {}/app", case.name)), "{message}");
    case.secret_is("app", &[("theirs", "CANARY-t")]).await;
    patch_secret(&case, "app", json!({"metadata": {"ownerReferences": null}})).await;
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    stop(operator);
}

#[tokio::test]
async fn an_error_of_the_provider_is_never_nothing_there() {
    let case = Case::new("neverlost").await;
    let vault = &case.harness.vault;
    let proxy = Proxy::to(vault.url.trim_start_matches("http://"));
    for key in ["here", "gone"] {
        case.put(key, json!({"p": "CANARY-p"})).await;
    }
    let paths = |keys: &[&str]| keys.iter().map(|k| format!("secret/data/{}/{k}", case.name)).collect::<Vec<_>>();
    let allow = async |keys: &[&str]| {
        let paths = paths(keys);
        vault.policy(&case.name, &paths.iter().map(String::as_str).collect::<Vec<_>>()).await;
    };
    allow(&["here", "gone"]).await;
    let token = vault.token(&["default", &case.name], "1h").await;
    case.apply_secret("vault-token", &[("token", &token)]).await;
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}});
    case.apply_store("vault", case.vault_at(&format!("http://{}", proxy.address), auth)).await;
    let whole = [("a", "CANARY-p"), ("b", "CANARY-p")];
    let all = ["delete", "merge", "retain"];
    for (name, policy) in all.iter().zip(["Delete", "Merge", "Retain"]) {
        let data = json!([case.data("a", "here", "p"), case.data("b", "gone", "p")]);
        case.external_secret(name, json!({"data": data, "target": {"deletionPolicy": policy}})).await;
        case.secret_is(name, &whole).await;
    }
    let uids = async || {
        let mut uids = Vec::new();
        for name in all {
            uids.push(case.secrets().get(name).await.unwrap().uid());
        }
        uids
    };
    let before = uids().await;
    let fails = async |needle: &str| {
        for name in all {
            case.force_sync(name).await;
            case.failed(name, needle).await;
            case.secret_is(name, &whole).await;
        }
    };
    // Not one key, nor all, nor one beside a key that is authoritatively gone.
    allow(&["here"]).await;
    fails("code 403").await;
    vault.remove(&case.key("here")).await;
    fails("Vault has nothing at secret/data/").await;
    proxy.take_away();
    fails("could not be reached").await;
    assert_eq!(uids().await, before, "nothing was made anew");
    proxy.bring_back();
    // With leave to look, what is gone is gone.
    allow(&["here", "gone"]).await;
    vault.remove(&case.key("gone")).await;
    for name in all {
        case.force_sync(name).await;
    }
    case.secret_gone("delete").await;
    case.secret_is("merge", &[]).await;
    case.secret_is("retain", &whole).await;
}

#[tokio::test]
async fn a_typed_secret_is_checked_before_it_is_made() {
    let case = Case::new("types").await;
    case.vault_store().await;
    case.put("app", json!({"other": "CANARY-o", ".dockerconfigjson": "CANARY no json", "tls.crt": "CANARY-c"})).await;
    for (i, (type_, key, needle)) in [
        ("kubernetes.io/tls", "tls.crt", "kubernetes.io/tls needs the key tls.key"),
        ("kubernetes.io/dockerconfigjson", "other", "needs the key .dockerconfigjson"),
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", "needs JSON under the key .dockerconfigjson"),
        ("kubernetes.io/dockercfg", "other", "needs the key .dockercfg"),
        ("kubernetes.io/ssh-auth", "other", "needs the key ssh-privatekey"),
        ("kubernetes.io/basic-auth", "other", "needs the key username or the key password"),
        ("bootstrap.kubernetes.io/token", "other", "is refused: such a Secret is a credential of the cluster itself"),
        ("kubernetes.io/service-account-token", "other", "is refused: such a Secret is a credential of the cluster itself"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("typed-{i}");
        let data = json!([{"secretKey": key, "remoteRef": {"key": case.key("app"), "property": key.replace('.', "\\.")}}]);
        case.external_secret(&name, json!({"data": data, "target": {"template": {"type": type_}}})).await;
        let message = case.failed(&name, needle).await;
        assert!(!message.contains("CANARY"), "{message}");
        assert!(case.secret(&name).await.is_none(), "{type_} is not made");
    }
    case.put("docker", json!({"config": r#"{"auths":{}}"#})).await;
    let docker = json!({"data": [case.data(".dockerconfigjson", "docker", "config")], "target": {"template": {"type": "kubernetes.io/dockerconfigjson"}}});
    case.external_secret("docker", docker).await;
    case.synced("docker").await;
    assert_eq!(case.secrets().get("docker").await.unwrap().type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
}
