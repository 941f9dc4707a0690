//! Credentials of AWS that last for hours: tokens for its registries, and sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lockstep_crds::generator::aws::{EcrAuthorizationTokenSpec, StsRequestParameters, StsSessionTokenSpec};
use lockstep_crds::store::aws::AwsAuth;
use reqwest::Url;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::identity::{Auth, Identity, Role};
use super::signed::{self, Service};
use super::wire::{self, Carrier};
use crate::generator::{Generated, Generator};
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Resolver, Result, SecretBytes};

async fn identity(
    auth: Option<&AwsAuth>,
    role: Option<&str>,
    life: Option<i32>,
    region: &str,
    resolver: Arc<dyn Resolver>,
    options: &Options,
) -> Result<Identity> {
    wire::check_region("spec.region", region)?;
    let role = role.filter(|r| !r.is_empty()).map(|arn| Role { arn: arn.to_owned(), life, ..Role::default() });
    let given =
        Auth { field: "spec.auth".into(), role_field: "spec.role".into(), auth, roles: role.into_iter().collect(), region };
    Identity::new(given, resolver, &Carrier::new(options)?, options).await
}

/// Seconds since 1970, as values say when they end.
fn unix(end: SystemTime) -> SecretBytes {
    let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    SecretBytes::from(since.as_secs().to_string())
}

fn values<const N: usize>(all: [(&str, SecretBytes); N]) -> Generated {
    Generated { values: all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(), lease: None }
}

/// Gives tokens for registries.
pub(crate) struct Ecr {
    identity: Identity,
    http: reqwest::Client,
    public: bool,
    region: String,
    url: Url,
}

/// The public registries' one region.
const PUBLIC_REGION: &str = "us-east-1";

pub(crate) async fn ecr(spec: EcrAuthorizationTokenSpec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Ecr> {
    let public = match spec.scope.as_deref() {
        None | Some("" | "private") => false,
        Some("public") => true,
        Some(_) => return Err(Error::invalid("spec.scope", "is neither private nor public")),
    };
    let identity = identity(spec.auth.as_ref(), spec.role.as_deref(), None, &spec.region, resolver, options).await?;
    let region = if public { PUBLIC_REGION.to_owned() } else { spec.region };
    let (name, host) = match public {
        true => ("ecr-public", format!("https://api.ecr-public.{region}.amazonaws.com/")),
        false => ("ecr", format!("https://api.ecr.{region}.{}/", wire::domain(&region))),
    };
    let url = options.endpoints.get(name).unwrap_or(host);
    let url = Url::parse(&url).map_err(|error| Error::invalid("spec.region", format!("makes no URL of ECR ({error})")))?;
    let http = http::client("spec", Tls { anywhere: true, ..Tls::default() }, options)?;
    Ok(Ecr { identity, http, public, region, url })
}

/// One token, as private registries answer it in a list and public ones by itself
/// (GetAuthorizationToken of both API references).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EcrToken {
    authorization_token: Zeroizing<String>,
    expires_at: f64,
    #[serde(default)]
    proxy_endpoint: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EcrTokens {
    One(EcrToken),
    Many(Vec<EcrToken>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EcrAnswer {
    authorization_data: EcrTokens,
}

#[derive(Deserialize, Default)]
struct EcrFailure {
    #[serde(default, rename = "__type")]
    code: String,
    #[serde(default, alias = "Message")]
    message: String,
}

#[async_trait]
impl Generator for Ecr {
    async fn generate(&self) -> Result<Generated> {
        let credentials = self.identity.credentials().await?;
        let (service, target) = match self.public {
            true => ("ecr-public", "SpencerFrontendService.GetAuthorizationToken"),
            false => ("ecr", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"),
        };
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
        let signed = signed::headers("spec.auth", credentials, Service(service, &self.region), &self.url, &headers, "{}")?;
        let mut request = self.http.post(self.url.clone()).body("{}");
        for (name, value) in signed.iter().filter(|(name, _)| name != "host") {
            request = request.header(name, value);
        }
        let what = "GetAuthorizationToken";
        let answer = request.send().await.map_err(|error| http::no_answer_of("AWS", "spec.region", what, error, &[]))?;
        let (status, after) = (answer.status(), http::retry_after(answer.headers()));
        let body = http::body(answer, "AWS", &[]).await?;
        if !status.is_success() {
            let failure: EcrFailure = serde_json::from_slice(&body).unwrap_or_default();
            let code = failure.code.rsplit('#').next().unwrap_or_default();
            return Err(wire::coded(what, &self.region, code, &failure.message, status.as_u16(), after));
        }
        let broken = || Error::unavailable("AWS answered GetAuthorizationToken with something else than a token");
        let answer: EcrAnswer = serde_json::from_slice(&body).map_err(|_| broken())?;
        let token = match answer.authorization_data {
            EcrTokens::One(token) => token,
            EcrTokens::Many(tokens) => tokens.into_iter().next().ok_or_else(broken)?,
        };
        let pair = Zeroizing::new(STANDARD.decode(token.authorization_token.as_bytes()).map_err(|_| broken())?);
        let (user, password) = std::str::from_utf8(&pair).ok().and_then(|text| text.split_once(':')).ok_or_else(broken)?;
        let endpoint = if self.public { "public.ecr.aws" } else { &token.proxy_endpoint };
        let end = SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(token.expires_at).map_err(|_| broken())?;
        Ok(values([
            ("username", user.into()),
            ("password", password.into()),
            ("proxy_endpoint", endpoint.into()),
            ("expires_at", unix(end)),
        ]))
    }
}

/// Gives sessions.
pub(crate) struct Sts {
    identity: Identity,
    client: aws_sdk_sts::Client,
    region: String,
    parameters: StsRequestParameters,
    /// A session of keys is asked for; everything else is one already, which AWS makes none of.
    of_keys: bool,
}

pub(crate) async fn sts(spec: StsSessionTokenSpec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Sts> {
    let parameters = spec.request_parameters.unwrap_or_default();
    let field = "spec.requestParameters";
    if parameters.session_duration.is_some_and(|s| !(900..=129_600).contains(&s)) {
        return Err(Error::invalid(format!("{field}.sessionDuration"), "must be 900 to 129600 seconds"));
    }
    let of_keys =
        spec.auth.as_ref().is_some_and(|auth| auth.secret_ref.is_some()) && spec.role.as_deref().is_none_or(str::is_empty);
    if !of_keys && (parameters.serial_number.is_some() || parameters.token_code.is_some()) {
        return Err(Error::invalid(field, "serialNumber and tokenCode are for access keys without a role"));
    }
    let life = parameters.session_duration;
    let identity = identity(spec.auth.as_ref(), spec.role.as_deref(), life, &spec.region, resolver, options).await?;
    let config = wire::config(&Carrier::new(options)?, &spec.region, options, None);
    let mut config = aws_sdk_sts::config::Builder::from(&config);
    config.set_endpoint_url(options.endpoints.get("sts"));
    let client = aws_sdk_sts::Client::from_conf(config.build());
    Ok(Sts { identity, client, region: spec.region, parameters, of_keys })
}

impl Sts {
    async fn session(&self) -> Result<Credentials> {
        if !self.of_keys {
            return self.identity.load().await;
        }
        let signer = SharedCredentialsProvider::new(self.identity.credentials().await?);
        let signed = aws_sdk_sts::config::Builder::new().credentials_provider(signer);
        let request = self
            .client
            .get_session_token()
            .set_duration_seconds(self.parameters.session_duration)
            .set_serial_number(self.parameters.serial_number.clone())
            .set_token_code(self.parameters.token_code.clone());
        let answer = request.customize().config_override(signed).send().await;
        let answer = answer.map_err(|error| wire::failure("GetSessionToken", &self.region, &error))?;
        super::identity::taken("GetSessionToken", answer.credentials)
    }
}

#[async_trait]
impl Generator for Sts {
    async fn generate(&self) -> Result<Generated> {
        let session = self.session().await?;
        let end = session.expiry().unwrap_or_else(SystemTime::now);
        Ok(values([
            ("access_key_id", session.access_key_id().into()),
            ("secret_access_key", session.secret_access_key().into()),
            ("session_token", session.session_token().unwrap_or_default().into()),
            ("expiration", unix(end)),
        ]))
    }
}
