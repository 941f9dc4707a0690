//! The PushSecrets that there are, and what this process knows of them beside their status.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use kube::ResourceExt;
use lockstep_crds::PushSecret;
use lockstep_crds::conditions::ConditionType;
use lockstep_crds::external_secret::StoreKind;
use lockstep_crds::push_secret::{PushStoreRef, SyncedPushSecrets};
use lockstep_providers::SecretBytes;

use super::plan;
use crate::external_secret::status::Retry;
use crate::fan_out;
use crate::fan_out::plan::Existing;
use crate::keys::{ObjectKey, StoreKey};

/// What is known of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memo {
    /// `status.syncedResourceVersion`.
    pub synced: Option<String>,
    /// When everything was last in place; ahead of `status.refreshTime` by up to a heartbeat.
    pub refreshed: Option<Timestamp>,
    /// `status.refreshTime`.
    pub told: Option<Timestamp>,
    /// `status.syncedPushSecrets`.
    pub pushed: SyncedPushSecrets,
    /// Status of the condition Ready.
    pub ready: Option<bool>,
    /// Its message.
    pub message: Option<String>,
    /// Its last transition.
    pub since: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// Reports in a row that could not be written.
    pub untold: u32,
    /// Rule of the next try after a failure.
    pub retry: Option<Retry>,
    /// Whether this process has looked at it.
    pub met: bool,
}

impl Memo {
    /// What a fresh process knows: the object's own status.
    pub fn of(object: &PushSecret) -> Self {
        let Some(status) = &object.status else { return Self::default() };
        let time = |text: &Option<String>| text.as_deref().and_then(|t| t.parse().ok());
        let ready = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
        Self {
            synced: status.synced_resource_version.clone(),
            refreshed: time(&status.refresh_time),
            told: time(&status.refresh_time),
            pushed: status.synced_push_secrets.clone(),
            ready: ready.map(|c| c.status == "True"),
            message: ready.and_then(|c| c.message.clone()),
            since: ready.and_then(|c| time(&c.last_transition_time)),
            ..Self::default()
        }
    }
}

type Values = Arc<BTreeMap<String, SecretBytes>>;

struct Kept {
    object: Arc<PushSecret>,
    memo: Option<Memo>,
    /// What a generator gave that is not in place everywhere yet, and for which object and generator.
    unfinished: Option<(String, Values)>,
}

/// All of them.
#[derive(Default)]
pub struct PushSecrets(Mutex<HashMap<ObjectKey, Kept>>);

impl PushSecrets {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Kept>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One, with what is known of it.
    pub fn get(&self, key: &ObjectKey) -> Option<(Arc<PushSecret>, Memo)> {
        let all = self.lock();
        let kept = all.get(key)?;
        Some((kept.object.clone(), kept.memo.clone().unwrap_or_else(|| Memo::of(&kept.object))))
    }

    /// The keys of all.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.lock().keys().cloned().collect()
    }

    /// Takes one in; answers whether a person changed it.
    pub fn applied(&self, key: &ObjectKey, object: PushSecret) -> bool {
        let mut all = self.lock();
        let mark = |o: &PushSecret| {
            let meta = &o.metadata;
            (meta.uid.clone(), meta.deletion_timestamp.is_some(), plan::synced_version(o))
        };
        let before = all.remove(key);
        let changed = before.as_ref().is_none_or(|before| mark(&before.object) != mark(&object));
        let same = before.filter(|before| before.object.uid() == object.uid());
        let (memo, unfinished) = same.map(|before| (before.memo, before.unfinished)).unwrap_or_default();
        all.insert(key.clone(), Kept { object: Arc::new(object), memo, unfinished });
        changed
    }

    /// Lets one go.
    pub fn deleted(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    /// What its generator gave, and was not in place everywhere after that.
    pub fn unfinished(&self, key: &ObjectKey, of: &str) -> Option<Values> {
        let all = self.lock();
        let (given_for, values) = all.get(key)?.unfinished.as_ref()?;
        (given_for == of).then(|| values.clone())
    }

    /// Keeps what its generator gave until everything is in place, or forgets it.
    pub fn keep_unfinished(&self, key: &ObjectKey, object: &PushSecret, values: Option<(String, Values)>) {
        if let Some(kept) = self.lock().get_mut(key).filter(|kept| kept.object.uid() == object.uid()) {
            kept.unfinished = values;
        }
    }

    /// Remembers, as long as the very object is there.
    pub fn remember(&self, key: &ObjectKey, uid: Option<&str>, memo: Memo) {
        let mut all = self.lock();
        if let Some(kept) = all.get_mut(key).filter(|kept| kept.object.metadata.uid.as_deref() == uid) {
            kept.memo = Some(memo);
        }
    }

    /// Forgets what this process knows beside their status.
    pub fn forget_memos(&self, of: impl Fn(&ObjectKey) -> bool) {
        self.lock().iter_mut().filter(|(key, _)| of(key)).for_each(|(_, kept)| kept.memo = None);
    }

    /// Whether its last push failed.
    pub fn has_failed(&self, key: &ObjectKey) -> bool {
        self.lock().get(key).and_then(|kept| kept.memo.as_ref()).is_some_and(|memo| memo.ready == Some(false))
    }

    /// Another object whose status tells of the same place, if there is one: of a SecretStore in the same namespace, of a
    /// ClusterSecretStore anywhere. One that is being deleted does not count.
    pub fn also_pushed_by(&self, key: &ObjectKey, store: &str, place: &str) -> Option<ObjectKey> {
        let of_cluster = store.starts_with("ClusterSecretStore/");
        let all = self.lock();
        let mut others = all.iter().filter(|(other, kept)| {
            *other != key && kept.object.metadata.deletion_timestamp.is_none() && (of_cluster || other.namespace == key.namespace)
        });
        let pushes = |kept: &Kept| {
            let told = kept.object.status.as_ref().map(|status| &status.synced_push_secrets);
            let known = kept.memo.as_ref().map(|memo| &memo.pushed);
            known.or(told).and_then(|pushed| pushed.get(store)).is_some_and(|places| places.contains_key(place))
        };
        others.find(|(_, kept)| pushes(kept)).map(|(other, _)| other.clone())
    }

    /// Those of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> Vec<ObjectKey> {
        self.lock().keys().filter(|key| *key.namespace == *namespace).cloned().collect()
    }

    /// Those that push into a store, by its name or by whatever labels it may have.
    pub fn users(&self, store: &StoreKey) -> Vec<ObjectKey> {
        let uses = |key: &ObjectKey, object: &PushSecret| {
            let refers = |r: &PushStoreRef| {
                let kind = match store.namespace {
                    Some(_) => StoreKind::SecretStore,
                    None => StoreKind::ClusterSecretStore,
                };
                r.kind == kind && r.name.as_deref().is_none_or(|name| *name == *store.name)
            };
            store.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace) && plan::store_refs(object).any(refers)
        };
        self.lock().iter().filter(|(key, kept)| uses(key, &kept.object)).map(|(key, _)| key.clone()).collect()
    }

    /// The objects that have this owner, and those of this name that have not.
    pub fn made_by(&self, owner: &str, name: &str) -> Vec<Existing> {
        let all = self.lock();
        let controller =
            |object: &PushSecret| object.owner_references().iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone());
        let of = |(key, kept): (&ObjectKey, &Kept)| {
            let owner_uid = controller(&kept.object);
            (*key.name == *name || owner_uid.as_deref() == Some(owner)).then(|| Existing {
                key: key.clone(),
                uid: kept.object.uid().unwrap_or_default(),
                owner: owner_uid,
                fingerprint: kept.object.annotations().get(fan_out::cache::ANNOTATION).cloned(),
                spec: serde_json::to_value(&kept.object.spec).unwrap_or_default(),
            })
        };
        all.iter().filter_map(of).collect()
    }
}
