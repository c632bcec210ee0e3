//! The program as an operator runs it, beside a server that runs.

use std::io::Read as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::process;
use super::wait::poll;

/// A command must end within this.
const DEADLINE: Duration = Duration::from_secs(300);

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs `amberblob` and waits for its end.
#[track_caller]
pub fn amberblob(args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amberblob"));
    command.args(args).env_remove("AMBERBLOB_ADMIN").env_remove("AMBERBLOB_SERVER");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::spawn(command).expect("start the amberblob binary");
    let status = poll(DEADLINE, || child.try_wait().expect("ask for the exit status"));
    let Some(status) = status else {
        let _ = child.kill();
        panic!("amberblob {args:?} does not end");
    };
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("text");
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
    Ended { status, stdout, stderr }
}

/// The sum of a metric over all its labels, from the text of `/metrics`.
pub fn metric(metrics: &str, name: &str) -> u64 {
    let of = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    };
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64;
    metrics.lines().filter(of).map(value).sum()
}
