//! As whom requests to a vault are made: an application with a secret or a certificate, a machine, or a service account that an
//! application trusts. One token a connection, got again ahead of its end.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions};
use azure_core::http::{ClientMethodOptions, ClientOptions};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
};
use lockstep_crds::meta::{SecretKeySelector, ServiceAccountSelector};
use lockstep_crds::store::azurekv::{AzureAuthSecretRef, AzureAuthType, AzureProvider};
use reqwest::{Client, Url};
use serde_json::json;
use zeroize::Zeroizing;

use super::FIELD;
use super::certificates::ClientCertificate;
use super::cloud::Cloud;
use super::wire::{Carrier, Peer, meaning, wrapped};
use crate::held::{Given, Held};
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Resolver, Result};

const CLIENT_ANNOTATION: &str = "azure.workload.identity/client-id";
const TENANT_ANNOTATION: &str = "azure.workload.identity/tenant-id";
/// The audience that Entra ID wants of a federated token.
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Life of a token that is exchanged at once.
const TOKEN_LIFE: Duration = Duration::from_secs(900);

/// Gets the token of a connection, and keeps it.
pub(super) struct Identity {
    who: Who,
    cloud: Cloud,
    http: Client,
    resolver: Arc<dyn Resolver>,
    timeout: Duration,
    imds: Option<Url>,
    /// `AZURE_TENANT_ID` of the operator, where nothing else says the tenant: it is no credential.
    own_tenant: Option<String>,
    held: Held<AccessToken>,
}

enum Who {
    Secret {
        tenant: Id,
        client: Id,
        secret: Zeroizing<String>,
    },
    Certificate {
        tenant: Id,
        client: Id,
        certificate: Box<ClientCertificate>,
    },
    Machine {
        client: Option<String>,
    },
    Account {
        account: ServiceAccountSelector,
        tenant: Option<Id>,
        client: Option<Id>,
    },
    /// The operator's own federated token.
    Own {
        tenant: Id,
        client: Id,
        file: String,
    },
}

/// A tenant's or an application's id. One that came from a Secret is not shown: whoever writes a store may name any key of any
/// Secret there.
#[derive(Clone)]
struct Id {
    text: Zeroizing<String>,
    shown: String,
    hidden: bool,
}

impl Id {
    fn open(text: &str) -> Self {
        Self { text: Zeroizing::new(text.to_owned()), shown: crate::error::foreign_text(text, &[]), hidden: false }
    }

    /// As Entra ID has them: GUIDs, and domains for tenants. They become part of a URL.
    fn checked(self, field: &str) -> Result<Self> {
        let formed =
            (1..=253).contains(&self.text.len()) && self.text.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
        if formed { Ok(self) } else { Err(Error::invalid(field, "is no id of a tenant or an application")) }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads what the spec refers to. No request goes out to Azure yet.
    pub(super) async fn new(spec: &AzureProvider, cloud: &Cloud, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        let who = match spec.auth_type {
            AzureAuthType::ServicePrincipal => principal(spec, &*resolver).await?,
            AzureAuthType::ManagedIdentity => {
                resolver.check_own_identity(&format!("{FIELD}.authType"))?;
                Who::Machine { client: spec.identity_id.clone().filter(|id| !id.is_empty()) }
            }
            AzureAuthType::WorkloadIdentity => workload(spec, &*resolver, options).await?,
        };
        // The metadata service is the operator's own, and no tenant gave its address.
        let anywhere = matches!(who, Who::Machine { .. });
        let http = http::client(FIELD, Tls { anywhere, ..Tls::default() }, options)?;
        let imds = options.endpoints.get("azure/imds").and_then(|url| Url::parse(&url).ok());
        let cloud = if matches!(who, Who::Own { .. }) { cloud.clone().for_own(spec, options)? } else { cloud.clone() };
        Ok(Self {
            who,
            cloud,
            http,
            resolver,
            timeout: options.timeout,
            imds,
            own_tenant: options.endpoints.get("azure/tenant"),
            held: Held::default(),
        })
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// [`Error::Denied`] names who was refused, and by which code.
    pub(super) async fn token(&self) -> Result<AccessToken> {
        self.held.get(Box::pin(self.load())).await
    }

    /// Lets go of a token that Azure says has ended; answers whether there may be another one.
    pub(super) async fn forget(&self, ended: &AccessToken) -> bool {
        self.held.forget(|held| held.token.secret() == ended.token.secret()).await
    }

    async fn load(&self) -> Result<Given<AccessToken>> {
        let (credential, what) = self.credential().await?;
        let scopes = [self.cloud.scope.as_str()];
        let late = |_| Error::unreachable(format!("Azure did not answer {what} in time"));
        let token = tokio::time::timeout(self.timeout, credential.get_token(&scopes, None)).await.map_err(late)?;
        let token = token.map_err(|error| meaning(&what, &error))?;
        let end = SystemTime::from(token.expires_on);
        Ok((token, Some(end)))
    }

    /// A credential of the SDK, which is asked once.
    async fn credential(&self) -> Result<(Arc<dyn TokenCredential>, String)> {
        let made = |what: &str| {
            let what = what.to_owned();
            move |error: azure_core::Error| meaning(&what, &error)
        };
        match &self.who {
            Who::Secret { tenant, client, secret } => {
                let what = format!("a token of application {} in tenant {}", client.shown, tenant.shown);
                let options = ClientSecretCredentialOptions { client_options: self.entra(&what, &[tenant, client], secret) };
                let (id, secret) = (client.text.to_string(), Secret::new(secret.to_string()));
                let credential = ClientSecretCredential::new(&tenant.text, id, secret, Some(options)).map_err(made(&what))?;
                Ok((credential, what))
            }
            Who::Certificate { tenant, client, certificate } => {
                let audience = format!("{}{}/oauth2/v2.0/token", self.cloud.authority, tenant.text.as_str());
                let assertion = certificate.assertion(&client.text, &audience)?;
                let what = format!("a token of application {} in tenant {}, by its certificate", client.shown, tenant.shown);
                self.asserted(tenant, client, assertion, what)
            }
            Who::Account { account, tenant, client } => {
                let field = format!("{FIELD}.serviceAccountRef");
                let annotations = self.resolver.service_account_annotations(&field, account).await?;
                let of = |given: &Option<Id>, annotation: &str, place: &str, default: &Option<String>| {
                    let annotated = || annotations.get(annotation).filter(|a| !a.is_empty()).map(|a| Id::open(a));
                    let found = given.clone().or_else(annotated).or_else(|| default.as_deref().map(Id::open));
                    let found = found.ok_or_else(|| {
                        let why =
                            format!("ServiceAccount {} has no annotation {annotation}, and {place} is not set", account.name);
                        Error::invalid(&field, why)
                    })?;
                    found.checked(&field)
                };
                if let (Some(given), Some(annotated)) = (client, annotations.get(CLIENT_ANNOTATION))
                    && given.text.as_str() != annotated
                {
                    let why = format!(
                        "{FIELD}.authSecretRef.clientId names another application than its annotation {CLIENT_ANNOTATION}"
                    );
                    return Err(Error::invalid(&field, why));
                }
                let client = of(client, CLIENT_ANNOTATION, &format!("{FIELD}.authSecretRef.clientId"), &None)?;
                let tenant = of(tenant, TENANT_ANNOTATION, &format!("{FIELD}.tenantId"), &self.own_tenant)?;
                let audiences = [AUDIENCE.to_owned()];
                let token = self.resolver.service_account_token(&field, account, &audiences, TOKEN_LIFE).await?;
                let token = http::header_token(&field, &token)?;
                let what = format!(
                    "a token of application {} in tenant {} for ServiceAccount {}",
                    client.shown, tenant.shown, account.name
                );
                self.asserted(&tenant, &client, token, what)
            }
            Who::Own { tenant, client, file } => {
                let text = tokio::fs::read(file).await;
                let text =
                    text.map_err(|error| Error::invalid(FIELD, format!("the operator's own token can't be read ({error})")))?;
                let token = http::header_token(FIELD, &crate::SecretBytes::new(text))?;
                let what =
                    format!("a token of application {} in tenant {} for the operator's own pod", client.shown, tenant.shown);
                self.asserted(tenant, client, token, what)
            }
            Who::Machine { client } => {
                let what = match client {
                    Some(client) => format!("a token of identity {client} of the operator's own machine"),
                    None => "a token of the operator's own machine".to_owned(),
                };
                let carrier = Carrier::new(self.http.clone(), None, self.imds.clone(), Peer::Machine);
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client.clone().map(UserAssignedId::ClientId),
                    client_options: carrier.options(),
                };
                let credential = ManagedIdentityCredential::new(Some(options)).map_err(made(&what))?;
                Ok((credential, what))
            }
        }
    }

    fn asserted(
        &self,
        tenant: &Id,
        client: &Id,
        assertion: Zeroizing<String>,
        what: String,
    ) -> Result<(Arc<dyn TokenCredential>, String)> {
        let options = ClientAssertionCredentialOptions { client_options: self.entra(&what, &[tenant, client], &assertion) };
        let (tenant, client) = (tenant.text.to_string(), client.text.to_string());
        let credential = ClientAssertionCredential::new(tenant, client, Assertion(assertion), Some(options));
        let credential = credential.map_err(|error| meaning(&what, &error))?;
        Ok((credential, what))
    }

    fn entra(&self, what: &str, ids: &[&Id], secret: &Zeroizing<String>) -> ClientOptions {
        let authority = &self.cloud.authority;
        let hidden = ids.iter().filter(|id| id.hidden).map(|id| id.text.clone()).chain([secret.clone()]).collect();
        let carrier = Carrier::new(self.http.clone(), Some(authority.clone()), None, Peer::Entra(what.to_owned())).hiding(hidden);
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = authority.to_string();
        ClientOptions { cloud: Some(Arc::new(CloudConfiguration::from(cloud))), ..carrier.options() }
    }
}

/// The vault's clients get the connection's token, and none for anything else.
#[async_trait]
impl TokenCredential for Identity {
    async fn get_token(&self, scopes: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        if scopes != [self.cloud.scope.as_str()] {
            let asked = crate::error::foreign_text(&scopes.join(" "), &[]);
            let why = format!("asks for a token for {asked:?}, and not for {}", self.cloud.scope);
            return Err(wrapped(Error::invalid(format!("{FIELD}.vaultUrl"), why)));
        }
        self.token().await.map_err(wrapped)
    }
}

/// A token that stands for an application's secret.
struct Assertion(Zeroizing<String>);

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertion")
    }
}

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.to_string())
    }
}

async fn text(resolver: &dyn Resolver, name: &str, selector: &Option<SecretKeySelector>) -> Result<Option<Zeroizing<String>>> {
    let field = format!("{FIELD}.authSecretRef.{name}");
    match selector {
        None => Ok(None),
        Some(selector) => {
            let bytes = resolver.secret_key(&field, selector, None).await?;
            http::header_token(&field, &bytes).map(Some)
        }
    }
}

/// An id that lies in a Secret.
async fn hidden(resolver: &dyn Resolver, name: &str, selector: &Option<SecretKeySelector>) -> Result<Option<Id>> {
    let Some(text) = text(resolver, name, selector).await? else { return Ok(None) };
    let shown = format!("of {FIELD}.authSecretRef.{name}");
    Id { text, shown, hidden: true }.checked(&format!("{FIELD}.authSecretRef.{name}")).map(Some)
}

async fn principal(spec: &AzureProvider, resolver: &dyn Resolver) -> Result<Who> {
    let field = format!("{FIELD}.authSecretRef");
    let none = AzureAuthSecretRef::default();
    let given = spec.auth_secret_ref.as_ref().unwrap_or(&none);
    let tenant = match spec.tenant_id.as_deref().filter(|t| !t.is_empty()) {
        Some(tenant) => Id::open(tenant).checked(&format!("{FIELD}.tenantId"))?,
        None => match hidden(resolver, "tenantId", &given.tenant_id).await? {
            Some(tenant) => tenant,
            None => return Err(Error::invalid(format!("{FIELD}.tenantId"), "is not set; name the tenant of the application")),
        },
    };
    let client = hidden(resolver, "clientId", &given.client_id).await?;
    let client = client.ok_or_else(|| Error::invalid(format!("{field}.clientId"), "is not set; it names the application"))?;
    match (&given.client_secret, &given.client_certificate) {
        (Some(_), Some(_)) => Err(Error::invalid(field, "names clientSecret and clientCertificate; keep one")),
        (None, None) => Err(Error::invalid(field, "names neither clientSecret nor clientCertificate")),
        (Some(_), None) => {
            let secret = text(resolver, "clientSecret", &given.client_secret).await?.unwrap_or_default();
            Ok(Who::Secret { tenant, client, secret })
        }
        (None, Some(selector)) => {
            let field = format!("{field}.clientCertificate");
            let bytes = resolver.secret_key(&field, selector, None).await?;
            let certificate = Box::new(ClientCertificate::parse(&field, &bytes)?);
            Ok(Who::Certificate { tenant, client, certificate })
        }
    }
}

async fn workload(spec: &AzureProvider, resolver: &dyn Resolver, options: &Options) -> Result<Who> {
    let own = |name: &str| options.endpoints.get(&format!("azure/{name}"));
    let Some(account) = &spec.service_account_ref else {
        resolver.check_own_identity(&format!("{FIELD}.serviceAccountRef"))?;
        let (Some(tenant), Some(client), Some(file)) = (own("tenant"), own("client"), own("token-file")) else {
            let why = "is not set, and the operator's own pod has no workload identity (AZURE_CLIENT_ID, AZURE_TENANT_ID, \
                       AZURE_FEDERATED_TOKEN_FILE); name a service account";
            return Err(Error::invalid(format!("{FIELD}.serviceAccountRef"), why));
        };
        return Ok(Who::Own { tenant: Id::open(&tenant), client: Id::open(&client), file });
    };
    let none = AzureAuthSecretRef::default();
    let given = spec.auth_secret_ref.as_ref().unwrap_or(&none);
    let client = hidden(resolver, "clientId", &given.client_id).await?;
    let tenant = match hidden(resolver, "tenantId", &given.tenant_id).await? {
        Some(tenant) => Some(tenant),
        None => spec.tenant_id.as_deref().filter(|t| !t.is_empty()).map(Id::open),
    };
    Ok(Who::Account { account: account.clone(), tenant, client })
}

/// The claims of an application's assertion
/// (<https://learn.microsoft.com/entra/identity-platform/certificate-credentials#assertion-format>).
pub(super) fn claims(client: &str, audience: &str, id: &str) -> serde_json::Value {
    let now = jiff::Timestamp::now().as_second();
    json!({"aud": audience, "iss": client, "sub": client, "jti": id, "iat": now, "nbf": now, "exp": now + 300})
}
