//! The watches and the workers: what turns events into reconciles.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use lockstep_crds::{ClusterSecretStore, ExternalSecret, LABEL_MANAGED, SecretStore};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::external_secret::target::Seen;
use crate::keys::{ObjectKey, StoreKey};
use crate::mirror::{Follower, Guard, follow};
use crate::queue::{Next, Queue, Wake};
use crate::state::{StoreEntry, view};
use crate::{external_secret, kube_io, store};

/// Reconciles begun and not ended, however long a provider lets them wait.
const RECONCILES: usize = 1024;
/// Reconciles begun and not ended, those left out that wait for a provider for longer than [`PATIENCE`]. A multiple of what providers
/// take in one call (20 and 10): when all wait for reads, those are full calls.
const BEGUN: usize = 100;
/// Reconciles at work: each takes memory, and what they may send to the API server at once is bounded by
/// [`crate::context::Options::concurrency`] anyway.
const ACTIVE: usize = 48;
/// How long a reconcile that waits for a provider keeps others from beginning.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a stop waits for reconciles to end by themselves.
const STOP_AFTER: Duration = Duration::from_millis(500);
/// How often connections are looked for that nobody uses any more.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How long a stop waits for writes under way.
const STOP_WITHIN: Duration = Duration::from_millis(2500);

/// Runs the watches and the workers until `stop`; `synced` is called once all watches have seen everything.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken, synced: impl Fn() + Send + Sync + 'static) {
    let gate = Gate::new(&ctx);
    let mut watches = tokio::task::JoinSet::new();
    let style = tokio::select! { style = list_style(&ctx.client) => style, () = stop.cancelled() => return };
    start_watches(&ctx, &gate, &mut watches, style);
    tokio::select! { () = gate.opened() => {}, () = stop.cancelled() => return }
    ctx.filled.store(true, Ordering::SeqCst);
    synced();
    let events = tokio::spawn({
        let ctx = ctx.clone();
        async move { ctx.events.run().await }
    });
    let tidying = tokio::spawn({
        let ctx = ctx.clone();
        async move {
            loop {
                tokio::time::sleep(TIDY_EVERY).await;
                ctx.tidy().await;
            }
        }
    });
    let tasks = TaskTracker::new();
    let objects = dispatch(ctx.objects.clone(), tasks.clone(), stop.clone(), ctx.clone(), "ExternalSecret", {
        let ctx = ctx.clone();
        move |key: ObjectKey, wake, active| {
            let ctx = ctx.clone();
            async move { external_secret::reconcile(&ctx, &key, wake, active).await }
        }
    });
    let stores = dispatch(ctx.stores.clone(), tasks.clone(), stop.clone(), ctx.clone(), "SecretStore", {
        let ctx = ctx.clone();
        move |key: StoreKey, wake, mut active: Active| {
            let ctx = ctx.clone();
            async move { store::reconcile(&ctx, &key, wake, &mut active).await }
        }
    });
    futures::future::join(objects, stores).await;
    watches.abort_all();
    tasks.close();
    // What waits for a provider is not waited for: the fence keeps it from writing once the leases are given back.
    let idle = async {
        tokio::time::sleep(STOP_AFTER).await;
        while ctx.ownership.is_writing() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! { () = tasks.wait() => {}, () = idle => {}, () = tokio::time::sleep(STOP_WITHIN) => {} }
    if !tasks.is_empty() {
        tracing::warn!(count = tasks.len(), "some reconciles did not end in time; their objects converge at the next start");
    }
    events.abort();
    tidying.abort();
}

/// Hands keys to workers until `stop`. A panic ends its own reconcile, and that object is tried again later.
async fn dispatch<K, F, R>(
    queue: Queue<K>,
    tasks: TaskTracker,
    stop: CancellationToken,
    ctx: Arc<Context>,
    kind: &'static str,
    work: F,
) where
    K: Clone + Eq + std::hash::Hash + Ord + std::fmt::Display + Send + Sync + 'static,
    F: Fn(K, Wake, Active) -> R,
    R: Future<Output = Option<Next>> + Send + 'static,
{
    let (permits, pool) = (Arc::new(Semaphore::new(RECONCILES)), Arc::<Pool>::default());
    loop {
        let both = async { (permits.clone().acquire_owned().await, Active::take(&pool).await) };
        let (permit, active) = tokio::select! { both = both => both, () = stop.cancelled() => return };
        let (key, wake) = tokio::select! { next = queue.next() => next, () = stop.cancelled() => return };
        let (queue, ctx) = (queue.clone(), ctx.clone());
        let reconcile = AssertUnwindSafe(work(key.clone(), wake, active)).catch_unwind();
        tasks.spawn(async move {
            let next = reconcile.await.unwrap_or_else(|_| {
                ctx.metrics.panicked();
                tracing::error!(kind, %key, "a reconcile panicked; please report it. The object is tried again in 5 min");
                Some(Next::at(Instant::now() + Duration::from_secs(300)))
            });
            queue.done(key, next);
            drop(permit);
        });
    }
}

/// Bounds reconciles of one kind.
pub struct Pool {
    begun: Arc<Semaphore>,
    active: Arc<Semaphore>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { begun: Arc::new(Semaphore::new(BEGUN)), active: Arc::new(Semaphore::new(ACTIVE)) }
    }
}

/// The right to work.
pub struct Active {
    pool: Arc<Pool>,
    begun: Option<OwnedSemaphorePermit>,
    active: Option<OwnedSemaphorePermit>,
}

impl Active {
    /// Waits for it.
    pub async fn take(pool: &Arc<Pool>) -> Self {
        let begun = pool.begun.clone().acquire_owned().await.ok();
        let active = pool.active.clone().acquire_owned().await.ok();
        Self { pool: pool.clone(), begun, active }
    }

    /// Leaves it to others while a provider is waited for.
    pub async fn while_waiting<T>(&mut self, waiting: impl Future<Output = T>) -> T {
        self.active = None;
        let mut waiting = std::pin::pin!(waiting);
        let answer = match tokio::time::timeout(PATIENCE, &mut waiting).await {
            Ok(answer) => answer,
            Err(_) => {
                self.begun = None;
                waiting.await
            }
        };
        self.active = self.pool.active.clone().acquire_owned().await.ok();
        answer
    }
}

/// Opens once every watch has seen everything: before that an object's store or target may only seem to be missing.
struct Gate {
    left: AtomicUsize,
    open: Notify,
}

impl Gate {
    fn new(ctx: &Context) -> Arc<Self> {
        let scopes = ctx.options.namespaces.len();
        // Objects, stores and targets, and for the whole cluster also cluster stores and namespaces.
        let watches = if scopes == 0 { 5 } else { 3 * scopes };
        Arc::new(Self { left: AtomicUsize::new(watches), open: Notify::new() })
    }

    fn one_ready(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.open.notify_one();
        }
    }

    async fn opened(&self) {
        self.open.notified().await;
    }
}

/// Tells the gate at most once.
struct Once(Arc<Gate>, std::sync::Once);

impl Once {
    fn new(gate: &Arc<Gate>) -> Self {
        Self(gate.clone(), std::sync::Once::new())
    }

    fn ready(&self) {
        self.1.call_once(|| self.0.one_ready());
    }
}

/// Objects of one page of a list, where they do not come one by one.
const PAGE: u32 = 100;

/// How the first state of things is asked for: one by one where the API server can (WatchList, served by default from 1.34 on),
/// since a page takes many times its own size while it is parsed.
async fn list_style(client: &kube::Client) -> watcher::Config {
    let version = kube_io::in_time(client.apiserver_version()).await;
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    let one_by_one = version.is_ok_and(|v| (number(&v.major), number(&v.minor)) >= (Some(1), Some(34)));
    let config = watcher::Config::default();
    if one_by_one { config.streaming_lists() } else { config.page_size(PAGE) }
}

fn start_watches(ctx: &Arc<Context>, gate: &Arc<Gate>, watches: &mut tokio::task::JoinSet<()>, style: watcher::Config) {
    let scopes: Vec<Option<String>> = match ctx.options.namespaces.as_slice() {
        [] => vec![None],
        named => named.iter().cloned().map(Some).collect(),
    };
    for scope in &scopes {
        let objects = Objects { ctx: ctx.clone(), scope: scope.clone(), once: Once::new(gate) };
        let api: Api<Guard<ExternalSecret>> = scoped(ctx, scope.as_deref());
        watches.spawn(follow(stream(api, style.clone()), objects, "ExternalSecrets"));
        let of = scope.clone().map_or(Scope::Namespaces, Scope::Namespace);
        let stores = Stores { ctx: ctx.clone(), scope: of, once: Once::new(gate) };
        let api: Api<Guard<SecretStore>> = scoped(ctx, scope.as_deref());
        watches.spawn(follow(stream(api, style.clone()), stores, "SecretStores"));
        let api: Api<PartialObjectMeta<Secret>> = scoped(ctx, scope.as_deref());
        let config = style.clone().labels(&format!("{LABEL_MANAGED}=true"));
        watches.spawn(follow(
            stream(api, config),
            Targets { ctx: ctx.clone(), scope: scope.clone(), once: Once::new(gate) },
            "managed Secrets",
        ));
    }
    if ctx.options.namespaces.is_empty() {
        let stores = Stores { ctx: ctx.clone(), scope: Scope::Cluster, once: Once::new(gate) };
        let api: Api<Guard<ClusterSecretStore>> = Api::all(ctx.client.clone());
        watches.spawn(follow(stream(api, style.clone()), stores, "ClusterSecretStores"));
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(ctx.client.clone());
        watches.spawn(follow(stream(api, style.clone()), Namespaces { ctx: ctx.clone(), once: Once::new(gate) }, "Namespaces"));
    }
}

fn scoped<K>(ctx: &Context, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
        None => Api::all(ctx.client.clone()),
    }
}

fn stream<K>(api: Api<K>, config: watcher::Config) -> impl futures::Stream<Item = watcher::Result<watcher::Event<K>>>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config).default_backoff().modify(|o| prune(o.meta_mut()))
}

/// What nobody reads is not kept.
fn prune(meta: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

struct Objects {
    ctx: Arc<Context>,
    scope: Option<String>,
    once: Once,
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
        self.ctx.malformed_objects.mended(key);
        self.wake_all(self.ctx.state.object_deleted(key));
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
enum Scope {
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

struct Stores {
    ctx: Arc<Context>,
    scope: Scope,
    once: Once,
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
                let uid = meta.uid.unwrap_or_default();
                let news = self.ctx.state.store_applied(StoreEntry { view, status: status.unwrap_or_default(), uid });
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
                    let entry = StoreEntry { view, status: Default::default(), uid: meta.uid.unwrap_or_default() };
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

struct Targets {
    ctx: Arc<Context>,
    scope: Option<String>,
    once: Once,
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

struct Namespaces {
    ctx: Arc<Context>,
    once: Once,
}

impl Namespaces {
    fn seen(&self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let users = self.ctx.state.namespace_seen(name, labels);
        if self.ctx.filled.load(Ordering::SeqCst) {
            users.into_iter().for_each(|key| self.ctx.objects.wake(key, Wake::store(Instant::now())));
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
