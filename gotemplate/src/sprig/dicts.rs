//! Dictionaries: one thing under all of its names, and changed in place.

use super::reflect::{NESTING, too_deep};
use super::{anys, dict as dict_at, dict_of, list_of, strval, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::text::Text;
use crate::value::{List, Map, Type, Value};

fn new_dict(meter: &mut Meter, entries: impl IntoIterator<Item = (Text, Value)>) -> Answer {
    dict_of(meter, entries, Type::Any)
}

pub(super) fn dict(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut entries = Vec::new();
    for pair in arguments.chunks(2) {
        let value = pair.get(1).cloned().unwrap_or_else(|| Value::from(""));
        entries.push((strval(meter, &pair[0])?, value));
    }
    new_dict(meter, entries)
}

pub(super) fn get(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(dict_at(&arguments[0]).get(text(&arguments[1])).unwrap_or_else(|| Value::from("")))
}

pub(super) fn set(meter: &mut Meter, arguments: &[Value]) -> Answer {
    dict_at(&arguments[0]).set(meter, Text::new(text(&arguments[1]).to_vec()), arguments[2].clone())?;
    Ok(arguments[0].clone())
}

pub(super) fn unset(_: &mut Meter, arguments: &[Value]) -> Answer {
    dict_at(&arguments[0]).unset(text(&arguments[1]));
    Ok(arguments[0].clone())
}

pub(super) fn has_key(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(dict_at(&arguments[0]).get(text(&arguments[1])).is_some()))
}

pub(super) fn pluck(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let key = text(&arguments[0]);
    anys(meter, arguments[1..].iter().filter_map(|map| dict_at(map).get(key)).collect())
}

/// Go's order is by chance; ours is that of the keys.
pub(super) fn keys(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let count = arguments.iter().map(|map| dict_at(map).len()).fold(0, usize::saturating_add);
    meter.steps(count)?;
    meter.memory(count.saturating_mul(size_of::<Value>()))?;
    let keys = arguments.iter().flat_map(|map| dict_at(map).entries()).map(|(key, _)| Value::Str(key)).collect();
    list_of(meter, keys, Type::Str)
}

pub(super) fn values(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let values = dict_at(&arguments[0]).entries().into_iter().map(|(_, value)| value).collect();
    anys(meter, values)
}

fn chosen(meter: &mut Meter, arguments: &[Value], wanted: bool) -> Answer {
    meter.steps(arguments.len())?;
    let names: std::collections::BTreeSet<&[u8]> = arguments[1..].iter().map(text).collect();
    let entries = dict_at(&arguments[0]).entries();
    new_dict(meter, entries.into_iter().filter(|(key, _)| names.contains(key.bytes()) == wanted))
}

pub(super) fn pick(meter: &mut Meter, arguments: &[Value]) -> Answer {
    chosen(meter, arguments, true)
}

pub(super) fn omit(meter: &mut Meter, arguments: &[Value]) -> Answer {
    chosen(meter, arguments, false)
}

pub(super) fn dig(_: &mut Meter, arguments: &[Value]) -> Answer {
    let [path @ .., default, map] = arguments else { return Err("dig needs at least three arguments".into()) };
    if path.is_empty() {
        return Err("dig needs at least three arguments".into());
    }
    if path.iter().any(|key| !matches!(key, Value::Str(_))) {
        return Err("dig needs keys that are strings".into());
    }
    let mut value = map.clone();
    for (i, key) in path.iter().enumerate() {
        let Value::Map(map) = &value else { return Err(format!("dig meets type {} on its way", value.type_name())) };
        if *map.of() != Type::Any {
            return Err(format!("dig meets type {} on its way", value.type_name()));
        }
        match map.get(text(key)) {
            None => return Ok(default.clone()),
            Some(found) if i + 1 == path.len() => return Ok(found),
            Some(found) => value = found,
        }
    }
    Ok(value)
}

pub(super) fn deep_copy(meter: &mut Meter, arguments: &[Value]) -> Answer {
    match &arguments[0] {
        Value::Nil => Err("nothing to copy".into()),
        value => copied(meter, value, 0),
    }
}

fn copied(meter: &mut Meter, value: &Value, depth: usize) -> Answer {
    if depth > NESTING {
        return Err(too_deep());
    }
    match value {
        Value::List(list) if list.is_nil() => Ok(Value::List(List::nil(list.of().clone()))),
        Value::List(list) => {
            let items: Result<_, _> = list.items().iter().map(|item| copied(meter, item, depth + 1)).collect();
            list_of(meter, items?, list.of().clone())
        }
        Value::Map(map) if map.is_nil() => Ok(Value::Map(Map::nil(map.of().clone()))),
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries() {
                entries.push((key, copied(meter, &value, depth + 1)?));
            }
            dict_of(meter, entries, map.of().clone())
        }
        other => Ok(other.clone()),
    }
}

/// What `mergo` does: maps are merged into each other in place; anything else goes where nothing or something empty is, or, when it
/// overwrites, everywhere.
fn merge_into(meter: &mut Meter, into: &Map, from: &Map, overwrite: bool, depth: usize) -> Result<(), String> {
    if depth > NESTING {
        return Err(too_deep());
    }
    for (key, value) in from.entries() {
        meter.steps(1)?;
        let there = into.get(key.bytes());
        let fits = *into.of() == Type::Any || value.type_of().as_ref() == Some(into.of());
        if !fits {
            return Err(format!("a {} can't be merged into a map of {}", value.type_name(), into.of()));
        }
        match (&there, &value) {
            (_, Value::Nil) if overwrite => into.set(meter, key, Value::Nil)?,
            (_, Value::Nil) => {}
            (Some(Value::Map(inner)), Value::Map(value)) if !inner.is_nil() => {
                merge_into(meter, inner, value, overwrite, depth + 1)?;
                if inner.is_empty() {
                    into.set(meter, key, Value::Map(value.clone()))?;
                }
            }
            _ if overwrite || there.as_ref().is_none_or(|there| !there.is_true()) => into.set(meter, key, value)?,
            _ => {}
        }
    }
    Ok(())
}

fn merged(meter: &mut Meter, arguments: &[Value], overwrite: bool) -> Answer {
    let mut into = dict_at(&arguments[0]);
    for from in &arguments[1..] {
        let from = dict_at(from);
        if into.is_nil() && !from.is_nil() {
            into = Map::new(Default::default(), Type::Any);
        }
        if !into.is(&from) {
            merge_into(meter, &into, &from, overwrite, 0)?;
        }
    }
    Ok(Value::Map(into))
}

pub(super) fn merge(meter: &mut Meter, arguments: &[Value]) -> Answer {
    merged(meter, arguments, false)
}

pub(super) fn merge_overwrite(meter: &mut Meter, arguments: &[Value]) -> Answer {
    merged(meter, arguments, true)
}
