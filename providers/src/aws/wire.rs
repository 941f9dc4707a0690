//! AWS's SDK over the HTTP client of this crate, and what its failures mean.

use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::app_name::AppName;
use aws_types::region::Region;

use super::FIELD;
use crate::error::foreign_text;
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Result};

/// Carries the SDK's requests.
#[derive(Clone)]
pub(super) struct Carrier {
    http: reqwest::Client,
}

impl Carrier {
    /// A client of one connection. No tenant gives an address of AWS: they follow from the region, or from the operator's flags.
    pub(super) fn new(options: &Options) -> Result<Self> {
        let tls = Tls { anywhere: true, ..Tls::default() };
        Ok(Self { http: http::client(FIELD, tls, options)? })
    }

    async fn carry(self, request: HttpRequest) -> std::result::Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = request.into_parts();
        let body = body.bytes().map(<[u8]>::to_vec).unwrap_or_default();
        let sent = self.http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send();
        let answer = sent.await.map_err(failed)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = http::body(answer, "AWS", &[]).await.map_err(|error| ConnectorError::io(error.into()))?;
        let status = StatusCode::try_from(status).map_err(|error| ConnectorError::other(error.into(), None))?;
        let mut response = HttpResponse::new(status, SdkBody::from(body.to_vec()));
        for (name, value) in &headers {
            if let Ok(value) = value.to_str() {
                response.headers_mut().append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(response)
    }
}

fn failed(error: reqwest::Error) -> ConnectorError {
    let timeout = error.is_timeout();
    let error = error.without_url().into();
    if timeout { ConnectorError::timeout(error) } else { ConnectorError::io(error) }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}

impl HttpConnector for Carrier {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().carry(request))
    }
}

impl HttpClient for Carrier {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// What every client of a connection has in common. Tries again are the reader's: it knows who else waits.
pub(super) fn config(
    carrier: &Carrier,
    region: &str,
    options: &Options,
    credentials: Option<SharedCredentialsProvider>,
) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(options.timeout).build();
    let mut config = SdkConfig::builder()
        .behavior_version(aws_smithy_runtime_api::client::behavior_version::BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .http_client(carrier.clone())
        .sleep_impl(TokioSleep::new())
        .time_source(SystemTimeSource::new())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::disabled())
        .identity_cache(aws_smithy_runtime::client::identity::IdentityCache::no_cache())
        .app_name(AppName::new("lockstep").unwrap_or_else(|_| unreachable!("a short word is a name")));
    config.set_credentials_provider(credentials);
    config.build()
}

/// A region's name, as AWS forms them. It becomes part of a host's name.
pub(super) fn check_region(field: &str, region: &str) -> Result<()> {
    let parts: Vec<&str> = region.split('-').collect();
    let letters = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase());
    let formed = match parts.split_last() {
        Some((number, words)) => {
            words.len() >= 2 && words.iter().all(letters) && number.len() <= 2 && number.parse::<u8>().is_ok_and(|n| n > 0)
        }
        None => false,
    };
    if formed { Ok(()) } else { Err(Error::invalid(field, "is no region of AWS; write for example eu-central-1")) }
}

/// The domain of a region's services: partitions have domains of their own, as the SDK's table has them.
pub(super) fn domain(region: &str) -> &'static str {
    match region.split('-').collect::<Vec<_>>()[..] {
        ["cn", ..] => "amazonaws.com.cn",
        ["eusc", ..] => "amazonaws.eu",
        [_, "iso", ..] => "c2s.ic.gov",
        [_, "isob", ..] => "sc2s.sgov.gov",
        [_, "isoe", ..] => "cloud.adc-e.uk",
        [_, "isof", ..] => "csp.hci.ic.gov",
        _ => "amazonaws.com",
    }
}

/// Host and port of a service, as the SDK has them, and that no policy about tenants' addresses is asked.
pub(super) fn place(service: &str, region: &str, options: &Options) -> (String, u16, Options) {
    let domain = domain(region);
    let given = options.endpoints.get(service).and_then(|url| reqwest::Url::parse(&url).ok());
    let of_given = |url: reqwest::Url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?));
    let (host, port) = given.and_then(of_given).unwrap_or_else(|| (format!("{service}.{region}.{domain}"), 443));
    (host, port, Options { egress: std::sync::Arc::new(crate::egress::Egress::everywhere()), ..options.clone() })
}

/// What a failed call means. `what` is what was asked for, such as `GetSecretValue of app`, and `region` where.
pub(super) fn failure<E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static>(
    what: &str,
    region: &str,
    error: &SdkError<E, HttpResponse>,
) -> Error {
    let (Some(service), Some(response)) = (error.as_service_error(), error.raw_response()) else {
        return no_answer(what, region, error);
    };
    let after = response.headers().get("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
    let code = service.code().unwrap_or_default();
    coded(what, region, code, service.message().unwrap_or_default(), response.status().as_u16(), after)
}

/// The last words of a refusal of credentials that were good once, or never.
const EXPIRED: &str = "the credentials have expired";
const UNKNOWN: &str = "the access key or its secret is wrong, or the key is disabled";

/// Whether a call failed for its credentials, of which others may be good.
pub(super) fn credentials_ended(error: &Error) -> bool {
    // At the end are words of ours only, whatever AWS said before.
    matches!(error, Error::Denied(why) if why.ends_with(EXPIRED) || why.ends_with(UNKNOWN))
}

/// What a code of AWS means. All errors of callers come with status 400, so the status says little.
pub(super) fn coded(what: &str, region: &str, code: &str, message: &str, status: u16, after: Option<Duration>) -> Error {
    let words = foreign_text(message, &[]);
    let name = if code.is_empty() { format!("status {status}") } else { code.to_owned() };
    let said = if words.is_empty() { name } else { format!("{name}: {words}") };
    let denied = |hint: &str| Error::Denied(format!("AWS refuses {what} in {region} ({said}); {hint}"));
    match code {
        "ResourceNotFoundException" | "ParameterNotFound" | "ParameterVersionNotFound" | "InvalidResourceId" => {
            Error::NotFound(format!("AWS has nothing for {what} in {region} ({said})"))
        }
        // AWS has no code of its own for that; the second form is the emulator's.
        "InvalidRequestException" | "InvalidParameterException"
            if words.contains("marked for deletion") || words.contains("marked deleted") =>
        {
            Error::NotFound(format!("AWS has scheduled it for deletion: {what} in {region} ({said})"))
        }
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => {
            denied("the identity's policy must allow it")
        }
        "DecryptionFailure" | "InvalidKeyId" => denied("the identity must be allowed kms:Decrypt with the key"),
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => denied(EXPIRED),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationTokenException"
        | "AuthFailure" => denied(UNKNOWN),
        "InvalidIdentityToken" | "IDPRejectedClaim" => {
            denied("IAM needs an OIDC provider for this cluster's issuer, with the audience of the token")
        }
        "RegionDisabledException" => denied("the region is not enabled for this account"),
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "TooManyUpdates"
        | "RequestLimitExceeded"
        | "SlowDown" => Error::Throttled { retry_after: after, message: format!("AWS at {what} in {region} ({said})") },
        _ if status == 429 => Error::Throttled { retry_after: after, message: format!("AWS at {what} in {region} ({said})") },
        "InternalServiceError"
        | "InternalServerError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "IDPCommunicationError" => Error::unavailable(format!("AWS failed at {what} in {region} ({said})")),
        _ if status >= 500 => Error::unavailable(format!("AWS failed at {what} in {region} ({said})")),
        _ => Error::invalid("remoteRef", format!("AWS does not take {what} in {region} ({said})")),
    }
}

fn no_answer<E>(what: &str, region: &str, error: &SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match error {
        SdkError::TimeoutError(_) => Error::unreachable(format!("AWS did not answer {what} in {region} in time")),
        SdkError::DispatchFailure(failure) => {
            // Without the SDK's own Debug, which would print bodies.
            let causes = failure.as_connector_error().map(|e| http::causes(e, &[])).unwrap_or_default();
            if failure.is_timeout() {
                return Error::unreachable(format!("AWS did not answer {what} in {region} in time"));
            }
            let spelling =
                if causes.contains("dns") { format!("; is {region} a region, and spelled right?") } else { String::new() };
            Error::unreachable(format!("AWS could not be reached for {what} in {region} ({causes}){spelling}"))
        }
        SdkError::ConstructionFailure(_) => Error::invalid("remoteRef", format!("makes no request for {what}")),
        _ => Error::unavailable(format!("AWS answered {what} in {region} with something else than AWS does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_parts_of_host_names_and_nothing_else() {
        for good in ["eu-central-1", "us-gov-west-1", "ap-southeast-5", "us-isob-east-1", "il-central-1"] {
            assert!(check_region("f", good).is_ok(), "{good}");
        }
        for bad in
            ["", "eu", "eu-central", "eu-central-0", "eu-central-1.evil.com", "EU-central-1", "eu--1", "eu-central-1/", "x@y-z-1"]
        {
            assert!(check_region("f", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_is_where_the_sdk_has_it() {
        for (region, host) in [
            ("eu-central-1", "ssm.eu-central-1.amazonaws.com"),
            ("us-gov-west-1", "ssm.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", "ssm.cn-north-1.amazonaws.com.cn"),
            ("eusc-de-east-1", "ssm.eusc-de-east-1.amazonaws.eu"),
            ("us-iso-east-1", "ssm.us-iso-east-1.c2s.ic.gov"),
            ("us-isob-east-1", "ssm.us-isob-east-1.sc2s.sgov.gov"),
        ] {
            assert_eq!(place("ssm", region, &Options::default()).0, host);
        }
        let endpoints = [("ssm".to_owned(), "http://127.0.0.1:4566/x".to_owned())].into();
        let options = Options { endpoints: std::sync::Arc::new(crate::registry::Endpoints(endpoints)), ..Options::default() };
        let (host, port, _) = place("ssm", "eu-central-1", &options);
        assert_eq!((host.as_str(), port), ("127.0.0.1", 4566));
    }

    #[test]
    fn only_aws_codes_say_that_credentials_have_ended_and_not_its_words() {
        let of = |code: &str, message: &str| credentials_ended(&coded("GetSecretValue of app", "r", code, message, 400, None));
        assert!(of("ExpiredTokenException", "") && of("InvalidClientTokenId", "No such key") && of("AuthFailure", ""));
        assert!(!of("AccessDeniedException", "somebody says: the credentials have expired"));
        assert!(!of("ThrottlingException", "") && !of("ResourceNotFoundException", ""));
    }

    #[test]
    fn codes_and_not_statuses_tell_what_a_failure_means() {
        let of =
            |code: &str, message: &str, status: u16| coded("GetSecretValue of app", "eu-central-1", code, message, status, None);
        assert!(matches!(of("ResourceNotFoundException", "", 400), Error::NotFound(_)));
        assert!(matches!(
            of(
                "InvalidRequestException",
                "You can't perform this operation on the secret because it was marked for deletion.",
                400
            ),
            Error::NotFound(_)
        ));
        assert!(matches!(of("InvalidRequestException", "other", 400), Error::Invalid { .. }));
        assert!(matches!(of("AccessDeniedException", "no", 400), Error::Denied(why) if why.contains("policy")));
        assert!(matches!(of("ExpiredTokenException", "", 400), Error::Denied(why) if why.contains("expired")));
        assert!(matches!(of("ThrottlingException", "Rate exceeded", 400), Error::Throttled { .. }));
        assert!(matches!(of("", "", 429), Error::Throttled { .. }));
        assert!(matches!(of("InternalServiceError", "", 500), Error::Unavailable { .. }));
        assert!(matches!(of("", "", 503), Error::Unavailable { .. }));
        assert!(matches!(of("ValidationException", "", 400), Error::Invalid { .. }));
    }
}
