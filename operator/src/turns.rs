//! When periodic refreshes are due, and how many of them may begin: spread over the interval, and never a stampede.
//!
//! Each object is refreshed at a fixed phase of its interval that follows from what it reads, so objects that read the same
//! remote secret come together (and make one read), all others are spread evenly, and a restart or another leader changes
//! nothing: the phase needs no memory. What is overdue, after a restart for example, is let through at twice the rate that the
//! objects ask for, so that nothing ever makes a peak above that. Pure: `now` is an argument.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::bucket::{Bucket, no_peak};

/// The refresh that an object takes part in: those of equal turns share their provider reads, and count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Turn {
    /// Hash of what is read.
    pub group: u64,
    /// The interval, in ms.
    pub every_ms: u64,
}

/// However few the objects of a class: so many overdue refreshes may begin in a second.
const FLOOR: f64 = 1.0;
/// How many times the steady rate overdue refreshes may reach.
const PEAK: f64 = 2.0;
/// How long the others of a group may follow for nothing, with long intervals.
const TOGETHER: Duration = Duration::from_secs(5);
/// Share of the interval that two refreshes of an object are apart at least.
const APART: i128 = 6;

impl Turn {
    /// When the refresh after one at `last` is due: at its phase of the interval, never later than an interval after `last`, and
    /// not earlier than a sixth of it.
    ///
    /// An object that was refreshed out of phase, such as at its first sync, gets there in at most two steps, also when the first of
    /// them is served up to a third of the interval late: while many get there they are as many as may begin.
    pub fn after(&self, last: Timestamp) -> Timestamp {
        let interval = i128::from(self.every_ms.max(1)) * 1_000_000;
        // Whole seconds, as a status tells the time; intervals of seconds need finer phases.
        let grain: i128 = if interval >= 10_000_000_000 { 1_000_000_000 } else { 1_000_000 };
        let phase = ((interval * i128::from(self.group >> 32)) >> 32) / grain * grain;
        let gone = (last.as_nanosecond() - phase).rem_euclid(interval);
        let gap = interval - gone;
        // Too soon for this phase: half an interval later, which is the same moment for all of a group.
        let wait = if gap >= interval / APART { gap } else { gap + interval / 2 };
        let wait = SignedDuration::from_nanos(i64::try_from(wait).unwrap_or(i64::MAX));
        last.checked_add(wait).unwrap_or(Timestamp::MAX)
    }

    /// How far apart two refreshes of an object are at least, as a rule; so much earlier than due may one go along with its group.
    pub fn apart(&self) -> Duration {
        Duration::from_millis(self.every_ms / APART as u64)
    }

    /// Its class: refreshes of like intervals share a bucket, so that a backlog of long ones never holds up short ones.
    pub fn class(&self) -> u32 {
        self.every_ms.max(1).ilog2()
    }

    /// How long the others of a group may follow for nothing.
    fn together(&self) -> Duration {
        TOGETHER.min(Duration::from_millis(self.every_ms / 2))
    }
}

/// Whether a refresh may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Not yet.
    No,
    /// With those of its group that began a moment ago.
    Along,
    /// As the first of its group.
    Anew,
}

/// Who of a class may begin: a bucket that fills at [`PEAK`] times the steady rate.
#[derive(Debug)]
pub struct Turns {
    groups: HashMap<Turn, u32>,
    /// In billionths a second: a sum of integers does not drift.
    steady_nano: u128,
    bucket: Bucket,
    /// Groups that were let through a moment ago.
    recent: HashMap<Turn, Instant>,
}

fn nano(turn: Turn) -> u128 {
    1_000_000_000_000 / u128::from(turn.every_ms.max(1))
}

impl Turns {
    /// Nobody asks yet.
    pub fn new(now: Instant) -> Self {
        Self { groups: HashMap::new(), steady_nano: 0, bucket: Bucket::new(1.0, now), recent: HashMap::new() }
    }

    /// An object takes part in a refresh.
    pub fn join(&mut self, turn: Turn) {
        let members = self.groups.entry(turn).or_insert(0);
        *members += 1;
        if *members == 1 {
            self.steady_nano += nano(turn);
        }
    }

    /// An object takes part no longer.
    pub fn leave(&mut self, turn: Turn) {
        let Some(members) = self.groups.get_mut(&turn) else { return };
        *members -= 1;
        if *members == 0 {
            self.groups.remove(&turn);
            self.recent.remove(&turn);
            self.steady_nano -= nano(turn);
        }
    }

    /// Whether nobody takes part.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Refreshes a second that the objects ask for, each group once.
    pub fn steady(&self) -> f64 {
        self.steady_nano as f64 / 1e9
    }

    fn limit(&self) -> f64 {
        (PEAK * self.steady()).max(FLOOR)
    }

    fn count(&mut self, now: Instant) {
        let limit = self.limit();
        self.bucket.fill(limit, no_peak(limit), now);
    }

    fn is_recent(&self, turn: Turn, now: Instant) -> bool {
        self.recent.get(&turn).is_some_and(|at| now.saturating_duration_since(*at) < turn.together())
    }

    /// Whether a refresh may begin now; if so, it counts, the first of its group at least.
    pub fn take(&mut self, turn: Turn, now: Instant) -> Taken {
        if self.is_recent(turn, now) {
            return Taken::Along;
        }
        self.count(now);
        if !self.bucket.take() {
            return Taken::No;
        }
        if self.recent.len() > 1024 {
            self.recent.retain(|turn, at| now.saturating_duration_since(*at) < turn.together());
        }
        if self.groups.get(&turn).is_some_and(|members| *members > 1) {
            self.recent.insert(turn, now);
        }
        Taken::Anew
    }

    /// When that refresh may begin at the earliest.
    pub fn earliest(&mut self, turn: Turn, now: Instant) -> Instant {
        if self.is_recent(turn, now) {
            return now;
        }
        self.count(now);
        now + self.bucket.lacks(1.0, self.limit())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::stable_hash;

    fn turn(name: &str, every_ms: u64) -> Turn {
        Turn { group: stable_hash(&[name]), every_ms }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
    }

    proptest! {
        /// Whenever the last refresh was: the next is neither later than an interval nor sooner than a sixth of one, and after two
        /// more it keeps its phase, also when it is served late and its time is told in whole seconds.
        #[test]
        fn a_refresh_comes_within_its_interval_and_settles_at_its_phase(
            group in any::<u64>(), every_s in 12u64..200_000, last_ms in 0i64..4_000_000_000, late_ms in 0i64..900
        ) {
            let turn = Turn { group, every_ms: every_s * 1000 };
            let every = i128::from(turn.every_ms) * 1_000_000;
            let mut last = at(last_ms);
            let mut waits = Vec::new();
            for _ in 0..6 {
                let due = turn.after(last);
                let wait = due.as_nanosecond() - last.as_nanosecond();
                prop_assert!(wait > 0 && wait <= every && wait >= every / APART, "{wait} of {every}");
                waits.push(wait);
                let served = due.checked_add(SignedDuration::from_millis(late_ms)).unwrap();
                last = Timestamp::from_second(served.as_second()).unwrap();
            }
            prop_assert_eq!(waits[4], every);
            prop_assert_eq!(waits[5], every);
        }
    }

    #[test]
    fn first_refreshes_after_a_burst_are_spread_over_the_interval() {
        let every = 3_600_000;
        let mut tenths = [0u32; 10];
        for i in 0..10_000 {
            let wait = turn(&format!("ns/app-{i}"), every).after(at(0)).duration_since(at(0)).as_millis();
            tenths[(wait as usize * 10 / every as usize).min(9)] += 1;
        }
        assert!(tenths[0] == 0, "nothing is read again at once: {tenths:?}");
        assert!(tenths[2..].iter().all(|n| (850..=2150).contains(n)), "and no peak is above twice the rate: {tenths:?}");
        // From then on evenly, and the same in every process.
        let mut seconds = [0u32; 60];
        for i in 0..6_000 {
            let turn = turn(&format!("ns/app-{i}"), 60_000);
            let due = turn.after(turn.after(turn.after(at(0))));
            seconds[(due.as_second() % 60) as usize] += 1;
        }
        assert!(seconds.iter().all(|n| (60..=150).contains(n)), "{seconds:?}");
        assert_eq!(turn("ns/app", every).after(at(0)), turn("ns/app", every).after(at(0)));
    }

    #[test]
    fn members_of_a_group_that_were_synced_at_different_times_come_together_at_two_moments_at_most() {
        let turn = turn("shared", 60_000);
        let moments: std::collections::HashSet<_> = (0..60_000).step_by(250).map(|ms| turn.after(at(ms))).collect();
        // Within a minute of first syncs: two of its own phase, and two in between.
        assert!(moments.len() <= 4, "{moments:?}");
        let settled: std::collections::HashSet<_> =
            moments.into_iter().map(|m| turn.after(turn.after(m)).as_second() % 60).collect();
        assert_eq!(settled.len(), 1);
    }

    #[test]
    fn few_objects_with_a_long_interval_are_served_at_one_a_second_when_they_are_overdue() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        let all: Vec<Turn> = (0..100).map(|i| turn(&i.to_string(), 3_600_000)).collect();
        all.iter().for_each(|t| turns.join(*t));
        assert!(PEAK * turns.steady() < FLOOR);
        let mut left = all.iter();
        let mut next = left.next();
        let mut taken = 0;
        for ms in 0..10_000 {
            while let Some(turn) = next.filter(|turn| turns.take(**turn, start + Duration::from_millis(ms)) != Taken::No) {
                taken += 1;
                let _ = turn;
                next = left.next();
            }
        }
        assert!((10..=11).contains(&taken), "{taken} in ten seconds");
    }

    #[test]
    fn credit_is_not_saved_up_and_a_group_that_left_counts_no_more() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        let all: Vec<Turn> = (0..1000).map(|i| turn(&i.to_string(), 10_000)).collect();
        all.iter().for_each(|t| turns.join(*t));
        assert!((turns.steady() - 100.0).abs() < 1e-6);
        let later = start + Duration::from_secs(1000);
        let taken = all.iter().take_while(|t| turns.take(**t, later) != Taken::No).count();
        assert!((1..=21).contains(&taken), "{taken}: a tenth of a second's worth");
        let wait = turns.earliest(all[500], later) - later;
        assert!(wait <= Duration::from_millis(6), "{wait:?}");
        all.iter().for_each(|t| turns.leave(*t));
        assert_eq!((turns.steady(), turns.groups.len()), (0.0, 0));
    }
}
