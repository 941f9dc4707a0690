//! What can go wrong between a client and a server: before any of the servers here, and as a proxy before any other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, request::Parts};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::control_plane::Pair;
use crate::serve;

/// What goes wrong.
#[derive(Clone)]
pub enum Fault {
    /// Another answer than the server's, which is not asked.
    Answer {
        /// HTTP status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
        /// The body, such as a cloud's own error.
        body: String,
    },
    /// The request waits.
    Late(Duration),
    /// The connection ends without an answer.
    Cut,
    /// The answer's body comes byte by byte, with this between them.
    Slow(Duration),
    /// The answer's JSON is another, such as a batch without some of its parts.
    Change(Arc<dyn Fn(Value) -> Value + Send + Sync>),
    /// The answer has a header more.
    Header(&'static str, &'static str),
    /// An answer that says that all is well, with these bytes.
    Body(&'static [u8]),
    /// The answer is whole as HTTP goes, and has only the first half of its body.
    Half,
}

type When = Arc<dyn Fn(&Parts, &Bytes) -> bool + Send + Sync>;

struct Rule {
    when: When,
    left: Left,
    fault: Fault,
}

/// How often a fault is to happen still; `usize::MAX` is without an end.
#[derive(Clone, Debug)]
pub struct Left(Arc<AtomicUsize>);

impl Left {
    fn times(times: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(times)))
    }

    /// So often.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn take(&self) {
        if self.get() < usize::MAX {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Faults that are to happen, and how often still.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Rule>>>);

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What was asked, in order.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<Asked>>>);

impl Seen {
    /// The requests whose method is this one and whose path has this part.
    pub fn of(&self, method: &str, part: &str) -> Vec<Asked> {
        let all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        all.iter().filter(|a| a.method == method && a.path.contains(part)).cloned().collect()
    }
}

impl Faults {
    /// Keeps all requests from now on.
    pub fn seen(&self) -> Seen {
        let seen = Seen::default();
        let log = seen.clone();
        self.rules().insert(
            0,
            Rule {
                when: Arc::new(move |parts, body| {
                    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
                    let asked =
                        Asked { method: parts.method.to_string(), path, headers: parts.headers.clone(), body: body.clone() };
                    log.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(asked);
                    false
                }),
                left: Left::times(usize::MAX),
                fault: Fault::Cut,
            },
        );
        seen
    }

    /// Lets the next requests for which `when` holds go wrong, so many times.
    pub fn add(&self, times: usize, fault: Fault, when: impl Fn(&Parts, &Bytes) -> bool + Send + Sync + 'static) -> Left {
        let left = Left::times(times);
        self.rules().push(Rule { when: Arc::new(when), left: left.clone(), fault });
        left
    }

    /// Puts them before a server.
    pub fn before(&self, server: Router) -> Router {
        server.layer(from_fn_with_state(self.clone(), disturb))
    }

    /// Puts them before a server elsewhere, whose certificate is of this authority (PEM); answers the URL of the proxy.
    ///
    /// # Errors
    /// Why there is no port.
    pub fn proxy(&self, target: &str, authority: Option<&[u8]>) -> Result<String, String> {
        serve::apart(self.forwarding(target, authority)?)
    }

    /// The same over TLS, with this certificate, for clients that have one of `clients` (PEM); answers the port.
    ///
    /// # Errors
    /// Why there is no port, or what is wrong with the certificate.
    pub fn proxy_for_certificates(&self, target: &str, pair: &Pair, clients: &str) -> Result<u16, String> {
        serve::apart_for_certificates(self.forwarding(target, None)?, pair, clients)
    }

    fn forwarding(&self, target: &str, authority: Option<&[u8]>) -> Result<Router, String> {
        let mut http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = authority {
            http = http.tls_certs_only([reqwest::Certificate::from_pem(pem).map_err(|e| e.to_string())?]);
        }
        let http = http.build();
        let onward = Onward { target: target.trim_end_matches('/').to_owned(), http: http.map_err(|e| e.to_string())? };
        Ok(self.before(Router::new().fallback(forward).with_state(onward)))
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn next(&self, parts: &Parts, body: &Bytes) -> Option<Fault> {
        let mut rules = self.rules();
        let at = rules.iter().position(|rule| rule.left.get() > 0 && (rule.when)(parts, body))?;
        rules[at].left.take();
        let fault = rules[at].fault.clone();
        rules.retain(|rule| rule.left.get() > 0);
        Some(fault)
    }
}

async fn disturb(State(faults): State<Faults>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 16 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let fault = faults.next(&parts, &body);
    let request = Request::from_parts(parts, Body::from(body));
    match fault {
        None => next.run(request).await,
        Some(Fault::Cut) => cut(),
        Some(Fault::Late(wait)) => {
            tokio::time::sleep(wait).await;
            next.run(request).await
        }
        Some(Fault::Answer { status, retry_after, body }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
            let mut response = (status, [("content-type", "application/json")], body).into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            response
        }
        Some(Fault::Slow(pause)) => {
            let (parts, body) = next.run(request).await.into_parts();
            let bytes = axum::body::to_bytes(body, 16 << 20).await.unwrap_or_default();
            let bytes = futures::stream::unfold(bytes, move |mut left| async move {
                if left.is_empty() {
                    return None;
                }
                tokio::time::sleep(pause).await;
                Some((Ok::<_, std::io::Error>(left.split_to(1)), left))
            });
            Response::from_parts(parts, Body::from_stream(bytes))
        }
        Some(Fault::Header(name, value)) => {
            let mut response = next.run(request).await;
            response.headers_mut().insert(name, HeaderValue::from_static(value));
            response
        }
        Some(Fault::Body(bytes)) => (StatusCode::OK, [("content-type", "application/json")], bytes).into_response(),
        Some(Fault::Half) => {
            let (mut parts, body) = next.run(request).await.into_parts();
            let bytes = axum::body::to_bytes(body, 16 << 20).await.unwrap_or_default();
            parts.headers.remove("content-length");
            Response::from_parts(parts, Body::from(bytes.slice(..bytes.len() / 2)))
        }
        Some(Fault::Change(change)) => {
            let (mut parts, body) = next.run(request).await.into_parts();
            let bytes = axum::body::to_bytes(body, 16 << 20).await.unwrap_or_default();
            let changed = change(serde_json::from_slice(&bytes).unwrap_or_default());
            parts.headers.remove("content-length");
            Response::from_parts(parts, Body::from(changed.to_string()))
        }
    }
}

/// A body that breaks off: the client sees a connection that ends.
pub fn cut() -> Response {
    let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    Response::new(Body::from_stream(broken))
}

#[derive(Clone)]
struct Onward {
    target: String,
    http: reqwest::Client,
}

async fn forward(State(onward): State<Onward>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 16 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let url = format!("{}{}", onward.target, parts.uri.path_and_query().map_or("/", |p| p.as_str()));
    let mut headers = parts.headers;
    hop_by_hop(&mut headers);
    let Ok(answer) = onward.http.request(parts.method, url).headers(headers).body(body).send().await else { return cut() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    hop_by_hop(&mut headers);
    let Ok(body) = answer.bytes().await else { return cut() };
    let mut response = (status, body).into_response();
    *response.headers_mut() = headers;
    response
}

fn hop_by_hop(headers: &mut HeaderMap) {
    for name in ["connection", "transfer-encoding", "content-length", "keep-alive"] {
        headers.remove(name);
    }
}
