//! Which object is reconciled next: a keyed queue with timers, one reconcile an object at a time.
//!
//! [`Schedule`] is pure and takes `now`; [`Queue`] is the shell that workers wait on. What always holds: a key is never
//! handed out twice at once; a wake that comes while its key is being worked on is not lost; what people changed goes before
//! periodic refreshes, which wait for their turn ([`crate::turns`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::turns::{Turn, Turns};

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
    /// The turn of its periodic refresh has come.
    pub turn: bool,
}

impl Wake {
    /// A timer ran out.
    pub fn timer(at: Instant) -> Self {
        Self { at, changed: false, store: false, target: false, turn: false }
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

    /// The turn of a periodic refresh that was due at `at` has come.
    pub fn turn(at: Instant) -> Self {
        Self { turn: true, ..Self::timer(at) }
    }

    fn merge(self, other: Self) -> Self {
        Self {
            at: self.at.max(other.at),
            changed: self.changed || other.changed,
            store: self.store || other.store,
            target: self.target || other.target,
            turn: self.turn || other.turn,
        }
    }
}

/// When a key wants to be seen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// When; a moment that is over sorts before later ones.
    pub at: Instant,
    /// For a periodic refresh, which waits for its turn then.
    pub turn: Option<Turn>,
    /// What was put off until then, if anything: its causes are not forgotten.
    pub again: Option<Wake>,
}

impl Next {
    /// At a moment.
    pub fn at(at: Instant) -> Self {
        Self { at, turn: None, again: None }
    }
}

#[derive(Default)]
struct Entry {
    running: bool,
    /// Set while the key waits in the lane, or for the end of its run.
    wake: Option<Wake>,
    timer: Option<Instant>,
    /// Whether the timer is that of a refresh, which waits for its turn.
    paced: bool,
    turn: Option<Turn>,
    again: Option<Wake>,
}

/// Refreshes of like intervals.
struct Class<K> {
    due: BTreeSet<(Instant, K)>,
    turns: Turns,
}

/// The pure part.
pub struct Schedule<K> {
    entries: HashMap<K, Entry>,
    lane: VecDeque<K>,
    timers: BTreeSet<(Instant, K)>,
    classes: BTreeMap<u32, Class<K>>,
    running: usize,
}

impl<K: Clone + Eq + Hash + Ord> Default for Schedule<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Ord> Schedule<K> {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self { entries: HashMap::new(), lane: VecDeque::new(), timers: BTreeSet::new(), classes: BTreeMap::new(), running: 0 }
    }

    fn class(&mut self, turn: Turn) -> &mut Class<K> {
        let new = || Class { due: BTreeSet::new(), turns: Turns::new(Instant::now()) };
        self.classes.entry(turn.class()).or_insert_with(new)
    }

    /// Asks for a reconcile as soon as possible.
    pub fn wake(&mut self, key: K, wake: Wake) {
        let entry = self.entries.entry(key.clone()).or_default();
        let waiting = entry.wake.is_some();
        entry.wake = Some(entry.wake.map_or(wake, |w| w.merge(wake)));
        if !waiting && !entry.running {
            self.lane.push_back(key);
        }
    }

    /// Asks for a reconcile when the turn of the key's refresh comes; at once when it has none.
    pub fn wake_in_turn(&mut self, key: K, wake: Wake) {
        match self.entries.get(&key) {
            Some(entry) if entry.turn.is_some() && entry.wake.is_none() => {
                let at = entry.timer.filter(|_| entry.paced).map_or(wake.at, |at| at.min(wake.at));
                self.set(key, Some(at), true);
            }
            _ => self.wake(key, wake),
        }
    }

    /// Sets the key's only timer.
    pub fn set_timer(&mut self, key: K, next: Option<Next>) {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.again = next.and_then(|n| n.again);
        if let Some(turn) = next.and_then(|n| n.turn).filter(|turn| entry.turn != Some(*turn)) {
            // Its timer stands in the class of its former turn.
            self.set(key.clone(), None, false);
            let old = self.entries.get_mut(&key).and_then(|entry| entry.turn.replace(turn));
            if let Some(old) = old {
                self.class(old).turns.leave(old);
            }
            self.class(turn).turns.join(turn);
        }
        self.set(key, next.map(|n| n.at), next.is_some_and(|n| n.turn.is_some()));
    }

    fn set(&mut self, key: K, at: Option<Instant>, paced: bool) {
        let entry = self.entries.entry(key.clone()).or_default();
        let turn = entry.turn;
        let old = entry.timer.take().map(|at| (at, entry.paced));
        (entry.timer, entry.paced) = (at, paced);
        if let Some((at, paced)) = old {
            self.timers(turn.filter(|_| paced)).remove(&(at, key.clone()));
        }
        if let Some(at) = at {
            self.timers(turn.filter(|_| paced)).insert((at, key));
        }
    }

    fn timers(&mut self, turn: Option<Turn>) -> &mut BTreeSet<(Instant, K)> {
        match turn {
            Some(turn) => &mut self.class(turn).due,
            None => &mut self.timers,
        }
    }

    /// The next key to work on: woken ones in their order, then timers that ran out, then refreshes whose turn it is; each
    /// oldest first.
    pub fn pop(&mut self, now: Instant) -> Option<(K, Wake)> {
        let popped = self.pop_lane().or_else(|| self.pop_timer(now)).or_else(|| self.pop_refresh(now));
        let (key, wake) = popped?;
        self.set(key.clone(), None, false);
        let mut wake = wake;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.running = true;
            wake = entry.again.take().map_or(wake, |again| again.merge(wake));
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
            if let Some(due) = self.take_due(key, Wake::timer(at)) {
                return Some(due);
            }
        }
        None
    }

    fn pop_refresh(&mut self, now: Instant) -> Option<(K, Wake)> {
        // The class whose first has waited longest goes first; one without credit lets the others go.
        let mut heads: Vec<(Instant, u32, K)> = Vec::new();
        for (class, all) in &self.classes {
            heads.extend(all.due.first().filter(|(at, _)| *at <= now).map(|(at, key)| (*at, *class, key.clone())));
        }
        heads.sort();
        for (at, class, key) in heads {
            let Some(turn) = self.entries.get(&key).and_then(|e| e.turn) else { continue };
            if self.classes.get_mut(&class).is_some_and(|all| all.turns.take(turn, now))
                && let Some(due) = self.take_due(key, Wake::turn(at))
            {
                return Some(due);
            }
        }
        None
    }

    /// A timer that runs out during a run becomes a wake of the next one.
    fn take_due(&mut self, key: K, wake: Wake) -> Option<(K, Wake)> {
        self.set(key.clone(), None, false);
        let entry = self.entries.get_mut(&key)?;
        if !entry.running {
            return Some((key, wake));
        }
        entry.wake = Some(entry.wake.map_or(wake, |w| w.merge(wake)));
        None
    }

    /// Ends a run; `next` is when the key wants to be seen again.
    pub fn done(&mut self, key: K, next: Option<Next>) {
        self.running -= 1;
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.running = false;
        if entry.wake.is_some() {
            self.lane.push_back(key.clone());
        }
        // A timer that was set meanwhile stands, if it is earlier.
        let meanwhile = entry.timer.map(|at| Next { at, turn: entry.turn.filter(|_| entry.paced), again: entry.again });
        let next = next.into_iter().chain(meanwhile).min_by_key(|n| n.at);
        if next.is_none() && entry.wake.is_none() {
            self.forget(&key);
        } else {
            self.set_timer(key, next);
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some(turn) = self.entries.remove(key).and_then(|e| e.turn) {
            let class = self.class(turn);
            class.turns.leave(turn);
            if class.turns.is_empty() && class.due.is_empty() {
                self.classes.remove(&turn.class());
            }
        }
    }

    /// When the next key can be handed out, if nothing else happens.
    pub fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let entries = &self.entries;
        let refreshes = self.classes.values_mut().filter_map(|class| {
            let (at, key) = class.due.first()?;
            let turn = entries.get(key).and_then(|e| e.turn)?;
            Some(class.turns.earliest(turn, now).max(*at))
        });
        refreshes.chain(timer).min()
    }

    /// How many keys wait for a worker, timers left out.
    pub fn waiting(&self) -> usize {
        self.lane.len()
    }

    /// How many refreshes are due and wait for their turn.
    pub fn overdue(&self, now: Instant) -> usize {
        self.classes.values().map(|class| class.due.iter().take_while(|(at, _)| *at <= now).count()).sum()
    }

    /// How many keys are being worked on.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Refreshes a second that the keys ask for, those that share a read counted once.
    pub fn steady_rate(&self) -> f64 {
        self.classes.values().map(|class| class.turns.steady()).sum()
    }

    /// The cause of the key that waits longest.
    pub fn oldest_cause(&self) -> Option<Instant> {
        self.lane.front().and_then(|key| self.entries.get(key)?.wake).map(|wake| wake.at)
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
        Self { schedule: Arc::new(Mutex::new(Schedule::new())), notify: Arc::default() }
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

    /// See [`Schedule::wake_in_turn`].
    pub fn wake_in_turn(&self, key: K, wake: Wake) {
        self.lock().wake_in_turn(key, wake);
        self.notify.notify_one();
    }

    /// See [`Schedule::done`].
    pub fn done(&self, key: K, next: Option<Next>) {
        self.lock().done(key, next);
        self.notify.notify_one();
    }

    /// Waits for the next key.
    pub async fn next(&self) -> (K, Wake) {
        loop {
            let timer = {
                let mut schedule = self.lock();
                let now = Instant::now();
                if let Some(next) = schedule.pop(now) {
                    return next;
                }
                schedule.next_timer(now)
            };
            match timer {
                Some(at) => tokio::select! { () = tokio::time::sleep_until(at) => {}, () = self.notify.notified() => {} },
                None => self.notify.notified().await,
            }
        }
    }

    /// See [`Schedule::oldest_cause`].
    pub fn oldest_cause(&self) -> Option<Instant> {
        self.lock().oldest_cause()
    }

    /// How many keys wait, how many refreshes wait for their turn, and how many keys are being worked on.
    pub fn depth(&self) -> Depth {
        let schedule = self.lock();
        Depth {
            waiting: schedule.waiting(),
            overdue: schedule.overdue(Instant::now()),
            running: schedule.running(),
            steady: schedule.steady_rate(),
        }
    }
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Depth {
    /// Keys that wait for a worker.
    pub waiting: usize,
    /// Refreshes that are due and wait for their turn.
    pub overdue: usize,
    /// Keys that are being worked on.
    pub running: usize,
    /// Refreshes a second that the keys ask for.
    pub steady: f64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn woken_keys_go_before_timers_and_timers_go_oldest_first() {
        let now = Instant::now();
        let mut s = Schedule::new();
        s.set_timer("late", alone(now - Duration::from_secs(1)));
        s.set_timer("later", alone(now - Duration::from_secs(2)));
        s.set_timer("future", alone(now + Duration::from_secs(1)));
        s.wake("changed", Wake::changed(now));
        let order: Vec<_> = std::iter::from_fn(|| s.pop(now).map(|(k, _)| k)).collect();
        assert_eq!(order, ["changed", "later", "late"]);
    }

    fn alone(at: Instant) -> Option<Next> {
        Some(Next::at(at))
    }

    fn refresh(group: u64, every_ms: u64, at: Instant) -> Option<Next> {
        Some(Next { turn: Some(Turn { group, every_ms }), ..Next::at(at) })
    }

    /// Everything that is handed out in each of the seconds from `start` on; each run ends at once, and its key is due again after
    /// its interval.
    fn by_second(s: &mut Schedule<u64>, start: Instant, seconds: u64, every_ms: u64) -> Vec<Vec<u64>> {
        let mut all = vec![Vec::new(); seconds as usize];
        for ms in 0..seconds * 1000 {
            let now = start + Duration::from_millis(ms);
            while let Some((key, wake)) = s.pop(now) {
                all[(ms / 1000) as usize].push(key);
                let due = if wake.turn { wake.at.max(now - Duration::from_millis(every_ms)) } else { now };
                s.done(key, refresh(key, every_ms, due + Duration::from_millis(every_ms)));
            }
        }
        all
    }

    #[test]
    fn what_is_overdue_is_served_oldest_first_at_twice_the_steady_rate_and_changes_go_before_it() {
        let start = Instant::now();
        let mut s = Schedule::new();
        // 600 objects at a minute: 10 a second. All were due in the last hour, as after a night without a leader.
        for key in 0..600 {
            s.set_timer(key, refresh(key, 60_000, start - Duration::from_secs(3600 - key * 5)));
        }
        s.wake(7777, Wake::changed(start));
        let seconds = by_second(&mut s, start, 60, 60_000);
        assert_eq!(seconds[0][0], 7777, "a person's change does not wait");
        let most = seconds.iter().map(Vec::len).max().unwrap();
        assert!(most <= 23, "{most}");
        let served: Vec<u64> = seconds.into_iter().flatten().filter(|k| *k != 7777).collect();
        assert!((580..=600).contains(&served.iter().collect::<std::collections::HashSet<_>>().len()), "{}", served.len());
        assert_eq!(served[..500], (0..500).collect::<Vec<_>>()[..], "oldest first");
    }

    #[test]
    fn objects_that_share_a_read_come_together_and_count_once() {
        let start = Instant::now();
        let mut s = Schedule::new();
        for key in 0..1000 {
            s.set_timer(key, refresh(1, 3_600_000, start));
        }
        s.set_timer(5000, refresh(2, 3_600_000, start + Duration::from_millis(1)));
        let mut first = Vec::new();
        while let Some((key, wake)) = s.pop(start + Duration::from_millis(5)) {
            assert!(wake.turn);
            first.push(key);
        }
        assert_eq!(first, (0..1000).collect::<Vec<_>>(), "the whole group, and not the next one");
        assert!((s.steady_rate() - 2.0 / 3600.0).abs() < 1e-8);
        let wait = s.next_timer(start).unwrap() - start;
        assert!((Duration::from_millis(900)..=Duration::from_secs(1)).contains(&wait), "{wait:?}");
    }

    /// Objects that share reads and whose first syncs took most of an interval: reads a second in each of the intervals after it.
    fn reads_after_a_slow_first_sync(groups: u64, sharing: u64, sync_s: u64, every_s: u64, intervals: u64) -> Vec<f64> {
        use jiff::Timestamp;
        let start = Instant::now();
        let wall = |at: Instant| Timestamp::from_millisecond(1_700_000_000_000 + (at - start).as_millis() as i64).unwrap();
        let turn = |key: u64| Turn { group: crate::keys::stable_hash(&[&(key % groups).to_string()]), every_ms: every_s * 1000 };
        let due = |key: u64, last: Instant| {
            let wait = turn(key).after(wall(last)).duration_since(wall(last));
            Some(Next { turn: Some(turn(key)), ..Next::at(last + Duration::try_from(wait).unwrap()) })
        };
        let mut s = Schedule::new();
        let all = groups * sharing;
        for key in 0..all {
            s.set_timer(key, due(key, start + Duration::from_millis(sync_s * 1000 * key / all)));
        }
        let begun = start + Duration::from_secs(sync_s);
        let mut answers: HashMap<u64, Instant> = HashMap::new();
        let mut reads = vec![0u64; intervals as usize];
        for ms in (0..intervals * every_s * 1000).step_by(5) {
            let now = begun + Duration::from_millis(ms);
            while let Some((key, wake)) = s.pop(now) {
                // As a refresh asks: an answer that is young against the interval will do.
                let slack = Duration::from_millis(every_s * 100);
                let since = (wake.at - slack).max(now - slack);
                if answers.get(&(key % groups)).is_none_or(|at| *at < since) {
                    answers.insert(key % groups, now);
                    reads[(ms / every_s / 1000) as usize] += 1;
                }
                s.done(key, due(key, now));
            }
        }
        reads.into_iter().map(|n| n as f64 / groups as f64).collect()
    }

    #[test]
    fn groups_whose_first_syncs_were_far_apart_come_together_within_some_intervals() {
        for (groups, sharing, sync_s) in [(100, 10, 40), (100, 10, 60), (100, 100, 55), (400, 3, 20)] {
            let reads = reads_after_a_slow_first_sync(groups, sharing, sync_s, 60, 4);
            assert!(reads.iter().all(|n| *n <= 2.0), "{groups} {sharing} {sync_s}: {reads:?}");
            assert_eq!(reads[2..], [1.0, 1.0], "{groups} {sharing} {sync_s}: {reads:?}");
        }
    }

    /// As the plan decides it: a wall clock that was set makes nothing due at once, and nothing late by more than its interval.
    #[test]
    fn a_step_of_the_wall_clock_makes_no_peak_and_loses_no_refresh() {
        use jiff::Timestamp;
        let start = Instant::now();
        let every_ms = 60_000;
        let turn = |key: u64| Turn { group: crate::keys::stable_hash(&[&key.to_string()]), every_ms };
        // Two hours forward, and later four back; an odd number of seconds, so that no phase stays where it was.
        let wall = |ms: u64| {
            let step = if ms < 200_000 {
                0
            } else if ms < 400_000 {
                7_217_000
            } else {
                -7_213_000
            };
            Timestamp::from_millisecond(1_700_000_000_000 + ms as i64 + step).unwrap()
        };
        let wait = |key: u64, last: Timestamp, now: Timestamp| {
            let due = if last > now { now } else { turn(key).after(last) };
            Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO)
        };
        let next = |key: u64, at: Instant| Some(Next { turn: Some(turn(key)), ..Next::at(at) });
        let mut s = Schedule::new();
        let mut last: Vec<(Timestamp, u64)> = vec![(wall(0), 0); 300];
        (0..300).for_each(|key| s.set_timer(key, next(key, start + wait(key, wall(0), wall(0)))));
        let mut seconds = vec![0u64; 600];
        let mut longest = 0;
        for ms in (0..600_000).step_by(10) {
            let now = start + Duration::from_millis(ms);
            while let Some((key, _)) = s.pop(now) {
                let (refreshed, at) = last[key as usize];
                let left = wait(key, refreshed, wall(ms));
                if left.is_zero() {
                    longest = longest.max(ms - at);
                    last[key as usize] = (wall(ms), ms);
                    seconds[(ms / 1000) as usize] += 1;
                    s.done(key, next(key, now + wait(key, wall(ms), wall(ms))));
                } else {
                    s.done(key, next(key, now + left));
                }
            }
        }
        // Five a second are asked for.
        let most = seconds.iter().max().unwrap();
        assert!(*most <= 11, "{most}: {seconds:?}");
        assert!(longest <= 2 * every_ms, "{longest} ms");
        assert!(last.iter().all(|(_, at)| *at > 530_000), "all are refreshed to the end");
    }

    #[test]
    fn a_backlog_of_long_intervals_does_not_hold_up_short_ones() {
        let start = Instant::now();
        let mut s = Schedule::new();
        for key in 0..10_000 {
            s.set_timer(key, refresh(key, 86_400_000, start - Duration::from_secs(7200)));
        }
        for key in 20_000..20_060 {
            s.set_timer(key, refresh(key, 60_000, start + Duration::from_secs(key - 20_000)));
        }
        let mut late = Duration::ZERO;
        for ms in 0..60_000 {
            let now = start + Duration::from_millis(ms);
            while let Some((key, wake)) = s.pop(now) {
                if key >= 20_000 {
                    late = late.max(now - wake.at);
                }
                s.done(key, None);
            }
        }
        assert!(late < Duration::from_secs(2), "{late:?}");
        assert!(s.overdue(start + Duration::from_secs(60)) > 9_000);
    }

    #[test]
    fn what_is_put_off_keeps_its_causes() {
        let now = Instant::now();
        let mut s = Schedule::new();
        s.wake("a", Wake::store(now));
        let (key, wake) = s.pop(now).expect("a");
        let later = now + Duration::from_secs(5);
        s.done(key, Some(Next { again: Some(wake), ..Next::at(later) }));
        assert!(s.pop(now).is_none());
        assert_eq!(s.pop(later).expect("a").1, Wake { at: later, ..Wake::store(now) });
    }

    #[test]
    fn a_wake_in_turn_is_a_refresh_for_those_that_have_one_and_at_once_for_others() {
        let start = Instant::now();
        let mut s = Schedule::new();
        for key in 0..3 {
            s.set_timer(key, refresh(key, 60_000, start + Duration::from_secs(50)));
        }
        for key in 0..4 {
            s.wake_in_turn(key, Wake::store(start));
        }
        assert_eq!(s.pop(start).unwrap(), (3, Wake::store(start)));
        assert_eq!(s.pop(start).unwrap(), (0, Wake::turn(start)));
        assert!(s.pop(start).is_none(), "the next has to wait for its turn");
        assert_eq!(s.overdue(start), 2);
    }

    #[test]
    fn a_wake_during_a_run_makes_one_more_run_that_knows_all_causes() {
        let now = Instant::now();
        let mut s = Schedule::new();
        s.wake("a", Wake::changed(now));
        let (key, _) = s.pop(now).expect("a");
        s.wake("a", Wake::target(now));
        s.wake("a", Wake::store(now + Duration::from_secs(1)));
        assert!(s.pop(now).is_none(), "never twice at once");
        s.done(key, alone(now + Duration::from_secs(60)));
        let (_, wake) = s.pop(now).expect("a again");
        assert_eq!(wake, Wake { target: true, ..Wake::store(now + Duration::from_secs(1)) });
        s.done("a", None);
        assert!(s.pop(now).is_none());
        assert_eq!((s.waiting(), s.running(), s.entries.len()), (0, 0, 0));
    }

    proptest! {
        /// Whatever happens in whatever order: no key runs twice at once, and every wake and timer is followed by a run that began after it.
        #[test]
        fn no_wake_is_lost_and_no_key_runs_twice(steps in proptest::collection::vec((0u8..6, 0u8..5), 1..300)) {
            let start = Instant::now();
            let mut s = Schedule::<u8>::new();
            let mut running = std::collections::HashSet::new();
            let mut owed = std::collections::HashSet::new();
            for (i, (action, key)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(i as u64);
                match action {
                    0 => { s.wake(key, Wake::changed(now)); owed.insert(key); }
                    1 => { s.set_timer(key, alone(now + Duration::from_secs(3))); owed.insert(key); }
                    4 => { s.set_timer(key, refresh(u64::from(key / 2), 60_000, now + Duration::from_secs(3))); owed.insert(key); }
                    5 => { s.wake_in_turn(key, Wake::store(now)); owed.insert(key); }
                    2 => if let Some((key, _)) = s.pop(now) {
                        prop_assert!(running.insert(key));
                        owed.remove(&key);
                    },
                    _ => if running.remove(&key) { s.done(key, None) },
                }
            }
            for key in running.drain() { s.done(key, None); }
            let mut end = start + Duration::from_secs(10_000);
            for _ in 0..20 {
                while let Some((key, _)) = s.pop(end) { owed.remove(&key); s.done(key, None); }
                end += Duration::from_secs(2);
            }
            prop_assert!(owed.is_empty());
            prop_assert_eq!(s.running(), 0);
            prop_assert!(s.entries.is_empty() && s.steady_rate() == 0.0);
        }
    }
}
