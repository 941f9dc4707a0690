//! YAML as `sigs.k8s.io/yaml` writes and reads it: by way of JSON.

use super::reflect::{NESTING, too_deep};
use super::{json, utf8};
use crate::exec::Meter;
use crate::format::{float_text, plain_float};
use crate::functions::Answer;
use crate::text::Text;
use crate::value::{Map, Type, Value};

pub(super) fn to_yaml(meter: &mut Meter, arguments: &[Value]) -> Answer {
    // What JSON can't say is nothing.
    let Value::Str(text) = json::to_json(meter, arguments)? else { return Ok(Value::from("")) };
    let value = match json::read(meter, &text.lossy()) {
        Ok(value) => value,
        Err(json::Wrong::Limit(why)) => return Err(why),
        Err(json::Wrong::Json(_)) => return Ok(Value::from("")),
    };
    let mut out = String::new();
    Writer { meter, out: &mut out }.node(&value, 0, false)?;
    Ok(Value::Str(Text::from(out.strip_suffix('\n').unwrap_or(&out))))
}

/// What ends a line in YAML.
const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// Where lines are folded.
const WIDTH: usize = 80;

struct Writer<'a> {
    meter: &'a mut Meter,
    out: &'a mut String,
}

impl Writer<'_> {
    fn indent(&mut self, depth: usize) -> Result<(), String> {
        self.meter.memory(2 * depth)?;
        self.out.extend(std::iter::repeat_n(' ', 2 * depth));
        Ok(())
    }

    /// A value and the end of its line; collections begin on the line when something is there already (`- `).
    fn node(&mut self, value: &Value, depth: usize, is_inline: bool) -> Result<(), String> {
        self.meter.steps(1)?;
        if depth > NESTING {
            return Err(too_deep());
        }
        match value {
            Value::Map(map) if !map.is_empty() => {
                let mut entries = map.entries();
                self.meter.steps(entries.len() * (entries.len().ilog2() as usize + 1))?;
                merge_sort(&mut entries, &|a, b| natural_order(&a.0.lossy(), &b.0.lossy()));
                for (i, (key, value)) in entries.iter().enumerate() {
                    if i > 0 || !is_inline {
                        self.indent(depth)?;
                    }
                    let is_simple = self.key(&key.lossy(), depth)?;
                    self.out.push(':');
                    if is_simple {
                        self.entry(value, depth)?;
                    } else {
                        self.out.push(' ');
                        self.node(value, depth + 1, true)?;
                    }
                }
            }
            Value::List(list) if !list.items().is_empty() => {
                for (i, item) in list.items().iter().enumerate() {
                    if i > 0 || !is_inline {
                        self.indent(depth)?;
                    }
                    self.out.push_str("- ");
                    self.node(item, depth + 1, true)?;
                }
            }
            Value::Str(text) => {
                self.string(&text.lossy(), depth.max(1), false)?;
                self.out.push('\n');
            }
            other => {
                self.out.push_str(&scalar(other));
                self.out.push('\n');
            }
        }
        Ok(())
    }

    /// What stands behind a key and its colon.
    fn entry(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        match value {
            Value::Map(map) if !map.is_empty() => {
                self.out.push('\n');
                self.node(value, depth + 1, false)
            }
            // Lists stand as far left as their key.
            Value::List(list) if !list.items().is_empty() => {
                self.out.push('\n');
                self.node(value, depth, false)
            }
            Value::Str(text) => {
                self.out.push(' ');
                self.string(&text.lossy(), depth + 1, false)?;
                self.out.push('\n');
                Ok(())
            }
            other => {
                self.out.push(' ');
                self.node(other, depth + 1, true)
            }
        }
    }

    /// A key; one of several lines, or a long one, has marks of its own and is not simple.
    fn key(&mut self, key: &str, depth: usize) -> Result<bool, String> {
        if key.contains(BREAKS) || key.len() > 128 {
            self.out.push_str("? ");
            self.string(key, depth + 1, false)?;
            self.out.push('\n');
            self.indent(depth)?;
            return Ok(false);
        }
        self.string(key, depth + 1, true)?;
        Ok(true)
    }

    fn string(&mut self, text: &str, depth: usize, is_key: bool) -> Result<(), String> {
        self.meter.memory(4 * text.len())?;
        match style(text, is_key) {
            Style::Plain => self.folded(text, depth, is_key)?,
            Style::Single => {
                self.out.push('\'');
                self.folded(&text.replace('\'', "''"), depth, is_key)?;
                self.out.push('\'');
            }
            Style::Double => self.double(text, depth, is_key)?,
            Style::Literal => self.literal(text, depth)?,
        }
        Ok(())
    }

    fn column(&self) -> usize {
        self.out.rsplit('\n').next().unwrap_or_default().chars().count()
    }

    /// A text whose lines end at the first blank behind the eightieth column.
    fn folded(&mut self, text: &str, depth: usize, is_key: bool) -> Result<(), String> {
        let mut column = self.column();
        let mut after_blank = false;
        let mut runes = text.char_indices().peekable();
        while let Some((at, rune)) = runes.next() {
            let is_inside = at > 0 && runes.peek().is_some_and(|(_, next)| *next != ' ');
            if rune == ' ' && !is_key && !after_blank && column > WIDTH && is_inside {
                self.out.push('\n');
                self.indent(depth)?;
                column = 2 * depth;
            } else {
                self.out.push(rune);
                column += 1;
            }
            after_blank = rune == ' ';
        }
        Ok(())
    }

    fn double(&mut self, text: &str, depth: usize, is_key: bool) -> Result<(), String> {
        self.out.push('"');
        let mut column = self.column();
        let mut after_blank = false;
        let mut runes = text.char_indices().peekable();
        while let Some((at, rune)) = runes.next() {
            let next = runes.peek().map(|(_, next)| *next);
            if rune == ' ' && !is_key && !after_blank && column > WIDTH && at > 0 && next.is_some() {
                self.out.push('\n');
                self.indent(depth)?;
                column = 2 * depth;
                if next == Some(' ') {
                    self.out.push('\\');
                    column += 1;
                }
                after_blank = true;
                continue;
            }
            after_blank = rune == ' ';
            let before = self.out.len();
            let short = match rune {
                '\0' => "\\0",
                '\x07' => "\\a",
                '\x08' => "\\b",
                '\t' => "\\t",
                '\n' => "\\n",
                '\x0b' => "\\v",
                '\x0c' => "\\f",
                '\r' => "\\r",
                '\x1b' => "\\e",
                '"' => "\\\"",
                '\\' => "\\\\",
                '\u{85}' => "\\N",
                '\u{2028}' => "\\L",
                '\u{2029}' => "\\P",
                _ => "",
            };
            match u32::from(rune) {
                _ if !short.is_empty() => self.out.push_str(short),
                _ if is_printable(rune) && rune != '\u{feff}' => self.out.push(rune),
                code @ ..=0xff => self.out.push_str(&format!("\\x{code:02X}")),
                code @ ..=0xffff => self.out.push_str(&format!("\\u{code:04X}")),
                code => self.out.push_str(&format!("\\U{code:08X}")),
            }
            column += self.out[before..].chars().count();
        }
        self.out.push('"');
        Ok(())
    }

    fn literal(&mut self, text: &str, depth: usize) -> Result<(), String> {
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push('2');
        }
        let lines = text.strip_suffix('\n').unwrap_or(text);
        match (text.ends_with('\n'), lines.ends_with('\n') || lines.is_empty()) {
            (false, _) => self.out.push('-'),
            (true, true) => self.out.push('+'),
            (true, false) => {}
        }
        for line in lines.split('\n') {
            self.out.push('\n');
            if !line.is_empty() {
                self.indent(depth)?;
                self.out.push_str(line);
            }
        }
        Ok(())
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Float(float) if float.fract() == 0.0 && (-(2_f64.powi(63))..2_f64.powi(64)).contains(float) => plain_float(*float),
        Value::Float(float) => {
            let sign = if *float < 0.0 { "-" } else { "" };
            format!("{sign}{}", float_text(float.abs(), 'g', None))
        }
        Value::List(_) => "[]".into(),
        Value::Map(_) => "{}".into(),
        _ => "null".into(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

fn is_printable(rune: char) -> bool {
    matches!(rune, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && rune != '\u{feff}'
}

fn style(text: &str, is_key: bool) -> Style {
    if text.is_empty() || means_another_type(text) {
        return Style::Double;
    }
    if text.chars().any(|rune| !is_printable(rune)) {
        return Style::Double;
    }
    let has_blank_end = BREAKS.iter().any(|newline| text.contains(&format!(" {newline}")));
    if text.contains('\n') {
        return if is_key || has_blank_end || text.ends_with(' ') { Style::Double } else { Style::Literal };
    }
    if is_plain(text) {
        return Style::Plain;
    }
    let has_blank_start = BREAKS.iter().any(|newline| text.contains(&format!("{newline} ")));
    if has_blank_end || has_blank_start { Style::Double } else { Style::Single }
}

/// Whether a plain text would be read as the text that it is.
fn is_plain(text: &str) -> bool {
    let runes: Vec<char> = text.chars().collect();
    let (first, last) = (runes[0], runes[runes.len() - 1]);
    if first == ' ' || last == ' ' || text.starts_with("---") || text.starts_with("...") {
        return false;
    }
    let blank_behind =
        |i: usize| runes.get(i + 1).is_none_or(|rune| matches!(rune, ' ' | '\n' | '\t' | '\u{85}' | '\u{2028}' | '\u{2029}'));
    runes.iter().enumerate().all(|(i, rune)| match rune {
        '#' if i == 0 => false,
        ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if i == 0 => false,
        '?' | '-' if i == 0 => !blank_behind(0),
        ':' => !blank_behind(i),
        '#' => runes[i - 1] != ' ',
        '\n' | '\u{85}' | '\u{2028}' | '\u{2029}' => false,
        _ => true,
    })
}

/// YAML 1.1's other types: a text of this form must be quoted.
fn means_another_type(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF", "true", "True", "TRUE",
        "false", "False", "FALSE", "~", "null", "Null", "NULL", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf",
        "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return false;
    }
    let plain = text.replace('_', "");
    crate::number::parse_int(&plain).is_some()
        || crate::number::parse_uint(&plain).is_some()
        || is_float(&plain)
        || is_binary(&plain)
        || is_sexagesimal(text)
        || is_date(text)
}

fn is_binary(text: &str) -> bool {
    let digits = text.strip_prefix("-0b").or_else(|| text.strip_prefix("0b"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| matches!(byte, b'0' | b'1')))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        None => (text, "0"),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let some = if whole.is_empty() { !part.is_empty() } else { true };
    some && digits(whole) && digits(part) && !exponent.is_empty() && digits(exponent)
}

/// Numbers to the base of sixty, which other readers of YAML 1.1 know: `1:30`.
fn is_sexagesimal(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let Some((first, rest)) = text.split_once(':') else { return false };
    let first_is_sound =
        first.starts_with(|c: char| c.is_ascii_digit()) && first.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let (rest, part) = rest.split_once('.').unwrap_or((rest, ""));
    let group = |group: &str| {
        let digits = group.as_bytes();
        match digits {
            [one] => one.is_ascii_digit(),
            [tens, one] => (b'0'..=b'5').contains(tens) && one.is_ascii_digit(),
            _ => false,
        }
    };
    first_is_sound && rest.split(':').all(group) && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}

/// Dates and times of YAML's own form.
fn is_date(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits != 4 || !text[4..].starts_with('-') {
        return false;
    }
    ["2006-1-2T15:4:5.999999999Z07:00", "2006-1-2t15:4:5.999999999Z07:00", "2006-1-2 15:4:5.999999999", "2006-1-2"]
        .iter()
        .any(|layout| super::dates::parse(layout, text).is_some())
}

/// Sorts by an order that need not be one: the standard library's sorts may panic then.
fn merge_sort<T: Clone>(items: &mut [T], order: &dyn Fn(&T, &T) -> std::cmp::Ordering) {
    let middle = items.len() / 2;
    if middle == 0 {
        return;
    }
    merge_sort(&mut items[..middle], order);
    merge_sort(&mut items[middle..], order);
    let (left, right) = (items[..middle].to_vec(), items[middle..].to_vec());
    let (mut i, mut j) = (0, 0);
    for place in items.iter_mut() {
        let takes_right = i == left.len() || (j < right.len() && order(&right[j], &left[i]).is_lt());
        let next = if takes_right { &right[j] } else { &left[i] };
        *place = next.clone();
        (i, j) = if takes_right { (i, j + 1) } else { (i + 1, j) };
    }
}

/// How the library orders keys: numbers in them by their size, letters behind what is none.
fn natural_order(a: &str, b: &str) -> std::cmp::Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for i in 0..left.len().min(right.len()) {
        let (x, y) = (left[i], right[i]);
        if x == y {
            continue;
        }
        let (x_is_letter, y_is_letter) = (x.is_alphabetic(), y.is_alphabetic());
        if x_is_letter && y_is_letter {
            return x.cmp(&y);
        }
        if x_is_letter || y_is_letter {
            return if y_is_letter { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
        }
        let number = |runes: &[char], behind: usize| {
            let mut value = 0_i64;
            let mut at = behind;
            while at < runes.len() && runes[at].is_ascii_digit() {
                value = value.wrapping_mul(10).wrapping_add(i64::from(u32::from(runes[at]) - 48));
                at += 1;
            }
            (value, at)
        };
        let mut from = i;
        if x == '0' || y == '0' {
            // Zeros before a number: look back for another digit.
            let mut j = i;
            while j > 0 && left[j - 1].is_ascii_digit() {
                j -= 1;
                if left[j] != '0' {
                    from = j;
                    break;
                }
            }
        }
        let ((x_number, x_end), (y_number, y_end)) = (number(&left, from), number(&right, from));
        return x_number.cmp(&y_number).then(x_end.cmp(&y_end)).then(x.cmp(&y));
    }
    left.len().cmp(&right.len())
}

/// Go names the line and quotes the text, which may be secret.
const NO_MAP: &str = "the text is no map in YAML";

/// YAML as a map; what can't be read is said under `Error`.
pub(super) fn from_yaml(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let text = utf8(&arguments[0]);
    meter.steps(text.len() / 8)?;
    meter.memory(8 * text.len())?;
    let empty = |entries| Ok(Value::Map(Map::new(entries, Type::Any)));
    let budget = serde_saphyr::budget! { max_total_scalar_bytes: 8 << 20, max_nodes: 100_000 };
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false, budget: budget };
    let read: Result<serde_json::Value, _> = serde_saphyr::from_str_with_options(&text, options);
    let read = match read {
        Ok(serde_json::Value::Null) => return empty(Default::default()),
        Ok(value) => value.to_string(),
        Err(_) => return empty([(Text::from("Error"), Value::from(NO_MAP))].into()),
    };
    match json::read(meter, &read) {
        Ok(map @ Value::Map(_)) => Ok(map),
        Err(json::Wrong::Limit(why)) => Err(why),
        _ => empty([(Text::from("Error"), Value::from(NO_MAP))].into()),
    }
}
