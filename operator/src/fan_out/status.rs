//! What is told of a fan-out: where its objects are, and where not and why. Pure.

use jiff::Timestamp;
use lockstep_crds::conditions::{Condition, ConditionType, FanOutReason};
use lockstep_crds::fan_out::FailedNamespace;
use serde_json::{Value, json};

use super::cache::{FanOut, FanOutKind, Told};
use super::plan::{Action, Step};
use crate::external_secret::status::rfc3339;

/// A namespace where something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which.
    pub namespace: String,
    /// Why.
    pub reason: String,
    /// Whether trying again may help.
    pub retry: bool,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Merge patch of the status, if anything differs.
    pub patch: Option<Value>,
    /// What the status says then.
    pub told: Told,
    /// Whether all objects are there.
    pub ready: bool,
    /// What the condition says.
    pub message: String,
}

/// Namespaces that are listed by name in a message.
const NAMED: usize = 5;

/// Reckons what follows from the steps and what failed of them.
pub fn report(fan_out: &FanOut, steps: &[Step], failed: &[Failed], now: Timestamp) -> Report {
    let mut failures: Vec<FailedNamespace> =
        failed.iter().map(|f| FailedNamespace { namespace: f.namespace.clone(), reason: Some(f.reason.clone()) }).collect();
    failures.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    failures.dedup_by(|a, b| a.namespace == b.namespace);
    let there = |step: &&Step| matches!(step.action, Action::Keep | Action::Apply);
    let is_failed = |step: &&Step| failures.iter().any(|f| f.namespace == *step.namespace);
    let provisioned: Vec<String> =
        steps.iter().filter(there).filter(|step| !is_failed(step)).map(|step| step.namespace.to_string()).collect();
    let message = match failures.as_slice() {
        [] => format!("{} in {} namespaces", fan_out.object_name(), provisioned.len()),
        some => {
            let named: Vec<String> = some
                .iter()
                .take(NAMED)
                .map(|f| format!("{}: {}", f.namespace, f.reason.as_deref().unwrap_or_default()))
                .collect();
            let more = some.len().saturating_sub(NAMED);
            let more = if more > 0 { format!("; and {more} more (see status.failedNamespaces)") } else { String::new() };
            format!("not in {} of {} namespaces: {}{more}", some.len(), some.len() + provisioned.len(), named.join("; "))
        }
    };
    let ready = failures.is_empty();
    let told = Told {
        object_name: Some(fan_out.object_name().to_owned()),
        failed: failures,
        provisioned,
        conditions: conditions(&fan_out.told, ready, &message, now),
    };
    Report { patch: patch(fan_out, &told), told, ready, message }
}

/// Says what is wrong with the object itself; where its objects are stays as it is told.
pub fn rejected(fan_out: &FanOut, message: String, now: Timestamp) -> Report {
    let told = Told { conditions: conditions(&fan_out.told, false, &message, now), ..fan_out.told.clone() };
    Report { patch: patch(fan_out, &told), told, ready: false, message }
}

fn conditions(told: &Told, ready: bool, message: &str, now: Timestamp) -> Vec<Condition> {
    let type_ = ConditionType::Ready.as_str();
    let status = if ready { "True" } else { "False" };
    let there = told.conditions.iter().find(|c| c.type_ == type_ && c.status == status);
    let since = there.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(|| rfc3339(now));
    let reason = if ready { FanOutReason::Ready } else { FanOutReason::NotReady };
    let said = Condition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.as_str().into()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since),
    };
    told.conditions.iter().filter(|c| c.type_ != type_).cloned().chain([said]).collect()
}

fn patch(fan_out: &FanOut, told: &Told) -> Option<Value> {
    if *told == fan_out.told {
        return None;
    }
    let name = match fan_out.kind() {
        FanOutKind::ExternalSecrets => "externalSecretName",
        FanOutKind::PushSecrets => "pushSecretName",
    };
    let Told { object_name, failed, provisioned, conditions } = told;
    // An empty list has no place in the type's text, and must still take the old one's place.
    Some(json!({
        "metadata": {"uid": fan_out.uid},
        "status": {(name): object_name, "failedNamespaces": failed, "provisionedNamespaces": provisioned, "conditions": conditions},
    }))
}

#[cfg(test)]
mod tests {
    use lockstep_crds::ClusterPushSecret;

    use super::*;

    fn fan_out(status: Value) -> FanOut {
        let object: ClusterPushSecret = serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1alpha1", "kind": "ClusterPushSecret", "metadata": {"name": "cps", "uid": "u"},
            "spec": {"pushSecretSpec": {"secretStoreRefs": [], "selector": {"secret": {"name": "s"}}}}, "status": status,
        }))
        .unwrap();
        object.into()
    }

    fn step(namespace: &str, action: Action) -> Step {
        Step { namespace: namespace.into(), action }
    }

    #[test]
    fn namespaces_are_listed_and_nothing_is_told_twice() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let steps = [step("a", Action::Keep), step("b", Action::Apply), step("c", Action::Foreign)];
        let failed = [Failed { namespace: "c".into(), reason: "theirs".into(), retry: false }];
        let first = report(&fan_out(json!({})), &steps, &failed, now);
        assert_eq!((first.ready, first.message.as_str()), (false, "not in 1 of 3 namespaces: c: theirs"));
        let status = first.patch.unwrap()["status"].clone();
        assert_eq!(status["provisionedNamespaces"], json!(["a", "b"]));
        assert_eq!(status["failedNamespaces"], json!([{"namespace": "c", "reason": "theirs"}]));
        assert_eq!(status["pushSecretName"], "cps");
        let told = fan_out(status);
        let later = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(report(&told, &steps, &failed, later).patch, None);
        let mended = report(&told, &steps[..2], &[], later);
        assert_eq!(mended.patch.unwrap()["status"]["failedNamespaces"], json!([]));
        let wrong = rejected(&told, "no".into(), later);
        assert_eq!(
            wrong.patch.unwrap()["status"]["provisionedNamespaces"],
            json!(["a", "b"]),
            "it is not said that they are gone"
        );
    }
}
