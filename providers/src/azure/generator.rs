//! A token for an Azure Container Registry: a token of Entra ID, exchanged at the registry
//! (<https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md>).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::generator::acr::{AcrAccessTokenSpec, AcrAuth};
use lockstep_crds::store::azurekv::{AzureAuthSecretRef, AzureAuthType, AzureEnvironment, AzureProvider};
use reqwest::{Client, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::FIELD;
use super::cloud::Cloud;
use super::identity::Identity;
use crate::error::foreign_text;
use crate::generator::{Generated, Generator};
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Resolver, Result, SecretBytes};

/// The user name that a registry wants beside a token.
const USER: &str = "00000000-0000-0000-0000-000000000000";

/// Gives tokens of one identity for one registry.
pub(crate) struct Acr {
    identity: Identity,
    http: Client,
    registry: String,
    tenant: Option<String>,
    scope: Option<String>,
}

pub(crate) async fn connect(spec: AcrAccessTokenSpec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Acr> {
    let (authority, resource, suffix) = match spec.environment_type {
        AzureEnvironment::PublicCloud => ("https://login.microsoftonline.com", "https://management.azure.com", "azurecr.io"),
        AzureEnvironment::USGovernmentCloud => {
            ("https://login.microsoftonline.us", "https://management.usgovcloudapi.net", "azurecr.us")
        }
        AzureEnvironment::ChinaCloud => ("https://login.chinacloudapi.cn", "https://management.chinacloudapi.cn", "azurecr.cn"),
        AzureEnvironment::GermanCloud => {
            let why = format!("{FIELD}.environmentType: GermanCloud was closed in 2021; use PublicCloud");
            return Err(Error::Unsupported(why));
        }
        AzureEnvironment::AzureStackCloud => {
            let why = format!("{FIELD}.environmentType: AzureStackCloud has no registries that are served");
            return Err(Error::Unsupported(why));
        }
    };
    // A token of Entra ID goes there: to a registry, and to nobody else who has a host.
    let registry = spec.registry.trim().to_ascii_lowercase();
    let (host, port) = registry.split_once(':').unwrap_or((&registry, "443"));
    let of_azure = host.strip_suffix(suffix).is_some_and(|name| name.len() > 1 && name.ends_with('.'));
    if !of_azure || port.parse::<u16>().is_err() || !host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) {
        let why = format!("is no registry of {:?}; write for example my-registry.{suffix}", spec.environment_type);
        return Err(Error::invalid(format!("{FIELD}.registry"), why));
    }
    let store = of_store(&spec.auth, spec.tenant_id.clone(), spec.environment_type)?;
    let place = |url: &str| Url::parse(url).map_err(|_| Error::invalid(FIELD, "makes no URL of Azure"));
    // Where Entra ID is, no manifest of a generator says: the operator's environment may.
    let own = options.endpoints.get("azure/authority");
    let authority = own.as_deref().unwrap_or(authority);
    let cloud = Cloud { vault: place(resource)?, authority: place(authority)?, scope: format!("{resource}/.default") };
    let identity = Identity::new(&store, &cloud, resolver, options).await?;
    let http = http::client(FIELD, Tls::default(), options)?;
    let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
    Ok(Acr { identity, http, registry, tenant: filled(spec.tenant_id), scope: filled(spec.scope) })
}

/// The same identity as a store would have it.
fn of_store(auth: &AcrAuth, tenant_id: Option<String>, environment_type: AzureEnvironment) -> Result<AzureProvider> {
    let base = AzureProvider { tenant_id, environment_type, ..AzureProvider::default() };
    match auth {
        AcrAuth { service_principal: Some(principal), managed_identity: None, workload_identity: None } => {
            let refs = principal.secret_ref.clone();
            let auth = AzureAuthSecretRef {
                client_id: refs.client_id,
                client_secret: refs.client_secret,
                ..AzureAuthSecretRef::default()
            };
            Ok(AzureProvider { auth_type: AzureAuthType::ServicePrincipal, auth_secret_ref: Some(auth), ..base })
        }
        AcrAuth { service_principal: None, managed_identity: Some(machine), workload_identity: None } => {
            Ok(AzureProvider { auth_type: AzureAuthType::ManagedIdentity, identity_id: machine.identity_id.clone(), ..base })
        }
        AcrAuth { service_principal: None, managed_identity: None, workload_identity: Some(workload) } => {
            let service_account_ref = workload.service_account_ref.clone();
            Ok(AzureProvider { auth_type: AzureAuthType::WorkloadIdentity, service_account_ref, ..base })
        }
        _ => {
            let why = "names none, or more than one, of servicePrincipal, managedIdentity and workloadIdentity";
            Err(Error::invalid(format!("{FIELD}.auth"), why))
        }
    }
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    refresh_token: Zeroizing<String>,
    #[serde(default)]
    access_token: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    errors: Vec<FailureOfOne>,
}

#[derive(Deserialize)]
struct FailureOfOne {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Acr {
    async fn ask(&self, path: &str, form: &[(&str, &str)], secrets: &[&str]) -> Result<Tokens> {
        let (what, registry) = (format!("a token of registry {}", self.registry), &self.registry);
        let request = self.http.post(format!("https://{registry}/oauth2/{path}")).form(form);
        let sent = request.send().await;
        let answer = sent.map_err(|error| http::no_answer_of("Azure", &format!("{FIELD}.registry"), &what, error, secrets))?;
        let (status, after) = (answer.status().as_u16(), http::retry_after(answer.headers()));
        let body = http::body_up_to(1 << 20, answer, registry, secrets).await?;
        if (200..300).contains(&status) {
            let broken = |_| Error::unavailable(format!("{registry} answered with something else than a token"));
            return serde_json::from_slice(&body).map_err(broken);
        }
        let failure = serde_json::from_slice::<Failure>(&body).map(|f| f.errors).unwrap_or_default();
        let said = failure.first().map(|f| format!(" {}: {}", f.code, f.message)).unwrap_or_default();
        let said = format!("code {status} {}", foreign_text(&said, secrets));
        Err(match status {
            429 => Error::Throttled { retry_after: after, message: format!("{registry} ({said})") },
            400..=499 => {
                Error::Denied(format!("{registry} refuses a token ({said}); the identity needs a role of it, such as AcrPull"))
            }
            _ => Error::unavailable(format!("{registry} gave no token ({said})")),
        })
    }
}

#[async_trait]
impl Generator for Acr {
    async fn generate(&self) -> Result<Generated> {
        let entra = self.identity.token().await?;
        let entra = entra.token.secret();
        let mut form = vec![("grant_type", "access_token"), ("service", self.registry.as_str()), ("access_token", entra)];
        form.extend(self.tenant.as_deref().map(|tenant| ("tenant", tenant)));
        let refresh = self.ask("exchange", &form, &[entra]).await?.refresh_token;
        let password = match &self.scope {
            None => refresh,
            Some(scope) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", self.registry.as_str()),
                    ("scope", scope),
                    ("refresh_token", refresh.as_str()),
                ];
                self.ask("token", &form, &[&refresh]).await?.access_token
            }
        };
        if password.is_empty() {
            return Err(Error::unavailable(format!("{} answered without a token", self.registry)));
        }
        let values = BTreeMap::from([
            ("username".to_owned(), SecretBytes::from(USER)),
            ("password".to_owned(), SecretBytes::from(password.as_str())),
        ]);
        Ok(Generated { values, lease: None })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resolver::Fixed;

    #[tokio::test]
    async fn a_token_goes_to_registries_of_azure_only() {
        let principal = json!({"servicePrincipal": {"secretRef": {"clientId": {"name": "a"}, "clientSecret": {"name": "a"}}}});
        for (registry, auth, needle) in [
            ("evil.example", principal.clone(), "is no registry of PublicCloud"),
            ("evil.example/.azurecr.io", principal.clone(), "is no registry"),
            ("azurecr.io", principal.clone(), "is no registry"),
            ("my.azurecr.io:x", principal.clone(), "is no registry"),
            ("my.azurecr.io", json!({}), "names none, or more than one"),
            ("my.azurecr.io", json!({"managedIdentity": {}, "workloadIdentity": {}}), "names none, or more than one"),
        ] {
            let spec = serde_json::from_value(json!({"registry": registry, "tenantId": "t", "auth": auth})).expect("a spec");
            let error = connect(spec, Arc::new(Fixed("x".into())), &Options::default()).await.err().expect(needle).to_string();
            assert!(error.contains(needle), "{error}");
        }
        let spec =
            serde_json::from_value(json!({"registry": "My.azurecr.io", "tenantId": "t", "auth": principal})).expect("a spec");
        assert!(connect(spec, Arc::new(Fixed("x".into())), &Options::default()).await.is_ok());
    }
}
