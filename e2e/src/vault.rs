//! A real Vault, and a small client that sets it up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{Component, find_or_build};
use crate::control_plane::{Authority, Pair};
use crate::process::{Process, free_port};

/// Id of the root token.
pub const ROOT: &str = "root-of-the-tests";
/// Password of the directory's user `ada`.
pub const LDAP_PASSWORD: &str = "CANARY-ldap-password";

/// A running Vault.
pub struct Vault {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// `https://127.0.0.1:PORT`.
    pub tls_url: String,
    /// Port of the LDAP directory.
    pub ldap_port: u16,
    /// Who signed its certificate, and signs those of clients.
    pub authority: Authority,
    /// One line for every request and every answer.
    pub audit: PathBuf,
    /// The process.
    pub process: Process,
    http: reqwest::Client,
}

impl Vault {
    /// Starts one in `folder`, with a KV v2 engine at `secret`.
    ///
    /// # Errors
    /// A sentence when the binary can't be had.
    pub fn start(folder: &Path, environment: &[(String, String)], say: &dyn Fn(&str)) -> Result<Self, String> {
        let binary = find_or_build(Component::Vault, say)?;
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        let authority = Authority::new("vault-ca");
        let Pair { certificate, key } = authority.issue("vault", None, &["127.0.0.1", "localhost"]);
        std::fs::write(folder.join("vault.crt"), certificate).map_err(|e| e.to_string())?;
        std::fs::write(folder.join("vault.key"), key).map_err(|e| e.to_string())?;
        let (port, tls_port, ldap_port) = (free_port(), free_port(), free_port());
        let mut command = Command::new(binary);
        command
            .args(["-addr", &format!("127.0.0.1:{port}"), "-tls-addr", &format!("127.0.0.1:{tls_port}")])
            .args(["-ldap-addr", &format!("127.0.0.1:{ldap_port}"), "-ldap-password", LDAP_PASSWORD, "-root", ROOT])
            .arg("-tls-cert")
            .arg(folder.join("vault.crt"))
            .arg("-tls-key")
            .arg(folder.join("vault.key"))
            .envs(environment.iter().cloned());
        let process = Process::start(&command, &folder.join("vault.log"));
        process.wait_ready(Duration::from_secs(60), || process.output().lines().any(|l| l == "ready"));
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        let url = format!("http://127.0.0.1:{port}");
        let tls_url = format!("https://127.0.0.1:{tls_port}");
        Ok(Self { url, tls_url, ldap_port, authority, audit: folder.join("audit.log"), process, http })
    }

    /// Mounts what the tests share.
    pub async fn prepare(&self) {
        self.write("sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).await;
    }

    /// Turns the audit log on: a line for every request costs time.
    pub async fn audit_on(&self) {
        let options = json!({"file_path": self.audit});
        self.write("sys/audit/file", json!({"type": "file", "options": options})).await;
    }

    /// Writes as root; panics on an error.
    pub async fn write(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/v1/{path}", self.url)).header("x-vault-token", ROOT).json(&body);
        let answer = request.send().await.expect("Vault answers");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "Vault answered {path} with {status}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Writes as root.
    ///
    /// # Errors
    /// What Vault answers.
    pub async fn try_write(&self, path: &str, body: Value) -> Result<(), String> {
        let request = self.http.post(format!("{}/v1/{path}", self.url)).header("x-vault-token", ROOT).json(&body);
        let answer = request.send().await.map_err(|e| e.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.text().await.unwrap_or_default()) }
    }

    /// Reads as root; null when nothing is there.
    pub async fn read(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}/v1/{path}", self.url)).header("x-vault-token", ROOT);
        let text = request.send().await.expect("Vault answers").text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// The keys below a path, as root.
    pub async fn list(&self, path: &str) -> Vec<String> {
        let found = self.read(&format!("{path}?list=true")).await;
        let keys = found["data"]["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect()
    }

    /// Puts a KV v2 value under `secret/`.
    pub async fn put(&self, key: &str, value: Value) {
        self.write(&format!("secret/data/{key}"), json!({"data": value})).await;
    }

    /// Removes a KV v2 secret with all of its versions.
    pub async fn remove(&self, key: &str) {
        let request = self.http.delete(format!("{}/v1/secret/metadata/{key}", self.url)).header("x-vault-token", ROOT);
        assert!(request.send().await.expect("Vault answers").status().is_success());
    }

    /// Writes a policy that allows reading of paths.
    pub async fn policy(&self, name: &str, paths: &[&str]) {
        self.policy_of(name, &["read"], paths).await;
    }

    /// Writes a policy that allows something with paths.
    pub async fn policy_of(&self, name: &str, capabilities: &[&str], paths: &[&str]) {
        let rules: String = paths.iter().map(|p| format!("path \"{p}\" {{ capabilities = {capabilities:?} }}\n")).collect();
        self.write(&format!("sys/policies/acl/{name}"), json!({"policy": rules})).await;
    }

    /// A token with policies that lives for `ttl`, such as `1h`.
    pub async fn token(&self, policies: &[&str], ttl: &str) -> String {
        let body = json!({"policies": policies, "ttl": ttl, "no_parent": true});
        let answer = self.write("auth/token/create", body).await;
        answer["auth"]["client_token"].as_str().expect("a token").to_owned()
    }

    /// Turns an auth method on at a path.
    pub async fn auth(&self, path: &str, type_: &str) {
        self.write(&format!("sys/auth/{path}"), json!({"type": type_})).await;
    }

    /// How many requests of an operation (`read`, `update`) the audit log has for paths that begin with `prefix`.
    pub fn requests(&self, operation: &str, prefix: &str) -> usize {
        self.requests_of(operation, prefix, "")
    }

    /// The same, of identities whose display name begins with `who`, such as `userpass-`.
    pub fn requests_of(&self, operation: &str, prefix: &str, who: &str) -> usize {
        let log = std::fs::read_to_string(&self.audit).unwrap_or_default();
        let counts = |line: &&str| {
            let Ok(entry) = serde_json::from_str::<Value>(line) else { return false };
            let request = &entry["request"];
            entry["type"] == "request"
                && request["operation"] == operation
                && request["path"].as_str().is_some_and(|p| p.starts_with(prefix))
                && entry["auth"]["display_name"].as_str().unwrap_or_default().starts_with(who)
        };
        log.lines().filter(counts).count()
    }

    /// Reads of paths that begin with `prefix`, in each of so many seconds from `begun` on.
    pub fn requests_by_second(&self, prefix: &str, begun: std::time::SystemTime, seconds: u64) -> Vec<u64> {
        let begun = jiff::Timestamp::try_from(begun).expect("a time");
        let mut all = vec![0; usize::try_from(seconds).expect("a number of seconds")];
        for line in std::fs::read_to_string(&self.audit).unwrap_or_default().lines() {
            let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
            let request = &entry["request"];
            let counts = entry["type"] == "request" && request["operation"] == "read";
            if !counts || !request["path"].as_str().is_some_and(|p| p.starts_with(prefix)) {
                continue;
            }
            let Some(Ok(at)) = entry["time"].as_str().map(str::parse::<jiff::Timestamp>) else { continue };
            if let Some(count) = usize::try_from(at.duration_since(begun).as_secs()).ok().and_then(|s| all.get_mut(s))
                && at >= begun
            {
                *count += 1;
            }
        }
        all
    }
}
