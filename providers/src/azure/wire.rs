//! Azure's SDK over the HTTP client of this crate, and what Azure's failures mean.
//!
//! Failures are read here, where status and body are at hand: the SDK's own errors lose both where a message holds a line
//! break, as those of Entra ID do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, Body, ClientOptions, HttpClient, Request, RetryOptions, Transport};
use reqwest::{Client, Method, Url};
use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::FIELD;
use crate::error::foreign_text;
use crate::http;
use crate::{Error, Result};

/// What a carrier speaks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A vault.
    Vault,
    /// Entra ID, asked for what this says.
    Entra(String),
    /// The metadata service of the operator's own machine.
    Machine,
}

/// Carries the SDK's requests, to one host.
pub(super) struct Carrier {
    http: Client,
    /// Where requests may go; none: wherever the SDK has it.
    origin: Option<Url>,
    /// Where they go instead.
    instead: Option<Url>,
    peer: Peer,
    /// What no message may repeat.
    secrets: Vec<Zeroizing<String>>,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "value")]
    _value: Vec<IgnoredAny>,
}

impl Carrier {
    pub(super) fn new(http: Client, origin: Option<Url>, instead: Option<Url>, peer: Peer) -> Self {
        Self { http, origin, instead, peer, secrets: Vec::new() }
    }

    /// The same, and no message repeats these.
    pub(super) fn hiding(self, secrets: Vec<Zeroizing<String>>) -> Self {
        Self { secrets, ..self }
    }

    /// Options for a client of the SDK. Tries again are the reader's: it knows who else waits.
    pub(super) fn options(self) -> ClientOptions {
        ClientOptions { retry: RetryOptions::none(), transport: Some(Transport::new(Arc::new(self))), ..ClientOptions::default() }
    }

    async fn carry(&self, request: &Request) -> Result<AsyncRawResponse> {
        let mut url = request.url().clone();
        let what = match &self.peer {
            Peer::Vault => format!("{} {}", request.method().as_str(), url.path()),
            Peer::Entra(what) => what.clone(),
            Peer::Machine => "a token of the operator's own machine".into(),
        };
        if let Some(origin) = &self.origin
            && origin.origin() != url.origin()
        {
            return Err(Error::unavailable(format!("Azure leads {what} to another host, which gets no token of ours")));
        }
        if let Some(instead) = &self.instead {
            let moved = url.set_scheme(instead.scheme()).is_ok()
                && url.set_host(instead.host_str()).is_ok()
                && url.set_port(instead.port()).is_ok();
            if !moved {
                return Err(Error::invalid(FIELD, "the operator's endpoint of Azure is no URL"));
            }
        }
        let mut secrets: Vec<Zeroizing<String>> = self.secrets.clone();
        let method = Method::from_bytes(request.method().as_str().as_bytes()).unwrap_or(Method::GET);
        let mut sent = self.http.request(method, url);
        for (name, value) in request.headers().iter() {
            if name.as_str() == "authorization" {
                secrets.extend(value.as_str().strip_prefix("Bearer ").map(|token| Zeroizing::new(token.to_owned())));
            }
            sent = sent.header(name.as_str(), value.as_str());
        }
        if let Body::Bytes(bytes) = request.body() {
            sent = sent.body(bytes.clone());
        }
        let secrets: Vec<&str> = secrets.iter().map(|s| s.as_str()).collect();
        let response = sent.send().await.map_err(|error| http::no_answer_of("Azure", FIELD, &what, error, &secrets))?;
        let (status, mut headers) = (response.status().as_u16(), Headers::new());
        for (name, value) in response.headers() {
            if let Ok(value) = value.to_str() {
                headers.insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        let after = http::retry_after(response.headers());
        let body = http::body(response, &format!("Azure at {what}"), &secrets).await?;
        // The SDK answers a vault's challenge itself.
        if status >= 400 && !(status == 401 && self.peer == Peer::Vault) {
            return Err(match &self.peer {
                Peer::Vault => failure(&what, status, after, &body, &secrets),
                Peer::Entra(_) | Peer::Machine => refused(&self.peer, &what, status, after, &body, &secrets),
            });
        }
        // To the SDK an answer without a list is a list of nothing.
        let lists = self.peer == Peer::Vault && request.method().as_str() == "GET" && request.url().path() == "/secrets";
        if lists && status == 200 && serde_json::from_slice::<Page>(&body).is_err() {
            return Err(Error::unavailable(format!("Azure's answer to {what} holds no list")));
        }
        Ok(AsyncRawResponse::from_bytes(status.into(), headers, body.to_vec()))
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}

#[async_trait]
impl HttpClient for Carrier {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        self.carry(request).await.map_err(wrapped)
    }
}

/// Puts an error into the SDK's envelope; this kind is not tried again.
pub(super) fn wrapped(error: Error) -> azure_core::Error {
    azure_core::Error::new(ErrorKind::Other, error)
}

/// What a failed call means, whatever the SDK put around it. `what` is what was asked for.
pub(super) fn meaning(what: &str, error: &azure_core::Error) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return found.clone();
        }
        next = error.source();
    }
    match error.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => {
            let body: &[u8] = raw_response.as_ref().map(|r| r.body().as_ref()).unwrap_or_default();
            failure(what, u16::from(*status), None, body, &[])
        }
        ErrorKind::DataConversion => Error::unavailable(format!("Azure answered {what} with something else than Azure does")),
        _ => {
            let said = foreign_text(&error.to_string(), &[]);
            if said.contains("challenge resource") {
                let why = format!("does not ask for tokens of the vault that it should be ({said})");
                return Error::invalid(format!("{FIELD}.vaultUrl"), why);
            }
            Error::unavailable(format!("Azure at {what} ({said})"))
        }
    }
}

/// Key Vault's errors (<https://learn.microsoft.com/azure/key-vault/general/rest-error-codes>).
#[derive(Deserialize)]
struct Body_ {
    error: Said,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    code: String,
    message: String,
    #[serde(alias = "innerError")]
    innererror: Option<Inner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Inner {
    code: String,
}

/// Where it says that a name is that of a deleted object, and nothing else does.
pub(super) const DELETED: &str = "remoteRef.remoteKey (deleted)";

/// What a vault's answer means. Only Key Vault's own errors say anything with authority.
pub(super) fn failure(what: &str, status: u16, after: Option<Duration>, body: &[u8], secrets: &[&str]) -> Error {
    let Ok(Body_ { error: said }) = serde_json::from_slice::<Body_>(body) else {
        let message = format!("Azure answered {what} with status {status} and not as Key Vault does");
        return match status {
            429 => Error::Throttled { retry_after: after, message },
            401 | 403 => Error::Denied(message),
            _ => Error::unavailable(message),
        };
    };
    let inner = said.innererror.map(|i| i.code).unwrap_or_default();
    let words = foreign_text(&said.message, secrets);
    let codes: Vec<&str> = [said.code.as_str(), inner.as_str()].into_iter().filter(|c| !c.is_empty()).collect();
    let codes = foreign_text(&codes.join("/"), secrets);
    let heard = if words.is_empty() { format!("{status} {codes}") } else { format!("{codes}: {words}") };
    let denied = |hint: &str| Error::Denied(format!("Azure refuses {what} ({heard}); {hint}"));
    match (status, inner.as_str()) {
        (_, "SecretDisabled" | "KeyDisabled" | "CertificateDisabled") => {
            Error::invalid("remoteRef.key", format!("is disabled in the vault: {what} ({heard})"))
        }
        (404, _) if ["SecretNotFound", "KeyNotFound", "CertificateNotFound"].contains(&said.code.as_str()) => {
            Error::NotFound(format!("Azure has nothing at {what} ({heard})"))
        }
        (404, _) => Error::unavailable(format!("Azure answered {what} with status 404 and not as Key Vault does ({heard})")),
        (401, _) => denied("the identity's token is not taken: is tenantId the vault's?"),
        (403, "ForbiddenByFirewall" | "ForbiddenByConnection") => denied("the vault's network rules must admit the operator"),
        (403, _) => denied("the identity needs a role on the vault, such as Key Vault Secrets User, or an access policy"),
        (409, "ObjectIsDeletedButRecoverable") => Error::invalid(
            DELETED,
            format!("was deleted and can be recovered, and its name can't be used until it is purged: {what} ({heard})"),
        ),
        (409, _) => Error::unavailable(format!("Azure is at work on it: {what} ({heard})")),
        (429, _) => Error::Throttled { retry_after: after, message: format!("Azure at {what} ({heard})") },
        (400..=407 | 410..500, _) => Error::invalid("remoteRef", format!("Azure does not take {what} ({heard})")),
        _ => Error::unavailable(format!("Azure failed at {what} ({heard})")),
    }
}

/// Entra ID's errors, and those of the metadata service, which have the same shape.
#[derive(Default, Deserialize)]
#[serde(default)]
struct EntraError {
    error: String,
    error_description: String,
}

/// What a refused token means: never that a secret is missing.
fn refused(peer: &Peer, what: &str, status: u16, after: Option<Duration>, body: &[u8], secrets: &[&str]) -> Error {
    let said: EntraError = serde_json::from_slice(body).unwrap_or_default();
    // The description goes on with ids of traces.
    let words = said.error_description.split("Trace ID").next().unwrap_or_default();
    let words = foreign_text(words, secrets);
    let heard = match (said.error.is_empty(), words.is_empty()) {
        (true, _) => format!("status {status}"),
        (false, true) => foreign_text(&said.error, secrets),
        (false, false) => format!("{}, {words}", foreign_text(&said.error, secrets)),
    };
    let has = |codes: &[&str]| codes.iter().any(|code| words.contains(&format!("{code}:")));
    let hint = if has(&["AADSTS7000215", "AADSTS7000222"]) {
        "; the client secret is wrong or has expired: take its value, not its id"
    } else if has(&["AADSTS700016"]) {
        "; the tenant has no such application: check clientId and tenantId"
    } else if has(&["AADSTS90002", "AADSTS900023"]) {
        "; there is no such tenant: check tenantId and environmentType"
    } else if has(&["AADSTS70021", "AADSTS700211", "AADSTS700212", "AADSTS700213"]) {
        "; the application needs a federated credential with this cluster's issuer, this subject and this audience"
    } else if has(&["AADSTS700027"]) {
        "; the application does not know the certificate"
    } else {
        ""
    };
    match status {
        429 => Error::Throttled { retry_after: after, message: format!("Azure at {what} ({heard})") },
        // A machine's service says so while it starts, or takes a new identity up.
        404 | 408 | 410 if *peer == Peer::Machine || status == 408 => {
            Error::unavailable(format!("Azure failed at {what} ({heard})"))
        }
        400..500 if !said.error.is_empty() => Error::Denied(format!("Azure refuses {what} ({heard}){hint}")),
        400 | 401 | 403 => Error::Denied(format!("Azure refuses {what} ({heard})")),
        _ => Error::unavailable(format!("Azure failed at {what} ({heard})")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: u16, code: &str, inner: Option<&str>) -> Error {
        let inner = inner.map(|code| json!({"code": code}));
        let body = json!({"error": {"code": code, "message": "Line one.\r\nLine two.", "innererror": inner}}).to_string();
        failure("GET /secrets/app/", status, None, body.as_bytes(), &[])
    }

    #[test]
    fn codes_tell_what_a_failure_means() {
        assert!(matches!(of(404, "SecretNotFound", None), Error::NotFound(_)));
        assert!(matches!(of(404, "CertificateNotFound", None), Error::NotFound(_)));
        for code in ["NotFound", "ResourceNotFound", "VaultNotFound", ""] {
            assert!(matches!(of(404, code, None), Error::Unavailable { .. }), "{code}");
        }
        assert!(matches!(of(408, "Timeout", None), Error::Unavailable { .. }));
        assert!(matches!(of(403, "Forbidden", Some("ForbiddenByRbac")), Error::Denied(why) if why.contains("Secrets User")));
        assert!(matches!(of(403, "Forbidden", Some("ForbiddenByFirewall")), Error::Denied(why) if why.contains("network")));
        assert!(matches!(of(403, "Forbidden", Some("SecretDisabled")), Error::Invalid { why, .. } if why.contains("disabled")));
        assert!(matches!(of(401, "Unauthorized", None), Error::Denied(_)));
        assert!(matches!(of(409, "Conflict", Some("ObjectIsDeletedButRecoverable")), Error::Invalid { .. }));
        assert!(matches!(of(409, "Conflict", Some("ObjectIsBeingDeleted")), Error::Unavailable { .. }));
        assert!(matches!(of(429, "Throttled", None), Error::Throttled { .. }));
        assert!(matches!(of(400, "BadParameter", None), Error::Invalid { .. }));
        assert!(matches!(of(503, "ServiceUnavailable", None), Error::Unavailable { .. }));
        for body in ["", "<html>", "{}", "{\"error\": \"x\"}"] {
            assert!(matches!(failure("x", 404, None, body.as_bytes(), &[]), Error::Unavailable { .. }), "{body}");
        }
    }

    #[test]
    fn a_refused_token_says_why_in_either_of_entras_forms() {
        for end in ["\r\nTrace ID: 1\r\nCorrelation ID: 2", " Trace ID: 1 Correlation ID: 2"] {
            let description = format!("AADSTS7000215: Invalid client secret CANARY provided.{end}");
            let body =
                json!({"error": "invalid_client", "error_description": description, "error_codes": [7_000_215]}).to_string();
            let error =
                refused(&Peer::Entra(String::new()), "a token of app", 401, None, body.as_bytes(), &["CANARY"]).to_string();
            assert!(error.contains("invalid_client, AADSTS7000215") && error.contains("not its id"), "{error}");
            assert!(!error.contains("Trace") && !error.contains("CANARY"), "{error}");
        }
        let machine = |status, body: &str| refused(&Peer::Machine, "x", status, None, body.as_bytes(), &[]);
        assert!(matches!(machine(500, "<html>"), Error::Unavailable { .. }));
        assert!(matches!(machine(429, ""), Error::Throttled { .. }));
        assert!(matches!(machine(410, r#"{"error": "upgrading"}"#), Error::Unavailable { .. }));
        assert!(matches!(machine(400, r#"{"error": "invalid_request"}"#), Error::Denied(_)));
    }
}
