//! Sprig's functions on regular expressions.

use super::{list_of, made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::regexp::{Regexp, quote_meta as quoted};
use crate::text::Text;
use crate::value::{List, Type, Value};

/// Longest result of a replacement.
const LONGEST: usize = 4 << 20;

fn pattern(meter: &mut Meter, argument: &Value) -> Result<Regexp, String> {
    // A pattern may take 2 MB once it is compiled, and milliseconds to compile.
    meter.steps(1000)?;
    meter.memory(8 * text(argument).len() + (64 << 10))?;
    Regexp::new(std::str::from_utf8(text(argument)).map_err(|_| "the regexp is no UTF-8".to_owned())?)
}

pub(super) fn is_match(meter: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(pattern(meter, &arguments[0]).is_ok_and(|regexp| regexp.is_match(text(&arguments[1])))))
}

pub(super) fn must_match(meter: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(pattern(meter, &arguments[0])?.is_match(text(&arguments[1]))))
}

pub(super) fn find(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0])?;
    made(meter, regexp.find(text(&arguments[1])).unwrap_or_default())
}

fn texts(meter: &mut Meter, parts: Vec<&[u8]>) -> Answer {
    meter.memory(parts.iter().map(|part| part.len()).sum())?;
    list_of(meter, parts.into_iter().map(|part| Value::Str(Text::new(part.to_vec()))).collect(), Type::Str)
}

pub(super) fn find_all(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0])?;
    let found = regexp.find_all(text(&arguments[1]), super::int(&arguments[2]));
    if found.is_empty() { Ok(Value::List(List::nil(Type::Str))) } else { texts(meter, found) }
}

pub(super) fn split(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0])?;
    let limit = super::int(&arguments[2]);
    let parts = regexp.split(text(&arguments[1]), limit);
    if limit == 0 { Ok(Value::List(List::nil(Type::Str))) } else { texts(meter, parts) }
}

pub(super) fn replace_all(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0])?;
    made(meter, regexp.replace_all(text(&arguments[1]), text(&arguments[2]), LONGEST)?)
}

pub(super) fn replace_all_literal(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0])?;
    made(meter, regexp.replace_all_literal(text(&arguments[1]), text(&arguments[2]), LONGEST)?)
}

pub(super) fn quote_meta(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(meter, quoted(text(&arguments[0])))
}
