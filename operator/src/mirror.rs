//! Follows all objects of a kind: one stream of "there is" and "it is gone", over relists and broken connections.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use lockstep_providers::registry::without_quotes;

use crate::malformed::Odd;

/// An object, or what is known of one that does not parse: a malformed object never stalls a watch.
///
/// kube's `DeserializeGuard` does the same by way of a generic value, at several times the cost.
#[derive(Clone, Debug)]
pub enum Guard<K> {
    /// It parsed.
    Good(Box<K>),
    /// It did not; what could be read, and the object's metadata.
    Bad(Box<(Odd, ObjectMeta)>),
}

impl<'de, K: Deserialize<'de> + Resource<DynamicType = ()>> Deserialize<'de> for Guard<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        match serde_json::from_str::<K>(raw.get()) {
            Ok(object) => Ok(Self::Good(Box::new(object))),
            Err(error) => {
                let meta: PartialObjectMeta<K> = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
                Ok(Self::Bad(Box::new((Odd::of(without_quotes(&error.to_string()), raw.get()), meta.metadata))))
            }
        }
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Guard<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(dt: &()) -> std::borrow::Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &()) -> std::borrow::Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &()) -> std::borrow::Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &()) -> std::borrow::Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Good(object) => object.meta(),
            Self::Bad(bad) => &bad.1,
        }
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Good(object) => object.meta_mut(),
            Self::Bad(bad) => &mut bad.1,
        }
    }
}

/// What a kind does with its objects.
pub trait Follower<K> {
    /// How an object is known.
    type Key: Clone + Eq + Hash;
    /// The object's key; none leaves it out.
    fn key(&self, object: &K) -> Option<Self::Key>;
    /// The object is there, new or changed.
    fn applied(&self, key: Self::Key, object: K);
    /// The object is gone.
    fn deleted(&self, key: &Self::Key);
    /// The keys of all objects that are kept.
    fn known(&self) -> Vec<Self::Key>;
    /// All objects have been seen once.
    fn ready(&self);
}

/// Drives a watch for as long as it lasts. A list that is started anew deletes what it does not hold any more.
pub async fn follow<K, F>(stream: impl Stream<Item = watcher::Result<Event<K>>>, follower: F, what: &'static str)
where
    F: Follower<K>,
{
    let mut stream = std::pin::pin!(stream);
    // What was there before a list and is not in it is gone; what came while it was made is not missed.
    let mut missing: HashSet<F::Key> = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => missing = follower.known().into_iter().collect(),
            Ok(Event::InitApply(object)) => {
                if let Some(key) = follower.key(&object) {
                    missing.remove(&key);
                    follower.applied(key, object);
                }
            }
            Ok(Event::InitDone) => {
                std::mem::take(&mut missing).iter().for_each(|key| follower.deleted(key));
                follower.ready();
            }
            Ok(Event::Apply(object)) => {
                if let Some(key) = follower.key(&object) {
                    follower.applied(key, object);
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some(key) = follower.key(&object) {
                    follower.deleted(&key);
                }
            }
            Err(error) => tracing::warn!(what, error = %brief(&error), "a watch failed; trying again"),
        }
    }
}

/// A watch error without the body that it could not parse.
pub fn brief(error: &watcher::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
