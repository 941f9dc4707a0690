//! `spec.syncWindows`: hours at which periodic refreshes may, or may not, happen. Cron as `robfig/cron` reads it, in UTC. Pure.

use std::time::Duration;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use lockstep_crds::duration::parse_go;
use lockstep_crds::external_secret::{SyncWindowKind, SyncWindows};

/// How far ahead an opening is looked for, in days: five years, as far as robfig looks.
const FAR: i32 = 5 * 366;
/// Windows one behind another that are gone through to find the end of a denial; what is denied for longer is looked at again then.
const CHAIN: usize = 200;
/// Most windows of one object.
const MOST: usize = 32;

/// Windows that a spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    allows: bool,
    windows: Vec<(Schedule, Duration)>,
}

impl Windows {
    /// Reads them.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn new(spec: &SyncWindows) -> Result<Self, String> {
        if spec.windows.len() > MOST {
            return Err(format!("spec.syncWindows.windows: {} windows; at most {MOST} are served", spec.windows.len()));
        }
        let mut windows = Vec::with_capacity(spec.windows.len());
        for (i, window) in spec.windows.iter().enumerate() {
            let field = |name: &str| format!("spec.syncWindows.windows[{i}].{name}");
            let schedule = Schedule::new(&window.schedule).map_err(|why| format!("{}: {why}", field("schedule")))?;
            if schedule.next(Timestamp::UNIX_EPOCH).is_none() {
                return Err(format!("{}: {:?} never comes", field("schedule"), window.schedule));
            }
            let duration = parse_go(&window.duration).map_err(|why| format!("{}: {why}", field("duration")))?;
            windows.push((schedule, duration));
        }
        Ok(Self { allows: spec.kind == SyncWindowKind::Allow, windows })
    }

    /// The first moment from `from` on at which a refresh may happen, or at which that can be told; none if there is none for years.
    pub fn next_open(&self, from: Timestamp) -> Option<Timestamp> {
        if self.windows.is_empty() {
            return Some(from);
        }
        if self.allows {
            let open = self.windows.iter().any(|window| end_of(window, from).is_some());
            return if open { Some(from) } else { self.windows.iter().filter_map(|(schedule, _)| schedule.next(from)).min() };
        }
        let mut at = from;
        for _ in 0..CHAIN {
            match self.windows.iter().filter_map(|window| end_of(window, at)).max() {
                None => return Some(at),
                Some(end) => at = end,
            }
        }
        Some(at)
    }
}

/// When the window ends that is open at a moment.
fn end_of((schedule, duration): &(Schedule, Duration), at: Timestamp) -> Option<Timestamp> {
    let span = jiff::SignedDuration::try_from(*duration).ok()?;
    let opened = schedule.next(at.checked_sub(span).unwrap_or(Timestamp::MIN)).filter(|opened| *opened <= at)?;
    // It may have opened again before it ended.
    let last = schedule.last(opened, at);
    last.checked_add(span).ok()
}

/// When a window opens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Schedule {
    /// Five fields.
    Cron(Box<Cron>),
    /// Every so many seconds, counted from 1970.
    Every(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the field of days, or of weekdays, begins with a star: then both must fit, else one of them.
    star: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let seconds = parse_go(every.trim())?.as_secs();
            let seconds = i64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
            return seconds.map(Self::Every).ok_or_else(|| "@every needs a second or more".to_owned());
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let [minutes, hours, days, months, weekdays] = fields.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!(
                "{text:?} is no cron schedule: write minute, hour, day, month and weekday, or for example @daily"
            ));
        };
        let star = |field: &str| field.split(',').any(|part| matches!(part, "*" | "?" | "*/1"));
        Ok(Self::Cron(Box::new(Cron {
            minutes: bits("minute", minutes, 0, 59, &[])?,
            hours: bits("hour", hours, 0, 23, &[])?,
            days: bits("day", days, 1, 31, &[])?,
            months: bits("month", months, 1, 12, &MONTHS)?,
            // Sunday is 7 too.
            weekdays: bits("weekday", weekdays, 0, 7, &WEEKDAYS).map(|bits| bits | bits >> 7)?,
            star: star(days) || star(weekdays),
        })))
    }

    /// The first opening behind a moment.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => {
                let next = after.as_second().div_euclid(*seconds).checked_add(1)?.checked_mul(*seconds)?;
                Timestamp::from_second(next).ok()
            }
            Self::Cron(cron) => {
                let start = after.to_zoned(TimeZone::UTC);
                let (first, from) = (start.date(), i32::from(start.hour()) * 60 + i32::from(start.minute()) + 1);
                let end = first.checked_add(FAR.days()).ok()?;
                let mut date = first;
                while date < end {
                    if cron.months >> date.month() & 1 == 0 {
                        date = date.last_of_month().tomorrow().ok()?;
                        continue;
                    }
                    if let Some(minute) = cron.first_minute(date, if date == first { from } else { 0 }) {
                        let at = date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0);
                        return at.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
                    }
                    date = date.tomorrow().ok()?;
                }
                None
            }
        }
    }

    /// The last opening up to a moment, from one that is known.
    fn last(&self, known: Timestamp, up_to: Timestamp) -> Timestamp {
        if let Self::Every(seconds) = self {
            let last = up_to.as_second().div_euclid(*seconds) * seconds;
            return Timestamp::from_second(last).map_or(known, |last| last.max(known));
        }
        // From half of what is left to less and less: openings may be minutes apart, and windows years long.
        let mut last = known;
        let mut step = up_to.duration_since(known) / 2;
        while step.as_secs() >= 30 {
            let ahead = last.checked_add(step).ok().and_then(|from| self.next(from)).filter(|next| *next <= up_to);
            match ahead {
                Some(next) => last = next,
                None => step /= 2,
            }
        }
        while let Some(next) = self.next(last).filter(|next| *next <= up_to) {
            last = next;
        }
        last
    }
}

impl Cron {
    /// The first minute of a day, from one on, at which it opens.
    fn first_minute(&self, date: Date, from: i32) -> Option<i32> {
        let has = |bits: u64, value: i8| bits >> value & 1 == 1;
        let (day, weekday) = (has(self.days, date.day()), has(self.weekdays, date.weekday().since(Weekday::Sunday)));
        let fits = if self.star { day && weekday } else { day || weekday };
        if !fits {
            return None;
        }
        (from..24 * 60).find(|minute| self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1)
    }
}

/// The values of a field: `*`, `5`, `1-5`, `*/15`, `10-40/10`, `mon-fri`, and lists of them.
fn bits(name: &str, field: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let wrong = || format!("{field:?} is no {name} of a cron schedule: {least} to {most}, with *, -, / and commas");
    let value = |text: &str| {
        let named = names.iter().position(|known| known.eq_ignore_ascii_case(text));
        let number = named.map(|at| at as u32 + if names.len() == 12 { 1 } else { 0 });
        let digits = || Some(text).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok());
        number.or_else(digits).filter(|value| (least..=most).contains(value)).ok_or_else(wrong)
    };
    let mut bits = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<usize>().ok().filter(|step| *step > 0).ok_or_else(wrong)?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (least, if names.len() == 7 { 6 } else { most }),
            Some((from, to)) => (value(from)?, value(to)?),
            // `5/15` goes to the end.
            None if step.is_some() => (value(range)?, if names.len() == 7 { 6 } else { most }),
            None => (value(range)?, value(range)?),
        };
        if from > to {
            return Err(wrong());
        }
        (from..=to).step_by(step.unwrap_or(1)).for_each(|value| bits |= 1_u64 << value);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn windows(kind: &str, windows: &[(&str, &str)]) -> Windows {
        let windows: Vec<_> =
            windows.iter().map(|(schedule, duration)| json!({"schedule": schedule, "duration": duration})).collect();
        Windows::new(&serde_json::from_value(json!({"kind": kind, "windows": windows})).unwrap()).unwrap()
    }

    fn open(windows: &Windows, from: &str) -> String {
        windows.next_open(from.parse().unwrap()).map_or_else(|| "never".into(), |at| at.to_string())
    }

    #[test]
    fn the_next_opening_is_computed() {
        for (schedule, duration, from, expected) in [
            ("0 22 * * *", "2h", "2026-11-22T12:30:00Z", "2026-11-22T22:00:00Z"),
            ("0 22 * * *", "2h", "2026-11-22T23:59:59Z", "2026-11-22T23:59:59Z"),
            ("0 22 * * *", "2h", "2026-11-23T00:00:00Z", "2026-11-23T22:00:00Z"),
            ("*/15 9-17 * * mon-fri", "5m", "2026-11-22T12:00:00Z", "2026-11-23T09:00:00Z"),
            ("*/15 9-17 * * MON-FRI", "5m", "2026-11-23T09:06:00Z", "2026-11-23T09:15:00Z"),
            ("30 4 1,15 * 5", "1m", "2026-11-16T00:00:00Z", "2026-11-20T04:30:00Z"),
            ("30 4 1,15 * *", "1m", "2026-11-16T00:00:00Z", "2026-12-01T04:30:00Z"),
            ("0 0 29 2 *", "1h", "2026-11-16T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 */2 * 1", "1h", "2026-11-22T00:30:00Z", "2026-11-23T00:00:00Z"),
            ("0 0 */2 * 1", "1h", "2026-11-24T00:30:00Z", "2026-11-25T00:00:00Z"),
            ("@weekly", "1h", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("0 0 * * 7", "1h", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("@every 6h", "1h", "2026-11-23T01:30:00Z", "2026-11-23T06:00:00Z"),
            ("5/20 * * * *", "1m", "2026-11-23T01:26:30Z", "2026-11-23T01:45:00Z"),
            ("* * * * *", "1m", "2026-11-23T01:26:30Z", "2026-11-23T01:26:30Z"),
        ] {
            assert_eq!(open(&windows("allow", &[(schedule, duration)]), from), expected, "{schedule} for {duration} from {from}");
        }
    }

    #[test]
    fn what_is_denied_ends_where_the_last_window_does() {
        let two = windows("deny", &[("0 8 * * *", "2h"), ("30 9 * * *", "1h")]);
        assert_eq!(open(&two, "2026-11-22T07:59:59Z"), "2026-11-22T07:59:59Z");
        assert_eq!(open(&two, "2026-11-22T08:00:00Z"), "2026-11-22T10:30:00Z");
        assert_eq!(
            open(&windows("deny", &[("* * * * *", "1m")]), "2026-11-22T08:00:30Z"),
            "2026-11-22T11:20:00Z",
            "still denied"
        );
        // Windows that overlap with themselves, and one of a year that opens every day.
        assert_eq!(open(&windows("deny", &[("0 0,1 * * *", "2h")]), "2026-11-22T01:30:00Z"), "2026-11-22T03:00:00Z");
        assert!(open(&windows("deny", &[("@daily", "8760h")]), "2026-11-22T01:30:00Z").as_str() > "2027");
        assert_eq!(open(&windows("deny", &[]), "2026-11-22T01:30:00Z"), "2026-11-22T01:30:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_named() {
        let never = json!({"kind": "allow", "windows": [{"schedule": "0 0 31 2 *", "duration": "1h"}]});
        assert!(Windows::new(&serde_json::from_value(never).unwrap()).unwrap_err().contains("never comes"));
        for (schedule, needle) in [
            ("banana", "is no cron schedule"),
            ("60 * * * *", "\"60\" is no minute"),
            ("* * 0 * *", "\"0\" is no day"),
            ("* * * * mon-xyz", "is no weekday"),
            ("*/0 * * * *", "is no minute"),
            ("5-1 * * * *", "is no minute"),
            ("@every 0s", "@every needs a second or more"),
            ("@every banana", "is no duration"),
            ("1 2 3 4 5 6", "is no cron schedule"),
        ] {
            let error = Schedule::new(schedule).unwrap_err();
            assert!(error.contains(needle), "{schedule}: {error}");
        }
    }
}
