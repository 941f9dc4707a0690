//! Sprig's functions on regular expressions.

use super::{list_of, made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::regexp::{Regexp, quote_meta as quoted};
use crate::text::Text;
use crate::value::{List, Type, Value};

/// Longest result of a replacement.
const LONGEST: usize = 4 << 20;

/// Longest pattern, and longest text that is searched.
const PATTERN: usize = 16 << 10;
const SEARCHED: usize = 512 << 10;

fn pattern(meter: &mut Meter, argument: &Value, searched: &Value) -> Result<Regexp, String> {
    // A pattern takes milliseconds to compile.
    meter.steps(500 + text(argument).len())?;
    meter.memory(16 * text(argument).len() + (64 << 10))?;
    if text(argument).len() > PATTERN {
        return Err(format!("a regexp is longer than {PATTERN} bytes"));
    }
    if text(searched).len() > SEARCHED {
        return Err(format!("a text is longer than the {SEARCHED} bytes that a regexp searches"));
    }
    let pattern = std::str::from_utf8(text(argument)).map_err(|_| "the regexp is no UTF-8".to_owned())?;
    // What is wrong quotes the pattern, which may come from the data.
    Regexp::new(pattern).map_err(|_| "the regexp is not valid".to_owned())
}

/// What matches take: each may scan the rest of the text.
fn matches(meter: &mut Meter, regexp: &Regexp, searched: &[u8]) -> Result<usize, String> {
    let mut count = 0;
    regexp.each(searched, |_, end| {
        count += 1;
        meter.memory(120)?;
        meter.steps(1 + (searched.len() - end) / 2048)?;
        if count % 16 == 0 { meter.in_time() } else { Ok(()) }
    })?;
    Ok(count)
}

pub(super) fn is_match(meter: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(pattern(meter, &arguments[0], &arguments[1]).is_ok_and(|regexp| regexp.is_match(text(&arguments[1])))))
}

pub(super) fn must_match(meter: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(pattern(meter, &arguments[0], &arguments[1])?.is_match(text(&arguments[1]))))
}

pub(super) fn find(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0], &arguments[1])?;
    made(meter, regexp.find(text(&arguments[1])).unwrap_or_default())
}

fn texts(meter: &mut Meter, parts: Vec<&[u8]>) -> Answer {
    meter.memory(parts.iter().map(|part| part.len()).sum())?;
    list_of(meter, parts.into_iter().map(|part| Value::Str(Text::new(part.to_vec()))).collect(), Type::Str)
}

pub(super) fn find_all(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0], &arguments[1])?;
    matches(meter, &regexp, text(&arguments[1]))?;
    let found = regexp.find_all(text(&arguments[1]), super::int(&arguments[2]));
    if found.is_empty() { Ok(Value::List(List::nil(Type::Str))) } else { texts(meter, found) }
}

pub(super) fn split(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0], &arguments[1])?;
    let limit = super::int(&arguments[2]);
    matches(meter, &regexp, text(&arguments[1]))?;
    let parts = regexp.split(text(&arguments[1]), limit);
    if limit == 0 { Ok(Value::List(List::nil(Type::Str))) } else { texts(meter, parts) }
}

pub(super) fn replace_all(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0], &arguments[1])?;
    let count = matches(meter, &regexp, text(&arguments[1]))?;
    meter.steps(count.saturating_mul(text(&arguments[2]).len() / 16 + 1))?;
    made(meter, regexp.replace_all(text(&arguments[1]), text(&arguments[2]), LONGEST)?)
}

pub(super) fn replace_all_literal(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let regexp = pattern(meter, &arguments[0], &arguments[1])?;
    matches(meter, &regexp, text(&arguments[1]))?;
    made(meter, regexp.replace_all_literal(text(&arguments[1]), text(&arguments[2]), LONGEST)?)
}

pub(super) fn quote_meta(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(meter, quoted(text(&arguments[0])))
}
