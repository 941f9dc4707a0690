//! Records as OpenTelemetry's logs: OTLP over HTTP in its JSON form (OTLP 1.x, "Binary Protobuf Encoding" and "JSON Protobuf Encoding").
//!
//! An own exporter, and not the SDK's: that one drops what finds no room without a word, and here every loss is counted.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// Where records go, and with which headers.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole URL, such as `http://collector:4318/v1/logs`.
    pub url: String,
    /// Header names and values; the values may be credentials.
    pub headers: Vec<(String, String)>,
    /// PEM of authorities that are trusted beside the system's.
    pub authorities: Arc<Vec<u8>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Endpoint").field("url", &self.url).field("headers", &names).finish()
    }
}

impl Endpoint {
    /// From the flag, or from the variables that OpenTelemetry has for it.
    pub fn find(flag: Option<&str>, variable: impl Fn(&str) -> Option<String>, authorities: Arc<Vec<u8>>) -> Option<Self> {
        let filled = |name: &str| variable(name).filter(|text| !text.is_empty());
        let base = || filled("OTEL_EXPORTER_OTLP_ENDPOINT").map(|url| format!("{}/v1/logs", url.trim_end_matches('/')));
        let url = flag.map(str::to_owned).or_else(|| filled("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")).or_else(base)?;
        let headers = filled("OTEL_EXPORTER_OTLP_LOGS_HEADERS").or_else(|| filled("OTEL_EXPORTER_OTLP_HEADERS"));
        let pairs = headers.unwrap_or_default();
        let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Some(Self { url, headers: pairs.split(',').filter_map(pair).collect(), authorities })
    }
}

/// How long one request may take, and how long a batch is tried.
const TIMEOUT: Duration = Duration::from_secs(10);
const TRY_FOR: Duration = Duration::from_secs(60);

pub(super) struct Exporter {
    http: reqwest::Client,
    url: reqwest::Url,
    headers: reqwest::header::HeaderMap,
}

impl Exporter {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, String> {
        let url: reqwest::Url = endpoint.url.parse().map_err(|_| format!("{} is no URL", endpoint.url))?;
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
            return Err("must be an http or https URL without a user; credentials go into OTEL_EXPORTER_OTLP_HEADERS".into());
        }
        let mut headers = reqwest::header::HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let name: reqwest::header::HeaderName = name.parse().map_err(|_| format!("{name:?} is no header"))?;
            let mut value =
                reqwest::header::HeaderValue::from_str(value).map_err(|_| format!("the value of {name} is no header's"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        if !endpoint.authorities.is_empty() {
            let bundle = reqwest::Certificate::from_pem_bundle(&endpoint.authorities).map_err(|_| "--ca-file holds no PEM")?;
            http = http.tls_certs_merge(bundle);
        }
        Ok(Self { http: http.build().map_err(|error| error.to_string())?, url, headers })
    }

    /// Sends a batch, again and again while the collector asks for patience; answers how many records it refused.
    pub(super) async fn export(&self, lines: &[Arc<str>]) -> Result<usize, String> {
        let body = batch(lines).to_string();
        let end = Instant::now() + TRY_FOR;
        let mut wait = Duration::from_millis(500);
        loop {
            let sent = self.http.post(self.url.clone()).headers(self.headers.clone());
            let answer = sent.header("content-type", "application/json").body(body.clone()).send().await;
            let (why, asked) = match answer {
                Ok(answer) if answer.status().is_success() => {
                    let said: Value = serde_json::from_slice(&answer.bytes().await.unwrap_or_default()).unwrap_or_default();
                    let refused = &said["partialSuccess"]["rejectedLogRecords"];
                    // 64-bit numbers are texts in this encoding.
                    let refused = refused.as_u64().or_else(|| refused.as_str()?.parse().ok()).unwrap_or(0);
                    return Ok(usize::try_from(refused).unwrap_or(usize::MAX).min(lines.len()));
                }
                Ok(answer) => {
                    let code = answer.status().as_u16();
                    let why = format!("{} answered with code {code}", self.url);
                    if !matches!(code, 429 | 502 | 503 | 504) {
                        return Err(why);
                    }
                    let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                    (why, after.map(Duration::from_secs))
                }
                Err(_) => (format!("{} does not answer", self.url), None),
            };
            let pause = asked.unwrap_or(wait).min(TRY_FOR);
            if Instant::now() + pause > end {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }
}

fn batch(lines: &[Arc<str>]) -> Value {
    let records: Vec<Value> =
        lines.iter().filter_map(|line| serde_json::from_str(line).ok().map(|record| log_record(&record))).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": [attribute("service.name", "lockstep"), attribute("service.version", env!("CARGO_PKG_VERSION"))]},
        "scopeLogs": [{"scope": {"name": "lockstep.audit"}, "logRecords": records}],
    }]})
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn log_record(record: &Value) -> Value {
    let time = record["time"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).unwrap_or_default();
    let failed = record["result"] != "ok" && record["action"].as_str().is_some_and(|a| a.starts_with("provider."));
    let (number, text) = if failed { (13, "WARN") } else { (9, "INFO") };
    let action = record["action"].as_str().unwrap_or_default();
    let mut attributes = vec![attribute("event.name", action)];
    let namespaces = [&record["object"]["namespace"], &record["store"]["namespace"], &record["target"]["namespace"]];
    if let Some(namespace) = namespaces.iter().find_map(|n| n.as_str()) {
        attributes.push(attribute("k8s.namespace.name", namespace));
    }
    json!({
        "timeUnixNano": time.as_nanosecond().to_string(), "observedTimeUnixNano": time.as_nanosecond().to_string(),
        "severityNumber": number, "severityText": text, "eventName": action, "attributes": attributes, "body": any_value(record),
    })
}

/// A value as OTLP has it.
fn any_value(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(flag) => json!({"boolValue": flag}),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => json!({"intValue": integer.to_string()}),
            None => json!({"doubleValue": number}),
        },
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(all) => json!({"arrayValue": {"values": all.iter().map(any_value).collect::<Vec<_>>()}}),
        Value::Object(fields) => {
            let pairs: Vec<Value> = fields.iter().map(|(key, value)| json!({"key": key, "value": any_value(value)})).collect();
            json!({"kvlistValue": {"values": pairs}})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_found_as_opentelemetry_names_it_and_its_headers_are_in_no_debug() {
        let variables = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://collector:4318/".to_owned()),
            "OTEL_EXPORTER_OTLP_HEADERS" => Some("authorization=Bearer CANARY, x-team = a".to_owned()),
            _ => None,
        };
        let found = Endpoint::find(None, variables, Arc::default()).unwrap();
        assert_eq!(found.url, "http://collector:4318/v1/logs");
        assert_eq!(found.headers[1], ("x-team".to_owned(), "a".to_owned()));
        assert!(!format!("{found:?}").contains("CANARY"));
        let flag = Endpoint::find(Some("http://other/v1/logs"), variables, Arc::default()).unwrap();
        assert_eq!(flag.url, "http://other/v1/logs");
        assert!(Endpoint::find(None, |_| None, Arc::default()).is_none());
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for wrong in ["", "collector:4318", "ftp://x/", "http://user:CANARY@x/"] {
            let endpoint = Endpoint { url: wrong.into(), headers: vec![], authorities: Arc::default() };
            let refused = Exporter::new(&endpoint).err();
            assert!(refused.as_ref().is_some_and(|why| !why.contains("CANARY")), "{wrong}: {refused:?}");
        }
    }
}
