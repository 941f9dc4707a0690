//! Webhook: what an HTTP API answers.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{CaProvider, bytes};
use crate::store::webhook::{WebhookAuth, WebhookProvider, WebhookResult, WebhookSecret};
use std::collections::BTreeMap;

/// An HTTP API whose answer is a JSON object.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "generators.external-secrets.io",
    version = "v1alpha1",
    kind = "Webhook",
    plural = "webhooks",
    namespaced,
    category = "external-secrets",
    category = "external-secrets-generators",
    doc = "Gives what an HTTP API answers."
)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSpec {
    /// URL: a template.
    pub url: String,
    /// HTTP method. Default: GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers: each value is a template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body: a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Longest time for an answer: a Go duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Where the object lies in the answer.
    pub result: WebhookResult,
    /// Secrets that the templates can use under their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<WebhookSecret>,
    /// Authentication of HTTP itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<WebhookAuth>,
    /// PEM of the certificate authorities to trust, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bytes")]
    pub ca_bundle: Option<String>,
    /// Where such a PEM lies instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_provider: Option<CaProvider>,
}

impl From<WebhookSpec> for WebhookProvider {
    fn from(spec: WebhookSpec) -> Self {
        let WebhookSpec { url, method, headers, body, timeout, result, secrets, auth, ca_bundle, ca_provider } = spec;
        Self { url, method, headers, body, timeout, result: Some(result), secrets, auth, ca_bundle, ca_provider }
    }
}
