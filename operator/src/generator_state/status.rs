//! What is told of a GeneratorState: only what is wrong, and that it is well again. Pure.

use jiff::Timestamp;
use lockstep_crds::conditions::{Condition, ConditionType, LeaseReason};
use serde_json::{Value, json};

use super::cache::Entry;
use crate::external_secret::status::rfc3339;

/// A patch of its status, if it does not say so already.
pub fn patch(entry: &Entry, wrong: Option<(&str, String)>, now: Timestamp) -> Option<Value> {
    let ready = ConditionType::Ready.as_str();
    let there = entry.conditions.iter().find(|c| c.type_ == ready);
    let mut said = match wrong {
        None => {
            there.filter(|c| c.status == "False")?;
            condition("True", LeaseReason::LeaseHeld.as_str(), "the lease holds".into(), now)
        }
        Some((reason, message)) => condition("False", reason, message, now),
    };
    if let Some(there) = there.filter(|c| c.status == said.status) {
        said.last_transition_time.clone_from(&there.last_transition_time);
        if *there == said {
            return None;
        }
    }
    let others = entry.conditions.iter().filter(|c| c.type_ != ready).cloned();
    let all: Vec<Condition> = others.chain([said]).collect();
    Some(json!({"metadata": {"uid": entry.uid}, "status": {"conditions": all}}))
}

fn condition(status: &str, reason: &str, message: String, now: Timestamp) -> Condition {
    Condition {
        type_: ConditionType::Ready.as_str().into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(rfc3339(now)),
    }
}
