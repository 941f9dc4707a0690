//! Who somebody is on AWS, for others to ask: a signed request to STS that is handed over instead of being sent. Vault's AWS
//! method sends it, and believes the answer.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lockstep_crds::store::aws::AwsAuth;
use lockstep_crds::store::vault::VaultIamAuth;
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::identity::{Auth, Identity, Role};
use super::wire::{self, Carrier};
use crate::registry::Options;
use crate::{Error, Resolver, Result};

/// The region of STS' global endpoint, which Vault asks unless it is told otherwise.
const GLOBAL: &str = "us-east-1";
const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// An identity that can be shown.
pub(crate) struct CallerIdentity {
    field: String,
    identity: Identity,
    region: String,
    url: Url,
    server_id: Option<String>,
}

impl CallerIdentity {
    /// From `auth.iam` of a Vault store, which stands at `field`.
    pub(crate) async fn new(field: String, spec: &VaultIamAuth, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        let region = spec.region.clone().filter(|r| !r.is_empty()).unwrap_or_else(|| GLOBAL.to_owned());
        wire::check_region(&format!("{field}.region"), &region)?;
        let host = match region.as_str() {
            GLOBAL => "https://sts.amazonaws.com/".to_owned(),
            china if china.starts_with("cn-") => format!("https://sts.{china}.amazonaws.com.cn/"),
            other => format!("https://sts.{other}.amazonaws.com/"),
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
        let broken = |why: String| Error::invalid(&self.field, format!("makes no signed request ({why})"));
        let signer = self.identity.credentials().await?.into();
        let params = SigningParams::builder()
            .identity(&signer)
            .region(&self.region)
            .name("sts")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| broken(error.to_string()))?
            .into();
        let host = self.url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        let mut headers = vec![("host", host.as_str()), ("content-type", CONTENT_TYPE)];
        headers.extend(self.server_id.as_deref().map(|id| ("x-vault-aws-iam-server-id", id)));
        let body = SignableBody::Bytes(BODY.as_bytes());
        let request = SignableRequest::new("POST", self.url.as_str(), headers.iter().copied(), body)
            .map_err(|error| broken(error.to_string()))?;
        let (instructions, _) = sign(request, &params).map_err(|error| broken(error.to_string()))?.into_parts();
        let all = headers.iter().copied().chain(instructions.headers());
        let all: Map<String, Value> = all.map(|(name, value)| (name.to_owned(), json!([value]))).collect();
        Ok(json!({
            "role": role,
            "iam_http_request_method": "POST",
            "iam_request_url": STANDARD.encode(self.url.as_str()),
            "iam_request_body": STANDARD.encode(BODY),
            "iam_request_headers": STANDARD.encode(Value::Object(all).to_string()),
        }))
    }
}
