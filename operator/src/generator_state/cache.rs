//! The GeneratorStates that there are, and what this process knows of their leases beside that.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use kube::ResourceExt;
use lockstep_crds::GeneratorState;
use lockstep_crds::conditions::Condition;
use lockstep_crds::generator::state::FINALIZER;
use lockstep_providers::generator::{Held, Lease};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan;
use crate::generator::{Definition, GeneratorIdentity, Undefined};
use crate::keys::{ObjectKey, Referrer};

/// `spec.state`, as Lockstep writes it: never a value.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// What is kept alive.
    pub lease: Lease,
    /// Which of its owner's generators it is of.
    pub slot: String,
    /// When it was made.
    pub issued: Timestamp,
    /// It is about to be made: if nobody is at it any more, it is given back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// One GeneratorState.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its UID.
    pub uid: String,
    /// Its resource version.
    pub version: String,
    /// The object that uses it, and that one's UID.
    pub owner: Option<(Referrer, String)>,
    /// What it stands for.
    pub state: State,
    /// The generator as it was then.
    pub resource: Arc<Value>,
    /// Who that is; none when that can't be told any more.
    pub identity: Option<GeneratorIdentity>,
    /// When it is taken back.
    pub deadline: Option<Timestamp>,
    /// Since when it is being deleted.
    pub deleted: Option<Timestamp>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What this process knows.
    pub known: Known,
}

/// What this process knows of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Until when it holds, as far as that was told.
    pub until: Option<Timestamp>,
    /// It holds no longer, or not for long: another one is to be made.
    pub ended: bool,
    /// Failures in a row.
    pub failures: u32,
    /// When it is looked at again.
    pub next: Option<Timestamp>,
    /// When it is tried again to give it back.
    pub revoke_at: Option<Timestamp>,
    /// The longest time, in seconds, for which what it hangs on was prolonged.
    pub within: Option<u64>,
}

impl Entry {
    /// From the object; none of another operator's, or of another class.
    pub fn of(object: &GeneratorState, class: &str) -> Option<Self> {
        let state = State::deserialize(&object.spec.state).ok()?;
        let namespace: Arc<str> = object.namespace()?.into();
        let owner = object.owner_references().iter().find_map(|owner| {
            let key = ObjectKey { namespace: namespace.clone(), name: owner.name.as_str().into() };
            let referrer = match owner.kind.as_str() {
                "ExternalSecret" => Referrer::ExternalSecret(key),
                "PushSecret" => Referrer::PushSecret(key),
                _ => return None,
            };
            Some((referrer, owner.uid.clone()))
        });
        let identity = match Definition::of_resource(&namespace, &object.spec.resource, class) {
            Ok(definition) => Some(definition.identity),
            Err(Undefined::Foreign(_)) => return None,
            Err(Undefined::Wrong(_)) => None,
        };
        let time = |text: &Option<String>| text.as_deref().and_then(|t| t.parse().ok());
        Some(Self {
            uid: object.uid()?,
            version: object.resource_version().unwrap_or_default(),
            owner,
            state,
            resource: Arc::new(object.spec.resource.clone()),
            identity,
            deadline: time(&object.spec.garbage_collection_deadline),
            deleted: object.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            finalizers: object.finalizers().to_vec(),
            conditions: object.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default(),
            known: Known::default(),
        })
    }

    /// Who writes it: the replica that has its owner.
    pub fn home<'a>(&'a self, key: &'a ObjectKey) -> &'a ObjectKey {
        self.owner.as_ref().map_or(key, |(owner, _)| owner.key())
    }

    /// Whether it may still be used.
    pub fn is_current(&self) -> bool {
        self.deadline.is_none() && self.deleted.is_none() && !self.state.pending
    }

    /// Whether it keeps itself until its lease is given back.
    pub fn is_kept(&self) -> bool {
        self.finalizers.iter().any(|f| f == FINALIZER)
    }
}

/// All of them.
#[derive(Default)]
pub struct GeneratorStates {
    all: Mutex<HashMap<ObjectKey, Entry>>,
    filled: AtomicUsize,
    /// What this process is about to have issued: UIDs, and names that have no UID yet.
    at_work: Mutex<(HashSet<String>, HashSet<ObjectKey>)>,
}

/// A GeneratorState that is being created.
pub struct Expected<'a>(&'a GeneratorStates, ObjectKey);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.at_work().1.remove(&self.1);
    }
}

impl GeneratorStates {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Entry>> {
        self.all.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn at_work(&self) -> MutexGuard<'_, (HashSet<String>, HashSet<ObjectKey>)> {
        self.at_work.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One of that name is being created for what is about to be issued.
    pub fn expect(&self, key: &ObjectKey) -> Expected<'_> {
        self.at_work().1.insert(key.clone());
        Expected(self, key.clone())
    }

    /// It has this UID.
    pub fn begun(&self, uid: &str) {
        self.at_work().0.insert(uid.to_owned());
    }

    /// Nobody is at it any more.
    pub fn settled(&self, uid: &str) {
        self.at_work().0.remove(uid);
    }

    /// Whether this process is about to have something issued for it.
    pub fn is_at_work(&self, key: &ObjectKey, uid: &str) -> bool {
        let at_work = self.at_work();
        at_work.0.contains(uid) || at_work.1.contains(key)
    }

    /// What was about to be issued is: the watch's echo tells nothing new.
    pub fn filled_in(&self, key: &ObjectKey, uid: &str, state: State, version: String, now: Timestamp) {
        if let Some(entry) = self.lock().get_mut(key).filter(|entry| entry.uid == uid) {
            let seconds = state.lease.seconds;
            entry.known = plan::held(seconds, Held { seconds, within: None }, &Known::default(), now);
            entry.state = state;
            entry.version = version;
        }
    }

    /// This process wrote its status: what a watch shows of an earlier time tells nothing of it.
    pub fn told(&self, key: &ObjectKey, uid: &str, version: String, conditions: Vec<Condition>) {
        if let Some(entry) = self.lock().get_mut(key).filter(|entry| entry.uid == uid) {
            entry.version = version;
            entry.conditions = conditions;
        }
    }

    /// Whether so many watches have shown all that there were at the start.
    pub fn is_filled(&self, watches: usize) -> bool {
        self.filled.load(Ordering::SeqCst) >= watches
    }

    /// One watch has shown all that there were.
    pub fn fill(&self) {
        self.filled.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one in, keeping what is known of it.
    pub fn applied(&self, key: &ObjectKey, mut entry: Entry) {
        let mut all = self.lock();
        if let Some(before) = all.get(key).filter(|before| before.uid == entry.uid) {
            let newer = |a: &str, b: &str| matches!((a.parse::<u64>(), b.parse::<u64>()), (Ok(a), Ok(b)) if a > b);
            if newer(&before.version, &entry.version) {
                return;
            }
            entry.known = before.known.clone();
        }
        all.insert(key.clone(), entry);
    }

    /// Lets one go; answers whose it was.
    pub fn deleted(&self, key: &ObjectKey) -> Option<Referrer> {
        self.lock().remove(key).and_then(|entry| entry.owner).map(|(owner, _)| owner)
    }

    /// One of them.
    pub fn get(&self, key: &ObjectKey) -> Option<Entry> {
        self.lock().get(key).cloned()
    }

    /// The keys of all.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.lock().keys().cloned().collect()
    }

    /// The youngest of an owner's slot that may still be used.
    pub fn current(&self, owner: &str, slot: &str) -> Option<(ObjectKey, Entry)> {
        let all = self.lock();
        let of_slot = |entry: &&Entry| entry.owner.as_ref().is_some_and(|(_, uid)| uid == owner) && entry.state.slot == slot;
        let current = all.iter().filter(|(_, entry)| of_slot(entry) && entry.is_current());
        current.max_by_key(|(key, entry)| (entry.state.issued, (*key).clone())).map(|(key, entry)| (key.clone(), entry.clone()))
    }

    /// All of an owner.
    pub fn of_owner(&self, owner: &str) -> Vec<ObjectKey> {
        let all = self.lock();
        let of = |entry: &Entry| entry.owner.as_ref().is_some_and(|(_, uid)| uid == owner);
        all.iter().filter(|(_, entry)| of(entry)).map(|(key, _)| key.clone()).collect()
    }

    /// All of an object of that name.
    pub fn of_referrer(&self, referrer: &Referrer) -> Vec<ObjectKey> {
        let all = self.lock();
        let of = |entry: &Entry| entry.owner.as_ref().is_some_and(|(owner, _)| owner == referrer);
        all.iter().filter(|(_, entry)| of(entry)).map(|(key, _)| key.clone()).collect()
    }

    /// Whether something that an owner uses has ended.
    pub fn has_lapsed(&self, owner: &str) -> bool {
        let all = self.lock();
        let mut youngest: HashMap<&str, &Entry> = HashMap::new();
        let of = |entry: &&Entry| entry.is_current() && entry.owner.as_ref().is_some_and(|(_, uid)| uid == owner);
        for entry in all.values().filter(of) {
            let known = youngest.entry(&entry.state.slot).or_insert(entry);
            if known.state.issued < entry.state.issued {
                *known = entry;
            }
        }
        youngest.values().any(|entry| entry.known.ended)
    }

    /// Whether one of them was made by a generator, and will be given back by it.
    pub fn uses(&self, identity: &GeneratorIdentity) -> bool {
        self.lock().values().any(|entry| entry.identity.as_ref() == Some(identity))
    }

    /// Remembers what is known of one.
    pub fn remember(&self, key: &ObjectKey, uid: &str, known: Known) {
        if let Some(entry) = self.lock().get_mut(key).filter(|entry| entry.uid == uid) {
            entry.known = known;
        }
    }
}
