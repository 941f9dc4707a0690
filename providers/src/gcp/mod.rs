//! Google Cloud Secret Manager, on Google's own SDK.
//!
//! [`connect`] checks the spec; [`identity`] gets tokens, for workloads of other clouds by [`federation`]; [`secrets`] turns
//! keys into calls and answers into values; [`wire`] carries the SDK's requests and says what a failure means.

mod federation;
pub(crate) mod generator;
mod identity;
mod secrets;
#[cfg(feature = "vault")]
pub(crate) mod signed;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use lockstep_crds::store::gcpsm::GcpProvider;

use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Error, Fetched, Find, Found, Provider, Push, Pushed, Resolver, Result, Target, Validity, Want,
};
use identity::{Auth, Identity};
use secrets::Secrets;
use wire::Wire;

const FIELD: &str = "spec.provider.gcpsm";
/// Reads at once on one connection; Google's limit is 90,000 a minute for a project.
const CONCURRENCY: usize = 16;

/// A connection to the secrets of one project as one identity.
pub(crate) struct Gcp {
    identity: Arc<Identity>,
    secrets: Secrets,
}

pub(crate) async fn connect(spec: GcpProvider, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Gcp> {
    let fetch = match spec.secret_version_selection_policy.as_str() {
        "LatestOrFail" | "" => false,
        "LatestOrFetch" => true,
        _ => {
            let field = format!("{FIELD}.secretVersionSelectionPolicy");
            return Err(Error::invalid(field, "must be LatestOrFail or LatestOrFetch"));
        }
    };
    let location = spec.location.clone().filter(|l| !l.is_empty());
    if let Some(location) = &location {
        check_location(location)?;
    }
    let given = Auth { field: format!("{FIELD}.auth"), auth: spec.auth.as_ref(), project: spec.project_id.as_deref() };
    let identity = Arc::new(Identity::new(given, resolver, options).await?);
    let project = match spec.project_id.filter(|p| !p.is_empty()).or_else(|| identity.project()) {
        Some(project) => project,
        None => identity.own_project(&format!("{FIELD}.projectID")).await?,
    };
    check_project(&project)?;
    let wire = Wire::new(identity.clone(), location.as_deref(), options)?;
    Ok(Gcp { identity, secrets: Secrets::new(wire, &project, location.as_deref(), fetch) })
}

/// A project's id or number, which becomes part of a path. Ids of some domains begin with `example.com:`.
fn check_project(project: &str) -> Result<()> {
    let formed = project.len() <= 100 && project.chars().all(|c| c.is_ascii_alphanumeric() || "-.:".contains(c));
    let formed = formed && !project.starts_with('.') && !project.contains("..");
    if formed {
        Ok(())
    } else {
        Err(Error::invalid(format!("{FIELD}.projectID"), "is no project's id; write for example my-project-123"))
    }
}

/// A location, which becomes part of a host's name.
fn check_location(location: &str) -> Result<()> {
    let formed = location.len() <= 40
        && location.starts_with(|c: char| c.is_ascii_lowercase())
        && location.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if formed {
        Ok(())
    } else {
        Err(Error::invalid(format!("{FIELD}.location"), "is no location; write for example europe-west3"))
    }
}

#[async_trait]
impl Provider for Gcp {
    /// Gets a token: who may read what is known only by reading. A token that is held says nothing about Secret Manager.
    async fn validate(&self) -> Result<Validity> {
        self.identity.token().await?;
        self.secrets.reach().await.map(|()| Validity::Valid)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadWrite, batch: CONCURRENCY, concurrency: CONCURRENCY, takes_property: false }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        crate::in_order(wants.iter().map(|want| self.secrets.get(want)).collect(), CONCURRENCY).await
    }

    async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        self.secrets.find(query).await
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        self.secrets.push(push).await
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        self.secrets.delete(target).await
    }
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile_answer(bytes: &[u8]) {
    for status in [400, 401, 403, 404, 429, 500] {
        let _ = wire::failure("what", status, None, bytes, &[crate::hostile::CANARY]);
    }
}

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(crate) fn hostile_key(text: &crate::SecretBytes) {
    identity::Key::parse("f", text).err().iter().for_each(|error| crate::hostile::tells_nothing(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_and_locations_are_parts_of_urls_and_nothing_else() {
        for good in ["my-project-123", "123456789012", "example.com:app"] {
            assert!(check_project(good).is_ok(), "{good}");
        }
        for bad in ["a/b", "..", "a..b", "a?b", "a b", "a%2f"] {
            assert!(check_project(bad).is_err(), "{bad}");
        }
        for good in ["europe-west3", "us-central1", "me-central2"] {
            assert!(check_location(good).is_ok(), "{good}");
        }
        for bad in ["", "a.evil.com/", "EU", "1a", "a/b", "x@y"] {
            assert!(check_location(bad).is_err(), "{bad}");
        }
    }
}
