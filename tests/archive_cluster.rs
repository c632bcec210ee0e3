//! The archive of a cluster: a chunk is stored once, every replica drops its file only when a quorum knows where it is, and whoever
//! was away, lost its disk or was killed hears of it before it judges anything missing.
//!
//! `ARCHIVE_KILL_ROUNDS` and `ARCHIVE_KILL_SEED` make the kills more, or the same again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
#[path = "support/store/nodes.rs"]
mod nodes;
#[path = "support/store/mod.rs"]
mod store;
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use cluster::formation::READY_DEADLINE;
use cluster::from_env;
use nodes::{Nodes, Row};
use store::DEADLINE;
use store::node::ask;
use support::{CHUNK, Random, Request, assert_error, bytes, encode_path, object, wait_until};

const GRACE: &str = "tombstone_grace = \"1s\"";
const MIB: usize = 1 << 20;

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_chunk_is_stored_once_and_all_replicas_let_go_of_it() {
    let _alone = alone();
    let nodes = Nodes::start(3);
    let body = bytes(1, CHUNK + 3 * MIB);
    nodes.put(0, "a", &body);
    nodes.wait_files("a", 2);
    let report = nodes.done(1, "archive", "a");
    assert_eq!(report["nodes"].as_array().unwrap().len(), 3, "{report}");
    assert_eq!((&report["chunks"], &report["versions"]), (&6.into(), &1.into()), "{report}");
    assert_eq!(nodes.store.objects().len(), 2, "one object for each chunk");
    nodes.wait_files("a", 0);
    let rows = nodes.wait_spread("a", 2);
    assert!(rows.iter().all(|row| row.generation == 1), "{rows:?}");
    for node in 0..3 {
        assert!(nodes.rows(node, "a").iter().all(|row| row.dropped));
        nodes.read(node, "a", &body);
        let chunks = nodes.get(node, "a", "?chunks").expect_status(200).json();
        assert!(chunks["chunks"].as_array().unwrap().iter().all(|chunk| chunk["location"] == "archived"));
    }
    let again = nodes.done(2, "archive", "a");
    assert_eq!((&again["chunks"], &again["already"]), (&0.into(), &6.into()), "{again}");
    let back = nodes.done(0, "restore", "a");
    assert_eq!(back["chunks"], 6, "{back}");
    nodes.wait_files("a", 2);
    let gets = nodes.proxy.asked("GET");
    (0..3).for_each(|node| nodes.read(node, "a", &body));
    assert_eq!(nodes.proxy.asked("GET"), gets, "what is here is read here");
    assert_eq!(nodes.store.objects().len(), 2, "they are kept");
    let once_more = nodes.done(0, "archive", "a");
    assert_eq!(once_more["chunks"], 6, "{once_more}");
    assert_eq!(nodes.proxy.asked("PUT"), 2, "and not stored again");
    let check = ask(nodes.cluster.nodes[0].admin, "POST", "/archive?check").unwrap().json();
    assert_eq!((&check["good"], &check["inventory"]["named"]), (&true.into(), &2.into()), "{check}");
}

#[test]
fn an_order_may_be_given_to_any_node_and_a_prefix_concerns_all() {
    let _alone = alone();
    let nodes = Nodes::start(4);
    let paths: Vec<String> = (0..6).map(|number| format!("some/{number}")).collect();
    for (number, path) in paths.iter().enumerate() {
        nodes.put(number % 4, path, &bytes(number as u64, MIB));
    }
    for (number, path) in paths.iter().enumerate() {
        let report = nodes.done((number + 1) % 4, "archive", path);
        assert_eq!(report["nodes"].as_array().unwrap().len(), 3, "its replicas alone: {report}");
    }
    assert_eq!(nodes.store.objects().len(), paths.len());
    for (number, path) in paths.iter().enumerate() {
        let body = bytes(number as u64, MIB);
        for node in 0..4 {
            // Once each: what is read three times comes back by itself.
            if (number + node) % 2 == 0 {
                let answer = nodes.get(node, path, "").expect_status(200);
                assert!(answer.body == body, "{path} at {node}: other bytes");
            } else {
                nodes.read_range(node, path, &body);
            }
        }
    }
    let target = format!("/restore/{}?prefix", encode_path("some/"));
    let report = ask(nodes.cluster.nodes[3].admin, "POST", &target).unwrap().json();
    assert_eq!((&report["good"], &report["chunks"]), (&true.into(), &18.into()), "{report}");
    let missing = ask(nodes.cluster.nodes[0].admin, "POST", "/archive/no/such").unwrap();
    assert_error(&missing, 404, "BlobNotFound");
}

#[test]
fn no_file_goes_while_too_few_know_where_the_chunk_is() {
    let _alone = alone();
    let mut nodes = Nodes::start(3);
    let body = bytes(2, 2 * MIB);
    nodes.put(0, "a", &body);
    nodes.wait_files("a", 1);
    for away in [1, 2] {
        nodes.cluster.nodes[away].terminate();
    }
    let report = nodes.order(0, "archive", "a");
    assert_eq!(report["good"], false, "{report}");
    let failed = report["failed"][0]["why"].as_str().unwrap();
    assert!(failed.contains("1 of the 2 nodes that must know where"), "{report}");
    assert_eq!(nodes.files(0, "a").len(), 1, "the file is still here");
    for away in [1, 2] {
        nodes.cluster.nodes[away].spawn();
    }
    nodes.cluster.wait_ready(READY_DEADLINE);
    // Without another order: who has a row tells the others of it.
    nodes.wait_spread("a", 1);
    nodes.done(1, "archive", "a");
    nodes.wait_files("a", 0);
    assert_eq!(nodes.store.objects().len(), 1);
    nodes.read(2, "a", &body);
}

#[test]
fn a_replica_that_was_away_serves_its_file_to_the_others_and_lets_go_of_it_without_an_upload() {
    let _alone = alone();
    let mut nodes = Nodes::start(3);
    let body = bytes(3, 3 * MIB);
    nodes.put(0, "a", &body);
    nodes.wait_files("a", 1);
    nodes.cluster.nodes[2].terminate();
    let report = nodes.order(0, "archive", "a");
    assert_eq!((&report["good"], &report["chunks"]), (&false.into(), &2.into()), "{report}");
    assert!(report["why"].as_str().unwrap().starts_with("node 'node-3': it does not answer"), "{report}");
    assert_eq!((nodes.files(0, "a").len(), nodes.files(1, "a").len()), (0, 0));
    nodes.cluster.nodes[2].spawn();
    nodes.cluster.wait_ready(READY_DEADLINE);
    nodes.wait_spread("a", 1);
    assert!(!nodes.rows(2, "a")[0].dropped, "it has its file");
    // Those that have none ask it before the store, which is away.
    nodes.proxy.down();
    wait_until(DEADLINE, "a node to know that the other one is back", || {
        nodes.get(0, "a", "").status == 200 && nodes.metric(0, "amberblob_archive_reads_elsewhere_total") > 0
    });
    nodes.read(0, "a", &body);
    nodes.proxy.heal();
    wait_until(DEADLINE, "the store to be good again", || nodes.order(2, "archive", "a")["good"] == true);
    nodes.wait_files("a", 0);
    assert_eq!((nodes.store.objects().len(), nodes.proxy.asked("PUT")), (1, 1));
    nodes.read(2, "a", &body);
}

#[test]
fn two_that_store_the_same_chunk_at_once_end_with_one_object() {
    let _alone = alone();
    let nodes = Nodes::start(3);
    let paths = ["r0", "r1", "r2", "r3", "r4"];
    for (round, path) in paths.iter().enumerate() {
        let body = bytes(40 + round as u64, 40 * MIB);
        nodes.put(0, path, &body);
        nodes.wait_files(path, 1);
        thread::scope(|scope| {
            for node in 0..3 {
                let nodes = &nodes;
                scope.spawn(move || nodes.order(node, "archive", path));
            }
        });
        wait_until(DEADLINE, "an order to be carried out by all", || {
            nodes.order(0, "archive", path)["good"] == true
        });
        nodes.wait_files(path, 0);
        nodes.wait_spread(path, 1);
        nodes.wait_tidy(&paths[..=round]);
        assert_eq!(nodes.store.objects().len(), round + 1);
        (0..3).for_each(|node| nodes.read(node, path, &body));
        // An object that had to go: there were two of the chunk. Else one of them was too fast for the others.
        if nodes.proxy.asked("DELETE") > 0 {
            return;
        }
    }
    panic!("no two nodes stored the same chunk in {} rounds", paths.len());
}

#[test]
fn an_object_goes_when_all_replicas_have_let_go_of_it_and_not_before() {
    let _alone = alone();
    let mut nodes = Nodes::start_with(3, GRACE, "");
    let body = bytes(5, MIB);
    for path in ["a", "kept"] {
        nodes.put(0, path, &body);
        // Also where a replica fetches its chunk yet.
        nodes.done(0, "archive", path);
    }
    nodes.cluster.nodes[2].terminate();
    nodes.cluster.send(0, &Request::new("DELETE", &object("a"))).expect_status(200);
    let is_left = |nodes: &Nodes, node: usize| nodes.rows(node, "a").is_empty();
    wait_until(DEADLINE, "the chunks to go", || is_left(&nodes, 0) && is_left(&nodes, 1));
    // Time in which it would be deleted.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(nodes.store.objects().len(), 2, "the node that is away may still name it");
    assert_eq!(nodes.proxy.asked("DELETE"), 0);
    nodes.cluster.nodes[2].spawn();
    nodes.cluster.wait_ready(READY_DEADLINE);
    wait_until(DEADLINE, "the object to go", || nodes.store.objects().len() == 1);
    nodes.wait_tidy(&["a", "kept"]);
    (0..3).for_each(|node| nodes.read(node, "kept", &body));
}

#[test]
fn a_disk_that_was_replaced_hears_where_everything_is() {
    let _alone = alone();
    let mut nodes = Nodes::start(3);
    let bodies: Vec<Vec<u8>> = (0..4).map(|number| bytes(10 + number, 2 * MIB)).collect();
    for (number, body) in bodies.iter().enumerate() {
        let path = format!("p{number}");
        nodes.put(0, &path, body);
        nodes.done(0, "archive", &path);
        nodes.wait_files(&path, 0);
        nodes.wait_spread(&path, 1);
    }
    nodes.cluster.nodes[1].terminate();
    nodes.cluster.nodes[1].wipe();
    nodes.cluster.nodes[1].spawn();
    nodes.cluster.wait_ready(READY_DEADLINE);
    for (number, body) in bodies.iter().enumerate() {
        let path = format!("p{number}");
        nodes.wait_spread(&path, 1);
        // Its own replica: filled from another one, which has it from the store.
        wait_until(DEADLINE, "the chunk to be here again", || {
            nodes.get(1, &path, "?consistency=local").status == 200 && nodes.files(1, &path).len() == 1
        });
        nodes.read(1, &path, body);
        nodes.done(1, "archive", &path);
        nodes.wait_files(&path, 0);
    }
    assert_eq!(nodes.proxy.asked("PUT"), 4, "nothing is stored again");
    nodes.wait_tidy(&["p0", "p1", "p2", "p3"]);
}

#[test]
fn a_node_without_an_archive_keeps_its_files_and_the_others_do_not_mind() {
    let _alone = alone();
    let mut nodes = Nodes::start_with(3, GRACE, "");
    nodes.without_archive(2);
    let body = bytes(6, MIB);
    nodes.put(0, "a", &body);
    nodes.wait_files("a", 1);
    let report = nodes.order(0, "archive", "a");
    assert!(report["why"].as_str().unwrap().contains("no [archive] in its config"), "{report}");
    assert_eq!((nodes.files(0, "a").len(), nodes.files(2, "a").len()), (0, 1), "{report}");
    assert_eq!(nodes.rows(2, "a")[0].target, nodes.rows(0, "a")[0].target, "it knows where the chunk is");
    (0..3).for_each(|node| nodes.read(node, "a", &body));
    nodes.cluster.send(2, &Request::new("DELETE", &object("a"))).expect_status(200);
    wait_until(DEADLINE, "the object to go", || nodes.store.objects().is_empty());
}

#[test]
fn a_replica_that_goes_silent_in_the_middle_of_an_order_is_not_waited_for() {
    let _alone = alone();
    let mut nodes = Nodes::start(3);
    let paths = ["s0", "s1", "s2", "s3", "s4"];
    for path in paths {
        let body = bytes(9, 60 * MIB);
        nodes.put(0, path, &body);
        nodes.wait_files(path, 1);
        let admin = nodes.cluster.nodes[0].admin;
        let report = thread::scope(|scope| {
            let order = scope.spawn(move || ask(admin, "POST", &format!("/archive/{path}")).unwrap().json());
            wait_until(DEADLINE, "the first to let go", || nodes.files(0, path).is_empty());
            nodes.cluster.nodes[2].pause();
            order.join().unwrap()
        });
        nodes.cluster.nodes[2].resume();
        wait_until(DEADLINE, "all to let go", || nodes.order(1, "archive", path)["good"] == true);
        nodes.read(2, path, &body);
        // Else it was too fast.
        if report["good"] != true {
            assert!(report.to_string().contains("does not answer any more"), "{report}");
            return;
        }
    }
    panic!("no node was silent in the middle of its part in {} rounds", paths.len());
}

#[test]
fn killed_at_any_time_no_chunk_is_lost_and_nothing_is_left_over() {
    let _alone = alone();
    let (rounds, seed) = (from_env("ARCHIVE_KILL_ROUNDS", 5), from_env("ARCHIVE_KILL_SEED", 1));
    let mut nodes = Nodes::start(3);
    let mut random = Random::new(seed);
    let paths = ["k0", "k1", "k2"];
    let bodies: Vec<Vec<u8>> = (0..3).map(|number| bytes(20 + number, 20 * MIB)).collect();
    let blobs: Vec<(&str, &[u8])> = paths.iter().copied().zip(bodies.iter().map(Vec::as_slice)).collect();
    for (path, body) in &blobs {
        nodes.put(0, path, body);
        nodes.wait_files(path, 1);
    }
    for round in 0..rounds {
        let victim = random.below(3) as usize;
        let what = if random.below(2) == 0 { "archive" } else { "restore" };
        let pause = Duration::from_millis(random.below(400));
        let admins: Vec<_> = nodes.cluster.nodes.iter().map(|node| node.admin).collect();
        thread::scope(|scope| {
            for (number, path) in paths.iter().enumerate() {
                let admin = admins[number % 3];
                // It may be cut off.
                scope.spawn(move || ask(admin, "POST", &format!("/{what}/{path}")));
            }
            thread::sleep(pause);
            nodes.cluster.nodes[victim].kill();
            nodes.audit(&blobs);
        });
        nodes.cluster.nodes[victim].spawn();
        nodes.cluster.wait_ready(READY_DEADLINE);
        for (path, body) in &blobs {
            let answer = nodes.get((victim + 1) % 3, path, "").expect_status(200);
            assert!(answer.body == **body, "seed {seed}, round {round}: {path} has other bytes");
        }
    }
    for (path, body) in &blobs {
        wait_until(DEADLINE, "all to let go", || nodes.order(0, "archive", path)["good"] == true);
        let rows: Vec<Row> = nodes.wait_spread(path, 1);
        assert_eq!(rows.len(), 1);
        (0..3).for_each(|node| nodes.read(node, path, body));
    }
    nodes.wait_tidy(&paths);
    for node in 0..3 {
        let check = ask(nodes.cluster.nodes[node].admin, "POST", "/archive?check").unwrap().json();
        assert_eq!(check["good"], true, "{check}");
    }
}
