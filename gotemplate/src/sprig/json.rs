//! JSON as Go's `encoding/json` writes and reads it.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::reflect::{NESTING, too_deep};
use super::{text, utf8};
use crate::exec::Meter;
use crate::format::{plain_float, shortest};
use crate::functions::Answer;
use crate::text::{Text, runes};
use crate::value::{List, Map, Type, Value};

/// How JSON is written.
#[derive(Clone, Copy)]
struct Style {
    escapes_html: bool,
    is_pretty: bool,
}

pub(super) fn to_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    or_empty(meter, &arguments[0], Style { escapes_html: true, is_pretty: false })
}

pub(super) fn to_pretty_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    or_empty(meter, &arguments[0], Style { escapes_html: true, is_pretty: true })
}

pub(super) fn to_raw_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    written(meter, &arguments[0], Style { escapes_html: false, is_pretty: false })
}

pub(super) fn must_to_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    written(meter, &arguments[0], Style { escapes_html: true, is_pretty: false })
}

pub(super) fn must_to_pretty_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    written(meter, &arguments[0], Style { escapes_html: true, is_pretty: true })
}

fn written(meter: &mut Meter, value: &Value, style: Style) -> Answer {
    let mut out = Vec::new();
    match write(meter, &mut out, value, style, 0)? {
        Ok(()) => Ok(Value::Str(Text::new(out))),
        Err(why) => Err(why),
    }
}

/// What JSON can't say is nothing; a limit is an error all the same.
fn or_empty(meter: &mut Meter, value: &Value, style: Style) -> Answer {
    let mut out = Vec::new();
    match write(meter, &mut out, value, style, 0)? {
        Ok(()) => Ok(Value::Str(Text::new(out))),
        Err(_) => Ok(Value::from("")),
    }
}

/// `Err` of the outer kind is a limit, of the inner kind a value that JSON can't say.
type Written = Result<Result<(), String>, String>;

fn newline(out: &mut Vec<u8>, style: Style, depth: usize) {
    if style.is_pretty {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    }
}

fn write(meter: &mut Meter, out: &mut Vec<u8>, value: &Value, style: Style, depth: usize) -> Written {
    if depth > NESTING {
        return Err(too_deep());
    }
    meter.memory(8 + if style.is_pretty { 2 * depth } else { 0 })?;
    meter.steps(1)?;
    match value {
        Value::Nil => out.extend(b"null"),
        Value::Bool(value) => out.extend(value.to_string().bytes()),
        Value::Int(int, _) => out.extend(int.to_string().bytes()),
        Value::Uint(uint, _) => out.extend(uint.to_string().bytes()),
        Value::Float(float) if float.is_finite() => out.extend(float_text(*float).bytes()),
        Value::Float(_) | Value::Complex(..) => return Ok(Err("json: unsupported value".into())),
        Value::Str(text) => string(meter, out, text.bytes(), style)?,
        Value::Time(time) => string(meter, out, time.rfc3339().as_bytes(), style)?,
        Value::Version(version) => string(meter, out, version.to_string().as_bytes(), style)?,
        Value::Certificate(certificate) => {
            let fields = [("Cert", &certificate.cert), ("Key", &certificate.key)];
            let fields = fields.map(|(name, text)| (Text::from(name), Value::Str(text.clone())));
            return object(meter, out, &fields, style, depth);
        }
        Value::List(list) if list.is_nil() => out.extend(b"null"),
        Value::Map(map) if map.is_nil() => out.extend(b"null"),
        Value::List(list) => {
            out.push(b'[');
            for (i, item) in list.items().iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                newline(out, style, depth + 1);
                if let Err(why) = write(meter, out, item, style, depth + 1)? {
                    return Ok(Err(why));
                }
            }
            if !list.items().is_empty() {
                newline(out, style, depth);
            }
            out.push(b']');
        }
        Value::Map(map) => return object(meter, out, &map.entries(), style, depth),
    }
    Ok(Ok(()))
}

fn object(meter: &mut Meter, out: &mut Vec<u8>, fields: &[(Text, Value)], style: Style, depth: usize) -> Written {
    out.push(b'{');
    for (i, (key, item)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        newline(out, style, depth + 1);
        string(meter, out, key.bytes(), style)?;
        out.extend(if style.is_pretty { &b": "[..] } else { b":" });
        if let Err(why) = write(meter, out, item, style, depth + 1)? {
            return Ok(Err(why));
        }
    }
    if !fields.is_empty() {
        newline(out, style, depth);
    }
    out.push(b'}');
    Ok(Ok(()))
}

fn string(meter: &mut Meter, out: &mut Vec<u8>, bytes: &[u8], style: Style) -> Result<(), String> {
    meter.memory(6 * bytes.len())?;
    out.push(b'"');
    for (at, rune, length) in runes(bytes) {
        match rune {
            '"' => out.extend(br#"\""#),
            '\\' => out.extend(br"\\"),
            '\n' => out.extend(br"\n"),
            '\r' => out.extend(br"\r"),
            '\t' => out.extend(br"\t"),
            '\x08' => out.extend(br"\b"),
            '\x0c' => out.extend(br"\f"),
            '<' | '>' | '&' if style.escapes_html => out.extend(format!("\\u{:04x}", u32::from(rune)).bytes()),
            '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => out.extend(format!("\\u{:04x}", u32::from(rune)).bytes()),
            '\u{fffd}' if length == 1 => out.extend(br"\ufffd"),
            _ => out.extend_from_slice(&bytes[at..at + length]),
        }
    }
    out.push(b'"');
    Ok(())
}

/// The shortest that reads back, in ECMAScript's form.
fn float_text(float: f64) -> String {
    let size = float.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = shortest(float);
        return if text.contains("e-") { text } else { text.replace('e', "e+") };
    }
    plain_float(float)
}

pub(super) fn from_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    match read(meter, &utf8(&arguments[0])) {
        Ok(value) => Ok(value),
        Err(Wrong::Limit(why)) => Err(why),
        Err(Wrong::Json(_)) => Ok(Value::Nil),
    }
}

pub(super) fn must_from_json(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let _ = text(&arguments[0]);
    read(meter, &utf8(&arguments[0])).map_err(|wrong| match wrong {
        Wrong::Limit(why) | Wrong::Json(why) => why,
    })
}

pub(super) enum Wrong {
    /// The template may not make so much.
    Limit(String),
    /// It is no JSON; where, and no text of it.
    Json(String),
}

/// Reads JSON: numbers are floats, as in Go.
pub(super) fn read(meter: &mut Meter, text: &str) -> Result<Value, Wrong> {
    let mut limit = None;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Seed { meter, limit: &mut limit }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| match limit {
        Some(why) => Wrong::Limit(why),
        None => Wrong::Json(format!("no JSON: line {} column {}", error.line(), error.column())),
    })
}

struct Seed<'a> {
    meter: &'a mut Meter,
    limit: &'a mut Option<String>,
}

impl Seed<'_> {
    fn take<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        let taken = self.meter.steps(1).and_then(|()| self.meter.memory(bytes + size_of::<Value>()));
        taken.map_err(|why| {
            *self.limit = Some(why);
            E::custom("a limit")
        })
    }

    fn again(&mut self) -> Seed<'_> {
        Seed { meter: self.meter, limit: self.limit }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        self.take(0)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(mut self, value: &str) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.again())? {
            items.push(item);
        }
        Ok(Value::List(List::new(items, Type::Any)))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = std::collections::BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            self.take(key.len())?;
            let value = access.next_value_seed(self.again())?;
            entries.insert(Text::from(key), value);
        }
        Ok(Value::Map(Map::new(entries, Type::Any)))
    }
}
