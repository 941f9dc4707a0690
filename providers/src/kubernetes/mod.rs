//! Secrets of another namespace or cluster, read through the Kubernetes API.

mod kubeconfig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use lockstep_crds::meta::ServiceAccountSelector;
use lockstep_crds::store::kubernetes::{KubernetesProvider, KubernetesServer};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Url};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::error::foreign_text;
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Access, Capabilities, Error, Fetched, Payload, Provider, Resolver, Result, SecretBytes, Validity, Want};

const FIELD: &str = "spec.provider.kubernetes";
const CONCURRENCY: usize = 8;
/// Asked for; the API server may give less or more.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// A connection to one API server as one identity.
pub(crate) struct Kubernetes {
    http: Client,
    server: Url,
    namespace: String,
    bearer: Bearer,
    resolver: Arc<dyn Resolver>,
}

/// Whose requests they are.
enum Bearer {
    /// The client certificate's.
    None,
    Token(Zeroizing<String>),
    Account(ServiceAccountSelector, Mutex<Option<(Zeroizing<String>, Instant)>>),
}

pub(crate) async fn connect(spec: KubernetesProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Kubernetes> {
    let (server, mut tls) = match &spec.auth_ref {
        Some(_) if spec.auth.is_some() => {
            return Err(Error::invalid(FIELD, "names auth and authRef; keep one"));
        }
        Some(_) => (None, Tls::default()),
        None => server(spec.server.as_ref(), &*resolver).await.map(|(url, tls)| (Some(url), tls))?,
    };
    let (server, bearer) = match (server, &spec.auth, &spec.auth_ref) {
        (Some(server), Some(auth), _) => {
            let field = format!("{FIELD}.auth");
            let bearer = match (&auth.cert, &auth.token, &auth.service_account) {
                (Some(cert), None, None) => {
                    let field = format!("{field}.cert.clientCert");
                    let certificate = resolver.secret_key(&field, &cert.client_cert, Some("tls.crt")).await?;
                    let key =
                        resolver.secret_key(&format!("{FIELD}.auth.cert.clientKey"), &cert.client_key, Some("tls.key")).await?;
                    tls.identity = Some(http::identity(&field, &certificate, &key)?);
                    Bearer::None
                }
                (None, Some(token), None) => {
                    let field = format!("{field}.token.bearerToken");
                    let token = resolver.secret_key(&field, &token.bearer_token, Some("token")).await?;
                    Bearer::Token(http::header_token(&field, &token)?)
                }
                (None, None, Some(account)) => Bearer::Account(account.clone(), Mutex::new(None)),
                _ => return Err(Error::invalid(field, "needs exactly one of cert, token and serviceAccount")),
            };
            (server, bearer)
        }
        (None, _, Some(selector)) => {
            let field = format!("{FIELD}.authRef");
            let text = resolver.secret_key(&field, selector, Some("config")).await?;
            let config = kubeconfig::parse(&field, &text)?;
            tls = Tls { authorities: config.authorities, identity: config.identity };
            (config.server, config.token.map_or(Bearer::None, Bearer::Token))
        }
        _ => {
            // Without either, a client would fall back to the operator's own rights: never unasked.
            return Err(Error::invalid(FIELD, "names no identity; set auth (cert, token or serviceAccount) or authRef"));
        }
    };
    let http = http::client(FIELD, tls, options)?;
    Ok(Kubernetes { http, server, namespace: spec.remote_namespace, bearer, resolver })
}

/// URL and authorities of `server`; without a URL, or with the default one, the operator's own API server.
async fn server(server: Option<&KubernetesServer>, resolver: &dyn Resolver) -> Result<(Url, Tls)> {
    let field = format!("{FIELD}.server");
    let given = match server {
        Some(s) => http::authorities(&field, s.ca_bundle.as_deref(), s.ca_provider.as_ref(), resolver).await?,
        None => None,
    };
    let url = server.and_then(|s| s.url.as_deref()).unwrap_or("kubernetes.default");
    let bare = url.trim_start_matches("https://").trim_end_matches('/');
    if bare == "kubernetes.default" || bare == "kubernetes.default.svc" {
        let own = resolver.own_cluster();
        let authorities = own.ca.iter().filter_map(|der| Certificate::from_der(der).ok()).collect::<Vec<_>>();
        let authorities = given.or((!authorities.is_empty()).then_some(authorities));
        return Ok((http::base_url(&format!("{field}.url"), &own.url)?, Tls { authorities, identity: None }));
    }
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    Ok((http::base_url(&format!("{field}.url"), &with_scheme)?, Tls { authorities: given, identity: None }))
}

#[derive(Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default)]
    data: Option<BTreeMap<String, Zeroizing<String>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    uid: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    kind: String,
}

impl Kubernetes {
    async fn read(&self, want: &Want) -> Result<Fetched> {
        let key = &want.key;
        let edge = |c: char| c.is_ascii_alphanumeric();
        if !(key.starts_with(edge) && key.ends_with(edge))
            || key.len() > 253
            || !key.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
            || key.contains("..")
        {
            return Err(Error::invalid("remoteRef.key", "is no name of a Secret"));
        }
        let body = match self.request(key, false).await {
            Err(Error::Denied(_)) if matches!(self.bearer, Bearer::Account(..)) => self.request(key, true).await?,
            other => other?,
        };
        let secret: Secret =
            serde_json::from_slice(&body).map_err(|_| Error::unavailable("the answer is no Secret; check server.url"))?;
        let version = format!("{}@{}", secret.metadata.uid, secret.metadata.resource_version);
        if want.seen.as_deref() == Some(&version) {
            return Ok(Fetched::Unchanged);
        }
        let payload = if want.metadata {
            let metadata = json!({
                "labels": secret.metadata.labels.unwrap_or_default(),
                "annotations": secret.metadata.annotations.unwrap_or_default(),
            });
            Payload::Bytes(SecretBytes::from(metadata.to_string()))
        } else {
            let mut fields = BTreeMap::new();
            for (name, text) in secret.data.unwrap_or_default() {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text.as_bytes())
                    .map_err(|_| Error::unavailable(format!("key {name} of the remote Secret is not Base64")))?;
                fields.insert(name, SecretBytes::new(bytes));
            }
            Payload::Fields(fields)
        };
        Ok(Fetched::Value { payload: Arc::new(payload), version: Some(version.into()) })
    }

    fn url(&self, name: &str) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1", "namespaces", &self.namespace, "secrets", name]);
        }
        url
    }

    async fn request(&self, name: &str, new_token: bool) -> Result<Zeroizing<Vec<u8>>> {
        let mut request = self.http.get(self.url(name)).header("accept", "application/json");
        let token = self.token(new_token).await?;
        if let Some(token) = &token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
                .map_err(|_| Error::invalid(format!("{FIELD}.auth"), "the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request = request.header("authorization", value);
        }
        let secrets = [token.as_ref().map_or("", |t| t.as_str())];
        let server = self.server.origin().ascii_serialization();
        let response = request.send().await.map_err(|error| http::no_answer(&server, error, &secrets))?;
        let status = response.status();
        let wait = http::retry_after(response.headers());
        let body = http::body(response, &server, &secrets).await?;
        if status.is_success() {
            return Ok(body);
        }
        let path = format!("Secret {}/{name}", self.namespace);
        let parsed = serde_json::from_slice::<Status>(&body).ok();
        let words =
            parsed.as_ref().map_or_else(|| "the answer is not Kubernetes'".into(), |s| foreign_text(&s.message, &secrets));
        let said = format!("code {}: {words}", status.as_u16());
        Err(match (status.as_u16(), parsed) {
            (404, Some(s)) if s.reason == "NotFound" && s.details.as_ref().is_some_and(|d| d.kind == "secrets") => {
                Error::NotFound(format!("{server} has no {path} ({said})"))
            }
            (401, _) => Error::Denied(format!("{server} does not take the credentials ({said})")),
            (403, _) => Error::Denied(format!("{server} refuses {path} ({said}); a Role must allow get on secrets there")),
            (429, _) => Error::Throttled { retry_after: wait, message: format!("{server} ({said})") },
            _ => Error::unavailable(format!("{server} answered {path} with {said}")),
        })
    }

    async fn token(&self, fresh: bool) -> Result<Option<Zeroizing<String>>> {
        match &self.bearer {
            Bearer::None => Ok(None),
            Bearer::Token(token) => Ok(Some(token.clone())),
            Bearer::Account(account, held) => {
                let mut held = held.lock().await;
                if let Some((token, until)) = held.as_ref().filter(|_| !fresh)
                    && Instant::now() < *until
                {
                    return Ok(Some(token.clone()));
                }
                let field = format!("{FIELD}.auth.serviceAccount");
                let token = self.resolver.service_account_token(&field, account, &[], TOKEN_LIFE).await?;
                let token = http::header_token(&field, &token)?;
                *held = Some((token.clone(), Instant::now() + TOKEN_LIFE.mul_f64(0.8)));
                Ok(Some(token))
            }
        }
    }
}

#[async_trait]
impl Provider for Kubernetes {
    /// Asks for a Secret that nobody has: the answer tells whether the server takes the identity, and grants nothing.
    async fn validate(&self) -> Result<Validity> {
        match self.request("lockstep-validation", false).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(Validity::Valid),
            // The identity may be allowed to read single Secrets by name only.
            Err(Error::Denied(why)) if why.contains("code 403") => Ok(Validity::Unknown),
            Err(error) => Err(error),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadOnly, batch: 1, concurrency: CONCURRENCY }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        crate::in_order(wants.iter().map(|want| self.read(want)).collect(), CONCURRENCY).await
    }
}
