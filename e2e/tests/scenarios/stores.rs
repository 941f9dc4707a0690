//! Stores that are wrong, get fixed, are shared, or are somebody else's.

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use lockstep_crds::SecretStore;
use lockstep_e2e::harness::{apply, create_namespace, eventually};
use lockstep_e2e::proxy::Proxy;
use lockstep_e2e::vault::ROOT;
use serde_json::json;

use lockstep_e2e::case::Case;

fn token_auth() -> serde_json::Value {
    json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}})
}

#[tokio::test]
async fn a_store_says_that_it_is_valid_and_what_it_can_do() {
    let case = Case::new("valid").await;
    case.vault_store().await;
    case.store_is("vault", "True", "Valid", "store validated").await;
    let api: Api<SecretStore> = Api::namespaced(case.client.clone(), &case.name);
    assert_eq!(api.get("vault").await.unwrap().status.unwrap().capabilities.as_deref(), Some("ReadWrite"));
}

#[tokio::test]
async fn a_wrong_store_that_gets_fixed_makes_its_objects_ready_at_once() {
    let case = Case::new("fix").await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    let wrong = json!({"vault": {"server": case.harness.vault.url, "path": "nowhere", "auth": token_auth()}});
    case.apply_store("vault", wrong).await;
    for i in 0..20 {
        case.external_secret(&format!("app-{i}"), json!({"data": [case.data("p", "app", "p")]})).await;
    }
    for i in 0..20 {
        case.failed(&format!("app-{i}"), "Vault has no engine for nowhere/data/").await;
    }
    case.vault_store().await;
    // Their retry is an hour away: only the store's change brings them back.
    for i in 0..20 {
        case.synced(&format!("app-{i}")).await;
    }
}

#[tokio::test]
async fn a_token_secret_that_appears_late_or_is_rotated_is_taken_up_at_once() {
    let case = Case::new("token").await;
    let vault = &case.harness.vault;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_store("vault", case.vault_at(&vault.url, token_auth())).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    let message = case.failed("app", "does not exist; create it").await;
    assert!(message.contains("spec.provider.vault.auth.tokenSecretRef: Secret token-"), "{message}");
    case.store_is("vault", "False", "InvalidProviderConfig", "does not exist; create it").await;
    let denied = vault.token(&["default"], "1h").await;
    case.apply_secret("vault-token", &[("token", &denied)]).await;
    case.failed("app", "code 403: ").await;
    vault.policy(&case.name, &[&format!("secret/data/{}/*", case.name)]).await;
    let good = vault.token(&["default", &case.name], "1h").await;
    case.apply_secret("vault-token", &[("token", &good)]).await;
    case.synced("app").await;
    case.store_is("vault", "True", "Valid", "").await;
    case.apply_secret("vault-token", &[("other", "CANARY-x")]).await;
    let patch = json!({"data": {"token": null}});
    case.secrets().patch("vault-token", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    case.failed("app", "has no key token; it has other").await;
    case.secret_is("app", &[("p", "CANARY-p")]).await;
}

#[tokio::test]
async fn vault_goes_away_and_comes_back() {
    let case = Case::new("away").await;
    let proxy = Proxy::to(case.harness.vault.url.trim_start_matches("http://"));
    case.put("app", json!({"p": "CANARY-1"})).await;
    case.vault_store_at(&format!("http://{}", proxy.address)).await;
    // Its own validation is far away: what its users meet is its condition.
    case.change_store("vault", json!({"refreshInterval": "10h"})).await;
    for name in ["app", "other"] {
        case.external_secret(name, json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
        case.secret_is(name, &[("p", "CANARY-1")]).await;
    }
    proxy.take_away();
    for name in ["app", "other"] {
        case.failed(name, "could not be reached").await;
        case.secret_is(name, &[("p", "CANARY-1")]).await;
    }
    case.store_is("vault", "False", "InvalidProviderConfig", "could not be reached").await;
    case.put("app", json!({"p": "CANARY-2"})).await;
    proxy.bring_back();
    for name in ["app", "other"] {
        case.secret_is(name, &[("p", "CANARY-2")]).await;
        case.synced(name).await;
    }
    case.store_is("vault", "True", "Valid", "").await;
}

#[tokio::test]
async fn when_vault_denies_some_keys_all_of_them_are_named_and_nothing_is_written() {
    let case = Case::new("denied").await;
    let vault = &case.harness.vault;
    for key in ["open", "shut", "closed"] {
        case.put(key, json!({"p": "CANARY-p"})).await;
    }
    vault.policy(&case.name, &[&format!("secret/data/{}/open", case.name)]).await;
    let token = vault.token(&["default", &case.name], "1h").await;
    case.apply_secret("vault-token", &[("token", &token)]).await;
    case.apply_store("vault", case.vault_at(&vault.url, token_auth())).await;
    let data = json!([case.data("a", "open", "p"), case.data("b", "shut", "p"), case.data("c", "closed", "p")]);
    case.external_secret("app", json!({"data": data})).await;
    let message = case.failed("app", "permission denied").await;
    for part in ["SecretStore denied-", "/shut", "/closed", "property p", "code 403", "policies must allow read"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(!message.contains("/open"), "{message}");
    assert!(case.secret("app").await.is_none());
}

#[tokio::test]
async fn a_cluster_store_serves_the_namespaces_that_its_conditions_name_and_no_others() {
    let case = Case::new("cluster").await;
    let other = format!("{}-other", case.name);
    create_namespace(&case.client, &other).await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    let provider = case.vault_at(
        &case.harness.vault.url,
        json!({"tokenSecretRef": {"name": "vault-token", "namespace": case.name, "key": "token"}}),
    );
    let labelled = json!([{"namespaces": [case.name]}, {"namespaceSelector": {"matchLabels": {"may-use": case.name}}}]);
    case.apply_cluster_store(&case.name, provider, labelled).await;
    let object = |namespace: &str| {
        json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "app", "namespace": namespace},
            "spec": {"secretStoreRef": {"name": case.name, "kind": "ClusterSecretStore"}, "data": [case.data("p", "app", "p")]}})
    };
    apply(&case.client, None, object(&case.name)).await.unwrap();
    apply(&case.client, None, object(&other)).await.unwrap();
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    let objects: Api<lockstep_crds::ExternalSecret> = Api::namespaced(case.client.clone(), &other);
    let message = async || {
        let status = objects.get("app").await.unwrap().status?;
        status.conditions.first()?.message.clone()
    };
    eventually("the other namespace is refused", async || {
        message().await.filter(|m| m.contains(&format!("does not admit namespace {other}"))).map(drop)
    })
    .await;
    assert!(lockstep_e2e::harness::secret(&case.client, &other, "app").await.is_none());
    // A label admits it, at once.
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(case.client.clone());
    let patch = json!({"metadata": {"labels": {"may-use": case.name}}});
    namespaces.patch(&other, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    eventually("the label admits it", async || lockstep_e2e::harness::secret(&case.client, &other, "app").await.map(drop)).await;
    case.delete_cluster_store(&case.name).await;
}

#[tokio::test]
async fn a_cluster_store_without_namespaces_in_its_references_reads_each_users_own() {
    let case = Case::new("referent").await;
    let other = format!("{}-other", case.name);
    create_namespace(&case.client, &other).await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    case.apply_cluster_store(&case.name, case.vault_at(&case.harness.vault.url, token_auth()), json!([])).await;
    let object = |namespace: &str| {
        json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "app", "namespace": namespace},
            "spec": {"secretStoreRef": {"name": case.name, "kind": "ClusterSecretStore"}, "data": [case.data("p", "app", "p")]}})
    };
    apply(&case.client, None, object(&case.name)).await.unwrap();
    apply(&case.client, None, object(&other)).await.unwrap();
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    let objects: Api<lockstep_crds::ExternalSecret> = Api::namespaced(case.client.clone(), &other);
    // The other namespace has no such Secret, and is not served with this one's.
    eventually("the other is told which Secret is missing", async || {
        let message = objects.get("app").await.unwrap().status?.conditions.first()?.message.clone()?;
        message.contains(&format!("Secret {other}/vault-token does not exist")).then_some(())
    })
    .await;
    let stores: Api<lockstep_crds::ClusterSecretStore> = Api::all(case.client.clone());
    eventually("the store says that it can't be validated alone", async || {
        let status = stores.get(&case.name).await.unwrap().status?;
        let c = status.conditions.first()?.clone();
        (c.status == "True" && c.reason.as_deref() == Some("ValidationUnknown")).then_some(())
    })
    .await;
    case.delete_cluster_store(&case.name).await;
}

#[tokio::test]
async fn a_store_and_an_object_of_another_class_are_left_alone() {
    let case = Case::with_own_class("class").await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.vault_store().await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    // The shared operator has seen both once it has served an object that was made after them.
    let later = Case::new("class-later").await;
    later.vault_store().await;
    later.put("app", json!({"p": "CANARY-p"})).await;
    later.external_secret("app", json!({"data": [later.data("p", "app", "p")]})).await;
    later.synced("app").await;
    assert!(case.ready_of("app").await.is_none());
    assert!(case.secret("app").await.is_none());
    let api: Api<SecretStore> = Api::namespaced(case.client.clone(), &case.name);
    assert!(api.get("vault").await.unwrap().status.is_none());
    // Its own operator serves it.
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    case.synced("app").await;
}

#[tokio::test]
async fn of_stores_of_two_classes_the_first_that_is_there_says_whose_operator_speaks() {
    let case = Case::with_own_class("classes").await;
    let provider = json!({"fake": {"data": [{"key": "k", "value": "CANARY-v"}]}});
    case.apply_store("own", provider.clone()).await;
    let shared = json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": "shared"}, "spec": {"provider": provider}});
    case.apply(shared).await.unwrap();
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    let plain = json!({"secretKey": "v", "remoteRef": {"key": "k"}});
    let of = |first: &str, second: &str| {
        let other = json!({"secretKey": "w", "remoteRef": {"key": "k"}, "sourceRef": {"storeRef": {"name": second}}});
        json!({"secretStoreRef": {"name": first}, "data": [plain, other]})
    };
    case.external_secret("ours", of("own", "shared")).await;
    case.external_secret("theirs", of("shared", "own")).await;
    case.external_secret("lacking", of("nowhere", "own")).await;
    let class = case.class.clone().unwrap();
    let ours = case.failed("ours", &format!("has another controller class than {class}")).await;
    let theirs = case.failed("theirs", "has another controller class than default").await;
    let lacking = case.failed("lacking", "nowhere does not exist").await;
    // Both have seen all of it once each has served what was made after it.
    for (name, store) in [("later-own", "own"), ("later-shared", "shared")] {
        case.external_secret(name, json!({"secretStoreRef": {"name": store}, "data": [plain]})).await;
        case.synced(name).await;
    }
    for (name, message) in [("ours", ours), ("theirs", theirs), ("lacking", lacking)] {
        assert_eq!(case.ready_of(name).await.unwrap().message, message, "nobody else speaks of {name}");
        assert_eq!(case.events(name).await.values().sum::<usize>(), 1, "one operator tells of {name}");
    }
}

#[tokio::test]
async fn an_unknown_provider_survives_and_is_named_unless_somebody_else_serves_it() {
    let case = Case::new("unknown").await;
    case.apply_store("acme", json!({"acme": {"url": "https://acme.example", "deep": {"kept": [1, 2]}}})).await;
    let message = case.store_is("acme", "False", "InvalidProviderConfig", "spec.provider.acme").await;
    assert!(message.contains("known: aws, azurekv, fake, gcpsm, kubernetes, openbao, vault, webhook"), "{message}");
    let api: Api<SecretStore> = Api::namespaced(case.client.clone(), &case.name);
    assert_eq!(api.get("acme").await.unwrap().spec.provider.0["acme"]["deep"]["kept"], json!([1, 2]));
    // Somebody else writes its status: from then on it is theirs.
    let theirs = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Valid", "message": "theirs"}]}});
    api.patch_status("acme", &PatchParams::default(), &Patch::Merge(&theirs)).await.unwrap();
    let patch = json!({"spec": {"provider": {"acme": {"url": "https://other.example"}}}});
    api.patch("acme", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    case.apply_store("marker", json!({"fake": {"data": []}})).await;
    case.store_is("marker", "True", "Valid", "").await;
    assert_eq!(case.store_is("acme", "True", "Valid", "theirs").await, "theirs");
    assert!(api.get("acme").await.unwrap().resource_version().is_some());
}

#[tokio::test]
async fn a_namespaced_store_can_not_read_the_secrets_of_another_namespace() {
    let case = Case::new("tenant").await;
    let other = Case::new("victim").await;
    other.apply_secret("vault-token", &[("token", ROOT)]).await;
    let stolen = json!({"tokenSecretRef": {"name": "vault-token", "namespace": other.name, "key": "token"}});
    case.apply_store("vault", case.vault_at(&case.harness.vault.url, stolen)).await;
    let message = case.store_is("vault", "False", "InvalidProviderConfig", "reads its own namespace only").await;
    assert!(message.contains("spec.provider.vault.auth.tokenSecretRef.namespace"), "{message}");
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.failed("app", "reads its own namespace only").await;
}

#[tokio::test]
async fn limits_in_annotations_take_effect_without_a_new_connection_and_wrong_ones_are_named() {
    let case = Case::new("limits").await;
    case.vault_store().await;
    case.store_is("vault", "True", "Valid", "").await;
    let annotate = async |rate: Option<&str>| {
        let patch = json!({"metadata": {"annotations": {"lockstep.dev/max-calls-per-second": rate}}});
        let api: kube::Api<lockstep_crds::SecretStore> = kube::Api::namespaced(case.client.clone(), &case.name);
        api.patch("vault", &Default::default(), &kube::api::Patch::Merge(&patch)).await.unwrap();
    };
    annotate(Some("plenty")).await;
    case.store_is("vault", "False", "InvalidProviderConfig", "lockstep.dev/max-calls-per-second] is no number").await;
    annotate(Some("2")).await;
    case.store_is("vault", "True", "Valid", "").await;
    two_reads_a_second_are_made_at_most(&case).await;
}

#[tokio::test]
async fn a_limit_of_the_command_line_holds_for_stores_that_set_none() {
    let case = Case::with_own_class("limit-flag").await;
    case.vault_store().await;
    let operator = case.own_operator("a", &["--leader-elect=false", "--store-rate", "2", "--namespace", &case.name]);
    operator.wait_working();
    case.store_is("vault", "True", "Valid", "").await;
    two_reads_a_second_are_made_at_most(&case).await;
}

async fn two_reads_a_second_are_made_at_most(case: &Case) {
    let begun = std::time::SystemTime::now();
    for i in 0..12 {
        case.put(&format!("app-{i}"), json!({"p": "CANARY-p"})).await;
        case.external_secret(&format!("app-{i}"), json!({"data": [case.data("p", &format!("app-{i}"), "p")]})).await;
    }
    for i in 0..12 {
        case.synced(&format!("app-{i}")).await;
    }
    let by_second = case.harness.vault.requests_by_second(&format!("secret/data/{}", case.name), begun, 60);
    assert_eq!(by_second.iter().sum::<u64>(), 12);
    // Two a second, and one that may have been saved up; the seconds of the count are not those of the limit.
    assert!(by_second.iter().all(|n| *n <= 4), "{by_second:?}");
}

#[tokio::test]
async fn a_store_with_a_wrong_annotation_serves_its_objects_again_after_an_outage() {
    let case = Case::new("wrong-and-away").await;
    let proxy = Proxy::to(case.harness.vault.url.trim_start_matches("http://"));
    case.vault_store_at(&format!("http://{}", proxy.address)).await;
    let patch = json!({"metadata": {"annotations": {"lockstep.dev/max-calls-per-second": "fast"}}});
    let api: kube::Api<lockstep_crds::SecretStore> = kube::Api::namespaced(case.client.clone(), &case.name);
    api.patch("vault", &Default::default(), &kube::api::Patch::Merge(&patch)).await.unwrap();
    case.store_is("vault", "False", "InvalidProviderConfig", "is no number").await;
    case.put("app", json!({"p": "CANARY-1"})).await;
    case.external_secret("app", json!({"refreshInterval": "1s", "data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    proxy.take_away();
    case.failed("app", "").await;
    case.put("app", json!({"p": "CANARY-2"})).await;
    proxy.bring_back();
    case.secret_is("app", &[("p", "CANARY-2")]).await;
    case.synced("app").await;
}
