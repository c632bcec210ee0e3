//! The archive of a node that runs alone, as its users see it: what is archived is read as before, comes back, and costs no
//! more than it must.
//!
//! `ARCHIVE_KILL_ROUNDS` and `ARCHIVE_KILL_SEED` make the kills more, or the same again.
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

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use store::node::{PREFIX, ask};
use store::{BUCKET, DEADLINE, Node};
use support::{
    CHUNK, Connection, Random, Request, Response, Server, assert_error, bytes, encode_path, object, poll,
    sha256_hex, skipped, wait_until,
};

const MIB: usize = 1 << 20;

/// A machine of two processors carries one large blob at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// GETs bytes `from..to`, which must be the right ones.
#[track_caller]
fn read(node: &Node, path: &str, body: &[u8], from: usize, to: usize) {
    let answer = node.server.get_range(path, &format!("bytes={from}-{}", to - 1)).expect_status(206);
    assert!(answer.body == body[from..to], "{path} {from}..{to}: other bytes");
}

#[track_caller]
fn read_whole(node: &Node, path: &str, body: &[u8]) -> Response {
    let answer = node.server.get(path).expect_status(200);
    assert!(answer.body == body, "{path}: other bytes");
    answer
}

/// Whether each chunk of a path has its file, and none has another content than its name says.
#[track_caller]
fn assert_files(node: &Node, path: &str, count: usize) {
    let files = node.files(path);
    assert_eq!(files.len(), count, "{path}: {files:?}");
    for (name, file) in files {
        assert_eq!(sha256_hex(&fs::read(&file).unwrap()), name, "{}", file.display());
    }
}

#[test]
fn an_archived_blob_is_read_as_before_and_comes_back_byte_for_byte() {
    let _alone = alone();
    let mut node = Node::start();
    let body = bytes(1, 2 * CHUNK + 5 * MIB);
    let tag = node.server.put("large", &body).expect_status(201).header("etag").unwrap().to_owned();
    let length = body.len().to_string();
    assert_eq!(node.places("large"), ["local"; 3]);
    let written: BTreeSet<String> = node.files("large").into_iter().map(|(name, _)| name).collect();
    assert_eq!(written.len(), 3);

    let report = node.archive("large");
    let counts = ["versions", "chunks", "bytes", "kept", "already"].map(|name| report[name].clone());
    assert_eq!(counts, [json!(1), json!(3), json!(body.len()), json!(0), json!(0)], "{report}");
    assert_files(&node, "large", 0);
    assert_eq!(node.places("large"), ["archived"; 3]);
    let objects = node.store.objects();
    let mut sizes: Vec<u64> = objects.values().copied().collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [5 * MIB as u64, CHUNK as u64, CHUNK as u64]);
    assert!(objects.keys().all(|key| key.starts_with(PREFIX) && key.ends_with(".chunk")), "{objects:?}");
    assert!(objects.keys().eq(node.named().keys()));

    // Before any other read, so that nothing is in memory. It begins and ends within checksummed pieces.
    let sent = node.proxy.sent();
    let from = CHUNK + 9 * MIB + 1000;
    read(&node, "large", &body, from, from + (64 << 10));
    let moved = node.proxy.sent() - sent;
    assert!((64 << 10..=128 << 10).contains(&moved), "{moved} bytes for 64 KiB");

    let whole = read_whole(&node, "large", &body);
    assert_eq!(whole.header("etag"), Some(tag.as_str()));
    node.proxy.down();
    let head = node.server.head("large").expect_status(200);
    assert_eq!(head.header("etag"), Some(tag.as_str()));
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    node.proxy.heal();

    // Started again: reads so far bring nothing back meanwhile.
    node.server.restart();
    let report = node.restore("large");
    let counts = ["chunks", "already"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), 3, "{report}");
    assert_files(&node, "large", 3);
    let back: BTreeSet<String> = node.files("large").into_iter().map(|(name, _)| name).collect();
    assert_eq!(back, written);
    assert_eq!(node.places("large"), ["local"; 3]);
    assert_eq!(node.store.objects(), objects, "what came back is still there");
    let gets = node.proxy.asked("GET");
    read_whole(&node, "large", &body);
    assert_eq!(node.proxy.asked("GET"), gets, "what is here is read here");

    let puts = node.proxy.asked("PUT");
    let report = node.archive("large");
    assert_eq!((&report["chunks"], &report["already"]), (&json!(3), &json!(0)), "{report}");
    assert_files(&node, "large", 0);
    let report = node.archive("large");
    assert_eq!((&report["chunks"], &report["already"]), (&json!(0), &json!(3)), "{report}");
    assert_eq!(node.proxy.asked("PUT"), puts, "nothing is uploaded again");
    assert_eq!(node.store.objects(), objects);

    let mut random = Random::new(17);
    for _ in 0..50 {
        let from = random.below(body.len() as u64) as usize;
        let to = (from + 1 + random.below(600_000) as usize).min(body.len());
        read(&node, "large", &body, from, to);
    }
    // Over the borders between chunks, and the last byte.
    read(&node, "large", &body, CHUNK - 70_000, CHUNK + 70_000);
    read(&node, "large", &body, 2 * CHUNK - 1, 2 * CHUNK + 1);
    read(&node, "large", &body, body.len() - 1, body.len());
    let whole = read_whole(&node, "large", &body);
    assert_eq!(whole.header("etag"), Some(tag.as_str()));
    assert_eq!(node.server.get("large").header("x-amber-version"), Some("1"));
}

#[test]
fn one_version_is_archived_and_restored_by_its_number() {
    let node = Node::start();
    let bodies: Vec<Vec<u8>> = (1..=3).map(|seed| bytes(seed, 300_000)).collect();
    for body in &bodies {
        node.server.put("versions", body).expect_status(201);
    }
    let report = node.done("archive", "versions", "version=2");
    assert_eq!((&report["versions"], &report["chunks"]), (&json!(1), &json!(1)), "{report}");
    let places =
        |node: &Node| [1, 2, 3].map(|version| node.places_at("versions", &format!("version={version}")));
    assert_eq!(places(&node), [["local"], ["archived"], ["local"]]);
    node.archive("versions");
    assert_eq!(places(&node), [["local"], ["archived"], ["archived"]], "the newest, unless one is named");
    for (version, body) in (1..).zip(&bodies) {
        assert!(node.server.get_at("versions", version).expect_status(200).body == *body);
    }
    node.done("restore", "versions", "version=2");
    assert_eq!(places(&node), [["local"], ["local"], ["archived"]]);
    assert_files(&node, "versions", 2);
}

#[test]
fn all_below_a_prefix_is_restored_and_nothing_else() {
    let node = Node::start();
    let paths = ["set/a", "set/b/c", "set/z", "setting", "other"];
    for (seed, path) in (1..).zip(paths) {
        node.put_archived(path, &bytes(seed, 300_000));
    }
    node.server.put("set/here", &bytes(9, 300_000)).expect_status(201);
    node.server.put("set/small", &bytes(10, 1000)).expect_status(201);
    // Of two versions, of which the newest is meant.
    node.put_archived("set/a", &bytes(11, 200_000));
    let report = node.done("restore", "set/", "prefix");
    assert_eq!(report["chunks"], 3, "{report}");
    for (path, place) in paths.into_iter().zip(["local", "local", "local", "archived", "archived"]) {
        assert_eq!(node.places(path), [place], "{path}");
    }
    assert_eq!(node.places_at("set/a", "version=1"), ["archived"]);
    assert_files(&node, "set/a", 1);
    assert!(node.server.get_at("set/a", 1).expect_status(200).body == bytes(1, 300_000));
    let again = node.done("restore", "set/", "prefix");
    assert_eq!(again["chunks"], 0, "{again}");
}

#[test]
fn what_a_database_holds_is_kept_there() {
    let node = Node::start();
    let body = bytes(3, 50_000);
    node.server.put("small", &body).expect_status(201);
    node.server.put("empty", b"").expect_status(201);
    let report = node.archive("small");
    assert_eq!((&report["chunks"], &report["kept"]), (&json!(0), &json!(1)), "{report}");
    let report = node.archive("empty");
    assert_eq!((&report["chunks"], &report["kept"]), (&json!(0), &json!(0)), "{report}");
    assert_eq!(node.places("small"), ["local"]);
    assert_eq!(node.proxy.asked("PUT"), 0);
    assert!(node.named().is_empty());
    node.restore("small");
    read_whole(&node, "small", &body);
}

#[test]
fn objects_go_with_their_versions_and_no_others_do() {
    let mut node = Node::start_with("tombstone_grace = \"1s\"");
    let (body, other) = (bytes(4, 300_000), bytes(5, 400_000));
    node.put_archived("goes", &body);
    node.put_archived("goes", &other);
    node.put_archived("stays", &body);
    node.put_archived("restored", &bytes(6, 500_000));
    node.restore("restored");
    assert_eq!(node.store.objects().len(), 4, "equal bytes have objects of their own");
    node.server.delete_at("goes", 1).expect_status(200);
    wait_until(DEADLINE, "the object of a deleted version to go", || node.store.objects().len() == 3);
    read_whole(&node, "goes", &other);
    node.server.request("DELETE", &format!("{}?versions", object("goes")), &[], b"").expect_status(200);
    node.server.delete("restored").expect_status(200);
    wait_until(DEADLINE, "all but one to go", || node.store.objects().len() == 1);
    node.wait_tidy();
    // The store has deleted an object before the node knows it.
    wait_until(DEADLINE, "the clean-up to be counted", || {
        node.metric("amberblob_archive_leftovers_deleted_total") >= 3
    });
    node.server.restart();
    read_whole(&node, "stays", &body);
    assert_error(&node.server.get("goes"), 404, "BlobNotFound");
    assert_eq!(node.store.objects().len(), 1);
}

#[test]
fn objects_of_versions_that_went_while_the_store_was_away_go_later() {
    let mut node = Node::start_with("tombstone_grace = \"1s\"");
    node.put_archived("goes", &bytes(4, 300_000));
    node.proxy.down();
    node.server.delete("goes").expect_status(200);
    wait_until(DEADLINE, "the row to go", || node.named().is_empty());
    assert_eq!(node.store.objects().len(), 1);
    node.server.kill9();
    node.proxy.heal();
    node.server.start_again();
    wait_until(DEADLINE, "the object to go", || node.store.objects().is_empty());
}

#[test]
fn what_is_read_often_comes_back_by_itself() {
    // Where a disk is filled up they stay where they are.
    let roomy =
        [std::env::temp_dir(), PathBuf::from("/dev/shm")].into_iter().find(|dir| fs_used_percent(dir) < 70);
    let Some(roomy) = roomy else {
        return skipped(
            "chunks that are read often: neither the temporary directory nor /dev/shm has room to spare",
        );
    };
    let home = tempfile::tempdir_in(roomy).unwrap();
    let mut node = Node::start_at("", Some(&home.path().join("data")));
    let body = bytes(7, 7 * MIB);
    node.put_archived("hot", &body);
    node.put_archived("cold", &body);
    node.server.restart();
    // Each elsewhere, so that none is answered from memory.
    for at in [0, 3 * MIB] {
        read(&node, "hot", &body, at, at + 1000);
    }
    read(&node, "cold", &body, 0, 1000);
    assert_eq!(node.places("hot"), ["archived"]);
    read(&node, "hot", &body, 6 * MIB, 6 * MIB + 1000);
    wait_until(DEADLINE, "what was read three times to come back", || node.places("hot") == ["local"]);
    assert_files(&node, "hot", 1);
    assert_eq!(node.places("cold"), ["archived"]);
    read_whole(&node, "hot", &body);
    assert_eq!(node.store.objects().len(), 2);
    assert!(node.metric("amberblob_archive_chunks_restored_total") >= 1);
}

/// How full the file system of a directory is.
fn fs_used_percent(dir: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    100 - stat.f_bavail * 100 / stat.f_blocks.max(1)
}

#[test]
fn several_who_archive_the_same_at_once_all_succeed() {
    let _alone = alone();
    let node = Node::start();
    let body = bytes(8, CHUNK + 5 * MIB);
    node.server.put("both", &body).expect_status(201);
    // Two that are the same to the node, and one that is not.
    let reports: Vec<Value> = thread::scope(|scope| {
        let asking: Vec<_> = ["", "", "version=1"]
            .into_iter()
            .map(|query| {
                let node = &node;
                scope.spawn(move || node.done("archive", "both", query))
            })
            .collect();
        asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
    });
    for report in &reports {
        let of = |name: &str| report[name].as_u64().unwrap();
        assert_eq!(of("chunks") + of("already"), 2, "{report}");
    }
    assert_eq!(node.places("both"), ["archived"; 2]);
    node.wait_tidy();
    let named = node.named();
    assert_eq!((named.len(), node.store.objects().len()), (2, 2));
    assert!(named.values().all(|rows| *rows == 1), "{named:?}");
    // And bringing back, at once with that.
    let reports: Vec<Value> = thread::scope(|scope| {
        let asking = [scope.spawn(|| node.restore("both")), scope.spawn(|| node.archive("both"))];
        asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
    });
    assert!(reports.iter().all(|report| report["good"] == true));
    read_whole(&node, "both", &body);
    assert_eq!(node.store.objects().len(), 2);
}

#[test]
fn operators_ask_by_the_program_and_are_told_what_came_of_it() {
    let node = Node::start();
    let body = bytes(9, 300_000);
    for path in ["cli/a", "cli/b", "cli/c d%"] {
        node.server.put(path, &body).expect_status(201);
    }
    node.server.put("cli/a", &bytes(10, 200_000)).expect_status(201);
    let report = node.run(&["archive", "cli/a", "--json", "--version", "1"]).expect_code(0).json();
    assert_eq!(
        (&report["good"], &report["chunks"], &report["bytes"]),
        (&json!(true), &json!(1), &json!(300_000))
    );
    assert!(report["seconds"].is_number(), "{report}");
    assert!(report["failed"].as_array().is_none_or(Vec::is_empty), "{report}");
    assert_eq!(node.places_at("cli/a", "version=1"), ["archived"]);
    assert_eq!(node.places("cli/a"), ["local"]);
    for path in ["cli/b", "cli/c d%"] {
        let ended = node.run(&["archive", path]).expect_code(0);
        assert_eq!((ended.stdout.lines().count(), ended.stderr.as_str()), (1, ""), "{ended:?}");
        assert!(ended.stdout.starts_with("archive: "), "{ended:?}");
        assert_eq!(node.places(path), ["archived"]);
    }
    let status = node.run(&["archive", "--status", "--json"]).expect_code(0).json();
    assert_eq!(status["bucket"], BUCKET, "{status}");
    let ended = node.run(&["archive", "--status"]).expect_code(0);
    assert!(ended.stdout.contains(BUCKET), "{ended:?}");
    let ended = node.run(&["restore", "cli/", "--prefix"]).expect_code(0);
    assert!(ended.stdout.starts_with("restore: "), "{ended:?}");
    let ended = node.run(&["restore", "cli/a", "--version", "1"]).expect_code(0);
    assert_eq!((ended.stdout.lines().count(), ended.stderr.as_str()), (1, ""), "{ended:?}");
    assert_eq!(node.places_at("cli/a", "version=1"), ["local"]);
    for path in ["cli/b", "cli/c d%"] {
        assert_eq!(node.places(path), ["local"]);
        read_whole(&node, path, &body);
    }
    for what in ["archive", "restore"] {
        let ended = node.run(&[what, "cli/nobody"]).expect_code(1);
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        let ended = node.run(&[what, "cli/a", "--version", "7"]).expect_code(1);
        assert!(!ended.stderr.is_empty(), "{ended:?}");
        amberblob_usage(&node, &[what]);
        amberblob_usage(&node, &[what, "cli/a", "--version", "x"]);
    }
    amberblob_usage(&node, &["restore", "cli/", "--prefix", "--version", "1"]);
}

/// Panics unless a command line is refused as such.
#[track_caller]
fn amberblob_usage(node: &Node, args: &[&str]) {
    node.run(args).expect_code(2);
}

#[test]
fn the_state_of_the_archive_is_shown() {
    let node = Node::start();
    let status = node.ask("GET", "/archive").expect_status(200).json();
    assert_eq!(status["bucket"], BUCKET, "{status}");
    assert_eq!(status["prefix"], PREFIX, "{status}");
    assert!(status.get("failing").is_none_or(Value::is_null), "{status}");
    let body = bytes(11, 300_000);
    node.put_archived("shown", &body);
    read_whole(&node, "shown", &body);
    assert_eq!(node.metric("amberblob_archive_failing"), 0);
    assert_eq!(node.metric("amberblob_archive_chunks_archived_total"), 1);
    assert_eq!(node.metric("amberblob_archive_chunks_dropped_total"), 1);
    assert!(node.metric("amberblob_archive_uploaded_bytes_total") >= 300_000);
    assert!(node.metric("amberblob_archive_fetched_bytes_total") >= 300_000);
    assert!(node.metric("amberblob_archive_reads_total") >= 1);
    assert_eq!(node.metric("amberblob_archive_read_failures_total"), 0);
    node.restore("shown");
    assert_eq!(node.metric("amberblob_archive_chunks_restored_total"), 1);
    assert_eq!(node.notices(), "");
}

#[test]
fn a_node_without_an_archive_says_so() {
    let server = Server::shared();
    server.put("file", &bytes(1, 100_000)).expect_status(201);
    let refused = [("POST", "/archive/file"), ("POST", "/restore/file"), ("GET", "/archive")];
    for (method, target) in refused {
        let answer = ask(server.admin(), method, target).unwrap();
        assert_error(&answer, 501, "NotImplemented");
        assert!(answer.text().contains("[archive]"), "{method} {target}: {}", answer.text());
    }
    let admin = format!("http://{}", server.admin());
    let ended = support::program::amberblob(&["archive", "file", "--admin", &admin]).expect_code(1);
    assert!(ended.stderr.contains("[archive]") && ended.stdout.is_empty(), "{ended:?}");
    let chunks = server.get_query("file", "chunks").expect_status(200).json();
    assert_eq!(chunks["chunks"][0]["location"], "local");
}

#[test]
fn kills_at_any_moment_lose_nothing_and_leave_nothing_behind() {
    let _alone = alone();
    let rounds = from_env("ARCHIVE_KILL_ROUNDS", 10);
    let mut random = Random::new(from_env("ARCHIVE_KILL_SEED", 23));
    // Files that a kill leaves are swept after that time.
    let mut node = Node::start_with("tombstone_grace = \"1s\"");
    let blobs = [
        ("killed/large", bytes(21, CHUNK + 5 * MIB)),
        ("killed/a", bytes(22, 3 * MIB)),
        ("killed/b", bytes(23, 4 * MIB)),
        ("killed/c", bytes(24, 5 * MIB)),
    ];
    for (path, body) in &blobs {
        node.server.put(path, body).expect_status(201);
    }
    for round in 0..rounds {
        let admin = node.server.admin();
        let mut choices = Random::new(random.next_u64());
        let working = thread::spawn(move || {
            // The large one first in turn, so that each round does some of it.
            let mut what = if round % 2 == 0 { "archive" } else { "restore" };
            let mut path = "killed/large";
            while ask(admin, "POST", &format!("/{what}/{}", encode_path(path))).is_ok() {
                what = if choices.below(2) == 0 { "archive" } else { "restore" };
                path = ["killed/large", "killed/a", "killed/b", "killed/c"][choices.below(4) as usize];
            }
        });
        poll(Duration::from_millis(random.below(700)), || None::<()>);
        node.server.kill9();
        working.join().expect("who asked");
        node.server.start_again();
        let mut link = Connection::open(node.server.public());
        for (path, body) in &blobs {
            let answer = link.exchange(&Request::new("GET", &object(path))).unwrap().expect_status(200);
            assert!(answer.body == *body, "{path} in round {round}: other bytes");
        }
    }
    node.server.restart();
    for (path, _) in &blobs {
        node.archive(path);
        assert!(node.places(path).iter().all(|place| place == "archived"), "{path}");
    }
    node.wait_tidy();
    assert_eq!(node.store.objects().len(), blobs.len() + 1);
    // Nor does the disk hold what a kill left.
    for (path, body) in &blobs {
        wait_until(DEADLINE, "no files of dropped chunks", || node.files(path).is_empty());
        let whole = node.server.get(path).expect_status(200);
        assert!(whole.body == *body, "{path}: other bytes");
    }
    for (path, body) in &blobs {
        node.restore(path);
        assert_files(&node, path, body.len().div_ceil(CHUNK));
    }
    node.wait_tidy();
}

#[test]
fn the_background_asks_no_faster_than_it_may_and_reads_wait_for_nothing() {
    let node = Node::start_on("", "requests = 2", None);
    let body = bytes(90, 1 << 20);
    let begun = Instant::now();
    for path in ["r0", "r1", "r2", "r3"] {
        node.server.put(path, &body).expect_status(201);
        node.archive(path);
    }
    // A PUT and a HEAD for each, at the least.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    let asked = node.proxy.asked("GET");
    for path in ["r0", "r1", "r2", "r3"] {
        assert!(node.server.request("GET", &object(path), &[], b"").expect_status(200).body == body);
    }
    assert!(node.proxy.asked("GET") > asked);
}
