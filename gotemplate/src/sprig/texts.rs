//! Words: titles, initials, abbreviations, lines that are wrapped.

use super::strings::{map_runes, to_lower, to_title, to_upper};
use super::{int, made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::text::{Text, runes};
use crate::value::Value;

/// Where a word ends for `strings.Title`.
fn is_separator(rune: char) -> bool {
    match rune {
        '0'..='9' | 'a'..='z' | 'A'..='Z' | '_' => false,
        _ if rune.is_ascii() => true,
        _ => !is_letter(rune) && !is_digit(rune) && rune.is_whitespace(),
    }
}

/// `unicode.IsLetter`, which is narrower than what Rust calls alphabetic.
pub(super) fn is_letter(rune: char) -> bool {
    rune.is_alphabetic() && !crate::regexp::is_in(rune, r"[\p{Alphabetic}--\p{L}]")
}

/// `unicode.IsDigit`
fn is_digit(rune: char) -> bool {
    rune.is_numeric() && crate::regexp::is_in(rune, r"\p{Nd}")
}

pub(super) fn title(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let before = std::cell::Cell::new(' ');
    let titled = map_runes(text(&arguments[0]), |rune| {
        let starts = is_separator(before.replace(rune));
        if starts { to_title(rune) } else { rune }
    });
    made(meter, titled)
}

pub(super) fn untitle(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let next = std::cell::Cell::new(true);
    let changed = map_runes(text(&arguments[0]), |rune| {
        if rune.is_whitespace() {
            next.set(true);
            rune
        } else if next.replace(false) {
            to_lower(rune)
        } else {
            rune
        }
    });
    made(meter, changed)
}

pub(super) fn swapcase(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let blank = std::cell::Cell::new(true);
    let swapped = map_runes(text(&arguments[0]), |rune| {
        let is_title = matches!(rune, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}');
        if is_upper(rune) || is_title || crate::regexp::is_in(rune, r"\p{Lt}") {
            blank.set(false);
            to_lower(rune)
        } else if is_lower(rune) {
            if blank.replace(false) { to_title(rune) } else { to_upper(rune) }
        } else {
            blank.set(rune.is_whitespace());
            rune
        }
    });
    made(meter, swapped)
}

/// `unicode.IsUpper`: the category Lu.
pub(super) fn is_upper(rune: char) -> bool {
    if rune.is_ascii() { rune.is_ascii_uppercase() } else { rune.is_uppercase() && crate::regexp::is_in(rune, r"\p{Lu}") }
}

/// `unicode.IsLower`: the category Ll.
fn is_lower(rune: char) -> bool {
    if rune.is_ascii() { rune.is_ascii_lowercase() } else { rune.is_lowercase() && crate::regexp::is_in(rune, r"\p{Ll}") }
}

/// These two go byte by byte in Sprig, and take each for a rune.
fn bytes_as_runes(bytes: &[u8]) -> impl Iterator<Item = char> + '_ {
    bytes.iter().map(|byte| char::from(*byte))
}

pub(super) fn nospace(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[0]);
    let kept: String = bytes_as_runes(bytes).filter(|rune| !rune.is_whitespace()).collect();
    if kept.chars().count() == bytes.len() {
        return Ok(arguments[0].clone());
    }
    made(meter, kept)
}

pub(super) fn initials(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let mut gap = true;
    let mut initials = String::new();
    for rune in bytes_as_runes(text(&arguments[0])) {
        let is_blank = rune.is_whitespace();
        if !is_blank && gap {
            initials.push(rune);
        }
        gap = is_blank;
    }
    made(meter, initials)
}

/// Cuts a text to a width with three points, from an offset on.
fn abbreviated(bytes: &[u8], offset: i64, width: i64) -> Vec<u8> {
    let length = bytes.len() as i64;
    if bytes.is_empty() || width < 4 {
        return Vec::new();
    }
    if length <= width {
        return bytes.to_vec();
    }
    let offset = offset.clamp(0, length);
    let offset = if length - offset < width - 3 { length - (width - 3) } else { offset };
    let slice = |from: i64, to: i64| &bytes[from as usize..to as usize];
    if offset <= 4 {
        return [slice(0, width - 3), b"..."].concat();
    }
    if width < 7 {
        return Vec::new();
    }
    if offset + width - 3 < length {
        return [b"...", &abbreviated(slice(offset, length), 0, width - 3)[..]].concat();
    }
    [b"...", slice(length - (width - 3), length)].concat()
}

pub(super) fn abbrev(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let width = int(&arguments[0]);
    if width < 4 {
        return Ok(arguments[1].clone());
    }
    made(meter, abbreviated(text(&arguments[1]), 0, width))
}

pub(super) fn abbrevboth(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (left, right) = (int(&arguments[0]), int(&arguments[1]));
    if right < 4 || (left > 0 && right < 7) {
        return Ok(arguments[2].clone());
    }
    made(meter, abbreviated(text(&arguments[2]), left, right))
}

/// Lines of at most a width; a word that is longer is cut, or stays whole.
fn wrapped(meter: &mut Meter, bytes: &[u8], width: i64, newline: &[u8], cut_long: bool) -> Answer {
    let newline = if newline.is_empty() { b"\n" } else { newline };
    let width = usize::try_from(width).unwrap_or(0).max(1);
    let mut lines = Vec::new();
    let mut at = 0;
    while bytes.len() - at > width {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        meter.steps(1)?;
        meter.memory(newline.len())?;
        let end = if let Some(blank) = bytes[at..=at + width].iter().rposition(|byte| *byte == b' ') {
            (at + blank, at + blank + 1)
        } else if cut_long {
            (at + width, at + width)
        } else if let Some(blank) = bytes[at + width..].iter().position(|byte| *byte == b' ') {
            (at + width + blank, at + width + blank + 1)
        } else {
            break;
        };
        lines.push(&bytes[at..end.0]);
        at = end.1;
    }
    lines.push(&bytes[at..]);
    made(meter, lines.join(newline))
}

pub(super) fn wrap(meter: &mut Meter, arguments: &[Value]) -> Answer {
    wrapped(meter, text(&arguments[1]), int(&arguments[0]), b"", false)
}

pub(super) fn wrap_with(meter: &mut Meter, arguments: &[Value]) -> Answer {
    wrapped(meter, text(&arguments[2]), int(&arguments[0]), text(&arguments[1]), true)
}

/// The runes of a text, for the functions that look at neighbours.
pub(super) fn chars(text: &Text) -> Vec<char> {
    runes(text.bytes()).map(|(_, rune, _)| rune).collect()
}
