//! Who somebody is on AWS, for others to ask: a signed request to STS that is handed over instead of being sent. Vault's AWS
//! method and Google's token service send it, and believe the answer.

use std::sync::Arc;

#[cfg(feature = "gcp")]
use aws_config::meta::region::RegionProviderChain;
use aws_credential_types::Credentials;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lockstep_crds::store::aws::AwsAuth;
use lockstep_crds::store::vault::VaultIamAuth;
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::identity::{Auth, Identity, Role};
use super::signed::{Service, headers as signed};
use super::wire::{self, Carrier};
use crate::registry::Options;
use crate::{Error, Resolver, Result};

/// The region of STS' global endpoint, which Vault asks unless it is told otherwise.
const GLOBAL: &str = "us-east-1";
const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// An identity that Vault can be shown.
#[cfg(feature = "vault")]
pub(crate) struct CallerIdentity {
    field: String,
    identity: Identity,
    region: String,
    url: Url,
    server_id: Option<String>,
}

#[cfg(feature = "vault")]
impl CallerIdentity {
    /// From `auth.iam` of a Vault store, which stands at `field`.
    pub(crate) async fn new(field: String, spec: &VaultIamAuth, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        let region = spec.region.clone().filter(|r| !r.is_empty()).unwrap_or_else(|| GLOBAL.to_owned());
        wire::check_region(&format!("{field}.region"), &region)?;
        let host = match region.as_str() {
            GLOBAL => "https://sts.amazonaws.com/".to_owned(),
            other => format!("https://sts.{other}.{}/", wire::domain(other)),
        };
        let url = options.endpoints.get("sts").unwrap_or(host);
        let url = Url::parse(&url).map_err(|error| Error::invalid(&field, format!("the endpoint of STS is no URL ({error})")))?;
        let role = |arn: &String| Role { arn: arn.clone(), external_id: spec.external_id.clone(), ..Role::default() };
        let roles = spec.role.iter().filter(|arn| !arn.is_empty()).map(role).collect();
        let auth = (spec.secret_ref.is_some() || spec.jwt.is_some())
            .then(|| AwsAuth { secret_ref: spec.secret_ref.clone(), jwt: spec.jwt.clone() });
        let auth =
            Auth { field: field.clone(), role_field: format!("{field}.role"), auth: auth.as_ref(), roles, region: &region };
        let identity = Identity::new(auth, resolver, &Carrier::new(options)?, options).await?;
        Ok(Self { identity, region, url, server_id: spec.vault_aws_iam_server_id.clone(), field })
    }

    /// The body of a login with Vault's AWS method (API documentation of auth/aws: Login, type iam).
    pub(crate) async fn login(&self, role: &str) -> Result<Value> {
        let credentials = self.identity.credentials().await?;
        let mut headers = vec![("content-type", CONTENT_TYPE)];
        headers.extend(self.server_id.as_deref().map(|id| ("x-vault-aws-iam-server-id", id)));
        let all = signed(&self.field, credentials, Service("sts", &self.region), &self.url, &headers, BODY)?;
        let all: Map<String, Value> = all.into_iter().map(|(name, value)| (name, json!([value]))).collect();
        Ok(json!({
            "role": role,
            "iam_http_request_method": "POST",
            "iam_request_url": STANDARD.encode(self.url.as_str()),
            "iam_request_body": STANDARD.encode(BODY),
            "iam_request_headers": STANDARD.encode(Value::Object(all).to_string()),
        }))
    }
}

/// Who somebody is on AWS, as Google's token service wants it shown: a signed request in JSON, escaped like a URL
/// (<https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>, `subjectToken`).
#[cfg(feature = "gcp")]
pub(crate) struct Shown {
    field: String,
    who: Who,
    region: String,
    audience: String,
}

#[cfg(feature = "gcp")]
enum Who {
    Keys(Credentials),
    Machine(Box<aws_config::default_provider::credentials::DefaultCredentialsChain>),
}

#[cfg(feature = "gcp")]
impl Shown {
    /// By access keys, which stand at `field`.
    pub(crate) fn with_keys(
        field: &str,
        (id, secret, session): (&str, &str, Option<&str>),
        region: &str,
        audience: &str,
    ) -> Result<Self> {
        wire::check_region(field, region)?;
        let who = Who::Keys(Credentials::new(id, secret, session.map(str::to_owned), None, "lockstep"));
        Ok(Self { field: field.to_owned(), who, region: region.to_owned(), audience: audience.to_owned() })
    }

    /// By the operator's own machine.
    pub(crate) async fn of_machine(field: &str, audience: &str, options: &Options) -> Result<Self> {
        let carrier = Carrier::new(options)?;
        let config = super::identity::own_config(&carrier, None);
        let machine = aws_config::imds::region::ImdsRegionProvider::builder().configure(&config).build();
        let named = aws_config::environment::region::EnvironmentVariableRegionProvider::new();
        let region = RegionProviderChain::first_try(named).or_else(machine).region().await;
        let region = region.ok_or_else(|| Error::invalid(field, "the operator's own machine says no AWS region"))?.to_string();
        wire::check_region(field, &region)?;
        let who = Who::Machine(Box::new(super::identity::own_chain(&carrier, &region).await));
        Ok(Self { field: field.to_owned(), who, region, audience: audience.to_owned() })
    }

    /// The token to exchange.
    pub(crate) async fn subject_token(&self) -> Result<zeroize::Zeroizing<String>> {
        use aws_credential_types::provider::ProvideCredentials;
        let credentials = match &self.who {
            Who::Keys(credentials) => credentials.clone(),
            Who::Machine(chain) => {
                chain.provide_credentials().await.map_err(|error| super::identity::own_failure(&self.field, &error))?
            }
        };
        let text = format!("https://sts.{}.amazonaws.com?{BODY}", self.region);
        let url = Url::parse(&text).map_err(|_| Error::invalid(&self.field, "makes no URL of STS"))?;
        let headers = [("x-goog-cloud-target-resource", self.audience.as_str())];
        let headers = signed(&self.field, credentials, Service("sts", &self.region), &url, &headers, "")?;
        let headers: Vec<Value> = headers.into_iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        let token = json!({"url": text, "method": "POST", "headers": headers}).to_string();
        Ok(zeroize::Zeroizing::new(url::form_urlencoded::byte_serialize(token.as_bytes()).collect()))
    }
}
