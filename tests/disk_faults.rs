//! Disks that fail while a node runs on them: an error of a read, a write or a sync, one that is gone, one that does not answer, one
//! that is slow. The node stays, its other disk serves, other nodes serve the rest, and nothing that was acknowledged is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
#[path = "support/device/mod.rs"]
mod device;
#[path = "support/steady.rs"]
mod steady;
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Shape};
use device::{Disk, Fault, FileSystem, Op, Rig};
use steady::Steady;
use support::{Server, assert_error, bytes, slot_dir, wait_until};

/// A disk that has failed is known to have within this: what it has to answer a probe, and something.
const FAILED_DEADLINE: Duration = Duration::from_secs(75);

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three nodes of two disks each, of which the first one of node 1 is on a device.
struct Faulty {
    cluster: Cluster,
    // After the nodes, which must have closed what is on it.
    disk: Disk,
}

impl Faulty {
    fn start(what: &str) -> Option<Self> {
        let rig = Rig::or_skip(what)?;
        let disk = rig.disk("faulty", FileSystem::Ext4);
        let mut cluster = Cluster::prepare(Shape { disks: 2, ..Shape::of(3) });
        let data = disk.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, &cluster.nodes[1].disks[0]).unwrap();
        cluster.spawn_all();
        cluster.wait_ready(READY_DEADLINE);
        Some(Self { cluster, disk })
    }

    fn state(&self) -> Option<String> {
        let metrics = self.cluster.nodes[1].admin_page("/metrics").ok()?.1;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("amberblob_disk_state{") && line.contains("disk0"))?;
        line.rsplit(' ').next().map(str::to_owned)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // A test that fails must not fail once more.
        let _ = self.disk.try_set_faults(&[]);
    }
}

/// What becomes of a disk after it went wrong.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It is well again.
    Well,
    /// It is replaced by an empty one.
    Replaced,
}

/// One disk of one node goes wrong under load; then the node is started again.
fn fails(what: &str, faults: &[Fault], then: Then) {
    let _alone = alone();
    let Some(mut faulty) = Faulty::start(what) else { return };
    let load = Steady::start(faulty.cluster.publics(), "load", 5);
    wait_until(READY_DEADLINE, "some load", || load.acknowledged() > 200);
    faulty.disk.set_faults(faults);
    wait_until(FAILED_DEADLINE, &format!("{what}: the disk to be known as failed"), || {
        assert!(faulty.cluster.nodes[1].ended().is_none(), "{what}: the node is gone");
        faulty.state().as_deref() == Some("2")
    });
    faulty.cluster.wait_unready(1, READY_DEADLINE, |why| why.contains("has failed"));
    let before = load.acknowledged();
    wait_until(READY_DEADLINE, &format!("{what}: writes to go on"), || load.acknowledged() > before + 100);
    let seen = load.stop();
    println!("{what}: {seen}");
    seen.assert_kept(&faulty.cluster.publics());
    assert!(faulty.cluster.nodes[1].ended().is_none(), "{what}: the node is gone");
    // The disk may be well again; it is not believed before a start.
    faulty.disk.set_faults(&[]);
    let until = std::time::Instant::now() + Duration::from_secs(3);
    wait_until(Duration::from_secs(5), "some time", || {
        assert_eq!(faulty.state().as_deref(), Some("2"), "{what}");
        std::time::Instant::now() > until
    });
    faulty.cluster.nodes[1].kill();
    if then == Then::Well {
        faulty.disk.unmount().unwrap();
        faulty.disk.mount_again().unwrap();
    } else {
        std::fs::remove_file(&faulty.cluster.nodes[1].disks[0]).unwrap();
    }
    faulty.cluster.nodes[1].spawn();
    faulty.cluster.wait_ready(READY_DEADLINE);
    seen.assert_kept(&faulty.cluster.publics());
    faulty.cluster.terminate_all();
}

#[test]
fn a_disk_that_cannot_sync() {
    fails("a disk whose syncs fail", &[Fault::fail(&[Op::Flush])], Then::Well);
}

#[test]
fn a_disk_that_cannot_write() {
    fails("a disk whose writes fail", &[Fault::fail(&[Op::Write])], Then::Well);
}

#[test]
fn a_disk_that_cannot_read() {
    fails("a disk whose reads fail", &[Fault::fail(&[Op::Read])], Then::Well);
}

#[test]
fn a_disk_that_is_gone() {
    fails("a disk that is gone", &[Fault::gone()], Then::Replaced);
}

#[test]
fn a_disk_that_does_not_answer() {
    fails("a disk that does not answer", &[Fault::never(&[Op::Write, Op::Flush])], Then::Replaced);
}

#[test]
fn a_slow_disk_is_said_to_be_slow_and_serves() {
    let _alone = alone();
    let Some(mut faulty) = Faulty::start("a slow disk") else { return };
    let load = Steady::start(faulty.cluster.publics(), "load", 6);
    wait_until(READY_DEADLINE, "some load", || load.acknowledged() > 50);
    faulty.disk.set_faults(&[Fault::slow(&[Op::Flush], Duration::from_millis(1500))]);
    wait_until(READY_DEADLINE, "the disk to be slow", || faulty.state().as_deref() == Some("1"));
    let (status, page) = faulty.cluster.nodes[1].admin_page("/readyz").unwrap();
    assert!(status == 200 && page.contains("is slow"), "{status} {page}");
    let before = load.acknowledged();
    wait_until(READY_DEADLINE, "writes to go on", || load.acknowledged() > before + 20);
    faulty.disk.set_faults(&[]);
    wait_until(READY_DEADLINE, "the disk to be good", || faulty.state().as_deref() == Some("0"));
    let seen = load.stop();
    seen.assert_kept(&faulty.cluster.publics());
    faulty.cluster.terminate_all();
}

#[test]
fn a_node_that_runs_alone_serves_what_is_on_its_other_disk() {
    let _alone = alone();
    let Some(rig) = Rig::or_skip("a failed disk of a node that runs alone") else { return };
    let disk = rig.disk("faulty", FileSystem::Ext4);
    let home = tempfile::tempdir().unwrap();
    let data = [disk.path().join("data"), home.path().join("data")];
    let mut server = Server::builder().data_dir(&data[0]).data_dir(&data[1]).start();
    let paths: Vec<String> = (0..30).map(|number| format!("alone/{number}")).collect();
    for (number, path) in paths.iter().enumerate() {
        server
            .put(path, &bytes(number as u64, if number % 3 == 0 { 200_000 } else { 900 }))
            .expect_status(201);
    }
    let is_there = |path: &String| slot_dir(&data[0], path).join("meta.sqlite3").exists();
    let (lost, kept): (Vec<String>, Vec<String>) = paths.iter().cloned().partition(is_there);
    assert!(!lost.is_empty() && !kept.is_empty());
    disk.set_faults(&[Fault::fail(&[Op::Write, Op::Flush])]);
    wait_until(FAILED_DEADLINE, "the disk to be known as failed", || {
        server.admin_get("/readyz").text().contains("has failed")
    });
    for path in &lost {
        assert_error(&server.get(path), 503, "SlotUnavailable");
        assert_error(&server.put(path, b"x"), 503, "SlotUnavailable");
    }
    for path in &kept {
        let number = paths.iter().position(|it| it == path).unwrap();
        let answer = server.get(path).expect_status(200);
        assert!(answer.body == bytes(number as u64, if number % 3 == 0 { 200_000 } else { 900 }));
        server.put(path, b"again").expect_status(201);
    }
    disk.set_faults(&[]);
    server.kill9();
}
