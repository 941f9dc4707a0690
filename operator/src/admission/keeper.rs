//! Keeps the webhook's certificate: in its own Secret, trusted by its own webhook configuration, or in files that cert-manager
//! fills. Nothing else of the cluster is read or written.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use base64::Engine;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use lockstep_providers::SecretBytes;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;

use super::certificate::{self, Pair, Served};
use crate::external_secret::kube_error;

/// Longest pause between two looks, and the pause after a failure.
const LOOK: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(5);
/// How often files are looked at.
const FILES: Duration = Duration::from_secs(5);
/// The API server takes a moment to trust a new authority: so long the certificate before is served.
const SETTLE: Duration = Duration::from_secs(2);

/// The certificate that is served now.
#[derive(Default)]
pub struct Current(RwLock<Option<(Arc<CertifiedKey>, Timestamp)>>);

impl Current {
    /// When it ends; none: there is none yet.
    pub fn ends(&self) -> Option<Timestamp> {
        self.0.read().unwrap_or_else(|p| p.into_inner()).as_ref().map(|(_, ends)| *ends)
    }

    fn is(&self, served: &Served) -> bool {
        let current = self.0.read().unwrap_or_else(|p| p.into_inner());
        current.as_ref().is_some_and(|(key, _)| key.cert == served.key.cert)
    }

    fn set(&self, served: Served) {
        tracing::info!(ends = %served.ends, "serving a certificate");
        *self.0.write().unwrap_or_else(|p| p.into_inner()) = Some((served.key, served.ends));
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("ends", &self.ends()).finish()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(|p| p.into_inner()).as_ref().map(|(key, _)| key.clone())
    }
}

/// Reads a certificate from `tls.crt` and `tls.key` of a folder, and again whenever they change.
pub async fn follow_files(folder: PathBuf, current: Arc<Current>) {
    let mut told = None;
    loop {
        match read(&folder).await {
            Ok(served) => {
                told = None;
                if !current.is(&served) {
                    current.set(served);
                }
            }
            Err(why) if told.as_ref() != Some(&why) => {
                tracing::warn!(folder = %folder.display(), "the certificate can't be used: {why}; what was served stays");
                told = Some(why);
            }
            Err(_) => {}
        }
        tokio::time::sleep(FILES).await;
    }
}

async fn read(folder: &Path) -> Result<Served, String> {
    let file = async |name: &str| tokio::fs::read(folder.join(name)).await.map_err(|error| format!("{name}: {error}"));
    let key = SecretBytes::new(file("tls.key").await?);
    certificate::served(&file("tls.crt").await?, key.expose())
}

/// The certificate that the webhook makes itself.
pub struct Keeper {
    /// For the two objects.
    pub client: Client,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret; it exists, maybe empty.
    pub secret: String,
    /// Name of the webhook configuration.
    pub configuration: String,
    /// Names that the API server may call the webhook by.
    pub names: Vec<String>,
    /// How long a certificate holds.
    pub validity: Duration,
    /// What is served.
    pub current: Arc<Current>,
}

impl Keeper {
    /// Keeps it for ever.
    pub async fn run(self) {
        let only = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets = watcher(self.secrets(), only(&self.secret)).default_backoff().touched_objects().map(drop);
        let configurations =
            watcher(self.configurations(), only(&self.configuration)).default_backoff().touched_objects().map(drop);
        let mut changes = std::pin::pin!(futures::stream::select(secrets, configurations));
        loop {
            let wait = match self.keep().await {
                Ok(wait) => wait,
                Err(why) => {
                    tracing::warn!("{why}");
                    AGAIN
                }
            };
            let _ = tokio::time::timeout(wait, changes.next()).await;
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn configurations(&self) -> Api<ValidatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    /// Makes a certificate if there is none that is good, has it trusted, and serves it. Answers when to look again.
    async fn keep(&self) -> Result<Duration, String> {
        let what = format!("Secret {}/{}", self.namespace, self.secret);
        let told = |verb: &str, error: &kube::Error| format!("{what}: {verb} failed ({})", kube_error(error));
        let secret = self.secrets().get(&self.secret).await.map_err(|error| told("get", &error))?;
        let now = Timestamp::now();
        let there = pair_in(&secret);
        let judged = match &there {
            Some(pair) => certificate::judge(pair, &self.names, now),
            None => Err("there is none".into()),
        };
        let (pair, served) = match (there, judged) {
            (Some(pair), Ok(served)) => (pair, served),
            (before, judged) => {
                let why = judged.err().unwrap_or_default();
                tracing::info!(secret = %what, "making a certificate: {why}");
                let pair = certificate::make(&self.names, self.validity, before.as_ref(), now)?;
                let written = self.secrets().replace(&self.secret, &PostParams::default(), &with_pair(secret, &pair)).await;
                match written {
                    Ok(_) => {}
                    // Another replica was faster: what it made is read.
                    Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Duration::ZERO),
                    Err(error) => return Err(told("update", &error)),
                }
                let served = certificate::judge(&pair, &self.names, now)?;
                (pair, served)
            }
        };
        let wait = Duration::try_from(served.renew.duration_since(now)).unwrap_or(AGAIN).clamp(Duration::from_secs(1), LOOK);
        let newly_trusted = self.trust(&pair.authorities).await?;
        if !self.current.is(&served) {
            if newly_trusted && self.current.ends().is_some() {
                tokio::time::sleep(SETTLE).await;
            }
            self.current.set(served);
        }
        Ok(wait)
    }

    /// Writes the authorities into the webhook configuration, if they are not there. Answers whether they were not.
    async fn trust(&self, authorities: &[u8]) -> Result<bool, String> {
        let what = format!("ValidatingWebhookConfiguration {}", self.configuration);
        let told = |verb: &str, error: &kube::Error| format!("{what}: {verb} failed ({})", kube_error(error));
        let configuration = self.configurations().get(&self.configuration).await.map_err(|error| told("get", &error))?;
        let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
        let trusts = |b: &ByteString| b.0 == authorities;
        let lacking = webhooks.iter().enumerate().filter(|(_, w)| !w.client_config.ca_bundle.as_ref().is_some_and(trusts));
        let bundle = base64::engine::general_purpose::STANDARD.encode(authorities);
        let mut steps =
            vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": configuration.resource_version()})];
        steps.extend(
            lacking.map(|(i, _)| json!({"op": "add", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": bundle})),
        );
        if steps.len() == 1 {
            return Ok(false);
        }
        let patch: json_patch::Patch =
            serde_json::from_value(json!(steps)).map_err(|error| format!("{what}: no patch ({error})"))?;
        let patch = Patch::<()>::Json(patch);
        let patched = self.configurations().patch(&self.configuration, &PatchParams::default(), &patch).await;
        patched.map_err(|error| told("patch", &error))?;
        tracing::info!(configuration = self.configuration, "the API server is told whom to trust");
        Ok(true)
    }
}

fn pair_in(secret: &Secret) -> Option<Pair> {
    let data = secret.data.as_ref()?;
    let part = |key: &str| data.get(key).map(|bytes| bytes.0.clone());
    Some(Pair { certificate: part("tls.crt")?, key: SecretBytes::new(part("tls.key")?), authorities: part("ca.crt")? })
}

fn with_pair(mut secret: Secret, pair: &Pair) -> Secret {
    let mut put = |key: &str, bytes: &[u8]| {
        secret.data.get_or_insert_default().insert(key.to_owned(), ByteString(bytes.to_vec()));
    };
    put("tls.crt", &pair.certificate);
    put("tls.key", pair.key.expose());
    put("ca.crt", &pair.authorities);
    secret
}
