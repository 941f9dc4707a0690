//! `@name` and `@name:argument`.

use super::json::{self, Kind, elements, is_space, members, string_end};
use super::path::squash;
use super::query::is_true;
use super::{Answer, Limits};

const NAMES: [&str; 13] =
    ["dig", "flatten", "fromstr", "group", "join", "keys", "pretty", "reverse", "this", "tostr", "ugly", "valid", "values"];

/// Whether there is a modifier of that name.
pub(super) fn is_modifier(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Name, argument and rest of the modifier that a path begins with.
fn split(path: &str) -> (&str, &str, &str) {
    let end = path[1..].find([':', '|', '.']).map_or(path.len(), |i| i + 1);
    let (name, rest) = (&path[1..end], &path[end..]);
    let Some(argument) = rest.strip_prefix(':').filter(|a| !a.is_empty()) else {
        return (name, "", rest.strip_prefix(':').unwrap_or(rest));
    };
    if argument.starts_with(['{', '[', '"']) {
        let end = squash(argument.as_bytes());
        return (name, &argument[..end], &argument[end..]);
    }
    let s = argument.as_bytes();
    let (mut i, mut depth) = (0, 0i32);
    while i < s.len() {
        match s[i] {
            b'"' => {
                i = string_end(s, i);
                continue;
            }
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            b'|' if depth <= 0 => break,
            _ => {}
        }
        i += 1;
    }
    let i = i.min(s.len());
    (name, &argument[..i], &argument[i..])
}

impl Limits {
    /// Runs the modifier that `path` begins with; none when there is none of that name.
    pub(super) fn modifier<'a>(&self, text: &str, path: &'a str) -> Answer<Option<(String, &'a str)>> {
        let (name, argument, rest) = split(path);
        if !is_modifier(name) {
            return Ok(None);
        }
        self.spend(text.len() * 2)?;
        let out = match name {
            "this" => text.to_owned(),
            "valid" => {
                if is_valid(text) {
                    text.to_owned()
                } else {
                    String::new()
                }
            }
            "ugly" => ugly(text),
            "reverse" => reverse(text),
            "keys" => keys(text),
            "values" => values(text),
            "flatten" => self.flatten(text, option(argument, "deep"))?,
            "join" => join(text, option(argument, "preserve")),
            "tostr" => json::quote(text),
            "fromstr" => {
                if is_valid(text) {
                    json::parse(text).text()
                } else {
                    String::new()
                }
            }
            "group" => group(text),
            "dig" => {
                let mut found = Vec::new();
                self.dig(text.trim(), argument, &mut found)?;
                json::array_of(&found).raw
            }
            _ => return Err("the modifier @pretty is not supported; a Secret's value needs no indentation".into()),
        };
        Ok(Some((out, rest)))
    }

    fn flatten(&self, text: &str, deep: bool) -> Answer<String> {
        let value = json::parse(text);
        if !value.raw.starts_with('[') {
            return Ok(text.to_owned());
        }
        let mut parts = Vec::new();
        for item in elements(&value.raw) {
            if !item.starts_with('[') {
                parts.push(item.to_owned());
                continue;
            }
            let flat = if deep { self.nested(|| self.flatten(item, true))? } else { item.to_owned() };
            let inner = inside(&flat);
            if !inner.is_empty() {
                parts.push(inner.to_owned());
            }
        }
        Ok(format!("[{}]", parts.join(",")))
    }

    fn dig(&self, text: &str, path: &str, found: &mut Vec<String>) -> Answer<()> {
        let value = self.get(text, path)?;
        if value.exists() {
            found.push(value.raw_or_text());
        }
        self.nested(|| {
            let children: Vec<&str> = match text.as_bytes().first() {
                Some(b'[') => elements(text),
                Some(b'{') => members(text).into_iter().map(|(_, v)| v).collect(),
                _ => Vec::new(),
            };
            children.into_iter().try_for_each(|child| self.dig(child, path, found))
        })
    }
}

fn is_valid(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// A boolean of the argument, an object.
fn option(argument: &str, name: &str) -> bool {
    if !argument.starts_with('{') {
        return false;
    }
    members(argument).into_iter().any(|(k, v)| json::unquote(k) == name && is_true(&json::parse(v)))
}

fn inside(container: &str) -> &str {
    let inner = container.get(1..container.len().saturating_sub(1)).unwrap_or_default();
    inner.trim_matches(|c: char| u8::try_from(c).is_ok_and(is_space))
}

fn ugly(text: &str) -> String {
    let s = text.as_bytes();
    let (mut out, mut i) = (String::with_capacity(text.len()), 0);
    while i < s.len() {
        let end = if s[i] == b'"' { string_end(s, i) } else { i + 1 };
        if s[i] == b'"' || !is_space(s[i]) {
            let end = (end..=s.len()).find(|&e| text.is_char_boundary(e)).unwrap_or(s.len());
            out.push_str(&text[i..end]);
            i = end;
        } else {
            i = end;
        }
    }
    out
}

fn reverse(text: &str) -> String {
    let value = json::parse(text);
    match value.raw.as_bytes().first() {
        Some(b'[') => {
            let mut items = elements(&value.raw);
            items.reverse();
            format!("[{}]", items.join(","))
        }
        Some(b'{') => {
            let items: Vec<String> = members(&value.raw).into_iter().rev().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("{{{}}}", items.join(","))
        }
        _ => text.to_owned(),
    }
}

fn keys(text: &str) -> String {
    let value = json::parse(text);
    match value.raw.as_bytes().first() {
        _ if !value.exists() => "[]".into(),
        Some(b'{') => format!("[{}]", members(&value.raw).into_iter().map(|(k, _)| k).collect::<Vec<_>>().join(",")),
        Some(b'[') => format!("[{}]", vec!["null"; elements(&value.raw).len()].join(",")),
        _ => "[null]".into(),
    }
}

fn values(text: &str) -> String {
    let value = json::parse(text);
    match value.raw.as_bytes().first() {
        _ if !value.exists() => "[]".into(),
        Some(b'{') => format!("[{}]", members(&value.raw).into_iter().map(|(_, v)| v).collect::<Vec<_>>().join(",")),
        Some(b'[') => text.to_owned(),
        _ => format!("[{}]", value.raw),
    }
}

fn join(text: &str, preserve: bool) -> String {
    let value = json::parse(text);
    if !value.raw.starts_with('[') {
        return text.to_owned();
    }
    let items = elements(&value.raw);
    let objects = items.iter().filter(|item| item.starts_with('{'));
    if preserve {
        return format!("{{{}}}", objects.map(|o| inside(o)).collect::<Vec<_>>().join(","));
    }
    let mut merged: Vec<(String, &str, &str)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for (key, value) in objects.flat_map(|o| members(o)) {
        let name = json::unquote(key);
        match places.get(&name) {
            Some(&at) => {
                let entry: &mut (String, &str, &str) = &mut merged[at];
                entry.2 = value;
            }
            None => {
                places.insert(name.clone(), merged.len());
                merged.push((name, key, value));
            }
        }
    }
    format!("{{{}}}", merged.iter().map(|(_, k, v)| format!("{k}:{v}")).collect::<Vec<_>>().join(","))
}

fn group(text: &str) -> String {
    let value = json::parse(text);
    if value.kind != Kind::Json || !value.raw.starts_with('{') {
        return String::new();
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (key, value) in members(&value.raw).into_iter().filter(|(_, v)| v.starts_with('[')) {
        for (i, item) in elements(value).into_iter().enumerate() {
            if rows.len() <= i {
                rows.push(Vec::new());
            }
            rows[i].push(format!("{key}:{item}"));
        }
    }
    format!("[{}]", rows.into_iter().map(|r| format!("{{{}}}", r.join(","))).collect::<Vec<_>>().join(","))
}
