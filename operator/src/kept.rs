//! How an ExternalSecret is kept between reconciles: as the text of its JSON, and the few facts that indices and other
//! objects ask for.
//!
//! A parsed object takes several times the memory of its text, mostly for fields that are not set, and is looked at once in
//! an interval: reading it anew then costs microseconds.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use kube::ResourceExt;
use lockstep_crds::ExternalSecret;
use lockstep_crds::external_secret::CreationPolicy;

use crate::external_secret::Memo;
use crate::keys::{ObjectKey, StoreKey};

/// An object as it is kept.
pub struct Kept {
    text: Box<str>,
    uid: Box<str>,
    /// Of all that a person can change.
    marks: u64,
    /// Seconds; objects made in the same one are told apart by name.
    created: Option<i64>,
    exact: bool,
    /// Unless it is the object's own name.
    target: Option<Arc<str>>,
    stores: Box<[StoreKey]>,
    /// UID of the object that controls it.
    owner: Option<Box<str>>,
    /// What this process knows of it beside its status.
    pub memo: Option<Box<Memo>>,
}

static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn marks(object: &ExternalSecret) -> u64 {
    let meta = &object.metadata;

    MARKS.hash_one((&meta.uid, meta.generation, meta.deletion_timestamp.is_some(), &meta.labels, &meta.annotations))
}

/// Whether an object wants the whole of its target.
pub fn is_exact(object: &ExternalSecret) -> bool {
    let exact = matches!(object.spec.target.creation_policy, CreationPolicy::Owner | CreationPolicy::Orphan);
    // A target of another kind has no namesake among Secrets.
    exact && object.spec.target.manifest.is_none()
}

impl Kept {
    /// Of an object without managed fields.
    pub fn new(object: &ExternalSecret) -> Self {
        let namespace: Arc<str> = object.metadata.namespace.as_deref().unwrap_or_default().into();
        let name = object.name_any();
        let mut stores: Vec<StoreKey> = object.store_refs().map(|r| StoreKey::referred(&namespace, r)).collect();
        stores.sort();
        stores.dedup();
        Self {
            text: serde_json::to_string(object).unwrap_or_default().into(),
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            marks: marks(object),
            created: object.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second()),
            exact: is_exact(object),
            target: Some(object.target_name()).filter(|t| *t != name).map(Into::into),
            stores: stores.into(),
            owner: object.owner_references().iter().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str().into()),
            memo: None,
        }
    }

    /// The whole object.
    pub fn object(&self) -> Option<ExternalSecret> {
        // Our own text of a type that reads what it writes.
        serde_json::from_str(&self.text).ok()
    }

    /// Whether a person changed nothing between the two.
    pub fn is_same(&self, other: &Self) -> bool {
        self.marks == other.marks
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The stores that it reads from, each once.
    pub fn stores(&self) -> &[StoreKey] {
        &self.stores
    }

    /// Takes the stores' names from where they are kept already.
    pub fn share_stores(&mut self, mut known: impl FnMut(&StoreKey) -> Option<StoreKey>) {
        for store in &mut self.stores {
            if let Some(known) = known(store) {
                *store = known;
            }
        }
    }

    /// Name of its target, unless that is its own.
    pub fn other_target(&self) -> Option<&Arc<str>> {
        self.target.as_ref()
    }

    /// UID of the object that controls it.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Whether it wants the whole of its target.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The UID of the Secret that it has written as `target`, as far as this process or its status knows.
    pub fn written_uid(&self, target: &str) -> Option<String> {
        let binding = match &self.memo {
            Some(memo) => memo.binding.clone(),
            None => self.object().and_then(|o| o.status?.binding),
        };
        binding.filter(|b| b.name == target)?.uid
    }

    /// Which of two that want the same target has it, if neither has written it: the older.
    pub fn age(&self, key: &ObjectKey) -> (Option<i64>, Arc<str>) {
        (self.created, key.name.clone())
    }

    /// How many bytes its text takes.
    pub fn text_len(&self) -> usize {
        self.text.len()
    }
}
