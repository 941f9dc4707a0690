//! Slices of JSON text: where values begin and end, and what they are as text.

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    False,
    True,
    Number,
    String,
    Json,
}

/// A value: its kind and its exact text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Res {
    pub(super) kind: Kind,
    pub(super) raw: String,
}

impl Res {
    pub(super) fn missing() -> Self {
        Self { kind: Kind::Null, raw: String::new() }
    }

    pub(super) fn exists(&self) -> bool {
        self.kind != Kind::Null || !self.raw.is_empty()
    }

    /// The value as text: a string without its quotes, null as nothing, a number as Go prints it.
    pub(super) fn text(&self) -> String {
        match self.kind {
            Kind::Null => String::new(),
            Kind::False => "false".into(),
            Kind::True => "true".into(),
            Kind::String => unquote(&self.raw),
            Kind::Json => self.raw.clone(),
            Kind::Number => number_text(&self.raw),
        }
    }

    pub(super) fn raw_or_text(self) -> String {
        if self.raw.is_empty() { self.text() } else { self.raw }
    }

    pub(super) fn number(&self) -> f64 {
        parse_float(&self.raw)
    }
}

/// Integers stay as they are; other numbers are printed in the shortest decimal form without an exponent.
fn number_text(raw: &str) -> String {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        return raw.to_owned();
    }
    match parse_float(raw) {
        n if n.is_nan() => "NaN".into(),
        n if n == f64::INFINITY => "+Inf".into(),
        n if n == f64::NEG_INFINITY => "-Inf".into(),
        n => format!("{n}"),
    }
}

/// A number as the library reads it: what is none is 0.
pub(super) fn parse_float(text: &str) -> f64 {
    let (sign, plain) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    match plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        Some(hex) => hex_float(hex).map_or(0.0, |n| sign * n),
        None => text.parse().unwrap_or(0.0),
    }
}

/// Go's hexadecimal floats, `1.8p-3`.
fn hex_float(hex: &str) -> Option<f64> {
    let (mantissa, exponent) = hex.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let value = digits.chars().try_fold(0.0, |n, c| c.to_digit(16).map(|d| n * 16.0 + f64::from(d)))?;
    let exponent: i32 = exponent.parse().ok()?;
    let shift = i32::try_from(fraction.len()).ok()?.checked_mul(4)?;
    (!digits.is_empty()).then(|| value * 2f64.powi(exponent.saturating_sub(shift)))
}

pub(super) fn is_space(b: u8) -> bool {
    b <= b' '
}

/// The end of the string that begins at `i`.
pub(super) fn string_end(s: &[u8], i: usize) -> usize {
    let mut j = i + 1;
    while j < s.len() {
        match s[j] {
            b'\\' => j += 1,
            b'"' => return j + 1,
            _ => {}
        }
        j += 1;
    }
    s.len()
}

/// The end of the container that begins at `i`.
fn container_end(s: &[u8], i: usize) -> usize {
    let (mut depth, mut j) = (0usize, i);
    while j < s.len() {
        match s[j] {
            b'"' => {
                j = string_end(s, j);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return j + 1;
                }
            }
            _ => {}
        }
        j += 1;
    }
    s.len()
}

fn value_end(s: &[u8], i: usize) -> usize {
    match s.get(i) {
        Some(b'"') => string_end(s, i),
        Some(b'{' | b'[') => container_end(s, i),
        _ => (i..s.len()).find(|&j| is_space(s[j]) || matches!(s[j], b',' | b']' | b'}')).unwrap_or(s.len()),
    }
}

/// The first object or array anywhere in the text.
pub(super) fn container_at(text: &str) -> Option<&str> {
    let at = text.find(['{', '['])?;
    Some(&text[at..container_end(text.as_bytes(), at)])
}

fn next_token(s: &[u8], mut i: usize) -> usize {
    while i < s.len() && (is_space(s[i]) || matches!(s[i], b',' | b':')) {
        i += 1;
    }
    i
}

/// Elements of an array's text.
pub(super) fn elements(raw: &str) -> Vec<&str> {
    let s = raw.as_bytes();
    let (mut out, mut i) = (Vec::new(), next_token(s, 1));
    while i < s.len() && s[i] != b']' {
        let end = value_end(s, i);
        if end == i {
            break;
        }
        out.push(raw.get(i..end).unwrap_or_default());
        i = next_token(s, end);
    }
    out
}

/// Members of an object's text: key with its quotes, and value.
pub(super) fn members(raw: &str) -> Vec<(&str, &str)> {
    let s = raw.as_bytes();
    let (mut out, mut i) = (Vec::new(), next_token(s, 1));
    while i < s.len() && s[i] == b'"' {
        let key_end = string_end(s, i);
        let begin = next_token(s, key_end);
        let end = value_end(s, begin);
        if end == begin {
            break;
        }
        out.push((raw.get(i..key_end).unwrap_or_default(), raw.get(begin..end).unwrap_or_default()));
        i = next_token(s, end);
    }
    out
}

/// A value's text as a value.
pub(super) fn parse_token(raw: &str) -> Res {
    let kind = match raw.as_bytes().first() {
        Some(b'{' | b'[') => Kind::Json,
        Some(b'"') => Kind::String,
        Some(b't') => Kind::True,
        Some(b'f') => Kind::False,
        Some(b'n') => Kind::Null,
        Some(_) => Kind::Number,
        None => return Res::missing(),
    };
    Res { kind, raw: raw.to_owned() }
}

/// What a modifier or literal gave, as a value: only its beginning counts.
pub(super) fn parse(text: &str) -> Res {
    let s = text.as_bytes();
    let Some(i) = (0..s.len()).find(|&i| !is_space(s[i])) else { return Res::missing() };
    let word = || text[i..].bytes().take_while(u8::is_ascii_lowercase).count();
    let number = || Res { kind: Kind::Number, raw: text[i..value_end(s, i)].to_owned() };
    match s[i] {
        b'{' | b'[' => Res { kind: Kind::Json, raw: text[i..].to_owned() },
        b'"' => Res { kind: Kind::String, raw: text[i..string_end(s, i)].to_owned() },
        b't' => Res { kind: Kind::True, raw: text[i..i + word()].to_owned() },
        b'f' => Res { kind: Kind::False, raw: text[i..i + word()].to_owned() },
        b'n' if s.get(i + 1).is_none_or(|&b| b == b'u') => Res { kind: Kind::Null, raw: text[i..i + word()].to_owned() },
        b'n' | b'+' | b'-' | b'0'..=b'9' | b'i' | b'I' | b'N' => number(),
        _ => Res::missing(),
    }
}

/// A string's text, escapes resolved. It ends early at what is no string.
pub(super) fn unquote(raw: &str) -> String {
    let inner = raw.strip_prefix('"').unwrap_or(raw);
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    unescape(inner)
}

/// Resolves escapes; ends at a control character or an unknown escape.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c < ' ' {
            return out;
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some(c @ ('"' | '\\' | '/')) => out.push(c),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => match code_unit(&mut chars) {
                None => return out,
                Some(unit) => out.push(code_point(unit, &mut chars)),
            },
            _ => return out,
        }
    }
    out
}

fn code_unit(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let hex = chars.as_str().get(..4)?;
    *chars = chars.as_str()[4..].chars();
    Some(u32::from_str_radix(hex, 16).unwrap_or(0))
}

/// A code unit as a character; a surrogate takes the escape that follows it along, whatever it is.
fn code_point(unit: u32, chars: &mut std::str::Chars<'_>) -> char {
    if !(0xd800..0xe000).contains(&unit) {
        return char::from_u32(unit).unwrap_or('\u{fffd}');
    }
    let mut ahead = chars.clone();
    if ahead.next() != Some('\\') || ahead.next() != Some('u') {
        return '\u{fffd}';
    }
    let Some(low) = code_unit(&mut ahead) else { return '\u{fffd}' };
    *chars = ahead;
    match (unit, low) {
        (0xd800..0xdc00, 0xdc00..0xe000) => {
            char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}')
        }
        _ => '\u{fffd}',
    }
}

/// A text as a JSON string, escaped as the library does.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// An array of texts.
pub(super) fn array_of(items: &[String]) -> Res {
    Res { kind: Kind::Json, raw: format!("[{}]", items.join(",")) }
}
