//! The conformance suite, for every provider on the realest thing that there is.

use std::sync::Arc;
use std::time::Duration;

use lockstep_crds::store::Provider as Spec;
use lockstep_e2e::faults::Fault;
use lockstep_e2e::harness;
use lockstep_providers::Provider;
use lockstep_providers::conformance::Failure;
use lockstep_providers::egress::Egress;
use lockstep_providers::registry::{Endpoints, Options, connect};
use lockstep_providers::resolver::Fixed;
use serde_json::Value;

mod aws;
mod azure;
mod fake;
mod gcp;
mod kubernetes;
mod vault;
mod webhook;

/// A connection as a store with this spec has it, every reference of which is answered with one text.
pub async fn provider(spec: &Value, token: &str) -> Arc<dyn Provider> {
    provider_within(spec, token, Options::default().timeout).await
}

async fn provider_within(spec: &Value, token: &str, timeout: Duration) -> Arc<dyn Provider> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let mut variables = harness::gcp().environment();
    variables.extend(harness::azure().environment());
    variables.push(("AWS_ENDPOINT_URL".into(), harness::aws().url.clone()));
    let variable = |name: &str| Some(variables.iter().find(|(n, _)| n == name)?.1.clone());
    let options = Options {
        timeout,
        endpoints: Arc::new(Endpoints::from_variables(variable)),
        egress: Arc::new(Egress { places: vec!["*.vault.azure.net=127.0.0.1".parse().unwrap()], ..Egress::default() }),
        authorities: Arc::new(harness::azure().authority.clone().into_bytes()),
    };
    connect(&spec, Arc::new(Fixed(token.to_owned())), &options).await.unwrap()
}

/// A failure in a provider's words: status and body of a throttled request, and of one that is not served.
fn fault(failure: Failure, throttled: (u16, Value), unavailable: (u16, Value)) -> Fault {
    let answer = |(status, body): (u16, Value), retry_after| Fault::Answer { status, retry_after, body: body.to_string() };
    match failure {
        Failure::Throttled(after) => answer(throttled, after),
        Failure::Unavailable => answer(unavailable, None),
        Failure::Cut => Fault::Cut,
        Failure::Late(wait) => Fault::Late(wait),
        Failure::Slow(pause) => Fault::Slow(pause),
        Failure::Body(body) => Fault::Body(body),
        Failure::Half => Fault::Half,
    }
}
