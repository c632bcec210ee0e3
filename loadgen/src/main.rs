//! loadgen loads any HTTP/1.1 blob server and reports throughput, latency and what each byte cost.
//!
//! | file | what it knows |
//! |---|---|
//! | `cli`, `units`, `url` | what people write |
//! | `plan`, `payload` | what to ask for and which bytes are right: pure, from seeds |
//! | `head`, `chunked`, `exchange` | HTTP/1.1 of one request and its answer: bytes in, verdict out, no IO |
//! | `connection`, `low_water`, `client` | sockets, threads, deadlines |
//! | `clock`, `histogram`, `process`, `report` | what is counted, when, and how it is shown |
//!
//! Nothing here is shared with a server, so that no mistake in a parser can hide itself.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking"))]

mod chunked;
mod cli;
mod client;
mod clock;
mod connection;
mod exchange;
mod head;
mod histogram;
mod low_water;
mod payload;
mod plan;
mod process;
mod report;
mod units;
mod url;

use clap::Parser as _;
use cli::{Cli, Run};
use report::Report;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let run = match Cli::parse().into_run() {
        Ok(run) => run,
        Err(why) => return complain(&why, USAGE),
    };
    match execute(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(&why, FAILED),
    }
}

fn execute(run: Run) -> Result<(), String> {
    let outcome = client::run(&run.settings)?;
    let report =
        Report { workload: run.name, description: run.description, parameters: run.parameters, outcome };
    let as_json = format!("{:#}\n", report.json());
    match run.json.as_deref() {
        Some(path) if path == Path::new("-") => print(&as_json)?,
        Some(path) => {
            std::fs::write(path, as_json)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            print(&report.text())?;
        }
        None => print(&report.text())?,
    }
    if report.is_empty() {
        return Err("nothing was moved: is the server there, and are the objects?".to_owned());
    }
    if report.is_clean() || run.allow_errors {
        Ok(())
    } else {
        Err("requests failed; --allow-errors makes this a success".to_owned())
    }
}

fn print(text: &str) -> Result<(), String> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}

fn complain(why: &str, code: u8) -> ExitCode {
    // Where standard error is closed, the exit code alone must tell.
    drop(writeln!(std::io::stderr(), "loadgen: {why}"));
    ExitCode::from(code)
}
