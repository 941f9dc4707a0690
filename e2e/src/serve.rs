//! Servers of our own: on loopback, on free ports, for as long as the process lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::control_plane::Pair;

/// Serves on a thread of its own: a test's runtime ends with the test. Answers the URL.
///
/// # Errors
/// Why there is no port.
pub fn apart(app: Router) -> Result<String, String> {
    let (listener, port) = listener()?;
    on_a_thread(move || async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        let _ended = axum::serve(listener, app).await;
    })?;
    Ok(format!("http://127.0.0.1:{port}"))
}

/// The same over TLS, with this certificate. Answers the port.
///
/// # Errors
/// Why there is no port, or what is wrong with the certificate.
pub fn apart_with_tls(app: Router, pair: &Pair) -> Result<u16, String> {
    with_tls(app, pair, None)
}

/// The same for clients that have a certificate of `clients` (PEM). Answers the port.
///
/// # Errors
/// Why there is no port, or what is wrong with a certificate.
pub fn apart_for_certificates(app: Router, pair: &Pair, clients: &str) -> Result<u16, String> {
    with_tls(app, pair, Some(clients))
}

fn with_tls(app: Router, pair: &Pair, clients: Option<&str>) -> Result<u16, String> {
    let (listener, port) = listener()?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).filter_map(Result::ok).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(clients.as_bytes()).filter_map(Result::ok));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|e| e.to_string())?)
        }
    };
    let config = config.with_single_cert(chain, key).map_err(|e| e.to_string())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    on_a_thread(move || async move {
        let tcp = TcpListener::from_std(listener).expect("a listener");
        let _ended = axum::serve(WithTls { tcp, acceptor }, app).await;
    })?;
    Ok(port)
}

fn listener() -> Result<(std::net::TcpListener, u16), String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    Ok((listener, port))
}

fn on_a_thread<F: Future<Output = ()>>(serve: impl FnOnce() -> F + Send + 'static) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    std::thread::spawn(move || runtime.block_on(serve()));
    Ok(())
}

struct WithTls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for WithTls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    /// One handshake at a time: these servers are for tests.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((tcp, address)) = self.tcp.accept().await else { continue };
            let handshake = tokio::time::timeout(Duration::from_secs(2), self.acceptor.accept(tcp));
            if let Ok(Ok(stream)) = handshake.await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
