//! Encodings and sums. What can't be decoded is answered with Go's words for it, and is no error.

use super::{made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;
use aws_lc_rs::digest::{self, Algorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(super) fn b64enc(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[0]);
    meter.memory(2 * bytes.len())?;
    made(meter, STANDARD.encode(bytes))
}

/// Decodes base64 as Go does: line ends are skipped, padding must be whole; in error the offset that Go names.
pub(super) fn base64_decoded(bytes: &[u8]) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    let is_newline = |at: usize| bytes.get(at).is_some_and(|byte| matches!(byte, b'\r' | b'\n'));
    let mut at = 0;
    loop {
        let mut group = 0_u32;
        let mut count = 0;
        while count < 4 {
            let Some(&byte) = bytes.get(at) else {
                return if count == 0 { Ok(out) } else { Err(at - count) };
            };
            at += 1;
            let sextet = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'\r' | b'\n' => continue,
                b'=' => {
                    if count < 2 {
                        return Err(at - 1);
                    }
                    if count == 2 {
                        while is_newline(at) {
                            at += 1;
                        }
                        match bytes.get(at) {
                            None => return Err(bytes.len()),
                            Some(b'=') => at += 1,
                            Some(_) => return Err(at - 1),
                        }
                    }
                    while is_newline(at) {
                        at += 1;
                    }
                    if at < bytes.len() {
                        return Err(at);
                    }
                    let whole = (group << (6 * (4 - count))).to_be_bytes();
                    out.extend_from_slice(&whole[1..count]);
                    return Ok(out);
                }
                _ => return Err(at - 1),
            };
            group = group << 6 | u32::from(sextet);
            count += 1;
        }
        out.extend_from_slice(&group.to_be_bytes()[1..]);
    }
}

pub(super) fn b64dec(meter: &mut Meter, arguments: &[Value]) -> Answer {
    match base64_decoded(text(&arguments[0])) {
        Ok(bytes) => made(meter, bytes),
        Err(at) => made(meter, format!("illegal base64 data at input byte {at}")),
    }
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

pub(super) fn b32enc(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[0]);
    meter.memory(2 * bytes.len())?;
    let mut out = Vec::new();
    for chunk in bytes.chunks(5) {
        let mut group = [0; 8];
        group[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(group);
        let used = (chunk.len() * 8).div_ceil(5);
        out.extend((0..8).map(|i| if i < used { BASE32[(bits >> (35 - 5 * i)) as usize & 31] } else { b'=' }));
    }
    made(meter, out)
}

fn base32_decoded(bytes: &[u8]) -> Result<Vec<u8>, usize> {
    let source: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let (mut group, mut count, mut ended) = (0_u64, 0, false);
        while count < 8 {
            let Some(&byte) = source.get(at) else { return Err(at - count) };
            at += 1;
            let left = source.len() - at;
            if byte == b'=' && count >= 2 && left < 8 {
                if left + count < 7 {
                    return Err(source.len());
                }
                if let Some(wrong) = (0..7 - count).find(|k| source.get(at + k).is_some_and(|byte| *byte != b'=')) {
                    return Err(at + wrong - 1);
                }
                if matches!(count, 3 | 6) {
                    return Err(at - 1);
                }
                ended = true;
                break;
            }
            let Some(quintet) = BASE32.iter().position(|known| *known == byte) else { return Err(at - 1) };
            group = group << 5 | quintet as u64;
            count += 1;
        }
        let whole = (group << (5 * (8 - count))).to_be_bytes();
        out.extend_from_slice(&whole[3..3 + count * 5 / 8]);
        if ended {
            break;
        }
    }
    Ok(out)
}

pub(super) fn b32dec(meter: &mut Meter, arguments: &[Value]) -> Answer {
    match base32_decoded(text(&arguments[0])) {
        Ok(bytes) => made(meter, bytes),
        Err(at) => made(meter, format!("illegal base32 data at input byte {at}")),
    }
}

pub(super) fn hexdec(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let digits = text(&arguments[0]);
    let value = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if let Some(&wrong) = digits.iter().find(|byte| value(**byte).is_none()) {
        let shown = char::from(wrong);
        let quoted = if crate::format::is_printable(shown) { format!(" '{shown}'") } else { String::new() };
        return made(meter, format!("encoding/hex: invalid byte: U+{wrong:04X}{quoted}"));
    }
    if digits.len() % 2 == 1 {
        return made(meter, "encoding/hex: odd length hex string");
    }
    let bytes: Vec<u8> = digits.chunks(2).filter_map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect();
    made(meter, bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sum(meter: &mut Meter, algorithm: &'static Algorithm, argument: &Value) -> Answer {
    made(meter, hex(digest::digest(algorithm, text(argument)).as_ref()))
}

pub(super) fn sha1sum(meter: &mut Meter, arguments: &[Value]) -> Answer {
    sum(meter, &digest::SHA1_FOR_LEGACY_USE_ONLY, &arguments[0])
}

pub(super) fn sha256sum(meter: &mut Meter, arguments: &[Value]) -> Answer {
    sum(meter, &digest::SHA256, &arguments[0])
}

pub(super) fn sha512sum(meter: &mut Meter, arguments: &[Value]) -> Answer {
    sum(meter, &digest::SHA512, &arguments[0])
}

pub(super) fn adler32sum(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in text(&arguments[0]) {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    made(meter, (b << 16 | a).to_string())
}
