//! The CRDs as they are installed: the derived schemas, made to say what the contract says.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::generator::{acr, aws, fake, gcr, password, ssh_key, uuid, vault, webhook};
use crate::{
    ClusterExternalSecret, ClusterGenerator, ClusterPushSecret, ClusterSecretStore, ExternalSecret, GeneratorState, PushSecret,
    SecretStore,
};

/// Every CRD of this crate, in the order of their names.
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        ClusterExternalSecret::crd(),
        ClusterPushSecret::crd(),
        ClusterSecretStore::crd(),
        ExternalSecret::crd(),
        PushSecret::crd(),
        SecretStore::crd(),
        acr::ACRAccessToken::crd(),
        ClusterGenerator::crd(),
        aws::ECRAuthorizationToken::crd(),
        fake::Fake::crd(),
        gcr::GCRAccessToken::crd(),
        GeneratorState::crd(),
        password::Password::crd(),
        ssh_key::SSHKey::crd(),
        aws::STSSessionToken::crd(),
        uuid::UUID::crd(),
        vault::VaultDynamicSecret::crd(),
        webhook::Webhook::crd(),
    ];
    for crd in &mut crds {
        for version in &mut crd.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
                tidy(schema);
                without_needless_spec(schema);
            }
        }
    }
    crds
}

/// A spec all of whose fields have defaults may be left out, as in `kind: UUID` with nothing but a name.
fn without_needless_spec(schema: &mut JSONSchemaProps) {
    let needs = schema.properties.as_ref().and_then(|p| p.get("spec")).is_some_and(|spec| spec.required.is_some());
    if let Some(required) = schema.required.as_mut().filter(|_| !needs) {
        required.retain(|field| field != "spec");
    }
    schema.required.take_if(|required| required.is_empty());
}

/// Walks a schema: no field is nullable (an explicit null is what a defaulted field takes its default for), integers carry
/// no bounds that only follow from a Rust type.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.format.as_deref().is_some_and(|f| f.starts_with("uint")) {
        schema.format = None;
    }
    for child in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        tidy(child);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => tidy(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        tidy(value);
    }
}
