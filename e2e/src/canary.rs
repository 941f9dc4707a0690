//! Planted values in every form in which they could be written somewhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What all planted values begin with.
pub const MARK: &str = "CANARY";

/// The forms that a text has in logs, metrics, events and memory, each with its name.
///
/// Of Base64 there are three: which one depends on what stands before it; only the characters that no neighbour changes are compared.
pub fn forms(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        ("as it is", value.to_vec()),
        ("in hex", hex.clone().into_bytes()),
        ("in upper hex", hex.to_uppercase().into_bytes()),
    ];
    for (before, name) in [(0, "in Base64"), (1, "in Base64 behind one byte"), (2, "in Base64 behind two bytes")] {
        let padded: Vec<u8> = std::iter::repeat_n(b'x', before).chain(value.iter().copied()).collect();
        let text = STANDARD.encode(&padded);
        // The first characters hold bits of what stands before, the last those of what follows.
        let (from, to) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        forms.push((name, text.as_bytes()[from..to].to_vec()));
    }
    let text = String::from_utf8_lossy(value);
    let url: String = url::form_urlencoded::byte_serialize(value).collect();
    let json = serde_json::to_string(&text).expect("text");
    for (name, form) in [("URL-encoded", url), ("in JSON", json[1..json.len() - 1].to_owned())] {
        if form.as_bytes() != value {
            forms.push((name, form.into_bytes()));
        }
    }
    forms
}

/// In which form a value is in `bytes`, if it is.
pub fn find(bytes: &[u8], value: &[u8]) -> Option<&'static str> {
    forms(value).into_iter().find(|(_, form)| contains(bytes, form)).map(|(name, _)| name)
}

/// Whether `part` is somewhere in `bytes`.
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    position(bytes, part).is_some()
}

/// Where it is first.
pub fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_each_of_its_forms_wherever_it_stands() {
        let value = "CANARY-ü/+\"x";
        for before in ["", "a", "ab", "abc"] {
            let encoded = STANDARD.encode(format!("{before}{value} and more"));
            assert!(find(encoded.as_bytes(), value.as_bytes()).is_some(), "{encoded}");
        }
        let hex: String = value.bytes().map(|b| format!("{b:02X}")).collect();
        assert_eq!(find(hex.as_bytes(), value.as_bytes()), Some("in upper hex"));
        assert_eq!(find(b"?q=CANARY-%C3%BC%2F%2B%22x&", value.as_bytes()), Some("URL-encoded"));
        assert_eq!(find(r#"{"a":"CANARY-ü/+\"x"}"#.as_bytes(), value.as_bytes()), Some("in JSON"));
        assert_eq!(find(b"CANARY-something else", value.as_bytes()), None);
    }
}
