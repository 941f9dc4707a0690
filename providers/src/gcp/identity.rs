//! As whom requests to Google are made: a service account's key, GKE's workload identity, an identity of elsewhere
//! ([`super::federation`]) or the operator's own pod. One token a connection, got again ahead of its end.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use google_cloud_auth::credentials::{CacheableResource, Credentials};
use google_cloud_auth::errors::CredentialsError;
use lockstep_crds::meta::ServiceAccountSelector;
use lockstep_crds::store::gcpsm::{GcpAuth, GcpKey, GcpWorkloadIdentity};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::federation::{self, Federation};
use super::wire::{self, endpoint};
use crate::error::foreign_text;
use crate::held::{Given, Held};
use crate::http::{self, Tls};
use crate::jwt::{Algorithm, Signer};
use crate::registry::Options;
use crate::{Error, Resolver, Result, SecretBytes};

pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
pub(super) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(super) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Where a Kubernetes service account says which Google one it is.
pub(super) const ACCOUNT_ANNOTATION: &str = "iam.gke.io/gcp-service-account";
/// Life of a Kubernetes token that is exchanged at once.
pub(super) const TOKEN_LIFE: Duration = Duration::from_secs(900);
/// Life of a token that does not say when it ends.
const LIFE: Duration = Duration::from_secs(3600);

/// A bearer token.
#[derive(Clone)]
pub(super) struct Token {
    text: Arc<Zeroizing<String>>,
    /// The Google service account that it is of, where that is known.
    pub(super) account: Option<Arc<str>>,
}

impl Token {
    pub(super) fn new(text: &str) -> Result<Self> {
        let token = http::header_token(super::FIELD, &SecretBytes::from(text))?;
        Ok(Self { text: Arc::new(token), account: None })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn header(&self) -> HeaderValue {
        let text = Zeroizing::new(format!("Bearer {}", self.text()));
        let mut value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// `auth` of a spec, for Secret Manager and for Vault's Google method.
pub(super) struct Auth<'a> {
    /// Where it stands.
    pub(super) field: String,
    pub(super) auth: Option<&'a GcpAuth>,
    /// `projectID` of the spec.
    pub(super) project: Option<&'a str>,
}

/// A service account's key, as the console gives it.
pub(super) struct Key {
    pub(super) email: String,
    pub(super) id: String,
    pub(super) signer: Signer,
    project: Option<String>,
}

/// A Kubernetes service account of a GKE cluster.
pub(super) struct Workload {
    field: String,
    account: ServiceAccountSelector,
    project: String,
    location: String,
    cluster: String,
}

pub(super) enum Source {
    Key(Box<Key>),
    Workload(Box<Workload>),
    Federation(Box<Federation>),
    Own(Box<Mutex<OwnCredentials>>),
}

/// The operator's own, which the SDK keeps up to date by itself.
pub(super) struct OwnCredentials {
    credentials: Credentials,
    made: Instant,
}

/// How long own credentials that were refused stay before others are made.
const MAKE_AGAIN: Duration = Duration::from_secs(1);

/// A first token, and whom it is for.
pub(super) struct First {
    pub(super) token: Given<Token>,
    /// The Google service account to go on as.
    pub(super) account: Option<String>,
    /// How long that may last.
    pub(super) life: Option<u64>,
}

/// Gets the token of a connection, and keeps it.
pub(super) struct Identity {
    field: String,
    pub(super) source: Source,
    pub(super) channel: Channel,
    resolver: Arc<dyn Resolver>,
    held: Held<Token>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// How Google's token services are reached.
pub(super) struct Channel {
    /// For addresses that are Google's own.
    http: Client,
    /// For addresses that a tenant gave.
    pub(super) guarded: Client,
    pub(super) options: Options,
}

#[derive(Deserialize)]
struct KeyFile {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    private_key: Zeroizing<String>,
    #[serde(default)]
    client_email: String,
}

impl Key {
    async fn read(field: &str, spec: &GcpKey, resolver: &dyn Resolver) -> Result<Self> {
        let field = format!("{field}.secretAccessKeySecretRef");
        let selector = spec.secret_access_key_secret_ref.as_ref().ok_or_else(|| Error::invalid(&field, "is not set"))?;
        let text = resolver.secret_key(&field, selector, None).await?;
        Self::parse(&field, &text)
    }

    pub(super) fn parse(field: &str, text: &SecretBytes) -> Result<Self> {
        let file: KeyFile = serde_json::from_slice(text.expose())
            .map_err(|_| Error::invalid(field, "is no JSON key of a Google service account"))?;
        if file.kind != "service_account" {
            // What else stands there may be anything that a Secret holds.
            let known =
                ["authorized_user", "external_account", "external_account_authorized_user", "impersonated_service_account"];
            let kind = known.into_iter().find(|known| *known == file.kind).unwrap_or("another");
            let why = format!("is of type {kind:?}; a key of type \"service_account\" is needed");
            return Err(Error::invalid(field, why));
        }
        if file.client_email.is_empty() {
            return Err(Error::invalid(field, "has no client_email; take the JSON key as Google gives it"));
        }
        let signer = Signer::from_pem(&format!("{field} (private_key)"), file.private_key.as_bytes())?;
        Ok(Self { email: file.client_email, id: file.private_key_id, signer, project: file.project_id.filter(|p| !p.is_empty()) })
    }

    /// A token that says who this is, for `audience`; more claims can be added.
    pub(super) fn assertion(&self, audience: &str, life: Duration, more: Value) -> Result<Zeroizing<String>> {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({"aud": audience, "iat": now, "exp": now + life.as_secs().cast_signed()});
        if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
            claims.extend(more);
        }
        self.signer.sign(Algorithm::Rs256, &json!({"alg": "RS256", "typ": "JWT", "kid": self.id}), &claims)
    }

    /// Google's exchange of a service account's assertion (OAuth 2.0 for server to server applications).
    async fn exchange(&self, channel: &Channel) -> Result<Given<Token>> {
        // The key's own token_uri is not asked: whoever wrote the Secret would choose where the assertion goes.
        let audience = "https://oauth2.googleapis.com/token";
        let assertion = self.assertion(audience, LIFE, json!({"iss": self.email, "scope": SCOPE}))?;
        let request = channel.post("oauth2", "https://oauth2.googleapis.com", "token")?;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
        let ask = Ask { what: format!("a token of {}", self.email), secrets: vec![&assertion], ..Ask::default() };
        let answer: Granted = channel.ask(request.form(&form), &ask).await?;
        answer.taken(&ask.what)
    }
}

/// What is asked of a token service, for messages.
#[derive(Default)]
pub(super) struct Ask<'a> {
    pub(super) what: String,
    pub(super) secrets: Vec<&'a str>,
    /// What to do about a refusal.
    pub(super) hint: &'static str,
}

/// A token, as OAuth has it.
#[derive(Deserialize)]
pub(super) struct Granted {
    access_token: Zeroizing<String>,
    expires_in: Option<u64>,
}

impl Granted {
    pub(super) fn taken(self, what: &str) -> Result<Given<Token>> {
        if self.access_token.is_empty() {
            return Err(Error::unavailable(format!("Google answered {what} without a token")));
        }
        let life = self.expires_in.map_or(LIFE, |seconds| Duration::from_secs(seconds.min(86_400)));
        Ok((Token::new(&self.access_token)?, Some(SystemTime::now() + life)))
    }
}

/// OAuth's errors (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct OAuthError {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Channel {
    fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            http: http::client(super::FIELD, Tls { anywhere: true, ..Tls::default() }, options)?,
            guarded: http::client(super::FIELD, Tls::default(), options)?,
            options: options.clone(),
        })
    }

    /// Asks a token service.
    ///
    /// # Errors
    /// [`Error::Denied`] says by which code; nothing that a token service says means that a secret is missing.
    pub(super) async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder, ask: &Ask<'_>) -> Result<T> {
        let what = &ask.what;
        let response =
            request.send().await.map_err(|error| http::no_answer_of("Google", super::FIELD, what, error, &ask.secrets))?;
        let (status, after) = (response.status().as_u16(), http::retry_after(response.headers()));
        let body = http::body_up_to(1 << 20, response, &format!("Google at {what}"), &ask.secrets).await?;
        if (200..300).contains(&status) {
            let broken = |_| Error::unavailable(format!("Google answered {what} with something else than a token"));
            return serde_json::from_slice(&body).map_err(broken);
        }
        let hint = if ask.hint.is_empty() { String::new() } else { format!("; {}", ask.hint) };
        let error = match serde_json::from_slice::<OAuthError>(&body) {
            Ok(OAuthError { error, error_description }) if status < 500 && status != 429 => {
                let said = foreign_text(&format!("{error}: {error_description}"), &ask.secrets);
                Error::Denied(format!("Google refuses {what} ({said}){hint}"))
            }
            _ => wire::failure(what, status, after, &body, &ask.secrets).error,
        };
        Err(match error {
            Error::NotFound(why) | Error::Invalid { why, .. } => Error::Denied(format!("{why}{hint}")),
            // The hint there is about secrets.
            Error::Denied(why) if !hint.is_empty() && !why.ends_with(&hint) => {
                Error::Denied(format!("{}{hint}", why.rsplit_once("; ").map_or(why.as_str(), |(said, _)| said)))
            }
            other => other,
        })
    }

    /// A token of a Google service account, which `token` may stand for (IAM credentials API, generateAccessToken).
    async fn impersonate(&self, token: &Token, account: &str, life: Option<u64>) -> Result<Given<Token>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Generated {
            access_token: Zeroizing<String>,
            expire_time: Option<jiff::Timestamp>,
        }
        let body = json!({"scope": [SCOPE], "lifetime": format!("{}s", life.unwrap_or(LIFE.as_secs()))});
        let what = format!("a token of {account}");
        let request = self.credentials_of(account, "generateAccessToken")?.header("authorization", token.header()).json(&body);
        let hint = "who asks needs roles/iam.workloadIdentityUser or roles/iam.serviceAccountTokenCreator on it";
        let ask = Ask { what, secrets: vec![token.text()], hint };
        let answer: Generated = self.ask(request, &ask).await?;
        let end = answer.expire_time.map_or_else(|| SystemTime::now() + LIFE, SystemTime::from);
        Ok((Token::new(&answer.access_token)?, Some(end)))
    }

    /// A request to the IAM credentials API about a Google service account.
    pub(super) fn credentials_of(&self, account: &str, method: &str) -> Result<RequestBuilder> {
        let base = endpoint(&self.options, "iamcredentials", "https://iamcredentials.googleapis.com")?;
        let url = base.join(&format!("v1/projects/-/serviceAccounts/{account}:{method}"));
        let url = url.map_err(|_| Error::invalid(super::FIELD, "makes no URL of the IAM credentials API"))?;
        Ok(self.http.post(url))
    }

    /// A text of the metadata server of the operator's own machine; none: it has no such thing.
    pub(super) async fn metadata(&self, path: &str) -> Result<Option<String>> {
        let base = endpoint(&self.options, "metadata", "http://metadata.google.internal")?;
        let what = format!("{path} of the metadata server");
        let broken = |why: String| Error::unavailable(format!("{what}: {why}"));
        let url = base.join(&format!("computeMetadata/v1/{path}")).map_err(|_| broken("makes no URL".into()))?;
        let request = self.http.get(url).header("metadata-flavor", "Google").timeout(Duration::from_secs(5));
        let response = request.send().await.map_err(|error| http::no_answer_of("Google", super::FIELD, &what, error, &[]))?;
        let status = response.status().as_u16();
        let text = http::body_up_to(1 << 16, response, &what, &[]).await?;
        match status {
            200 => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()).filter(|t| !t.is_empty())),
            404 => Ok(None),
            other => Err(broken(format!("status {other}"))),
        }
    }

    /// A request to one of Google's token services, by its name in the operator's environment.
    pub(super) fn post(&self, service: &str, default: &str, path: &str) -> Result<RequestBuilder> {
        let url = endpoint(&self.options, service, default)?.join(path);
        Ok(self.http.post(url.map_err(|_| Error::invalid(super::FIELD, format!("makes no URL of {service}")))?))
    }

    /// A request to a URL that a tenant gave.
    pub(super) fn post_to(&self, field: &str, url: Url) -> Result<RequestBuilder> {
        self.options.egress.check_url(field, &url)?;
        Ok(self.guarded.post(url))
    }
}

impl Workload {
    /// What the spec does not say of the cluster, the metadata server does; of its project, the secrets' project is the last guess.
    async fn new(field: &str, spec: &GcpWorkloadIdentity, project: Option<&str>, channel: &Channel) -> Result<Self> {
        let of = async |name: &str, given: &Option<String>, path: &str, default: Option<&str>| match given
            .as_deref()
            .filter(|g| !g.is_empty())
        {
            Some(given) => Ok(given.to_owned()),
            None => {
                let field = format!("{field}.{name}");
                let why = "is not set, and the operator runs on no GKE cluster whose metadata server would say it";
                match (channel.metadata(path).await, default) {
                    (Ok(Some(found)), _) => Ok(found),
                    (Ok(None), Some(default)) => Ok(default.to_owned()),
                    // Away from Google the name means nothing; on it, a server that is late says so itself the next time.
                    (Err(error), Some(default)) if error.to_string().contains("dns error") => Ok(default.to_owned()),
                    (Ok(None), None) => Err(Error::invalid(field, why)),
                    (Err(error), _) => Err(Error::unavailable(format!("{field} {why} ({error})"))),
                }
            }
        };
        let project = of("clusterProjectID", &spec.cluster_project_id, "project/project-id", project).await?;
        let location = of("clusterLocation", &spec.cluster_location, "instance/attributes/cluster-location", None).await?;
        let cluster = of("clusterName", &spec.cluster_name, "instance/attributes/cluster-name", None).await?;
        let account = spec.service_account_ref.clone();
        Ok(Self { field: format!("{field}.serviceAccountRef"), account, project, location, cluster })
    }

    /// The exchange of a Kubernetes token of a GKE cluster. Google publishes no reference of it; as its own libraries and
    /// other operators of this API do it.
    async fn first(&self, channel: &Channel, resolver: &dyn Resolver) -> Result<First> {
        let Self { field, account, project, location, cluster } = self;
        let annotations = resolver.service_account_annotations(field, account).await?;
        let pool = format!("{project}.svc.id.goog");
        let subject = resolver.service_account_token(field, account, std::slice::from_ref(&pool), TOKEN_LIFE).await?;
        let subject = http::header_token(field, &subject)?;
        let provider = format!("https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{cluster}");
        let body = json!({
            "grant_type": EXCHANGE,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "requested_token_type": ACCESS_TOKEN,
            "subject_token": subject.as_str(),
            "audience": format!("identitynamespace:{pool}:{provider}"),
            "scope": SCOPE,
        });
        let what = format!("a token for ServiceAccount {} of cluster {cluster} in {location}, project {project}", account.name);
        let ask = Ask {
            what,
            secrets: vec![&subject],
            hint: "clusterProjectID, clusterLocation and clusterName must name this cluster, with workload identity enabled",
        };
        let request = channel.post("securetoken", "https://securetoken.googleapis.com", "v1/identitybindingtoken")?.json(&body);
        let answer: Granted = channel.ask(request, &ask).await?;
        let account = annotations.get(ACCOUNT_ANNOTATION).cloned().filter(|a| !a.is_empty());
        if let Some(account) = &account {
            check_account(field, account)?;
        }
        Ok(First { token: answer.taken(&ask.what)?, account, life: None })
    }
}

impl Identity {
    /// Reads what the spec refers to. A cluster that the spec does not name is asked of the operator's metadata server.
    pub(super) async fn new(given: Auth<'_>, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        let Auth { field, auth, project } = given;
        let channel = Channel::new(options)?;
        let none = GcpAuth::default();
        let source = match auth.unwrap_or(&none) {
            GcpAuth { secret_ref: Some(key), .. } => {
                Source::Key(Box::new(Key::read(&format!("{field}.secretRef"), key, &*resolver).await?))
            }
            GcpAuth { workload_identity: Some(spec), .. } => {
                let project = project.filter(|p| !p.is_empty());
                Source::Workload(Box::new(Workload::new(&format!("{field}.workloadIdentity"), spec, project, &channel).await?))
            }
            GcpAuth { workload_identity_federation: Some(spec), .. } => {
                let field = format!("{field}.workloadIdentityFederation");
                Source::Federation(Box::new(federation::read(&field, spec, &*resolver, options).await?))
            }
            _ => {
                resolver.check_own_identity(&field)?;
                let own = OwnCredentials { credentials: own(&field)?, made: Instant::now() };
                Source::Own(Box::new(Mutex::new(own)))
            }
        };
        Ok(Self { field, source, channel, resolver, held: Held::default() })
    }

    /// The project that the identity itself is of.
    pub(super) fn project(&self) -> Option<String> {
        match &self.source {
            Source::Key(key) => key.project.clone(),
            Source::Workload(workload) => Some(workload.project.clone()),
            _ => None,
        }
    }

    /// The project of the operator's own machine.
    pub(super) async fn own_project(&self, field: &str) -> Result<String> {
        let hint = "is not set, and the operator's own machine says none; name the project that holds the secrets";
        match self.channel.metadata("project/project-id").await {
            Ok(Some(project)) => Ok(project),
            Ok(None) => Err(Error::invalid(field, hint)),
            Err(error) => Err(Error::unavailable(format!("{field} {hint} ({error})"))),
        }
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// [`Error::Denied`] names the step that was refused, and by which code.
    pub(super) async fn token(&self) -> Result<Token> {
        match &self.source {
            // Keeps its token itself.
            Source::Own(credentials) => self.own_token(credentials).await,
            _ => self.held.get(Box::pin(self.load())).await,
        }
    }

    /// Another one than `stale`, which Google says has ended; none when there can be no other.
    pub(super) async fn renewed(&self, stale: &Token) -> Result<Option<Token>> {
        if let Source::Own(_) = self.source {
            return Ok(None);
        }
        match self.held.forget(|held| held.text() == stale.text()).await {
            true => self.token().await.map(Some),
            false => Ok(None),
        }
    }

    /// A token that is new.
    pub(super) async fn load(&self) -> Result<Given<Token>> {
        let first = match &self.source {
            Source::Key(key) => return key.exchange(&self.channel).await,
            Source::Own(credentials) => return self.own_token(credentials).await.map(|token| (token, None)),
            Source::Workload(workload) => workload.first(&self.channel, &*self.resolver).await?,
            Source::Federation(federation) => federation.first(&self.channel, &*self.resolver).await?,
        };
        match &first.account {
            None => Ok(first.token),
            Some(account) => {
                let (mut token, end) = self.channel.impersonate(&first.token.0, account, first.life).await?;
                token.account = Some(account.as_str().into());
                Ok((token, end))
            }
        }
    }

    async fn own_token(&self, kept: &Mutex<OwnCredentials>) -> Result<Token> {
        let now = |kept: &OwnCredentials| (kept.credentials.clone(), kept.made);
        let (credentials, made) = now(&*kept.lock().await);
        let mut answer = self.ask_own(&credentials).await?;
        if answer.as_ref().is_err_and(|error| !error.is_transient()) {
            // The SDK takes such a failure for good and never asks again: what was granted meanwhile would not be seen. One of
            // those who meet it makes others, and no more often than that can help.
            let credentials = {
                let mut kept = kept.lock().await;
                if kept.made == made && made.elapsed() > MAKE_AGAIN {
                    *kept = OwnCredentials { credentials: own(&self.field)?, made: Instant::now() };
                }
                (kept.made != made).then(|| kept.credentials.clone())
            };
            if let Some(credentials) = credentials {
                answer = self.ask_own(&credentials).await?;
            }
        }
        let answer = answer.map_err(|error| {
            let why = http::causes(&error, &[]);
            match error.is_transient() {
                true => Error::unreachable(format!("the operator's own Google identity could not be got ({why})")),
                false => Error::Denied(format!(
                    "{} names no identity, and the operator's own pod has none ({why}); set secretRef, workloadIdentity or \
                     workloadIdentityFederation, or give the operator's service account a Google one",
                    self.field
                )),
            }
        })?;
        let CacheableResource::New { data, .. } = answer else {
            return Err(Error::unavailable("the operator's own Google identity gave no token"));
        };
        let bearer = data.get("authorization").and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer "));
        Token::new(bearer.ok_or_else(|| Error::unavailable("the operator's own Google identity gave no token"))?)
    }

    async fn ask_own(
        &self,
        credentials: &Credentials,
    ) -> Result<std::result::Result<CacheableResource<HeaderMap>, CredentialsError>> {
        let late = |_| Error::unreachable("the operator's own Google identity did not come in time");
        let limit = self.channel.options.timeout;
        tokio::time::timeout(limit, credentials.headers(Default::default())).await.map_err(late)
    }
}

/// The operator's own pod: Google's application default credentials.
fn own(field: &str) -> Result<Credentials> {
    let built = google_cloud_auth::credentials::Builder::default().with_scopes([SCOPE]).build();
    built.map_err(|error| {
        let why = http::causes(&error, &[]);
        Error::invalid(field, format!("the operator's own Google credentials can't be read ({why})"))
    })
}

/// A Google service account's address, which becomes part of a path.
pub(super) fn check_account(field: &str, account: &str) -> Result<()> {
    let formed = account.split_once('@').is_some_and(|(name, domain)| {
        let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        plain(name) && plain(domain) && domain.ends_with(".gserviceaccount.com") && !domain.contains("..") && !name.contains("..")
    });
    if formed {
        return Ok(());
    }
    let account = foreign_text(account, &[]);
    Err(Error::invalid(field, format!("{account:?} is no Google service account; write NAME@PROJECT.iam.gserviceaccount.com")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_checked_and_not_shown() {
        for (text, needle) in [
            ("CANARY", "is no JSON key"),
            (r#"{"type": "authorized_user", "refresh_token": "CANARY"}"#, "\"authorized_user\""),
            (r#"{"type": "service_account", "private_key": "CANARY"}"#, "has no client_email"),
            (r#"{"type": "service_account", "client_email": "a@b", "private_key": "CANARY"}"#, "holds no PEM private key"),
        ] {
            let error = Key::parse("f", &SecretBytes::from(text)).err().expect("no key").to_string();
            assert!(error.contains(needle) && !error.contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn accounts_are_addresses_of_service_accounts() {
        for good in ["reader@my-project.iam.gserviceaccount.com", "123-compute@developer.gserviceaccount.com"] {
            assert!(check_account("f", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "reader",
            "a@b",
            "a/../b@p.iam.gserviceaccount.com",
            "a@evil.com/.gserviceaccount.com",
            "a:x@p.gserviceaccount.com",
        ] {
            assert!(check_account("f", bad).is_err(), "{bad}");
        }
    }
}
