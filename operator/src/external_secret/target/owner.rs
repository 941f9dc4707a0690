//! Whose a target is, of any kind. Ownership goes by UID.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lockstep_crds::{LABEL_CREATED_BY, LABEL_MANAGED};
use serde_json::Value;

use super::{FIELD_MANAGER, created_by};
use crate::keys::ObjectKey;

/// What a field manager set on an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OwnFields {
    /// Labels.
    pub labels: BTreeSet<String>,
    /// Annotations.
    pub annotations: BTreeSet<String>,
    /// Keys of `data`.
    pub data: BTreeSet<String>,
}

/// Reads `managedFields`.
pub fn own_fields(meta: &ObjectMeta, manager: &str) -> OwnFields {
    let mut own = OwnFields::default();
    for entry in meta.managed_fields.iter().flatten().filter(|e| e.manager.as_deref() == Some(manager)) {
        let Some(fields) = entry.fields_v1.as_ref().map(|f| &f.0) else { continue };
        let keys = |path: &str| {
            let map = fields.pointer(path).and_then(Value::as_object);
            map.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("f:")).map(str::to_owned).collect::<Vec<_>>()
        };
        own.labels.extend(keys("/f:metadata/f:labels"));
        own.annotations.extend(keys("/f:metadata/f:annotations"));
        own.data.extend(keys("/f:data"));
    }
    own
}

/// Why an object called `name` is not the ExternalSecret `me`'s to overwrite as a whole, if it is not. `bound_before` says that `me`
/// has written this very object.
pub fn foreign(existing: &ObjectMeta, me: &ObjectKey, uid: &str, name: &str, bound_before: bool) -> Option<String> {
    if let Some(owner) = existing.owner_references.iter().flatten().find(|o| o.controller == Some(true)) {
        return match (owner.uid == uid, owner.kind == "ExternalSecret", *owner.name == *me.name) {
            (true, ..) => None,
            (false, true, true) => {
                Some(format!("{name} still belongs to a deleted ExternalSecret {me}; it is made anew once that is collected"))
            }
            (false, true, false) => Some(format!(
                "{name} belongs to ExternalSecret {}/{}, not to {me}; give one of the two another spec.target.name",
                me.namespace, owner.name
            )),
            (false, false, _) => {
                Some(format!("{name} belongs to {} {}, not to ExternalSecret {me}; name another target", owner.kind, owner.name))
            }
        };
    }
    match existing.labels.as_ref().and_then(|l| l.get(LABEL_CREATED_BY)) {
        Some(by) if *by == created_by(me) => None,
        Some(_) => Some(format!(
            "{name} was made by another ExternalSecret than {me}; remove its label {LABEL_CREATED_BY} to hand it over"
        )),
        None if bound_before || handed_over(existing) => None,
        None => Some(format!(
            "{name} exists and was not made by ExternalSecret {me}; use creationPolicy Merge to write keys into it, \
             or label it {LABEL_MANAGED}=true to hand it over"
        )),
    }
}

/// Whether a person, and not one of the Merge policies, has labelled an object as managed.
fn handed_over(meta: &ObjectMeta) -> bool {
    let labelled = meta.labels.as_ref().and_then(|l| l.get(LABEL_MANAGED)).is_some_and(|v| v == "true");
    let entries = meta.managed_fields.as_deref().unwrap_or_default();
    let merging = format!("{FIELD_MANAGER}-");
    let others = entries.iter().filter_map(|e| e.manager.as_deref()).filter(|m| !m.starts_with(&merging));
    labelled && (entries.is_empty() || others.into_iter().any(|m| own_fields(meta, m).labels.contains(LABEL_MANAGED)))
}
