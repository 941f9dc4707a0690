//! HashiCorp Vault and OpenBao: the KV engine, versions 1 and 2.
//!
//! [`connect`] checks the spec and builds the HTTP client; [`login`] holds the token of the connection's one identity;
//! [`kv`] turns keys into paths and answers into values; [`client`] sends a request and says what a failure means.

mod client;
mod kv;
mod login;

use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::store::vault::{KvVersion, VaultProvider};

use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Access, Capabilities, Error, Fetched, Provider, Resolver, Result, Validity, Want};
use zeroize::Zeroizing;

use client::VaultClient;
use login::{Login, Session};

const FIELD: &str = "spec.provider.vault";
/// Reads at once on one connection; a Vault answers a KV read in about a millisecond.
const CONCURRENCY: usize = 16;

/// A connection to one Vault as one identity.
pub(crate) struct Vault {
    client: Arc<VaultClient>,
    session: Arc<Session>,
    mount: Option<String>,
    version: KvVersion,
    /// What a look at the mount told; a "not found" counts only once the mount is known to be what the spec says.
    mount_check: tokio::sync::OnceCell<()>,
}

pub(crate) async fn connect(spec: VaultProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Vault> {
    let server = http::base_url(&format!("{FIELD}.server"), &spec.server)?;
    let mount = spec.path.as_deref().map(|p| p.trim_matches('/').to_owned()).filter(|p| !p.is_empty());
    if let Some(mount) = &mount {
        kv::check_segments(&format!("{FIELD}.path"), mount)?;
    }
    let (login, cert) = Login::from_spec(spec.auth.as_ref())?;
    let mut tls = Tls {
        authorities: http::authorities(FIELD, spec.ca_bundle.as_deref(), spec.ca_provider.as_ref(), &*resolver).await?,
        identity: None,
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
    let auth_namespace = spec.auth.as_ref().and_then(|a| a.namespace.clone()).or_else(|| spec.namespace.clone());
    let client = Arc::new(VaultClient::new(
        http,
        server,
        &spec.headers,
        spec.namespace,
        spec.read_your_writes.unwrap_or(false),
        spec.forward_inconsistent.unwrap_or(false),
    )?);
    let session = Session::new(client.clone(), auth_namespace, login, resolver).await?;
    Ok(Vault { client, session, mount, version: spec.version, mount_check: tokio::sync::OnceCell::new() })
}

impl Vault {
    async fn read(&self, want: &Want) -> Result<Fetched> {
        let path = kv::path(self.mount.as_deref(), self.version, want)?;
        match self.with_token(&path).await {
            Ok(body) => kv::fetched(self.version, want, &body),
            Err(Error::NotFound(why)) => {
                self.check_mount(&path).await?;
                Err(Error::NotFound(why))
            }
            Err(error) => Err(error),
        }
    }

    /// A read as the connection's identity. A 403 may mean that Vault has dropped the token: then one new login is made.
    async fn with_token(&self, path: &kv::Path) -> Result<Zeroizing<Vec<u8>>> {
        let token = self.session.token().await?;
        match self.client.get(path, &token.text).await {
            Err(Error::Denied(why)) if self.session.was_dropped(&token).await? => {
                let fresh = self.session.renewed_after(&token).await?;
                tracing::debug!(why, "Vault had dropped the token; logged in again");
                self.client.get(path, &fresh.text).await
            }
            other => other,
        }
    }

    /// A KV engine of another version answers every read of this one with "not found": that must not empty a Secret.
    async fn check_mount(&self, path: &kv::Path) -> Result<()> {
        self.mount_check
            .get_or_try_init(|| async {
                let token = self.session.token().await?;
                match self.client.get(&kv::mount_info(&path.mount), &token.text).await {
                    Ok(body) => kv::check_mount(&path.mount, self.version, &body),
                    // Vault answers "denied" for a mount that is not there as well as for one that is hidden.
                    Err(Error::Denied(_) | Error::NotFound(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            })
            .await
            .map(|&()| ())
    }
}

#[async_trait]
impl Provider for Vault {
    async fn validate(&self) -> Result<Validity> {
        self.session.check().await?;
        if let Some(mount) = &self.mount {
            self.check_mount(&kv::Path { mount: mount.clone(), segments: vec![], query: None }).await?;
        }
        Ok(Validity::Valid)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadOnly, batch: 1, concurrency: CONCURRENCY }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        crate::in_order(wants.iter().map(|want| self.read(want)).collect(), CONCURRENCY).await
    }

    async fn close(&self) {
        self.session.revoke().await;
    }
}
