//! One set of real components for a test binary, and what tests do with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, Config};
use tokio::sync::OnceCell;

use crate::aws::Aws;
use crate::azure::Azure;
use crate::components;
use crate::control_plane::{ControlPlane, kubeconfig};
use crate::gcp::Gcp;
use crate::interposer::{Interposer, Lie, Setting, Sort};
use crate::operator::{Operator, OperatorOptions};
use crate::vault::Vault;

/// The folder of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}

/// Everything that runs.
pub struct Harness {
    /// The cluster.
    pub control_plane: ControlPlane,
    /// The Vault.
    pub vault: Vault,
    /// The operator's binary.
    pub binary: PathBuf,
    /// Where everything lies.
    pub folder: tempfile::TempDir,
    /// Before the API server, where what operators watch is to come late.
    late: Option<Interposer>,
}

/// By how much, at most and in milliseconds, each event comes late that an operator watches. Tests that take an order of events for
/// granted fail then, as they do once in a hundred times on a busy machine.
const LATE: &str = "SCENARIOS_LATE_MS";

impl Harness {
    /// Starts a control plane and a Vault, and finds or builds all binaries; the operator's is what `operator` gives.
    ///
    /// # Errors
    /// A sentence that says what is missing and what to do.
    pub fn start(operator: impl FnOnce() -> Result<PathBuf, String>, say: &dyn Fn(&str)) -> Result<Self, String> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("lockstep-").tempdir().map_err(|e| e.to_string())?;
        let control_plane = ControlPlane::start(&folder.path().join("control-plane"), say)?;
        let google = folder.path().join("vault-google.json");
        let mut environment = Vec::new();
        if let Some(Ok(gcp)) = GCP.get() {
            std::fs::write(&google, gcp.key_of_vault()).map_err(|e| e.to_string())?;
            environment.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), google.display().to_string()));
        }
        let vault = Vault::start(&folder.path().join("vault"), &environment, say)?;
        let binary = operator()?;
        let late = std::env::var(LATE).ok().map(|most| {
            let most = Duration::from_millis(most.parse().unwrap_or_else(|e| panic!("{LATE}: {e}")));
            let setting = Setting { tls: true, seed: u64::from(std::process::id()), ..Setting::default() };
            let proxy = Interposer::before(&control_plane.url, Some(&control_plane.ca), setting);
            proxy.script(move |exchange| if exchange.sort == Sort::Watch { Lie::Late(most) } else { Lie::None });
            proxy
        });
        Ok(Self { control_plane, vault, binary, folder, late })
    }

    /// A client with all rights.
    pub async fn client(&self) -> Client {
        client(&self.control_plane.kubeconfig).await
    }

    /// Installs CRDs and RBAC, and gives a kubeconfig of the operator's service account.
    pub async fn install(&self, client: &Client) -> PathBuf {
        create_namespace(client, "lockstep-system").await;
        apply_file(client, &root().join("config/crd/crds.yaml")).await;
        for file in ["rbac.yaml", "push/push.yaml", "tokens/tokens.yaml"] {
            apply_file(client, &root().join("config/rbac").join(file)).await;
        }
        wait_for_crds(client).await;
        let user = service_account_token(client, "lockstep-system", "lockstep").await;
        let ca = self.late.as_ref().map_or(&self.control_plane.ca, |late| &late.ca);
        let text = kubeconfig(self.api_url(), ca, &format!("token: {user}"));
        let path = self.folder.path().join("operator.kubeconfig");
        std::fs::write(&path, text).expect("a kubeconfig can be written");
        path
    }

    /// Where operators find the API server.
    pub fn api_url(&self) -> &str {
        self.late.as_ref().map_or(&self.control_plane.url, |late| &late.url)
    }

    /// Starts an operator.
    pub fn operator(&self, options: &OperatorOptions) -> Operator {
        let kubeconfig = self.folder.path().join("operator.kubeconfig");
        let mut options = options.clone();
        // What a test says comes last, and wins.
        let given = std::mem::take(&mut options.env);
        if let Some(Ok(gcp)) = GCP.get() {
            options.env.extend(gcp.environment());
        }
        if let Some(Ok(azure)) = AZURE.get() {
            let file = self.folder.path().join("azure.pem");
            std::fs::write(&file, &azure.authority).expect("a file can be written");
            options.env.extend(azure.environment());
            let places = ["--resolve", "*.vault.azure.net=127.0.0.1", "--resolve", "*.azurecr.io=127.0.0.1"].map(str::to_owned);
            options.args.extend(places);
            let flags = ["--ca-file", &file.display().to_string()].map(str::to_owned);
            options.args.extend(flags);
        }
        if let Some(Ok(aws)) = AWS.get() {
            options.env.push(("AWS_ENDPOINT_URL".into(), aws.url.clone()));
            options.env.push(("AWS_EC2_METADATA_DISABLED".into(), "true".into()));
        }
        options.env.extend(given);
        Operator::start(&self.binary, &kubeconfig, self.folder.path(), &options)
    }
}

/// Takes a case's namespaces and cluster objects away, without waiting for it.
pub async fn sweep(client: &Client, name: &str) {
    for (version, kind) in [
        ("external-secrets.io/v1alpha1", "ClusterPushSecret"),
        ("external-secrets.io/v1", "ClusterExternalSecret"),
        ("external-secrets.io/v1", "ClusterSecretStore"),
    ] {
        let api = api_of(client, None, &serde_json::json!({"apiVersion": version, "kind": kind}));
        let _ = api.delete(name, &Default::default()).await;
    }
    for (version, kind) in
        [("external-secrets.io/v1alpha1", "PushSecret"), ("generators.external-secrets.io/v1alpha1", "GeneratorState")]
    {
        // Their operator is gone, and so is whoever took their finalizers away.
        let api = api_of(client, Some(name), &serde_json::json!({"apiVersion": version, "kind": kind}));
        for object in api.list(&Default::default()).await.map(|l| l.items).unwrap_or_default() {
            let none = serde_json::json!({"metadata": {"finalizers": null}});
            let _ = api
                .patch(object.metadata.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(&none))
                .await;
        }
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ours = |n: &Namespace| n.metadata.name.as_deref().is_some_and(|n| n == name || n.starts_with(&format!("{name}-")));
    let all = namespaces.list(&Default::default()).await.map(|l| l.items).unwrap_or_default();
    for namespace in all.iter().filter(|n| ours(n)) {
        let _ = namespaces.delete(namespace.metadata.name.as_deref().unwrap_or_default(), &Default::default()).await;
    }
}

/// A client for a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a config");
    config.proxy_url = None;
    Client::try_from(config).expect("a client")
}

/// Makes a namespace, unless it is there.
pub async fn create_namespace(client: &Client, name: &str) {
    let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let api: Api<Namespace> = Api::all(client.clone());
    api.patch(name, &PatchParams::apply("e2e"), &Patch::Apply(&namespace)).await.expect("a namespace");
}

/// A token of a service account for the API server.
pub async fn service_account_token(client: &Client, namespace: &str, name: &str) -> String {
    token_for(client, namespace, name, &[]).await
}

/// A token of a service account for somebody else.
pub async fn token_for(client: &Client, namespace: &str, name: &str, audiences: &[&str]) -> String {
    let audiences = audiences.iter().map(|a| (*a).to_owned()).collect();
    let spec = TokenRequestSpec { audiences: Some(audiences), expiration_seconds: Some(86_400), bound_object_ref: None };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = api.create_token_request(name, &PostParams::default(), &request).await.expect("a token");
    answer.status.and_then(|s| s.token).expect("a token")
}

/// Applies every document of a YAML file, server-side.
pub async fn apply_file(client: &Client, path: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for object in documents(&text) {
        apply(client, None, object).await.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// The documents of a YAML stream.
pub fn documents(text: &str) -> Vec<serde_json::Value> {
    let parts = text.split("\n---").map(|part| part.trim_start_matches("---"));
    let filled = parts.filter(|part| part.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    filled.map(|part| serde_saphyr::from_str(part).expect("YAML")).collect()
}

/// Applies one object, server-side, in `namespace` unless it names one.
///
/// # Errors
/// What the API server answers.
pub async fn apply(client: &Client, namespace: Option<&str>, object: serde_json::Value) -> kube::Result<DynamicObject> {
    let api = api_of(client, namespace, &object);
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(&object)).await
}

/// The API of an object's kind.
pub fn api_of(client: &Client, namespace: Option<&str>, object: &serde_json::Value) -> Api<DynamicObject> {
    let version = object["apiVersion"].as_str().expect("an apiVersion");
    let kind = object["kind"].as_str().expect("a kind");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if kind == "NetworkPolicy" {
        resource.plural = "networkpolicies".into();
    }
    let cluster = matches!(kind, "Namespace" | "CustomResourceDefinition" | "ValidatingWebhookConfiguration")
        || kind.starts_with("Cluster");
    let namespace = object["metadata"]["namespace"].as_str().or(namespace);
    match namespace.filter(|_| !cluster) {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

async fn wait_for_crds(client: &Client) {
    for crd in lockstep_crds::all_crds() {
        let (names, version) = (&crd.spec.names, &crd.spec.versions[0].name);
        let kind = GroupVersionKind::gvk(&crd.spec.group, version, &names.kind);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, &names.plural));
        eventually(&format!("{} is served", names.plural), async || api.list(&Default::default()).await.ok().map(drop)).await;
    }
}

/// Asks again and again until there is an answer; panics after a minute.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < end, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A Secret's data as text, or none.
pub async fn secret(client: &Client, namespace: &str, name: &str) -> Option<std::collections::BTreeMap<String, String>> {
    let found = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await.expect("the API server answers")?;
    let text = |(k, v): (String, k8s_openapi::ByteString)| (k, String::from_utf8_lossy(&v.0).into_owned());
    Some(found.data.unwrap_or_default().into_iter().map(text).collect())
}

static SHARED: OnceLock<Result<Arc<Harness>, String>> = OnceLock::new();
static INSTALLED: OnceCell<()> = OnceCell::const_new();
static OPERATOR: OnceCell<Operator> = OnceCell::const_new();
static AWS: OnceLock<Result<Aws, String>> = OnceLock::new();
static GCP: OnceLock<Result<Gcp, String>> = OnceLock::new();
static AZURE: OnceLock<Result<Azure, String>> = OnceLock::new();

/// The set of this test binary, with CRDs and RBAC installed.
pub async fn installed() -> Arc<Harness> {
    let started = tokio::task::spawn_blocking(|| {
        let say = |text: &str| eprintln!("{text}");
        GCP.get_or_init(Gcp::start).as_ref().map_err(Clone::clone)?;
        let harness = SHARED.get_or_init(|| Harness::start(|| components::operator(false), &say).map(Arc::new)).clone()?;
        AWS.get_or_init(|| Aws::start(harness.folder.path(), &say)).as_ref().map_err(Clone::clone)?;
        AZURE.get_or_init(Azure::start).as_ref().map_err(Clone::clone)?;
        Ok(harness)
    });
    let harness = started.await.expect("the harness starts").unwrap_or_else(|why: String| panic!("{why}"));
    INSTALLED
        .get_or_init(|| async {
            let client = harness.client().await;
            harness.install(&client).await;
            harness.vault.prepare().await;
            harness.vault.audit_on().await;
            let issuer = harness.control_plane.issuer(&client).await;
            aws().trust(issuer.clone());
            gcp().trust(issuer.clone());
            azure().trust(issuer);
            stop_at_exit(&harness);
        })
        .await;
    harness
}

/// The same with one operator that runs, at TRACE.
pub async fn shared() -> (Arc<Harness>, &'static Operator) {
    let harness = installed().await;
    let operator = OPERATOR
        .get_or_init(async || {
            let args = ["--log-level", "trace", "--log-format", "json"].map(str::to_owned).to_vec();
            let operator = harness.operator(&OperatorOptions { args, name: "shared".into(), ..OperatorOptions::default() });
            operator.wait_working();
            operator
        })
        .await;
    (harness, operator)
}

/// The AWS of this test binary.
pub fn aws() -> &'static Aws {
    match AWS.get() {
        Some(Ok(aws)) => aws,
        Some(Err(why)) => panic!("{why}"),
        None => panic!("the harness is not started"),
    }
}

/// The Google Cloud of this test binary.
pub fn gcp() -> &'static Gcp {
    match GCP.get() {
        Some(Ok(gcp)) => gcp,
        Some(Err(why)) => panic!("{why}"),
        None => panic!("the harness is not started"),
    }
}

/// The Azure of this test binary.
pub fn azure() -> &'static Azure {
    match AZURE.get() {
        Some(Ok(azure)) => azure,
        Some(Err(why)) => panic!("{why}"),
        None => panic!("the harness is not started"),
    }
}

/// Statics are not dropped: the pipes to the guards end with this process, and the folder is removed by a shell that
/// waits for the same.
fn stop_at_exit(harness: &Harness) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "cat >/dev/null; sleep 8; rm -rf \"$1\"", "cleaner"]).arg(harness.folder.path());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if let Ok(child) = command.stdin(std::process::Stdio::piped()).spawn() {
        // Its standard input stays open for as long as this process lives.
        std::mem::forget(child);
    }
}
