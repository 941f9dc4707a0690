use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::registry::without_quotes;
use crate::{Error, Payload, Result, SecretBytes};

/// Types of Secrets that are never written, neither as targets nor by a push: whoever holds one is somebody else to the cluster,
/// which itself fills the second in for any service account that an annotation names (Kubernetes' documentation, "Secrets").
pub const CLUSTER_CREDENTIALS: [&str; 2] = ["bootstrap.kubernetes.io/token", "kubernetes.io/service-account-token"];

/// What a remote secret says of who manages it: the mark that the operators of this API leave, and look for before they
/// overwrite or delete.
pub const MANAGED_BY: (&str, &str) = ("managed-by", "external-secrets");

/// Writes of a connection to one remote secret come one after another: each reads what it changes, and clouds have no write
/// that fails when somebody else was faster.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
#[derive(Default)]
pub(crate) struct Writing(std::sync::Mutex<BTreeMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>);

#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
impl Writing {
    /// Waits until nobody else writes there.
    pub(crate) async fn alone(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            all.retain(|_, lock| lock.strong_count() > 0);
            all.get(key).and_then(std::sync::Weak::upgrade).unwrap_or_else(|| {
                let lock = std::sync::Arc::default();
                all.insert(key.to_owned(), std::sync::Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// A remote secret that is pushed to or deleted, or one property of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// The remote secret's name, in the provider's own form.
    pub key: String,
    /// The property; the rest of the remote secret is left alone.
    pub property: Option<String>,
    /// `metadata` of the PushSecret's entry, as the provider understands it.
    pub metadata: Option<Value>,
}

/// One value that is to be in a remote secret.
#[derive(Clone, Debug)]
pub struct Push {
    /// Where.
    pub target: Target,
    /// What: bytes, or all of a Secret's data.
    pub value: Payload,
    /// Leaves alone what is there already, whoever manages it.
    pub only_new: bool,
    /// The Secret that the value comes from.
    pub source: Source,
}

/// What of a Secret goes along with its values, where the provider has a place for it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Its type.
    pub type_: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// There was nothing.
    Created,
    /// It was another value.
    Updated,
    /// It was there already.
    Unchanged,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone now.
    Done,
    /// It was not there.
    Absent,
    /// It does not carry [`MANAGED_BY`], and is left alone.
    NotOurs,
}

/// `metadata` of a PushSecret's entry: the envelope is the same for all providers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct Envelope<T: Default> {
    api_version: String,
    kind: String,
    #[serde(default)]
    spec: T,
}

/// Opens the envelope; without one, everything has its default.
///
/// # Errors
/// [`Error::Invalid`] when it is none, or holds what the provider does not know.
pub(crate) fn settings<T: Default + DeserializeOwned>(metadata: Option<&Value>) -> Result<T> {
    let Some(metadata) = metadata.filter(|m| !m.is_null()) else { return Ok(T::default()) };
    let envelope = Envelope::<T>::deserialize(metadata).map_err(|error| {
        Error::invalid("metadata", format!("is no PushSecretMetadata of this provider: {}", without_quotes(&error.to_string())))
    })?;
    let (version, kind) = ("kubernetes.external-secrets.io/v1alpha1", "PushSecretMetadata");
    if envelope.api_version != version || envelope.kind != kind {
        return Err(Error::invalid("metadata", format!("must be apiVersion {version}, kind {kind}")));
    }
    Ok(envelope.spec)
}

/// Why a remote secret that we did not make is left alone; `mark` says how it would be handed over.
pub(crate) fn not_ours(what: &str, mark: &str) -> Error {
    let why = format!(
        "{what} exists and is not managed by {}: it is left alone; name another key, or hand it over with {mark}",
        MANAGED_BY.1
    );
    Error::invalid("remoteRef.remoteKey", why)
}

impl Payload {
    /// The value as one text, as providers without fields keep it: named values become a JSON object of strings.
    ///
    /// # Errors
    /// [`Error::Invalid`] names a value that is not text.
    pub(crate) fn to_bytes(&self) -> Result<SecretBytes> {
        match self {
            Self::Bytes(bytes) | Self::Property(bytes) => Ok(bytes.clone()),
            Self::Fields(_) => {
                let object = Value::Object(self.to_object()?);
                Ok(SecretBytes::from(object.to_string()))
            }
        }
    }

    /// The value as a JSON object.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is none.
    pub(crate) fn to_object(&self) -> Result<Map<String, Value>> {
        match self {
            Self::Bytes(bytes) | Self::Property(bytes) => serde_json::from_slice(bytes.expose()).map_err(|_| {
                Error::invalid("match.secretKey", "its value is no JSON object; name a remoteRef.property to put it into")
            }),
            Self::Fields(fields) => {
                fields.iter().map(|(name, value)| Ok((name.clone(), text(name, value)?.into()))).collect::<Result<_>>()
            }
        }
    }

    /// The value as text, for a property of a JSON object.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not text.
    pub(crate) fn to_text(&self) -> Result<String> {
        let bytes = self.to_bytes()?;
        text("", &bytes).map(str::to_owned)
    }
}

fn text<'a>(key: &str, value: &'a SecretBytes) -> Result<&'a str> {
    let of = if key.is_empty() { "the value".to_owned() } else { format!("the value of key {key}") };
    value.as_text().ok_or_else(|| Error::invalid("match.secretKey", format!("{of} is not text, which JSON can't hold")))
}

/// The object that a push makes of the one that is there.
pub(crate) fn merged(push: &Push, current: Option<&Map<String, Value>>) -> Result<Map<String, Value>> {
    match &push.target.property {
        None => push.value.to_object(),
        Some(property) => {
            let mut object = current.cloned().unwrap_or_default();
            object.insert(property.clone(), push.value.to_text()?.into());
            Ok(object)
        }
    }
}

/// A remote secret that is one text, as a push or a deletion finds it.
pub(crate) struct Current<'a> {
    value: Option<&'a SecretBytes>,
    object: Option<Map<String, Value>>,
}

/// What is left of a remote secret without a property.
pub(crate) enum Without {
    /// It has no such property.
    Absent,
    /// The others.
    Rest(SecretBytes),
    /// Nothing: it was the last one.
    Nothing,
}

impl<'a> Current<'a> {
    pub(crate) fn new(value: Option<&'a SecretBytes>) -> Self {
        Self { value, object: value.and_then(|v| serde_json::from_slice(v.expose()).ok()) }
    }

    /// Whether a push that only makes new values has nothing to do.
    pub(crate) fn has(&self, push: &Push) -> bool {
        match &push.target.property {
            None => self.value.is_some(),
            Some(_) => is_there(push, self.object.as_ref()),
        }
    }

    /// The value that a push makes of it; `what` names it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a property of a text that is no JSON object, and for values that JSON can't hold.
    pub(crate) fn next(&self, push: &Push, what: &str) -> Result<SecretBytes> {
        match (&push.target.property, self.value) {
            (None, _) => push.value.to_bytes(),
            (Some(_), Some(_)) if self.object.is_none() => {
                Err(Error::invalid("remoteRef.property", format!("{what} holds no JSON object, so it can't take a property")))
            }
            (Some(_), _) => Ok(SecretBytes::from(Value::Object(merged(push, self.object.as_ref())?).to_string())),
        }
    }

    /// What it is without a property.
    pub(crate) fn without(self, property: &str) -> Without {
        let Some(mut rest) = self.object else { return Without::Absent };
        match rest.remove(property) {
            None => Without::Absent,
            Some(_) if rest.is_empty() => Without::Nothing,
            Some(_) => Without::Rest(SecretBytes::from(Value::Object(rest).to_string())),
        }
    }
}

/// Whether a push that only makes new values has nothing to do.
pub(crate) fn is_there(push: &Push, current: Option<&Map<String, Value>>) -> bool {
    match (&push.target.property, current) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(property), Some(object)) => object.contains_key(property),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn push(property: Option<&str>, value: Payload) -> Push {
        let target = Target { key: "k".into(), property: property.map(Into::into), metadata: None };
        Push { target, value, only_new: false, source: Source::default() }
    }

    fn object(json: Value) -> Map<String, Value> {
        json.as_object().cloned().expect("an object")
    }

    #[test]
    fn a_property_joins_what_is_there_and_a_whole_value_replaces_it() {
        let there = object(json!({"a": "1", "b": {"c": 2}}));
        let one = push(Some("a"), Payload::Bytes("x".into()));
        assert_eq!(merged(&one, Some(&there)).unwrap(), object(json!({"a": "x", "b": {"c": 2}})));
        assert_eq!(merged(&one, None).unwrap(), object(json!({"a": "x"})));
        let whole = push(None, Payload::Bytes(r#"{"z": [1]}"#.into()));
        assert_eq!(merged(&whole, Some(&there)).unwrap(), object(json!({"z": [1]})));
        let fields = Payload::Fields(BTreeMap::from([("u".to_owned(), "v".into())]));
        assert_eq!(merged(&push(None, fields.clone()), None).unwrap(), object(json!({"u": "v"})));
        assert_eq!(merged(&push(Some("p"), fields), None).unwrap(), object(json!({"p": r#"{"u":"v"}"#})));
        assert!(is_there(&one, Some(&there)) && !is_there(&push(Some("q"), Payload::Bytes("x".into())), Some(&there)));
    }

    #[test]
    fn one_text_takes_a_property_only_where_it_is_an_object() {
        let one = push(Some("a"), Payload::Bytes("x".into()));
        let (object, text) = (SecretBytes::from(r#"{"a": 1}"#), SecretBytes::from("CANARY"));
        assert!(Current::new(Some(&object)).has(&one) && !Current::new(None).has(&one));
        assert_eq!(Current::new(Some(&object)).next(&one, "k").unwrap(), SecretBytes::from(r#"{"a":"x"}"#));
        assert_eq!(Current::new(None).next(&one, "k").unwrap(), SecretBytes::from(r#"{"a":"x"}"#));
        let error = Current::new(Some(&text)).next(&one, "k").expect_err("no object").to_string();
        assert!(error.contains("no JSON object") && !error.contains("CANARY"), "{error}");
        assert!(matches!(Current::new(Some(&object)).without("a"), Without::Nothing));
        assert!(matches!(Current::new(Some(&object)).without("b"), Without::Absent));
        assert!(matches!(Current::new(Some(&text)).without("a"), Without::Absent));
        let two = SecretBytes::from(r#"{"a":1,"b":2}"#);
        assert!(matches!(Current::new(Some(&two)).without("a"), Without::Rest(rest) if rest == SecretBytes::from(r#"{"b":2}"#)));
    }

    #[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
    #[tokio::test]
    async fn writes_to_one_remote_secret_come_one_after_another() {
        use futures::FutureExt;
        let writing = Writing::default();
        let first = writing.alone("a").await;
        assert!(writing.alone("a").now_or_never().is_none(), "the second waits");
        let other = writing.alone("b").now_or_never().expect("another secret waits for nobody");
        drop(first);
        assert!(writing.alone("a").now_or_never().is_some());
        drop(other);
        drop(writing.alone("c").await);
        assert_eq!(writing.0.lock().unwrap().len(), 1, "and what nobody writes is forgotten");
    }

    #[test]
    fn what_json_can_not_hold_is_named_and_not_shown() {
        let binary = Payload::Fields(BTreeMap::from([("k".to_owned(), SecretBytes::new(vec![0xff]))]));
        assert!(binary.to_bytes().expect_err("binary").to_string().contains("key k"));
        let error = push(None, Payload::Bytes("CANARY".into())).value.to_object().expect_err("no object").to_string();
        assert!(error.contains("remoteRef.property") && !error.contains("CANARY"), "{error}");
    }
}
