//! How many calls a store's provider gets: a bound on those at once and on those begun in a second, both narrower for a while
//! after the provider asked for less. Pure: `now` is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::{Bucket, no_peak};

/// Annotation of a store: calls at once.
pub const ANNOTATION_CONCURRENCY: &str = "lockstep.dev/max-concurrent-calls";
/// Annotation of a store: calls begun in a second.
pub const ANNOTATION_RATE: &str = "lockstep.dev/max-calls-per-second";

/// Bounds that people set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Calls at once; none: what suits the provider.
    pub concurrency: Option<usize>,
    /// Calls begun in a second; none: as many as there are.
    pub per_second: Option<f64>,
}

impl Limits {
    /// Those of a store's annotations, and where it has none or wrong ones, those of the command line; and what is wrong.
    pub fn of(annotations: Option<&BTreeMap<String, String>>, default: Self) -> (Self, Option<String>) {
        let text = |name: &str| annotations.and_then(|all| all.get(name)).map(|text| text.trim());
        let mut wrong = None;
        let mut complain = |name: &str, what: &str| wrong = Some(format!("metadata.annotations[{name}] is no {what}"));
        let mut limits = default;
        match text(ANNOTATION_CONCURRENCY).map(str::parse::<usize>) {
            None => {}
            Some(Ok(n)) if (1..=1024).contains(&n) => limits.concurrency = Some(n),
            Some(_) => complain(ANNOTATION_CONCURRENCY, "number from 1 to 1024"),
        }
        match text(ANNOTATION_RATE).map(str::parse::<f64>) {
            None => {}
            Some(Ok(rate)) if rate.is_finite() && rate >= SLOWEST => limits.per_second = Some(rate),
            Some(_) => complain(ANNOTATION_RATE, "number of at least 0.1"),
        }
        (limits, wrong)
    }
}

/// The lowest rate: whoever asks first must not wait for longer than a reconcile may take.
pub const SLOWEST: f64 = 0.1;

/// Whether a call may begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Permission {
    /// Now; it counts.
    Now,
    /// Not before then.
    At(Instant),
    /// Not before another one ends.
    WhenOneEnds,
}

/// What is left after the provider asked for less, at least.
const LEAST: f64 = 1.0 / 64.0;
/// How much of the whole comes back in a second.
const RECOVERY: f64 = 0.02;

/// Grants calls.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    suits: usize,
    running: usize,
    /// Share of the whole that is allowed: 1 unless the provider throttles.
    share: f64,
    /// Calls a second at the time of the first throttling, where no bound is set.
    whole: Option<f64>,
    bucket: Bucket,
    window: (Instant, u32),
    /// Calls a second in the last full second.
    observed: f64,
    /// When less was granted for the last time.
    narrowed: Option<Instant>,
}

impl Limiter {
    /// Grants `suits` calls at once, unless limits say otherwise.
    pub fn new(suits: usize, limits: Limits, now: Instant) -> Self {
        let window = (now, 0);
        Self {
            limits,
            suits,
            running: 0,
            share: 1.0,
            whole: None,
            bucket: Bucket::new(1.0, now),
            window,
            observed: 0.0,
            narrowed: None,
        }
    }

    /// Takes other limits from here on.
    pub fn set(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How long so many calls take at the least, if their rate is bounded.
    pub fn takes(&self, calls: usize) -> Duration {
        let (_, rate) = self.granted();
        rate.map_or(Duration::ZERO, |rate| self.bucket.lacks(calls as f64, rate))
    }

    /// What is granted: calls at once, and calls a second if they are bounded.
    pub fn granted(&self) -> (usize, Option<f64>) {
        let most = self.limits.concurrency.unwrap_or(self.suits).max(1);
        let rate = match (self.limits.per_second, self.whole) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        (((most as f64 * self.share) as usize).max(1), rate.map(|rate| (rate * self.share).max(SLOWEST)))
    }

    fn count(&mut self, now: Instant) {
        let rate = self.granted().1.unwrap_or(0.0);
        let passed = self.bucket.fill(rate, no_peak(rate), now);
        if self.share < 1.0 {
            self.share = (self.share + passed * RECOVERY).min(1.0);
            if self.share >= 1.0 {
                self.whole = None;
            }
        }
        let since = now.saturating_duration_since(self.window.0);
        if since >= Duration::from_secs(1) {
            self.observed = f64::from(self.window.1) / since.as_secs_f64();
            self.window = (now, 0);
        }
    }

    /// Asks for a call.
    pub fn take(&mut self, now: Instant) -> Permission {
        self.count(now);
        let (most, rate) = self.granted();
        if self.running >= most {
            return Permission::WhenOneEnds;
        }
        if let Some(rate) = rate
            && !self.bucket.take()
        {
            let wait = self.bucket.lacks(1.0, rate);
            // What is granted grows while the provider recovers.
            let wait = if self.share < 1.0 { wait.min(Duration::from_secs(1)) } else { wait };
            return Permission::At(now + wait);
        }
        self.running += 1;
        self.window.1 += 1;
        Permission::Now
    }

    /// A call that began at `begun` has ended. Those that were under way when less was granted ask for nothing new.
    pub fn ended(&mut self, throttled: bool, begun: Instant, now: Instant) {
        self.running = self.running.saturating_sub(1);
        self.count(now);
        if throttled && self.narrowed.is_none_or(|at| begun >= at) {
            self.narrowed = Some(now);
            let lately = self.observed.max(f64::from(self.window.1)).max(1.0);
            self.whole = Some(self.whole.unwrap_or(lately));
            self.share = (self.share / 2.0).max(LEAST);
            self.bucket.narrow(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun_in(limiter: &mut Limiter, start: Instant, seconds: u64) -> usize {
        let mut begun = 0;
        for ms in 0..seconds * 1000 {
            let now = start + Duration::from_millis(ms);
            while limiter.take(now) == Permission::Now {
                limiter.ended(false, now, now);
                begun += 1;
                if begun > 100_000 || limiter.granted().1.is_none() {
                    break;
                }
            }
        }
        begun
    }

    #[test]
    fn annotations_go_before_flags_and_nonsense_is_named() {
        let map = |k: &str, v: &str| Some(BTreeMap::from([(k.to_owned(), v.to_owned())]));
        let flags = Limits { concurrency: Some(4), per_second: None };
        assert_eq!(Limits::of(None, flags), (flags, None));
        let both = Limits::of(map(ANNOTATION_RATE, "2.5").as_ref(), flags).0;
        assert_eq!(both, Limits { concurrency: Some(4), per_second: Some(2.5) });
        assert_eq!(Limits::of(map(ANNOTATION_CONCURRENCY, "7").as_ref(), flags).0.concurrency, Some(7));
        for (name, value) in
            [(ANNOTATION_RATE, "0"), (ANNOTATION_RATE, "NaN"), (ANNOTATION_RATE, "-1"), (ANNOTATION_CONCURRENCY, "0")]
        {
            let (limits, wrong) = Limits::of(map(name, value).as_ref(), flags);
            assert!(limits == flags && wrong.unwrap().contains(name), "a wrong annotation lifts no limit");
        }
    }

    #[test]
    fn a_rate_is_kept_and_calls_at_once_are_bounded() {
        let start = Instant::now();
        let mut limiter = Limiter::new(16, Limits { concurrency: Some(2), per_second: Some(20.0) }, start);
        let begun = begun_in(&mut limiter, start, 10);
        assert!((195..=205).contains(&begun), "{begun}");
        let mut limiter = Limiter::new(16, Limits { concurrency: Some(2), per_second: None }, start);
        assert_eq!([(); 3].map(|()| limiter.take(start)), [Permission::Now, Permission::Now, Permission::WhenOneEnds]);
        limiter.ended(false, start, start);
        assert_eq!(limiter.take(start), Permission::Now);
    }

    #[test]
    fn throttling_halves_what_is_granted_and_it_comes_back_slowly() {
        let start = Instant::now();
        let mut limiter = Limiter::new(16, Limits::default(), start);
        assert_eq!(limiter.granted(), (16, None));
        for ms in 0..1000 {
            assert_eq!(limiter.take(start + Duration::from_millis(ms)), Permission::Now);
            limiter.ended(false, start, start + Duration::from_millis(ms));
        }
        let now = start + Duration::from_secs(1);
        assert_eq!(limiter.take(now), Permission::Now);
        limiter.ended(true, now, now);
        limiter.ended(true, start, now);
        let (most, rate) = limiter.granted();
        assert_eq!(most, 8);
        assert!((450.0..=550.0).contains(&rate.unwrap()), "half of the thousand a second: {rate:?}");
        for i in 1..20 {
            let now = now + Duration::from_millis(i);
            limiter.ended(true, now, now);
        }
        assert_eq!(limiter.granted().0, 1, "never nothing");
        assert!(begun_in(&mut limiter, now, 60) > 0);
        let later = now + Duration::from_secs(120);
        assert_eq!(limiter.take(later), Permission::Now);
        assert_eq!(limiter.granted(), (16, None), "all of it is back");
    }
}
