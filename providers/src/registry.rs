//! Which providers there are: one line each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_crds::store::Provider as Spec;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::egress::Egress;
use crate::{Error, Provider, Resolver, Result};

/// What holds for every connection of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one request to the provider may take.
    pub timeout: Duration,
    /// Where clouds' services are that are not where they always are.
    pub endpoints: Arc<Endpoints>,
    /// Where connections may go.
    pub egress: Arc<Egress>,
    /// PEM of certificate authorities that are trusted beside the system's.
    pub authorities: Arc<Vec<u8>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), endpoints: Arc::default(), egress: Arc::default(), authorities: Arc::default() }
    }
}

/// What the operator's environment says of clouds: URLs of services that are not where they always are (private endpoints, and
/// emulators), and who it is itself on Azure. AWS's go by their names in its endpoints, others have their cloud before it, such
/// as `gcp/sts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(pub BTreeMap<String, String>);

impl Endpoints {
    /// The URL of a service.
    pub fn get(&self, service: &str) -> Option<String> {
        self.0.get(service).cloned()
    }

    /// From the variables that AWS's tools read (`AWS_ENDPOINT_URL_SSM`, `AWS_ENDPOINT_URL`) and those of other operators of
    /// this API (`AWS_SSM_ENDPOINT`), which go first; and those that Google's read (`CLOUDSDK_API_ENDPOINT_OVERRIDES_STS`,
    /// `GCE_METADATA_HOST`) and Azure's (`AZURE_AUTHORITY_HOST`, and those of its workload identity). `variable` reads one.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let services = [
            ("ecr", "ECR", "ECR"),
            ("ecr-public", "ECR_PUBLIC", "ECR_PUBLIC"),
            ("secretsmanager", "SECRETS_MANAGER", "SECRETSMANAGER"),
            ("ssm", "SSM", "SSM"),
            ("sts", "STS", "STS"),
        ];
        let url = |(name, sdk, other): (&str, &str, &str)| {
            let names = [format!("AWS_{other}_ENDPOINT"), format!("AWS_ENDPOINT_URL_{sdk}"), "AWS_ENDPOINT_URL".to_owned()];
            let found = names.iter().find_map(|name| variable(name).filter(|url| !url.is_empty()))?;
            Some((name.to_owned(), found))
        };
        let google = ["secretmanager", "sts", "iamcredentials", "securetoken", "oauth2"].into_iter().filter_map(|name| {
            let found = variable(&format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{}", name.to_uppercase()))?;
            Some((format!("gcp/{name}"), found)).filter(|(_, url)| !url.is_empty())
        });
        let azure = [
            ("azure/authority", "AZURE_AUTHORITY_HOST"),
            ("azure/imds", "AZURE_POD_IDENTITY_AUTHORITY_HOST"),
            ("azure/client", "AZURE_CLIENT_ID"),
            ("azure/tenant", "AZURE_TENANT_ID"),
            ("azure/token-file", "AZURE_FEDERATED_TOKEN_FILE"),
        ];
        let azure = azure.into_iter().filter_map(|(name, from)| Some((name.to_owned(), variable(from)?)));
        let metadata = variable("GCE_METADATA_HOST").filter(|host| !host.is_empty());
        let metadata = metadata.map(|host| ("gcp/metadata".to_owned(), format!("http://{host}")));
        Self(
            services
                .into_iter()
                .filter_map(url)
                .chain(google)
                .chain(azure)
                .chain(metadata)
                .filter(|(_, v)| !v.is_empty())
                .collect(),
        )
    }
}

macro_rules! registry {
    ($($feature:literal $name:literal => $($module:ident)::+),+ $(,)?) => {
        /// Names of the providers that this build knows, as they stand under `spec.provider`.
        pub const KNOWN: &[&str] = &[$(#[cfg(feature = $feature)] $name),+];

        /// Connects to the provider of a store's spec. No request goes out to the provider yet.
        ///
        /// # Errors
        /// [`Error::Unsupported`] names an unknown provider and the known ones; [`Error::Invalid`] names the wrong field;
        /// what the resolver answers for an auth object is passed on.
        pub async fn connect(spec: &Spec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Arc<dyn Provider>> {
            let (name, value) = the_one(&spec.0)?;
            match name {
                $(#[cfg(feature = $feature)]
                $name => Ok(Arc::new(crate::$($module::)+connect(parse(name, value)?, resolver, options).await?)),)+
                unknown => Err(Error::Unsupported(format!(
                    "spec.provider.{unknown} is no provider of this build; known: {}", KNOWN.join(", ")
                ))),
            }
        }
    };
}

registry! {
    "aws" "aws" => aws,
    "azure" "azurekv" => azure,
    "fake" "fake" => fake,
    "gcp" "gcpsm" => gcp,
    "kubernetes" "kubernetes" => kubernetes,
    "vault" "openbao" => vault::openbao,
    "vault" "vault" => vault,
    "webhook" "webhook" => webhook,
}

/// The provider's name under `spec.provider`.
///
/// # Errors
/// [`Error::Invalid`] unless there is exactly one.
pub fn the_one(spec: &BTreeMap<String, Value>) -> Result<(&str, &Value)> {
    let mut entries = spec.iter().filter(|(_, value)| !value.is_null());
    match (entries.next(), entries.next()) {
        (Some((name, value)), None) => Ok((name, value)),
        (None, _) => Err(Error::invalid("spec.provider", format!("names no provider; name one of {}", KNOWN.join(", ")))),
        (Some((a, _)), Some((b, _))) => {
            Err(Error::invalid("spec.provider", format!("names {a} and {b}; a store has exactly one provider")))
        }
    }
}

/// What is wrong with `spec.provider`, as far as can be said without anything that it refers to.
pub fn problems(spec: &BTreeMap<String, Value>) -> Vec<String> {
    match the_one(spec) {
        Err(error) => vec![error.to_string()],
        #[cfg(feature = "webhook")]
        Ok((name @ "webhook", value)) => match parse(name, value) {
            Ok(webhook) => crate::webhook::problems("spec.provider.webhook", &webhook),
            Err(error) => vec![error.to_string()],
        },
        Ok(_) => Vec::new(),
    }
}

fn parse<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|error| Error::invalid(format!("spec.provider.{name}"), without_quotes(&error.to_string())))
}

/// A parser's message without what it quotes of the input: the fake provider's input is values.
pub fn without_quotes(message: &str) -> String {
    let mut out = String::new();
    let mut parts = message.split('"');
    out.push_str(parts.next().unwrap_or_default());
    while let Some(_quoted) = parts.next() {
        out.push('…');
        out.push_str(parts.next().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::Fixed;

    fn spec(json: Value) -> Spec {
        serde_json::from_value(json).expect("a map")
    }

    #[tokio::test]
    async fn a_wrong_provider_block_is_named_and_its_text_is_not_repeated() {
        for (json, needle) in [
            (serde_json::json!({}), "names no provider"),
            (serde_json::json!({"fake": {"data": []}, "vault": {}}), "names fake and vault"),
            (
                serde_json::json!({"acme": {}}),
                "spec.provider.acme is no provider of this build; known: aws, azurekv, fake, gcpsm, kubernetes, openbao, vault, webhook",
            ),
            (serde_json::json!({"vault": {}}), "missing field `server`"),
            (serde_json::json!({"fake": {"data": [{"key": "a", "value": ["canary"]}]}}), "spec.provider.fake: invalid type"),
            (serde_json::json!({"fake": {"data": "canary"}}), "expected a sequence"),
        ] {
            let error = connect(&spec(json), Arc::new(Fixed(String::new())), &Options::default())
                .await
                .err()
                .expect("an error")
                .to_string();
            assert!(error.contains(needle), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
