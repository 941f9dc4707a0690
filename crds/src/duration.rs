//! Durations as manifests write them: Go's `time.ParseDuration`.

use std::time::Duration;

/// Parses a Go duration: `1h30m`, `15s`, `1.5h`, `0`; a sign is accepted, a negative duration is not.
///
/// # Errors
/// A sentence that quotes the text and gives an example.
pub fn parse_go(text: &str) -> Result<Duration, String> {
    let fail = || format!("{text:?} is no duration; write for example 1h, 15m or 90s");
    let rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err(format!("{text:?} is negative; write for example 1h, 15m or 90s"));
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    let mut total = 0f64;
    let mut rest = rest;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let number: f64 = rest[..digits].parse().map_err(|_| fail())?;
        let tail = &rest[digits..];
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        total += number * unit_seconds(&tail[..unit]).ok_or_else(fail)?;
        rest = &tail[unit..];
    }
    // Go's durations end at 2^63 ns (292 years).
    if total > 9.2e9 {
        return Err(format!("{text:?} is longer than 292 years"));
    }
    Ok(Duration::from_secs_f64(total))
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_and_anything_else_is_named() {
        for (text, seconds) in [("1h0m0s", 3600.0), ("15s", 15.0), ("1.5h", 5400.0), ("0", 0.0), ("250ms", 0.25), ("+2m", 120.0)]
        {
            assert_eq!(parse_go(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "banana", "1", "-1h", "1d", "h", "1h2", "..s", "9999999999999h", "1h banana", "0x1s"] {
            let error = parse_go(text).expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }
}
