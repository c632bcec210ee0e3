//! A start on a disk without a free byte: reads, listings and deletes work, and nothing is lost for want of space.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/mount.rs"]
mod mount;
mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use mount::{Mounted, fill};
use support::{Server, assert_error, assert_never_written, bytes, poll_until, wait_until};

const DISK: u64 = 200 << 20;
/// Space that came back must be found within this.
const SPACE_DEADLINE: Duration = Duration::from_secs(30);
const CONFIG: &str = "[storage]\ntombstone_grace = \"1s\"\n";

fn data_of(path: &str) -> Vec<u8> {
    let number: u64 = path.bytes().map(u64::from).sum();
    // Some live in databases, some in files.
    bytes(number, if number.is_multiple_of(2) { 50_000 } else { 900_000 })
}

/// A server on a disk of its own, with some blobs.
struct Small {
    server: Server,
    stored: Vec<String>,
    filler: PathBuf,
    // Last, so that it is unmounted after the server has gone.
    disk: Mounted,
}

impl Small {
    /// None where no disk can be mounted.
    fn new() -> Option<Self> {
        let disk = match Mounted::new(DISK) {
            Ok(disk) => disk,
            Err(why) => {
                support::skipped(&format!("a start on a full disk: {why}"));
                return None;
            }
        };
        let server = Server::builder().data_dir(disk.path().join("data")).config(CONFIG).start();
        let stored: Vec<String> = (0..40).map(|number| format!("full/{number:02}")).collect();
        for path in &stored {
            server.put(path, &data_of(path)).expect_status(201);
        }
        let ballast = server.data().join("ballast");
        wait_until(SPACE_DEADLINE, "the ballast to be taken", || {
            ballast.metadata().is_ok_and(|it| it.len() > 0)
        });
        let filler = disk.path().join("filler");
        Some(Self { server, stored, filler, disk })
    }

    fn stop(&mut self, kill: bool) {
        if kill {
            self.server.kill9();
        } else {
            assert!(self.server.terminate().success());
        }
    }

    /// Another program takes the last byte; the node, which does not run, cannot know.
    fn fill(&self) {
        fill(&self.filler);
        let left = rustix::fs::statvfs(self.disk.path().as_path()).unwrap();
        assert_eq!(left.f_bavail, 0, "blocks that are left");
    }

    fn assert_serves(&self) {
        for path in &self.stored {
            assert!(self.server.get(path).expect_status(200).body == data_of(path), "{path} reads otherwise");
        }
        let listing = self.server.list("").expect_status(200).json();
        let rows = listing["objects"].as_array().unwrap().iter();
        let listed: Vec<&str> = rows.map(|row| row["path"].as_str().unwrap()).collect();
        assert_eq!(listed, self.stored);
        assert_eq!(self.server.admin_get("/readyz").status, 200);
    }

    fn assert_refuses(&self) {
        for len in [10, 50_000, 500_000] {
            let path = format!("new/{len}");
            assert_error(&self.server.put(&path, &bytes(1, len)), 507, "DiskFull");
            assert_never_written(&self.server, &path);
        }
    }

    fn delete(&mut self, count: usize) {
        for path in self.stored.drain(..count) {
            self.server.delete(&path).expect_status(200);
            assert_error(&self.server.get(&path), 404, "BlobNotFound");
        }
    }

    fn put_once_there_is_space(&mut self) {
        let path = "full/again".to_owned();
        poll_until(SPACE_DEADLINE, "a PUT to find space again", || {
            let answer = self.server.put(&path, &data_of(&path));
            if answer.status != 201 {
                assert_error(&answer, 507, "DiskFull");
            }
            (answer.status == 201).then_some(())
        });
        self.stored.push(path);
    }

    fn assert_nothing_was_given_up(&self, index: u64) {
        let now = self.server.data().join("index.sqlite3").metadata().unwrap().ino();
        assert_eq!(now, index, "the listing index is another file");
        let log = self.server.stderr();
        for loss in ["no direct IO", "is made again", "out of service"] {
            assert!(!log.contains(loss), "a full disk is taken for {loss:?}");
        }
    }
}

#[test]
fn a_start_on_a_disk_without_a_free_byte_keeps_the_index_and_direct_io_and_serves() {
    let Some(mut small) = Small::new() else { return };
    let index = small.server.data().join("index.sqlite3").metadata().unwrap().ino();
    for kill in [false, true] {
        small.stop(kill);
        small.fill();
        small.server.start_again();
        small.assert_serves();
        small.assert_refuses();
        small.delete(3);
        small.assert_serves();
        small.assert_nothing_was_given_up(index);
        std::fs::remove_file(&small.filler).unwrap();
        let ballast = small.server.data().join("ballast");
        wait_until(SPACE_DEADLINE, "the ballast to be taken again", || {
            ballast.metadata().is_ok_and(|it| it.len() > 0)
        });
    }
    small.put_once_there_is_space();
    small.server.restart();
    small.stored.sort();
    small.assert_serves();
    small.assert_nothing_was_given_up(index);
}

#[test]
fn a_start_without_a_free_byte_and_without_the_ballast_recovers_when_space_comes_back() {
    let Some(mut small) = Small::new() else { return };
    let index = small.server.data().join("index.sqlite3").metadata().unwrap().ino();
    small.stop(true);
    std::fs::remove_file(small.server.data().join("ballast")).unwrap();
    small.fill();
    // It may be unable to read its databases, but not make a loss of that.
    small.server.reconfigure(|builder| builder.wait_ready(false));
    small.server.start_again();
    let answer = small.server.get(&small.stored[0]);
    assert!([200, 503].contains(&answer.status), "{answer:?}");
    assert!(!small.server.put("new", b"new").status.to_string().starts_with('2'), "there is no space");
    std::fs::remove_file(&small.filler).unwrap();
    wait_until(SPACE_DEADLINE, "the node to be ready again", || {
        small.server.admin_get("/readyz").status == 200
    });
    small.assert_serves();
    small.put_once_there_is_space();
    small.stored.sort();
    small.assert_serves();
    small.assert_nothing_was_given_up(index);
}
