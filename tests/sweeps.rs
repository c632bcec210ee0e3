//! What nothing names goes by itself, is counted by its kind, and takes nothing with it that is named or under way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::{Request, Server, bytes, chunk_files, object, slot_dir, wait_until};

const SWEPT: Duration = Duration::from_secs(60);

fn swept(server: &Server, kind: &str) -> u64 {
    let metrics = server.admin_get("/metrics").text();
    let line =
        metrics.lines().find(|line| line.starts_with(&format!("amberblob_swept_total{{kind=\"{kind}\"}}")));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn files_that_a_version_does_not_name_go_and_the_named_ones_stay() {
    let server = Server::builder().config("[storage]\ntombstone_grace = \"1s\"\n").start();
    server.put("swept", &bytes(1, 200_000)).expect_status(201);
    let named = chunk_files(&slot_dir(server.data(), "swept"));
    let chunks = named[0].1.parent().unwrap().to_owned();
    for name in ["7.tmp", &"ab".repeat(32)] {
        fs::write(chunks.join(name), b"left by somebody").unwrap();
    }
    // An upload that is under way all the while, into a slot of its own and into the same one.
    let body = bytes(2, 3 << 20);
    let mut uploads: Vec<_> = ["swept", "other"]
        .into_iter()
        .map(|path| {
            let request = Request::new("PUT", &object(path)).body(&body);
            let mut link = server.connect();
            link.send_raw(&request.encode_head()).unwrap();
            link.send_raw(&request.encode_body()[..2 << 20]).unwrap();
            (path, request, link)
        })
        .collect();
    wait_until(SWEPT, "both strays to go", || fs::read_dir(&chunks).unwrap().count() == 1);
    assert_eq!((swept(&server, "temporary"), swept(&server, "chunk")), (1, 1));
    assert_eq!(chunk_files(&chunks).len(), named.len());
    let until = Instant::now() + Duration::from_secs(3);
    wait_until(SWEPT, "some more looks", || Instant::now() > until);
    for (path, request, link) in &mut uploads {
        link.send_raw(&request.encode_body()[2 << 20..]).unwrap();
        link.read_response("PUT").unwrap().expect_status(201);
        assert!(server.get(path).expect_status(200).body == body, "{path}");
    }
    assert!(server.get_at("swept", 1).expect_status(200).body == bytes(1, 200_000));
    assert_eq!((swept(&server, "temporary"), swept(&server, "chunk")), (1, 1), "nothing else went");
}

#[test]
fn a_directory_that_no_row_names_goes_and_is_counted() {
    let mut server = Server::start();
    server.put("kept", &bytes(1, 200_000)).expect_status(201);
    let blobs = slot_dir(server.data(), "kept").join("blobs");
    assert!(server.terminate().success());
    let orphan = blobs.join("01M8PV55ERQ573Q53K9VCGG4HY");
    fs::create_dir_all(orphan.join("chunks")).unwrap();
    fs::write(orphan.join("chunks/0.tmp"), b"half an upload").unwrap();
    server.start_again();
    wait_until(SWEPT, "the orphan to go", || !orphan.exists());
    wait_until(SWEPT, "the orphan to be counted", || swept(&server, "directory") == 1);
    assert!(server.get("kept").expect_status(200).body == bytes(1, 200_000));
}
