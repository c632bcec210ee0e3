//! Commands that end in time, or are left behind.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{poll, process};

/// No command that makes, mounts or removes something small takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a command; what it printed, or what was wrong.
///
/// A process that waits for a dead device cannot be killed and would not be gone if it were waited for; it ends when the device
/// is given up.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let shown = format!("{program} {}", args.join(" "));
    let wrong = |error: std::io::Error| format!("{shown}: {error}");
    // Into a file: whoever still holds the other end of a pipe could keep its reader waiting.
    let mut said = tempfile::tempfile().map_err(wrong)?;
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null());
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command.stdout(said.try_clone().map_err(wrong)?).stderr(said.try_clone().map_err(wrong)?);
    let mut child = process::spawn(command).map_err(wrong)?;
    let ended = poll(PATIENCE, || child.try_wait().expect("ask for the exit status"));
    let Some(status) = ended else {
        let _ = child.kill();
        return Err(format!("{shown}: still running after {PATIENCE:?}"));
    };
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).map_err(wrong)?;
    if status.success() { Ok(text) } else { Err(format!("{shown}: {status}: {}", text.trim())) }
}
