//! Go's number constants: which types a literal can be.

/// A literal, as each of the types that it can be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Number {
    pub(crate) int: Option<i64>,
    pub(crate) uint: Option<u64>,
    pub(crate) float: Option<f64>,
    pub(crate) complex: Option<(f64, f64)>,
    /// Without a context it is a float: it has a point or an exponent.
    pub(crate) looks_float: bool,
}

/// `strconv.ParseUint(text, 0, 64)`: a prefix tells the base, underscores stand between digits.
pub(crate) fn parse_uint(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, base, prefixed) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16, true),
        [b'0', b'o', ..] => (&lower[2..], 8, true),
        [b'0', b'b', ..] => (&lower[2..], 2, true),
        [b'0', _, ..] => (&lower[1..], 8, true),
        _ => (&lower[..], 10, false),
    };
    let bytes = digits.as_bytes();
    if bytes.is_empty() || bytes.ends_with(b"_") || digits.contains("__") || (bytes[0] == b'_' && !prefixed) {
        return None;
    }
    if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), base).ok()
}

/// `strconv.ParseInt(text, 0, 64)`.
pub(crate) fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let value = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -value } else { value }).ok()
}

/// `strconv.ParseFloat(text, 64)`; none for a syntax error and for what is out of range.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let (sign, body) = match lower.as_bytes() {
        [b'-', ..] => (-1.0, &lower[1..]),
        [b'+', ..] => (1.0, &lower[1..]),
        _ => (1.0, &lower[..]),
    };
    match body {
        "inf" | "infinity" => return Some(sign * f64::INFINITY),
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    if let Some(hex) = body.strip_prefix("0x") {
        return parse_hex_float(&underscores_between_digits(hex, true)?).map(|value| sign * value);
    }
    if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let value: f64 = underscores_between_digits(body, false)?.parse().ok()?;
    value.is_finite().then_some(sign * value)
}

fn underscores_between_digits(digits: &str, prefixed: bool) -> Option<String> {
    let bytes = digits.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'_' {
            let before = if i == 0 { prefixed } else { bytes[i - 1].is_ascii_hexdigit() };
            let after = bytes.get(i + 1).is_some_and(u8::is_ascii_hexdigit);
            if !before || !after {
                return None;
            }
        }
    }
    Some(digits.replace('_', ""))
}

/// A hexadecimal mantissa with its binary exponent, which must be there.
fn parse_hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once('p')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let mut value: u128 = 0;
    let mut shift = exponent.clamp(-10_000, 10_000);
    let mut sticky = false;
    for (i, digit) in whole.chars().chain(part.chars()).enumerate() {
        let digit = digit.to_digit(16)?;
        let in_part = i >= whole.len();
        if value >> 120 == 0 {
            value = value << 4 | u128::from(digit);
            shift -= if in_part { 4 } else { 0 };
        } else {
            sticky |= digit != 0;
            shift += if in_part { 0 } else { 4 };
        }
    }
    if sticky {
        value |= 1;
    }
    let value = scale(value, shift);
    value.is_finite().then_some(value)
}

/// `value * 2^shift`, rounded once.
fn scale(mut value: u128, mut shift: i32) -> f64 {
    if value == 0 {
        return 0.0;
    }
    // Keep as many bits as the result has, to round to even here and exactly.
    let bits = 128 - value.leading_zeros() as i32;
    let lowest = -1074;
    let kept = 53.min(bits + shift - lowest);
    if kept < 0 {
        return 0.0;
    }
    let drop = bits - kept;
    if drop > 0 {
        let half = 1_u128 << (drop - 1);
        let rest = value & ((half << 1) - 1);
        value >>= drop;
        if rest > half || (rest == half && value & 1 == 1) {
            value += 1;
        }
        shift += drop;
    }
    let mut result = value as f64;
    while shift > 0 {
        let step = shift.min(1000);
        result *= 2_f64.powi(step);
        shift -= step;
    }
    while shift < 0 {
        let step = shift.max(-1000);
        result *= 2_f64.powi(step);
        shift -= step;
    }
    result
}

impl Number {
    /// A character constant such as `'a'`.
    pub(crate) fn of_char(value: char) -> Self {
        let code = u32::from(value);
        Self { int: Some(code.into()), uint: Some(code.into()), float: Some(code.into()), complex: None, looks_float: false }
    }

    /// A literal without blanks; an error says what Go would say.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let illegal = || format!("illegal number syntax: {text:?}");
        if let Some(body) = text.strip_suffix('i') {
            // A sum: the sign in the middle that belongs to no exponent.
            let bytes = body.as_bytes();
            let middle = (1..bytes.len())
                .rev()
                .find(|&i| matches!(bytes[i], b'+' | b'-') && !matches!(bytes[i - 1], b'e' | b'E' | b'p' | b'P'));
            let (real, imaginary) = match middle {
                Some(i) => (parse_float(&body[..i]).ok_or_else(illegal)?, &body[i..]),
                None => (0.0, body),
            };
            let imaginary = parse_float(imaginary).ok_or_else(illegal)?;
            return Ok(Self::of_complex(real, imaginary));
        }
        let mut number = Self { uint: parse_uint(text), int: parse_int(text), ..Self::default() };
        if number.int == Some(0) {
            number.uint = Some(0);
        }
        let lower = text.to_ascii_lowercase();
        // An `e` is a digit of an unsigned hexadecimal integer, and of none with a sign: that is Go's way.
        number.looks_float = match lower.starts_with("0x") {
            true => lower.contains('p'),
            false => lower.contains(['.', 'e', 'p']),
        };
        match (number.int, number.uint) {
            (Some(int), _) => number.float = Some(int as f64),
            (None, Some(uint)) => number.float = Some(uint as f64),
            (None, None) => {
                let float = parse_float(text).ok_or_else(illegal)?;
                if !lower.contains(['.', 'e', 'p']) {
                    return Err(format!("integer overflow: {text:?}"));
                }
                number.float = Some(float);
                number.int = exact_int(float);
                number.uint = exact_uint(float);
            }
        }
        Ok(number)
    }

    fn of_complex(real: f64, imaginary: f64) -> Self {
        let mut number = Self { complex: Some((real, imaginary)), ..Self::default() };
        if imaginary == 0.0 {
            number.float = Some(real);
            number.int = exact_int(real);
            number.uint = exact_uint(real);
        }
        number
    }
}

fn exact_int(float: f64) -> Option<i64> {
    let int = float as i64;
    (int as f64 == float && float < 9_223_372_036_854_775_808.0).then_some(int)
}

fn exact_uint(float: f64) -> Option<u64> {
    let uint = float as u64;
    (float >= 0.0 && uint as f64 == float && float < 18_446_744_073_709_551_616.0).then_some(uint)
}
