//! `config/` as people apply it.

use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use lockstep_e2e::harness::{self, documents};
use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// Renders a kustomization: with kubectl where there is one, else by hand, which knows resources, namespace and JSON patches.
pub fn render(folder: &str) -> Vec<Value> {
    let path = harness::root().join(folder);
    let output = Command::new("kubectl").arg("kustomize").arg(&path).output();
    match output {
        Ok(output) if output.status.success() => documents(&String::from_utf8_lossy(&output.stdout)),
        _ => by_hand(&path),
    }
}

fn by_hand(path: &std::path::Path) -> Vec<Value> {
    let file = std::fs::read_to_string(path.join("kustomization.yaml")).unwrap();
    let kustomization = documents(&file).remove(0);
    let mut all = Vec::new();
    for resource in kustomization["resources"].as_array().unwrap() {
        let resource = path.join(resource.as_str().unwrap());
        if resource.is_dir() {
            all.extend(by_hand(&resource));
        } else {
            all.extend(documents(&std::fs::read_to_string(resource).unwrap()));
        }
    }
    for object in &mut all {
        if let Some(namespace) = kustomization.get("namespace") {
            object["metadata"]["namespace"] = namespace.clone();
            for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                subject["namespace"] = namespace.clone();
            }
        }
    }
    for patch in kustomization.get("patches").and_then(Value::as_array).into_iter().flatten() {
        let fits =
            |object: &Value| object["kind"] == patch["target"]["kind"] && object["metadata"]["name"] == patch["target"]["name"];
        let steps: json_patch::Patch = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
        let mut patched = 0;
        for object in all.iter_mut().filter(|object| fits(object)) {
            json_patch::patch(object, &steps).unwrap();
            patched += 1;
        }
        assert_eq!(patched, 1, "{patch}");
    }
    all
}

/// The pod that a Deployment would make is admitted: there is no kubelet here, so that is asked for directly.
async fn pod_is_admitted(case: &Case, namespace: &str, deployment: &Deployment) {
    let template = deployment.spec.clone().unwrap().template;
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "probe", "labels": {"app": "probe"}}, "spec": template.spec}))
            .unwrap();
    let pods: Api<Pod> = Api::namespaced(case.client.clone(), namespace);
    pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await.expect("the pod is admitted");
    let mut root = pod.clone();
    root.spec.as_mut().unwrap().security_context = None;
    let refused = pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &root).await;
    assert!(refused.is_err_and(|e| e.to_string().contains("PodSecurity")), "the namespace does enforce the standard");
}

async fn deployed(case: &Case, namespace: &str) -> Deployment {
    Api::namespaced(case.client.clone(), namespace).get("lockstep").await.unwrap()
}

#[tokio::test]
async fn the_default_kustomization_is_applied_to_a_restricted_namespace() {
    let case = Case::new("deploy").await;
    let objects = render("config/default");
    for kind in
        ["Namespace", "CustomResourceDefinition", "ClusterRole", "Deployment", "PodDisruptionBudget", "NetworkPolicy", "Role"]
    {
        assert!(objects.iter().any(|o| o["kind"] == kind), "{kind}");
    }
    for object in objects {
        // The shared cluster has the CRDs, and a scenario widens one of them.
        if object["kind"] != "CustomResourceDefinition" {
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            harness::apply(&case.client, None, object).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    let deployment = deployed(&case, "lockstep-system").await;
    pod_is_admitted(&case, "lockstep-system", &deployment).await;
    assert_eq!(deployment.spec.unwrap().replicas, Some(2));
}

#[test]
fn the_variants_leave_out_what_they_say_and_nothing_else() {
    let objects = |folder: &str| -> Vec<Value> { render(folder) };
    let name = |o: &Value| format!("{} {}", o["kind"].as_str().unwrap(), o["metadata"]["name"].as_str().unwrap());
    let whole = objects("config/default");
    for (folder, left_out, argument) in [
        ("config/overlays/without-push", "lockstep-push", Some("--push-secrets=false")),
        ("config/overlays/without-tokens", "lockstep-tokens", None),
    ] {
        let some = objects(folder);
        let missing: Vec<String> = whole.iter().map(name).filter(|n| !some.iter().any(|o| name(o) == *n)).collect();
        assert_eq!(missing, [format!("ClusterRole {left_out}"), format!("ClusterRoleBinding {left_out}")], "{folder}");
        let deployment = some.iter().find(|o| o["kind"] == "Deployment").unwrap();
        let args = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
        let last = args.as_array().unwrap().last().unwrap().as_str().unwrap();
        assert_eq!((last == "--push-secrets=false").then_some(last), argument, "{folder}");
    }
}

#[tokio::test]
async fn the_webhook_may_do_what_its_certificate_needs_and_with_cert_manager_nothing() {
    let case = Case::new("deploywebhook").await;
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": case.name, "labels": restricted}});
    harness::apply(&case.client, None, namespace).await.unwrap();
    let of = |objects: &[Value], kind: &str| -> Vec<Value> {
        objects.iter().filter(|o| o["kind"] == kind).map(Value::clone).collect()
    };
    let dry_run = kube::api::PatchParams { dry_run: true, ..kube::api::PatchParams::apply("e2e").force() };
    let own = render("config/webhook");
    let with_cert_manager = render("config/overlays/webhook-cert-manager");
    for objects in [&own, &with_cert_manager] {
        for object in objects.iter().filter(|o| !o["apiVersion"].as_str().unwrap().starts_with("cert-manager.io")) {
            let (api, name) = (harness::api_of(&case.client, None, object), object["metadata"]["name"].as_str().unwrap());
            let strict =
                kube::api::PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..dry_run.clone() };
            api.patch(name, &strict, &kube::api::Patch::Apply(object)).await.unwrap_or_else(|error| panic!("{object}: {error}"));
        }
        let deployment: Deployment = serde_json::from_value(of(objects, "Deployment").remove(0)).unwrap();
        pod_is_admitted(&case, &case.name, &deployment).await;
        let service = &of(objects, "Service")[0];
        let configuration = &of(objects, "ValidatingWebhookConfiguration")[0];
        let client = &configuration["webhooks"][0]["clientConfig"]["service"];
        assert_eq!((&client["name"], &client["namespace"]), (&service["metadata"]["name"], &service["metadata"]["namespace"]));
        assert_eq!(service["spec"]["selector"], of(objects, "Deployment")[0]["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], "Ignore");
    }
    // Its own Secret and its own configuration, and nothing that it does not do with them.
    for (kind, group, resource, name, last) in [
        ("Role", "", "secrets", "lockstep-webhook", "update"),
        ("ClusterRole", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "lockstep", "patch"),
    ] {
        let expected = json!([{"apiGroups": [group], "resources": [resource], "resourceNames": [name], "verbs": ["get", "list", "watch", last]}]);
        assert_eq!(of(&own, kind).remove(0)["rules"], expected);
        assert!(of(&with_cert_manager, kind).is_empty() && of(&with_cert_manager, "Secret").is_empty());
    }
    let pod = &of(&with_cert_manager, "Deployment")[0]["spec"]["template"]["spec"];
    let certificate = &of(&with_cert_manager, "Certificate")[0];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["containers"][0]["args"].as_array().unwrap().last().unwrap(), "--cert-dir=/tls");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], certificate["spec"]["secretName"]);
    let inject = &of(&with_cert_manager, "ValidatingWebhookConfiguration")[0]["metadata"]["annotations"];
    let (namespace, name) =
        (certificate["metadata"]["namespace"].as_str().unwrap(), certificate["metadata"]["name"].as_str().unwrap());
    assert_eq!(inject["cert-manager.io/inject-ca-from"], format!("{namespace}/{name}"));
}

#[tokio::test]
async fn the_single_namespace_overlay_gives_no_right_outside_of_it_and_the_operator_works_with_it() {
    let case = Case::with_own_class("narrow").await;
    harness::apply(
        &case.client,
        None,
        json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": case.name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}),
    )
    .await
    .unwrap();
    for mut object in render("config/overlays/single-namespace") {
        assert!(!object["kind"].as_str().unwrap().starts_with("Cluster"), "{object}");
        object["metadata"]["namespace"] = json!(case.name);
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            subject["namespace"] = json!(case.name);
        }
        if object["kind"] == "Deployment" {
            assert!(object.to_string().contains("--namespace=team-a"));
        }
        harness::apply(&case.client, None, object).await.unwrap();
    }
    pod_is_admitted(&case, &case.name, &deployed(&case, &case.name).await).await;

    let token = harness::service_account_token(&case.client, &case.name, "lockstep").await;
    let cluster = &case.harness.control_plane;
    let kubeconfig = case.harness.folder.path().join(format!("{}.kubeconfig", case.name));
    std::fs::write(&kubeconfig, lockstep_e2e::control_plane::kubeconfig(&cluster.url, &cluster.ca, &format!("token: {token}")))
        .unwrap();
    let args = ["--namespace", &case.name, "--controller-class", &case.name, "--lease-namespace", &case.name];
    let args = args.map(str::to_owned).to_vec();
    let mut command = Command::new(&case.harness.binary);
    let (metrics, health) = (lockstep_e2e::process::free_port(), lockstep_e2e::process::free_port());
    command.arg("run").args(&args).env("KUBECONFIG", &kubeconfig).env("HOSTNAME", "narrow");
    command.args(["--metrics-addr", &format!("127.0.0.1:{metrics}"), "--health-addr", &format!("127.0.0.1:{health}")]);
    let operator = lockstep_e2e::process::Process::start(&command, &case.harness.folder.path().join("narrow.log"));
    operator.wait_ready(std::time::Duration::from_secs(30), || operator.output().contains("caches filled; working"));
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")]})).await;
    case.secret_is("app", &[("p", "CANARY-p")]).await;
    let mut cluster_store = json!({"data": [case.data("p", "app", "p")]});
    // Of its class: the operator that serves the whole cluster leaves the object alone.
    let any = format!("{}-any", case.name);
    case.apply_cluster_store(&any, json!({"fake": {"data": []}}), json!([])).await;
    cluster_store["secretStoreRef"] = json!({"name": any, "kind": "ClusterSecretStore"});
    case.external_secret("clustered", cluster_store).await;
    case.failed("clustered", "this operator serves single namespaces").await;
    case.delete_cluster_store(&any).await;
    assert!(!operator.output().contains("code 403") && !operator.output().contains("Forbidden"), "{}", operator.output());
}

#[tokio::test]
async fn the_samples_are_accepted_as_they_are() {
    let case = Case::new("samples").await;
    let mut count = 0;
    for object in render("config/samples/quickstart") {
        case.apply(object).await.unwrap();
        count += 1;
    }
    assert_eq!(count, 2);
}
