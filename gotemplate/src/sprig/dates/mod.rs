//! Points in time. The local zone is UTC: a template must not depend on where the operator runs.

mod layout;
mod span;

use std::rc::Rc;

use super::{made, text, utf8};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

pub(crate) use layout::{format, parse};

const DAY: i64 = 86_400;
/// Seconds from the year 1 to 1970.
const TO_UNIX: i64 = 62_135_596_800;

/// Go's `time.Time`: seconds since 1970 and where they are looked at from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
    /// Seconds east of UTC.
    pub(crate) offset: i32,
    /// The zone's abbreviation.
    pub(crate) zone: Rc<str>,
}

impl Default for Time {
    fn default() -> Self {
        Self::utc(-TO_UNIX, 0)
    }
}

/// Year, month, day, hour, minute, second.
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
}

/// Days since 1970 of a date in the Gregorian calendar (Howard Hinnant's algorithm).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    (year + era * 400 + i64::from(month <= 2), month, day)
}

pub(crate) fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

pub(crate) fn days_in(month: i64, year: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Time {
    pub(crate) fn utc(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos, offset: 0, zone: "UTC".into() }
    }

    pub(crate) fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::utc(since.as_secs() as i64, since.subsec_nanos())
    }

    /// A date and a time of the day as they are at an offset.
    pub(crate) fn of(civil: &Civil, nanos: u32, offset: i32, zone: &str) -> Self {
        let days = days_of(civil.year, civil.month, civil.day);
        let of_day = civil.hour * 3600 + civil.minute * 60 + civil.second - i64::from(offset);
        let seconds = days.saturating_mul(DAY).saturating_add(of_day);
        Self { seconds, nanos, offset, zone: zone.into() }
    }

    fn local(&self) -> i64 {
        self.seconds.saturating_add(i64::from(self.offset))
    }

    pub(crate) fn civil(&self) -> Civil {
        let local = self.local();
        let (year, month, day) = date_of(local.div_euclid(DAY));
        let rest = local.rem_euclid(DAY);
        Civil { year, month, day, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 }
    }

    /// 0 is Sunday.
    pub(crate) fn weekday(&self) -> usize {
        (self.local().div_euclid(DAY) + 4).rem_euclid(7) as usize
    }

    pub(crate) fn year_day(&self) -> i64 {
        let civil = self.civil();
        days_of(civil.year, civil.month, civil.day) - days_of(civil.year, 1, 1) + 1
    }

    /// As it is in a zone; one that nobody knows is UTC.
    fn within(&self, name: &str) -> Self {
        let utc = Self::utc(self.seconds, self.nanos);
        if matches!(name, "" | "UTC" | "Local") || name.contains("..") || name.starts_with(['/', '\\']) {
            return utc;
        }
        let Ok(zone) = jiff::tz::TimeZone::get(name) else { return utc };
        let (first, last) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
        let seconds = self.seconds.clamp(first.as_second(), last.as_second());
        let at = jiff::Timestamp::from_second(seconds).unwrap_or(last);
        let info = zone.to_offset_info(at);
        Self { offset: info.offset().seconds(), zone: info.abbreviation().into(), ..utc }
    }

    fn plus(&self, nanos: i64) -> Self {
        let total = i64::from(self.nanos) + nanos.rem_euclid(1_000_000_000);
        let seconds = self.seconds.saturating_add(nanos.div_euclid(1_000_000_000) + total / 1_000_000_000);
        Self { seconds, nanos: (total % 1_000_000_000) as u32, ..self.clone() }
    }

    /// Nanoseconds from another time to this, as far as they fit.
    fn since(&self, other: &Self) -> i64 {
        let nanos = |time: &Self| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let between = nanos(self) - nanos(other);
        i64::try_from(between).unwrap_or(if between < 0 { i64::MIN } else { i64::MAX })
    }

    pub(crate) fn rfc3339(&self) -> String {
        format(self, "2006-01-02T15:04:05.999999999Z07:00")
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format(self, "2006-01-02 15:04:05.999999999 -0700 MST"))
    }
}

/// What `date` and its like take for a time: a time, or seconds; anything else is now.
fn time_of(value: &Value) -> Time {
    match value {
        Value::Time(time) => time.clone(),
        Value::Int(seconds, None | Some(64 | 32)) => Time::utc(*seconds, 0),
        _ => Time::now(),
    }
}

fn shown(meter: &mut Meter, time: &Time, layout: &str) -> Answer {
    meter.memory(8 * layout.len())?;
    made(meter, format(time, layout))
}

pub(super) fn now(_: &mut Meter, _: &[Value]) -> Answer {
    Ok(Value::Time(Time::now()))
}

pub(super) fn date(meter: &mut Meter, arguments: &[Value]) -> Answer {
    shown(meter, &time_of(&arguments[1]).within("Local"), &utf8(&arguments[0]))
}

pub(super) fn date_in_zone(meter: &mut Meter, arguments: &[Value]) -> Answer {
    shown(meter, &time_of(&arguments[1]).within(&utf8(&arguments[2])), &utf8(&arguments[0]))
}

pub(super) fn html_date(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let zone = arguments.get(1).map_or("Local".into(), utf8);
    shown(meter, &time_of(&arguments[0]).within(&zone), "2006-01-02")
}

fn modified(span: &Value, time: &Value) -> Result<Value, String> {
    let nanos = span::parse(&utf8(span)).ok_or("that is no duration")?;
    Ok(Value::Time(time_of(time).plus(nanos)))
}

pub(super) fn date_modify(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(modified(&arguments[0], &arguments[1]).unwrap_or_else(|_| arguments[1].clone()))
}

pub(super) fn must_date_modify(_: &mut Meter, arguments: &[Value]) -> Answer {
    modified(&arguments[0], &arguments[1])
}

pub(super) fn to_date(_: &mut Meter, arguments: &[Value]) -> Answer {
    Ok(Value::Time(parse(&utf8(&arguments[0]), &utf8(&arguments[1])).unwrap_or_default()))
}

pub(super) fn must_to_date(_: &mut Meter, arguments: &[Value]) -> Answer {
    let parsed = parse(&utf8(&arguments[0]), &utf8(&arguments[1]));
    parsed.map(Value::Time).ok_or_else(|| "the text is no date of that layout".to_owned())
}

pub(super) fn unix_epoch(meter: &mut Meter, arguments: &[Value]) -> Answer {
    made(meter, time_of(&arguments[0]).seconds.to_string())
}

pub(super) fn ago(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let nanos = Time::now().since(&time_of(&arguments[0]));
    made(meter, span::shown(span::rounded_to_seconds(nanos)))
}

pub(super) fn duration(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let seconds = match &arguments[0] {
        Value::Str(_) => {
            let digits = utf8(&arguments[0]);
            let limit = if digits.starts_with('-') { i64::MIN } else { i64::MAX };
            let body = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
            let is_number = !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { digits.parse().unwrap_or(limit) } else { 0 }
        }
        Value::Int(seconds, Some(64)) => *seconds,
        _ => 0,
    };
    made(meter, span::shown(seconds.wrapping_mul(1_000_000_000)))
}

pub(super) fn duration_round(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let nanos = match &arguments[0] {
        Value::Str(_) => span::parse(&utf8(&arguments[0])).unwrap_or(0),
        Value::Int(nanos, Some(64)) => *nanos,
        Value::Time(time) => Time::now().since(time),
        _ => 0,
    };
    made(meter, span::coarse(nanos))
}

/// What can be asked of a time.
pub(crate) fn method(time: &Time, name: &str, arguments: &[Value]) -> Option<Value> {
    let civil = time.civil();
    let int = |value: i64| Value::Int(value, None);
    let other = || arguments.first().map_or_else(Time::default, time_of);
    Some(match name {
        "Format" => Value::from(
            format(time, &arguments.first().map_or("".into(), |layout| String::from_utf8_lossy(text(layout)))).as_str(),
        ),
        "Unix" => Value::Int(time.seconds, Some(64)),
        "UnixMilli" => Value::Int(time.seconds.wrapping_mul(1000).wrapping_add(i64::from(time.nanos / 1_000_000)), Some(64)),
        "UnixNano" => Value::Int(time.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(time.nanos)), Some(64)),
        "Year" => int(civil.year),
        "Day" => int(civil.day),
        "Hour" => int(civil.hour),
        "Minute" => int(civil.minute),
        "Second" => int(civil.second),
        "Nanosecond" => int(i64::from(time.nanos)),
        "YearDay" => int(time.year_day()),
        "IsZero" => Value::Bool(time.seconds == -TO_UNIX && time.nanos == 0),
        "String" => Value::from(time.to_string().as_str()),
        "UTC" => Value::Time(Time::utc(time.seconds, time.nanos)),
        "Before" => Value::Bool((time.seconds, time.nanos) < (other().seconds, other().nanos)),
        "After" => Value::Bool((time.seconds, time.nanos) > (other().seconds, other().nanos)),
        "Equal" => Value::Bool((time.seconds, time.nanos) == (other().seconds, other().nanos)),
        "AddDate" => {
            let at = |i: usize| arguments.get(i).map_or(0, super::int).clamp(-100_000_000, 100_000_000);
            let months = (civil.year * 12 + civil.month - 1 + at(0) * 12 + at(1)).clamp(-12_000_000_000, 12_000_000_000);
            let date = Civil { year: months.div_euclid(12), month: months.rem_euclid(12) + 1, day: civil.day + at(2), ..civil };
            Value::Time(Time::of(&date, time.nanos, time.offset, &time.zone))
        }
        _ => return None,
    })
}
