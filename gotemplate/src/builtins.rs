//! The functions that the language itself has.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::exec::Meter;
use crate::format;
use crate::functions::Answer;
use crate::text::{Text, decode_rune};
use crate::value::{List, Value};

/// `and` and `or` are never called: they evaluate one argument after another.
pub(crate) fn never(_: &mut Meter, _: &[Value]) -> Answer {
    Err("is no function to call".into())
}

/// There are no functions among the values.
pub(crate) fn call(_: &mut Meter, arguments: &[Value]) -> Answer {
    match &arguments[0] {
        Value::Nil => Err("call of nil".into()),
        other => Err(format!("non-function of type {}", other.type_name())),
    }
}

pub(crate) fn not(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(!arguments[0].is_true()))
}

pub(crate) fn len(_: &mut Meter, arguments: &[Value]) -> Answer {
    let length = match &arguments[0] {
        Value::Str(text) => text.bytes().len(),
        Value::List(list) => list.items().len(),
        Value::Map(map) => map.len(),
        Value::Nil => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Value::Int(length as i64, None))
}

fn position(index: &Value, end: usize) -> Result<usize, String> {
    // The index may come from the data: it is not repeated.
    let out = || Err("index out of range".to_owned());
    match index {
        Value::Int(i, _) => match usize::try_from(*i) {
            Ok(at) if at <= end => Ok(at),
            _ => out(),
        },
        Value::Uint(i, _) => match usize::try_from(*i) {
            Ok(at) if at <= end => Ok(at),
            _ => out(),
        },
        Value::Nil => Err("cannot index slice/array with nil".into()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    }
}

pub(crate) fn index(_: &mut Meter, arguments: &[Value]) -> Answer {
    let mut item = arguments[0].clone();
    if matches!(item, Value::Nil) {
        return Err("index of untyped nil".into());
    }
    for index in &arguments[1..] {
        let out_of_range = || "index out of range".to_owned();
        item = match &item {
            Value::Nil => return Err("index of nil pointer".into()),
            Value::List(list) => {
                let at = position(index, list.items().len())?;
                list.items().get(at).cloned().ok_or_else(out_of_range)?
            }
            Value::Str(text) => {
                let at = position(index, text.bytes().len())?;
                let byte = text.bytes().get(at).ok_or_else(out_of_range)?;
                Value::Uint(u64::from(*byte), Some(8))
            }
            Value::Map(map) => match index {
                Value::Str(key) => map.get(key.bytes()).unwrap_or_else(|| map.of().zero()),
                Value::Nil => return Err("value is nil; should be of type string".into()),
                other => return Err(format!("value has type {}; should be string", other.type_name())),
            },
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

pub(crate) fn slice(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (item, indexes) = (&arguments[0], &arguments[1..]);
    let length = match item {
        Value::Nil => return Err("slice of untyped nil".into()),
        _ if indexes.len() > 3 => return Err(format!("too many slice indexes: {}", indexes.len())),
        Value::Str(_) if indexes.len() == 3 => return Err("cannot 3-index slice a string".into()),
        Value::Str(text) => text.bytes().len(),
        Value::List(list) => list.items().len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let mut ends = [0, length, length];
    for (end, index) in ends.iter_mut().zip(indexes) {
        *end = position(index, length)?;
    }
    let [from, to, room] = ends;
    if from > to || to > room {
        return Err("invalid slice index: one is larger than the next".into());
    }
    match item {
        Value::Str(text) => {
            meter.memory(to - from)?;
            Ok(Value::Str(Text::new(text.bytes()[from..to].to_vec())))
        }
        Value::List(list) => {
            meter.memory((to - from) * size_of::<Value>())?;
            Ok(Value::List(List::new(list.items()[from..to].to_vec(), list.of().clone())))
        }
        _ => Ok(Value::Nil),
    }
}

/// Kinds of values that can be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Complex,
    Int,
    Float,
    Str,
    Uint,
}

fn kind(value: &Value) -> Option<Kind> {
    Some(match value {
        Value::Bool(_) => Kind::Bool,
        Value::Int(..) => Kind::Int,
        Value::Uint(..) => Kind::Uint,
        Value::Float(_) => Kind::Float,
        Value::Complex(..) => Kind::Complex,
        Value::Str(_) => Kind::Str,
        Value::Nil | Value::List(_) | Value::Map(_) | Value::Time(_) | Value::Certificate(_) | Value::Version(_) => return None,
    })
}

fn incompatible(a: &Value, b: &Value) -> String {
    format!("incompatible types for comparison: {} and {}", a.type_name(), b.type_name())
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a, _), Value::Int(b, _)) => a == b,
        (Value::Uint(a, _), Value::Uint(b, _)) => a == b,
        (Value::Int(int, _), Value::Uint(uint, _)) | (Value::Uint(uint, _), Value::Int(int, _)) => {
            u64::try_from(*int).is_ok_and(|int| int == *uint)
        }
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Complex(a, b), Value::Complex(c, d)) => a == c && b == d,
        (Value::Str(a), Value::Str(b)) => a == b,
        (Value::Nil, Value::Nil) => true,
        // Nothing has a kind that can't be compared with nil; what there is is not nil.
        (Value::Nil, _) | (_, Value::Nil) => false,
        (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)) => {
            return Err(format!("non-comparable type {}", b.type_name()));
        }
        (Value::Time(a), Value::Time(b)) => a == b,
        (Value::Certificate(a), Value::Certificate(b)) => a.cert == b.cert && a.key == b.key,
        (Value::Version(a), Value::Version(b)) => Rc::ptr_eq(a, b),
        _ if kind(a).is_none() && kind(b).is_none() => {
            return Err(format!("non-comparable types {} and {}", a.type_name(), b.type_name()));
        }
        _ => return Err(incompatible(a, b)),
    })
}

fn less(a: &Value, b: &Value) -> Result<bool, String> {
    const BAD: &str = "invalid type for comparison";
    if kind(a).is_none() || kind(b).is_none() {
        return Err(BAD.into());
    }
    Ok(match (a, b) {
        (Value::Int(a, _), Value::Int(b, _)) => a < b,
        (Value::Uint(a, _), Value::Uint(b, _)) => a < b,
        (Value::Int(a, _), Value::Uint(b, _)) => u64::try_from(*a).map_or(true, |a| a < *b),
        (Value::Uint(a, _), Value::Int(b, _)) => u64::try_from(*b).is_ok_and(|b| *a < b),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b) == Some(Ordering::Less),
        (Value::Str(a), Value::Str(b)) => a < b,
        (Value::Bool(_), Value::Bool(_)) | (Value::Complex(..), Value::Complex(..)) => return Err(BAD.into()),
        _ => return Err(incompatible(a, b)),
    })
}

pub(crate) fn eq(_: &mut Meter, arguments: &[Value]) -> Answer {
    let (first, others) = (&arguments[0], &arguments[1..]);
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

pub(crate) fn ne(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(!equal(&arguments[0], &arguments[1])?))
}

pub(crate) fn lt(_: &mut Meter, arguments: &[Value]) -> Answer {
    less(&arguments[0], &arguments[1]).map(Value::Bool)
}

fn less_or_equal(arguments: &[Value]) -> Result<bool, String> {
    Ok(less(&arguments[0], &arguments[1])? || equal(&arguments[0], &arguments[1])?)
}

pub(crate) fn le(_: &mut Meter, arguments: &[Value]) -> Answer {
    less_or_equal(arguments).map(Value::Bool)
}

pub(crate) fn gt(_: &mut Meter, arguments: &[Value]) -> Answer {
    less_or_equal(arguments).map(|less| Value::Bool(!less))
}

pub(crate) fn ge(_: &mut Meter, arguments: &[Value]) -> Answer {
    less(&arguments[0], &arguments[1]).map(|less| Value::Bool(!less))
}

fn made(result: Result<Vec<u8>, String>) -> Answer {
    result.map(|bytes| Value::Str(Text::new(bytes)))
}

pub(crate) fn print(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(format::sprint(meter, arguments))
}

pub(crate) fn println(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(format::sprintln(meter, arguments))
}

pub(crate) fn printf(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let Value::Str(layout) = &arguments[0] else { return Err("the format is no string".into()) };
    made(format::sprintf(meter, layout.bytes(), &arguments[1..]))
}

/// What the escaping functions escape: one string as it is, anything else as it is printed.
fn joined(meter: &mut Meter, arguments: &[Value]) -> Result<Vec<u8>, String> {
    match arguments {
        [Value::Str(text)] => Ok(text.bytes().to_vec()),
        // Go prints a missing value here as it prints it in a template.
        _ => {
            let shown: Vec<Value> =
                arguments.iter().map(|v| if matches!(v, Value::Nil) { Value::from("<no value>") } else { v.clone() }).collect();
            format::sprint(meter, &shown)
        }
    }
}

pub(crate) fn html(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let text = joined(meter, arguments)?;
    meter.memory(5 * text.len())?;
    let mut escaped = Vec::with_capacity(text.len());
    for byte in &text {
        match byte {
            0 => escaped.extend("\u{fffd}".bytes()),
            b'"' => escaped.extend(b"&#34;"),
            b'\'' => escaped.extend(b"&#39;"),
            b'&' => escaped.extend(b"&amp;"),
            b'<' => escaped.extend(b"&lt;"),
            b'>' => escaped.extend(b"&gt;"),
            other => escaped.push(*other),
        }
    }
    Ok(Value::Str(Text::new(escaped)))
}

pub(crate) fn js(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let text = joined(meter, arguments)?;
    meter.memory(6 * text.len())?;
    let mut escaped = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        if !byte.is_ascii() {
            let (rune, length) = decode_rune(&text[at..]);
            match format::is_printable(rune) {
                true => escaped.extend_from_slice(&text[at..at + length]),
                false => escaped.extend(format!("\\u{:04X}", u32::from(rune)).bytes()),
            }
            at += length;
            continue;
        }
        at += 1;
        match byte {
            b'\\' => escaped.extend(br"\\"),
            b'\'' => escaped.extend(br"\'"),
            b'"' => escaped.extend(br#"\""#),
            b'<' | b'>' | b'&' | b'=' | 0..=0x1f => escaped.extend(format!("\\u{byte:04X}").bytes()),
            other => escaped.push(other),
        }
    }
    Ok(Value::Str(Text::new(escaped)))
}

pub(crate) fn urlquery(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let text = joined(meter, arguments)?;
    meter.memory(3 * text.len())?;
    let mut escaped = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte),
            b' ' => escaped.push(b'+'),
            other => escaped.extend(format!("%{other:02X}").bytes()),
        }
    }
    Ok(Value::Str(Text::new(escaped)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Type;

    #[test]
    fn integers_compare_whatever_their_signs() {
        let (minus, one, big) = (Value::int(-1), Value::int(1), Value::Uint(u64::MAX, Some(64)));
        assert_eq!((less(&minus, &big), less(&big, &minus)), (Ok(true), Ok(false)));
        assert_eq!((equal(&one, &Value::Uint(1, None)), equal(&minus, &big)), (Ok(true), Ok(false)));
        assert!(less(&one, &Value::Float(1.0)).is_err() && equal(&one, &Value::Float(1.0)).is_err());
        let list = Value::List(List::new(Vec::new(), Type::Any));
        assert!(equal(&list, &list).is_err() && equal(&list, &Value::Nil) == Ok(false));
    }
}
