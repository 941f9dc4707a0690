//! The operator as users run it: the built binary, as its own service account, with the RBAC of `config/rbac`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, free_port};

/// How to start one.
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// Arguments of `lockstep run` beside the addresses.
    pub args: Vec<String>,
    /// Name of this replica.
    pub name: String,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
}

/// A running operator.
pub struct Operator {
    /// The process.
    pub process: Process,
    /// Port of `/metrics`.
    pub metrics_port: u16,
    /// Port of `/readyz`.
    pub health_port: u16,
}

impl Operator {
    /// Starts the binary with a kubeconfig.
    pub fn start(binary: &Path, kubeconfig: &Path, folder: &Path, options: &OperatorOptions) -> Self {
        let (metrics_port, health_port) = (free_port(), free_port());
        let mut command = Command::new(binary);
        command
            .arg("run")
            .args(["--metrics-addr", &format!("127.0.0.1:{metrics_port}")])
            .args(["--health-addr", &format!("127.0.0.1:{health_port}")])
            .args(&options.args)
            .env("KUBECONFIG", kubeconfig)
            .env("HOSTNAME", &options.name)
            .env_remove("POD_NAMESPACE")
            .envs(options.env.iter().map(|(name, value)| (name, value)));
        if !options.args.iter().any(|arg| arg == "--lease-namespace") {
            command.args(["--lease-namespace", "lockstep-system"]);
        }
        let log: PathBuf = folder.join(format!("operator-{}-{health_port}.log", options.name));
        Self { process: Process::start(&command, &log), metrics_port, health_port }
    }

    /// Waits until it has filled its caches and works.
    pub fn wait_working(&self) {
        self.process.wait_ready(Duration::from_secs(60), || self.process.output().contains("caches filled; working"));
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        match client.get(url).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// The sum of all series of a name whose labels hold every one of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.metrics().await;
        sum(&text, name, labels)
    }
}

/// The sum of all series of a name whose labels hold every one of `labels`, in a text of `/metrics`.
pub fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let rows = text.lines().filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']));
    rows.filter(|l| labels.iter().all(|label| l.contains(label)))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}
