//! What can be asked of a time, a version or a certificate: `.Year`, `.Major`, `.Cert`.

use crate::exec::Meter;
use crate::functions::Param;
use crate::sprig::{dates, semver};
use crate::value::{Type, Value};

const INT: Param = Param::Of(Type::Int(None));
const STR: Param = Param::Of(Type::Str);
const TIME: Param = Param::Of(Type::Time);
const VERSION: Param = Param::Of(Type::Version);

/// What a method takes; none if it takes nothing, or is none.
pub(crate) fn params(receiver: &Value, name: &str) -> Option<&'static [Param]> {
    match (receiver, name) {
        (Value::Time(_), "Format") => Some(&[STR]),
        (Value::Time(_), "Before" | "After" | "Equal") => Some(&[TIME]),
        (Value::Time(_), "AddDate") => Some(&[INT, INT, INT]),
        (Value::Version(_), "Compare" | "LessThan" | "GreaterThan" | "Equal") => Some(&[VERSION]),
        _ => None,
    }
}

/// What an answer may be as large as, taken before it is made.
pub(crate) fn charge(meter: &mut Meter, receiver: &Value, arguments: &[Value]) -> Result<(), String> {
    let layout: usize =
        arguments.iter().map(|argument| if let Value::Str(text) = argument { text.bytes().len() } else { 0 }).sum();
    match receiver {
        Value::Time(time) => meter.memory(100 + 12 * layout + layout / 3 * time.zone.len()),
        Value::Version(version) => meter.memory(100 + 3 * version.original.len()),
        _ => Ok(()),
    }
}

/// A method's or a field's answer; none if there is none of that name.
pub(crate) fn call(receiver: &Value, name: &str, arguments: &[Value]) -> Option<Value> {
    match receiver {
        Value::Time(time) => dates::method(time, name, arguments),
        Value::Version(version) => semver::method(version, name, arguments),
        Value::Certificate(certificate) => match name {
            "Cert" => Some(Value::Str(certificate.cert.clone())),
            "Key" => Some(Value::Str(certificate.key.clone())),
            _ => None,
        },
        _ => None,
    }
}
