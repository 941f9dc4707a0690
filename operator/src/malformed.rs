//! Objects that do not parse: what is wrong with them, and whether they were told.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use lockstep_crds::conditions::{Condition, ConditionType};

use crate::external_secret::status::rfc3339;

struct Entry {
    generation: Option<i64>,
    why: String,
    told: bool,
}

/// Those of one kind.
pub struct Malformed<K>(Mutex<HashMap<K, Entry>>);

impl<K> Default for Malformed<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Malformed<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One was seen; answers whether this generation of it is news.
    pub fn seen(&self, key: K, generation: Option<i64>, why: &str) -> bool {
        let mut all = self.lock();
        let news = all.get(&key).is_none_or(|known| known.generation != generation);
        if news {
            all.insert(key, Entry { generation, why: why.to_owned(), told: false });
        }
        news
    }

    /// It parses, or is gone.
    pub fn mended(&self, key: &K) {
        self.lock().remove(key);
    }

    /// What is still to be told about one.
    pub fn untold(&self, key: &K) -> Option<String> {
        self.lock().get(key).filter(|entry| !entry.told).map(|entry| entry.why.clone())
    }

    /// It was told.
    pub fn told(&self, key: &K) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.told = true;
        }
    }

    /// All of them.
    pub fn keys(&self) -> Vec<K> {
        self.lock().keys().cloned().collect()
    }
}

/// The condition of such an object.
pub fn condition(reason: &str, why: &str, now: Timestamp) -> Condition {
    Condition {
        type_: ConditionType::Ready.as_str().into(),
        status: "False".into(),
        reason: Some(reason.into()),
        message: Some(format!("the object does not parse: {why}; correct it, or install the CRDs of this version")),
        last_transition_time: Some(rfc3339(now)),
    }
}
