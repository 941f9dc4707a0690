//! Child processes that end with this one, also when it is killed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A shell that starts a program, says its pid, and kills it once its own standard input ends: the pipe to it ends with
/// the process that holds the other end.
const GUARD: &str = r#"
out=$1; shift
"$@" >"$out" 2>&1 </dev/null &
child=$!
echo "$child"
exec >/dev/null
cat >/dev/null
kill "$child" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
  kill -0 "$child" 2>/dev/null || break
  sleep 0.2
done
kill -KILL "$child" 2>/dev/null
wait "$child" 2>/dev/null
"#;

/// A running program.
#[derive(Debug)]
pub struct Process {
    guard: Child,
    /// Its process id.
    pub pid: u32,
    /// What it printed.
    pub log: PathBuf,
    name: String,
}

impl Process {
    /// Starts a program whose output goes to `log`.
    pub fn start(command: &Command, log: &Path) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard"]).arg(log).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guard.env(key, value),
                None => guard.env_remove(key),
            };
        }
        // Ctrl-C at a terminal goes to a whole group: the guard must outlive it to kill what it guards.
        let mut guard = std::os::unix::process::CommandExt::process_group(&mut guard, 0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("the guard says a pid");
        let pid = line.trim().parse().expect("a pid");
        Self { guard, pid, log: log.to_owned(), name }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).stderr(Stdio::null()).status();
    }

    /// Whether it is still there.
    pub fn is_running(&self) -> bool {
        // A zombie waits for its guard and runs no more.
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    /// Waits for its end.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        while std::time::Instant::now() < end {
            if !self.is_running() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        !self.is_running()
    }

    /// CPU time used so far and the peak of its resident memory in bytes.
    pub fn usage(&self) -> Usage {
        usage(self.pid)
    }

    /// What it printed.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Waits until `ready` says so; panics with the end of the log when the process ends or time runs out.
    pub fn wait_ready(&self, limit: Duration, mut ready: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + limit;
        while !ready() {
            if !self.is_running() || std::time::Instant::now() > end {
                let log = self.output();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(12)..].join("\n");
                panic!("{} did not become ready; the end of {}:\n{tail}", self.name, self.log.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        if self.is_running() {
            self.signal("KILL");
        }
    }
}

/// What a process used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub rss: u64,
    /// Its peak, in bytes.
    pub peak_rss: u64,
}

/// What the process with this id used so far; zero once it is gone.
pub fn usage(pid: u32) -> Usage {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields after the name, which may hold blanks: utime and stime are the 14th and 15th of all, in ticks of 10 ms.
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let bytes = |name: &str| {
        let kib =
            status.lines().find_map(|l| l.strip_prefix(name)).and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Usage { cpu: Duration::from_millis(ticks * 10), rss: bytes("VmRSS:"), peak_rss: bytes("VmHWM:") }
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Holds an exclusive lock on a file for as long as it lives.
pub struct FileLock(#[expect(dead_code, reason = "held for its lock")] File);

impl FileLock {
    /// Waits for the lock.
    pub fn take(path: &Path) -> Self {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        let file = File::options().create(true).truncate(false).write(true).open(path).expect("the lock file opens");
        file.lock().expect("the lock is given");
        Self(file)
    }
}
