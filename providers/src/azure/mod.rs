//! Azure Key Vault, on Microsoft's own SDK.
//!
//! [`connect`] checks the spec; [`identity`] gets tokens; [`vault`] turns keys into calls and answers into values, with
//! [`keys`] and [`certificates`] for what is no secret; [`wire`] carries the SDK's requests and says what a failure means.

mod certificates;
mod cloud;
pub(crate) mod generator;
mod identity;
mod keys;
mod vault;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::store::azurekv::AzureProvider;

use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Fetched, Find, Found, Provider, Push, Pushed, Resolver, Result, Target, Validity, Want,
};
use cloud::Cloud;
use identity::Identity;
use vault::Vault;

const FIELD: &str = "spec.provider.azurekv";
/// Reads at once on one connection; the limit is 4,000 in 10 s for a vault.
const CONCURRENCY: usize = 16;

/// A connection to one vault as one identity.
pub(crate) struct Azure {
    identity: Arc<Identity>,
    vault: Vault,
}

pub(crate) async fn connect(spec: AzureProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Azure> {
    let cloud = Cloud::of(&spec, options)?;
    let identity = Arc::new(Identity::new(&spec, &cloud, resolver, options).await?);
    let vault = Vault::new(&cloud, identity.clone(), options)?;
    Ok(Azure { identity, vault })
}

#[async_trait]
impl Provider for Azure {
    /// Gets a token: who may read what is known only by reading. A token that is held says nothing about the vault.
    async fn validate(&self) -> Result<Validity> {
        self.identity.token().await?;
        self.vault.reach().await.map(|()| Validity::Valid)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadWrite, batch: CONCURRENCY, concurrency: CONCURRENCY, takes_property: false }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        crate::in_order(wants.iter().map(|want| self.vault.get(want)).collect(), CONCURRENCY).await
    }

    async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        self.vault.find(query).await
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.vault.push(push).await
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        self.vault.delete(target).await
    }
}
