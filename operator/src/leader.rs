//! Leader election by a Lease: one replica works, the others wait.
//!
//! The rules are client-go's: a lease counts as free when its holder let it go, or when it did not change for its whole
//! duration as measured by this process' own monotonic clock, so the clocks of two nodes need not agree. The holder renews
//! at a third of the duration and takes it as lost at two thirds: then nothing is written any more and the process ends,
//! before anybody else may begin. A process that was paused finds that moment over when it goes on ([`crate::ownership`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
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

/// Label of the leases of replicas that share the work ([`crate::shards`]), and the end of a membership's name.
pub const LABEL_SET: &str = "lockstep.dev/shards-of";
/// What stands in the name of a replica's membership.
pub const MEMBER: &str = "-member-";

/// Since when leases have not changed, by this process' own clock.
#[derive(Default)]
pub struct Unchanged(HashMap<String, (Option<String>, Instant)>);

impl Unchanged {
    /// Who holds a lease: nobody when it was let go, or did not change for as long as it is meant to last.
    pub fn holder(&mut self, lease: &Lease, duration: Duration, now: Instant) -> Option<String> {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let lasts = seconds.map_or(duration, Duration::from_secs);
        let idle = self.idle(lease, now);
        spec.and_then(|s| s.holder_identity.clone()).filter(|h| !h.is_empty() && idle <= lasts)
    }

    /// For how long a lease has not changed.
    pub fn idle(&mut self, lease: &Lease, now: Instant) -> Duration {
        let version = lease.metadata.resource_version.clone();
        let known = self.0.entry(lease.name_any()).or_insert_with(|| (version.clone(), now));
        if known.0 != version {
            *known = (version, now);
        }
        now.saturating_duration_since(known.1)
    }

    /// Forgets leases that are gone.
    pub fn retain(&mut self, names: &HashSet<String>) {
        self.0.retain(|name, _| names.contains(name));
    }
}

/// How long a stop waits for the lease to be let go.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

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
        let mut seen = Unchanged::default();
        loop {
            let asked = Instant::now();
            let attempt = tokio::time::timeout(self.duration / 3, self.attempt(&api, &mut seen)).await;
            match attempt.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into()))) {
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

    async fn attempt(&self, api: &Api<Lease>, seen: &mut Unchanged) -> kube::Result<Option<Lease>> {
        let Some(lease) = api.get_opt(&self.name).await? else {
            if self.is_shared(api, seen).await? {
                return Ok(None);
            }
            let made = taken(api.create(&PostParams::default(), &self.lease(None)).await)?;
            return self.unless_shared(api, seen, made).await;
        };
        let holder = seen.holder(&lease, self.duration, Instant::now());
        if holder.is_some_and(|holder| holder != self.identity) || self.is_shared(api, seen).await? {
            return Ok(None);
        }
        let made = taken(api.replace(&self.name, &PostParams::default(), &self.lease(Some(&lease))).await)?;
        self.unless_shared(api, seen, made).await
    }

    /// Gives a lease back at once if replicas with shards came meanwhile: either they have seen it, or they are seen now.
    async fn unless_shared(&self, api: &Api<Lease>, seen: &mut Unchanged, made: Option<Lease>) -> kube::Result<Option<Lease>> {
        let Some(lease) = made else { return Ok(None) };
        if matches!(self.is_shared(api, seen).await, Ok(false)) {
            return Ok(Some(lease));
        }
        let mut free = self.lease(Some(&lease));
        if let Some(spec) = &mut free.spec {
            spec.holder_identity = Some(String::new());
        }
        api.replace(&self.name, &PostParams::default(), &free).await.map(|_| None)
    }

    /// Whether replicas of another configuration share the work: an update from `--shards` rolls over them.
    async fn is_shared(&self, api: &Api<Lease>, seen: &mut Unchanged) -> kube::Result<bool> {
        let params = ListParams::default().labels(&format!("{LABEL_SET}={}", self.name));
        let leases = match api.list(&params).await {
            Ok(leases) => leases,
            // Without the right to list leases there are no shards either.
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(false),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let mut members = leases.items.iter().filter(|lease| lease.name_any().contains(MEMBER));
        let alive = members.find_map(|lease| seen.holder(lease, self.duration, now));
        if let Some(member) = &alive {
            tracing::warn!(%member, "another replica runs with --shards; waiting for its end");
        }
        Ok(alive.is_some())
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

    /// Lets the lease go, so that another replica need not wait for its end. Nothing may be written any more.
    pub async fn release(mut self) {
        for _ in 0..2 {
            let mut lease = self.election.lease(Some(&self.lease));
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
            }
            let params = PostParams::default();
            let sent = self.api.replace(&self.election.name, &params, &lease);
            match tokio::time::timeout(RELEASE_WITHIN, sent).await {
                Ok(Ok(_)) => return,
                // The answer to a renewal was not waited for.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                    match tokio::time::timeout(RELEASE_WITHIN, self.api.get_opt(&self.election.name)).await {
                        Ok(Ok(Some(lease))) if self.election.is_held_by_us(&lease) => self.lease = lease,
                        _ => return,
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %crate::external_secret::kube_error(&error), "the lease could not be released; it ends by itself");
                    return;
                }
                Err(_) => {
                    tracing::warn!("the lease could not be released in time; it ends by itself");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock::Handle;

    use super::*;

    type Server = Handle<Request<Body>, Response<Body>>;

    fn election() -> (Election, Api<Lease>, Server) {
        let (service, server) = tower_test::mock::pair();
        let client = Client::new(service, "ns");
        let election =
            Election { namespace: "ns".into(), name: "lease".into(), identity: "me".into(), duration: Duration::from_secs(15) };
        (election, Api::namespaced(client, "ns"), server)
    }

    async fn answer(server: &mut Server, code: u16, body: Value) -> (String, Value) {
        let (request, send) = server.next_request().await.expect("a request");
        let (parts, sent) = request.into_parts();
        let sent = sent.collect_bytes().await.expect("a body");
        send.send_response(Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap());
        (parts.method.to_string(), serde_json::from_slice(&sent).unwrap_or(Value::Null))
    }

    fn refusal(code: u16) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": if code == 404 { "NotFound" } else { "InternalError" }, "message": "x"})
    }

    fn list(items: Value) -> Value {
        json!({"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1", "metadata": {"resourceVersion": "9"}, "items": items})
    }

    #[tokio::test]
    async fn nobody_leads_who_does_not_know_whether_replicas_share_the_work() {
        let (election, api, mut server) = election();
        let attempt = tokio::spawn(async move { election.attempt(&api, &mut Unchanged::default()).await });
        assert_eq!(answer(&mut server, 404, refusal(404)).await.0, "GET");
        assert_eq!(answer(&mut server, 500, refusal(500)).await.0, "GET");
        assert!(attempt.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_lease_goes_back_at_once_when_replicas_with_shards_came_meanwhile() {
        let (election, api, mut server) = election();
        let attempt = tokio::spawn(async move { election.attempt(&api, &mut Unchanged::default()).await });
        let lease = |name: &str, holder: &str| {
            json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": name, "resourceVersion": "5"},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}})
        };
        answer(&mut server, 404, refusal(404)).await;
        answer(&mut server, 200, list(json!([]))).await;
        let (method, sent) = answer(&mut server, 201, lease("lease", "me")).await;
        assert_eq!((method.as_str(), &sent["spec"]["holderIdentity"]), ("POST", &json!("me")));
        answer(&mut server, 200, list(json!([lease(&format!("lease{MEMBER}0"), "other")]))).await;
        let (method, sent) = answer(&mut server, 200, lease("lease", "")).await;
        assert_eq!((method.as_str(), &sent["spec"]["holderIdentity"]), ("PUT", &json!("")));
        assert!(attempt.await.unwrap().unwrap().is_none());
    }
}
