//! What a store is told of itself, and when it is asked again.

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use lockstep_crds::SecretStore;
use lockstep_e2e::faults::Fault;
use lockstep_e2e::harness::{self, create_namespace, eventually};
use lockstep_e2e::vault::ROOT;
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

fn token_auth() -> Value {
    json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}})
}

fn store(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "external-secrets.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn stores(case: &Case) -> Api<SecretStore> {
    Api::namespaced(case.client.clone(), &case.name)
}

#[tokio::test]
async fn a_store_has_exactly_one_provider() {
    let case = Case::new("oneprovider").await;
    let vault = case.vault_at(&case.harness.vault.url, token_auth());
    let mut two = vault.clone();
    two["fake"] = json!({"data": []});
    for kind in ["SecretStore", "ClusterSecretStore"] {
        for (provider, needle) in [(two.clone(), "at most 1"), (json!({}), "at least 1")] {
            let error = case.apply(store(kind, &case.name, json!({"provider": provider}))).await.expect_err(needle).to_string();
            assert!(error.contains("spec.provider") && error.contains(needle), "{error}");
        }
    }
}

#[tokio::test]
async fn an_empty_class_is_the_default_class_and_another_is_somebody_elses() {
    let case = Case::new("classes").await;
    let fake = json!({"fake": {"data": []}});
    for (name, class) in [("other", "somebody"), ("empty", ""), ("default", "default")] {
        case.apply(store("SecretStore", name, json!({"controller": class, "provider": fake}))).await.unwrap();
    }
    case.store_is("empty", "True", "Valid", "").await;
    case.store_is("default", "True", "Valid", "").await;
    assert!(stores(&case).get("other").await.unwrap().status.is_none(), "it came before the two that were answered");
}

/// A name whose turn in the default interval comes soonest, also when its store is valid only half a minute from now.
fn early_name(case: &Case, begins: &str) -> String {
    let now = jiff::Timestamp::now();
    let later = now + jiff::SignedDuration::from_secs(30);
    let names = (0..400).map(|i| format!("{begins}-{i}"));
    let first_turn = |name: &String, from: jiff::Timestamp| {
        let phase = lockstep::keys::stable_hash(&[&case.name, name]);
        lockstep::store::plan::turn(&Default::default(), phase).after(from)
    };
    let steady = names.filter(|name| first_turn(name, now) == first_turn(name, later));
    steady.min_by_key(|name| first_turn(name, now)).unwrap()
}

#[tokio::test]
async fn a_healthy_store_is_validated_at_its_interval_in_silence() {
    let case = Case::new("interval").await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    let mut probes = Vec::new();
    let (zero, none) = (early_name(&case, "zero"), early_name(&case, "none"));
    let all = [("number", json!(1)), ("text", json!("1s")), (&*zero, json!(0)), (&*none, Value::Null), ("hours", json!("10h"))];
    for (name, every) in all {
        let (url, _, seen) = case.watched_vault();
        let mut spec = json!({"provider": case.vault_at(&url, token_auth()), "refreshInterval": every});
        spec.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        case.apply(store("SecretStore", name, spec)).await.unwrap();
        case.store_is(name, "True", "Valid", "").await;
        probes.push((name.to_owned(), seen));
    }
    let count = |name: &str| probes.iter().find(|(n, _)| *n == name).unwrap().1.of("GET", "lookup-self").len();
    let before: Vec<_> = stores(&case).list(&Default::default()).await.unwrap().items;
    let first = (count("number"), count("text"), count(&zero), count(&none), count("hours"));
    eventually("those with an interval of a second are validated again and again", async || {
        (count("number") >= first.0 + 4 && count("text") >= first.1 + 4).then_some(())
    })
    .await;
    assert_eq!((count(&zero), count(&none)), (first.2, first.3), "theirs is longer");
    // Within five minutes they are too: these names' first turn comes after less than one.
    for _ in 0..120 {
        if count(&zero) > first.2 && count(&none) > first.3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(count(&zero) > first.2 && count(&none) > first.3, "five minutes are the default");
    assert_eq!(count("hours"), first.4);
    for old in before {
        let name = old.name_any();
        let new = stores(&case).get(&name).await.unwrap();
        assert_eq!(new.resource_version(), old.resource_version(), "{name} is written once");
        assert_eq!(case.events_about("SecretStore", &name).await, [("Valid".to_owned(), 1)].into(), "{name}");
    }
}

#[tokio::test]
async fn a_namespace_regexp_must_match_the_whole_name() {
    let case = Case::new("nsregex").await;
    let (longer, other) = (format!("{}-longer", case.name), format!("x-{}", case.name));
    for namespace in [&longer, &other] {
        create_namespace(&case.client, namespace).await;
    }
    let fake = json!({"fake": {"data": [{"key": "k", "value": "CANARY-v"}]}});
    let regexp = case.name.replace("nsregex", "ns[a-z]+");
    case.apply_cluster_store(&case.name, fake, json!([{"namespaceRegexes": [format!("nothing|{regexp}")]}])).await;
    let object = |namespace: &str| {
        json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "app", "namespace": namespace},
            "spec": {"secretStoreRef": {"name": case.name, "kind": "ClusterSecretStore"}, "data": [{"secretKey": "k", "remoteRef": {"key": "k"}}]}})
    };
    for namespace in [&case.name, &longer, &other] {
        harness::apply(&case.client, None, object(namespace)).await.unwrap();
    }
    case.secret_is("app", &[("k", "CANARY-v")]).await;
    for namespace in [&longer, &other] {
        let objects: Api<lockstep_crds::ExternalSecret> = Api::namespaced(case.client.clone(), namespace);
        eventually("it is refused", async || {
            let message = objects.get("app").await.unwrap().status?.conditions.first()?.message.clone()?;
            message.contains(&format!("does not admit namespace {namespace}")).then_some(())
        })
        .await;
        assert!(harness::secret(&case.client, namespace, "app").await.is_none());
    }
    case.delete_cluster_store(&case.name).await;
}

#[tokio::test]
async fn a_store_tries_again_as_often_as_it_says_before_anybody_is_told() {
    let case = Case::new("retries").await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    case.apply_secret("source", &[("k", "CANARY-k")]).await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    let (url, faults, seen) = case.watched_vault();
    let settings = json!({"maxRetries": 3, "retryInterval": "10ms"});
    let spec = json!({"provider": case.vault_at(&url, token_auth()), "retrySettings": settings});
    case.apply(store("SecretStore", "patient", spec)).await.unwrap();
    let (url, plain_faults, plain_seen) = case.watched_vault();
    case.apply_store("plain", case.vault_at(&url, token_auth())).await;
    for name in ["patient", "plain"] {
        case.store_is(name, "True", "Valid", "").await;
    }
    let fail = |method: &'static str, part: String| {
        let failing = Fault::Answer { status: 500, retry_after: None, body: r#"{"errors":["internal error"]}"#.into() };
        (failing, move |parts: &axum::http::request::Parts, _: &axum::body::Bytes| {
            parts.method == method && parts.uri.path().contains(&part)
        })
    };
    let path = format!("/secret/data/{}", case.key("app"));
    for faults in [&faults, &plain_faults] {
        let (fault, when) = fail("GET", path.clone());
        faults.add(2, fault, when);
    }
    let of = |store: &str, more: Value| {
        let mut spec = json!({"secretStoreRef": {"name": store}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let data = json!({"data": [case.data("p", "app", "p")]});
    case.external_secret("plain", of("plain", data.clone())).await;
    case.external_secret("patient", of("patient", data)).await;
    case.synced("patient").await;
    assert_eq!(seen.of("GET", &path).len(), 3);
    assert_eq!(case.events("patient").await.get("UpdateFailed"), None);
    // Without settings it is told at the first failure.
    eventually("the failure is told", async || case.events("plain").await.get("UpdateFailed").map(drop)).await;
    case.synced("plain").await;
    assert_eq!(plain_seen.of("GET", &path).len(), 3);

    let list = format!("/secret/metadata/{}", case.name);
    let (fault, when) = fail("GET", list.clone());
    faults.add(2, fault, when);
    let find = json!({"dataFrom": [{"find": {"path": case.name, "name": {"regexp": "app"}}}]});
    case.external_secret("found", of("patient", find)).await;
    case.synced("found").await;
    assert_eq!(seen.of("GET", &list).len(), 3);
    assert_eq!(case.events("found").await.get("UpdateFailed"), None);

    let pushed = format!("/secret/data/{}", case.key("pushed"));
    let (fault, when) = fail("POST", pushed.clone());
    faults.add(2, fault, when);
    let push = json!({"secretStoreRefs": [{"name": "patient"}], "selector": {"secret": {"name": "source"}},
        "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": case.key("pushed"), "property": "k"}}}]});
    case.apply(
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "push"}, "spec": push}),
    )
    .await
    .unwrap();
    eventually("it is pushed", async || {
        let value = case.harness.vault.read(&format!("secret/data/{}", case.key("pushed"))).await;
        (value["data"]["data"]["k"] == "CANARY-k").then_some(())
    })
    .await;
    assert_eq!(seen.of("POST", &pushed).len(), 3);
    assert_eq!(case.events_about("PushSecret", "push").await.get("Errored"), None);
}

#[tokio::test]
async fn what_a_store_can_do_is_one_of_three() {
    let case = Case::new("able").await;
    case.apply_store("vault", case.vault_at(&case.harness.vault.url, token_auth())).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    case.apply_store("fake", json!({"fake": {"data": []}})).await;
    let url = format!("{}/x", case.harness.vault.url);
    case.apply_store("hook", json!({"webhook": {"url": url, "result": {"jsonPath": "$"}}})).await;
    for name in ["vault", "fake", "hook"] {
        let able =
            eventually("it says what it can do", async || stores(&case).get(name).await.unwrap().status?.capabilities).await;
        assert_eq!(able, "ReadWrite", "{name}");
    }
    // The other two are for providers that somebody else serves.
    case.apply(store("SecretStore", "theirs", json!({"controller": "somebody", "provider": {"fake": {"data": []}}})))
        .await
        .unwrap();
    let write = async |able: &str| {
        let patch = json!({"status": {"capabilities": able}});
        stores(&case).patch_status("theirs", &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    for able in ["ReadOnly", "WriteOnly"] {
        assert_eq!(write(able).await.unwrap().status.unwrap().capabilities.as_deref(), Some(able));
    }
}

#[tokio::test]
async fn what_its_users_are_refused_is_the_stores_condition_at_once() {
    let case = Case::new("refusedlogin").await;
    let vault = &case.harness.vault;
    case.put("app", json!({"p": "CANARY-p"})).await;
    vault.policy(&case.name, &[&format!("secret/data/{}/*", case.name)]).await;
    let token = vault.token(&["default", &case.name], "1h").await;
    case.apply_secret("vault-token", &[("token", &token)]).await;
    case.apply_store("vault", case.vault_at(&vault.url, token_auth())).await;
    case.change_store("vault", json!({"refreshInterval": "10h"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.synced("app").await;
    case.store_is("vault", "True", "Valid", "").await;
    vault.write("auth/token/revoke", json!({"token": token})).await;
    case.force_sync("app").await;
    case.failed("app", "code 403").await;
    // Its own validation is hours away.
    case.store_is("vault", "False", "InvalidProviderConfig", "code 403").await;
    case.secret_is("app", &[("p", "CANARY-p")]).await;
}

#[tokio::test]
async fn all_failing_keys_are_listed_by_store_key_and_property() {
    let case = Case::new("failing").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    let vault = &case.harness.vault;
    let token = vault.token(&["default"], "1h").await;
    case.apply_secret("weak", &[("token", &token)]).await;
    case.apply_store("weak", case.vault_at(&vault.url, json!({"tokenSecretRef": {"name": "weak", "key": "token"}}))).await;
    let mut denied = case.data("e", "shut", "p");
    denied["sourceRef"] = json!({"storeRef": {"name": "weak"}});
    let data = json!([
        case.data("a", "app", "p"),
        case.data("b", "app", "no-such"),
        case.data("c", "nowhere", "p"),
        case.data("d", "neither", "q"),
        denied
    ]);
    case.external_secret("app", json!({"data": data})).await;
    let message = case.failed("app", "/shut").await;
    for part in [
        format!("SecretStore {}/vault", case.name),
        format!("SecretStore {}/weak", case.name),
        "property no-such; it has p".to_owned(),
        case.key("nowhere"),
        case.key("neither"),
        case.key("shut"),
        "code 403".to_owned(),
        "policies must allow read".to_owned(),
    ] {
        assert!(message.contains(&part), "{part} in {message}");
    }
    assert!(case.secret("app").await.is_none());
}

#[tokio::test]
async fn an_authority_that_changes_is_taken_up_at_once() {
    let case = Case::new("authority").await;
    let vault = &case.harness.vault;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    let authority =
        |pem: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": pem}});
    let wrong = lockstep_e2e::control_plane::Authority::new("somebody-else");
    case.apply(authority(&wrong.pem)).await.unwrap();
    for (kind, name) in [("ConfigMap", "map"), ("Secret", "secret")] {
        let mut provider = case.vault_at(&vault.tls_url, token_auth());
        provider["vault"]["caProvider"] = json!({"type": kind, "name": "ca", "key": "ca.crt"});
        case.apply_secret("ca", &[("ca.crt", &wrong.pem)]).await;
        case.apply_store(name, provider).await;
        let spec = json!({"secretStoreRef": {"name": name}, "data": [case.data("p", "app", "p")]});
        case.external_secret(name, spec).await;
        case.failed(name, "certificate").await;
    }
    case.apply(authority(&vault.authority.pem)).await.unwrap();
    case.synced("map").await;
    case.store_is("map", "True", "Valid", "").await;
    assert_eq!(case.ready_of("secret").await.unwrap().status, "False");
    case.apply_secret("ca", &[("ca.crt", &vault.authority.pem)]).await;
    case.synced("secret").await;
}
