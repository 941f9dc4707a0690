//! Which namespaces get an object, and which lose theirs: pure decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::FanOut;
use crate::keys::ObjectKey;
use crate::store::plan::{check_selector, selects};

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Where.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// The UID of who controls it.
    pub owner: Option<String>,
    /// The hash that it carries of what it was made from.
    pub fingerprint: Option<String>,
    /// Its spec, as its kind reads it.
    pub spec: serde_json::Value,
}

/// What is there, by namespace.
#[derive(Default)]
pub struct Made<'a>(BTreeMap<&'a str, Vec<&'a Existing>>);

impl<'a> Made<'a> {
    /// Of a list.
    pub fn of(all: &'a [Existing]) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<&Existing>> = BTreeMap::new();
        all.iter().for_each(|one| by_namespace.entry(&one.key.namespace).or_default().push(one));
        Self(by_namespace)
    }
}

/// What is to be done in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub namespace: Arc<str>,
    /// What.
    pub action: Action,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is what it should be.
    Keep,
    /// Make it, or make it what it should be.
    Apply,
    /// Somebody else's stands there.
    Foreign,
    /// It is not selected any more, or has another name now.
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

/// Decides, for every namespace that is selected or has one.
///
/// # Errors
/// A sentence about an object that selects nothing.
pub fn plan(
    fan_out: &FanOut,
    namespaces: &BTreeMap<Arc<str>, BTreeMap<String, String>>,
    made: &Made<'_>,
) -> Result<Vec<Step>, String> {
    if fan_out.selectors.is_empty() && fan_out.namespaces.is_empty() {
        return Err("names no namespaces: set spec.namespaceSelectors or spec.namespaces".into());
    }
    // What a selector that is wrong would select is not known: nothing is made or taken away on its account.
    for (i, selector) in fan_out.selectors.iter().enumerate() {
        check_selector(selector)
            .map_err(|why| format!("spec.namespaceSelectors[{i}].{why}; nothing is changed until it is right"))?;
    }
    let wanted: BTreeSet<&str> = fan_out.namespaces.iter().map(String::as_str).collect();
    let selected = |name: &str, labels| wanted.contains(name) || fan_out.selectors.iter().any(|s| selects(s, labels));
    let (name, fingerprint) = (fan_out.object_name(), fan_out.fingerprint());
    let mut steps = Vec::new();
    for (namespace, labels) in namespaces {
        let there = made.0.get(&**namespace).map(Vec::as_slice).unwrap_or_default();
        let mut step = |action| steps.push(Step { namespace: namespace.clone(), action });
        let is_selected = selected(namespace, labels);
        let ours = |one: &&&Existing| one.owner.as_deref() == Some(&fan_out.uid);
        for one in there.iter().filter(ours).filter(|one| !is_selected || *one.key.name != *name) {
            step(Action::Delete { name: one.key.name.to_string(), uid: one.uid.clone() });
        }
        if !is_selected {
            continue;
        }
        step(match there.iter().find(|one| *one.key.name == *name) {
            None => Action::Apply,
            Some(one) if !ours(&one) => Action::Foreign,
            Some(one) if one.fingerprint.as_deref() == Some(&fingerprint) && one.spec == *fan_out.spec() => Action::Keep,
            Some(_) => Action::Apply,
        });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use lockstep_crds::ClusterExternalSecret;
    use serde_json::{Value, json};

    use super::*;

    fn fan_out(more: Value) -> FanOut {
        let mut spec = json!({"externalSecretSpec": {"secretStoreRef": {"name": "vault"}}, "externalSecretName": "app"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object: ClusterExternalSecret = serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ClusterExternalSecret",
            "metadata": {"name": "ces", "uid": "me", "generation": 1}, "spec": spec,
        }))
        .unwrap();
        object.into()
    }

    fn namespaces() -> BTreeMap<Arc<str>, BTreeMap<String, String>> {
        let labelled = |name: &str, team: &str| (name.into(), [("team".to_owned(), team.to_owned())].into());
        [labelled("a", "x"), labelled("b", "x"), labelled("c", "y"), labelled("d", "y")].into()
    }

    fn existing(f: &FanOut, namespace: &str, name: &str, owner: Option<&str>) -> Existing {
        Existing {
            key: ObjectKey::new(namespace, name),
            uid: format!("{namespace}/{name}"),
            owner: owner.map(Into::into),
            fingerprint: Some(f.fingerprint()),
            spec: f.spec().clone(),
        }
    }

    fn steps(f: &FanOut, made: &[Existing]) -> Vec<String> {
        let steps = plan(f, &namespaces(), &Made::of(made)).unwrap();
        let word = |step: &Step| match &step.action {
            Action::Keep => format!("{} keep", step.namespace),
            Action::Apply => format!("{} apply", step.namespace),
            Action::Foreign => format!("{} foreign", step.namespace),
            Action::Delete { name, .. } => format!("{} delete {name}", step.namespace),
        };
        steps.iter().map(word).collect()
    }

    #[test]
    fn a_selector_that_is_wrong_takes_nothing_away() {
        for expression in [json!({"key": "team", "operator": "in", "values": ["x"]}), json!({"key": "team", "operator": "NotIn"})]
        {
            let f = fan_out(json!({"namespaceSelectors": [{"matchExpressions": [expression]}]}));
            let there = [existing(&f, "a", "app", Some("me"))];
            let said = plan(&f, &namespaces(), &Made::of(&there)).unwrap_err();
            assert!(said.starts_with("spec.namespaceSelectors[0].matchExpressions[0]: "), "{said}");
        }
    }

    #[test]
    fn any_selector_and_any_name_selects_and_what_is_selected_no_more_loses_its_object() {
        let x = json!({"matchLabels": {"team": "x"}});
        let f = fan_out(json!({"namespaceSelectors": [x, {"matchLabels": {"team": "z"}}], "namespaces": ["d", "nowhere"]}));
        assert_eq!(steps(&f, &[]), ["a apply", "b apply", "d apply"]);
        let made = [
            existing(&f, "a", "app", Some("me")),
            existing(&f, "b", "app", None),
            existing(&f, "c", "app", Some("me")),
            existing(&f, "d", "old", Some("me")),
        ];
        assert_eq!(steps(&f, &made), ["a keep", "b foreign", "c delete app", "d delete old", "d apply"]);
        let older = fan_out(json!({"namespaceSelector": x}));
        assert_eq!(steps(&older, &[]), ["a apply", "b apply"]);
        assert_eq!(steps(&fan_out(json!({"namespaceSelectors": [{}]})), &[]).len(), 4, "an empty selector selects all");
    }

    #[test]
    fn an_object_that_was_changed_by_hand_or_made_from_another_spec_is_applied_again() {
        let f = fan_out(json!({"namespaces": ["a", "b", "c"]}));
        let mut edited = existing(&f, "a", "app", Some("me"));
        edited.spec["secretStoreRef"]["name"] = json!("other");
        let mut labelled = existing(&f, "b", "app", Some("me"));
        labelled.fingerprint = None;
        let others = existing(&f, "c", "app", Some("another uid of the same name"));
        assert_eq!(steps(&f, &[edited, labelled, others]), ["a apply", "b apply", "c foreign"]);
    }

    #[test]
    fn an_object_that_names_no_namespaces_says_so() {
        let error = plan(&fan_out(json!({})), &namespaces(), &Made::default()).unwrap_err();
        assert!(error.contains("spec.namespaceSelectors"), "{error}");
    }
}
