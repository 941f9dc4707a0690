//! Makes specs of a CRD's schema: whole ones, and ones that are broken in one place.

use serde_json::{Map, Value, json};

use crate::harness::{documents, root};
use crate::interposer::Chance;

/// What means something at a path, given its schema; none: whatever the schema allows.
type Known = fn(&mut Maker, &str, &Value) -> Option<Value>;

/// Makes specs.
pub(super) struct Maker {
    pub(super) schema: Value,
    pub(super) chance: Chance,
    /// Names of what is made, counted.
    pub(super) keys: usize,
    /// Whether everything that is named is there.
    pub(super) good: bool,
    /// Values that mean something where the schema knows only their type.
    known: Known,
    /// Ends of paths that are left out.
    left_out: &'static [&'static str],
}

/// The schema of a kind's spec.
fn schema(kind: &str) -> Value {
    let text = std::fs::read_to_string(root().join("config/crd/crds.yaml")).expect("the CRDs");
    let crd = documents(&text).into_iter().find(|crd| crd["spec"]["names"]["kind"] == kind).expect("its CRD");
    let versions = crd["spec"]["versions"].as_array().expect("versions").clone();
    let served = versions.into_iter().find(|version| version["storage"] == true).expect("what is stored");
    served["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

impl Maker {
    /// For a kind.
    pub(super) fn new(kind: &str, chance: Chance, known: Known, left_out: &'static [&'static str]) -> Self {
        Self { schema: schema(kind), chance, keys: 0, good: true, known, left_out }
    }

    /// Any spec that the schema allows, with names that mean something.
    pub(super) fn any(&mut self, good: bool) -> Value {
        (self.good, self.keys) = (good, 0);
        let schema = self.schema.clone();
        self.make("", &schema)
    }

    /// One of these.
    pub(super) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.chance.below(of.len())]
    }

    /// A value for a part of the schema.
    pub(super) fn make(&mut self, path: &str, schema: &Value) -> Value {
        if let Some(known) = (self.known)(self, path, schema) {
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
                    let left_out = self.left_out.iter().any(|left| path.ends_with(left));
                    if !left_out
                        && (required.contains(&name.as_str()) || self.chance.one_in(if path.contains("target") { 2 } else { 3 }))
                    {
                        made.insert(name.clone(), self.make(&path, part));
                    }
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
    pub(super) fn broken(&mut self, spec: &Value) -> Value {
        let mut leaves = Vec::new();
        leaves_of(spec, String::new(), &mut leaves);
        leaves.retain(|pointer| !pointer.contains("StoreRef") && !pointer.contains("storeRef") && pointer != "/controller");
        if leaves.is_empty() {
            return spec.clone();
        }
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
