//! A real PostgreSQL, for what Vault's database engine issues.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::sync::OnceCell;

use crate::components::cache_folder;
use crate::harness::Harness;
use crate::process::{FileLock, Process, free_port};
use crate::vault::Vault;

/// Password of its superuser `postgres`.
pub const PASSWORD: &str = "CANARY-postgres";
/// Where it comes from when the machine has none: a Python package that holds the server's own binaries.
const WHEEL: &str = "pgserver==0.1.4";

/// A running PostgreSQL.
pub struct Postgres {
    /// Its port on loopback.
    pub port: u16,
    programs: PathBuf,
    _process: Process,
}

/// Starts the server, and removes its data when it ends: it refuses to run as root, and nobody else can clean up behind it.
const SERVE: &str = r#"
data=$1; shift
trap 'kill -INT "$child" 2>/dev/null' TERM
"$@" -D "$data" & child=$!
wait "$child"
wait "$child"
rm -rf "$data"
"#;

fn as_somebody(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !is_root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

fn programs(say: &dyn Fn(&str)) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|v| v.path().join("bin"));
    let has_all = |folder: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).is_file());
    if let Some(found) = debian.chain(std::env::split_paths(&path)).find(has_all) {
        return Ok(found);
    }
    let folder = cache_folder().join(WHEEL);
    let _lock = FileLock::take(&folder.with_extension("lock"));
    let found = || {
        let versions = std::fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
        versions.map(|v| v.path().join("site-packages/pgserver/pginstall/bin")).find(has_all)
    };
    if let Some(found) = found() {
        return Ok(found);
    }
    say("there is no PostgreSQL here (initdb, postgres and psql in one folder of PATH): installing one, once: about 20 s");
    let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))
        && run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", WHEEL]));
    let missing = || "PostgreSQL could not be had: install it, for example Debian's package postgresql".to_owned();
    if made { found().ok_or_else(missing) } else { Err(missing()) }
}

impl Postgres {
    /// Starts one.
    ///
    /// # Errors
    /// A sentence that says what is missing and what to do.
    pub fn start(folder: &Path, say: &dyn Fn(&str)) -> Result<Self, String> {
        let programs = programs(say)?;
        let failed =
            |what: &str, output: std::process::Output| format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
        let made = as_somebody(Path::new("mktemp")).args(["-d", "/tmp/lockstep-postgres-XXXXXX"]).output();
        let made = made.map_err(|error| format!("mktemp: {error}"))?;
        if !made.status.success() {
            return Err(failed("mktemp", made));
        }
        let data = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        let secret = folder.join("postgres.password");
        std::fs::write(&secret, PASSWORD).map_err(|e| e.to_string())?;
        let password = std::fs::File::open(&secret).map_err(|e| e.to_string())?;
        let init = as_somebody(&programs.join("initdb"))
            .args(["--no-sync", "-U", "postgres", "-A", "scram-sha-256", "--pwfile=/dev/stdin", "-D"])
            .arg(&data)
            .current_dir("/")
            .stdin(password)
            .output()
            .map_err(|error| format!("initdb: {error}"))?;
        if !init.status.success() {
            return Err(failed("initdb", init));
        }
        let port = free_port();
        let mut command = as_somebody(Path::new("sh"));
        command.args(["-c", SERVE, "serve"]).arg(&data).arg(programs.join("postgres"));
        command.args(["-p", &port.to_string(), "-k", &data.display().to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        let process = Process::start(&command, &folder.join("postgres.log"));
        let this = Self { port, programs, _process: process };
        this._process.wait_ready(Duration::from_secs(30), || this.logs_in("postgres", PASSWORD));
        Ok(this)
    }

    /// Whether somebody gets in with a password.
    pub fn logs_in(&self, user: &str, password: &str) -> bool {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", user, "-d", "postgres", "-At", "-c", "select 1"]);
        command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5");
        command.output().is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"1"))
    }
}

/// The database of this test binary, with Vault's engine for it at `database`.
pub async fn shared(harness: &Harness) -> &'static Postgres {
    static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
    POSTGRES
        .get_or_init(async || {
            let folder = harness.folder.path().to_owned();
            let started = tokio::task::spawn_blocking(move || Postgres::start(&folder, &|text| eprintln!("{text}")));
            let postgres = started.await.expect("it starts").unwrap_or_else(|why| panic!("{why}"));
            harness.vault.write("sys/mounts/database", json!({"type": "database"})).await;
            let url =
                format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable", postgres.port);
            let config = json!({"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": url,
                "username": "postgres", "password": PASSWORD});
            harness.vault.write("database/config/main", config).await;
            postgres
        })
        .await
}

/// A role of Vault's engine, whose logins hold for `ttl` and with renewals for `max`.
pub async fn role(vault: &Vault, name: &str, ttl: &str, max: &str) {
    let create = r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"#;
    let role = json!({"db_name": "main", "creation_statements": [create], "default_ttl": ttl, "max_ttl": max});
    vault.write(&format!("database/roles/{name}"), role).await;
}
