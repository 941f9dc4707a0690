//! Writes through one connection: under the same limits as its reads, and closed when those are.

use std::sync::Arc;
use std::time::Duration;

use lockstep_providers::{Deleted, Push, Pushed, Result, Target};

use serde_json::{Value, json};

use super::{Reader, payload_hash};
use crate::audit::{Action, Trail};

/// How long one write may take, its own reads included.
const WRITE: Duration = Duration::from_secs(60);

/// What is pushed, as the audit trail has it.
fn pushed(trail: &Trail, push: &Push) -> Value {
    json!({"key": push.target.key, "property": push.target.property, "hash": payload_hash(trail, &push.value)})
}

impl Reader {
    /// Makes a remote secret have a value.
    ///
    /// # Errors
    /// What [`lockstep_providers::Provider::push`] answers.
    pub async fn push(self: &Arc<Self>, push: &Push) -> Result<Pushed> {
        let answer = self.one_call("push", drop, self.with_retries(WRITE, || self.provider.push(push))).await;
        self.trail.record(Action::Push, || pushed(&self.trail, push), &answer);
        answer.map(|(pushed, _)| pushed)
    }

    /// Deletes a remote secret, or a property of it.
    ///
    /// # Errors
    /// What [`lockstep_providers::Provider::delete`] answers.
    pub async fn delete(self: &Arc<Self>, target: &Target) -> Result<Deleted> {
        let answer = self.one_call("delete", drop, self.with_retries(WRITE, || self.provider.delete(target))).await;
        self.trail.record(Action::Delete, || json!({"key": target.key, "property": target.property}), &answer);
        answer.map(|(deleted, _)| deleted)
    }
}
