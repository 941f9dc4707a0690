//! The audit trail: who read which remote secret as whom, and what became of it in the cluster.
//!
//! A record is one line of JSON and never holds a value: of a value it has a keyed hash, which only whoever has the key can compare
//! with anything. Nobody waits for the trail: a record that finds no room, or that its sink does not take, is lost and counted
//! (`lockstep_audit_records_total`). What each field means is in docs/audit.md.

mod otlp;
mod sink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use jiff::Timestamp;
use lockstep_providers::{Error, SecretBytes};
use serde::Serialize;
use serde_json::{Value, json};

use crate::connections::ConnectionKey;
use crate::keys::{Referrer, StoreKey};
use crate::metrics::Metrics;

pub use otlp::Endpoint;
use sink::Sink;

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Standard output, beside the log: a record has the field `"audit": "lockstep"`.
    Stdout,
    /// A file that is appended to, and opened anew when somebody has moved it away.
    File(PathBuf),
    /// A collector of OpenTelemetry logs.
    Otlp,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "stdout" => Ok(Self::Stdout),
            None if text == "otlp" => Ok(Self::Otlp),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("must be stdout, otlp or file=PATH".into()),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// The operator began: from here on the hashes are of one key.
    #[serde(rename = "operator.start")]
    Start,
    /// A provider was asked for a remote secret.
    #[serde(rename = "provider.get")]
    Get,
    /// A provider was searched.
    #[serde(rename = "provider.find")]
    Find,
    /// A remote secret was written.
    #[serde(rename = "provider.push")]
    Push,
    /// A remote secret was deleted.
    #[serde(rename = "provider.delete")]
    Delete,
    /// A provider was asked whether it takes the identity.
    #[serde(rename = "provider.validate")]
    Validate,
    /// A generator was called.
    #[serde(rename = "generator.call")]
    Generate,
    /// A target was written, or was found to be what it should be for the first time.
    #[serde(rename = "target.write")]
    Write,
    /// A target was deleted.
    #[serde(rename = "target.delete")]
    Remove,
    /// The object that a target belonged to is gone: an owned one is collected by the cluster, others stay.
    #[serde(rename = "object.gone")]
    Gone,
}

/// One record. Empty parts are left out.
#[derive(Clone, Debug, Serialize)]
struct Record<'a> {
    audit: &'static str,
    time: Timestamp,
    instance: &'a str,
    action: Action,
    result: &'a str,
    #[serde(flatten)]
    what: Value,
}

/// The trail.
pub struct Audit {
    sinks: Vec<Sink>,
    key: Option<hmac::Key>,
    instance: String,
}

/// Why there is no trail.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file with the key can't be used.
    #[error("--audit-key-file: {0}")]
    Key(String),
    /// A file of records can't be written.
    #[error("--audit file={0}: {1}")]
    File(String, std::io::Error),
    /// The collector's address is none.
    #[error("--audit otlp: {0}")]
    Otlp(String),
}

/// What the command line says of it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where records go; nowhere: there are none.
    pub places: Vec<Place>,
    /// File with the key of the hashes; none: one of chance, for as long as the process lives.
    pub key_file: Option<PathBuf>,
    /// Where OpenTelemetry's records go.
    pub endpoint: Option<Endpoint>,
}

/// A key must be as long as what it protects is worth (RFC 2104 wants the hash's length).
const SHORTEST_KEY: usize = 32;

impl Audit {
    /// No trail.
    pub fn off() -> Arc<Self> {
        Arc::new(Self { sinks: Vec::new(), key: None, instance: String::new() })
    }

    /// A trail; its writers run from now on.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn start(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Arc<Self>, AuditError> {
        if settings.places.is_empty() {
            return Ok(Self::off());
        }
        let key = match &settings.key_file {
            Some(path) => read_key(path)?,
            None => hmac_key(&*zeroize::Zeroizing::new(rand::random::<[u8; 32]>())),
        };
        let places = settings.places.iter().map(|place| Sink::start(place, settings.endpoint.as_ref(), metrics));
        let sinks = places.collect::<Result<Vec<_>, _>>()?;
        let audit = Arc::new(Self { sinks, key: Some(key), instance: crate::events::instance() });
        // Which key it is can be told without it: two trails of one key have the same id.
        let id = audit.hash(b"lockstep audit key");
        let kept = settings.key_file.is_some();
        let what = json!({"version": env!("CARGO_PKG_VERSION"), "key": {"id": id, "kept": kept}});
        audit.record(Action::Start, "ok", what);
        Ok(audit)
    }

    /// Whether anybody listens: what a record takes is not gathered otherwise.
    pub fn is_on(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// The keyed hash of a value (HMAC-SHA-256, in hex).
    pub fn hash(&self, value: &[u8]) -> String {
        let Some(key) = &self.key else { return String::new() };
        let tag = hmac::sign(key, value);
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The keyed hashes of a target's values, by key.
    pub fn hashes(&self, data: &BTreeMap<String, SecretBytes>) -> Value {
        data.iter()
            .map(|(name, value)| (name.clone(), Value::String(self.hash(value.expose()))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// Leaves a record to be written.
    pub fn record(&self, action: Action, result: &str, what: Value) {
        if !self.is_on() {
            return;
        }
        let record =
            Record { audit: "lockstep", time: Timestamp::now(), instance: &self.instance, action, result, what: pruned(what) };
        if let Ok(line) = serde_json::to_string(&record) {
            let line: Arc<str> = line.into();
            self.sinks.iter().for_each(|sink| sink.leave(line.clone()));
        }
    }

    /// Lets what waits be written, for so long at most.
    pub async fn flush(&self, within: Duration) {
        let _ = tokio::time::timeout(within, futures::future::join_all(self.sinks.iter().map(Sink::flush))).await;
    }
}

fn hmac_key(bytes: &[u8]) -> hmac::Key {
    // A key of any length is one: what is longer than a block is hashed first, as the standard says.
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

/// The keyed hash of a value, as records have it, for whoever holds both.
///
/// # Errors
/// [`AuditError::Key`].
pub fn hash_with(key_file: &Path, value: &[u8]) -> Result<String, AuditError> {
    let audit = Audit { sinks: Vec::new(), key: Some(read_key(key_file)?), instance: String::new() };
    Ok(audit.hash(value))
}

fn read_key(path: &Path) -> Result<hmac::Key, AuditError> {
    let wrong = |why: String| AuditError::Key(format!("{}: {why}", path.display()));
    let bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(|error| wrong(error.to_string()))?);
    match bytes.len() < SHORTEST_KEY {
        true => Err(wrong(format!("holds {} bytes, and a key has at least {SHORTEST_KEY}", bytes.len()))),
        false => Ok(hmac_key(&bytes)),
    }
}

/// Without what is not there.
fn pruned(mut what: Value) -> Value {
    if let Some(fields) = what.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(|value| *value = pruned(value.take()));
    }
    what
}

/// Who asks a provider, as records have it.
#[derive(Clone, Default)]
pub struct Trail {
    audit: Option<Arc<Audit>>,
    store: Value,
}

impl Trail {
    /// For a connection to a store, whose provider's spec says as whom.
    pub fn of_store(audit: &Arc<Audit>, key: &ConnectionKey, uid: &str, provider: &str, spec: &Value) -> Self {
        if !audit.is_on() {
            return Self::default();
        }
        let mut store = store(&key.store);
        store["uid"] = json!(uid);
        store["provider"] = json!(provider);
        store["identity"] = identity(spec);
        store["for"] = json!(key.scope.as_deref());
        Self { audit: Some(audit.clone()), store }
    }

    /// Leaves a record about a remote secret.
    pub fn record<T>(&self, action: Action, secret: impl FnOnce() -> Value, answer: &lockstep_providers::Result<T>) {
        let Some(audit) = &self.audit else { return };
        let result = answer.as_ref().map_or_else(Error::category, |_| "ok");
        audit.record(action, result, json!({"store": self.store, "secret": secret()}));
    }

    /// The keyed hash of a value; none: nobody listens.
    pub fn hash(&self, value: &[u8]) -> Option<String> {
        self.audit.as_ref().map(|audit| audit.hash(value))
    }
}

/// A store.
pub fn store(key: &StoreKey) -> Value {
    let kind = if key.namespace.is_some() { "SecretStore" } else { "ClusterSecretStore" };
    json!({"kind": kind, "namespace": key.namespace.as_deref(), "name": *key.name})
}

/// An object that reads or pushes.
pub fn object(referrer: &Referrer, uid: Option<&str>) -> Value {
    let (kind, key) = match referrer {
        Referrer::ExternalSecret(key) => ("ExternalSecret", key),
        Referrer::PushSecret(key) => ("PushSecret", key),
    };
    json!({"kind": kind, "namespace": *key.namespace, "name": *key.name, "uid": uid})
}

/// Fields of a provider's spec that say as whom it is asked; they hold names, never credentials.
const IDENTITY: [&str; 9] =
    ["auth", "role", "namespace", "externalID", "serviceAccountRef", "authType", "authSecretRef", "tenantId", "identityId"];

fn identity(spec: &Value) -> Value {
    let fields = IDENTITY.iter().filter_map(|name| Some(((*name).to_owned(), spec.get(*name)?.clone())));
    Value::Object(fields.collect())
}

/// A short name for a hash of bytes without a key, for what is no secret.
pub fn digest_of(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_the_command_line() {
        assert_eq!("stdout".parse(), Ok(Place::Stdout));
        assert_eq!("otlp".parse(), Ok(Place::Otlp));
        assert_eq!("file=/var/log/audit.jsonl".parse(), Ok(Place::File("/var/log/audit.jsonl".into())));
        for wrong in ["", "file", "file=", "stdout=x", "syslog"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_hash_is_hmac_sha_256_as_rfc_4231_has_it() {
        // Test case 2 with its key, padded by nothing: the standard's own words.
        let audit = Audit { sinks: Vec::new(), key: Some(hmac_key(b"Jefe")), instance: String::new() };
        let hash = audit.hash(b"what do ya want for nothing?");
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn what_is_not_there_is_left_out_and_of_an_identity_only_names_are_told() {
        let what = pruned(json!({"a": null, "b": {"c": null, "d": 1}}));
        assert_eq!(what, json!({"b": {"d": 1}}));
        let spec = json!({"server": "https://v", "auth": {"tokenSecretRef": {"name": "n", "key": "k"}}, "path": "secret"});
        assert_eq!(identity(&spec), json!({"auth": {"tokenSecretRef": {"name": "n", "key": "k"}}}));
    }
}
