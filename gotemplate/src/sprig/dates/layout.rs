//! Layouts such as `2006-01-02`: how Go writes and reads times (<https://pkg.go.dev/time#pkg-constants>).

use super::{Civil, Time, days_in, is_leap};

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A part of a layout that stands for a part of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    LongMonth,
    Month,
    NumMonth,
    ZeroMonth,
    LongWeekday,
    Weekday,
    Day,
    UnderDay,
    ZeroDay,
    UnderYearDay,
    ZeroYearDay,
    Hour,
    Hour12,
    ZeroHour12,
    Minute,
    ZeroMinute,
    Second,
    ZeroSecond,
    LongYear,
    Year,
    UpperPm,
    LowerPm,
    Abbreviation,
    /// Of so many characters; `Z` for UTC if it is a form of ISO 8601.
    Offset {
        iso: bool,
        seconds: bool,
        short: bool,
        colon: bool,
    },
    /// With so many digits; without zeros at its end if it is optional.
    Fraction {
        digits: usize,
        optional: bool,
        mark: u8,
    },
}

/// What is before the next part, the part, and what is behind it.
fn next_part(layout: &str) -> (&str, Option<Part>, &str) {
    let bytes = layout.as_bytes();
    for at in 0..bytes.len() {
        if !layout.is_char_boundary(at) {
            continue;
        }
        let rest = &layout[at..];
        let found = part_at(rest).or_else(|| fraction_at(bytes, at));
        if let Some((part, length)) = found {
            // `_2006` is an underscore and a year.
            let before = if part == Part::LongYear && length == 5 { at + 1 } else { at };
            return (&layout[..before], Some(part), &layout[at + length..]);
        }
    }
    (layout, None, "")
}

fn part_at(rest: &str) -> Option<(Part, usize)> {
    let behind_is_lower = |length: usize| rest.as_bytes().get(length).is_some_and(u8::is_ascii_lowercase);
    let offset = |iso, seconds, short, colon| Part::Offset { iso, seconds, short, colon };
    let table = [
        ("January", Part::LongMonth),
        ("Monday", Part::LongWeekday),
        ("MST", Part::Abbreviation),
        ("002", Part::ZeroYearDay),
        ("01", Part::ZeroMonth),
        ("02", Part::ZeroDay),
        ("03", Part::ZeroHour12),
        ("04", Part::ZeroMinute),
        ("05", Part::ZeroSecond),
        ("06", Part::Year),
        ("15", Part::Hour),
        ("1", Part::NumMonth),
        ("2006", Part::LongYear),
        ("2", Part::Day),
        ("_2006", Part::LongYear),
        ("__2", Part::UnderYearDay),
        ("_2", Part::UnderDay),
        ("3", Part::Hour12),
        ("4", Part::Minute),
        ("5", Part::Second),
        ("PM", Part::UpperPm),
        ("pm", Part::LowerPm),
        ("-070000", offset(false, true, false, false)),
        ("-07:00:00", offset(false, true, false, true)),
        ("-0700", offset(false, false, false, false)),
        ("-07:00", offset(false, false, false, true)),
        ("-07", offset(false, false, true, false)),
        ("Z070000", offset(true, true, false, false)),
        ("Z07:00:00", offset(true, true, false, true)),
        ("Z0700", offset(true, false, false, false)),
        ("Z07:00", offset(true, false, false, true)),
        ("Z07", offset(true, false, true, false)),
    ];
    if let Some((text, part)) = table.into_iter().find(|(text, _)| rest.starts_with(text)) {
        return Some((part, text.len()));
    }
    match rest.get(..3) {
        Some("Jan") if !behind_is_lower(3) => Some((Part::Month, 3)),
        Some("Mon") if !behind_is_lower(3) => Some((Part::Weekday, 3)),
        _ => None,
    }
}

fn fraction_at(bytes: &[u8], at: usize) -> Option<(Part, usize)> {
    let mark = bytes[at];
    let digit = *bytes.get(at + 1)?;
    if !matches!(mark, b'.' | b',') || !matches!(digit, b'0' | b'9') {
        return None;
    }
    let digits = bytes[at + 1..].iter().take_while(|byte| **byte == digit).count();
    let ends = !bytes.get(at + 1 + digits).is_some_and(u8::is_ascii_digit);
    ends.then_some((Part::Fraction { digits, optional: digit == b'9', mark }, digits + 1))
}

/// A time as a layout says.
pub(crate) fn format(time: &Time, layout: &str) -> String {
    let civil = time.civil();
    let hour12 = if civil.hour % 12 == 0 { 12 } else { civil.hour % 12 };
    let month = MONTHS[(civil.month - 1).clamp(0, 11) as usize];
    let weekday = DAYS[time.weekday()];
    let mut out = String::new();
    let mut rest = layout;
    while !rest.is_empty() {
        let (before, part, behind) = next_part(rest);
        out.push_str(before);
        let Some(part) = part else { break };
        rest = behind;
        match part {
            Part::LongMonth => out.push_str(month),
            Part::Month => out.push_str(&month[..3]),
            Part::NumMonth => out.push_str(&civil.month.to_string()),
            Part::ZeroMonth => out.push_str(&format!("{:02}", civil.month)),
            Part::LongWeekday => out.push_str(weekday),
            Part::Weekday => out.push_str(&weekday[..3]),
            Part::Day => out.push_str(&civil.day.to_string()),
            Part::UnderDay => out.push_str(&format!("{:2}", civil.day)),
            Part::ZeroDay => out.push_str(&format!("{:02}", civil.day)),
            Part::UnderYearDay => out.push_str(&format!("{:3}", time.year_day())),
            Part::ZeroYearDay => out.push_str(&format!("{:03}", time.year_day())),
            Part::Hour => out.push_str(&format!("{:02}", civil.hour)),
            Part::Hour12 => out.push_str(&hour12.to_string()),
            Part::ZeroHour12 => out.push_str(&format!("{hour12:02}")),
            Part::Minute => out.push_str(&civil.minute.to_string()),
            Part::ZeroMinute => out.push_str(&format!("{:02}", civil.minute)),
            Part::Second => out.push_str(&civil.second.to_string()),
            Part::ZeroSecond => out.push_str(&format!("{:02}", civil.second)),
            Part::LongYear => {
                let sign = if civil.year < 0 { "-" } else { "" };
                out.push_str(&format!("{sign}{:04}", civil.year.abs()));
            }
            Part::Year => out.push_str(&format!("{:02}", civil.year.abs() % 100)),
            Part::UpperPm => out.push_str(if civil.hour >= 12 { "PM" } else { "AM" }),
            Part::LowerPm => out.push_str(if civil.hour >= 12 { "pm" } else { "am" }),
            Part::Abbreviation if !time.zone.is_empty() => out.push_str(&time.zone),
            Part::Abbreviation => {
                let minutes = time.offset / 60;
                out.push_str(&format!("{}{:02}{:02}", sign(time.offset), minutes.abs() / 60, minutes.abs() % 60));
            }
            Part::Offset { iso: true, .. } if time.offset == 0 => out.push('Z'),
            Part::Offset { seconds, short, colon, .. } => {
                let size = time.offset.abs();
                let colon = if colon { ":" } else { "" };
                out.push_str(&format!("{}{:02}", sign(time.offset / 60), size / 3600));
                if !short {
                    out.push_str(&format!("{colon}{:02}", size / 60 % 60));
                }
                if seconds {
                    out.push_str(&format!("{colon}{:02}", size % 60));
                }
            }
            Part::Fraction { digits, optional, mark } => {
                let shown = format!("{:09}", time.nanos);
                let mut shown: String = shown.chars().chain(std::iter::repeat('0')).take(digits).collect();
                if optional {
                    shown = shown.trim_end_matches('0').to_owned();
                }
                if !shown.is_empty() {
                    out.push(char::from(mark));
                    out.push_str(&shown);
                }
            }
        }
    }
    out
}

fn sign(offset: i32) -> char {
    if offset < 0 { '-' } else { '+' }
}

fn is_digit(text: &str, at: usize) -> bool {
    text.as_bytes().get(at).is_some_and(u8::is_ascii_digit)
}

/// One or two digits; both, if they are fixed.
fn two_digits(text: &str, fixed: bool) -> Option<(i64, &str)> {
    if !is_digit(text, 0) {
        return None;
    }
    let length = match (is_digit(text, 1), fixed) {
        (true, _) => 2,
        (false, true) => return None,
        (false, false) => 1,
    };
    Some((text[..length].parse().ok()?, &text[length..]))
}

fn three_digits(text: &str, fixed: bool) -> Option<(i64, &str)> {
    let length = text.bytes().take(3).take_while(u8::is_ascii_digit).count();
    if length == 0 || (fixed && length != 3) {
        return None;
    }
    Some((text[..length].parse().ok()?, &text[length..]))
}

/// The index of the name that a text starts with, in either case.
fn lookup<'a>(names: &[&str], short: bool, text: &'a str) -> Option<(i64, &'a str)> {
    names.iter().enumerate().find_map(|(i, name)| {
        let name = if short { &name[..3] } else { name };
        let start = text.get(..name.len())?;
        start.eq_ignore_ascii_case(name).then(|| (i as i64, &text[name.len()..]))
    })
}

/// A mark and digits, of which the first nine count.
fn nanoseconds(text: &str) -> Option<u32> {
    let digits = text.get(1..)?;
    if !text.starts_with(['.', ',']) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nine: String = digits.chars().chain(std::iter::repeat('0')).take(9).collect();
    nine.parse().ok()
}

/// What stands in a layout between parts; blanks there are any number of blanks.
fn skip<'a>(mut text: &'a str, mut literal: &str) -> Option<&'a str> {
    while !literal.is_empty() {
        if literal.starts_with(' ') {
            if !text.is_empty() && !text.starts_with(' ') {
                return None;
            }
            literal = literal.trim_start_matches(' ');
            text = text.trim_start_matches(' ');
            continue;
        }
        let next = literal.chars().next()?;
        text = text.strip_prefix(next)?;
        literal = &literal[next.len_utf8()..];
    }
    Some(text)
}

/// How long the abbreviation of a zone is that a text starts with.
fn abbreviation(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let signed = |text: &str| -> usize {
        let digits = text.bytes().skip(1).take(3).take_while(u8::is_ascii_digit).count();
        let is_sound = text.starts_with(['+', '-']) && text[1..=digits].parse::<u64>().is_ok_and(|hours| hours <= 23);
        if is_sound { 1 + digits } else { 0 }
    };
    if bytes.len() < 3 {
        return None;
    }
    if text.starts_with("ChST") || text.starts_with("MeST") {
        return Some(4);
    }
    if let Some(behind) = text.strip_prefix("GMT") {
        return Some(3 + signed(behind));
    }
    if matches!(bytes[0], b'+' | b'-') {
        return Some(signed(text)).filter(|length| *length > 0);
    }
    match bytes.iter().take(6).take_while(|byte| byte.is_ascii_uppercase()).count() {
        5 if bytes[4] == b'T' => Some(5),
        4 if bytes[3] == b'T' || text.starts_with("WITA") => Some(4),
        3 => Some(3),
        _ => None,
    }
}

fn offset_of(text: &str, part: Part) -> Option<(i32, &str)> {
    let Part::Offset { seconds, short, colon, .. } = part else { return None };
    let mark = if colon { ":" } else { "" };
    let east = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, mut rest) = two_digits(&text[1..], true)?;
    let (mut minutes, mut second) = (0, 0);
    if !short {
        (minutes, rest) = two_digits(rest.strip_prefix(mark)?, true)?;
    }
    if seconds {
        (second, rest) = two_digits(rest.strip_prefix(mark)?, true)?;
    }
    if hours > 24 || minutes > 60 || second > 60 {
        return None;
    }
    Some((east * (hours * 3600 + minutes * 60 + second) as i32, rest))
}

/// A time that is written as a layout says; in UTC where the text names no zone.
pub(crate) fn parse(layout: &str, text: &str) -> Option<Time> {
    let (mut layout, mut text) = (layout, text);
    let (mut year, mut month, mut day, mut year_day) = (0, None, None, None);
    let (mut hour, mut minute, mut second, mut nanos) = (0, 0, 0, 0);
    let mut afternoon = None;
    let (mut is_utc, mut offset, mut zone) = (false, None, String::new());
    loop {
        let (before, part, behind) = next_part(layout);
        text = skip(text, before)?;
        let Some(part) = part else {
            if !text.is_empty() {
                return None;
            }
            break;
        };
        layout = behind;
        match part {
            Part::Year => {
                let digits = text.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
                year = digits.parse().ok()?;
                year += if year >= 69 { 1900 } else { 2000 };
                text = &text[2..];
            }
            Part::LongYear => {
                let digits = text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
                year = digits.parse().ok()?;
                text = &text[4..];
            }
            Part::Month | Part::LongMonth => {
                let (index, rest) = lookup(&MONTHS, part == Part::Month, text)?;
                (month, text) = (Some(index + 1), rest);
            }
            Part::NumMonth | Part::ZeroMonth => {
                let (number, rest) = two_digits(text, part == Part::ZeroMonth)?;
                (month, text) = (Some(number).filter(|number| (1..=12).contains(number)), rest);
                month?;
            }
            Part::Weekday | Part::LongWeekday => text = lookup(&DAYS, part == Part::Weekday, text)?.1,
            Part::Day | Part::UnderDay | Part::ZeroDay => {
                if part == Part::UnderDay {
                    text = text.strip_prefix(' ').unwrap_or(text);
                }
                let (number, rest) = two_digits(text, part == Part::ZeroDay)?;
                (day, text) = (Some(number), rest);
            }
            Part::UnderYearDay | Part::ZeroYearDay => {
                for _ in 0..2 {
                    if part == Part::UnderYearDay {
                        text = text.strip_prefix(' ').unwrap_or(text);
                    }
                }
                let (number, rest) = three_digits(text, part == Part::ZeroYearDay)?;
                (year_day, text) = (Some(number), rest);
            }
            Part::Hour => {
                (hour, text) = two_digits(text, false)?;
                if hour >= 24 {
                    return None;
                }
            }
            Part::Hour12 | Part::ZeroHour12 => {
                (hour, text) = two_digits(text, part == Part::ZeroHour12)?;
                if hour > 12 {
                    return None;
                }
            }
            Part::Minute | Part::ZeroMinute => {
                (minute, text) = two_digits(text, part == Part::ZeroMinute)?;
                if minute >= 60 {
                    return None;
                }
            }
            Part::Second | Part::ZeroSecond => {
                (second, text) = two_digits(text, part == Part::ZeroSecond)?;
                if second >= 60 {
                    return None;
                }
                // A fraction that the layout does not ask for is read all the same.
                let asked = matches!(next_part(layout).1, Some(Part::Fraction { .. }));
                if text.starts_with(['.', ',']) && is_digit(text, 1) && !asked {
                    let length = 1 + text[1..].bytes().take_while(u8::is_ascii_digit).count();
                    nanos = nanoseconds(&text[..length])?;
                    text = &text[length..];
                }
            }
            Part::UpperPm | Part::LowerPm => {
                let (am, pm) = if part == Part::UpperPm { ("AM", "PM") } else { ("am", "pm") };
                afternoon = Some(text.starts_with(pm));
                text = text.strip_prefix(pm).or_else(|| text.strip_prefix(am))?;
            }
            Part::Offset { iso: true, .. } if text.starts_with('Z') => {
                is_utc = true;
                text = &text[1..];
            }
            Part::Offset { .. } => {
                let (seconds, rest) = offset_of(text, part)?;
                (offset, text) = (Some(seconds), rest);
            }
            Part::Abbreviation if text.starts_with("UTC") => {
                is_utc = true;
                text = &text[3..];
            }
            Part::Abbreviation => {
                let length = abbreviation(text)?;
                zone = text[..length].to_owned();
                text = &text[length..];
            }
            Part::Fraction { digits, optional: false, .. } => {
                nanos = nanoseconds(text.get(..=digits)?)?;
                text = &text[digits + 1..];
            }
            Part::Fraction { .. } => {
                if text.starts_with(['.', ',']) && is_digit(text, 1) {
                    let length = 1 + text[1..].bytes().take_while(u8::is_ascii_digit).count();
                    nanos = nanoseconds(&text[..length])?;
                    text = &text[length..];
                }
            }
        }
    }
    match afternoon {
        Some(true) if hour < 12 => hour += 12,
        Some(false) if hour == 12 => hour = 0,
        _ => {}
    }
    if let Some(number) = year_day {
        let (found_month, found_day) = month_and_day(number, year)?;
        if month.is_some_and(|month| month != found_month) || day.is_some_and(|day| day != found_day) {
            return None;
        }
        (month, day) = (Some(found_month), Some(found_day));
    }
    let (month, day) = (month.unwrap_or(1), day.unwrap_or(1));
    if day < 1 || day > days_in(month, year) {
        return None;
    }
    let civil = Civil { year, month, day, hour, minute, second };
    Some(match offset {
        _ if is_utc => Time::of(&civil, nanos, 0, "UTC"),
        Some(0) if matches!(zone.as_str(), "" | "UTC") => Time::of(&civil, nanos, 0, "UTC"),
        Some(seconds) => Time::of(&civil, nanos, seconds, &zone),
        None if zone.is_empty() => Time::of(&civil, nanos, 0, "UTC"),
        None => {
            let hours: i32 = zone.strip_prefix("GMT").and_then(|hours| hours.parse().ok()).unwrap_or(0);
            Time::of(&civil, nanos, hours * 3600, &zone)
        }
    })
}

fn month_and_day(year_day: i64, year: i64) -> Option<(i64, i64)> {
    if year_day < 1 || year_day > 365 + i64::from(is_leap(year)) {
        return None;
    }
    let mut left = year_day;
    for month in 1..=12 {
        let days = days_in(month, year);
        if left <= days {
            return Some((month, left));
        }
        left -= days;
    }
    None
}
