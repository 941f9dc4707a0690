//! Several replicas at work at once: each shard is a Lease, and so is each replica's membership.
//!
//! A replica renews its membership, looks at all leases of the set once a second, and takes or gives back shards until it has
//! its fair share of them. What it holds is fenced like a leader's: two thirds of the lease's duration after the last renewal
//! nothing is written any more, and nobody else takes the shard before the whole of it is over. All times are this process'
//! own monotonic clock, so nodes' clocks need not agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::external_secret::kube_error;
use crate::leader::{LABEL_SET, MEMBER, Unchanged};
use crate::ownership::{Hold, Ownership};

/// Annotation of a membership: what the replica's share is a share of.
const ANNOTATION_OF: &str = "lockstep.dev/shares";
/// How often the leases are looked at, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for writes under way.
pub const LEAVE_WITHIN: Duration = Duration::from_millis(1500);

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
    /// What else must be the same in every replica, such as the class and the namespaces that are served.
    pub serves: String,
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

/// Decides from who holds what; nobody's name is empty. `members` are the living ones, this replica among them; a shard without
/// a lease is free.
fn decide(shards: usize, seen: &BTreeMap<usize, String>, members: &[&str], me: &str) -> Decision {
    let mine: Vec<usize> = (0..shards).filter(|s| seen.get(s).is_some_and(|holder| holder == me)).collect();
    let share = fair_share(shards, members, me);
    if mine.len() > share {
        return Decision { release: mine[share..].to_vec(), ..Decision::default() };
    }
    let free = |s: &usize| seen.get(s).is_none_or(String::is_empty);
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
    /// What is held: the lease as it was written last, and when that was asked for.
    held: Mutex<BTreeMap<usize, (Lease, Instant)>>,
    /// Shards that are given back once no write of theirs is under way: their leases are renewed, and nothing new is begun.
    leaving: Mutex<BTreeSet<usize>>,
}

/// What a replica has seen of the leases.
#[derive(Default)]
struct Seen {
    changes: Unchanged,
    /// When the own membership was renewed.
    member: Option<Instant>,
}

/// Renewals at once.
const RENEWALS: usize = 16;

/// Takes part until `stop`, then gives everything back.
pub async fn run(sharding: Sharding, client: Client, ctx: Arc<Context>, stop: CancellationToken) {
    let api = Api::namespaced(client, &sharding.namespace);
    let replica = Replica { sharding, api, ctx, held: Mutex::default(), leaving: Mutex::default() };
    {
        // Renewals wait for nothing else: what is held must not be lost over a slow list.
        let work = futures::future::join(replica.keep(), replica.share());
        tokio::select! { _ = work => {}, () = stop.cancelled() => {} }
    }
    replica.leave().await;
}

impl Replica {
    fn held(&self) -> MutexGuard<'_, BTreeMap<usize, (Lease, Instant)>> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn leaving(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.leaving.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ownership(&self) -> &Ownership {
        &self.ctx.ownership
    }

    /// How long after the last renewal this replica still counts on a lease.
    fn lasts(&self) -> Duration {
        self.sharding.duration * 2 / 3
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY.min(self.sharding.duration / 12)
    }

    /// A request that ends in time for others to be made.
    async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        let late = |_| Err(kube::Error::Service("no answer in time".into()));
        tokio::time::timeout(self.sharding.duration / 6, request).await.unwrap_or_else(late)
    }

    async fn keep(&self) {
        loop {
            self.drop_lost();
            let due: Vec<usize> = {
                let held = self.held();
                let due = held.iter().filter(|(_, (_, renewed))| renewed.elapsed() >= self.sharding.duration / 3);
                due.map(|(shard, _)| *shard).collect()
            };
            futures::stream::iter(due).for_each_concurrent(RENEWALS, |shard| self.renew(shard)).await;
            tokio::time::sleep(self.look_every()).await;
        }
    }

    async fn share(&self) {
        let mut seen = Seen::default();
        loop {
            if let Err(error) = self.look(&mut seen).await {
                tracing::warn!(error = %kube_error(&error), "the shards' leases could not be looked at; trying again");
            }
            tokio::time::sleep(self.look_every()).await;
        }
    }

    async fn look(&self, seen: &mut Seen) -> kube::Result<()> {
        self.renew_membership(seen).await?;
        let selector = format!("{LABEL_SET}={}", self.sharding.name);
        let params = ListParams::default().labels(&selector);
        let leases = self.ask(self.api.list(&params)).await?.items;
        let now = Instant::now();
        seen.changes.retain(&leases.iter().map(|lease| lease.name_any()).chain([self.sharding.name.clone()]).collect());
        let (mut members, mut views, mut found) = (vec![self.sharding.identity.clone()], BTreeMap::new(), BTreeMap::new());
        let mut stranger = None;
        for lease in leases {
            let holder = seen.changes.holder(&lease, self.sharding.duration, now);
            match (self.shard_of(&lease), holder) {
                (Some(shard), holder) => {
                    // Lost for want of a renewal, or taken by a write whose answer did not arrive: it has to be taken anew.
                    let lost = self.is_mine(&lease) && !self.held().contains_key(&shard);
                    // An own lease that seems to have run out is renewed, not taken anew.
                    let mine = self.is_mine(&lease).then(|| self.sharding.identity.clone());
                    views.insert(shard, holder.or(mine).filter(|_| !lost).unwrap_or_default());
                    found.insert(shard, lease);
                }
                (None, Some(member)) if lease.name_any().contains(MEMBER) => {
                    if lease.annotations().get(ANNOTATION_OF) == Some(&self.of()) {
                        members.push(member);
                    } else {
                        stranger = Some(member);
                    }
                }
                (None, Some(_)) => {}
                (None, None) => self.bury(seen, &lease, now).await,
            }
        }
        members.sort();
        members.dedup();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let mut decision = decide(self.sharding.shards, &views, &members, &self.sharding.identity);
        if !decision.take.is_empty() && stranger.is_none() {
            stranger = self.leader(seen).await?;
        }
        if let Some(replica) = stranger.filter(|_| !decision.take.is_empty()) {
            tracing::warn!(%replica, "a replica with another --shards, class or namespaces is at work; waiting for its end");
            decision.take.clear();
        }
        for shard in &decision.release {
            self.leaving().insert(*shard);
            self.ownership().set(*shard, Hold::No);
        }
        // One that still writes is given back at a later look.
        let idle: Vec<usize> = self.leaving().iter().copied().filter(|shard| self.ownership().writing(*shard) == 0).collect();
        futures::stream::iter(idle).for_each_concurrent(RENEWALS, |shard| self.release(shard)).await;
        let leaving = self.leaving().clone();
        let take = decision.take.into_iter().filter(|shard| !leaving.contains(shard));
        futures::stream::iter(take).for_each_concurrent(RENEWALS, |shard| self.take(shard, found.get(&shard))).await;
        Ok(())
    }

    /// A leader of replicas without shards, if there is one: an update to `--shards` rolls over it.
    async fn leader(&self, seen: &mut Seen) -> kube::Result<Option<String>> {
        let lease = self.ask(self.api.get_opt(&self.sharding.name)).await?;
        Ok(lease.and_then(|lease| seen.changes.holder(&lease, self.sharding.duration, Instant::now())))
    }

    /// What the shares are shares of.
    fn of(&self) -> String {
        format!("{} shards of {}", self.sharding.shards, self.sharding.serves)
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
        format!("{}{MEMBER}{:016x}", self.sharding.name, crate::keys::stable_hash(&[&self.sharding.identity]))
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
                annotations: Some(BTreeMap::from([(ANNOTATION_OF.to_owned(), self.of())])),
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
        match self.ask(sent).await {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn renew_membership(&self, seen: &mut Seen) -> kube::Result<()> {
        if seen.member.is_some_and(|at| at.elapsed() < self.sharding.duration / 3) {
            return Ok(());
        }
        let (name, asked) = (self.member_name(), Instant::now());
        let there = self.ask(self.api.get_opt(&name)).await?;
        if self.write(&name, there.as_ref(), &self.sharding.identity).await?.is_some() {
            seen.member = Some(asked);
        }
        Ok(())
    }

    /// Removes the membership of a replica that is long gone; its shards expire by themselves.
    async fn bury(&self, seen: &mut Seen, lease: &Lease, now: Instant) {
        let name = lease.name_any();
        if name.contains(MEMBER) && seen.changes.idle(lease, now) > self.sharding.duration * 2 {
            let _ = self.ask(self.api.delete(&name, &DeleteParams::default())).await;
        }
    }

    async fn renew(&self, shard: usize) {
        let Some((lease, _)) = self.held().get(&shard).cloned() else { return };
        let (name, asked) = (self.shard_name(shard), Instant::now());
        match self.write(&name, Some(&lease), &self.sharding.identity).await {
            Ok(Some(lease)) => self.renewed(shard, lease, asked),
            // Either another holds it, or a renewal of ours went through and its answer was lost: the next try goes on from it.
            Ok(None) => {
                let there = self.ask(self.api.get_opt(&name)).await.ok().flatten().filter(|lease| self.is_mine(lease));
                if let (Some(there), Some(held)) = (there, self.held().get_mut(&shard)) {
                    held.0 = there;
                }
            }
            Err(error) => {
                tracing::warn!(shard, error = %kube_error(&error), "a shard's lease could not be renewed; trying again");
            }
        }
    }

    fn renewed(&self, shard: usize, lease: Lease, asked: Instant) {
        let mut held = self.held();
        // It may have been given back, or up, while the answer was on its way.
        let Some(entry) = held.get_mut(&shard) else { return };
        *entry = (lease, asked);
        drop(held);
        if self.leaving().contains(&shard) {
            return;
        }
        if !self.ownership().prolong(shard, asked + self.lasts()) {
            // What came up in the gap was turned away.
            self.ctx.shard_gained(shard);
        }
    }

    fn is_mine(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&self.sharding.identity)
    }

    async fn take(&self, shard: usize, before: Option<&Lease>) {
        let asked = Instant::now();
        match self.write(&self.shard_name(shard), before, &self.sharding.identity).await {
            Ok(Some(lease)) => {
                tracing::info!(shard, "a shard is taken");
                self.held().insert(shard, (lease, asked));
                self.ownership().set(shard, Hold::Until(asked + self.lasts()));
                self.ctx.shard_gained(shard);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(shard, error = %kube_error(&error), "a shard could not be taken; trying again"),
        }
    }

    /// Gives a shard back, none of whose writes is under way. A write that was cut off may still arrive: then the lease runs out
    /// by itself.
    async fn release(&self, shard: usize) {
        self.ownership().set(shard, Hold::No);
        let held = self.held().remove(&shard);
        self.leaving().remove(&shard);
        let Some((lease, renewed)) = held else { return };
        self.ctx.shard_lost(shard);
        if renewed.elapsed() >= self.lasts() {
            return;
        }
        let name = self.shard_name(shard);
        let mut answer = self.write(&name, Some(&lease), "").await;
        if matches!(answer, Ok(None))
            && let Ok(Some(there)) = self.ask(self.api.get_opt(&name)).await
            && self.is_mine(&there)
        {
            answer = self.write(&name, Some(&there), "").await;
        }
        match answer {
            Ok(Some(_)) => tracing::info!(shard, "a shard is given back"),
            Ok(None) => tracing::info!(shard, "a shard is somebody else's already"),
            Err(error) => tracing::warn!(shard, error = %kube_error(&error), "a shard's lease ends by itself"),
        }
    }

    /// Forgets shards whose hold is over.
    fn drop_lost(&self) {
        let now = Instant::now();
        let mut held = self.held();
        let over = |shard: &usize, renewed: Instant| !self.ctx.ownership.holds(*shard, now) && renewed + self.lasts() <= now;
        let lost: Vec<usize> =
            held.iter().filter(|(shard, (_, renewed))| over(shard, *renewed)).map(|(shard, _)| *shard).collect();
        for shard in &lost {
            held.remove(shard);
        }
        drop(held);
        for shard in lost {
            self.leaving().remove(&shard);
            tracing::warn!(shard, "a shard's lease was lost");
            self.ownership().set(shard, Hold::No);
            self.ctx.shard_lost(shard);
        }
    }

    /// The membership goes first: the others then reckon with shares that are theirs.
    async fn leave(&self) {
        let _ = self.ask(self.api.delete(&self.member_name(), &DeleteParams::default())).await;
        self.ownership().end(LEAVE_WITHIN).await;
        if self.ownership().is_writing() {
            tracing::warn!("a write did not end in time: the shards' leases end by themselves");
            return;
        }
        let held: Vec<usize> = self.held().keys().copied().collect();
        futures::stream::iter(held).for_each_concurrent(RENEWALS, |shard| self.release(shard)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holders: &[&str]) -> BTreeMap<usize, String> {
        holders.iter().enumerate().map(|(i, h)| (i, (*h).to_owned())).collect()
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
        assert_eq!(decide(4, &held(&["a", "a", "", ""]), &["a"], "a").take, [2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_free_once_it_did_not_change_for_its_whole_duration() {
        let lease = |version: &str, holder: &str| Lease {
            metadata: ObjectMeta { name: Some("l".into()), resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(4),
                ..LeaseSpec::default()
            }),
        };
        let (mut seen, long) = (Unchanged::default(), Duration::from_secs(60));
        let mut holder = |version: &str, by: &str| seen.holder(&lease(version, by), long, Instant::now());
        assert_eq!(holder("1", "b").as_deref(), Some("b"));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(holder("2", "b").as_deref(), Some("b"), "renewed, however late by its own clock");
        tokio::time::advance(Duration::from_millis(4001)).await;
        assert_eq!(holder("2", "b"), None);
        assert_eq!(holder("3", ""), None, "let go");
    }

    /// Whoever comes and goes: after everybody has looked a few times, each shard has one holder, and each replica its share.
    #[test]
    fn any_change_of_members_settles() {
        let all = ["a", "b", "c", "d", "e"];
        let mut holders: Vec<String> = vec![String::new(); 12];
        for members in [&all[..1], &all[..2], &all[..5], &all[1..4], &all[3..4], &all[..]] {
            for _ in 0..3 {
                for me in members {
                    let alive = |h: &String| if members.contains(&h.as_str()) { h.clone() } else { String::new() };
                    let seen = holders.iter().enumerate().map(|(i, h)| (i, alive(h))).collect();
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
