//! PushSecret: from a Secret of the cluster into stores.

use kube::api::{Api, DeleteParams, Patch, PatchParams};
use lockstep_crds::PushSecret;
use lockstep_e2e::harness::{self, eventually};
use lockstep_e2e::vault::ROOT;
use serde_json::{Value, json};

use crate::generators::{from, generator};
use lockstep_e2e::case::Case;

/// A case with a store and a Secret whose keys are pushed.
pub struct Pushing(pub Case);

impl Pushing {
    pub async fn new(topic: &str) -> Self {
        Self::of(Case::new(topic).await).await
    }

    pub async fn of(case: Case) -> Self {
        case.vault_store().await;
        case.apply_secret("source", &[("user", "CANARY-u"), ("pass", "CANARY-p")]).await;
        Self(case)
    }

    pub fn key(&self, name: &str) -> String {
        self.0.key(name)
    }

    pub async fn push(&self, name: &str, spec: Value) {
        let mut all =
            json!({"refreshInterval": "1h", "secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "source"}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.0
            .apply(json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": name}, "spec": all}))
            .await
            .unwrap();
    }

    pub fn api(&self) -> Api<PushSecret> {
        Api::namespaced(self.0.client.clone(), &self.0.name)
    }

    /// Waits for the condition, of the object as it is now if it is True.
    pub async fn is(&self, name: &str, status: &str, reason: &str, needle: &str) -> String {
        let mut last = None;
        for _ in 0..2400 {
            let object = self.api().get(name).await.unwrap();
            let current = lockstep::push_secret::plan::synced_version(&object);
            let told = object.status.unwrap_or_default();
            let ready = told.conditions.iter().find(|c| c.type_ == "Ready").cloned();
            if let Some(c) = &ready {
                let message = c.message.clone().unwrap_or_default();
                let fits = c.status == status && c.reason.as_deref() == Some(reason) && message.contains(needle);
                if fits && (status == "False" || told.synced_resource_version == Some(current)) {
                    return message;
                }
            }
            last = ready;
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("PushSecret {}/{name} is {last:?}, and not {status} {reason} with {needle:?}", self.0.name);
    }

    pub async fn synced(&self, name: &str) {
        self.is(name, "True", "Synced", "").await;
    }

    pub async fn failed(&self, name: &str, needle: &str) -> String {
        self.is(name, "False", "Errored", needle).await
    }

    /// The value of a key in Vault; null: it is not there.
    pub async fn remote(&self, name: &str) -> Value {
        self.0.harness.vault.read(&format!("secret/data/{}", self.key(name))).await["data"]["data"].clone()
    }

    pub async fn remote_is(&self, name: &str, expected: Value) {
        let mut last = Value::Null;
        for _ in 0..2400 {
            last = self.remote(name).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{name} is {last} and not {expected}");
    }

    pub fn entry(&self, secret_key: Option<&str>, remote: &str, property: Option<&str>) -> Value {
        let mut entry = json!({"match": {"remoteRef": {"remoteKey": self.key(remote)}}});
        if let Some(key) = secret_key {
            entry["match"]["secretKey"] = json!(key);
        }
        if let Some(property) = property {
            entry["match"]["remoteRef"]["property"] = json!(property);
        }
        entry
    }

    pub async fn places(&self, name: &str) -> Vec<String> {
        let pushed = self.api().get(name).await.unwrap().status.unwrap_or_default().synced_push_secrets;
        pushed.iter().flat_map(|(store, places)| places.keys().map(move |place| format!("{store} {place}"))).collect()
    }
}

#[tokio::test]
async fn keys_are_pushed_and_a_change_of_the_source_arrives_at_once() {
    let on = Pushing::new("push").await;
    on.push("push", json!({"data": [on.entry(Some("user"), "app", Some("name")), on.entry(None, "whole", None)]})).await;
    on.synced("push").await;
    on.remote_is("app", json!({"name": "CANARY-u"})).await;
    on.remote_is("whole", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    assert_eq!(
        on.places("push").await,
        [format!("SecretStore/vault {}/name", on.key("app")), format!("SecretStore/vault {}", on.key("whole"))]
    );
    // What it pushed is read by an ExternalSecret.
    on.0.external_secret("back", json!({"dataFrom": [{"extract": {"key": on.key("whole")}}]})).await;
    on.0.secret_is("back", &[("user", "CANARY-u"), ("pass", "CANARY-p")]).await;

    on.0.apply_secret("source", &[("user", "CANARY-2"), ("pass", "CANARY-p")]).await;
    on.remote_is("app", json!({"name": "CANARY-2"})).await;
    // Nothing is written that is there already.
    let path = format!("secret/metadata/{}", on.key("app"));
    let versions = async || on.0.harness.vault.read(&path).await["data"]["current_version"].clone();
    let before = versions().await;
    let note = json!({"metadata": {"annotations": {"force-sync": "1"}}});
    on.api().patch("push", &PatchParams::default(), &Patch::Merge(&note)).await.unwrap();
    on.synced("push").await;
    assert_eq!(versions().await, before);
    // Without a deletion policy everything stays.
    on.api().delete("push", &DeleteParams::default()).await.unwrap();
    eventually("it goes", async || on.api().get_opt("push").await.unwrap().is_none().then_some(())).await;
    on.remote_is("app", json!({"name": "CANARY-2"})).await;
}

#[tokio::test]
async fn many_keys_go_by_rule_to_stores_by_label() {
    let on = Pushing::new("pushmany").await;
    on.0.apply_secret("source", &[("db-user", "CANARY-u"), ("db-pass", "CANARY-p"), ("a_U002f_b", "CANARY-s"), ("other", "x")])
        .await;
    let url = on.0.harness.vault.url.clone();
    for name in ["one", "two"] {
        let auth = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}});
        on.0.apply(json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": name, "labels": {"push": name}},
            "spec": {"provider": on.0.vault_at(&url, auth)}}))
            .await
            .unwrap();
    }
    let prefix = on.key("many");
    let labelled = json!({"labelSelector": {"matchExpressions": [{"key": "push", "operator": "In", "values": ["one", "two"]}]}});
    on.push(
        "push",
        json!({
            "secretStoreRefs": [labelled], "data": null,
            "dataTo": [
                {"storeRef": labelled, "match": {"regexp": "^db-"}, "rewrite": [{"regexp": {"source": "^db-", "target": format!("{prefix}/")}}]},
                {"storeRef": {"name": "vault"}, "remoteKey": on.key("bundle"), "match": {"regexp": "^db-"}},
                {"storeRef": {"name": "vault"}, "match": {"regexp": "/"}, "conversionStrategy": "ReverseUnicode",
                    "rewrite": [{"transform": {"template": format!("{prefix}/{{{{ .value | upper }}}}")}}]},
            ],
        }),
    )
    .await;
    // A value of its own is no JSON object, as Vault's engine has them.
    on.failed("push", "its value is no JSON object; name a remoteRef.property").await;
    on.0.apply_secret(
        "source",
        &[("db-user", r#"{"v":"CANARY-u"}"#), ("db-pass", r#"{"v":"CANARY-p"}"#), ("a_U002f_b", r#"{"v":"s"}"#)],
    )
    .await;
    on.synced("push").await;
    on.remote_is("many/user", json!({"v": "CANARY-u"})).await;
    on.remote_is("many/A/B", json!({"v": "s"})).await;
    let bundle = json!({"db-pass": r#"{"v":"CANARY-p"}"#, "db-user": r#"{"v":"CANARY-u"}"#});
    assert_eq!(on.remote("bundle").await, bundle);
    let places = on.places("push").await;
    assert_eq!(places.iter().filter(|p| p.ends_with("many/user")).count(), 2, "{places:?}");
    // A store that loses its label is pushed to no more.
    let two =
        harness::api_of(&on.0.client, Some(&on.0.name), &json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore"}));
    two.patch("two", &PatchParams::default(), &Patch::Merge(&json!({"metadata": {"labels": {"push": null}}}))).await.unwrap();
    eventually("it is told no more", async || {
        let places = on.places("push").await;
        (!places.iter().any(|p| p.starts_with("SecretStore/two"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_pushed_is_deleted_with_its_entry_and_with_the_object_where_the_policy_says_so() {
    let on = Pushing::new("pushdelete").await;
    on.push(
        "push",
        json!({"deletionPolicy": "Delete", "data": [on.entry(Some("user"), "app", Some("user")), on.entry(Some("pass"), "app", Some("pass")),
            on.entry(Some("user"), "more", Some("user"))]}),
    )
    .await;
    on.synced("push").await;
    // A third writes beside it: that stays.
    on.remote_is("app", json!({"user": "CANARY-u", "pass": "CANARY-p"})).await;
    on.push("push", json!({"deletionPolicy": "Delete", "data": [on.entry(Some("user"), "app", Some("user"))]})).await;
    on.remote_is("app", json!({"user": "CANARY-u"})).await;
    on.remote_is("more", Value::Null).await;
    eventually("the status says so", async || (on.places("push").await.len() == 1).then_some(())).await;

    // The store is away while the object goes: it waits, and says for what.
    on.0.apply_secret("vault-token", &[("token", "wrong")]).await;
    // Until the change is seen the old token deletes.
    on.0.store_is("vault", "False", "InvalidProviderConfig", "code 403").await;
    on.api().delete("push", &DeleteParams::default()).await.unwrap();
    on.failed("push", "what was pushed could not be deleted").await;
    on.0.apply_secret("vault-token", &[("token", ROOT)]).await;
    eventually("it goes", async || on.api().get_opt("push").await.unwrap().is_none().then_some(())).await;
    on.remote_is("app", Value::Null).await;
}

#[tokio::test]
async fn only_what_is_managed_is_overwritten_or_deleted() {
    let on = Pushing::new("pushforeign").await;
    on.0.put("theirs", json!({"user": "CANARY-theirs"})).await;
    on.push("push", json!({"deletionPolicy": "Delete", "data": [on.entry(Some("user"), "theirs", Some("user")), on.entry(Some("user"), "ours", Some("user"))]})).await;
    let said = on.failed("push", "is not managed by external-secrets").await;
    assert!(
        said.starts_with(&format!("SecretStore {}/vault, remote key {}, property user:", on.0.name, on.key("theirs"))),
        "{said}"
    );
    on.remote_is("ours", json!({"user": "CANARY-u"})).await;
    on.remote_is("theirs", json!({"user": "CANARY-theirs"})).await;
    on.api().delete("push", &DeleteParams::default()).await.unwrap();
    eventually("it goes", async || on.api().get_opt("push").await.unwrap().is_none().then_some(())).await;
    on.remote_is("theirs", json!({"user": "CANARY-theirs"})).await;
    on.remote_is("ours", Value::Null).await;

    // IfNotExists leaves alone what is there, whoever made it, and makes what is not.
    on.push("new", json!({"updatePolicy": "IfNotExists", "data": [on.entry(Some("user"), "theirs", Some("user")), on.entry(Some("user"), "new", Some("user"))]})).await;
    on.synced("new").await;
    on.remote_is("theirs", json!({"user": "CANARY-theirs"})).await;
    on.0.apply_secret("source", &[("user", "CANARY-3"), ("pass", "CANARY-p")]).await;
    on.push("second", json!({"data": [on.entry(Some("user"), "second", Some("user"))]})).await;
    on.remote_is("second", json!({"user": "CANARY-3"})).await;
    on.remote_is("new", json!({"user": "CANARY-u"})).await;
}

#[tokio::test]
async fn secrets_by_label_templates_and_generators_are_pushed() {
    let on = Pushing::new("pushsources").await;
    let labelled = |name: &str, key: &str, value: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": {"push": "yes"}}, "stringData": {(key): value}});
    on.0.apply(labelled("l1", "k1", "CANARY-1")).await.unwrap();
    let bundle = |name: &str| json!([{"storeRef": {"name": "vault"}, "rewrite": [{"regexp": {"source": "^", "target": format!("{}/", on.key(name))}}]}]);
    let selector = json!({"secret": {"selector": {"matchLabels": {"push": "yes"}}}});
    on.push(
        "labels",
        json!({"selector": selector, "data": null, "dataTo": bundle("labels"), "template": {"mergePolicy": "Merge"}}),
    )
    .await;
    on.failed("labels", "no JSON object").await;
    on.0.apply(labelled("l1", "k1", r#"{"v":"CANARY-1"}"#)).await.unwrap();
    on.remote_is("labels/k1", json!({"v": "CANARY-1"})).await;
    on.0.apply(labelled("l2", "k2", r#"{"v":"CANARY-2"}"#)).await.unwrap();
    on.remote_is("labels/k2", json!({"v": "CANARY-2"})).await;

    let template = json!({"data": {"conf": r#"{"dsn": "{{ .user }}:{{ .pass }}"}"#}, "metadata": {"labels": {"a": "b"}}});
    on.push("template", json!({"template": template, "data": [on.entry(Some("conf"), "conf", None)]})).await;
    on.remote_is("conf", json!({"dsn": "CANARY-u:CANARY-p"})).await;

    generator(&on.0, "Password", "password", json!({"length": 16})).await;
    let made = json!({"generatorRef": from("Password", "password")["sourceRef"]["generatorRef"]});
    on.push("made", json!({"selector": made, "data": [on.entry(Some("password"), "made", Some("password"))]})).await;
    on.synced("made").await;
    let password = on.remote("made").await["password"].as_str().unwrap().to_owned();
    assert_eq!(password.len(), 16);
    // Chance is asked once where a template does.
    let random = json!({"data": {"k": "{{ randAlphaNum 12 }}"}});
    on.push("random", json!({"template": random, "data": [on.entry(Some("k"), "random", Some("k"))]})).await;
    on.synced("random").await;
    let first = on.remote("random").await;
    on.0.apply_secret("source", &[("user", "CANARY-9"), ("pass", "CANARY-p")]).await;
    on.remote_is("conf", json!({"dsn": "CANARY-9:CANARY-p"})).await;
    assert_eq!(on.remote("random").await, first);
}

#[tokio::test]
async fn what_is_wrong_with_a_push_is_said_and_nothing_is_lost() {
    let on = Pushing::new("pushwrong").await;
    let readonly = on.0.harness.vault.token(&["default"], "1h").await;
    on.0.apply_secret("readonly", &[("token", &readonly)]).await;
    let vault = on.0.harness.vault.url.clone();
    on.0.apply_store("readonly", on.0.vault_at(&vault, json!({"tokenSecretRef": {"name": "readonly", "key": "token"}}))).await;
    let data = json!([on.entry(Some("user"), "app", Some("user"))]);
    for (name, spec, needle) in [
        ("key", json!({"data": [on.entry(Some("nope"), "app", None)]}), "spec.data[0]: Secret pushwrong".to_owned()),
        (
            "source",
            json!({"selector": {"secret": {"name": "nowhere"}}, "data": data}),
            "nowhere does not exist; create it".to_owned(),
        ),
        (
            "store",
            json!({"secretStoreRefs": [{"name": "nowhere"}], "data": data}),
            format!("SecretStore {}/nowhere does not exist", on.0.name),
        ),
        (
            "readonly",
            json!({"secretStoreRefs": [{"name": "readonly"}], "data": data}),
            format!("SecretStore {}/readonly, remote key {}, property user: ", on.0.name, on.key("app")),
        ),
        (
            "interval",
            json!({"refreshInterval": "banana", "data": data}),
            "spec.refreshInterval: \"banana\" is no duration".to_owned(),
        ),
        (
            "labels",
            json!({"selector": {"secret": {"selector": {"matchLabels": {"none": "x"}}}}, "data": data}),
            "no Secret of namespace".to_owned(),
        ),
        (
            "template",
            json!({"template": {"data": {"k": "{{ .user"}}, "data": data}),
            "spec.template.data[k]: template k line 1 column 9: unclosed action".to_owned(),
        ),
        (
            "regexp",
            json!({"data": data, "dataTo": [{"storeRef": {"name": "vault"}, "match": {"regexp": "("}}]}),
            "spec.dataTo[0].match.regexp: the regexp is not valid".to_owned(),
        ),
    ] {
        on.push(name, spec).await;
        let said = on.failed(name, &needle).await;
        assert!(!said.contains("CANARY"), "{said}");
    }
    on.remote_is("app", Value::Null).await;
    // A source that goes takes nothing along.
    on.push("stays", json!({"deletionPolicy": "Delete", "data": data})).await;
    on.synced("stays").await;
    on.0.secrets().delete("source", &DeleteParams::default()).await.unwrap();
    on.failed("stays", "does not exist; create it").await;
    on.remote_is("app", json!({"user": "CANARY-u"})).await;
    on.0.apply_secret("source", &[("user", "CANARY-back")]).await;
    on.remote_is("app", json!({"user": "CANARY-back"})).await;
}
