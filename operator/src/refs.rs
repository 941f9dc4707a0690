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
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::{DynamicResourceScope, GroupVersionKind, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use lockstep_crds::generator::GeneratorKind;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::clients::{Stream, Streams};
use crate::connections::ConnectionKey;
use crate::hash::PartsHash;
use crate::keys::GeneratorKey;
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
    /// Its spec counts: [`generator_version`].
    Generator(GeneratorKind),
    /// Likewise; it has no namespace.
    ClusterGenerator,
    /// All Secrets that a label selector, in the place of a name, means: which they are, and any change of them, counts
    /// ([`set_version`]).
    Labelled,
    /// A target of any kind: see [`RefObject::target`].
    Target,
}

/// What counts of several objects: their names and resource versions.
pub fn set_version(versions: &BTreeMap<String, String>) -> String {
    let mut hash = PartsHash::default();
    versions.iter().for_each(|(name, version)| [name, version].into_iter().for_each(|part| hash.add(part.as_bytes())));
    hash.hex()
}

/// What counts of a generator: values are not made anew for a label.
pub fn generator_version(meta: &ObjectMeta) -> String {
    format!("{}/{}", meta.uid.as_deref().unwrap_or_default(), meta.generation.unwrap_or(0))
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

    /// A generator.
    pub fn generator(key: &GeneratorKey) -> Self {
        match key.kind {
            Some(kind) => Self::new(RefKind::Generator(kind), &key.namespace, &key.name),
            None => Self::new(RefKind::ClusterGenerator, "", &key.name),
        }
    }

    /// A target of another kind than Secret.
    pub fn target(resource: &ApiResource, namespace: &str, name: &str) -> Self {
        let ApiResource { group, version, kind, plural, .. } = resource;
        Self::new(RefKind::Target, namespace, &[group.as_str(), version, kind, plural, name].join("|"))
    }

    /// Whether it is a target.
    pub fn is_target(&self) -> bool {
        self.kind == RefKind::Target
    }

    fn target_parts(&self) -> (ApiResource, &str) {
        let parts: Vec<&str> = self.name.splitn(5, '|').collect();
        let of = |i: usize| parts.get(i).copied().unwrap_or_default();
        (ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(of(0), of(1), of(2)), of(3)), of(4))
    }

    /// Where a generator is read.
    pub fn generator_api<K>(&self, client: Client) -> Api<K>
    where
        K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        let of = |kind: &str, plural: &str| {
            let kind = GroupVersionKind::gvk(lockstep_crds::generator::GROUP, lockstep_crds::generator::VERSION, kind);
            ApiResource::from_gvk_with_plural(&kind, plural)
        };
        match self.kind {
            RefKind::Generator(kind) => Api::namespaced_with(client, &self.namespace, &of(kind.as_str(), kind.plural())),
            _ => Api::all_with(client, &of("ClusterGenerator", "clustergenerators")),
        }
    }

    /// Plural of its resource, for metrics.
    pub fn resource(&self) -> &'static str {
        match self.kind {
            RefKind::Secret | RefKind::Labelled => "secrets",
            RefKind::ConfigMap => "configmaps",
            RefKind::Identity | RefKind::ServiceAccount => "serviceaccounts",
            RefKind::Generator(kind) => kind.plural(),
            RefKind::ClusterGenerator => "clustergenerators",
            RefKind::Target => "targets",
        }
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

/// What somebody read of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// This version, or that it was not there.
    At(Option<String>),
    /// An earlier process did: what is shown first counts as that.
    Earlier,
}

struct Watched<U> {
    /// What each user read.
    users: HashMap<U, Read>,
    /// What the watch has shown last, if it has shown anything.
    shown: Option<Option<String>>,
    _task: AbortOnDropHandle<()>,
}

type OnChange<U> = Box<dyn Fn(&U, &RefObject, Option<&str>) + Send + Sync>;

/// The index and its watches.
pub struct Refs<U = ConnectionKey> {
    streams: Arc<Streams>,
    watched: Mutex<HashMap<RefObject, Watched<U>>>,
    on_change: OnChange<U>,
}

impl<U: User> Refs<U> {
    /// `on_change` is called with every user of an object that is no longer what that user read, the object, and its version if it is
    /// there.
    pub fn new(streams: Arc<Streams>, on_change: OnChange<U>) -> Arc<Self> {
        Arc::new(Self { streams, watched: Mutex::default(), on_change })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RefObject, Watched<U>>> {
        self.watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `user` has read `object` at `version`; none when it was not there.
    pub fn note(self: &Arc<Self>, user: &U, object: RefObject, version: Option<String>) {
        let mut watched = self.lock();
        let entry = self.entry(&mut watched, object.clone());
        // The watch may have shown a newer version before this one was noted, and two reads of one user may have seen two.
        let passed = entry.shown.as_ref().is_some_and(|shown| is_newer(shown.as_deref(), version.as_deref()));
        let before = entry.users.insert(user.clone(), Read::At(version.clone()));
        let two = matches!(before, Some(Read::At(before)) if before != version);
        drop(watched);
        if passed || two {
            (self.on_change)(user, &object, version.as_deref());
        }
    }

    /// `user` has read `object` at `version`, whatever it read of it before.
    pub fn note_anew(self: &Arc<Self>, user: &U, object: RefObject, version: Option<String>) {
        if let Some(watched) = self.lock().get_mut(&object) {
            watched.users.remove(user);
        }
        self.note(user, object, version);
    }

    /// An earlier process has read `object` for `user`: what comes from now on is a change.
    pub fn adopt(self: &Arc<Self>, user: &U, object: RefObject) {
        let mut watched = self.lock();
        let entry = self.entry(&mut watched, object);
        let read = entry.shown.clone().map_or(Read::Earlier, Read::At);
        entry.users.entry(user.clone()).or_insert(read);
    }

    fn entry<'a>(self: &Arc<Self>, watched: &'a mut HashMap<RefObject, Watched<U>>, object: RefObject) -> &'a mut Watched<U> {
        watched.entry(object.clone()).or_insert_with(|| Watched {
            users: HashMap::new(),
            shown: None,
            _task: AbortOnDropHandle::new(tokio::spawn(watch(Arc::downgrade(self), self.streams.place(), object))),
        })
    }

    /// `user` refers to nothing but these any more.
    pub fn retain_of(&self, user: &U, objects: &[RefObject]) {
        self.lock().retain(|object, watched| {
            if !objects.contains(object) {
                watched.users.remove(user);
            }
            !watched.users.is_empty()
        });
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
            if entry.shown.is_none() {
                tracing::debug!(%object, "a referenced object is watched");
            }
            entry.shown = Some(version.map(str::to_owned));
            let mut stale = Vec::new();
            for (user, read) in &mut entry.users {
                match read {
                    Read::At(read) if read.as_deref() != version => stale.push(user.clone()),
                    Read::At(_) => {}
                    Read::Earlier => *read = Read::At(version.map(str::to_owned)),
                }
            }
            stale
        };
        changed.iter().for_each(|user| (self.on_change)(user, object, version));
    }
}

/// Whether what a watch has shown came after what was read. Whether an absence did can't be told: its event is waited for.
fn is_newer(shown: Option<&str>, read: Option<&str>) -> bool {
    // Of a generator: its UID, and a number behind a slash.
    let parts = |version: Option<&str>| {
        let (of, number) = version.map(|v| v.rsplit_once('/').unwrap_or(("", v)))?;
        Some((of.to_owned(), number.parse::<u64>().ok()?))
    };
    matches!((parts(shown), parts(read)), (Some((a, shown)), Some((b, read))) if a == b && shown > read)
}

async fn watch<U: User>(refs: std::sync::Weak<Refs<U>>, place: Arc<Stream>, object: RefObject) {
    let client = place.client().await;
    match object.kind {
        RefKind::Secret | RefKind::Labelled => follow(refs, events::<Secret>(client, &object), object).await,
        RefKind::ConfigMap => follow(refs, events::<ConfigMap>(client, &object), object).await,
        RefKind::Generator(_) | RefKind::ClusterGenerator => {
            let api = object.generator_api::<PartialObjectMeta<DynamicObject>>(client);
            let events = watcher(api, only(&object)).default_backoff();
            follow(refs, events, object).await;
        }
        RefKind::Target => {
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(client, &object.namespace, &object.target_parts().0);
            let events = watcher(api, only(&object)).default_backoff();
            follow(refs, events, object).await;
        }
        RefKind::ServiceAccount | RefKind::Identity => follow(refs, events::<ServiceAccount>(client, &object), object).await,
    }
}

fn only(object: &RefObject) -> watcher::Config {
    match object.kind {
        RefKind::Labelled => watcher::Config::default().labels(&object.name),
        RefKind::Target => watcher::Config::default().fields(&format!("metadata.name={}", object.target_parts().1)),
        _ => watcher::Config::default().fields(&format!("metadata.name={}", object.name)),
    }
}

type Events<K> = watcher::Result<watcher::Event<PartialObjectMeta<K>>>;

fn events<K>(client: Client, object: &RefObject) -> impl futures::Stream<Item = Events<K>> + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Send + DeserializeOwned + 'static,
{
    let api = Api::<PartialObjectMeta<K>>::namespaced(client, &object.namespace);
    watcher(api, only(object)).default_backoff()
}

/// Tells every version that the object takes; none when it is not there.
async fn follow<U: User, K>(refs: std::sync::Weak<Refs<U>>, events: impl futures::Stream<Item = Events<K>>, object: RefObject) {
    let mut events = std::pin::pin!(events);
    let version = |meta: ObjectMeta| match object.kind {
        RefKind::Secret | RefKind::ConfigMap | RefKind::Labelled | RefKind::Target => meta.resource_version,
        RefKind::ServiceAccount => Some(THERE.to_owned()),
        RefKind::Identity => Some(identity_version(meta.annotations.unwrap_or_default())),
        RefKind::Generator(_) | RefKind::ClusterGenerator => Some(generator_version(&meta)),
    };
    let (mut listed, mut failures) = (None, 0);
    let mut set: BTreeMap<String, String> = BTreeMap::new();
    while let Some(event) = events.next().await {
        let Some(refs) = refs.upgrade() else { return };
        failures = if event.is_err() { failures + 1 } else { 0 };
        if object.kind == RefKind::Labelled
            && let Ok(event) = event
        {
            if follow_set(&mut set, event) {
                refs.seen(&object, Some(&set_version(&set)));
            }
            continue;
        }
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

/// Takes an event of one of several objects in; answers whether they are whole, and not in the middle of a list.
fn follow_set<K>(set: &mut BTreeMap<String, String>, event: watcher::Event<PartialObjectMeta<K>>) -> bool {
    let parts = |meta: ObjectMeta| Some((meta.name?, meta.resource_version?));
    match event {
        watcher::Event::Init => {
            set.clear();
            false
        }
        watcher::Event::InitApply(found) => {
            set.extend(parts(found.metadata));
            false
        }
        watcher::Event::InitDone => true,
        watcher::Event::Apply(found) => {
            set.extend(parts(found.metadata));
            true
        }
        watcher::Event::Delete(found) => {
            found.metadata.name.map(|name| set.remove(&name));
            true
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
        let refs = Refs::new(Arc::new(Streams::silent()), Box::new(move |_, _, _| *count.lock().unwrap() += 1));
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
