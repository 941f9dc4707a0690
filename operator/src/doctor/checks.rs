//! Objects that nobody serves, stores that nobody uses, and Secrets that nobody wants. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use lockstep_crds::ExternalSecret;

use super::gather::Seen;
use super::{Check, Finding};
use crate::keys::{ObjectKey, StoreKey};
use crate::push_secret::plan as push;

/// How old an object is that should have synced by now: a first sync takes a second.
const SOON: i64 = 60;

/// ExternalSecrets that have never synced.
pub fn never_synced(seen: &Seen) -> Vec<Finding> {
    let waits = |object: &&ExternalSecret| {
        let never = object.status.as_ref().is_none_or(|s| s.refresh_time.is_none() && s.binding.is_none());
        let old = object.creation_timestamp().is_none_or(|t| seconds_since(t.0, seen.now) >= SOON);
        never && old && object.metadata.deletion_timestamp.is_none()
    };
    let say = |object: &ExternalSecret| {
        let conditions = object.status.as_ref().map(|s| &s.conditions[..]).unwrap_or_default();
        let ready = conditions.iter().find(|c| c.type_ == "Ready").and_then(|c| c.message.clone());
        let why = ready.unwrap_or_else(|| {
            "and nobody says why: no operator serves it (is one running, and of the class of its store?)".into()
        });
        let age = object.creation_timestamp().map_or(0, |t| seconds_since(t.0, seen.now));
        let message = format!("has not synced in the {} since it was made: {why}", in_words(age));
        let name = format!("ExternalSecret {}/{}", object.namespace().unwrap_or_default(), object.name_any());
        Finding::warning(Check::NeverSynced, name, message, "mend what its condition names, or delete it")
    };
    seen.external_secrets.iter().filter(waits).map(say).collect()
}

fn seconds_since(then: Timestamp, now: Timestamp) -> i64 {
    now.duration_since(then).as_secs()
}

fn in_words(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Stores that no object names, nor any that a cluster's object would make.
pub fn unused_stores(seen: &Seen) -> Vec<Finding> {
    let mut used: BTreeSet<StoreKey> = BTreeSet::new();
    for object in &seen.external_secrets {
        let namespace: Arc<str> = object.namespace().unwrap_or_default().into();
        used.extend(object.store_refs().map(|reference| StoreKey::referred(&namespace, reference)));
    }
    for template in &seen.cluster_external_secrets {
        let object = ExternalSecret::new("template", template.clone());
        // What it makes lies in other namespaces: of its stores those of the cluster are certain.
        used.extend(object.store_refs().map(|r| StoreKey::referred(&"".into(), r)).filter(|key| key.namespace.is_none()));
    }
    let pushed_to = |store: &super::gather::StoreSeen| {
        let of = |object: &lockstep_crds::PushSecret, namespace: Option<&str>| {
            let here = store.key.namespace.as_deref().is_none_or(|n| namespace.is_none_or(|own| n == own));
            here && push::store_refs(object).any(|reference| push::refers_to(reference, &store.key, &store.labels))
        };
        seen.push_secrets.iter().any(|o| of(o, o.metadata.namespace.as_deref()))
            || seen.cluster_push_secrets.iter().any(|spec| of(&lockstep_crds::PushSecret::new("template", spec.clone()), None))
    };
    let idle = seen.stores.iter().filter(|store| !used.contains(&store.key) && !pushed_to(store));
    let action = "delete it: its credentials give rights that nobody uses";
    idle.map(|store| Finding::warning(Check::UnusedStore, store.key.to_string(), "nobody reads from it or pushes to it", action))
        .collect()
}

/// Managed Secrets that no ExternalSecret has as its target.
pub fn unmanaged(seen: &Seen) -> Vec<Finding> {
    let wanted: BTreeSet<ObjectKey> = seen
        .external_secrets
        .iter()
        .filter(|object| object.spec.target.manifest.is_none())
        .map(|object| ObjectKey::new(&object.namespace().unwrap_or_default(), object.target_name()))
        .collect();
    let of_nobody = seen.managed.iter().filter(|key| !wanted.contains(key));
    let action = "delete it if no workload uses it, or take the label reconcile.external-secrets.io/managed off";
    of_nobody
        .map(|key| {
            let message = "was made by an ExternalSecret that is gone (or has another target now): nobody keeps it current";
            Finding::warning(Check::UnmanagedSecret, format!("Secret {key}"), message, action)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use lockstep_crds::{ExternalSecretSpec, PushSecret};
    use serde_json::json;

    use super::super::gather::StoreSeen;
    use super::*;

    fn object(name: &str, spec: serde_json::Value, status: serde_json::Value) -> ExternalSecret {
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "spec": spec, "status": status,
            "metadata": {"namespace": "team", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        }))
        .unwrap()
    }

    fn seen() -> Seen {
        Seen { now: "2026-01-03T00:00:00Z".parse().unwrap(), ..Seen::default() }
    }

    fn store(namespace: Option<&str>, name: &str, labels: &[(&str, &str)]) -> StoreSeen {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        StoreSeen { key: StoreKey { namespace: namespace.map(Into::into), name: name.into() }, labels, as_service_account: false }
    }

    fn names(findings: &[Finding]) -> Vec<&str> {
        findings.iter().filter_map(|f| f.object.as_deref()).collect()
    }

    #[test]
    fn an_object_that_has_never_synced_is_told_with_its_reason_and_a_young_one_is_not() {
        let data = json!({"data": [{"secretKey": "k", "remoteRef": {"key": "k"}}]});
        let said = json!({"conditions": [{"type": "Ready", "status": "False", "message": "no such store"}]});
        let synced = json!({"refreshTime": "2026-01-02T00:00:00Z", "conditions": []});
        let mut all = seen();
        all.external_secrets =
            vec![object("bad", data.clone(), said), object("good", data.clone(), synced), object("lost", data, json!({}))];
        let found = never_synced(&all);
        assert_eq!(names(&found), ["ExternalSecret team/bad", "ExternalSecret team/lost"]);
        assert!(found[0].message.contains("2 days") && found[0].message.contains("no such store"), "{found:?}");
        assert!(found[1].message.contains("no operator serves it"), "{found:?}");
        all.now = "2026-01-01T00:00:30Z".parse().unwrap();
        assert!(never_synced(&all).is_empty());
    }

    #[test]
    fn a_store_has_users_by_name_by_label_and_through_what_a_cluster_makes() {
        let mut all = seen();
        let reads = json!({"secretStoreRef": {"name": "read"}, "dataFrom": [{"extract": {"key": "k"}}]});
        all.external_secrets = vec![object("a", reads, json!({}))];
        let shared: ExternalSecretSpec = serde_json::from_value(
            json!({"secretStoreRef": {"name": "shared", "kind": "ClusterSecretStore"}, "dataFrom": [{"extract": {"key": "k"}}]}),
        )
        .unwrap();
        all.cluster_external_secrets = vec![shared];
        let push: PushSecret = serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret", "metadata": {"namespace": "team", "name": "p"},
            "spec": {"secretStoreRefs": [{"labelSelector": {"matchLabels": {"push": "yes"}}}], "selector": {}},
        }))
        .unwrap();
        all.push_secrets = vec![push];
        all.stores = vec![
            store(Some("team"), "read", &[]),
            store(Some("other"), "read", &[]),
            store(None, "shared", &[]),
            store(Some("team"), "shared", &[]),
            store(Some("team"), "pushed", &[("push", "yes")]),
            store(Some("other"), "pushed", &[("push", "yes")]),
        ];
        let found = unused_stores(&all);
        assert_eq!(names(&found), ["SecretStore other/read", "SecretStore team/shared", "SecretStore other/pushed"]);
    }

    #[test]
    fn a_managed_secret_whose_object_is_gone_is_nobodys() {
        let mut all = seen();
        all.external_secrets = vec![object("a", json!({"target": {"name": "renamed"}}), json!({}))];
        all.managed = vec![ObjectKey::new("team", "renamed"), ObjectKey::new("team", "a"), ObjectKey::new("other", "renamed")];
        assert_eq!(names(&unmanaged(&all)), ["Secret team/a", "Secret other/renamed"]);
    }
}
