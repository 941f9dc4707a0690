//! Which objects this replica may write, and until when: the fence that every write passes.
//!
//! An object belongs to a shard by its namespace and name; a single leader has the one shard that there is. A shard is held
//! until a moment by this process' own monotonic clock, and a lease that is not renewed in time runs out here before it does for
//! others: a process that was paused finds the moment over when it goes on, and writes nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::keys::{ObjectKey, StoreKey, stable_hash};

/// For how long a shard is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Not at all.
    No,
    /// Until then, unless it is prolonged.
    Until(Instant),
    /// For as long as this process lives: nobody else works.
    Forever,
}

impl Hold {
    fn is_good(self, now: Instant) -> bool {
        match self {
            Self::No => false,
            Self::Until(end) => now < end,
            Self::Forever => true,
        }
    }
}

struct Shard {
    hold: RwLock<Hold>,
    /// How often it was gained: what was begun before that knows nothing of what others did in between.
    epoch: AtomicU64,
    writing: Arc<AtomicUsize>,
}

/// The shards and their holds.
pub struct Ownership(Vec<Shard>);

/// A write under way: a shard is not handed on before it has ended.
pub struct Write {
    writing: Arc<AtomicUsize>,
    /// When the hold ends.
    pub until: Option<Instant>,
}

impl Drop for Write {
    fn drop(&mut self) {
        self.writing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ownership {
    /// `shards` of them, each with this hold.
    pub fn new(shards: usize, hold: Hold) -> Self {
        let shard = || Shard { hold: RwLock::new(hold), epoch: AtomicU64::new(0), writing: Arc::default() };
        Self((0..shards.max(1)).map(|_| shard()).collect())
    }

    fn hold(&self, shard: usize) -> RwLockReadGuard<'_, Hold> {
        self.0[shard].hold.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// Holds a shard for another time, or no longer.
    pub fn set(&self, shard: usize, hold: Hold) {
        *self.0[shard].hold.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = hold;
    }

    /// Holds a shard for another time; answers whether it was held without a gap.
    pub fn prolong(&self, shard: usize, until: Instant) -> bool {
        let mut hold = self.0[shard].hold.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let unbroken = hold.is_good(Instant::now());
        *hold = Hold::Until(until);
        unbroken
    }

    /// Takes every shard away, and waits until no write is under way: at most so long.
    pub async fn end(&self, within: Duration) {
        (0..self.shards()).for_each(|shard| self.set(shard, Hold::No));
        let end = Instant::now() + within;
        while self.is_writing() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether any write is under way.
    pub fn is_writing(&self) -> bool {
        (0..self.shards()).any(|shard| self.writing(shard) > 0)
    }

    /// Whether a shard is held.
    pub fn holds(&self, shard: usize, now: Instant) -> bool {
        self.hold(shard).is_good(now)
    }

    /// The shards that are held.
    pub fn held(&self, now: Instant) -> Vec<usize> {
        (0..self.shards()).filter(|shard| self.holds(*shard, now)).collect()
    }

    /// How many writes of a shard are under way.
    pub fn writing(&self, shard: usize) -> usize {
        self.0[shard].writing.load(Ordering::SeqCst)
    }

    /// An object's shard: the same in every replica of every version.
    pub fn shard_of(&self, key: &ObjectKey) -> usize {
        self.shard(&key.namespace, &key.name)
    }

    /// A store's shard: who has it writes its status.
    pub fn shard_of_store(&self, key: &StoreKey) -> usize {
        self.shard(key.namespace.as_deref().unwrap_or_default(), &key.name)
    }

    fn shard(&self, namespace: &str, name: &str) -> usize {
        (stable_hash(&[namespace, name]) % self.shards() as u64) as usize
    }

    /// A shard is held anew.
    pub fn begin_epoch(&self, shard: usize) {
        self.0[shard].epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The epoch of an object's shard, if the object is this replica's.
    pub fn epoch(&self, key: &ObjectKey) -> Option<u64> {
        let shard = self.shard_of(key);
        let epoch = self.0[shard].epoch.load(Ordering::SeqCst);
        self.holds(shard, Instant::now()).then_some(epoch)
    }

    /// Whether an object is this replica's.
    pub fn owns(&self, key: &ObjectKey) -> bool {
        self.holds(self.shard_of(key), Instant::now())
    }

    /// Whether a store is this replica's.
    pub fn owns_store(&self, key: &StoreKey) -> bool {
        self.holds(self.shard_of_store(key), Instant::now())
    }

    /// Begins a write for an object or store of this shard; none when it is not held any more.
    pub fn begin_write(&self, shard: usize) -> Option<Write> {
        let hold = self.hold(shard);
        if !hold.is_good(Instant::now()) {
            return None;
        }
        // Counted while the hold can't be taken away: whoever takes it then waits for this write.
        let writing = self.0[shard].writing.clone();
        writing.fetch_add(1, Ordering::SeqCst);
        let until = if let Hold::Until(end) = *hold { Some(end) } else { None };
        Some(Write { writing, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_spread_over_the_shards_and_keep_their_place() {
        let ownership = Ownership::new(8, Hold::Forever);
        let mut counts = [0; 8];
        for i in 0..8000 {
            counts[ownership.shard_of(&ObjectKey::new("team", &format!("app-{i}")))] += 1;
        }
        assert!(counts.iter().all(|n| (850..=1150).contains(n)), "{counts:?}");
        // Replicas of different versions must agree: these are facts of the format.
        let shards = ["app-1", "app-2", "app-3"].map(|name| ownership.shard_of(&ObjectKey::new("team", name)));
        assert_eq!(shards, [4, 6, 7]);
        assert_ne!(stable_hash(&["ab", "c"]), stable_hash(&["a", "bc"]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_ran_out_lets_nothing_through_and_writes_under_way_are_counted() {
        let ownership = Ownership::new(1, Hold::No);
        assert!(ownership.begin_write(0).is_none());
        ownership.set(0, Hold::Until(Instant::now() + Duration::from_secs(10)));
        let write = ownership.begin_write(0).unwrap();
        assert_eq!((write.until.is_some(), ownership.writing(0)), (true, 1));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(ownership.begin_write(0).is_none() && ownership.held(Instant::now()).is_empty());
        drop(write);
        assert_eq!(ownership.writing(0), 0);
        let until = Instant::now() + Duration::from_secs(10);
        assert!(!ownership.prolong(0, until), "there was a gap: what was put off meanwhile has to be looked at again");
        assert!(ownership.prolong(0, until));
    }
}
