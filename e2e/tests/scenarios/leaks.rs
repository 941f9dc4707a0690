//! Nothing leaks: what was planted is searched for in everything that the operator ever said.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject};
use lockstep_e2e::vault::ROOT;
use serde_json::json;

use crate::case::Case;

#[tokio::test]
async fn a_canary_in_vault_is_in_no_log_at_trace_no_event_no_status_and_no_metric() {
    let case = Case::with_own_class("canary").await;
    let operator = case.own_operator("a", &[]);
    operator.wait_working();
    let canary = "CANARY-6f1d";
    case.vault_store().await;
    case.put("text", json!({"p": canary, "n": 7})).await;
    case.put("odd", json!({"a b": canary, "a_b": canary})).await;
    // Good and bad ways to use it: each goes through other code, and each error could quote what it met.
    case.external_secret("good", json!({"dataFrom": [{"extract": {"key": case.key("text")}}]})).await;
    case.synced("good").await;
    case.external_secret("clash", json!({"dataFrom": [{"extract": {"key": case.key("odd")}}]})).await;
    case.failed("clash", "both become").await;
    let mut base64 = case.data("k", "text", "p");
    base64["remoteRef"]["decodingStrategy"] = json!("Base64");
    case.external_secret("base64", json!({"data": [base64]})).await;
    case.failed("base64", "not Base64").await;
    case.external_secret("missing", json!({"data": [case.data("k", "text", "nope")]})).await;
    case.failed("missing", "has no property nope").await;
    let json_type = json!({"template": {"type": "kubernetes.io/dockerconfigjson"}});
    case.external_secret("shape", json!({"data": [case.data(".dockerconfigjson", "text", "p")], "target": json_type})).await;
    case.failed("shape", "needs JSON").await;
    case.apply_store("fake", json!({"fake": {"data": [{"key": "k", "value": canary}]}})).await;
    case.external_secret(
        "fake",
        json!({"secretStoreRef": {"name": "fake"}, "data": [{"secretKey": "k", "remoteRef": {"key": "k", "property": "x"}}]}),
    )
    .await;
    case.failed("fake", "not JSON").await;
    // A wrong token is a value too.
    case.apply_secret("wrong-token", &[("token", "CANARY-6f1d-token")]).await;
    let wrong = json!({"tokenSecretRef": {"name": "wrong-token", "key": "token"}});
    case.apply_store("wrong", case.vault_at(&case.harness.vault.url, wrong)).await;
    case.store_is("wrong", "False", "InvalidProviderConfig", "code 403").await;
    case.put("text", json!({"p": format!("{canary}-2")})).await;
    case.force_sync("good").await;
    case.secret_is("good", &[("p", "CANARY-6f1d-2")]).await;
    case.caught_up("good").await;

    let metrics = operator.metrics().await;
    assert!(metrics.contains("externalsecret_sync_calls_total{"), "the metrics are there");
    let log = operator.process.output();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is at its lowest level");
    assert!(log.contains("sync failed"), "and tells what failed");
    let mut said = vec![("log", log), ("metrics", metrics)];
    let events: Api<Event> = Api::namespaced(case.client.clone(), &case.name);
    let events = events.list(&Default::default()).await.unwrap();
    assert!(events.items.len() >= 5, "there are events");
    said.push(("events", format!("{events:?}")));
    for kind in ["ExternalSecret", "SecretStore"] {
        let resource =
            kube::discovery::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("external-secrets.io", "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(case.client.clone(), &case.name, &resource);
        for object in api.list(&Default::default()).await.unwrap() {
            said.push(("status", object.data["status"].to_string()));
        }
    }
    for (place, text) in &said {
        assert!(!text.contains(canary), "the canary is in the {place}");
        assert!(!text.contains(ROOT), "the root token is in the {place}");
        assert!(!text.contains("Q0FOQVJZ"), "the canary is in the {place}, in Base64");
    }
    // The shared operator, which serves every other scenario at TRACE, has said none of their values either.
    assert!(!case.operator.process.output().contains("CANARY"));
}
