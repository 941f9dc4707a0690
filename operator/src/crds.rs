//! `lockstep crds`: the CRDs as YAML, and their installation beside another operator.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};

/// What the types make, as a file: to make it here would take the schemas' code into memory that never runs.
const YAML: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/crd/crds.yaml"));

/// The CRDs, each with its text.
fn all() -> Result<Vec<(CustomResourceDefinition, &'static str)>, String> {
    let parse = |text| serde_saphyr::from_str(text).map(|crd| (crd, text)).map_err(|error| error.to_string());
    YAML.split("---\n").skip(1).map(parse).collect()
}

/// The CRDs as a stream of YAML documents: all, or the one of a kind or name.
///
/// # Errors
/// A sentence when there is no such CRD.
pub fn yaml(only: Option<&str>) -> Result<String, String> {
    let Some(only) = only else { return Ok(YAML.to_owned()) };
    let is = |crd: &CustomResourceDefinition| {
        crd.spec.names.kind.eq_ignore_ascii_case(only) || crd.name_any() == only || crd.spec.names.plural == only
    };
    let all = all()?;
    let chosen = all.iter().find(|(crd, _)| is(crd)).map(|(_, text)| (*text).to_owned());
    chosen.ok_or_else(|| {
        let kinds: Vec<_> = all.iter().map(|(crd, _)| crd.spec.names.kind.as_str()).collect();
        format!("no CRD of that kind; there are {}", kinds.join(", "))
    })
}

/// What happened to one CRD.
#[derive(Debug, PartialEq, Eq)]
pub enum Installed {
    /// It was applied.
    Applied,
    /// The installed one holds fields or versions that ours lacks: it was left in place.
    LeftInPlace(Vec<String>),
}

/// Applies all CRDs, save those of which a larger one is installed.
///
/// # Errors
/// What the client answers.
pub async fn install(client: &Client) -> Result<Vec<(String, Installed)>, String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut done = Vec::new();
    for (crd, _) in all()? {
        let name = crd.name_any();
        let there = api.get_opt(&name).await.map_err(|error| error.to_string())?;
        let more = there.map(|there| beyond(&there, &crd)).unwrap_or_default();
        if more.is_empty() {
            let applied = api.patch(&name, &PatchParams::apply("lockstep").force(), &Patch::Apply(&crd)).await;
            applied.map_err(|error| error.to_string())?;
            done.push((name, Installed::Applied));
        } else {
            done.push((name, Installed::LeftInPlace(more)));
        }
    }
    Ok(done)
}

/// What an installed CRD declares and ours does not: served versions, field paths, and enum values.
pub fn beyond(installed: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> Vec<String> {
    let (there, here) = (paths(installed), paths(ours));
    there.difference(&here).cloned().collect()
}

fn paths(crd: &CustomResourceDefinition) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for version in crd.spec.versions.iter().filter(|v| v.served) {
        all.insert(version.name.clone());
        if let Some(schema) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) {
            walk(&version.name, schema, &mut all);
        }
    }
    all
}

fn walk(path: &str, schema: &JSONSchemaProps, all: &mut BTreeSet<String>) {
    all.insert(path.to_owned());
    for value in schema.enum_.iter().flatten() {
        all.insert(format!("{path}={}", value.0));
    }
    for (name, child) in schema.properties.iter().flatten() {
        // The API server knows these of every object, whether a schema repeats them or not.
        if path.contains('.') || !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            walk(&format!("{path}.{name}"), child, all);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        walk(&format!("{path}[]"), item, all);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        walk(&format!("{path}.*"), value, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_crd_that_holds_more_is_recognised_and_our_own_is_not() {
        let ours = all().unwrap().into_iter().map(|(crd, _)| crd).find(|crd| crd.spec.names.kind == "ExternalSecret").unwrap();
        assert!(beyond(&ours, &ours).is_empty());
        let mut larger = ours.clone();
        let schema = larger.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        let spec = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
        spec.properties.as_mut().unwrap().insert("extra".into(), JSONSchemaProps::default());
        assert_eq!(beyond(&larger, &ours), ["v1.spec.extra"]);
        let mut older = ours.clone();
        older.spec.versions.push(ours.spec.versions[0].clone());
        older.spec.versions[1].name = "v1beta1".into();
        assert!(beyond(&older, &ours).contains(&"v1beta1".to_owned()));
    }

    #[test]
    fn the_file_is_what_the_types_make() {
        let file: Vec<_> = all().unwrap().into_iter().map(|(crd, _)| serde_json::to_value(crd).unwrap()).collect();
        let types: Vec<_> = lockstep_crds::all_crds().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        let remedy = "run: cargo run -q -p lockstep-crds --example crds > config/crd/crds.yaml";
        assert!(file == types, "config/crd/crds.yaml is out of date; {remedy}");
    }

    #[test]
    fn one_crd_is_printed_by_kind_name_or_plural_and_an_unknown_one_is_named() {
        for name in ["externalsecret", "externalsecrets.external-secrets.io", "externalsecrets"] {
            let text = yaml(Some(name)).unwrap();
            assert!(text.contains("kind: ExternalSecret") && !text.contains("---"), "{name}");
        }
        assert_eq!(yaml(None).unwrap().matches("---\n").count(), 18);
        assert!(
            yaml(Some("Pod"))
                .unwrap_err()
                .contains("ClusterSecretStore, ExternalSecret, PushSecret, SecretStore, ACRAccessToken")
        );
    }
}
