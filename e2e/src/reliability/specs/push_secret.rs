//! Walks of a PushSecret: what is in Vault.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::state::status;
use super::super::world::World;
use super::{Maker, Seen, Subject, answered, differs, plain};
use crate::interposer::Chance;

/// Vault takes no metadata; labels and generators have scenarios of their own; what IfNotExists leaves depends on the way.
const LEFT_OUT: &[&str] = &["metadata", "labelSelector", "generatorRef", "secret.selector", "updatePolicy", "template.type"];

pub(super) struct Walker {
    maker: Maker,
    case: String,
}

impl Walker {
    pub(super) fn new(world: &World, chance: Chance) -> Self {
        Self { maker: Maker::new("PushSecret", chance, known, LEFT_OUT), case: world.case.name.clone() }
    }
}

/// Keys in Vault are below the object's own name: `CASE/NAME/…`.
fn known(maker: &mut Maker, path: &str, _: &Value) -> Option<Value> {
    let end = |part: &str| path.ends_with(part);
    let good = maker.good;
    Some(match () {
        () if end("refreshInterval") => json!(maker.one(&["1h", "30m", "0", "2h45m"])),
        () if end("selector") => json!({"secret": {"name": if good || !maker.chance.one_in(6) { "source" } else { "nowhere" }}}),
        () if end("secretStoreRefs") => json!([{"name": "vault"}]),
        () if end("storeRef") => json!({"name": "vault"}),
        () if end("match.secretKey") => json!(maker.one(if good { &["user", "pass"] } else { &["user", "absent", ""] })),
        () if end("remoteRef.remoteKey") => json!(maker.one(&["CASE/NAME/a", "CASE/NAME/b"])),
        () if end("dataTo[].remoteKey") => json!("CASE/NAME/c"),
        () if end("property") => json!(maker.one(&["p", "q", "user"])),
        () if end("match.regexp") => json!(maker.one(if good { &["^u", "."] } else { &["^u", "nobody"] })),
        () if end("rewrite") => {
            let mut all = vec![json!({"regexp": {"source": "^", "target": "CASE/NAME/"}})];
            if maker.chance.one_in(2) {
                all.insert(0, json!({"transform": {"template": maker.one(&["{{ .value | upper }}", "z{{ .value }}"])}}));
            }
            json!(all)
        }
        () if end("template.engineVersion") => json!("v2"),
        () if end("template.data") => {
            json!({"user": maker.one(if good { &["{{ .pass }}", "fixed"] } else { &["{{ .absent }}", "{{ .user | upper }}"] }),
                "pass": "{{ .user }}"})
        }
        () if end("templateFrom") => json!([{"literal": "lit: \"1\"\n"}]),
        () if end("metadata.labels") || end("metadata.annotations") => json!({"team": maker.one(&["a", "b"])}),
        () if end("metadata.finalizers") => json!([]),
        () => return None,
    })
}

impl Subject for Walker {
    fn title(&self) -> &'static str {
        "PushSecret"
    }

    fn maker(&mut self) -> &mut Maker {
        &mut self.maker
    }

    fn spec(&mut self, good: bool) -> Value {
        let mut spec = self.maker.any(good);
        for to in spec["dataTo"].as_array_mut().into_iter().flatten() {
            to["storeRef"] = json!({"name": "vault"});
            // Just one of the two; without any the key would be at the root of Vault, where every walker writes.
            let fields = to.as_object_mut().expect("an object");
            if fields.contains_key("remoteKey") {
                fields.remove("rewrite");
            } else if !fields.contains_key("rewrite") {
                fields.insert("remoteKey".into(), json!("CASE/NAME/c"));
            }
        }
        if spec["data"].as_array().is_none_or(Vec::is_empty) && spec["dataTo"].as_array().is_none_or(Vec::is_empty) {
            spec["data"] = json!([{"match": {"secretKey": "user", "remoteRef": {"remoteKey": "CASE/NAME/a", "property": "p"}}}]);
        }
        serde_json::from_str(&spec.to_string().replace("CASE", &self.case)).expect("JSON")
    }

    fn object(&self, _: &World, name: &str) -> Value {
        json!({"apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": name}})
    }

    async fn seen(&mut self, world: &World, name: &str, was_ready: Option<bool>) -> Seen {
        let (object, ready) = answered(world, &self.object(world, name), was_ready).await;
        let vault = &world.case.harness.vault;
        let folder = world.case.key(name);
        let mut has = BTreeMap::new();
        for key in vault.list(&format!("secret/metadata/{folder}")).await {
            let data = vault.read(&format!("secret/data/{folder}/{key}")).await["data"]["data"].clone();
            has.extend(data.as_object().into_iter().flatten().map(|(name, value)| (format!("{key}#{name}"), value.clone())));
        }
        let told = plain(name, &status(&object));
        Seen { ready, told, has: plain(name, &json!(has)) }
    }

    fn compare(&self, b: &Value, first: &Seen, there: &Seen, made: &Seen) -> Result<&'static str, String> {
        let (before, now, new) = (places(first), places(there), places(made));
        if there.ready != made.ready {
            return differs("the condition", &there.told, &made.told);
        }
        // What was pushed and is wanted no more stays, or goes as the policy says.
        let more = || now.iter().filter(|(place, _)| !new.contains_key(*place));
        let foreign = more().find(|(place, value)| before.get(*place) != Some(*value));
        // Whoever pushes the whole of a key leaves nothing else in it.
        let whole = pushed_whole(b);
        let stays = |place: &&String| !place.split_once('#').is_some_and(|(key, _)| whole.contains(key));
        let lost = before.keys().filter(stays).find(|place| !now.contains_key(*place));
        let other = new.iter().find(|(place, value)| now.get(*place) != Some(*value));
        let tidy = b["deletionPolicy"] == "Delete";
        match there.ready {
            _ if other.is_some() || foreign.is_some() => differs("what is in Vault", &now, &new),
            true if tidy && now.len() != new.len() => differs("what is wanted no more", &now, &new),
            true if !tidy && lost.is_some() => differs("what the policy None leaves", &now, &before),
            true => Ok("both are served"),
            false if lost.is_some() => differs("a spec that can't be served took something away", &now, &before),
            false => Ok("can't be served"),
        }
    }

    fn is_back(&self, a: &Value, first: &Seen, back: &Seen) -> Result<(), String> {
        let (first, back) = (places(first), places(back));
        let other = first.iter().any(|(place, value)| back.get(place) != Some(value));
        match other || a["deletionPolicy"] == "Delete" && back.len() != first.len() {
            true => differs("back again, what is in Vault", &back, &first),
            false => Ok(()),
        }
    }
}

/// Keys that a spec pushes as a whole.
fn pushed_whole(spec: &Value) -> BTreeSet<&str> {
    let data = spec["data"].as_array().into_iter().flatten().map(|entry| &entry["match"]["remoteRef"]);
    let data = data.filter(|remote| remote["property"].as_str().is_none_or(str::is_empty)).map(|remote| &remote["remoteKey"]);
    let to = spec["dataTo"].as_array().into_iter().flatten().map(|to| &to["remoteKey"]);
    data.chain(to).filter_map(|key| key.as_str()?.rsplit('/').next()).collect()
}

/// Key and property, and the value.
fn places(seen: &Seen) -> BTreeMap<String, Value> {
    seen.has.as_object().into_iter().flatten().map(|(place, value)| (place.clone(), value.clone())).collect()
}
