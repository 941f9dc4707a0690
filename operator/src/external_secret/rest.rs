//! Two who want a target to be different would write it in turns without end: whoever is undone again and again waits longer and
//! longer before the next write.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::keys::ObjectKey;

/// Writes in a row that nobody waits for.
const FREE: u32 = 5;
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// After so long without a write it begins anew.
const FORGET: Duration = Duration::from_secs(900);

#[derive(Clone, Copy)]
struct Undone {
    writes: u32,
    last: Instant,
}

/// The objects whose targets were put right not long ago.
#[derive(Default)]
pub struct Rests(Mutex<HashMap<ObjectKey, Undone>>);

impl Rests {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Undone>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Until when an object's target is left as it is; none: it may be written.
    pub fn until(&self, key: &ObjectKey, now: Instant) -> Option<Instant> {
        let Undone { writes, last } = *self.lock().get(key)?;
        let wait = match writes.checked_sub(FREE + 1) {
            Some(more) => Duration::from_secs(1 << more.min(9)).min(LONGEST),
            None => return None,
        };
        Some(last + wait).filter(|until| *until > now)
    }

    /// An object's target was touched, and put right. Answers whether it is the first time that the next write will wait.
    pub fn put_right(&self, key: &ObjectKey, now: Instant) -> bool {
        let mut all = self.lock();
        let undone = all.entry(key.clone()).or_insert(Undone { writes: 0, last: now });
        let anew = now.saturating_duration_since(undone.last) > FORGET;
        *undone = Undone { writes: if anew { 1 } else { undone.writes.saturating_add(1) }, last: now };
        undone.writes == FREE + 1
    }

    /// Forgets what is long ago.
    pub fn tidy(&self, now: Instant) {
        self.lock().retain(|_, undone| now.saturating_duration_since(undone.last) <= FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_undone_again_and_again_waits_longer_and_longer_and_a_few_edits_cost_nothing() {
        let (rests, key) = (Rests::default(), ObjectKey::new("ns", "app"));
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..20 {
            if let Some(until) = rests.until(&key, now) {
                waits.push((until - now).as_secs());
                now = until;
            }
            assert_eq!(rests.until(&key, now), None);
            rests.put_right(&key, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300, 300]);
        assert!(rests.until(&ObjectKey::new("ns", "other"), now).is_none());
        now += FORGET + Duration::from_secs(1);
        rests.put_right(&key, now);
        assert_eq!(rests.until(&key, now), None, "it begins anew");
        rests.tidy(now + FORGET + Duration::from_secs(1));
        assert!(rests.lock().is_empty());
    }
}
