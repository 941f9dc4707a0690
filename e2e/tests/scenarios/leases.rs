//! What Vault issues, with a real database behind it: kept alive while it is used, given back when it is not.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams};
use lockstep_crds::GeneratorState;
use lockstep_e2e::harness::eventually;
use lockstep_e2e::postgres::{self, Postgres};
use lockstep_e2e::vault::ROOT;
use serde_json::{Value, json};

use crate::generators::{from, generator, values};
use lockstep_e2e::case::Case;

/// The database, with Vault's engine for it at `database`.
pub async fn database(case: &Case) -> &'static Postgres {
    postgres::shared(&case.harness).await
}

pub async fn role(case: &Case, name: &str, ttl: &str, max: &str) {
    postgres::role(&case.harness.vault, name, ttl, max).await;
}

/// A generator for a role, as the holder of a Secret's token.
async fn credentials(case: &Case, name: &str, auth: Value) {
    let provider = json!({"server": case.harness.vault.url, "auth": auth});
    generator(case, "VaultDynamicSecret", name, json!({"path": format!("database/creds/{name}"), "provider": provider})).await;
}

fn root() -> Value {
    json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}})
}

fn states(case: &Case) -> Api<GeneratorState> {
    Api::namespaced(case.client.clone(), &case.name)
}

async fn leases(case: &Case) -> Vec<String> {
    let all = states(case).list(&Default::default()).await.unwrap().items;
    all.into_iter().map(|s| s.spec.state["lease"]["id"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn logs_in(postgres: &'static Postgres, pair: &BTreeMap<String, String>) -> bool {
    let (user, password) = (pair["username"].clone(), pair["password"].clone());
    tokio::task::spawn_blocking(move || postgres.logs_in(&user, &password)).await.unwrap()
}

#[tokio::test]
async fn a_login_of_a_real_database_works_while_it_is_used_and_no_longer() {
    let case = Case::new("lease").await;
    let postgres = database(&case).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    role(&case, &case.name, "8s", "1h").await;
    credentials(&case, &case.name, root()).await;
    case.external_secret("db", json!({"secretStoreRef": null, "dataFrom": [from("VaultDynamicSecret", &case.name)]})).await;
    let pair = values(&case, "db").await;
    assert!(logs_in(postgres, &pair).await);
    let before = leases(&case).await;
    assert_eq!(before.len(), 1);

    // Twice its time, a refresh that somebody asks for, and another object: it is prolonged, and nothing is issued again.
    let renewals = || case.harness.vault.requests("update", "sys/leases/renew");
    let since = renewals();
    eventually("it was prolonged", async || (renewals() >= since + 4).then_some(())).await;
    case.force_sync("db").await;
    assert_eq!(values(&case, "db").await, pair);
    case.external_secret("other", json!({"secretStoreRef": null, "dataFrom": [from("VaultDynamicSecret", &case.name)]})).await;
    let other = values(&case, "other").await;
    assert_ne!(other, pair, "each object has a login of its own");
    assert!(logs_in(postgres, &pair).await);
    assert_eq!(leases(&case).await.len(), 2);

    case.delete("db").await;
    eventually("the login is gone", async || (!logs_in(postgres, &pair).await).then_some(())).await;
    eventually("and what was kept of it", async || (leases(&case).await.len() == 1).then_some(())).await;
    assert!(logs_in(postgres, &other).await);
}

#[tokio::test]
async fn a_restart_issues_nothing_again_and_a_lease_that_vault_no_longer_knows_is_made_anew_at_once() {
    let case = Case::with_own_class("leaserestart").await;
    let postgres = database(&case).await;
    let operator = case.own_operator("a", &["--generator-gc-grace-period", "1s"]);
    // A login of its own, which the operator makes and would give back at its end.
    let vault = &case.harness.vault;
    let (policy, user) = (case.name.clone(), "operator");
    vault.policy_of(&policy, &["read", "update"], &["database/creds/*", "sys/leases/*", "auth/token/renew-accessor"]).await;
    vault.auth(&case.name, "userpass").await;
    let login = json!({"password": "CANARY-login", "token_policies": [policy], "token_ttl": "20s", "token_max_ttl": "1h"});
    vault.write(&format!("auth/{}/users/{user}", case.name), login).await;
    case.apply_secret("login", &[("password", "CANARY-login")]).await;
    role(&case, &case.name, "10s", "1h").await;
    let auth = json!({"userPass": {"path": case.name, "username": user, "secretRef": {"name": "login", "key": "password"}}});
    let provider = json!({"server": vault.url, "auth": auth});
    let spec = json!({"path": format!("database/creds/{}", case.name), "provider": provider, "controller": case.name});
    generator(&case, "VaultDynamicSecret", &case.name, spec).await;
    let object =
        json!({"secretStoreRef": null, "refreshPolicy": "CreatedOnce", "dataFrom": [from("VaultDynamicSecret", &case.name)]});
    case.external_secret("db", object).await;
    let pair = values(&case, "db").await;
    let issued = || vault.requests("read", &format!("database/creds/{}", case.name));
    assert_eq!(issued(), 1);

    operator.process.signal("TERM");
    assert!(operator.process.wait_gone(Duration::from_secs(20)));
    let operator = case.own_operator("b", &["--generator-gc-grace-period", "1s"]);
    operator.wait_working();
    // Beyond the life of the first process' login: its accessor prolongs it.
    let renewals = || vault.requests("update", "auth/token/renew-accessor");
    let since = renewals();
    eventually("the login of the first process is prolonged", async || (renewals() >= since + 6).then_some(())).await;
    assert!(logs_in(postgres, &pair).await);
    assert_eq!(issued(), 1, "nothing was issued again");
    case.apply_secret("unrelated", &[("a", "b")]).await;
    // Its target is lost: what is kept beside it makes it again.
    case.secrets().delete("db", &DeleteParams::default()).await.unwrap();
    eventually("the target is back", async || case.secret("db").await.filter(|s| *s == pair)).await;
    assert_eq!(issued(), 1);

    vault.write(&format!("sys/leases/revoke-prefix/database/creds/{}", case.name), json!({})).await;
    assert!(!logs_in(postgres, &pair).await);
    let fresh = eventually("another login", async || case.secret("db").await.filter(|s| *s != pair)).await;
    assert!(logs_in(postgres, &fresh).await);
    eventually("the first is tidied away", async || (leases(&case).await.len() == 1).then_some(())).await;
    let _ = operator;
}

#[tokio::test]
async fn one_that_reaches_its_longest_time_or_whose_generator_changes_is_replaced_before_it_is_given_back() {
    let case = Case::with_own_class("leasereplace").await;
    let postgres = database(&case).await;
    let _operator = case.own_operator("a", &["--generator-gc-grace-period", "3s"]);
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    role(&case, &case.name, "6s", "9s").await;
    let spec = |path: &str| {
        let provider = json!({"server": case.harness.vault.url, "auth": root()});
        json!({"path": format!("database/creds/{path}"), "provider": provider, "controller": case.name})
    };
    generator(&case, "VaultDynamicSecret", "db", spec(&case.name)).await;
    case.external_secret("db", json!({"secretStoreRef": null, "dataFrom": [from("VaultDynamicSecret", "db")]})).await;
    let first = values(&case, "db").await;
    let second = eventually("it is replaced ahead of its end", async || case.secret("db").await.filter(|s| *s != first)).await;
    assert!(logs_in(postgres, &second).await);

    // Vault's user names begin with the role's.
    let longer = format!("long-{}", case.name);
    role(&case, &longer, "1h", "24h").await;
    generator(&case, "VaultDynamicSecret", "db", spec(&longer)).await;
    let long =
        eventually("the other role's", async || case.secret("db").await.filter(|s| s["username"].contains("-long-"))).await;
    assert!(logs_in(postgres, &long).await);
    eventually("the others are given back", async || {
        let left = leases(&case).await;
        (left.len() == 1 && left[0].contains(&longer)).then_some(())
    })
    .await;
    assert!(!logs_in(postgres, &second).await && !logs_in(postgres, &first).await);
    assert!(logs_in(postgres, &long).await);

    // What is there is kept while Vault can't be asked; a source that is no longer named is given back.
    case.external_secret("db", json!({"secretStoreRef": null, "dataFrom": [from("Fake", "fake")]})).await;
    generator(&case, "Fake", "fake", json!({"controller": case.name, "data": {"a": "b"}})).await;
    eventually("the login goes with the entry", async || (!logs_in(postgres, &long).await).then_some(())).await;
}

#[tokio::test]
async fn what_can_not_be_given_back_is_said_and_given_back_later_and_a_value_stands_nowhere_but_in_secrets() {
    let case = Case::new("leasedenied").await;
    let postgres = database(&case).await;
    let vault = &case.harness.vault;
    vault.policy_of(&case.name, &["read", "update"], &["database/creds/*", "sys/leases/renew", "sys/leases/lookup"]).await;
    let token = vault.token(&[&case.name], "1h").await;
    case.apply_secret("vault-token", &[("token", &token)]).await;
    role(&case, &case.name, "1h", "24h").await;
    credentials(&case, &case.name, root()).await;
    case.external_secret("db", json!({"secretStoreRef": null, "dataFrom": [from("VaultDynamicSecret", &case.name)]})).await;
    let pair = values(&case, "db").await;
    let state = states(&case).list(&Default::default()).await.unwrap().items.remove(0);
    let text = serde_json::to_string(&state).unwrap();
    assert!(!text.contains(&pair["password"]) && !text.contains(&pair["username"]), "no value in {text}");
    assert!(!case.shared_operator().process.output().contains(&pair["password"]));
    let kept = case.secrets().get(state.metadata.name.as_deref().unwrap()).await.unwrap();
    assert_eq!(kept.type_.as_deref(), Some("generators.external-secrets.io/state"));

    case.delete("db").await;
    let name = state.metadata.name.unwrap();
    let said = eventually("it is said", async || {
        let conditions = states(&case).get_opt(&name).await.unwrap()?.status?.conditions;
        conditions.into_iter().find(|c| c.reason.as_deref() == Some("RevocationFailed"))?.message
    })
    .await;
    assert!(said.contains("code 403") && said.contains("sys/leases/revoke"), "{said}");
    assert!(logs_in(postgres, &pair).await);
    vault.policy_of(&case.name, &["read", "update"], &["database/creds/*", "sys/leases/*"]).await;
    eventually("it is given back once it may be", async || states(&case).get_opt(&name).await.unwrap().is_none().then_some(()))
        .await;
    assert!(!logs_in(postgres, &pair).await);
}

#[tokio::test]
async fn a_generator_state_is_not_deleted_because_its_owner_was_not_seen_and_an_owner_that_was_orphaned_is_no_owner() {
    let case = Case::new("leaseowner").await;
    let postgres = database(&case).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    role(&case, &case.name, "1h", "24h").await;
    credentials(&case, &case.name, root()).await;
    case.external_secret("db", json!({"secretStoreRef": null, "dataFrom": [from("VaultDynamicSecret", &case.name)]})).await;
    let pair = values(&case, "db").await;
    // Somebody else's state, of another form: it is left alone.
    let theirs = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "GeneratorState", "metadata": {"name": "theirs"},
        "spec": {"resource": {}, "state": {"id": 7}, "garbageCollectionDeadline": "2020-01-01T00:00:00Z"}});
    case.apply(theirs).await.unwrap();
    let note = json!({"metadata": {"annotations": {"a": "b"}}});
    let ours = leases(&case).await;
    assert_eq!(ours.len(), 2, "a list of both: {ours:?}");
    let mine = states(&case)
        .list(&Default::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .find(|s| s.metadata.name.as_deref() != Some("theirs"));
    let mine = mine.unwrap().metadata.name.unwrap();
    states(&case).patch(&mine, &PatchParams::default(), &Patch::Merge(&note)).await.unwrap();
    let orphan = DeleteParams { propagation_policy: Some(kube::api::PropagationPolicy::Orphan), ..DeleteParams::default() };
    case.objects().delete("db", &orphan).await.unwrap();
    eventually("what was orphaned is given back", async || (!logs_in(postgres, &pair).await).then_some(())).await;
    assert!(states(&case).get_opt("theirs").await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_replaced_works_until_its_grace_is_over_and_a_pushed_one_as_long_as_it_is_pushed() {
    let case = Case::with_own_class("leasegrace").await;
    let postgres = database(&case).await;
    let operator = case.own_operator("a", &["--generator-gc-grace-period", "5s"]);
    case.vault_store().await;
    role(&case, &case.name, "1h", "24h").await;
    let spec = |path: &str| {
        let provider = json!({"server": case.harness.vault.url, "auth": root()});
        json!({"path": format!("database/creds/{path}"), "provider": provider, "controller": case.name})
    };
    generator(&case, "VaultDynamicSecret", "db", spec(&case.name)).await;
    case.external_secret("db", json!({"secretStoreRef": null, "dataFrom": [from("VaultDynamicSecret", "db")]})).await;
    let first = values(&case, "db").await;
    let longer = format!("next-{}", case.name);
    role(&case, &longer, "1h", "24h").await;
    generator(&case, "VaultDynamicSecret", "db", spec(&longer)).await;
    eventually("the next", async || case.secret("db").await.filter(|s| s["username"].contains("-next-"))).await;
    let deadline = eventually("the first has a deadline", async || {
        let all = states(&case).list(&Default::default()).await.unwrap().items;
        all.into_iter().find_map(|s| s.spec.garbage_collection_deadline)
    })
    .await;
    let deadline: jiff::Timestamp = deadline.parse().unwrap();
    assert!(deadline > jiff::Timestamp::now(), "it has a while to go");
    eventually("the first is given back", async || {
        let before = jiff::Timestamp::now();
        let works = logs_in(postgres, &first).await;
        assert!(works || jiff::Timestamp::now() >= deadline, "it works until {deadline}, and it is {before}");
        (!works).then_some(())
    })
    .await;

    let generator_ref = from("VaultDynamicSecret", "db")["sourceRef"]["generatorRef"].clone();
    let push = json!({"secretStoreRefs": [{"name": "vault"}], "selector": {"generatorRef": generator_ref},
        "data": [{"match": {"remoteRef": {"remoteKey": case.key("pushed")}}}]});
    case.apply(
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "push"}, "spec": push}),
    )
    .await
    .unwrap();
    let pushed: BTreeMap<String, String> = eventually("it is pushed", async || {
        let value = case.harness.vault.read(&format!("secret/data/{}", case.key("pushed"))).await;
        serde_json::from_value(value["data"]["data"].clone()).ok().filter(|p: &BTreeMap<_, _>| p.contains_key("password"))
    })
    .await;
    assert!(logs_in(postgres, &pushed).await);
    assert_eq!(leases(&case).await.len(), 2);
    let pushes: Api<lockstep_crds::PushSecret> = Api::namespaced(case.client.clone(), &case.name);
    pushes.delete("push", &DeleteParams::default()).await.unwrap();
    eventually("its login goes with it", async || (!logs_in(postgres, &pushed).await).then_some(())).await;
    eventually("and what was kept of it", async || (leases(&case).await.len() == 1).then_some(())).await;
    lockstep_e2e::case::stop(operator);
}

#[tokio::test]
async fn a_forged_state_has_no_rights_of_a_cluster_generator() {
    let case = Case::new("leaseforged").await;
    let thief = lockstep_e2e::faults::Faults::default();
    let seen = thief.seen();
    let url = thief.proxy(&case.harness.vault.url, None).unwrap();
    let provider = json!({"server": url, "auth": {"kubernetes": {"mountPath": "kubernetes", "role": "thief"}}});
    let inner = json!({"path": "database/creds/x", "provider": provider});
    let spec = json!({"kind": "VaultDynamicSecret", "generator": {"vaultDynamicSecretSpec": inner}});
    let resource = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "ClusterGenerator",
        "metadata": {"name": "nobody-made-this"}, "spec": spec});
    let state = json!({"lease": {"id": "database/creds/x/1", "seconds": 3600, "renewable": true}, "slot": "a", "issued": "2026-01-01T00:00:00Z"});
    let forged = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "GeneratorState",
        "metadata": {"name": "forged", "finalizers": [lockstep_crds::generator::state::FINALIZER]}, "spec": {"resource": resource, "state": state}});
    case.apply(forged).await.unwrap();
    states(&case).delete("forged", &DeleteParams::default()).await.unwrap();
    let said = eventually("it is refused", async || {
        let conditions = states(&case).get_opt("forged").await.unwrap()?.status?.conditions;
        conditions.into_iter().find(|c| c.reason.as_deref() == Some("RevocationFailed"))?.message
    })
    .await;
    assert!(said.contains("the operator's own is for ClusterGenerators only"), "{said}");
    assert!(seen.of("POST", "").is_empty(), "nothing was sent to the server that it names");
    let patch = json!({"metadata": {"finalizers": null}});
    states(&case).patch("forged", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn what_is_there_is_kept_while_vault_is_away_and_a_lease_may_be_longer_than_its_login() {
    let case = Case::with_own_class("leaseaway").await;
    let postgres = database(&case).await;
    let operator = case.own_operator("a", &["--generator-gc-grace-period", "1s"]);
    let vault = &case.harness.vault;
    let proxy = lockstep_e2e::proxy::Proxy::to(vault.url.trim_start_matches("http://"));
    // A login of a minute, which outlives the time that Vault is away (its end would be that of all its leases), and a lease of hours.
    vault.policy_of(&case.name, &["read", "update"], &["database/creds/*", "sys/leases/*", "auth/token/renew-accessor"]).await;
    vault.auth(&case.name, "userpass").await;
    let login = json!({"password": "CANARY-login", "token_policies": [case.name], "token_ttl": "1m", "token_max_ttl": "1h"});
    vault.write(&format!("auth/{}/users/operator", case.name), login).await;
    case.apply_secret("login", &[("password", "CANARY-login")]).await;
    role(&case, &case.name, "2h", "24h").await;
    let auth =
        json!({"userPass": {"path": case.name, "username": "operator", "secretRef": {"name": "login", "key": "password"}}});
    let provider = json!({"server": format!("http://{}", proxy.address), "auth": auth});
    let spec = json!({"path": format!("database/creds/{}", case.name), "provider": provider, "controller": case.name});
    generator(&case, "VaultDynamicSecret", "db", spec).await;
    let object = json!({"secretStoreRef": null, "refreshInterval": "2s", "dataFrom": [from("VaultDynamicSecret", "db")]});
    case.external_secret("db", object).await;
    let pair = values(&case, "db").await;
    let issued = || vault.requests("read", &format!("database/creds/{}", case.name));
    let looks = || vault.requests("update", "sys/leases/renew");
    let since = looks();
    eventually("it is refreshed four times", async || (looks() >= since + 4).then_some(())).await;
    assert_eq!((issued(), case.secret("db").await.unwrap()), (1, pair.clone()));

    proxy.take_away();
    let said = eventually("it is said", async || {
        let found = states(&case).list(&Default::default()).await.unwrap().items;
        let conditions = found.into_iter().next()?.status?.conditions;
        conditions.into_iter().find(|c| c.reason.as_deref() == Some("RenewalFailed"))?.message
    })
    .await;
    assert!(said.contains("could not be reached"), "{said}");
    assert!(logs_in(postgres, &pair).await);
    assert_eq!(case.secret("db").await.unwrap(), pair, "what holds is used, whoever does not answer");
    proxy.bring_back();
    let since = looks();
    eventually("it is prolonged again", async || (looks() >= since + 2).then_some(())).await;
    assert_eq!((issued(), values(&case, "db").await), (1, pair));
    lockstep_e2e::case::stop(operator);
}
