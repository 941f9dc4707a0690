//! What every provider must do: run by each provider's tests against the real thing.

mod batches;
mod failures;
mod search;
mod values;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Error, Fetched, Payload, Provider, Want};

/// What stands behind a provider, and how the suite sets it up.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A connection that may read what [`Fixture::put`] makes.
    async fn provider(&self) -> Arc<dyn Provider>;

    /// Makes or changes a remote secret of text fields; answers its key.
    async fn put(&self, name: &str, fields: &BTreeMap<String, String>) -> String;

    /// Removes a remote secret; false when the provider has no such thing.
    async fn remove(&self, key: &str) -> bool;

    /// A key that the connection may not read; none when the provider has no such thing.
    async fn denied_key(&self) -> Option<String>;

    /// The same store with credentials that are not good; none when the provider has no such thing.
    async fn stranger(&self) -> Option<Arc<dyn Provider>>;

    /// Whether a validation tells good credentials from others.
    fn validates_identity(&self) -> bool {
        true
    }

    /// How the provider searches; none when it can't.
    fn search(&self) -> Option<Search>;

    /// Makes a remote secret of text fields with tags; answers its key.
    async fn put_tagged(&self, name: &str, fields: &BTreeMap<String, String>, tags: &BTreeMap<String, String>) -> String;

    /// A key that nothing is at, and that the connection may write; none when it is not the same as what reads.
    fn new_key(&self, name: &str) -> Option<String>;

    /// Makes or changes a remote secret; answers its key, and what `remoteRef.version` calls the version. None: there are none.
    async fn put_version(&self, _name: &str, _fields: &BTreeMap<String, String>) -> Option<(String, String)> {
        None
    }

    /// Makes a remote secret of these bytes; none when the provider can't keep them.
    async fn put_bytes(&self, _name: &str, _bytes: &[u8]) -> Option<String> {
        None
    }

    /// A name with letters that are not ASCII; none when the provider has no such names.
    fn unicode_name(&self) -> Option<String> {
        None
    }

    /// Lets the next read fail; false when the test can't do that.
    async fn fail(&self, _failure: Failure) -> bool {
        false
    }

    /// Lets the next page of a search fail; false where the provider can't be made to.
    async fn fail_search(&self, _failure: Failure) -> bool {
        false
    }

    /// The connection with another limit of time for a request.
    async fn impatient(&self, _timeout: Duration) -> Option<Arc<dyn Provider>> {
        None
    }

    /// Ends the credentials that the connection has, before their time; false when it has none that could be renewed.
    async fn expire(&self) -> bool {
        false
    }

    /// The same store as another identity, and a key that only that one may read.
    async fn neighbour(&self) -> Option<(Arc<dyn Provider>, String)> {
        None
    }
}

/// What goes wrong, in the provider's own words.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// The provider wants fewer requests, and to hear from us again after so many seconds.
    Throttled(Option<u64>),
    /// The provider is out of order.
    Unavailable,
    /// The connection ends without an answer.
    Cut,
    /// The answer begins after this.
    Late(Duration),
    /// The answer comes byte by byte, with this between them.
    Slow(Duration),
    /// The answer says that all is well, and has this body.
    Body(&'static [u8]),
    /// The answer is whole as HTTP goes, and has only the first half of its body.
    Half,
}

/// How a provider searches.
#[derive(Clone, Debug)]
pub struct Search {
    /// Where what [`Fixture::put`] makes is looked for.
    pub path: Option<String>,
    /// Whether there are tags.
    pub tags: bool,
}

/// A value that must be in no error.
const CANARY: &str = "CANARY-conformance";

/// Runs the suite; panics with what does not hold.
#[expect(clippy::panic, reason = "a conformance suite fails by panicking")]
pub async fn run(fixture: &dyn Fixture) {
    let provider = fixture.provider().await;
    check(provider.validate().await.is_ok(), "a good connection validates");
    check(provider.capabilities().batch > 0 && provider.capabilities().concurrency > 0, "capabilities are positive");

    let fields = |value: &str| BTreeMap::from([("user".to_owned(), value.to_owned()), ("pin".to_owned(), "0042".to_owned())]);
    let key = fixture.put("one", &fields(CANARY)).await;
    let first = provider.get(&[Want::latest(&key)]).await.remove(0);
    let Ok(Fetched::Value { payload, version }) = first else { panic!("conformance: a value that is there is read: {first:?}") };
    check(fields_of(&payload) == fields(CANARY), "fields come back as they went in");
    check(!format!("{payload:?}").contains(CANARY), "Debug of a payload shows no value");

    if let Some(version) = version {
        let seen = Want { seen: Some(version), ..Want::latest(&key) };
        let again = provider.get(std::slice::from_ref(&seen)).await.remove(0);
        check(matches!(again, Ok(Fetched::Unchanged)), "the version last seen is answered as unchanged");
        fixture.put("one", &fields("changed")).await;
        let changed = provider.get(&[seen]).await.remove(0);
        check(
            matches!(&changed, Ok(Fetched::Value { payload, .. }) if fields_of(payload)["user"] == "changed"),
            "a changed value is not",
        );
    }

    let answers = batches::run(fixture, &*provider).await;
    let mut errors = answers;
    if let Some(key) = fixture.denied_key().await {
        let answer = provider.get(&[Want::latest(&key)]).await.remove(0);
        check(matches!(answer, Err(Error::Denied(_))), "what may not be read is denied, and not missing");
        errors.extend(answer.err().map(|e| e.to_string()));
    }
    if let Some(stranger) = fixture.stranger().await {
        let answer = stranger.get(&[Want::latest(&key)]).await.remove(0);
        check(matches!(answer, Err(Error::Denied(_))), "bad credentials are denied, and nothing is missing for them");
        errors.extend(answer.err().map(|e| e.to_string()));
        let validated = stranger.validate().await;
        check(!fixture.validates_identity() || matches!(validated, Err(Error::Denied(_))), "bad credentials do not validate");
    }
    values::run(fixture, &*provider).await;
    errors.extend(failures::run(fixture, &*provider).await);
    check(errors.iter().all(|e| !e.contains(CANARY)), "no error holds a value");
    if let Some(search) = fixture.search() {
        search::run(fixture, &*provider, &search).await;
    }
    if let (Some(pushed), Some(other)) = (fixture.new_key("pushed"), fixture.new_key("by-property")) {
        writes::run(fixture, &*provider, &pushed, &other).await;
    }
    provider.close().await;
}

/// Fails the suite unless something holds.
#[expect(clippy::panic, reason = "a conformance suite fails by panicking")]
fn check(holds: bool, what: &str) {
    if !holds {
        panic!("conformance: {what}");
    }
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What a key means now; none: nothing is there.
#[expect(clippy::panic, reason = "a conformance suite fails by panicking")]
async fn read(provider: &dyn Provider, key: &str) -> Option<BTreeMap<String, String>> {
    match provider.get(&[Want::latest(key)]).await.remove(0) {
        Ok(Fetched::Value { payload, .. }) => Some(fields_of(&payload)),
        Err(Error::NotFound(_)) => None,
        other => panic!("conformance: {key} can be read: {other:?}"),
    }
}

/// The fields of a payload, be it JSON text or named values.
fn fields_of(payload: &Payload) -> BTreeMap<String, String> {
    match payload {
        Payload::Bytes(bytes) | Payload::Property(bytes) => {
            bytes.as_text().and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
        }
        Payload::Fields(fields) => fields.iter().filter_map(|(k, v)| Some((k.clone(), v.as_text()?.to_owned()))).collect(),
    }
}
