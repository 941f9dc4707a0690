//! `#(path op value)`, and the wildcards of keys and of `%`.

use super::json::{self, Kind, Res, is_space, string_end};

/// A query on the elements of an array.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) path: String,
    op: &'static str,
    value: String,
    /// All matches, and not the first.
    pub(super) all: bool,
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| u8::try_from(c).is_ok_and(is_space))
}

impl Query {
    /// Parses the query that `path` begins with; answers it and where it ends.
    pub(super) fn parse(path: &str) -> Option<(Self, usize)> {
        let s = path.as_bytes();
        let (mut i, mut depth, mut operator, mut escaped) = (2, 1, None, false);
        while i < s.len() {
            match s[i] {
                b'(' | b'[' => depth += 1,
                b')' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some((Self::of(path, operator, i, escaped), i + 1));
                    }
                }
                b'\\' => i += 1,
                b'"' => {
                    let end = string_end(s, i);
                    escaped |= s[i..end].contains(&b'\\');
                    i = end - 1;
                }
                b'!' | b'=' | b'<' | b'>' | b'%' if depth == 1 && operator.is_none() => operator = Some(i),
                _ => {}
            }
            i += 1;
        }
        None
    }

    fn of(path: &str, operator: Option<usize>, end: usize, escaped: bool) -> Self {
        let Some(at) = operator else { return Self { path: trim(&path[2..end]).to_owned(), ..Self::default() } };
        let rest = trim(&path[at..end]);
        let (op, length) = match (rest.as_bytes(), rest.len()) {
            ([c], _) => (single(*c), 1),
            ([b'!', b'=', ..], _) => ("!=", 2),
            ([b'!', b'%', ..], _) => ("!%", 2),
            ([b'<', b'=', ..], _) => ("<=", 2),
            ([b'>', b'=', ..], _) => (">=", 2),
            ([b'=', b'=', ..], _) => ("=", 2),
            ([b'!', ..], _) => ("", 1),
            ([c, ..], _) => (single(*c), 1),
            ([], _) => ("", 0),
        };
        let value = trim(&rest[length..]);
        let value = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
            Some(inner) if value.len() >= 2 && escaped => json::unescape(inner),
            Some(inner) if value.len() >= 2 => inner.to_owned(),
            _ => value.to_owned(),
        };
        Self { path: trim(&path[2..at]).to_owned(), op, value, all: false }
    }

    pub(super) fn matches(&self, candidate: &Res) -> bool {
        let mut candidate = candidate.clone();
        let mut value = self.value.as_str();
        if let Some(tilde) = value.strip_prefix('~') {
            let truth = match tilde {
                "*" => candidate.exists(),
                "null" => candidate.kind == Kind::Null,
                "true" => is_true(&candidate),
                "false" => is_false(&candidate),
                _ => return false,
            };
            let raw = if truth { "true" } else { "false" };
            candidate = json::parse_token(raw);
            value = "true";
        }
        if !candidate.exists() {
            return false;
        }
        match (self.op, candidate.kind) {
            ("", _) => true,
            ("!", _) => false,
            (op, Kind::String) => compare_text(&candidate.text(), op, value),
            (op, Kind::Number) => compare_number(candidate.number(), op, json::parse_float(value)),
            ("=", Kind::True) => value == "true",
            ("!=", Kind::True) => value != "true",
            (">", Kind::True) => value == "false",
            (">=", Kind::True) | ("<=", Kind::False) => true,
            ("=", Kind::False) => value == "false",
            ("!=", Kind::False) => value != "false",
            ("<", Kind::False) => value == "true",
            _ => false,
        }
    }
}

fn single(c: u8) -> &'static str {
    match c {
        b'=' => "=",
        b'<' => "<",
        b'>' => ">",
        b'%' => "%",
        _ => "!",
    }
}

fn compare_text(text: &str, op: &str, value: &str) -> bool {
    match op {
        "=" => text == value,
        "!=" => text != value,
        "<" => text < value,
        "<=" => text <= value,
        ">" => text > value,
        ">=" => text >= value,
        "%" => glob(text, value),
        "!%" => !glob(text, value),
        _ => false,
    }
}

fn compare_number(number: f64, op: &str, value: f64) -> bool {
    match op {
        "=" => number == value,
        "!=" => number != value,
        "<" => number < value,
        "<=" => number <= value,
        ">" => number > value,
        ">=" => number >= value,
        _ => false,
    }
}

/// Whether a value counts as true.
pub(super) fn is_true(value: &Res) -> bool {
    match value.kind {
        Kind::True => true,
        Kind::String => matches!(value.text().to_lowercase().as_str(), "1" | "t" | "true"),
        Kind::Number => value.number() != 0.0,
        Kind::Null | Kind::False | Kind::Json => false,
    }
}

fn is_false(value: &Res) -> bool {
    match value.kind {
        Kind::Null | Kind::False => true,
        Kind::String => matches!(value.text().to_lowercase().as_str(), "0" | "f" | "false"),
        Kind::Number => value.number() == 0.0,
        Kind::True | Kind::Json => false,
    }
}

/// `*` is any run, `?` one character, `\` makes the next one literal. Takes time proportional to text times pattern at most.
pub(super) fn glob(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let (mut t, mut p) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let (step, matched) = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            (Some('?'), Some(_)) => (1, true),
            (Some('\\'), Some(c)) if p + 1 < pattern.len() => (2, pattern[p + 1] == *c),
            (Some('\\'), Some('\\')) if star.is_some() => (1, true),
            (Some('\\'), _) => (1, false),
            (Some(w), Some(c)) => (1, w == c),
            (None, Some(_)) | (Some(_), None) => (0, false),
        };
        if matched {
            p += step;
            t += 1;
            continue;
        }
        match star {
            Some((at, from)) if from < text.len() => {
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
            _ => return false,
        }
    }
}
