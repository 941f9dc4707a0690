//! One component of a path, for an object and for an array.

use super::json::string_end;
use super::modifiers::is_modifier;
use super::query::{Query, glob};

/// Whether what follows a dot is piped and not looked up.
fn is_piped(rest: &str) -> bool {
    match rest.as_bytes().first() {
        Some(b'[' | b'{') => true,
        Some(b'@') => is_modifier(rest[1..].split(['.', '|', ':']).next().unwrap_or_default()),
        _ => false,
    }
}

/// A key of an object, with what follows it.
pub(super) struct ObjectPath<'a> {
    part: String,
    wild: bool,
    pub(super) pipe: Option<&'a str>,
    pub(super) more: Option<&'a str>,
}

impl<'a> ObjectPath<'a> {
    pub(super) fn parse(path: &'a str) -> Self {
        let mut this = Self { part: String::new(), wild: false, pipe: None, more: None };
        let mut chars = path.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '|' => {
                    this.pipe = Some(&path[i + 1..]);
                    return this;
                }
                '.' => {
                    let rest = &path[i + 1..];
                    if is_piped(rest) {
                        this.pipe = Some(rest)
                    } else {
                        this.more = Some(rest)
                    }
                    return this;
                }
                '*' | '?' => {
                    this.wild = true;
                    this.part.push(c);
                }
                '\\' => this.part.extend(chars.next().map(|(_, c)| c)),
                c => this.part.push(c),
            }
        }
        this
    }

    pub(super) fn matches(&self, key: &str) -> bool {
        if self.wild { glob(key, &self.part) } else { key == self.part }
    }
}

/// An index, a count or a query of an array, with what follows it.
#[derive(Default)]
pub(super) struct ArrayPath<'a> {
    pub(super) part: &'a str,
    /// There is a `#` in it.
    pub(super) hashed: bool,
    pub(super) pipe: Option<&'a str>,
    pub(super) more: Option<&'a str>,
    /// The path behind `#.`.
    pub(super) each: Option<&'a str>,
    pub(super) query: Option<Query>,
}

impl<'a> ArrayPath<'a> {
    pub(super) fn parse(path: &'a str) -> Self {
        let mut this = Self::default();
        let s = path.as_bytes();
        let mut i = 0;
        while i < s.len() {
            match s[i] {
                b'|' => {
                    this.part = &path[..i];
                    this.pipe = Some(&path[i + 1..]);
                    return this;
                }
                b'.' => {
                    this.part = &path[..i];
                    let rest = &path[i + 1..];
                    if !this.hashed && is_piped(rest) {
                        this.pipe = Some(rest)
                    } else {
                        this.more = Some(rest)
                    }
                    return this;
                }
                b'#' => {
                    this.hashed = true;
                    if i == 0 && s.len() > 1 {
                        if s[1] == b'.' {
                            this.each = Some(&path[2..]);
                            return this;
                        }
                        if matches!(s[1], b'(' | b'[') {
                            let Some((mut query, end)) = Query::parse(path) else {
                                // The library takes a query that does not end as one without conditions.
                                this.query = Some(Query::default());
                                break;
                            };
                            query.all = s.get(end) == Some(&b'#');
                            this.query = Some(query);
                            i = end - 1;
                        }
                    }
                }
                _ => {}
            }
            i += 1;
        }
        this.part = path;
        this
    }
}

/// Splits a sub-path that is applied per element from the pipe that is applied to the whole.
pub(super) fn split_possible_pipe(path: &str) -> Option<(&str, &str)> {
    if !path.contains('|') {
        return None;
    }
    let s = path.as_bytes();
    if s[0] == b'{' {
        let end = 1 + squash(&s[1..]);
        return (s.get(end) == Some(&b'|')).then(|| (&path[..end], &path[end + 1..]));
    }
    let mut i = 0;
    while i < s.len() {
        match s[i] {
            b'\\' => i += 1,
            b'.' => {
                if i + 1 == s.len() {
                    return None;
                }
                if s[i + 1] == b'#' {
                    i += 2;
                    if i == s.len() {
                        return None;
                    }
                    if matches!(s[i], b'(' | b'[') {
                        i = skip_query(s, i);
                    }
                }
            }
            b'|' => return Some((&path[..i], &path[i + 1..])),
            _ => {}
        }
        i += 1;
    }
    None
}

/// The closing bracket of the query that begins at `i`; only its own kind of bracket counts.
fn skip_query(s: &[u8], mut i: usize) -> usize {
    let (open, close) = if s[i] == b'[' { (b'[', b']') } else { (b'(', b')') };
    let mut depth = 1;
    i += 1;
    while i < s.len() {
        match s[i] {
            b'\\' => i += 1,
            b'"' => i = string_end(s, i) - 1,
            c if c == open => depth += 1,
            c if c == close => {
                depth -= 1;
                if depth == 0 {
                    return i;
                }
            }
            _ => {}
        }
        i += 1;
    }
    i
}

/// The end of a bracketed group, taking the first byte for its opening bracket whatever it is; a string is one by itself.
pub(super) fn squash(s: &[u8]) -> usize {
    if s.first() == Some(&b'"') {
        return string_end(s, 0);
    }
    let (mut i, mut depth) = (1, 1);
    while i < s.len() {
        match s[i] {
            b'"' => {
                i = string_end(s, i);
                continue;
            }
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    s.len()
}
