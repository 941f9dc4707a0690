//! Walks of a ClusterExternalSecret and of a ClusterPushSecret: which objects there are in which namespaces.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::state::status;
use super::super::world::{Making, World};
use super::{Maker, Seen, Subject, differs, plain, ready};
use crate::harness::{self, eventually};
use crate::interposer::Chance;

/// Both.
pub(super) const KINDS: [&str; 2] = ["ClusterExternalSecret", "ClusterPushSecret"];

/// Namespaces of the world, with what they are labelled.
const NAMESPACES: [(&str, &str); 3] = [("x", "a"), ("y", "b"), ("z", "a")];

pub(super) struct Walker {
    kind: &'static str,
    maker: Maker,
    case: String,
}

/// A world with a cluster store and some namespaces.
pub(super) async fn world(seed: u64) -> World {
    let world = World::new("spread", Making { cluster: true, seed, ..Making::default() }).await;
    let case = &world.case;
    case.apply_cluster_store(&case.name, json!({"fake": {"data": [{"key": "k", "value": "CANARY-k"}]}}), json!([])).await;
    for (suffix, team) in NAMESPACES {
        let labels = json!({"team": format!("{}-{team}", case.name)});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("{}-{suffix}", case.name), "labels": labels}});
        case.apply(namespace).await.expect("a namespace");
    }
    world.start().await;
    world
}

/// Takes away what has no namespace.
pub(super) async fn end(world: World) {
    for kind in KINDS {
        let api = harness::api_of(&world.case.client, None, &identity(kind));
        for object in api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
            let name = object.metadata.name.unwrap_or_default();
            if name.starts_with(&format!("{}-", world.case.name)) {
                let _ = api.delete(&name, &Default::default()).await;
            }
        }
    }
    world.end().await;
}

fn identity(kind: &str) -> Value {
    let version = if kind.ends_with("PushSecret") { "v1alpha1" } else { "v1" };
    json!({"apiVersion": format!("external-secrets.io/{version}"), "kind": kind})
}

impl Walker {
    pub(super) fn new(world: &World, kind: &'static str, chance: Chance) -> Self {
        Self { kind, maker: Maker::new(kind, chance, known, &[]), case: world.case.name.clone() }
    }

    /// The kind of what it makes.
    fn made(&self) -> &'static str {
        self.kind.trim_start_matches("Cluster")
    }
}

fn known(maker: &mut Maker, path: &str, _: &Value) -> Option<Value> {
    let end = |part: &str| path.ends_with(part);
    let good = maker.good;
    Some(match () {
        () if end("externalSecretSpec") => json!({"refreshInterval": maker.one(&["1h", "2h"]),
            "secretStoreRef": {"name": "CASE", "kind": "ClusterSecretStore"},
            "data": [{"secretKey": maker.one(&["a", "b"]), "remoteRef": {"key": "k"}}]}),
        () if end("pushSecretSpec") => json!({"refreshInterval": maker.one(&["1h", "2h"]),
            "secretStoreRefs": [{"name": "CASE", "kind": "ClusterSecretStore"}], "selector": {"secret": {"name": "source"}},
            "data": [{"match": {"secretKey": maker.one(&["a", "b"]), "remoteRef": {"remoteKey": "k"}}}]}),
        () if end("SecretName") => json!(maker.one(&["made-NAME", "other-NAME"])),
        () if end("Metadata.labels") || end("Metadata.annotations") => json!({"tier": maker.one(&["1", "2"])}),
        // Never an empty one: it would mean every namespace of the cluster.
        () if end("namespaceSelectors[]") || end("namespaceSelector") => {
            let operator = if good { "In" } else { maker.one(&["In", "Sideways"]) };
            match maker.chance.one_in(2) {
                true => json!({"matchLabels": {"team": maker.one(&["CASE-a", "CASE-b"])}}),
                false => json!({"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": operator,
                    "values": [maker.one(&["CASE-x", "CASE-y"]), "CASE-z"]}]}),
            }
        }
        () if end("namespaces[]") => json!(maker.one(if good { &["CASE-x", "CASE-y"] } else { &["CASE-x", "nowhere"] })),
        () if end("refreshTime") => json!("1m"),
        () => return None,
    })
}

impl Subject for Walker {
    /// The objects are made after the spec is seen.
    const SETTLES: Duration = Duration::from_secs(10);

    fn title(&self) -> &'static str {
        self.kind
    }

    fn maker(&mut self) -> &mut Maker {
        &mut self.maker
    }

    fn spec(&mut self, good: bool) -> Value {
        let mut spec = self.maker.any(good);
        if ["namespaceSelector", "namespaceSelectors", "namespaces"].iter().all(|field| spec.get(field).is_none()) {
            spec["namespaceSelectors"] = json!([{"matchLabels": {"team": self.maker.one(&["CASE-a", "CASE-b"])}}]);
        }
        let text = spec.to_string().replace("CASE", &self.case);
        serde_json::from_str(&text).expect("JSON")
    }

    fn prefix(&self) -> String {
        format!("{}-{}-", self.case, if self.kind == KINDS[0] { "es" } else { "ps" })
    }

    fn object(&self, _: &World, name: &str) -> Value {
        let mut object = identity(self.kind);
        object["metadata"] = json!({"name": name});
        object
    }

    fn compare(&self, _: &Value, first: &Seen, there: &Seen, made: &Seen) -> Result<&'static str, String> {
        match (there.ready, made.ready) {
            (true, true) if there.has == made.has => Ok("both are served"),
            // What says that it is wrong takes nothing away.
            (false, false) if there.has == made.has || there.has == first.has => Ok("can't be served"),
            _ => differs("what is there", there, made),
        }
    }

    async fn seen(&mut self, world: &World, name: &str, _: Option<bool>) -> Seen {
        let api = harness::api_of(&world.case.client, None, &identity(self.kind));
        let object = eventually(&format!("{name} is answered"), async || {
            let object = api.get(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            ready(&object).is_some().then_some(object)
        })
        .await;
        let mut has = Map::new();
        for (suffix, _) in NAMESPACES {
            let namespace = format!("{}-{suffix}", self.case);
            let objects = harness::api_of(&world.case.client, Some(&namespace), &identity(self.made()));
            for made in objects.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
                let owner = made.metadata.owner_references.iter().flatten().any(|o| o.name == name && o.kind == self.kind);
                let own_name = made.metadata.name.unwrap_or_default();
                if owner {
                    let described = json!([made.metadata.labels, made.metadata.annotations, made.data["spec"]]);
                    has.insert(format!("{suffix}/{own_name}"), described);
                }
            }
        }
        let told = status(&object);
        let ready = ready(&object).is_some_and(|c| c["status"] == "True");
        Seen { ready, told: plain(name, &told), has: plain(name, &Value::Object(has)) }
    }
}
