//! Stands between an operator and a server, writes down what passes, and can lie.
//!
//! What it does with a request is decided by a [`Script`] before anything is forwarded. It speaks HTTP/1.1 and HTTP/2 over TLS to the
//! operator, as an API server does, and passes watches on line by line.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::control_plane::Authority;
use crate::faults;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// It follows changes.
    Watch,
    /// It changes something.
    Write,
    /// Everything else.
    Read,
}

/// A request as it came, and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Its number: from 0 on, in the order in which they came.
    pub number: usize,
    /// What it wants.
    pub sort: Sort,
    /// Such as `GET`.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// The query.
    pub query: String,
    /// The `Accept` header.
    pub accept: String,
    /// The `X-Vault-Token`'s or the bearer's presence, and nothing of it.
    pub authorized: bool,
    /// When it came.
    pub at: Instant,
    /// What the operator was told; none: nothing yet, or the connection was cut.
    pub status: Option<u16>,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lie {
    /// It is passed on, and so is the answer.
    #[default]
    None,
    /// The operator is killed before the server hears of it.
    KillBefore,
    /// The operator is killed when the server has answered, and does not hear of it.
    KillAfter,
    /// The server does what it is asked, and the connection ends without an answer.
    Lose,
    /// The answer breaks off in the middle of its body.
    Half,
    /// Another answer than the server's, which is not asked.
    Answer(u16),
    /// No answer at all, while the connection stands; the server is not asked.
    Silence,
    /// The server does what it is asked, and there is no answer while the connection stands.
    SilenceAfter,
    /// For a watch: some events do not arrive, until it is ended with `410 Gone`.
    DropEvents,
    /// For a watch: of several changes of an object within a moment only the last arrives.
    Coalesce,
    /// For a watch: it ends again and again with `410 Gone`.
    Gone,
    /// For a watch: it is cut again and again.
    Cut,
    /// For a watch: each line comes up to so much late, in order.
    Late(Duration),
    /// For a watch that asks for the state of things: the answer of an earlier one is repeated; what came since follows late.
    Stale,
}

/// Decides about each request.
pub type Script = Arc<dyn Fn(&Exchange) -> Lie + Send + Sync>;

/// How long changes wait that are coalesced, and what is stale waits for the truth.
const LATE: Duration = Duration::from_millis(700);

struct Inner {
    target: String,
    http: reqwest::Client,
    script: Mutex<Script>,
    /// Of the lies that last, such as silence: they end when this changes.
    era: watch::Sender<usize>,
    kill: Mutex<Box<dyn Fn() + Send>>,
    log: Mutex<Vec<Exchange>>,
    lies: AtomicUsize,
    /// First answers of watches, by path and query: their lines up to and with the bookmark that ends the state of things.
    first: Mutex<HashMap<String, Vec<Bytes>>>,
    chance: Mutex<Chance>,
    old_api: bool,
}

/// The proxy.
pub struct Interposer {
    /// `https://127.0.0.1:PORT`, or `http://…` without TLS.
    pub url: String,
    /// The authority that signed its certificate, in PEM.
    pub ca: String,
    inner: Arc<Inner>,
    stop: tokio_util::sync::CancellationToken,
}

/// Where all of them run: they must outlive the runtime of no test.
static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));

/// Numbers that a seed decides.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// The next number (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound.max(1) as u64).unwrap_or(0)
    }

    /// One time in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// How an [`Interposer`] is made.
#[derive(Clone, Copy, Default)]
pub struct Setting {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether the API server seems to be of a time before streaming lists.
    pub old_api: bool,
    /// Decides what is left to chance.
    pub seed: u64,
}

impl Interposer {
    /// Before a server, whose certificate is of this authority (PEM).
    pub fn before(target: &str, authority: Option<&str>, setting: Setting) -> Self {
        let mut http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = authority {
            http = http.tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate")]);
        }
        let inner = Arc::new(Inner {
            target: target.trim_end_matches('/').to_owned(),
            http: http.build().expect("a client"),
            script: Mutex::new(Arc::new(|_| Lie::None)),
            era: watch::Sender::new(0),
            kill: Mutex::new(Box::new(|| ())),
            log: Mutex::default(),
            lies: AtomicUsize::new(0),
            first: Mutex::default(),
            chance: Mutex::new(Chance::new(setting.seed)),
            old_api: setting.old_api,
        });
        let authority = Authority::new("interposer");
        let acceptor = setting.tls.then(|| acceptor(&authority));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let stop = tokio_util::sync::CancellationToken::new();
        let (serving, until) = (inner.clone(), stop.clone());
        RUNTIME.spawn(async move {
            tokio::select! { () = serve(listener, acceptor, serving) => {}, () = until.cancelled() => {} }
        });
        let scheme = if setting.tls { "https" } else { "http" };
        Self { url: format!("{scheme}://{address}"), ca: authority.pem, inner, stop }
    }

    /// What is done with requests from now on. Lies that last end.
    pub fn script(&self, script: impl Fn(&Exchange) -> Lie + Send + Sync + 'static) {
        *lock(&self.inner.script) = Arc::new(script);
        self.inner.era.send_modify(|era| *era += 1);
    }

    /// Tells the truth from now on: what waits is cut, so that it is asked again.
    pub fn honest(&self) {
        self.script(|_| Lie::None);
    }

    /// What kills the operator.
    pub fn on_kill(&self, kill: impl Fn() + Send + 'static) {
        *lock(&self.inner.kill) = Box::new(kill);
    }

    /// Everything that was asked so far.
    pub fn log(&self) -> Vec<Exchange> {
        lock(&self.inner.log).clone()
    }

    /// How many requests were answered with something else than the truth.
    pub fn lies(&self) -> usize {
        self.inner.lies.load(Ordering::SeqCst)
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        lock(&self.inner.log).len()
    }
}

impl Drop for Interposer {
    fn drop(&mut self) {
        self.honest();
        self.stop.cancel();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let pair = authority.issue("interposer", None, &["127.0.0.1", "localhost"]);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).filter_map(Result::ok).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: std::net::TcpListener, acceptor: Option<TlsAcceptor>, inner: Arc<Inner>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    // Connections end with their proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (acceptor, inner) = (acceptor.clone(), inner.clone());
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let inner = inner.clone();
                async move { Ok::<_, Infallible>(answer(inner, request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ended = match acceptor {
                None => builder.serve_connection(TokioIo::new(tcp), service).await,
                Some(acceptor) => match acceptor.accept(tcp).await {
                    Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

async fn answer(inner: Arc<Inner>, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(Body::new(body), 64 << 20).await else { return faults::cut() };
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let is_watch = query.split('&').any(|part| part == "watch=true" || part == "watch=1");
    let sort = match parts.method.as_str() {
        _ if is_watch => Sort::Watch,
        "GET" | "HEAD" | "LIST" => Sort::Read,
        _ => Sort::Write,
    };
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let exchange = {
        let mut log = lock(&inner.log);
        let exchange = Exchange {
            number: log.len(),
            sort,
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query,
            accept: header("accept"),
            authorized: parts.headers.contains_key("authorization") || parts.headers.contains_key("x-vault-token"),
            at: Instant::now(),
            status: None,
        };
        log.push(exchange.clone());
        exchange
    };
    let script = lock(&inner.script).clone();
    let lie = script(&exchange);
    if lie != Lie::None {
        inner.lies.fetch_add(1, Ordering::SeqCst);
    }
    let mut era = inner.era.subscribe();
    let response = match lie {
        Lie::KillBefore => {
            (lock(&inner.kill))();
            return faults::cut();
        }
        Lie::Answer(code) => status(code),
        Lie::Silence => {
            let _ = era.changed().await;
            return faults::cut();
        }
        lie => told(&inner, &exchange, lie, parts.headers, body, era).await,
    };
    if let Some(known) = lock(&inner.log).get_mut(exchange.number) {
        known.status = Some(response.status().as_u16());
    }
    response
}

/// An answer of the API server's kind.
fn status(code: u16) -> Response<Body> {
    let reason = match code {
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "made up by the proxy",
        "reason": reason, "code": code});
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    if code == 429 {
        response.headers_mut().insert("retry-after", 1.into());
    }
    response
}

async fn told(
    inner: &Arc<Inner>,
    exchange: &Exchange,
    lie: Lie,
    mut headers: HeaderMap,
    body: Bytes,
    mut era: watch::Receiver<usize>,
) -> Response<Body> {
    for name in ["connection", "transfer-encoding", "content-length", "keep-alive", "host"] {
        headers.remove(name);
    }
    if exchange.sort == Sort::Watch {
        return watched(inner.clone(), exchange.clone(), lie, headers, era).await;
    }
    let url = format!("{}{}?{}", inner.target, exchange.path, exchange.query);
    let method = exchange.method.parse().unwrap_or(axum::http::Method::GET);
    let sent = inner.http.request(method, url.trim_end_matches('?')).headers(headers).body(body).send();
    let Ok(answer) = sent.await else { return faults::cut() };
    let (code, mut headers) = (answer.status(), answer.headers().clone());
    for name in ["connection", "transfer-encoding", "content-length", "keep-alive"] {
        headers.remove(name);
    }
    let Ok(mut body) = answer.bytes().await else { return faults::cut() };
    if inner.old_api && exchange.path == "/version" {
        let mut version: Value = serde_json::from_slice(&body).unwrap_or_default();
        version["minor"] = json!("30");
        body = version.to_string().into();
    }
    match lie {
        Lie::KillAfter => {
            (lock(&inner.kill))();
            return faults::cut();
        }
        Lie::Lose => return faults::cut(),
        Lie::SilenceAfter => {
            let _ = era.changed().await;
            return faults::cut();
        }
        _ => {}
    }
    let body = match lie {
        Lie::Half => {
            let half = body.slice(..body.len() / 2);
            let parts = [Ok(half), Err(std::io::Error::other("cut"))];
            Body::from_stream(futures::stream::iter(parts))
        }
        _ => Body::from(body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    response
}

/// What a watch of the API server is told, line by line.
async fn watched(
    inner: Arc<Inner>,
    exchange: Exchange,
    lie: Lie,
    headers: HeaderMap,
    mut era: watch::Receiver<usize>,
) -> Response<Body> {
    let whole = format!("{}?{}", exchange.path, exchange.query);
    let begins = exchange.query.contains("sendInitialEvents=true");
    let old = if lie == Lie::Stale && begins { lock(&inner.first).get(&whole).cloned() } else { None };
    let url = match &old {
        None => format!("{}{whole}", inner.target),
        Some(lines) => {
            // From there on what really happened follows.
            let kept =
                exchange.query.split('&').filter(|p| !p.starts_with("sendInitialEvents") && !p.starts_with("resourceVersion"));
            let query = kept.collect::<Vec<_>>().join("&");
            format!("{}{}?{query}&resourceVersion={}", inner.target, exchange.path, version_of(lines.last()))
        }
    };
    let Ok(answer) = inner.http.get(&url).headers(headers).send().await else { return faults::cut() };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    if let Some(kind) = answer.headers().get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    if !answer.status().is_success() {
        *response.body_mut() = Body::from(answer.bytes().await.unwrap_or_default());
        return response;
    }
    let (send, receive) = mpsc::channel::<Told>(64);
    if let Lie::Late(most) = lie {
        tokio::spawn(pass_late(inner, answer, send, most));
        *response.body_mut() = Body::from_stream(received(receive));
        return response;
    }
    tokio::spawn(async move {
        let mut lines = Lines { stream: answer.bytes_stream().boxed(), buffer: Vec::new() };
        if let Some(old) = old {
            for line in old {
                let _ = send.send(Ok(line)).await;
            }
            tokio::time::sleep(LATE).await;
        }
        let mut initial = begins.then(Vec::new);
        let mut late: Vec<(String, Bytes)> = Vec::new();
        let ends_at = matches!(lie, Lie::Gone | Lie::Cut).then(|| Instant::now() + Duration::from_millis(300));
        loop {
            let wait = match (late.is_empty(), ends_at) {
                (false, _) => LATE,
                (true, Some(end)) => end.saturating_duration_since(Instant::now()),
                (true, None) => Duration::from_secs(3600),
            };
            let line = tokio::select! {
                line = lines.next() => line,
                () = tokio::time::sleep(wait) => {
                    for (_, line) in late.drain(..) {
                        let _ = send.send(Ok(line)).await;
                    }
                    if ends_at.is_some_and(|end| end <= Instant::now()) {
                        let _ = send.send(if lie == Lie::Gone { Ok(gone()) } else { Err(std::io::Error::other("cut")) }).await;
                        return;
                    }
                    continue;
                }
                // What was kept back is lost: the watch begins anew.
                _ = era.changed() => match lie {
                    Lie::DropEvents | Lie::Stale | Lie::Coalesce => { let _ = send.send(Ok(gone())).await; return }
                    _ => continue,
                },
                () = send.closed() => return,
            };
            let Some(line) = line else { return };
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            let is_bookmark = event["type"] == "BOOKMARK";
            if let Some(all) = &mut initial {
                all.push(line.clone());
                if is_bookmark {
                    lock(&inner.first).entry(whole.clone()).or_insert_with(|| std::mem::take(all));
                    initial = None;
                }
                // What is there at the beginning is told as it is.
                if send.send(Ok(line)).await.is_err() {
                    return;
                }
                continue;
            }
            match lie {
                Lie::DropEvents if !is_bookmark && lock(&inner.chance).one_in(2) => continue,
                Lie::Coalesce if !is_bookmark => {
                    let meta = &event["object"]["metadata"];
                    let id = format!(
                        "{}/{}",
                        meta["namespace"].as_str().unwrap_or_default(),
                        meta["name"].as_str().unwrap_or_default()
                    );
                    late.retain(|(other, _)| *other != id);
                    late.push((id, line));
                    continue;
                }
                _ => {}
            }
            if send.send(Ok(line)).await.is_err() {
                return;
            }
        }
    });
    *response.body_mut() = Body::from_stream(received(receive));
    response
}

type Told = Result<Bytes, std::io::Error>;

fn received(receive: mpsc::Receiver<Told>) -> impl futures::Stream<Item = Told> {
    futures::stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|line| (line, receive)) })
}

/// Passes lines on, each up to `most` after it came: how late is left to chance, their order is not.
async fn pass_late(inner: Arc<Inner>, answer: reqwest::Response, send: mpsc::Sender<Told>, most: Duration) {
    let (queue, mut queued) = mpsc::unbounded_channel();
    let reads = async move {
        let mut lines = Lines { stream: answer.bytes_stream().boxed(), buffer: Vec::new() };
        while let Some(line) = lines.next().await {
            let late = most / 1000 * u32::try_from(lock(&inner.chance).below(1000)).unwrap_or_default();
            if queue.send((tokio::time::Instant::now() + late, line)).is_err() {
                return;
            }
        }
    };
    let to = send.clone();
    let passes = async move {
        while let Some((at, line)) = queued.recv().await {
            tokio::time::sleep_until(at).await;
            if to.send(Ok(line)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { _ = async { tokio::join!(reads, passes) } => {}, () = send.closed() => {} }
}

fn gone() -> Bytes {
    let status = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: made up by the proxy", "reason": "Expired", "code": 410}});
    format!("{status}\n").into()
}

fn version_of(bookmark: Option<&Bytes>) -> String {
    let event: Value = bookmark.and_then(|line| serde_json::from_slice(line).ok()).unwrap_or_default();
    event["object"]["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned()
}

struct Lines {
    stream: futures::stream::BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line with its end; none: the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Some(std::mem::replace(&mut self.buffer, rest).into());
            }
            self.buffer.extend_from_slice(&self.stream.next().await?.ok()?);
        }
    }
}
