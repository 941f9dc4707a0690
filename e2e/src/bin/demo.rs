//! `cargo demo`: a control plane, a Vault and the operator, and a value that changes in Vault and arrives in a Secret.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a demo that can't go on says so and ends")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use clap::Parser;
use kube::Client;
use kube::api::{Api, DeleteParams};
use lockstep_e2e::control_plane::ControlPlane;
use lockstep_e2e::harness::{self, documents};
use lockstep_e2e::operator::{Operator, OperatorOptions};
use lockstep_e2e::vault::{ROOT, Vault};
use lockstep_e2e::{components, table};
use serde_json::{Value, json};

/// Shows a value that changes in Vault arrive in a native Secret, on real components.
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo demo                             start everything, show it, leave it running to play with
  cargo demo -- --once                   the same, and end by itself
  cargo demo -- --kubeconfig ~/.kube/config   use a cluster of yours; what the demo made there is removed at the end")]
struct Args {
    /// Ends by itself once everything was shown.
    #[arg(long)]
    once: bool,
    /// Uses this cluster instead of starting one. Its CRDs are left in place if they were there.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

const NAMESPACE: &str = "lockstep-demo";
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default().bold();

fn step(number: usize, text: &str) {
    anstream::println!("\n{GREEN}{number}{GREEN:#} {BOLD}{text}{BOLD:#}");
}

fn note(text: &str) {
    anstream::println!("  {DIM}{text}{DIM:#}");
}

fn show(text: &str) {
    text.lines().for_each(|line| anstream::println!("  {line}"));
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            anstream::eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever runs for the demo; ends with it.
struct Stage {
    control_plane: Option<ControlPlane>,
    vault: Vault,
    _operator: Operator,
    kubeconfig: PathBuf,
    client: Client,
    made_crds: Vec<String>,
    _folder: tempfile::TempDir,
}

async fn run(args: &Args) -> Result<(), String> {
    let begun = Instant::now();
    let stage = set_up(args).await?;
    // Ctrl-C at any point leads to the same clean-up.
    let played: Result<(), String> = tokio::select! {
        played = async {
            play(&stage).await?;
            if !args.once {
                leave_running(&stage);
                std::future::pending::<()>().await;
            }
            Ok(())
        } => played,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    clean_up(&stage).await;
    played?;
    anstream::println!("\n{GREEN}✓{GREEN:#} {BOLD}done{BOLD:#} {DIM}after {} s{DIM:#}", begun.elapsed().as_secs());
    Ok(())
}

async fn set_up(args: &Args) -> Result<Stage, String> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::Builder::new().prefix("lockstep-demo-").tempdir().map_err(|e| e.to_string())?;
    let own = args.kubeconfig.is_none();
    step(
        1,
        if own { "A control plane and a Vault, both real, on loopback" } else { "Your cluster, and a real Vault on loopback" },
    );
    let missing = components::Component::ALL.iter().filter(|c| components::present(**c).is_none()).count();
    if missing > 0 {
        note(&format!("{missing} binaries have to be built with Go, once: about 10 min, then they are cached"));
    }
    let path = folder.path().to_owned();
    // Starting them waits for processes: off the async threads.
    let started = tokio::task::spawn_blocking(move || -> Result<_, String> {
        let control_plane = if own { Some(ControlPlane::start(&path.join("control-plane"), &|t| note(t))?) } else { None };
        Ok((control_plane, Vault::start(&path.join("vault"), &[], &|t| note(t))?))
    });
    let (control_plane, vault) = started.await.map_err(|e| e.to_string())??;
    vault.prepare().await;
    let kubeconfig = match (&control_plane, &args.kubeconfig) {
        (Some(own), _) => own.kubeconfig.clone(),
        (None, Some(given)) => given.clone(),
        (None, None) => return Err("no cluster".into()),
    };
    if let Some(own) = &control_plane {
        note(&format!("API server {}", own.url));
    }
    note(&format!("Vault      {}", vault.url));

    step(2, "Lockstep: its CRDs, and the operator");
    note("building the operator with cargo, once");
    let binary = tokio::task::spawn_blocking(|| components::operator(false)).await.map_err(|e| e.to_string())??;
    let client = harness::client(&kubeconfig).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    if namespaces.get_opt(NAMESPACE).await.map_err(|e| e.to_string())?.is_some() {
        return Err(format!(
            "namespace {NAMESPACE} is there already; the demo would remove it at its end, so remove or rename it first"
        ));
    }
    let made_crds = install_crds(&binary, &kubeconfig, &client).await?;
    harness::create_namespace(&client, NAMESPACE).await;
    let options = OperatorOptions { args: operator_args(own), name: "demo".into(), ..OperatorOptions::default() };
    let operator = Operator::start(&binary, &kubeconfig, folder.path(), &options);
    operator.wait_working();
    note(&format!("operator   pid {}, metrics on http://127.0.0.1:{}/metrics", operator.process.pid, operator.metrics_port));
    Ok(Stage { control_plane, vault, _operator: operator, kubeconfig, client, made_crds, _folder: folder })
}

/// In somebody's cluster the demo serves its own namespace only, under a class of its own.
fn operator_args(own: bool) -> Vec<String> {
    let mut args: Vec<&str> = vec!["--leader-elect=false", "--log-format", "text"];
    if !own {
        args.extend(["--namespace", NAMESPACE, "--controller-class", NAMESPACE]);
    }
    args.into_iter().map(str::to_owned).collect()
}

/// Installs the CRDs that are not there; answers which.
async fn install_crds(binary: &Path, kubeconfig: &Path, client: &Client) -> Result<Vec<String>, String> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut missing = Vec::new();
    for crd in lockstep_crds::all_crds() {
        let name = crd.metadata.name.unwrap_or_default();
        if crds.get_opt(&name).await.map_err(|e| e.to_string())?.is_none() {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        note("its CRDs are installed already; they stay as they are");
        return Ok(missing);
    }
    let output = Command::new(binary).args(["crds", "--install"]).env("KUBECONFIG", kubeconfig).output();
    let output = output.map_err(|e| e.to_string())?;
    show(&String::from_utf8_lossy(&output.stdout));
    // 3: a larger one of somebody else was left in place, which serves as well.
    if !matches!(output.status.code(), Some(0 | 3)) {
        return Err(format!("the CRDs could not be installed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    harness::eventually("the API types are served", async || {
        let api: Api<lockstep_crds::ExternalSecret> = Api::namespaced(client.clone(), NAMESPACE);
        api.list(&Default::default()).await.ok().map(drop)
    })
    .await;
    Ok(missing)
}

async fn play(stage: &Stage) -> Result<(), String> {
    let (vault, client) = (&stage.vault, &stage.client);
    step(3, "A value in Vault");
    vault.put("demo/database", json!({"username": "app", "password": "first-password"})).await;
    show("vault kv put secret/demo/database username=app password=first-password");

    step(4, "config/samples/quickstart: a SecretStore and an ExternalSecret");
    let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vault-token"}, "stringData": {"token": ROOT}});
    harness::apply(client, Some(NAMESPACE), token).await.map_err(|e| e.to_string())?;
    for file in ["store.yaml", "externalsecret.yaml"] {
        let text =
            std::fs::read_to_string(harness::root().join("config/samples/quickstart").join(file)).map_err(|e| e.to_string())?;
        for mut object in documents(&text) {
            if object["kind"] == "SecretStore" {
                object["spec"]["provider"]["vault"]["server"] = Value::String(vault.url.clone());
                if stage.control_plane.is_none() {
                    // Another operator of the default class may serve that cluster.
                    object["spec"]["controller"] = Value::String(NAMESPACE.into());
                }
            }
            harness::apply(client, Some(NAMESPACE), object).await.map_err(|e| format!("{file}: {e}"))?;
        }
    }
    let applied = Instant::now();
    wait_for(client, "first-password").await;
    note(&format!("the Secret was there {} ms after the apply", applied.elapsed().as_millis()));
    show_objects(stage).await?;

    step(5, "The Secret");
    show_secret(client).await;

    step(6, "The value changes in Vault");
    vault.put("demo/database", json!({"username": "app", "password": "second-password"})).await;
    show("vault kv put secret/demo/database username=app password=second-password");
    note("waiting for the next refresh (refreshInterval: 10s)");
    let changed = Instant::now();
    wait_for(client, "second-password").await;
    note(&format!("it arrived after {:.1} s", changed.elapsed().as_secs_f64()));
    show_secret(client).await;

    step(7, "Someone deletes the Secret");
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let before = secrets.get("database-credentials").await.map_err(|e| e.to_string())?.metadata.uid;
    secrets.delete("database-credentials", &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    let deleted = Instant::now();
    harness::eventually("the Secret is made anew", async || {
        let secret = secrets.get_opt("database-credentials").await.ok()??;
        (secret.metadata.uid != before).then_some(())
    })
    .await;
    note(&format!("it was back after {} ms", deleted.elapsed().as_millis()));
    show_objects(stage).await
}

async fn wait_for(client: &Client, password: &str) {
    harness::eventually("the Secret holds the value", async || {
        let data = harness::secret(client, NAMESPACE, "database-credentials").await?;
        (data.get("password").map(String::as_str) == Some(password)).then_some(())
    })
    .await;
}

async fn show_secret(client: &Client) {
    let data = harness::secret(client, NAMESPACE, "database-credentials").await.unwrap_or_default();
    let rows: Vec<Vec<String>> = data.into_iter().map(|(k, v)| vec![k, v]).collect();
    show(&table::render(&["KEY", "VALUE (made up for the demo)"], &rows));
}

/// kubectl's table where there is a kubectl, else the API server's own, which has the same columns.
async fn show_objects(stage: &Stage) -> Result<(), String> {
    harness::eventually("the object is Ready", async || {
        let api: Api<lockstep_crds::ExternalSecret> = Api::namespaced(stage.client.clone(), NAMESPACE);
        let status = api.get("database").await.ok()?.status?;
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await;
    anstream::println!("  {BOLD}$ kubectl get externalsecrets{BOLD:#}");
    let kubectl = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(&stage.kubeconfig)
        .args(["-n", NAMESPACE, "get", "externalsecrets"])
        .stderr(Stdio::null())
        .output();
    match kubectl {
        Ok(output) if output.status.success() => show(&String::from_utf8_lossy(&output.stdout)),
        _ => show(&table::of_objects(&stage.client, "externalsecrets", NAMESPACE).await.map_err(|e| e.to_string())?),
    }
    Ok(())
}

fn leave_running(stage: &Stage) {
    step(8, "Your turn: everything runs until you press Ctrl-C");
    let rows = [
        format!("export KUBECONFIG={}", stage.kubeconfig.display()),
        format!("kubectl -n {NAMESPACE} get externalsecrets,secretstores,secrets"),
        format!("kubectl -n {NAMESPACE} annotate externalsecret database force-sync=$(date +%s) --overwrite"),
        format!("export VAULT_ADDR={} VAULT_TOKEN={ROOT}", stage.vault.url),
        "vault kv put secret/demo/database username=app password=mine".to_owned(),
        format!(
            "curl -H 'X-Vault-Token: {ROOT}' -d '{{\"data\":{{\"username\":\"app\",\"password\":\"mine\"}}}}' {}/v1/secret/data/demo/database",
            stage.vault.url
        ),
    ];
    rows.iter().for_each(|row| show(row));
}

/// Removes from a cluster of the user's what the demo made there; its own cluster goes as a whole.
async fn clean_up(stage: &Stage) {
    if stage.control_plane.is_some() {
        return;
    }
    anstream::println!();
    note(&format!(
        "removing namespace {NAMESPACE}{}",
        if stage.made_crds.is_empty() { "" } else { " and the CRDs that it installed" }
    ));
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(stage.client.clone());
    let _ = namespaces.delete(NAMESPACE, &DeleteParams::default()).await;
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let crds: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    for name in &stage.made_crds {
        let _ = crds.delete(name, &DeleteParams::default()).await;
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while Instant::now() < limit && !matches!(namespaces.get_opt(NAMESPACE).await, Ok(None)) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
