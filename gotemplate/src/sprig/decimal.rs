//! Arithmetic on decimal numbers, so that 0.1 and 0.2 make 0.3.

use num_bigint::{BigInt, Sign};

use super::numbers::to_float;
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// Digits behind the point of a quotient.
const PRECISION: i64 = 16;
/// Most digits on the way.
const DIGITS: u64 = 20_000;

/// `value * 10^exponent`
struct Decimal {
    value: BigInt,
    exponent: i64,
}

fn ten_to(exponent: i64) -> BigInt {
    BigInt::from(10).pow(u32::try_from(exponent).unwrap_or(0))
}

impl Decimal {
    /// The shortest decimal that is this float.
    fn new(float: f64) -> Result<Self, String> {
        if !float.is_finite() {
            return Err("no decimal is infinite, or not a number".into());
        }
        let shown = crate::format::shortest(float);
        let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let value = format!("{whole}{part}").parse().unwrap_or_default();
        let exponent: i64 = exponent.parse().unwrap_or(0);
        Ok(Self { value, exponent: exponent - part.len() as i64 })
    }

    /// Both with the smaller exponent.
    fn aligned(self, other: Self) -> (BigInt, BigInt, i64) {
        let exponent = self.exponent.min(other.exponent);
        let scaled = |decimal: Self| decimal.value * ten_to(decimal.exponent - exponent);
        (scaled(self), scaled(other), exponent)
    }

    fn add(self, other: Self) -> Result<Self, String> {
        let (a, b, exponent) = self.aligned(other);
        Ok(Self { value: a + b, exponent })
    }

    fn sub(self, other: Self) -> Result<Self, String> {
        let (a, b, exponent) = self.aligned(other);
        Ok(Self { value: a - b, exponent })
    }

    fn mul(self, other: Self) -> Result<Self, String> {
        Ok(Self { value: self.value * other.value, exponent: self.exponent + other.exponent })
    }

    /// Rounded away from zero at the half.
    fn div(self, other: Self) -> Result<Self, String> {
        if other.value.sign() == Sign::NoSign {
            return Err("decimal division by 0".into());
        }
        let shift = self.exponent - other.exponent + PRECISION;
        let (above, below) = match shift >= 0 {
            true => (self.value * ten_to(shift), other.value),
            false => (self.value, other.value * ten_to(-shift)),
        };
        let (mut quotient, rest) = (&above / &below, &above % &below);
        let (rest, below_size) = (rest.magnitude() * 2_u32, below.magnitude());
        if rest >= *below_size {
            quotient += if above.sign() == below.sign() { 1 } else { -1 };
        }
        Ok(Self { value: quotient, exponent: -PRECISION })
    }

    fn float(&self) -> f64 {
        format!("{}e{}", self.value, self.exponent).parse().unwrap_or(0.0)
    }
}

fn folded(meter: &mut Meter, first: f64, rest: &[Value], with: fn(Decimal, Decimal) -> Result<Decimal, String>) -> Answer {
    let mut result = Decimal::new(first)?;
    for value in rest {
        result = with(result, Decimal::new(to_float(value))?)?;
        let digits = result.value.bits() / 3;
        meter.steps(1 + digits as usize / 10)?;
        if digits > DIGITS {
            return Err(format!("a decimal has more than {DIGITS} digits"));
        }
    }
    Ok(Value::Float(result.float()))
}

pub(super) fn addf(meter: &mut Meter, arguments: &[Value]) -> Answer {
    folded(meter, 0.0, arguments, Decimal::add)
}

pub(super) fn add1f(meter: &mut Meter, arguments: &[Value]) -> Answer {
    folded(meter, 1.0, arguments, Decimal::add)
}

pub(super) fn subf(meter: &mut Meter, arguments: &[Value]) -> Answer {
    folded(meter, to_float(&arguments[0]), &arguments[1..], Decimal::sub)
}

pub(super) fn mulf(meter: &mut Meter, arguments: &[Value]) -> Answer {
    folded(meter, to_float(&arguments[0]), &arguments[1..], Decimal::mul)
}

pub(super) fn divf(meter: &mut Meter, arguments: &[Value]) -> Answer {
    folded(meter, to_float(&arguments[0]), &arguments[1..], Decimal::div)
}
