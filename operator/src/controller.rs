//! The workers: what turns what the [`watches`] see into reconciles.

mod followers;
mod watches;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::watches::{Gate, list_style, start_watches};
use crate::context::Context;
use crate::doctor::live;
use crate::fan_out::cache::FanOutKey;
use crate::keys::{ObjectKey, StoreKey};
use crate::queue::{Next, Queue, Wake};
use crate::{external_secret, fan_out, generator_state, push_secret, store};

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
    let doctor = tokio::spawn(live::run(ctx.clone()));
    let tasks = TaskTracker::new();
    let objects = dispatch(ctx.objects.clone(), tasks.clone(), stop.clone(), ctx.clone(), "ExternalSecret", {
        let ctx = ctx.clone();
        move |key: ObjectKey, wake, active| {
            let ctx = ctx.clone();
            async move { external_secret::reconcile(&ctx, &key, wake, active).await }
        }
    });
    let leases = dispatch(ctx.leases.clone(), tasks.clone(), stop.clone(), ctx.clone(), "GeneratorState", {
        let ctx = ctx.clone();
        move |key: ObjectKey, _, mut active: Active| {
            let ctx = ctx.clone();
            async move { generator_state::reconcile(&ctx, &key, &mut active).await }
        }
    });
    let fans = dispatch(ctx.fans.clone(), tasks.clone(), stop.clone(), ctx.clone(), "ClusterExternalSecret", {
        let ctx = ctx.clone();
        move |key: FanOutKey, _, mut active: Active| {
            let ctx = ctx.clone();
            async move { fan_out::reconcile(&ctx, &key, &mut active).await }
        }
    });
    let pushes = dispatch(ctx.pushes.clone(), tasks.clone(), stop.clone(), ctx.clone(), "PushSecret", {
        let ctx = ctx.clone();
        move |key: ObjectKey, wake, mut active: Active| {
            let ctx = ctx.clone();
            async move { push_secret::reconcile(&ctx, &key, wake, &mut active).await }
        }
    });
    let stores = dispatch(ctx.stores.clone(), tasks.clone(), stop.clone(), ctx.clone(), "SecretStore", {
        let ctx = ctx.clone();
        move |key: StoreKey, wake, mut active: Active| {
            let ctx = ctx.clone();
            async move { store::reconcile(&ctx, &key, wake, &mut active).await }
        }
    });
    futures::future::join5(objects, stores, leases, fans, pushes).await;
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
    doctor.abort();
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
