//! Requests to AWS that are signed here (Signature Version 4): those that others send, and those of services whose SDK would cost
//! more than it gives.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::Url;

use crate::{Error, Result};

/// A service of AWS, by the name that it is signed with, and its region.
pub(super) struct Service<'a>(pub(super) &'static str, pub(super) &'a str);

/// The headers of a POST, with its signature among them.
pub(super) fn headers(
    field: &str,
    credentials: Credentials,
    Service(service, region): Service<'_>,
    url: &Url,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Vec<(String, String)>> {
    let broken = |why: String| Error::invalid(field, format!("makes no signed request ({why})"));
    let signer = credentials.into();
    let params = SigningParams::builder()
        .identity(&signer)
        .region(region)
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| broken(error.to_string()))?
        .into();
    let host = url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
    let headers: Vec<(&str, &str)> = [("host", host.as_str())].into_iter().chain(headers.iter().copied()).collect();
    let request = SignableRequest::new("POST", url.as_str(), headers.iter().copied(), SignableBody::Bytes(body.as_bytes()))
        .map_err(|error| broken(error.to_string()))?;
    let (instructions, _) = sign(request, &params).map_err(|error| broken(error.to_string()))?.into_parts();
    let all = headers.iter().copied().chain(instructions.headers());
    Ok(all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
