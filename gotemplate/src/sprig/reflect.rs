//! What values are: emptiness, types, equality.

use super::{made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::{Type, Value};

/// How deep values are compared and copied.
pub(super) const NESTING: usize = 100;

pub(super) fn too_deep() -> String {
    format!("a value is nested deeper than {NESTING} levels")
}

pub(super) fn hello(meter: &mut Meter, _: &[Value]) -> Answer {
    made(meter, "Hello!")
}

pub(super) fn fail(_: &mut Meter, arguments: &[Value]) -> Answer {
    // The text may hold a value: only a template that says nothing but words may have them shown.
    let _ = text(&arguments[0]);
    Err("the template says that it fails".into())
}

pub(super) fn empty(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(!arguments[0].is_true()))
}

pub(super) fn default(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(arguments.get(1).filter(|given| given.is_true()).unwrap_or(&arguments[0]).clone())
}

pub(super) fn coalesce(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(arguments.iter().find(|value| value.is_true()).cloned().unwrap_or(Value::Nil))
}

pub(super) fn all(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(arguments.iter().all(Value::is_true)))
}

pub(super) fn any(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(arguments.iter().any(Value::is_true)))
}

pub(super) fn ternary(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(arguments[if arguments[2].is_true() { 0 } else { 1 }].clone())
}

fn name_of(value: &Value) -> String {
    value.type_of().map_or_else(|| "<nil>".to_owned(), |of| of.to_string())
}

pub(super) fn type_of(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(meter, name_of(&arguments[0]))
}

pub(super) fn type_is(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(text(&arguments[0]) == name_of(&arguments[1]).as_bytes()))
}

pub(super) fn type_is_like(_: &mut Meter, arguments: &[Value]) -> Answer {
    let (wanted, name) = (text(&arguments[0]), name_of(&arguments[1]));
    Ok(Value::Bool(wanted == name.as_bytes() || name.strip_prefix('*').is_some_and(|name| wanted == name.as_bytes())))
}

fn kind(value: &Value) -> String {
    match value.type_of() {
        None => "invalid".into(),
        Some(Type::List(_)) => "slice".into(),
        Some(Type::Map(_)) => "map".into(),
        Some(Type::Time | Type::Certificate) => "struct".into(),
        Some(Type::Version) => "ptr".into(),
        Some(other) => other.to_string(),
    }
}

pub(super) fn kind_of(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(meter, kind(&arguments[0]))
}

pub(super) fn kind_is(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(text(&arguments[0]) == kind(&arguments[1]).as_bytes()))
}

pub(super) fn deep_equal(meter: &mut Meter, arguments: &[Value]) -> Answer {
    same(meter, &arguments[0], &arguments[1]).map(Value::Bool)
}

/// `reflect.DeepEqual`
pub(super) fn same(meter: &mut Meter, a: &Value, b: &Value) -> Result<bool, String> {
    same_at(meter, a, b, 0)
}

fn same_at(meter: &mut Meter, a: &Value, b: &Value, depth: usize) -> Result<bool, String> {
    meter.steps(1)?;
    if depth > NESTING {
        return Err(too_deep());
    }
    if a.type_of() != b.type_of() {
        return Ok(false);
    }
    Ok(match (a, b) {
        (Value::Nil, Value::Nil) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a, _), Value::Int(b, _)) => a == b,
        (Value::Uint(a, _), Value::Uint(b, _)) => a == b,
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Complex(a, c), Value::Complex(b, d)) => a == b && c == d,
        (Value::Str(a), Value::Str(b)) => {
            meter.steps(a.bytes().len().min(b.bytes().len()) / 64)?;
            a == b
        }
        (Value::Time(a), Value::Time(b)) => a == b,
        (Value::Version(a), Value::Version(b)) => a == b,
        (Value::Certificate(a), Value::Certificate(b)) => a.cert == b.cert && a.key == b.key,
        (Value::List(a), Value::List(b)) => {
            if a.is_nil() != b.is_nil() || a.items().len() != b.items().len() {
                return Ok(false);
            }
            if a.is(b) {
                return Ok(true);
            }
            for (a, b) in a.items().iter().zip(b.items()) {
                if !same_at(meter, a, b, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), Value::Map(b)) => {
            if a.is_nil() != b.is_nil() || a.len() != b.len() {
                return Ok(false);
            }
            if a.is(b) {
                return Ok(true);
            }
            for ((key_a, a), (key_b, b)) in a.entries().iter().zip(b.entries().iter()) {
                if key_a != key_b || !same_at(meter, a, b, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        _ => false,
    })
}
