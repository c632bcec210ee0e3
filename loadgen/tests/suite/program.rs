//! The binary, started as a user would.

use crate::server::{Behaviour, Server};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

pub(crate) fn loadgen(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

/// Runs with `--json -`: the exit code and the report.
pub(crate) fn report(arguments: &str) -> (Option<i32>, Value) {
    // In front of a nested command, where the options of `duel` belong.
    let arguments = match arguments.split_once(" get ") {
        Some((duel, workload)) => format!("{duel} --json - get {workload}"),
        None => format!("{arguments} --json -"),
    };
    let output = loadgen(&arguments);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// A server with three objects of 300,000 bytes, which from now on behaves like this.
pub(crate) fn prepared(behaviour: Behaviour) -> Server {
    let server = Server::start(Behaviour::Honest);
    let (code, report) =
        report(&format!("prepare {}/set/{{n}} --object-size 300000 --objects 3 -c 2", server.url()));
    assert_eq!((code, &report["requests"], &report["bytes"]), (Some(0), &3.into(), &900_000.into()));
    server.behave(behaviour);
    server
}
