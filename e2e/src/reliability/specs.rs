//! Specs that the CRD's schema allows, and specs that are broken somewhere: an object walks from one to another and back.
//!
//! What it has then must be what an object has that was made so at once; a spec that can't be served leaves the Secret as it was; and
//! in between nobody panics, and nobody writes or reads again and again.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Tally;
use super::state::{contents, status};
use super::world::{Making, World, counts};
use crate::harness::{self, documents, eventually, root};
use crate::interposer::{Chance, Sort};

const IDENTITY: &str = "external-secrets.io/v1";

/// The schema of an ExternalSecret's spec.
fn schema() -> Value {
    let text = std::fs::read_to_string(root().join("config/crd/crds.yaml")).expect("the CRDs");
    let crd = documents(&text).into_iter().find(|crd| crd["spec"]["names"]["kind"] == "ExternalSecret").expect("its CRD");
    let versions = crd["spec"]["versions"].as_array().expect("versions").clone();
    let v1 = versions.into_iter().find(|version| version["name"] == "v1").expect("v1");
    v1["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Makes specs.
struct Maker {
    schema: Value,
    chance: Chance,
    /// Names of the entries of `data`.
    keys: usize,
    /// Whether everything that is named is there.
    good: bool,
}

/// Fields that are left out: other scenarios have them, or two objects of one spec could not both have what they ask for.
const LEFT_OUT: [&str; 9] = [
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

impl Maker {
    /// Any spec that the schema allows, with names that mean something.
    fn valid(&mut self, good: bool) -> Value {
        self.good = good;
        let schema = self.schema.clone();
        self.keys = 0;
        let mut spec = self.make("", &schema);
        spec["secretStoreRef"] = json!({"name": "own", "kind": "SecretStore"});
        if spec["data"].as_array().is_none_or(Vec::is_empty) && spec["dataFrom"].as_array().is_none_or(Vec::is_empty) {
            spec["data"] = json!([{"secretKey": "k", "remoteRef": {"key": "json", "property": "user"}}]);
        }
        spec
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.chance.below(of.len())]
    }

    /// Values that mean something where the schema knows only their type.
    fn known(&mut self, path: &str) -> Option<Value> {
        let end = |part: &str| path.ends_with(part);
        Some(match () {
            () if end("refreshInterval") => json!(self.one(&["1h", "30m", "0", "2h45m"])),
            () if end("refreshPolicy") => json!(self.one(&["Periodic", "OnChange"])),
            () if end("creationPolicy") => json!(self.one(&["Owner", "Orphan"])),
            () if end("secretKey") => {
                self.keys += 1;
                json!(format!("k{}", self.keys))
            }
            () if end("remoteRef.key") || end("extract.key") => {
                json!(if self.good { "json" } else { self.one(&["json", "text", "encoded", "nowhere"]) })
            }
            () if end("property") => {
                json!(self.one(if self.good { &["user", "nested.deep", "list.0"] } else { &["user", "absent", "list.0"] }))
            }
            () if end("decodingStrategy") && self.good => json!(self.one(&["None", "Auto"])),
            () if end("metadataPolicy") && self.good => json!("None"),
            () if end("version") => json!(if self.good { "" } else { self.one(&["v1", ""]) }),
            () if end("find.name.regexp") => json!(self.one(if self.good { &["^j", "n$"] } else { &["t$", "x"] })),
            () if end("storeRef") => json!({"name": "own"}),
            () if end("regexp.source") => json!(self.one(&["^(.)", "user", "(a|b)+"])),
            () if end("regexp.target") => json!(self.one(&["x_$1", "y", "${1}"])),
            () if end("transform.template") => json!(self.one(&["{{ .value | upper }}", "z{{ .value }}"])),
            () if end("template.type") => json!(self.one(&["Opaque", "example.com/own"])),
            () if end("template.engineVersion") => json!("v2"),
            () if end("template.data") => {
                json!({"made": self.one(if self.good { &["{{ len . }}", "fixed"] } else { &["{{ .k1 }}", "{{ .user | upper }}"] })})
            }
            () if end("templateFrom") => {
                json!([{"literal": self.one(&["lit: \"1\"\n", "{{ range $k, $v := . }}{{ $k }}-l: \"x\"\n{{ end }}"])}])
            }
            () if end("metadata.labels") || end("metadata.annotations") => json!({"team": self.one(&["a", "b"])}),
            () if end("metadata.finalizers") => json!([]),
            () if end("rewrite[]") => match self.chance.below(3) {
                0 => json!({"regexp": {"source": "^(.)", "target": "x$1"}}),
                1 => json!({"transform": {"template": "{{ .value }}t"}}),
                _ => json!({"merge": {"strategy": "Extract"}}),
            },
            () => return None,
        })
    }

    fn make(&mut self, path: &str, schema: &Value) -> Value {
        if let Some(known) = self.known(path) {
            return known;
        }
        if let Some(all) = schema["enum"].as_array() {
            return all[self.chance.below(all.len())].clone();
        }
        match schema["type"].as_str() {
            Some("object") => {
                let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let mut made = Map::new();
                for (name, part) in schema["properties"].as_object().into_iter().flatten() {
                    let path = format!("{path}.{name}");
                    let left_out = LEFT_OUT.iter().any(|left| path.ends_with(left));
                    if !left_out
                        && (required.contains(&name.as_str()) || self.chance.one_in(if path.contains("target") { 2 } else { 3 }))
                    {
                        made.insert(name.clone(), self.make(&path, part));
                    }
                }
                // Of extract, find and what they come from just one has a meaning.
                if path.ends_with("dataFrom[]") {
                    made.retain(|name, _| name == "rewrite");
                    let (name, path) =
                        if self.chance.one_in(3) { ("find", ".dataFrom[].find") } else { ("extract", ".dataFrom[].extract") };
                    let value = self.make(path, &schema["properties"][name]);
                    made.insert(name.into(), value);
                }
                Value::Object(made)
            }
            Some("array") => (0..=self.chance.below(2)).map(|_| self.make(&format!("{path}[]"), &schema["items"])).collect(),
            Some("boolean") => json!(self.chance.one_in(2)),
            Some("integer") => json!(self.chance.below(3)),
            _ => json!("x"),
        }
    }

    /// The same, broken in one place.
    fn broken(&mut self, spec: &Value) -> Value {
        let mut leaves = Vec::new();
        leaves_of(spec, String::new(), &mut leaves);
        leaves.retain(|pointer| !pointer.starts_with("/secretStoreRef/kind"));
        let mut broken = spec.clone();
        let pointer = &leaves[self.chance.below(leaves.len())];
        let hostile = [
            json!("{{"),
            json!("("),
            json!("{{ .nobody }}"),
            json!(""),
            json!("\u{0}"),
            json!("x".repeat(5000)),
            json!(-1),
            json!([]),
            json!({"a": {}}),
        ];
        if let Some(place) = broken.pointer_mut(pointer) {
            *place = hostile[self.chance.below(hostile.len())].clone();
        }
        broken
    }
}

fn leaves_of(value: &Value, pointer: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, v)| leaves_of(v, format!("{pointer}/{}", name.replace('/', "~1")), leaves))
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| leaves_of(v, format!("{pointer}/{i}"), leaves)),
        _ => leaves.push(pointer),
    }
}

/// Writes an object's whole spec; none: the API server does not take it.
async fn write(world: &World, name: &str, spec: &Value) -> Option<()> {
    let object = json!({"apiVersion": IDENTITY, "kind": "ExternalSecret", "metadata": {"name": name}, "spec": spec});
    let api = harness::api_of(&world.case.client, Some(&world.case.name), &object);
    let there = api.get_opt(name).await.ok()?;
    let Ok(mut new) = serde_json::from_value::<kube::api::DynamicObject>(object) else { return None };
    let written = match there {
        None => api.create(&Default::default(), &new).await,
        Some(there) => {
            new.metadata.resource_version = there.metadata.resource_version;
            api.replace(name, &Default::default(), &new).await
        }
    };
    written.ok().map(drop)
}

/// What an object has, once it has answered: whether it is ready and what it says, and its Secret.
async fn answered(world: &World, name: &str, was_ready: Option<bool>) -> (Value, Value) {
    let identity = json!({"apiVersion": IDENTITY, "kind": "ExternalSecret"});
    let api = harness::api_of(&world.case.client, Some(&world.case.name), &identity);
    let told = eventually(&format!("{name} is answered"), async || {
        let object = api.get(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let ready = object.data["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?.clone();
        let generation = object.metadata.generation.unwrap_or(0);
        let synced =
            object.data["status"]["syncedResourceVersion"].as_str().unwrap_or_default().starts_with(&format!("{generation}-"));
        // A failure is news only where there was none.
        (synced && ready["status"] == "True" || ready["status"] == "False" && was_ready != Some(false)).then_some(object)
    })
    .await;
    let secrets = harness::api_of(&world.case.client, Some(&world.case.name), &json!({"apiVersion": "v1", "kind": "Secret"}));
    let secret = secrets.get_opt(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let plain = |value: Value| serde_json::from_str::<Value>(&value.to_string().replace(name, "NAME")).unwrap_or_default();
    (plain(status(&told)), plain(secret.map_or(Value::Null, |secret| contents("Secret", &secret))))
}

fn is_ready(told: &Value) -> bool {
    told.to_string().contains("\"True\"")
}

/// One walk; answers what was different.
async fn walk(world: &World, n: usize, a: &Value, b: &Value) -> Result<&'static str, String> {
    let (walker, fresh) = (format!("w{n}"), format!("f{n}"));
    let wrong = |what: &str, there: &dyn std::fmt::Debug, expected: &dyn std::fmt::Debug| {
        Err(format!("walk {n}: {what}: {there:?}, and not {expected:?}\n  from {a}\n  over {b}"))
    };
    if write(world, &walker, a).await.is_none() {
        return Ok("the first is refused");
    }
    let first = answered(world, &walker, None).await;
    if !is_ready(&first.0) {
        return Ok("the first can't be served");
    }
    if write(world, &walker, b).await.is_none() {
        let now = answered(world, &walker, None).await;
        return if now == first { Ok("refused by the API server") } else { wrong("a spec that was refused", &now, &first) };
    }
    let there = answered(world, &walker, Some(true)).await;
    write(world, &fresh, b).await.ok_or_else(|| format!("walk {n}: taken as a change, and refused as new: {b}"))?;
    let mut made = answered(world, &fresh, None).await;
    if b.pointer("/target/template/type").is_none() && !there.1.is_null() && !made.1.is_null() {
        // Whoever asks for no type is content with the one that the Secret has for good.
        made.1["type"] = there.1["type"].clone();
    }
    let fixed = there.0.to_string().contains("can't be changed to");
    let kept = is_ready(&made.0) || there.1 == first.1;
    let outcome = match (is_ready(&there.0), is_ready(&made.0)) {
        (true, true) if there.1 != made.1 => return wrong("the Secret", &there.1, &made.1),
        (true, true) => "both are served",
        // A Secret's type is for good: the API server's rule.
        (false, true) if fixed && there.1 == first.1 => "another type",
        (false, false) if !kept => return wrong("a spec that can't be served changed the Secret", &there.1, &first.1),
        (false, false) => "can't be served",
        _ => return wrong("the condition", &there.0, &made.0),
    };
    let was_ready = is_ready(&there.0);
    write(world, &walker, a).await.ok_or_else(|| format!("walk {n}: the way back is refused: {a}"))?;
    // From a failure to success there is news; from one success to another the generation tells.
    let back = answered(world, &walker, Some(was_ready)).await;
    if back.1 != first.1 {
        return wrong("back again, the Secret", &back.1, &first.1);
    }
    Ok(outcome)
}

/// So many walks.
pub async fn everywhere(walks: usize, seed: u64, say: &(impl Fn(&str) + Sync)) -> Tally {
    let world = World::new("specs", Making { interval: "1h", seed, ..Making::default() }).await;
    let case = &world.case;
    let text =
        json!({"user": "CANARY-u", "pass": "CANARY-p", "nested": {"deep": "CANARY-d"}, "list": ["CANARY-l", 2]}).to_string();
    let values = json!([{"key": "json", "value": text, "version": "v1"}, {"key": "json", "value": text},
        {"key": "text", "value": "CANARY-t"}, {"key": "encoded", "value": "Q0FOQVJZ"}]);
    case.apply_store("own", json!({"fake": {"data": values}})).await;
    world.start().await;
    let mut maker = Maker { schema: schema(), chance: Chance::new(seed), keys: 0, good: true };
    let mut tally = Tally::default();
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for n in 0..walks {
        let a = maker.valid(true);
        let good = maker.chance.one_in(2);
        let mut b = maker.valid(good);
        if maker.chance.one_in(3) {
            b = maker.broken(&b);
        }
        let outcome = walk(&world, n, &a, &b).await;
        if let Ok(kind) = outcome {
            *kinds.entry(kind).or_default() += 1;
        }
        tally.add(outcome.map(drop));
    }
    say(&format!("specs: {kinds:?}"));
    tally.notes.extend(kinds.iter().map(|(kind, count)| format!("specs: {count} {kind}")));
    // What failed waits for its interval: nobody asks or writes any more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let log = || world.api.log().iter().filter(|e| counts(e) && e.sort == Sort::Write).count();
    let before = log();
    tokio::time::sleep(Duration::from_secs(6)).await;
    tally.add(if log() == before { Ok(()) } else { Err(format!("{} writes though nothing changes", log() - before)) });
    let logs = world.logs();
    tally.add(if logs.contains("panicked at") { Err("the operator panicked".into()) } else { Ok(()) });
    tally.add(if logs.contains("CANARY") { Err("the log holds a value".into()) } else { Ok(()) });
    world.end().await;
    tally
}
