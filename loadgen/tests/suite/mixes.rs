//! Several kinds of requests at once, and whether every byte is right when objects are overwritten meanwhile.

use crate::program::{loadgen, prepared, report};
use crate::server::{Behaviour, Server};
use serde_json::Value;

fn operation<'a>(report: &'a Value, name: &str) -> &'a Value {
    let operations = report["operations"].as_array().unwrap();
    operations
        .iter()
        .find(|one| one["name"].as_str().unwrap().contains(name))
        .unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn each_kind_has_its_share_and_figures_of_its_own() {
    let server = prepared(Behaviour::Honest);
    let mix = "get:6:size=20000,whole:2,put:2:size=1KiB";
    let (code, report) = report(&format!(
        "mix {}/set/{{n}} --object-size 300000 --objects 3 --mix {mix} --verify -c 4 -t 2 --requests 1000",
        server.url()
    ));
    assert_eq!(code, Some(0), "{report}");
    let requests = |name| operation(&report, name)["requests"].as_u64().unwrap();
    let (ranges, whole, puts) = (requests("ranges"), requests("whole"), requests("PUT"));
    assert_eq!(ranges + whole + puts, 1000);
    assert!(
        (540..660).contains(&ranges) && (150..250).contains(&whole) && (150..250).contains(&puts),
        "{report}"
    );
    assert_eq!(report["bytes"], ranges * 20_000 + whole * 300_000 + puts * 1024);
    assert_eq!(operation(&report, "whole")["latency_us"]["count"], whole);
}

#[test]
fn objects_that_are_overwritten_while_they_are_read_are_verified_to_the_byte() {
    let server = prepared(Behaviour::Honest);
    // Three objects and eight connections: writes of the same object overlap all the time.
    let arguments = format!(
        "mix {}/set/{{n}} --object-size 300000 --objects 3 --mix get:5:size=7777,whole:1,put:2:names=set --verify -c 8 -t 2 --requests 2000",
        server.url()
    );
    let (code, first) = report(&arguments);
    assert_eq!((code, &first["requests"]), (Some(0), &2000.into()), "{first}");
    // Another process knows nothing of what was written, and finds it right all the same.
    let (code, second) = report(&format!(
        "get {}/set/{{n}} --object-size 300000 --range-size 1001 --objects 3 --verify --requests 300",
        server.url()
    ));
    assert_eq!(code, Some(0), "{second}");
    assert_eq!(report(&arguments).0, Some(0), "overwritten again");
}

#[test]
fn a_server_that_acknowledges_and_forgets_is_found_out() {
    let server = prepared(Behaviour::KeepOld);
    let (code, report) = report(&format!(
        "mix {}/set/{{n}} --object-size 300000 --objects 3 --mix get:1:size=777,put:1:names=set --verify --requests 200",
        server.url()
    ));
    assert_eq!(code, Some(1), "{report}");
    assert!(report["errors"]["stale"].as_u64().unwrap() > 50, "{report}");
    assert_eq!(report["errors"].as_object().unwrap().len(), 1, "{report}");
}

#[test]
fn wrong_bytes_are_found_among_overwritten_ones_too() {
    let server = prepared(Behaviour::FlipOneBit);
    let (code, report) = report(&format!(
        "mix {}/set/{{n}} --object-size 300000 --objects 3 --mix get:1:size=777,put:1:names=set --verify --requests 200",
        server.url()
    ));
    assert_eq!(code, Some(1));
    let reads = &operation(&report, "ranges");
    assert_eq!((&reads["requests"], report["errors"].as_object().unwrap().len()), (&0.into(), 1), "{report}");
    assert!(report["errors"]["corrupt"].as_u64().unwrap() > 50, "{report}");
}

#[test]
fn small_and_large_objects_live_under_one_template() {
    let server = Server::start(Behaviour::Honest);
    let set = "--object-size 100,5KiB,1MiB --objects 9";
    let (code, written) = report(&format!("prepare {}/o/{{n}} {set} -c 3", server.url()));
    assert_eq!((code, &written["bytes"]), (Some(0), &(3 * (100 + 5120 + 1_048_576)).into()));
    let (code, read) =
        report(&format!("get {}/o/{{n}} {set} --whole --verify --requests 90 -c 3", server.url()));
    assert_eq!(code, Some(0), "{read}");
    for pattern in ["random", "aligned-random", "sequential", "fixed --offset 7"] {
        let arguments = format!(
            "get {}/o/{{n}} {set} --range-size 93 --pattern {pattern} --verify --requests 90",
            server.url()
        );
        let (code, read) = report(&arguments);
        assert_eq!(code, Some(0), "{pattern}: {read}");
    }
}

#[test]
fn writing_one_place_again_and_again_leaves_what_can_be_verified() {
    let server = Server::start(Behaviour::Honest);
    for url in [format!("{}/one", server.url()), format!("{}/several/{{n}} --objects 2", server.url())] {
        assert_eq!(report(&format!("put {url} --size 5000 --requests 20 -c 3")).0, Some(0));
        let (code, read) = report(&format!("get {url} --whole --object-size 5000 --verify --requests 5"));
        assert_eq!(code, Some(0), "{read}");
    }
}

#[test]
fn ranges_too_short_to_tell_a_generation_are_refused() {
    let output = loadgen(
        "mix http://127.0.0.1:1/{n} --object-size 1KiB --objects 2 --mix get:1:size=14,put:1:names=set --verify",
    );
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--verify"), "{output:?}");
}
