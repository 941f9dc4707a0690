//! Python programs that no Go module and no crate offers: installed once into a virtual environment in the user's cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::components::cache_folder;
use crate::process::FileLock;

/// The folder with the programs of `e2e/python/requirements.txt`, installed if they are not there.
///
/// # Errors
/// A sentence that says what is missing and what to do.
pub fn programs(say: &dyn Fn(&str)) -> Result<PathBuf, String> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/requirements.txt");
    let text = std::fs::read(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let mark = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let folder = cache_folder().join(format!("python-{mark:016x}"));
    let (done, programs) = (folder.join("done"), folder.join("bin"));
    if done.is_file() {
        return Ok(programs);
    }
    let _lock = FileLock::take(&folder.with_extension("lock"));
    if done.is_file() {
        return Ok(programs);
    }
    say("installing the AWS emulator and the clouds' Python clients, once: about 1 min");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), "python3 -m venv")?;
    run(Command::new(programs.join("pip")).args(["install", "--quiet", "-r"]).arg(&list), "pip install")?;
    std::fs::write(&done, "").map_err(|e| e.to_string())?;
    Ok(programs)
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{what} could not be started ({e}); install Python 3.11 or newer, with venv"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let tail: Vec<&str> = text.lines().rev().take(4).collect();
    Err(format!("{what} failed: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / ")))
}
