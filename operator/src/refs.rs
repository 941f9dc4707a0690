//! What stores refer to, turned around: a change of an auth Secret, a CA or a service account wakes the stores that use it.
//!
//! Each object that was read is watched by itself, metadata only: never all Secrets, never their data. Such watches share
//! connections ([`crate::clients`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use tokio_util::task::AbortOnDropHandle;

use crate::clients::Streams;
use crate::connections::ConnectionKey;

/// Kinds of object that a store can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefKind {
    /// Any change counts.
    Secret,
    /// Any change counts.
    ConfigMap,
    /// Only being there counts: [`THERE`].
    ServiceAccount,
}

/// The version of a service account that is there: its changes change no token.
pub const THERE: &str = "there";

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

struct Watched {
    /// What each user read: the resource version, or nothing.
    users: HashMap<ConnectionKey, Option<String>>,
    _task: AbortOnDropHandle<()>,
}

type OnChange = Box<dyn Fn(&ConnectionKey) + Send + Sync>;

/// The index and its watches.
pub struct Refs {
    streams: Arc<Streams>,
    watched: Mutex<HashMap<RefObject, Watched>>,
    on_change: OnChange,
}

impl Refs {
    /// `on_change` is called with every user of an object that is no longer what that user read.
    pub fn new(streams: Arc<Streams>, on_change: OnChange) -> Arc<Self> {
        Arc::new(Self { streams, watched: Mutex::default(), on_change })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RefObject, Watched>> {
        self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `user` has read `object` at `version`; none when it was not there.
    pub fn note(self: &Arc<Self>, user: &ConnectionKey, object: RefObject, version: Option<String>) {
        let mut watched = self.lock();
        let entry = watched.entry(object.clone()).or_insert_with(|| Watched {
            users: HashMap::new(),
            _task: AbortOnDropHandle::new(tokio::spawn(watch(Arc::downgrade(self), self.streams.client(), object))),
        });
        entry.users.insert(user.clone(), version);
    }

    /// `user` refers to nothing any more.
    pub fn forget(&self, user: &ConnectionKey) {
        self.lock().retain(|_, watched| {
            watched.users.remove(user);
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
        let changed: Vec<ConnectionKey> = {
            let watched = self.lock();
            let Some(entry) = watched.get(object) else { return };
            let stale = |(user, read): (&ConnectionKey, &Option<String>)| (read.as_deref() != version).then(|| user.clone());
            entry.users.iter().filter_map(stale).collect()
        };
        changed.iter().for_each(|user| (self.on_change)(user));
    }
}

async fn watch(refs: std::sync::Weak<Refs>, place: Arc<Client>, object: RefObject) {
    let client = Client::clone(&place);
    match object.kind {
        RefKind::Secret => follow(refs, Api::<PartialObjectMeta<Secret>>::namespaced(client, &object.namespace), object).await,
        RefKind::ConfigMap => {
            follow(refs, Api::<PartialObjectMeta<ConfigMap>>::namespaced(client, &object.namespace), object).await
        }
        RefKind::ServiceAccount => {
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
async fn follow<K>(refs: std::sync::Weak<Refs>, api: Api<PartialObjectMeta<K>>, object: RefObject)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let mut events = std::pin::pin!(events(api, &object));
    let version = |meta: ObjectMeta| match object.kind {
        RefKind::Secret | RefKind::ConfigMap => meta.resource_version,
        RefKind::ServiceAccount => Some(THERE.to_owned()),
    };
    let mut listed = None;
    while let Some(event) = events.next().await {
        let Some(refs) = refs.upgrade() else { return };
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(found)) => listed = version(found.metadata),
            Ok(watcher::Event::InitDone) => refs.seen(&object, listed.as_deref()),
            Ok(watcher::Event::Apply(found)) => refs.seen(&object, version(found.metadata).as_deref()),
            Ok(watcher::Event::Delete(_)) => refs.seen(&object, None),
            Err(error) => tracing::debug!(?object, %error, "watch of a referenced object failed; trying again"),
        }
    }
}
