//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use crate::context::Context;
use crate::metrics::Live;

/// Whether the process is ready: as leader once its caches are filled, as a standby once it waits for the lease.
pub type Ready = Arc<AtomicBool>;

/// Listens on one address for probes and on one for Prometheus; returns what serves.
///
/// # Errors
/// When an address can't be bound.
pub async fn listen(
    health: SocketAddr,
    metrics: SocketAddr,
    ctx: &Arc<Context>,
    ready: Ready,
) -> std::io::Result<impl Future<Output = ()> + use<>> {
    let probes = Router::new().route("/livez", get(async || "ok\n")).route(
        "/readyz",
        get(move || async move {
            if ready.load(Ordering::Relaxed) { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
        }),
    );
    let scrape = {
        let ctx = ctx.clone();
        Router::new().route(
            "/metrics",
            get(move || async move {
                let live: Arc<dyn Live> = ctx.clone();
                match ctx.metrics.encode(Arc::downgrade(&live)) {
                    Ok(text) => {
                        Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
                    }
                    Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
                }
            }),
        )
    };
    let health = tokio::net::TcpListener::bind(health).await?;
    let metrics = tokio::net::TcpListener::bind(metrics).await?;
    tracing::info!(health = %health.local_addr()?, metrics = %metrics.local_addr()?, "listening");
    Ok(async move {
        let (a, b) = (axum::serve(health, probes), axum::serve(metrics, scrape));
        let _ = futures::future::join(a.into_future(), b.into_future()).await;
    })
}
