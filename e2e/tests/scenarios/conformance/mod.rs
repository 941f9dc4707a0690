//! The conformance suite, for every provider on the realest thing that there is.

use std::sync::Arc;

use lockstep_crds::store::Provider as Spec;
use lockstep_e2e::harness;
use lockstep_providers::Provider;
use lockstep_providers::egress::Egress;
use lockstep_providers::registry::{Endpoints, Options, connect};
use lockstep_providers::resolver::Fixed;
use serde_json::Value;

mod aws;
mod azure;
mod gcp;
mod kubernetes;
mod vault;
mod webhook;

async fn provider(spec: &Value, token: &str) -> Arc<dyn Provider> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let mut variables = harness::gcp().environment();
    variables.extend(harness::azure().environment());
    variables.push(("AWS_ENDPOINT_URL".into(), harness::aws().url.clone()));
    let variable = |name: &str| Some(variables.iter().find(|(n, _)| n == name)?.1.clone());
    let options = Options {
        endpoints: Arc::new(Endpoints::from_variables(variable)),
        egress: Arc::new(Egress { places: vec!["*.vault.azure.net=127.0.0.1".parse().unwrap()], ..Egress::default() }),
        authorities: Arc::new(harness::azure().authority.clone().into_bytes()),
        ..Options::default()
    };
    connect(&spec, Arc::new(Fixed(token.to_owned())), &options).await.unwrap()
}
