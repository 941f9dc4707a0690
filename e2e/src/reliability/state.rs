//! What is left when all is done: in the cluster and in Vault, without what differs from run to run.

use std::collections::BTreeMap;

use kube::api::{Api, DynamicObject, ListParams};
use lockstep_crds::generator::state::SECRET_TYPE;
use serde_json::{Value, json};

use super::world::World;
use crate::harness;

/// Keys whose values are made by chance: only their length counts.
const BY_CHANCE: [&str; 4] = ["password", "generated", "username", "uuid"];
/// Annotations that hold hashes, which are salted by the object's UID.
const HASHES: [&str; 3] = ["data-hash", "rendered-", "kubectl.kubernetes.io"];

/// The end state of a story.
pub async fn capture(world: &World, namespaces: &[String]) -> Value {
    let mut all = BTreeMap::new();
    for namespace in namespaces {
        for (version, kind) in [
            ("v1", "Secret"),
            ("v1", "ConfigMap"),
            ("external-secrets.io/v1", "ExternalSecret"),
            ("external-secrets.io/v1", "SecretStore"),
            ("external-secrets.io/v1alpha1", "PushSecret"),
            ("generators.external-secrets.io/v1alpha1", "GeneratorState"),
        ] {
            let api = harness::api_of(&world.case.client, Some(namespace), &json!({"apiVersion": version, "kind": kind}));
            for (name, object) in listed(&api).await {
                let place = format!("{namespace}/{kind}/{name}");
                let told = match kind {
                    "Secret" | "ConfigMap" => contents(kind, &object),
                    _ => status(&object),
                };
                // The names of what leases are kept in are hashes.
                match object.data["type"] == SECRET_TYPE || kind == "GeneratorState" {
                    true => {
                        let count = all.entry(format!("{namespace}/{kind}s of leases")).or_insert_with(|| json!(0));
                        *count = json!(count.as_u64().unwrap_or(0) + 1);
                    }
                    false => drop(all.insert(place, told)),
                }
            }
        }
    }
    for kind in ["ClusterExternalSecret", "ClusterPushSecret"] {
        let version = if kind == "ClusterPushSecret" { "v1alpha1" } else { "v1" };
        let identity = json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind});
        let api = harness::api_of(&world.case.client, None, &identity);
        for (name, object) in listed(&api).await {
            if name == world.case.name {
                all.insert(format!("{kind}/{name}"), status(&object));
            }
        }
    }
    all.insert("vault".into(), remote(world).await);
    let leases = world.case.harness.vault.list(&format!("sys/leases/lookup/database/creds/{}", world.case.name)).await;
    all.insert("leases in Vault".into(), json!(leases.len()));
    // The case's own name is the one thing that two runs never share.
    let text = serde_json::to_string(&all).expect("JSON").replace(&world.case.name, "CASE");
    serde_json::from_str(&text).expect("JSON")
}

async fn listed(api: &Api<DynamicObject>) -> Vec<(String, DynamicObject)> {
    let items = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    items.into_iter().map(|o| (o.metadata.name.clone().unwrap_or_default(), o)).filter(|(n, _)| n != "kube-root-ca.crt").collect()
}

/// A Secret or a ConfigMap, without what differs from run to run.
pub(super) fn contents(kind: &str, object: &DynamicObject) -> Value {
    let meta = &object.metadata;
    let data = object.data["data"].as_object().cloned().unwrap_or_default();
    let value = |(key, value): (String, Value)| {
        let text = value.as_str().unwrap_or_default();
        let bytes = match kind {
            "Secret" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap_or_default(),
            _ => text.as_bytes().to_vec(),
        };
        let told = match BY_CHANCE.contains(&&*key) {
            true => json!(by_chance(!bytes.is_empty())),
            false => json!(String::from_utf8_lossy(&bytes)),
        };
        (key, told)
    };
    let data: serde_json::Map<String, Value> = data.into_iter().map(value).collect();
    let annotations: BTreeMap<String, String> = meta.annotations.clone().unwrap_or_default();
    let without = annotations.into_iter().map(|(k, v)| match HASHES.iter().any(|h| k.contains(h)) {
        true => (k.split("rendered-").next().unwrap_or_default().to_owned(), "a hash".to_owned()),
        false => (k, v),
    });
    let owners: Vec<String> = meta.owner_references.iter().flatten().map(|o| format!("{}/{}", o.kind, o.name)).collect();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.remove("reconcile.external-secrets.io/created-by");
    json!({
        "data": data, "type": object.data["type"], "immutable": object.data["immutable"], "labels": labels,
        "annotations": without.collect::<BTreeMap<_, _>>(), "owners": owners, "finalizers": meta.finalizers,
    })
}

/// What an object says, without what differs from run to run.
pub(super) fn status(object: &DynamicObject) -> Value {
    let status = &object.data["status"];
    let conditions: Vec<Value> = status["conditions"].as_array().cloned().unwrap_or_default();
    let told = conditions.iter().map(|c| json!([c["type"], c["status"], c["reason"], c["message"]]));
    let pushed = status["syncedPushSecrets"].as_object().map(|stores| {
        stores
            .iter()
            .map(|(store, places)| {
                let places: Vec<&String> = places.as_object().map(|p| p.keys().collect()).unwrap_or_default();
                json!([store, places])
            })
            .collect::<Vec<_>>()
    });
    json!({
        "conditions": told.collect::<Vec<_>>(), "binding": status["binding"]["name"], "finalizers": object.metadata.finalizers,
        "deleting": object.metadata.deletion_timestamp.is_some(), "pushed": pushed,
        "provisioned": status["provisionedNamespaces"], "failed": status["failedNamespaces"],
    })
}

const fn by_chance(is_there: bool) -> &'static str {
    if is_there { "made by chance" } else { "empty" }
}

/// What the case has in Vault.
async fn remote(world: &World) -> Value {
    let vault = &world.case.harness.vault;
    let mut all = serde_json::Map::new();
    for key in vault.list(&format!("secret/metadata/{}", world.case.name)).await {
        let mut data = vault.read(&format!("secret/data/{}/{key}", world.case.name)).await["data"]["data"].clone();
        for (name, value) in data.as_object_mut().into_iter().flatten() {
            if BY_CHANCE.contains(&&**name) {
                *value = json!(by_chance(value.as_str().is_some_and(|v| !v.is_empty())));
            }
        }
        all.insert(key, data);
    }
    Value::Object(all)
}

/// Where two states differ, one place a line.
pub fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let (a, b) = (expected.as_object().unwrap_or(&empty), found.as_object().unwrap_or(&empty));
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differs = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    differs.map(|key| format!("{key}: {} instead of {}", text(b.get(key)), text(a.get(key)))).collect()
}
