//! A token of Google Cloud, as its registries take it for a password.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use lockstep_crds::generator::gcr::GcrAccessTokenSpec;

use super::identity::{Auth, Identity};
use crate::generator::{Generated, Generator};
use crate::registry::Options;
use crate::{Resolver, Result, SecretBytes};

/// The user name that Google's registries want beside a token
/// (<https://cloud.google.com/artifact-registry/docs/docker/authentication#token>).
const USER: &str = "oauth2accesstoken";

/// Gives tokens of one identity.
pub(crate) struct Gcr(Identity);

pub(crate) async fn connect(spec: GcrAccessTokenSpec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Gcr> {
    let given = Auth { field: "spec.auth".into(), auth: Some(&spec.auth), project: Some(&spec.project_id) };
    Identity::new(given, resolver, options).await.map(Gcr)
}

#[async_trait]
impl Generator for Gcr {
    async fn generate(&self) -> Result<Generated> {
        let (token, end) = Box::pin(self.0.load()).await?;
        let end = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
        let mut values = BTreeMap::from([
            ("username".to_owned(), SecretBytes::from(USER)),
            ("password".to_owned(), SecretBytes::from(token.text())),
        ]);
        if let Some(end) = end {
            values.insert("expiry".to_owned(), SecretBytes::from(end.as_secs().to_string()));
        }
        Ok(Generated { values, lease: None })
    }
}
