//! The binary against a small server made for the purpose.
//!
//! What must hold: right answers are counted and exit 0; every kind of wrong answer is named and exits 1; a server that hangs, lies or is
//! not there cannot hold the program up; the bytes written by `prepare` are those that `--verify` expects.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod server;

use serde_json::Value;
use server::{Behaviour, Server};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn loadgen(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

/// Runs with `--json -`: the exit code and the report.
fn report(arguments: &str) -> (Option<i32>, Value) {
    let output = loadgen(&format!("{arguments} --json -"));
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn prepared(behaviour: Behaviour) -> Server {
    let server = Server::start(Behaviour::Honest);
    let (code, report) =
        report(&format!("prepare {}/set/{{n}} --object-size 300000 --objects 3 -c 2", server.url()));
    assert_eq!((code, &report["requests"], &report["bytes"]), (Some(0), &3.into(), &900_000.into()));
    server.behave(behaviour);
    server
}

const RANGES: &str = "--range-size 20000 --object-size 300000 --objects 3 -c 4 -t 2";

#[test]
fn what_prepare_wrote_is_what_verify_expects() {
    let server = prepared(Behaviour::Honest);
    for pattern in ["random", "aligned-random", "sequential"] {
        let url = server.url();
        let (code, report) =
            report(&format!("get {url}/set/{{n}} {RANGES} --pattern {pattern} --requests 200 --verify"));
        assert_eq!(code, Some(0), "{pattern}: {report}");
        assert_eq!((&report["requests"], &report["bytes"]), (&200.into(), &4_000_000.into()));
        assert_eq!(report["latency_us"]["count"], 200);
        assert_eq!(report["first_byte_us"]["count"], 200);
    }
    let (code, report) =
        report(&format!("get {}/set/{{n}} --whole --objects 3 --requests 10 --verify", server.url()));
    assert_eq!((code, &report["bytes"]), (Some(0), &3_000_000.into()));
}

#[test]
fn another_data_seed_is_corruption() {
    let server = prepared(Behaviour::Honest);
    let (code, report) =
        report(&format!("get {}/set/{{n}} {RANGES} --requests 20 --verify --data-seed 2", server.url()));
    assert_eq!((code, &report["errors"]["corrupt"]), (Some(1), &20.into()));
}

#[test]
fn bytes_nobody_verifies_are_counted_all_the_same() {
    let server = prepared(Behaviour::Honest);
    let (code, report) = report(&format!("get {}/set/{{n}} {RANGES} --requests 200", server.url()));
    assert_eq!((code, &report["requests"], &report["bytes"]), (Some(0), &200.into(), &4_000_000.into()));
}

#[test]
fn one_flipped_bit_is_found_only_by_verify() {
    let server = prepared(Behaviour::FlipOneBit);
    let arguments = format!("get {}/set/{{n}} {RANGES} --requests 20", server.url());
    assert_eq!(report(&arguments).0, Some(0));
    let (code, report) = report(&format!("{arguments} --verify"));
    assert_eq!((code, &report["errors"]["corrupt"]), (Some(1), &20.into()));
}

#[test]
fn refusals_are_counted_by_status_and_fail_unless_allowed() {
    let server = prepared(Behaviour::Refuse);
    let arguments = format!("get {}/set/{{n}} {RANGES} --requests 20", server.url());
    let (code, report) = report(&arguments);
    assert_eq!((code, &report["errors"]["status_503"], &report["bytes"]), (Some(1), &20.into(), &0.into()));
}

#[test]
fn an_upload_refused_in_the_middle_is_named_and_not_sent_to_its_end() {
    let server = Server::start(Behaviour::RefuseUploads);
    let started = Instant::now();
    // More than days of sending: only a client that reads while it writes gets away.
    let (code, report) = report(&format!("put {}/big/{{n}} --size 4096TiB --requests 4 -c 2", server.url()));
    assert_eq!((code, &report["errors"]["status_507"], &report["bytes"]), (Some(1), &4.into(), &0.into()));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_put_wrote_can_be_verified() {
    let server = Server::start(Behaviour::Honest);
    let (code, written) = report(&format!("put {}/set/{{n}} --size 1MB --requests 10 -c 3", server.url()));
    assert_eq!((code, &written["requests"], &written["bytes"]), (Some(0), &10.into(), &10_000_000.into()));
    let (code, read) =
        report(&format!("get {}/set/{{n}} --whole --objects 10 --requests 30 --verify", server.url()));
    assert_eq!((code, &read["bytes"]), (Some(0), &30_000_000.into()));
}

#[test]
fn failures_beside_successes_are_forgiven_only_on_demand() {
    let server = prepared(Behaviour::RefuseEverySecond);
    let arguments = format!("get {}/set/{{n}} {RANGES} --requests 40", server.url());
    let (code, report_strict) = report(&arguments);
    assert_eq!(
        (code, &report_strict["errors"]["status_503"], &report_strict["requests"]),
        (Some(1), &20.into(), &20.into())
    );
    assert_eq!(report(&format!("{arguments} --allow-errors")).0, Some(0));
}

#[test]
fn a_body_cut_short_is_a_failure() {
    let server = prepared(Behaviour::CutShort);
    let (code, report) = report(&format!("get {}/set/{{n}} {RANGES} --requests 8", server.url()));
    assert_eq!((code, &report["errors"]["short_body"]), (Some(1), &8.into()));
}

#[test]
fn a_server_that_closes_after_each_answer_is_no_failure() {
    for behaviour in [Behaviour::CloseAnnounced, Behaviour::CloseSilently] {
        let server = prepared(behaviour);
        let (code, report) =
            report(&format!("get {}/set/{{n}} {RANGES} --requests 50 --verify", server.url()));
        assert_eq!((code, &report["requests"]), (Some(0), &50.into()), "{behaviour:?}: {report}");
    }
}

#[test]
fn rubbish_is_not_taken_for_an_answer() {
    let server = prepared(Behaviour::Rubbish);
    let (code, report) = report(&format!("get {}/set/{{n}} {RANGES} --requests 8", server.url()));
    assert_eq!((code, &report["errors"]["bad_head"]), (Some(1), &8.into()));
}

#[test]
fn a_server_that_hangs_is_given_up_on() {
    let server = prepared(Behaviour::Hang);
    let started = Instant::now();
    let (code, report) =
        report(&format!("get {}/set/{{n}} {RANGES} --requests 4 --timeout 200ms", server.url()));
    assert_eq!((code, &report["errors"]["timeout"]), (Some(1), &4.into()));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_server_that_is_not_there_ends_the_run() {
    // Bound and dropped: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, report) = report(&format!("get http://{address}/x --whole --requests 10 -c 2"));
    assert_eq!((code, &report["errors"]["connect"]), (Some(1), &10.into()));
}

#[test]
fn a_timed_run_stops_on_time_and_counts_only_its_window() {
    let server = prepared(Behaviour::Honest);
    let started = Instant::now();
    let pid = std::process::id();
    let arguments =
        format!("get {}/set/{{n}} {RANGES} --warmup 200ms --duration 500ms --server-pid {pid}", server.url());
    let (code, report) = report(&arguments);
    assert_eq!(code, Some(0), "{report}");
    assert!((0.45..0.55).contains(&report["window_s"].as_f64().unwrap()), "{report}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(report["server_cpu"]["seconds"].is_number() && report["client_cpu"]["seconds"].is_number());
    let rate = report["gb_per_s"].as_f64().unwrap() * 1e9 * report["window_s"].as_f64().unwrap();
    assert!((rate / report["bytes"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{report}");
}

#[test]
fn the_summary_is_for_people_and_the_file_for_machines() {
    let server = prepared(Behaviour::Honest);
    let file = std::env::temp_dir().join(format!("loadgen-report-{}.json", std::process::id()));
    let output =
        loadgen(&format!("get {}/set/0 --whole --requests 3 --json {}", server.url(), file.display()));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("throughput"));
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(report["requests"], 3);
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    for arguments in [
        "",
        "get",
        "get http://127.0.0.1:1/x",
        "get https://127.0.0.1/x --whole",
        "put http://127.0.0.1:1/x --size lots",
    ] {
        let output = loadgen(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}
