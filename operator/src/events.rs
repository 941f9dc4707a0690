//! Events, written beside the work: a sync never waits for one, and a burst never makes more than the queue holds.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::Api;
use kube::{Client, Resource};
use lockstep_crds::conditions::EventReason;
use lockstep_crds::external_secret::StoreKind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bucket::Bucket;
use crate::keys::{ObjectKey, StoreKey};
use crate::kube_io::Writer;
use crate::metrics::Metrics;
use crate::ownership::Ownership;

/// Events that may wait. Beyond that, events that tell of nothing wrong are left out.
const WAITING: usize = 1024;
/// Events that tell of nothing wrong which may be written at once, and how many a second after that: a burst of first syncs
/// must not cost the API server a third write for each.
const GOOD_NEWS: f64 = 100.0;
const GOOD_NEWS_PER_SECOND: f64 = 10.0;
/// The API's limit for an event's note.
const NOTE_MAX: usize = 1000;

struct Job {
    about: ObjectReference,
    reason: EventReason,
    note: String,
}

/// Where events are left to be written.
pub struct Events {
    sender: mpsc::Sender<Job>,
    receiver: std::sync::Mutex<Option<mpsc::Receiver<Job>>>,
    /// Events that tell of nothing wrong which may be written.
    good_news: std::sync::Mutex<Bucket>,
    client: Client,
    metrics: Arc<Metrics>,
    ownership: Arc<Ownership>,
}

impl Events {
    /// Nothing is written before [`Events::run`].
    pub fn new(client: Client, metrics: Arc<Metrics>, ownership: Arc<Ownership>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let good_news = std::sync::Mutex::new(Bucket::new(GOOD_NEWS, Instant::now()));
        Self { sender, receiver: std::sync::Mutex::new(Some(receiver)), good_news, client, metrics, ownership }
    }

    /// What an event is about.
    pub fn about<K: Resource<DynamicType = ()>>(&self, object: &K) -> ObjectReference {
        object.object_ref(&())
    }

    /// What an event is about.
    pub fn about_store(&self, key: &StoreKey, uid: &str) -> ObjectReference {
        let kind = match key.kind() {
            StoreKind::SecretStore => "SecretStore",
            StoreKind::ClusterSecretStore => "ClusterSecretStore",
        };
        ObjectReference {
            api_version: Some("external-secrets.io/v1".into()),
            kind: Some(kind.into()),
            name: Some(key.name.to_string()),
            namespace: key.namespace.as_ref().map(ToString::to_string),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        }
    }

    /// Leaves an event to be written; a full queue takes warnings only while half of it is free of them.
    pub fn publish(&self, about: ObjectReference, reason: EventReason, note: String) {
        let room = self.sender.capacity();
        let wanted = if reason.is_warning() { room > 0 } else { room > WAITING / 2 && self.is_good_news_welcome() };
        if !wanted || self.sender.try_send(Job { about, reason, note }).is_err() {
            self.metrics.event_dropped();
        }
    }

    fn is_good_news_welcome(&self) -> bool {
        let mut news = self.good_news.lock().unwrap_or_else(|p| p.into_inner());
        news.fill(GOOD_NEWS_PER_SECOND, GOOD_NEWS, Instant::now());
        news.take()
    }

    /// Writes events until the sender is gone; a second call ends at once.
    pub async fn run(&self) {
        let taken = self.receiver.lock().unwrap_or_else(|p| p.into_inner()).take();
        let Some(mut receiver) = taken else { return };
        while let Some(job) = receiver.recv().await {
            self.write(job).await;
        }
    }

    async fn write(&self, Job { about, reason, note }: Job) {
        let name = about.name.as_deref().unwrap_or_default();
        let shard = self.ownership.shard_of(&ObjectKey::new(about.namespace.as_deref().unwrap_or_default(), name));
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let now = jiff::Timestamp::now();
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.clone()), ..ObjectMeta::default() },
            action: Some("Sync".into()),
            reason: Some(reason.as_str().into()),
            note: Some(note.chars().take(NOTE_MAX).collect()),
            type_: Some(if reason.is_warning() { "Warning" } else { "Normal" }.into()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some("lockstep".into()),
            reporting_instance: Some(instance()),
            regarding: Some(about),
            ..Event::default()
        };
        self.metrics.api_request("create", "events");
        let url = Api::<Event>::namespaced(self.client.clone(), &namespace).resource_url().to_owned();
        if let Err(error) = Writer::new(&self.client, &self.ownership, shard).create(&url, &event, "lockstep").await {
            tracing::debug!(error = %crate::external_secret::kube_error(&error), "an event could not be written");
        }
    }
}

/// The pod's name.
pub fn instance() -> String {
    std::env::var("HOSTNAME").ok().filter(|h| !h.is_empty()).unwrap_or_else(|| format!("lockstep-{}", std::process::id()))
}
