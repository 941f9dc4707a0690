//! Which providers there are: one line each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_crds::store::Provider as Spec;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Provider, Resolver, Result};

/// What holds for every connection of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one request to the provider may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10) }
    }
}

macro_rules! registry {
    ($($feature:literal $name:literal => $module:ident),+ $(,)?) => {
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
                $name => Ok(Arc::new(crate::$module::connect(parse(name, value)?, resolver, options).await?)),)+
                unknown => Err(Error::Unsupported(format!(
                    "spec.provider.{unknown} is no provider of this build; known: {}", KNOWN.join(", ")
                ))),
            }
        }
    };
}

registry! {
    "fake" "fake" => fake,
    "kubernetes" "kubernetes" => kubernetes,
    "vault" "vault" => vault,
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

    fn spec(json: Value) -> Spec {
        serde_json::from_value(json).expect("a map")
    }

    struct Nothing;

    #[async_trait::async_trait]
    impl Resolver for Nothing {
        async fn secret_key(
            &self,
            field: &str,
            _: &lockstep_crds::meta::SecretKeySelector,
            _: Option<&str>,
        ) -> Result<crate::SecretBytes> {
            Err(Error::invalid(field, "nothing here"))
        }
        async fn ca(&self, field: &str, _: &lockstep_crds::meta::CaProvider) -> Result<Vec<u8>> {
            Err(Error::invalid(field, "nothing here"))
        }
        async fn service_account_token(
            &self,
            field: &str,
            _: &lockstep_crds::meta::ServiceAccountSelector,
            _: &[String],
            _: Duration,
        ) -> Result<crate::SecretBytes> {
            Err(Error::invalid(field, "nothing here"))
        }
        async fn own_token(&self, field: &str) -> Result<crate::SecretBytes> {
            Err(Error::invalid(field, "nothing here"))
        }
        fn own_cluster(&self) -> crate::OwnCluster {
            crate::OwnCluster::default()
        }
    }

    #[tokio::test]
    async fn a_wrong_provider_block_is_named_and_its_text_is_not_repeated() {
        for (json, needle) in [
            (serde_json::json!({}), "names no provider"),
            (serde_json::json!({"fake": {"data": []}, "vault": {}}), "names fake and vault"),
            (serde_json::json!({"acme": {}}), "spec.provider.acme is no provider of this build; known: fake, kubernetes, vault"),
            (serde_json::json!({"vault": {}}), "missing field `server`"),
            (serde_json::json!({"fake": {"data": [{"key": "a", "value": ["canary"]}]}}), "spec.provider.fake: invalid type"),
            (serde_json::json!({"fake": {"data": "canary"}}), "expected a sequence"),
        ] {
            let error = connect(&spec(json), Arc::new(Nothing), &Options::default()).await.err().expect("an error").to_string();
            assert!(error.contains(needle), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
