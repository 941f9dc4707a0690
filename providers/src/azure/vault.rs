//! A vault's objects: keys to calls and answers to values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use azure_core::http::Url;
use azure_core::time::{OffsetDateTime, to_rfc3339};
use azure_security_keyvault_certificates::models::{
    Certificate, CertificateClientGetCertificateOptions, CertificatePolicy, ImportCertificateParameters, SecretProperties,
};
use azure_security_keyvault_certificates::{CertificateClient, CertificateClientOptions};
use azure_security_keyvault_keys::models::{ImportKeyParameters, Key, KeyClientGetKeyOptions};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions};
use azure_security_keyvault_secrets::models::{Secret, SecretAttributes, SecretClientGetSecretOptions, SetSecretParameters};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::TryStreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::cloud::Cloud;
use super::identity::Identity;
use super::wire::{Carrier, DELETED, Peer, meaning};
use super::{FIELD, certificates, keys};
use crate::http::{self, Tls};
use crate::push::{Current, Without, Writing, not_ours, settings};
use crate::registry::Options;
use crate::{Deleted, Error, Fetched, Find, Found, MANAGED_BY, Payload, Push, Pushed, Result, SecretBytes, Target, Want};

/// A list that has more pages than this goes round in circles.
const PAGES: usize = 10_000;
/// The tag of a certificate that was pushed: the SHA-256 of what.
const HASH: &str = "content-sha256";

/// Reads, searches and writes the objects of one vault.
pub(super) struct Vault {
    secrets: SecretClient,
    certificates: CertificateClient,
    keys: KeyClient,
    identity: Arc<Identity>,
    /// Of the vault, for messages.
    host: String,
    port: u16,
    options: Options,
    /// Held by a write: each reads what it changes.
    writing: Writing,
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Secret,
    Certificate,
    Key,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Certificate => "certificate",
            Self::Key => "key",
        }
    }
}

/// `metadata` of a PushSecret's entry.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    expiration_date: Option<String>,
    content_type: Option<String>,
    tags: HashMap<String, String>,
}

impl Settings {
    fn read(target: &Target) -> Result<Self> {
        let given: Self = settings(target.metadata.as_ref())?;
        if given.tags.contains_key(MANAGED_BY.0) {
            return Err(Error::invalid("metadata.spec.tags", format!("must not name {}: it is ours", MANAGED_BY.0)));
        }
        given.expires()?;
        Ok(given)
    }

    /// The tags of an object that has `there`: a push without tags leaves those.
    fn all_tags(&self, there: Option<&HashMap<String, String>>) -> HashMap<String, String> {
        let mut tags = if self.tags.is_empty() { there.cloned().unwrap_or_default() } else { self.tags.clone() };
        tags.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        tags
    }

    fn expires(&self) -> Result<Option<OffsetDateTime>> {
        let Some(text) = self.expiration_date.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
        let wrong = || Error::invalid("metadata.spec.expirationDate", "is no time; write for example 2030-01-31T00:00:00Z");
        let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        OffsetDateTime::from_unix_timestamp(time.as_second()).map(Some).map_err(|_| wrong())
    }
}

/// What a key names: `name`, `secret/name`, `cert/name` or `key/name`.
fn object<'a>(field: &str, key: &'a str) -> Result<(Kind, &'a str)> {
    let (kind, name) = key.split_once('/').unwrap_or(("secret", key));
    let kind = match kind {
        "secret" => Kind::Secret,
        "cert" => Kind::Certificate,
        "key" => Kind::Key,
        _ => {
            let kind = crate::error::foreign_text(kind, &[]);
            return Err(Error::invalid(
                field,
                format!("{kind:?} is no kind of object; write secret/NAME, cert/NAME or key/NAME"),
            ));
        }
    };
    let formed = (1..=127).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if formed {
        return Ok((kind, name));
    }
    let name = crate::error::foreign_text(name, &[]);
    Err(Error::invalid(field, format!("{name:?} is no name of an object in a vault: letters, digits and -, at most 127")))
}

fn version(want: &Want) -> Result<Option<String>> {
    let Some(version) = want.version.clone().filter(|v| !v.is_empty()) else { return Ok(None) };
    if version.len() <= 64 && version.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(Some(version));
    }
    let version = crate::error::foreign_text(&version, &[]);
    Err(Error::invalid("remoteRef.version", format!("{version:?} is no version of an object in a vault")))
}

impl Vault {
    pub(super) fn new(cloud: &Cloud, identity: Arc<Identity>, options: &Options) -> Result<Self> {
        let http = http::client(FIELD, Tls::default(), options)?;
        let carrier = || Carrier::new(http.clone(), Some(cloud.vault.clone()), None, Peer::Vault).options();
        let endpoint = cloud.vault.as_str();
        let wrong = |error: azure_core::Error| meaning(&format!("{FIELD}.vaultUrl"), &error);
        let secrets = SecretClientOptions { client_options: carrier(), ..SecretClientOptions::default() };
        let certificates = CertificateClientOptions { client_options: carrier(), ..CertificateClientOptions::default() };
        let keys = KeyClientOptions { client_options: carrier(), ..KeyClientOptions::default() };
        Ok(Self {
            secrets: SecretClient::new(endpoint, identity.clone(), Some(secrets)).map_err(wrong)?,
            certificates: CertificateClient::new(endpoint, identity.clone(), Some(certificates)).map_err(wrong)?,
            keys: KeyClient::new(endpoint, identity.clone(), Some(keys)).map_err(wrong)?,
            identity,
            host: cloud.vault.host_str().unwrap_or_default().to_owned(),
            port: cloud.vault.port_or_known_default().unwrap_or(443),
            options: options.clone(),
            writing: Writing::default(),
        })
    }

    /// Makes sure that the vault is where it should be.
    pub(super) async fn reach(&self) -> Result<()> {
        http::reach(&format!("{FIELD}.vaultUrl"), &self.host, self.port, &self.options).await
    }

    /// Makes a call; once more with another token when Azure says that the one it was sent with has ended.
    async fn call<T, F: Future<Output = azure_core::Result<T>>>(&self, what: &str, call: impl Fn() -> F) -> Result<T> {
        let what = format!("{what} of {}", self.host);
        let used = self.identity.token().await?;
        // Boxed: the SDK's futures are large and deep.
        match Box::pin(call()).await {
            Err(error) if error.http_status().is_some_and(|status| u16::from(status) == 401) => {
                match self.identity.forget(&used).await {
                    true => Box::pin(call()).await.map_err(|error| meaning(&what, &error)),
                    false => Err(meaning(&what, &error)),
                }
            }
            answered => answered.map_err(|error| meaning(&what, &error)),
        }
    }

    async fn secret(&self, name: &str, version: Option<String>) -> Result<Secret> {
        let read = || async {
            let options = SecretClientGetSecretOptions { secret_version: version.clone(), ..Default::default() };
            self.secrets.get_secret(name, Some(options)).await?.into_model()
        };
        self.call(&format!("secret {name}"), read).await
    }

    async fn certificate(&self, name: &str, version: Option<String>) -> Result<Certificate> {
        let read = || async {
            let options = CertificateClientGetCertificateOptions { certificate_version: version.clone(), ..Default::default() };
            self.certificates.get_certificate(name, Some(options)).await?.into_model()
        };
        self.call(&format!("certificate {name}"), read).await
    }

    async fn key(&self, name: &str, version: Option<String>) -> Result<Key> {
        let read = || async {
            let options = KeyClientGetKeyOptions { key_version: version.clone(), ..Default::default() };
            self.keys.get_key(name, Some(options)).await?.into_model()
        };
        self.call(&format!("key {name}"), read).await
    }

    pub(super) async fn get(&self, want: &Want) -> Result<Fetched> {
        let (kind, name) = object("remoteRef.key", &want.key)?;
        let version = version(want)?;
        let empty = || Error::unavailable(format!("Azure answered {} of {} without a value", want.key, self.host));
        let (id, bytes, tags) = match kind {
            Kind::Secret => {
                let found = self.secret(name, version).await?;
                let times = found.attributes.as_ref().map(|a| [a.expires, a.created, a.updated, a.not_before]);
                let value = found.value.map(SecretBytes::from);
                (found.id, value, metadata(found.tags, times))
            }
            Kind::Certificate => {
                let found = self.certificate(name, version).await?;
                let times = found.attributes.as_ref().map(|a| [a.expires, a.created, a.updated, a.not_before]);
                (found.id, found.cer.map(SecretBytes::new), metadata(found.tags, times))
            }
            Kind::Key => {
                let found = self.key(name, version).await?;
                let times = found.attributes.as_ref().map(|a| [a.expires, a.created, a.updated, a.not_before]);
                let key = found.key.ok_or_else(empty)?;
                let text = serde_json::to_string(&key).map_err(|_| empty())?;
                (key.kid, Some(SecretBytes::from(text)), metadata(found.tags, times))
            }
        };
        if want.metadata {
            return Ok(Fetched::Value { payload: Arc::new(Payload::Fields(tags)), version: None });
        }
        let id: Option<Arc<str>> = id.map(Into::into);
        if id.is_some() && want.seen == id {
            return Ok(Fetched::Unchanged);
        }
        Ok(Fetched::Value { payload: Arc::new(Payload::Bytes(bytes.ok_or_else(empty)?)), version: id })
    }

    /// Secrets that are enabled, by name and tags; `path` means nothing to a vault.
    pub(super) async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        let list = || async {
            let mut names = BTreeSet::new();
            let mut pages = self.secrets.list_secret_properties(None)?.into_pages();
            for _ in 0..PAGES {
                let Some(page) = pages.try_next().await? else { return Ok(Some(names)) };
                for item in page.into_model()?.value {
                    let enabled = item.attributes.as_ref().and_then(|a| a.enabled) == Some(true);
                    let Some(name) = item.id.as_deref().and_then(name_of).filter(|_| enabled) else { continue };
                    let tags = item.tags.unwrap_or_default();
                    if query.admits_name(&name) && query.admits_tags(|key| tags.get(key).map(String::as_str)) {
                        names.insert(name);
                    }
                }
            }
            Ok(None)
        };
        let names = self.call("secrets", list).await?;
        let names = names.ok_or_else(|| Error::unavailable(format!("the list of secrets of {} does not end", self.host)))?;
        Ok(names.into_iter().map(|name| Found { key: name.clone(), name, payload: None }).collect())
    }

    pub(super) async fn push(&self, push: &Push) -> Result<Pushed> {
        let given = Settings::read(&push.target)?;
        let (kind, name) = object("remoteRef.remoteKey", &push.target.key)?;
        // A certificate is a secret and a key of its name too, and names have no case.
        let _alone = self.writing.alone(&name.to_ascii_lowercase()).await;
        match kind {
            Kind::Secret => self.push_secret(name, push, &given).await,
            Kind::Certificate => self.push_certificate(name, push, &given).await,
            Kind::Key => self.push_key(name, push, &given).await,
        }
    }

    async fn push_secret(&self, name: &str, push: &Push, given: &Settings) -> Result<Pushed> {
        let there = there(self.secret(name, None).await)?;
        let current = there.as_ref().and_then(|s| s.value.as_deref()).map(SecretBytes::from);
        let now = Current::new(current.as_ref());
        if push.only_new && now.has(push) {
            return Ok(Pushed::Unchanged);
        }
        self.check_ours(name, there.as_ref().map(|s| &s.tags))?;
        let value = Payload::Bytes(now.next(push, name)?).to_text()?;
        let (expires, kind) = (given.expires()?, given.content_type.clone().filter(|c| !c.is_empty()));
        let tags = given.all_tags(there.as_ref().and_then(|s| s.tags.as_ref()));
        if let Some(there) = &there {
            let same = there.value.as_deref() == Some(value.as_str())
                && (kind.is_none() || kind == there.content_type)
                && (expires.is_none() || expires == there.attributes.as_ref().and_then(|a| a.expires))
                && there.tags.as_ref() == Some(&tags);
            if same {
                return Ok(Pushed::Unchanged);
            }
        }
        let kind = kind.or_else(|| there.as_ref().and_then(|s| s.content_type.clone()));
        self.set_secret(name, &value, expires, kind, tags).await?;
        Ok(if there.is_some() { Pushed::Updated } else { Pushed::Created })
    }

    async fn set_secret(
        &self,
        name: &str,
        value: &str,
        expires: Option<OffsetDateTime>,
        content_type: Option<String>,
        tags: HashMap<String, String>,
    ) -> Result<()> {
        let set = || async {
            let attributes = SecretAttributes { enabled: Some(true), expires, ..Default::default() };
            let parameters = SetSecretParameters {
                value: Some(value.to_owned()),
                content_type: content_type.clone(),
                secret_attributes: Some(attributes),
                tags: Some(tags.clone()),
            };
            self.secrets.set_secret(name, parameters.try_into()?, None).await.map(drop)
        };
        self.write(Kind::Secret, name, set).await
    }

    /// Writes an object; one of that name that was deleted and is ours is recovered first, since its name can't be used else.
    async fn write<F: Future<Output = azure_core::Result<()>>>(
        &self,
        kind: Kind,
        name: &str,
        write: impl Fn() -> F,
    ) -> Result<()> {
        let what = format!("{} {name}", kind.word());
        match self.call(&what, &write).await {
            Err(error) if matches!(&error, Error::Invalid { field, .. } if field == DELETED) => {
                let tags = self.call(&what, || self.deleted_tags(kind, name)).await?;
                if !is_ours(tags.as_ref()) {
                    return Err(error);
                }
                self.call(&what, || self.recover(kind, name)).await?;
                self.call(&what, &write).await
            }
            answered => answered,
        }
    }

    async fn deleted_tags(&self, kind: Kind, name: &str) -> azure_core::Result<Option<HashMap<String, String>>> {
        Ok(match kind {
            Kind::Secret => self.secrets.get_deleted_secret(name, None).await?.into_model()?.tags,
            Kind::Certificate => self.certificates.get_deleted_certificate(name, None).await?.into_model()?.tags,
            Kind::Key => self.keys.get_deleted_key(name, None).await?.into_model()?.tags,
        })
    }

    async fn recover(&self, kind: Kind, name: &str) -> azure_core::Result<()> {
        match kind {
            Kind::Secret => self.secrets.recover_deleted_secret(name, None).await.map(drop),
            Kind::Certificate => self.certificates.recover_deleted_certificate(name, None).await.map(drop),
            Kind::Key => self.keys.recover_deleted_key(name, None).await.map(drop),
        }
    }

    /// PKCS#12 without a password, or PEM with its key, as Key Vault takes them. What was pushed is told by a mark of its hash: a
    /// certificate's private key does not come back.
    async fn push_certificate(&self, name: &str, push: &Push, given: &Settings) -> Result<Pushed> {
        let value = whole(push)?;
        let there = there(self.certificate(name, None).await)?;
        if push.only_new && there.is_some() {
            return Ok(Pushed::Unchanged);
        }
        self.check_ours(name, there.as_ref().map(|c| &c.tags))?;
        let mut tags = given.all_tags(there.as_ref().and_then(|c| c.tags.as_ref()));
        tags.insert(HASH.to_owned(), URL_SAFE_NO_PAD.encode(Sha256::digest(value.expose())));
        if there.as_ref().is_some_and(|c| c.tags.as_ref() == Some(&tags)) {
            return Ok(Pushed::Unchanged);
        }
        let (text, kind) = match certificates::is_pem(value.expose()) {
            true => (Payload::Bytes(value).to_text()?, "application/x-pem-file"),
            false => (STANDARD.encode(value.expose()), "application/x-pkcs12"),
        };
        let import = || async {
            let properties = SecretProperties { content_type: Some(kind.into()) };
            let parameters = ImportCertificateParameters {
                base64_encoded_certificate: Some(text.clone()),
                certificate_policy: Some(CertificatePolicy { secret_properties: Some(properties), ..Default::default() }),
                tags: Some(tags.clone()),
                ..Default::default()
            };
            self.certificates.import_certificate(name, parameters.try_into()?, None).await.map(drop)
        };
        self.write(Kind::Certificate, name, import).await?;
        Ok(if there.is_some() { Pushed::Updated } else { Pushed::Created })
    }

    async fn push_key(&self, name: &str, push: &Push, given: &Settings) -> Result<Pushed> {
        let key = keys::jwk(&whole(push)?)?;
        let there = there(self.key(name, None).await)?;
        if push.only_new && there.is_some() {
            return Ok(Pushed::Unchanged);
        }
        self.check_ours(name, there.as_ref().map(|k| &k.tags))?;
        if there.as_ref().and_then(|k| k.key.as_ref()).is_some_and(|current| keys::same(current, &key)) {
            return Ok(Pushed::Unchanged);
        }
        let tags = given.all_tags(there.as_ref().and_then(|k| k.tags.as_ref()));
        let import = || async {
            let parameters = ImportKeyParameters { key: Some(key.clone()), tags: Some(tags.clone()), ..Default::default() };
            self.keys.import_key(name, parameters.try_into()?, None).await.map(drop)
        };
        self.write(Kind::Key, name, import).await?;
        Ok(if there.is_some() { Pushed::Updated } else { Pushed::Created })
    }

    fn check_ours(&self, name: &str, there: Option<&Option<HashMap<String, String>>>) -> Result<()> {
        match there {
            Some(tags) if !is_ours(tags.as_ref()) => {
                Err(not_ours(&format!("{name} of {}", self.host), &format!("the tag {}={}", MANAGED_BY.0, MANAGED_BY.1)))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn delete(&self, target: &Target) -> Result<Deleted> {
        let (kind, name) = object("remoteRef.remoteKey", &target.key)?;
        if kind != Kind::Secret && target.property.is_some() {
            return Err(no_property());
        }
        let _alone = self.writing.alone(&name.to_ascii_lowercase()).await;
        let tags = match kind {
            Kind::Secret => {
                let found = there(self.secret(name, None).await)?;
                if let (Some(secret), Some(property)) = (&found, &target.property)
                    && is_ours(secret.tags.as_ref())
                {
                    let current = secret.value.as_deref().map(SecretBytes::from);
                    match Current::new(current.as_ref()).without(property) {
                        Without::Absent => return Ok(Deleted::Absent),
                        Without::Rest(rest) => {
                            let rest = Payload::Bytes(rest).to_text()?;
                            let expires = secret.attributes.as_ref().and_then(|a| a.expires);
                            let tags = secret.tags.clone().unwrap_or_default();
                            return self
                                .set_secret(name, &rest, expires, secret.content_type.clone(), tags)
                                .await
                                .map(|()| Deleted::Done);
                        }
                        Without::Nothing => {}
                    }
                }
                found.map(|s| s.tags)
            }
            Kind::Certificate => there(self.certificate(name, None).await)?.map(|c| c.tags),
            Kind::Key => there(self.key(name, None).await)?.map(|k| k.tags),
        };
        let Some(tags) = tags else { return Ok(Deleted::Absent) };
        if !is_ours(tags.as_ref()) {
            return Ok(Deleted::NotOurs);
        }
        let delete = || async {
            match kind {
                Kind::Secret => self.secrets.delete_secret(name, None).await.map(drop),
                Kind::Certificate => self.certificates.delete_certificate(name, None).await.map(drop),
                Kind::Key => self.keys.delete_key(name, None).await.map(drop),
            }
        };
        match self.call(&target.key, delete).await {
            Ok(()) => Ok(Deleted::Done),
            Err(Error::NotFound(_)) => Ok(Deleted::Absent),
            Err(error) => Err(error),
        }
    }
}

/// The value of a push that takes no property: a certificate or a key is one thing.
fn whole(push: &Push) -> Result<SecretBytes> {
    match &push.target.property {
        Some(_) => Err(no_property()),
        None => push.value.to_bytes(),
    }
}

fn no_property() -> Error {
    Error::invalid("remoteRef.property", "is for secrets: a certificate or a key has none")
}

/// What is there; none: nothing.
fn there<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_ours(tags: Option<&HashMap<String, String>>) -> bool {
    tags.and_then(|tags| tags.get(MANAGED_BY.0)).map(String::as_str) == Some(MANAGED_BY.1)
}

/// The name in an object's id, such as `https://v.vault.azure.net/secrets/NAME`.
fn name_of(id: &str) -> Option<String> {
    let url = Url::parse(id).ok()?;
    let name = url.path_segments()?.nth(1)?;
    object("", name).is_ok().then(|| name.to_owned())
}

/// Tags, and times as `attribute.expires` and the like: manifests ask for them by these names.
fn metadata(tags: Option<HashMap<String, String>>, times: Option<[Option<OffsetDateTime>; 4]>) -> BTreeMap<String, SecretBytes> {
    let names = ["attribute.expires", "attribute.created", "attribute.updated", "attribute.notBefore"];
    let times = names.into_iter().zip(times.unwrap_or_default());
    let times = times.filter_map(|(name, time)| Some((name.to_owned(), SecretBytes::from(to_rfc3339(&time?)))));
    let tags = tags.unwrap_or_default().into_iter().map(|(name, value)| (name, SecretBytes::from(value)));
    times.chain(tags).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_an_object_and_leads_nowhere_else() {
        assert_eq!(object("f", "app").unwrap(), (Kind::Secret, "app"));
        assert_eq!(object("f", "secret/app-1").unwrap(), (Kind::Secret, "app-1"));
        assert_eq!(object("f", "cert/app").unwrap(), (Kind::Certificate, "app"));
        assert_eq!(object("f", "key/app").unwrap(), (Kind::Key, "app"));
        for bad in ["", "a_b", "cert/", "secret/a/b", "other/a", "..", "secret/..", "a%2fb", "é"] {
            assert!(object("f", bad).is_err(), "{bad}");
        }
        assert_eq!(name_of("https://v.vault.azure.net/secrets/app/0123").as_deref(), Some("app"));
        assert_eq!(name_of("https://v.vault.azure.net/secrets/"), None);
    }
}
