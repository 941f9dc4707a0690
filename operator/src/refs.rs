//! What stores refer to, turned around: a change of an auth Secret, a CA or a service account wakes the stores that use it.
//!
//! Each object that was read is watched by itself, metadata only: never all Secrets, never their data. Such watches share
//! connections ([`crate::clients`]).

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::task::AbortOnDropHandle;

use crate::clients::{Stream, Streams};
use crate::connections::ConnectionKey;
use crate::mirror::brief;

/// Kinds of object that a store can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefKind {
    /// Any change counts.
    Secret,
    /// Any change counts.
    ConfigMap,
    /// Its annotations that clouds read count: [`identity_version`].
    Identity,
    /// Only being there counts: [`THERE`].
    ServiceAccount,
}

/// The version of a service account that is there: its changes change no token.
pub const THERE: &str = "there";

/// What counts of a service account that says which identity of a cloud it is.
pub fn identity_version(annotations: BTreeMap<String, String>) -> String {
    const CLOUDS: [&str; 3] = ["eks.amazonaws.com/", "iam.gke.io/", "azure.workload.identity/"];
    let counts = |name: &str| CLOUDS.iter().any(|cloud| name.starts_with(cloud));
    let counted: Vec<String> = annotations.into_iter().filter(|(n, _)| counts(n)).map(|(n, v)| format!("{n}={v}")).collect();
    counted.join("\n")
}

/// One object that somebody refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefObject {
    kind: RefKind,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl RefObject {
    /// From its parts.
    pub fn new(kind: RefKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for RefObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Failures in a row after which a watch is spoken of.
const TELL_AFTER: u32 = 3;

/// Who refers to an object: a connection to a store, or an ExternalSecret with its templates.
pub trait User: Clone + Eq + Hash + Send + Sync + 'static {}

impl<T: Clone + Eq + Hash + Send + Sync + 'static> User for T {}

struct Watched<U> {
    /// What each user read: the resource version, or nothing.
    users: HashMap<U, Option<String>>,
    /// What the watch has shown last, if it has shown anything.
    shown: Option<Option<String>>,
    _task: AbortOnDropHandle<()>,
}

type OnChange<U> = Box<dyn Fn(&U) + Send + Sync>;

/// The index and its watches.
pub struct Refs<U = ConnectionKey> {
    streams: Arc<Streams>,
    watched: Mutex<HashMap<RefObject, Watched<U>>>,
    on_change: OnChange<U>,
}

impl<U: User> Refs<U> {
    /// `on_change` is called with every user of an object that is no longer what that user read.
    pub fn new(streams: Arc<Streams>, on_change: OnChange<U>) -> Arc<Self> {
        Arc::new(Self { streams, watched: Mutex::default(), on_change })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RefObject, Watched<U>>> {
        self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `user` has read `object` at `version`; none when it was not there.
    pub fn note(self: &Arc<Self>, user: &U, object: RefObject, version: Option<String>) {
        let mut watched = self.lock();
        let entry = watched.entry(object.clone()).or_insert_with(|| Watched {
            users: HashMap::new(),
            shown: None,
            _task: AbortOnDropHandle::new(tokio::spawn(watch(Arc::downgrade(self), self.streams.place(), object))),
        });
        // The watch may have shown a newer version before this one was noted, and two reads of one user may have seen two.
        let passed = entry.shown.as_ref().is_some_and(|shown| is_newer(shown.as_deref(), version.as_deref()));
        let two = entry.users.insert(user.clone(), version.clone()).is_some_and(|before| before != version);
        drop(watched);
        if passed || two {
            (self.on_change)(user);
        }
    }

    /// Whether `user` has read `object`.
    pub fn refers(&self, user: &U, object: &RefObject) -> bool {
        self.lock().get(object).is_some_and(|watched| watched.users.contains_key(user))
    }

    /// `user` refers to nothing any more.
    pub fn forget(&self, user: &U) {
        self.lock().retain(|_, watched| {
            watched.users.remove(user);
            !watched.users.is_empty()
        });
    }

    /// Forgets users that are none any more.
    pub fn retain(&self, is_user: impl Fn(&U) -> bool) {
        self.lock().retain(|_, watched| {
            watched.users.retain(|user, _| is_user(user));
            !watched.users.is_empty()
        });
    }

    /// How many objects are watched.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn seen(&self, object: &RefObject, version: Option<&str>) {
        let changed: Vec<U> = {
            let mut watched = self.lock();
            let Some(entry) = watched.get_mut(object) else { return };
            entry.shown = Some(version.map(str::to_owned));
            let stale = |(user, read): (&U, &Option<String>)| (read.as_deref() != version).then(|| user.clone());
            entry.users.iter().filter_map(stale).collect()
        };
        changed.iter().for_each(|user| (self.on_change)(user));
    }
}

/// Whether what a watch has shown came after what was read. Whether an absence did can't be told: its event is waited for.
fn is_newer(shown: Option<&str>, read: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|v| v.parse::<u64>().ok());
    matches!((number(shown), number(read)), (Some(shown), Some(read)) if shown > read)
}

async fn watch<U: User>(refs: std::sync::Weak<Refs<U>>, place: Arc<Stream>, object: RefObject) {
    let client = place.client().await;
    match object.kind {
        RefKind::Secret => follow(refs, Api::<PartialObjectMeta<Secret>>::namespaced(client, &object.namespace), object).await,
        RefKind::ConfigMap => {
            follow(refs, Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, &object.namespace), object).await
        }
        RefKind::ServiceAccount | RefKind::Identity => {
            follow(refs, Api::<PartialObjectMeta<ServiceAccount>>::namespaced(client, &object.namespace), object).await
        }
    }
}

fn events<K>(
    api: Api<PartialObjectMeta<K>>,
    object: &RefObject,
) -> impl futures::Stream<Item = watcher::Result<watcher::Event<PartialObjectMeta<K>>>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={}", object.name));
    watcher(api, config).default_backoff()
}

/// Tells every version that the object takes; none when it is not there.
async fn follow<U: User, K>(refs: std::sync::Weak<Refs<U>>, api: Api<PartialObjectMeta<K>>, object: RefObject)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let mut events = std::pin::pin!(events(api, &object));
    let version = |meta: ObjectMeta| match object.kind {
        RefKind::Secret | RefKind::ConfigMap => meta.resource_version,
        RefKind::ServiceAccount => Some(THERE.to_owned()),
        RefKind::Identity => Some(identity_version(meta.annotations.unwrap_or_default())),
    };
    let (mut listed, mut failures) = (None, 0);
    while let Some(event) = events.next().await {
        let Some(refs) = refs.upgrade() else { return };
        failures = if event.is_err() { failures + 1 } else { 0 };
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(found)) => listed = version(found.metadata),
            Ok(watcher::Event::InitDone) => refs.seen(&object, listed.as_deref()),
            Ok(watcher::Event::Apply(found)) => refs.seen(&object, version(found.metadata).as_deref()),
            Ok(watcher::Event::Delete(_)) => refs.seen(&object, None),
            // A broken connection is nothing new; a watch that can't be had means that a rotated credential is not noticed.
            Err(error) if failures == TELL_AFTER => {
                tracing::warn!(object = %object, error = %brief(&error), "a referenced object can't be watched; trying again");
            }
            Err(error) => {
                tracing::debug!(object = %object, error = %brief(&error), "watch of a referenced object failed; trying again")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::keys::StoreKey;

    #[tokio::test]
    async fn a_version_that_is_older_than_what_the_watch_has_shown_is_told_at_once() {
        let told = Arc::new(Mutex::new(0));
        let count = told.clone();
        let refs = Refs::new(Arc::new(Streams::silent()), Box::new(move |_| *count.lock().unwrap() += 1));
        let user = |name: &str| ConnectionKey { store: StoreKey { namespace: None, name: name.into() }, scope: None };
        let object = RefObject::new(RefKind::Secret, "ns", "token");
        let (a, b) = (user("a"), user("b"));
        let told = || std::mem::take(&mut *told.lock().unwrap());
        refs.note(&a, object.clone(), Some("7".into()));
        refs.note(&b, object.clone(), Some("7".into()));
        refs.seen(&object, Some("7"));
        assert_eq!(told(), 0);
        // Both connect anew after version 9; the watch shows 12 before one of them has noted what it read.
        refs.seen(&object, Some("9"));
        assert_eq!(told(), 2);
        refs.forget(&a);
        refs.note(&b, object.clone(), Some("9".into()));
        told();
        refs.seen(&object, Some("12"));
        assert_eq!(told(), 1, "b");
        refs.note(&a, object.clone(), Some("9".into()));
        assert_eq!(told(), 1, "a, though no event is to come");
        refs.forget(&a);
        refs.note(&a, object.clone(), Some("12".into()));
        assert_eq!(told(), 0);
        // Two reads for one connection that saw two versions, such as a certificate and its key.
        refs.note(&a, object.clone(), Some("13".into()));
        assert_eq!(told(), 1);
        refs.retain(|user| *user == b);
        assert_eq!(refs.len(), 1);
        refs.retain(|_| false);
        assert!(refs.is_empty());
    }
}
