//! `lockstep webhook`: says at apply what is wrong with a manifest, with the place in its text.
//!
//! It is comfort and no guard: the operator checks everything again, the API server asks with `failurePolicy: Ignore`, and the
//! webhook may do nothing in the cluster but keep its own certificate ([`keeper`]).

pub mod certificate;
pub mod checks;
#[cfg(test)]
mod checks_tests;
pub mod keeper;
pub mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::cli::WebhookArgs;
use crate::clients;
use crate::run::{self, RunError};
use crate::server::{self as probes, Probes};
use keeper::{Current, Keeper};
use server::Counts;

/// Runs until a signal.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: WebhookArgs) -> Result<(), RunError> {
    let current = Arc::new(Current::default());
    let counts = Arc::new(Counts::default());
    let keeping = match &args.cert_dir {
        Some(folder) => tokio::spawn(keeper::follow_files(folder.clone(), current.clone())),
        None => {
            let cluster = clients::connect().await?;
            let namespace = args.namespace.clone().unwrap_or(cluster.namespace);
            let service = &args.service;
            let mut names = vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")];
            names.extend(args.tls_names.iter().cloned());
            let (secret, configuration) = (args.secret.clone(), args.configuration.clone());
            let (client, validity) = (cluster.client, args.certificate_validity);
            let keeper = Keeper { client, namespace, secret, configuration, names, validity, current: current.clone() };
            tokio::spawn(keeper.run())
        }
    };
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    let probes = {
        let (ready, metrics) = (current.clone(), current.clone());
        let counts = counts.clone();
        Probes {
            health: args.health_addr,
            metrics: args.metrics_addr,
            // One that has ended is believed by nobody.
            ready: Box::new(move || ready.ends().is_some_and(|ends| ends > Timestamp::now())),
            encode: Box::new(move || encode(&metrics, &counts)),
        }
    };
    let probing = tokio::spawn(probes::listen(probes).await?);
    let stop = CancellationToken::new();
    run::stop_on_signal(stop.clone())?;
    tracing::info!(listen = %listener.local_addr()?, "answering the API server");
    tokio::select! {
        () = server::serve(listener, current, counts) => {}
        () = stop.cancelled() => {}
    }
    keeping.abort();
    probing.abort();
    tracing::info!("stopped");
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    kind: String,
    answer: &'static str,
}

fn encode(current: &Current, counts: &Counts) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    let asked = Family::<Asked, Counter>::default();
    for (kind, answer, count) in counts.rows() {
        asked.get_or_create(&Asked { kind, answer }).inc_by(count);
    }
    registry.register("lockstep_webhook_reviews", "Manifests that the API server asked about, by kind and answer", asked);
    let refused = Counter::<u64>::default();
    refused.inc_by(counts.refused.load(Ordering::Relaxed));
    registry.register("lockstep_webhook_connections_refused", "Connections that were one too many", refused);
    let ends = Gauge::<i64>::default();
    ends.set(current.ends().map_or(0, |ends| ends.as_second()));
    registry.register(
        "lockstep_webhook_certificate_end_seconds",
        "When the certificate ends, as Unix time; 0: there is none",
        ends,
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}
