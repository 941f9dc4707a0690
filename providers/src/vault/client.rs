//! One request to Vault, and what its answer means.

use std::collections::BTreeMap;
use std::sync::Mutex;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::FIELD;
use super::kv::Path;
use crate::error::foreign_text;
use crate::http::{no_answer, retry_after};
use crate::{Error, Result};

/// Begins the message of a request that Vault understood and did not take: its credentials were not the reason.
pub(super) const NOT_TAKEN: &str = "Vault does not take the request to";

/// Sends requests to one Vault.
pub(super) struct VaultClient {
    http: Client,
    server: Url,
    headers: HeaderMap,
    namespace: Option<String>,
    /// With readYourWrites, the replication state that the next read must have seen (`X-Vault-Index`).
    index: Option<Mutex<Option<HeaderValue>>>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Option<Vec<Value>>,
    #[serde(default)]
    warnings: Option<Vec<Value>>,
    data: Option<Value>,
}

impl VaultClient {
    pub(super) fn new(
        http: Client,
        server: Url,
        extra: &BTreeMap<String, String>,
        namespace: Option<String>,
        read_your_writes: bool,
        forward_inconsistent: bool,
    ) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if forward_inconsistent {
            headers.insert("x-vault-inconsistent", HeaderValue::from_static("forward-active-node"));
        }
        for (name, value) in extra {
            let field = format!("{FIELD}.headers.{name}");
            let name: HeaderName = name.parse().map_err(|_| Error::invalid(&field, "is no header name"))?;
            if name == "x-vault-token" || name == "x-vault-namespace" || name == "host" {
                return Err(Error::invalid(&field, "is set by the operator and can't be given"));
            }
            let value = value.parse().map_err(|_| Error::invalid(&field, "its value is no header value"))?;
            headers.insert(name, value);
        }
        if let Some(namespace) = &namespace {
            check_namespace("namespace", namespace)?;
        }
        Ok(Self { http, server, headers, namespace, index: read_your_writes.then(|| Mutex::new(None)) })
    }

    /// Sends a request for the engine as the holder of `token`.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &Path,
        token: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        self.send(method, path, Some(token), self.namespace.as_deref(), body).await
    }

    /// Sends a request; `body` may hold credentials, which no message repeats.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &Path,
        token: Option<&str>,
        namespace: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut request = self.http.request(method.clone(), path.url(&self.server)).headers(self.headers.clone());
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| Error::invalid(format!("{FIELD}.auth"), "the token holds characters that no token has"))?;
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        if let Some(namespace) = namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(index) = self.last_index() {
            request = request.header("x-vault-index", index);
        }
        if let Some(body) = body {
            let json = serde_json::to_vec(body).map_err(|error| Error::invalid(FIELD, error.to_string()))?;
            request = request.header("content-type", "application/json").body(json);
        }
        let secrets = secrets_of(token, body);
        let secrets: Vec<&str> = secrets.iter().map(|s| s.as_str()).collect();
        let server = self.server.origin().ascii_serialization();
        let response = request.send().await.map_err(|error| no_answer(&server, error, &secrets))?;
        let status = response.status();
        let wait = retry_after(response.headers());
        if let (Some(index), Some(seen)) = (&self.index, response.headers().get("x-vault-index")) {
            *index.lock().unwrap_or_else(|e| e.into_inner()) = Some(seen.clone());
        }
        let answer = crate::http::body(response, &server, &secrets).await?;
        if status == StatusCode::PRECONDITION_FAILED {
            // A replication state that is never reached, after a restore for example, must not be asked for again.
            self.forget_index();
        }
        if status.is_success() {
            return Ok(answer);
        }
        Err(failure(&server, &method, path, status, wait, &answer, &secrets))
    }

    fn forget_index(&self) {
        if let Some(index) = &self.index {
            *index.lock().unwrap_or_else(|e| e.into_inner()) = None;
        }
    }

    fn last_index(&self) -> Option<HeaderValue> {
        self.index.as_ref().and_then(|index| index.lock().unwrap_or_else(|e| e.into_inner()).clone())
    }
}

/// Everything that we sent and that an answer must not make us repeat.
fn secrets_of(token: Option<&str>, body: Option<&Value>) -> Vec<Zeroizing<String>> {
    let mut texts: Vec<&str> = token.into_iter().collect();
    let sent = body.and_then(Value::as_object).into_iter().flatten();
    sent.filter(|(name, _)| *name != "role").for_each(|(_, value)| texts_of(value, &mut texts));
    texts.into_iter().map(|s| Zeroizing::new(s.to_owned())).collect()
}

fn texts_of<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| texts_of(field, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

pub(super) fn check_namespace(field: &str, namespace: &str) -> Result<()> {
    if namespace.is_empty() || !namespace.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Error::invalid(format!("{FIELD}.{field}"), "is no Vault namespace"));
    }
    Ok(())
}

/// Vault says "nothing there" with an empty list of errors, or with the metadata of a version that is gone. Any other JSON may
/// be a gateway's.
fn is_nothing(answer: &Errors) -> bool {
    let no_errors = answer.errors.as_ref().is_some_and(Vec::is_empty) && answer.warnings.is_none();
    no_errors || answer.data.as_ref().is_some_and(|d| d.get("metadata").is_some_and(Value::is_object))
}

/// What a Vault policy calls the right to make a request.
fn right(method: &Method, path: &Path) -> &'static str {
    match *method {
        Method::POST => "create and update",
        Method::DELETE => "delete",
        _ if path.query.iter().any(|(name, _)| name == "list") => "list",
        _ => "read",
    }
}

/// Maps an HTTP status to the taxonomy. A 404 counts as "nothing there" only when it is Vault that says so.
fn failure(
    server: &str,
    method: &Method,
    path: &Path,
    status: StatusCode,
    wait: Option<std::time::Duration>,
    body: &[u8],
    secrets: &[&str],
) -> Error {
    let parsed = serde_json::from_slice::<Errors>(body).ok();
    let words = match &parsed {
        Some(Errors { errors, warnings, .. }) => {
            let texts: Vec<&str> = errors.iter().chain(warnings).flatten().filter_map(Value::as_str).collect();
            foreign_text(&texts.join("; "), secrets)
        }
        None => "the answer is not Vault's".into(),
    };
    let code = status.as_u16();
    let said = if words.is_empty() { format!("code {code}") } else { format!("code {code}: {words}") };
    match (code, parsed) {
        (404, Some(answer)) if is_nothing(&answer) => {
            let of_version = |name: &str| answer.data.as_ref().and_then(|d| d.pointer(&format!("/metadata/{name}")));
            let gone = of_version("deletion_time").and_then(Value::as_str).filter(|g| !g.is_empty());
            Error::NotFound(match (of_version("destroyed") == Some(&Value::Bool(true)), gone) {
                (true, _) => format!("Vault at {path}: this version is destroyed (code 404)"),
                (false, Some(at)) => format!("Vault at {path}: this version was deleted at {} (code 404)", foreign_text(at, &[])),
                (false, None) => format!("Vault has nothing at {path} (code 404)"),
            })
        }
        (404, Some(answer)) if answer.errors.is_none() && answer.warnings.is_none() => {
            Error::unavailable(format!("{server} answered {path} with code 404, but not as Vault does"))
        }
        (404, Some(_)) => Error::invalid(
            format!("{FIELD}.path"),
            format!("Vault has no engine for {path} ({said}); name the engine's mount path in {FIELD}.path"),
        ),
        (403 | 401, _) => Error::Denied(format!(
            "Vault refuses {path} ({said}); its policies must allow {} there, and the credentials must be valid",
            right(method, path)
        )),
        (300..=399, _) => Error::unavailable(format!(
            "{server} redirects {path} to another host (code {code}), which is not followed with a token; name that host in {FIELD}.server"
        )),
        (400, _) if words.contains("check-and-set parameter did not match") => {
            Error::unavailable(format!("somebody else wrote {path} at the same time ({said}); it is tried again"))
        }
        (400, _) if words.contains("Upgrading") => Error::unavailable(format!("{server} answered {path} with {said}")),
        (400, Some(_)) => Error::Denied(format!("{NOT_TAKEN} {path} ({said})")),
        (429, _) => Error::Throttled { retry_after: wait, message: format!("{server} ({said})") },
        (503, _) if words.contains("sealed") => Error::unreachable(format!("{server} is sealed ({said}); unseal it")),
        _ => Error::unavailable(format!("{server} answered {path} with {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, body: &str) -> Error {
        let path = Path { mount: "kv".into(), segments: vec!["data".into(), "app".into()], query: vec![] };
        failure(
            "https://vault",
            &Method::GET,
            &path,
            StatusCode::from_u16(code).expect("a code"),
            None,
            body.as_bytes(),
            &["hvs.canary"],
        )
    }

    #[test]
    fn only_vaults_own_empty_404_is_not_found() {
        assert!(matches!(answer(404, r#"{"errors":[]}"#), Error::NotFound(_)));
        let deleted = r#"{"data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z","destroyed":false}}}"#;
        assert!(matches!(answer(404, deleted), Error::NotFound(why) if why.contains("was deleted at 2026")));
        let destroyed = r#"{"data":{"data":null,"metadata":{"deletion_time":"","destroyed":true}}}"#;
        assert!(matches!(answer(404, destroyed), Error::NotFound(why) if why.contains("destroyed")));
        assert!(matches!(answer(404, r#"{"errors":["no handler for route"]}"#), Error::Invalid { .. }));
        for gateway in ["<html>not here</html>", "{}", r#"{"message":"no Route matched"}"#, r#"{"data":null}"#] {
            assert!(matches!(answer(404, gateway), Error::Unavailable { .. }), "{gateway}");
        }
        // A folder of a KV v2 engine as `path`: Vault's own words, as it says them.
        let warned = r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine"]}"#;
        assert!(matches!(answer(404, warned), Error::Invalid { why, .. } if why.contains("versioned")));
    }

    #[test]
    fn statuses_map_to_the_taxonomy_and_never_repeat_our_token() {
        assert!(
            matches!(answer(403, r#"{"errors":["permission denied"]}"#), Error::Denied(why) if why.contains("code 403: permission denied"))
        );
        assert!(matches!(answer(429, r#"{"errors":["slow down"]}"#), Error::Throttled { .. }));
        assert!(
            matches!(answer(503, r#"{"errors":["Vault is sealed"]}"#), Error::Unavailable { message: why, .. } if why.contains("unseal"))
        );
        for code in [400, 403, 404, 412, 429, 500, 503] {
            let text = answer(code, r#"{"errors":["token hvs.canary is bad"]}"#).to_string();
            assert!(!text.contains("canary"), "{text}");
        }
    }
}
