//! A small HTTP API with values behind a bearer token: what people put behind a webhook store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};

use crate::faults::Faults;

/// What it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// GET, POST or DELETE.
    pub method: String,
    /// The key, decoded.
    pub key: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

#[derive(Default)]
struct Shared {
    token: String,
    /// Tokens that may read below a prefix, which no other may.
    shut: Mutex<BTreeMap<String, String>>,
    values: Mutex<BTreeMap<String, Value>>,
    asked: Mutex<Vec<Asked>>,
}

/// A running API: `/secrets/KEY` answers `{"data": …}`.
pub struct HttpApi {
    /// Its URL.
    pub url: String,
    /// What goes wrong.
    pub faults: Faults,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl HttpApi {
    /// Starts one that wants `Authorization: Bearer TOKEN`.
    pub async fn start(token: &str) -> Self {
        let shared = Arc::new(Shared { token: token.to_owned(), ..Shared::default() });
        let faults = Faults::default();
        let app = faults.before(Router::new().route("/secrets/{*key}", any(serve)).with_state(shared.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, app).await;
        });
        Self { url, faults, shared, task }
    }

    /// Gives what lies below a prefix to a token of its own.
    pub fn shut(&self, prefix: &str, token: &str) {
        lock(&self.shared.shut).insert(prefix.to_owned(), token.to_owned());
    }

    /// Puts a value.
    pub fn put(&self, key: &str, value: Value) {
        lock(&self.shared.values).insert(key.to_owned(), value);
    }

    /// Removes a value; false when there is none.
    pub fn remove(&self, key: &str) -> bool {
        lock(&self.shared.values).remove(key).is_some()
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for HttpApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let asked = Asked { method: method.to_string(), key: key.clone(), query, body: body.clone() };
    lock(&shared.asked).push(asked);
    let given = headers.get("authorization").and_then(|h| h.to_str().ok()).unwrap_or_default();
    let shut = lock(&shared.shut).iter().find(|(prefix, _)| key.starts_with(*prefix)).map(|(_, token)| token.clone());
    if given != format!("Bearer {}", shut.as_ref().unwrap_or(&shared.token)) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut values = lock(&shared.values);
    let found = match method {
        Method::POST => {
            let value = serde_json::from_str(&body).unwrap_or(Value::String(body));
            values.insert(key, value);
            return StatusCode::CREATED.into_response();
        }
        Method::DELETE => values.remove(&key),
        _ => values.get(&key).cloned(),
    };
    match found {
        Some(data) => axum::response::Response::new(json!({"data": data}).to_string().into()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
