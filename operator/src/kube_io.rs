//! Requests to the API server whose answers hold metadata only: a Secret that was written does not come back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{DeleteParams, PatchParams, PostParams, Preconditions};
use kube::core::request::Request;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ownership::Ownership;

/// A resource version as a number: those of one kind grow (KEP-5504); 0: it is none.
pub fn version_of(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The metadata of any object.
#[derive(Clone, Debug, Deserialize)]
pub struct Meta {
    /// The metadata.
    pub metadata: ObjectMeta,
}

impl kube::Resource for Meta {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> std::borrow::Cow<'_, str> {
        "PartialObjectMetadata".into()
    }
    fn group(_: &()) -> std::borrow::Cow<'_, str> {
        "meta.k8s.io".into()
    }
    fn version(_: &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }
    fn plural(_: &()) -> std::borrow::Cow<'_, str> {
        "partialobjectmetadata".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How long one write may take; the client's own deadline is that of a watch.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// How often a request is made again at once, and after which pauses, before whoever made it is told.
const PAUSES: [std::time::Duration; 2] = [std::time::Duration::from_millis(200), std::time::Duration::from_secs(1)];
/// How long one try of a read may take: a connection that is silent is not waited for to the end.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A read with the deadline of a write. A server that is busy, breaks off or fails is asked twice more: what depends on the answer would
/// wait for its back-off otherwise.
///
/// # Errors
/// What the request answers.
pub async fn in_time<T, F: Future<Output = kube::Result<T>>>(request: impl Fn() -> F) -> kube::Result<T> {
    let late = |_| Err(kube::Error::Service("no answer in time".into()));
    let mut pauses = PAUSES.into_iter();
    loop {
        let answer = tokio::time::timeout(PATIENCE, request()).await.unwrap_or_else(late);
        match (&answer, pauses.next()) {
            (Err(error), Some(pause)) if may_pass(error) => tokio::time::sleep(pause).await,
            _ => return answer,
        }
    }
}

/// Whether a read that failed so may have an answer a moment later.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 502..=504),
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Whether a write was refused before anything was done, because the server is busy (429 Too Many Requests, RFC 6585).
fn is_busy(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 429)
}

/// Writes for one object, or one store: the only way to write. Nothing is sent once its shard is no longer held.
pub struct Writer<'a> {
    client: &'a Client,
    ownership: &'a Ownership,
    shard: usize,
}

impl<'a> Writer<'a> {
    /// For an object or store of this shard.
    pub fn new(client: &'a Client, ownership: &'a Ownership, shard: usize) -> Self {
        Self { client, ownership, shard }
    }

    async fn send<T: DeserializeOwned>(&self, request: http::Request<Vec<u8>>) -> kube::Result<T> {
        let stale = || kube::Error::Service("the lease on this object is over: nothing was sent".into());
        let write = self.ownership.begin_write(self.shard).ok_or_else(stale)?;
        let end = tokio::time::Instant::now() + DEADLINE;
        let end = write.until.map_or(end, |until| until.min(end));
        let late = |_| Err(kube::Error::Service("no answer in time".into()));
        let mut pauses = PAUSES.into_iter();
        loop {
            let answer = tokio::time::timeout_at(end, self.client.request(request.clone())).await.unwrap_or_else(late);
            match (&answer, pauses.next()) {
                (Err(error), Some(pause)) if is_busy(error) => tokio::time::sleep(pause).await,
                _ => return answer,
            }
        }
    }

    async fn send_for_meta(&self, mut request: http::Request<Vec<u8>>) -> kube::Result<Meta> {
        request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(METADATA_ONLY));
        self.send(request).await
    }

    /// Creates an object in the collection at `url`.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn create(&self, url: &str, object: &impl Serialize, manager: &str) -> kube::Result<Meta> {
        let params = PostParams { field_manager: Some(manager.into()), ..PostParams::default() };
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        self.send_for_meta(Request::new(url).create(&params, body).map_err(build)?).await
    }

    /// Replaces an object; the resource version in it must be the current one.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn replace(&self, url: &str, name: &str, object: &impl Serialize, manager: &str) -> kube::Result<Meta> {
        let params = PostParams { field_manager: Some(manager.into()), ..PostParams::default() };
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        self.send_for_meta(Request::new(url).replace(name, &params, body).map_err(build)?).await
    }

    /// Server-side apply, by force.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn apply(&self, url: &str, name: &str, object: &impl Serialize, manager: &str) -> kube::Result<Meta> {
        let patch = kube::api::Patch::Apply(object);
        let params = PatchParams::apply(manager).force();
        self.send_for_meta(Request::new(url).patch(name, &params, &patch).map_err(build)?).await
    }

    /// Merges into an object.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn merge(&self, url: &str, name: &str, patch: &impl Serialize, manager: &str) -> kube::Result<Meta> {
        let patch = kube::api::Patch::Merge(patch);
        let params = PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        self.send_for_meta(Request::new(url).patch(name, &params, &patch).map_err(build)?).await
    }

    /// Merges into the status of an object.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn patch_status(&self, url: &str, name: &str, patch: &impl Serialize) -> kube::Result<Meta> {
        let patch = kube::api::Patch::Merge(patch);
        let params = PatchParams { field_manager: Some("lockstep".into()), ..PatchParams::default() };
        self.send_for_meta(Request::new(url).patch_subresource("status", name, &params, &patch).map_err(build)?).await
    }

    /// Deletes the very object that the preconditions name.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn delete(&self, url: &str, name: &str, only: Preconditions) -> kube::Result<()> {
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        self.send::<serde::de::IgnoredAny>(Request::new(url).delete(name, &params).map_err(build)?).await.map(drop)
    }
}

fn build(error: kube::core::request::Error) -> kube::Error {
    kube::Error::BuildRequest(error)
}
