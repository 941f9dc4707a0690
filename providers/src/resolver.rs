//! How a provider gets at the objects that a store's spec refers to: through one door, which knows the tenant.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use lockstep_crds::meta::{CaProvider, SecretKeySelector, ServiceAccountSelector};

use crate::{Result, SecretBytes};

/// Reads what a store refers to, on behalf of that store and of nobody else.
///
/// An implementation knows the caller's namespace and refuses to leave it: a namespaced store that names another namespace
/// gets [`crate::Error::Invalid`]. `field` is where the reference stands, for messages.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// A key of a Secret. `default_key` is taken where the selector names none.
    async fn secret_key(&self, field: &str, selector: &SecretKeySelector, default_key: Option<&str>) -> Result<SecretBytes>;

    /// All keys of a Secret, which must carry the label if one is named.
    async fn secret_data(
        &self,
        field: &str,
        selector: &SecretKeySelector,
        label: Option<(&str, &str)>,
    ) -> Result<BTreeMap<String, SecretBytes>>;

    /// Text that is no secret, from a ConfigMap or a Secret: certificate authorities, configurations.
    async fn document(&self, field: &str, provider: &CaProvider) -> Result<Vec<u8>>;

    /// A fresh token of a service account, for `audiences` and the selector's own; none at all means the API server's.
    async fn service_account_token(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
        audiences: &[String],
        life: Duration,
    ) -> Result<SecretBytes>;

    /// Annotations of a service account: clouds keep there which identity of theirs it is.
    async fn service_account_annotations(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
    ) -> Result<BTreeMap<String, String>>;

    /// Whether a store that names no identity may be the operator's own. An error says why not.
    fn check_own_identity(&self, field: &str) -> Result<()>;

    /// The token of the pod that the operator runs in: only where a spec asks for it.
    async fn own_token(&self, field: &str) -> Result<SecretBytes>;

    /// Where the operator's own API server is; no credentials.
    fn own_cluster(&self) -> OwnCluster;

    /// On whose behalf it reads.
    fn caller(&self) -> Caller;
}

/// A store, and who uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Whether it is a ClusterSecretStore.
    pub cluster_store: bool,
    /// The store's name.
    pub store: String,
    /// The namespace of the store; for a cluster store that of its user, where the connection is that user's alone.
    pub namespace: Option<String>,
}

/// The operator's own API server.
#[derive(Clone, Debug, Default)]
pub struct OwnCluster {
    /// Its URL.
    pub url: String,
    /// DER of the certificate authorities that it is trusted by; empty: the system's.
    pub ca: Vec<Vec<u8>>,
}

/// Answers every reference with one text: for tests of providers.
#[cfg(any(test, feature = "conformance"))]
#[derive(Clone, Debug)]
pub struct Fixed(pub String);

#[cfg(any(test, feature = "conformance"))]
#[async_trait]
impl Resolver for Fixed {
    async fn secret_key(&self, _: &str, _: &SecretKeySelector, _: Option<&str>) -> Result<SecretBytes> {
        Ok(SecretBytes::from(self.0.as_str()))
    }
    async fn secret_data(
        &self,
        _: &str,
        _: &SecretKeySelector,
        _: Option<(&str, &str)>,
    ) -> Result<BTreeMap<String, SecretBytes>> {
        Ok(BTreeMap::from([("key".to_owned(), SecretBytes::from(self.0.as_str()))]))
    }
    async fn document(&self, _: &str, _: &CaProvider) -> Result<Vec<u8>> {
        Ok(self.0.as_bytes().to_vec())
    }
    async fn service_account_token(&self, _: &str, _: &ServiceAccountSelector, _: &[String], _: Duration) -> Result<SecretBytes> {
        Ok(SecretBytes::from(self.0.as_str()))
    }
    async fn service_account_annotations(&self, _: &str, _: &ServiceAccountSelector) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
    fn check_own_identity(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn own_token(&self, _: &str) -> Result<SecretBytes> {
        Ok(SecretBytes::from(self.0.as_str()))
    }
    fn own_cluster(&self) -> OwnCluster {
        OwnCluster::default()
    }
    fn caller(&self) -> Caller {
        Caller::default()
    }
}
