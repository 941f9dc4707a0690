//! Leader election by a Lease: one replica works, the others wait.
//!
//! The rules are client-go's: a lease counts as free when its holder let it go, or when it did not change for its whole
//! duration as measured by this process' own monotonic clock, so the clocks of two nodes need not agree. The holder renews
//! at a third of the duration and takes it as lost at two thirds: then nothing is written any more and the process ends,
//! before anybody else may begin. A process that was paused finds that moment over when it goes on ([`crate::ownership`]).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use crate::ownership::{Hold, Ownership};

/// Which lease, and as whom.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// This replica.
    pub identity: String,
    /// How long a holder that is not heard of keeps it.
    pub duration: Duration,
}

/// How often a waiting replica looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A held lease.
pub struct Leadership {
    api: Api<Lease>,
    election: Election,
    lease: Lease,
    renewed: Instant,
}

impl Election {
    /// Waits until the lease is ours.
    pub async fn win(&self, client: &Client) -> Leadership {
        let api: Api<Lease> = Api::namespaced(client.clone(), &self.namespace);
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            let asked = Instant::now();
            match self.attempt(&api, &mut seen).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = %self.name, identity = %self.identity, "leading");
                    return Leadership { api, election: self.clone(), lease, renewed: asked };
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = %crate::external_secret::kube_error(&error), "the lease could not be asked for; trying again");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn attempt(&self, api: &Api<Lease>, seen: &mut Option<(Option<String>, Instant)>) -> kube::Result<Option<Lease>> {
        let Some(lease) = api.get_opt(&self.name).await? else {
            return taken(api.create(&PostParams::default(), &self.lease(None)).await);
        };
        let version = lease.metadata.resource_version.clone();
        let since = match seen {
            Some((known, since)) if *known == version => *since,
            _ => seen.insert((version, Instant::now())).1,
        };
        let spec = lease.spec.as_ref();
        let free = spec.and_then(|s| s.holder_identity.as_deref()).is_none_or(|h| h.is_empty() || h == self.identity);
        let duration = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let expired = since.elapsed() > duration.map_or(self.duration, Duration::from_secs);
        if !free && !expired {
            return Ok(None);
        }
        taken(api.replace(&self.name, &PostParams::default(), &self.lease(Some(&lease))).await)
    }

    fn is_held_by_us(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.identity)
    }

    fn lease(&self, before: Option<&Lease>) -> Lease {
        let spec = before.and_then(|l| l.spec.as_ref());
        let mine = spec.and_then(|s| s.holder_identity.as_deref()) == Some(&self.identity);
        let now = MicroTime(Timestamp::now());
        let acquired = spec.and_then(|s| s.acquire_time.clone()).filter(|_| mine).unwrap_or_else(|| now.clone());
        let transitions = spec.and_then(|s| s.lease_transitions).unwrap_or(0) + i32::from(before.is_some() && !mine);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                resource_version: before.and_then(|l| l.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                acquire_time: Some(acquired),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// A conflict means that somebody else was faster.
fn taken(answer: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match answer {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

impl Leadership {
    /// Lets everything be written for as long as the lease is counted on.
    pub fn prolong(&self, ownership: &Ownership) {
        ownership.set(0, Hold::Until(self.renewed + self.election.duration * 2 / 3));
    }

    /// Renews the lease; returns only when it is lost, and nothing is written any more then.
    pub async fn hold(&mut self, ownership: &Ownership) {
        self.renew(ownership).await;
        ownership.set(0, Hold::No);
    }

    async fn renew(&mut self, ownership: &Ownership) {
        let (every, deadline) = (self.election.duration / 3, self.election.duration * 2 / 3);
        loop {
            tokio::time::sleep_until(self.renewed + every).await;
            let lost_at = self.renewed + deadline;
            loop {
                let asked = Instant::now();
                let lease = self.election.lease(Some(&self.lease));
                let params = PostParams::default();
                let renewal = self.api.replace(&self.election.name, &params, &lease);
                match tokio::time::timeout_at(lost_at, renewal).await {
                    Ok(Ok(lease)) => {
                        self.lease = lease;
                        self.renewed = asked;
                        self.prolong(ownership);
                        break;
                    }
                    Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                        // Either another holds it, or a renewal of ours went through and its answer was lost.
                        match tokio::time::timeout_at(lost_at, self.api.get_opt(&self.election.name)).await {
                            Ok(Ok(Some(lease))) if self.election.is_held_by_us(&lease) => self.lease = lease,
                            _ => return,
                        }
                    }
                    Ok(Err(_)) if Instant::now() + Duration::from_millis(500) < lost_at => {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        }
    }

    /// Lets the lease go, so that another replica need not wait for its end.
    pub async fn release(self) {
        let mut lease = self.election.lease(Some(&self.lease));
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        if let Err(error) = self.api.replace(&self.election.name, &PostParams::default(), &lease).await {
            tracing::warn!(error = %crate::external_secret::kube_error(&error), "the lease could not be released; it ends by itself");
        }
    }
}
