//! How Go prints values: `fmt`'s Print family and its verbs.

mod directives;
mod floats;

pub(crate) use directives::sprintf;

use crate::exec::Meter;
use crate::text::runes;
use crate::value::{Certificate, List, Map, Type, Value};
use floats::with_point;
pub(crate) use floats::{float_text, plain_float, shortest};

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
    // Behind another rune, `escape_debug` leaves marks that join with it alone.
    let is_escaped = || ['a', rune].iter().collect::<String>().escape_debug().nth(1) == Some('\\');
    rune == ' ' || matches!(rune, '\'' | '"' | '\\') || (!rune.is_control() && !rune.is_whitespace() && !is_escaped())
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
            // Go would show their private parts for other verbs.
            (Value::Time(time), _) => self.stringer(&time.to_string(), verb),
            (Value::Version(version), _) => self.stringer(&version.to_string(), verb),
            (Value::Certificate(certificate), _) => self.certificate(certificate, verb, depth),
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
            true if list.is_nil() => return self.raw(format!("[]{}(nil)", list.of()).as_bytes()),
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
            true if map.is_nil() => return self.raw(format!("map[string]{}(nil)", map.of()).as_bytes()),
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

    fn certificate(&mut self, certificate: &Certificate, verb: char, depth: usize) -> Done {
        let names = self.flags.sharp_v || self.flags.plus_v;
        self.raw(if self.flags.sharp_v { b"sprig.certificate{" } else { b"{" })?;
        for (i, (name, text)) in [("Cert:", &certificate.cert), ("Key:", &certificate.key)].into_iter().enumerate() {
            if i > 0 {
                self.raw(if self.flags.sharp_v { b", " } else { b" " })?;
            }
            if names {
                self.raw(name.as_bytes())?;
            }
            self.value(&Value::Str(text.clone()), verb, depth + 1)?;
        }
        self.raw(b"}")
    }

    fn stringer(&mut self, text: &str, verb: char) -> Done {
        self.string(text.as_bytes(), if matches!(verb, 'x' | 'X' | 'q') { verb } else { 's' })
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
            _ if float.is_infinite() => "+",
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
