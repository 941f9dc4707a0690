//! camelCase, snake_case and kebab-case, as the library `xstrings` tells words apart.

use super::strings::{to_lower, to_upper};
use super::texts::{chars, is_letter, is_upper};
use super::{made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::regexp::is_in;
use crate::text::Text;
use crate::value::Value;

fn is_connector(rune: char) -> bool {
    rune == '-' || rune == '_' || rune.is_whitespace()
}

fn is_punctuation(rune: char) -> bool {
    if rune.is_ascii() { r##"!"#%&'()*,-./:;?@[\]_{}"##.contains(rune) } else { is_in(rune, r"\p{P}") }
}

fn is_number(rune: char) -> bool {
    if rune.is_ascii() { rune.is_ascii_digit() } else { rune.is_numeric() }
}

fn is_alphabet(rune: char) -> bool {
    // The library takes ideographs for something else.
    let is_ideograph = matches!(rune, '\u{3400}'..='\u{4d85}' | '\u{4e00}'..='\u{9fcc}' | '\u{20000}'..='\u{2b81d}');
    if rune.is_ascii() { rune.is_ascii_alphabetic() } else { !is_ideograph && is_letter(rune) }
}

pub(super) fn camelcase(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(8 * text(&arguments[0]).len())?;
    let runes = chars(&Text::new(text(&arguments[0]).to_vec()));
    let Some(start) = runes.iter().position(|rune| !is_connector(*rune)) else {
        // What is connectors alone has its last one twice.
        return made(meter, runes.iter().chain(runes.last()).collect::<String>());
    };
    let mut camel: String = runes[..start].iter().collect();
    let mut first_upper = is_upper(runes[start]);
    let mut current = to_upper(runes[start]);
    for &next in &runes[start + 1..] {
        let before = std::mem::replace(&mut current, next);
        if is_connector(current) && is_connector(before) {
            camel.push(before);
        } else if is_connector(before) {
            first_upper = is_upper(current);
            current = to_upper(current);
        } else {
            if first_upper {
                if is_upper(current) {
                    current = to_lower(current);
                } else {
                    first_upper = false;
                }
            }
            camel.push(before);
        }
    }
    camel.push(current);
    made(meter, camel)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Number,
    Upper,
    Alphabet,
    Connector,
    Punctuation,
    Other,
}

/// The next word and what is behind it.
fn next_word(runes: &[char]) -> (Kind, &[char], &[char]) {
    let Some(&first) = runes.first() else { return (Kind::Nothing, runes, runes) };
    let while_is = |from: usize, is: &dyn Fn(char) -> bool| {
        runes[from..].iter().position(|rune| !is(*rune)).map_or(runes.len(), |length| from + length)
    };
    let lower = |rune: char| is_alphabet(rune) && !is_upper(rune);
    let (kind, end) = if is_connector(first) {
        (Kind::Connector, while_is(1, &is_connector))
    } else if is_punctuation(first) {
        (Kind::Punctuation, while_is(1, &is_punctuation))
    } else if is_upper(first) {
        let end = match runes.get(1) {
            Some(&second) if is_upper(second) => {
                let end = while_is(2, &is_upper);
                // The last capital begins the next word.
                if runes.get(end).is_some_and(|rune| is_alphabet(*rune)) { end - 1 } else { end }
            }
            Some(&second) if is_alphabet(second) => while_is(2, &lower),
            _ => 1,
        };
        (Kind::Upper, end)
    } else if is_alphabet(first) {
        (Kind::Alphabet, while_is(1, &lower))
    } else if is_number(first) {
        (Kind::Number, while_is(1, &is_number))
    } else {
        let other = |rune: char| !is_connector(rune) && !is_alphabet(rune) && !is_number(rune) && !is_punctuation(rune);
        (Kind::Other, while_is(1, &other))
    };
    (kind, &runes[..end], &runes[end..])
}

fn write_lower(out: &mut String, kind: Kind, word: &[char], connector: char) {
    for &rune in word {
        out.push(match kind {
            Kind::Upper | Kind::Connector if is_connector(rune) => connector,
            Kind::Upper | Kind::Connector if is_upper(rune) => to_lower(rune),
            _ => rune,
        });
    }
}

fn connected(bytes: &[u8], connector: char) -> String {
    let runes = chars(&Text::new(bytes.to_vec()));
    let mut out = String::new();
    let (mut kind, mut word, mut rest) = next_word(&runes);
    let joins = |kind: Kind| !matches!(kind, Kind::Nothing | Kind::Punctuation | Kind::Connector);
    while !rest.is_empty() {
        if kind != Kind::Connector {
            write_lower(&mut out, kind, word, connector);
        }
        let (previous, last) = (kind, word);
        (kind, word, rest) = next_word(rest);
        match previous {
            Kind::Number => {
                while matches!(kind, Kind::Alphabet | Kind::Number) {
                    write_lower(&mut out, kind, word, connector);
                    (kind, word, rest) = next_word(rest);
                }
                if joins(kind) {
                    out.push(connector);
                }
            }
            Kind::Connector => write_lower(&mut out, previous, last, connector),
            Kind::Punctuation => {}
            _ if kind != Kind::Number => {
                if !matches!(kind, Kind::Connector | Kind::Punctuation) {
                    out.push(connector);
                }
            }
            _ if rest.is_empty() => {}
            _ => {
                let number = word;
                (kind, word, rest) = next_word(rest);
                if kind != Kind::Alphabet {
                    write_lower(&mut out, Kind::Number, number, connector);
                    if !matches!(kind, Kind::Connector | Kind::Punctuation) {
                        out.push(connector);
                    }
                } else {
                    out.push(connector);
                    write_lower(&mut out, Kind::Number, number, connector);
                    while matches!(kind, Kind::Alphabet | Kind::Number) {
                        write_lower(&mut out, kind, word, connector);
                        (kind, word, rest) = next_word(rest);
                    }
                    if joins(kind) {
                        out.push(connector);
                    }
                }
            }
        }
    }
    write_lower(&mut out, kind, word, connector);
    out
}

pub(super) fn snakecase(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(8 * text(&arguments[0]).len())?;
    made(meter, connected(text(&arguments[0]), '_'))
}

pub(super) fn kebabcase(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(8 * text(&arguments[0]).len())?;
    made(meter, connected(text(&arguments[0]), '-'))
}
