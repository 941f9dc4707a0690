//! Numbers, and what `cast` makes numbers of.

use super::{int as int_at, list_of, made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::number::{parse_float, parse_int};
use crate::value::{Type, Value};

/// A float as an integer, as the processors do it that Go runs on: what does not fit is the smallest.
fn truncated(float: f64) -> i64 {
    if float >= -(2_f64.powi(63)) && float < 2_f64.powi(63) { float as i64 } else { i64::MIN }
}

/// Without zeros behind a point, and that point.
fn without_zero_decimals(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        _ => text,
    }
}

/// `cast.ToInt64`, and as well `cast.ToInt`: what is no number is 0.
pub(super) fn to_int(value: &Value) -> i64 {
    match value {
        Value::Int(int, _) => *int,
        Value::Uint(uint, _) => *uint as i64,
        Value::Float(float) => truncated(*float),
        Value::Bool(value) => i64::from(*value),
        Value::Str(text) => std::str::from_utf8(text.bytes()).ok().and_then(|t| parse_int(without_zero_decimals(t))).unwrap_or(0),
        _ => 0,
    }
}

/// `cast.ToFloat64`
pub(super) fn to_float(value: &Value) -> f64 {
    match value {
        Value::Int(int, _) => *int as f64,
        Value::Uint(uint, _) => *uint as f64,
        Value::Float(float) => *float,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Str(text) => std::str::from_utf8(text.bytes()).ok().and_then(parse_float).unwrap_or(0.0),
        _ => 0.0,
    }
}

fn int64(value: i64) -> Answer {
    Ok(Value::Int(value, Some(64)))
}

pub(super) fn int(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Int(to_int(&arguments[0]), None))
}

pub(super) fn int64_of(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(to_int(&arguments[0]))
}

pub(super) fn float64(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Float(to_float(&arguments[0])))
}

/// `strconv.Atoi`: what is too large is the largest, what is no number is 0.
pub(super) fn atoi(_: &mut Meter, arguments: &[Value]) -> Answer {
    let text = std::str::from_utf8(text(&arguments[0])).unwrap_or_default();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    Ok(Value::Int(if is_number { text.parse().unwrap_or(limit) } else { 0 }, None))
}

pub(super) fn to_decimal(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let shown = super::strval(meter, &arguments[0])?;
    let shown = std::str::from_utf8(shown.bytes()).unwrap_or_default();
    int64(i64::from_str_radix(shown, 8).unwrap_or(0))
}

pub(super) fn add(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(arguments.iter().map(to_int).fold(0, i64::wrapping_add))
}

pub(super) fn add1(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(to_int(&arguments[0]).wrapping_add(1))
}

pub(super) fn sub(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(to_int(&arguments[0]).wrapping_sub(to_int(&arguments[1])))
}

pub(super) fn mul(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(arguments.iter().map(to_int).fold(1, i64::wrapping_mul))
}

fn divisor(value: &Value) -> Result<i64, String> {
    match to_int(value) {
        0 => Err("integer divide by zero".into()),
        other => Ok(other),
    }
}

pub(super) fn div(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(to_int(&arguments[0]).wrapping_div(divisor(&arguments[1])?))
}

pub(super) fn modulo(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(to_int(&arguments[0]).wrapping_rem(divisor(&arguments[1])?))
}

pub(super) fn max(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(arguments.iter().map(to_int).max().unwrap_or(0))
}

pub(super) fn min(_: &mut Meter, arguments: &[Value]) -> Answer {
    int64(arguments.iter().map(to_int).min().unwrap_or(0))
}

/// `math.Max`, or of both negated `math.Min`: an infinity wins over NaN, NaN over a number, 0 over -0.
fn larger(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else {
        a.max(b)
    }
}

pub(super) fn maxf(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Float(arguments[1..].iter().map(to_float).fold(to_float(&arguments[0]), larger)))
}

pub(super) fn minf(_: &mut Meter, arguments: &[Value]) -> Answer {
    let smaller = |a: f64, b: f64| -larger(-a, -b);
    Ok(Value::Float(arguments[1..].iter().map(to_float).fold(to_float(&arguments[0]), smaller)))
}

pub(super) fn floor(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Float(to_float(&arguments[0]).floor()))
}

pub(super) fn ceil(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Float(to_float(&arguments[0]).ceil()))
}

/// `math.Pow(10, places)`: squares, with the exponents of two apart, as Go multiplies them.
fn power_of_ten(places: f64) -> f64 {
    if places == 0.0 {
        return 1.0;
    }
    if places.abs() >= 2_f64.powi(63) || places.abs() > 400.0 {
        return if places > 0.0 { f64::INFINITY } else { 0.0 };
    }
    let (mut result, mut exponent) = (1.0_f64, 0_i64);
    // 10 is 0.625 * 2^4.
    let (mut square, mut square_exponent) = (0.625_f64, 4_i64);
    let mut left = places.abs() as i64;
    while left != 0 {
        if left & 1 == 1 {
            result *= square;
            exponent += square_exponent;
        }
        square *= square;
        square_exponent *= 2;
        if square < 0.5 {
            square += square;
            square_exponent -= 1;
        }
        left >>= 1;
    }
    if places < 0.0 {
        result = 1.0 / result;
        exponent = -exponent;
    }
    let half = (exponent / 2) as i32;
    result * 2_f64.powi(half) * 2_f64.powi(exponent as i32 - half)
}

pub(super) fn round(_: &mut Meter, arguments: &[Value]) -> Answer {
    let (value, places) = (to_float(&arguments[0]), to_float(&arguments[1]));
    let up_from = arguments.get(2).map_or(0.5, to_float);
    let power = power_of_ten(places);
    let digits = power * value;
    // What is infinite or none has no part behind its point.
    let part = if digits.is_finite() { digits.fract() } else { f64::NAN };
    let rounded = if part >= up_from { digits.ceil() } else { digits.floor() };
    Ok(Value::Float(rounded / power))
}

/// The numbers from one to another, without the other.
fn steps(meter: &mut Meter, start: i64, stop: i64, step: i64) -> Result<Vec<i64>, String> {
    if (stop < start && step >= 0) || (stop >= start && step <= 0) {
        return Ok(Vec::new());
    }
    let count = i128::from(stop.abs_diff(start)).div_euclid(i128::from(step.unsigned_abs())) + 1;
    let count = usize::try_from(count).map_err(|_| "too many numbers".to_owned())?;
    meter.steps(count)?;
    meter.memory(count.saturating_mul(size_of::<Value>()))?;
    let mut numbers = Vec::new();
    let mut next = Some(start);
    while let Some(number) = next.filter(|number| if step > 0 { *number < stop } else { *number > stop }) {
        numbers.push(number);
        next = number.checked_add(step);
    }
    Ok(numbers)
}

fn ints(meter: &mut Meter, numbers: Vec<i64>) -> Answer {
    list_of(meter, numbers.into_iter().map(|number| Value::Int(number, None)).collect(), Type::Int(None))
}

pub(super) fn until(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let count = int_at(&arguments[0]);
    let numbers = steps(meter, 0, count, if count < 0 { -1 } else { 1 })?;
    ints(meter, numbers)
}

pub(super) fn until_step(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let numbers = steps(meter, int_at(&arguments[0]), int_at(&arguments[1]), int_at(&arguments[2]))?;
    ints(meter, numbers)
}

pub(super) fn seq(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let parts: Vec<i64> = arguments.iter().map(int_at).collect();
    let (start, step, end) = match parts[..] {
        [end] => (1, if end < 1 { -1 } else { 1 }, end),
        [start, end] => (start, if end < start { -1 } else { 1 }, end),
        [start, step, end] if end >= start || step <= 0 => (start, step, end),
        _ => return made(meter, ""),
    };
    let behind = end.wrapping_add(if end < start { -1 } else { 1 });
    let numbers: Vec<String> = steps(meter, start, behind, step)?.into_iter().map(|number| number.to_string()).collect();
    made(meter, numbers.join(" "))
}
