//! Anti-entropy: replicas that missed something become equal by themselves, with the bytes that were missing and hardly more.
//!
//! `SYNC_BLOBS` sets how many paths are written while a node is away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::equal::{difference, metric, wait_equal};
use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Mode, Shape, from_env};
use support::{CHUNK, Connection, Request, bytes, chunk_files, object, slot_dir, wait_until};

/// What was missed is here within this.
const EQUAL_DEADLINE: Duration = Duration::from_secs(90);
/// Clients at once.
const CLIENTS: usize = 4;

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three nodes that compare their replicas only when there is a reason to.
fn seldom() -> Shape {
    with("interval = \"1h\"")
}

fn with(sync: &str) -> Shape {
    Shape { sections: format!("[sync]\n{sync}\n"), ..Shape::of(3) }
}

fn path(number: usize) -> String {
    format!("sync/{number}")
}

/// 1 KiB to 200 KiB, some of them in the database.
fn body(number: usize, round: usize) -> Vec<u8> {
    let size = 1024 + (number * 7919 + round * 104_729) % (199 << 10);
    bytes((number * 2 + round) as u64, size)
}

/// Does `work` for all numbers, by several clients at once.
fn each(numbers: impl Iterator<Item = usize>, work: impl Fn(usize) + Sync) {
    let numbers: Vec<usize> = numbers.collect();
    let share = numbers.len().div_ceil(CLIENTS).max(1);
    std::thread::scope(|scope| {
        for share in numbers.chunks(share) {
            scope.spawn(|| share.iter().for_each(|number| work(*number)));
        }
    });
}

fn put(cluster: &Cluster, node: usize, path: &str, body: &[u8]) {
    cluster.send(node, &Request::new("PUT", &object(path)).body(body)).expect_status(201);
}

fn delete(cluster: &Cluster, node: usize, path: &str) {
    cluster.send(node, &Request::new("DELETE", &object(path))).expect_status(200);
}

/// Waits until every node has found all others equal once.
fn wait_even(cluster: &Cluster) {
    for node in &cluster.nodes {
        wait_until(READY_DEADLINE, "every replica was found equal", || {
            let page = node.admin_page("/slots").map(|(_, text)| text).unwrap_or_default();
            !page.is_empty() && !page.contains("\"last_equal\":null") && !page.contains("\"differs\":true")
        });
    }
}

/// All bytes between a node and the others.
fn passed(cluster: &Cluster, node: usize) -> u64 {
    let pairs = cluster.links().pairs().filter(|(from, to)| *from == node || *to == node);
    pairs.map(|(from, to)| cluster.links().passed(from, to)).sum()
}

/// Versions and tombstones that a node has taken over from others.
fn taken_over(cluster: &Cluster, node: usize) -> [u64; 2] {
    ["amberblob_sync_versions_total", "amberblob_sync_tombstones_total"]
        .map(|name| metric(cluster, node, name))
}

#[test]
fn a_node_that_was_away_gets_what_it_missed_and_hardly_more_bytes() {
    let _alone = alone();
    let count = from_env("SYNC_BLOBS", 600) as usize;
    let mut cluster = Cluster::start(seldom());
    each(0..60, |number| put(&cluster, number % 3, &format!("old/{number}"), &body(number, 0)));
    wait_even(&cluster);
    cluster.nodes[2].kill();
    each(0..count, |number| put(&cluster, number % 2, &path(number), &body(number, 0)));
    each((0..count).step_by(2), |number| put(&cluster, number % 2, &path(number), &body(number, 1)));
    // Of an overwritten one the newest version goes, and the one before stays.
    each((0..count).step_by(3), |number| delete(&cluster, number % 2, &path(number)));
    each(0..20, |number| delete(&cluster, number % 2, &format!("old/{number}")));
    let live = |number: usize| {
        let (first, second) = (body(number, 0).len(), body(number, 1).len());
        match (number.is_multiple_of(2), number.is_multiple_of(3)) {
            (true, true) => first,
            (true, false) => first + second,
            (false, true) => 0,
            (false, false) => first,
        }
    };
    let missing: u64 = (0..count).map(|number| live(number) as u64).sum();
    wait_until(READY_DEADLINE, "the two that were there are equal", || {
        difference(&cluster.nodes[..2]).is_none()
    });
    let others = [taken_over(&cluster, 0), taken_over(&cluster, 1)];
    let before = passed(&cluster, 2);
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    let versions = wait_equal(&cluster, EQUAL_DEADLINE);
    let moved = passed(&cluster, 2) - before;
    assert_eq!(versions, 60 + count + count.div_ceil(2));
    // A tombstone that was known to some is known to all, and no other one came.
    for number in 0..count {
        let target = format!("{}?consistency=local", object(&path(number)));
        let answer = cluster.send(2, &Request::new("GET", &target));
        if number.is_multiple_of(3) {
            answer.expect_status(404);
        } else {
            let newest = body(number, usize::from(number.is_multiple_of(2)));
            assert!(answer.status == 200 && answer.body == newest, "{number}: {}", answer.status);
        }
    }
    let fetched = metric(&cluster, 2, "amberblob_sync_fetched_bytes_total");
    println!(
        "{count} paths: {missing} bytes were missing, {fetched} were fetched, {moved} crossed the links"
    );
    assert_eq!(fetched, missing, "every chunk comes once");
    assert!(moved <= missing + missing / 10, "{moved} bytes for {missing}");
    let [taken, tombstones] = taken_over(&cluster, 2);
    assert!(taken >= (count + count.div_ceil(2)) as u64 && tombstones >= (count.div_ceil(3) + 20) as u64);
    assert_eq!(
        [taken_over(&cluster, 0), taken_over(&cluster, 1)],
        others,
        "nothing comes back from the one that was away"
    );
    wait_even(&cluster);
    for node in 0..3 {
        assert_eq!(metric(&cluster, node, "amberblob_sync_differing_slots"), 0);
        assert_eq!(metric(&cluster, node, "amberblob_hollow_versions"), 0);
    }
}

#[test]
fn a_node_that_missed_commits_without_knowing_is_told() {
    let _alone = alone();
    let cluster = Cluster::start(seldom());
    each(0..30, |number| put(&cluster, 0, &path(number), &body(number, 0)));
    wait_even(&cluster);
    let rounds = metric(&cluster, 1, "amberblob_sync_rounds_total");
    // The second node still reaches the first, and has no reason to think that anything is wrong.
    cluster.links().set(0, 1, Mode::Cut);
    each(0..30, |number| put(&cluster, 0, &path(number), &body(number, 1)));
    each(0..10, |number| delete(&cluster, 0, &path(number)));
    assert_eq!(metric(&cluster, 1, "amberblob_sync_rounds_total"), rounds, "nobody looks for an hour");
    cluster.links().heal();
    assert_eq!(wait_equal(&cluster, Duration::from_secs(30)), 60);
    assert!(metric(&cluster, 1, "amberblob_sync_versions_total") >= 30);
    assert!(metric(&cluster, 1, "amberblob_sync_tombstones_total") >= 10);
}

/// `amberblob sync`: whether it succeeded, what it printed, what it complained about.
fn sync_command(cluster: &Cluster, node: usize, more: &[&str]) -> (bool, String, String) {
    let admin = format!("http://{}", cluster.nodes[node].admin);
    let output = Command::new(env!("CARGO_BIN_EXE_amberblob"))
        .args(["sync", "--admin", &admin])
        .args(more)
        .output()
        .expect("run amberblob sync");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_operator_has_a_node_compared_at_once() {
    let _alone = alone();
    let mut cluster = Cluster::start(seldom());
    wait_even(&cluster);
    cluster.nodes[2].kill();
    each(0..20, |number| put(&cluster, 0, &path(number), &body(number, 0)));
    each(0..5, |number| delete(&cluster, 0, &path(number)));
    // One that does not answer is named, and then it is no success.
    let (good, report, complaint) = sync_command(&cluster, 0, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&report).expect(&report);
    assert!(!good && complaint.contains("no answer from node-3"), "{complaint}");
    assert_eq!(
        (&json["good"], &json["silent"], &json["compared"]),
        (&false.into(), &serde_json::json!(["node-3"]), &serde_json::json!(["node-2"]))
    );
    let mut admin = Connection::open(cluster.nodes[0].admin);
    assert_eq!(
        admin.exchange(&Request::new("POST", "/sync").header("Content-Length", "0")).unwrap().status,
        503
    );
    // The answer comes when everything is here.
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    let (good, report, complaint) = sync_command(&cluster, 2, &["--json"]);
    assert!(good, "{report} {complaint}");
    let json: serde_json::Value = serde_json::from_str(&report).expect(&report);
    assert_eq!(
        (&json["silent"], &json["lacking"], &json["unsure"]),
        (&serde_json::json!([]), &0.into(), &0.into())
    );
    assert_eq!(wait_equal(&cluster, Duration::ZERO), 20);
    // And of one that has everything nothing is taken.
    let (good, line, complaint) = sync_command(&cluster, 2, &[]);
    assert!(good, "{complaint}");
    assert!(
        line.starts_with("sync: compared with node-1, node-2; 0 slots differed; 0 versions, 0 tombstones"),
        "{line}"
    );
}

/// Takes a stopped node's chunks away from its versions; the files stay.
fn hollow_out(cluster: &Cluster, node: usize) {
    let slots = std::fs::read_dir(cluster.nodes[node].disks[0].join("slots")).unwrap().map_while(Result::ok);
    for file in slots.map(|slot| slot.path().join("meta.sqlite3")).filter(|file| file.is_file()) {
        let db = rusqlite::Connection::open(file).unwrap();
        db.execute_batch(
            "UPDATE blobs SET hollow = 1, chunks = '[]'; DELETE FROM parts; DELETE FROM inline_chunks",
        )
        .unwrap();
    }
}

#[test]
fn what_lies_on_the_disk_and_is_right_is_not_fetched_again() {
    let _alone = alone();
    let mut cluster = Cluster::start(seldom());
    each(0..30, |number| put(&cluster, number % 3, &path(number), &body(number, 0)));
    let large = bytes(99, CHUNK + (1 << 20));
    put(&cluster, 0, "large", &large);
    wait_equal(&cluster, READY_DEADLINE);
    cluster.nodes[2].terminate();
    hollow_out(&cluster, 2);
    // Of one the bytes are others, of another some are missing.
    let disk = cluster.nodes[2].disks[0].clone();
    let in_files: Vec<usize> = (0..30).filter(|number| body(*number, 0).len() > 64 << 10).collect();
    let file = |number: usize| {
        // Another path may be in the same slot.
        let files = chunk_files(&slot_dir(&disk, &path(number)));
        let len = body(number, 0).len() as u64;
        files.into_iter().map(|(_, file)| file).find(|file| file.metadata().unwrap().len() == len).unwrap()
    };
    let mut flipped = std::fs::read(file(in_files[0])).unwrap();
    flipped[70_000] ^= 1;
    std::fs::write(file(in_files[0]), flipped).unwrap();
    std::fs::File::options().write(true).open(file(in_files[1])).unwrap().set_len(70_000).unwrap();
    let sizes = |numbers: &[usize]| numbers.iter().map(|number| body(*number, 0).len() as u64).sum::<u64>();
    let inside: Vec<usize> = (0..30).filter(|number| body(*number, 0).len() <= 64 << 10).collect();
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    wait_equal(&cluster, EQUAL_DEADLINE);
    let fetched = metric(&cluster, 2, "amberblob_sync_fetched_bytes_total");
    assert_eq!(
        fetched,
        sizes(&inside) + sizes(&in_files[..2]),
        "what was in the database, and what was damaged"
    );
    let target = "/objects/large?consistency=local";
    assert!(cluster.send(2, &Request::new("GET", target)).expect_status(200).body == large);
}

#[test]
fn a_fetch_that_was_cut_off_goes_on_and_keeps_its_rate() {
    let _alone = alone();
    let rate = 24 << 20;
    let mut cluster = Cluster::start(with("interval = \"1h\"\nrate = \"24MiB\""));
    cluster.nodes[2].kill();
    let size = 2 * CHUNK + CHUNK / 2 + 5;
    let large = bytes(7, size);
    put(&cluster, 0, "large", &large);
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    let dir = slot_dir(&cluster.nodes[2].disks[0], "large");
    let whole = || chunk_files(&dir).iter().filter(|(name, _)| name.len() == 64).count();
    wait_until(EQUAL_DEADLINE, "a whole chunk", || whole() > 0);
    cluster.nodes[2].kill();
    let here = whole();
    assert_eq!(here, 1, "at this rate not more than one is there");
    cluster.nodes[2].spawn();
    let begun = Instant::now();
    cluster.wait_ready(READY_DEADLINE);
    wait_equal(&cluster, EQUAL_DEADLINE);
    let took = begun.elapsed();
    let fetched = metric(&cluster, 2, "amberblob_sync_fetched_bytes_total");
    assert_eq!(fetched, (size - CHUNK) as u64, "the first chunk was there");
    let least = Duration::from_millis(fetched * 1000 / rate).saturating_sub(Duration::from_millis(500));
    assert!(took >= least, "{took:?} for {fetched} bytes, at least {least:?}");
    let target = "/objects/large?consistency=local";
    assert!(cluster.send(2, &Request::new("GET", target)).expect_status(200).body == large);
}
