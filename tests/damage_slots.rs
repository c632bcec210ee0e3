//! A node that runs alone and has lost what a slot's database had: the slot is out of service, says so, and gives no version number
//! twice; all others go on. What was put back is taken back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{Server, assert_error, bytes, slot_dir, slot_of, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);
const FILES: [&str; 3] = ["meta.sqlite3", "meta.sqlite3-wal", "meta.sqlite3-shm"];

/// The lost one, and one that goes on.
const LOST: &str = "lost";
const KEPT: &str = "kept";

fn started() -> Server {
    assert_ne!(slot_of(LOST), slot_of(KEPT));
    let server = Server::start();
    for (path, seed) in [(LOST, 1), (KEPT, 2)] {
        server.put(path, &bytes(seed, 300_000)).expect_status(201);
        server.put(path, &bytes(seed + 10, 1000)).expect_status(201);
    }
    server
}

/// Of a slot's database, whatever there is.
fn take(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    FILES.iter().filter_map(|name| Some((dir.join(name), fs::read(dir.join(name)).ok()?))).collect()
}

fn remove(dir: &Path) {
    FILES.iter().for_each(|name| drop(fs::remove_file(dir.join(name))));
}

fn put_back(dir: &Path, files: &[(PathBuf, Vec<u8>)]) {
    remove(dir);
    files.iter().for_each(|(path, content)| fs::write(path, content).unwrap());
}

fn start_unready(server: &mut Server) {
    server.reconfigure(|builder| builder.wait_ready(false));
    server.start_again();
}

/// The lost slot answers nothing that it does not know, and the other one everything.
#[track_caller]
fn assert_out(server: &Server, why: &str) {
    wait_until(DEADLINE, &format!("/readyz to say '{why}'"), || {
        let ready = server.admin_get("/readyz");
        ready.status == 503 && ready.text().contains(why)
    });
    for answer in [server.get(LOST), server.get_at(LOST, 1), server.put(LOST, b"again"), server.delete(LOST)]
    {
        assert_error(&answer, 503, "SlotUnavailable");
    }
    let state = server.admin_get(&format!("/slots/{}", slot_of(LOST))).expect_status(200).json();
    assert_eq!(state["state"], "failed", "{state}");
    assert!(server.get(KEPT).expect_status(200).body == bytes(12, 1000));
    server.put("another", b"blob").expect_status(201);
}

#[track_caller]
fn assert_back(server: &mut Server) {
    assert!(server.terminate().success());
    server.reconfigure(|builder| builder.wait_ready(true));
    server.start_again();
    assert!(server.get_at(LOST, 1).expect_status(200).body == bytes(1, 300_000));
    assert_eq!(server.put(LOST, b"third").expect_status(201).json_u64("version"), 3);
}

#[test]
fn a_database_that_is_gone_is_no_empty_slot() {
    let mut server = started();
    for with_blobs in [true, false] {
        assert!(server.terminate().success());
        let dir = slot_dir(server.data(), LOST);
        let (files, blobs) = (take(&dir), dir.join("blobs"));
        remove(&dir);
        let aside = server.home().join("aside");
        if !with_blobs {
            // Nothing at all is left: only the disk's list tells that there was something.
            fs::rename(&blobs, &aside).unwrap();
            fs::remove_dir(&dir).unwrap();
        }
        start_unready(&mut server);
        assert_out(&server, "is gone");
        assert!(server.admin_get("/readyz").text().contains("put back a good copy"));
        assert!(!dir.join("meta.sqlite3").exists(), "nobody made another one");
        if !with_blobs {
            fs::create_dir_all(&dir).unwrap();
            fs::rename(&aside, &blobs).unwrap();
        }
        put_back(&dir, &files);
        if with_blobs {
            assert!(server.terminate().success());
            server.reconfigure(|builder| builder.wait_ready(true));
            server.start_again();
            assert!(server.get(LOST).expect_status(200).body == bytes(11, 1000));
        } else {
            assert_back(&mut server);
        }
    }
}

#[test]
fn a_damaged_database_stays_where_it_is_for_people_to_look_at() {
    let mut server = started();
    assert!(server.terminate().success());
    let dir = slot_dir(server.data(), LOST);
    let files = take(&dir);
    remove(&dir);
    fs::write(dir.join("meta.sqlite3"), bytes(9, 40_000)).unwrap();
    start_unready(&mut server);
    assert_out(&server, "meta.sqlite3: ");
    assert_eq!(fs::read(dir.join("meta.sqlite3")).unwrap(), bytes(9, 40_000));
    put_back(&dir, &files);
    assert_back(&mut server);
}

#[test]
fn a_database_that_is_older_than_it_was_gives_no_number_twice() {
    let mut server = started();
    assert!(server.terminate().success());
    let dir = slot_dir(server.data(), LOST);
    let old = take(&dir);
    server.start_again();
    assert_eq!(server.put(LOST, &bytes(21, 500)).expect_status(201).json_u64("version"), 3);
    assert!(server.terminate().success());
    let new = take(&dir);
    put_back(&dir, &old);
    start_unready(&mut server);
    assert_out(&server, "older than it was");
    assert!(server.terminate().success());
    put_back(&dir, &new);
    server.reconfigure(|builder| builder.wait_ready(true));
    server.start_again();
    assert!(server.get(LOST).expect_status(200).body == bytes(21, 500));
    assert_eq!(server.put(LOST, b"fourth").expect_status(201).json_u64("version"), 4);
    // Who wants the older one all the same says so by taking the index away, which is made again.
    assert!(server.terminate().success());
    put_back(&dir, &old);
    for name in ["index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"] {
        let _ = fs::remove_file(server.data().join(name));
    }
    server.start_again();
    assert!(server.get(LOST).expect_status(200).body == bytes(11, 1000));
}

#[test]
fn a_list_of_births_that_is_lost_is_refused_with_a_way_out() {
    let mut server = started();
    let list = server.data().join("born");
    assert_eq!(fs::metadata(&list).unwrap().len(), 264);
    assert!(server.terminate().success());
    let good = fs::read(&list).unwrap();
    for (bad, what) in [(None, "is missing"), (Some(&good[..100]), "is damaged")] {
        match bad {
            Some(bad) => fs::write(&list, bad).unwrap(),
            None => fs::remove_file(&list).unwrap(),
        }
        let refused = server.try_start_again().expect_err("a start without the list");
        let text = format!("{refused:?}");
        assert!(text.contains(what) && text.contains("amberblob.json"), "{text}");
    }
    // The way out: what is there is all there is.
    let identity = server.data().join("amberblob.json");
    let text = fs::read_to_string(&identity).unwrap();
    assert!(text.contains("\"births\": true"), "{text}");
    fs::write(&identity, text.replace("\"births\": true", "\"births\": false")).unwrap();
    server.start_again();
    assert_eq!(fs::read(&list).unwrap(), good, "made from the databases that are there");
    assert!(server.get(LOST).expect_status(200).body == bytes(11, 1000));
}

#[test]
fn a_disk_of_an_earlier_release_gets_its_list() {
    let mut server = started();
    assert!(server.terminate().success());
    let identity = server.data().join("amberblob.json");
    let text = fs::read_to_string(&identity).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old.as_object_mut().unwrap().remove("births").unwrap();
    fs::write(&identity, old.to_string()).unwrap();
    fs::remove_file(server.data().join("born")).unwrap();
    server.start_again();
    assert!(server.get(LOST).expect_status(200).body == bytes(11, 1000));
    assert!(server.terminate().success());
    let dir = slot_dir(server.data(), LOST);
    fs::rename(&dir, server.home().join("aside")).unwrap();
    start_unready(&mut server);
    assert_out(&server, "is gone");
}

#[test]
fn a_birth_that_was_cut_off_before_it_was_listed_is_listed_at_the_next_start() {
    let mut server = Server::start();
    server.put(KEPT, &bytes(12, 1000)).expect_status(201);
    let list = server.data().join("born");
    let before = fs::read(&list).unwrap();
    server.put(LOST, b"here").expect_status(201);
    assert_ne!(fs::read(&list).unwrap(), before, "it was listed before it was answered");
    server.kill9();
    fs::write(&list, before).unwrap();
    server.start_again();
    assert_eq!(server.get(LOST).expect_status(200).body, b"here");
    assert!(server.terminate().success());
    fs::remove_dir_all(slot_dir(server.data(), LOST)).unwrap();
    start_unready(&mut server);
    assert_out(&server, "is gone");
}
