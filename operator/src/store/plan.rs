//! What is to be done with a store now, and who may use it: pure decisions.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lockstep_crds::SecretStoreSpec;
use lockstep_crds::duration::parse_go;
use lockstep_crds::store::StoreCondition;

use super::StoreMemo;
use crate::queue::Wake;
use crate::turns::Turn;

/// How often a healthy store is validated when it does not say.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);

/// How soon after a validation the refusals that users meet make another.
const DOUBT: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Another operator's.
    Ignore,
    /// Nothing before this time is over.
    Skip(Duration),
    /// Ask the provider when the store's turn comes: a start with a thousand stores must not be a thousand validations at once.
    InTurn,
    /// Ask the provider.
    Validate,
}

/// Decides. `told` says that the status tells of a store that works, `away` that its provider leaves users waiting.
pub fn plan(spec: &SecretStoreSpec, class: &str, memo: &StoreMemo, wake: Wake, told: bool, away: bool, now: Timestamp) -> Plan {
    if !is_ours(spec, class) {
        return Plan::Ignore;
    }
    let interval = interval(spec).unwrap_or(DEFAULT_INTERVAL);
    // Its timer is set to a phase of the interval, at the earliest to a sixth of it.
    let rest = match (memo.doubted, memo.ready) {
        (true, _) => DOUBT.min(interval / 8),
        (false, Some(true)) => interval / 8,
        (false, _) => Duration::ZERO,
    };
    match memo.validated {
        Some(at) if !wake.changed && !wake.store && !away => {
            let age = Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO);
            if age < rest { Plan::Skip(rest - age) } else { Plan::Validate }
        }
        None if told && !memo.met && !wake.store && !away => Plan::InTurn,
        _ => Plan::Validate,
    }
}

/// Whether a store is of this operator's class; an empty class is the default one.
pub fn is_ours(spec: &SecretStoreSpec, class: &str) -> bool {
    is_class(spec.controller.as_deref(), class)
}

/// Whether a `controller` field names this class.
pub fn is_class(named: Option<&str>, class: &str) -> bool {
    let of = |c: &str| if c.is_empty() { "default".to_owned() } else { c.to_owned() };
    of(named.unwrap_or_default()) == of(class)
}

/// The turn of a store's validations.
pub fn turn(spec: &SecretStoreSpec, phase: u64) -> Turn {
    let every = interval(spec).unwrap_or(DEFAULT_INTERVAL).as_millis();
    Turn { group: phase, every_ms: u64::try_from(every).unwrap_or(u64::MAX) }
}

/// How often a store is validated again.
///
/// # Errors
/// A sentence about `spec.refreshInterval`.
pub fn interval(spec: &SecretStoreSpec) -> Result<Duration, String> {
    let parsed = match &spec.refresh_interval {
        None => Duration::ZERO,
        Some(IntOrString::Int(seconds)) => Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)),
        Some(IntOrString::String(text)) => parse_go(text).map_err(|why| format!("spec.refreshInterval: {why}"))?,
    };
    Ok(if parsed.is_zero() { DEFAULT_INTERVAL } else { parsed.max(Duration::from_secs(1)) })
}

/// Whether an entry of `spec.conditions` admits a namespace: by name, by label or by regular expression, anchored.
///
/// An expression that does not compile admits nobody: the store's condition says so.
pub fn condition_matches(condition: &StoreCondition, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    let by_name = condition.namespaces.iter().any(|n| n == namespace);
    let by_label = condition.namespace_selector.as_ref().is_some_and(|s| labels.is_some_and(|l| selects(s, l)));
    by_name || by_label || condition.namespace_regexes.iter().any(|r| anchored(r).is_ok_and(|r| r.is_match(namespace)))
}

fn anchored(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build()
}

/// Checks the parts of a spec that need parsing, before any provider is asked.
///
/// # Errors
/// A sentence that names the field.
pub fn check(spec: &SecretStoreSpec) -> Result<(), String> {
    interval(spec)?;
    if let Some(text) = spec.retry_settings.as_ref().and_then(|settings| settings.retry_interval.as_deref()) {
        parse_go(text).map_err(|why| format!("spec.retrySettings.retryInterval: {why}"))?;
    }
    for (i, condition) in spec.conditions.iter().enumerate() {
        if let Some(Err(why)) = condition.namespace_selector.as_ref().map(check_selector) {
            return Err(format!("spec.conditions[{i}].namespaceSelector.{why}; it admits nobody"));
        }
        if let Some(bad) = condition.namespace_regexes.iter().find(|r| anchored(r).is_err()) {
            return Err(format!("spec.conditions[{i}].namespaceRegexes: {bad:?} is no regular expression; it admits nobody"));
        }
    }
    Ok(())
}

/// Checks a label selector as the API server checks those of its own kinds.
///
/// # Errors
/// A sentence about the expression.
pub fn check_selector(selector: &LabelSelector) -> Result<(), String> {
    for (i, e) in selector.match_expressions.iter().flatten().enumerate() {
        let (field, values) = (format!("matchExpressions[{i}]"), e.values.as_ref().is_some_and(|v| !v.is_empty()));
        match (e.operator.as_str(), values) {
            ("In" | "NotIn", true) | ("Exists" | "DoesNotExist", false) => {}
            (operator @ ("In" | "NotIn"), false) => return Err(format!("{field}: {operator} needs values")),
            (operator @ ("Exists" | "DoesNotExist"), true) => return Err(format!("{field}: {operator} takes no values")),
            (operator, _) => {
                return Err(format!("{field}: {operator:?} is no operator; write In, NotIn, Exists or DoesNotExist"));
            }
        }
    }
    Ok(())
}

/// A label selector, as Kubernetes reads it: all of its parts must match; one that is wrong matches nothing.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    if check_selector(selector).is_err() {
        return false;
    }
    let mut equal = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    equal.all(|(k, v)| labels.get(k) == Some(v))
        && expressions.all(|e| {
            let value = labels.get(&e.key);
            let listed = value.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn condition(json: serde_json::Value) -> StoreCondition {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_condition_admits_by_name_label_or_anchored_expression() {
        let labels: BTreeMap<String, String> = [("team".to_owned(), "a".to_owned())].into();
        for (json, expected) in [
            (json!({"namespaces": ["prod", "x"]}), true),
            (json!({"namespaces": ["x"]}), false),
            (json!({"namespaceRegexes": ["pr.*"]}), true),
            (json!({"namespaceRegexes": ["ro"]}), false),
            (json!({"namespaceRegexes": ["a|prod"]}), true),
            (json!({"namespaceRegexes": ["(", "a"]}), false),
            (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), true),
            (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), false),
            (json!({"namespaceSelector": {}}), true),
            (json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}}), true),
            (json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}}), false),
            (json!({"namespaceSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}), false),
            (json!({"namespaceSelector": {"matchExpressions": [{"key": "tier", "operator": "Sideways"}]}}), false),
            (json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn"}]}}), false),
            (json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists", "values": ["a"]}]}}), false),
            (json!({}), false),
        ] {
            assert_eq!(condition_matches(&condition(json.clone()), "prod", Some(&labels)), expected, "{json}");
        }
        let by_label = condition(json!({"namespaceSelector": {}}));
        assert!(!condition_matches(&by_label, "prod", None), "a namespace that is not known has no labels to match");
    }

    #[test]
    fn a_selector_that_the_api_server_would_not_take_is_named() {
        for (expression, expected) in [
            (json!({"key": "team", "operator": "in", "values": ["a"]}), "matchExpressions[0]: \"in\" is no operator"),
            (json!({"key": "team", "operator": "In"}), "In needs values"),
            (json!({"key": "team", "operator": "NotIn", "values": []}), "NotIn needs values"),
            (json!({"key": "team", "operator": "Exists", "values": ["a"]}), "Exists takes no values"),
            (json!({"key": "team", "operator": "DoesNotExist"}), ""),
        ] {
            let selector = json!({"matchExpressions": [expression]});
            let said = check_selector(&serde_json::from_value(selector.clone()).unwrap()).err().unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
            let spec =
                SecretStoreSpec { conditions: vec![condition(json!({"namespaceSelector": selector}))], ..Default::default() };
            assert_eq!(check(&spec).is_err(), !expected.is_empty());
        }
    }

    #[test]
    fn an_empty_class_is_the_default_one_and_others_are_left_alone() {
        let spec = |c: Option<&str>| SecretStoreSpec { controller: c.map(Into::into), ..Default::default() };
        for (store, operator, expected) in [
            (None, "default", true),
            (Some(""), "default", true),
            (Some("default"), "default", true),
            (Some("b"), "default", false),
            (Some("b"), "b", true),
            (None, "b", false),
        ] {
            assert_eq!(is_ours(&spec(store), operator), expected, "{store:?} {operator}");
        }
    }

    #[test]
    fn a_healthy_store_is_not_validated_again_at_once_and_a_changed_or_absent_one_is() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let spec = SecretStoreSpec { refresh_interval: Some(IntOrString::Int(60)), ..Default::default() };
        let memo = |ready| StoreMemo { ready: Some(ready), validated: Some(now), ..Default::default() };
        let i = Instant::now();
        let later = now.checked_add(jiff::SignedDuration::from_secs(61)).unwrap();
        let met = StoreMemo { met: true, ..Default::default() };
        let doubted = |ready| StoreMemo { doubted: true, ..memo(ready) };
        let soon = now.checked_add(jiff::SignedDuration::from_secs(10)).unwrap();
        for (memo, wake, told, away, now, expected) in [
            // At a start: what its status says will do until its turn comes.
            (StoreMemo::default(), Wake::changed(i), true, false, now, Plan::InTurn),
            (StoreMemo::default(), Wake::store(i), true, false, now, Plan::Validate),
            (StoreMemo::default(), Wake::changed(i), true, true, now, Plan::Validate),
            (StoreMemo::default(), Wake::changed(i), false, false, now, Plan::Validate),
            (met.clone(), Wake::turn(i), true, false, now, Plan::Validate),
            (met, Wake::changed(i), true, false, now, Plan::Validate),
            (memo(true), Wake::timer(i), true, false, now, Plan::Skip(Duration::from_millis(7500))),
            (memo(true), Wake::timer(i), true, false, later, Plan::Validate),
            (memo(true), Wake::changed(i), true, false, now, Plan::Validate),
            (memo(true), Wake::store(i), true, false, now, Plan::Validate),
            (memo(true), Wake::timer(i), true, true, now, Plan::Validate),
            (memo(false), Wake::timer(i), false, false, now, Plan::Validate),
            // What its users are refused makes it look again, and not at every refusal.
            (doubted(true), Wake::timer(i), true, false, now, Plan::Skip(Duration::from_millis(7500))),
            (doubted(false), Wake::source(i), false, false, now, Plan::Skip(Duration::from_millis(7500))),
            (doubted(true), Wake::timer(i), true, false, soon, Plan::Validate),
            (StoreMemo::default(), Wake::timer(i), false, false, now, Plan::Validate),
        ] {
            assert_eq!(plan(&spec, "default", &memo, wake, told, away, now), expected, "{memo:?} {wake:?}");
        }
        let other = SecretStoreSpec { controller: Some("x".into()), ..Default::default() };
        assert_eq!(plan(&other, "default", &StoreMemo::default(), Wake::changed(i), false, false, now), Plan::Ignore);
    }

    #[test]
    fn intervals_are_seconds_or_go_durations_and_nonsense_is_named() {
        let spec = |i| SecretStoreSpec { refresh_interval: Some(i), ..Default::default() };
        assert_eq!(interval(&spec(IntOrString::Int(0))), Ok(DEFAULT_INTERVAL));
        assert_eq!(interval(&spec(IntOrString::String("10m".into()))), Ok(Duration::from_secs(600)));
        assert!(check(&spec(IntOrString::String("banana".into()))).unwrap_err().contains("banana"));
        let bad = SecretStoreSpec { conditions: vec![condition(json!({"namespaceRegexes": ["("]}))], ..Default::default() };
        assert!(check(&bad).unwrap_err().contains("spec.conditions[0]"));
    }
}
