//! Floats as Go's `strconv` and `fmt` write them.

/// Behind so many digits of a float64 there are only zeros; Rust's own formatting takes no more than 65,535.
const EXACT: usize = 1_100;

/// Digits without point or leading zeros, and where the point is: `0.ddd * 10^point`.
fn decimal(float: f64, digits: Option<usize>) -> (String, i32) {
    if float == 0.0 {
        return ("0".repeat(digits.unwrap_or(1).max(1)), 1);
    }
    let text = match digits {
        Some(digits) => format!("{float:.*e}", digits.clamp(1, EXACT) - 1),
        None => shortest(float),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let zeros = digits.unwrap_or(0).saturating_sub(EXACT);
    (mantissa.replace('.', "") + &"0".repeat(zeros), exponent.parse::<i32>().unwrap_or(0) + 1)
}

/// The fewest digits that read back as the number, as `1.25e-7`; of two that are as near, the even one, as Go has it.
pub(crate) fn shortest(float: f64) -> String {
    let text = format!("{float:e}");
    let digits = text.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    let even = format!("{float:.*e}", digits.saturating_sub(1));
    if even.parse() == Ok(float) { even } else { text }
}

/// The same without an exponent.
pub(crate) fn plain_float(float: f64) -> String {
    let (digits, point) = decimal(float.abs(), None);
    let sign = if float.is_sign_negative() { "-" } else { "" };
    format!("{sign}{}", plain(&digits, if float == 0.0 { 1 } else { point }))
}

fn exponent_text(letter: char, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{letter}{sign}{:02}", exponent.abs())
}

/// Go's `strconv.FormatFloat` of a number that is not negative.
pub(crate) fn float_text(float: f64, verb: char, precision: Option<usize>) -> String {
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
            None => plain_float(float),
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
pub(super) fn with_point(text: &str, verb: char, precision: Option<usize>) -> String {
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
