//! A token bucket. Pure: `now` and the rate are arguments, so that the rate may change.

use std::time::Duration;

use tokio::time::Instant;

/// What may begin: one for each whole credit.
#[derive(Debug)]
pub struct Bucket {
    credit: f64,
    counted: Instant,
}

impl Bucket {
    /// With so much to begin with.
    pub fn new(credit: f64, now: Instant) -> Self {
        Self { credit, counted: now }
    }

    /// Takes in what has come since the last call, at a rate a second; never above `most`. Answers the seconds since then.
    pub fn fill(&mut self, rate: f64, most: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.counted = self.counted.max(now);
        self.credit = (self.credit + passed * rate).min(most);
        passed
    }

    /// Takes one, if there is one.
    pub fn take(&mut self) -> bool {
        // Timers fire a little early or late: a part of a billionth must not cost another wait.
        let there = self.credit >= 1.0 - 1e-9;
        if there {
            self.credit -= 1.0;
        }
        there
    }

    /// How long until there are so many, at a rate a second.
    pub fn lacks(&self, wanted: f64, rate: f64) -> Duration {
        Duration::from_secs_f64(((wanted - self.credit).max(0.0) / rate).min(3600.0))
    }

    /// Leaves no more than that.
    pub fn narrow(&mut self, most: f64) {
        self.credit = self.credit.min(most);
    }
}

/// What is not used is not saved up for a peak, beyond what timers of a tenth of a second apart need.
pub fn no_peak(rate: f64) -> f64 {
    (rate / 10.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_is_given_out_and_no_more_than_fits_is_kept() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1.0, start);
        assert!(bucket.take() && !bucket.take());
        assert_eq!(bucket.lacks(1.0, 4.0), Duration::from_millis(250));
        bucket.fill(4.0, 3.0, start + Duration::from_millis(250));
        assert!(bucket.take() && !bucket.take());
        bucket.fill(4.0, 3.0, start + Duration::from_secs(100));
        assert_eq!([(); 4].map(|()| bucket.take()), [true, true, true, false]);
        // A moment that was before is none that has passed.
        assert_eq!(bucket.fill(4.0, 3.0, start), 0.0);
        bucket.fill(4.0, 3.0, start + Duration::from_secs(101));
        bucket.narrow(1.0);
        assert!(bucket.take() && !bucket.take());
    }
}
