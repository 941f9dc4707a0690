//! `lockstep run`: from the command line to a running operator and to its orderly end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use lockstep_providers::egress::Egress;
use lockstep_providers::registry::Endpoints;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Audit, AuditError};
use crate::cli::RunArgs;
use crate::clients::{self, NoCluster};
use crate::context::{Context, Options};
use crate::controller;
use crate::leader::Election;
use crate::limits::Limits;
use crate::metrics::{Live, Metrics};
use crate::ownership::{Hold, Ownership};
use crate::server::Probes;
use crate::shards::{self, Sharding};
use crate::{events, server};

/// How long a stop waits for the audit trail to be written.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// How long a stop waits for logins to be given back.
const CLOSE_WITHIN: Duration = Duration::from_millis(800);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No cluster to talk to.
    #[error(transparent)]
    NoCluster(#[from] NoCluster),
    /// An address can't be listened on.
    #[error("can't listen: {0}; choose others with --metrics-addr and --health-addr")]
    Listen(#[from] std::io::Error),
    /// A file of authorities can't be used.
    #[error("--ca-file: {0}")]
    Authorities(String),
    /// The audit trail can't begin.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Another replica may lead now.
    #[error("the lease was lost; ending, so that two replicas never write at once")]
    LeaseLost,
}

fn authorities(file: Option<&std::path::Path>) -> Result<Vec<u8>, RunError> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let wrong = |why: String| RunError::Authorities(format!("{}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(pem),
        _ => Err(wrong("holds no PEM certificate (-----BEGIN CERTIFICATE-----)".into())),
    }
}

/// Runs until a signal, or until the lease is lost.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    let cluster = clients::connect().await?;
    let (leases, own_namespace) = (cluster.leases.clone(), cluster.namespace.clone());
    let options = Options {
        controller_class: args.controller_class.clone(),
        push_secrets: args.push_secrets,
        namespaces: args.namespaces.clone(),
        concurrency: usize::from(args.concurrency),
        heartbeat: args.heartbeat,
        provider_timeout: args.provider_timeout,
        endpoints: Arc::new(Endpoints::from_variables(|name| std::env::var(name).ok())),
        share_own_identity: args.share_own_identity,
        egress: Arc::new(Egress {
            places: args.resolve.clone(),
            allow: args.egress_allow.clone(),
            only: args.egress_only.clone(),
        }),
        authorities: Arc::new(authorities(args.ca_file.as_deref())?),
        token_file: args.token_file.clone(),
        generator_grace: args.generator_gc_grace_period,
        generic_targets: args.unsafe_allow_generic_targets,
        limits: Limits { concurrency: args.store_concurrency.map(usize::from), per_second: args.store_rate },
        ..Options::default()
    };
    let elected = args.leader_elect || args.shards > 1;
    let hold = if elected { Hold::No } else { Hold::Forever };
    let ownership = Arc::new(Ownership::new(usize::from(args.shards), hold));
    let metrics = Arc::<Metrics>::default();
    let variable = |name: &str| std::env::var(name).ok();
    let endpoint = audit::Endpoint::find(args.audit_otlp_endpoint.as_deref(), variable, options.authorities.clone());
    let trail = audit::Settings { places: args.audit.clone(), key_file: args.audit_key_file.clone(), endpoint };
    let audit = Audit::start(&trail, &metrics)?;
    let ctx = Context::new(cluster, options, ownership, (metrics, audit.clone()), Box::new(Timestamp::now));
    let ready: server::Ready = Arc::new(AtomicBool::new(false));
    let probes = {
        let (ready, ctx) = (ready.clone(), ctx.clone());
        Probes {
            health: args.health_addr,
            metrics: args.metrics_addr,
            ready: Box::new(move || ready.load(Ordering::Relaxed)),
            encode: Box::new(move || {
                let live: Arc<dyn Live> = ctx.clone();
                ctx.metrics.encode(Arc::downgrade(&live))
            }),
        }
    };
    let serve = server::listen(probes).await?;
    let server = tokio::spawn(serve);
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;

    let connections = ctx.clone();
    let namespace = args.lease_namespace.clone().unwrap_or(own_namespace);
    let identity = format!("{}_{:08x}", events::instance(), rand::random::<u32>());
    let (name, duration) = (args.lease_name.clone(), args.lease_duration.max(Duration::from_secs(3)));
    let outcome = if args.shards > 1 {
        let serves = format!("class {} in {}", args.controller_class, served(&args.namespaces));
        let sharding = Sharding { namespace, name, identity, duration, shards: usize::from(args.shards), serves };
        share(ctx, leases, sharding, &ready, &stop).await;
        Ok(())
    } else if args.leader_elect {
        let election = Election { namespace, name, identity, duration };
        lead(ctx, &leases, &election, &ready, &stop).await
    } else {
        work(ctx, &ready, stop.clone()).await;
        Ok(())
    };
    // Logins are given back last: nobody waits for that.
    let close = futures::future::join(connections.connections.close_all(), connections.generators.close_all());
    let _ = tokio::time::timeout(CLOSE_WITHIN, close).await;
    audit.flush(FLUSH_WITHIN).await;
    server.abort();
    tracing::info!("stopped");
    outcome
}

async fn work(ctx: Arc<Context>, ready: &server::Ready, stop: CancellationToken) {
    let ready = ready.clone();
    controller::run(ctx, stop, move || {
        ready.store(true, Ordering::Relaxed);
        tracing::info!("caches filled; working");
    })
    .await;
}

fn served(namespaces: &[String]) -> String {
    let mut names = namespaces.to_vec();
    names.sort();
    if names.is_empty() { "all namespaces".into() } else { names.join(", ") }
}

/// Works on a share of the objects, beside other replicas.
async fn share(ctx: Arc<Context>, client: Client, sharding: Sharding, ready: &server::Ready, stop: &CancellationToken) {
    let leave = CancellationToken::new();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let taking = tokio::spawn({
        let (ctx, leave) = (ctx.clone(), leave.clone());
        async move {
            // Whoever has not seen everything yet takes no shard from those who have.
            if begun.await.is_ok() {
                shards::run(sharding, client, ctx, leave).await;
            }
        }
    });
    let begin = std::sync::Mutex::new(Some(begin));
    let ready = ready.clone();
    controller::run(ctx, stop.clone(), move || {
        ready.store(true, Ordering::Relaxed);
        tracing::info!("caches filled; working");
        if let Some(begin) = begin.lock().unwrap_or_else(|p| p.into_inner()).take() {
            let _ = begin.send(());
        }
    })
    .await;
    leave.cancel();
    let _ = taking.await;
}

async fn lead(
    ctx: Arc<Context>,
    client: &Client,
    election: &Election,
    ready: &server::Ready,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    // A standby is as ready as it can be: a rollout must not wait for it to lead.
    ready.store(true, Ordering::Relaxed);
    let mut leadership = tokio::select! { won = election.win(client) => won, () = stop.cancelled() => return Ok(()) };
    let ownership = ctx.ownership.clone();
    leadership.prolong(&ownership);
    let mut working = std::pin::pin!(work(ctx, ready, stop.clone()));
    tokio::select! {
        () = &mut working => {}
        () = leadership.hold(&ownership) => return Err(RunError::LeaseLost),
    }
    ownership.end(shards::LEAVE_WITHIN).await;
    if ownership.is_writing() {
        tracing::warn!("a write did not end in time: the lease ends by itself");
        return Ok(());
    }
    leadership.release().await;
    Ok(())
}

/// Cancels on SIGTERM and SIGINT.
///
/// # Errors
/// When the process may not listen for them.
pub fn stop_on_signal(stop: CancellationToken) -> std::io::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping: finishing writes under way");
        stop.cancel();
    });
    Ok(())
}
