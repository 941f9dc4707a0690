//! An HTTP API behind NTLM, judged by pyspnego, which we did not write.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::python;

/// A running API: every path answers `{"data": {"value": …}}` to the one user that there is.
pub struct NtlmApi {
    /// Its URL.
    pub url: String,
    process: Process,
}

impl NtlmApi {
    /// Starts one that offers `scheme` (NTLM, Negotiate or Basic) to `DOMAIN\app` with this password.
    ///
    /// # Errors
    /// A sentence that says what is missing and what to do.
    pub fn start(folder: &Path, name: &str, scheme: &str, password: &str, value: &str) -> Result<Self, String> {
        let users = folder.join(format!("{name}.users"));
        std::fs::write(&users, format!("DOMAIN:app:{password}\n")).map_err(|e| format!("{}: {e}", users.display()))?;
        let mut command = Command::new(python::programs(&|text| eprintln!("{text}"))?.join("python"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/ntlm_server.py");
        command.arg(script).args([scheme, value]).env("NTLM_USER_FILE", users);
        let process = Process::start(&command, &folder.join(format!("{name}.log")));
        let port = || process.output().lines().next().and_then(|line| line.strip_prefix("port ")?.parse::<u16>().ok());
        process.wait_ready(Duration::from_secs(30), || port().is_some());
        let url = format!("http://127.0.0.1:{}", port().unwrap_or_default());
        Ok(Self { url, process })
    }

    /// What happened, a line a request: `anonymous`, `challenged`, `logged in USER`, `served USER` (on a connection that is
    /// logged in) or `refused: WHY`.
    pub fn requests(&self) -> Vec<String> {
        self.process.output().lines().skip(1).map(str::to_owned).collect()
    }
}
