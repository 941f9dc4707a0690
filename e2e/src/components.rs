//! Where the real components come from: `KUBEBUILDER_ASSETS`, PATH, a cache in the user's cache folder, or a build with Go.
//!
//! Built once for each version; several checkouts and several tests at once share the cache, each build under a lock.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::FileLock;

/// A program that the harness runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// etcd.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// Garbage collection, namespaces, service accounts.
    KubeControllerManager,
    /// A real Vault: see `components/vault`. Always ours, for its auth methods.
    Vault,
    /// Go's own templates: see `tools/templates`.
    Templates,
}

impl Component {
    /// What a cluster and its Vault need.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::Vault, Self::KubeApiserver, Self::KubeControllerManager];

    /// Name of the binary.
    pub const fn binary(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Vault => "lockstep-vault",
            Self::Templates => "go-templates",
        }
    }

    const fn module(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver | Self::KubeControllerManager => "controlplane",
            Self::Vault => "vault",
            Self::Templates => "templates",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::KubeApiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::KubeControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Vault | Self::Templates => ".",
        }
    }

    const fn takes(self) -> &'static str {
        match self {
            Self::Etcd => "about 15 s",
            Self::KubeApiserver => "about 5 min",
            Self::KubeControllerManager => "about 1 min",
            Self::Vault => "about 4 min",
            Self::Templates => "about 10 s",
        }
    }
}

fn source(component: Component) -> PathBuf {
    let folder = if component == Component::Templates { "tools" } else { "components" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(component.module())
}

/// Where what is built once lies.
pub(crate) fn cache_folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    base.unwrap_or_else(home).join("lockstep").join("components")
}

/// Changes whenever a file of the module does.
fn version(component: Component) -> String {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(source(component)).expect("the module's folder").map(|f| f.expect("a file").path()).collect();
    files.sort();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in files.iter().flat_map(|f| std::fs::read(f).expect("a readable file")) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{}-{hash:016x}", component.module())
}

/// Where a component's binary is, if nothing has to be built.
pub fn present(component: Component) -> Option<PathBuf> {
    let cached = cache_folder().join(version(component)).join(component.binary());
    let mut places: Vec<PathBuf> = Vec::new();
    if !matches!(component, Component::Vault | Component::Templates) {
        places.extend(std::env::var_os("KUBEBUILDER_ASSETS").map(|p| PathBuf::from(p).join(component.binary())));
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|p| p.join(component.binary())));
    }
    places.push(cached);
    places.into_iter().find(|p| p.is_file())
}

/// The binary of a component, built if there is none; `say` hears what takes long.
///
/// # Errors
/// A sentence that says what is missing and what to do.
pub fn find_or_build(component: Component, say: &dyn Fn(&str)) -> Result<PathBuf, String> {
    if let Some(found) = present(component) {
        return Ok(found);
    }
    let folder = cache_folder().join(version(component));
    let _lock = FileLock::take(&folder.join(format!("{}.lock", component.binary())));
    if let Some(found) = present(component) {
        return Ok(found);
    }
    build(component, &folder, say)
}

fn build(component: Component, folder: &Path, say: &dyn Fn(&str)) -> Result<PathBuf, String> {
    let name = component.binary();
    if !Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        return Err(format!(
            "{name} is neither in KUBEBUILDER_ASSETS nor on PATH nor in {}, and there is no Go to build it with: \
             install Go 1.26 or newer, or set KUBEBUILDER_ASSETS",
            folder.display()
        ));
    }
    say(&format!("building {name} with Go, once: {}", component.takes()));
    let target = folder.join(name);
    let temporary = folder.join(format!("{name}.{}", std::process::id()));
    let mut child = Command::new("go")
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(&temporary)
        .arg(component.package())
        .current_dir(source(component))
        .env("CGO_ENABLED", "0")
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("go could not be started: {error}"))?;
    let begun = Instant::now();
    let mut told = Duration::ZERO;
    let mut stderr = child.stderr.take().expect("piped");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
        text
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(200));
        if begun.elapsed() - told > Duration::from_secs(30) {
            told = begun.elapsed();
            say(&format!("  {name}: still building after {} s", told.as_secs()));
        }
    };
    if !status.success() {
        let text = errors.join().unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().filter(|l| !l.contains("downloading")).take(5).collect();
        return Err(format!("go could not build {name}: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / ")));
    }
    std::fs::rename(&temporary, &target).map_err(|e| e.to_string())?;
    say(&format!("  {name}: built in {} s", begun.elapsed().as_secs()));
    Ok(target)
}

/// The operator's binary, built from this checkout.
///
/// # Errors
/// A sentence when cargo fails.
pub fn operator(release: bool) -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "-q", "-p", "lockstep", "--bin", "lockstep", "--message-format=json-render-diagnostics"])
        .current_dir(&root);
    if release {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo could not be started: {e}"))?;
    if !output.status.success() {
        return Err("cargo could not build the operator".into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut messages = text.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let binary = messages.find_map(|m| m["executable"].as_str().map(PathBuf::from));
    binary.ok_or_else(|| "cargo named no binary".into())
}
