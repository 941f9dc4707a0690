//! From what the providers gave to the keys of a Secret: properties, decoding, key names. Pure; knows no client.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use lockstep_crds::external_secret::{ConversionStrategy, DecodingStrategy, NullBytePolicy, RemoteRef};
use lockstep_providers::{Payload, SecretBytes};
use serde_json::value::RawValue;

use crate::gjson;
use crate::resolver::keys_of;

/// A Secret's data in bytes at most (`MaxSecretSize` of the Kubernetes API).
pub const MAX_SECRET_BYTES: usize = 1 << 20;

/// What can be wrong with a value: what an authority says is not there, and everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// The value has no such property: obeys the deletion policy.
    Missing(String),
    /// The value can't be used as asked.
    Unusable(String),
}

/// The value of one key: the property of a payload, decoded.
pub fn single(payload: &Payload, remote: &RemoteRef) -> Result<SecretBytes, ValueError> {
    let raw = match remote.property.as_deref().filter(|p| !p.is_empty()) {
        None => whole(payload)?,
        Some(property) => self::property(payload, property)?,
    };
    finish(raw, remote.decoding_strategy, remote.null_byte_policy)
}

/// Every key of a payload that is an object.
pub fn fields(payload: &Payload, remote: &RemoteRef) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    Ok(match (payload, remote.property.as_deref().filter(|p| !p.is_empty())) {
        (Payload::Fields(fields), None) => fields.clone(),
        (Payload::Property(bytes), _) => object(bytes, "the value")?,
        (_, Some(property)) => object(&self::property(payload, property)?, &format!("property {property}"))?,
        (Payload::Bytes(bytes), None) => object(bytes, "the value")?,
    })
}

/// What becomes of the keys and values of many at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Treatment {
    /// Of key names; none: they stay, for a rewrite has made them.
    pub conversion: Option<ConversionStrategy>,
    /// Of values.
    pub decoding: Option<DecodingStrategy>,
    /// Of NUL bytes in values.
    pub nulls: Option<NullBytePolicy>,
}

/// Keys with names that a Secret can have, and values that are decoded.
pub fn treated(fields: BTreeMap<String, SecretBytes>, how: Treatment) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    let mut out = BTreeMap::new();
    let mut origin: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in fields {
        let key = how.conversion.map_or_else(|| name.clone(), |conversion| secret_key(&name, conversion));
        check_key(&key).map_err(|why| ValueError::Unusable(format!("key {name:?} {why}")))?;
        if let Some(other) = origin.insert(key.clone(), name.clone()) {
            return Err(ValueError::Unusable(format!("keys {other:?} and {name:?} both become {key:?}; rename one of them")));
        }
        let value = finish(value, how.decoding, how.nulls).map_err(|error| match error {
            ValueError::Missing(why) | ValueError::Unusable(why) => ValueError::Unusable(format!("key {name:?}: {why}")),
        })?;
        out.insert(key, value);
    }
    Ok(out)
}

/// The payload as one value.
pub fn whole(payload: &Payload) -> Result<SecretBytes, ValueError> {
    match payload {
        Payload::Bytes(bytes) | Payload::Property(bytes) => Ok(bytes.clone()),
        Payload::Fields(fields) => json_of(fields),
    }
}

fn json_of(fields: &BTreeMap<String, SecretBytes>) -> Result<SecretBytes, ValueError> {
    let mut texts = BTreeMap::new();
    for (name, bytes) in fields {
        let text = bytes.as_text().ok_or_else(|| {
            ValueError::Unusable(format!("key {name:?} is binary and has no place in one JSON text; name it with property"))
        })?;
        texts.insert(name, text);
    }
    let json = serde_json::to_vec(&texts).map_err(|error| ValueError::Unusable(error.to_string()))?;
    Ok(SecretBytes::new(json))
}

/// A property: the literal key of that name where there is one, else a gjson path; of fields, it begins with a field's name.
fn property(payload: &Payload, property: &str) -> Result<SecretBytes, ValueError> {
    let json = match payload {
        Payload::Fields(fields) => match (fields.get(property), property.split_once('.')) {
            (Some(bytes), _) => return Ok(bytes.clone()),
            (None, Some((field, rest))) if fields.get(field).is_some_and(|f| json_text(f).is_some()) => {
                return self::property(&Payload::Bytes(fields[field].clone()), rest);
            }
            (None, _) => json_of(fields)?,
        },
        Payload::Property(bytes) => return Ok(bytes.clone()),
        Payload::Bytes(bytes) => bytes.clone(),
    };
    let text = json_text(&json).ok_or_else(|| {
        ValueError::Unusable(format!(
            "property {property} is asked of a value that is not JSON; leave property out to take it whole"
        ))
    })?;
    match literal(text, property) {
        Some(raw) => Ok(text_of(raw)),
        None => match gjson::get(text, property) {
            Ok(Some(found)) => Ok(SecretBytes::from(found)),
            Ok(None) => match property.split_once('.').and_then(|(first, rest)| Some((literal(text, first)?, rest))) {
                // Names with dots in them, such as those of annotations: `annotations.example.com/team`.
                Some((inner, rest)) if inner.get().starts_with('{') && literal(inner.get(), rest).is_some() => {
                    self::property(&Payload::Bytes(SecretBytes::from(inner.get())), rest)
                }
                _ => Err(ValueError::Missing(format!("the value has no property {property}; it has {}", top_keys(text)))),
            },
            Err(error) => Err(ValueError::Unusable(format!("property {property}: {error}"))),
        },
    }
}

fn json_text(bytes: &SecretBytes) -> Option<&str> {
    bytes.as_text().filter(|text| serde_json::from_str::<&RawValue>(text).is_ok())
}

fn literal<'a>(text: &'a str, property: &str) -> Option<&'a RawValue> {
    serde_json::from_str::<BTreeMap<String, &'a RawValue>>(text).ok()?.remove(property)
}

fn top_keys(text: &str) -> String {
    match serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
        Ok(fields) => keys_of(fields.keys()),
        Err(_) => "no keys: it is no object".into(),
    }
}

/// A JSON value as a Secret holds it: a string's text, nothing for null, else its JSON text.
pub(super) fn text_of(raw: &RawValue) -> SecretBytes {
    match raw.get() {
        "null" => SecretBytes::default(),
        text if text.starts_with('"') => serde_json::from_str::<String>(text).map(SecretBytes::from).unwrap_or_default(),
        text => SecretBytes::from(text),
    }
}

pub(super) fn object(bytes: &SecretBytes, what: &str) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    let fields = bytes.as_text().and_then(|text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok());
    let fields = fields.ok_or_else(|| {
        ValueError::Unusable(format!("{what} is no JSON object, so extract finds no keys in it; use data to take it whole"))
    })?;
    Ok(fields.into_iter().map(|(name, raw)| (name, text_of(raw))).collect())
}

/// Decoding, then the NUL check on what comes out.
fn finish(
    raw: SecretBytes,
    decoding: Option<DecodingStrategy>,
    nulls: Option<NullBytePolicy>,
) -> Result<SecretBytes, ValueError> {
    let value = decode(raw, decoding.unwrap_or_default())?;
    match nulls.unwrap_or_default() {
        NullBytePolicy::Fail if value.expose().contains(&0) => {
            Err(ValueError::Unusable("the value holds a NUL byte, and nullBytePolicy is Fail".into()))
        }
        NullBytePolicy::Fail | NullBytePolicy::Ignore => Ok(value),
    }
}

/// Decodes a value.
pub fn decode(raw: SecretBytes, strategy: DecodingStrategy) -> Result<SecretBytes, ValueError> {
    let standard = || STANDARD.decode(raw.expose()).or_else(|_| STANDARD_NO_PAD.decode(raw.expose()));
    let url = || URL_SAFE.decode(raw.expose()).or_else(|_| URL_SAFE_NO_PAD.decode(raw.expose()));
    let fail = |name: &str| ValueError::Unusable(format!("the value is not {name}, and decodingStrategy is {name}"));
    match strategy {
        DecodingStrategy::None => Ok(raw),
        DecodingStrategy::Base64 => STANDARD.decode(raw.expose()).map(SecretBytes::new).map_err(|_| fail("Base64")),
        DecodingStrategy::Base64Url => url().map(SecretBytes::new).map_err(|_| fail("Base64URL")),
        DecodingStrategy::Auto => Ok(standard().or_else(|_| url()).map(SecretBytes::new).unwrap_or(raw)),
    }
}

/// A key name that a Secret can have.
fn secret_key(name: &str, strategy: ConversionStrategy) -> String {
    let mut key = String::with_capacity(name.len());
    for c in name.chars() {
        match (c.is_ascii_alphanumeric() || "-._".contains(c), strategy) {
            (true, _) => key.push(c),
            (false, ConversionStrategy::Default) => key.push('_'),
            (false, ConversionStrategy::Unicode) => key.push_str(&format!("_U{:04x}_", c as u32)),
        }
    }
    key
}

/// Whether a Secret can have this key (`IsConfigMapKey` of the Kubernetes API).
pub fn check_key(key: &str) -> Result<(), String> {
    let bad = key.is_empty()
        || key.len() > 253
        || key == "."
        || key.starts_with("..")
        || !key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    match bad {
        true => {
            Err("is no key that a Secret can have: 1 to 253 characters of A-Z a-z 0-9 - _ ., not . and not beginning with .."
                .into())
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(text: &str) -> Payload {
        Payload::Bytes(SecretBytes::from(text))
    }

    fn extract(payload: &Payload, remote: &RemoteRef) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
        let conversion = Some(remote.conversion_strategy.unwrap_or_default());
        treated(fields(payload, remote)?, Treatment { conversion, ..Treatment::default() })
    }

    fn remote(property: &str) -> RemoteRef {
        RemoteRef { property: (!property.is_empty()).then(|| property.into()), ..RemoteRef::default() }
    }

    fn text(bytes: SecretBytes) -> String {
        String::from_utf8(bytes.expose().to_vec()).unwrap()
    }

    #[test]
    fn a_property_is_a_literal_key_first_and_a_path_then() {
        let value = payload(r#"{"a.b":"literal","a":{"b":"path","c":[1,1.50,{"d":null}]},"n":null,"t":true,"o":{"x" : 1}}"#);
        for (property, expected) in [
            ("a.b", "literal"),
            ("a.c.0", "1"),
            ("a.c.1", "1.5"),
            ("a.c.2.d", ""),
            ("n", ""),
            ("t", "true"),
            ("o", r#"{"x" : 1}"#),
            ("a.c.#", "3"),
        ] {
            assert_eq!(text(single(&value, &remote(property)).unwrap()), expected, "{property}");
        }
    }

    #[test]
    fn a_missing_property_is_missing_and_says_which_keys_there_are_but_no_values() {
        let error = single(&payload(r#"{"user":"canary","pass":"canary"}"#), &remote("pasword")).unwrap_err();
        assert_eq!(error, ValueError::Missing("the value has no property pasword; it has pass, user".into()));
        let error = single(&payload("canary"), &remote("x")).unwrap_err();
        assert!(matches!(&error, ValueError::Unusable(why) if why.contains("not JSON")), "{error:?}");
        let error = extract(&payload("[1]"), &remote("")).unwrap_err();
        assert!(matches!(&error, ValueError::Unusable(why) if why.contains("no JSON object")), "{error:?}");
    }

    #[test]
    fn extract_takes_every_key_and_refuses_two_that_become_one() {
        let got = extract(&payload(r#"{"a b":"1","c":{"d":2},"e":null,"f":3.10}"#), &remote("")).unwrap();
        let got: Vec<(String, String)> = got.into_iter().map(|(k, v)| (k, text(v))).collect();
        let expected = [("a_b", "1"), ("c", r#"{"d":2}"#), ("e", ""), ("f", "3.10")];
        assert_eq!(got, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let error = extract(&payload(r#"{"a b":"canary","a_b":"canary"}"#), &remote("")).unwrap_err();
        assert_eq!(error, ValueError::Unusable(r#"keys "a b" and "a_b" both become "a_b"; rename one of them"#.into()));
        let unicode = RemoteRef { conversion_strategy: Some(ConversionStrategy::Unicode), ..RemoteRef::default() };
        assert!(extract(&payload(r#"{"a b":"1","a_b":"2"}"#), &unicode).unwrap().contains_key("a_U0020_b"));
        for bad in [r#"{"":"x"}"#, r#"{".":"x"}"#, r#"{"..a":"x"}"#] {
            assert!(extract(&payload(bad), &remote("")).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_decoded_as_asked_and_never_quoted_when_they_can_not() {
        let with = |decoding, value: &str| {
            single(&payload(value), &RemoteRef { decoding_strategy: Some(decoding), ..RemoteRef::default() }).map(text)
        };
        assert_eq!(with(DecodingStrategy::Base64, "aGk=").unwrap(), "hi");
        assert_eq!(with(DecodingStrategy::Base64Url, "Pz8_").unwrap(), "???");
        assert_eq!(with(DecodingStrategy::Auto, "Pz8_").unwrap(), "???");
        assert_eq!(with(DecodingStrategy::Auto, "not base64!").unwrap(), "not base64!");
        assert_eq!(with(DecodingStrategy::None, "aGk=").unwrap(), "aGk=");
        let error = format!("{:?}", with(DecodingStrategy::Base64, "canary!").unwrap_err());
        assert!(error.contains("not Base64") && !error.contains("canary"), "{error}");
        let nul = RemoteRef { null_byte_policy: Some(NullBytePolicy::Fail), ..RemoteRef::default() };
        assert!(single(&payload("a\0b"), &nul).is_err());
        assert!(single(&payload("a\0b"), &RemoteRef::default()).is_ok());
    }

    #[test]
    fn binary_fields_are_whole_by_name_and_refused_in_json() {
        let fields = Payload::Fields(BTreeMap::from([
            ("bin".to_owned(), SecretBytes::new(vec![0xff, 0])),
            ("txt".to_owned(), SecretBytes::from("t")),
            ("json".to_owned(), SecretBytes::from(r#"{"a": {"b": "deep"}}"#)),
        ]));
        assert_eq!(single(&fields, &remote("bin")).unwrap().expose(), [0xff, 0]);
        assert_eq!(single(&fields, &remote("json.a.b")).unwrap().expose(), b"deep");
        assert!(single(&fields, &remote("")).is_err());
        assert_eq!(extract(&fields, &remote("")).unwrap().len(), 3);
    }
}
