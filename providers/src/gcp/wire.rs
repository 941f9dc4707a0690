//! Google's SDK over the HTTP client of this crate, and what Google's failures mean.
//!
//! The SDK's own transport follows redirects, reads proxies and authorities from the environment and logs payloads when a
//! variable says so; its client takes another one, which is this.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_gax::error::Error as SdkError;
use google_cloud_gax::options::RequestOptions;
use google_cloud_gax::response::Response;
use google_cloud_secretmanager_v1::model;
use google_cloud_secretmanager_v1::stub::SecretManagerService;
use reqwest::{Client, Method, Url};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::FIELD;
use super::identity::{Identity, Token};
use crate::egress::Egress;
use crate::error::foreign_text;
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Result};

/// A failure of Google, and by which code.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Failure {
    /// What it means.
    pub(super) error: Error,
    /// `status` of Google's error model, such as FAILED_PRECONDITION; empty where there is none.
    pub(super) code: String,
    /// The state of a version that is off: DISABLED or DESTROYED. Google has no code of its own for that.
    pub(super) off: Option<&'static str>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, code: String::new(), off: None }
    }
}

impl Failure {
    /// Takes a failure out of the SDK's envelope.
    pub(super) fn of(error: &SdkError) -> Self {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return failure.clone();
            }
            next = error.source();
        }
        Self::from(Error::invalid("remoteRef.key", "makes no request to Secret Manager"))
    }
}

/// Carries the SDK's requests.
pub(super) struct Wire {
    http: Client,
    base: Url,
    identity: Arc<Identity>,
    options: Options,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// One request, such as `GET v1/projects/p/secrets/app`.
struct Call<'a> {
    what: String,
    method: Method,
    path: String,
    query: Vec<(&'static str, &'a str)>,
    body: Option<Result<Vec<u8>>>,
    /// The field of the answer that is a list, and is left out where there is nothing.
    list: Option<&'static str>,
}

impl<'a> Call<'a> {
    fn new(operation: &str, method: Method, resource: &str, ending: &str) -> Self {
        let what = format!("{operation} of {resource}");
        Self { what, method, path: format!("v1/{resource}{ending}"), query: Vec::new(), body: None, list: None }
    }

    fn query(mut self, name: &'static str, value: &'a str) -> Self {
        if !value.is_empty() {
            self.query.push((name, value));
        }
        self
    }

    fn list(mut self, field: &'static str) -> Self {
        self.list = Some(field);
        self
    }

    fn body(mut self, body: &impl Serialize) -> Self {
        // The words of a serializer could quote what it does not like.
        let broken = |_| Error::invalid("remoteRef", "makes no request to Secret Manager");
        self.body = Some(serde_json::to_vec(body).map_err(broken));
        self
    }
}

impl Wire {
    /// Makes sure that Secret Manager is where it should be.
    pub(super) async fn reach(&self) -> Result<()> {
        let port = self.base.port_or_known_default().unwrap_or(443);
        http::reach(FIELD, self.base.host_str().unwrap_or_default(), port, &self.options).await
    }

    /// No tenant gives an address of Google: it follows from the location, or from the operator's environment.
    pub(super) fn new(identity: Arc<Identity>, location: Option<&str>, options: &Options) -> Result<Self> {
        let host = match location {
            Some(location) => format!("https://secretmanager.{location}.rep.googleapis.com"),
            None => "https://secretmanager.googleapis.com".into(),
        };
        let base = endpoint(options, "secretmanager", &host)?;
        // No tenant gave the address, so no policy about tenants' addresses is asked.
        let options = Options { egress: Arc::new(Egress::everywhere()), ..options.clone() };
        Ok(Self { http: http::client(FIELD, Tls { anywhere: true, ..Tls::default() }, &options)?, base, identity, options })
    }

    async fn carry<T: DeserializeOwned>(&self, call: Call<'_>) -> std::result::Result<Response<T>, SdkError> {
        // Boxed: the SDK wraps it a few times, and each layer would hold the whole of it.
        Box::pin(self.answer(&call)).await.map(Response::from).map_err(SdkError::io)
    }

    /// Sends a request; once more with another token when Google says that the one it was sent with has ended.
    async fn answer<T: DeserializeOwned>(&self, call: &Call<'_>) -> std::result::Result<T, Failure> {
        let token = self.identity.token().await?;
        match self.send(call, &token).await {
            Err(failure) if failure.code == "UNAUTHENTICATED" => match self.identity.renewed(&token).await? {
                Some(other) => self.send(call, &other).await,
                None => Err(failure),
            },
            answered => answered,
        }
    }

    async fn send<T: DeserializeOwned>(&self, call: &Call<'_>, token: &Token) -> std::result::Result<T, Failure> {
        let url = self.base.join(&call.path).map_err(|_| Error::invalid("remoteRef.key", "makes no path of Secret Manager"))?;
        if url.path() != format!("{}{}", self.base.path(), call.path) {
            return Err(Error::invalid("remoteRef.key", "makes another path of Secret Manager than its own").into());
        }
        let mut request = self.http.request(call.method.clone(), url).query(&call.query).query(&[("$alt", "json")]);
        request = request.header("authorization", token.header());
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json").body(body.clone()?);
        }
        let secrets = [token.text()];
        let response = request.send().await.map_err(|error| http::no_answer_of("Google", FIELD, &call.what, error, &secrets))?;
        let (status, after) = (response.status().as_u16(), http::retry_after(response.headers()));
        let body = http::body(response, &format!("Google at {}", call.what), &secrets).await?;
        if !(200..300).contains(&status) {
            return Err(failure(&call.what, status, after, &body, &secrets));
        }
        // Without the parser's words, which may quote the answer.
        let broken =
            || Failure::from(Error::unavailable(format!("Google answered {} with something else than Google does", call.what)));
        if let Some(list) = call.list {
            // Unknown fields are passed over: an answer of somebody else would be a list of nothing.
            let page: BTreeMap<String, IgnoredAny> = serde_json::from_slice(&body).map_err(|_| broken())?;
            let is_page = |field: &String| field == list || field == "totalSize" || field == "nextPageToken";
            if !page.is_empty() && !page.keys().any(is_page) {
                return Err(broken());
            }
        }
        serde_json::from_slice(&body).map_err(|_| broken())
    }
}

/// Where a service of Google is: where the operator's environment says, else where it always is.
pub(super) fn endpoint(options: &Options, service: &str, default: &str) -> Result<Url> {
    let text = options.endpoints.get(&format!("gcp/{service}")).unwrap_or_else(|| default.to_owned());
    let text = format!("{}/", text.trim_end_matches('/'));
    Url::parse(&text).map_err(|error| Error::invalid(FIELD, format!("the endpoint of {service} is no URL ({error})")))
}

/// Google's error model (AIP-193).
#[derive(Deserialize)]
struct Body {
    error: Said,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Said {
    message: String,
    status: String,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    reason: String,
    retry_delay: String,
}

/// What an answer that is no success means. Only Google's own error model says anything with authority.
pub(super) fn failure(what: &str, status: u16, after: Option<Duration>, body: &[u8], secrets: &[&str]) -> Failure {
    let Ok(Body { error: said }) = serde_json::from_slice::<Body>(body) else {
        let message = format!("Google answered {what} with status {status} and not as Google does");
        let error = match status {
            429 => Error::Throttled { retry_after: after, message },
            401 => Error::Denied(message),
            403 => Error::Denied(format!("{message}; is there a proxy or a firewall before it?")),
            _ => Error::unavailable(message),
        };
        return error.into();
    };
    let words = foreign_text(&said.message, secrets);
    let named = if said.status.is_empty() { format!("status {status}") } else { said.status.clone() };
    let reason = said.details.iter().map(|d| d.reason.as_str()).find(|r| !r.is_empty()).unwrap_or_default();
    let named = if reason.is_empty() { named } else { format!("{named}, {}", foreign_text(reason, secrets)) };
    let heard = if words.is_empty() { named } else { format!("{named}: {words}") };
    let delay = || said.details.iter().find_map(|d| d.retry_delay.strip_suffix('s')?.parse::<f64>().ok());
    let after = after.or_else(|| Duration::try_from_secs_f64(delay()?.clamp(0.0, 300.0)).ok());
    let denied = |hint: &str| Error::Denied(format!("Google refuses {what} ({heard}); {hint}"));
    let error = match said.status.as_str() {
        "NOT_FOUND" if words.starts_with("Project") => {
            Error::invalid(format!("{FIELD}.projectID"), format!("Google knows no such project ({heard})"))
        }
        "NOT_FOUND" => Error::NotFound(format!("Google has nothing for {what} ({heard})")),
        "PERMISSION_DENIED" if reason == "SERVICE_DISABLED" => denied("enable the Secret Manager API in the project"),
        "PERMISSION_DENIED" => denied("the identity must have the permission, such as by roles/secretmanager.secretAccessor"),
        "UNAUTHENTICATED" => denied("the identity's token is not taken"),
        "RESOURCE_EXHAUSTED" => Error::Throttled { retry_after: after, message: format!("Google at {what} ({heard})") },
        "FAILED_PRECONDITION" => Error::invalid("remoteRef.version", format!("Google can't do {what} ({heard})")),
        "INVALID_ARGUMENT" | "OUT_OF_RANGE" | "ALREADY_EXISTS" => {
            Error::invalid("remoteRef", format!("Google does not take {what} ({heard})"))
        }
        "UNIMPLEMENTED" => Error::invalid(FIELD, format!("Google does not know {what} ({heard})")),
        _ if status == 429 => Error::Throttled { retry_after: after, message: format!("Google at {what} ({heard})") },
        _ => Error::unavailable(format!("Google failed at {what} ({heard})")),
    };
    let is_in = |state: &&&str| said.status == "FAILED_PRECONDITION" && said.message.contains(&format!("{state} state"));
    let off = ["DISABLED", "DESTROYED"].iter().find(is_in).copied();
    Failure { error, code: said.status, off }
}

type Answer<T> = std::result::Result<Response<T>, SdkError>;

/// A page's size, as text for a query; the server decides where it is not set.
fn size(page: i32) -> String {
    if page > 0 { page.to_string() } else { String::new() }
}

/// Paths and methods as the reference of the REST API has them.
impl SecretManagerService for Wire {
    async fn access_secret_version(
        &self,
        request: model::AccessSecretVersionRequest,
        _: RequestOptions,
    ) -> Answer<model::AccessSecretVersionResponse> {
        self.carry(Call::new("AccessSecretVersion", Method::GET, &request.name, ":access")).await
    }

    async fn get_secret(&self, request: model::GetSecretRequest, _: RequestOptions) -> Answer<model::Secret> {
        self.carry(Call::new("GetSecret", Method::GET, &request.name, "")).await
    }

    async fn list_secrets(&self, request: model::ListSecretsRequest, _: RequestOptions) -> Answer<model::ListSecretsResponse> {
        let size = size(request.page_size);
        let call = Call::new("ListSecrets", Method::GET, &request.parent, "/secrets")
            .query("pageSize", &size)
            .query("pageToken", &request.page_token)
            .query("filter", &request.filter)
            .list("secrets");
        self.carry(call).await
    }

    async fn list_secret_versions(
        &self,
        request: model::ListSecretVersionsRequest,
        _: RequestOptions,
    ) -> Answer<model::ListSecretVersionsResponse> {
        let size = size(request.page_size);
        let call = Call::new("ListSecretVersions", Method::GET, &request.parent, "/versions")
            .query("pageSize", &size)
            .query("pageToken", &request.page_token)
            .query("filter", &request.filter)
            .list("versions");
        self.carry(call).await
    }

    async fn create_secret(&self, request: model::CreateSecretRequest, _: RequestOptions) -> Answer<model::Secret> {
        let mut call = Call::new("CreateSecret", Method::POST, &request.parent, "/secrets").query("secretId", &request.secret_id);
        call.what = format!("CreateSecret of {}/secrets/{}", request.parent, request.secret_id);
        self.carry(call.body(&request.secret)).await
    }

    async fn add_secret_version(
        &self,
        request: model::AddSecretVersionRequest,
        _: RequestOptions,
    ) -> Answer<model::SecretVersion> {
        let body = serde_json::json!({"payload": request.payload});
        self.carry(Call::new("AddSecretVersion", Method::POST, &request.parent, ":addVersion").body(&body)).await
    }

    async fn update_secret(&self, request: model::UpdateSecretRequest, _: RequestOptions) -> Answer<model::Secret> {
        let name = request.secret.as_ref().map(|s| s.name.clone()).unwrap_or_default();
        let mask = request.update_mask.map(|mask| mask.paths.join(",")).unwrap_or_default();
        let call = Call::new("UpdateSecret", Method::PATCH, &name, "").query("updateMask", &mask);
        self.carry(call.body(&request.secret)).await
    }

    async fn delete_secret(&self, request: model::DeleteSecretRequest, _: RequestOptions) -> Answer<()> {
        let call = Call::new("DeleteSecret", Method::DELETE, &request.name, "").query("etag", &request.etag);
        let answer: Answer<serde::de::IgnoredAny> = self.carry(call).await;
        answer.map(|_| Response::from(()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: u16, code: &str, message: &str, details: serde_json::Value) -> Error {
        let body = json!({"error": {"code": status, "status": code, "message": message, "details": details}}).to_string();
        failure("AccessSecretVersion of projects/p/secrets/s", status, None, body.as_bytes(), &["CANARY"]).error
    }

    #[test]
    fn codes_tell_what_a_failure_means() {
        assert!(matches!(of(404, "NOT_FOUND", "Secret [x] not found or has no versions.", json!([])), Error::NotFound(_)));
        assert!(
            matches!(of(404, "NOT_FOUND", "Project 'x' not found or deleted.", json!([])), Error::Invalid { field, .. } if field.ends_with("projectID"))
        );
        assert!(matches!(of(403, "PERMISSION_DENIED", "no", json!([])), Error::Denied(why) if why.contains("secretAccessor")));
        let disabled = json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]);
        assert!(
            matches!(of(403, "PERMISSION_DENIED", "no", disabled), Error::Denied(why) if why.contains("enable the Secret Manager API"))
        );
        assert!(matches!(of(401, "UNAUTHENTICATED", "", json!([])), Error::Denied(_)));
        assert!(
            matches!(of(400, "FAILED_PRECONDITION", "is in DISABLED state", json!([])), Error::Invalid { field, .. } if field == "remoteRef.version")
        );
        let delay = json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]);
        assert!(
            matches!(of(429, "RESOURCE_EXHAUSTED", "", delay), Error::Throttled { retry_after: Some(d), .. } if d == Duration::from_millis(7500))
        );
        assert!(matches!(of(429, "RESOURCE_EXHAUSTED", "", json!([{"retryDelay": "1e999s"}])), Error::Throttled { .. }));
        assert!(matches!(of(503, "UNAVAILABLE", "", json!([])), Error::Unavailable { .. }));
        assert!(matches!(of(500, "NEVER_HEARD_OF", "", json!([])), Error::Unavailable { .. }));
        assert!(!of(403, "PERMISSION_DENIED", "your token CANARY is bad", json!([])).to_string().contains("CANARY"));
    }

    #[test]
    fn an_answer_that_is_not_googles_says_nothing_about_a_secret() {
        for (status, body) in [(404, "<html>not found</html>"), (404, ""), (502, "{}"), (404, "{\"error\": \"not_found\"}")] {
            let error = failure("x", status, None, body.as_bytes(), &[]).error;
            assert!(matches!(error, Error::Unavailable { .. }), "{status} {body}: {error}");
        }
        assert!(matches!(
            failure("x", 429, Some(Duration::from_secs(3)), b"", &[]).error,
            Error::Throttled { retry_after: Some(_), .. }
        ));
    }
}
