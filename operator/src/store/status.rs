//! From what validation found to what a store's status says. Pure.

use std::time::Duration;

use jiff::Timestamp;
use lockstep_crds::SecretStoreSpec;
use lockstep_crds::conditions::{Condition, ConditionType, EventReason, StoreReason};
use lockstep_crds::store::SecretStoreStatus;
use lockstep_providers::{Access, Error, Validity};
use serde_json::{Value, json};

use super::StoreMemo;
use super::plan;
use crate::external_secret::status::{rfc3339, until};

/// What validation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider answered.
    Answered(Validity, Access),
    /// Each user's namespace decides.
    Referent,
    /// It can't be used.
    Failed(Error),
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Merge patch for the status; none when nothing differs.
    pub patch: Option<Value>,
    /// Event, on a change.
    pub event: Option<(EventReason, String)>,
    /// What is remembered.
    pub memo: StoreMemo,
    /// When to look again.
    pub requeue: Duration,
    /// Whether those who failed on it should try again.
    pub recovered: bool,
}

/// A store whose provider is away is asked again after 1 s, doubling to this: its users are Ready seconds after its return.
pub const PROBE_MAX: Duration = Duration::from_secs(4);

/// Reckons what follows. Validations of stores with other `phase`s are spread over the interval.
pub fn report(
    spec: &SecretStoreSpec,
    status: &SecretStoreStatus,
    memo: &StoreMemo,
    outcome: &Outcome,
    phase: u64,
    now: Timestamp,
) -> Report {
    let (ready, reason, message) = match outcome {
        Outcome::Answered(Validity::Valid, _) => (true, StoreReason::Valid, "store validated".to_owned()),
        Outcome::Answered(Validity::Unknown, _) => {
            (true, StoreReason::ValidationUnknown, "the provider has no way to tell without reading a secret".to_owned())
        }
        Outcome::Referent => {
            let why = "its references name no namespace: they are resolved in the namespace of each ExternalSecret";
            (true, StoreReason::ValidationUnknown, why.to_owned())
        }
        Outcome::Failed(error) => (false, StoreReason::InvalidProviderConfig, error.to_string()),
    };
    let access = match outcome {
        Outcome::Answered(_, access) => Some(access.as_str().to_owned()),
        Outcome::Referent | Outcome::Failed(_) => status.capabilities.clone(),
    };
    let away = matches!(outcome, Outcome::Failed(Error::Unavailable { .. } | Error::Throttled { .. }));
    let failures = if away { memo.failures.saturating_add(1) } else { 0 };
    let requeue = match away {
        true => Duration::from_secs(1 << failures.saturating_sub(1).min(8)).min(PROBE_MAX),
        false => until(now, plan::turn(spec, phase).after(now)),
    };

    let ours = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
    let word = if ready { "True" } else { "False" };
    let same = ours.is_some_and(|c| {
        c.status == word && c.reason.as_deref() == Some(reason.as_str()) && c.message.as_deref() == Some(message.as_str())
    }) && status.capabilities == access;
    let flipped = ours.is_none_or(|c| c.status != word);
    let since = ours.and_then(|c| c.last_transition_time.clone()).filter(|_| !flipped).unwrap_or_else(|| rfc3339(now));
    let condition = Condition {
        type_: ConditionType::Ready.as_str().into(),
        status: word.into(),
        reason: Some(reason.as_str().into()),
        message: Some(message.clone()),
        last_transition_time: Some(since),
    };
    let mut conditions = status.conditions.clone();
    conditions.retain(|c| c.type_ != condition.type_);
    conditions.push(condition);
    let event = (!same).then(|| {
        let reason = match reason {
            StoreReason::Valid => EventReason::Valid,
            StoreReason::InvalidProviderConfig => EventReason::InvalidProviderConfig,
            StoreReason::ValidationUnknown => EventReason::ValidationUnknown,
        };
        (reason, message)
    });
    Report {
        patch: (!same).then(|| json!({"status": {"conditions": conditions, "capabilities": access}})),
        event,
        memo: StoreMemo { ready: Some(ready), validated: Some(now), failures, met: true, doubted: false },
        requeue,
        // Who has just come knows only what the status says.
        recovered: ready && !memo.ready.unwrap_or_else(|| ours.is_none_or(|c| c.status == "True")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn status_of(report: &Report) -> SecretStoreStatus {
        serde_json::from_value(report.patch.as_ref().unwrap()["status"].clone()).unwrap()
    }

    #[test]
    fn a_healthy_store_is_told_once_and_validated_again_in_silence() {
        let spec = SecretStoreSpec::default();
        let valid = Outcome::Answered(Validity::Valid, Access::ReadOnly);
        let first = report(&spec, &SecretStoreStatus::default(), &StoreMemo::default(), &valid, 7, at(0));
        let status = status_of(&first);
        assert_eq!((status.conditions[0].reason.as_deref(), status.capabilities.as_deref()), (Some("Valid"), Some("ReadOnly")));
        assert!(!first.recovered && first.event.is_some(), "its users were woken when it appeared");
        let again = report(&spec, &status, &first.memo, &valid, 7, at(300));
        assert_eq!((again.patch, again.event, again.recovered), (None, None, false));
        // At its phase: the first time after a sixth of the interval or later, then every interval.
        let waits: Vec<u64> =
            (0..50).map(|phase| report(&spec, &status, &first.memo, &valid, phase << 56, at(300)).requeue.as_secs()).collect();
        assert!(waits.iter().all(|w| (100..=300).contains(w)), "{waits:?}");
        assert!(waits.iter().collect::<std::collections::HashSet<_>>().len() > 30, "spread: {waits:?}");
    }

    #[test]
    fn a_store_that_is_away_is_probed_every_few_seconds_and_a_wrong_one_at_its_interval() {
        let spec = SecretStoreSpec::default();
        let away = Outcome::Failed(Error::unreachable("gone"));
        let (mut memo, mut waits) = (StoreMemo::default(), vec![]);
        for i in 0..5 {
            let r = report(&spec, &SecretStoreStatus::default(), &memo, &away, 7, at(i));
            waits.push(r.requeue.as_secs());
            memo = r.memo;
        }
        assert_eq!(waits, [1, 2, 4, 4, 4]);
        let wrong = Outcome::Failed(Error::invalid("spec.provider.vault.server", "is no URL"));
        let r = report(&spec, &SecretStoreStatus::default(), &memo, &wrong, 7, at(9));
        assert!((Duration::from_secs(50)..=Duration::from_secs(300)).contains(&r.requeue));
        assert_eq!(status_of(&r).conditions[0].message.as_deref(), Some("spec.provider.vault.server: is no URL"));
        let valid = Outcome::Answered(Validity::Valid, Access::ReadOnly);
        assert!(report(&spec, &SecretStoreStatus::default(), &memo, &valid, 7, at(10)).recovered);
    }

    #[test]
    fn a_referent_store_stays_true() {
        let r = report(
            &SecretStoreSpec::default(),
            &SecretStoreStatus::default(),
            &StoreMemo::default(),
            &Outcome::Referent,
            7,
            at(0),
        );
        let condition = status_of(&r).conditions[0].clone();
        assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("ValidationUnknown")));
    }
}
