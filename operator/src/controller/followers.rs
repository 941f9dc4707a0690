//! What each watch does with what it sees: it keeps what others need, and wakes whom it concerns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};
use lockstep_crds::{ClusterSecretStore, ExternalSecret, GeneratorState, PushSecret, SecretStore};
use tokio::time::Instant;

use super::watches::Once;
use crate::context::Context;
use crate::external_secret::target::Seen;
use crate::fan_out::cache::{FanOut, FanOutKey, FanOutKind};
use crate::generator_state::cache::Entry;
use crate::keys::{ObjectKey, Referrer, StoreKey};
use crate::kube_io::version_of;
use crate::mirror::{Follower, Guard};
use crate::queue::Wake;
use crate::state::{StoreEntry, view};
use crate::{external_secret, store};

pub(super) struct Objects {
    pub ctx: Arc<Context>,
    pub scope: Option<String>,
    pub once: Once,
}

impl Objects {
    fn wake_all(&self, keys: Vec<ObjectKey>) {
        keys.into_iter().for_each(|key| self.ctx.objects.wake(key, Wake::target(Instant::now())));
    }
}

impl Follower<Guard<ExternalSecret>> for Objects {
    type Key = ObjectKey;

    fn key(&self, object: &Guard<ExternalSecret>) -> Option<ObjectKey> {
        ObjectKey::of(object)
    }

    fn applied(&self, key: ObjectKey, object: Guard<ExternalSecret>) {
        match object {
            Guard::Good(object) => {
                self.ctx.malformed_objects.mended(&key);
                let (changed, others) = self.ctx.state.object_applied(&key, &object);
                self.wake_all(others);
                if changed.is_some() {
                    self.ctx.wake_fan_outs_of(FanOutKind::ExternalSecrets, &key);
                }
                if let Some(key) = changed {
                    self.ctx.objects.wake(key, Wake::changed(Instant::now()));
                }
            }
            Guard::Bad(bad) => {
                self.wake_all(self.ctx.state.object_deleted(&key));
                let (odd, meta) = *bad;
                let why = odd.why.clone();
                if self.ctx.malformed_objects.seen(key.clone(), meta.generation, odd) {
                    tracing::warn!(object = %key, %why, "an object does not parse");
                    self.ctx.objects.wake(key, Wake::changed(Instant::now()));
                }
            }
        }
    }

    fn deleted(&self, key: &ObjectKey) {
        external_secret::audited::gone(&self.ctx, key);
        self.ctx.malformed_objects.mended(key);
        self.wake_all(self.ctx.state.object_deleted(key));
        self.ctx.object_gone(&Referrer::ExternalSecret(key.clone()));
        self.ctx.wake_fan_outs_of(FanOutKind::ExternalSecrets, key);
        // Its timer and its part in a turn end with a look that finds nothing.
        self.ctx.objects.wake(key.clone(), Wake::changed(Instant::now()));
    }

    fn known(&self) -> Vec<ObjectKey> {
        let mut keys = self.ctx.state.keys();
        keys.extend(self.ctx.malformed_objects.keys());
        keys.retain(|key| in_scope(self.scope.as_deref(), &key.namespace));
        keys
    }

    fn ready(&self) {
        self.once.ready();
    }
}

/// Which of the stores a watch shows.
pub(super) enum Scope {
    Cluster,
    Namespaces,
    Namespace(String),
}

fn in_scope(scope: Option<&str>, namespace: &str) -> bool {
    scope.is_none_or(|scope| scope == namespace)
}

/// Either kind of store.
trait StoreObject: Resource<DynamicType = ()> {
    fn parts(self) -> (lockstep_crds::SecretStoreSpec, Option<lockstep_crds::SecretStoreStatus>);
}

impl StoreObject for SecretStore {
    fn parts(self) -> (lockstep_crds::SecretStoreSpec, Option<lockstep_crds::SecretStoreStatus>) {
        (self.spec, self.status)
    }
}

impl StoreObject for ClusterSecretStore {
    fn parts(self) -> (lockstep_crds::SecretStoreSpec, Option<lockstep_crds::SecretStoreStatus>) {
        (self.spec.into(), self.status)
    }
}

pub(super) struct Stores {
    pub ctx: Arc<Context>,
    pub scope: Scope,
    pub once: Once,
}

impl Stores {
    fn wake_users(&self, key: &StoreKey) {
        let now = Instant::now();
        self.ctx.stores.wake(key.clone(), Wake::changed(now));
        // What is seen for the first time at a start has not changed: objects are looked at by their own events.
        if !self.ctx.filled.load(Ordering::SeqCst) {
            return;
        }
        for user in self.ctx.state.users(key, None, false) {
            self.ctx.objects.wake(user, Wake::store(now));
        }
        self.wake_pushes(key);
    }

    fn wake_pushes(&self, key: &StoreKey) {
        let now = Instant::now();
        self.ctx.push_secrets.users(key).into_iter().for_each(|user| self.ctx.pushes.wake(user, Wake::store(now)));
    }
}

impl<K: StoreObject> Follower<Guard<K>> for Stores {
    type Key = StoreKey;

    fn key(&self, object: &Guard<K>) -> Option<StoreKey> {
        let meta = object.meta();
        Some(StoreKey { namespace: meta.namespace.as_deref().map(Into::into), name: meta.name.as_deref()?.into() })
    }

    fn applied(&self, key: StoreKey, object: Guard<K>) {
        match object {
            Guard::Good(object) => {
                self.ctx.malformed_stores.mended(&key);
                let meta = object.meta().clone();
                let (spec, status) = object.parts();
                let view = view(key.clone(), &meta, spec, self.ctx.options.limits);
                let uid = meta.uid.clone().unwrap_or_default();
                let labels = meta.labels.unwrap_or_default();
                let version = version_of(meta.resource_version.as_deref());
                let entry = StoreEntry { view, version, status: status.unwrap_or_default(), uid, labels };
                let news = self.ctx.state.store_applied(entry);
                if news.labels && self.ctx.filled.load(Ordering::SeqCst) {
                    self.wake_pushes(&key);
                }
                if news.spec {
                    return self.wake_users(&key);
                }
                if news.ready && !self.ctx.ownership.owns_store(&key) {
                    // The replica that found out has woken its own users.
                    self.ctx.wake_failed_users(&key, Instant::now());
                }
                if news.limits {
                    // The next user of its connection brings them along; the condition tells of wrong ones.
                    self.ctx.stores.wake(key, Wake::changed(Instant::now()));
                }
            }
            Guard::Bad(bad) => {
                let (odd, meta) = *bad;
                let why = odd.why.clone();
                let class = lockstep_crds::SecretStoreSpec { controller: odd.controller.clone(), ..Default::default() };
                if !store::plan::is_ours(&class, &self.ctx.options.controller_class) {
                    // Another operator's, which may well understand it: all that counts here is that it is not ours.
                    self.ctx.malformed_stores.mended(&key);
                    let view = view(key.clone(), &meta, class, self.ctx.options.limits);
                    let labels = meta.labels.unwrap_or_default();
                    let version = version_of(meta.resource_version.as_deref());
                    let uid = meta.uid.unwrap_or_default();
                    let entry = StoreEntry { view, version, status: Default::default(), uid, labels };
                    if self.ctx.state.store_applied(entry).spec {
                        self.wake_users(&key);
                    }
                    return;
                }
                self.ctx.state.store_deleted(&key);
                if self.ctx.malformed_stores.seen(key.clone(), meta.generation, odd) {
                    tracing::warn!(store = %key, %why, "a store does not parse");
                    self.wake_users(&key);
                }
            }
        }
    }

    fn deleted(&self, key: &StoreKey) {
        self.ctx.malformed_stores.mended(key);
        self.ctx.state.store_deleted(key);
        self.wake_users(key);
    }

    fn known(&self) -> Vec<StoreKey> {
        let mut keys = self.ctx.state.store_keys();
        keys.extend(self.ctx.malformed_stores.keys());
        keys.retain(|key| match (&self.scope, &key.namespace) {
            (Scope::Cluster, None) | (Scope::Namespaces, Some(_)) => true,
            (Scope::Namespace(scope), Some(namespace)) => **namespace == **scope,
            (Scope::Cluster, Some(_)) | (Scope::Namespaces | Scope::Namespace(_), None) => false,
        });
        keys
    }

    fn ready(&self) {
        self.once.ready();
    }
}

pub(super) struct Targets {
    pub ctx: Arc<Context>,
    pub scope: Option<String>,
    pub once: Once,
}

impl Targets {
    fn wake_all(&self, keys: Vec<ObjectKey>) {
        keys.into_iter().for_each(|key| self.ctx.objects.wake(key, Wake::target(Instant::now())));
    }
}

impl Follower<PartialObjectMeta<Secret>> for Targets {
    type Key = (ObjectKey, Option<String>);

    fn key(&self, object: &PartialObjectMeta<Secret>) -> Option<Self::Key> {
        Some((ObjectKey::of(object)?, object.uid()))
    }

    fn applied(&self, (key, uid): Self::Key, object: PartialObjectMeta<Secret>) {
        let (Some(uid), Some(version)) = (uid, object.resource_version()) else { return };
        self.wake_all(self.ctx.state.target_seen(&key, Seen::There { uid: uid.into(), version: version.into() }));
    }

    fn deleted(&self, (key, uid): &Self::Key) {
        self.wake_all(self.ctx.state.target_gone(key, uid.as_deref()));
    }

    fn known(&self) -> Vec<Self::Key> {
        let mut keys = self.ctx.state.target_keys();
        keys.retain(|(key, _)| in_scope(self.scope.as_deref(), &key.namespace));
        keys
    }

    fn ready(&self) {
        self.once.ready();
    }
}

pub(super) struct Fans {
    pub ctx: Arc<Context>,
    pub kind: FanOutKind,
}

impl<K> Follower<Guard<K>> for Fans
where
    K: Resource<DynamicType = ()> + Into<FanOut>,
{
    type Key = FanOutKey;

    fn key(&self, object: &Guard<K>) -> Option<FanOutKey> {
        Some(FanOutKey { kind: self.kind, name: object.meta().name.as_deref()?.into() })
    }

    fn applied(&self, key: FanOutKey, object: Guard<K>) {
        let wake = match object {
            Guard::Good(object) => {
                self.ctx.malformed_fan_outs.mended(&key);
                self.ctx.fan_outs.applied(key.clone(), (*object).into())
            }
            Guard::Bad(bad) => {
                let (odd, meta) = *bad;
                self.ctx.fan_outs.deleted(&key);
                self.ctx.malformed_fan_outs.seen(key.clone(), meta.generation, odd)
            }
        };
        if wake {
            self.ctx.fans.wake(key, Wake::changed(Instant::now()));
        }
    }

    fn deleted(&self, key: &FanOutKey) {
        self.ctx.malformed_fan_outs.mended(key);
        self.ctx.fan_outs.deleted(key);
    }

    fn known(&self) -> Vec<FanOutKey> {
        let mut keys = self.ctx.fan_outs.keys();
        keys.extend(self.ctx.malformed_fan_outs.keys());
        keys.retain(|key| key.kind == self.kind);
        keys
    }

    fn ready(&self) {}
}

pub(super) struct Pushes {
    pub ctx: Arc<Context>,
    pub scope: Option<String>,
}

impl Follower<Guard<PushSecret>> for Pushes {
    type Key = ObjectKey;

    fn key(&self, object: &Guard<PushSecret>) -> Option<ObjectKey> {
        ObjectKey::of(object)
    }

    fn applied(&self, key: ObjectKey, object: Guard<PushSecret>) {
        let wake = match object {
            Guard::Good(object) => {
                self.ctx.malformed_pushes.mended(&key);
                let changed = self.ctx.push_secrets.applied(&key, *object);
                if changed {
                    self.ctx.wake_fan_outs_of(FanOutKind::PushSecrets, &key);
                }
                changed
            }
            Guard::Bad(bad) => {
                let (odd, meta) = *bad;
                self.ctx.push_secrets.deleted(&key);
                self.ctx.malformed_pushes.seen(key.clone(), meta.generation, odd)
            }
        };
        if wake {
            self.ctx.pushes.wake(key, Wake::changed(Instant::now()));
        }
    }

    fn deleted(&self, key: &ObjectKey) {
        self.ctx.malformed_pushes.mended(key);
        self.ctx.push_secrets.deleted(key);
        self.ctx.object_gone(&Referrer::PushSecret(key.clone()));
        self.ctx.wake_fan_outs_of(FanOutKind::PushSecrets, key);
        self.ctx.pushes.wake(key.clone(), Wake::changed(Instant::now()));
    }

    fn known(&self) -> Vec<ObjectKey> {
        let mut keys = self.ctx.push_secrets.keys();
        keys.extend(self.ctx.malformed_pushes.keys());
        keys.retain(|key| in_scope(self.scope.as_deref(), &key.namespace));
        keys
    }

    fn ready(&self) {}
}

pub(super) struct States {
    pub ctx: Arc<Context>,
    pub scope: Option<String>,
    pub seen: std::sync::Once,
}

impl Follower<Guard<GeneratorState>> for States {
    type Key = ObjectKey;

    fn key(&self, object: &Guard<GeneratorState>) -> Option<ObjectKey> {
        ObjectKey::of(object)
    }

    fn applied(&self, key: ObjectKey, object: Guard<GeneratorState>) {
        // One that does not parse is none of ours.
        let Guard::Good(object) = object else { return };
        if let Some(entry) = Entry::of(&object, &self.ctx.options.controller_class) {
            self.ctx.states.applied(&key, entry);
            self.ctx.leases.wake(key, Wake::timer(Instant::now()));
        }
    }

    fn deleted(&self, key: &ObjectKey) {
        self.ctx.states.deleted(key);
        self.ctx.leases.wake(key.clone(), Wake::timer(Instant::now()));
    }

    fn known(&self) -> Vec<ObjectKey> {
        let mut keys = self.ctx.states.keys();
        keys.retain(|key| in_scope(self.scope.as_deref(), &key.namespace));
        keys
    }

    fn ready(&self) {
        self.seen.call_once(|| self.ctx.states.fill());
    }
}

pub(super) struct Namespaces {
    pub ctx: Arc<Context>,
    pub once: Once,
}

impl Namespaces {
    fn seen(&self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let (changed, users) = self.ctx.state.namespace_seen(name, labels);
        if self.ctx.filled.load(Ordering::SeqCst) {
            let now = Instant::now();
            if changed {
                self.ctx.fan_outs.keys().into_iter().for_each(|key| self.ctx.fans.wake(key, Wake::timer(now)));
                self.ctx.push_secrets.of_namespace(name).into_iter().for_each(|key| self.ctx.pushes.wake(key, Wake::store(now)));
            }
            users.into_iter().for_each(|key| self.ctx.objects.wake(key, Wake::store(now)));
        }
    }
}

impl Follower<PartialObjectMeta<Namespace>> for Namespaces {
    type Key = String;

    fn key(&self, object: &PartialObjectMeta<Namespace>) -> Option<String> {
        Some(object.name_any())
    }

    fn applied(&self, key: String, object: PartialObjectMeta<Namespace>) {
        self.seen(&key, Some(object.metadata.labels.unwrap_or_default()));
    }

    fn deleted(&self, key: &String) {
        self.seen(key, None);
    }

    fn known(&self) -> Vec<String> {
        self.ctx.state.namespace_names()
    }

    fn ready(&self) {
        self.once.ready();
    }
}
