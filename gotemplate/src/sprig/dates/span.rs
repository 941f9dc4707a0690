//! Go's durations, in nanoseconds.

const SECOND: u64 = 1_000_000_000;

/// `time.ParseDuration`
pub(super) fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let limit = 1_u64 << 63;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole_length = digits(rest);
        let whole: u64 = if whole_length == 0 { 0 } else { rest[..whole_length].parse().ok().filter(|w| *w <= limit)? };
        rest = &rest[whole_length..];
        let (mut part, mut scale, mut part_length) = (0_u64, 1_f64, 0);
        if let Some(behind) = rest.strip_prefix('.') {
            part_length = digits(behind);
            let mut full = false;
            for digit in behind[..part_length].bytes() {
                // Digits that do not fit any more are dropped.
                let next = part.checked_mul(10).and_then(|p| p.checked_add(u64::from(digit - b'0'))).filter(|p| *p < limit);
                match next.filter(|_| !full) {
                    Some(next) => {
                        part = next;
                        scale *= 10.0;
                    }
                    None => full = true,
                }
            }
            rest = &behind[part_length..];
        }
        if whole_length == 0 && part_length == 0 {
            return None;
        }
        let unit_length = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_length] {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        rest = &rest[unit_length..];
        let mut value = whole.checked_mul(unit).filter(|v| *v <= limit)?;
        if part > 0 {
            value = value.checked_add((part as f64 * (unit as f64 / scale)) as u64).filter(|v| *v <= limit)?;
        }
        total = total.checked_add(value).filter(|t| *t <= limit)?;
    }
    match negative {
        true => Some((total as i64).wrapping_neg()),
        false => i64::try_from(total).ok(),
    }
}

/// `Duration.String`
pub(super) fn shown(nanos: i64) -> String {
    let size = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let with_part = |size: u64, unit: u64| {
        let part = size % unit;
        if part == 0 {
            return (size / unit).to_string();
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{part:0width$}");
        format!("{}.{}", size / unit, digits.trim_end_matches('0'))
    };
    if size == 0 {
        return "0s".into();
    }
    if size < SECOND {
        return match size {
            0..1000 => format!("{sign}{size}ns"),
            1000..1_000_000 => format!("{sign}{}\u{b5}s", with_part(size, 1000)),
            _ => format!("{sign}{}ms", with_part(size, 1_000_000)),
        };
    }
    let minutes = size / (60 * SECOND);
    let seconds = with_part(size % (60 * SECOND), SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `Duration.Round(time.Second)`
pub(super) fn rounded_to_seconds(nanos: i64) -> i64 {
    let second = SECOND as i64;
    let rest = nanos % second;
    let down = nanos - rest;
    if rest.abs() * 2 < second { down } else { down.saturating_add(if nanos < 0 { -second } else { second }) }
}

/// Sprig's `durationRound`: the largest unit there is more than one of.
pub(super) fn coarse(nanos: i64) -> String {
    let size = nanos.unsigned_abs();
    let hour = 3600 * SECOND;
    let units =
        [(hour * 24 * 365, "y"), (hour * 24 * 30, "mo"), (hour * 24, "d"), (hour, "h"), (60 * SECOND, "m"), (SECOND, "s")];
    units.iter().find(|(unit, _)| size > *unit).map_or_else(|| "0s".into(), |(unit, name)| format!("{}{name}", size / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_as_go_does() {
        for (text, shown_as) in [
            ("1h15m30.918s", "1h15m30.918s"),
            ("-1.5h", "-1h30m0s"),
            ("90m", "1h30m0s"),
            (".5s", "500ms"),
            ("1us", "1\u{b5}s"),
            ("3000000h", "-"),
            ("0", "0s"),
            ("1.0000000000000000001s", "1s"),
            ("-9223372036854775808ns", "-2562047h47m16.854775808s"),
        ] {
            let read = parse(text).map(shown);
            assert_eq!(read.as_deref().unwrap_or("-"), shown_as, "{text}");
        }
        for wrong in ["", "1", "h", "1x", "-", "1.h.", "9223372036854775808ns", "1 h"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!((coarse(3600 * SECOND as i64), coarse(7200 * SECOND as i64)), ("60m".into(), "2h".into()));
        assert_eq!(rounded_to_seconds(-1_500_000_000), -2_000_000_000);
    }
}
