//! AWS Secrets Manager and Parameter Store, on AWS's own SDK.
//!
//! [`connect`] checks the spec; [`identity`] holds the credentials; [`secrets_manager`] and [`parameter_store`] turn keys into
//! calls and answers into values; [`wire`] carries the SDK's requests and says what a failure means.

pub(crate) mod generators;
#[cfg(any(feature = "gcp", feature = "vault"))]
pub(crate) mod iam;
mod identity;
mod parameter_store;
mod secrets_manager;
mod signed;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use lockstep_crds::store::aws::{AwsProvider, AwsService, AwsSessionTagsPolicy};
use serde_json::{Map, Value};

use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Error, Fetched, Find, Found, Payload, Provider, Push, Pushed, Resolver, Result, SecretBytes,
    Target, Validity, Want,
};
use identity::{Auth, Identity, Role};
use parameter_store::ParameterStore;
use secrets_manager::SecretsManager;
use wire::Carrier;

const FIELD: &str = "spec.provider.aws";
/// Calls at once on one connection; AWS's limits are for an account and a region.
const CONCURRENCY: usize = 8;

/// A connection to one service of one region as one identity.
pub(crate) struct Aws {
    identity: Arc<Identity>,
    /// Where the service is.
    at: (String, u16, Options),
    service: Service,
}

enum Service {
    Secrets(SecretsManager),
    Parameters(ParameterStore),
}

pub(crate) async fn connect(spec: AwsProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Aws> {
    wire::check_region(&format!("{FIELD}.region"), &spec.region)?;
    check_deletion(&spec)?;
    let carrier = Carrier::new(options)?;
    let auth = Auth {
        field: format!("{FIELD}.auth"),
        role_field: format!("{FIELD}.role"),
        auth: spec.auth.as_ref(),
        roles: roles(&spec, &*resolver),
        region: &spec.region,
    };
    let identity = Arc::new(Identity::new(auth, resolver, &carrier, options).await?);
    let signer = SharedCredentialsProvider::new(Signer(identity.clone()));
    let config = wire::config(&carrier, &spec.region, options, Some(signer));
    let caller = Caller { identity: identity.clone(), region: spec.region.clone() };
    let prefix = spec.prefix.clone().unwrap_or_default();
    let name = if spec.service == AwsService::ParameterStore { "ssm" } else { "secretsmanager" };
    let at = wire::place(name, &spec.region, options);
    let service = match spec.service {
        AwsService::SecretsManager => {
            let mut config = aws_sdk_secretsmanager::config::Builder::from(&config);
            config.set_endpoint_url(options.endpoints.get("secretsmanager"));
            let client = aws_sdk_secretsmanager::Client::from_conf(config.build());
            Service::Secrets(SecretsManager::new(client, caller, prefix, spec.secrets_manager.unwrap_or_default()))
        }
        AwsService::ParameterStore => {
            let mut config = aws_sdk_ssm::config::Builder::from(&config);
            config.set_endpoint_url(options.endpoints.get("ssm"));
            let client = aws_sdk_ssm::Client::from_conf(config.build());
            Service::Parameters(ParameterStore::new(client, caller, prefix))
        }
        AwsService::CertificateManager => {
            let why = "CertificateManager is not served; use SecretsManager or ParameterStore";
            return Err(Error::Unsupported(format!("{FIELD}.service: {why}")));
        }
    };
    Ok(Aws { identity, at, service })
}

fn check_deletion(spec: &AwsProvider) -> Result<()> {
    let Some(settings) = &spec.secrets_manager else { return Ok(()) };
    let field = format!("{FIELD}.secretsManager");
    let window = settings.recovery_window_in_days.unwrap_or(0);
    if window != 0 && !(7..=30).contains(&window) {
        return Err(Error::invalid(format!("{field}.recoveryWindowInDays"), "must be 7 to 30 days"));
    }
    if window != 0 && settings.force_delete_without_recovery == Some(true) {
        return Err(Error::invalid(field, "names recoveryWindowInDays and forceDeleteWithoutRecovery; keep one"));
    }
    Ok(())
}

/// The roles of a spec in their order; the last one carries the session's tags.
fn roles(spec: &AwsProvider, resolver: &dyn Resolver) -> Vec<Role> {
    let plain = |arn: &String| Role { arn: arn.clone(), ..Role::default() };
    let mut roles: Vec<Role> = spec.additional_roles.iter().map(plain).collect();
    let Some(arn) = spec.role.clone().filter(|r| !r.is_empty()) else { return roles };
    let caller = resolver.caller();
    let kind = if caller.cluster_store { "ClusterSecretStore" } else { "SecretStore" };
    let of_store = || {
        [
            ("esoNamespace", caller.namespace.clone().unwrap_or_default()),
            ("esoStoreName", caller.store.clone()),
            ("esoStoreKind", kind.into()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    };
    let tags: BTreeMap<String, String> = match spec.session_tags_policy {
        AwsSessionTagsPolicy::None => spec.session_tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
        AwsSessionTagsPolicy::Simple => of_store().into(),
        AwsSessionTagsPolicy::Custom => spec.custom_session_tags.clone().into_iter().chain(of_store()).collect(),
    };
    // Without tags there is nothing that could go on.
    let transitive = if tags.is_empty() { Vec::new() } else { spec.transitive_tag_keys.clone() };
    roles.push(Role { arn, external_id: spec.external_id.clone(), tags, transitive, life: None });
    roles
}

/// Hands the SDK the connection's credentials.
#[derive(Debug)]
struct Signer(Arc<Identity>);

impl ProvideCredentials for Signer {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.provide_credentials()
    }
}

/// What both services share: credentials before a call, and once more after they turn out to have ended.
struct Caller {
    identity: Arc<Identity>,
    region: String,
}

impl Caller {
    async fn call<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        let used: Credentials = self.identity.credentials().await?;
        match call().await {
            Err(error) if wire::credentials_ended(&error) => match self.identity.renewed(&used).await? {
                Some(_) => call().await,
                None => Err(error),
            },
            other => other,
        }
    }
}

/// Tags as one flat JSON object.
fn tags_json<'a>(tags: impl Iterator<Item = (&'a str, &'a str)>) -> Fetched {
    let all: Map<String, Value> = tags.map(|(key, value)| (key.to_owned(), value.into())).collect();
    let payload = Payload::Bytes(SecretBytes::from(Value::Object(all).to_string()));
    Fetched::Value { payload: Arc::new(payload), version: None }
}

#[async_trait]
impl Provider for Aws {
    /// Gets credentials: who may read what is known only by reading. Credentials that are held say nothing about the service.
    async fn validate(&self) -> Result<Validity> {
        self.identity.credentials().await?;
        let (host, port, options) = &self.at;
        crate::http::reach(FIELD, host, *port, options).await.map(|()| Validity::Valid)
    }

    fn capabilities(&self) -> Capabilities {
        let batch = match &self.service {
            Service::Secrets(_) => secrets_manager::BATCH,
            Service::Parameters(_) => parameter_store::BATCH,
        };
        Capabilities { access: Access::ReadWrite, batch, concurrency: CONCURRENCY, takes_property: false }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        match &self.service {
            Service::Secrets(service) => service.get(wants).await,
            Service::Parameters(service) => service.get(wants).await,
        }
    }

    async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        match &self.service {
            Service::Secrets(service) => service.find(query).await,
            Service::Parameters(service) => service.find(query).await,
        }
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        match &self.service {
            Service::Secrets(service) => service.push(push).await,
            Service::Parameters(service) => service.push(push).await,
        }
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        match &self.service {
            Service::Secrets(service) => service.delete(target).await,
            Service::Parameters(service) => service.delete(target).await,
        }
    }
}
