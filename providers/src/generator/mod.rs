//! Generators behind one trait: what is asked for values that nobody stored anywhere, and what has to be given back of them.
//!
//! [`connect`] is handed a generator's kind and spec, and a [`Resolver`] that reads what the spec refers to on behalf of whoever uses
//! the generator. One file a kind; those of clouds and of Vault lie beside the provider whose identity they use.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::generator::GeneratorKind;
use lockstep_crds::generator::fake::FakeSpec;
use lockstep_crds::generator::password::PasswordSpec;
use lockstep_crds::generator::ssh_key::SshKeySpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "remote-generators")]
use self::renamed::renamed;
use crate::registry::{Options, without_quotes};
use crate::{Error, Resolver, Result, SecretBytes};

mod password;
#[cfg(feature = "remote-generators")]
mod renamed;
mod ssh_key;

/// What a generator gave.
#[derive(Clone, Debug, Default)]
pub struct Generated {
    /// Values by key.
    pub values: BTreeMap<String, SecretBytes>,
    /// What has to be kept alive, and given back one day.
    pub lease: Option<Lease>,
}

/// Something that was made elsewhere and lasts for a while. It holds no value: it is kept where everybody may read it who may
/// read the objects of the namespace.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Its name there.
    pub id: String,
    /// How long it lasts after it was made, and after each renewal, in seconds.
    pub seconds: u64,
    /// Whether it can be prolonged.
    #[serde(default)]
    pub renewable: bool,
    /// What names the login that it was made with, and ends with. It is no credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessor: Option<String>,
    /// What names a credential that was made for it alone: whatever was issued to that goes with it. It is no credential either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// A credential for one call of a generator: what is issued to it can be taken back before it is known what that is.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// What names it; no credential.
    pub accessor: String,
    /// The credential.
    pub secret: SecretBytes,
}

/// How long a lease holds after it was prolonged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// In seconds.
    pub seconds: u64,
    /// It ends earlier, after so many seconds, unless it is prolonged again by then: what it hangs on is prolonged with it.
    pub within: Option<u64>,
}

/// A generator, ready to be asked. Dropped futures leave it usable: every method is cancel-safe.
#[async_trait]
pub trait Generator: Send + Sync {
    /// Makes new values.
    ///
    /// # Errors
    /// Never [`Error::NotFound`]: that a generator has nothing says nothing about a secret.
    async fn generate(&self) -> Result<Generated>;

    /// Makes a credential for one call, where there is such a thing and this identity may have it.
    ///
    /// # Errors
    /// When that can't be told.
    async fn ticket(&self) -> Result<Option<Ticket>> {
        Ok(None)
    }

    /// Makes new values with it. The lease names it.
    ///
    /// # Errors
    /// What [`Generator::generate`] answers.
    async fn generate_with(&self, _ticket: &Ticket) -> Result<Generated> {
        self.generate().await
    }

    /// Prolongs a lease by its time; answers for how long it holds from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has ended: what was made with it is worth nothing any more.
    async fn renew(&self, _lease: &Lease) -> Result<Held> {
        Err(Error::Unsupported("this generator makes nothing that could be prolonged".into()))
    }

    /// Gives a lease back; one that has ended already is an answer.
    ///
    /// # Errors
    /// Whatever keeps it from being given back.
    async fn revoke(&self, _lease: &Lease) -> Result<()> {
        Err(Error::Unsupported("this generator makes nothing that could be given back".into()))
    }

    /// Ends the connection. Leases stay.
    async fn close(&self) {}
}

/// What is wrong with a generator's spec, as far as can be said without anything that it refers to.
pub fn problems(kind: GeneratorKind, spec: &Value) -> Vec<String> {
    let wrong = |result: Result<()>| result.err().map(|error| error.to_string()).into_iter().collect();
    match kind {
        GeneratorKind::Fake => wrong(parse::<FakeSpec>(spec).map(drop)),
        GeneratorKind::Password => wrong(parse(spec).and_then(password::Password::new).map(drop)),
        GeneratorKind::SshKey => wrong(parse(spec).and_then(ssh_key::SshKey::new).map(drop)),
        #[cfg(feature = "webhook")]
        GeneratorKind::Webhook => match parse::<lockstep_crds::generator::webhook::WebhookSpec>(spec) {
            Ok(spec) => crate::webhook::problems("spec", &spec.into()),
            Err(error) => vec![error.to_string()],
        },
        _ => Vec::new(),
    }
}

/// Makes a generator of its spec.
///
/// # Errors
/// [`Error::Invalid`] names the wrong field, as the generator's own manifest has it; [`Error::Unsupported`] what this build lacks;
/// what the resolver answers for what the spec refers to is passed on.
pub async fn connect(
    kind: GeneratorKind,
    spec: &Value,
    #[cfg_attr(not(feature = "remote-generators"), allow(unused_variables))] resolver: Arc<dyn Resolver>,
    #[cfg_attr(not(feature = "remote-generators"), allow(unused_variables))] options: &Options,
) -> Result<Arc<dyn Generator>> {
    Ok(match kind {
        GeneratorKind::Fake => Arc::new(Fake(parse(spec)?)),
        GeneratorKind::Uuid => Arc::new(Uuid),
        GeneratorKind::Password => Arc::new(password::Password::new(parse::<PasswordSpec>(spec)?)?),
        GeneratorKind::SshKey => Arc::new(ssh_key::SshKey::new(parse::<SshKeySpec>(spec)?)?),
        #[cfg(feature = "vault")]
        GeneratorKind::Vault => {
            let rename = &[("spec.provider.vault", "spec.provider")];
            renamed(rename, crate::vault::dynamic::connect(parse(spec)?, resolver, options).await)?
        }
        #[cfg(feature = "webhook")]
        GeneratorKind::Webhook => {
            let rename = &[("spec.provider.webhook", "spec")];
            renamed(rename, crate::webhook::generator::connect(parse(spec)?, resolver, options).await)?
        }
        #[cfg(feature = "aws")]
        GeneratorKind::Ecr => {
            let rename = &[("spec.provider.aws", "spec")];
            renamed(rename, crate::aws::generators::ecr(parse(spec)?, resolver, options).await)?
        }
        #[cfg(feature = "aws")]
        GeneratorKind::Sts => {
            let rename = &[("spec.provider.aws", "spec")];
            renamed(rename, crate::aws::generators::sts(parse(spec)?, resolver, options).await)?
        }
        #[cfg(feature = "gcp")]
        GeneratorKind::Gcr => {
            let rename = &[("spec.provider.gcpsm", "spec")];
            renamed(rename, crate::gcp::generator::connect(parse(spec)?, resolver, options).await)?
        }
        #[cfg(feature = "azure")]
        GeneratorKind::Acr => {
            let rename = &[
                ("spec.provider.azurekv.authSecretRef", "spec.auth.servicePrincipal.secretRef"),
                ("spec.provider.azurekv.serviceAccountRef", "spec.auth.workloadIdentity.serviceAccountRef"),
                ("spec.provider.azurekv.authType", "spec.auth"),
                ("spec.provider.azurekv", "spec"),
            ];
            renamed(rename, crate::azure::generator::connect(parse(spec)?, resolver, options).await)?
        }
        #[allow(unreachable_patterns, reason = "a build with all providers knows all kinds")]
        other => return Err(Error::Unsupported(format!("{other} is no generator of this build"))),
    })
}

fn parse<T: DeserializeOwned>(spec: &Value) -> Result<T> {
    // A manifest may leave an empty spec out.
    let empty = Value::Object(serde_json::Map::new());
    let spec = if spec.is_null() { &empty } else { spec };
    T::deserialize(spec).map_err(|error| Error::invalid("spec", without_quotes(&error.to_string())))
}

/// What stands in its spec.
struct Fake(FakeSpec);

#[async_trait]
impl Generator for Fake {
    async fn generate(&self) -> Result<Generated> {
        let values = self.0.data.iter().map(|(key, value)| (key.clone(), SecretBytes::from(value.as_str()))).collect();
        Ok(Generated { values, lease: None })
    }
}

/// A random UUID, version 4 (RFC 9562).
struct Uuid;

#[async_trait]
impl Generator for Uuid {
    async fn generate(&self) -> Result<Generated> {
        let mut bytes: [u8; 16] = rand::random();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let text = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Ok(Generated { values: BTreeMap::from([("uuid".to_owned(), SecretBytes::from(text))]), lease: None })
    }
}

/// The keys of a JSON object: text as it is, nothing for null, all else as JSON.
#[cfg_attr(not(any(feature = "vault", feature = "webhook")), allow(dead_code))]
pub(crate) fn values_of(object: &serde_json::Map<String, Value>) -> BTreeMap<String, SecretBytes> {
    let text = |value: &Value| match value {
        Value::Null => SecretBytes::default(),
        Value::String(text) => SecretBytes::from(text.as_str()),
        other => SecretBytes::from(other.to_string()),
    };
    object.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resolver::Fixed;

    async fn generator(kind: GeneratorKind, spec: Value) -> Result<Arc<dyn Generator>> {
        connect(kind, &spec, Arc::new(Fixed("CANARY".into())), &Options::default()).await
    }

    async fn values(kind: GeneratorKind, spec: Value) -> BTreeMap<String, String> {
        let made = generator(kind, spec).await.expect("a generator").generate().await.expect("values");
        assert_eq!(made.lease, None);
        made.values.iter().map(|(key, value)| (key.clone(), value.as_text().expect("text").to_owned())).collect()
    }

    #[tokio::test]
    async fn uuids_are_random_and_of_version_4() {
        let uuid = async || values(GeneratorKind::Uuid, Value::Null).await.remove("uuid").expect("a uuid");
        let (a, b) = (uuid().await, uuid().await);
        assert_ne!(a, b);
        let parts: Vec<usize> = a.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&a[14..15], "4");
        assert!("89ab".contains(&a[19..20]), "{a}");
    }

    #[tokio::test]
    async fn a_fake_gives_its_own_text_and_a_wrong_spec_is_named_without_it() {
        let spec = json!({"data": {"a": "b"}});
        assert_eq!(values(GeneratorKind::Fake, spec).await, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let error = generator(GeneratorKind::Fake, json!({"data": {"a": ["CANARY"]}})).await.err().expect("wrong").to_string();
        assert!(error.starts_with("spec: invalid type") && !error.contains("CANARY"), "{error}");
    }

    #[test]
    fn the_fields_of_an_object_are_text_or_json() {
        let object = json!({"a": "x", "n": 1.5, "z": null, "o": {"k": [1]}});
        let values = values_of(object.as_object().expect("an object"));
        let text = |key: &str| values[key].as_text().expect("text").to_owned();
        assert_eq!(["a", "n", "z", "o"].map(text), ["x", "1.5", "", r#"{"k":[1]}"#]);
    }
}
