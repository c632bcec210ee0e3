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

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::equal::{metric, wait_equal};
use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Mode, Shape, from_env};
use support::{Request, bytes, object, wait_until};

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
    Shape { registry: format!("backend = \"embedded\"\n[sync]\n{sync}"), ..Shape::of(3) }
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
        match (number % 2 == 0, number % 3 == 0) {
            (true, true) => first,
            (true, false) => first + second,
            (false, true) => 0,
            (false, false) => first,
        }
    };
    let missing: u64 = (0..count).map(|number| live(number) as u64).sum();
    let before = passed(&cluster, 2);
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    let versions = wait_equal(&cluster, EQUAL_DEADLINE);
    let moved = passed(&cluster, 2) - before;
    assert_eq!(versions, 60 + count + count.div_ceil(2));
    // A tombstone that was known to some is known to all, and no other one came.
    for number in 0..count {
        let status = if number % 2 == 1 && number % 3 == 0 { 404 } else { 200 };
        let answer =
            cluster.send(2, &Request::new("GET", &format!("{}?consistency=local", object(&path(number)))));
        if number % 6 == 0 {
            assert_error_or_older(&answer, &body(number, 0));
        } else {
            assert_eq!(answer.status, status, "{number}");
        }
    }
    let fetched = metric(&cluster, 2, "amberblob_sync_fetched_bytes_total");
    println!(
        "{count} paths: {missing} bytes were missing, {fetched} were fetched, {moved} crossed the links"
    );
    assert_eq!(fetched, missing, "every chunk comes once");
    assert!(moved <= missing + missing / 10, "{moved} bytes for {missing}");
    let taken = metric(&cluster, 2, "amberblob_sync_versions_total");
    let tombstones = metric(&cluster, 2, "amberblob_sync_tombstones_total");
    assert!(taken >= (count + count.div_ceil(2)) as u64 && tombstones >= (count.div_ceil(3) + 20) as u64);
    for node in 0..2 {
        assert_eq!(metric(&cluster, node, "amberblob_sync_tombstones_total"), 0, "nothing was deleted back");
        assert_eq!(metric(&cluster, node, "amberblob_sync_versions_total"), 0);
    }
    wait_even(&cluster);
    for node in 0..3 {
        assert_eq!(metric(&cluster, node, "amberblob_sync_differing_slots"), 0);
        assert_eq!(metric(&cluster, node, "amberblob_hollow_versions"), 0);
    }
}

/// The newest version is a tombstone: without a version there is nothing to see.
#[track_caller]
fn assert_error_or_older(answer: &support::Response, older: &[u8]) {
    assert!(answer.status == 404 || answer.body == older, "{}", answer.status);
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
