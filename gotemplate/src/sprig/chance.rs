//! Randomness, from the system's generator.

use aws_lc_rs::rand::fill;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::texts::chars;
use super::{int as int_at, made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::text::Text;
use crate::value::Value;

pub(super) fn random(meter: &mut Meter, count: usize) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    meter.memory(count)?;
    meter.steps(count / 64)?;
    let mut bytes = zeroize::Zeroizing::new(vec![0; count]);
    fill(&mut bytes).map_err(|_| "the system has no random bytes".to_owned())?;
    Ok(bytes)
}

/// A number below a limit, each as likely as the other.
fn below(meter: &mut Meter, limit: u64) -> Result<u64, String> {
    let rest = (u64::MAX % limit + 1) % limit;
    loop {
        let bytes = random(meter, 8)?;
        let number = u64::from_be_bytes(bytes[..].try_into().unwrap_or_default());
        if number <= u64::MAX - rest {
            return Ok(number % limit);
        }
    }
}

fn letters(meter: &mut Meter, count: &Value, set: &[u8]) -> Answer {
    // Sprig answers a negative count with nothing.
    let count = usize::try_from(int_at(count)).unwrap_or(0);
    meter.memory(count)?;
    // Bytes beyond the last whole round would make the first letters likelier.
    let limit = 256 - 256 % set.len();
    let mut out = Vec::new();
    while out.len() < count {
        let bytes = random(meter, (count - out.len()) * 2 + 16)?;
        out.extend(bytes.iter().filter(|byte| usize::from(**byte) < limit).map(|byte| set[usize::from(*byte) % set.len()]));
        out.truncate(count);
    }
    made(meter, out)
}

const ALPHA: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ALPHA_NUM: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

pub(super) fn alpha(meter: &mut Meter, arguments: &[Value]) -> Answer {
    letters(meter, &arguments[0], ALPHA)
}

pub(super) fn alpha_num(meter: &mut Meter, arguments: &[Value]) -> Answer {
    letters(meter, &arguments[0], ALPHA_NUM)
}

pub(super) fn numeric(meter: &mut Meter, arguments: &[Value]) -> Answer {
    letters(meter, &arguments[0], b"0123456789")
}

pub(super) fn ascii(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let printable: Vec<u8> = (b' '..=b'~').collect();
    letters(meter, &arguments[0], &printable)
}

pub(super) fn bytes(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let count = usize::try_from(int_at(&arguments[0])).map_err(|_| "a negative count".to_owned())?;
    let bytes = random(meter, count)?;
    meter.memory(count)?;
    made(meter, STANDARD.encode(&*bytes))
}

pub(super) fn int(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (least, behind) = (int_at(&arguments[0]), int_at(&arguments[1]));
    let count = behind.checked_sub(least).filter(|count| *count > 0).ok_or("the range has no number")?;
    Ok(Value::Int(least + below(meter, count as u64)? as i64, None))
}

pub(super) fn shuffle(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(6 * text(&arguments[0]).len())?;
    let mut runes = chars(&Text::new(text(&arguments[0]).to_vec()));
    meter.steps(runes.len())?;
    for i in (1..runes.len()).rev() {
        let other = below(meter, i as u64 + 1)? as usize;
        runes.swap(i, other);
    }
    made(meter, runes.into_iter().collect::<String>())
}

pub(super) fn uuidv4(meter: &mut Meter, _: &[Value]) -> Answer {
    let mut bytes = random(meter, 16)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = super::encoding::hex(&bytes);
    made(meter, format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
