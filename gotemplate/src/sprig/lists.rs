//! Lists: each answer is a new one.

use super::reflect::same;
use super::{anys, int, numbers};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::{List, Type, Value};

/// The list that an argument is; nil and anything else are errors, as in Sprig.
fn list_of<'a>(value: &'a Value, what: &str) -> Result<&'a List, String> {
    match value {
        Value::List(list) => Ok(list),
        other => Err(format!("cannot {what} type {}", other.type_name())),
    }
}

pub(super) fn list(meter: &mut Meter, arguments: &[Value]) -> Answer {
    anys(meter, arguments.to_vec())
}

pub(super) fn push(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut items = list_of(&arguments[0], "push on")?.items().to_vec();
    items.push(arguments[1].clone());
    anys(meter, items)
}

pub(super) fn prepend(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let list = list_of(&arguments[0], "prepend on")?;
    anys(meter, std::iter::once(&arguments[1]).chain(list.items()).cloned().collect())
}

pub(super) fn concat(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut items = Vec::new();
    for argument in arguments {
        items.extend_from_slice(list_of(argument, "concat as list:")?.items());
        meter.steps(items.len() / 8)?;
    }
    if items.is_empty() { Ok(Value::List(List::nil(Type::Any))) } else { anys(meter, items) }
}

pub(super) fn chunk(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (size, items) = (int(&arguments[0]), list_of(&arguments[1], "chunk")?.items());
    let count = ((items.len() as f64 - 1.0) / size as f64).floor() + 1.0;
    if !(0.0..=items.len() as f64).contains(&count) || (size < 0 && count > 1.0) {
        return Err("the chunks have no size".into());
    }
    let size = if size < 0 { items.len() } else { size as usize };
    meter.memory(items.len() * 2 * size_of::<Value>())?;
    let chunks = items.chunks(size.max(1)).take(count as usize);
    let chunks = chunks.map(|chunk| Value::List(List::new(chunk.to_vec(), Type::Any))).collect();
    super::list_of(meter, chunks, Type::List(Box::new(Type::Any)))
}

pub(super) fn first(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(list_of(&arguments[0], "find first on")?.items().first().cloned().unwrap_or(Value::Nil))
}

pub(super) fn last(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(list_of(&arguments[0], "find last on")?.items().last().cloned().unwrap_or(Value::Nil))
}

pub(super) fn rest(meter: &mut Meter, arguments: &[Value]) -> Answer {
    match list_of(&arguments[0], "find rest on")?.items() {
        [] => Ok(Value::List(List::nil(Type::Any))),
        [_, rest @ ..] => anys(meter, rest.to_vec()),
    }
}

pub(super) fn initial(meter: &mut Meter, arguments: &[Value]) -> Answer {
    match list_of(&arguments[0], "find initial on")?.items() {
        [] => Ok(Value::List(List::nil(Type::Any))),
        [initial @ .., _] => anys(meter, initial.to_vec()),
    }
}

pub(super) fn reverse(meter: &mut Meter, arguments: &[Value]) -> Answer {
    anys(meter, list_of(&arguments[0], "find reverse on")?.items().iter().rev().cloned().collect())
}

pub(super) fn compact(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let items = list_of(&arguments[0], "compact on")?.items();
    anys(meter, items.iter().filter(|item| item.is_true()).cloned().collect())
}

fn is_in(meter: &mut Meter, items: &[Value], wanted: &Value) -> Result<bool, String> {
    for item in items {
        if same(meter, wanted, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn uniq(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut unique = Vec::new();
    for item in list_of(&arguments[0], "find uniq on")?.items() {
        if !is_in(meter, &unique, item)? {
            unique.push(item.clone());
        }
    }
    anys(meter, unique)
}

pub(super) fn without(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut kept = Vec::new();
    for item in list_of(&arguments[0], "find without on")?.items() {
        if !is_in(meter, &arguments[1..], item)? {
            kept.push(item.clone());
        }
    }
    anys(meter, kept)
}

pub(super) fn has(meter: &mut Meter, arguments: &[Value]) -> Answer {
    if matches!(arguments[1], Value::Nil) {
        return Ok(Value::Bool(false));
    }
    let items = list_of(&arguments[1], "find has on")?.items();
    is_in(meter, items, &arguments[0]).map(Value::Bool)
}

pub(super) fn slice(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let list = list_of(&arguments[0], "slice")?;
    if list.items().is_empty() {
        return Ok(Value::Nil);
    }
    let index = |i: usize, usual: i64| arguments.get(i).map_or(usual, numbers::to_int);
    let (from, to) = (index(1, 0), index(2, list.items().len() as i64));
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    let items = range.and_then(|(from, to)| list.items().get(from..to)).ok_or("slice index out of bounds")?;
    super::list_of(meter, items.to_vec(), list.of().clone())
}
