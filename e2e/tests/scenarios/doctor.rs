//! `lockstep doctor` as an administrator runs it.

use std::process::{Command, Output};

use lockstep_e2e::case::Case;
use lockstep_e2e::harness;
use serde_json::{Value, json};

async fn doctor(case: &Case, args: &[&str]) -> Output {
    let mut command = Command::new(&case.harness.binary);
    command.arg("doctor").args(args).env("KUBECONFIG", &case.harness.control_plane.kubeconfig);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn findings(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["findings"].as_array().unwrap().clone()
}

#[tokio::test]
async fn what_never_synced_who_is_unused_and_what_was_left_behind_is_told_with_what_to_do() {
    let case = Case::new("doctor").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.external_secret("app", json!({"data": [case.data("p", "app", "p")], "target": {"creationPolicy": "Orphan"}})).await;
    case.synced("app").await;
    let args = ["--namespace", &case.name];
    let well = doctor(&case, &[&args[..], &["--output", "json"]].concat()).await;
    let of = |all: &[Value], check: &str| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let chosen = all.iter().filter(|f| f["check"] == check && f["level"] == "warning");
        chosen.map(|f| (text(&f["object"]), text(&f["message"]))).collect()
    };
    for check in ["never-synced", "unused-store", "unmanaged-secret", "broad-permissions"] {
        assert_eq!(of(&findings(&well), check), [], "{check}");
    }

    case.external_secret("lost", json!({"data": [case.data("p", "missing", "p")]})).await;
    case.failed("lost", "").await;
    case.apply_store(
        "idle",
        case.vault_at(&case.harness.vault.url, json!({"tokenSecretRef": {"name": "vault-token", "key": "token"}})),
    )
    .await;
    case.delete("app").await;
    harness::eventually("the object is gone", async || case.objects().get_opt("app").await.unwrap().is_none().then_some(()))
        .await;
    let output = doctor(&case, &args).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("SecretStore {}/idle: nobody reads from it", case.name)), "{text}");
    assert!(text.contains(&format!("Secret {}/app: was made by an ExternalSecret that is gone", case.name)), "{text}");
    assert!(text.contains("→ delete it: its credentials give rights that nobody uses") && !text.contains('\u{1b}'), "{text}");
    assert!(!text.contains("CANARY"));
    // The operator's metric counts the same, of the whole cluster.
    let metric = async |check: &str| case.shared_operator().metric("lockstep_findings", &[check]).await;
    harness::eventually("the operator counts each", async || {
        let all = [metric("unused-store").await, metric("unmanaged-secret").await, metric("never-synced").await];
        all.iter().all(|count| *count >= 1).then_some(())
    })
    .await;
    let text = case.shared_operator().metrics().await;
    assert!(
        text.contains("lockstep_findings{check=\"encryption-at-rest\"} -1"),
        "its role does not let it read the API server's metrics"
    );
    assert!(
        text.contains("lockstep_findings{check=\"broad-permissions\"} ") && !text.contains("\"broad-permissions\"} -1"),
        "{text}"
    );
    // What is a minute old should have synced by now.
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(90);
    loop {
        let all = findings(&doctor(&case, &[&args[..], &["--output", "json"]].concat()).await);
        if let [(object, why)] = &of(&all, "never-synced")[..] {
            assert!(object.ends_with("/lost") && why.contains("missing"), "{object}: {why}");
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{all:?}");
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}

#[tokio::test]
async fn rights_beyond_those_of_config_rbac_are_told_and_who_may_not_look_is_told_that() {
    let case = Case::new("doctorrights").await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "wide"}});
    case.apply(account).await.unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": case.name},
        "rules": [{"apiGroups": [""], "resources": ["secrets", "pods/exec"], "verbs": ["get", "create"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": case.name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": case.name},
        "subjects": [{"kind": "ServiceAccount", "name": "wide", "namespace": case.name}]});
    for object in [role, binding] {
        harness::apply(&case.client, None, object).await.unwrap();
    }
    let account = format!("{}/wide", case.name);
    let output = doctor(&case, &["--namespace", &case.name, "--service-account", &account, "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(3));
    let broad: Vec<Value> = findings(&output).into_iter().filter(|f| f["check"] == "broad-permissions").collect();
    assert_eq!(broad.len(), 1, "{broad:?}");
    let message = broad[0]["message"].as_str().unwrap();
    assert!(
        message.ends_with("get pods/exec, create pods/exec") && broad[0]["object"] == format!("ClusterRole {}", case.name),
        "{message}"
    );

    // Somebody with no rights at all is told what could not be seen, and nothing is called well.
    let token = harness::service_account_token(&case.client, &case.name, "default").await;
    let cluster = &case.harness.control_plane;
    let text = lockstep_e2e::control_plane::kubeconfig(&cluster.url, &cluster.ca, &format!("token: {token}"));
    let path = case.harness.folder.path().join(format!("{}.doctor", case.name));
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(&case.harness.binary);
    command.args(["doctor", "--output", "json"]).env("KUBECONFIG", &path);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let all = findings(&output);
    assert!(all.iter().all(|f| f["level"] == "unknown"), "{all:?}");
}

#[tokio::test]
async fn an_api_server_that_writes_secrets_as_they_are_is_told_from_one_that_encrypts() {
    let case = Case::new("doctorrest").await;
    case.apply_secret("written", &[("a", "b")]).await;
    let output = doctor(&case, &["--namespace", &case.name, "--output", "json"]).await;
    let plain = findings(&output).into_iter().find(|f| f["check"] == "encryption-at-rest").unwrap();
    // This control plane has no encryption, and no pod that says so.
    assert_eq!(plain["level"], "warning", "{plain}");

    let folder = case.harness.folder.path().join("encrypted");
    let plane = tokio::task::spawn_blocking(move || {
        lockstep_e2e::control_plane::ControlPlane::start_encrypted(&folder, &|text| eprintln!("{text}"))
    });
    let plane = plane.await.unwrap().unwrap();
    let client = harness::client(&plane.kubeconfig).await;
    harness::apply(&client, Some("default"), json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}))
        .await
        .unwrap();
    let mut command = Command::new(&case.harness.binary);
    command.args(["doctor", "--output", "json"]).env("KUBECONFIG", &plane.kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let encrypted = findings(&output).into_iter().find(|f| f["check"] == "encryption-at-rest").unwrap();
    assert_eq!(encrypted["level"], "ok", "{encrypted}");
    assert!(encrypted["message"].as_str().unwrap().contains("secretbox"), "{encrypted}");
}
