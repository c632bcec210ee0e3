//! loadgen loads any HTTP/1.1 blob server and reports throughput, latency and what each byte cost.
//!
//! | file | what it knows |
//! |---|---|
//! | `cli`, `units`, `url`, `mix` | what people write |
//! | `dataset`, `plan`, `random` | what to ask for: pure, from seeds |
//! | `payload`, `checker`, `generations` | which bytes are right, after overwrites too |
//! | `arrivals`, `schedule` | when requests are due in an open loop, and who waits: pure, time is an argument |
//! | `head`, `chunked`, `exchange` | HTTP/1.1 of one request and its answer: bytes in, verdict out, no IO |
//! | `connection`, `low_water`, `client` | sockets, threads, deadlines |
//! | `clock`, `meter`, `live`, `stability`, `process` | when things count, what is seen meanwhile, when to stop |
//! | `histogram`, `series`, `tally` | what is counted |
//! | `report`, `merge`, `compare`, `duel`, `html` | what is made of it |
//!
//! Nothing here is shared with a server, so that no mistake in a parser can hide itself.

#![allow(
    clippy::cast_sign_loss,
    reason = "a float becomes a count or a time here, both never negative, and the cast saturates"
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::float_cmp,
        reason = "a test fails by panicking, and compares what it put in"
    )
)]

mod arrivals;
mod checker;
mod chunked;
mod cli;
mod client;
mod clock;
mod compare;
mod connection;
mod dataset;
mod duel;
mod exchange;
mod generations;
mod head;
mod histogram;
mod html;
mod live;
mod low_water;
mod merge;
mod meter;
mod mix;
mod payload;
mod plan;
mod process;
mod random;
mod report;
mod schedule;
mod series;
mod stability;
mod tally;
mod units;
mod url;

use clap::Parser as _;
use cli::{Cli, Output, Run, Task, print, write};
use report::Report;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let task = match Cli::parse().into_task() {
        Ok(task) => task,
        Err(why) => return complain(&why, USAGE),
    };
    match execute(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(&why, FAILED),
    }
}

fn execute(task: Task) -> Result<(), String> {
    match task {
        Task::Run { run, output } => load(&run, &output),
        Task::Duel { duel, output } => fight(*duel, &output),
        Task::Compare { a, b, output } => {
            let (a, b) = (Report::read(&a)?, Report::read(&b)?);
            let sides = [("a", &a), ("b", &b)];
            deliver(
                &output,
                &sides,
                || Ok(compare::to_json(&a, &b)),
                || html::compare(&a, &b),
                || compare::text(&a, &b),
            )
        }
        Task::Merge { reports, output } => {
            let reports = reports.iter().map(|path| Report::read(path)).collect::<Result<Vec<_>, _>>()?;
            show(&merge::together(&reports)?, &output)
        }
    }
}

fn load(run: &Run, output: &Output) -> Result<(), String> {
    let report = Report::new(run, &client::run(&run.settings)?)?;
    show(&report, output)?;
    if report.is_empty() {
        return Err("nothing was moved: is the server there, and are the objects?".to_owned());
    }
    judge(report.is_clean() || run.allow_errors)
}

fn fight(duel: duel::Plan, output: &Output) -> Result<(), String> {
    let (rounds, allow_errors) = (duel.rounds, duel.a.allow_errors);
    let outcome = duel::run(duel, |round, one| {
        let (a, b) = (one.a.figures.gb_per_s, one.b.figures.gb_per_s);
        tell(&format!("round {}/{rounds}: A {a:.3} GB/s, B {b:.3} GB/s", round + 1));
    })?;
    let sides = [("a", &outcome.a), ("b", &outcome.b)];
    deliver(output, &sides, || Ok(outcome.json()), || html::duel(&outcome), || outcome.text())?;
    judge(outcome.is_clean() || allow_errors)
}

fn show(report: &Report, output: &Output) -> Result<(), String> {
    deliver(output, &[("run", report)], || report.json(), || html::run(report), || report::summary(report))
}

fn judge(good: bool) -> Result<(), String> {
    if good { Ok(()) } else { Err("requests failed; --allow-errors makes this a success".to_owned()) }
}

/// Writes all that was asked for, and the summary unless standard output is taken.
fn deliver(
    output: &Output,
    reports: &[(&str, &Report)],
    json: impl Fn() -> Result<String, String>,
    html: impl Fn() -> Result<String, String>,
    text: impl Fn() -> String,
) -> Result<(), String> {
    type Form<'a> = (&'a Option<std::path::PathBuf>, &'a dyn Fn() -> Result<String, String>);
    let csv = || Ok(report::figures_csv(reports));
    let series = || Ok(report::series_csv(reports));
    let forms: [Form<'_>; 4] =
        [(&output.json, &json), (&output.csv, &csv), (&output.series_csv, &series), (&output.html, &html)];
    for (file, form) in forms {
        if let Some(file) = file {
            write(Path::new(file), &form()?)?;
        }
    }
    if output.takes_stdout() { Ok(()) } else { print(&text()) }
}

/// A line on standard error, which may be closed.
fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn complain(why: &str, code: u8) -> ExitCode {
    // Where standard error is closed, the exit code alone must tell.
    tell(&format!("loadgen: {why}"));
    ExitCode::from(code)
}
