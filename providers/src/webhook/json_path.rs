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
