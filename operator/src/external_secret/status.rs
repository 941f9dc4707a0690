//! From what happened to what is told: condition, event, metric label and the next requeue. Pure: `now` is an argument.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lockstep_crds::ExternalSecret;
use lockstep_crds::conditions::{Condition, ConditionType, EventReason, SecretReason};
use lockstep_crds::external_secret::{Binding, DeletionPolicy};
use lockstep_providers::Error;
use serde_json::{Value, json};

use super::Memo;
use super::plan::{Due, Settings};
use super::target::{ApplyError, Change};

/// How a reconcile ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The target is what the providers say.
    Synced {
        /// The target as it is now; none with creationPolicy None.
        binding: Option<Binding>,
        /// What was written.
        change: Change,
        /// Versions of what was read, in the order of the entries.
        versions: Box<[Option<Arc<str>>]>,
        /// Entries that the providers no longer have and that the deletion policy lets go.
        missing: Vec<String>,
    },
    /// Everything read was at the version last seen, and the target was not touched.
    Unchanged,
    /// The target was touched but holds what was written.
    Intact(Binding),
    /// The providers have nothing any more, and the deletion policy took the target away.
    Deleted {
        /// Whether it was there.
        was_there: bool,
    },
    /// The target was left as it was.
    Failed(Failure),
}

/// Why a sync failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Reason of the condition.
    pub reason: SecretReason,
    /// Metric label.
    pub category: &'static str,
    /// What failed where, and what to do.
    pub message: String,
    /// When to try again.
    pub retry: Retry,
}

/// When a failed sync is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// When the object or something that it refers to changes, and at the refresh interval.
    AtInterval,
    /// 1 s, doubling to 7 min.
    Backoff,
    /// At once.
    Now,
    /// When the store's rest is over.
    After(Duration),
}

impl Retry {
    /// How many failures there were in a row, with this one: whoever says when to come again, or why not to, is there, and a
    /// back-off begins anew after it.
    pub const fn in_a_row(self, before: u32) -> u32 {
        match self {
            Self::Backoff | Self::Now => before.saturating_add(1),
            Self::After(_) | Self::AtInterval => 1,
        }
    }
}

/// First wait after a failure that may pass.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failure that may pass.
const BACKOFF_MAX: Duration = Duration::from_secs(420);
/// A condition's message at most.
const MESSAGE_MAX: usize = 2000;

impl Failure {
    /// The object itself, or what it refers to in the cluster, is wrong.
    pub fn rejected(message: String) -> Self {
        Self { reason: SecretReason::SecretSyncedError, category: "rejected", message, retry: Retry::AtInterval }
    }

    /// Entries that could not be read: each with its description. The gentlest retry that helps any of them is taken.
    pub fn reading(problems: &[(String, Error)]) -> Self {
        let mut retry = Retry::AtInterval;
        let mut category = "not_found";
        for (_, error) in problems {
            let (candidate, label) = match error {
                Error::NotFound(_) => continue,
                Error::Denied(_) | Error::Invalid { .. } | Error::Unsupported(_) => (Retry::AtInterval, error.category()),
                Error::Throttled { retry_after, .. } => {
                    (Retry::After(retry_after.unwrap_or(Duration::from_secs(5))), error.category())
                }
                Error::Unavailable { .. } => (Retry::Backoff, error.category()),
            };
            if retry == Retry::AtInterval || category == "not_found" {
                (retry, category) = (candidate, label);
            }
        }
        let shown: Vec<String> = problems.iter().take(10).map(|(what, error)| format!("{what}: {error}")).collect();
        let mut message = shown.join("; ");
        if problems.len() > shown.len() {
            message.push_str(&format!("; and {} more", problems.len() - shown.len()));
        }
        Self { reason: SecretReason::SecretSyncedError, category, message, retry }
    }

    /// The target could not be written.
    pub fn writing(error: ApplyError) -> Self {
        let reason = SecretReason::SecretSyncedError;
        match error {
            ApplyError::Refused(message) => Self { reason, category: "target_refused", message, retry: Retry::Backoff },
            ApplyError::Fixed(message) => Self { reason, category: "target_refused", message, retry: Retry::AtInterval },
            // Nothing tells of a Secret that is not labelled as managed: its coming and going is looked for.
            ApplyError::Missing(message) => {
                Self { reason: SecretReason::SecretMissing, category: "target_missing", message, retry: Retry::Backoff }
            }
            ApplyError::Conflict(message) => Self { reason, category: "conflict", message, retry: Retry::Now },
            ApplyError::Api(message) => Self { reason, category: "api_server", message, retry: Retry::Backoff },
        }
    }
}

/// What follows from an outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Merge patch for the status, if anything but a time differs, or the heartbeat is due.
    pub patch: Option<Value>,
    /// Event, if anything happened that was not so before.
    pub event: Option<(EventReason, String)>,
    /// What is remembered.
    pub memo: Memo,
    /// When to look again.
    pub requeue: Option<Requeue>,
    /// Metric labels: result and category.
    pub label: (&'static str, &'static str),
}

/// When to look at an object again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Requeue {
    /// After a time.
    After(Duration),
    /// When the turn of a refresh comes.
    Turn(Due),
}

/// Reckons what follows. `settings` is none when the spec could not be read; `lacks_target` says that the Secret is not there.
pub fn report(
    object: &ExternalSecret,
    memo: &Memo,
    outcome: Outcome,
    settings: Option<&Settings>,
    lacks_target: bool,
    now: Timestamp,
    heartbeat: Duration,
) -> Report {
    let mut next = memo.clone();
    next.sync_calls += 1;
    let (ready, reason, message, event, label) = match outcome {
        Outcome::Synced { binding, change, versions, missing } => {
            next.succeeded(object, now);
            next.binding = binding.or_else(|| Some(Binding { name: object.target_name().to_owned(), ..Binding::default() }));
            next.versions = versions;
            let mut message = Cow::from(super::memo::SYNCED);
            if !missing.is_empty() {
                message = clip(format!("secret synced without what the provider does not have: {}", missing.join("; "))).into();
            }
            let target = target_of(object);
            let event = match change {
                Change::Created => Some((EventReason::Created, format!("{target} created"))),
                Change::Updated => Some((EventReason::Updated, format!("{target} updated"))),
                Change::None => None,
            };
            let news = !missing.is_empty() && memo.message != Some(message.clone());
            let event = if news { Some((EventReason::MissingProviderSecret, message.to_string())) } else { event };
            let label = match change {
                Change::None => "unchanged",
                Change::Created | Change::Updated => "synced",
            };
            (true, SecretReason::SecretSynced, message, event, (label, ""))
        }
        Outcome::Unchanged => {
            next.succeeded(object, now);
            (true, SecretReason::SecretSynced, memo.good_message(), None, ("unchanged", ""))
        }
        Outcome::Intact(binding) => {
            next.binding = Some(binding);
            next.well();
            (true, SecretReason::SecretSynced, memo.good_message(), None, ("intact", ""))
        }
        Outcome::Deleted { was_there } => {
            next.succeeded(object, now);
            next.deleted_by_policy = true;
            let message = "secret deleted because the provider has nothing any more and deletionPolicy is Delete".into();
            let event = was_there.then(|| (EventReason::Deleted, format!("{} deleted", target_of(object))));
            (true, SecretReason::SecretDeleted, message, event, ("deleted", ""))
        }
        Outcome::Failed(Failure { category: "throttled", retry, .. }) if memo.ready == Some(true) && !lacks_target => {
            // The Secret is as it was a refresh ago, and the store only wants us to wait.
            next.owed = true;
            let requeue = match (retry, settings) {
                // In turns: what was put off together must not come back together.
                (Retry::After(wait), Some(settings)) => Some(Requeue::Turn(settings.in_turn(now, wait))),
                _ => after(retry, object, settings, &next, now),
            };
            return Report { patch: None, event: None, memo: next, requeue, label: ("deferred", "throttled") };
        }
        Outcome::Failed(failure) => {
            next.sync_errors += 1;
            next.failures = failure.retry.in_a_row(next.failures);
            next.retry = Some(failure.retry);
            next.category = failure.category;
            let message = clip(failure.message);
            let news = memo.ready != Some(false) || memo.message.as_deref() != Some(&message);
            let reason =
                if failure.category == "not_found" { EventReason::MissingProviderSecret } else { EventReason::UpdateFailed };
            let event = news.then(|| (reason, message.clone()));
            (false, failure.reason, message.into(), event, ("error", failure.category))
        }
    };
    if memo.ready != Some(ready) {
        next.since = Some(now);
    }
    next.ready = Some(ready);
    next.reason = Some(if object.spec.target.manifest.is_some() { reason.of_resource() } else { reason });
    next.message = Some(message);
    let requeue = match (ready, next.retry) {
        (false, Some(retry)) => after(retry, object, settings, &next, now),
        _ => settings.and_then(|s| s.next_refresh(next.refreshed, now)).map(Requeue::Turn),
    };
    let patch = patch(object, memo, &mut next, now, heartbeat);
    Report { patch, event, memo: next, requeue, label }
}

/// The target, for messages.
fn target_of(object: &ExternalSecret) -> String {
    let kind = object.spec.target.manifest.as_ref().map_or("Secret", |manifest| manifest.kind.as_str());
    format!("{kind} {}", object.target_name())
}

/// The time from `now` to `at`; zero when that is over.
pub fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

fn after(retry: Retry, object: &ExternalSecret, settings: Option<&Settings>, memo: &Memo, now: Timestamp) -> Option<Requeue> {
    match retry {
        Retry::Now if memo.failures <= 2 => Some(Requeue::After(Duration::from_millis(50))),
        Retry::After(wait) => Some(Requeue::After(wait + Duration::from_millis(100) + wait.mul_f64(share(object, memo)))),
        Retry::Now | Retry::Backoff => {
            let exponent = memo.failures.saturating_sub(1).min(20);
            let wait = BACKOFF_FIRST.saturating_mul(1 << exponent).min(BACKOFF_MAX);
            Some(Requeue::After(wait.mul_f64(1.0 - share(object, memo))))
        }
        // Whatever the policy says of refreshes: what failed is tried again.
        Retry::AtInterval => settings.map(|s| Requeue::Turn(s.next_try(now))),
    }
}

/// When what could not be told is told, after `untold` reports in a row that could not be: 1 s, doubling to 4 min, and not before
/// the back-off of a run that failed. What failed before a run that got through does not count.
pub fn tell_again(untold: u32, retry: Option<Retry>, requeue: Option<&Requeue>) -> Duration {
    let wait = Duration::from_secs(1 << untold.saturating_sub(1).min(8));
    match (retry, requeue) {
        (Some(Retry::Backoff), Some(Requeue::After(own))) => wait.max(*own),
        _ => wait,
    }
}

/// Up to a quarter, another one for each object: those that failed together do not return together.
fn share(object: &ExternalSecret, memo: &Memo) -> f64 {
    let identity = object.metadata.uid.as_deref().unwrap_or_default();
    let hash = identity.bytes().fold(u64::from(memo.failures), |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    (hash % 250) as f64 / 1000.0
}

/// The smallest patch that makes the status say what is; none when only a time would differ.
fn patch(object: &ExternalSecret, before: &Memo, next: &mut Memo, now: Timestamp, heartbeat: Duration) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if next.synced != before.synced {
        status.insert("syncedResourceVersion".into(), json!(next.synced));
    }
    // The hash is for this process only: whoever may read the object could try out values against it.
    let told = |b: &Option<Binding>| b.as_ref().map(|b| (b.name.clone(), b.uid.clone(), b.resource_version.clone()));
    if told(&next.binding) != told(&before.binding) {
        status.insert("binding".into(), json!(next.binding));
    }
    let same = (next.ready, next.reason, &next.message) == (before.ready, before.reason, &before.message);
    if !same {
        status.insert("conditions".into(), json!(conditions(object, next)));
    }
    let recent = before.told.is_some_and(|t| until(t, now) < heartbeat);
    if next.refreshed != before.refreshed && (!status.is_empty() || !recent) {
        status.insert("refreshTime".into(), json!(next.refreshed.map(rfc3339)));
        next.told = next.refreshed;
    }
    // The UID makes the API server refuse the patch for another object of the same name.
    (!status.is_empty()).then(|| json!({"metadata": {"uid": object.metadata.uid}, "status": status}))
}

/// All conditions of the status: ours as it is now, those of others as they are.
fn conditions(object: &ExternalSecret, next: &Memo) -> Vec<Condition> {
    let ready = ConditionType::Ready.as_str();
    let there = object.status.iter().flat_map(|s| &s.conditions);
    let mut all: Vec<Condition> = there.clone().filter(|c| c.type_ != ready).cloned().collect();
    all.push(Condition {
        type_: ready.into(),
        status: if next.ready == Some(true) { "True" } else { "False" }.into(),
        reason: next.reason.map(|r| r.as_str().to_owned()),
        message: next.message.as_deref().map(str::to_owned),
        last_transition_time: next.since.map(rfc3339),
    });
    all
}

/// Whole seconds, as the API's times are.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A message that has its place in a condition.
pub fn clip(message: String) -> String {
    match message.char_indices().nth(MESSAGE_MAX) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message,
    }
}

/// What becomes of entries that the providers do not have.
#[derive(Debug, PartialEq, Eq)]
pub enum Gone {
    /// Everything stays, and the condition says so.
    KeepAndSay,
    /// The target goes.
    DeleteTarget,
    /// Their keys go; the rest is written.
    DropKeys,
}

/// Applies the deletion policy to an authority's "not found".
pub fn gone(policy: DeletionPolicy, missing: usize, all: usize) -> Gone {
    match policy {
        DeletionPolicy::Retain => Gone::KeepAndSay,
        DeletionPolicy::Delete if missing == all => Gone::DeleteTarget,
        DeletionPolicy::Delete | DeletionPolicy::Merge => Gone::DropKeys,
    }
}

#[cfg(test)]
mod tests {
    use lockstep_crds::external_secret::RefreshPolicy;

    use super::*;

    fn object() -> ExternalSecret {
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
            "metadata": {"name": "es", "namespace": "ns", "uid": "u", "generation": 1},
            "spec": {"refreshInterval": "1h"},
            "status": {"conditions": [{"type": "Theirs", "status": "True"}]},
        }))
        .unwrap()
    }

    fn settings() -> Settings {
        Settings { policy: Default::default(), interval: Some(Duration::from_secs(3600)), group: 7, windows: None }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    const HEARTBEAT: Duration = Duration::from_secs(300);

    fn tell(memo: &Memo, outcome: Outcome, now: Timestamp) -> Report {
        report(&object(), memo, outcome, Some(&settings()), false, now, HEARTBEAT)
    }

    fn synced(change: Change) -> Outcome {
        let binding =
            Some(Binding { name: "es".into(), uid: Some("t".into()), resource_version: Some("1".into()), data_hash: None });
        Outcome::Synced { binding, change, versions: Box::default(), missing: vec![] }
    }

    fn failed(error: Error) -> Outcome {
        Outcome::Failed(Failure::reading(&[("SecretStore ns/vault, key app".into(), error)]))
    }

    #[test]
    fn a_first_sync_is_one_patch_and_one_event_and_an_unchanged_refresh_is_none() {
        let first = tell(&Memo::default(), synced(Change::Created), at(0));
        let status = &first.patch.as_ref().unwrap()["status"];
        assert_eq!(status["conditions"][1]["reason"], "SecretSynced");
        assert_eq!(status["conditions"][0]["type"], "Theirs", "conditions of others stay");
        assert_eq!(status["refreshTime"], "2023-11-14T22:13:20Z");
        assert_eq!(first.event.unwrap().0, EventReason::Created);
        let again = tell(&first.memo, synced(Change::None), at(60));
        assert_eq!((again.patch, again.event), (None, None));
        assert_eq!(again.memo.refreshed, Some(at(60)), "remembered, though not told");
        let beat = tell(&again.memo, Outcome::Unchanged, at(301));
        assert_eq!(beat.patch.unwrap()["status"], json!({"refreshTime": "2023-11-14T22:18:21Z"}));
    }

    /// Seconds from 0 s on.
    fn wait_of(requeue: Option<Requeue>) -> f64 {
        match requeue.unwrap() {
            Requeue::After(wait) => wait.as_secs_f64(),
            Requeue::Turn(due) => due.at.duration_since(at(0)).as_secs_f64(),
        }
    }

    #[test]
    fn each_error_has_its_requeue_rule() {
        let wait = |error: Error| {
            let r = tell(&Memo::default(), failed(error), at(0));
            (wait_of(r.requeue), r.label.1)
        };
        let (at_interval, label) = wait(Error::NotFound("x".into()));
        assert!((1200.0..=3600.0).contains(&at_interval) && label == "not_found");
        assert_eq!(wait(Error::Denied("x".into())).0, at_interval);
        assert_eq!(wait(Error::invalid("f", "x")).0, at_interval);
        assert_eq!(wait(Error::Unsupported("x".into())).0, at_interval);
        let throttled = Error::Throttled { retry_after: Some(Duration::from_secs(30)), message: "x".into() };
        assert!((30.0..=38.0).contains(&wait(throttled).0));
        assert!((0.7..=1.0).contains(&wait(Error::unavailable("x")).0));
        let conflict = tell(&Memo::default(), Outcome::Failed(Failure::writing(ApplyError::Conflict("x".into()))), at(0));
        assert!(wait_of(conflict.requeue) < 1.0);
    }

    #[test]
    fn what_failed_is_tried_again_under_every_refresh_policy() {
        for policy in [RefreshPolicy::Periodic, RefreshPolicy::OnChange, RefreshPolicy::CreatedOnce] {
            for interval in [None, Some(Duration::from_secs(3600))] {
                let settings = Settings { policy, interval, group: 7, windows: None };
                let outcome = failed(Error::NotFound("x".into()));
                let r = report(&object(), &Memo::default(), outcome, Some(&settings), false, at(0), HEARTBEAT);
                assert!(r.requeue.is_some() && wait_of(r.requeue) <= 3600.0, "{settings:?}");
            }
        }
    }

    #[test]
    fn back_off_doubles_to_seven_minutes_and_a_success_resets_it() {
        let mut memo = Memo::default();
        let mut waits = Vec::new();
        for i in 0..12 {
            let r = tell(&memo, failed(Error::unavailable("x")), at(i));
            waits.push(wait_of(r.requeue));
            memo = r.memo;
        }
        assert!(waits[0] <= 1.0 && waits[3] > 5.0 && waits[3] <= 8.0, "{waits:?}");
        assert!(waits[11] > 300.0 && waits[11] <= 420.0, "{waits:?}");
        assert_eq!(tell(&memo, synced(Change::None), at(20)).memo.failures, 0);
        // A provider that says when to come again is there: what fails after it is tried again soon.
        let slow = Error::Throttled { retry_after: Some(Duration::from_secs(5)), message: "x".into() };
        let told = tell(&memo, failed(slow), at(21)).memo;
        assert!(wait_of(tell(&told, failed(Error::unavailable("x")), at(22)).requeue) <= 2.0);
    }

    #[test]
    fn a_repeated_failure_is_one_patch_and_one_event_and_the_transition_time_moves_only_on_a_flip() {
        let ok = tell(&Memo::default(), synced(Change::Created), at(0));
        let first = tell(&ok.memo, failed(Error::unavailable("away")), at(10));
        let condition = &first.patch.as_ref().unwrap()["status"]["conditions"][1];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["lastTransitionTime"], rfc3339(at(10)));
        assert_eq!(condition["message"], "SecretStore ns/vault, key app: unavailable: away");
        let second = tell(&first.memo, failed(Error::unavailable("away")), at(11));
        assert_eq!((second.patch, second.event), (None, None));
        let other = tell(&second.memo, failed(Error::Denied("no".into())), at(12));
        let condition = other.patch.unwrap()["status"]["conditions"][1].clone();
        assert_eq!(condition["lastTransitionTime"], rfc3339(at(10)));
        let back = tell(&other.memo, Outcome::Unchanged, at(13));
        assert_eq!(back.patch.unwrap()["status"]["conditions"][1]["lastTransitionTime"], rfc3339(at(13)));
    }

    #[test]
    fn throttling_leaves_a_ready_object_ready() {
        let ok = tell(&Memo::default(), synced(Change::Created), at(0));
        let throttled = Error::Throttled { retry_after: Some(Duration::from_secs(2)), message: "x".into() };
        let r = tell(&ok.memo, failed(throttled), at(1));
        assert_eq!((r.patch, r.memo.ready), (None, Some(true)));
        assert!(matches!(r.requeue, Some(Requeue::Turn(_))) && wait_of(r.requeue) == 3.0, "in turn, when the rest is over");
    }

    #[test]
    fn what_could_not_be_told_is_told_soon_and_no_sooner_than_a_failed_run_is_tried_again() {
        let seconds = Duration::from_secs;
        let later = Requeue::After(seconds(64));
        for (untold, retry, requeue, wait) in [
            (1, None, None, 1),
            (2, None, None, 2),
            (5, None, Some(&later), 16),
            (100, None, None, 256),
            (1, Some(Retry::Backoff), Some(&later), 64),
            (9, Some(Retry::Backoff), Some(&later), 256),
            // A store that rests is not asked.
            (1, Some(Retry::After(seconds(64))), Some(&later), 1),
            (1, Some(Retry::AtInterval), None, 1),
        ] {
            assert_eq!(tell_again(untold, retry, requeue), seconds(wait), "{untold} {retry:?}");
        }
    }

    #[test]
    fn several_failures_are_all_named() {
        let problems: Vec<_> = (0..12).map(|i| (format!("key {i}"), Error::Denied("no".into()))).collect();
        let failure = Failure::reading(&problems);
        assert!(failure.message.starts_with("key 0: denied: no; key 1: denied: no"));
        assert!(failure.message.ends_with("and 2 more"));
        let mixed = [
            ("a".into(), Error::NotFound("x".into())),
            ("b".into(), Error::Denied("x".into())),
            ("c".into(), Error::unavailable("x")),
        ];
        assert_eq!(Failure::reading(&mixed).retry, Retry::Backoff);
    }

    #[test]
    fn only_the_deletion_policy_lets_go() {
        assert_eq!(gone(DeletionPolicy::Retain, 3, 3), Gone::KeepAndSay);
        assert_eq!(gone(DeletionPolicy::Delete, 3, 3), Gone::DeleteTarget);
        assert_eq!(gone(DeletionPolicy::Delete, 1, 3), Gone::DropKeys);
        assert_eq!(gone(DeletionPolicy::Merge, 3, 3), Gone::DropKeys);
    }
}
