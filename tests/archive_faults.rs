//! A store that refuses, fails, falls silent, lies or is away: nobody reads a wrong byte, nothing is dropped that it does not
//! have, what is local goes on, and all is well when it is back, without a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/store/mod.rs"]
mod store;
mod support;

use std::io::ErrorKind;
use std::time::Duration;

use store::proxy::ALWAYS;
use store::{BUCKET, DEADLINE, Fault, Node, SECRET_KEY};
use support::{
    CHUNK, Connection, Request, Response, assert_error, bytes, object, poll, sha256_hex, wait_until,
};

const MIB: usize = 1 << 20;
/// Longer than a read may wait for the store.
const READ_TIME: Duration = Duration::from_secs(60);

/// A blob that has a chunk file, and is served from it.
#[track_caller]
fn assert_local(node: &Node, path: &str, body: &[u8]) {
    assert_eq!(node.places(path), ["local"], "{path}");
    assert_eq!(sha256_hex(&std::fs::read(node.file(path)).unwrap()), sha256_hex(body), "{path}");
    assert!(node.server.get(path).expect_status(200).body == body, "{path}");
}

/// GETs a whole blob from a store that may take its time.
#[track_caller]
fn get_patiently(node: &Node, path: &str) -> Response {
    let mut link = node.server.connect();
    link.set_read_timeout(READ_TIME);
    link.exchange(&Request::new("GET", &object(path))).unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// A read that the store does not allow: refused for now, with the reason.
#[track_caller]
fn assert_away(node: &Node, path: &str) -> String {
    let answer = get_patiently(node, path);
    assert_error(&answer, 503, "SlotUnavailable");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    node.server.head(path).expect_status(200);
    message
}

/// Reads a blob from `from` on. Only right bytes may come, and perhaps not all of them; how many.
#[track_caller]
fn read_or_cut(node: &Node, path: &str, body: &[u8], from: usize) -> usize {
    let mut link = Connection::open(node.server.public());
    link.set_read_timeout(READ_TIME);
    link.send(&Request::new("GET", &object(path)).header("Range", format!("bytes={from}-"))).unwrap();
    let head = link.read_head("GET").unwrap();
    if head.status == 503 {
        return 0;
    }
    assert_eq!(head.status, 206, "{head:?}");
    let mut got = Vec::new();
    let all = (body.len() - from) as u64;
    let ended = link.read_exactly(all, &mut |piece: &[u8]| got.extend_from_slice(piece));
    if let Err(error) = ended {
        let cut = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(cut.contains(&error.kind()), "after {} bytes: {error}", got.len());
    }
    assert!(got == body[from..from + got.len()], "wrong bytes among the first {}", got.len());
    got.len()
}

#[test]
fn wrong_credentials_are_said_and_right_ones_are_taken_without_a_restart() {
    const WRONG: &str = "NotTheRightOne";
    let mut node = Node::start();
    let body = bytes(1, 300_000);
    node.server.put("file", &body).expect_status(201);
    node.put_archived("away", &body);
    node.store.write_credentials(WRONG);
    // Else it keeps those that were right.
    node.server.restart();
    let why = node.failed("archive", "file");
    assert!(why.contains("403") && !why.contains(WRONG), "{why}");
    assert_local(&node, "file", &body);
    let why = assert_away(&node, "away");
    assert!(why.contains("403"), "{why}");
    wait_until(DEADLINE, "the failure to be told", || node.notices().contains("the archive fails"));
    node.store.write_credentials(SECRET_KEY);
    wait_until(DEADLINE, "the right credentials to be taken", || node.server.get("away").status == 200);
    assert!(node.server.get("away").expect_status(200).body == body);
    node.archive("file");
    assert_eq!(node.places("file"), ["archived"]);
    wait_until(DEADLINE, "no notice", || node.notices().is_empty());
    let stderr = node.server.stderr();
    assert!(!stderr.contains(SECRET_KEY) && !stderr.contains(WRONG), "{stderr}");
}

#[test]
fn a_bucket_that_is_not_there_is_said_and_taken_when_it_is() {
    let node = Node::start();
    let body = bytes(2, 300_000);
    node.server.put("file", &body).expect_status(201);
    node.store.remove_bucket();
    let why = node.failed("archive", "file");
    assert!(why.contains(BUCKET) && why.contains("NoSuchBucket"), "{why}");
    assert_local(&node, "file", &body);
    node.store.make_bucket();
    node.archive("file");
    assert!(node.server.get("file").expect_status(200).body == body);
    node.wait_tidy();
}

#[test]
fn an_upload_that_is_refused_leaves_the_file_where_it_is() {
    let mut node = Node::start();
    let body = bytes(3, 300_000);
    node.server.put("file", &body).expect_status(201);
    for method in ["PUT", "HEAD"] {
        for status in [403, 404, 500, 503] {
            node.proxy.plan(method, Fault::Status(status), ALWAYS);
            let why = node.failed("archive", "file");
            let said = why.contains(&status.to_string()) || (method == "HEAD" && status == 404);
            assert!(said, "{method} {status}: {why}");
            assert_local(&node, "file", &body);
            node.proxy.heal();
        }
    }
    node.archive("file");
    assert_eq!(node.places("file"), ["archived"]);
    // A start does not wait for what a failing store made the node wait for.
    node.server.restart();
    node.wait_tidy();
    assert_eq!(node.store.objects().len(), 1);
    assert!(node.server.get("file").expect_status(200).body == body);
}

#[test]
fn what_passes_by_itself_is_not_noticed_by_who_archives() {
    let node = Node::start();
    for (seed, method) in (10..).zip(["PUT", "HEAD"]) {
        for status in [500, 503] {
            let path = format!("{method}/{status}");
            let body = bytes(seed, 300_000);
            node.server.put(&path, &body).expect_status(201);
            node.proxy.plan(method, Fault::Status(status), 1);
            node.archive(&path);
            assert!(node.proxy.is_through(), "{path}");
            assert_eq!(node.places(&path), ["archived"]);
            assert!(node.server.get(&path).expect_status(200).body == body);
        }
    }
    assert_eq!(node.notices(), "");
}

#[test]
fn a_store_that_only_says_that_it_has_an_object_is_not_believed() {
    let mut node = Node::start();
    let body = bytes(4, 300_000);
    node.server.put("file", &body).expect_status(201);
    node.proxy.plan("PUT", Fault::Swallow, ALWAYS);
    node.failed("archive", "file");
    assert!(node.proxy.asked("PUT") > 0 && node.store.objects().is_empty());
    assert_local(&node, "file", &body);
    node.server.restart();
    assert_local(&node, "file", &body);
    node.proxy.heal();
    node.archive("file");
    assert_eq!(node.places("file"), ["archived"]);
    assert!(node.server.get("file").expect_status(200).body == body);
    node.server.restart();
    node.wait_tidy();
    assert_eq!(node.store.objects().len(), 1);
}

#[test]
fn an_object_that_was_lost_before_its_chunk_was_dropped_is_uploaded_again() {
    let mut node = Node::start();
    let body = bytes(5, 300_000);
    node.put_archived("file", &body);
    node.restore("file");
    node.store.remove(&node.store.only_key());
    node.archive("file");
    assert_eq!(node.places("file"), ["archived"]);
    assert!(node.server.get("file").expect_status(200).body == body);
    node.server.restart();
    node.wait_tidy();
    assert_eq!(node.store.objects().len(), 1);
}

#[test]
fn a_read_goes_on_after_a_failure_that_passes() {
    let node = Node::start();
    let faults = [Fault::Status(500), Fault::Status(503), Fault::Cut, Fault::Flip];
    let body = bytes(6, 3 * MIB);
    for (number, _) in faults.iter().enumerate() {
        node.put_archived(&format!("file/{number}"), &body);
    }
    for (number, fault) in faults.into_iter().enumerate() {
        node.proxy.plan("GET", fault, 1);
        let answer = get_patiently(&node, &format!("file/{number}")).expect_status(200);
        assert!(answer.body == body, "{fault:?}");
        assert!(node.proxy.is_through(), "{fault:?}");
    }
    wait_until(DEADLINE, "no notice", || node.notices().is_empty());
    let ready = node.server.admin_get("/readyz").expect_status(200).json();
    assert!(ready.get("damaged_chunks").is_none(), "{ready}");
}

#[test]
fn a_read_that_the_store_fails_is_refused_for_now_with_the_reason() {
    let node = Node::start();
    let faults = [
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Cut,
        Fault::Flip,
    ];
    let body = bytes(7, 300_000);
    for (number, _) in faults.iter().enumerate() {
        node.put_archived(&format!("file/{number}"), &body);
    }
    for (number, fault) in faults.into_iter().enumerate() {
        node.proxy.plan("GET", fault, ALWAYS);
        let path = format!("file/{number}");
        let why = assert_away(&node, &path);
        if let Fault::Status(status) = fault {
            assert!(why.contains(&status.to_string()), "{fault:?}: {why}");
        }
        assert_eq!(node.places(&path), ["archived"], "{fault:?}");
        node.proxy.heal();
    }
    for (number, fault) in faults.into_iter().enumerate() {
        let answer = get_patiently(&node, &format!("file/{number}")).expect_status(200);
        assert!(answer.body == body, "{fault:?}");
    }
    let ready = node.server.admin_get("/readyz").expect_status(200).json();
    assert!(ready.get("damaged_chunks").is_none(), "{ready}");
    assert!(node.metric("amberblob_archive_read_failures_total") >= faults.len() as u64);
}

#[test]
fn a_store_that_falls_silent_is_asked_again() {
    let node = Node::start();
    let body = bytes(8, 300_000);
    node.server.put("file", &body).expect_status(201);
    node.proxy.plan("HEAD", Fault::Silence, 1);
    node.archive("file");
    assert!(node.proxy.is_through());
    node.proxy.plan("GET", Fault::Silence, 1);
    let answer = get_patiently(&node, "file").expect_status(200);
    assert!(answer.body == body && node.proxy.is_through());
}

#[test]
fn a_read_of_a_silent_store_ends_and_holds_up_no_other() {
    let node = Node::start();
    let (body, other) = (bytes(9, 300_000), bytes(10, 300_000));
    node.put_archived("away", &body);
    node.server.put("here", &other).expect_status(201);
    node.proxy.plan("GET", Fault::Silence, ALWAYS);
    std::thread::scope(|scope| {
        let away = scope.spawn(|| assert_away(&node, "away"));
        while !away.is_finished() {
            assert!(node.server.get("here").expect_status(200).body == other);
            node.server.put("written", &other[..1000]).expect_status(201);
            node.server.assert_alive();
            poll(Duration::from_millis(50), || None::<()>);
        }
        assert!(!away.join().expect("an answer").is_empty());
    });
    node.proxy.heal();
    assert!(get_patiently(&node, "away").expect_status(200).body == body);
}

#[test]
fn bytes_that_are_wrong_in_the_store_are_never_sent_and_never_brought_back() {
    const AT: usize = 5 * MIB + 300_000;
    let node = Node::start();
    let body = bytes(11, 7 * MIB);
    node.put_archived("rotten", &body);
    let key = node.store.only_key();
    node.store.flip(&key, AT as u64);
    let got = read_or_cut(&node, "rotten", &body, 0);
    assert!(got <= AT, "{got} bytes reach over the damage");
    assert_eq!(read_or_cut(&node, "rotten", &body, AT - 10), 0, "known before the head");
    let why = node.failed("restore", "rotten");
    assert!(!why.is_empty());
    assert_eq!(node.places("rotten"), ["archived"]);
    assert!(node.files("rotten").iter().all(|(name, _)| name.len() != 64), "no file of wrong bytes");
    assert_eq!(node.store.objects().len(), 1, "nothing is thrown away");
    // Whoever puts it right finds all well.
    node.store.flip(&key, AT as u64);
    node.restore("rotten");
    assert_local(&node, "rotten", &body);
}

#[test]
fn an_object_that_the_store_has_lost_is_named() {
    let node = Node::start();
    let body = bytes(12, 300_000);
    node.put_archived("lost", &body);
    node.put_archived("there", &body);
    let keys: Vec<String> = node.store.objects().into_keys().collect();
    let slot = format!("{:04}/", support::slot_of("lost"));
    let key = keys.iter().find(|key| key.contains(&slot)).unwrap_or_else(|| panic!("{slot} in {keys:?}"));
    node.store.remove(key);
    let why = assert_away(&node, "lost");
    assert!(why.contains(key.as_str()), "{why}");
    let why = node.failed("restore", "lost");
    assert!(why.contains(key.as_str()), "{why}");
    assert_eq!(node.places("lost"), ["archived"]);
    assert!(node.notices().contains(key.as_str()), "operators are told, too: {}", node.notices());
    assert!(node.server.get("there").expect_status(200).body == body);
    // The blob can be written and deleted as any other.
    assert_eq!(node.server.put("lost", &body).expect_status(201).json_u64("version"), 2);
    assert!(node.server.get("lost").expect_status(200).body == body);
    node.server.delete_at("lost", 1).expect_status(200);
    assert_error(&node.server.get_at("lost", 1), 404, "BlobNotFound");
}

#[test]
fn a_store_that_is_away_costs_nobody_but_who_needs_it() {
    let mut node = Node::start();
    let (body, other) = (bytes(13, 300_000), bytes(14, 400_000));
    node.put_archived("away", &body);
    node.server.put("here", &other).expect_status(201);
    let tag = node.server.head("away").expect_status(200).header("etag").unwrap().to_owned();
    node.proxy.down();
    for round in ["after a loss", "after a start"] {
        let why = node.failed("archive", "here");
        assert!(why.contains(BUCKET), "{round}: {why}");
        assert_local(&node, "here", &other);
        let written = format!("written {round}");
        node.server.put(&written, &body).expect_status(201);
        assert!(node.server.get(&written).expect_status(200).body == body, "{round}");
        node.server.delete(&written).expect_status(200);
        assert!(!assert_away(&node, "away").is_empty(), "{round}");
        let head = node.server.head("away").expect_status(200);
        assert_eq!(head.header("etag"), Some(tag.as_str()), "{round}");
        let same = node.server.get_with("away", &[("If-None-Match", tag.as_str())]);
        assert_eq!(same.status, 304, "{round}");
        let why = node.failed("restore", "away");
        assert!(!why.is_empty(), "{round}");
        wait_until(DEADLINE, "a notice", || node.notices().contains("the archive fails"));
        let status = node.ask("GET", "/archive").expect_status(200).json();
        assert!(!status["failing"].is_null(), "{round}: {status}");
        wait_until(DEADLINE, "the metric", || node.metric("amberblob_archive_failing") == 1);
        if round == "after a loss" {
            // A store that does not answer is no reason not to start.
            node.server.restart();
        }
    }
    node.proxy.heal();
    assert!(node.server.get("away").expect_status(200).body == body);
    wait_until(DEADLINE, "no notice", || node.notices().is_empty());
    node.archive("here");
    assert!(node.server.get("here").expect_status(200).body == other);
    node.restore("away");
    assert_local(&node, "away", &body);
    wait_until(DEADLINE, "the metric", || node.metric("amberblob_archive_failing") == 0);
}

#[test]
fn a_store_that_goes_in_the_middle_of_a_blob_cuts_the_read_and_is_read_on_later() {
    let mut node = Node::start();
    let body = bytes(15, CHUNK + 3 * MIB);
    node.put_archived("large", &body);
    node.server.restart();
    let mut link = node.server.connect();
    link.set_read_timeout(READ_TIME);
    link.send(&Request::new("GET", &object("large"))).unwrap();
    assert_eq!(link.read_head("GET").unwrap().status, 200);
    let mut got = Vec::new();
    link.read_exactly(3 * MIB as u64, &mut |piece: &[u8]| got.extend_from_slice(piece)).unwrap();
    node.proxy.down();
    let left = (body.len() - got.len()) as u64;
    let ended = link.read_exactly(left, &mut |piece: &[u8]| got.extend_from_slice(piece));
    let error = ended.expect_err("what the store has alone cannot come");
    assert!([ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()), "{error}");
    assert!(got == body[..got.len()], "wrong bytes among the first {}", got.len());
    node.proxy.heal();
    let rest = node.server.get_range("large", &format!("bytes={}-", got.len())).expect_status(206);
    assert!(rest.body == body[got.len()..]);
}
