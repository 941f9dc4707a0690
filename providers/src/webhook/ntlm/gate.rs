//! One connection, and no other.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Once closed, keeps a client to the connection that it has: that one is logged in, or about to be.
#[derive(Clone)]
pub(super) struct Gate {
    closed: Arc<AtomicBool>,
    grace: Duration,
}

impl Gate {
    /// `grace`: how long a connection that answered may take to be free again.
    pub(super) fn new(grace: Duration) -> Self {
        Self { closed: Arc::default(), grace }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl<S> tower::Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Gated<S> {
    inner: S,
    gate: Gate,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> tower::Service<R> for Gated<S>
where
    S: tower::Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        if self.gate.closed.load(Ordering::Acquire) {
            let grace = self.gate.grace;
            return Box::pin(async move {
                tokio::time::sleep(grace).await;
                Err("the server closed the connection that was logged in, or about to be".into())
            });
        }
        Box::pin(self.inner.call(request))
    }
}
