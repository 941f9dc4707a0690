//! OpenBao under its own name: it is Vault's API and Vault's fields, and messages name the field that the user wrote.

use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::store::vault::VaultProvider;

use super::{FIELD, Vault};
use crate::registry::Options;
use crate::{
    Capabilities, Deleted, Error, Fetched, Find, Found, Provider, Push, Pushed, Resolver, Result, Target, Validity, Want,
};

/// A connection to one OpenBao as one identity.
pub(crate) struct OpenBao(Vault);

pub(crate) async fn connect(spec: VaultProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<OpenBao> {
    super::connect(spec, resolver, options).await.map(OpenBao).map_err(renamed)
}

fn renamed(error: Error) -> Error {
    error.map_text(|text| text.replace(FIELD, "spec.provider.openbao"))
}

#[async_trait]
impl Provider for OpenBao {
    async fn validate(&self) -> Result<Validity> {
        self.0.validate().await.map_err(renamed)
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        self.0.get(wants).await.into_iter().map(|answer| answer.map_err(renamed)).collect()
    }

    async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        self.0.find(query).await.map_err(renamed)
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.0.push(push).await.map_err(renamed)
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        self.0.delete(target).await.map_err(renamed)
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
