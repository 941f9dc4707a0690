//! `lockstep crds`, beside another operator and alone.

use std::process::Command;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use lockstep_e2e::components;
use lockstep_e2e::harness::{self, Harness};
use serde_json::json;

#[tokio::test]
async fn an_installed_crd_that_holds_more_is_left_in_place_and_the_tables_have_their_columns() {
    // CRDs are shared by everyone in a cluster: this scenario has one of its own.
    let harness = tokio::task::spawn_blocking(|| Harness::start(|| components::operator(false), &|t| eprintln!("{t}")))
        .await
        .unwrap()
        .unwrap();
    let client = harness.client().await;
    let install = || {
        let mut command = Command::new(&harness.binary);
        command.args(["crds", "--install"]).env("KUBECONFIG", &harness.control_plane.kubeconfig);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = install();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches("  applied").count(), lockstep_crds::all_crds().len(), "{text}");
    assert_eq!(install().0, Some(0), "a second time changes nothing");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let extra = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/theirs", "value": {"type": "string"}}]);
    let patch: json_patch::Patch = serde_json::from_value(extra).unwrap();
    crds.patch("secretstores.external-secrets.io", &PatchParams::default(), &Patch::<()>::Json(patch)).await.unwrap();
    let (code, text) = install();
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("secretstores.external-secrets.io  left in place: the installed one holds more (v1.spec.theirs"),
        "{text}"
    );
    let there = serde_json::to_string(&crds.get("secretstores.external-secrets.io").await.unwrap()).unwrap();
    assert!(there.contains("\"theirs\""));

    // What `kubectl get` shows is the API server's own table.
    harness::create_namespace(&client, "tables").await;
    let object = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "app", "namespace": "tables"},
        "spec": {"secretStoreRef": {"name": "vault"}, "data": [{"secretKey": "k", "remoteRef": {"key": "k"}}]}});
    harness::eventually("the type is served", async || harness::apply(&client, None, object.clone()).await.ok().map(drop)).await;
    let table = lockstep_e2e::table::of_objects(&client, "externalsecrets", "tables").await.unwrap();
    let heading = table.lines().next().unwrap();
    let columns: Vec<&str> = heading.split("   ").map(str::trim).filter(|c| !c.is_empty()).collect();
    assert_eq!(columns, ["NAME", "STORETYPE", "STORE", "REFRESH INTERVAL", "STATUS", "READY", "LAST SYNC"]);
    assert!(table.contains("1h0m0s"), "the default of the contract:\n{table}");
    for alias in ["es", "external-secrets"] {
        let discovered = crds.get("externalsecrets.external-secrets.io").await.unwrap().status.unwrap().accepted_names.unwrap();
        let names = [discovered.short_names.unwrap_or_default(), discovered.categories.unwrap_or_default()].concat();
        assert!(names.iter().any(|n| n == alias), "{alias} in {names:?}");
    }
}
