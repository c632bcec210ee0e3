//! Damaged bytes: a read that meets them fails, and is never answered with other bytes; all else goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::fs::OpenOptions;
use std::io::ErrorKind;

use support::damage::{flip, flip_in_database};
use support::{Request, Server, assert_error, bytes, chunk_files, object, slot_dir, versions};

/// What one checksum covers.
const GRANULE: usize = 16 << 10;

#[test]
fn a_flipped_byte_of_a_small_blob_is_an_error_of_that_version_alone() {
    const LEN: usize = 60_000;
    let mut server = Server::start();
    for near in [100, GRANULE, LEN / 2, LEN - 200] {
        let path = format!("inline/{near}");
        let (hurt, sound) = (bytes(near as u64, LEN), bytes(near as u64 + 1, LEN));
        server.put(&path, &sound).expect_status(201);
        server.put(&path, &hurt).expect_status(201);
        server.put(&path, &sound).expect_status(201);
        assert!(chunk_files(&slot_dir(server.data(), &path)).is_empty(), "it lives in the database");
        assert!(server.terminate().success());
        flip_in_database(&slot_dir(server.data(), &path), &hurt, near);
        server.start_again();
        for round in 0..2 {
            assert_error(&server.get_at(&path, 2), 500, "Internal");
            let over = format!("bytes={near}-{}", near + 99);
            let target = format!("{}?version=2", object(&path));
            let part = server.request("GET", &target, &[("Range", &over)], b"");
            assert_error(&part, 500, "Internal");
            for version in [1, 3] {
                let answer = server.get_at(&path, version).expect_status(200);
                assert!(answer.body == sound, "version {version} in round {round}");
            }
        }
        assert_eq!(versions(&server, &path), [3, 2, 1]);
        assert_eq!(server.admin_get("/readyz").status, 200, "the slot stays in service");
        // It can be replaced and deleted as any other.
        assert_eq!(server.put(&path, &hurt).expect_status(201).json_u64("version"), 4);
        assert!(server.get(&path).expect_status(200).body == hurt);
        server.delete_at(&path, 2).expect_status(200);
        assert_error(&server.get_at(&path, 2), 404, "BlobNotFound");
    }
}

/// GETs bytes `from..to`; panics unless what came are the right bytes, or the first of them before the connection ended.
/// Says how many.
#[track_caller]
fn read_or_cut(server: &Server, path: &str, data: &[u8], from: usize, to: usize) -> usize {
    let mut link = server.connect();
    let range = format!("bytes={from}-{}", to - 1);
    link.send(&Request::new("GET", &object(path)).header("Range", &range)).unwrap();
    let head = link.read_head("GET").unwrap();
    if head.status == 500 {
        return 0;
    }
    assert_eq!(head.status, 206, "{range}: {head:?}");
    let mut got = Vec::new();
    let ended = link.read_exactly((to - from) as u64, &mut |piece: &[u8]| got.extend_from_slice(piece));
    match ended {
        Ok(()) => assert_eq!(got.len(), to - from),
        Err(error) => assert!(
            [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()),
            "{range} stops after {} bytes: {error}",
            got.len()
        ),
    }
    assert!(got == data[from..from + got.len()], "{range}: wrong bytes among the first {}", got.len());
    got.len()
}

#[test]
fn a_flipped_byte_in_a_chunk_file_fails_the_reads_over_it_and_no_others() {
    const LEN: usize = 12 << 20;
    /// In the third part of 2 MiB, and in none of its first granules.
    const AT: usize = (5 << 20) + 300_000;
    let mut server = Server::start();
    let data = bytes(42, LEN);
    server.put("file", &data).expect_status(201);
    assert!(server.get("file").expect_status(200).body == data);
    assert!(server.terminate().success());
    let files = chunk_files(&slot_dir(server.data(), "file"));
    assert_eq!(files.len(), 1);
    flip(&files[0].1, AT as u64);
    server.start_again();
    for round in 0..2 {
        // Whole reads of parts, and small ones of some granules.
        for (from, to) in
            [(0, 4 << 20), (0, 10), (AT - 200_000, AT - 150_000), (6 << 20, LEN), (LEN - 1, LEN)]
        {
            let got = read_or_cut(&server, "file", &data, from, to);
            assert_eq!(got, to - from, "{from}..{to} has no damage, round {round}");
        }
        for (from, to) in [(AT, AT + 1), (AT - 5, AT + 5), (4 << 20, 6 << 20), (1 << 20, LEN), (0, LEN)] {
            let got = read_or_cut(&server, "file", &data, from, to);
            assert!(from + got <= AT, "{got} bytes from {from} on reach over the damage, round {round}");
        }
        assert_error(&server.get_range("file", &format!("bytes={AT}-{}", AT + 9)), 500, "Internal");
        let head = server.head("file").expect_status(200);
        assert_eq!(head.header("content-length"), Some(LEN.to_string().as_str()));
    }
    assert_eq!(server.admin_get("/readyz").status, 200);
    server.put("file", &data).expect_status(201);
    assert!(server.get("file").expect_status(200).body == data);
}

#[test]
fn a_chunk_file_that_is_cut_off_or_gone_fails_the_reads_that_need_it() {
    const LEN: usize = 5 << 20;
    const KEPT: usize = 3 << 20;
    let mut server = Server::start();
    let data = bytes(43, LEN);
    server.put("cut", &data).expect_status(201);
    assert!(server.terminate().success());
    let files = chunk_files(&slot_dir(server.data(), "cut"));
    OpenOptions::new().write(true).open(&files[0].1).unwrap().set_len(KEPT as u64).unwrap();
    server.start_again();
    assert_eq!(read_or_cut(&server, "cut", &data, 0, 2 << 20), 2 << 20);
    assert!(read_or_cut(&server, "cut", &data, 0, LEN) <= KEPT);
    assert_error(&server.get_range("cut", &format!("bytes={}-", KEPT + 100)), 500, "Internal");
    std::fs::remove_file(&files[0].1).unwrap();
    server.restart();
    assert_error(&server.get("cut"), 500, "Internal");
    server.head("cut").expect_status(200);
    server.delete("cut").expect_status(200);
    assert_error(&server.get("cut"), 404, "BlobNotFound");
}
