//! An API server in memory, as far as the operator asks for one: reads, writes with their preconditions, watches; late, broken or
//! silent where a history says so. What the operator writes is judged as it comes.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Chance;

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// Resource, namespace, name.
pub type Place = (String, String, String);

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    #[default]
    Fair,
    /// Every other request gets a 500; it is done or not.
    Storm,
    /// Nobody gets an answer.
    Silence,
    /// What is asked is done at once, and answered seconds later: watches are ahead of the answers.
    Late,
}

#[derive(Clone)]
struct Happening {
    version: u64,
    what: &'static str,
    resource: String,
    object: Value,
}

/// Judges a write of the operator: the verb, the resource, what was there, what is sent.
pub type Judge = Box<dyn Fn(&str, &str, Option<&Value>, Option<&Value>) -> Option<String> + Send>;

struct Inner {
    version: u64,
    objects: BTreeMap<Place, Value>,
    history: Vec<Happening>,
    /// What is older is forgotten: a watch from there gets `410 Gone`.
    forgotten: u64,
    weather: Weather,
    delay: Duration,
    chance: Chance,
    judge: Judge,
    wrongs: Vec<String>,
    writes: usize,
    requests: usize,
}

/// The server.
pub struct Server {
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
    /// Watches end when this changes.
    cuts: watch::Sender<usize>,
}

struct Asked {
    resource: String,
    namespace: String,
    name: Option<String>,
    sub: Option<String>,
}

fn asked(path: &str) -> Option<Asked> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let mut rest = rest.iter().map(|part| (*part).to_owned());
    Some(Asked { resource: rest.next()?, namespace: namespace.into(), name: rest.next(), sub: rest.next() })
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(into.as_object_mut().and_then(|all| all.remove(name))),
            value => merge(&mut into[name.as_str()], value),
        }
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}))
}

fn meta_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

impl Inner {
    fn put(&mut self, place: &Place, mut object: Value, what: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["namespace"] = json!(place.1);
        object["metadata"]["name"] = json!(place.2);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        self.objects.insert(place.clone(), object.clone());
        self.history.push(Happening { version: self.version, what, resource: place.0.clone(), object: object.clone() });
        object
    }

    fn remove(&mut self, place: &Place) {
        let Some(mut object) = self.objects.remove(place) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let uid = object["metadata"]["uid"].clone();
        self.history.push(Happening { version: self.version, what: "DELETED", resource: place.0.clone(), object });
        // What the garbage collector does.
        let owned =
            |o: &Value| o["metadata"]["ownerReferences"].as_array().is_some_and(|all| all.iter().any(|r| r["uid"] == uid));
        let orphans: Vec<Place> = self.objects.iter().filter(|(_, o)| owned(o)).map(|(p, _)| p.clone()).collect();
        orphans.iter().for_each(|place| self.remove(place));
    }

    fn judged(&mut self, verb: &str, resource: &str, there: Option<&Value>, sent: Option<&Value>) {
        self.writes += 1;
        if let Some(wrong) = (self.judge)(verb, resource, there, sent) {
            self.wrongs.push(wrong);
        }
    }

    fn answer(&mut self, method: &str, asked: &Asked, body: &Value) -> (u16, Value) {
        let name = asked.name.clone().or_else(|| body["metadata"]["name"].as_str().map(str::to_owned)).unwrap_or_default();
        let place = (asked.resource.clone(), asked.namespace.clone(), name);
        let there = self.objects.get(&place).cloned();
        let same =
            |field: &str, wanted: &Value| wanted.is_null() || there.as_ref().is_some_and(|t| t["metadata"][field] == *wanted);
        match (method, asked.resource.as_str(), &there) {
            ("POST", "events", _) => (201, json!({"kind": "Event", "metadata": {}})),
            ("GET", _, Some(there)) => (200, there.clone()),
            ("GET" | "PUT" | "PATCH" | "DELETE", _, None) => refusal(404, "NotFound"),
            ("POST", "secrets", None) => {
                self.judged("create", "secrets", None, Some(body));
                let made = self.put(&place, body.clone(), "ADDED");
                let owner = &made["metadata"]["ownerReferences"][0]["uid"];
                if !owner.is_null() && !self.objects.values().any(|o| o["metadata"]["uid"] == *owner) {
                    // Its owner went meanwhile: it is collected.
                    self.remove(&place);
                }
                (201, made)
            }
            ("POST", "secrets", Some(_)) => refusal(409, "AlreadyExists"),
            ("PUT", "secrets", Some(was)) => {
                if !same("resourceVersion", &body["metadata"]["resourceVersion"]) || !same("uid", &body["metadata"]["uid"]) {
                    return refusal(409, "Conflict");
                }
                self.judged("update", "secrets", Some(was), Some(body));
                let mut new = body.clone();
                new["metadata"]["uid"] = was["metadata"]["uid"].clone();
                (200, self.put(&place, new, "MODIFIED"))
            }
            ("DELETE", "secrets", Some(was)) => {
                let only = &body["preconditions"];
                if !same("uid", &only["uid"]) || !same("resourceVersion", &only["resourceVersion"]) {
                    return refusal(409, "Conflict");
                }
                self.judged("delete", "secrets", Some(was), None);
                self.remove(&place);
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            ("PATCH", resource, Some(was)) if asked.sub.as_deref() == Some("status") => {
                if !same("uid", &body["metadata"]["uid"]) {
                    return refusal(409, "Conflict");
                }
                self.judged("patch", resource, Some(was), Some(body));
                let mut new = was.clone();
                merge(&mut new["status"], &body["status"]);
                (200, self.put(&place, new, "MODIFIED"))
            }
            _ => refusal(404, "NotFound"),
        }
    }
}

impl Server {
    pub fn new(seed: u64, judge: Judge) -> Arc<Self> {
        let inner = Inner {
            version: 100,
            objects: BTreeMap::new(),
            history: Vec::new(),
            forgotten: 0,
            weather: Weather::Fair,
            delay: Duration::ZERO,
            chance: Chance(seed),
            judge,
            wrongs: Vec::new(),
            writes: 0,
            requests: 0,
        };
        Arc::new(Self { inner: Mutex::new(inner), news: watch::Sender::new(100), cuts: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What somebody else does to an object; none deletes it.
    pub fn change(&self, place: &Place, change: impl FnOnce(Option<Value>) -> Option<Value>) {
        let mut inner = self.lock();
        let there = inner.objects.get(place).cloned();
        match (there.is_some(), change(there)) {
            (true, None) => inner.remove(place),
            (false, None) => {}
            (was, Some(object)) => drop(inner.put(place, object, if was { "MODIFIED" } else { "ADDED" })),
        }
        self.news.send_replace(inner.version);
    }

    pub fn get(&self, place: &Place) -> Option<Value> {
        self.lock().objects.get(place).cloned()
    }

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// How late watches tell.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Ends all watches; with `forget` they can't go on from where they were.
    pub fn cut(&self, forget: bool) {
        if forget {
            let mut inner = self.lock();
            inner.forgotten = inner.version;
        }
        self.cuts.send_modify(|n| *n += 1);
    }

    /// Writes of the operator so far, and its requests.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.writes, inner.requests)
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.lock().wrongs.clone()
    }

    /// A client of one life of the operator: when that ends nothing is answered any more.
    pub fn client(self: &Arc<Self>, life: CancellationToken) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, life) = (server.clone(), life.clone());
            async move {
                tokio::select! {
                    biased;
                    () = life.cancelled() => std::future::pending().await,
                    answer = server.serve(request, life.clone()) => answer,
                }
            }
        });
        Client::new(service, "default")
    }

    async fn pause(&self) {
        let ms = self.lock().chance.below(40);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn serve(self: &Arc<Self>, request: Request<Body>, life: CancellationToken) -> Result<Response<Sent>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.lock().requests += 1;
        self.pause().await;
        let sparse = parts
            .headers
            .get(http::header::ACCEPT)
            .is_some_and(|a| a.to_str().is_ok_and(|a| a.contains("as=PartialObjectMetadata")));
        let reply = |code: u16, value: &Value| {
            let bytes = serde_json::to_vec(value).unwrap_or_default();
            Response::builder().status(code).body(Full::from(bytes).boxed_unsync()).map_err(std::io::Error::other)
        };
        if parts.uri.path() == "/version" {
            return reply(
                200,
                &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            );
        }
        let Some(asked) = asked(parts.uri.path()) else { return reply(404, &refusal(404, "NotFound").1) };
        let query = parts.uri.query().unwrap_or_default().replace("%3D", "=").replace("%2F", "/");
        let (weather, luck) = {
            let mut inner = self.lock();
            (inner.weather, inner.chance.below(4))
        };
        match weather {
            Weather::Fair | Weather::Late => {}
            Weather::Silence => {
                // What the real client waits at most (`clients.rs`).
                tokio::time::sleep(Duration::from_secs(295)).await;
                return Err(std::io::Error::other("no answer"));
            }
            Weather::Storm if luck == 0 => return reply(500, &refusal(500, "InternalError").1),
            Weather::Storm => {}
        }
        if query.contains("watch=") {
            return self.watch(&asked, &query, sparse, life);
        }
        let (code, answer) = {
            let mut inner = self.lock();
            let answer = inner.answer(parts.method.as_str(), &asked, &body);
            self.news.send_replace(inner.version);
            answer
        };
        self.pause().await;
        if weather == Weather::Late {
            tokio::time::sleep(Duration::from_millis(2400) * u32::try_from(luck).unwrap_or(0)).await;
        }
        if weather == Weather::Storm && luck == 1 {
            // It was done, and nobody hears of it.
            return Err(std::io::Error::other("the connection ended"));
        }
        let whole = code >= 300 || !sparse;
        reply(code, &if whole { answer } else { meta_only(&answer) })
    }

    fn watch(
        self: &Arc<Self>,
        asked: &Asked,
        query: &str,
        sparse: bool,
        life: CancellationToken,
    ) -> Result<Response<Sent>, std::io::Error> {
        let param = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        let (label, value) =
            param("labelSelector").and_then(|s| s.split_once('=').map(|(l, v)| (l.to_owned(), v.to_owned()))).unzip();
        let resource = asked.resource.clone();
        let fits = move |of: &str, object: &Value| {
            of == resource && label.as_ref().is_none_or(|l| object["metadata"]["labels"][l] == json!(value))
        };
        let shown = move |object: &Value| if sparse { meta_only(object) } else { object.clone() };
        let line = |what: &str, object: Value| Bytes::from(format!("{{\"type\":\"{what}\",\"object\":{object}}}\n"));
        let mut first: VecDeque<Bytes> = VecDeque::new();
        let inner = self.lock();
        let mut from = param("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0_u64);
        if query.contains("sendInitialEvents=true") {
            from = inner.version;
            first.extend(inner.objects.iter().filter(|(p, o)| fits(&p.0, o)).map(|(_, o)| line("ADDED", shown(o))));
            let end = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": {"resourceVersion": from.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            first.push_back(line("BOOKMARK", shown(&end)));
        } else if from < inner.forgotten {
            first.push_back(line("ERROR", refusal(410, "Expired").1));
            let once = futures::stream::iter(first).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
            return Response::builder().status(200).body(StreamBody::new(once).boxed_unsync()).map_err(std::io::Error::other);
        }
        drop(inner);
        use futures::StreamExt;
        let (mut news, mut cuts) = (self.news.subscribe(), self.cuts.subscribe());
        cuts.mark_unchanged();
        let server = self.clone();
        let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(64);
        tokio::spawn(async move {
            let tell = async {
                for bytes in first {
                    if send.send(bytes).await.is_err() {
                        return;
                    }
                }
                loop {
                    let (lines, delay) = {
                        let inner = server.lock();
                        let start = inner.history.partition_point(|h| h.version <= from);
                        let late: Vec<Happening> = inner.history[start..].to_vec();
                        from = inner.version;
                        (late, inner.delay)
                    };
                    if !lines.is_empty() {
                        tokio::time::sleep(delay).await;
                    }
                    for happening in lines.iter().filter(|h| fits(&h.resource, &h.object)) {
                        if send.send(line(happening.what, shown(&happening.object))).await.is_err() {
                            return;
                        }
                    }
                    if news.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! { () = tell => {}, _ = cuts.changed() => {}, () = life.cancelled() => {} }
        });
        let stream =
            futures::stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|line| (line, receive)) });
        let stream = stream.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        Response::builder().status(200).body(StreamBody::new(stream).boxed_unsync()).map_err(std::io::Error::other)
    }
}
