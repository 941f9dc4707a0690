//! Strings, byte by byte and rune by rune as Go does it.

use super::{dict_of, int, list_of, made, strval, text};
use crate::exec::Meter;
use crate::format;
use crate::functions::Answer;
use crate::text::{Text, decode_rune, runes};
use crate::value::{Type, Value};

/// `unicode.ToUpper`: one rune for one rune.
pub(super) fn to_upper(rune: char) -> char {
    let mut mapped = rune.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        // Greek letters with an iota below have a capital of their own.
        _ => match u32::from(rune) {
            code @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => char::from_u32(code + 8).unwrap_or(rune),
            0x1fb3 => '\u{1fbc}',
            0x1fc3 => '\u{1fcc}',
            0x1ff3 => '\u{1ffc}',
            _ => rune,
        },
    }
}

/// `unicode.ToLower`
pub(super) fn to_lower(rune: char) -> char {
    if rune == '\u{130}' { 'i' } else { rune.to_lowercase().next().unwrap_or(rune) }
}

/// `unicode.ToTitle`
pub(super) fn to_title(rune: char) -> char {
    match rune {
        '\u{1c4}'..='\u{1c6}' => '\u{1c5}',
        '\u{1c7}'..='\u{1c9}' => '\u{1c8}',
        '\u{1ca}'..='\u{1cc}' => '\u{1cb}',
        '\u{1f1}'..='\u{1f3}' => '\u{1f2}',
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => rune,
        _ => to_upper(rune),
    }
}

/// Every rune through a function; what is no UTF-8 becomes U+FFFD.
pub(super) fn map_runes(bytes: &[u8], map: impl Fn(char) -> char) -> String {
    runes(bytes).map(|(_, rune, _)| map(rune)).collect()
}

pub(super) fn upper(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(2 * text(&arguments[0]).len())?;
    made(meter, map_runes(text(&arguments[0]), to_upper))
}

pub(super) fn lower(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(2 * text(&arguments[0]).len())?;
    made(meter, map_runes(text(&arguments[0]), to_lower))
}

/// Without the runes at both ends that are of a kind.
fn trimmed(bytes: &[u8], is_cut: impl Fn(char, &[u8]) -> bool) -> &[u8] {
    let (mut first, mut end) = (None, 0);
    for (at, rune, length) in runes(bytes) {
        if !is_cut(rune, &bytes[at..at + length]) {
            first.get_or_insert(at);
            end = at + length;
        }
    }
    first.map_or(&[], |first| &bytes[first..end])
}

pub(super) fn trim(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(meter, trimmed(text(&arguments[0]), |rune, _| rune.is_whitespace()))
}

pub(super) fn trim_all(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let set: Vec<char> = runes(text(&arguments[0])).map(|(_, rune, _)| rune).collect();
    let bytes = text(&arguments[1]);
    meter.steps(bytes.len() / 16 * set.len())?;
    made(meter, trimmed(bytes, |rune, _| set.contains(&rune)))
}

pub(super) fn trim_prefix(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[1]);
    made(meter, bytes.strip_prefix(text(&arguments[0])).unwrap_or(bytes))
}

pub(super) fn trim_suffix(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[1]);
    made(meter, bytes.strip_suffix(text(&arguments[0])).unwrap_or(bytes))
}

pub(super) fn contains(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(find(text(&arguments[1]), text(&arguments[0])).is_some()))
}

pub(super) fn has_prefix(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(text(&arguments[1]).starts_with(text(&arguments[0]))))
}

pub(super) fn has_suffix(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(text(&arguments[1]).ends_with(text(&arguments[0]))))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// What the parts of a split text take, before they are made.
fn parts_cost(meter: &mut Meter, bytes: &[u8], separator: &[u8]) -> Result<(), String> {
    let parts = if separator.is_empty() { bytes.len() } else { memchr::memmem::find_iter(bytes, separator).count() + 1 };
    meter.steps(parts / 4)?;
    meter.memory(parts.saturating_mul(PART))
}

/// Bytes that a part takes beside its text.
const PART: usize = 96;

/// `strings.Split` and `strings.SplitN`; a limit below zero is none.
pub(super) fn split_into<'a>(bytes: &'a [u8], separator: &[u8], limit: i64) -> Vec<&'a [u8]> {
    let full = |parts: &Vec<&[u8]>| limit > 0 && parts.len() as i64 == limit - 1;
    let mut parts = Vec::new();
    if limit == 0 {
        return parts;
    }
    let mut rest = bytes;
    if separator.is_empty() {
        while !rest.is_empty() {
            let length = if full(&parts) { rest.len() } else { decode_rune(rest).1 };
            parts.push(&rest[..length]);
            rest = &rest[length..];
        }
        return parts;
    }
    while !full(&parts) {
        let Some(at) = find(rest, separator) else { break };
        parts.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest);
    parts
}

fn texts_of(meter: &mut Meter, parts: Vec<Text>) -> Answer {
    meter.memory(parts.iter().map(|part| part.bytes().len()).sum())?;
    list_of(meter, parts.into_iter().map(Value::Str).collect(), Type::Str)
}

pub(super) fn split_list(meter: &mut Meter, arguments: &[Value]) -> Answer {
    parts_cost(meter, text(&arguments[1]), text(&arguments[0]))?;
    let parts = split_into(text(&arguments[1]), text(&arguments[0]), -1);
    texts_of(meter, parts.into_iter().map(|part| Text::new(part.to_vec())).collect())
}

fn numbered(meter: &mut Meter, parts: Vec<&[u8]>) -> Answer {
    meter.memory(parts.iter().map(|part| part.len()).sum())?;
    let entry = |(i, part): (usize, &[u8])| (Text::from(format!("_{i}")), Value::Str(Text::new(part.to_vec())));
    dict_of(meter, parts.into_iter().enumerate().map(entry), Type::Str)
}

pub(super) fn split(meter: &mut Meter, arguments: &[Value]) -> Answer {
    parts_cost(meter, text(&arguments[1]), text(&arguments[0]))?;
    numbered(meter, split_into(text(&arguments[1]), text(&arguments[0]), -1))
}

pub(super) fn splitn(meter: &mut Meter, arguments: &[Value]) -> Answer {
    parts_cost(meter, text(&arguments[2]), text(&arguments[0]))?;
    numbered(meter, split_into(text(&arguments[2]), text(&arguments[0]), int(&arguments[1])))
}

/// Sprig's `strslice`: the items as strings, without what is nil.
fn strings(meter: &mut Meter, value: &Value) -> Result<Vec<Text>, String> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::List(list) => {
            meter.steps(list.items().len())?;
            list.items().iter().filter(|item| !matches!(item, Value::Nil)).map(|item| strval(meter, item)).collect()
        }
        other => Ok(vec![strval(meter, other)?]),
    }
}

/// Joins texts, whose bytes are taken before: one text may stand in a list many times.
fn joined(meter: &mut Meter, parts: &[Text], between: &[u8]) -> Answer {
    meter.memory(parts.iter().map(|part| part.bytes().len()).fold(0, usize::saturating_add))?;
    let parts: Vec<&[u8]> = parts.iter().map(Text::bytes).collect();
    Ok(Value::Str(Text::new(parts.join(between))))
}

pub(super) fn join(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (between, parts) = (text(&arguments[0]), strings(meter, &arguments[1])?);
    meter.memory(parts.len().saturating_mul(between.len()))?;
    joined(meter, &parts, between)
}

pub(super) fn to_strings(meter: &mut Meter, arguments: &[Value]) -> Answer {
    // A list of strings is handed on as it is, nil or not.
    if let Value::List(list) = &arguments[0]
        && *list.of() == Type::Str
    {
        return Ok(arguments[0].clone());
    }
    let parts = strings(meter, &arguments[0])?;
    texts_of(meter, parts)
}

pub(super) fn sort_alpha(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut parts = match &arguments[0] {
        Value::Nil => return texts_of(meter, vec!["<nil>".into()]),
        list @ Value::List(_) => strings(meter, list)?,
        other => vec![strval(meter, other)?],
    };
    // Texts that are alike are compared to their ends, again and again.
    let compared = parts.iter().map(|part| part.bytes().len() / 64).fold(0, usize::saturating_add);
    meter.steps(parts.len().saturating_add(compared.saturating_mul(parts.len().max(1).ilog2() as usize + 1)))?;
    parts.sort();
    texts_of(meter, parts)
}

pub(super) fn to_string(meter: &mut Meter, arguments: &[Value]) -> Answer {
    strval(meter, &arguments[0]).map(Value::Str)
}

fn not_nil(arguments: &[Value]) -> impl Iterator<Item = &Value> {
    arguments.iter().filter(|value| !matches!(value, Value::Nil))
}

pub(super) fn quote(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut quoted = Vec::new();
    for value in not_nil(arguments) {
        let value = strval(meter, value)?;
        meter.memory(4 * value.bytes().len())?;
        quoted.push(format::quote(value.bytes(), '"', false));
    }
    made(meter, quoted.join(" "))
}

pub(super) fn squote(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut quoted = Vec::new();
    for value in not_nil(arguments) {
        let value = strval(meter, value)?;
        meter.memory(2 * value.bytes().len() + 3)?;
        quoted.push(Text::new([b"'", value.bytes(), b"'"].concat()));
    }
    joined(meter, &quoted, b" ")
}

pub(super) fn cat(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut parts = Vec::new();
    for value in not_nil(arguments) {
        parts.push(strval(meter, value)?);
    }
    joined(meter, &parts, b" ")
}

fn blanks(meter: &mut Meter, count: i64) -> Result<Vec<u8>, String> {
    let count = usize::try_from(count).map_err(|_| "a negative count".to_owned())?;
    meter.memory(count)?;
    Ok(vec![b' '; count])
}

fn indented(meter: &mut Meter, arguments: &[Value], first: &[u8]) -> Answer {
    let (pad, bytes) = (blanks(meter, int(&arguments[0]))?, text(&arguments[1]));
    parts_cost(meter, bytes, b"\n")?;
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    meter.memory(lines.len().saturating_mul(pad.len() + 1))?;
    let between = [b"\n", &pad[..]].concat();
    made(meter, [first, &pad, &lines.join(&between[..])].concat())
}

pub(super) fn indent(meter: &mut Meter, arguments: &[Value]) -> Answer {
    indented(meter, arguments, b"")
}

pub(super) fn nindent(meter: &mut Meter, arguments: &[Value]) -> Answer {
    indented(meter, arguments, b"\n")
}

pub(super) fn replace(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (old, new, bytes) = (text(&arguments[0]), text(&arguments[1]), text(&arguments[2]));
    parts_cost(meter, bytes, old)?;
    let parts = split_into(bytes, old, -1);
    meter.memory((parts.len() + 1).saturating_mul(new.len()))?;
    let mut replaced = parts.join(new);
    if old.is_empty() {
        // Before each rune, and after the last.
        let end = if bytes.is_empty() { &[] } else { new };
        replaced = [new, &replaced, end].concat();
    }
    made(meter, replaced)
}

pub(super) fn repeat(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[1]);
    let count = usize::try_from(int(&arguments[0])).map_err(|_| "a negative repeat count".to_owned())?;
    let length = bytes.len().checked_mul(count).ok_or("the repeated text is too long")?;
    meter.memory(length)?;
    Ok(Value::Str(Text::new(bytes.repeat(if bytes.is_empty() { 0 } else { count }))))
}

pub(super) fn plural(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(arguments[if int(&arguments[2]) == 1 { 0 } else { 1 }].clone())
}

pub(super) fn trunc(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (count, bytes) = (int(&arguments[0]), text(&arguments[1]));
    let length = bytes.len() as i64;
    made(
        meter,
        match count {
            _ if count < 0 && length.saturating_add(count) > 0 => &bytes[(length + count) as usize..],
            _ if count >= 0 && length > count => &bytes[..count as usize],
            _ => bytes,
        },
    )
}

pub(super) fn substr(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (start, end, bytes) = (int(&arguments[0]), int(&arguments[1]), text(&arguments[2]));
    let out = || "the range is not within the text".to_owned();
    let end_or_all = if end < 0 || end > bytes.len() as i64 { bytes.len() as i64 } else { end };
    let (from, to) = if start < 0 { (0, end) } else { (start, end_or_all) };
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok()).ok_or_else(out)?;
    made(meter, bytes.get(range.0..range.1).ok_or_else(out)?)
}
