//! How Go prints values: `fmt`'s Print family and its verbs.

use crate::exec::Meter;
use crate::text::runes;
use crate::value::{List, Map, Type, Value};

/// How deep values may be nested to be printed.
const NESTING: usize = 100;
/// Largest width and precision, as in Go.
const WIDEST: usize = 1_000_000;

type Done = Result<(), String>;

/// What a template prints for an action.
pub(crate) fn print_top(meter: &mut Meter, out: &mut Vec<u8>, value: &Value) -> Done {
    match value {
        Value::Nil => out.extend(b"<no value>"),
        Value::Str(text) => out.extend_from_slice(text.bytes()),
        other => Printer::new(meter, out).value(other, 'v', 0)?,
    }
    Ok(())
}

/// `fmt.Sprint`: a blank between operands when neither is a string.
pub(crate) fn sprint(meter: &mut Meter, values: &[Value]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 && !matches!((&values[i - 1], value), (Value::Str(_), _) | (_, Value::Str(_))) {
            out.push(b' ');
        }
        Printer::new(meter, &mut out).value(value, 'v', 0)?;
    }
    Ok(out)
}

/// `fmt.Sprintln`.
pub(crate) fn sprintln(meter: &mut Meter, values: &[Value]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        Printer::new(meter, &mut out).value(value, 'v', 0)?;
    }
    out.push(b'\n');
    Ok(out)
}

/// Go's `unicode.IsPrint`, as nearly as Rust's own escaping knows it.
pub(crate) fn is_printable(rune: char) -> bool {
    rune == ' '
        || (!rune.is_control() && !rune.is_whitespace() && !matches!(rune.escape_debug().next(), Some('\\')))
        || matches!(rune, '\'' | '"' | '\\')
}

#[derive(Clone, Copy, Default)]
struct Flags {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    /// `%+v`
    plus_v: bool,
    /// `%#v`
    sharp_v: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

struct Printer<'a> {
    meter: &'a mut Meter,
    out: &'a mut Vec<u8>,
    flags: Flags,
}

impl<'a> Printer<'a> {
    fn new(meter: &'a mut Meter, out: &'a mut Vec<u8>) -> Self {
        Self { meter, out, flags: Flags::default() }
    }

    fn raw(&mut self, bytes: &[u8]) -> Done {
        self.meter.memory(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes something as wide as is wanted; a width counts runes.
    fn pad(&mut self, bytes: &[u8]) -> Done {
        let Some(width) = self.flags.width else { return self.raw(bytes) };
        let missing = width.saturating_sub(runes(bytes).count());
        self.meter.memory(missing)?;
        let fill = |out: &mut Vec<u8>, with: u8| out.resize(out.len() + missing, with);
        if self.flags.minus {
            self.raw(bytes)?;
            fill(self.out, b' ');
            return Ok(());
        }
        fill(self.out, if self.flags.zero { b'0' } else { b' ' });
        self.raw(bytes)
    }

    fn bad_verb(&mut self, value: &Value, verb: char, depth: usize) -> Done {
        self.raw(format!("%!{verb}(").as_bytes())?;
        match value.type_of() {
            None => self.raw(b"<nil>")?,
            Some(of) => {
                self.raw(format!("{of}=").as_bytes())?;
                self.value(value, 'v', depth)?;
            }
        }
        self.raw(b")")
    }

    fn value(&mut self, value: &Value, verb: char, depth: usize) -> Done {
        self.meter.steps(1)?;
        if depth > NESTING {
            return Err(format!("a value is nested deeper than {NESTING} levels"));
        }
        match (value, verb) {
            (Value::Nil, 'T' | 'v') if depth == 0 => self.pad(b"<nil>"),
            (Value::Nil, _) if depth > 0 => self.raw(if self.flags.sharp_v { b"interface {}(nil)" } else { b"<nil>" }),
            (value, 'T') if depth == 0 => {
                let name = value.type_name();
                self.string(name.as_bytes(), 's')
            }
            (Value::Bool(value), 't' | 'v') => self.pad(if *value { b"true" } else { b"false" }),
            (Value::Int(int, _), 'v' | 'd' | 'b' | 'o' | 'O' | 'x' | 'X' | 'c' | 'q' | 'U') => {
                self.integer(int.unsigned_abs(), *int < 0, true, verb)
            }
            (Value::Uint(uint, _), 'v' | 'd' | 'b' | 'o' | 'O' | 'x' | 'X' | 'c' | 'q' | 'U') => {
                self.integer(*uint, false, false, verb)
            }
            (Value::Float(float), 'v' | 'b' | 'g' | 'G' | 'x' | 'X' | 'f' | 'F' | 'e' | 'E') => self.float(*float, verb),
            (Value::Complex(real, imaginary), 'v' | 'b' | 'g' | 'G' | 'x' | 'X' | 'f' | 'F' | 'e' | 'E') => {
                let plus = self.flags.plus;
                self.raw(b"(")?;
                self.float(*real, verb)?;
                self.flags.plus = true;
                self.float(*imaginary, verb)?;
                self.flags.plus = plus;
                self.raw(b"i)")
            }
            (Value::Str(text), 'v' | 's' | 'x' | 'X' | 'q') => self.string(text.bytes(), verb),
            // `%w` is for errors that are wrapped, and no verb of anything; an address means nothing here.
            (Value::List(_) | Value::Map(_), 'w' | 'p') if depth == 0 => self.bad_verb(value, verb, depth),
            (Value::List(list), _) => self.list(list, verb, depth),
            (Value::Map(map), _) => self.map(map, verb, depth),
            _ => self.bad_verb(value, verb, depth),
        }
    }

    fn list(&mut self, list: &List, verb: char, depth: usize) -> Done {
        if *list.of() == Type::Uint(Some(8)) && matches!(verb, 's' | 'q' | 'x' | 'X') {
            let bytes: Vec<u8> =
                list.items().iter().map(|v| if let Value::Uint(byte, _) = v { *byte as u8 } else { 0 }).collect();
            return self.string(&bytes, verb);
        }
        let (open, close, between) = match self.flags.sharp_v {
            true => (format!("[]{}{{", list.of()), "}", ", "),
            false => ("[".to_owned(), "]", " "),
        };
        self.raw(open.as_bytes())?;
        for (i, item) in list.items().iter().enumerate() {
            if i > 0 {
                self.raw(between.as_bytes())?;
            }
            self.value(item, verb, depth + 1)?;
        }
        self.raw(close.as_bytes())
    }

    fn map(&mut self, map: &Map, verb: char, depth: usize) -> Done {
        let (open, close, between) = match self.flags.sharp_v {
            true => (format!("map[string]{}{{", map.of()), "}", ", "),
            false => ("map[".to_owned(), "]", " "),
        };
        self.raw(open.as_bytes())?;
        for (i, (key, item)) in map.entries().iter().enumerate() {
            if i > 0 {
                self.raw(between.as_bytes())?;
            }
            self.value(&Value::Str(key.clone()), verb, depth + 1)?;
            self.raw(b":")?;
            self.value(item, verb, depth + 1)?;
        }
        self.raw(close.as_bytes())
    }

    fn string(&mut self, bytes: &[u8], verb: char) -> Done {
        let cut = match self.flags.precision {
            Some(precision) if !matches!(verb, 'x' | 'X') => {
                let end = runes(bytes).nth(precision).map_or(bytes.len(), |(at, ..)| at);
                &bytes[..end]
            }
            _ => bytes,
        };
        match verb {
            'x' | 'X' => self.hex(bytes, verb),
            'q' => self.quoted(cut),
            'v' if self.flags.sharp_v => self.quoted(cut),
            _ => self.pad(cut),
        }
    }

    fn hex(&mut self, bytes: &[u8], verb: char) -> Done {
        let bytes = &bytes[..self.flags.precision.map_or(bytes.len(), |p| p.min(bytes.len()))];
        self.meter.memory(5 * bytes.len())?;
        let prefix = if verb == 'x' { "0x" } else { "0X" };
        let mut text = String::new();
        for (i, byte) in bytes.iter().enumerate() {
            if self.flags.space && i > 0 {
                text.push(' ');
            }
            if self.flags.sharp && (self.flags.space || i == 0) {
                text.push_str(prefix);
            }
            text.push_str(&if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") });
        }
        self.pad(text.as_bytes())
    }

    fn quoted(&mut self, bytes: &[u8]) -> Done {
        self.meter.memory(10 * bytes.len())?;
        let plain = |c: char| c != '`' && c != '\u{feff}' && (c == '\t' || !c.is_control());
        let text = std::str::from_utf8(bytes).ok().filter(|text| self.flags.sharp && text.chars().all(plain));
        let quoted = match text {
            Some(text) => format!("`{text}`"),
            None => quote(bytes, '"', self.flags.plus),
        };
        self.pad(quoted.as_bytes())
    }

    fn integer(&mut self, magnitude: u64, negative: bool, signed: bool, verb: char) -> Done {
        let verb = match verb {
            'v' if self.flags.sharp_v && !signed => return self.number(magnitude, negative, 16, 'v', true),
            'v' => 'd',
            other => other,
        };
        match verb {
            'd' => self.number(magnitude, negative, 10, verb, self.flags.sharp),
            'b' => self.number(magnitude, negative, 2, verb, self.flags.sharp),
            'o' | 'O' => self.number(magnitude, negative, 8, verb, self.flags.sharp),
            'x' | 'X' => self.number(magnitude, negative, 16, verb, self.flags.sharp),
            'c' => {
                let rune = rune_of(magnitude, negative);
                self.pad(rune.encode_utf8(&mut [0; 4]).as_bytes())
            }
            'q' => {
                let rune = rune_of(magnitude, negative);
                let quoted = quote(rune.encode_utf8(&mut [0; 4]).as_bytes(), '\'', self.flags.plus);
                self.pad(quoted.as_bytes())
            }
            _ => self.unicode(if negative { magnitude.wrapping_neg() } else { magnitude }),
        }
    }

    /// `%U`: U+0041, with `#` the character behind it.
    fn unicode(&mut self, code: u64) -> Done {
        let digits = self.flags.precision.unwrap_or(4).max(4);
        self.meter.memory(digits)?;
        let code_text = format!("{code:X}");
        let mut text = format!("U+{}{code_text}", "0".repeat(digits.saturating_sub(code_text.len())));
        if self.flags.sharp
            && let Some(rune) = u32::try_from(code).ok().and_then(char::from_u32).filter(|rune| is_printable(*rune))
        {
            text.push_str(&format!(" '{rune}'"));
        }
        let zero = std::mem::take(&mut self.flags.zero);
        self.pad(text.as_bytes())?;
        self.flags.zero = zero;
        Ok(())
    }

    fn number(&mut self, magnitude: u64, negative: bool, base: u32, verb: char, sharp: bool) -> Done {
        let flags = self.flags;
        if flags.precision == Some(0) && magnitude == 0 {
            let width = flags.width.unwrap_or(0);
            self.meter.memory(width)?;
            self.out.resize(self.out.len() + width, b' ');
            return Ok(());
        }
        let mut digits = match base {
            2 => format!("{magnitude:b}"),
            8 => format!("{magnitude:o}"),
            16 if verb == 'X' => format!("{magnitude:X}"),
            16 => format!("{magnitude:x}"),
            _ => magnitude.to_string(),
        };
        let signed = negative || flags.plus || flags.space;
        let least = match (flags.precision, flags.width) {
            (Some(precision), _) => precision,
            // Zeros go between the sign and the digits.
            (None, Some(width)) if flags.zero && !flags.minus => width - usize::from(signed && width > 0),
            _ => 0,
        };
        self.meter.memory(least)?;
        if digits.len() < least {
            digits.insert_str(0, &"0".repeat(least - digits.len()));
        }
        if sharp {
            match base {
                2 => digits.insert_str(0, "0b"),
                8 if !digits.starts_with('0') => digits.insert(0, '0'),
                16 => digits.insert_str(0, if verb == 'X' { "0X" } else { "0x" }),
                _ => {}
            }
        }
        if verb == 'O' {
            digits.insert_str(0, "0o");
        }
        if negative {
            digits.insert(0, '-');
        } else if flags.plus {
            digits.insert(0, '+');
        } else if flags.space {
            digits.insert(0, ' ');
        }
        self.flags.zero = false;
        self.pad(digits.as_bytes())?;
        self.flags.zero = flags.zero;
        Ok(())
    }

    fn float(&mut self, float: f64, verb: char) -> Done {
        let flags = self.flags;
        let (letter, precision) = match verb {
            'v' => ('g', flags.precision),
            'F' => ('f', flags.precision.or(Some(6))),
            'f' | 'e' | 'E' => (verb, flags.precision.or(Some(6))),
            other => (other, flags.precision),
        };
        self.meter.memory(precision.unwrap_or(0))?;
        let mut text = float_text(float.abs(), letter, precision);
        if flags.sharp && letter != 'b' && float.is_finite() {
            text = with_point(&text, letter, precision);
        }
        let negative = float.is_sign_negative() && !float.is_nan();
        let sign = match (negative, flags.plus, flags.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (.., true) => " ",
            _ => "",
        };
        self.meter.memory(text.len())?;
        if flags.zero && !flags.minus && float.is_finite() {
            let missing = flags.width.unwrap_or(0).saturating_sub(text.len() + sign.len());
            self.meter.memory(missing)?;
            let padded = format!("{sign}{}{text}", "0".repeat(missing));
            return self.raw(padded.as_bytes());
        }
        // Infinity and what is no number are no digits to put zeros before.
        self.flags.zero = false;
        self.pad(format!("{sign}{text}").as_bytes())?;
        self.flags.zero = flags.zero;
        Ok(())
    }
}

fn rune_of(magnitude: u64, negative: bool) -> char {
    let code = u32::try_from(magnitude).ok().filter(|_| !negative);
    code.and_then(char::from_u32).unwrap_or('\u{fffd}')
}

/// Go's `strconv.Quote`, or with `ascii` its `QuoteToASCII`.
pub(crate) fn quote(bytes: &[u8], mark: char, ascii: bool) -> String {
    let mut text = String::from(mark);
    for (at, rune, length) in runes(bytes) {
        if rune == '\u{fffd}' && length == 1 {
            text.push_str(&format!("\\x{:02x}", bytes[at]));
            continue;
        }
        match rune {
            c if c == mark || c == '\\' => text.extend(['\\', c]),
            c if c.is_ascii() && !c.is_ascii_control() => text.push(c),
            c if !c.is_ascii() && !ascii && is_printable(c) => text.push(c),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{b}' => text.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x10000 => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    text.push(mark);
    text
}

/// Behind so many digits of a float64 there are only zeros; Rust's own formatting takes no more than 65,535.
const EXACT: usize = 1_100;

/// Digits without point or leading zeros, and where the point is: `0.ddd * 10^point`.
fn decimal(float: f64, digits: Option<usize>) -> (String, i32) {
    if float == 0.0 {
        return ("0".repeat(digits.unwrap_or(1).max(1)), 1);
    }
    let text = match digits {
        Some(digits) => format!("{float:.*e}", digits.clamp(1, EXACT) - 1),
        None => format!("{float:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let zeros = digits.unwrap_or(0).saturating_sub(EXACT);
    (mantissa.replace('.', "") + &"0".repeat(zeros), exponent.parse::<i32>().unwrap_or(0) + 1)
}

fn exponent_text(letter: char, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{letter}{sign}{:02}", exponent.abs())
}

/// Go's `strconv.FormatFloat` of a number that is not negative.
fn float_text(float: f64, verb: char, precision: Option<usize>) -> String {
    if float.is_infinite() {
        return "Inf".into();
    }
    if float.is_nan() {
        return "NaN".into();
    }
    match verb {
        'f' => match precision {
            Some(precision) => {
                let text = format!("{float:.*}", precision.min(EXACT));
                text + &"0".repeat(precision.saturating_sub(EXACT))
            }
            None => format!("{float}"),
        },
        'e' | 'E' => {
            let (digits, point) = decimal(float, precision.map(|p| p + 1));
            exponential(&digits, if float == 0.0 { 0 } else { point - 1 }, verb)
        }
        'g' | 'G' => {
            let wanted = precision.map(|p| p.max(1));
            let (digits, point) = decimal(float, wanted);
            // Trailing zeros are not printed: the precision is the most that there are.
            let trimmed = digits.trim_end_matches('0');
            let digits = if trimmed.is_empty() { "0" } else { trimmed };
            let mut limit = wanted.map_or(6, |p| p as i32);
            if wanted.is_some() && limit > digits.len() as i32 && digits.len() as i32 >= point {
                limit = digits.len() as i32;
            }
            let exponent = if float == 0.0 { 0 } else { point - 1 };
            if exponent < -4 || exponent >= limit {
                exponential(digits, exponent, if verb == 'g' { 'e' } else { 'E' })
            } else {
                plain(digits, point)
            }
        }
        'b' => {
            let bits = float.to_bits();
            let (exponent, mantissa) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
            match exponent {
                0 => format!("{mantissa}p-1074"),
                _ => format!("{}p{:+}", mantissa | 1 << 52, exponent - 1075),
            }
        }
        _ => hex_float(float, verb, precision),
    }
}

fn exponential(digits: &str, exponent: i32, letter: char) -> String {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    format!("{first}{point}{rest}{}", exponent_text(letter, exponent))
}

fn plain(digits: &str, point: i32) -> String {
    if point <= 0 {
        return format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize));
    }
    let point = point as usize;
    if digits.len() <= point {
        return format!("{digits}{}", "0".repeat(point - digits.len()));
    }
    format!("{}.{}", &digits[..point], &digits[point..])
}

/// `%x`: the mantissa in hexadecimal, normalised to one digit before the point.
fn hex_float(float: f64, verb: char, precision: Option<usize>) -> String {
    let bits = float.to_bits();
    let (mut exponent, mut mantissa) = ((bits >> 52) as i32 - 1023, bits & ((1 << 52) - 1));
    if bits == 0 {
        exponent = 0;
    } else if exponent == -1023 {
        let shift = mantissa.leading_zeros() - 11;
        mantissa <<= shift;
        exponent = -1022 - shift as i32;
    } else {
        mantissa |= 1 << 52;
    }
    if let Some(digits) = precision.filter(|digits| *digits < 13) {
        let drop = 4 * (13 - digits);
        let (half, rest) = (1_u64 << (drop - 1), mantissa & ((1 << drop) - 1));
        mantissa >>= drop;
        if rest > half || (rest == half && mantissa & 1 == 1) {
            mantissa += 1;
        }
        mantissa <<= drop;
        if mantissa >> 53 == 1 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    let mut fraction = format!("{:013x}", mantissa & ((1 << 52) - 1));
    match precision {
        Some(digits) if digits <= 13 => fraction.truncate(digits),
        Some(digits) => fraction.push_str(&"0".repeat(digits - 13)),
        None => fraction.truncate(fraction.trim_end_matches('0').len()),
    }
    let point = if fraction.is_empty() { "" } else { "." };
    let text = format!("0x{}{point}{fraction}{}", mantissa >> 52, exponent_text('p', exponent));
    if verb == 'X' { text.to_ascii_uppercase() } else { text }
}

/// `#`: a point always, and with `g` and `x` as many signs as the precision says, counted as Go counts them.
fn with_point(text: &str, verb: char, precision: Option<usize>) -> String {
    let ends: &[char] = if matches!(verb, 'x' | 'X') { &['p', 'P'] } else { &['e', 'E', 'p', 'P'] };
    let (number, tail) = text.split_at(text.find(ends).unwrap_or(text.len()));
    let mut number = number.to_owned();
    let mut missing = 0;
    if matches!(verb, 'g' | 'G' | 'x') {
        let mut shown = number.chars().filter(|c| *c != '.').skip_while(|c| *c == '0').count();
        if number == "0" {
            shown = 1;
        }
        missing = precision.unwrap_or(6).saturating_sub(shown);
    }
    if !number.contains('.') {
        number.push('.');
    }
    number.push_str(&"0".repeat(missing));
    number + tail
}

/// `fmt.Sprintf`.
pub(crate) fn sprintf(meter: &mut Meter, layout: &[u8], values: &[Value]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut directives = Directives { layout, at: 0, values, next: 0, reordered: false, good: true };
    while directives.at < layout.len() {
        let begin = directives.at;
        let end = layout[begin..].iter().position(|b| *b == b'%').map_or(layout.len(), |found| begin + found);
        meter.memory(end - begin)?;
        out.extend_from_slice(&layout[begin..end]);
        directives.at = end;
        if end == layout.len() {
            break;
        }
        directives.at += 1;
        directives.one(meter, &mut out)?;
    }
    if !directives.reordered && directives.next < values.len() {
        out.extend(b"%!(EXTRA ");
        for (i, value) in values[directives.next..].iter().enumerate() {
            if i > 0 {
                out.extend(b", ");
            }
            match value.type_of() {
                None => out.extend(b"<nil>"),
                Some(of) => {
                    out.extend(format!("{of}=").bytes());
                    Printer::new(meter, &mut out).value(value, 'v', 0)?;
                }
            }
        }
        out.push(b')');
    }
    Ok(out)
}

struct Directives<'a> {
    layout: &'a [u8],
    at: usize,
    values: &'a [Value],
    next: usize,
    /// Whether an explicit index was used: then nothing is extra.
    reordered: bool,
    /// Whether the last explicit index was one.
    good: bool,
}

impl Directives<'_> {
    fn peek(&self) -> Option<u8> {
        self.layout.get(self.at).copied()
    }

    /// A number; none when there is none or it is too large.
    fn number(&mut self) -> (Option<usize>, bool) {
        let start = self.at;
        let mut value = 0_usize;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            if value > WIDEST {
                return (None, false);
            }
            value = value * 10 + usize::from(digit - b'0');
            self.at += 1;
        }
        (Some(value), self.at > start)
    }

    /// `[3]`: which argument is next.
    fn argument_index(&mut self) -> bool {
        if self.peek() != Some(b'[') {
            return false;
        }
        self.reordered = true;
        let Some(length) = self.layout[self.at..].iter().position(|b| *b == b']') else {
            self.good = false;
            self.at += 1;
            return false;
        };
        let inside = &self.layout[self.at + 1..self.at + length];
        let index = std::str::from_utf8(inside).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let index = index.and_then(|text| text.parse::<usize>().ok()).filter(|i| (1..=self.values.len()).contains(i));
        self.at += length + 1;
        match index {
            Some(index) => {
                self.next = index - 1;
                true
            }
            None => {
                self.good = false;
                false
            }
        }
    }

    /// The value of a `*`.
    fn star(&mut self) -> Option<i64> {
        let value = self.values.get(self.next);
        self.next += usize::from(value.is_some());
        let number = match value? {
            Value::Int(int, _) => *int,
            Value::Uint(uint, _) => i64::try_from(*uint).ok()?,
            _ => return None,
        };
        (-(WIDEST as i64)..=WIDEST as i64).contains(&number).then_some(number)
    }

    fn one(&mut self, meter: &mut Meter, out: &mut Vec<u8>) -> Done {
        let mut flags = Flags::default();
        self.good = true;
        let mut after_index = false;
        loop {
            match self.peek() {
                Some(b'#') => flags.sharp = true,
                Some(b'0') => flags.zero = true,
                Some(b'+') => flags.plus = true,
                Some(b'-') => flags.minus = true,
                Some(b' ') => flags.space = true,
                _ => break,
            }
            self.at += 1;
        }
        after_index |= self.argument_index();
        if self.peek() == Some(b'*') {
            self.at += 1;
            match self.star() {
                None => out.extend(b"%!(BADWIDTH)"),
                Some(width) => {
                    flags.minus |= width < 0;
                    flags.zero &= width >= 0;
                    flags.width = Some(width.unsigned_abs() as usize);
                }
            }
            after_index = false;
        } else {
            let (width, there) = self.number();
            if there {
                flags.width = width;
                if after_index {
                    self.good = false;
                }
            }
        }
        // A point at the very end is a verb to Go.
        if self.peek() == Some(b'.') && self.at + 1 < self.layout.len() {
            self.at += 1;
            if after_index {
                self.good = false;
            }
            after_index = self.argument_index();
            if self.peek() == Some(b'*') {
                self.at += 1;
                match self.star() {
                    Some(precision) if precision >= 0 => flags.precision = Some(precision as usize),
                    _ => out.extend(b"%!(BADPREC)"),
                }
                after_index = false;
            } else {
                let (precision, there) = self.number();
                flags.precision = if there { precision } else { Some(0) };
            }
        }
        if !after_index {
            self.argument_index();
        }
        if self.at >= self.layout.len() {
            out.extend(b"%!(NOVERB)");
            return Ok(());
        }
        let (verb, length) = crate::text::decode_rune(&self.layout[self.at..]);
        self.at += length;
        if verb == '%' {
            out.push(b'%');
        } else if !self.good {
            out.extend(format!("%!{verb}(BADINDEX)").bytes());
        } else if let Some(value) = self.values.get(self.next) {
            self.next += 1;
            if verb == 'v' {
                flags.sharp_v = std::mem::take(&mut flags.sharp);
                flags.plus_v = std::mem::take(&mut flags.plus);
            }
            if flags.minus {
                flags.zero = false;
            }
            let mut printer = Printer::new(meter, out);
            printer.flags = flags;
            match (value, verb) {
                (Value::Nil, 'T' | 'v') | (_, 'T') => printer.value(value, verb, 0)?,
                (Value::Nil, _) => printer.bad_verb(value, verb, 0)?,
                _ => printer.value(value, verb, 0)?,
            }
        } else {
            out.extend(format!("%!{verb}(MISSING)").bytes());
        }
        Ok(())
    }
}
