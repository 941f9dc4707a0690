//! Secrets of another namespace or cluster, read through the Kubernetes API.

mod kubeconfig;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use lockstep_crds::meta::ServiceAccountSelector;
use lockstep_crds::store::kubernetes::{KubernetesProvider, KubernetesServer};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::egress::Egress;
use crate::error::foreign_text;
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Error, Fetched, Find, Found, Payload, Provider, Push, Pushed, Resolver, Result, SecretBytes,
    Target, Validity, Want,
};

const FIELD: &str = "spec.provider.kubernetes";
const CONCURRENCY: usize = 8;
/// A Secret holds 1 MiB, which is a third more in Base64; a page of a list holds several.
const MAX_PAGE: usize = 32 << 20;
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
        None => server(spec.server.as_ref(), &*resolver, options).await.map(|(url, tls)| (Some(url), tls))?,
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
            let config = kubeconfig::parse(&field, &text, options)?;
            tls = Tls { authorities: config.authorities, identity: config.identity, anywhere: false };
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
async fn server(server: Option<&KubernetesServer>, resolver: &dyn Resolver, options: &Options) -> Result<(Url, Tls)> {
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
        // No tenant wrote that URL, wherever it lies.
        let anywhere = Options { egress: Arc::new(Egress::everywhere()), ..options.clone() };
        let url = http::base_url(&format!("{field}.url"), &own.url, &anywhere)?;
        return Ok((url, Tls { authorities, identity: None, anywhere: true }));
    }
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    Ok((http::base_url(&format!("{field}.url"), &with_scheme, options)?, Tls { authorities: given, ..Tls::default() }))
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
    name: String,
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

impl Secret {
    fn fields(self) -> Result<BTreeMap<String, SecretBytes>> {
        let decode = |(name, text): (String, Zeroizing<String>)| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
            let bytes = bytes.map_err(|_| Error::unavailable(format!("key {name} of the remote Secret is not Base64")))?;
            Ok((name, SecretBytes::new(bytes)))
        };
        self.data.unwrap_or_default().into_iter().map(decode).collect()
    }
}

fn check_name(field: &str, name: &str) -> Result<()> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let ends = name.starts_with(edge) && name.ends_with(edge);
    if !ends || name.len() > 253 || !name.chars().all(|c| edge(c) || "-.".contains(c)) || name.contains("..") {
        return Err(Error::invalid(field, "is no name of a Secret"));
    }
    Ok(())
}

/// What a request is about: one Secret, or those of a namespace.
struct Place<'a> {
    namespace: &'a str,
    name: Option<&'a str>,
    query: Vec<(&'static str, String)>,
}

impl<'a> Place<'a> {
    fn secret(namespace: &'a str, name: &'a str) -> Self {
        Self { namespace, name: Some(name), query: Vec::new() }
    }

    fn url(&self, server: &Url) -> Url {
        let mut url = server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1", "namespaces", self.namespace, "secrets"]).extend(self.name);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }

    /// What RBAC calls the right to make a request.
    fn verb(&self, method: &Method) -> &'static str {
        match (method, self.name) {
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::DELETE, _) => "delete",
            (_, Some(_)) => "get",
            (_, None) => "list",
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "Secret {}/{name}", self.namespace),
            None => write!(f, "Secrets of namespace {}", self.namespace),
        }
    }
}

impl Kubernetes {
    async fn read(&self, want: &Want) -> Result<Fetched> {
        check_name("remoteRef.key", &want.key)?;
        let body = self.call(Method::GET, &Place::secret(&self.namespace, &want.key), None).await?;
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
            Payload::Fields(secret.fields()?)
        };
        Ok(Fetched::Value { payload: Arc::new(payload), version: Some(version.into()) })
    }

    /// A request; a service account's token may have been revoked, then one new one is asked for.
    async fn call(&self, method: Method, place: &Place<'_>, body: Option<&Value>) -> Result<Zeroizing<Vec<u8>>> {
        let again = || matches!(self.bearer, Bearer::Account(..));
        match self.request(&method, place, body, false).await {
            Err(Error::Denied(_)) if again() => self.request(&method, place, body, true).await,
            other => other,
        }
    }

    async fn request(
        &self,
        method: &Method,
        place: &Place<'_>,
        body: Option<&Value>,
        new_token: bool,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut request = self.http.request(method.clone(), place.url(&self.server)).header("accept", "application/json");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let token = self.token(new_token).await?;
        if let Some(token) = &token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
                .map_err(|_| Error::invalid(format!("{FIELD}.auth"), "the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request = request.header("authorization", value);
        }
        let sent = body.and_then(|b| b.get("data")).and_then(Value::as_object).into_iter().flatten();
        let mut secrets: Vec<&str> = sent.filter_map(|(_, value)| value.as_str()).collect();
        secrets.extend(token.as_ref().map(|t| t.as_str()));
        let server = self.server.origin().ascii_serialization();
        let response = request.send().await.map_err(|error| http::no_answer(&server, error, &secrets))?;
        let status = response.status();
        let wait = http::retry_after(response.headers());
        let body = http::body_up_to(MAX_PAGE, response, &server, &secrets).await?;
        if status.is_success() {
            return Ok(body);
        }
        let parsed = serde_json::from_slice::<Status>(&body).ok();
        let words =
            parsed.as_ref().map_or_else(|| "the answer is not Kubernetes'".into(), |s| foreign_text(&s.message, &secrets));
        let said = format!("code {}: {words}", status.as_u16());
        Err(match (status.as_u16(), parsed) {
            (404, Some(s)) if s.reason == "NotFound" && s.details.as_ref().is_some_and(|d| d.kind == "secrets") => {
                Error::NotFound(format!("{server} has no {place} ({said})"))
            }
            (401, _) => Error::Denied(format!("{server} does not take the credentials ({said})")),
            (403, _) => {
                let verb = place.verb(method);
                Error::Denied(format!("{server} refuses to {verb} {place} ({said}); a Role must allow {verb} on secrets there"))
            }
            (409, _) => Error::unavailable(format!("somebody else wrote {place} at the same time ({said}); it is tried again")),
            (422, _) => Error::invalid("remoteRef.remoteKey", format!("{server} does not take {place} ({said})")),
            (429, _) => Error::Throttled { retry_after: wait, message: format!("{server} ({said})") },
            _ => Error::unavailable(format!("{server} answered {place} with {said}")),
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
        let nobody = Place::secret(&self.namespace, "lockstep-validation");
        match self.request(&Method::GET, &nobody, None, false).await {
            Ok(_) | Err(Error::NotFound(_)) => Ok(Validity::Valid),
            // The identity may be allowed to read single Secrets by name only.
            Err(Error::Denied(why)) if why.contains("code 403") => Ok(Validity::Unknown),
            Err(error) => Err(error),
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
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile_answer(bytes: &[u8]) {
    let _ = (serde_json::from_slice::<Secret>(bytes).ok(), serde_json::from_slice::<Status>(bytes).ok());
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile_kubeconfig(text: &SecretBytes) {
    kubeconfig::parse("f", text, &Options::default()).err().iter().for_each(|error| crate::hostile::tells_nothing(error));
}
