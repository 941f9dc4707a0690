//! Workload identity federation: a token of another cluster or cloud, exchanged at Google's Security Token Service (RFC 8693;
//! <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>).
//!
//! A configuration is a tenant's text. Programs and files in it are refused: they would be the operator's.

use std::collections::BTreeMap;

use lockstep_crds::meta::{CaProvider, CaProviderType, ServiceAccountSelector};
use lockstep_crds::store::gcpsm::{ConfigMapKey, GcpAwsCredentials, GcpFederation};
use regex::Regex;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::identity::{
    ACCESS_TOKEN, ACCOUNT_ANNOTATION, Ask, Channel, EXCHANGE, First, Granted, SCOPE, TOKEN_LIFE, check_account,
};
use crate::http;
use crate::registry::Options;
use crate::{Error, Resolver, Result, SecretBytes};

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
#[cfg(feature = "aws")]
const AWS_REQUEST: &str = "urn:ietf:params:aws:token-type:aws4_request";
/// Where a cluster mounts its own token; configurations made for pods name it.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What is exchanged, where, and for whom.
pub(super) struct Federation {
    field: String,
    audience: String,
    /// `token_url` of the configuration; none: Google's.
    token_url: Option<Url>,
    subject_type: String,
    subject: Subject,
    client: Option<(String, Zeroizing<String>)>,
    account: Option<String>,
    life: Option<u64>,
}

enum Subject {
    /// A token of a Kubernetes service account.
    Account(ServiceAccountSelector),
    /// What a URL answers.
    Url { url: Url, headers: BTreeMap<String, String>, field: Option<String> },
    /// Who somebody is on AWS.
    #[cfg(feature = "aws")]
    Aws(std::sync::Arc<crate::aws::iam::Shown>),
}

/// An external_account configuration, as `gcloud iam workload-identity-pools create-cred-config` writes it (AIP-4117).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(rename = "type")]
    kind: String,
    audience: String,
    subject_token_type: String,
    token_url: String,
    client_id: String,
    client_secret: Zeroizing<String>,
    service_account_impersonation_url: String,
    service_account_impersonation: Impersonation,
    credential_source: CredentialSource,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Impersonation {
    token_lifetime_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CredentialSource {
    file: String,
    url: String,
    headers: BTreeMap<String, String>,
    executable: Option<Value>,
    environment_id: String,
    format: Format,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Format {
    #[serde(rename = "type")]
    kind: String,
    subject_token_field_name: String,
}

/// Reads what the spec refers to.
pub(super) async fn read(field: &str, spec: &GcpFederation, resolver: &dyn Resolver, options: &Options) -> Result<Federation> {
    let given = [spec.cred_config.is_some(), spec.service_account_ref.is_some(), spec.aws_security_credentials.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        let why = "must name exactly one of credConfig, serviceAccountRef and awsSecurityCredentials";
        return Err(Error::invalid(field, why));
    }
    let config = match &spec.cred_config {
        Some(reference) => read_config(&format!("{field}.credConfig"), reference, resolver).await?,
        None => Config::default(),
    };
    let audience = spec.audience.clone().filter(|a| !a.is_empty()).unwrap_or(config.audience.clone());
    if audience.is_empty() {
        let why =
            "is not set; write //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/NAME";
        return Err(Error::invalid(format!("{field}.audience"), why));
    }
    let subject = match (&spec.service_account_ref, &spec.aws_security_credentials) {
        (Some(account), _) => Subject::Account(account.clone()),
        (None, Some(aws)) => aws_keys(&format!("{field}.awsSecurityCredentials"), aws, &audience, resolver).await?,
        (None, None) => of_config(&format!("{field}.credConfig"), &config, spec, &audience, resolver, options).await?,
    };
    let subject_type = match &subject {
        #[cfg(feature = "aws")]
        Subject::Aws(_) => AWS_REQUEST.to_owned(),
        _ if config.subject_token_type.is_empty() => JWT.to_owned(),
        _ => config.subject_token_type.clone(),
    };
    let account = spec.gcp_service_account_email.clone().filter(|a| !a.is_empty());
    if let Some(account) = &account {
        check_account(&format!("{field}.gcpServiceAccountEmail"), account)?;
    }
    let in_config = format!("{field}.credConfig");
    let account = match account {
        Some(account) => Some(account),
        None => impersonated(&in_config, &config.service_account_impersonation_url)?,
    };
    Ok(Federation {
        field: field.to_owned(),
        audience,
        token_url: token_url(&in_config, &config.token_url)?,
        subject_type,
        subject,
        client: (!config.client_id.is_empty()).then(|| (config.client_id.clone(), config.client_secret.clone())),
        account,
        life: config.service_account_impersonation.token_lifetime_seconds.map(|seconds| seconds.clamp(600, 43_200)),
    })
}

async fn read_config(field: &str, reference: &ConfigMapKey, resolver: &dyn Resolver) -> Result<Config> {
    let document = CaProvider {
        type_: CaProviderType::ConfigMap,
        name: reference.name.clone(),
        key: Some(reference.key.clone()),
        namespace: reference.namespace.clone(),
    };
    let text = resolver.document(field, &document).await?;
    // Without the parser's words: it may hold a client's secret.
    let config: Config =
        serde_json::from_slice(&text).map_err(|_| Error::invalid(field, "holds no JSON of an external_account configuration"))?;
    if config.kind != "external_account" {
        let why =
            "is no configuration of type external_account; make one with gcloud iam workload-identity-pools create-cred-config";
        return Err(Error::invalid(field, why));
    }
    Ok(config)
}

/// Where the token goes. Google's library takes any `sts.` host, and so do manifests; the policy for tenants' URLs holds.
fn token_url(field: &str, text: &str) -> Result<Option<Url>> {
    if text.is_empty() || text == "https://sts.googleapis.com/v1/token" {
        return Ok(None);
    }
    let field = format!("{field}: token_url");
    let wrong = || Error::invalid(&field, "must be https://sts.googleapis.com/v1/token");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().is_some_and(|host| host.starts_with("sts."));
    if plain && host && url.scheme() == "https" && url.port().is_none() && url.path() == "/v1/token" {
        Ok(Some(url))
    } else {
        Err(wrong())
    }
}

/// The account of an impersonation URL. Only the account is taken from it, so it leads nowhere else.
fn impersonated(field: &str, url: &str) -> Result<Option<String>> {
    if url.is_empty() {
        return Ok(None);
    }
    let field = format!("{field}: service_account_impersonation_url");
    let form = r"^https://iamcredentials\.(?:[a-z0-9-]+\.)*googleapis\.com/v1/projects/[^/]+/serviceAccounts/([^/:]+):generateAccessToken$";
    let found = Regex::new(form).ok().and_then(|form| Some(form.captures(url)?[1].to_owned()));
    let account = found.ok_or_else(|| {
        Error::invalid(
            &field,
            "must be https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken",
        )
    })?;
    check_account(&field, &account)?;
    Ok(Some(account))
}

async fn of_config(
    field: &str,
    config: &Config,
    spec: &GcpFederation,
    audience: &str,
    resolver: &dyn Resolver,
    options: &Options,
) -> Result<Subject> {
    let source = &config.credential_source;
    if source.executable.is_some() {
        return Err(Error::invalid(
            field,
            "names a program (credential_source.executable), which is refused: it would run as the operator",
        ));
    }
    if source.file == MOUNTED {
        return Err(Error::invalid(
            field,
            "names the token of a pod, which would be the operator's; name the service account with serviceAccountRef instead, \
             and the audience and gcpServiceAccountEmail beside it",
        ));
    }
    if !source.file.is_empty() {
        return Err(Error::invalid(field, "names a file (credential_source.file), which is refused: it would be the operator's"));
    }
    if !source.environment_id.is_empty() {
        let theirs = spec.cred_config.as_ref().is_some_and(|config| config.namespace.is_none());
        if resolver.caller().cluster_store && theirs {
            let why = "names the operator's machine, and must then say its namespace: else whoever uses the store would write it";
            return Err(Error::invalid(field, why));
        }
        if token_url(field, &config.token_url)?.is_some() {
            let why = "names the operator's machine, whose identity is shown to https://sts.googleapis.com/v1/token only";
            return Err(Error::invalid(field, why));
        }
        return aws_machine(field, source, audience, resolver, options).await;
    }
    let endpoint = spec.external_token_endpoint.as_deref().unwrap_or_default();
    if source.url.is_empty() {
        return Err(Error::invalid(field, "has no credential_source.url, and no other source that is taken"));
    }
    if source.url != endpoint {
        let why = "credential_source.url must be the same as externalTokenEndpoint beside it";
        return Err(Error::invalid(field, why));
    }
    let url = source_url(&format!("{field}: credential_source.url"), &source.url, options)?;
    let name = (source.format.kind == "json").then(|| source.format.subject_token_field_name.clone());
    Ok(Subject::Url { url, headers: source.headers.clone(), field: name })
}

/// Where a token is got: unlike a base URL it may have a query.
fn source_url(field: &str, text: &str, options: &Options) -> Result<Url> {
    let wrong = || Error::invalid(field, "is no http or https URL without credentials");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.host_str().is_some();
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    options.egress.check_url(field, &url)?;
    Ok(url)
}

#[cfg(feature = "aws")]
async fn aws_keys(field: &str, spec: &GcpAwsCredentials, audience: &str, resolver: &dyn Resolver) -> Result<Subject> {
    let field = format!("{field}.awsCredentialsSecretRef");
    use lockstep_crds::meta::SecretKeySelector;
    let key = |key: &str| SecretKeySelector {
        name: Some(spec.aws_credentials_secret_ref.name.clone()),
        namespace: spec.aws_credentials_secret_ref.namespace.clone(),
        key: Some(key.into()),
    };
    let selector = SecretKeySelector { key: None, ..key("") };
    let there = resolver.secret_data(&field, &selector, None).await?;
    let read = |name: &str| match there.get(name) {
        Some(value) => http::header_token(&field, value),
        None => Err(Error::invalid(&field, format!("has no key {name}"))),
    };
    let session = match there.get("aws_session_token") {
        Some(token) if !token.is_empty() => Some(read("aws_session_token")?),
        _ => None,
    };
    let (id, secret) = (read("aws_access_key_id")?, read("aws_secret_access_key")?);
    let keys = (id.as_str(), secret.as_str(), session.as_ref().map(|s| s.as_str()));
    let shown = crate::aws::iam::Shown::with_keys(&field, keys, &spec.region, audience)?;
    Ok(Subject::Aws(std::sync::Arc::new(shown)))
}

#[cfg(feature = "aws")]
async fn aws_machine(
    field: &str,
    source: &CredentialSource,
    audience: &str,
    resolver: &dyn Resolver,
    options: &Options,
) -> Result<Subject> {
    if !source.environment_id.to_ascii_lowercase().starts_with("aws") {
        return Err(Error::invalid(field, "credential_source.environment_id is none that is known; only aws1 is"));
    }
    resolver.check_own_identity(field)?;
    crate::aws::iam::Shown::of_machine(field, audience, options).await.map(|shown| Subject::Aws(std::sync::Arc::new(shown)))
}

#[cfg(not(feature = "aws"))]
async fn aws_keys(field: &str, _: &GcpAwsCredentials, _: &str, _: &dyn Resolver) -> Result<Subject> {
    Err(Error::Unsupported(format!("{field}: this build has no AWS")))
}

#[cfg(not(feature = "aws"))]
async fn aws_machine(field: &str, _: &CredentialSource, _: &str, _: &dyn Resolver, _: &Options) -> Result<Subject> {
    Err(Error::Unsupported(format!("{field}: this build has no AWS")))
}

impl Federation {
    pub(super) async fn first(&self, channel: &Channel, resolver: &dyn Resolver) -> Result<First> {
        let (subject, annotated) = self.subject(channel, resolver).await?;
        let form = [
            ("grant_type", EXCHANGE),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token_type", &self.subject_type),
            ("subject_token", &subject),
            ("audience", &self.audience),
            ("scope", SCOPE),
        ];
        let ask = Ask {
            what: format!("the exchange of {} for {}", self.whose(), self.audience),
            secrets: vec![&subject],
            hint: "the pool's provider must know the token's issuer, allow its audience (serviceAccountRef.audiences, else audience) \
                   and admit who asks",
        };
        let mut request = match &self.token_url {
            Some(url) => channel.post_to(&format!("{}.credConfig: token_url", self.field), url.clone())?,
            None => channel.post("sts", "https://sts.googleapis.com", "v1/token")?,
        };
        if let Some((id, secret)) = &self.client {
            request = request.basic_auth(id, Some(secret.as_str()));
        }
        let granted: Granted = channel.ask(request.form(&form), &ask).await?;
        let account = self.account.clone().or(annotated);
        Ok(First { token: granted.taken(&ask.what)?, account, life: self.life })
    }

    fn whose(&self) -> String {
        match &self.subject {
            Subject::Account(account) => format!("a token of ServiceAccount {}", account.name),
            Subject::Url { url, .. } => format!("a token of {}", url.host_str().unwrap_or_default()),
            #[cfg(feature = "aws")]
            Subject::Aws(_) => "an AWS identity".into(),
        }
    }

    /// What is exchanged, and the Google account that an annotation names.
    async fn subject(&self, channel: &Channel, resolver: &dyn Resolver) -> Result<(Zeroizing<String>, Option<String>)> {
        match &self.subject {
            Subject::Account(account) => {
                let field = format!("{}.serviceAccountRef", self.field);
                let annotations = resolver.service_account_annotations(&field, account).await?;
                let annotated = annotations.get(ACCOUNT_ANNOTATION).cloned().filter(|a| !a.is_empty());
                if let Some(annotated) = &annotated {
                    check_account(&field, annotated)?;
                }
                // Google takes the pool's own name where nothing else is allowed; a token for the API server leaves nobody's house.
                let audiences = if account.audiences.is_empty() { vec![self.audience.clone()] } else { Vec::new() };
                let token = resolver.service_account_token(&field, account, &audiences, TOKEN_LIFE).await?;
                Ok((http::header_token(&field, &token)?, annotated))
            }
            Subject::Url { url, headers, field } => {
                let what = format!("{}.externalTokenEndpoint", self.field);
                let mut request = channel.guarded.get(url.clone());
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let response = request
                    .send()
                    .await
                    .map_err(|error| http::no_answer_of("the source of tokens", super::FIELD, &what, error, &[]))?;
                let (status, after) = (response.status(), http::retry_after(response.headers()));
                let body = http::body_up_to(1 << 16, response, &what, &[]).await?;
                let said = format!("{what} answered with status {status} instead of a token");
                match status.as_u16() {
                    200..300 => {}
                    429 => return Err(Error::Throttled { retry_after: after, message: said }),
                    500.. => return Err(Error::unavailable(said)),
                    _ => return Err(Error::Denied(said)),
                }
                let token = match field {
                    None => SecretBytes::new(body.to_vec()),
                    Some(name) => {
                        let found = serde_json::from_slice::<Value>(&body).ok();
                        let found = found.as_ref().and_then(|json| json[name].as_str());
                        SecretBytes::from(found.ok_or_else(|| Error::invalid(&what, format!("answered without a text {name}")))?)
                    }
                };
                Ok((http::header_token(&what, &token)?, None))
            }
            #[cfg(feature = "aws")]
            Subject::Aws(shown) => shown.subject_token().await.map(|token| (token, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::Fixed;

    #[test]
    fn a_token_goes_to_a_token_service_and_an_account_is_an_account() {
        assert_eq!(token_url("f", "https://sts.googleapis.com/v1/token").unwrap(), None);
        assert!(token_url("f", "https://sts.example.cloud/v1/token").unwrap().is_some());
        for bad in [
            "http://sts.googleapis.com/v1/token",
            "https://evil.example/v1/token",
            "https://sts.googleapis.com/v1/token?x=1",
            "https://sts.googleapis.com:444/v1/token",
            "https://a@sts.googleapis.com/v1/token",
            "https://sts.googleapis.com/v1/../token",
            "x",
        ] {
            assert!(token_url("f", bad).is_err(), "{bad}");
        }
        let url = |account: &str| {
            format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{account}:generateAccessToken")
        };
        let account = "reader@p.iam.gserviceaccount.com";
        assert_eq!(impersonated("f", &url(account)).unwrap().as_deref(), Some(account));
        for bad in [url("x"), url("a/b@p.iam.gserviceaccount.com"), url(account).replace("googleapis.com", "evil.com")] {
            assert!(impersonated("f", &bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn programs_and_files_of_a_configuration_are_refused() {
        let spec = GcpFederation {
            cred_config: Some(ConfigMapKey { name: "c".into(), key: "k".into(), namespace: None }),
            external_token_endpoint: Some("http://169.254.169.254/token?x=1".into()),
            ..GcpFederation::default()
        };
        for (source, needle) in [
            (r#"{"executable": {"command": "id"}}"#, "names a program"),
            (r#"{"file": "/etc/passwd"}"#, "names a file"),
            (r#"{"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"}"#, "serviceAccountRef"),
            (r#"{"url": "http://169.254.169.254/token?x=1"}"#, "--egress-allow"),
            (r#"{"url": "http://tokens.example/"}"#, "externalTokenEndpoint"),
            (
                r#"{"environment_id": "aws1"}, "token_url": "https://sts.evil.example/v1/token", "x": {}"#,
                "sts.googleapis.com/v1/token only",
            ),
            (r#"{}"#, "no credential_source.url"),
            (r#"{"environment_id": "gcp1"}"#, "only aws1 is"),
        ] {
            let config = format!(r#"{{"type": "external_account", "audience": "a", "credential_source": {source}}}"#);
            let error = read("f", &spec, &Fixed(config), &Options::default()).await.err().expect("refused").to_string();
            assert!(error.contains(needle), "{source}: {error}");
        }
        let other =
            read("f", &spec, &Fixed(r#"{"type": "service_account", "private_key": "CANARY"}"#.into()), &Options::default()).await;
        let error = other.err().expect("refused").to_string();
        assert!(error.contains("external_account") && !error.contains("CANARY"), "{error}");
        let none = read("f", &GcpFederation::default(), &Fixed(String::new()), &Options::default()).await.err().expect("refused");
        assert!(none.to_string().contains("exactly one of"), "{none}");
    }
}
