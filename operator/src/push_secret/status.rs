//! What is told of a PushSecret: condition, what was pushed where, and when to look again. Pure.

use std::time::Duration;

use jiff::Timestamp;
use lockstep_crds::PushSecret;
use lockstep_crds::conditions::{Condition, ConditionType, EventReason, PushReason};
use lockstep_crds::push_secret::SyncedPushSecrets;
use serde_json::{Map, Value, json};

use super::cache::Memo;
use super::plan::{self, Settings};
use crate::external_secret::status::{Failure, Requeue, Retry, clip, rfc3339, until};

/// How a reconcile ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All is where it should be.
    Synced {
        /// How many values were written.
        written: usize,
    },
    /// Something is not.
    Failed(Failure),
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Merge patch of the status.
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

const SYNCED: &str = "PushSecret synced successfully";

/// First and longest wait after a failure that may pass.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(420));

/// Reckons what follows; `pushed` is what is known to be in place now.
pub fn report(
    object: &PushSecret,
    memo: &Memo,
    outcome: Outcome,
    pushed: SyncedPushSecrets,
    settings: Option<&Settings>,
    now: Timestamp,
    heartbeat: Duration,
) -> Report {
    let mut next = Memo { pushed, met: true, ..memo.clone() };
    let (ready, message, event, label) = match outcome {
        Outcome::Synced { written } => {
            next.synced = Some(plan::synced_version(object));
            next.refreshed = Some(now);
            next.failures = 0;
            next.retry = None;
            let event = (written > 0).then(|| (EventReason::Synced, format!("{written} values pushed")));
            (true, SYNCED.to_owned(), event, (if written > 0 { "synced" } else { "unchanged" }, ""))
        }
        Outcome::Failed(failure) => {
            next.failures = failure.retry.in_a_row(next.failures);
            next.retry = Some(failure.retry);
            let message = clip(failure.message);
            let news = memo.ready != Some(false) || memo.message.as_deref() != Some(&message);
            (false, message.clone(), news.then_some((EventReason::Errored, message)), ("error", failure.category))
        }
    };
    if memo.ready != Some(ready) {
        next.since = Some(now);
    }
    (next.ready, next.message) = (Some(ready), Some(message));
    let requeue = match next.retry.filter(|_| !ready) {
        Some(retry) => after(retry, settings, &next, now),
        None => settings.and_then(|s| s.next_refresh(next.refreshed, now)).map(Requeue::Turn),
    };
    let patch = patch(object, memo, &mut next, now, heartbeat);
    Report { patch, event, memo: next, requeue, label }
}

fn after(retry: Retry, settings: Option<&Settings>, memo: &Memo, now: Timestamp) -> Option<Requeue> {
    match retry {
        Retry::AtInterval => settings.map(|s| Requeue::Turn(s.next_try(now))),
        Retry::After(wait) => Some(Requeue::After(wait + wait / 8 + Duration::from_millis(100))),
        Retry::Now if memo.failures <= 2 => Some(Requeue::After(Duration::from_millis(50))),
        Retry::Now | Retry::Backoff => {
            let exponent = memo.failures.saturating_sub(1).min(20);
            Some(Requeue::After(BACKOFF.0.saturating_mul(1 << exponent).min(BACKOFF.1)))
        }
    }
}

fn patch(object: &PushSecret, before: &Memo, next: &mut Memo, now: Timestamp, heartbeat: Duration) -> Option<Value> {
    let mut status = Map::new();
    if next.synced != before.synced {
        status.insert("syncedResourceVersion".into(), json!(next.synced));
    }
    if next.pushed != before.pushed {
        status.insert("syncedPushSecrets".into(), changes(&before.pushed, &next.pushed));
    }
    if (next.ready, &next.message) != (before.ready, &before.message) {
        status.insert("conditions".into(), json!(conditions(object, next)));
    }
    let recent = before.told.is_some_and(|told| until(told, now) < heartbeat);
    if next.refreshed != before.refreshed && (!status.is_empty() || !recent) {
        status.insert("refreshTime".into(), json!(next.refreshed.map(rfc3339)));
        next.told = next.refreshed;
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": object.metadata.uid}, "status": status}))
}

/// A merge patch from one to the other: what is gone is named with null.
pub fn changes(before: &SyncedPushSecrets, next: &SyncedPushSecrets) -> Value {
    let mut all = Map::new();
    for (store, places) in before {
        match next.get(store) {
            None => drop(all.insert(store.clone(), Value::Null)),
            Some(kept) => {
                let gone = places.keys().filter(|place| !kept.contains_key(*place));
                let mut of_store: Map<String, Value> = gone.map(|place| (place.clone(), Value::Null)).collect();
                of_store.extend(kept.iter().map(|(place, data)| (place.clone(), json!(data))));
                all.insert(store.clone(), Value::Object(of_store));
            }
        }
    }
    for (store, places) in next.iter().filter(|(store, _)| !before.contains_key(*store)) {
        all.insert(store.clone(), json!(places));
    }
    Value::Object(all)
}

fn conditions(object: &PushSecret, next: &Memo) -> Vec<Condition> {
    let type_ = ConditionType::Ready.as_str();
    let ready = next.ready == Some(true);
    let said = Condition {
        type_: type_.into(),
        status: if ready { "True" } else { "False" }.into(),
        reason: Some(if ready { PushReason::Synced } else { PushReason::Errored }.as_str().into()),
        message: next.message.clone(),
        last_transition_time: next.since.map(rfc3339),
    };
    let there = object.status.iter().flat_map(|s| &s.conditions);
    there.filter(|c| c.type_ != type_).cloned().chain([said]).collect()
}

#[cfg(test)]
mod tests {
    use lockstep_crds::push_secret::PushData;

    use super::*;

    fn object() -> PushSecret {
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"secretStoreRefs": [{"name": "v"}], "selector": {"secret": {"name": "s"}},
                "data": [{"match": {"remoteRef": {"remoteKey": "r"}}}]},
        }))
        .unwrap()
    }

    fn pushed(places: &[(&str, &str)]) -> SyncedPushSecrets {
        let mut all = SyncedPushSecrets::new();
        places.iter().for_each(|(store, place)| {
            all.entry((*store).to_owned()).or_default().insert((*place).to_owned(), PushData::default());
        });
        all
    }

    #[test]
    fn a_first_push_is_one_patch_and_an_unchanged_one_none() {
        let object = object();
        let settings = plan::settings(&object).unwrap();
        let at = |s: i64| Timestamp::from_second(1_700_000_000 + s).unwrap();
        let beat = Duration::from_secs(300);
        let all = pushed(&[("SecretStore/v", "r")]);
        let tell =
            |memo: &Memo, outcome: Outcome, s: i64| report(&object, memo, outcome, all.clone(), Some(&settings), at(s), beat);
        let first = tell(&Memo::default(), Outcome::Synced { written: 1 }, 0);
        let status = first.patch.unwrap()["status"].clone();
        assert_eq!(status["conditions"][0]["reason"], "Synced");
        assert!(status["syncedPushSecrets"]["SecretStore/v"]["r"].is_object());
        let again = tell(&first.memo, Outcome::Synced { written: 0 }, 60);
        assert_eq!((again.patch, again.event), (None, None));
        assert!(matches!(again.requeue, Some(Requeue::Turn(_))));
        let failed = tell(&again.memo, Outcome::Failed(Failure { retry: Retry::Backoff, ..Failure::rejected("no".into()) }), 61);
        assert_eq!(failed.patch.unwrap()["status"]["conditions"][0]["message"], "no");
        assert_eq!(failed.memo.refreshed, again.memo.refreshed, "what is in place stays told");
        assert!(matches!(failed.requeue, Some(Requeue::After(wait)) if wait == Duration::from_secs(1)));
        // However often a provider asked for time, a conflict is tried again at once, and what fails after it soon.
        let mut memo = failed.memo;
        for second in 62..72 {
            let slow = Failure { retry: Retry::After(Duration::from_secs(5)), ..Failure::rejected("slow".into()) };
            memo = tell(&memo, Outcome::Failed(slow), second).memo;
        }
        for (retry, most) in [(Retry::Now, Duration::from_millis(50)), (Retry::Backoff, Duration::from_secs(2))] {
            let next = tell(&memo, Outcome::Failed(Failure { retry, ..Failure::rejected("no".into()) }), 80);
            assert!(matches!(next.requeue, Some(Requeue::After(wait)) if wait <= most), "{:?}", next.requeue);
        }
    }

    #[test]
    fn what_is_gone_is_taken_out_of_the_status() {
        let before = pushed(&[("a", "1"), ("a", "2"), ("b", "1")]);
        let next = pushed(&[("a", "2"), ("c", "1")]);
        let changes = changes(&before, &next);
        assert_eq!((&changes["a"]["1"], &changes["b"]), (&Value::Null, &Value::Null));
        assert!(changes["a"]["2"].is_object() && changes["c"]["1"].is_object());
    }
}
