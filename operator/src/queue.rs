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

use crate::turns::{Taken, Turn, Turns};

/// Why an object is reconciled; wakes that meet are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The moment of the latest cause: what a provider is asked must not be older.
    pub at: Instant,
    /// The object was created or changed.
    pub changed: bool,
    /// Its store, or something that the store refers to, changed or came back.
    pub store: bool,
    /// A generator or a template that it refers to changed, or what a generator made has ended; of a store: a user was refused.
    pub source: bool,
    /// Its target was touched.
    pub target: bool,
    /// The turn of its periodic refresh has come.
    pub turn: bool,
}

impl Wake {
    /// A timer ran out.
    pub fn timer(at: Instant) -> Self {
        Self { at, changed: false, store: false, source: false, target: false, turn: false }
    }

    /// The object changed.
    pub fn changed(at: Instant) -> Self {
        Self { changed: true, ..Self::timer(at) }
    }

    /// The store changed.
    pub fn store(at: Instant) -> Self {
        Self { store: true, ..Self::timer(at) }
    }

    /// A generator or a template changed.
    pub fn source(at: Instant) -> Self {
        Self { source: true, ..Self::timer(at) }
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
            source: self.source || other.source,
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
    /// When its turn came last.
    served: Option<Instant>,
    again: Option<Wake>,
}

/// Refreshes of like intervals.
struct Class<K> {
    /// By moment, then by group: those that share a read and are due at once follow each other, and count once.
    due: BTreeSet<(Instant, u64, K)>,
    turns: Turns,
}

/// How many refreshes of a backlog are looked through for others of a group.
const LOOK: usize = 16_384;

impl<K: Clone + Ord> Class<K> {
    /// Others of a group that is served late, which are overdue since another moment or are due soon: they go along for nothing, and
    /// come together from then on. Else each moment would take a read of its own, and the backlog that this makes would last: who is
    /// served late by a third of the interval does not get to its phase ([`Turn::after`]).
    ///
    /// Some of them may have been served a moment ago.
    fn others(&self, turn: Turn, first: &K, since: Instant, now: Instant) -> Vec<K> {
        if now.saturating_duration_since(since) < turn.apart() {
            return Vec::new();
        }
        let soon = now + turn.apart();
        let near = self.due.iter().take_while(|(at, ..)| *at <= soon).take(LOOK);
        near.filter(|(at, group, key)| *group == turn.group && *at != since && key != first)
            .map(|(.., key)| key.clone())
            .collect()
    }
}

/// The pure part.
pub struct Schedule<K> {
    entries: HashMap<K, Entry>,
    lane: VecDeque<K>,
    timers: BTreeSet<(Instant, K)>,
    classes: BTreeMap<u32, Class<K>>,
    running: usize,
    #[cfg(test)]
    stands: Stands,
}

/// Under virtual time a hot loop lets no time pass: it is to be a failed test, and not one without an end.
#[cfg(test)]
#[derive(Default)]
struct Stands(Option<(Instant, usize)>);

#[cfg(test)]
impl Stands {
    fn count(&mut self, now: Instant, keys: usize) {
        let before = self.0.filter(|(at, _)| *at == now).map_or(0, |(_, n)| n);
        self.0 = Some((now, before + 1));
        assert!(before < 100 * (keys + 10), "{before} runs of {keys} keys, and no time has passed");
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Schedule<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Ord> Schedule<K> {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self {
            entries: HashMap::new(),
            lane: VecDeque::new(),
            timers: BTreeSet::new(),
            classes: BTreeMap::new(),
            running: 0,
            #[cfg(test)]
            stands: Stands::default(),
        }
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
            match turn.filter(|_| paced) {
                Some(turn) => self.class(turn).due.remove(&(at, turn.group, key.clone())),
                None => self.timers.remove(&(at, key.clone())),
            };
        }
        if let Some(at) = at {
            match turn.filter(|_| paced) {
                Some(turn) => self.class(turn).due.insert((at, turn.group, key)),
                None => self.timers.insert((at, key)),
            };
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
            if wake.turn {
                entry.served = Some(now);
            }
        }
        self.running += 1;
        #[cfg(test)]
        self.stands.count(now, self.entries.len());
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
            heads.extend(all.due.first().filter(|(at, ..)| *at <= now).map(|(at, _, key)| (*at, *class, key.clone())));
        }
        heads.sort();
        for (at, class, key) in heads {
            let Some(turn) = self.entries.get(&key).and_then(|e| e.turn) else { continue };
            let Some(all) = self.classes.get_mut(&class) else { continue };
            let taken = all.turns.take(turn, now);
            if taken == Taken::Anew {
                let others = all.others(turn, &key, at, now);
                others.into_iter().for_each(|key| self.go_along(key, turn, at, now));
            }
            if taken != Taken::No
                && let Some(due) = self.take_due(key, Wake::turn(at))
            {
                return Some(due);
            }
        }
        None
    }

    /// One that was served a moment ago does not: else two of a group, both due again at once because they are told the time in whole
    /// seconds, would take each other along forever.
    fn go_along(&mut self, key: K, turn: Turn, at: Instant, now: Instant) {
        let served = self.entries.get(&key).and_then(|entry| entry.served);
        if served.is_none_or(|served| now.saturating_duration_since(served) >= turn.apart()) {
            self.set(key, Some(at), true);
        }
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
            let (at, _, key) = class.due.first()?;
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
        self.classes.values().map(|class| class.due.iter().take_while(|(at, ..)| *at <= now).count()).sum()
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
#[path = "queue_tests.rs"]
mod tests;
