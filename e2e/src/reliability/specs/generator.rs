//! Walks of a generator: what an ExternalSecret gets that is made anew.

use serde_json::{Map, Value, json};

use super::super::state::status;
use super::super::world::World;
use super::{Maker, Seen, Subject, answered, plain, without_spec};
use crate::interposer::Chance;

/// Those that need no server.
pub(super) const KINDS: [&str; 4] = ["Password", "SSHKey", "UUID", "Fake"];

pub(super) struct Walker {
    kind: &'static str,
    maker: Maker,
    class: String,
    probes: usize,
}

impl Walker {
    pub(super) fn new(world: &World, kind: &'static str, chance: Chance) -> Self {
        let maker = Maker::new(kind, chance, known, &["controller"]);
        Self { kind, maker, class: world.case.name.clone(), probes: 0 }
    }
}

fn known(maker: &mut Maker, path: &str, _: &Value) -> Option<Value> {
    let end = |part: &str| path.ends_with(part);
    let good = maker.good;
    let mut number = |good_ones: &[i64], all: &[i64]| {
        let of = if good { good_ones } else { all };
        json!(of[maker.chance.below(of.len())])
    };
    Some(match () {
        () if end("length") => number(&[8, 24, 31], &[0, 1, 24, -3, 100_000_000]),
        () if end("digits") || end("symbols") => number(&[0, 2], &[0, 2, 50]),
        () if end("keySize") => number(&[256, 384], &[256, 1000, 8192]),
        // An RSA key takes seconds without optimisation.
        () if end("keyType") => json!(maker.one(&["ecdsa", "ed25519"])),
        () if end("symbolCharacters") => json!(maker.one(if good { &["-_", "!"] } else { &["", "-"] })),
        () if end("encoding") => json!(maker.one(&["raw", "hex"])),
        () if end("secretKeys") => json!(maker.one(&["one", "two"]).split(' ').collect::<Vec<_>>()),
        () if path == ".data" => json!({"user": maker.one(&["CANARY-a", "CANARY-b"]), "pass": "CANARY-p"}),
        () => return None,
    })
}

impl Subject for Walker {
    fn title(&self) -> &'static str {
        self.kind
    }

    fn maker(&mut self) -> &mut Maker {
        &mut self.maker
    }

    fn spec(&mut self, good: bool) -> Value {
        let mut spec = self.maker.any(good);
        if self.kind == "SSHKey" && spec.get("keyType").is_none() {
            spec["keyType"] = json!("ed25519");
        }
        if self.kind == "Fake" {
            spec["controller"] = json!(self.class);
        }
        if self.kind == "Password" && good {
            // More characters than there are can't all differ.
            spec["allowRepeat"] = json!(true);
        }
        spec
    }

    fn object(&self, _: &World, name: &str) -> Value {
        json!({"apiVersion": "generators.external-secrets.io/v1alpha1", "kind": self.kind, "metadata": {"name": name}})
    }

    async fn seen(&mut self, world: &World, name: &str, _: Option<bool>) -> Seen {
        let case = &world.case;
        self.probes += 1;
        let probe = format!("{}-{}", self.kind.to_lowercase(), self.probes);
        // The store says whose object it is.
        let data = json!([{"secretKey": "k", "remoteRef": {"key": "text"}}]);
        let source = json!({"sourceRef": {"generatorRef": {"kind": self.kind, "name": name}}});
        let spec = json!({"secretStoreRef": {"name": "own"}, "data": data, "dataFrom": [source]});
        case.external_secret(&probe, spec).await;
        let (answer, is_ready) = answered(world, &without_spec(&probe), None).await;
        let secret = case.secret(&probe).await.unwrap_or_default();
        case.delete(&probe).await;
        let shapes: Map<String, Value> = secret.iter().map(|(key, value)| (key.clone(), self.shape(value))).collect();
        let told = plain(name, &plain(&probe, &status(&answer)["conditions"]));
        Seen { ready: is_ready, has: json!([shapes, told]), told }
    }
}

impl Walker {
    /// What does not depend on chance.
    fn shape(&self, value: &str) -> Value {
        match self.kind {
            "Fake" => json!(value),
            "SSHKey" => json!([value.lines().count(), value.split_whitespace().next(), value.split_whitespace().count()]),
            _ => json!(value.len()),
        }
    }
}
