//! Where a value lies in a JSON answer.

use serde_json::Value;
use serde_json_path::JsonPath;

use crate::secret_bytes::WipedJson;
use crate::{Error, Result, SecretBytes};

const FIELD: &str = "spec.provider.webhook.result.jsonPath";

/// What a path means in an answer, as a Secret holds it: a string's text, nothing for null, else JSON text; of several matches,
/// and of an array, the first.
///
/// # Errors
/// [`Error::Invalid`] when the answer is no JSON, the path is none, or it matches nothing.
pub(super) fn select(path: &str, answer: &[u8]) -> Result<SecretBytes> {
    let parsed: Value = serde_json::from_slice(answer).map_err(|_| Error::invalid(FIELD, "is set, but the answer is no JSON"))?;
    let parsed = WipedJson(parsed);
    bounded(path, &parsed.0).map_err(|why| Error::invalid(FIELD, why))?;
    let path = JsonPath::parse(path).map_err(|error| {
        Error::invalid(FIELD, format!("is no JSONPath (RFC 9535), such as $.data.value: {}", error.message()))
    })?;
    let mut found = path.query(&parsed.0).first();
    while let Some(Value::Array(items)) = found {
        found = items.first();
    }
    match found {
        None => Err(Error::invalid(FIELD, format!("matches nothing; the answer is {}", shape(&parsed.0)))),
        Some(Value::Null) => Ok(SecretBytes::default()),
        Some(Value::String(text)) => Ok(SecretBytes::from(text.as_str())),
        Some(other) => Ok(SecretBytes::from(other.to_string())),
    }
}

/// Longest path, and how deep its brackets may stand in each other: the library's parser goes as deep as they do.
const LONGEST: usize = 1024;
const DEEPEST: usize = 16;
/// Values that a query may look at: the library keeps each that it passes, as often as it passes it.
const WORK: usize = 2_000_000;

/// Refuses what the library would follow without end: it knows no limits of its own.
///
/// An upper bound of the work, from the text of the path and the shape of the answer: a step over all children looks at each value
/// once, `..` once for each value that it lies in, and a filter once more for each of its own queries; names side by side multiply.
fn bounded(path: &str, answer: &Value) -> std::result::Result<(), String> {
    if path.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut filters, mut beside, mut queries, mut absolute) = (0_u32, 0_u32, 0_usize, 0_u32);
    let mut quote = None;
    let mut chars = path.chars().skip(1);
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, '?') => filters += 1,
            (None, ',') => beside += 1,
            (None, '@') => queries += 1,
            (None, '$') => absolute += 1,
            (None, _) => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEEPEST {
        return Err(format!("has brackets more than {DEEPEST} deep"));
    }
    let descents = u32::try_from(path.matches("..").count()).unwrap_or(u32::MAX);
    if descents + filters + beside == 0 {
        return Ok(());
    }
    let (values, levels) = size(answer);
    // A pattern is compiled for each value that it is held against.
    let patterns = path.matches("match").count() + path.matches("search").count();
    let pattern = if patterns == 0 { 1 } else { patterns.saturating_mul(path.len()).saturating_mul(50) };
    let work = [
        levels.saturating_pow(descents + filters),
        values.saturating_pow(absolute),
        2_usize.saturating_pow(beside),
        queries + 1,
        pattern,
    ];
    match work.iter().fold(values, |all, factor| all.saturating_mul(*factor)) > WORK {
        true => Err(format!("asks for too much of an answer with {values} values; name the way to the value, without .. and ?")),
        false => Ok(()),
    }
}

/// How many values there are, and on how many levels.
fn size(value: &Value) -> (usize, usize) {
    let add = |(count, deep): (usize, usize), (more, levels): (usize, usize)| (count + more, deep.max(levels + 1));
    match value {
        Value::Array(items) => items.iter().map(size).fold((1, 1), add),
        Value::Object(fields) => fields.values().map(size).fold((1, 1), add),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (1, 1),
    }
}

/// Key names of an answer for a message; never values.
fn shape(answer: &Value) -> String {
    match answer {
        Value::Object(fields) => {
            let names: Vec<&str> = fields.keys().take(10).map(String::as_str).collect();
            let names = crate::error::foreign_text(&names.join(", "), &[]);
            format!("an object with {}", if names.is_empty() { "no keys".into() } else { names })
        }
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => "neither an object nor an array".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_value() {
        let answer = br#"{"a": {"b": "x", "n": 4.5, "t": true, "z": null, "o": {"k": [1]}}, "l": [{"n": "p", "v": "1"}, {"n": "q", "v": "2"}], "": 0, "e": []}"#;
        for (path, expected) in [
            ("$.a.b", "x"),
            ("$['a']['b']", "x"),
            ("$.a.n", "4.5"),
            ("$.a.t", "true"),
            ("$.a.z", ""),
            ("$.a.o", r#"{"k":[1]}"#),
            ("$.a.o.k", "1"),
            ("$.l[1].v", "2"),
            ("$.l[?@.n=='q'].v", "2"),
            (r#"$.l[?(@.n=="q")].v"#, "2"),
            ("$..v", "1"),
        ] {
            assert_eq!(select(path, answer).expect(path).as_text(), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_would_not_end_is_refused_and_what_people_write_is_not() {
        let nested = format!("{}{}", "[".repeat(40), "]".repeat(40));
        let wide = serde_json::to_vec(&(0..30_000).map(|n| serde_json::json!({"n": n})).collect::<Vec<_>>()).expect("JSON");
        let (deep, brackets) = (format!("$[?{}", "(".repeat(500)), format!("${}", "[?@".repeat(100)));
        for (path, answer, needle) in [
            (&*deep, &b"{}"[..], "deep"),
            (&*brackets, &b"{}"[..], "deep"),
            (&*format!("$[?{}", "(".repeat(100_000)), &b"{}"[..], "longer than 1024"),
            (&*format!("${}", "[0,0]".repeat(40)), nested.as_bytes(), "too much"),
            (&*format!("${}", "..*".repeat(40)), nested.as_bytes(), "too much"),
            ("$[?@.n == $[?@.n == 1].n]", &wide, "too much"),
            (r#"$[?search(@.n, "((a*)*)*")]"#, &wide, "too much"),
        ] {
            let error = select(path, answer).expect_err(path).to_string();
            assert!(error.contains(needle), "{path}: {error}");
        }
        for path in ["$[?@.n==29999].n", "$..n", "$[29999].n", "$[-1].n", r#"$[?@.n>7&&@.n<9]['n']"#] {
            assert!(select(path, &wide).is_ok(), "{path}");
        }
        let few = br#"[{"name": "db-a", "v": "x"}]"#;
        assert_eq!(select(r#"$[?match(@.name, "db-.*")].v"#, few).expect("found").as_text(), Some("x"));
    }

    #[test]
    fn what_matches_nothing_says_what_there_is_and_no_value() {
        let answer = br#"{"user": "CANARY", "list": []}"#;
        for (path, needle) in [
            ("$.pin", "matches nothing; the answer is an object with list, user"),
            ("$.list", "matches nothing"),
            ("$.list[?@.x]", "matches nothing"),
            ("user", "is no JSONPath"),
            ("$.a[", "is no JSONPath"),
        ] {
            let error = select(path, answer).expect_err(path).to_string();
            assert!(error.contains(needle) && !error.contains("CANARY"), "{error}");
        }
        let error = select("$", b"CANARY").expect_err("no JSON").to_string();
        assert!(error.contains("no JSON") && !error.contains("CANARY"), "{error}");
    }
}
