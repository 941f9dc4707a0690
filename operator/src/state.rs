//! What the watches have shown, and the indices over it: everything that [`crate::external_secret::plan`] observes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lockstep_crds::external_secret::CreationPolicy;
use lockstep_crds::store::{SecretStoreStatus, StoreCondition};
use lockstep_crds::{ExternalSecret, SecretStoreSpec};

use crate::connections::StoreView;
use crate::context::Options;
use crate::external_secret::Memo;
use crate::external_secret::plan::StoreVerdict;
use crate::external_secret::target::Seen;
use crate::fan_out::plan::Existing;
use crate::kept::{Kept, is_exact};
use crate::keys::{ObjectKey, StoreKey};
use crate::limits::Limits;
use crate::{fan_out, store};

/// A store as it was last seen.
#[derive(Clone, Debug)]
pub struct StoreEntry {
    /// What a connection is made from.
    pub view: StoreView,
    /// Its resource version; 0: unknown.
    pub version: u64,
    /// Its status as it was last seen, or written by this process.
    pub status: SecretStoreStatus,
    /// For its events.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl StoreEntry {
    /// Whether its status says that it works.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }
}

/// What a watch event of a store tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreNews {
    /// Its spec is new or changed.
    pub spec: bool,
    /// Its limits are.
    pub limits: bool,
    /// Its status says that it works again.
    pub ready: bool,
    /// Its labels are others.
    pub labels: bool,
}

#[derive(Default)]
struct Inner {
    /// Boxed: a table that grows holds two of itself for a moment.
    objects: HashMap<ObjectKey, Box<Kept>>,
    by_store: HashMap<StoreKey, HashSet<ObjectKey>>,
    /// By namespace and name of the target, of objects whose target has another name than they.
    by_target: HashMap<ObjectKey, Vec<ObjectKey>>,
    targets: HashMap<ObjectKey, Seen>,
    /// The UID of what the watch has shown to be gone last, of targets that somebody wants: an answer to a write may be read later.
    gone: HashMap<ObjectKey, Box<str>>,
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

    /// An object, and what this process knows of it beside its status.
    pub fn object(&self, key: &ObjectKey) -> Option<(ExternalSecret, Option<Memo>)> {
        let inner = self.lock();
        let kept = inner.objects.get(key)?;
        Some((kept.object()?, kept.memo.as_deref().cloned()))
    }

    /// Whether an object has its Secret, and failed since only because its provider was away or wanted fewer calls.
    pub fn is_cut_off(&self, key: &ObjectKey) -> bool {
        let inner = self.lock();
        let memo = inner.objects.get(key).and_then(|kept| kept.memo.as_ref());
        memo.is_some_and(|memo| memo.refreshed.is_some() && matches!(memo.category, "unavailable" | "throttled"))
    }

    /// Whether its last sync failed.
    pub fn has_failed(&self, key: &ObjectKey) -> bool {
        let inner = self.lock();
        inner.objects.get(key).and_then(|kept| kept.memo.as_ref()).is_some_and(|memo| memo.ready == Some(false))
    }

    /// Remembers, as long as the very object is there.
    pub fn remember(&self, key: &ObjectKey, object: &ExternalSecret, memo: Memo) {
        let mut inner = self.lock();
        let same = |kept: &&mut Box<Kept>| Some(kept.uid()) == object.metadata.uid.as_deref();
        if let Some(kept) = inner.objects.get_mut(key).filter(same) {
            match &mut kept.memo {
                Some(known) => **known = memo,
                none => *none = Some(Box::new(memo)),
            }
        }
    }

    /// Forgets what this process knows of objects beside their status: somebody else may write it from here on.
    pub fn forget_memos(&self, of: impl Fn(&ObjectKey) -> bool) {
        let mut inner = self.lock();
        inner.objects.iter_mut().filter(|(key, _)| of(key)).for_each(|(_, kept)| kept.memo = None);
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Takes an object in. Answers its key, as it is kept, if a person changed it, and who else wanted the target that it no
    /// longer names.
    pub fn object_applied(&self, key: &ObjectKey, object: &ExternalSecret) -> (Option<ObjectKey>, Vec<ObjectKey>) {
        let mut new = Box::new(Kept::new(object));
        let mut inner = self.lock();
        let Some((kept_key, before)) = inner.objects.remove_entry(key) else {
            let key = inner.intern(key);
            inner.index(&key, &mut new);
            inner.objects.insert(key.clone(), new);
            return (Some(key), Vec::new());
        };
        let key = kept_key;
        let changed = !before.is_same(&new);
        let mut others = Vec::new();
        if changed {
            others = inner.unindex(&key, &before);
        }
        if before.uid() == new.uid() {
            new.memo = before.memo;
        }
        inner.index(&key, &mut new);
        inner.objects.insert(key.clone(), new);
        (changed.then_some(key), others)
    }

    /// Lets an object go. Answers who else wanted its target.
    pub fn object_deleted(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        let mut inner = self.lock();
        match inner.objects.remove(key) {
            Some(old) => inner.unindex(key, &old),
            None => Vec::new(),
        }
    }

    /// The other object that has this one's target, and wants the whole of it. Of two that do one has it; who only merges into it
    /// may not while somebody else has written it as a whole: the two would undo each other's work without end.
    pub fn claimed_by(&self, key: &ObjectKey, object: &ExternalSecret) -> Option<ObjectKey> {
        let merges = matches!(object.spec.target.creation_policy, CreationPolicy::Merge | CreationPolicy::CreateOrMerge)
            && object.spec.target.manifest.is_none();
        if !is_exact(object) && !merges {
            return None;
        }
        let inner = self.lock();
        let mine = inner.objects.get(key)?;
        let target = ObjectKey { namespace: key.namespace.clone(), name: object.target_name().into() };
        let others: Vec<ObjectKey> = inner.claims(&target).into_iter().filter(|k| k != key).collect();
        if others.is_empty() {
            return None;
        }
        // Whoever has written the Secret keeps it; else the older object has it.
        let has = |kept: &Kept| match (inner.targets.get(&target), kept.written_uid(&target.name)) {
            (Some(Seen::There { uid, .. }), Some(written)) => **uid == *written,
            _ => false,
        };
        let rank = |key: &ObjectKey, kept: &Kept| (!has(kept), kept.age(key));
        let mine = rank(key, mine);
        let others = others.into_iter().filter_map(|k| inner.objects.get(&k).map(|kept| (k, kept)));
        let wins = |key: &ObjectKey, kept: &Kept| if merges { has(kept) } else { rank(key, kept) < mine };
        others.filter(|(k, kept)| kept.is_exact() && wins(k, kept)).map(|(k, _)| k).min()
    }

    /// Whether an object's stores can be used by it.
    pub fn store_verdict(&self, key: &ObjectKey, object: &ExternalSecret, options: &Options) -> StoreVerdict {
        let stores = object.store_refs().map(|reference| StoreKey::referred(&key.namespace, reference));
        self.verdict(&key.namespace, stores, options)
    }

    /// Whether stores can be used from a namespace. Of several the first that is there says whose they are, so that two operators
    /// never speak of one object.
    pub fn verdict(&self, namespace: &Arc<str>, stores: impl Iterator<Item = StoreKey>, options: &Options) -> StoreVerdict {
        let inner = self.lock();
        let (mut foreign, mut is_ours, mut why) = (None, None, None);
        for store in stores {
            let Some(entry) = inner.stores.get(&store) else {
                why = why.or_else(|| Some(missing_store(&store, options)));
                continue;
            };
            let ours = store::plan::is_ours(&entry.view.spec, &options.controller_class);
            is_ours.get_or_insert(ours);
            if !ours {
                foreign.get_or_insert(store);
                continue;
            }
            let labels = inner.namespaces.get(namespace);
            if store.namespace.is_none() && !admits(&entry.view.spec.conditions, namespace, labels) {
                why = why
                    .or_else(|| Some(format!("{store} does not admit namespace {namespace}: its spec.conditions name others")));
            }
        }
        match (foreign, is_ours) {
            (None, _) => why.map_or(StoreVerdict::Usable, StoreVerdict::Unusable),
            (Some(_), Some(false)) => StoreVerdict::Foreign,
            (Some(other), _) => {
                StoreVerdict::Unusable(format!("{other} has another controller class than {}", options.controller_class))
            }
        }
    }

    /// Those of some stores that were not seen yet, of the kinds that are watched.
    pub fn unseen_stores(&self, stores: impl Iterator<Item = StoreKey>, options: &Options) -> Vec<StoreKey> {
        let inner = self.lock();
        let watched = |store: &StoreKey| !store.name.is_empty() && (store.namespace.is_some() || options.namespaces.is_empty());
        stores.filter(|store| watched(store) && !inner.stores.contains_key(store)).collect()
    }

    /// Whether an object of these stores is another operator's: that of the first which is there.
    pub fn are_foreign(&self, mut stores: impl Iterator<Item = StoreKey>, class: &str) -> bool {
        let inner = self.lock();
        let first = stores.find_map(|key| inner.stores.get(&key));
        first.is_some_and(|store| !store::plan::is_ours(&store.view.spec, class))
    }

    /// Whether one of an object's stores is read as the namespace that uses it.
    pub fn is_referent(&self, object: &ExternalSecret, key: &ObjectKey) -> bool {
        let inner = self.lock();
        let mut stores = object.store_refs().map(|r| StoreKey::referred(&key.namespace, r));
        stores.any(|store| inner.stores.get(&store).is_some_and(|entry| entry.view.is_referent()))
    }

    /// A store.
    pub fn store(&self, key: &StoreKey) -> Option<StoreEntry> {
        self.lock().stores.get(key).cloned()
    }

    /// This process wrote a store's status: what a watch shows of an earlier time tells nothing of it.
    pub fn store_told(&self, key: &StoreKey, uid: &str, version: u64, status: SecretStoreStatus) {
        if let Some(entry) = self.lock().stores.get_mut(key).filter(|entry| entry.uid == uid && entry.version <= version) {
            entry.version = version;
            entry.status = status;
        }
    }

    /// Takes a store in; answers what is news. What is older than this process' own write is none: that one's echo follows.
    pub fn store_applied(&self, entry: StoreEntry) -> StoreNews {
        let before = {
            let mut inner = self.lock();
            let known = inner.stores.get(&entry.view.key);
            if known.is_some_and(|known| known.uid == entry.uid && known.version > entry.version) {
                return StoreNews { spec: false, limits: false, ready: false, labels: false };
            }
            inner.stores.insert(entry.view.key.clone(), entry.clone())
        };
        match before {
            Some(b) if b.view.identity == entry.view.identity => StoreNews {
                spec: false,
                limits: (b.view.limits, &b.view.wrong_limits) != (entry.view.limits, &entry.view.wrong_limits),
                ready: entry.is_ready() && !b.is_ready(),
                labels: b.labels != entry.labels,
            },
            Some(_) | None => StoreNews { spec: true, limits: true, ready: false, labels: true },
        }
    }

    /// Lets a store go.
    pub fn store_deleted(&self, key: &StoreKey) {
        self.lock().stores.remove(key);
    }

    /// Stores of a class by readiness, as their status says: ready, not ready. `mine` leaves out those of other replicas.
    pub fn stores_ready(&self, class: &str, mine: impl Fn(&StoreKey) -> bool) -> (usize, usize) {
        let inner = self.lock();
        let ours = inner.stores.iter().filter(|(key, entry)| mine(key) && store::plan::is_ours(&entry.view.spec, class));
        ours.fold((0, 0), |(yes, no), (_, entry)| if entry.is_ready() { (yes + 1, no) } else { (yes, no + 1) })
    }

    /// Objects that read from a store; `scope` leaves out those of other namespaces, `failed` those that are well.
    pub fn users(&self, store: &StoreKey, scope: Option<&str>, failed: bool) -> Vec<ObjectKey> {
        let inner = self.lock();
        let users = inner.by_store.get(store).into_iter().flatten();
        users
            .filter(|k| scope.is_none_or(|s| *k.namespace == *s))
            .filter(|k| !failed || inner.objects.get(k).and_then(|o| o.memo.as_ref()).is_some_and(|m| m.ready != Some(true)))
            .cloned()
            .collect()
    }

    /// Stores of a kind that carry labels: those of a namespace, or of the cluster.
    pub fn stores_with(&self, namespace: Option<&str>, has: impl Fn(&BTreeMap<String, String>) -> bool) -> Vec<StoreKey> {
        let inner = self.lock();
        let mut keys: Vec<StoreKey> = inner
            .stores
            .iter()
            .filter(|(key, entry)| key.namespace.as_deref() == namespace && has(&entry.labels))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort();
        keys
    }

    /// Stores with the namespaces of their users.
    pub fn scopes(&self) -> HashSet<(StoreKey, Arc<str>)> {
        let inner = self.lock();
        inner
            .by_store
            .iter()
            .flat_map(|(store, users)| users.iter().map(|user| (store.clone(), user.namespace.clone())))
            .collect()
    }

    /// The target as last seen or written.
    pub fn target(&self, namespace: &str, name: &str) -> Seen {
        self.lock().targets.get(&ObjectKey::new(namespace, name)).cloned().unwrap_or(Seen::Absent)
    }

    /// This process wrote the target: the watch's echo will tell nothing new.
    pub fn target_written(&self, key: &ObjectKey, seen: Seen) {
        let mut inner = self.lock();
        if let (Some(gone), Seen::There { uid, .. }) = (inner.gone.get(key), &seen) {
            if **gone == **uid {
                // The watch has shown its end before our answer was read.
                return;
            }
            inner.gone.remove(key);
        }
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
        if let (Some(gone), Seen::There { uid, .. }) = (inner.gone.get(key), &seen)
            && **gone == **uid
        {
            // A list from before it was made had it gone.
            inner.gone.remove(key);
        }
        let known = inner.targets.get(key).cloned().unwrap_or(Seen::Absent);
        if known == seen || is_older(&seen, &known) {
            return Vec::new();
        }
        inner.set_target(key, seen);
        inner.claims(key)
    }

    /// The watch shows that the Secret with this UID is gone; answers whose it was.
    pub fn target_gone(&self, key: &ObjectKey, uid: Option<&str>) -> Vec<ObjectKey> {
        let mut inner = self.lock();
        let known: Option<Box<str>> = match inner.targets.get(key) {
            Some(Seen::There { uid, .. }) => Some((**uid).into()),
            _ => None,
        };
        if known.as_deref().is_some_and(|known| uid.is_none_or(|uid| uid == known)) {
            inner.targets.remove(key);
        }
        // Whoever waits for a Secret of somebody else to go is woken too.
        let claims = inner.claims(key);
        if let Some(gone) = uid.map(Into::into).or(known).filter(|_| !claims.is_empty()) {
            inner.gone.insert(key.clone(), gone);
        }
        claims
    }

    /// How many managed Secrets no object has as its target.
    pub fn unclaimed(&self) -> usize {
        let inner = self.lock();
        inner.targets.keys().filter(|key| inner.claims(key).is_empty()).count()
    }

    /// Names and UIDs of all targets that the watch has shown or this process wrote.
    pub fn target_keys(&self) -> Vec<(ObjectKey, Option<String>)> {
        let uid = |seen: &Seen| match seen {
            Seen::There { uid, .. } => Some(uid.to_string()),
            Seen::Absent => None,
        };
        self.lock().targets.iter().map(|(key, seen)| (key.clone(), uid(seen))).collect()
    }

    /// The keys of all stores.
    pub fn store_keys(&self) -> Vec<StoreKey> {
        self.lock().stores.keys().cloned().collect()
    }

    /// The names of all namespaces.
    pub fn namespace_names(&self) -> Vec<String> {
        self.lock().namespaces.keys().map(ToString::to_string).collect()
    }

    /// All namespaces with their labels.
    pub fn namespaces(&self) -> BTreeMap<Arc<str>, BTreeMap<String, String>> {
        self.lock().namespaces.iter().map(|(name, labels)| (name.clone(), labels.clone())).collect()
    }

    /// The objects that have this owner, and those of this name that have not.
    pub fn made_by(&self, owner: &str, name: &str) -> Vec<Existing> {
        let inner = self.lock();
        let candidates = inner.objects.iter().filter(|(key, kept)| *key.name == *name || kept.owner() == Some(owner));
        let existing = |key: &ObjectKey, kept: &Kept| {
            let object = kept.object()?;
            Some(Existing {
                key: key.clone(),
                uid: kept.uid().to_owned(),
                owner: kept.owner().map(str::to_owned),
                fingerprint: object.metadata.annotations.as_ref().and_then(|a| a.get(fan_out::cache::ANNOTATION)).cloned(),
                spec: serde_json::to_value(&object.spec).unwrap_or_default(),
            })
        };
        candidates.filter_map(|(key, kept)| existing(key, kept)).collect()
    }

    /// Labels of a namespace, for the conditions of cluster stores; answers whether they changed, and for which objects that counts.
    pub fn namespace_seen(&self, name: &str, labels: Option<BTreeMap<String, String>>) -> (bool, Vec<ObjectKey>) {
        let mut inner = self.lock();
        let before = match &labels {
            Some(labels) => inner.namespaces.insert(name.into(), labels.clone()),
            None => inner.namespaces.remove(name),
        };
        if before == labels {
            return (false, Vec::new());
        }
        let clustered = inner.by_store.iter().filter(|(store, _)| store.namespace.is_none()).flat_map(|(_, users)| users);
        (true, clustered.filter(|k| *k.namespace == *name).cloned().collect())
    }

    /// Every object with its memo, for the metrics.
    pub fn for_each(&self, mut f: impl FnMut(&ObjectKey, Option<&Memo>)) {
        let inner = self.lock();
        inner.objects.iter().for_each(|(key, kept)| f(key, kept.memo.as_deref()));
    }

    /// How many objects are kept, and how many bytes their texts take.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.objects.len(), inner.objects.values().map(|kept| kept.text_len()).sum())
    }
}

impl Inner {
    /// The key with names that are kept already, where there are.
    fn intern(&self, key: &ObjectKey) -> ObjectKey {
        let namespace = self.namespaces.get_key_value(&key.namespace).map_or(&key.namespace, |(name, _)| name);
        let known = self.targets.get_key_value(key);
        ObjectKey { namespace: namespace.clone(), name: known.map_or(&key.name, |(k, _)| &k.name).clone() }
    }

    fn index(&mut self, key: &ObjectKey, kept: &mut Kept) {
        kept.share_stores(|store| self.by_store.get_key_value(store).map(|(known, _)| known.clone()));
        for store in kept.stores() {
            self.by_store.entry(store.clone()).or_default().insert(key.clone());
        }
        if let Some(target) = kept.other_target() {
            let target = ObjectKey { namespace: key.namespace.clone(), name: target.clone() };
            let claims = self.by_target.entry(target).or_default();
            if !claims.contains(key) {
                claims.push(key.clone());
            }
        }
    }

    /// Answers who else wants the object's target.
    fn unindex(&mut self, key: &ObjectKey, kept: &Kept) -> Vec<ObjectKey> {
        for store in kept.stores() {
            if let Some(users) = self.by_store.get_mut(store) {
                users.remove(key);
                if users.is_empty() {
                    self.by_store.remove(store);
                }
            }
        }
        let Some(name) = kept.other_target() else {
            let all = self.claims(key);
            if all.is_empty() {
                self.gone.remove(key);
            }
            return all.into_iter().filter(|k| k != key).collect();
        };
        let target = ObjectKey { namespace: key.namespace.clone(), name: name.clone() };
        if let Some(claims) = self.by_target.get_mut(&target) {
            claims.retain(|k| k != key);
            if claims.is_empty() {
                self.by_target.remove(&target);
            }
        }
        let others = self.claims(&target);
        if others.is_empty() {
            self.gone.remove(&target);
        }
        others
    }

    /// Who wants a target.
    fn claims(&self, target: &ObjectKey) -> Vec<ObjectKey> {
        let namesake = self.objects.get_key_value(target).filter(|(_, kept)| kept.other_target().is_none()).map(|(key, _)| key);
        namesake.into_iter().chain(self.by_target.get(target).into_iter().flatten()).cloned().collect()
    }

    fn set_target(&mut self, key: &ObjectKey, seen: Seen) {
        match seen {
            Seen::Absent => drop(self.targets.remove(key)),
            there @ Seen::There { .. } => match self.targets.get_mut(key) {
                Some(known) => *known = there,
                None => {
                    let name = self.objects.get_key_value(key).map(|(known, _)| known);
                    let key = name.cloned().unwrap_or_else(|| self.intern(key));
                    self.targets.insert(key, there);
                }
            },
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
pub fn view(key: StoreKey, meta: &ObjectMeta, spec: SecretStoreSpec, limits: Limits) -> StoreView {
    let identity = (meta.uid.clone().unwrap_or_default(), meta.generation.unwrap_or(0));
    let (limits, wrong_limits) = Limits::of(meta.annotations.as_ref(), limits);
    StoreView { key, identity, spec: Arc::new(spec), limits, wrong_limits }
}
