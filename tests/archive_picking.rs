//! What goes to the archive by itself: what is not read for long, and what is read least while a disk is too full. On small disks
//! more is written than they hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/store/nodes.rs"]
mod nodes;
#[path = "support/store/mod.rs"]
mod store;
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cluster::formation::READY_DEADLINE;
use mount::Mounted;
use nodes::Nodes;
use store::node::ask;
use store::proxy::ALWAYS;
use store::{DEADLINE, Fault, Node};
use support::{Connection, Random, Request, Response, bytes, object, skipped, slot_of, wait_until};

const MIB: usize = 1 << 20;
const BLOB: usize = 8 * MIB;
const DISK: u64 = 640 << 20;

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn what_is_not_read_for_long_goes_by_itself_and_what_is_read_stays() {
    let _alone = alone();
    let nodes = Nodes::start_with(3, "", "after = \"10s\"");
    let (cold, hot) = (bytes(1, MIB), bytes(2, MIB));
    nodes.put(0, "cold", &cold);
    nodes.put(0, "hot", &hot);
    nodes.put(0, "small", b"it lives in the database");
    let mut reads = 0;
    wait_until(DEADLINE, "the cold one to go everywhere", || {
        for node in 0..3 {
            nodes.get(node, "hot", "?consistency=local").expect_status(200);
        }
        reads += 1;
        thread::sleep(Duration::from_millis(500));
        (0..3).all(|node| nodes.files(node, "cold").is_empty())
    });
    nodes.wait_tidy(&["cold"]);
    assert_eq!(nodes.store.objects().len(), 1, "stored once, and nothing else, after {reads} reads");
    for node in 0..3 {
        assert_eq!(nodes.files(node, "hot").len(), 1, "it is read again and again at {node}");
        nodes.read(node, "cold", &cold);
    }
    // Nobody reads it any more.
    wait_until(DEADLINE, "the other one to go, too", || {
        (0..3).all(|node| nodes.files(node, "hot").is_empty())
    });
    (0..3).for_each(|node| nodes.read(node, "hot", &hot));
}

#[test]
fn what_a_replica_without_an_archive_does_not_store_another_one_does() {
    let _alone = alone();
    let mut nodes = Nodes::start_with(3, "", "after = \"3s\"");
    nodes.without_archive(0);
    let paths: Vec<String> = (0..8).map(|number| format!("cold/{number}")).collect();
    for (number, path) in paths.iter().enumerate() {
        nodes.put(number % 3, path, &bytes(number as u64, MIB));
    }
    let gone = |path: &String| (1..3).all(|node| nodes.files(node, path).is_empty());
    wait_until(DEADLINE, "the others to store all of it", || paths.iter().all(gone));
    for (number, path) in paths.iter().enumerate() {
        assert_eq!(nodes.files(0, path).len(), 1, "{path}: it lets go of nothing");
        (0..3).for_each(|node| nodes.read(node, path, &bytes(number as u64, MIB)));
    }
}

#[test]
fn small_chunks_of_a_slot_share_an_object_and_what_is_left_of_it_is_stored_anew() {
    let _alone = alone();
    let nodes = Nodes::start_with(3, "tombstone_grace = \"1s\"", "after = \"3s\"");
    let in_slot = |path: &String| slot_of(path) == 7;
    let paths: Vec<String> = (0..).map(|number| format!("small/{number}")).filter(in_slot).take(12).collect();
    let body = |number: usize| bytes(30 + number as u64, 100_000 + number * 1000);
    for (number, path) in paths.iter().enumerate() {
        nodes.put(number % 3, path, &body(number));
    }
    wait_until(DEADLINE, "all to go", || (0..3).all(|node| nodes.files(node, &paths[0]).is_empty()));
    nodes.wait_spread(&paths[0], paths.len());
    let objects = nodes.store.objects();
    let packs = objects.keys().filter(|key| key.ends_with(".pack")).count();
    assert!(objects.len() < paths.len() && packs > 0, "{objects:?}");
    for (number, path) in paths.iter().enumerate() {
        (0..3).for_each(|node| nodes.read(node, path, &body(number)));
    }
    let before: u64 = objects.values().sum();
    for path in &paths[2..] {
        nodes.cluster.send(0, &Request::new("DELETE", &object(path))).expect_status(200);
    }
    let stored = || nodes.store.objects().values().sum::<u64>();
    wait_until(DEADLINE, "what is not needed to go", || stored() * 2 < before);
    nodes.wait_spread(&paths[0], 2);
    nodes.wait_tidy(&[&paths[0]]);
    for (number, path) in paths[..2].iter().enumerate() {
        (0..3).for_each(|node| nodes.read(node, path, &body(number)));
    }
    let check = ask(nodes.cluster.nodes[0].admin, "POST", "/archive?check").unwrap().json();
    assert_eq!(check["good"], true, "{check}");
}

#[test]
fn a_store_that_takes_nothing_is_not_asked_again_and_again_to_take_what_is_left_of_a_pack() {
    let _alone = alone();
    let nodes = Nodes::start_with(3, "tombstone_grace = \"1s\"", "after = \"3s\"");
    let in_slot = |path: &String| slot_of(path) == 7;
    let paths: Vec<String> = (0..).map(|number| format!("small/{number}")).filter(in_slot).take(12).collect();
    for (number, path) in paths.iter().enumerate() {
        nodes.put(number % 3, path, &bytes(60 + number as u64, 100_000));
    }
    wait_until(DEADLINE, "all to go", || (0..3).all(|node| nodes.files(node, &paths[0]).is_empty()));
    nodes.wait_spread(&paths[0], paths.len());
    nodes.proxy.plan("PUT", Fault::Status(507), ALWAYS);
    let before = nodes.proxy.asked("PUT");
    for path in &paths[1..] {
        nodes.cluster.send(0, &Request::new("DELETE", &object(path))).expect_status(200);
    }
    wait_until(DEADLINE, "what is left to be sent", || nodes.proxy.asked("PUT") > before);
    thread::sleep(Duration::from_secs(10));
    let asked = nodes.proxy.asked("PUT") - before;
    assert!(asked <= 12, "{asked} times");
    (0..3).for_each(|node| nodes.read(node, &paths[0], &bytes(60, 100_000)));
}

/// Small file systems, or why there can be none.
fn disks(count: usize) -> Result<Vec<Mounted>, String> {
    (0..count).map(|_| Mounted::new(DISK)).collect()
}

/// Percent of a file system that are used.
fn used(disk: &Mounted) -> u64 {
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    (stat.f_blocks - stat.f_bavail) * 100 / stat.f_blocks
}

/// Begins at 70 percent of a disk, and ends at 60.
const MARKS: &str = "high_watermark = \"70%\"\nlow_watermark = \"60%\"";
/// So many are twice what a disk holds.
const BLOBS: usize = 2 * DISK as usize / BLOB;

/// A request whose answer may take long: an upload waits for room.
#[track_caller]
fn send(node: SocketAddr, request: &Request) -> Response {
    let mut link = Connection::open(node);
    link.set_read_timeout(DEADLINE);
    link.exchange(request).unwrap_or_else(|error| panic!("{} at {node}: {error}", request.method()))
}

/// Writes more than a disk holds, through all nodes in turn.
#[track_caller]
fn write_many(nodes: &[SocketAddr]) {
    for number in 0..BLOBS {
        let body = bytes(number as u64, BLOB);
        let put = Request::new("PUT", &object(&format!("many/{number}"))).body(&body);
        let until = Instant::now() + DEADLINE;
        loop {
            let answer = send(nodes[number % nodes.len()], &put);
            if answer.status == 201 {
                break;
            }
            // A client tries again.
            assert!(Instant::now() < until && [503, 507].contains(&answer.status), "{number}: {answer:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Reads all of it, whole through one node, and in a range through the next.
#[track_caller]
fn read_many(nodes: &[SocketAddr]) {
    let mut random = Random::new(7);
    for number in 0..BLOBS {
        let (path, body) = (format!("many/{number}"), bytes(number as u64, BLOB));
        let whole = Request::new("GET", &object(&path));
        let answer = send(nodes[number % nodes.len()], &whole).expect_status(200);
        assert!(answer.body == body, "{path}: other bytes");
        let from = random.below(BLOB as u64 - 70_000) as usize;
        let range = format!("bytes={from}-{}", from + 65_535);
        let request = Request::new("GET", &object(&path)).header("Range", &range);
        let answer = send(nodes[(number + 1) % nodes.len()], &request).expect_status(206);
        assert!(answer.body == body[from..from + 65_536], "{path} {range}: other bytes");
    }
}

#[test]
fn a_node_that_runs_alone_holds_more_than_its_disk() {
    let _alone = alone();
    let mounted = match disks(1) {
        Ok(mounted) => mounted,
        Err(why) => {
            return skipped(&format!("an archive for a small disk: no file system of its own: {why}"));
        }
    };
    let node = Node::start_on("", MARKS, Some(&mounted[0].path().join("data")));
    write_many(&[node.server.public()]);
    wait_until(DEADLINE, "the disk to be below its mark", || used(&mounted[0]) <= 70);
    read_many(&[node.server.public()]);
    assert!(node.metric("amberblob_archive_picked_by_watermark_total") > 0);
    node.wait_tidy();
    let named = node.named();
    assert!(named.values().all(|rows| *rows == 1), "{named:?}");
    drop(node);
}

#[test]
fn more_is_written_than_the_disks_hold_and_all_of_it_is_read() {
    let _alone = alone();
    let mounted = match disks(3) {
        Ok(mounted) => mounted,
        Err(why) => {
            return skipped(&format!("an archive for small disks: no file systems of its own: {why}"));
        }
    };
    let roots: Vec<Vec<PathBuf>> = mounted.iter().map(|disk| vec![disk.path().join("data")]).collect();
    let mut nodes = Nodes::start_on(3, "", MARKS, Some(&roots));
    let addresses = nodes.cluster.publics();
    write_many(&addresses);
    for disk in &mounted {
        wait_until(DEADLINE, "the disk to be below its mark", || used(disk) <= 70);
    }
    read_many(&addresses);
    assert!((0..3).all(|node| nodes.metric(node, "amberblob_archive_picked_by_watermark_total") > 0));
    // A new disk, too, gets more than it holds, and lets go of it as it comes.
    nodes.cluster.nodes[2].terminate();
    nodes.cluster.nodes[2].wipe();
    nodes.cluster.nodes[2].spawn();
    nodes.cluster.wait_ready(READY_DEADLINE);
    wait_until(DEADLINE, "the new disk to have its part of all", || {
        nodes.metric(2, "amberblob_hollow_versions") == 0
    });
    wait_until(DEADLINE, "the disk to be below its mark", || used(&mounted[2]) <= 70);
    for number in 0..BLOBS {
        nodes.read(2, &format!("many/{number}"), &bytes(number as u64, BLOB));
    }
    drop(nodes);
}
