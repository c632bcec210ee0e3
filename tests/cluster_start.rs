//! How a cluster comes into being and comes back: formed once by all nodes, started again by a quorum of them, never by a node that
//! has another idea of it; and a node whose disk is gone has no voice until it knows again what it knew.
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

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::formation::READY_DEADLINE;
use cluster::node::Node;
use cluster::{Cluster, Mode, Shape, replicas};
use support::{Request, Response, assert_error, bytes, object};

/// A node that must refuse to run does so within this.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(cluster: &Cluster, node: usize, path: &str, body: &[u8]) -> Response {
    cluster.send(node, &Request::new("PUT", &object(path)).body(body))
}

fn get(cluster: &Cluster, node: usize, path: &str) -> Response {
    cluster.send(node, &Request::new("GET", &object(path)))
}

fn path(number: usize) -> String {
    format!("start/{number}")
}

/// Small ones and some that have a file.
fn body(number: usize) -> Vec<u8> {
    bytes(number as u64, if number % 5 == 4 { 200_000 } else { 1000 + number })
}

fn fill(cluster: &Cluster, numbers: std::ops::Range<usize>) {
    for number in numbers {
        put(cluster, number % cluster.len(), &path(number), &body(number)).expect_status(201);
    }
}

#[track_caller]
fn assert_all_there(cluster: &Cluster, numbers: std::ops::Range<usize>, nodes: &[usize]) {
    for number in numbers {
        for &node in nodes {
            let answer = get(cluster, node, &path(number));
            assert!(
                answer.status == 200 && answer.body == body(number),
                "{number} through {node}: {answer:?}"
            );
        }
    }
}

#[test]
fn a_config_that_contradicts_the_cluster_is_refused_with_the_difference() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 0..5);
    cluster.nodes[2].terminate();
    let right = cluster.nodes[2].config.clone();
    let changes: [(&str, &str, &[&str]); 5] = [
        ("replicas = 3", "replicas = 2", &["replicas", "3", "2"]),
        ("write_quorum = 2", "write_quorum = 3", &["quorum", "2", "3"]),
        ("name = \"test\"", "name = \"other\"", &["test", "other"]),
        ("name = \"node-2\"", "name = \"node-7\"", &["node-2", "node-7"]),
        (
            "[registry]",
            "[[cluster.nodes]]\nname = \"node-4\"\npublic = \"127.0.0.1:9\"\npeer = \"127.0.0.1:9\"\n[registry]",
            &["node-4"],
        ),
    ];
    for (from, to, named) in changes {
        assert!(right.contains(from), "{from}");
        cluster.nodes[2].config = right.replace(from, to);
        let said = cluster.refusal(2, REFUSAL_DEADLINE);
        let error = said.lines().find(|line| named.iter().all(|part| line.contains(part)));
        assert!(error.is_some(), "{to}: none of these lines names {named:?}:\n{said}");
        put(&cluster, 0, "start/meanwhile", to.as_bytes()).expect_status(201);
    }
    cluster.nodes[2].config = right;
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 0..5, &[0, 1, 2]);
}

#[test]
fn a_stranger_with_an_empty_disk_does_not_join() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 0..5);
    cluster.nodes[2].kill();
    cluster.nodes[2].wipe();
    let right = cluster.nodes[2].config.clone();
    cluster.nodes[2].config = right.replace("replicas = 3", "replicas = 2");
    cluster.nodes[2].spawn();
    // It may end or wait; it never becomes ready, and says what is different.
    support::wait_until(REFUSAL_DEADLINE, "the stranger says what is different", || {
        assert!(!cluster.nodes[2].admin_page("/readyz").is_ok_and(|(status, _)| status == 200));
        let page = cluster.nodes[2].admin_page("/readyz").map_or_else(|error| error, |(_, text)| text);
        [page, cluster.nodes[2].stderr()].iter().any(|said| said.contains("replicas"))
    });
    put(&cluster, 0, "start/without", b"it").expect_status(201);
    if cluster.nodes[2].ended().is_some() {
        cluster.nodes[2].wait_gone(REFUSAL_DEADLINE);
    } else {
        cluster.nodes[2].kill();
    }
    cluster.nodes[2].wipe();
    cluster.nodes[2].config = right;
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 0..5, &[2]);
}

#[test]
fn a_wiped_disk_recovers_before_it_votes() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 0..20);
    cluster.send(0, &Request::new("DELETE", &object(&path(0)))).expect_status(200);
    // Node 3 comes back empty while node 2 is away: it cannot know what it promised to node 2.
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    cluster.nodes[2].wipe();
    cluster.nodes[2].spawn();
    cluster.wait_unready(2, READY_DEADLINE, |why| why.contains("recover"));
    // Node 1 knows too that node 3 answers and does not vote: it begins no write whose outcome nobody could tell.
    cluster.wait_unready(0, READY_DEADLINE, |why| why.contains("node-3 does not vote"));
    for node in [0, 2] {
        assert_error(&put(&cluster, node, "start/voteless", b"x"), 503, "QuorumUnavailable");
        let answer = get(&cluster, node, &path(1));
        assert_eq!(answer.status, 503, "through {node}: one replica that remembers is no quorum: {answer:?}");
    }
    cluster.nodes[1].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 1..20, &[0, 1, 2]);
    assert_error(&get(&cluster, 2, &path(0)), 404, "BlobNotFound");
    // It has everything again: with it and one other, nothing is missed.
    let paths: BTreeSet<String> = (0..20).map(path).collect();
    replicas::wait_whole(&cluster.disks(), &paths, 3, READY_DEADLINE)
        .expect("every replica has every version");
    cluster.nodes[0].kill();
    assert_all_there(&cluster, 1..20, &[1, 2]);
    assert_error(&get(&cluster, 2, &path(0)), 404, "BlobNotFound");
    fill_through(&cluster, 20..25, 2);
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 20..25, &[0]);
}

fn fill_through(cluster: &Cluster, numbers: std::ops::Range<usize>, node: usize) {
    for number in numbers {
        put(cluster, node, &path(number), &body(number)).expect_status(201);
    }
}

#[test]
fn a_wiped_disk_waits_for_every_other_replica() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 0..10);
    cluster.nodes[2].kill();
    cluster.nodes[2].wipe();
    // It reaches node 2 and not node 1.
    cluster.links().set_both(0, 2, Mode::Cut);
    cluster.nodes[2].spawn();
    cluster.wait_unready(2, READY_DEADLINE, |why| why.contains("recover"));
    // The other two are a quorum meanwhile.
    cluster.wait_ready_of(&[0, 1], READY_DEADLINE);
    fill_through(&cluster, 10..15, 0);
    assert_eq!(cluster.nodes[2].admin_page("/readyz").map(|page| page.0), Ok(503), "not without node 1");
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 0..15, &[2]);
}

#[test]
fn all_nodes_restart_at_once() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    let mut count = 0;
    for killed in [true, false, true] {
        fill(&cluster, count..count + 10);
        count += 10;
        if killed {
            cluster.nodes.iter_mut().for_each(Node::kill);
        } else {
            let ended = cluster.terminate_all();
            assert!(ended.iter().all(std::process::ExitStatus::success), "{ended:?}");
        }
        cluster.spawn_all();
        cluster.wait_ready(READY_DEADLINE);
        assert_all_there(&cluster, 0..count, &[0, 1, 2]);
    }
}

#[test]
fn a_formed_cluster_starts_with_a_quorum_and_no_less() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(Shape::of(3));
    // The first time it takes all of them.
    cluster.nodes[0].spawn();
    cluster.nodes[1].spawn();
    for node in [0, 1] {
        cluster.wait_unready(node, READY_DEADLINE, |_| true);
        assert_eq!(put(&cluster, node, "start/early", b"x").status, 503);
    }
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    fill(&cluster, 0..10);
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes[1].spawn();
    cluster.wait_unready(1, READY_DEADLINE, |why| why.contains("quorum"));
    assert_eq!(get(&cluster, 1, &path(1)).status, 503);
    cluster.nodes[2].spawn();
    cluster.wait_ready_of(&[1, 2], READY_DEADLINE);
    assert_all_there(&cluster, 0..10, &[1, 2]);
    fill_through(&cluster, 10..15, 1);
    cluster.nodes[0].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 0..15, &[0]);
}
