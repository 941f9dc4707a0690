//! Targets of another kind than Secret: the manifest that an object makes, and the paths into it. Pure; what is sent is in
//! [`super::generic`].

use std::collections::BTreeMap;

use lockstep_crds::external_secret::TargetManifest;
use lockstep_providers::SecretBytes;
use serde_json::{Map, Value};

use super::data::MAX_SECRET_BYTES;

/// Highest index that a path may name: a list is filled up to it.
const MOST_ITEMS: usize = 10_000;
/// Items that paths may add to all lists together.
pub const ROOM: usize = 50_000;
/// Deepest path.
const DEEPEST: usize = 32;
/// What is the operator's, or the API server's, to write.
const RESERVED: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// A place in a manifest, such as `spec.servers[0].password`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

impl Path {
    /// Parses one.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no path into the target: {why}; write for example spec.servers[0].password");
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (field, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
            if field.is_empty() {
                return Err(wrong("a part of it is empty"));
            }
            steps.push(Step::Field(field.to_owned()));
            while !rest.is_empty() {
                let (index, after) =
                    rest.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(|| wrong("a bracket is open"))?;
                let index: usize = index.parse().map_err(|_| wrong("an index is no number"))?;
                if index > MOST_ITEMS {
                    return Err(wrong(&format!("an index is above {MOST_ITEMS}")));
                }
                steps.push(Step::Index(index));
                rest = after;
            }
        }
        match &steps[0] {
            Step::Field(first) if RESERVED.contains(&first.as_str()) => Err(wrong("that is not a template's to write")),
            _ if steps.len() > DEEPEST => Err(wrong("it is too deep")),
            _ => Ok(Self(steps)),
        }
    }

    /// Puts a value there; a map joins the one that is there. `room` is how many items lists may still grow by.
    ///
    /// # Errors
    /// A sentence when something else than a map or a list stands on the way, or lists grow too much.
    pub fn put(&self, manifest: &mut Value, value: Value, room: &mut usize) -> Result<(), String> {
        let mut place = manifest;
        for step in &self.0 {
            if place.is_null() {
                *place = match step {
                    Step::Field(_) => Value::Object(Map::new()),
                    Step::Index(_) => Value::Array(Vec::new()),
                };
            }
            place = match (step, place) {
                (Step::Field(name), Value::Object(fields)) => fields.entry(name.clone()).or_insert(Value::Null),
                (Step::Index(index), Value::Array(items)) => {
                    if items.len() <= *index {
                        let more = index + 1 - items.len();
                        *room = room.checked_sub(more).ok_or_else(|| format!("lists of more than {ROOM} items are asked for"))?;
                        items.resize(index + 1, Value::Null);
                    }
                    &mut items[*index]
                }
                (Step::Field(name), _) => return Err(format!("{name} can't stand in what is no map")),
                (Step::Index(index), _) => return Err(format!("[{index}] can't stand in what is no list")),
            };
        }
        join(place, value);
        Ok(())
    }
}

/// Lays a value over another: maps are joined, everything else is replaced.
fn join(place: &mut Value, value: Value) {
    match (place, value) {
        (Value::Object(there), Value::Object(new)) => {
            for (key, value) in new {
                join(there.entry(key).or_insert(Value::Null), value);
            }
        }
        (place, value) => *place = value,
    }
}

/// Where data goes that names no path: `data` of a ConfigMap, `spec.data` of any other kind.
pub fn default_path(manifest: &TargetManifest) -> Path {
    let field = |name: &str| Step::Field(name.to_owned());
    match manifest.kind.as_str() {
        "ConfigMap" => Path(vec![field("data")]),
        _ => Path(vec![field("spec"), field("data")]),
    }
}

/// Data as a map of text.
///
/// # Errors
/// A sentence that names a key whose value is no text.
pub fn texts(data: &BTreeMap<String, SecretBytes>) -> Result<Value, String> {
    let mut all = Map::new();
    for (key, value) in data {
        let text = value
            .as_text()
            .ok_or_else(|| format!("the value of key {key:?} is no text, which another kind than Secret can't hold"))?;
        all.insert(key.clone(), text.into());
    }
    Ok(Value::Object(all))
}

/// Checks that a manifest has its place in the API server.
///
/// # Errors
/// A sentence with its size.
pub fn check_size(manifest: &Value) -> Result<(), String> {
    let size = manifest.to_string().len();
    if size > MAX_SECRET_BYTES {
        return Err(format!("the target is {size} bytes, and an object holds about {MAX_SECRET_BYTES}"));
    }
    Ok(())
}

/// The parts of an apiVersion, as the API server reads it; none: it is none.
pub fn group_and_version(api_version: &str) -> Option<(&str, &str)> {
    let (group, version) = match api_version.split_once('/') {
        Some(("", _)) => return None,
        Some(parts) => parts,
        None => ("", api_version),
    };
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
    (!version.is_empty() && plain(group) && plain(version)).then_some((group, version))
}

/// Checks what can be said of a kind without asking.
///
/// # Errors
/// A sentence that names the field.
pub fn check(manifest: &TargetManifest) -> Result<(), String> {
    let field = "spec.target.manifest";
    let (group, _) = group_and_version(&manifest.api_version)
        .ok_or_else(|| format!("{field}.apiVersion is no apiVersion; write for example v1 or apps/v1"))?;
    if manifest.kind == "Secret" && group.is_empty() {
        return Err(format!("{field} is for other kinds than Secret; leave it out"));
    }
    // Who may write ExternalSecrets has no right to what those kinds can do with the operator's.
    if group == "external-secrets.io" || group.ends_with(".external-secrets.io") {
        return Err(format!("{field}: {} is of this operator's own kinds, which are no targets", manifest.kind));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_and_the_operators_own_kinds_are_no_targets_however_they_are_written() {
        let said = |api_version: &str, kind: &str| {
            check(&TargetManifest { api_version: api_version.into(), kind: kind.into() }).err().unwrap_or_default()
        };
        for (api_version, kind, needle) in [
            ("v1", "Secret", "other kinds than Secret"),
            ("/v1", "Secret", "no apiVersion"),
            ("v1/", "Secret", "no apiVersion"),
            ("", "Secret", "no apiVersion"),
            ("apps/v1/x", "Deployment", "no apiVersion"),
            ("v1?x", "ConfigMap", "no apiVersion"),
            ("external-secrets.io/v1", "ExternalSecret", "own kinds"),
            ("external-secrets.io/v1alpha1", "PushSecret", "own kinds"),
            ("generators.external-secrets.io/v1alpha1", "GeneratorState", "own kinds"),
        ] {
            assert!(said(api_version, kind).contains(needle), "{api_version} {kind}");
        }
        for (api_version, kind) in [("v1", "ConfigMap"), ("apps/v1", "Deployment"), ("example.com/v1", "Secret")] {
            assert_eq!(said(api_version, kind), "");
        }
    }

    #[test]
    fn paths_lead_into_maps_and_lists_and_maps_are_joined() {
        let mut manifest = json!({"spec": {"a": [{"x": 1}], "text": "t"}});
        for (path, value) in [
            ("spec.a[0].b", json!("new")),
            ("spec.a[2][1].c", json!({"d": 1})),
            ("spec.a[0]", json!({"y": {"z": 2}})),
            ("spec.text", json!("u")),
            ("other", json!(3)),
        ] {
            Path::parse(path).unwrap().put(&mut manifest, value, &mut ROOM.clone()).unwrap();
        }
        let expected = json!({
            "spec": {"a": [{"x": 1, "b": "new", "y": {"z": 2}}, null, [null, {"c": {"d": 1}}]], "text": "u"}, "other": 3,
        });
        assert_eq!(manifest, expected);
        let error = Path::parse("spec.text.deep").unwrap().put(&mut manifest, json!(1), &mut 1).unwrap_err();
        assert_eq!(error, "deep can't stand in what is no map");
        let many = Path::parse("l[10000][10000]").unwrap().put(&mut Value::Null, json!(1), &mut 10_500).unwrap_err();
        assert!(many.contains("are asked for"), "{many}");
    }

    #[test]
    fn paths_that_are_none_are_named() {
        for (path, needle) in [
            ("", "a part of it is empty"),
            ("spec..a", "a part of it is empty"),
            ("spec.a[0", "a bracket is open"),
            ("spec.a[x]", "an index is no number"),
            ("spec.a[-1]", "an index is no number"),
            ("spec.a[10001]", "an index is above 10000"),
            ("spec.a[0]b", "a bracket is open"),
            ("metadata.ownerReferences", "not a template's to write"),
            ("status.ready", "not a template's to write"),
            (&["a"; 40].join("."), "too deep"),
        ] {
            let error = Path::parse(path).unwrap_err();
            assert!(error.contains(needle), "{path}: {error}");
        }
    }

    proptest! {
        /// Whatever stands there: no panic, and nothing but what was asked for grows without end.
        #[test]
        fn any_text_is_a_path_or_an_error(text in "[a-c.\\[\\]0-9]{0,24}") {
            if let Ok(path) = Path::parse(&text) {
                let mut manifest = Value::Null;
                let _ = path.put(&mut manifest, json!(1), &mut ROOM.clone());
            }
        }
    }
}
