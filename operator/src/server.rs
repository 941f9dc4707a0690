//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

/// Whether the process is ready: as leader once its caches are filled, as a standby once it waits for the lease.
pub type Ready = Arc<AtomicBool>;

/// What is listened on for, and what is answered.
pub struct Probes {
    /// Address of `/livez` and `/readyz`.
    pub health: SocketAddr,
    /// Address of `/metrics`.
    pub metrics: SocketAddr,
    /// Whether the process is ready.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// The text of `/metrics`.
    pub encode: Box<dyn Fn() -> Result<String, std::fmt::Error> + Send + Sync>,
}

/// Listens on one address for probes and on one for Prometheus; returns what serves.
///
/// # Errors
/// When an address can't be bound.
pub async fn listen(probes: Probes) -> std::io::Result<impl Future<Output = ()> + use<>> {
    let Probes { health, metrics, ready, encode } = probes;
    let (ready, encode) = (Arc::new(ready), Arc::new(encode));
    let probes =
        Router::new().route("/livez", get(async || "ok\n")).route(
            "/readyz",
            get(move || async move {
                if ready() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
            }),
        );
    let scrape = Router::new().route(
        "/metrics",
        get(move || async move {
            match encode() {
                Ok(text) => Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)),
                Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
            }
        }),
    );
    let health = tokio::net::TcpListener::bind(health).await?;
    let metrics = tokio::net::TcpListener::bind(metrics).await?;
    tracing::info!(health = %health.local_addr()?, metrics = %metrics.local_addr()?, "listening");
    Ok(async move {
        let (a, b) = (axum::serve(health, probes), axum::serve(metrics, scrape));
        let _ = futures::future::join(a.into_future(), b.into_future()).await;
    })
}
