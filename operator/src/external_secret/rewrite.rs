//! `dataFrom[].rewrite`: changes of key names, in order, and the merge of values that are JSON objects. Pure.

use std::collections::BTreeMap;

use gotemplate::regexp::Regexp;
use gotemplate::{Limits, Options, Template, Value};
use lockstep_crds::external_secret::{ConflictPolicy, MergeStrategy, PriorityPolicy, Rewrite, RewriteMerge};
use lockstep_providers::SecretBytes;
use serde_json::value::RawValue;

use super::data::{object, text_of};
use super::template;
use crate::resolver::keys_of;

type Keys = BTreeMap<String, SecretBytes>;

/// Longest name that a rewrite may give, in bytes.
const LONGEST: usize = 4096;

/// What is wrong with rewrites that stand in `field`, as far as can be said without keys.
pub fn problems(field: &str, rewrites: &[Rewrite]) -> Vec<String> {
    let mut found = Vec::new();
    for (i, rewrite) in rewrites.iter().enumerate() {
        let field = format!("{field}.rewrite[{i}]");
        if let Some(Err(why)) = rewrite.regexp.as_ref().map(|rename| Regexp::new(&rename.source)) {
            found.push(format!("{field}.regexp.source: {why}"));
        }
        let parse = |text: &str| Template::parse("transform", text, &template::options());
        if let Some(Err(why)) = rewrite.transform.as_ref().map(|transform| parse(&transform.template)) {
            found.push(format!("{field}.transform.template: {why}"));
        }
    }
    found
}

/// Applies every rewrite.
///
/// # Errors
/// A sentence that names the rewrite and the keys, and no value.
pub fn apply(rewrites: &[Rewrite], mut keys: Keys) -> Result<Keys, String> {
    for (i, rewrite) in rewrites.iter().enumerate() {
        let field = |kind: &str| format!("rewrite[{i}].{kind}");
        keys = match rewrite {
            Rewrite { regexp: Some(rename), .. } => {
                let field = field("regexp");
                let regexp = Regexp::new(&rename.source).map_err(|why| format!("{field}.source: {why}"))?;
                let renamed = |key: &str| regexp.replace_all(key.as_bytes(), rename.target.as_bytes(), LONGEST);
                renamed_keys(&field, keys, |key| renamed(key).map_err(|why| format!("{field}: key {key:?}: {why}")))?
            }
            Rewrite { transform: Some(transform), .. } => {
                let field = format!("{}.template", field("transform"));
                // All keys together take no more than one template may.
                let steps = Limits::default().steps / (keys.len() as u64).max(1);
                let limits = Limits { steps, output: LONGEST, memory: 1 << 20, ..Limits::default() };
                let options = Options { limits, ..template::options() };
                let wrong = |error: gotemplate::Error| format!("{field}: {error}");
                let template = Template::parse("transform", &transform.template, &options).map_err(wrong)?;
                renamed_keys(&field, keys, |key| {
                    let name = template.render(&Value::map_of_text([("value", key)])).map_err(wrong)?;
                    Ok(name.to_vec())
                })?
            }
            Rewrite { merge: Some(merge), .. } => merged(&field("merge"), merge, keys)?,
            _ => return Err(format!("rewrite[{i}] names neither regexp nor transform nor merge")),
        };
    }
    Ok(keys)
}

/// Every key under its new name; one without a name goes.
fn renamed_keys(field: &str, keys: Keys, rename: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Keys, String> {
    let mut origins: BTreeMap<String, String> = BTreeMap::new();
    let mut out = Keys::new();
    for (key, value) in keys {
        let name = String::from_utf8(rename(&key)?).map_err(|_| format!("{field}: key {key:?} becomes no text"))?;
        if name.is_empty() {
            continue;
        }
        if let Some(other) = origins.insert(name.clone(), key.clone()) {
            return Err(format!("{field}: keys {other:?} and {key:?} both become {name:?}"));
        }
        out.insert(name, value);
    }
    Ok(out)
}

/// The objects of all values in one: those of `priority` last, each winning over those before it.
fn merged(field: &str, merge: &RewriteMerge, keys: Keys) -> Result<Keys, String> {
    let mut order: Vec<&String> = keys.keys().filter(|key| !merge.priority.contains(key)).collect();
    for (i, key) in merge.priority.iter().enumerate() {
        if merge.priority[i + 1..].contains(key) {
            continue;
        }
        match (keys.contains_key(key), merge.priority_policy) {
            (true, _) => order.push(key),
            (false, PriorityPolicy::IgnoreNotFound) => {}
            (false, PriorityPolicy::Strict) => {
                return Err(format!("{field}.priority: there is no key {key:?}; there is {}", keys_of(keys.keys())));
            }
        }
    }
    // Each with the key whose value it stands in.
    let mut fields: BTreeMap<String, (&String, SecretBytes)> = BTreeMap::new();
    let mut conflicts = Vec::new();
    for key in order {
        let text = keys[key].as_text().and_then(|text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok());
        let text = text.ok_or_else(|| format!("{field}: the value of key {key:?} is no JSON object"))?;
        for (name, raw) in text {
            if let Some((other, _)) = fields.insert(name.clone(), (key, SecretBytes::from(raw.get()))) {
                conflicts.push(format!("{name:?} stands in {other:?} and {key:?}"));
            }
        }
    }
    if merge.conflict_policy == ConflictPolicy::Error && !conflicts.is_empty() {
        conflicts.truncate(10);
        let conflicts = conflicts.join(", ");
        return Err(format!("{field}: {conflicts}; name an order in priority with conflictPolicy Ignore, or rename them"));
    }
    if merge.strategy == MergeStrategy::Extract {
        let raw =
            |bytes: &SecretBytes| bytes.as_text().and_then(|text| serde_json::from_str::<&RawValue>(text).ok()).map(text_of);
        return Ok(fields.into_iter().map(|(name, (_, bytes))| (name, raw(&bytes).unwrap_or_default())).collect());
    }
    if merge.into.is_empty() {
        return Err(format!("{field}.into is empty, and strategy JSON needs a key"));
    }
    let mut json = zeroize::Zeroizing::new(String::from("{"));
    for (i, (name, (_, bytes))) in fields.iter().enumerate() {
        let name = serde_json::to_string(name).unwrap_or_default();
        let more = if i > 0 { "," } else { "" };
        json.push_str(&format!("{more}{name}:{}", bytes.as_text().unwrap_or("null")));
    }
    json.push('}');
    let result = SecretBytes::from(json.as_str());
    // What was just written is an object: anything else would be a mistake of ours.
    object(&result, "the merged value").map_err(|_| format!("{field}: the merged value is no JSON object"))?;
    let mut keys = keys;
    keys.insert(merge.into.clone(), result);
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> Keys {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), SecretBytes::from(*v))).collect()
    }

    fn rewritten(rewrites: serde_json::Value, pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let rewrites: Vec<Rewrite> = serde_json::from_value(rewrites).unwrap();
        let keys = apply(&rewrites, keys(pairs))?;
        Ok(keys.into_iter().map(|(k, v)| (k, v.as_text().unwrap().to_owned())).collect())
    }

    fn is(rewrites: serde_json::Value, pairs: &[(&str, &str)], expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(rewritten(rewrites.clone(), pairs), Ok(expected), "{rewrites}");
    }

    #[test]
    fn keys_are_renamed_in_order_by_regexps_and_templates() {
        let path = [("app/db/user", "a"), ("app/db/pass", "b")];
        is(json!([{"regexp": {"source": "^app/(.*)$", "target": "$1"}}]), &path, &[("db/pass", "b"), ("db/user", "a")]);
        is(
            json!([{"regexp": {"source": "^app/db/(?P<key>.*)", "target": "${key}_x"}}, {"transform": {"template": "{{ .value | upper | replace \"_\" \"-\" }}"}}]),
            &path,
            &[("PASS-X", "b"), ("USER-X", "a")],
        );
        // What has no name any more goes.
        is(json!([{"regexp": {"source": "^app/db/pass$", "target": ""}}]), &path, &[("app/db/user", "a")]);
        is(json!([]), &path[..1], &[("app/db/user", "a")]);
    }

    #[test]
    fn objects_are_merged_by_weight() {
        let two = [("a", r#"{"x":"1","n":1.50,"only":{"deep": true}}"#), ("b", r#"{"x":"2","z":null}"#)];
        let merge = |more: serde_json::Value| {
            let mut merge = json!({"conflictPolicy": "Ignore"});
            merge.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([{"merge": merge}])
        };
        is(merge(json!({})), &two, &[("n", "1.50"), ("only", r#"{"deep": true}"#), ("x", "2"), ("z", "")]);
        is(merge(json!({"priority": ["a"]})), &two, &[("n", "1.50"), ("only", r#"{"deep": true}"#), ("x", "1"), ("z", "")]);
        is(
            merge(json!({"priority": ["b", "none", "a"], "priorityPolicy": "IgnoreNotFound"})),
            &two[1..],
            &[("x", "2"), ("z", "")],
        );
        is(
            merge(json!({"strategy": "JSON", "into": "all"})),
            &two,
            &[two[0], ("all", r#"{"n":1.50,"only":{"deep": true},"x":"2","z":null}"#), two[1]],
        );
    }

    #[test]
    fn what_can_not_be_is_said_with_the_keys_and_without_a_value() {
        let two = [("a b", r#"{"x":"canary"}"#), ("a_b", r#"{"x":"canary"}"#)];
        for (rewrites, needle) in [
            (json!([{"regexp": {"source": " ", "target": "_"}}]), r#"rewrite[0].regexp: keys "a b" and "a_b" both become "a_b""#),
            (
                json!([{"transform": {"template": "same"}}]),
                r#"rewrite[0].transform.template: keys "a b" and "a_b" both become "same""#,
            ),
            (json!([{"regexp": {"source": "(", "target": "_"}}]), "rewrite[0].regexp.source: the regexp is not valid"),
            (json!([{"regexp": {"source": "a", "target": "x".repeat(5000)}}]), "longer than 4096 bytes"),
            (json!([{"transform": {"template": "{{ .nope }}"}}]), "template transform line 1 column 4"),
            (json!([{"transform": {"template": "{{ range until 10000000 }}{{ end }}"}}]), "steps"),
            (json!([{"merge": {}}]), r#"rewrite[0].merge: "x" stands in "a b" and "a_b""#),
            (json!([{"merge": {"priority": ["c"], "conflictPolicy": "Ignore"}}]), r#"there is no key "c"; there is a b, a_b"#),
            (json!([{"merge": {"strategy": "JSON", "conflictPolicy": "Ignore"}}]), "into is empty"),
        ] {
            let error = rewritten(rewrites.clone(), &two).unwrap_err();
            assert!(error.contains(needle) && !error.contains("canary"), "{rewrites}: {error}");
        }
        let error = rewritten(json!([{"merge": {}}]), &[("k", "canary")]).unwrap_err();
        assert!(error.contains("the value of key \"k\" is no JSON object") && !error.contains("canary"), "{error}");
    }
}
