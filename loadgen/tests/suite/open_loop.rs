//! Requests at a rate: what a server's stall costs everybody who comes meanwhile, and what becomes of those who find no room.

use crate::program::{prepared, report};
use crate::server::{Behaviour, STALL};
use serde_json::Value;

const READS: &str = "--range-size 1000 --object-size 300000 --objects 3";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn every_request_that_was_due_is_answered_and_counted() {
    for arrivals in ["poisson", "constant"] {
        let server = prepared(Behaviour::Honest);
        let (code, report) = report(&format!(
            "get {}/set/{{n}} {READS} -c 8 -t 3 --rate 2000 --arrivals {arrivals} --requests 1001 --verify",
            server.url()
        ));
        assert_eq!(code, Some(0), "{report}");
        assert_eq!((&report["requests"], &report["latency_us"]["count"]), (&1001.into(), &1001.into()));
        // Half a second of arrivals: had the rate been ignored, it would have been over much sooner.
        assert!(number(&report["window_s"]) > 0.35, "{arrivals}: {report}");
    }
}

#[test]
fn a_stall_is_charged_to_all_who_came_meanwhile() {
    // One connection, 1000 requests a second: a stall of 200 ms hits about 200 of 1000.
    let server = prepared(Behaviour::StallOnce);
    let arguments = format!("get {}/set/{{n}} {READS} -c 1 --requests 1000", server.url());
    let (code, open) = report(&format!("{arguments} --rate 1000 --arrivals constant"));
    assert_eq!(code, Some(0), "{open}");
    let stall_us = STALL.as_secs_f64() * 1e6;
    assert!(number(&open["latency_us"]["max"]) >= 0.95 * stall_us, "{open}");
    // A tenth of all waited for more than half of the stall, or a fifth for any of it.
    assert!(number(&open["latency_us"]["p90"]) >= 0.4 * stall_us, "{open}");

    // The closed loop asks nothing while the server stands still, and so has but one slow request to tell of.
    let server = prepared(Behaviour::StallOnce);
    let (_, closed) = report(&arguments.replace(&server_part(&arguments), &server.url()));
    assert!(number(&closed["latency_us"]["max"]) >= 0.95 * stall_us, "{closed}");
    assert!(number(&closed["latency_us"]["p90"]) < 0.4 * stall_us, "{closed}");
}

/// The server's part of the first URL in a command line.
fn server_part(arguments: &str) -> String {
    let url = arguments.split(' ').find(|word| word.starts_with("http://")).unwrap();
    url.split("/set").next().unwrap().to_owned()
}

#[test]
fn who_finds_the_queue_full_is_counted_and_not_waited_for() {
    let server = prepared(Behaviour::Hang);
    let (code, report) = report(&format!(
        "get {}/set/{{n}} {READS} -c 2 --rate 1000 --queue 5 --warmup 0s --duration 500ms --timeout 300ms",
        server.url()
    ));
    assert_eq!(code, Some(1));
    assert!(report["errors"]["queue_full"].as_u64().unwrap() > 100, "{report}");
    assert!(report["errors"]["timeout"].as_u64().unwrap() >= 2, "{report}");
}

#[test]
fn who_is_still_waiting_at_the_end_is_counted_with_the_time_it_waited() {
    let server = prepared(Behaviour::Hang);
    let (code, report) = report(&format!(
        "get {}/set/{{n}} {READS} -c 2 --rate 100 --arrivals constant --warmup 0s --duration 500ms",
        server.url()
    ));
    assert_eq!(code, Some(1));
    assert_eq!(report["errors"]["unfinished"], 50, "{report}");
    assert_eq!(report["latency_us"]["count"], 50, "{report}");
    assert!(number(&report["latency_us"]["p50"]) >= 4.5e6, "{report}");
}

#[test]
fn idle_connections_that_the_server_closes_are_opened_again() {
    let server = prepared(Behaviour::CloseSilently);
    let (code, report) =
        report(&format!("get {}/set/{{n}} {READS} -c 20 --rate 500 --requests 200 --verify", server.url()));
    assert_eq!((code, &report["requests"]), (Some(0), &200.into()), "{report}");
    assert!(report["reconnects"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_server_that_is_not_there_ends_an_open_loop_too() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, report) =
        report(&format!("get http://{address}/x --whole -c 2 --rate 100 --warmup 0s --duration 300ms"));
    assert_eq!(code, Some(1));
    assert!(report["errors"]["connect"].as_u64().unwrap() > 0, "{report}");
    assert!(report["errors"]["unfinished"].as_u64().unwrap() > 10, "{report}");
}

#[test]
fn more_connections_than_the_soft_limit_of_open_files() {
    let server = prepared(Behaviour::Honest);
    let arguments = format!(
        "get {}/set/{{n}} {READS} -c 400 --rate 2000 --requests 1000 --verify --json -",
        server.url()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -Sn 100; exec {} {arguments}", env!("CARGO_BIN_EXE_loadgen"))])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((output.status.code(), &report["requests"]), (Some(0), &1000.into()), "{report}");
}
