//! What every reconcile is given: built in one place, with a `test()` twin that answers scripted requests.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use lockstep_crds::ExternalSecret;
#[cfg(test)]
use lockstep_providers::OwnCluster;
use lockstep_providers::egress::Egress;
use lockstep_providers::registry::Endpoints;
use lockstep_providers::{Error, registry};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::audit::Audit;
use crate::clients::Cluster;
use crate::connections::{ConnectionHooks, ConnectionKey, Connections};
use crate::doctor::live::LookedUp;
use crate::events::Events;
use crate::external_secret::generic::Generic;
use crate::external_secret::rest::Rests;
use crate::external_secret::template::Mark;
use crate::fan_out::cache::{FanOutKey, FanOuts};
use crate::generator::{GeneratorIdentity, Generators, Reading};
use crate::generator_state::cache::GeneratorStates;
use crate::keys::{ObjectKey, Referrer, StoreKey};
use crate::kube_io::Writer;
use crate::limits::Limits;
use crate::malformed::Malformed;
use crate::metrics::{Live, Metrics, ObjectSample};
#[cfg(test)]
use crate::ownership::Hold;
use crate::ownership::Ownership;
use crate::push_secret::cache::PushSecrets;
use crate::queue::{Depth, Queue, Wake};
use crate::reads::Reader;
use crate::refs::{RefObject, Refs};
use crate::state::State;
use crate::store::StoreMemo;

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only stores of this class are served.
    pub controller_class: String,
    /// Whether PushSecrets and ClusterPushSecrets are served.
    pub push_secrets: bool,
    /// Namespaces that are served; empty: all, and cluster stores.
    pub namespaces: Vec<String>,
    /// Writes to the API server at once.
    pub concurrency: usize,
    /// How often an unchanged refresh is told in the status.
    pub heartbeat: Duration,
    /// How long a reconcile waits for a provider, retries included.
    pub read_deadline: Duration,
    /// How long one request to a provider may take.
    pub provider_timeout: Duration,
    /// Where clouds' services are that are not where their region says.
    pub endpoints: Arc<Endpoints>,
    /// Whether SecretStores that name no identity may be the operator.
    pub share_own_identity: bool,
    /// Where stores may go.
    pub egress: Arc<Egress>,
    /// PEM of certificate authorities that providers are trusted by beside the system's.
    pub authorities: Arc<Vec<u8>>,
    /// File with the pod's own token.
    pub token_file: std::path::PathBuf,
    /// Bounds on calls to the provider of a store that has no annotations about them.
    pub limits: Limits,
    /// How long what a generator made is kept after it was replaced.
    pub generator_grace: Duration,
    /// Whether targets may be of other kinds than Secret.
    pub generic_targets: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controller_class: "default".into(),
            push_secrets: true,
            namespaces: Vec::new(),
            concurrency: 24,
            heartbeat: Duration::from_secs(300),
            read_deadline: Duration::from_secs(60),
            provider_timeout: Duration::from_secs(10),
            endpoints: Arc::default(),
            share_own_identity: false,
            egress: Arc::default(),
            authorities: Arc::default(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            limits: Limits::default(),
            generator_grace: Duration::from_secs(120),
            generic_targets: false,
        }
    }
}

/// What every reconcile is given.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the command line decided.
    pub options: Options,
    /// What the watches have shown.
    pub state: State,
    /// Connections to stores.
    pub connections: Connections,
    /// What stores refer to.
    pub refs: Arc<Refs>,
    /// What ExternalSecrets and PushSecrets themselves refer to: templates, generators and sources.
    pub object_refs: Arc<Refs<Referrer>>,
    /// Generators that are ready to be asked.
    pub generators: Generators,
    /// What generators made that is to be given back one day.
    pub states: GeneratorStates,
    /// GeneratorStates to reconcile.
    pub leases: Queue<ObjectKey>,
    /// ExternalSecrets to reconcile.
    pub objects: Queue<ObjectKey>,
    /// Stores to reconcile.
    pub stores: Queue<StoreKey>,
    /// Targets of other kinds than Secret.
    pub generic: Generic,
    /// Whose target somebody else writes too.
    pub rests: Rests,
    /// ClusterExternalSecrets and ClusterPushSecrets.
    pub fan_outs: FanOuts,
    /// Those of them to reconcile.
    pub fans: Queue<FanOutKey>,
    /// Those of them that do not parse.
    pub malformed_fan_outs: Malformed<FanOutKey>,
    /// PushSecrets.
    pub push_secrets: PushSecrets,
    /// PushSecrets to reconcile.
    pub pushes: Queue<ObjectKey>,
    /// PushSecrets that do not parse.
    pub malformed_pushes: Malformed<ObjectKey>,
    /// What the doctor looked up last.
    pub looked_up: LookedUp,
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// Events to write.
    pub events: Events,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// Which objects this replica may write.
    pub ownership: Arc<Ownership>,
    /// ExternalSecrets that do not parse.
    pub malformed_objects: Malformed<ObjectKey>,
    /// Stores that do not parse.
    pub malformed_stores: Malformed<StoreKey>,
    /// Whether every watch has shown all there was at the start.
    pub filled: AtomicBool,
    /// Bounds writes to the API server.
    pub writes: Semaphore,
    /// Bounds templates that are rendered at once.
    pub renders: Semaphore,
    /// The wall clock: injected, so that logic never reads it.
    pub clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    store_memos: Mutex<HashMap<StoreKey, StoreMemo>>,
    marks: Mutex<HashMap<ObjectKey, Mark>>,
}

impl Context {
    /// Builds the context; no request is sent.
    pub fn new(
        cluster: Cluster,
        options: Options,
        ownership: Arc<Ownership>,
        trail: (Arc<Metrics>, Arc<Audit>),
        clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Arc<Self> {
        let Cluster { client, streams, own, .. } = cluster;
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let (metrics, audit) = trail;
            let stores = Queue::<StoreKey>::default();
            let object_refs = Refs::new(streams.clone(), {
                let weak = weak.clone();
                Box::new(move |user: &Referrer, object: &RefObject, version: Option<&str>| {
                    let Some(ctx) = weak.upgrade() else { return };
                    match (user, object.is_target()) {
                        (Referrer::ExternalSecret(key), true) => ctx.generic.touched(&ctx, key, version.is_some()),
                        _ => ctx.source_changed(user),
                    }
                })
            });
            let generator_refs = Refs::new(streams.clone(), {
                let weak = weak.clone();
                Box::new(move |user: &GeneratorIdentity, _: &RefObject, _: Option<&str>| {
                    if let Some(ctx) = weak.upgrade() {
                        let user = user.clone();
                        tokio::spawn(async move { ctx.generator_reference_changed(&user).await });
                    }
                })
            });
            let refs = Refs::new(streams, {
                let weak = weak.clone();
                Box::new(move |user: &ConnectionKey, _: &RefObject, _: Option<&str>| {
                    if let Some(ctx) = weak.upgrade() {
                        let user = user.clone();
                        tokio::spawn(async move { ctx.reference_changed(&user).await });
                    }
                })
            });
            let objects = Queue::<ObjectKey>::default();
            let hooks = {
                let (stores, objects) = (stores.clone(), objects.clone());
                ConnectionHooks {
                    on_trouble: Arc::new(move |store: &StoreKey| stores.wake(store.clone(), Wake::source(Instant::now()))),
                    is_awaited: Arc::new(move |made| objects.oldest_cause().is_some_and(|cause| cause <= made)),
                }
            };
            let provided = registry::Options {
                timeout: options.provider_timeout,
                endpoints: options.endpoints.clone(),
                egress: options.egress.clone(),
                authorities: options.authorities.clone(),
            };
            let shares_identity = options.share_own_identity || !options.namespaces.is_empty();
            let reading = Reading {
                client: client.clone(),
                own_cluster: own,
                token_file: options.token_file.clone(),
                shares_identity,
                metrics: metrics.clone(),
                audit: audit.clone(),
            };
            let generators = Generators::new(reading.clone(), provided.clone(), generator_refs);
            let connections = Connections::new(reading, provided, hooks);
            Self {
                state: State::default(),
                connections,
                refs,
                object_refs,
                generators,
                states: GeneratorStates::default(),
                leases: Queue::default(),
                generic: Generic::default(),
                rests: Rests::default(),
                fan_outs: FanOuts::default(),
                fans: Queue::default(),
                malformed_fan_outs: Malformed::default(),
                push_secrets: PushSecrets::default(),
                pushes: Queue::default(),
                malformed_pushes: Malformed::default(),
                objects,
                stores,
                audit,
                looked_up: LookedUp::default(),
                events: Events::new(client.clone(), metrics.clone(), ownership.clone()),
                ownership,
                malformed_objects: Malformed::default(),
                malformed_stores: Malformed::default(),
                filled: AtomicBool::new(false),
                writes: Semaphore::new(options.concurrency.max(1)),
                renders: Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
                metrics,
                client,
                options,
                clock,
                store_memos: Mutex::default(),
                marks: Mutex::default(),
            }
        })
    }

    /// A context whose client is answered by a script, at a fixed time.
    #[cfg(test)]
    pub fn test() -> (Arc<Self>, tower_test::mock::Handle<http::Request<kube::client::Body>, http::Response<kube::client::Body>>)
    {
        let (service, handle) = tower_test::mock::pair();
        let client = Client::new(service, "default");
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let same = client.clone();
        let streams = Arc::new(crate::clients::Streams::new(move || same.clone()));
        let cluster =
            Cluster { leases: client.clone(), client, streams, own: OwnCluster::default(), namespace: "default".into() };
        let alone = Arc::new(Ownership::new(1, Hold::Forever));
        (Self::new(cluster, Options::default(), alone, (Arc::default(), Audit::off()), Box::new(move || now)), handle)
    }

    /// What writes for an object.
    pub fn writer(&self, key: &ObjectKey) -> Writer<'_> {
        Writer::new(&self.client, &self.ownership, self.ownership.shard_of(key))
    }

    /// What writes for a store.
    pub fn store_writer(&self, key: &StoreKey) -> Writer<'_> {
        Writer::new(&self.client, &self.ownership, self.ownership.shard_of_store(key))
    }

    /// A shard is this replica's from now on: its objects are looked at as after a start.
    pub fn shard_gained(&self, shard: usize) {
        let now = Instant::now();
        self.ownership.begin_epoch(shard);
        self.forget_stores(shard);
        self.state.forget_memos(|key| self.ownership.shard_of(key) == shard);
        let malformed = self.malformed_objects.keys();
        for key in self.state.keys().into_iter().chain(malformed).filter(|key| self.ownership.shard_of(key) == shard) {
            self.objects.wake(key, Wake::changed(now));
        }
        for key in self.states.keys() {
            self.leases.wake(key, Wake::timer(now));
        }
        for key in self.fan_outs.keys().into_iter().chain(self.malformed_fan_outs.keys()) {
            self.fans.wake(key, Wake::timer(now));
        }
        self.push_secrets.forget_memos(|key| self.ownership.shard_of(key) == shard);
        for key in self.push_secrets.keys().into_iter().chain(self.malformed_pushes.keys()) {
            self.pushes.wake(key, Wake::changed(now));
        }
        let malformed = self.malformed_stores.keys();
        for key in self.state.store_keys().into_iter().chain(malformed).filter(|key| self.ownership.shard_of_store(key) == shard)
        {
            self.stores.wake(key, Wake::changed(now));
        }
    }

    /// A store works again: those who failed on it try again, with answers since `since`.
    pub fn wake_failed_users(&self, store: &StoreKey, since: Instant) {
        for user in self.state.users(store, None, true) {
            // After an outage nobody changed anything: whoever has a Secret takes it in turns, so that a provider which has
            // just come back is not run over.
            match self.state.is_cut_off(&user) {
                true => self.objects.wake_in_turn(user, Wake::store(since)),
                false => self.objects.wake(user, Wake::store(since)),
            }
        }
        self.wake_failed_pushes(store, None);
    }

    /// PushSecrets whose last push into a store failed, in one namespace or in all.
    fn wake_failed_pushes(&self, store: &StoreKey, scope: Option<&str>) {
        let users = self.push_secrets.users(store).into_iter().filter(|key| scope.is_none_or(|scope| *key.namespace == *scope));
        for user in users.filter(|key| self.push_secrets.has_failed(key)) {
            self.pushes.wake(user, Wake::store(Instant::now()));
        }
    }

    fn forget_stores(&self, shard: usize) {
        self.memos().retain(|key, _| self.ownership.shard_of_store(key) != shard);
    }

    /// A shard is somebody else's: what this process knew of its objects is soon out of date.
    pub fn shard_lost(&self, shard: usize) {
        self.forget_stores(shard);
        self.state.forget_memos(|key| self.ownership.shard_of(key) == shard);
    }

    /// The connection to a store for an object of `namespace`.
    ///
    /// # Errors
    /// What [`registry::connect`] answers; [`Error::Invalid`] when the store is not there.
    pub async fn connect(&self, store: &StoreKey, namespace: &Arc<str>) -> Result<Arc<Reader>, Error> {
        let entry = self.state.store(store);
        let entry = entry.ok_or_else(|| Error::invalid("spec.secretStoreRef", format!("{store} does not exist")))?;
        self.connections.get(&entry.view, Some(namespace), &self.refs).await
    }

    /// For how long one of an object's stores has enough to do, if one has.
    pub fn crowded(&self, key: &ObjectKey, object: &ExternalSecret, urgent: bool) -> Option<Duration> {
        let stores = object.store_refs().map(|r| StoreKey::referred(&key.namespace, r));
        let waits = stores.filter_map(|store| self.connections.crowded(&self.state.store(&store)?.view, &key.namespace, urgent));
        waits.max()
    }

    /// Something that a connection was made from is not what it was: its users connect anew, at once.
    async fn reference_changed(&self, user: &ConnectionKey) {
        tracing::debug!(store = %user.store, "a referenced object changed");
        self.connections.invalidate(user).await;
        let now = Instant::now();
        self.stores.wake(user.store.clone(), Wake::store(now));
        for object in self.state.users(&user.store, user.scope.as_deref(), false) {
            self.objects.wake(object, Wake::store(now));
        }
        self.wake_failed_pushes(&user.store, user.scope.as_deref());
    }

    /// An object is gone: what it used goes with it.
    pub fn object_gone(&self, user: &Referrer) {
        for key in self.states.of_referrer(user) {
            self.leases.wake(key, Wake::timer(Instant::now()));
        }
    }

    /// Something that an object itself refers to is not what it was: its user looks at it at once.
    pub fn source_changed(&self, user: &Referrer) {
        match user {
            Referrer::ExternalSecret(key) => {
                tracing::debug!(object = %key, "what it refers to changed");
                self.objects.wake(key.clone(), Wake::source(Instant::now()));
            }
            Referrer::PushSecret(key) => {
                tracing::debug!(push = %key, "what it refers to changed");
                self.pushes.wake(key.clone(), Wake::source(Instant::now()));
            }
        }
    }

    /// What a generator was made ready with is not what it was: it is made ready anew, and those who failed try again.
    async fn generator_reference_changed(&self, identity: &GeneratorIdentity) {
        tracing::debug!(generator = %identity, "a referenced object changed");
        let users = self.generators.invalidate(identity).await;
        for user in users {
            match &user {
                Referrer::ExternalSecret(key) if self.state.has_failed(key) => self.source_changed(&user),
                Referrer::ExternalSecret(_) => {}
                Referrer::PushSecret(key) if self.push_secrets.has_failed(key) => self.source_changed(&user),
                Referrer::PushSecret(_) => {}
            }
        }
    }

    /// Closes what nobody uses any more.
    pub async fn tidy(&self) {
        let scopes = self.state.scopes();
        let is_used = |key: &ConnectionKey| match &key.scope {
            Some(scope) => {
                scopes.contains(&(key.store.clone(), scope.clone()))
                    || self.push_secrets.users(&key.store).iter().any(|user| user.namespace == *scope)
            }
            None => true,
        };
        self.connections.tidy(is_used, &self.refs).await;
        let is_mine = |key: &ObjectKey| self.ownership.owns(key) && self.state.object(key).is_some();
        self.object_refs.retain(|user| match user {
            Referrer::ExternalSecret(key) => is_mine(key),
            Referrer::PushSecret(key) => self.ownership.owns(key) && self.push_secrets.get(key).is_some(),
        });
        self.marks().retain(|key, _| is_mine(key));
        self.generic.retain(is_mine);
        self.rests.tidy(Instant::now());
        self.generators.tidy(|identity| self.states.uses(identity)).await;
    }

    /// Whether a connection of a store knows its provider to be away.
    pub async fn away(&self, store: &StoreKey) -> bool {
        self.connections.of_store(store).await.iter().any(|r| r.is_away())
    }

    /// Marks of what was rendered by chance, so that they are computed once.
    pub fn marks(&self) -> MutexGuard<'_, HashMap<ObjectKey, Mark>> {
        self.marks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn memos(&self) -> MutexGuard<'_, HashMap<StoreKey, StoreMemo>> {
        self.store_memos.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is known of a store.
    pub fn store_memo(&self, key: &StoreKey) -> StoreMemo {
        self.memos().get(key).cloned().unwrap_or_default()
    }

    /// Remembers what is known of a store.
    pub fn remember_store(&self, key: &StoreKey, memo: StoreMemo) {
        self.memos().insert(key.clone(), memo);
    }

    /// Forgets a store.
    pub fn forget_store(&self, key: &StoreKey) {
        self.memos().remove(key);
        self.metrics.forget_store(&key.to_string());
    }
}

impl Live for Context {
    fn objects(&self) -> Vec<ObjectSample> {
        let mut all = Vec::new();
        self.state.for_each(|key, memo| {
            // Another replica tells of its own.
            if !self.ownership.owns(key) {
                return;
            }
            all.push(ObjectSample {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                ready: memo.and_then(|m| m.ready),
                sync_calls: memo.map_or(0, |m| m.sync_calls),
                sync_errors: memo.map_or(0, |m| m.sync_errors),
            });
        });
        let odd = self.malformed_objects.keys().into_iter().filter(|key| self.ownership.owns(key));
        all.extend(odd.map(|key| ObjectSample {
            namespace: key.namespace,
            name: key.name,
            ready: Some(false),
            sync_calls: 0,
            sync_errors: 0,
        }));
        all
    }

    fn stores(&self) -> (usize, usize) {
        let mine = |key: &StoreKey| self.ownership.owns_store(key);
        let (ready, not_ready) = self.state.stores_ready(&self.options.controller_class, mine);
        (ready, not_ready + self.malformed_stores.keys().iter().filter(|key| mine(key)).count())
    }

    fn kept(&self) -> (usize, usize) {
        self.state.size()
    }

    fn findings(&self) -> Vec<(&'static str, i64)> {
        self.findings().into_iter().map(|(check, count)| (check.name(), count)).collect()
    }

    fn queues(&self) -> Vec<(&'static str, Depth)> {
        vec![
            ("externalsecret", self.objects.depth()),
            ("store", self.stores.depth()),
            ("generatorstate", self.leases.depth()),
            ("pushsecret", self.pushes.depth()),
            ("fanout", self.fans.depth()),
        ]
    }
}
