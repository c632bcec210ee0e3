//! The scrub of a node that runs alone: what is damaged is found and named and left where it is, and all else is served.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use support::damage::{flip, flip_in_database};
use support::program::{Ended, amberblob, metric};
use support::{Connection, Request, Server, assert_error, bytes, chunk_files, slot_dir, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

/// Has a server scrub, and reports in JSON.
fn scrub(server: &Server) -> Ended {
    amberblob(&["scrub", "--json", "--admin", &format!("http://{}", server.admin())])
}

/// The niceness of each thread of a server, by name.
fn niceness(server: &Server) -> Vec<(String, i64)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let of = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        // The 19th field; the first two stand before.
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    tasks.filter_map(|task| of(task.unwrap())).collect()
}

#[test]
fn who_scrubs_gives_way_to_who_serves() {
    let server = Server::builder().start();
    let is_nice = |threads: &[(String, i64)]| threads.contains(&("scrub".to_owned(), 15));
    wait_until(DEADLINE, "the scrub to be nice", || is_nice(&niceness(&server)));
    // What it starts is as nice as it is, and has the names that such threads have everywhere.
    let may_be = |name: &str| matches!(name, "scrub" | "tokio-rt-worker") || name.starts_with("iou-");
    for (name, nice) in niceness(&server) {
        assert!(nice < 15 || may_be(&name), "{name} has niceness {nice}");
    }
}

fn chunk_file(server: &Server, path: &str) -> PathBuf {
    let files = chunk_files(&slot_dir(server.data(), path));
    assert_eq!(files.len(), 1, "{path}: {files:?}");
    files[0].1.clone()
}

fn metrics(server: &Server) -> String {
    server.admin_get("/metrics").expect_status(200).text()
}

/// What the scrub has noted on the disk.
fn noted(server: &Server) -> Value {
    let text = fs::read_to_string(server.data().join("scrub.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Makes a pass due at the next start.
fn make_due(server: &Server) {
    fs::write(server.data().join("scrub.json"), json!({ "begun": 0 }).to_string()).unwrap();
}

#[test]
fn damage_is_found_and_named_and_nothing_is_moved() {
    const FLIPPED_AT: usize = 5 << 20;
    let mut server = Server::start();
    let sizes =
        [("flipped", 12 << 20), ("cut", 3 << 20), ("long", 1 << 20), ("gone", 200_000), ("small", 50_000)];
    let sound = [("sound", 9 << 20), ("sound-small", 60_000), ("empty", 0)];
    for (path, len) in sizes.iter().chain(&sound) {
        server.put(path, &bytes(*len as u64, *len)).expect_status(201);
    }
    let report = scrub(&server).expect_code(0).json();
    assert_eq!(
        (&report["good"], &report["chunks"], &report["damaged"]),
        (&json!(true), &json!(7), &json!(0))
    );
    let total: usize = sizes.iter().chain(&sound).map(|(_, len)| len).sum();
    assert_eq!(report["bytes"], total);
    let line = amberblob(&["scrub", "--admin", &format!("http://{}/", server.admin())]).expect_code(0);
    assert!(line.stdout.starts_with("scrub: 7 chunks, ") && line.stdout.lines().count() == 1, "{line:?}");

    assert!(server.terminate().success());
    flip(&chunk_file(&server, "flipped"), FLIPPED_AT as u64);
    OpenOptions::new().write(true).open(chunk_file(&server, "cut")).unwrap().set_len(2 << 20).unwrap();
    OpenOptions::new().append(true).open(chunk_file(&server, "long")).unwrap().write_all(b"more").unwrap();
    fs::remove_file(chunk_file(&server, "gone")).unwrap();
    flip_in_database(&slot_dir(server.data(), "small"), &bytes(50_000, 50_000), 20_000);
    let extra = chunk_file(&server, "sound").with_file_name("0".repeat(64));
    fs::write(&extra, b"of no version").unwrap();
    let before = ["flipped", "cut", "long"].map(|path| fs::read(chunk_file(&server, path)).unwrap());
    server.start_again();

    let ended = scrub(&server).expect_code(1);
    let report = ended.json();
    let counts = ["good", "chunks", "damaged", "repaired", "unrepaired"].map(|name| report[name].clone());
    assert_eq!(counts, [json!(false), json!(7), json!(5), json!(0), json!(5)], "{report}");
    assert!(ended.stderr.starts_with("amberblob: scrub: 7 chunks"), "{ended:?}");
    let after = ["flipped", "cut", "long"].map(|path| fs::read(chunk_file(&server, path)).unwrap());
    assert!(before == after, "the damaged files are as they were");
    assert!(extra.exists() && !server.data().join("quarantine").exists());
    let ready = server.admin_get("/readyz").expect_status(200).json();
    assert_eq!((&ready["ready"], &ready["damaged_chunks"]), (&json!(true), &json!(5)));
    let lines = ready["damaged"].to_string();
    for what in ["SHA-256", "2097152 bytes", "1048580 bytes", "No such file"] {
        assert!(lines.contains(what), "{what}: {lines}");
    }
    let text = metrics(&server);
    assert_eq!(metric(&text, "amberblob_scrub_chunks_total"), 7);
    assert_eq!(metric(&text, "amberblob_scrub_damaged_total"), 5);
    assert_eq!(metric(&text, "amberblob_scrub_unrepaired_total"), 5);
    assert_eq!(metric(&text, "amberblob_damaged_chunks"), 5);
    assert!(metric(&text, "amberblob_scrub_finished_seconds") > 0);

    for (path, len) in sound {
        assert!(server.get(path).expect_status(200).body == bytes(len as u64, len), "{path}");
    }
    let flipped = bytes(12 << 20, 12 << 20);
    let around = server.get_range("flipped", &format!("bytes={}-", FLIPPED_AT + (2 << 20)));
    assert!(around.expect_status(206).body == flipped[FLIPPED_AT + (2 << 20)..]);
    assert_error(&server.get_range("flipped", &format!("bytes={FLIPPED_AT}-{FLIPPED_AT}")), 500, "Internal");
    assert_error(&server.get("gone"), 500, "Internal");
    assert_error(&server.get("small"), 500, "Internal");

    for (path, _) in sizes {
        server.delete(path).expect_status(200);
    }
    let report = scrub(&server).expect_code(0).json();
    assert_eq!((&report["chunks"], &report["damaged"]), (&json!(2), &json!(0)));
    assert_eq!(server.admin_get("/readyz").expect_status(200).json(), json!({ "ready": true }));
}

#[test]
fn a_read_that_meets_damage_makes_it_known() {
    let mut server = Server::start();
    server.put("file", &bytes(1, 300_000)).expect_status(201);
    assert!(server.terminate().success());
    flip(&chunk_file(&server, "file"), 100_000);
    server.start_again();
    assert_eq!(server.admin_get("/readyz").json(), json!({ "ready": true }));
    assert_error(&server.get("file"), 500, "Internal");
    let ready = server.admin_get("/readyz").expect_status(200).json();
    assert_eq!(ready["damaged_chunks"], 1, "{ready}");
    flip(&chunk_file(&server, "file"), 100_000);
    scrub(&server).expect_code(0);
    assert_eq!(server.admin_get("/readyz").json(), json!({ "ready": true }));
    assert!(server.get("file").expect_status(200).body == bytes(1, 300_000));
}

#[test]
fn a_pass_begins_when_it_is_due_and_goes_on_where_it_was() {
    const BLOBS: u64 = 60;
    let config = "[scrub]\ninterval = \"1h\"\nrate = \"1MiB\"\n";
    let mut server = Server::builder().config(config).start();
    for blob in 0..BLOBS {
        server.put(&format!("blob/{blob}"), &bytes(blob, 100_000)).expect_status(201);
    }
    wait_until(DEADLINE, "a new disk to be noted", || noted(&server)["begun"].as_i64() > Some(0));
    assert_eq!(metric(&metrics(&server), "amberblob_scrub_chunks_total"), 0, "it is not due");
    assert!(server.terminate().success());
    make_due(&server);
    server.start_again();
    wait_until(DEADLINE, "half a pass", || {
        metric(&metrics(&server), "amberblob_scrub_chunks_total") >= BLOBS / 2
            && noted(&server)["position"].is_object()
    });
    server.kill9();
    let position = noted(&server)["position"].clone();
    assert!(position["slot"].as_u64() > Some(0), "{position}");
    server.start_again();
    wait_until(DEADLINE, "the rest of the pass", || noted(&server)["finished"].as_i64() > Some(0));
    let rest = metric(&metrics(&server), "amberblob_scrub_chunks_total");
    assert!(rest > 0 && rest < BLOBS * 3 / 4, "{rest} of {BLOBS} after half of them");
    assert!(noted(&server)["position"].is_null());
}

#[test]
fn a_pass_that_is_due_finds_damage_by_itself() {
    let mut server = Server::start();
    server.put("file", &bytes(1, 300_000)).expect_status(201);
    assert!(server.terminate().success());
    flip(&chunk_file(&server, "file"), 100_000);
    make_due(&server);
    server.start_again();
    wait_until(DEADLINE, "the damage to be named", || {
        server.admin_get("/readyz").json()["damaged_chunks"] == json!(1)
    });
}

#[test]
fn what_cannot_be_asked_is_said_in_one_line() {
    let server = Server::shared();
    let ask = |method: &str, target: &str| {
        Connection::try_open(server.admin()).unwrap().exchange(&Request::new(method, target)).unwrap()
    };
    let answer = ask("GET", "/scrub");
    assert_error(&answer, 405, "MethodNotAllowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = ask("POST", "/metrics");
    assert_error(&answer, 405, "MethodNotAllowed");
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    assert_eq!(ask("POST", "/scrub").expect_status(200).json()["good"], true);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = amberblob(&["scrub", "--admin", &format!("http://{nobody}")]).expect_code(1);
    assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1));
    for part in ["amberblob: scrub: ", &nobody.to_string(), "refused", "AMBERBLOB_ADMIN"] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    let ended = amberblob(&["scrub", "--admin", "127.0.0.1"]).expect_code(1);
    assert!(ended.stderr.contains("http://127.0.0.1:8081"), "{ended:?}");
    // Another server than ours answers something else.
    let ended = amberblob(&["scrub", "--admin", &format!("http://{}", server.public())]).expect_code(1);
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    amberblob(&["scrub", "--whatever"]).expect_code(2);
    let help = amberblob(&["scrub", "--help"]).expect_code(0);
    assert!(help.stdout.contains("AMBERBLOB_ADMIN") && help.stdout.contains("8081"), "{help:?}");
}
