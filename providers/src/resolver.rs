//! How a provider gets at the objects that a store's spec refers to: through one door, which knows the tenant.

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

    /// PEM of certificate authorities from a Secret or ConfigMap.
    async fn ca(&self, field: &str, provider: &CaProvider) -> Result<Vec<u8>>;

    /// A fresh token of a service account, for `audiences` and the selector's own; none at all means the API server's.
    async fn service_account_token(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
        audiences: &[String],
        life: Duration,
    ) -> Result<SecretBytes>;

    /// The token of the pod that the operator runs in: only where a spec asks for it.
    async fn own_token(&self, field: &str) -> Result<SecretBytes>;

    /// Where the operator's own API server is; no credentials.
    fn own_cluster(&self) -> OwnCluster;
}

/// The operator's own API server.
#[derive(Clone, Debug, Default)]
pub struct OwnCluster {
    /// Its URL.
    pub url: String,
    /// DER of the certificate authorities that it is trusted by; empty: the system's.
    pub ca: Vec<Vec<u8>>,
}
