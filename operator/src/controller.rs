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
use lockstep_crds::conditions::{Condition, ConditionType, SecretReason, StoreReason};
use lockstep_crds::{ClusterSecretStore, ExternalSecret, LABEL_MANAGED, SecretStore};
use lockstep_providers::registry::without_quotes;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::external_secret::status::rfc3339;
use crate::external_secret::target::Seen;
use crate::keys::{ObjectKey, StoreKey};
use crate::mirror::{Follower, Guard, follow};
use crate::queue::{Queue, Wake};
use crate::state::{StoreEntry, view};
use crate::{external_secret, kube_io, store};

/// Reconciles at once. Most of them wait for a provider; what they may send to the API server is bounded by
/// [`crate::context::Options::concurrency`].
const RECONCILES: usize = 512;
/// How long a stop waits for writes under way.
const STOP_WITHIN: Duration = Duration::from_millis(3500);

/// Runs the watches and the workers until `stop`; `synced` is called once all watches have seen everything.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken, synced: impl Fn() + Send + Sync + 'static) {
    let gate = Gate::new(&ctx);
    let mut watches = tokio::task::JoinSet::new();
    start_watches(&ctx, &gate, &mut watches);
    tokio::select! { () = gate.opened() => synced(), () = stop.cancelled() => return }
    let events = tokio::spawn({
        let ctx = ctx.clone();
        async move { ctx.events.run().await }
    });
    let tasks = TaskTracker::new();
    let objects = dispatch(ctx.objects.clone(), tasks.clone(), stop.clone(), ctx.clone(), "ExternalSecret", {
        let ctx = ctx.clone();
        move |key: ObjectKey, wake| {
            let ctx = ctx.clone();
            async move { external_secret::reconcile(&ctx, &key, wake).await }
        }
    });
    let stores = dispatch(ctx.stores.clone(), tasks.clone(), stop.clone(), ctx.clone(), "SecretStore", {
        let ctx = ctx.clone();
        move |key: StoreKey, wake| {
            let ctx = ctx.clone();
            async move { store::reconcile(&ctx, &key, wake).await }
        }
    });
    futures::future::join(objects, stores).await;
    watches.abort_all();
    tasks.close();
    if tokio::time::timeout(STOP_WITHIN, tasks.wait()).await.is_err() {
        tracing::warn!("some reconciles did not end in time; their objects converge at the next start");
    }
    events.abort();
    let _ = tokio::time::timeout(Duration::from_millis(800), ctx.connections.close_all()).await;
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
    F: Fn(K, Wake) -> R,
    R: Future<Output = Option<Duration>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(RECONCILES));
    loop {
        let permit = tokio::select! { permit = permits.clone().acquire_owned() => permit, () = stop.cancelled() => return };
        let (key, wake) = tokio::select! { next = queue.next() => next, () = stop.cancelled() => return };
        let (queue, ctx) = (queue.clone(), ctx.clone());
        let reconcile = AssertUnwindSafe(work(key.clone(), wake)).catch_unwind();
        tasks.spawn(async move {
            let next = reconcile.await.unwrap_or_else(|_| {
                ctx.metrics.panicked();
                tracing::error!(kind, %key, "a reconcile panicked; please report it. The object is tried again in 5 min");
                Some(Duration::from_secs(300))
            });
            // Durations of years, such as a refreshInterval can be, have no place on a timer.
            let next = next.map(|wait| Instant::now() + wait.min(Duration::from_secs(86_400)));
            queue.done(key, next);
            drop(permit);
        });
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

fn start_watches(ctx: &Arc<Context>, gate: &Arc<Gate>, watches: &mut tokio::task::JoinSet<()>) {
    let scopes: Vec<Option<String>> = match ctx.options.namespaces.as_slice() {
        [] => vec![None],
        named => named.iter().cloned().map(Some).collect(),
    };
    for scope in &scopes {
        let objects = Objects { ctx: ctx.clone(), once: Once::new(gate), told: Default::default() };
        let api: Api<Guard<ExternalSecret>> = scoped(ctx, scope.as_deref());
        watches.spawn(follow(stream(api, watcher::Config::default()), objects, "ExternalSecrets"));
        let stores = Stores { ctx: ctx.clone(), once: Once::new(gate), told: Default::default() };
        let api: Api<Guard<SecretStore>> = scoped(ctx, scope.as_deref());
        watches.spawn(follow(stream(api, watcher::Config::default()), stores, "SecretStores"));
        let api: Api<PartialObjectMeta<Secret>> = scoped(ctx, scope.as_deref());
        let config = watcher::Config::default().labels(&format!("{LABEL_MANAGED}=true"));
        watches.spawn(follow(stream(api, config), Targets { ctx: ctx.clone(), once: Once::new(gate) }, "managed Secrets"));
    }
    if ctx.options.namespaces.is_empty() {
        let stores = Stores { ctx: ctx.clone(), once: Once::new(gate), told: Default::default() };
        let api: Api<Guard<ClusterSecretStore>> = Api::all(ctx.client.clone());
        watches.spawn(follow(stream(api, watcher::Config::default()), stores, "ClusterSecretStores"));
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(ctx.client.clone());
        watches.spawn(follow(
            stream(api, watcher::Config::default()),
            Namespaces { ctx: ctx.clone(), once: Once::new(gate) },
            "Namespaces",
        ));
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

/// Generation of a malformed object that was told about already.
type Told<K> = std::sync::Mutex<std::collections::HashMap<K, Option<i64>>>;

fn news<K: std::hash::Hash + Eq>(told: &Told<K>, key: K, generation: Option<i64>) -> bool {
    told.lock().unwrap_or_else(|p| p.into_inner()).insert(key, generation) != Some(generation)
}

/// Writes a condition on an object that does not parse.
fn tell_malformed(ctx: &Arc<Context>, url: String, name: String, reason: &'static str, error: &str) {
    let why = without_quotes(error);
    tracing::warn!(%name, %why, "an object does not parse");
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let condition = Condition {
            type_: ConditionType::Ready.as_str().into(),
            status: "False".into(),
            reason: Some(reason.into()),
            message: Some(format!("the object does not parse: {why}; correct it, or install the CRDs of this version")),
            last_transition_time: Some(rfc3339((ctx.clock)())),
        };
        let patch = json!({"status": {"conditions": [condition]}});
        if let Err(error) = kube_io::patch_status(&ctx.client, &url, &name, &patch).await {
            tracing::warn!(%name, error = %external_secret::kube_error(&error), "status could not be written");
        }
    });
}

struct Objects {
    ctx: Arc<Context>,
    once: Once,
    told: Told<ObjectKey>,
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
                let (changed, others) = self.ctx.state.object_applied(&key, *object);
                self.wake_all(others);
                if changed {
                    self.ctx.objects.wake(key, Wake::changed(Instant::now()));
                }
            }
            Guard::Bad(bad) => {
                self.wake_all(self.ctx.state.object_deleted(&key));
                if news(&self.told, key.clone(), bad.1.generation) {
                    let url =
                        Api::<ExternalSecret>::namespaced(self.ctx.client.clone(), &key.namespace).resource_url().to_owned();
                    tell_malformed(&self.ctx, url, key.name.to_string(), SecretReason::SecretSyncedError.as_str(), &bad.0);
                }
            }
        }
    }

    fn deleted(&self, key: &ObjectKey) {
        self.wake_all(self.ctx.state.object_deleted(key));
    }

    fn ready(&self) {
        self.once.ready();
    }
}

/// Either kind of store.
trait StoreObject: Resource<DynamicType = ()> {
    fn parts(self) -> (lockstep_crds::SecretStoreSpec, Option<lockstep_crds::SecretStoreStatus>);
    fn url(ctx: &Context, key: &StoreKey) -> String;
}

impl StoreObject for SecretStore {
    fn parts(self) -> (lockstep_crds::SecretStoreSpec, Option<lockstep_crds::SecretStoreStatus>) {
        (self.spec, self.status)
    }
    fn url(ctx: &Context, key: &StoreKey) -> String {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        Api::<Self>::namespaced(ctx.client.clone(), namespace).resource_url().to_owned()
    }
}

impl StoreObject for ClusterSecretStore {
    fn parts(self) -> (lockstep_crds::SecretStoreSpec, Option<lockstep_crds::SecretStoreStatus>) {
        (self.spec.into(), self.status)
    }
    fn url(ctx: &Context, _: &StoreKey) -> String {
        Api::<Self>::all(ctx.client.clone()).resource_url().to_owned()
    }
}

struct Stores {
    ctx: Arc<Context>,
    once: Once,
    told: Told<StoreKey>,
}

impl Stores {
    fn wake_users(&self, key: &StoreKey) {
        let now = Instant::now();
        self.ctx.stores.wake(key.clone(), Wake::changed(now));
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
                let uid = object.meta().uid.clone().unwrap_or_default();
                let generation = object.meta().generation.unwrap_or(0);
                let (spec, status) = object.parts();
                let view = view(key.clone(), &uid, generation, spec);
                if self.ctx.state.store_applied(StoreEntry { view, status: status.unwrap_or_default(), uid }) {
                    self.wake_users(&key);
                }
            }
            Guard::Bad(bad) => {
                self.ctx.state.store_deleted(&key);
                if news(&self.told, key.clone(), bad.1.generation) {
                    self.wake_users(&key);
                    let reason = StoreReason::InvalidProviderConfig.as_str();
                    tell_malformed(&self.ctx, K::url(&self.ctx, &key), key.name.to_string(), reason, &bad.0);
                }
            }
        }
    }

    fn deleted(&self, key: &StoreKey) {
        self.ctx.state.store_deleted(key);
        self.wake_users(key);
    }

    fn ready(&self) {
        self.once.ready();
    }
}

struct Targets {
    ctx: Arc<Context>,
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
        self.wake_all(self.ctx.state.target_seen(&key, Seen::There { uid, version }));
    }

    fn deleted(&self, (key, uid): &Self::Key) {
        self.wake_all(self.ctx.state.target_gone(key, uid.as_deref()));
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
        for key in self.ctx.state.namespace_seen(name, labels) {
            self.ctx.objects.wake(key, Wake::store(Instant::now()));
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

    fn ready(&self) {
        self.once.ready();
    }
}
