//! Walks of a SecretStore: what it says, and what an ExternalSecret gets that is made anew.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::state::status;
use super::super::world::World;
use super::{Maker, Seen, Subject, answered, plain, ready, without_spec};
use crate::harness::{self, eventually};
use crate::interposer::Chance;

/// Conditions are a cluster store's; the rest takes servers that other scenarios have.
const LEFT_OUT: &[&str] = &["conditions", "vault.namespace", "vault.caBundle", "vault.caProvider", "vault.tls", "checkAndSet"];

pub(super) struct Walker {
    maker: Maker,
    class: String,
    vault: String,
    key: String,
    probes: usize,
}

impl Walker {
    pub(super) fn new(world: &World, chance: Chance) -> Self {
        Self {
            maker: Maker::new("SecretStore", chance, known, LEFT_OUT),
            class: world.case.name.clone(),
            vault: world.vault.url.clone(),
            key: world.case.key("app"),
            probes: 0,
        }
    }
}

fn known(maker: &mut Maker, path: &str, schema: &Value) -> Option<Value> {
    let end = |part: &str| path.ends_with(part);
    let good = maker.good;
    Some(match () {
        () if end(".provider") => {
            let name = maker.one(&["fake", "vault"]);
            json!({name: maker.make(&format!("{path}.{name}"), &schema["properties"][name])})
        }
        () if end("fake.data") => {
            let value = json!({"v": maker.one(&["CANARY-one", "CANARY-two"])}).to_string();
            json!([{"key": if good { "KEY" } else { maker.one(&["KEY", "nobody"]) }, "value": value}])
        }
        () if end("validationResult") => json!(if good { 0 } else { maker.chance.below(3) }),
        () if end("vault.server") => json!("VAULT"),
        () if end("vault.path") => json!(if good { "secret" } else { maker.one(&["secret", "nowhere"]) }),
        () if end("vault.version") => json!(if good { "v2" } else { maker.one(&["v1", "v2"]) }),
        () if end("vault.auth") => match good || maker.chance.one_in(2) {
            true => json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}}),
            false => json!({"appRole": {"path": "nowhere", "roleId": "x", "secretRef": {"name": "vault-token", "key": "token"}}}),
        },
        () if end("vault.headers") => json!({"X-Own": "1"}),
        () if end("spec.refreshInterval") || path == ".refreshInterval" => json!(maker.chance.below(2) * 3600),
        () if end("retryInterval") => json!("10ms"),
        () => return None,
    })
}

impl Subject for Walker {
    /// The store's new spec and the probe are seen by two watches.
    const SETTLES: Duration = Duration::from_secs(10);

    fn title(&self) -> &'static str {
        "SecretStore"
    }

    fn maker(&mut self) -> &mut Maker {
        &mut self.maker
    }

    fn spec(&mut self, good: bool) -> Value {
        let mut spec = self.maker.any(good);
        spec["controller"] = json!(self.class);
        if spec.get("provider").is_none() {
            spec["provider"] = json!({"fake": {"data": []}});
        }
        if spec.pointer("/provider/vault").is_some() {
            // Without them there is no connection to speak of.
            spec["provider"]["vault"]["version"].is_null().then(|| spec["provider"]["vault"]["version"] = json!("v2"));
            spec["provider"]["vault"]["path"].is_null().then(|| spec["provider"]["vault"]["path"] = json!("secret"));
            if spec["provider"]["vault"]["auth"].is_null() {
                spec["provider"]["vault"]["auth"] = json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}});
            }
        }
        let text = spec.to_string().replace("VAULT", &self.vault).replace("KEY", &self.key);
        serde_json::from_str(&text).expect("JSON")
    }

    fn object(&self, _: &World, name: &str) -> Value {
        json!({"apiVersion": "external-secrets.io/v1", "kind": "SecretStore", "metadata": {"name": name}})
    }

    async fn seen(&mut self, world: &World, name: &str, _: Option<bool>) -> Seen {
        let case = &world.case;
        self.probes += 1;
        let probe = format!("p{}", self.probes);
        let data = json!([{"secretKey": "v", "remoteRef": {"key": self.key, "property": "v"}}]);
        case.external_secret(&probe, json!({"secretStoreRef": {"name": name}, "data": data})).await;
        let (answer, served) = answered(world, &without_spec(&probe), None).await;
        let stores = harness::api_of(&case.client, Some(&case.name), &self.object(world, name));
        let store = eventually(&format!("store {name} is answered"), async || {
            let store = stores.get(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            ready(&store).is_some().then_some(store)
        })
        .await;
        let works = ready(&store).is_some_and(|c| c["status"] == "True");
        // What a store was able to is said of it as long as it does not work.
        let capabilities = if works { store.data["status"]["capabilities"].clone() } else { Value::Null };
        let told = json!([status(&store)["conditions"], status(&answer)["conditions"], capabilities]);
        let is_ready = works && served;
        let secret = case.secret(&probe).await;
        case.delete(&probe).await;
        let told = plain(name, &plain(&probe, &told));
        Seen { ready: is_ready, has: json!([secret, told]), told }
    }
}
