//! Databases and disks that are lost while a cluster is at work: they come back from the other nodes by themselves, nothing that was
//! acknowledged is lost, nothing that was deleted comes back, and no empty slot has a voice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
#[path = "support/steady.rs"]
mod steady;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::{Cluster, Shape, replicas};
use steady::Steady;
use support::{Random, Request, Response, bytes, chunk_files, object, poll, slot_of, wait_until};

/// A node has recovered within this, on a machine that has much else to do.
const READY_DEADLINE: Duration = Duration::from_secs(180);
const FILES: [&str; 3] = ["meta.sqlite3", "meta.sqlite3-wal", "meta.sqlite3-shm"];

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often the paths were chosen anew.
static ATTEMPT: AtomicUsize = AtomicUsize::new(0);

fn path(number: usize) -> String {
    format!("lost/{}/{number}", ATTEMPT.load(Ordering::Relaxed))
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

fn fill(cluster: &Cluster, count: usize) {
    // A replica that was too slow for one of them may get it much later.
    for _ in 0..5 {
        ATTEMPT.fetch_add(1, Ordering::Relaxed);
        for number in 0..count {
            put(cluster, number % cluster.len(), &path(number), &body(number)).expect_status(201);
        }
        if whole(cluster, count, Duration::from_secs(10)).is_ok() {
            return;
        }
    }
    assert_whole(cluster, count);
}

fn whole(cluster: &Cluster, count: usize, within: Duration) -> Result<(), String> {
    let paths: BTreeSet<String> = (0..count).map(path).collect();
    replicas::wait_whole(&cluster.disks(), &paths, cluster.shape.replicas, within)
}

#[track_caller]
fn assert_whole(cluster: &Cluster, count: usize) {
    whole(cluster, count, READY_DEADLINE).expect("every replica has every version, with its chunks");
}

#[track_caller]
fn assert_all_there(cluster: &Cluster, count: usize, nodes: &[usize]) {
    for number in 0..count {
        for &node in nodes {
            let answer = cluster.send(node, &Request::new("GET", &object(&path(number))));
            let right = answer.status == 200 && answer.body == body(number);
            assert!(right, "{number} through {node}: {}", answer.status);
        }
    }
}

fn slot_dir(cluster: &Cluster, node: usize, path: &str) -> PathBuf {
    cluster.nodes[node].disks[0].join("slots").join(slot_of(path).to_string())
}

/// Generation of a node's first disk, as some disk has it written down.
fn generation(on: &Path, node: usize) -> u64 {
    let text = fs::read_to_string(on.join("cluster.json")).expect("the record of the cluster");
    let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    record["nodes"][node]["disks"][0]["generation"].as_u64().unwrap()
}

fn generations(cluster: &Cluster, node: usize) -> Vec<u64> {
    cluster.nodes.iter().map(|it| generation(&it.disks[0], node)).collect()
}

fn remove(dir: &Path) {
    FILES.iter().for_each(|name| drop(fs::remove_file(dir.join(name))));
}

fn take(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    FILES.iter().filter_map(|name| Some((dir.join(name), fs::read(dir.join(name)).ok()?))).collect()
}

/// Databases that were put aside in a slot.
fn put_aside(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("meta.sqlite3.damaged-") && !name.ends_with("-wal")).count()
}

type Damage = fn(&Path);

const DAMAGES: [(&str, usize, Damage); 4] = [
    ("gone", 0, |dir| remove(dir)),
    ("gone, with all of its blobs", 0, |dir| fs::remove_dir_all(dir).unwrap()),
    ("rubbish", 1, |dir| {
        remove(dir);
        fs::write(dir.join("meta.sqlite3"), bytes(3, 100_000)).unwrap();
    }),
    ("cut off", 1, |dir| {
        let db = rusqlite::Connection::open(dir.join("meta.sqlite3")).unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(db);
        fs::File::options().write(true).open(dir.join("meta.sqlite3")).unwrap().set_len(8192).unwrap();
    }),
];

#[test]
fn a_lost_database_on_a_kept_disk_comes_back_under_load() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    let count = 30;
    fill(&cluster, count);
    let load = Steady::start(cluster.publics(), "load", 7);
    for (round, (what, aside, damage)) in DAMAGES.into_iter().enumerate() {
        println!("{what}");
        // The blob of several parts, the one with a file, and others.
        let number = [9, 4, 3, 19][round];
        let dir = slot_dir(&cluster, 1, &path(number));
        cluster.nodes[1].kill();
        damage(&dir);
        cluster.nodes[1].spawn();
        let wanted = round as u64 + 1;
        let known = poll(READY_DEADLINE, || (generations(&cluster, 1) == [wanted; 3]).then_some(()));
        assert!(known.is_some(), "{what}: the disk is still {:?}", generations(&cluster, 1));
        cluster.wait_ready(READY_DEADLINE);
        assert_whole(&cluster, count);
        assert_eq!(put_aside(&dir), aside, "{what}");
        assert_eq!(generations(&cluster, 1), [wanted; 3], "{what}: once is enough");
        assert_all_there(&cluster, count, &[1]);
    }
    let seen = load.stop();
    println!("{seen}");
    seen.assert_kept(&cluster.publics());
    // It counts again: with it and one other, nothing is missed. And a start finds nothing to complain of.
    cluster.nodes[1].terminate();
    cluster.nodes[1].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(generations(&cluster, 1), [DAMAGES.len() as u64; 3]);
    cluster.nodes[2].kill();
    assert_all_there(&cluster, count, &[0, 1]);
    seen.assert_kept(&[cluster.nodes[0].public, cluster.nodes[1].public]);
}

#[test]
fn a_database_that_is_put_back_in_an_older_state_has_no_voice() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 10);
    let dir = slot_dir(&cluster, 2, &path(4));
    assert!(cluster.nodes[2].terminate().success());
    let old = take(&dir);
    cluster.nodes[2].spawn();
    cluster.wait_ready(READY_DEADLINE);
    let newer = bytes(77, 150_000);
    put(&cluster, 0, &path(4), &newer).expect_status(201);
    // Only it and node 1 know of the delete.
    cluster.nodes[0].kill();
    let deleted = poll(READY_DEADLINE, || {
        let answer = cluster.send(1, &Request::new("DELETE", &format!("{}?version=1", object(&path(4)))));
        (answer.status == 200).then_some(())
    });
    assert!(deleted.is_some(), "never deleted");
    assert!(cluster.nodes[2].terminate().success());
    remove(&dir);
    old.iter().for_each(|(file, content)| fs::write(file, content).unwrap());
    // Without node 1 nobody but the old one and node 0, which did not hear of it, would be asked.
    cluster.nodes[1].kill();
    cluster.nodes[0].spawn();
    cluster.nodes[2].spawn();
    cluster.wait_unready(2, READY_DEADLINE, |why| why.contains("recover"));
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        for node in [0, 2] {
            let target = format!("{}?version=1", object(&path(4)));
            let answer = cluster.send(node, &Request::new("GET", &target));
            assert_eq!(
                answer.status, 503,
                "through {node}: it was deleted, and the old database does not know"
            );
        }
    }
    cluster.nodes[1].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(generations(&cluster, 2), [1; 3]);
    for node in 0..3 {
        let answer = cluster.send(node, &Request::new("GET", &object(&path(4))));
        assert!(answer.status == 200 && answer.body == newer, "through {node}: {}", answer.status);
        let answer = cluster.send(node, &Request::new("GET", &format!("{}?version=1", object(&path(4)))));
        assert_eq!(answer.status, 404, "through {node}");
    }
}

#[test]
fn damage_that_is_found_while_running_needs_no_restart() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 10);
    // More than a connection keeps in memory.
    let paths: Vec<String> = (0..)
        .map(|number| format!("same/{number}"))
        .filter(|it| slot_of(it) == slot_of("same"))
        .take(25)
        .collect();
    for (number, path) in paths.iter().enumerate() {
        put(&cluster, 1, path, &bytes(number as u64, 60_000)).expect_status(201);
    }
    let all: BTreeSet<String> = paths.iter().cloned().collect();
    replicas::wait_whole(&cluster.disks(), &all, 2, READY_DEADLINE).unwrap();
    let dir = slot_dir(&cluster, 1, "same");
    for name in &FILES[..2] {
        let file = fs::File::options().write(true).open(dir.join(name)).unwrap();
        let len = file.metadata().unwrap().len() as usize;
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes(5, len - 4096), 4096).unwrap();
    }
    let pid = cluster.nodes[1].pid();
    let noticed = poll(READY_DEADLINE, || {
        for (number, path) in paths.iter().enumerate() {
            for node in 0..3 {
                let answer = cluster.send(node, &Request::new("GET", &object(path)));
                assert!([200, 503].contains(&answer.status), "{path} through {node}: {}", answer.status);
                assert!(
                    answer.status != 200 || answer.body == bytes(number as u64, 60_000),
                    "{path} through {node}"
                );
            }
        }
        (generations(&cluster, 1) == [1; 3]).then_some(())
    });
    assert!(noticed.is_some(), "nobody noticed");
    cluster.wait_ready(READY_DEADLINE);
    replicas::wait_whole(&cluster.disks(), &all, 2, READY_DEADLINE).unwrap();
    assert_eq!(put_aside(&dir), 1);
    assert_eq!(cluster.nodes[1].pid(), pid, "the same process");
    assert!(cluster.nodes[1].ended().is_none());
    let metrics = cluster.nodes[1].admin_page("/metrics").unwrap().1;
    assert!(metrics.contains("amberblob_databases_lost_total 1"), "{metrics}");
    cluster.nodes[0].kill();
    assert_all_there(&cluster, 10, &[1]);
    assert_eq!(generations(&cluster, 1), [1; 3]);
}

#[test]
fn two_nodes_that_lose_different_databases_do_not_wait_for_each_other() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 30);
    for node in [0, 1] {
        assert!(cluster.nodes[node].terminate().success());
    }
    remove(&slot_dir(&cluster, 0, &path(4)));
    remove(&slot_dir(&cluster, 1, &path(9)));
    cluster.spawn_all();
    let known = poll(READY_DEADLINE, || {
        (generations(&cluster, 0) == [1; 3] && generations(&cluster, 1) == [1; 3]).then_some(())
    });
    assert!(known.is_some(), "{:?} {:?}", generations(&cluster, 0), generations(&cluster, 1));
    cluster.wait_ready(READY_DEADLINE);
    assert_whole(&cluster, 30);
    cluster.nodes[2].kill();
    assert_all_there(&cluster, 30, &[0, 1]);
}

#[test]
fn a_slot_that_a_quorum_has_lost_is_not_taken_for_an_empty_one() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 10);
    let mut kept = Vec::new();
    for node in [0, 1] {
        assert!(cluster.nodes[node].terminate().success());
        let dir = slot_dir(&cluster, node, &path(4));
        kept.push(take(&dir));
        fs::remove_dir_all(dir).unwrap();
    }
    cluster.spawn_all();
    for node in [0, 1] {
        cluster.wait_unready(node, READY_DEADLINE, |why| why.contains("are needed: bring back"));
    }
    for node in 0..3 {
        let answer = cluster.send(node, &Request::new("GET", &object(&path(4))));
        assert_eq!(answer.status, 503, "through {node}");
        let answer = put(&cluster, node, &path(4), b"again");
        assert_eq!(answer.status, 503, "through {node}");
    }
    // All others have recovered.
    for number in (0..10).filter(|number| *number != 4) {
        wait_until(READY_DEADLINE, "the other slots", || {
            let answer = cluster.send(0, &Request::new("GET", &object(&path(number))));
            answer.status == 200 && answer.body == body(number)
        });
    }
}

#[test]
fn a_node_that_is_killed_while_it_recovers_begins_again() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 30);
    let load = Steady::start(cluster.publics(), "load", 11);
    let mut random = Random::new(5);
    cluster.nodes[0].kill();
    for number in [4, 9, 14] {
        let dir = slot_dir(&cluster, 0, &path(number));
        remove(&dir);
        if number == 9 {
            fs::write(dir.join("meta.sqlite3"), bytes(1, 50_000)).unwrap();
        }
    }
    for _ in 0..6 {
        cluster.nodes[0].spawn();
        // Somewhere between its start and its recovery.
        let until = Instant::now() + Duration::from_millis(random.below(2500));
        wait_until(Duration::from_secs(3), "the moment", || Instant::now() >= until);
        cluster.nodes[0].kill();
    }
    cluster.nodes[0].spawn();
    cluster.wait_ready(READY_DEADLINE);
    let seen = load.stop();
    println!("{seen}");
    assert_whole(&cluster, 30);
    let settled = generation(&cluster.nodes[1].disks[0], 0);
    assert!(settled >= 1 && generations(&cluster, 0) == [settled; 3]);
    cluster.nodes[0].terminate();
    cluster.nodes[0].spawn();
    cluster.wait_ready(READY_DEADLINE);
    assert_eq!(generations(&cluster, 0), [settled; 3], "nothing is lost any more");
    cluster.nodes[1].kill();
    assert_all_there(&cluster, 30, &[0, 2]);
    seen.assert_kept(&[cluster.nodes[0].public, cluster.nodes[2].public]);
}

#[test]
fn a_disk_that_lost_its_list_of_births_recovers_as_a_whole() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    fill(&cluster, 10);
    for (round, rubbish) in [false, true].into_iter().enumerate() {
        assert!(cluster.nodes[1].terminate().success());
        let disk = cluster.nodes[1].disks[0].clone();
        // Nothing else tells that this one was there.
        fs::remove_dir_all(slot_dir(&cluster, 1, &path(4))).unwrap();
        for name in ["index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"] {
            let _ = fs::remove_file(disk.join(name));
        }
        if rubbish {
            fs::write(disk.join("born"), b"rubbish").unwrap();
        } else {
            fs::remove_file(disk.join("born")).unwrap();
        }
        cluster.nodes[1].spawn();
        let wanted = round as u64 + 1;
        let known = poll(READY_DEADLINE, || (generations(&cluster, 1)[0] >= wanted).then_some(()));
        assert!(known.is_some(), "{:?}", generations(&cluster, 1));
        cluster.wait_ready(READY_DEADLINE);
        assert_whole(&cluster, 10);
        assert_eq!(generations(&cluster, 1), [wanted; 3]);
        assert!(disk.join("born").is_file());
    }
    cluster.nodes[2].kill();
    assert_all_there(&cluster, 10, &[0, 1]);
}

#[test]
fn a_node_whose_disks_are_wiped_under_load_comes_back_by_itself() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape { disks: 2, ..Shape::of(3) });
    let load = Steady::start(cluster.publics(), "load", 3);
    wait_until(READY_DEADLINE, "some load", || load.acknowledged() > 100);
    for node in [1, 0] {
        let before = load.acknowledged();
        cluster.nodes[node].kill();
        // A new machine under the same name is one all of whose disks are new; and one of two disks may be.
        if node == 1 {
            cluster.nodes[node].wipe();
        } else {
            fs::remove_dir_all(&cluster.nodes[node].disks[1]).unwrap();
            fs::create_dir(&cluster.nodes[node].disks[1]).unwrap();
        }
        cluster.nodes[node].spawn();
        cluster.wait_ready(READY_DEADLINE);
        wait_until(READY_DEADLINE, "more load", || load.acknowledged() > before + 100);
        // Everything is on two of them before the next one is lost.
        replicas::wait_whole(&cluster.disks(), &load.stored(), 2, READY_DEADLINE).unwrap();
        assert!(cluster.nodes[node].disks.iter().all(|disk| disk.join("born").is_file()));
    }
    let seen = load.stop();
    println!("{seen}");
    assert!(seen.deleted() > 10);
    seen.assert_kept(&cluster.publics());
    let first = &cluster.nodes[1].disks[0];
    assert!(!chunk_files(first).is_empty() && generation(first, 1) == 1);
    // Only those that were wiped are left.
    cluster.nodes[2].kill();
    seen.assert_kept(&[cluster.nodes[0].public, cluster.nodes[1].public]);
}
