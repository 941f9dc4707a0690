//! Clients of the API server: one for requests and the large watches, others for many small watches.
//!
//! Requests go over HTTP/1.1, a connection for each that is under way: 2,000 first syncs came faster that way than over one
//! HTTP/2 connection (docs/performance.md). Watches of single objects, of which there may be thousands, share connections.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use lockstep_providers::OwnCluster;
use tokio::sync::OnceCell;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, ServiceBuilder};

use crate::kube_io;

/// Watches on one connection. What is above a server's limit would wait without a word; RFC 9113 wants limits of 100 or more,
/// and the API server's is 100 or 250.
const ON_ONE: usize = 64;
/// An answer has to begin within that time: one that waits for a place on its connection would wait without a word.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);
/// A connection that nobody uses is closed after that time: what it read last is in its buffers for as long as it stands.
const IDLE: Duration = Duration::from_secs(20);
/// A connection whose peer does not answer for so long is closed, and its watches begin anew.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The cluster that the operator runs for.
pub struct Cluster {
    /// For requests.
    pub client: Client,
    /// For leases, which are renewed every few seconds: on connections that never carry a value. Those that do are idle in between,
    /// and end.
    pub leases: Client,
    /// For many watches.
    pub streams: Arc<Streams>,
    /// What the Kubernetes provider needs to reach the same cluster.
    pub own: OwnCluster,
    /// The namespace that the operator runs in.
    pub namespace: String,
}

/// There is no cluster, or its configuration is wrong.
#[derive(Debug, thiserror::Error)]
#[error("no Kubernetes cluster: {0}; run in a pod, or set KUBECONFIG")]
pub struct NoCluster(Box<dyn std::error::Error + Send + Sync>);

/// Finds the cluster. The clients have deadlines of their own: kube's default tries a refused request for minutes.
///
/// # Errors
/// [`NoCluster`].
pub async fn connect() -> Result<Cluster, NoCluster> {
    let mut config = Config::infer().await.map_err(|error| NoCluster(error.into()))?;
    config.default_retry = false;
    // Proxies of the environment are for elsewhere; one that a kubeconfig names can't be told from them.
    config.proxy_url = None;
    config.connect_timeout = Some(Duration::from_secs(5));
    // A watch is silent for as long as nothing happens; its bookmarks come at least every minute.
    config.read_timeout = Some(Duration::from_secs(295));
    config.write_timeout = Some(Duration::from_secs(15));
    let own = OwnCluster { url: config.cluster_url.to_string(), ca: config.root_cert.clone().unwrap_or_default() };
    let namespace = config.default_namespace.clone();
    let client = one_by_one(&config).map_err(|error| NoCluster(error.into()))?;
    let leases = one_by_one(&config).map_err(|error| NoCluster(error.into()))?;
    let streams = multiplexed(config).map_err(|error| NoCluster(error.into()))?;
    Ok(Cluster { client, leases, streams: Arc::new(streams), own, namespace })
}

type Connector = TimeoutConnector<hyper_rustls::HttpsConnector<HttpConnector>>;

fn connector(config: &Config, multiplexed: bool) -> kube::Result<Connector> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let mut https = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = config.tls_server_name.clone().and_then(|name| name.try_into().ok()) {
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let https = match multiplexed {
        true => https.enable_all_versions().wrap_connector(http),
        false => https.enable_http1().wrap_connector(http),
    };
    let mut connector = TimeoutConnector::new(https);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    Ok(connector)
}

/// A client whose requests have a connection each, for as long as they are under way.
fn one_by_one(config: &Config) -> kube::Result<Client> {
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector(config, false)?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// Clients whose requests share a connection each, if the server speaks HTTP/2.
fn multiplexed(config: Config) -> kube::Result<Streams> {
    let connector = connector(&config, true)?;
    // Made once: a plugin of a kubeconfig that gives credentials runs when its layer is made.
    let (auth, headers) = (config.auth_layer()?, config.extra_headers_layer()?);
    Ok(Streams::new(move || {
        let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_EVERY)
            // Watches begin anew every five minutes: on the connection that is there.
            .pool_idle_timeout(None::<Duration>)
            .build(connector.clone());
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(auth.as_ref())
            .layer(&headers)
            .layer(TimeoutLayer::new(BEGIN_WITHIN))
            .map_err(BoxError::from)
            .service(client);
        ClientBuilder::new(service, config.default_namespace.clone()).build()
    }))
}

/// A connection for small watches.
pub struct Stream {
    client: Client,
    connected: OnceCell<()>,
}

impl Stream {
    /// The client, once its connection stands: those who ask all at once would have one each.
    pub async fn client(&self) -> Client {
        self.connected.get_or_init(async || drop(kube_io::in_time(|| self.client.apiserver_version()).await)).await;
        self.client.clone()
    }
}

/// Clients for many small watches, each with a connection for [`ON_ONE`] of them.
pub struct Streams {
    make: Box<dyn Fn() -> Client + Send + Sync>,
    open: Mutex<Vec<Arc<Stream>>>,
}

impl Streams {
    /// `make` makes the clients.
    pub fn new(make: impl Fn() -> Client + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), open: Mutex::default() }
    }

    /// Connections to a server that never answers.
    #[cfg(test)]
    pub fn silent() -> Self {
        let (service, handle) = tower_test::mock::pair::<http::Request<Body>, http::Response<Body>>();
        let (client, _handle) = (Client::new(service, "default"), std::mem::ManuallyDrop::new(handle));
        Self::new(move || client.clone())
    }

    /// A connection with room for a watch, which holds its place for as long as it keeps it.
    pub fn place(&self) -> Arc<Stream> {
        let mut open = self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // One of each stream's owners is this list.
        open.retain(|stream| Arc::strong_count(stream) > 1);
        let free = open.iter().find(|stream| Arc::strong_count(stream) <= ON_ONE).cloned();
        free.unwrap_or_else(|| {
            let stream = Arc::new(Stream { client: (self.make)(), connected: OnceCell::new() });
            open.push(stream.clone());
            stream
        })
    }

    /// How many connections are in use.
    pub fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len()
    }

    /// Whether no watch has begun.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_takes_so_many_watches_and_is_let_go_after_the_last() {
        let any = || {
            let (service, _) = tower_test::mock::pair::<http::Request<Body>, http::Response<Body>>();
            Client::new(service, "default")
        };
        let streams = Streams::new(any);
        let first: Vec<_> = (0..ON_ONE).map(|_| streams.place()).collect();
        assert_eq!(streams.len(), 1);
        let second = streams.place();
        assert_eq!(streams.len(), 2);
        assert!(first.iter().all(|stream| Arc::ptr_eq(stream, &first[0])) && !Arc::ptr_eq(&second, &first[0]));
        drop(first);
        let third = streams.place();
        assert!(Arc::ptr_eq(&third, &second), "there is room on it");
        assert_eq!(streams.len(), 1);
    }
}
