//! One operator with a proxy before the API server and one before Vault, which is started again whenever it ends.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::case::Case;
use crate::control_plane::kubeconfig;
use crate::harness;
use crate::interposer::{Exchange, Interposer, Lie, Setting, Sort};
use crate::operator::{Operator, OperatorOptions};

/// A case, its operator, and what stands between that and its servers.
pub struct World {
    /// Namespace, class and keys.
    pub case: Case,
    /// Before the API server.
    pub api: Arc<Interposer>,
    /// Before Vault.
    pub vault: Arc<Interposer>,
    /// `refreshInterval` of everything that has one.
    pub interval: &'static str,
    /// Whether its operator serves the whole cluster.
    pub cluster: bool,
    running: Arc<Running>,
    _supervisor: AbortOnDropHandle<()>,
}

struct Running {
    operator: Mutex<Option<Operator>>,
    pid: AtomicU32,
    starts: AtomicUsize,
    ended: AtomicBool,
    start: Box<dyn Fn(usize) -> Operator + Send + Sync>,
}

/// How a [`World`] is made.
#[derive(Clone, Copy)]
pub struct Making {
    /// Whether its operator serves the whole cluster, and not the case's namespace alone.
    pub cluster: bool,
    /// `refreshInterval` of everything that has one.
    pub interval: &'static str,
    /// Whether the API server seems to be of a time before streaming lists.
    pub old_api: bool,
    /// Decides what is left to chance.
    pub seed: u64,
    /// More arguments, or the leader election's own in place of none.
    pub args: &'static [&'static str],
}

impl Default for Making {
    fn default() -> Self {
        Self { cluster: false, interval: "1h", old_api: false, seed: 0, args: &["--leader-elect=false"] }
    }
}

impl World {
    /// A new one; its operator does not run yet.
    pub async fn new(topic: &str, making: Making) -> Self {
        let case = Case::apart(topic).await;
        let token = operators_token(&case).await;
        Self::of(case, making, &token)
    }

    /// Whether a request is about this world's namespaces, or about none. Of an object whose store is nowhere every operator says so, also
    /// of those that another test is taking away.
    pub fn is_own(&self, path: &str) -> bool {
        let Some((_, rest)) = path.split_once("/namespaces/") else { return true };
        rest.strip_prefix(self.case.name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '-']))
    }

    /// One in a case of its own class, whose operator is whoever has this token.
    pub fn of(case: Case, making: Making, token: &str) -> Self {
        let plane = &case.harness.control_plane;
        let setting = Setting { tls: true, old_api: making.old_api, seed: making.seed };
        let api = Arc::new(Interposer::before(&plane.url, Some(&plane.ca), setting));
        let vault =
            Arc::new(Interposer::before(&case.harness.vault.url, None, Setting { seed: making.seed, ..Setting::default() }));
        let path = case.harness.folder.path().join(format!("{}.kubeconfig", case.name));
        std::fs::write(&path, kubeconfig(&api.url, &api.ca, &format!("token: {token}"))).expect("a kubeconfig");
        let mut args =
            vec!["--controller-class", &case.name, "--lease-namespace", &case.name, "--generator-gc-grace-period", "1s"];
        args.extend(["--unsafe-allow-generic-targets", "--log-level", "trace"]);
        args.extend(making.args);
        if !making.cluster {
            args.extend(["--namespace", &case.name]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let (harness, name) = (case.harness.clone(), case.name.clone());
        let start = move |number: usize| {
            let options = OperatorOptions { args: args.clone(), name: format!("{name}-{number}"), ..OperatorOptions::default() };
            Operator::start(&harness.binary, &path, harness.folder.path(), &options)
        };
        let running = Arc::new(Running {
            operator: Mutex::new(None),
            pid: AtomicU32::new(0),
            starts: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            start: Box::new(start),
        });
        for proxy in [&api, &vault] {
            let running = running.clone();
            proxy.on_kill(move || running.kill());
        }
        let supervisor = AbortOnDropHandle::new(tokio::spawn(supervise(running.clone())));
        Self { case, api, vault, interval: making.interval, cluster: making.cluster, running, _supervisor: supervisor }
    }

    /// Starts the operator; from now on it runs whenever it can.
    pub async fn start(&self) {
        let running = self.running.clone();
        tokio::task::spawn_blocking(move || running.begin()).await.expect("the operator starts");
    }

    /// Ends it as a crash does; it is started again.
    pub fn kill(&self) {
        self.running.kill();
    }

    /// The operator's process.
    pub fn pid(&self) -> u32 {
        self.running.pid.load(Ordering::SeqCst)
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        self.running.starts.load(Ordering::SeqCst)
    }

    /// Everything that its operators ever logged.
    pub fn logs(&self) -> String {
        let folder = self.case.harness.folder.path();
        let begin = format!("operator-{}-", self.case.name);
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let ours = files.filter(|f| f.file_name().to_string_lossy().starts_with(&begin));
        ours.map(|f| std::fs::read(f.path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()).collect()
    }

    /// Lets both proxies decide by the same script, which is told whether a request is for Vault.
    pub fn script(&self, script: impl Fn(bool, &Exchange) -> Lie + Send + Sync + 'static) {
        let script = Arc::new(script);
        let same = script.clone();
        self.api.script(move |exchange| script(false, exchange));
        self.vault.script(move |exchange| same(true, exchange));
    }

    /// Both tell the truth from now on.
    pub fn honest(&self) {
        self.api.honest();
        self.vault.honest();
    }

    /// Ends the operator for good, and takes away what was made.
    pub async fn end(self) {
        self.running.ended.store(true, Ordering::SeqCst);
        let operator = self.running.operator.lock().unwrap_or_else(|p| p.into_inner()).take();
        if let Some(operator) = operator {
            // What it holds in Vault is given back as it ends.
            self.honest();
            operator.process.signal("TERM");
            tokio::task::spawn_blocking(move || operator.process.wait_gone(Duration::from_secs(5))).await.expect("it ends");
        }
        harness::sweep(&self.case.client, &self.case.name).await;
    }
}

/// Whether a request is one of those after which a crash can leave something half-done: watches, leases of leaders, events and
/// questions about the server itself are left out.
pub fn counts(exchange: &Exchange) -> bool {
    let about_itself =
        exchange.path == "/version" || exchange.path.contains("/leases/") && exchange.path.contains("coordination");
    exchange.sort != Sort::Watch && !about_itself && !exchange.path.ends_with("/events")
}

impl Running {
    fn begin(&self) {
        let mut operator = self.operator.lock().unwrap_or_else(|p| p.into_inner());
        if self.ended.load(Ordering::SeqCst) {
            return;
        }
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        let started = (self.start)(number);
        self.pid.store(started.process.pid, Ordering::SeqCst);
        *operator = Some(started);
    }

    /// In the way of whoever asks: nothing else is answered until it is dead.
    fn kill(&self) {
        let pid = self.pid.swap(0, Ordering::SeqCst);
        if pid != 0 {
            let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

async fn supervise(running: Arc<Running>) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let same = running.clone();
        let dead = move || {
            let operator = same.operator.lock().unwrap_or_else(|p| p.into_inner());
            operator.as_ref().is_some_and(|operator| !operator.process.is_running())
        };
        let same = running.clone();
        let _ = tokio::task::spawn_blocking(move || {
            if dead() {
                same.begin();
            }
        })
        .await;
    }
}

/// The token of the operator's own account: `config/rbac` is all that it may.
async fn operators_token(case: &Case) -> String {
    static TOKEN: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    TOKEN
        .get_or_init(async || {
            allow_generic_targets(case).await;
            harness::service_account_token(&case.client, "lockstep-system", "lockstep").await
        })
        .await
        .clone()
}

/// What an administrator adds to the role for targets that are ConfigMaps.
async fn allow_generic_targets(case: &Case) {
    let role = serde_json::json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "generic-targets"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch", "delete"]}],
    });
    let binding = serde_json::json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "generic-targets"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "generic-targets"},
        "subjects": [{"kind": "ServiceAccount", "name": "lockstep", "namespace": "lockstep-system"}],
    });
    for object in [role, binding] {
        harness::apply(&case.client, None, object).await.expect("a role");
    }
}
