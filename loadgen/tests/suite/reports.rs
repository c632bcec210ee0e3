//! What comes out: files, merged reports, comparisons, duels, and the automatic stop.

use crate::program::{loadgen, prepared, report};
use crate::server::Behaviour;
use serde_json::Value;
use std::path::Path;

const READS: &str = "--range-size 20000 --object-size 300000 --objects 3 -c 2";

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Two reports of runs on one server, in files.
fn two_reports(folder: &Path) -> (String, String) {
    let server = prepared(Behaviour::Honest);
    let mut paths = [("a.json", 30), ("b.json", 70)].into_iter().map(|(name, requests)| {
        let path = folder.join(name).display().to_string();
        let output =
            loadgen(&format!("get {}/set/{{n}} {READS} --requests {requests} --json {path}", server.url()));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        path
    });
    (paths.next().unwrap(), paths.next().unwrap())
}

#[test]
fn merged_halves_have_every_measurement_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two_reports(folder.path());
    let (code, merged) = report(&format!("merge {a} {b}"));
    let (a, b) = (read(a.as_ref()), read(b.as_ref()));
    assert_eq!((code, &merged["kind"], &merged["requests"]), (Some(0), &"merge".into(), &100.into()));
    assert_eq!((&merged["latency_us"]["count"], &merged["bytes"]), (&100.into(), &2_000_000.into()));
    let number = |report: &Value, key: &str| report[key].as_f64().unwrap();
    assert!((number(&merged, "gb_per_s") - number(&a, "gb_per_s") - number(&b, "gb_per_s")).abs() < 1e-5);
    let max = |report: &Value| report["latency_us"]["max"].as_f64().unwrap();
    assert!((max(&merged) - max(&a).max(max(&b))).abs() < 1e-3);
    // Merged with itself, every count doubles and no percentile moves.
    let doubled = folder.path().join("doubled.json");
    std::fs::write(&doubled, merged.to_string()).unwrap();
    let twice = report(&format!("merge {} {}", doubled.display(), doubled.display())).1;
    assert_eq!(
        (&twice["requests"], &twice["latency_us"]["p99"]),
        (&200.into(), &merged["latency_us"]["p99"])
    );
}

#[test]
fn a_comparison_has_the_ratio_of_every_figure() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two_reports(folder.path());
    let (code, compared) = report(&format!("compare {a} {b}"));
    assert_eq!((code, &compared["kind"]), (Some(0), &"compare".into()));
    for row in compared["rows"].as_array().unwrap() {
        if let (Some(a), Some(b), Some(ratio)) = (row["a"].as_f64(), row["b"].as_f64(), row["ratio"].as_f64())
        {
            assert!((b / a - ratio).abs() < 1e-9, "{row}");
        }
    }
    let text = String::from_utf8(loadgen(&format!("compare {a} {b}")).stdout).unwrap();
    assert!(text.contains("throughput") && text.contains("B/A"), "{text}");
}

#[test]
fn a_duel_takes_turns_in_changing_order() {
    let (one, other) = (prepared(Behaviour::Honest), prepared(Behaviour::Slow));
    let pid = std::process::id();
    let (code, duel) = report(&format!(
        "duel {}/set/{{n}} {}/set/{{n}} --rounds 3 --server-pid-a {pid} get {READS} --requests 100 --verify",
        one.url(),
        other.url()
    ));
    assert_eq!((code, &duel["kind"]), (Some(0), &"duel".into()), "{duel}");
    let first: Vec<&str> =
        duel["rounds"].as_array().unwrap().iter().map(|r| r["first"].as_str().unwrap()).collect();
    assert_eq!(first, ["a", "b", "a"]);
    assert_eq!((&duel["a"]["requests"], &duel["b"]["latency_us"]["count"]), (&300.into(), &300.into()));
    let row = |name: &str| duel["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(row("throughput")["pairs"].as_array().unwrap().len(), 3);
    // The slow one takes at least 5 ms for each answer.
    assert!(row("latency p50")["b"]["median"].as_f64().unwrap() >= 5000.0, "{duel}");
    assert!(row("server CPU")["b"].is_null());
}

#[test]
fn puts_of_a_duel_never_meet_the_objects_of_earlier_rounds() {
    let (one, other) = (prepared(Behaviour::Honest), prepared(Behaviour::Honest));
    let output = loadgen(&format!(
        "duel {}/new/{{n}} {}/new/{{n}} --rounds 2 put --size 1000 --requests 10",
        one.url(),
        other.url()
    ));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let whole = "--whole --object-size 1000 --objects 20 --requests 200 --verify";
    assert_eq!(
        report(&format!("get {}/new/{{n}} {whole}", one.url())).0,
        Some(0),
        "objects 0 to 19 are there"
    );
}

#[test]
fn pages_and_tables_are_written_beside_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = two_reports(folder.path());
    let file = |name: &str| folder.path().join(name);
    let server = prepared(Behaviour::RefuseEverySecond);
    let url = format!("{}/set/{{n}}?<script>alert('x')</script>", server.url());
    let files = format!(
        "--html {} --csv {} --series-csv {}",
        file("run.html").display(),
        file("run.csv").display(),
        file("series.csv").display()
    );
    let output = loadgen(&format!(
        "get {url} {READS} --requests 50 --allow-errors --server-pid {} {files}",
        std::process::id()
    ));
    // The test server knows no queries: all it says is 404 or 503, which is what the page must show.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("throughput"));
    let page = std::fs::read_to_string(file("run.html")).unwrap();
    assert!(
        page.contains("status_404") && page.contains("&lt;script&gt;") && !page.contains("<script"),
        "{page}"
    );
    let csv = std::fs::read_to_string(file("run.csv")).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(std::fs::read_to_string(file("series.csv")).unwrap().starts_with("run,second,bytes"));
    for command in ["merge", "compare"] {
        let page = file("page.html");
        let output = loadgen(&format!("{command} {a} {b} --html {}", page.display()));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<polyline"), "{command}");
    }
}

#[test]
fn nothing_is_drawn_where_there_is_no_terminal() {
    let server = prepared(Behaviour::Honest);
    let output = loadgen(&format!("get {}/set/{{n}} {READS} --warmup 0s --duration 1500ms", server.url()));
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &[][..]), "{output:?}");
}

#[test]
fn a_run_stops_when_it_is_stable() {
    let server = prepared(Behaviour::Slow);
    let (code, report) = report(&format!(
        "get {}/set/{{n}} {READS} --warmup 0s --until-stable 100% --min-duration 1s --duration 40s",
        server.url()
    ));
    assert_eq!((code, &report["stability"]["stopped_early"]), (Some(0), &true.into()), "{report}");
    let seconds = report["window_s"].as_f64().unwrap();
    assert!((5.0..30.0).contains(&seconds), "five seconds at least are needed to judge: {report}");
    assert!(report["series"].as_array().unwrap().len() >= 5);
}

#[test]
fn a_server_process_that_is_not_there_is_found_out_before_the_run() {
    let server = prepared(Behaviour::Honest);
    let output =
        loadgen(&format!("get {}/set/{{n}} {READS} --duration 1h --server-pid 4294967295", server.url()));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("4294967295"), "{output:?}");
}

#[test]
fn what_is_no_report_is_named_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    std::fs::write(&path, "{\"kind\": \"something else\"}").unwrap();
    for command in ["merge", "compare"] {
        let output = loadgen(&format!("{command} {} {}", path.display(), path.display()));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("other.json"), "{output:?}");
    }
}
