//! Space: what comes back and when, what happens when there is none, and how several disks share it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/audit.rs"]
mod audit;
#[path = "support/mount.rs"]
mod mount;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use audit::{Depth, audit, children, chunks_inside};
use mount::{Mounted, fill};
use support::{
    CHUNK, Request, SMALL_CHUNK, Server, assert_error, bytes, object, plain_files, sha256_hex, slot_dir,
    versions, wait_until,
};

/// Space must come back within this.
const SWEEP_DEADLINE: Duration = Duration::from_secs(30);
const SHORT_GRACE: &str = "[storage]\ntombstone_grace = \"1s\"\n";

/// Bytes in chunk files and whatever else lies beside the databases.
fn weight(server: &Server) -> u64 {
    server.disks().iter().flat_map(|disk| plain_files(&disk.join("slots")).into_values()).sum()
}

#[test]
fn a_small_blob_leaves_the_database_after_the_grace_and_its_row_stays() {
    let mut server = Server::builder().config(SHORT_GRACE).start();
    let (gone, kept) = (bytes(200, SMALL_CHUNK), bytes(201, SMALL_CHUNK));
    server.put("small", &gone).expect_status(201);
    server.put("small", &kept).expect_status(201);
    server.delete_at("small", 1).expect_status(200);
    let slot = slot_dir(server.data(), "small");
    let holds = |data: &[u8]| {
        let file = plain_files(&slot).keys().any(|file| file.ends_with(sha256_hex(data)));
        file || chunks_inside(&slot).unwrap().contains(&sha256_hex(data))
    };
    assert!(holds(&kept));
    wait_until(SWEEP_DEADLINE, "the bytes of the deleted version to go", || !holds(&gone));
    assert!(holds(&kept));
    for round in ["before", "after"] {
        assert_eq!(versions(&server, "small"), [2, 1], "{round} a kill");
        assert_error(&server.put_at("small", 1, &gone), 409, "VersionConflict");
        assert_error(&server.get_at("small", 1), 404, "BlobNotFound");
        assert!(server.get("small").expect_status(200).body == kept);
        server.kill9();
        server.start_again();
    }
    assert_eq!(server.put("small", &gone).expect_status(201).json_u64("version"), 3);
}

#[test]
fn versions_beyond_those_kept_give_their_space_back() {
    let config = format!("{SHORT_GRACE}keep_versions = 2\n");
    let mut server = Server::builder().config(&config).start();
    const LEN: usize = 500_000;
    for version in 1..=6 {
        let put = server.put("history", &bytes(version, LEN)).expect_status(201);
        assert_eq!(put.json_u64("version"), version);
    }
    server.put("other", &bytes(9, LEN)).expect_status(201);
    wait_until(SWEEP_DEADLINE, "all but two versions to give their space back", || {
        weight(&server) == 3 * LEN as u64
    });
    for round in ["before", "after"] {
        for version in 1..=4 {
            assert_error(&server.get_at("history", version), 404, "BlobNotFound");
            assert_error(&server.put_at("history", version, &bytes(version, LEN)), 409, "VersionConflict");
        }
        for version in 5..=6 {
            assert!(server.get_at("history", version).expect_status(200).body == bytes(version, LEN));
        }
        assert_eq!(versions(&server, "history"), [6, 5, 4, 3, 2, 1], "{round} a restart");
        server.restart();
    }
}

#[test]
fn an_upload_that_is_refused_at_its_end_leaves_no_files() {
    let server = Server::start();
    let data = bytes(202, 300_000);
    server.put_at("refused", 1, &data).expect_status(201);
    let before = plain_files(&server.data().join("slots"));
    let other = bytes(203, CHUNK + 100_000);
    let wrong = format!("sha-256=:{}:", support::sha256_base64(b"others"));
    assert_error(&server.put_at("refused", 1, &other), 409, "VersionConflict");
    assert_error(&server.put_with("refused", &[("Repr-Digest", &wrong)], &other), 400, "DigestMismatch");
    server.put_at("refused", 1, &data).expect_status(200);
    wait_until(SWEEP_DEADLINE, "the files of refused uploads to go", || {
        plain_files(&server.data().join("slots")) == before && audit(server.data(), Depth::Names).is_empty()
    });
    assert_eq!(versions(&server, "refused"), [1]);
    assert!(server.get("refused").expect_status(200).body == data);
}

#[test]
fn an_upload_cut_off_by_a_kill_is_swept_after_the_start() {
    let mut server = Server::start();
    let kept = bytes(204, 300_000);
    server.put("kept", &kept).expect_status(201);
    let slots = server.data().join("slots");
    let before = plain_files(&slots);
    let mut links = Vec::new();
    for (path, sent) in [("kept", 3 << 20), ("fresh", CHUNK + (3 << 20))] {
        let mut link = server.connect();
        let put = Request::new("PUT", &object(path)).header("Content-Length", (3 * CHUNK).to_string());
        let files = plain_files(&slots).len();
        link.send_raw(&put.encode_head()).unwrap();
        link.send_raw(&bytes(205, sent)).unwrap();
        wait_until(SWEEP_DEADLINE, "the upload to have files", || plain_files(&slots).len() > files);
        links.push(link);
    }
    server.kill9();
    assert!(plain_files(&slots).len() > before.len(), "nobody but the next start can clean up");
    server.start_again();
    wait_until(SWEEP_DEADLINE, "the orphans to be swept", || {
        plain_files(&slots) == before && audit(server.data(), Depth::Names).is_empty()
    });
    assert!(server.get("kept").expect_status(200).body == kept);
    assert_eq!(versions(&server, "kept"), [1]);
    support::assert_never_written(&server, "fresh");
}

/// A server on a disk of its own that is too small, with what it stored until it refused more.
struct Full {
    server: Server,
    stored: Vec<String>,
    filler: PathBuf,
    // Last, so that it is unmounted after the server has gone.
    _disk: Mounted,
}

const PIECE: usize = 4 << 20;

fn piece(path: &str) -> Vec<u8> {
    bytes(path.len() as u64 + path.bytes().map(u64::from).sum::<u64>(), PIECE)
}

impl Full {
    /// Puts blobs until the server says that its disk is full; nothing where no disk can be made.
    fn new() -> Option<Self> {
        let disk = match Mounted::new(256 << 20) {
            Ok(disk) => disk,
            Err(why) => {
                support::skipped(&format!("a full disk: {why}"));
                return None;
            }
        };
        let server = Server::builder().data_dir(disk.path().join("data")).config(SHORT_GRACE).start();
        let mut stored = Vec::new();
        for number in 0.. {
            assert!(number < 100, "256 MiB hold 400");
            let path = format!("full/{number:02}");
            let answer = server.put(&path, &piece(&path));
            if answer.status != 201 {
                assert_error(&answer, 507, "DiskFull");
                support::assert_never_written(&server, &path);
                break;
            }
            stored.push(path);
        }
        assert!(stored.len() > 10, "256 MiB hold more than {} MiB", stored.len() * 4);
        let filler = disk.path().join("filler");
        Some(Self { server, stored, filler, _disk: disk })
    }

    /// Another program takes all that is left.
    fn fill(&self) {
        fill(&self.filler);
    }

    fn assert_serves(&self) {
        for path in &self.stored {
            assert!(self.server.get(path).expect_status(200).body == piece(path), "{path} reads otherwise");
        }
        let listing = self.server.list("").expect_status(200).json();
        let listed: Vec<&str> =
            listing["objects"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
        assert_eq!(listed, self.stored);
    }

    /// Deletes some, and panics unless they are gone.
    fn delete(&mut self, count: usize) {
        for path in self.stored.drain(..count) {
            self.server.delete(&path).expect_status(200);
            assert_error(&self.server.get(&path), 404, "BlobNotFound");
        }
    }

    fn assert_refuses(&self) {
        let etag = self.server.get(&self.stored[0]).header("etag").unwrap().to_owned();
        for (path, len) in [("new/small", 10), (&self.stored[0], 100), ("new/large", PIECE)] {
            let answer = self.server.put(path, &bytes(206, len));
            assert_error(&answer, 507, "DiskFull");
        }
        assert_eq!(
            self.server.get(&self.stored[0]).header("etag"),
            Some(etag.as_str()),
            "it was not replaced"
        );
    }

    /// Waits until a blob can be stored again.
    fn wait_for_space(&mut self) {
        let path = "full/again".to_owned();
        wait_until(SWEEP_DEADLINE, "a PUT to find space again", || {
            let answer = self.server.put(&path, &piece(&path));
            if answer.status != 201 {
                assert_error(&answer, 507, "DiskFull");
            }
            answer.status == 201
        });
        self.stored.push(path);
        self.stored.sort();
    }
}

#[test]
fn a_disk_that_the_server_filled_refuses_writes_serves_the_rest_and_recovers_by_deletes() {
    let Some(mut full) = Full::new() else { return };
    full.assert_serves();
    full.delete(8);
    full.assert_serves();
    full.wait_for_space();
    full.assert_serves();
    wait_until(SWEEP_DEADLINE, "what was refused to leave nothing", || {
        audit(full.server.data(), Depth::Names).is_empty()
    });
}

#[test]
fn a_disk_that_somebody_else_filled_to_the_last_byte_still_serves_reads_and_deletes() {
    let Some(mut full) = Full::new() else { return };
    full.fill();
    full.assert_serves();
    full.assert_refuses();
    full.delete(5);
    full.assert_serves();
    std::fs::remove_file(&full.filler).unwrap();
    full.delete(5);
    full.wait_for_space();
    full.assert_serves();
    wait_until(SWEEP_DEADLINE, "what was refused to leave nothing", || {
        audit(full.server.data(), Depth::Names).is_empty()
    });
}

#[test]
fn a_server_that_starts_on_a_full_disk_serves_reads_and_deletes() {
    let Some(mut full) = Full::new() else { return };
    full.fill();
    for kill in [true, false] {
        if kill {
            full.server.kill9();
        } else {
            assert!(full.server.terminate().success());
        }
        full.server.start_again();
        full.assert_serves();
        full.assert_refuses();
        full.delete(1);
        full.assert_serves();
    }
    std::fs::remove_file(&full.filler).unwrap();
    full.delete(5);
    full.wait_for_space();
    full.assert_serves();
}

/// The slots that have a directory on a disk.
fn slots_on(disk: &Path) -> BTreeSet<String> {
    children(&disk.join("slots"))
        .iter()
        .map(|slot| slot.file_name().unwrap().to_string_lossy().into_owned())
        .collect()
}

/// A server over these disks, in this order.
fn over(disks: &[PathBuf]) -> support::Builder {
    disks.iter().fold(Server::builder(), |builder, disk| builder.data_dir(disk))
}

/// Blobs in many slots, and what they are.
fn spread(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let mut link = server.connect();
    let blobs = (0..240_u64).map(|number| {
        let data = bytes(number, if number % 4 == 0 { 70_000 } else { 500 });
        let path = format!("spread/{number}");
        link.exchange(&Request::new("PUT", &object(&path)).body(&data)).unwrap().expect_status(201);
        (path, data)
    });
    blobs.collect()
}

fn assert_all(server: &Server, blobs: &BTreeMap<String, Vec<u8>>) {
    let mut link = server.connect();
    for (path, data) in blobs {
        let answer = link.exchange(&Request::new("GET", &object(path))).unwrap().expect_status(200);
        assert!(answer.body == *data, "{path} reads otherwise");
    }
    let listing = server.list("limit=10000").expect_status(200).json();
    assert_eq!(listing["objects"].as_array().unwrap().len(), blobs.len());
}

#[test]
fn slots_are_spread_over_all_disks_and_found_again_in_any_order_of_them() {
    let mut server = Server::builder().disks(3).start();
    let blobs = spread(&server);
    let disks = server.disks().to_vec();
    let slots: Vec<BTreeSet<String>> = disks.iter().map(|disk| slots_on(disk)).collect();
    let all: BTreeSet<&String> = slots.iter().flatten().collect();
    assert_eq!(all.len(), slots.iter().map(BTreeSet::len).sum::<usize>(), "each slot is on one disk");
    for (disk, slots) in disks.iter().zip(&slots) {
        let (found, fair) = (slots.len(), all.len() / 3);
        assert!(
            found > fair / 2 && found < 2 * fair,
            "{} has {found} of {} slots",
            disk.display(),
            all.len()
        );
    }
    for order in [[2, 0, 1], [1, 0, 2], [0, 1, 2]] {
        let disks: Vec<PathBuf> = order.iter().map(|&disk| disks[disk].clone()).collect();
        assert!(server.terminate().success());
        server.reconfigure(|_| over(&disks));
        server.start_again();
        assert_all(&server, &blobs);
        let put = server.put("spread/0", &blobs["spread/0"]).expect_status(201);
        assert!(put.json_u64("version") > 1, "in order {order:?} it is the same path");
    }
    for (disk, slots) in disks.iter().zip(&slots) {
        assert_eq!(&slots_on(disk), slots, "no slot has moved to {}", disk.display());
        assert_eq!(audit(disk, Depth::Bytes), [""; 0]);
    }
}

#[test]
fn a_start_with_a_disk_missing_or_an_empty_one_in_its_place_is_refused_with_the_reason() {
    let mut server = Server::builder().disks(3).start();
    let blobs = spread(&server);
    let disks = server.disks().to_vec();
    assert!(server.terminate().success());
    let away = server.home().join("away");

    let assert_refused = |server: &mut Server, given: &[PathBuf], what: &str| {
        server.reconfigure(|_| over(given));
        let refused = server.try_start_again().expect_err(what);
        assert_eq!(refused.status.code(), Some(1), "{what}: {refused:?}");
        assert!(
            refused.stderr.to_lowercase().contains("disk"),
            "{what}: it does not say what is wrong: {refused:?}"
        );
        assert_eq!(refused.stderr.trim().lines().count(), 1, "{what}: an error is one line: {refused:?}");
    };
    for missing in 0..3 {
        let given: Vec<PathBuf> =
            disks.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, disk)| disk.clone()).collect();
        assert_refused(&mut server, &given, "a disk that is not named");
    }
    let mut more = disks.clone();
    more.push(server.home().join("fourth"));
    assert_refused(&mut server, &more, "a disk more, which would move slots");
    for swapped in 0..3 {
        std::fs::rename(&disks[swapped], &away).unwrap();
        assert_refused(&mut server, &disks, "a disk that is not there");
        let _ = std::fs::remove_dir_all(&disks[swapped]);
        std::fs::create_dir(&disks[swapped]).unwrap();
        assert_refused(&mut server, &disks, "an empty one in its place");
        let written: u64 = plain_files(&disks[swapped]).into_values().sum();
        assert_eq!((written, slots_on(&disks[swapped]).len()), (0, 0), "nothing was written to it");
        std::fs::remove_dir_all(&disks[swapped]).unwrap();
        std::fs::rename(&away, &disks[swapped]).unwrap();
    }
    server.reconfigure(|_| over(&disks));
    server.start_again();
    assert_all(&server, &blobs);
}
