//! Any HTTP API as a store: the URL, the headers and the body are templates over the remote reference and labelled Secrets.
//!
//! What is not in the answer is not found only with code 404; the API knows no marks, so a push replaces what is there.

pub(crate) mod generator;
mod json_path;
mod ntlm;
mod template;
#[cfg(test)]
mod wire_tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::duration::parse_go;
use lockstep_crds::store::webhook::{WebhookAuth, WebhookProvider};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use zeroize::Zeroizing;

use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Error, Fetched, Payload, Provider, Push, Pushed, Resolver, Result, SecretBytes, Target,
    Validity, Want,
};
use ntlm::Ntlm;
use template::{Context, Use, render};

const FIELD: &str = "spec.provider.webhook";
/// Requests at once to one API, which may be somebody's small server.
const CONCURRENCY: usize = 8;
/// What a Secret must carry to be used: whoever owns it says so.
const LABEL: (&str, &str) = ("external-secrets.io/type", "webhook");

/// A connection to one API.
pub(crate) struct Webhook {
    spec: WebhookProvider,
    http: Client,
    ntlm: Option<Ntlm>,
    options: Options,
    method: Option<Method>,
    /// The Secrets that the templates can use.
    secrets: Context,
}

/// What is wrong with a spec that stands at `field`, as far as can be said without anything that it refers to.
pub(crate) fn problems(field: &str, spec: &WebhookProvider) -> Vec<String> {
    let mut texts = vec![(format!("{field}.url"), spec.url.as_str())];
    texts.extend(spec.headers.iter().map(|(name, text)| (format!("{field}.headers.{name}"), text.as_str())));
    texts.extend(spec.body.as_deref().map(|text| (format!("{field}.body"), text)));
    let path = spec.result.as_ref().and_then(|result| result.json_path.as_deref());
    texts.extend(path.map(|text| (format!("{field}.result.jsonPath"), text)));
    let mut found: Vec<String> = texts.iter().filter_map(|(field, text)| template::problem(field, text)).collect();
    if let Some(why) = spec.timeout.as_deref().and_then(|timeout| parse_go(timeout).err()) {
        found.push(format!("{field}.timeout: {why}"));
    }
    found
}

pub(crate) async fn connect(spec: WebhookProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Webhook> {
    let mut options = options.clone();
    if let Some(timeout) = &spec.timeout {
        options.timeout = parse_go(timeout).map_err(|why| Error::invalid(format!("{FIELD}.timeout"), why))?;
    }
    let method = spec.method.as_deref().filter(|m| !m.is_empty());
    let method = method.map(|name| {
        Method::from_bytes(name.to_ascii_uppercase().as_bytes())
            .map_err(|_| Error::invalid(format!("{FIELD}.method"), "is no HTTP method, such as GET or POST"))
    });
    let authorities = http::authorities(FIELD, spec.ca_bundle.as_deref(), spec.ca_provider.as_ref(), &*resolver).await?;
    let tls = Tls { authorities, ..Tls::default() };
    let http = http::client(FIELD, tls.clone(), &options)?;
    let mut secrets = Context::new();
    for (i, secret) in spec.secrets.iter().enumerate() {
        let field = format!("{FIELD}.secrets[{i}].secretRef");
        let mut keys = BTreeMap::new();
        for (key, value) in resolver.secret_data(&field, &secret.secret_ref, Some(LABEL)).await? {
            if let Some(text) = value.as_text() {
                keys.insert(key, Zeroizing::new(text.to_owned()));
            }
        }
        if secret.name == "remoteRef" || secrets.insert(secret.name.clone(), keys).is_some() {
            return Err(Error::invalid(format!("{FIELD}.secrets[{i}].name"), "is taken already"));
        }
    }
    let ntlm = match &spec.auth {
        Some(WebhookAuth { ntlm: Some(ntlm) }) => Some(Ntlm::new(ntlm, tls, &options, &*resolver).await?),
        Some(_) => return Err(Error::invalid(format!("{FIELD}.auth"), "names no kind that is served; there is ntlm")),
        None => None,
    };
    Ok(Webhook { method: method.transpose()?, spec, http, ntlm, options, secrets })
}

impl Webhook {
    fn context(&self, remote: &[(&str, &str)]) -> Context {
        let remote = remote.iter().map(|(key, value)| ((*key).to_owned(), Zeroizing::new((*value).to_owned())));
        let mut context = self.secrets.clone();
        context.insert("remoteRef".into(), remote.collect());
        context
    }

    fn want_context(&self, want: &Want) -> Context {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        self.context(&[
            ("key", &want.key),
            ("property", &or_empty(&want.property)),
            ("version", &or_empty(&want.version)),
            ("namespace", &or_empty(&want.namespace)),
        ])
    }

    async fn read(&self, want: &Want) -> Result<Fetched> {
        if want.metadata {
            return Err(Error::Unsupported("metadataPolicy Fetch: a webhook has no metadata".into()));
        }
        let context = self.want_context(want);
        let body =
            self.spec.body.as_deref().map(|text| render(&format!("{FIELD}.body"), text, &context, Use::Plain)).transpose()?;
        let method = self.method.clone().unwrap_or(Method::GET);
        let body = self.send(method, &context, body.filter(|b| !b.is_empty())).await?;
        let path = self.spec.result.as_ref().and_then(|r| r.json_path.as_deref()).unwrap_or_default();
        let path = render(&format!("{FIELD}.result.jsonPath"), path, &context, Use::Plain)?;
        let value = match path.is_empty() {
            true => SecretBytes::new(body.to_vec()),
            false => json_path::select(&path, &body)?,
        };
        Ok(Fetched::Value { payload: Arc::new(Payload::Property(value)), version: None })
    }

    async fn send(&self, method: Method, context: &Context, body: Option<Zeroizing<String>>) -> Result<Zeroizing<Vec<u8>>> {
        let (url, told) = self.url(context)?;
        let server = if told { url.origin().ascii_serialization() } else { format!("the host that {FIELD}.url makes") };
        let mut secrets: Vec<&str> = context.values().flat_map(BTreeMap::values).map(|value| value.as_str()).collect();
        secrets.extend(url.host_str().filter(|_| !told));
        let lost = |error| http::no_answer(&server, error, &secrets);
        let headers = self.headers(context)?;
        let request = || {
            let request = self.http.request(method.clone(), url.clone()).headers(headers.clone());
            let request = match &body {
                Some(body) if !body.is_empty() => request.body(body.as_bytes().to_vec()),
                // Some servers want a length wherever there could be a body.
                _ if matches!(method, Method::POST | Method::PUT | Method::PATCH) => request.header(CONTENT_LENGTH, "0"),
                _ => request,
            };
            request.build().map_err(lost)
        };
        let (response, _connection) = match &self.ntlm {
            Some(ntlm) => ntlm.send(request, &server, &secrets).await.map(|(response, guard)| (response, Some(guard)))?,
            None => (self.http.execute(request()?).await.map_err(lost)?, None),
        };
        let status = response.status();
        let wait = http::retry_after(response.headers());
        let body = http::body(response, &server, &secrets).await?;
        let code = status.as_u16();
        // The body is not repeated: it may be what was asked for.
        match code {
            200..=299 => Ok(body),
            404 => Err(Error::NotFound(format!("{server} has nothing there (code 404)"))),
            401 | 403 => Err(Error::Denied(format!(
                "{server} refuses the request (code {code}); check the credentials in {FIELD}.headers, body or auth"
            ))),
            429 => Err(Error::Throttled { retry_after: wait, message: format!("{server} (code 429)") }),
            300..=399 => Err(Error::invalid(
                format!("{FIELD}.url"),
                format!(
                    "{server} redirects (code {code}) to where nobody follows: another host, or with NTLM anywhere; name \
                     that place"
                ),
            )),
            400 | 405 | 406 | 410..=422 => Err(Error::invalid(
                FIELD,
                format!("{server} does not take the request (code {code}); check method, url, headers and body"),
            )),
            _ => Err(Error::unavailable(format!("{server} answered with code {code}"))),
        }
    }

    /// The URL, and whether its host may be told: not one that was made of a Secret's value, or of one that is pushed.
    fn url(&self, context: &Context) -> Result<(Url, bool)> {
        let field = format!("{FIELD}.url");
        let text = render(&field, &self.spec.url, context, Use::Url)?;
        let url = Url::parse(text.trim()).map_err(|error| Error::invalid(&field, format!("makes no URL ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Error::invalid(
                &field,
                "makes no http or https URL, such as https://api.example.com/v1/{{ .remoteRef.key }}",
            ));
        }
        let told = self.is_told(&url, context);
        self.options.egress.check_url(&field, &url).map_err(|error| match told {
            true => error,
            false => Error::invalid(&field, "makes an address that stores may not reach"),
        })?;
        Ok((url, told))
    }

    /// Whether the URL has the same host whatever stands in the values.
    fn is_told(&self, url: &Url, context: &Context) -> bool {
        let mut blind = context.clone();
        for (name, fields) in &mut blind {
            // A reference is no secret; the value that is pushed under its name is.
            let known =
                |key: &str| name == "remoteRef" && matches!(key, "key" | "property" | "version" | "namespace" | "remoteKey");
            fields.iter_mut().filter(|(key, _)| !known(key)).for_each(|(_, value)| *value = Zeroizing::new("0".into()));
        }
        let other = render(&format!("{FIELD}.url"), &self.spec.url, &blind, Use::Url);
        let other = other.ok().and_then(|text| Url::parse(text.trim()).ok());
        other.is_some_and(|other| other.origin() == url.origin() && other.username() == url.username())
    }

    fn headers(&self, context: &Context) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, text) in &self.spec.headers {
            let field = format!("{FIELD}.headers.{name}");
            let name: HeaderName = name.parse().map_err(|_| Error::invalid(&field, "is no header name"))?;
            let text = render(&field, text, context, Use::Plain)?;
            let mut value = HeaderValue::from_str(text.trim_end_matches(['\r', '\n']))
                .map_err(|_| Error::invalid(&field, "makes a value with characters that no header has"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(headers)
    }

    /// Whether something is there, asked as a read asks.
    async fn is_there(&self, target: &Target) -> Result<bool> {
        let want = Want { property: target.property.clone(), ..Want::latest(&target.key) };
        match self.read(&want).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Provider for Webhook {
    /// The host is reached, where the URL names one without templates; more can't be asked without a key.
    async fn validate(&self) -> Result<Validity> {
        let Some(url) = self.spec.url.split("{{").next().and_then(|fixed| Url::parse(fixed).ok()) else {
            return Ok(Validity::Unknown);
        };
        let whole_host = !self.spec.url.contains("{{") || url.path().len() > 1 || self.spec.url.contains("/{{");
        let (Some(host), Some(port)) = (url.host_str().filter(|_| whole_host), url.port_or_known_default()) else {
            return Ok(Validity::Unknown);
        };
        http::reach(&format!("{FIELD}.url"), host, port, &self.options).await.map(|()| Validity::Valid)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadWrite, batch: 1, concurrency: CONCURRENCY, takes_property: true }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        crate::in_order(wants.iter().map(|want| self.read(want)).collect(), CONCURRENCY).await
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        if push.only_new && self.is_there(&push.target).await? {
            return Ok(Pushed::Unchanged);
        }
        let value = push.value.to_bytes()?;
        let text = value.as_text().ok_or_else(|| Error::invalid("match.secretKey", "its value is not text"))?;
        let key = push.target.key.as_str();
        let property = push.target.property.as_deref().unwrap_or_default();
        let mut context = self.context(&[("remoteKey", key), ("property", property)]);
        if let Some(remote) = context.get_mut("remoteRef") {
            remote.insert(key.to_owned(), Zeroizing::new(text.to_owned()));
        }
        let body = match self.spec.body.as_deref().filter(|b| !b.is_empty()) {
            Some(template) => render(&format!("{FIELD}.body"), template, &context, Use::Plain)?,
            None => Zeroizing::new(text.to_owned()),
        };
        self.send(self.method.clone().unwrap_or(Method::POST), &context, Some(body)).await.map_err(|error| match error {
            Error::NotFound(why) => Error::invalid(format!("{FIELD}.url"), why),
            other => other,
        })?;
        Ok(Pushed::Updated)
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        let property = target.property.as_deref().unwrap_or_default();
        let context = self.context(&[("remoteKey", &target.key), ("property", property)]);
        match self.send(Method::DELETE, &context, None).await {
            Ok(_) => Ok(Deleted::Done),
            Err(Error::NotFound(_)) => Ok(Deleted::Absent),
            Err(error) => Err(error),
        }
    }
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile_path(path: &str, answer: &[u8]) {
    json_path::select(path, answer).err().iter().filter(|_| !path.contains(crate::hostile::CANARY)).for_each(|error| {
        crate::hostile::tells_nothing(error);
    });
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile_challenge(bytes: &[u8]) {
    ntlm::hostile(bytes);
}
