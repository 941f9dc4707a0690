//! `config/samples`: each is applied as it stands, and works.

use std::path::PathBuf;

use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use lockstep_e2e::aws::{Key, REGION};
use lockstep_e2e::azure::Application;
use lockstep_e2e::harness::{self, aws, azure, documents, eventually, gcp};
use lockstep_e2e::http_api::HttpApi;
use lockstep_e2e::vault::ROOT;
use serde_json::{Value, json};

use crate::{leases, targets};
use lockstep_e2e::case::Case;

/// What has a condition that says how it is.
const TOLD: [&str; 6] =
    ["ExternalSecret", "PushSecret", "ClusterExternalSecret", "ClusterPushSecret", "SecretStore", "ClusterSecretStore"];

pub fn files(folder: &str, least: usize) -> Vec<PathBuf> {
    let folder = harness::root().join("config/samples").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= least, "{files:?}");
    files
}

/// Applies an object. An unknown field is an error, which server-side apply without this would only warn of.
async fn applied(case: &Case, object: &Value) -> (Api<DynamicObject>, String) {
    let api = harness::api_of(&case.client, Some(&case.name), object);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply("e2e").force() };
    api.patch(&name, &strict, &Patch::Apply(object)).await.unwrap_or_else(|error| panic!("{object}: {error}"));
    (api, name)
}

/// Waits until an object's message fits; panics with the last one.
async fn tells(what: &str, api: &Api<DynamicObject>, name: &str, fits: impl Fn(&str, &str) -> bool) {
    let mut last = String::new();
    for _ in 0..1200 {
        let object = api.get(name).await.unwrap();
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(ready) = conditions.iter().find(|c| c["type"] == "Ready") {
            last = ready["message"].as_str().unwrap_or_default().to_owned();
            if fits(ready["status"].as_str().unwrap_or_default(), &last) {
                return;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{what}: {last}");
}

/// The documents of a sample with what people put in the place of words.
pub fn filled(file: &PathBuf, words: &[(&str, &str)]) -> Vec<Value> {
    fn fill(value: &mut Value, words: &[(&str, &str)]) {
        match value {
            Value::String(text) => words.iter().for_each(|(word, with)| *text = text.replace(word, with)),
            Value::Array(items) => items.iter_mut().for_each(|item| fill(item, words)),
            Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, words)),
            _ => {}
        }
    }
    let mut all = documents(&std::fs::read_to_string(file).unwrap());
    all.iter_mut().for_each(|object| fill(object, words));
    all
}

/// Applies samples, and waits until everything that tells how it is is ready.
pub async fn become_ready(case: &Case, objects: &[Value]) {
    let mut told = Vec::new();
    for object in objects {
        let (api, name) = applied(case, object).await;
        if TOLD.contains(&object["kind"].as_str().unwrap()) {
            told.push((format!("{} {name}", object["kind"]), api, name));
        }
    }
    for (what, api, name) in told {
        tells(&what, &api, &name, |status, _| status == "True").await;
    }
}

#[tokio::test]
async fn the_quickstart_becomes_ready() {
    let case = Case::new("quickstart").await;
    case.harness.vault.put("demo/database", json!({"username": "ada", "password": "CANARY-p"})).await;
    case.apply_secret("vault-token", &[("token", ROOT)]).await;
    let manifests = files("quickstart", 3).into_iter().filter(|file| !file.ends_with("kustomization.yaml"));
    let words = [("http://127.0.0.1:8200", case.harness.vault.url.as_str())];
    let objects: Vec<Value> = manifests.flat_map(|file| filled(&file, &words)).collect();
    become_ready(&case, &objects).await;
    case.secret_is("database-credentials", &[("username", "ada"), ("password", "CANARY-p")]).await;
}

#[tokio::test]
async fn each_sample_of_a_feature_becomes_ready() {
    let case = Case::new("features").await;
    // The namespace that the samples of fan-outs select.
    let labels = json!({"features": "enabled"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": case.name, "labels": labels}});
    harness::apply(&case.client, None, namespace).await.unwrap();
    let mut files = files("features", 21);
    // The store comes first, though its name does not; another kind as target needs a flag, and has a test of its own.
    files.sort_by_key(|file| (!file.ends_with("store.yaml"), file.clone()));
    files.retain(|file| !file.ends_with("target-manifest.yaml"));
    let words = [("YOUR_NAMESPACE", case.name.as_str())];
    let objects: Vec<Value> = files.iter().flat_map(|file| filled(file, &words)).collect();
    become_ready(&case, &objects).await;

    let url = "postgres://ada:not+so+secret%2F1@db.example/app";
    assert_eq!(case.secret("template-data").await.unwrap()["url"], url);
    case.secret_is("rewrite", &[("A_TOKEN", "token-of-a"), ("B_TOKEN", "token-of-b")]).await;
    assert_eq!(case.secret("rewrite-merge").await.unwrap()["user"], "bob");
    let single = [("certificate", "certificate"), ("eu", "key-of-eu"), ("password-before", "the old one"), ("user", "ada")];
    case.secret_is("data", &single).await;
    case.secret_is("names-and-decoding", &[("db_U0020_user", "ada"), ("db_U002f_host", "plain.example")]).await;
    let from = case.secret("template-from").await.unwrap();
    assert_eq!((from["license"].as_str(), from["token"].as_str(), from["greeting"].as_str()), ("QUJD", "hello", "hello Ada"));
    let settings: Value = serde_json::from_str(&case.secret("rewrite-json").await.unwrap()["settings.json"]).unwrap();
    assert_eq!((&settings["user"], &settings["password"]), (&json!("bob"), &json!("not so secret/1")));
    case.secret_is("metadata", &[("features-labelled", r#"{"token":"token-of-gold"}"#), ("tier", "gold")]).await;
    let pushed = case.secrets().get("features-pushed").await.unwrap();
    assert_eq!(pushed.metadata.labels.unwrap()["team"], "shop");
    assert_eq!(case.secret("shared").await.unwrap()["theirs"], "stays as it is");
    assert_eq!(case.secret("target-none").await, None);
    // The fan-outs have made theirs here.
    case.synced("registry").await;
    case.secret_is("registry", &[(".dockerconfigjson", r#"{"auths": {}}"#)]).await;
    let push = json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret"});
    let pushes = harness::api_of(&case.client, Some(&case.name), &push);
    eventually("the fan-out makes its push", async || pushes.get_opt("inventory").await.unwrap()).await;
    tells("inventory", &pushes, "inventory", |status, _| status == "True").await;
    // What was pushed is read back, from the two stores.
    let all = json!([{"extract": {"key": "pushed/everything"}}, {"extract": {"key": "pushed/login"}}]);
    let store = json!({"name": "features"});
    case.external_secret(
        "back",
        json!({"secretStoreRef": store, "dataFrom": all, "data": [
            {"secretKey": "generated", "remoteRef": {"key": "pushed/password"}},
            {"secretKey": "many", "remoteRef": {"key": "shop/all"}, "sourceRef": {"storeRef": {"name": "features-archive"}}},
            {"secretKey": "one", "remoteRef": {"key": "shop/user"}, "sourceRef": {"storeRef": {"name": "features-archive"}}},
        ]}),
    )
    .await;
    case.synced("back").await;
    let back = case.secret("back").await.unwrap();
    assert_eq!((back["user"].as_str(), back["dsn"].as_str()), ("ada", "postgres://ada:not+so+secret@db.example/app"));
    assert_eq!((back["generated"].len(), back["one"].as_str()), (32, "ada"));
    let many: Value = serde_json::from_str(&back["many"]).unwrap();
    assert_eq!(many, json!({"db-user": "ada", "db-password": "not so secret"}));
}

#[tokio::test]
async fn the_sample_of_another_kind_becomes_ready_where_the_flag_allows_it() {
    let (case, _operator) = targets::case("manifestsample").await;
    for file in files("features", 21).iter().filter(|f| f.ends_with("store.yaml") || f.ends_with("target-manifest.yaml")) {
        let mut objects = filled(file, &[]);
        for store in objects.iter_mut().filter(|object| object["kind"] == "SecretStore") {
            store["spec"]["controller"] = json!(case.class);
        }
        become_ready(&case, &objects).await;
    }
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let map = harness::api_of(&case.client, Some(&case.name), &map).get("database-settings").await.unwrap();
    assert_eq!(map.data["data"], json!({"user": "ada", "roles": "reader,writer"}));
}

#[tokio::test]
async fn each_sample_of_a_generator_becomes_ready() {
    let case = Case::new("generators").await;
    let api = HttpApi::start("CANARY-token").await;
    api.put("issue", json!({"user": "ada"}));
    let issue = format!("{}/secrets/issue", api.url);
    leases::database(&case).await;
    leases::role(&case, &case.name, "1h", "24h").await;
    let role = format!("database/creds/{}", case.name);
    let key = format!("AKIA{}", case.name.to_uppercase().replace('-', ""));
    aws().key(&key, Key { secret: "CANARY-aws".into(), ..Key::default() });
    assert_eq!(REGION, "eu-central-1", "the samples name it");
    let account = gcp().account(&format!("reader@{}.iam.gserviceaccount.com", case.name)).to_string();
    let client = format!("app-{}", case.name);
    azure().application("contoso", &client, Application { secrets: vec!["CANARY-azure".into()], ..Application::default() });
    azure().grant(&client, &[&case.name]);
    let registry = format!("{}.azurecr.io:{}", case.name, azure().port);
    let words = [
        ("https://api.example.com/v1/secrets/issue", issue.as_str()),
        ("https://vault.example.com:8200", case.harness.vault.url.as_str()),
        ("database/creds/app", role.as_str()),
        ("YOUR_ACCESS_KEY_ID", key.as_str()),
        ("YOUR_SECRET_ACCESS_KEY", "CANARY-aws"),
        ("YOUR_SERVICE_ACCOUNT_KEY", account.as_str()),
        ("example.azurecr.io", registry.as_str()),
        ("YOUR_TENANT", "contoso"),
        ("YOUR_CLIENT_ID", client.as_str()),
        ("YOUR_CLIENT_SECRET", "CANARY-azure"),
    ];
    let mut kinds = Vec::new();
    for file in files("generators", 11) {
        let token = if file.ends_with("vault-dynamic-secret.yaml") { ROOT } else { "CANARY-token" };
        let objects = filled(&file, &[&words[..], &[("YOUR_TOKEN", token)]].concat());
        become_ready(&case, &objects).await;
        let generators = objects.iter().filter(|o| o["apiVersion"].as_str().unwrap().starts_with("generators."));
        kinds.extend(generators.map(|o| o["kind"].as_str().unwrap().to_owned()));
        for object in objects.iter().filter(|o| o["kind"] == "ExternalSecret") {
            let target = object["spec"]["target"]["name"].as_str().unwrap();
            assert!(!case.secret(target).await.unwrap().is_empty(), "{target}");
        }
    }
    let pair = case.secret("generated-strong-password").await.unwrap();
    assert_ne!(pair["password"], pair["replication-password"]);
    // None is left out.
    let mut known: Vec<String> = lockstep_crds::generator::GeneratorKind::ALL.iter().map(|k| k.as_str().to_owned()).collect();
    known.push("ClusterGenerator".into());
    known.sort();
    kinds.sort();
    assert_eq!(kinds, known);
}
