//! Paths with slashes, as Go's `path` reads them.

use super::{made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// The shortest path that means the same.
fn cleaned(path: &[u8]) -> Vec<u8> {
    let is_rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => {
                    parts.pop();
                }
                _ if is_rooted => {}
                _ => parts.push(part),
            },
            other => parts.push(other),
        }
    }
    let joined = parts.join(&b'/');
    match (is_rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

pub(super) fn clean(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(16 * text(&arguments[0]).len())?;
    made(meter, cleaned(text(&arguments[0])))
}

pub(super) fn base(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let path = text(&arguments[0]);
    let Some(end) = path.iter().rposition(|byte| *byte != b'/') else {
        return made(meter, if path.is_empty() { "." } else { "/" });
    };
    let start = path[..=end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    made(meter, &path[start..=end])
}

pub(super) fn dir(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let path = text(&arguments[0]);
    let end = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    made(meter, cleaned(&path[..end]))
}

pub(super) fn ext(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let path = text(&arguments[0]);
    let start = path.iter().rposition(|byte| matches!(byte, b'.' | b'/')).filter(|at| path[*at] == b'.');
    made(meter, start.map_or(&[][..], |start| &path[start..]))
}

pub(super) fn is_abs(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Bool(text(&arguments[0]).starts_with(b"/")))
}
