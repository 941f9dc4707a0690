//! What the watches have shown, and the indices over it: everything that [`crate::external_secret::plan`] observes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use kube::ResourceExt;
use lockstep_crds::external_secret::CreationPolicy;
use lockstep_crds::store::{SecretStoreStatus, StoreCondition};
use lockstep_crds::{ExternalSecret, SecretStoreSpec};

use crate::connections::StoreView;
use crate::context::Options;
use crate::external_secret::Memo;
use crate::external_secret::plan::StoreVerdict;
use crate::external_secret::target::Seen;
use crate::keys::{ObjectKey, StoreKey};
use crate::store;

/// A store as it was last seen.
#[derive(Clone, Debug)]
pub struct StoreEntry {
    /// What a connection is made from.
    pub view: StoreView,
    /// Its status when it was last seen.
    pub status: SecretStoreStatus,
    /// For its events.
    pub uid: String,
}

#[derive(Default)]
struct Inner {
    objects: HashMap<ObjectKey, Arc<ExternalSecret>>,
    memos: HashMap<ObjectKey, Memo>,
    by_store: HashMap<StoreKey, HashSet<ObjectKey>>,
    /// By namespace and name of the target.
    by_target: HashMap<ObjectKey, Vec<ObjectKey>>,
    targets: HashMap<ObjectKey, Seen>,
    stores: HashMap<StoreKey, StoreEntry>,
    namespaces: HashMap<Arc<str>, BTreeMap<String, String>>,
}

/// The state. No lock is held across an await.
#[derive(Default)]
pub struct State(Mutex<Inner>);

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An object.
    pub fn object(&self, key: &ObjectKey) -> Option<Arc<ExternalSecret>> {
        self.lock().objects.get(key).cloned()
    }

    /// What is known of it beside its spec.
    pub fn memo(&self, key: &ObjectKey, object: &ExternalSecret) -> Memo {
        self.lock().memos.get(key).cloned().unwrap_or_else(|| Memo::of(object))
    }

    /// Remembers, as long as the very object is there.
    pub fn remember(&self, key: &ObjectKey, object: &ExternalSecret, memo: Memo) {
        let mut inner = self.lock();
        if inner.objects.get(key).is_some_and(|o| o.metadata.uid == object.metadata.uid) {
            inner.memos.insert(key.clone(), memo);
        }
    }

    /// Takes an object in. Answers whether a person changed it, and who else wanted the target that it no longer names.
    pub fn object_applied(&self, key: &ObjectKey, object: ExternalSecret) -> (bool, Vec<ObjectKey>) {
        let mut inner = self.lock();
        let before = inner.objects.get(key).cloned();
        let changed = before.as_ref().is_none_or(|old| {
            let part =
                |o: &ExternalSecret| (o.metadata.uid.clone(), o.metadata.generation, o.metadata.deletion_timestamp.is_some());
            part(old) != part(&object) || old.labels() != object.labels() || old.annotations() != object.annotations()
        });
        let mut others = Vec::new();
        if changed {
            if let Some(old) = &before {
                others = inner.unindex(key, old);
                if old.metadata.uid != object.metadata.uid {
                    inner.memos.remove(key);
                }
            }
            for reference in object.store_refs() {
                let store = StoreKey::referred(&key.namespace, reference);
                inner.by_store.entry(store).or_default().insert(key.clone());
            }
            let target = ObjectKey::new(&key.namespace, object.target_name());
            inner.by_target.entry(target).or_default().push(key.clone());
        }
        inner.objects.insert(key.clone(), Arc::new(object));
        (changed, others)
    }

    /// Lets an object go. Answers who else wanted its target.
    pub fn object_deleted(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        let mut inner = self.lock();
        inner.memos.remove(key);
        match inner.objects.remove(key) {
            Some(old) => inner.unindex(key, &old),
            None => Vec::new(),
        }
    }

    /// The other object that has this one's target, if both want the whole of it.
    pub fn claimed_by(&self, key: &ObjectKey, object: &ExternalSecret) -> Option<ObjectKey> {
        let exact = |o: &ExternalSecret| matches!(o.spec.target.creation_policy, CreationPolicy::Owner | CreationPolicy::Orphan);
        if !exact(object) {
            return None;
        }
        let inner = self.lock();
        let claims = inner.by_target.get(&ObjectKey::new(&key.namespace, object.target_name()))?;
        // Whoever has written the Secret keeps it; else the older object has it.
        let seen = inner.targets.get(&ObjectKey::new(&key.namespace, object.target_name()));
        let has = |k: &ObjectKey, o: &ExternalSecret| {
            let told = || o.status.as_ref().and_then(|s| s.binding.as_ref());
            let binding = inner.memos.get(k).map_or_else(told, |m| m.binding.as_ref());
            let uid = binding.filter(|b| b.name == o.target_name()).and_then(|b| b.uid.as_deref());
            matches!((seen, uid), (Some(Seen::There { uid: there, .. }), Some(uid)) if there == uid)
        };
        let rank =
            |k: &ObjectKey, o: &ExternalSecret| (!has(k, o), o.metadata.creation_timestamp.as_ref().map(|t| t.0), k.name.clone());
        let mine = rank(key, object);
        let others = claims.iter().filter(|k| *k != key).filter_map(|k| inner.objects.get(k).map(|o| (k, o)));
        others.filter(|(k, o)| exact(o) && rank(k, o) < mine).map(|(k, _)| k.clone()).min()
    }

    /// Whether an object's stores can be used by it.
    pub fn store_verdict(&self, key: &ObjectKey, object: &ExternalSecret, options: &Options) -> StoreVerdict {
        let inner = self.lock();
        let (mut foreign, mut ours, mut why) = (Vec::new(), 0, None);
        for reference in object.store_refs() {
            let store = StoreKey::referred(&key.namespace, reference);
            let Some(entry) = inner.stores.get(&store) else {
                ours += 1;
                why = why.or_else(|| Some(missing_store(&store, options)));
                continue;
            };
            if !store::plan::is_ours(&entry.view.spec, &options.controller_class) {
                foreign.push(store);
                continue;
            }
            ours += 1;
            let labels = inner.namespaces.get(&key.namespace);
            if store.namespace.is_none() && !admits(&entry.view.spec.conditions, &key.namespace, labels) {
                why = why.or_else(|| {
                    Some(format!("{store} does not admit namespace {}: its spec.conditions name others", key.namespace))
                });
            }
        }
        match (foreign.first(), ours) {
            (None, _) => why.map_or(StoreVerdict::Usable, StoreVerdict::Unusable),
            (Some(_), 0) => StoreVerdict::Foreign,
            (Some(other), _) => {
                StoreVerdict::Unusable(format!("{other} has another controller class than {}", options.controller_class))
            }
        }
    }

    /// A store.
    pub fn store(&self, key: &StoreKey) -> Option<StoreEntry> {
        self.lock().stores.get(key).cloned()
    }

    /// Takes a store in; answers whether its spec is new or changed.
    pub fn store_applied(&self, entry: StoreEntry) -> bool {
        let before = self.lock().stores.insert(entry.view.key.clone(), entry.clone());
        before.is_none_or(|b| b.view.identity != entry.view.identity)
    }

    /// Lets a store go.
    pub fn store_deleted(&self, key: &StoreKey) {
        self.lock().stores.remove(key);
    }

    /// Stores by readiness, as their status says: ready, not ready.
    pub fn stores_ready(&self) -> (usize, usize) {
        let inner = self.lock();
        let ready = |s: &&StoreEntry| s.status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let yes = inner.stores.values().filter(ready).count();
        (yes, inner.stores.len() - yes)
    }

    /// Objects that read from a store; `scope` leaves out those of other namespaces, `failed` those that are well.
    pub fn users(&self, store: &StoreKey, scope: Option<&str>, failed: bool) -> Vec<ObjectKey> {
        let inner = self.lock();
        let users = inner.by_store.get(store).into_iter().flatten();
        users
            .filter(|k| scope.is_none_or(|s| *k.namespace == *s))
            .filter(|k| !failed || inner.memos.get(k).is_none_or(|m| m.ready != Some(true)))
            .cloned()
            .collect()
    }

    /// The target as last seen or written.
    pub fn target(&self, namespace: &str, name: &str) -> Seen {
        self.lock().targets.get(&ObjectKey::new(namespace, name)).cloned().unwrap_or(Seen::Absent)
    }

    /// This process wrote the target: the watch's echo will tell nothing new.
    pub fn target_written(&self, key: &ObjectKey, seen: Seen) {
        let mut inner = self.lock();
        // The watch may have shown a later change of somebody else before our answer was read.
        if !inner.targets.get(key).is_some_and(|known| is_older(&seen, known)) {
            inner.set_target(key, seen);
        }
    }

    /// This process deleted the target.
    pub fn target_removed(&self, key: &ObjectKey) {
        self.lock().set_target(key, Seen::Absent);
    }

    /// The watch shows the target; answers whose it is, unless that is known already.
    pub fn target_seen(&self, key: &ObjectKey, seen: Seen) -> Vec<ObjectKey> {
        let mut inner = self.lock();
        let known = inner.targets.get(key).cloned().unwrap_or(Seen::Absent);
        if known == seen || is_older(&seen, &known) {
            return Vec::new();
        }
        inner.set_target(key, seen);
        inner.by_target.get(key).cloned().unwrap_or_default()
    }

    /// The watch shows that the Secret with this UID is gone; answers whose it was.
    pub fn target_gone(&self, key: &ObjectKey, uid: Option<&str>) -> Vec<ObjectKey> {
        let mut inner = self.lock();
        let same = matches!(inner.targets.get(key), Some(Seen::There { uid: known, .. }) if uid.is_none_or(|u| u == known));
        if same {
            inner.targets.remove(key);
        }
        // Whoever waits for a Secret of somebody else to go is woken too.
        inner.by_target.get(key).cloned().unwrap_or_default()
    }

    /// Labels of a namespace, for the conditions of cluster stores; answers the objects in it if they changed.
    pub fn namespace_seen(&self, name: &str, labels: Option<BTreeMap<String, String>>) -> Vec<ObjectKey> {
        let mut inner = self.lock();
        let before = match &labels {
            Some(labels) => inner.namespaces.insert(name.into(), labels.clone()),
            None => inner.namespaces.remove(name),
        };
        if before == labels {
            return Vec::new();
        }
        let clustered = inner.by_store.iter().filter(|(store, _)| store.namespace.is_none()).flat_map(|(_, users)| users);
        clustered.filter(|k| *k.namespace == *name).cloned().collect()
    }

    /// Every object with its memo, for the metrics.
    pub fn for_each(&self, mut f: impl FnMut(&ObjectKey, Option<&Memo>, &ExternalSecret)) {
        let inner = self.lock();
        inner.objects.iter().for_each(|(key, object)| f(key, inner.memos.get(key), object));
    }
}

impl Inner {
    fn unindex(&mut self, key: &ObjectKey, object: &ExternalSecret) -> Vec<ObjectKey> {
        for reference in object.store_refs() {
            let store = StoreKey::referred(&key.namespace, reference);
            if let Some(users) = self.by_store.get_mut(&store) {
                users.remove(key);
                if users.is_empty() {
                    self.by_store.remove(&store);
                }
            }
        }
        let target = ObjectKey::new(&key.namespace, object.target_name());
        let Some(claims) = self.by_target.get_mut(&target) else { return Vec::new() };
        claims.retain(|k| k != key);
        let others = claims.clone();
        if claims.is_empty() {
            self.by_target.remove(&target);
        }
        others
    }

    fn set_target(&mut self, key: &ObjectKey, seen: Seen) {
        match seen {
            Seen::Absent => drop(self.targets.remove(key)),
            there @ Seen::There { .. } => drop(self.targets.insert(key.clone(), there)),
        }
    }
}

/// Whether `a` is an earlier state of the same object as `b`: resource versions of one kind grow (KEP-5504).
fn is_older(a: &Seen, b: &Seen) -> bool {
    match (a, b) {
        (Seen::There { uid: ua, version: va }, Seen::There { uid: ub, version: vb }) if ua == ub => {
            matches!((va.parse::<u64>(), vb.parse::<u64>()), (Ok(a), Ok(b)) if a < b)
        }
        _ => false,
    }
}

fn missing_store(store: &StoreKey, options: &Options) -> String {
    if store.namespace.is_none() && !options.namespaces.is_empty() {
        return format!(
            "{store} can't be used: this operator serves single namespaces (--namespace) and reads no cluster stores"
        );
    }
    match store.name.is_empty() {
        true => "spec.secretStoreRef.name is not set".into(),
        false => format!("{store} does not exist; create it, or name another in spec.secretStoreRef"),
    }
}

/// Whether a cluster store's conditions let a namespace use it: any entry that matches does, and no entries at all.
pub fn admits(conditions: &[StoreCondition], namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    conditions.is_empty() || conditions.iter().any(|c| store::plan::condition_matches(c, namespace, labels))
}

/// Takes a spec over from either kind of store.
pub fn view(key: StoreKey, uid: &str, generation: i64, spec: SecretStoreSpec) -> StoreView {
    StoreView { key, identity: (uid.to_owned(), generation), spec: Arc::new(spec) }
}
