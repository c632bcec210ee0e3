//! What the configuration says about old versions: how long their bytes stay, and how many of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::time::Duration;

use support::{Request, Server, assert_error, bytes, chunk_files, object, versions, wait_until};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn the_chunks_of_a_deleted_version_go_after_the_grace_time_and_its_number_stays_taken() {
    let mut server = Server::builder().config("[storage]\ntombstone_grace = \"1s\"\n").start();
    let old = bytes(100, 300_000);
    let new = bytes(101, 300_000);
    server.put("grace", &old).expect_status(201);
    server.put("grace", &new).expect_status(201);
    server.put("other", &old).expect_status(201);
    assert_eq!(chunk_files(server.data()).len(), 3);
    server.delete_at("grace", 1).expect_status(200);
    wait_until(SOON, "the chunk of the deleted version to go", || chunk_files(server.data()).len() == 2);
    server.delete("grace").expect_status(200);
    wait_until(SOON, "the chunk of the newest version to go", || chunk_files(server.data()).len() == 1);
    assert!(server.get("other").expect_status(200).body == old, "the same bytes under another path stay");
    for round in ["before", "after"] {
        assert_eq!(versions(&server, "grace"), [2, 1], "{round} a restart");
        for version in [1, 2] {
            assert_error(&server.get_at("grace", version), 404, "BlobNotFound");
            assert_error(&server.put_at("grace", version, &old), 409, "VersionConflict");
        }
        server.restart();
    }
    assert_eq!(server.put("grace", &new).expect_status(201).json_u64("version"), 3);
    assert!(server.get("grace").expect_status(200).body == new);
}

#[test]
fn within_the_grace_time_nothing_goes() {
    let mut server = Server::start();
    server.put("grace", &bytes(102, 300_000)).expect_status(201);
    server.delete("grace").expect_status(200);
    server.restart();
    assert_eq!(chunk_files(server.data()).len(), 1, "the default grace time is a day");
}

#[test]
fn only_as_many_versions_are_kept_as_configured() {
    let server = Server::builder().config("[storage]\nkeep_versions = 2\n").start();
    for version in 1..=5_u64 {
        let put = server.put("kept", format!("v{version}").as_bytes()).expect_status(201);
        assert_eq!(put.json_u64("version"), version);
    }
    wait_until(SOON, "older versions to be tombstoned", || server.get_at("kept", 3).status == 404);
    assert_eq!(server.get("kept").expect_status(200).body, b"v5");
    assert_eq!(server.get_at("kept", 4).expect_status(200).body, b"v4");
    for version in 1..=3 {
        assert_error(&server.get_at("kept", version), 404, "BlobNotFound");
    }
    assert_eq!(versions(&server, "kept"), [5, 4, 3, 2, 1], "as tombstones");
    assert_eq!(server.put("single", b"x").expect_status(201).json_u64("version"), 1);
    server.get_at("single", 1).expect_status(200);
}

#[test]
fn all_versions_are_kept_unless_configured() {
    let server = Server::start();
    for version in 1..=30_u64 {
        server.put("all", format!("v{version}").as_bytes()).expect_status(201);
    }
    for version in 1..=30_u64 {
        assert_eq!(server.get_at("all", version).expect_status(200).body, format!("v{version}").as_bytes());
    }
}

#[test]
fn a_lower_version_put_where_only_the_newest_are_kept_is_readable_right_after() {
    let server = Server::builder().config("[storage]\nkeep_versions = 2\n").start();
    for version in [10, 20, 30] {
        server.put_at("low", version, format!("v{version}").as_bytes()).expect_status(201);
    }
    assert_error(&server.get_at("low", 10), 404, "BlobNotFound");
    for version in [5, 25] {
        let data = format!("v{version}");
        server.put_at("low", version, data.as_bytes()).expect_status(201);
        assert_eq!(server.get_at("low", version).expect_status(200).body, data.as_bytes());
        server.put_at("low", version, data.as_bytes()).expect_status(200);
    }
    assert_eq!(server.get("low").expect_status(200).body, b"v30");
    assert_eq!(server.put("low", b"v31").expect_status(201).json_u64("version"), 31);
    assert_eq!(server.get("low").expect_status(200).body, b"v31");
    assert_eq!(server.get_at("low", 30).expect_status(200).body, b"v30");
    for version in [5, 10, 20, 25] {
        assert_error(&server.get_at("low", version), 404, "BlobNotFound");
    }
    assert_eq!(versions(&server, "low"), [31, 30, 25, 20, 10, 5], "as tombstones");
}

/// Bytes that the databases take, with their logs.
fn databases(server: &Server) -> u64 {
    let slots = std::fs::read_dir(server.data().join("slots")).unwrap().map_while(Result::ok);
    let files = slots.flat_map(|slot| std::fs::read_dir(slot.path()).unwrap().map_while(Result::ok));
    let kept = files.filter(|file| !file.file_name().to_string_lossy().ends_with("-shm"));
    kept.filter_map(|file| file.metadata().ok()).filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

#[test]
fn many_small_blobs_that_were_deleted_give_their_space_back_to_the_file_system() {
    const COUNT: u64 = 200;
    const LEN: usize = 60_000;
    let mut server = Server::builder().config("[storage]\ntombstone_grace = \"1s\"\n").start();
    let kept = bytes(102, LEN);
    let mut link = server.connect();
    for number in 1..=COUNT {
        let put = Request::new("PUT", &object("many")).body(bytes(number, LEN));
        link.exchange(&put).unwrap().expect_status(201);
    }
    server.put("many", &kept).expect_status(201);
    assert_eq!(chunk_files(server.data()).len(), 0, "they live in the database");
    let before = databases(&server);
    assert!(before > COUNT * LEN as u64, "{before} bytes of {COUNT} blobs");
    for number in 1..=COUNT {
        let delete = Request::new("DELETE", &format!("{}?version={number}", object("many")));
        link.exchange(&delete).unwrap().expect_status(200);
    }
    wait_until(SOON, "the databases to be small again", || databases(&server) < before / 10);
    for round in ["before", "after"] {
        assert!(server.get("many").expect_status(200).body == kept, "{round} a kill");
        assert_eq!(versions(&server, "many").len() as u64, COUNT + 1, "{round} a kill");
        assert_error(&server.get_at("many", 1), 404, "BlobNotFound");
        server.kill9();
        server.start_again();
    }
    assert!(databases(&server) < before / 10);
}
