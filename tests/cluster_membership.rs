//! Disks that forget: one that was replaced, one that was never synced, an old one that is put back, two at once. What was
//! acknowledged is still there, and none of them has a voice before it knows again what it promised. Chunks of deleted
//! versions go when a quorum knows that they are deleted.
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
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::formation::READY_DEADLINE;
use cluster::node::Node;
use cluster::{Cluster, Shape, replicas};
use support::{Request, Response, assert_error, bytes, object, poll, slot_of, wait_until};

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path(number: usize) -> String {
    format!("membership/{number}")
}

/// Small ones, some that have a file, and a few of several parts.
fn body(number: usize) -> Vec<u8> {
    let size = match number % 10 {
        4 => 200_000,
        9 => 5_000_000,
        _ => 1000 + number,
    };
    bytes(number as u64, size)
}

fn put(cluster: &Cluster, node: usize, path: &str, body: &[u8]) -> Response {
    cluster.send(node, &Request::new("PUT", &object(path)).body(body))
}

fn fill(cluster: &Cluster, numbers: Range<usize>, nodes: &[usize]) {
    for number in numbers {
        put(cluster, nodes[number % nodes.len()], &path(number), &body(number)).expect_status(201);
    }
}

#[track_caller]
fn assert_all_there(cluster: &Cluster, numbers: Range<usize>, nodes: &[usize]) {
    for number in numbers {
        for &node in nodes {
            let answer = cluster.send(node, &Request::new("GET", &object(&path(number))));
            assert!(
                answer.status == 200 && answer.body == body(number),
                "{number} through {node}: {}",
                answer.status
            );
        }
    }
}

#[track_caller]
fn assert_all_whole(cluster: &Cluster, numbers: Range<usize>, replicas: usize) {
    let paths: BTreeSet<String> = numbers.map(path).collect();
    replicas::wait_whole(&cluster.disks(), &paths, replicas, READY_DEADLINE)
        .expect("every replica has every version, with its chunks");
}

/// Generation and identity of a disk, as some disk has them written down.
fn member(on: &Path, node: usize, disk: usize) -> (u64, String) {
    let text = std::fs::read_to_string(on.join("cluster.json")).expect("the record of the cluster");
    let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let member = &record["nodes"][node]["disks"][disk];
    (member["generation"].as_u64().unwrap(), member["identity"].as_str().unwrap().to_owned())
}

#[test]
fn a_replaced_disk_recovers_and_the_other_one_of_its_node_votes_meanwhile() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape { disks: 2, ..Shape::of(3) });
    fill(&cluster, 0..40, &[0, 1, 2]);
    let disk = cluster.nodes[1].disks[0].clone();
    let was_there = |number: usize| disk.join("slots").join(slot_of(&path(number)).to_string()).exists();
    let (lost, kept): (Vec<usize>, Vec<usize>) = (0..40).partition(|number| was_there(*number));
    assert!(lost.len() > 5 && kept.len() > 5, "both disks have something");
    cluster.nodes[0].kill();
    cluster.nodes[1].terminate();
    std::fs::remove_dir_all(&disk).unwrap();
    cluster.nodes[1].spawn();
    cluster.wait_unready(1, READY_DEADLINE, |why| why.contains("recover"));
    // Node 1 is away: of slots on the lost disk one replica is left, of the others two.
    let put_until = |number: usize, status: u16| {
        let answer = poll(READY_DEADLINE, || {
            let answer = put(&cluster, 2, &path(number), &body(number));
            (answer.status == status).then_some(answer)
        });
        assert!(answer.is_some(), "never {status} for {number}");
        answer.unwrap()
    };
    kept.iter().take(5).for_each(|number| drop(put_until(*number, 201)));
    for number in lost.iter().take(5) {
        // A replica that recovers answers, but does not vote: then that is known only after the others were asked.
        let answer = put_until(*number, 503);
        let code = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(code.contains("QuorumUnavailable") || code.contains("OutcomeUnknown"), "{code}");
    }
    cluster.nodes[0].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 0..40, &[0, 1, 2]);
    assert_all_whole(&cluster, 0..40, 3);
    let new = member(&disk, 1, 0);
    assert_eq!(new.0, 1, "it was replaced once");
    for node in &cluster.nodes {
        assert!(node.disks.iter().all(|disk| member(disk, 1, 0) == new && member(disk, 1, 1).0 == 0));
    }
    // It counts again: with it and one other, nothing is missed.
    cluster.nodes[2].kill();
    assert_all_there(&cluster, 0..40, &[0, 1]);
    fill(&cluster, 40..45, &[0, 1]);
}

#[test]
fn disks_that_were_never_synced_recover_from_one_another() {
    let _alone = alone();
    let storage = "cache = \"64MiB\"\ndurability = \"relaxed\"".to_owned();
    let mut cluster = Cluster::start(Shape { storage, ..Shape::of(3) });
    fill(&cluster, 0..20, &[0, 1, 2]);
    let disk = cluster.nodes[0].disks[0].clone();
    let generations = |disk: &Path| [0, 1, 2].map(|node| member(disk, node, 0).0);
    // In order: what was promised is on disk.
    assert!(cluster.terminate_all().iter().all(std::process::ExitStatus::success));
    cluster.spawn_all();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(generations(&disk), [0, 0, 0]);
    // One of them, then all at once: nobody is left who remembers everything, and what each has is all there is.
    cluster.nodes[1].kill();
    cluster.spawn_all();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(generations(&disk), [0, 1, 0]);
    assert_all_there(&cluster, 0..20, &[0, 1, 2]);
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.spawn_all();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(generations(&disk), [1, 2, 1]);
    assert_all_there(&cluster, 0..20, &[0, 1, 2]);
    fill(&cluster, 20..25, &[0, 1, 2]);
}

#[test]
fn an_old_disk_that_is_put_back_has_no_voice() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 0..10, &[0, 1, 2]);
    let disk = cluster.nodes[2].disks[0].clone();
    let aside = disk.with_extension("old");
    cluster.nodes[2].terminate();
    std::fs::rename(&disk, &aside).unwrap();
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    fill(&cluster, 10..20, &[0, 1]);
    cluster.send(0, &Request::new("DELETE", &object(&path(0)))).expect_status(200);
    assert_all_whole(&cluster, 10..20, 3);
    // Back comes what it was before; of the others only one remembers the rest.
    cluster.nodes[2].terminate();
    cluster.nodes[1].kill();
    std::fs::remove_dir_all(&disk).unwrap();
    std::fs::rename(&aside, &disk).unwrap();
    cluster.nodes[2].spawn();
    cluster.wait_unready(2, READY_DEADLINE, |why| why.contains("recover"));
    for node in [0, 2] {
        let answer = cluster.send(node, &Request::new("GET", &object(&path(15))));
        assert_eq!(answer.status, 503, "through {node}");
        let answer = cluster.send(node, &Request::new("GET", &object(&path(0))));
        assert_eq!(answer.status, 503, "through {node}: it was deleted, and the old disk does not know");
    }
    cluster.nodes[1].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(member(&disk, 2, 0).0, 2);
    assert_all_there(&cluster, 1..20, &[0, 1, 2]);
    cluster.nodes[0].kill();
    assert_all_there(&cluster, 1..20, &[1, 2]);
    let answer = cluster.send(2, &Request::new("GET", &object(&path(0))));
    assert_error(&answer, 404, "BlobNotFound");
}

#[test]
fn two_disks_of_five_replicas_are_lost_at_once() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape { replicas: 5, write_quorum: 3, ..Shape::of(5) });
    fill(&cluster, 0..20, &[0, 1, 2, 3, 4]);
    for node in [3, 4] {
        cluster.nodes[node].kill();
        cluster.nodes[node].wipe();
    }
    assert_all_there(&cluster, 0..20, &[0]);
    cluster.spawn_all();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_whole(&cluster, 0..20, 5);
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    assert_all_there(&cluster, 0..20, &[2, 3, 4]);
    fill(&cluster, 20..25, &[3, 4]);
}

#[test]
fn a_node_of_another_cluster_does_not_join() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 0..5, &[0, 1, 2]);
    cluster.nodes[2].kill();
    cluster.nodes[2].wipe();
    let right = cluster.nodes[2].config.clone();
    cluster.nodes[2].config = right.replace("name = \"test\"", "name = \"other\"");
    cluster.nodes[2].spawn();
    cluster.wait_unready(2, READY_DEADLINE, |why| why.contains("belongs to cluster 'test'"));
    fill(&cluster, 5..10, &[0, 1]);
    assert!(!cluster.nodes[2].disks[0].join("cluster.json").exists(), "it has formed nothing");
    cluster.nodes[2].terminate();
    cluster.nodes[2].config = right;
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_all_there(&cluster, 0..10, &[2]);
}

#[test]
fn chunks_of_a_deleted_version_go_when_a_quorum_has_the_tombstone() {
    let _alone = alone();
    let storage = "cache = \"64MiB\"\ntombstone_grace = \"2s\"".to_owned();
    let mut cluster = Cluster::start(Shape { storage, ..Shape::of(3) });
    let files = |cluster: &Cluster, node: usize| -> usize {
        let slot = cluster.nodes[node].disks[0].join("slots").join(slot_of("gone").to_string());
        std::fs::read_dir(slot.join("blobs")).map_or(0, Iterator::count)
    };
    put(&cluster, 0, "gone", &bytes(1, 300_000)).expect_status(201);
    wait_until(READY_DEADLINE, "all have it", || (0..3).all(|node| files(&cluster, node) == 1));
    cluster.nodes[2].kill();
    cluster.send(0, &Request::new("DELETE", &object("gone"))).expect_status(200);
    cluster.nodes[1].kill();
    // One that knows of it is not enough, however long ago it was.
    let deleted = Instant::now();
    while deleted.elapsed() < Duration::from_secs(5) {
        assert_eq!(files(&cluster, 0), 1, "after {:?}", deleted.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    // The other one never heard of the tombstone: the sweep tells it.
    cluster.nodes[2].spawn();
    wait_until(READY_DEADLINE, "both have dropped it", || files(&cluster, 0) == 0 && files(&cluster, 2) == 0);
    let answer = cluster.send(2, &Request::new("GET", &object("gone")));
    assert_error(&answer, 404, "BlobNotFound");
}
