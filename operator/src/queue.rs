//! Which object is reconciled next: a keyed queue with timers, one reconcile an object at a time.
//!
//! [`Schedule`] is pure and takes `now`; [`Queue`] is the shell that workers wait on. What always holds: a key is never
//! handed out twice at once; a wake that comes while its key is being worked on is not lost; changes go before timers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Why an object is reconciled; wakes that meet are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The moment of the latest cause: what a provider is asked must not be older.
    pub at: Instant,
    /// The object was created or changed.
    pub changed: bool,
    /// Its store, or something that the store refers to, changed or came back.
    pub store: bool,
    /// Its target was touched.
    pub target: bool,
}

impl Wake {
    /// A timer ran out.
    pub fn timer(at: Instant) -> Self {
        Self { at, changed: false, store: false, target: false }
    }

    /// The object changed.
    pub fn changed(at: Instant) -> Self {
        Self { changed: true, ..Self::timer(at) }
    }

    /// The store changed.
    pub fn store(at: Instant) -> Self {
        Self { store: true, ..Self::timer(at) }
    }

    /// The target was touched.
    pub fn target(at: Instant) -> Self {
        Self { target: true, ..Self::timer(at) }
    }

    fn merge(self, other: Self) -> Self {
        Self {
            at: self.at.max(other.at),
            changed: self.changed || other.changed,
            store: self.store || other.store,
            target: self.target || other.target,
        }
    }
}

#[derive(Default)]
struct Entry {
    running: bool,
    /// Set while the key waits in the lane, or for the end of its run.
    wake: Option<Wake>,
    timer: Option<Instant>,
}

/// The pure part.
pub struct Schedule<K> {
    entries: HashMap<K, Entry>,
    lane: VecDeque<K>,
    timers: BTreeSet<(Instant, K)>,
    running: usize,
}

impl<K: Clone + Eq + Hash + Ord> Default for Schedule<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), lane: VecDeque::new(), timers: BTreeSet::new(), running: 0 }
    }
}

impl<K: Clone + Eq + Hash + Ord> Schedule<K> {
    /// Asks for a reconcile as soon as possible.
    pub fn wake(&mut self, key: K, wake: Wake) {
        let entry = self.entries.entry(key.clone()).or_default();
        let waiting = entry.wake.is_some();
        entry.wake = Some(entry.wake.map_or(wake, |w| w.merge(wake)));
        if !waiting && !entry.running {
            self.lane.push_back(key);
        }
    }

    /// Sets the key's only timer, or takes it away.
    pub fn set_timer(&mut self, key: K, at: Option<Instant>) {
        let entry = self.entries.entry(key.clone()).or_default();
        if let Some(old) = entry.timer.take() {
            self.timers.remove(&(old, key.clone()));
        }
        entry.timer = at;
        if let Some(at) = at {
            self.timers.insert((at, key));
        }
    }

    /// The next key to work on: woken ones in their order, then timers that ran out, oldest first.
    pub fn pop(&mut self, now: Instant) -> Option<(K, Wake)> {
        let (key, wake) = self.pop_lane().or_else(|| self.pop_timer(now))?;
        let entry = self.entries.entry(key.clone()).or_default();
        entry.running = true;
        if let Some(at) = entry.timer.take() {
            self.timers.remove(&(at, key.clone()));
        }
        self.running += 1;
        Some((key, wake))
    }

    fn pop_lane(&mut self) -> Option<(K, Wake)> {
        while let Some(key) = self.lane.pop_front() {
            if let Some(wake) = self.entries.get_mut(&key).filter(|e| !e.running).and_then(|e| e.wake.take()) {
                return Some((key, wake));
            }
        }
        None
    }

    fn pop_timer(&mut self, now: Instant) -> Option<(K, Wake)> {
        while let Some((at, key)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            self.timers.remove(&(at, key.clone()));
            let entry = self.entries.entry(key.clone()).or_default();
            entry.timer = None;
            if !entry.running {
                return Some((key, Wake::timer(at)));
            }
            entry.wake = Some(entry.wake.map_or(Wake::timer(at), |w| w.merge(Wake::timer(at))));
        }
        None
    }

    /// Ends a run; `next` is when the key wants to be seen again.
    pub fn done(&mut self, key: K, next: Option<Instant>) {
        self.running -= 1;
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.running = false;
        if entry.wake.is_some() {
            self.lane.push_back(key.clone());
        }
        // A timer that was set meanwhile stands, if it is earlier.
        let next = next.into_iter().chain(entry.timer).min();
        if next.is_none() && entry.wake.is_none() {
            self.entries.remove(&key);
        } else {
            self.set_timer(key, next);
        }
    }

    /// When the next timer runs out.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many keys wait for a worker, timers left out.
    pub fn waiting(&self) -> usize {
        self.lane.len()
    }

    /// How many keys are being worked on.
    pub fn running(&self) -> usize {
        self.running
    }
}

/// The shell: shared by those who wake and the one who dispatches.
pub struct Queue<K> {
    schedule: Arc<Mutex<Schedule<K>>>,
    notify: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { schedule: self.schedule.clone(), notify: self.notify.clone() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Queue<K> {
    fn default() -> Self {
        Self { schedule: Arc::default(), notify: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    fn lock(&self) -> MutexGuard<'_, Schedule<K>> {
        self.schedule.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// See [`Schedule::wake`].
    pub fn wake(&self, key: K, wake: Wake) {
        self.lock().wake(key, wake);
        self.notify.notify_one();
    }

    /// Asks for a reconcile at `at`, unless the key has an earlier timer.
    pub fn wake_at(&self, key: K, at: Instant) {
        let mut schedule = self.lock();
        if schedule.entries.get(&key).and_then(|e| e.timer).is_none_or(|old| at < old) {
            schedule.set_timer(key, Some(at));
        }
        drop(schedule);
        self.notify.notify_one();
    }

    /// See [`Schedule::done`].
    pub fn done(&self, key: K, next: Option<Instant>) {
        self.lock().done(key, next);
        self.notify.notify_one();
    }

    /// Waits for the next key.
    pub async fn next(&self) -> (K, Wake) {
        loop {
            let timer = {
                let mut schedule = self.lock();
                if let Some(next) = schedule.pop(Instant::now()) {
                    return next;
                }
                schedule.next_timer()
            };
            match timer {
                Some(at) => tokio::select! { () = tokio::time::sleep_until(at) => {}, () = self.notify.notified() => {} },
                None => self.notify.notified().await,
            }
        }
    }

    /// How many keys wait and how many are being worked on.
    pub fn depth(&self) -> (usize, usize) {
        let schedule = self.lock();
        (schedule.waiting(), schedule.running())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn woken_keys_go_before_timers_and_timers_go_oldest_first() {
        let now = Instant::now();
        let mut s = Schedule::default();
        s.set_timer("late", Some(now - Duration::from_secs(1)));
        s.set_timer("later", Some(now - Duration::from_secs(2)));
        s.set_timer("future", Some(now + Duration::from_secs(1)));
        s.wake("changed", Wake::changed(now));
        let order: Vec<_> = std::iter::from_fn(|| s.pop(now).map(|(k, _)| k)).collect();
        assert_eq!(order, ["changed", "later", "late"]);
    }

    #[test]
    fn a_wake_during_a_run_makes_one_more_run_that_knows_all_causes() {
        let now = Instant::now();
        let mut s = Schedule::default();
        s.wake("a", Wake::changed(now));
        let (key, _) = s.pop(now).expect("a");
        s.wake("a", Wake::target(now));
        s.wake("a", Wake::store(now + Duration::from_secs(1)));
        assert!(s.pop(now).is_none(), "never twice at once");
        s.done(key, Some(now + Duration::from_secs(60)));
        let (_, wake) = s.pop(now).expect("a again");
        assert_eq!(wake, Wake { at: now + Duration::from_secs(1), changed: false, store: true, target: true });
        s.done("a", None);
        assert!(s.pop(now).is_none());
        assert_eq!((s.waiting(), s.running(), s.entries.len()), (0, 0, 0));
    }

    proptest! {
        /// Whatever happens in whatever order: no key runs twice at once, and every wake and timer is followed by a run that began after it.
        #[test]
        fn no_wake_is_lost_and_no_key_runs_twice(steps in proptest::collection::vec((0u8..4, 0u8..5), 1..300)) {
            let start = Instant::now();
            let mut s = Schedule::<u8>::default();
            let mut running = std::collections::HashSet::new();
            let mut owed = std::collections::HashSet::new();
            for (i, (action, key)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(i as u64);
                match action {
                    0 => { s.wake(key, Wake::changed(now)); owed.insert(key); }
                    1 => { s.set_timer(key, Some(now + Duration::from_secs(3))); owed.insert(key); }
                    2 => if let Some((key, _)) = s.pop(now) {
                        prop_assert!(running.insert(key));
                        owed.remove(&key);
                    },
                    _ => if running.remove(&key) { s.done(key, None) },
                }
            }
            for key in running.drain() { s.done(key, None); }
            let end = start + Duration::from_secs(10_000);
            while let Some((key, _)) = s.pop(end) { owed.remove(&key); s.done(key, None); }
            prop_assert!(owed.is_empty());
            prop_assert_eq!(s.running(), 0);
        }
    }
}
