//! What is wrong with a manifest that schema and CEL let through: everything that has to be parsed. Pure.
//!
//! The operator checks all of it again when it acts; what is said here is said earlier, to the one who applies it.

use std::sync::Arc;

use gotemplate::regexp::Regexp;
use kube::core::DynamicObject;
use lockstep_crds::external_secret::ExternalSecretSpec;
use lockstep_crds::generator::GeneratorKind;
use lockstep_crds::push_secret::PushSecretSpec;
use lockstep_crds::{ClusterExternalSecret, ClusterPushSecret, ExternalSecret, PushSecret, SecretStoreSpec};
use lockstep_providers::{Error, generator, registry};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::external_secret::{plan, rewrite, template};
use crate::generator::{Definition, Undefined};
use crate::keys::GeneratorKey;
use crate::push_secret;
use crate::store;

/// What is said to whoever applies a manifest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why it can't work.
    pub problems: Vec<String>,
    /// What is probably not meant.
    pub warnings: Vec<String>,
}

/// Checks a manifest of this group and kind.
pub fn check(group: &str, kind: &str, object: &Value) -> Findings {
    let of = |problems| Findings { problems, warnings: Vec::new() };
    match (group, kind) {
        ("external-secrets.io", "ExternalSecret") => with(object, |object: ExternalSecret| external_secret(&object)),
        ("external-secrets.io", "ClusterExternalSecret") => with(object, |object: ClusterExternalSecret| {
            let one = ExternalSecret { spec: object.spec.external_secret_spec, ..in_some_namespace(ExternalSecret::default()) };
            moved(external_secret(&one), "spec.externalSecretSpec.")
        }),
        ("external-secrets.io", "PushSecret") => with(object, |object: PushSecret| of(push(&object))),
        ("external-secrets.io", "ClusterPushSecret") => with(object, |object: ClusterPushSecret| {
            let one = PushSecret { spec: object.spec.push_secret_spec, ..in_some_namespace(PushSecret::default()) };
            moved(of(push(&one)), "spec.pushSecretSpec.")
        }),
        ("external-secrets.io", "SecretStore" | "ClusterSecretStore") => {
            let whole = object.get("spec").cloned().unwrap_or_default();
            with(&whole, |spec: SecretStoreSpec| of(store(&spec)))
        }
        ("generators.external-secrets.io", kind) => of(generator(kind, object)),
        _ => Findings::default(),
    }
}

/// A manifest of a newer schema than ours is the operator's to answer, with a condition.
fn with<T: DeserializeOwned>(object: &Value, check: impl FnOnce(T) -> Findings) -> Findings {
    match T::deserialize(object) {
        Ok(object) => check(object),
        Err(error) => {
            let why = registry::without_quotes(&error.to_string());
            Findings { warnings: vec![format!("not understood by this version of Lockstep: {why}")], ..Findings::default() }
        }
    }
}

fn in_some_namespace<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().namespace = Some("each".into());
    object
}

fn moved(findings: Findings, to: &str) -> Findings {
    let moved = |texts: Vec<String>| {
        let texts = texts.into_iter();
        texts.map(|text| text.strip_prefix("spec.").map(|rest| format!("{to}{rest}")).unwrap_or(text)).collect()
    };
    Findings { problems: moved(findings.problems), warnings: moved(findings.warnings) }
}

fn external_secret(object: &ExternalSecret) -> Findings {
    let spec: &ExternalSecretSpec = &object.spec;
    let namespace: Arc<str> = object.metadata.namespace.as_deref().unwrap_or_default().into();
    let generators = spec.data_from.iter().filter_map(|entry| entry.source_ref.as_ref()?.generator_ref.as_ref());
    // Another operator may serve them.
    let not_ours = generators.filter_map(|reference| GeneratorKey::referred(&namespace, reference).err());
    let mut warnings: Vec<String> = not_ours.map(|why| format!("sourceRef.generatorRef: {why}")).collect();
    let mut problems: Vec<String> = plan::settings(object, false).err().into_iter().collect();
    if warnings.is_empty() {
        problems.extend(plan::sources(object, &namespace).err());
    } else {
        problems.retain(|why| !why.contains("is not served"));
    }
    for (i, entry) in spec.data_from.iter().enumerate() {
        let field = format!("spec.dataFrom[{i}]");
        let pattern = entry.find.as_ref().and_then(|find| find.name.as_ref()).and_then(|name| name.regexp.as_deref());
        problems.extend(wrong_regexp(&format!("{field}.find.name.regexp"), pattern));
        problems.extend(rewrite::problems(&field, &entry.rewrite));
    }
    if let Some(template) = &spec.target.template {
        problems.extend(template::problems("spec.target.template", template, spec.target.manifest.is_some()));
    }
    for (i, entry) in spec.data.iter().enumerate() {
        if spec.data[..i].iter().any(|earlier| earlier.secret_key == entry.secret_key) {
            warnings.push(format!("spec.data[{i}]: the key {} stands there twice; the later entry wins", entry.secret_key));
        }
    }
    Findings { problems, warnings }
}

fn wrong_regexp(field: &str, pattern: Option<&str>) -> Option<String> {
    Regexp::new(pattern?).err().map(|why| format!("{field}: {why}"))
}

fn push(object: &PushSecret) -> Vec<String> {
    let spec: &PushSecretSpec = &object.spec;
    let mut problems: Vec<String> = push_secret::plan::settings(object).err().into_iter().collect();
    for (i, to) in spec.data_to.iter().enumerate() {
        problems.extend(rewrite::problems(&format!("spec.dataTo[{i}]"), &push_secret::plan::rewrites(to)));
    }
    if let Some(reference) = &spec.selector.generator_ref {
        let key = GeneratorKey::referred(&"".into(), reference);
        problems.extend(key.err().map(|why| format!("spec.selector.generatorRef: {why}")));
    }
    if let Some(template) = &spec.template {
        problems.extend(template::problems("spec.template", template, false));
    }
    problems
}

fn store(spec: &SecretStoreSpec) -> Vec<String> {
    let mut problems: Vec<String> = store::plan::check(spec).err().into_iter().collect();
    problems.extend(registry::problems(&spec.provider.0));
    problems
}

fn generator(kind: &str, object: &Value) -> Vec<String> {
    let known = GeneratorKind::of(kind);
    if known.is_none() && kind != "ClusterGenerator" {
        return Vec::new();
    }
    let Ok(manifest) = serde_json::from_value::<DynamicObject>(object.clone()) else { return Vec::new() };
    let class = object["spec"]["controller"].as_str().unwrap_or("default");
    let name = manifest.metadata.name.as_deref().unwrap_or_default();
    match Definition::new(&GeneratorKey { namespace: "".into(), kind: known, name: name.into() }, &manifest, class) {
        Ok(definition) => {
            let field = match known {
                Some(_) => "spec".to_owned(),
                None => format!("spec.generator.{}", definition.identity.kind.field()),
            };
            let found = generator::problems(definition.identity.kind, &definition.spec);
            found.into_iter().map(|text| text.strip_prefix("spec").map(|rest| format!("{field}{rest}")).unwrap_or(text)).collect()
        }
        // Of another class, or newer than we are.
        Err(Undefined::Foreign(_) | Undefined::Wrong(Error::Unsupported(_))) => Vec::new(),
        Err(Undefined::Wrong(error)) => vec![error.to_string()],
    }
}
