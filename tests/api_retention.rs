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

use support::{Server, assert_error, bytes, chunk_files, versions, wait_until};

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
