//! What the audit trail says of an ExternalSecret: which remote secrets went into which target, and when that ended.

use std::sync::Arc;

use kube::ResourceExt;
use lockstep_crds::ExternalSecret;
use lockstep_crds::external_secret::Binding;
use serde_json::{Value, json};

use super::plan::{Ask, Origin, Source};
use super::status::Outcome;
use super::target::Change;
use crate::audit::{self, Action};
use crate::context::Context;
use crate::keys::{ObjectKey, Referrer};

fn target(object: &ExternalSecret, name: &str, binding: Option<&Binding>) -> Value {
    let kind = object.spec.target.manifest.as_ref().map_or("Secret", |manifest| &manifest.kind);
    let version = object.spec.target.manifest.as_ref().map_or("v1", |manifest| &manifest.api_version);
    let uid = binding.and_then(|b| b.uid.as_deref());
    json!({"apiVersion": version, "kind": kind, "namespace": object.metadata.namespace, "name": name, "uid": uid})
}

fn who(key: &ObjectKey, object: &ExternalSecret) -> Value {
    audit::object(&Referrer::ExternalSecret(key.clone()), object.uid().as_deref())
}

/// Where an entry comes from.
fn source(source: &Source<'_>, version: Option<&Arc<str>>) -> Value {
    let mut told = match &source.origin {
        Origin::Store(store) => json!({"store": audit::store(store)}),
        Origin::Generator(generator) => json!({"generator": generator.to_string()}),
    };
    match source.ask {
        Ask::Key(_, remote) | Ask::Extract(remote) => {
            told["key"] = json!(remote.key);
            told["property"] = json!(remote.property);
        }
        Ask::Find(find) => {
            told["find"] =
                json!({"path": find.path, "name": find.name.as_ref().and_then(|n| n.regexp.as_deref()), "tags": find.tags})
        }
        Ask::Generate(_) => {}
    }
    told["version"] = json!(version.map(|v| &**v));
    told
}

/// A sync is over. What is as it was before is in no record: there would be one at every refresh.
pub(super) fn synced(
    ctx: &Context,
    key: &ObjectKey,
    object: &ExternalSecret,
    sources: &[Source<'_>],
    hashes: Value,
    before: Option<&Binding>,
    outcome: &Outcome,
) {
    if !ctx.audit.is_on() {
        return;
    }
    let (result, binding, versions) = match outcome {
        Outcome::Synced { binding, change, versions, .. } => {
            let result = match change {
                Change::Created => "created",
                Change::Updated => "updated",
                Change::None if before.is_none() && binding.is_some() => "found",
                Change::None => return,
            };
            (result, binding.as_ref(), &versions[..])
        }
        Outcome::Failed(failure) => (failure.category, None, &[][..]),
        Outcome::Unchanged | Outcome::Intact(_) | Outcome::Deleted { .. } => return,
    };
    let told = sources.iter().enumerate().map(|(i, s)| source(s, versions.get(i).and_then(Option::as_ref)));
    let what = json!({
        "object": who(key, object), "target": target(object, object.target_name(), binding), "keys": hashes,
        "sources": told.collect::<Vec<_>>(),
    });
    ctx.audit.record(Action::Write, result, what);
}

/// The deletion policy took the target away.
pub(super) fn deleted(ctx: &Context, key: &ObjectKey, object: &ExternalSecret, binding: Option<&Binding>, outcome: &Outcome) {
    let result = match outcome {
        Outcome::Deleted { was_there: true } => "deleted",
        Outcome::Failed(failure) => failure.category,
        Outcome::Deleted { was_there: false } | Outcome::Synced { .. } | Outcome::Unchanged | Outcome::Intact(_) => return,
    };
    let name = binding.map_or(object.target_name(), |b| &b.name);
    let what = json!({"object": who(key, object), "target": target(object, name, binding)});
    ctx.audit.record(Action::Remove, result, what);
}

/// The object is gone.
pub fn gone(ctx: &Context, key: &ObjectKey) {
    if !ctx.audit.is_on() {
        return;
    }
    let Some((object, memo)) = ctx.state.object(key) else { return };
    let binding = memo.and_then(|memo| memo.binding).or_else(|| object.status.as_ref().and_then(|s| s.binding.clone()));
    // Nothing of it was ever written.
    let Some(binding) = binding else { return };
    let policy = object.spec.target.creation_policy;
    let result = if policy == lockstep_crds::external_secret::CreationPolicy::Owner { "collected" } else { "stays" };
    let what = json!({"object": who(key, &object), "target": target(&object, &binding.name, Some(&binding))});
    ctx.audit.record(Action::Gone, result, what);
}
