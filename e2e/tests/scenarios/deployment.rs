//! `config/` as people apply it.

use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use lockstep_e2e::harness::{self, documents};
use serde_json::{Value, json};

use crate::case::Case;

/// Renders a kustomization: with kubectl where there is one, else by hand, which knows resources, namespace and the patch.
fn render(folder: &str) -> Vec<Value> {
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
        if object["kind"] == "Deployment" && kustomization.get("patches").is_some() {
            let args = &mut object["spec"]["template"]["spec"]["containers"][0]["args"];
            args.as_array_mut().unwrap().push(json!("--namespace=team-a"));
        }
    }
    all
}

/// The pod that a Deployment would make is admitted: there is no kubelet here, so that is asked for directly.
async fn pod_is_admitted(case: &Case, namespace: &str) -> Deployment {
    let deployment: Deployment = Api::namespaced(case.client.clone(), namespace).get("lockstep").await.unwrap();
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
    deployment
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
    let deployment = pod_is_admitted(&case, "lockstep-system").await;
    assert_eq!(deployment.spec.unwrap().replicas, Some(2));
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
    pod_is_admitted(&case, &case.name).await;

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

/// What a store that nobody can reach may say: everything else would be wrong with the sample.
const UNREACHED: [&str; 13] = [
    "no way to tell without reading a secret",
    "could not be reached",
    "can't be reached",
    "login failed",
    "store validated",
    "AssumeRole",
    "the operator's own pod has none",
    "refuses",
    "UnrecognizedClientException",
    "does not take the credentials",
    "the operator's own Google",
    // What people put in there is no placeholder.
    "is no JSON key of a Google service account",
    "is no PEM",
];

#[tokio::test]
async fn each_sample_of_a_store_is_taken_as_it_is() {
    let case = Case::new("stores").await;
    let mut files: Vec<_> =
        std::fs::read_dir(harness::root().join("config/samples/stores")).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 31, "{files:?}");
    for file in files {
        let mut stores = Vec::new();
        for mut object in documents(&std::fs::read_to_string(&file).unwrap()) {
            if object["kind"] == "ClusterSecretStore" {
                object["metadata"]["name"] = json!(format!("{}-{}", object["metadata"]["name"].as_str().unwrap(), case.name));
            }
            let api = harness::api_of(&case.client, Some(&case.name), &object);
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            // An unknown field is an error, which server-side apply without this would only warn of.
            let strict = kube::api::PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..kube::api::PatchParams::apply("e2e").force()
            };
            let applied = api.patch(&name, &strict, &kube::api::Patch::Apply(&object)).await;
            applied.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if object["kind"].as_str().unwrap().ends_with("SecretStore") {
                stores.push((api, name));
            }
        }
        for (api, name) in stores {
            // What a store refers to may come after it.
            let last = std::sync::Mutex::new(String::new());
            let what = format!("{} is taken", file.display());
            let taken = harness::eventually(&what, async || {
                let store = api.get(&name).await.ok()?;
                let message = store.data.pointer("/status/conditions/0/message")?.as_str()?.to_owned();
                last.lock().unwrap().clone_from(&message);
                UNREACHED.iter().any(|words| message.contains(words)).then_some(())
            });
            tokio::time::timeout(std::time::Duration::from_secs(30), taken)
                .await
                .unwrap_or_else(|_| panic!("{}: {}", file.display(), last.lock().unwrap()));
            api.delete(&name, &Default::default()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn each_sample_of_a_feature_becomes_ready() {
    let case = Case::new("features").await;
    let mut files: Vec<_> =
        std::fs::read_dir(harness::root().join("config/samples/features")).unwrap().map(|f| f.unwrap().path()).collect();
    // The store comes first, though its name does not.
    files.sort_by_key(|file| (!file.ends_with("store.yaml"), file.clone()));
    assert!(files.len() >= 9, "{files:?}");
    let mut names = Vec::new();
    for file in &files {
        for object in documents(&std::fs::read_to_string(file).unwrap()) {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let api = harness::api_of(&case.client, Some(&case.name), &object);
            let strict = kube::api::PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..kube::api::PatchParams::apply("e2e").force()
            };
            let applied = api.patch(&name, &strict, &kube::api::Patch::Apply(&object)).await;
            applied.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if object["kind"] == "ExternalSecret" {
                names.push(name);
            }
        }
    }
    for name in &names {
        case.synced(name).await;
    }
    let url = "postgres://ada:not+so+secret%2F1@db.example/app";
    assert_eq!(case.secret("template-data").await.unwrap()["url"], url);
    case.secret_is("rewrite", &[("A_TOKEN", "token-of-a"), ("B_TOKEN", "token-of-b")]).await;
    assert_eq!(case.secret("rewrite-merge").await.unwrap()["user"], "bob");
}
