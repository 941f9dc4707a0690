//! Writes through one connection: under the same limits as its reads, and closed when those are.

use std::sync::Arc;
use std::time::Duration;

use lockstep_providers::{Deleted, Push, Pushed, Result, Target};

use super::Reader;

/// How long one write may take, its own reads included.
const WRITE: Duration = Duration::from_secs(60);

impl Reader {
    /// Makes a remote secret have a value.
    ///
    /// # Errors
    /// What [`lockstep_providers::Provider::push`] answers.
    pub async fn push(self: &Arc<Self>, push: &Push) -> Result<Pushed> {
        self.one_call("push", drop, self.with_retries(WRITE, || self.provider.push(push))).await.map(|(pushed, _)| pushed)
    }

    /// Deletes a remote secret, or a property of it.
    ///
    /// # Errors
    /// What [`lockstep_providers::Provider::delete`] answers.
    pub async fn delete(self: &Arc<Self>, target: &Target) -> Result<Deleted> {
        self.one_call("delete", drop, self.with_retries(WRITE, || self.provider.delete(target))).await.map(|(deleted, _)| deleted)
    }
}
