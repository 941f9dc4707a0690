//! Connections to stores: one for each (store, identity), made once, shared by its users, made anew when what it was made
//! from changes, and closed after its last user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lockstep_crds::SecretStoreSpec;
use lockstep_crds::duration::parse_go;
use lockstep_crds::store::RetrySettings;
use lockstep_providers::registry::{self, Options};
use lockstep_providers::{Error, Result};
use tokio::time::Instant;

use crate::audit::Trail;
use crate::generator::Reading;
use crate::keys::StoreKey;
use crate::limits::{Limiter, Limits};
use crate::reads::{Hooks, Reader, Retries, StoreLabels};
use crate::refs::Refs;
use crate::resolver::{StoreResolver, names_no_namespace, tells_its_user};

/// A store, and the tenant whose references it is read with: two tenants never share a connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionKey {
    /// The store.
    pub store: StoreKey,
    /// For a cluster store whose references name no namespace: the user's.
    pub scope: Option<Arc<str>>,
}

/// A store as the cache holds it.
#[derive(Clone, Debug)]
pub struct StoreView {
    /// Which.
    pub key: StoreKey,
    /// UID and generation: what a connection is made from.
    pub identity: (String, i64),
    /// Its spec.
    pub spec: Arc<SecretStoreSpec>,
    /// What its annotations say of calls to the provider.
    pub limits: Limits,
    /// What is wrong with them.
    pub wrong_limits: Option<String>,
}

impl StoreView {
    /// The key of the connection that an object of `namespace` uses.
    pub fn connection_key(&self, namespace: Option<&Arc<str>>) -> ConnectionKey {
        let scoped = self.is_referent();
        ConnectionKey { store: self.key.clone(), scope: namespace.filter(|_| scoped).cloned() }
    }

    /// Whether the store can't be used alone: a cluster store whose references name no namespace, or that tells the provider
    /// which namespace uses it.
    pub fn is_referent(&self) -> bool {
        let of_its_user = |(name, spec): (&String, &serde_json::Value)| names_no_namespace(spec) || tells_its_user(name, spec);
        self.key.namespace.is_none() && self.spec.provider.0.iter().any(of_its_user)
    }
}

/// How long a failure to connect is the answer for everybody: what it depends on inside the cluster is watched.
const FAILURE_HOLDS: Duration = Duration::from_secs(10);
/// How long users of a replaced connection may go on with it.
const CLOSE_AFTER: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Slot {
    identity: Option<(String, i64)>,
    made: Option<(Result<Arc<Reader>>, Instant)>,
}

/// All connections.
pub struct Connections {
    reading: Reading,
    options: Options,
    slots: Mutex<HashMap<ConnectionKey, Arc<tokio::sync::Mutex<Slot>>>>,
    limiters: Mutex<HashMap<StoreKey, Arc<Mutex<Limiter>>>>,
    hooks: ConnectionHooks,
    #[cfg(test)]
    scripted: std::sync::OnceLock<Arc<dyn lockstep_providers::Provider>>,
}

/// What connections ask of, and tell to, those around them.
#[derive(Clone)]
pub struct ConnectionHooks {
    /// Told when the provider of a store turns out to be away.
    pub on_trouble: Arc<dyn Fn(&StoreKey) + Send + Sync>,
    /// See [`Hooks::is_awaited`].
    pub is_awaited: Arc<dyn Fn(Instant) -> bool + Send + Sync>,
}

impl Connections {
    /// No connections yet.
    pub fn new(reading: Reading, options: Options, hooks: ConnectionHooks) -> Self {
        Self {
            reading,
            options,
            slots: Mutex::default(),
            limiters: Mutex::default(),
            hooks,
            #[cfg(test)]
            scripted: std::sync::OnceLock::new(),
        }
    }

    /// From now on every store is this one.
    #[cfg(test)]
    pub fn script(&self, provider: Arc<dyn lockstep_providers::Provider>) {
        assert!(self.scripted.set(provider).is_ok(), "there is one script");
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionKey, Arc<tokio::sync::Mutex<Slot>>>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The connection of a store for an object of `namespace`, made if there is none.
    ///
    /// # Errors
    /// What [`registry::connect`] answers.
    pub async fn get(&self, store: &StoreView, namespace: Option<&Arc<str>>, refs: &Arc<Refs>) -> Result<Arc<Reader>> {
        let key = store.connection_key(namespace);
        let slot = self.lock().entry(key.clone()).or_default().clone();
        // Held while connecting: whoever comes meanwhile gets the same connection.
        let mut slot = slot.lock().await;
        if slot.identity.as_ref() == Some(&store.identity)
            && let Some((made, at)) = &slot.made
            && (made.is_ok() || at.elapsed() < FAILURE_HOLDS)
        {
            if let Ok(reader) = made {
                reader.set_limits(store.limits);
            }
            return made.clone();
        }
        close(slot.made.take());
        refs.forget(&key);
        let made = self.connect(store, key, refs).await;
        slot.identity = Some(store.identity.clone());
        slot.made = Some((made.clone(), Instant::now()));
        made
    }

    async fn connect(&self, store: &StoreView, key: ConnectionKey, refs: &Arc<Refs>) -> Result<Arc<Reader>> {
        let retries = retries(store.spec.retry_settings.as_ref())?;
        let (provider, spec) = registry::the_one(&store.spec.provider.0)?;
        let (provider, trail) =
            (provider.to_owned(), Trail::of_store(&self.reading.audit, &key, &store.identity.0, provider, spec));
        let Reading { client, own_cluster, token_file, shares_identity, metrics, .. } = self.reading.clone();
        let resolver =
            StoreResolver { client, caller: key, refs: refs.clone(), metrics, own_cluster, token_file, shares_identity };
        let connected = registry::connect(&store.spec.provider, Arc::new(resolver), &self.options).await?;
        #[cfg(test)]
        let connected = self.scripted.get().cloned().unwrap_or(connected);
        let limiter = self.limiter(store, connected.capabilities().concurrency);
        let labels = StoreLabels { store: store.key.to_string(), provider };
        let (on_trouble, away) = (self.hooks.on_trouble.clone(), store.key.clone());
        let hooks = Hooks { on_trouble: Box::new(move || on_trouble(&away)), is_awaited: self.hooks.is_awaited.clone() };
        Ok(Reader::new(connected, retries, limiter, labels, self.reading.metrics.clone(), trail, hooks))
    }

    /// One for all connections of a store: its provider counts them together.
    fn limiter(&self, store: &StoreView, suits: usize) -> Arc<Mutex<Limiter>> {
        let mut all = self.limiters.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let new = || Arc::new(Mutex::new(Limiter::new(suits, store.limits, Instant::now())));
        all.entry(store.key.clone()).or_insert_with(new).clone()
    }

    /// For how long a store has enough to do, if it has; and no connection is made to find out.
    pub fn crowded(&self, store: &StoreView, namespace: &Arc<str>, urgent: bool) -> Option<Duration> {
        let slot = self.lock().get(&store.connection_key(Some(namespace))).cloned()?;
        let slot = slot.try_lock().ok()?;
        match &slot.made {
            Some((Ok(reader), _)) => reader.crowded(urgent),
            Some((Err(_), _)) | None => None,
        }
    }

    /// What a connection was made from has changed: it is closed, and the next user makes a new one.
    pub async fn invalidate(&self, key: &ConnectionKey) {
        let slot = self.lock().get(key).cloned();
        if let Some(slot) = slot {
            let mut slot = slot.lock().await;
            slot.identity = None;
            close(slot.made.take());
        }
    }

    /// A store is gone, with all its connections.
    pub async fn remove(&self, store: &StoreKey, refs: &Refs) {
        let gone: Vec<_> = {
            let mut slots = self.lock();
            let keys: Vec<ConnectionKey> = slots.keys().filter(|k| k.store == *store).cloned().collect();
            keys.into_iter().filter_map(|key| slots.remove(&key).map(|slot| (key, slot))).collect()
        };
        self.limiters.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(store);
        for (key, slot) in gone {
            // One that is being made refers to things until it stands.
            let made = slot.lock().await.made.take();
            refs.forget(&key);
            close(made);
        }
    }

    /// Closes connections that were made for a namespace none of whose objects uses them any more, and forgets what no connection
    /// refers to.
    pub async fn tidy(&self, is_used: impl Fn(&ConnectionKey) -> bool, refs: &Refs) {
        let unused: Vec<_> = {
            let mut slots = self.lock();
            let keys: Vec<ConnectionKey> = slots.keys().filter(|k| k.scope.is_some() && !is_used(k)).cloned().collect();
            keys.into_iter().filter_map(|key| slots.remove(&key)).collect()
        };
        for slot in unused {
            close(slot.lock().await.made.take());
        }
        refs.retain(|user| self.lock().contains_key(user));
    }

    /// The connections of a store that stand, for probes.
    pub async fn of_store(&self, store: &StoreKey) -> Vec<Arc<Reader>> {
        let slots: Vec<_> = self.lock().iter().filter(|(k, _)| k.store == *store).map(|(_, s)| s.clone()).collect();
        let mut readers = Vec::new();
        for slot in slots {
            if let Some((Ok(reader), _)) = &slot.lock().await.made {
                readers.push(reader.clone());
            }
        }
        readers
    }

    /// Closes everything: logins are revoked.
    pub async fn close_all(&self) {
        let slots: Vec<_> = self.lock().drain().map(|(_, slot)| slot).collect();
        let close = slots.into_iter().map(|slot| async move {
            if let Some((Ok(reader), _)) = slot.lock().await.made.take() {
                reader.close().await;
            }
        });
        futures::future::join_all(close).await;
    }
}

/// Closes a replaced connection once its users are done.
fn close(made: Option<(Result<Arc<Reader>>, Instant)>) {
    if let Some((Ok(reader), _)) = made {
        tokio::spawn(async move {
            let end = Instant::now() + CLOSE_AFTER;
            while Arc::strong_count(&reader) > 1 && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            reader.close().await;
        });
    }
}

fn retries(settings: Option<&RetrySettings>) -> Result<Retries> {
    let Some(settings) = settings else { return Ok(Retries::default()) };
    let field = "spec.retrySettings";
    let max = settings.max_retries.unwrap_or(0);
    let max = u32::try_from(max).map_err(|_| Error::invalid(format!("{field}.maxRetries"), "is negative"))?;
    let interval = match &settings.retry_interval {
        Some(text) => parse_go(text).map_err(|why| Error::invalid(format!("{field}.retryInterval"), why))?,
        None => Duration::from_secs(1),
    };
    // A reconcile must end: what takes longer is the back-off's.
    Ok(Retries { max: max.min(10), interval: interval.min(Duration::from_secs(10)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::state::view;

    #[tokio::test]
    async fn a_connection_that_was_made_for_a_namespace_goes_with_its_last_user_there() {
        let (ctx, _api) = Context::test();
        let key = StoreKey { namespace: None, name: "shared".into() };
        // Its reference names no namespace: each user's has a connection of its own. Two methods are one too many, so that no
        // request is made; a failure to connect is kept like a connection.
        let spec = serde_json::json!({"provider": {"vault": {"server": "http://127.0.0.1:9", "path": "x",
            "auth": {"tokenSecretRef": {"name": "n", "key": "k"}, "jwt": {"path": "jwt"}}}}});
        let view = view(key.clone(), &Default::default(), serde_json::from_value(spec).unwrap(), Limits::default());
        assert!(view.is_referent());
        for namespace in ["a", "b"] {
            let _ = ctx.connections.get(&view, Some(&namespace.into()), &ctx.refs).await;
        }
        let scopes = || ctx.connections.lock().keys().filter_map(|k| k.scope.as_deref().map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(scopes().len(), 2);
        ctx.connections.tidy(|key| key.scope.as_deref() == Some("b"), &ctx.refs).await;
        assert_eq!(scopes(), ["b"]);
        ctx.tidy().await;
        assert!(scopes().is_empty(), "no object reads from it");
    }
}
