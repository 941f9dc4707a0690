//! Walks of an ExternalSecret: what its Secret is.

use serde_json::{Map, Value, json};

use super::super::state::{contents, status};
use super::super::world::World;
use super::{Maker, Seen, Subject, answered, differs, plain, without_spec};
use crate::harness;
use crate::interposer::Chance;

/// Fields that are left out: other scenarios have them, or two objects of one spec could not both have what they ask for.
const LEFT_OUT: &[&str] = &[
    "target.name",
    "target.manifest",
    "generatorRef",
    "syncWindows",
    "target.immutable",
    "tags",
    "path",
    "valueMap",
    "secretStoreRefs",
];

pub(super) struct Walker(Maker);

impl Walker {
    pub(super) fn new(chance: Chance) -> Self {
        Self(Maker::new("ExternalSecret", chance, known, LEFT_OUT))
    }
}

fn known(maker: &mut Maker, path: &str, schema: &Value) -> Option<Value> {
    let end = |part: &str| path.ends_with(part);
    let good = maker.good;
    Some(match () {
        () if end("refreshInterval") => json!(maker.one(&["1h", "30m", "0", "2h45m"])),
        () if end("refreshPolicy") => json!(maker.one(&["Periodic", "OnChange"])),
        () if end("creationPolicy") => json!(maker.one(&["Owner", "Orphan"])),
        () if end("secretKey") => {
            maker.keys += 1;
            json!(format!("k{}", maker.keys))
        }
        () if end("remoteRef.key") || end("extract.key") => {
            json!(if good { "json" } else { maker.one(&["json", "text", "encoded", "nowhere"]) })
        }
        () if end("property") => {
            json!(maker.one(if good { &["user", "nested.deep", "list.0"] } else { &["user", "absent", "list.0"] }))
        }
        () if end("decodingStrategy") && good => json!(maker.one(&["None", "Auto"])),
        () if end("metadataPolicy") && good => json!("None"),
        () if end("version") => json!(if good { "" } else { maker.one(&["v1", ""]) }),
        () if end("find.name.regexp") => json!(maker.one(if good { &["^j", "n$"] } else { &["t$", "x"] })),
        () if end("storeRef") => json!({"name": "own"}),
        () if end("regexp.source") => json!(maker.one(&["^(.)", "user", "(a|b)+"])),
        () if end("regexp.target") => json!(maker.one(&["x_$1", "y", "${1}"])),
        () if end("transform.template") => json!(maker.one(&["{{ .value | upper }}", "z{{ .value }}"])),
        () if end("template.type") => json!(maker.one(&["Opaque", "example.com/own"])),
        () if end("template.engineVersion") => json!("v2"),
        () if end("template.data") => {
            json!({"made": maker.one(if good { &["{{ len . }}", "fixed"] } else { &["{{ .k1 }}", "{{ .user | upper }}"] })})
        }
        () if end("templateFrom") => {
            json!([{"literal": maker.one(&["lit: \"1\"\n", "{{ range $k, $v := . }}{{ $k }}-l: \"x\"\n{{ end }}"])}])
        }
        () if end("metadata.labels") || end("metadata.annotations") => json!({"team": maker.one(&["a", "b"])}),
        () if end("metadata.finalizers") => json!([]),
        () if end("rewrite[]") => match maker.chance.below(3) {
            0 => json!({"regexp": {"source": "^(.)", "target": "x$1"}}),
            1 => json!({"transform": {"template": "{{ .value }}t"}}),
            _ => json!({"merge": {"strategy": "Extract"}}),
        },
        // Of extract, find and what they come from just one has a meaning.
        () if end("dataFrom[]") => {
            let name = if maker.chance.one_in(3) { "find" } else { "extract" };
            let mut made = Map::new();
            let parts: &[&str] = if maker.chance.one_in(3) { &["rewrite", name] } else { &[name] };
            for part in parts {
                made.insert((*part).into(), maker.make(&format!("{path}.{part}"), &schema["properties"][*part]));
            }
            Value::Object(made)
        }
        () => return None,
    })
}

impl Subject for Walker {
    fn title(&self) -> &'static str {
        "ExternalSecret"
    }

    fn maker(&mut self) -> &mut Maker {
        &mut self.0
    }

    fn spec(&mut self, good: bool) -> Value {
        let mut spec = self.0.any(good);
        spec["secretStoreRef"] = json!({"name": "own", "kind": "SecretStore"});
        if spec["data"].as_array().is_none_or(Vec::is_empty) && spec["dataFrom"].as_array().is_none_or(Vec::is_empty) {
            spec["data"] = json!([{"secretKey": "k", "remoteRef": {"key": "json", "property": "user"}}]);
        }
        spec
    }

    fn object(&self, _: &World, name: &str) -> Value {
        without_spec(name)
    }

    async fn seen(&mut self, world: &World, name: &str, was_ready: Option<bool>) -> Seen {
        let (object, ready) = answered(world, &self.object(world, name), was_ready).await;
        let secrets = harness::api_of(&world.case.client, Some(&world.case.name), &json!({"apiVersion": "v1", "kind": "Secret"}));
        let secret = secrets.get_opt(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let has = plain(name, &secret.map_or(Value::Null, |secret| contents("Secret", &secret)));
        Seen { ready, told: plain(name, &status(&object)), has }
    }

    fn compare(&self, b: &Value, first: &Seen, there: &Seen, made: &Seen) -> Result<&'static str, String> {
        let mut expected = made.has.clone();
        if b.pointer("/target/template/type").is_none() && !there.has.is_null() && !expected.is_null() {
            // Whoever asks for no type is content with the one that the Secret has for good.
            expected["type"] = there.has["type"].clone();
        }
        let fixed = there.told.to_string().contains("can't be changed to");
        match (there.ready, made.ready) {
            (true, true) if there.has != expected => differs("the Secret", &there.has, &expected),
            (true, true) => Ok("both are served"),
            // A Secret's type is for good: the API server's rule.
            (false, true) if fixed && there.has == first.has => Ok("another type"),
            (false, false) if there.has != first.has => {
                differs("a spec that can't be served changed the Secret", &there.has, &first.has)
            }
            (false, false) => Ok("can't be served"),
            _ => differs("the condition", &there.told, &made.told),
        }
    }
}
