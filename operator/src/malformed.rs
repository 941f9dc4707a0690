//! Objects that do not parse: what is wrong with them, and whether they were told.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use lockstep_crds::conditions::{Condition, ConditionType};
use lockstep_crds::external_secret::StoreRef;
use serde::Deserialize;
use serde_json::Value;

use crate::external_secret::status::rfc3339;

/// What could be read of an object that does not parse.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Odd {
    /// The parser's words, without anything of the object.
    pub why: String,
    /// A store's class.
    pub controller: Option<String>,
    /// The stores that an ExternalSecret reads from.
    pub stores: Vec<StoreRef>,
    /// Its status' conditions.
    conditions: Vec<Condition>,
}

impl Odd {
    /// From an object's JSON.
    pub fn of(why: String, raw: &str) -> Self {
        let all: Value = serde_json::from_str(raw).unwrap_or_default();
        let spec = &all["spec"];
        let entries = ["data", "dataFrom"].iter().filter_map(|list| spec[*list].as_array()).flatten();
        let named = entries.map(|entry| &entry["sourceRef"]["storeRef"]).chain([&spec["secretStoreRef"]]);
        let conditions = all["status"]["conditions"].as_array().into_iter().flatten();
        Self {
            why,
            controller: spec["controller"].as_str().map(str::to_owned),
            stores: named.filter_map(|r| StoreRef::deserialize(r).ok()).collect(),
            conditions: conditions.filter_map(|c| Condition::deserialize(c).ok()).collect(),
        }
    }

    /// The conditions that say so, others' kept; none when the object says it already.
    pub fn conditions(&self, reason: &str, now: Timestamp) -> Option<Vec<Condition>> {
        let ready = ConditionType::Ready.as_str();
        let mut said = Condition {
            type_: ready.into(),
            status: "False".into(),
            reason: Some(reason.into()),
            message: Some(format!("the object does not parse: {}; correct it, or install the CRDs of this version", self.why)),
            last_transition_time: Some(rfc3339(now)),
        };
        if let Some(there) = self.conditions.iter().find(|c| c.type_ == ready && c.status == said.status) {
            said.last_transition_time.clone_from(&there.last_transition_time);
            if *there == said {
                return None;
            }
        }
        Some(self.conditions.iter().filter(|c| c.type_ != ready).cloned().chain([said]).collect())
    }
}

struct Entry {
    generation: Option<i64>,
    odd: Odd,
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
    pub fn seen(&self, key: K, generation: Option<i64>, odd: Odd) -> bool {
        let mut all = self.lock();
        let news = all.get(&key).is_none_or(|known| known.generation != generation);
        if news {
            all.insert(key, Entry { generation, odd, told: false });
        }
        news
    }

    /// It parses, or is gone.
    pub fn mended(&self, key: &K) {
        self.lock().remove(key);
    }

    /// What is still to be told about one.
    pub fn untold(&self, key: &K) -> Option<Odd> {
        self.lock().get(key).filter(|entry| !entry.told).map(|entry| entry.odd.clone())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_of_others_are_kept_and_what_is_said_already_is_not_said_again() {
        let raw = json!({
            "spec": {"controller": "theirs", "secretStoreRef": {"name": "a"}, "data": [{"sourceRef": {"storeRef": {"name": "b"}}}],
                "dataFrom": "nonsense"},
            "status": {"conditions": [{"type": "Theirs", "status": "True"}, {"type": "Ready", "status": "True"}, 7]},
        });
        let odd = Odd::of("unknown variant".into(), &raw.to_string());
        assert_eq!(odd.controller.as_deref(), Some("theirs"));
        assert_eq!(odd.stores.iter().filter_map(|s| s.name.as_deref()).collect::<Vec<_>>(), ["b", "a"]);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let told = odd.conditions("SecretSyncedError", now).unwrap();
        assert_eq!(
            told.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect::<Vec<_>>(),
            [("Theirs", "True"), ("Ready", "False")]
        );
        let later = "2026-01-01T01:00:00Z".parse().unwrap();
        let again = Odd { conditions: told.clone(), ..odd.clone() };
        assert_eq!(again.conditions("SecretSyncedError", later), None);
        let other = Odd { why: "missing field".into(), conditions: told.clone(), ..odd };
        let other = other.conditions("SecretSyncedError", later).unwrap();
        assert_eq!(other[1].last_transition_time, told[1].last_transition_time, "it was False before");
    }
}
