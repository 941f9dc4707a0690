//! Multipaths, `{a,b}` and `[a,b]`, and literals, `!"x"`.

use super::path::squash;
use super::{Answer, Limits, json};

/// One entry of a multipath.
pub(super) struct Selector<'a> {
    name: &'a str,
    path: &'a str,
}

/// The selectors that `path` begins with and what follows them; none when they do not end.
pub(super) fn selectors(path: &str) -> (Option<Vec<Selector<'_>>>, &str) {
    let s = path.as_bytes();
    let (mut depth, mut start, mut colon, mut modifier) = (1, 1, None, false);
    let mut all = Vec::new();
    let mut i = 1;
    let selector = |start: usize, colon: Option<usize>, end: usize| match colon {
        Some(colon) => Selector { name: &path[start..colon], path: &path[colon + 1..end] },
        None => Selector { name: "", path: &path[start..end] },
    };
    while i < s.len() {
        match s[i] {
            b'\\' => i += 1,
            b'@' if i > 0 && matches!(s[i - 1], b'.' | b'|') => modifier = true,
            b':' if depth == 1 && !modifier && colon.is_none() => colon = Some(i),
            b',' if depth == 1 => {
                all.push(selector(start, colon, i));
                (start, colon, modifier) = (i + 1, None, false);
            }
            b'"' => {
                i = json::string_end(s, i);
                continue;
            }
            b'[' | b'(' | b'{' => depth += 1,
            b']' | b')' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    all.push(selector(start, colon, i));
                    return (Some(all), &path[i + 1..]);
                }
            }
            _ => {}
        }
        i += 1;
    }
    (None, "")
}

/// A literal and what follows it.
pub(super) fn literal(path: &str) -> Option<(String, &str)> {
    let rest = &path[1..];
    if matches!(rest.as_bytes()[0], b'{' | b'[' | b'"' | b'+' | b'-' | b'0'..=b'9') {
        // The library takes the first byte for an opening bracket, also where it is none.
        let mut bytes = rest.as_bytes().to_vec();
        bytes[0] = b'(';
        let end = squash(&bytes);
        return Some((rest[..end].to_owned(), &rest[end..]));
    }
    let end = rest.find(['|', '.']).unwrap_or(rest.len());
    let word = &rest[..end];
    let known = ["true", "false", "null", "nan", "inf"].iter().any(|w| word.eq_ignore_ascii_case(w));
    known.then(|| (word.to_owned(), &rest[end..]))
}

impl Limits {
    pub(super) fn multipath(&self, text: &str, path: &str, selectors: &[Selector<'_>]) -> Answer<String> {
        let object = path.starts_with('{');
        let mut parts = Vec::new();
        for selector in selectors {
            let value = self.get(text, selector.path)?;
            if !value.exists() {
                continue;
            }
            let raw = if value.raw.is_empty() { "null".to_owned() } else { value.raw };
            parts.push(if object { format!("{}:{raw}", name(selector)) } else { raw });
        }
        let joined = parts.join(",");
        Ok(if object { format!("{{{joined}}}") } else { format!("[{joined}]") })
    }
}

/// The name of a member: the one given, else the last part of the path.
fn name(selector: &Selector<'_>) -> String {
    let given = selector.name;
    if !given.is_empty() {
        let quoted = given.starts_with('"') && serde_json::from_str::<serde::de::IgnoredAny>(given).is_ok();
        return if quoted { given.to_owned() } else { json::quote(given) };
    }
    let s = selector.path.as_bytes();
    let cut = (0..s.len()).rev().find(|&i| matches!(s[i], b'.' | b'|') && (i == 0 || s[i - 1] != b'\\'));
    let last = &selector.path[cut.map_or(0, |i| i + 1)..];
    let odd = last.bytes().any(|b| b < b' ' || b"[]{}()#|!".contains(&b));
    if odd { "\"_\"".into() } else { json::quote(last) }
}
