//! What people do: each story goes through every write of one feature, and waits for what they would wait for.
//!
//! A story waits for states, never for steps: it ends in the same state however often its operator dies meanwhile.

use std::pin::Pin;

use futures::FutureExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use lockstep_crds::generator::state::SECRET_TYPE;
use lockstep_crds::{GeneratorState, PushSecret};
use serde_json::{Value, json};

use super::world::World;
use crate::harness::{self, eventually};
use crate::postgres;

type Told<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One of them.
#[derive(Clone, Copy)]
pub struct Story {
    /// Its name.
    pub name: &'static str,
    /// Whether it takes an operator of the whole cluster.
    pub cluster: bool,
    /// What is there before the operator starts.
    pub before: for<'a> fn(&'a World) -> Told<'a>,
    /// What happens.
    pub run: for<'a> fn(&'a World) -> Told<'a>,
}

macro_rules! stories {
    ($($name:literal, $cluster:literal, $before:ident, $run:ident;)*) => {
        /// All of them.
        pub const ALL: &[Story] = &[$(Story {
            name: $name,
            cluster: $cluster,
            before: |world| $before(world).boxed_local(),
            run: |world| $run(world).boxed_local(),
        }),*];
    };
}

stories! {
    "first sync", false, store, first_sync;
    "a change of the value", false, store, value_changes;
    "a target that is edited and deleted", false, store, target_is_touched;
    "another name for the target", false, store, target_is_renamed;
    "Merge into somebody's Secret", false, store, merges;
    "Orphan outlives its object", false, store, orphans;
    "remote secret goes: Delete", false, store, remote_goes_delete;
    "remote secret goes: Retain", false, store, remote_goes_retain;
    "one key goes: Merge", false, store, remote_key_goes;
    "immutable", false, store, immutable;
    "an object is deleted", false, store, deleted;
    "a ConfigMap as target", false, store, config_map;
    "a store breaks and is mended", false, store, store_breaks;
    "a store that logs in", false, login, logs_in;
    "a generated password", false, store, password;
    "a push, its change and its end", false, store, pushes;
    "a push of what a generator makes", false, store, pushes_generated;
    "a lease, its change and its end", false, lease, leased;
    "a fan-out that shrinks and ends", true, cluster_store, fans_out;
    "a fan-out of pushes", true, cluster_store, fans_pushes_out;
}

/// Namespaces that a story may have made, its own first.
pub fn namespaces(world: &World, story: &Story) -> Vec<String> {
    let name = &world.case.name;
    if story.cluster { vec![name.clone(), format!("{name}-a"), format!("{name}-b")] } else { vec![name.clone()] }
}

async fn store(world: &World) {
    world.case.vault_store_at(&world.vault.url).await;
    world.case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
}

fn both(world: &World) -> Value {
    json!([world.case.data("user", "app", "user"), world.case.data("pass", "app", "pass")])
}

async fn object(world: &World, more: Value) {
    let mut spec = json!({"refreshInterval": world.interval, "data": both(world)});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.case.external_secret("app", spec).await;
}

async fn first_sync(world: &World) {
    let template = json!({"mergePolicy": "Merge", "metadata": {"labels": {"team": "a"}},
        "data": {"dsn": "{{ .user }}:{{ .pass }}@db"}});
    object(world, json!({"target": {"template": template}})).await;
    world.case.synced("app").await;
    world.case.secret_is("app", &[("user", "CANARY-u"), ("pass", "CANARY-p"), ("dsn", "CANARY-u:CANARY-p@db")]).await;
}

async fn synced(world: &World) {
    eventually("app is synced as it is", async || {
        let object = world.case.objects().get("app").await.unwrap();
        let current = lockstep::external_secret::plan::synced_version(&object);
        let status = object.status?;
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        (ready && status.synced_resource_version == Some(current)).then_some(())
    })
    .await;
}

async fn value_changes(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    world.case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-2"})).await;
    world.case.force_sync("app").await;
    world.case.secret_is("app", &[("user", "CANARY-u"), ("pass", "CANARY-2")]).await;
    synced(world).await;
}

async fn target_is_touched(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    let patch = json!({"stringData": {"user": "edited"}});
    world.case.secrets().patch("app", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    world.case.secret_is("app", &[("user", "CANARY-u"), ("pass", "CANARY-p")]).await;
    let uid = async || world.case.secrets().get_opt("app").await.unwrap().and_then(|s| s.metadata.uid);
    let before = uid().await;
    world.case.secrets().delete("app", &DeleteParams::default()).await.unwrap();
    eventually("the target is made again", async || uid().await.filter(|u| Some(u) != before.as_ref())).await;
    synced(world).await;
}

async fn target_is_renamed(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    object(world, json!({"target": {"name": "other"}})).await;
    world.case.secret_is("other", &[("user", "CANARY-u"), ("pass", "CANARY-p")]).await;
    synced(world).await;
}

async fn merges(world: &World) {
    world.case.apply_secret("theirs", &[("kept", "CANARY-k")]).await;
    object(world, json!({"target": {"name": "theirs", "creationPolicy": "Merge"}})).await;
    world.case.secret_is("theirs", &[("kept", "CANARY-k"), ("user", "CANARY-u"), ("pass", "CANARY-p")]).await;
    synced(world).await;
    let one = json!([world.case.data("user", "app", "user")]);
    object(world, json!({"data": one, "target": {"name": "theirs", "creationPolicy": "Merge"}})).await;
    world.case.secret_is("theirs", &[("kept", "CANARY-k"), ("user", "CANARY-u")]).await;
    synced(world).await;
}

async fn orphans(world: &World) {
    object(world, json!({"target": {"creationPolicy": "Orphan"}})).await;
    synced(world).await;
    world.case.delete("app").await;
    eventually("the object goes", async || world.case.objects().get_opt("app").await.unwrap().is_none().then_some(())).await;
}

async fn remote_goes_delete(world: &World) {
    object(world, json!({"target": {"deletionPolicy": "Delete"}})).await;
    synced(world).await;
    world.case.harness.vault.remove(&world.case.key("app")).await;
    world.case.force_sync("app").await;
    world.case.secret_gone("app").await;
    world.case.ready_is("app", "True", "SecretDeleted", "").await;
}

async fn remote_goes_retain(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    world.case.harness.vault.remove(&world.case.key("app")).await;
    world.case.force_sync("app").await;
    world.case.failed("app", "kept as it is").await;
}

async fn remote_key_goes(world: &World) {
    object(world, json!({"target": {"deletionPolicy": "Merge"}})).await;
    synced(world).await;
    world.case.put("app", json!({"user": "CANARY-u"})).await;
    world.case.force_sync("app").await;
    world.case.secret_is("app", &[("user", "CANARY-u")]).await;
    world.case.caught_up("app").await;
}

async fn immutable(world: &World) {
    object(world, json!({"target": {"immutable": true}})).await;
    synced(world).await;
    world.case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-2"})).await;
    world.case.force_sync("app").await;
    world.case.caught_up_or_failed("app").await;
}

async fn deleted(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    world.case.delete("app").await;
    world.case.secret_gone("app").await;
}

async fn config_map(world: &World) {
    object(world, json!({"target": {"manifest": {"apiVersion": "v1", "kind": "ConfigMap"}}})).await;
    synced(world).await;
    world.case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-2"})).await;
    world.case.force_sync("app").await;
    synced(world).await;
}

async fn store_breaks(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    world.case.apply_secret("vault-token", &[("token", "wrong")]).await;
    world.case.store_is("vault", "False", "InvalidProviderConfig", "").await;
    world.case.force_sync("app").await;
    world.case.failed("app", "").await;
    world.case.vault_store_at(&world.vault.url).await;
    world.case.store_is("vault", "True", "Valid", "").await;
    synced(world).await;
}

async fn login(world: &World) {
    let (case, vault) = (&world.case, &world.case.harness.vault);
    case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    vault.policy(&case.name, &[&format!("secret/data/{}/*", case.name)]).await;
    vault.auth(&case.name, "userpass").await;
    let user = json!({"password": "CANARY-login", "token_policies": [case.name], "token_ttl": "1h"});
    vault.write(&format!("auth/{}/users/operator", case.name), user).await;
    case.apply_secret("login", &[("password", "CANARY-login")]).await;
    let auth =
        json!({"userPass": {"path": case.name, "username": "operator", "secretRef": {"name": "login", "key": "password"}}});
    case.apply_store("vault", case.vault_at(&world.vault.url, auth)).await;
}

async fn logs_in(world: &World) {
    object(world, json!({})).await;
    synced(world).await;
    world.case.store_is("vault", "True", "Valid", "").await;
}

async fn generator(world: &World, kind: &str, spec: Value) {
    let object = json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": kind, "metadata": {"name": "made"}, "spec": spec});
    world.case.apply(object).await.unwrap();
}

fn made_by(kind: &str) -> Value {
    json!({"sourceRef": {"generatorRef": {"kind": kind, "name": "made"}}})
}

async fn password(world: &World) {
    generator(world, "Password", json!({"length": 20, "symbols": 2, "digits": 3})).await;
    // A new one at every refresh is what an interval asks for: once is enough here.
    object(world, json!({"refreshInterval": "1h", "dataFrom": [made_by("Password")]})).await;
    synced(world).await;
    world.case.secret("app").await.filter(|s| s["password"].len() == 20).expect("a password");
}

async fn push(world: &World, spec: Value) {
    let mut all = json!({"refreshInterval": world.interval, "secretStoreRefs": [{"name": "vault"}], "deletionPolicy": "Delete"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let push =
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "push"}, "spec": all});
    world.case.apply(push).await.unwrap();
}

async fn pushed(world: &World) {
    let api: kube::Api<PushSecret> = kube::Api::namespaced(world.case.client.clone(), &world.case.name);
    eventually("the push is done", async || {
        let object = api.get("push").await.unwrap();
        let current = lockstep::push_secret::plan::synced_version(&object);
        let status = object.status.unwrap_or_default();
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        (ready && status.synced_resource_version == Some(current)).then_some(())
    })
    .await;
}

async fn remote_is(world: &World, key: &str, expected: Value) {
    let path = format!("secret/data/{}", world.case.key(key));
    eventually(&format!("{key} in Vault is {expected}"), async || {
        (world.case.harness.vault.read(&path).await["data"]["data"] == expected).then_some(())
    })
    .await;
}

fn entry(world: &World, key: &str, remote: &str) -> Value {
    json!({"match": {"secretKey": key, "remoteRef": {"remoteKey": world.case.key(remote), "property": key}}})
}

async fn pushes(world: &World) {
    let secret = json!({"secret": {"name": "source"}});
    world.case.apply_secret("source", &[("user", "CANARY-u"), ("pass", "CANARY-p")]).await;
    push(world, json!({"selector": secret, "data": [entry(world, "user", "one"), entry(world, "pass", "two")]})).await;
    remote_is(world, "one", json!({"user": "CANARY-u"})).await;
    remote_is(world, "two", json!({"pass": "CANARY-p"})).await;
    pushed(world).await;
    push(world, json!({"selector": secret, "data": [entry(world, "user", "one"), entry(world, "pass", "three")]})).await;
    remote_is(world, "three", json!({"pass": "CANARY-p"})).await;
    remote_is(world, "two", Value::Null).await;
    pushed(world).await;
    world.case.apply_secret("source", &[("user", "CANARY-2"), ("pass", "CANARY-p")]).await;
    remote_is(world, "one", json!({"user": "CANARY-2"})).await;
    let api: kube::Api<PushSecret> = kube::Api::namespaced(world.case.client.clone(), &world.case.name);
    api.delete("push", &DeleteParams::default()).await.unwrap();
    eventually("the push goes", async || api.get_opt("push").await.unwrap().is_none().then_some(())).await;
    remote_is(world, "one", Value::Null).await;
    remote_is(world, "three", Value::Null).await;
}

async fn pushes_generated(world: &World) {
    generator(world, "Password", json!({"length": 16})).await;
    let reference = made_by("Password")["sourceRef"]["generatorRef"].clone();
    let mut spec = json!({"selector": {"generatorRef": reference}, "updatePolicy": "IfNotExists"});
    spec["data"] = json!([entry(world, "password", "made")]);
    push(world, spec).await;
    pushed(world).await;
}

async fn lease(world: &World) {
    postgres::shared(&world.case.harness).await;
    postgres::role(&world.case.harness.vault, &world.case.name, "1h", "2h").await;
    world.case.vault_store_at(&world.vault.url).await;
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}});
    let provider = json!({"server": world.vault.url, "auth": auth});
    let path = format!("database/creds/{}", world.case.name);
    generator(world, "VaultDynamicSecret", json!({"path": path, "controller": world.case.name, "provider": provider})).await;
}

async fn leased(world: &World) {
    let spec = json!({"secretStoreRef": null, "data": null, "dataFrom": [made_by("VaultDynamicSecret")]});
    object(world, spec).await;
    synced(world).await;
    // Somebody takes the lease back: another one is made, and only one is left of both.
    let vault = &world.case.harness.vault;
    let before = world.case.secret("app").await.unwrap_or_default();
    vault.write(&format!("sys/leases/revoke-prefix/database/creds/{}", world.case.name), json!({})).await;
    world.case.force_sync("app").await;
    eventually("a new login", async || world.case.secret("app").await.filter(|s| *s != before)).await;
    synced(world).await;
    let held = async || vault.list(&format!("sys/leases/lookup/database/creds/{}", world.case.name)).await.len();
    eventually("one lease is left", async || (held().await == 1).then_some(())).await;
    let states: kube::Api<GeneratorState> = kube::Api::namespaced(world.case.client.clone(), &world.case.name);
    let count = async || states.list(&Default::default()).await.unwrap().items.len();
    eventually("and what is kept of one", async || (count().await == 1).then_some(())).await;
    // The API server's garbage collector takes the other's values, in its own time.
    let of_leases = format!("type={SECRET_TYPE}");
    let kept = kube::api::ListParams::default().fields(&of_leases);
    let values = async || world.case.secrets().list(&kept).await.unwrap().items.len();
    eventually("and the values of one", async || (values().await == 1).then_some(())).await;
}

async fn cluster_store(world: &World) {
    let case = &world.case;
    case.put("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    case.apply_secret("vault-token", &[("token", crate::vault::ROOT)]).await;
    let auth = json!({"tokenSecretRef": {"name": "vault-token", "namespace": case.name, "key": "token"}});
    case.apply_cluster_store(&case.name, case.vault_at(&world.vault.url, auth), json!([])).await;
    for suffix in ["a", "b"] {
        label(world, suffix, "in").await;
    }
}

async fn label(world: &World, suffix: &str, team: &str) {
    let labels = json!({"team": format!("{}-{team}", world.case.name)});
    let name = format!("{}-{suffix}", world.case.name);
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    harness::apply(&world.case.client, None, object).await.unwrap();
}

async fn fan(world: &World, kind: &str, spec: Value) {
    let version = if kind == "ClusterPushSecret" { "v1alpha1" } else { "v1" };
    let object = json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind, "metadata": {"name": world.case.name}, "spec": spec});
    world.case.apply(object).await.unwrap();
}

async fn made_in(world: &World, kind: &str, version: &str, name: &str, suffixes: &[&str]) {
    let identity = json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind});
    for suffix in ["a", "b"] {
        let namespace = format!("{}-{suffix}", world.case.name);
        let api = harness::api_of(&world.case.client, Some(&namespace), &identity);
        let is_ready = |object: Option<DynamicObject>| match object {
            None => !suffixes.contains(&suffix),
            Some(object) => suffixes.contains(&suffix) && object.data["status"]["conditions"][0]["status"] == "True",
        };
        eventually(&format!("{kind} {name} in {namespace} is as it should be"), async || {
            is_ready(api.get_opt(name).await.unwrap()).then_some(())
        })
        .await;
    }
}

async fn fans_out(world: &World) {
    let name = &world.case.name;
    let object = json!({"refreshInterval": world.interval, "secretStoreRef": {"name": name, "kind": "ClusterSecretStore"}, "data": both(world)});
    let selector = json!({"matchLabels": {"team": format!("{name}-in")}});
    let spec = |named: &str| json!({"externalSecretSpec": object, "externalSecretName": named, "namespaceSelectors": [selector]});
    fan(world, "ClusterExternalSecret", spec("app")).await;
    made_in(world, "ExternalSecret", "v1", "app", &["a", "b"]).await;
    fan(world, "ClusterExternalSecret", spec("other")).await;
    made_in(world, "ExternalSecret", "v1", "other", &["a", "b"]).await;
    made_in(world, "ExternalSecret", "v1", "app", &[]).await;
    label(world, "b", "out").await;
    made_in(world, "ExternalSecret", "v1", "other", &["a"]).await;
}

async fn fans_pushes_out(world: &World) {
    let name = &world.case.name;
    for suffix in ["a", "b"] {
        let source = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "source", "namespace": format!("{name}-{suffix}")},
            "stringData": {"k": "CANARY-k"}});
        harness::apply(&world.case.client, None, source).await.unwrap();
    }
    let spec = json!({
        "refreshInterval": world.interval, "deletionPolicy": "Delete",
        "secretStoreRefs": [{"name": name, "kind": "ClusterSecretStore"}], "selector": {"secret": {"name": "source"}},
        "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": world.case.key("pushed"), "property": "k"}}}],
    });
    let selector = json!({"matchLabels": {"team": format!("{name}-in")}});
    fan(world, "ClusterPushSecret", json!({"pushSecretSpec": spec, "pushSecretName": "push", "namespaceSelectors": [selector]}))
        .await;
    made_in(world, "PushSecret", "v1alpha1", "push", &["a", "b"]).await;
    remote_is(world, "pushed", json!({"k": "CANARY-k"})).await;
    let identity = json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "ClusterPushSecret"});
    harness::api_of(&world.case.client, None, &identity).delete(name, &DeleteParams::default()).await.unwrap();
    made_in(world, "PushSecret", "v1alpha1", "push", &[]).await;
    remote_is(world, "pushed", Value::Null).await;
}
