//! Several replicas at work at once: each shard is a Lease, and so is each replica's membership.
//!
//! A replica renews its membership, looks at all leases of the set once a second, and takes or gives back shards until it has
//! its fair share of them. What it holds is fenced like a leader's: two thirds of the lease's duration after the last renewal
//! nothing is written any more, and nobody else takes the shard before the whole of it is over. All times are this process'
//! own monotonic clock, so nodes' clocks need not agree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::external_secret::kube_error;
use crate::ownership::{Hold, Ownership};

/// Label of every lease of a set: the set's name.
const LABEL_SET: &str = "lockstep.dev/shards-of";
/// How often the leases are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A set of shards, and this replica in it.
#[derive(Clone, Debug)]
pub struct Sharding {
    /// Namespace of the leases.
    pub namespace: String,
    /// What their names begin with.
    pub name: String,
    /// This replica.
    pub identity: String,
    /// How long a replica that is not heard of keeps what it holds.
    pub duration: Duration,
    /// How many shards there are: the same in every replica.
    pub shards: usize,
}

/// A lease as this replica sees it.
#[derive(Clone, Debug, PartialEq)]
struct View {
    holder: String,
    /// Whether it did not change for longer than it is meant to last.
    expired: bool,
}

/// What is to be done about the shards.
#[derive(Debug, PartialEq, Eq, Default)]
struct Decision {
    take: Vec<usize>,
    release: Vec<usize>,
}

/// How many shards a replica should hold: shares differ by one at most, and are the same in everybody's reckoning.
fn fair_share(shards: usize, members: &[&str], me: &str) -> usize {
    let rank = members.iter().filter(|m| **m < me).count();
    let count = members.len().max(1);
    shards / count + usize::from(rank < shards % count)
}

/// Decides from what is seen. `members` are the living ones, this replica among them; a shard without a lease is free.
fn decide(shards: usize, seen: &BTreeMap<usize, View>, members: &[&str], me: &str) -> Decision {
    let mine: Vec<usize> = (0..shards).filter(|s| seen.get(s).is_some_and(|v| v.holder == me)).collect();
    let share = fair_share(shards, members, me);
    if mine.len() > share {
        return Decision { release: mine[share..].to_vec(), ..Decision::default() };
    }
    let free = |s: &usize| seen.get(s).is_none_or(|v| v.holder.is_empty() || v.expired && v.holder != me);
    // Each looks from another place on, so that two newcomers seldom reach for the same one.
    let rank = members.iter().filter(|m| **m < me).count();
    let start = rank * shards / members.len().max(1);
    let take = (0..shards).map(|i| (start + i) % shards).filter(free).take(share - mine.len()).collect();
    Decision { take, release: Vec::new() }
}

struct Replica {
    sharding: Sharding,
    api: Api<Lease>,
    ctx: Arc<Context>,
    /// Every lease's version, and since when it has had it.
    changes: HashMap<String, (Option<String>, Instant)>,
    /// What is held: the lease as it was written last, and when that was asked for.
    held: BTreeMap<usize, (Lease, Instant)>,
    member: Option<Instant>,
}

/// Takes part until `stop`, then gives everything back.
pub async fn run(sharding: Sharding, client: Client, ctx: Arc<Context>, stop: CancellationToken) {
    let api = Api::namespaced(client, &sharding.namespace);
    let mut replica = Replica { sharding, api, ctx, changes: HashMap::new(), held: BTreeMap::new(), member: None };
    while !stop.is_cancelled() {
        if let Err(error) = replica.look().await {
            tracing::warn!(error = %kube_error(&error), "the shards' leases could not be looked at; trying again");
        }
        replica.drop_lost();
        tokio::select! { () = tokio::time::sleep(LOOK_EVERY) => {}, () = stop.cancelled() => {} }
    }
    replica.leave().await;
}

impl Replica {
    fn ownership(&self) -> &Ownership {
        &self.ctx.ownership
    }

    /// How long after the last renewal this replica still counts on a lease.
    fn lasts(&self) -> Duration {
        self.sharding.duration * 2 / 3
    }

    async fn look(&mut self) -> kube::Result<()> {
        let within = self.sharding.duration / 3;
        let late = |_| Err(kube::Error::Service("no answer in time".into()));
        self.renew_membership().await?;
        let selector = format!("{LABEL_SET}={}", self.sharding.name);
        let params = ListParams::default().labels(&selector);
        let list = self.api.list(&params);
        let leases = tokio::time::timeout(within, list).await.unwrap_or_else(late)?.items;
        let now = Instant::now();
        let names: std::collections::HashSet<String> = leases.iter().map(|lease| lease.name_any()).collect();
        self.changes.retain(|name, _| names.contains(name));
        let (mut members, mut seen, mut found) = (vec![self.sharding.identity.clone()], BTreeMap::new(), BTreeMap::new());
        for lease in leases {
            let mut view = self.view(&lease, now);
            match self.shard_of(&lease) {
                Some(shard) => {
                    // Lost for want of a renewal, or taken by a write whose answer did not arrive: it has to be taken anew.
                    if view.holder == self.sharding.identity && !self.held.contains_key(&shard) {
                        view.holder.clear();
                    }
                    seen.insert(shard, view);
                    found.insert(shard, lease);
                }
                None if !view.expired && !view.holder.is_empty() => members.push(view.holder),
                None => self.bury(&lease, now).await,
            }
        }
        members.sort();
        members.dedup();
        self.renew_shards(&found).await;
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let decision = decide(self.sharding.shards, &seen, &members, &self.sharding.identity);
        for shard in decision.release {
            self.release(shard).await;
        }
        for shard in decision.take {
            self.take(shard, found.get(&shard)).await;
        }
        Ok(())
    }

    fn view(&mut self, lease: &Lease, now: Instant) -> View {
        let version = lease.metadata.resource_version.clone();
        let known = self.changes.entry(lease.name_any()).or_insert_with(|| (version.clone(), now));
        if known.0 != version {
            *known = (version, now);
        }
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
        let lasts = seconds.map_or(self.sharding.duration, Duration::from_secs);
        let holder = spec.and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        View { holder, expired: now.saturating_duration_since(known.1) > lasts }
    }

    fn shard_name(&self, shard: usize) -> String {
        format!("{}-shard-{shard}", self.sharding.name)
    }

    fn shard_of(&self, lease: &Lease) -> Option<usize> {
        let shard = lease.name_any().strip_prefix(&format!("{}-shard-", self.sharding.name))?.parse().ok()?;
        (shard < self.sharding.shards).then_some(shard)
    }

    fn member_name(&self) -> String {
        // A name fit for an object, whatever the pod is called.
        format!("{}-member-{:016x}", self.sharding.name, crate::keys::stable_hash(&[&self.sharding.identity]))
    }

    fn lease(&self, name: &str, before: Option<&Lease>, holder: &str) -> Lease {
        let spec = before.and_then(|l| l.spec.as_ref());
        let same = spec.and_then(|s| s.holder_identity.as_deref()) == Some(holder);
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.sharding.namespace.clone()),
                labels: Some(BTreeMap::from([(LABEL_SET.to_owned(), self.sharding.name.clone())])),
                resource_version: before.and_then(|l| l.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(self.sharding.duration.as_secs()).ok(),
                acquire_time: spec.and_then(|s| s.acquire_time.clone()).filter(|_| same).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(spec.and_then(|s| s.lease_transitions).unwrap_or(0) + i32::from(!same)),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Writes a lease; none when somebody else was faster.
    async fn write(&self, name: &str, before: Option<&Lease>, holder: &str) -> kube::Result<Option<Lease>> {
        let lease = self.lease(name, before, holder);
        let params = PostParams::default();
        let sent = async {
            match before {
                Some(_) => self.api.replace(name, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            }
        };
        let late = |_| Err(kube::Error::Service("no answer in time".into()));
        match tokio::time::timeout(self.sharding.duration / 3, sent).await.unwrap_or_else(late) {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn renew_membership(&mut self) -> kube::Result<()> {
        if self.member.is_some_and(|at| at.elapsed() < self.sharding.duration / 3) {
            return Ok(());
        }
        let (name, asked) = (self.member_name(), Instant::now());
        let there = self.api.get_opt(&name).await?;
        if self.write(&name, there.as_ref(), &self.sharding.identity).await?.is_some() {
            self.member = Some(asked);
        }
        Ok(())
    }

    /// Removes the membership of a replica that is long gone; its shards expire by themselves.
    async fn bury(&self, lease: &Lease, now: Instant) {
        let name = lease.name_any();
        let idle = self.changes.get(&name).map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since));
        if name.starts_with(&format!("{}-member-", self.sharding.name)) && idle > self.sharding.duration * 4 {
            let _ = self.api.delete(&name, &DeleteParams::default()).await;
        }
    }

    async fn renew_shards(&mut self, found: &BTreeMap<usize, Lease>) {
        let due: Vec<usize> = self
            .held
            .iter()
            .filter(|(_, (_, renewed))| renewed.elapsed() >= self.sharding.duration / 3)
            .map(|(shard, _)| *shard)
            .collect();
        for shard in due {
            // The list is the newest that is known: an own renewal whose answer was lost is in it.
            let Some(lease) = found.get(&shard).filter(|l| self.is_mine(l)).cloned() else { continue };
            let asked = Instant::now();
            match self.write(&self.shard_name(shard), Some(&lease), &self.sharding.identity).await {
                Ok(Some(lease)) => {
                    self.ownership().set(shard, Hold::Until(asked + self.lasts()));
                    self.held.insert(shard, (lease, asked));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(shard, error = %kube_error(&error), "a shard's lease could not be renewed; trying again");
                }
            }
        }
    }

    fn is_mine(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.sharding.identity)
    }

    async fn take(&mut self, shard: usize, before: Option<&Lease>) {
        let asked = Instant::now();
        match self.write(&self.shard_name(shard), before, &self.sharding.identity).await {
            Ok(Some(lease)) => {
                tracing::info!(shard, "a shard is taken");
                self.held.insert(shard, (lease, asked));
                self.ownership().set(shard, Hold::Until(asked + self.lasts()));
                self.ctx.shard_gained(shard);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(shard, error = %kube_error(&error), "a shard could not be taken; trying again"),
        }
    }

    /// Gives a shard back, once no write of it is under way.
    async fn release(&mut self, shard: usize) {
        let Some((lease, renewed)) = self.held.remove(&shard) else { return };
        self.ownership().set(shard, Hold::No);
        self.ctx.shard_lost(shard);
        let end = renewed + self.lasts();
        while self.ownership().writing(shard) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match self.write(&self.shard_name(shard), Some(&lease), "").await {
            Ok(_) => tracing::info!(shard, "a shard is given back"),
            Err(error) => tracing::warn!(shard, error = %kube_error(&error), "a shard's lease ends by itself"),
        }
    }

    /// Forgets shards whose hold is over, or whose lease is somebody else's.
    fn drop_lost(&mut self) {
        let now = Instant::now();
        let lost: Vec<usize> = self.held.keys().copied().filter(|shard| !self.ctx.ownership.holds(*shard, now)).collect();
        for shard in lost {
            tracing::warn!(shard, "a shard's lease was lost");
            self.held.remove(&shard);
            self.ownership().set(shard, Hold::No);
            self.ctx.shard_lost(shard);
        }
    }

    async fn leave(&mut self) {
        for shard in self.held.keys().copied().collect::<Vec<_>>() {
            self.release(shard).await;
        }
        let _ = self.api.delete(&self.member_name(), &DeleteParams::default()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holders: &[&str]) -> BTreeMap<usize, View> {
        let view = |h: &&str| View { holder: h.trim_end_matches('!').to_owned(), expired: h.ends_with('!') };
        holders.iter().enumerate().map(|(i, h)| (i, view(h))).collect()
    }

    #[test]
    fn shares_are_fair_and_add_up() {
        for (shards, count) in [(1, 1), (4, 3), (8, 3), (16, 5), (2, 4)] {
            let names: Vec<String> = (0..count).map(|i| format!("replica-{i}")).collect();
            let members: Vec<&str> = names.iter().map(String::as_str).collect();
            let shares: Vec<usize> = members.iter().map(|m| fair_share(shards, &members, m)).collect();
            assert_eq!(shares.iter().sum::<usize>(), shards);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }

    #[test]
    fn free_and_expired_shards_are_taken_and_what_is_too_much_is_given_back() {
        let nothing = Decision::default();
        // The first replica takes all, as no lease is there yet.
        assert_eq!(decide(4, &BTreeMap::new(), &["a"], "a").take, [0, 1, 2, 3]);
        // A second one comes: the first gives half back, the second takes what is free and no more.
        assert_eq!(decide(4, &held(&["a", "a", "a", "a"]), &["a", "b"], "a").release, [2, 3]);
        assert_eq!(decide(4, &held(&["a", "a", "a", "a"]), &["a", "b"], "b"), nothing);
        assert_eq!(decide(4, &held(&["a", "a", "", ""]), &["a", "b"], "b").take, [2, 3]);
        assert_eq!(decide(4, &held(&["a", "a", "b", "b"]), &["a", "b"], "a"), nothing);
        // One dies: its leases expire before anybody takes them.
        assert_eq!(decide(4, &held(&["a", "a", "b", "b"]), &["a"], "a"), nothing);
        assert_eq!(decide(4, &held(&["a", "a", "b!", "b!"]), &["a"], "a").take, [2, 3]);
        // An own lease that seems expired is renewed, not taken anew.
        assert_eq!(decide(2, &held(&["a!", "a!"]), &["a"], "a"), nothing);
    }

    /// Whoever comes and goes: after everybody has looked a few times, each shard has one holder, and each replica its share.
    #[test]
    fn any_change_of_members_settles() {
        let all = ["a", "b", "c", "d", "e"];
        let mut holders: Vec<String> = vec![String::new(); 12];
        for members in [&all[..1], &all[..2], &all[..5], &all[1..4], &all[3..4], &all[..]] {
            for _ in 0..3 {
                for me in members {
                    let view = |h: &String| View { holder: h.clone(), expired: !members.contains(&h.as_str()) };
                    let seen = holders.iter().enumerate().map(|(i, h)| (i, view(h))).collect();
                    let Decision { take, release } = decide(12, &seen, members, me);
                    take.iter().for_each(|s| holders[*s] = (*me).to_owned());
                    release.iter().for_each(|s| holders[*s].clear());
                }
            }
            let counts: Vec<usize> = members.iter().map(|m| holders.iter().filter(|h| h == m).count()).collect();
            assert_eq!(counts.iter().sum::<usize>(), 12, "{members:?} {holders:?}");
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }
}
