//! HashiCorp Vault and OpenBao: the KV engine, versions 1 and 2.
//!
//! [`connect`] checks the spec and builds the HTTP client; [`login`] holds the token of the connection's one identity;
//! [`kv`] turns keys into paths and answers into values; [`write`] searches, pushes and deletes; [`client`] sends a request and
//! says what a failure means; [`dynamic`] is for what Vault makes by itself.

mod client;
pub(crate) mod dynamic;
mod kv;
mod login;
pub(crate) mod openbao;
#[cfg(test)]
mod wire_tests;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lockstep_crds::store::vault::{KvVersion, VaultProvider};

use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Error, Fetched, Find, Found, Provider, Push, Pushed, Resolver, Result, Target, Validity, Want,
};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;
use zeroize::Zeroizing;

use client::VaultClient;
use login::{Login, Session};

const FIELD: &str = "spec.provider.vault";
/// Reads at once on one connection; a Vault answers a KV read in about a millisecond.
const CONCURRENCY: usize = 16;

/// How long a mount that was seen to be right vouches for what is missing in it.
const MOUNT_CHECK_HOLDS: Duration = Duration::from_secs(60);

/// A connection to one Vault as one identity.
pub(crate) struct Vault {
    client: Arc<VaultClient>,
    session: Arc<Session>,
    mount: Option<String>,
    version: KvVersion,
    /// When a mount was last seen to be what the spec says: a "not found" counts only then.
    mounts: Mutex<HashMap<String, Instant>>,
}

pub(crate) async fn connect(spec: VaultProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Vault> {
    let server = http::base_url(&format!("{FIELD}.server"), &spec.server, options)?;
    let mount = spec.path.as_deref().map(|p| p.trim_matches('/').to_owned()).filter(|p| !p.is_empty());
    if let Some(mount) = &mount {
        kv::check_segments(&format!("{FIELD}.path"), mount)?;
    }
    let (login, cert) = Login::from_spec(spec.auth.as_ref(), &resolver, options).await?;
    let mut tls = Tls {
        authorities: http::authorities(FIELD, spec.ca_bundle.as_deref(), spec.ca_provider.as_ref(), &*resolver).await?,
        ..Tls::default()
    };
    let pair = match (&cert, &spec.tls) {
        (Some((certificate, key)), _) => Some(("auth.cert.clientCert", certificate, "auth.cert.secretRef", key)),
        (None, Some(tls)) => match (&tls.cert_secret_ref, &tls.key_secret_ref) {
            (Some(certificate), Some(key)) => Some(("tls.certSecretRef", certificate, "tls.keySecretRef", key)),
            (None, None) => None,
            _ => return Err(Error::invalid(format!("{FIELD}.tls"), "needs both certSecretRef and keySecretRef")),
        },
        (None, None) => None,
    };
    if let Some((certificate_field, certificate, key_field, key)) = pair {
        let certificate_field = format!("{FIELD}.{certificate_field}");
        let certificate = resolver.secret_key(&certificate_field, certificate, Some("tls.crt")).await?;
        let key = resolver.secret_key(&format!("{FIELD}.{key_field}"), key, Some("tls.key")).await?;
        tls.identity = Some(http::identity(&certificate_field, &certificate, &key)?);
    }
    let http = http::client(FIELD, tls, options)?;
    let set = |namespace: Option<String>| namespace.filter(|n| !n.is_empty());
    let namespace = set(spec.namespace);
    let auth_namespace = set(spec.auth.as_ref().and_then(|a| a.namespace.clone())).or_else(|| namespace.clone());
    let client = Arc::new(VaultClient::new(
        http,
        server,
        &spec.headers,
        namespace,
        spec.read_your_writes.unwrap_or(false),
        spec.forward_inconsistent.unwrap_or(false),
    )?);
    let session = Session::new(client.clone(), auth_namespace, login, resolver).await?;
    Ok(Vault { client, session, mount, version: spec.version, mounts: Mutex::default() })
}

impl Vault {
    async fn read(&self, want: &Want) -> Result<Fetched> {
        let path = kv::path(self.mount.as_deref(), self.version, want)?;
        match self.call(Method::GET, &path, None).await {
            Ok(body) => kv::fetched(self.version, want, &body),
            // A look at the mount tells whether "not found" has authority…
            Err(Error::NotFound(why)) => {
                self.check_mount(&path.mount).await?;
                Err(Error::NotFound(why))
            }
            // …and may say better what is wrong with a path.
            Err(error @ Error::Invalid { .. }) => match self.check_mount(&path.mount).await {
                Err(better @ Error::Invalid { .. }) => Err(better),
                Ok(()) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// A request as the connection's identity. A 403 may mean that Vault has dropped the token, or that the token is older than
    /// its role's policies: then one new login is made.
    async fn call(&self, method: Method, path: &kv::Path, body: Option<&Value>) -> Result<Zeroizing<Vec<u8>>> {
        let token = self.session.token().await?;
        let asked = Instant::now();
        match self.client.call(method.clone(), path, &token.text, body).await {
            Err(Error::Denied(why)) if !why.starts_with(client::NOT_TAKEN) => {
                match self.session.after_denial(&token, asked).await? {
                    Some(fresh) => self.client.call(method, path, &fresh.text, body).await,
                    None => Err(Error::Denied(why)),
                }
            }
            other => other,
        }
    }

    /// A KV engine of another version answers every read of this one with "not found": that must not empty a Secret. Only a
    /// good answer is remembered, and not for long.
    async fn check_mount(&self, mount: &str) -> Result<()> {
        if self.checked().get(mount).is_some_and(|at| at.elapsed() < MOUNT_CHECK_HOLDS) {
            return Ok(());
        }
        let body = self.call(Method::GET, &kv::mount_info(mount), None).await.map_err(|error| match error {
            Error::Denied(why) | Error::NotFound(why) => Error::Denied(format!(
                "whether {mount} is the KV engine that the store says can't be seen, so nothing there is taken as missing: {why}"
            )),
            other => other,
        })?;
        kv::check_mount(mount, self.version, &body)?;
        self.checked().insert(mount.to_owned(), Instant::now());
        Ok(())
    }

    fn checked(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.mounts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait]
impl Provider for Vault {
    async fn validate(&self) -> Result<Validity> {
        self.session.check().await?;
        match &self.mount {
            // A mount that is hidden from this identity may still be readable.
            Some(mount) => match self.check_mount(mount).await {
                Ok(()) => Ok(Validity::Valid),
                Err(Error::Denied(_)) => Ok(Validity::Unknown),
                Err(error) => Err(error),
            },
            None => Ok(Validity::Valid),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadWrite, batch: 1, concurrency: CONCURRENCY, takes_property: false }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        crate::in_order(wants.iter().map(|want| self.read(want)).collect(), CONCURRENCY).await
    }

    async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        self.search(query).await
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.write(push).await
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        self.remove(target).await
    }

    async fn close(&self) {
        self.session.revoke().await;
    }
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile(bytes: &[u8]) {
    use crate::hostile::tells_nothing;
    let want = crate::Want::latest("app");
    for version in [KvVersion::V1, KvVersion::V2] {
        kv::fetched(version, &want, bytes).err().iter().for_each(|error| tells_nothing(error));
        kv::fetched(version, &crate::Want { metadata: true, ..want.clone() }, bytes).err().iter().for_each(|e| tells_nothing(e));
        kv::current(version, bytes).err().iter().for_each(|error| tells_nothing(error));
        kv::check_mount("secret", version, bytes).err().iter().for_each(|error| tells_nothing(error));
    }
    kv::listed(bytes).err().iter().for_each(|error| tells_nothing(error));
    kv::current_without_data(bytes).err().iter().for_each(|error| tells_nothing(error));
    kv::custom_metadata(bytes).err().iter().for_each(|error| tells_nothing(error));
}
