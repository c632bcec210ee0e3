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

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mount::Mounted;
use nodes::Nodes;
use store::DEADLINE;
use support::{Random, Request, bytes, object, skipped, wait_until};

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

/// Small file systems, or why there can be none.
fn disks(count: usize) -> Result<Vec<Mounted>, String> {
    (0..count).map(|_| Mounted::new(DISK)).collect()
}

/// Percent of a file system that are used.
fn used(disk: &Mounted) -> u64 {
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    (stat.f_blocks - stat.f_bavail) * 100 / stat.f_blocks
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
    let nodes = Nodes::start_on(3, "", "high_watermark = \"70%\"\nlow_watermark = \"60%\"", Some(&roots));
    let blobs = 2 * DISK as usize / BLOB;
    for number in 0..blobs {
        let (path, body) = (format!("many/{number}"), bytes(number as u64, BLOB));
        let until = Instant::now() + DEADLINE;
        loop {
            let put = Request::new("PUT", &object(&path)).body(&body);
            let answer = nodes.cluster.send(number % 3, &put);
            if answer.status == 201 {
                break;
            }
            // A client tries again.
            assert!(Instant::now() < until && [503, 507].contains(&answer.status), "{number}: {answer:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }
    for disk in &mounted {
        wait_until(DEADLINE, "the disk to be below its mark", || used(disk) <= 70);
    }
    let mut random = Random::new(7);
    for number in 0..blobs {
        let (path, body) = (format!("many/{number}"), bytes(number as u64, BLOB));
        let answer = nodes.get(number % 3, &path, "").expect_status(200);
        assert!(answer.body == body, "{path}: other bytes");
        let from = random.below(BLOB as u64 - 70_000) as usize;
        let range = format!("bytes={from}-{}", from + 65_535);
        let request = Request::new("GET", &object(&path)).header("Range", &range);
        let answer = nodes.cluster.send((number + 1) % 3, &request).expect_status(206);
        assert!(answer.body == body[from..from + 65_536], "{path} {range}: other bytes");
    }
    assert!((0..3).all(|node| nodes.metric(node, "amberblob_archive_picked_by_watermark_total") > 0));
    drop(nodes);
}
