//! HTTPS for the API server: one path, one question, one answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::checks::{self, Findings};
use super::keeper::Current;

/// Longest question: an object and the one before, each as large as etcd takes them, and what stands around.
const LONGEST: usize = 4 << 20;
/// Longer questions than this are read one after another: parsed, they take many times their size.
const LONG: usize = 256 << 10;
/// Checks at once. One that takes too long goes on without anybody who waits.
const CHECKS: usize = 4;
/// Connections at once; the API servers need a handful.
const CONNECTIONS: usize = 128;
/// How long a handshake, and how long a question, may take to arrive.
const ARRIVES: Duration = Duration::from_secs(10);
/// How long a check may take: the API server waits for five seconds.
const CHECKED: Duration = Duration::from_secs(4);
/// Longest answer of problems, in bytes.
const TOLD: usize = 4096;

/// What was asked, by kind and answer.
#[derive(Default)]
pub struct Counts {
    by: std::sync::Mutex<BTreeMap<(String, &'static str), u64>>,
    /// Connections that were not taken.
    pub refused: AtomicU64,
}

impl Counts {
    fn add(&self, kind: &str, answer: &'static str) {
        let mut by = self.by.lock().unwrap_or_else(|p| p.into_inner());
        // The API server asks for our kinds only; whoever else reaches the port adds no more than these.
        let kind = if kind.len() <= 40 && (by.len() < 100) { kind } else { "other" };
        *by.entry((kind.to_owned(), answer)).or_default() += 1;
    }

    /// For Prometheus.
    pub fn rows(&self) -> Vec<(String, &'static str, u64)> {
        let by = self.by.lock().unwrap_or_else(|p| p.into_inner());
        by.iter().map(|((kind, answer), count)| (kind.clone(), *answer, *count)).collect()
    }
}

/// What bounds the memory of all questions together.
struct Room {
    long: Semaphore,
    checks: Arc<Semaphore>,
    counts: Arc<Counts>,
}

/// Answers on a listener for ever.
pub async fn serve(listener: TcpListener, current: Arc<Current>, counts: Arc<Counts>) {
    let config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(current);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let checks = Arc::new(Semaphore::new(CHECKS));
    let room = Arc::new(Room { long: Semaphore::new(1), checks, counts });
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            room.counts.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (acceptor, room) = (acceptor.clone(), room.clone());
        tokio::spawn(async move {
            if let Err(why) = connection(stream, acceptor, room).await {
                tracing::debug!(%peer, "a connection ended: {why}");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, room: Arc<Room>) -> Result<(), String> {
    let tls = tokio::time::timeout(ARRIVES, acceptor.accept(stream)).await.map_err(|_| "no handshake in time")?;
    let tls = tls.map_err(|error| error.to_string())?;
    let answer = service_fn(move |request| {
        let room = room.clone();
        async move { Ok::<_, Infallible>(answer(request, &room).await) }
    });
    // An API server keeps its connection; one that says nothing for a while goes.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(120)).max_buf_size(64 << 10);
    http.serve_connection(TokioIo::new(tls), answer).await.map_err(|error| error.to_string())
}

fn plain(code: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response
}

async fn answer(request: Request<Incoming>, room: &Room) -> Response<Full<Bytes>> {
    if request.method() != Method::POST || request.uri().path() != "/validate" {
        return plain(StatusCode::NOT_FOUND, "POST /validate takes an AdmissionReview\n");
    }
    let busy = || plain(StatusCode::SERVICE_UNAVAILABLE, "too many questions at once\n");
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    let is_long = length.is_none_or(|length| length > LONG);
    if length.is_some_and(|length| length > LONGEST) {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the review is too long\n");
    }
    let _long = match is_long {
        true => match tokio::time::timeout(CHECKED, room.long.acquire()).await {
            Ok(Ok(place)) => Some(place),
            _ => return busy(),
        },
        false => None,
    };
    // Who sends much sends it quickly: others wait for the place.
    let arrives = if is_long { CHECKED } else { ARRIVES };
    let body = tokio::time::timeout(arrives, Limited::new(request.into_body(), LONGEST).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "the review is too long, or was cut off\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the review did not arrive in time\n"),
    };
    let Ok(Ok(place)) = tokio::time::timeout(CHECKED, room.checks.clone().acquire_owned()).await else { return busy() };
    let Ok(review) = serde_json::from_slice::<AdmissionReview<DynamicObject>>(&body) else {
        return plain(StatusCode::BAD_REQUEST, "this is no AdmissionReview (admission.k8s.io/v1)\n");
    };
    // It takes the version of the review over, which the answer must have.
    let Ok(asked): Result<AdmissionRequest<DynamicObject>, _> = review.try_into() else {
        return plain(StatusCode::BAD_REQUEST, "the AdmissionReview holds no request\n");
    };
    let (kind, response) = (asked.kind.kind.clone(), AdmissionResponse::from(&asked));
    // Whatever the texts of a manifest make of a parser, others are answered meanwhile.
    let checked = tokio::task::spawn_blocking(move || {
        let _place = place;
        review_of(&asked)
    });
    let response = match tokio::time::timeout(CHECKED, checked).await {
        Ok(Ok(findings)) => {
            room.counts.add(&kind, if findings.problems.is_empty() { "allowed" } else { "denied" });
            respond(response, findings)
        }
        Ok(Err(_)) | Err(_) => {
            room.counts.add(&kind, "unchecked");
            let warning = "Lockstep's webhook could not check this in time; the operator says what is wrong with it, if anything";
            respond(response, Findings { warnings: vec![warning.into()], ..Findings::default() })
        }
    };
    let bytes = serde_json::to_vec(&response.into_review()).unwrap_or_default();
    let mut response = Response::new(Full::from(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// What is to be said of a request. What changes nothing of the spec, and what is being deleted, is let through: a finalizer must
/// go from an object that would not be taken anew.
pub fn review_of(request: &AdmissionRequest<DynamicObject>) -> Findings {
    let Some(object) = &request.object else { return Findings::default() };
    let same = |old: &DynamicObject| old.data.get("spec") == object.data.get("spec");
    let is_change = matches!(request.operation, Operation::Create | Operation::Update);
    if !is_change || object.metadata.deletion_timestamp.is_some() || request.old_object.as_ref().is_some_and(same) {
        return Findings::default();
    }
    let whole = serde_json::to_value(object).unwrap_or(Value::Null);
    checks::check(&request.kind.group, &request.kind.kind, &whole)
}

fn respond(mut response: AdmissionResponse, findings: Findings) -> AdmissionResponse {
    let Findings { problems, warnings } = findings;
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    if problems.is_empty() {
        return response;
    }
    let mut text = problems.join("; ");
    if text.len() > TOLD {
        text.truncate((0..=TOLD).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
        text.push_str("...");
    }
    response.deny(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(operation: &str, object: Value, old: Option<Value>) -> Findings {
        let request = json!({
            "uid": "u", "operation": operation, "userInfo": {}, "name": "app", "namespace": "ns",
            "kind": {"group": "external-secrets.io", "version": "v1", "kind": "ExternalSecret"},
            "resource": {"group": "external-secrets.io", "version": "v1", "resource": "externalsecrets"},
            "object": object, "oldObject": old,
        });
        let review: AdmissionReview<DynamicObject> =
            serde_json::from_value(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}))
                .unwrap();
        review_of(&review.request.unwrap())
    }

    #[test]
    fn only_what_is_new_is_checked_and_what_is_going_may_go() {
        let object = |interval: &str, label: &str, deleted: Option<&str>| {
            json!({
                "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
                "metadata": {"name": "app", "namespace": "ns", "labels": {"l": label}, "deletionTimestamp": deleted},
                "spec": {"secretStoreRef": {"name": "s"}, "data": [{"secretKey": "k", "remoteRef": {"key": "k"}}], "refreshInterval": interval},
            })
        };
        let (good, bad) = (object("1h", "a", None), object("soon", "a", None));
        assert_eq!(findings("CREATE", good.clone(), None), Findings::default());
        assert_eq!(findings("CREATE", bad.clone(), None).problems.len(), 1);
        assert_eq!(findings("UPDATE", bad.clone(), Some(good.clone())).problems.len(), 1);
        assert_eq!(findings("UPDATE", object("soon", "b", None), Some(bad.clone())), Findings::default());
        assert_eq!(findings("UPDATE", object("later", "b", Some("2026-01-01T00:00:00Z")), Some(bad)), Findings::default());
        assert_eq!(findings("DELETE", Value::Null, Some(good)), Findings::default());
    }
}
