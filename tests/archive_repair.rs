//! The archive as a second copy, and damage beside it: what is damaged here comes back from the store, and what is damaged
//! before it is archived stays where it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/store/mod.rs"]
mod store;
mod support;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use store::node::PREFIX;
use store::{BUCKET, DEADLINE, Node};
use support::damage::flip;
use support::program::Ended;
use support::{assert_error, bytes, sha256_hex, slot_dir, wait_until};

const MIB: usize = 1 << 20;

fn scrub(node: &Node) -> Ended {
    node.run(&["scrub", "--json"])
}

/// A blob that is here and in the store; its file.
fn put_both(node: &Node, path: &str, body: &[u8]) -> PathBuf {
    node.put_archived(path, body);
    node.restore(path);
    node.file(path)
}

fn is_whole(file: &Path, body: &[u8]) -> bool {
    fs::read(file).is_ok_and(|now| now == body)
}

/// Waits until a file is as it should be, and nothing is known to be damaged.
fn wait_repaired(node: &Node, file: &Path, body: &[u8]) {
    wait_until(DEADLINE, "the file to be repaired", || is_whole(file, body));
    wait_until(DEADLINE, "its end", || node.metric("amberblob_damaged_chunks") == 0);
    let ready = node.server.admin_get("/readyz").expect_status(200).json();
    assert_eq!(ready, json!({ "ready": true }));
}

#[test]
fn a_read_over_damage_goes_on_with_the_archives_bytes_and_the_file_is_repaired() {
    let mut node = Node::start();
    let body = bytes(1, 12 * MIB);
    let file = put_both(&node, "file", &body);
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("flipped in the first piece", |file| flip(file, 10)),
        ("flipped further on", |file| {
            flip(file, (5 << 20) + 1);
            flip(file, (5 << 20) + 900_000);
            flip(file, (12 << 20) - 5);
        }),
        ("cut", |file| OpenOptions::new().write(true).open(file).unwrap().set_len(3 << 20).unwrap()),
        ("gone", |file| fs::remove_file(file).unwrap()),
    ];
    for (what, damage) in damages {
        // Stopped, so that nothing is in memory and no file is open.
        assert!(node.server.terminate().success());
        damage(&file);
        node.server.start_again();
        assert!(node.server.get("file").expect_status(200).body == body, "{what}");
        wait_repaired(&node, &file, &body);
        assert_eq!(node.places("file"), ["local"], "{what}");
        let gets = node.proxy.asked("GET");
        assert!(node.server.get("file").expect_status(200).body == body, "{what}");
        assert_eq!(node.proxy.asked("GET"), gets, "{what}: it is read here again");
    }
    assert_eq!(node.store.objects().len(), 1);
}

#[test]
fn the_scrub_repairs_from_the_archive_what_is_in_it_and_names_the_rest() {
    let mut node = Node::start();
    let (body, other) = (bytes(2, 5 * MIB), bytes(3, 5 * MIB));
    let both = put_both(&node, "both", &body);
    let gone = put_both(&node, "gone", &other);
    node.server.put("alone", &body).expect_status(201);
    let alone = node.file("alone");
    assert!(node.server.terminate().success());
    flip(&both, 3 << 20);
    flip(&alone, 3 << 20);
    fs::remove_file(&gone).unwrap();
    let damaged = fs::read(&alone).unwrap();
    node.server.start_again();
    let report = scrub(&node).expect_code(1).json();
    let counts = ["chunks", "damaged", "repaired", "unrepaired"].map(|name| report[name].clone());
    assert_eq!(counts, [json!(3), json!(3), json!(2), json!(1)], "{report}");
    assert!(is_whole(&both, &body) && is_whole(&gone, &other));
    assert!(fs::read(&alone).unwrap() == damaged, "it is left as it was");
    let ready = node.server.admin_get("/readyz").expect_status(200).json();
    assert_eq!(ready["damaged_chunks"], 1, "{ready}");
    assert_error(&node.server.get_range("alone", &format!("bytes={0}-{0}", 3 << 20)), 500, "Internal");
    assert!(node.server.get("both").expect_status(200).body == body);
    // What was repaired is as good as before.
    node.archive("both");
    assert!(node.server.get("both").expect_status(200).body == body);
}

#[test]
fn the_scrub_leaves_alone_what_is_in_the_archive_alone() {
    let node = Node::start();
    let body = bytes(4, 3 * MIB);
    for path in ["away/1", "away/2"] {
        node.put_archived(path, &body);
    }
    node.server.put("here", &body).expect_status(201);
    node.server.put("small", &bytes(5, 1000)).expect_status(201);
    node.proxy.down();
    let report = scrub(&node).expect_code(0).json();
    let counts = ["good", "chunks", "damaged"].map(|name| report[name].clone());
    assert_eq!(counts, [json!(true), json!(2), json!(0)], "{report}");
    let ready = node.server.admin_get("/readyz").expect_status(200).json();
    assert!(ready.get("damaged_chunks").is_none(), "{ready}");
    node.proxy.heal();
    for path in ["away/1", "away/2", "here"] {
        assert!(node.server.get(path).expect_status(200).body == body, "{path}");
    }
}

#[test]
fn a_damaged_chunk_is_not_archived_and_not_dropped() {
    let mut node = Node::start();
    let body = bytes(6, 5 * MIB);
    node.server.put("damaged", &body).expect_status(201);
    node.server.put("sound", &body).expect_status(201);
    let file = node.file("damaged");
    assert!(node.server.terminate().success());
    flip(&file, (3 << 20) + 7);
    let damaged = fs::read(&file).unwrap();
    node.server.start_again();
    let why = node.failed("archive", "damaged");
    assert!(!why.is_empty());
    let report = node.run(&["archive", "damaged", "--json"]).expect_code(1).json();
    let failed = report["failed"].as_array().unwrap();
    assert!(!failed.is_empty(), "{report}");
    assert_eq!((&failed[0]["path"], &failed[0]["version"]), (&json!("damaged"), &json!(1)), "{report}");
    assert!(failed[0]["why"].as_str().is_some_and(|why| !why.is_empty()), "{report}");
    assert!(fs::read(&file).unwrap() == damaged, "it is left as it was");
    assert_eq!(node.places("damaged"), ["local"]);
    assert!(node.named().is_empty(), "no row names what was uploaded of it");
    wait_until(DEADLINE, "the damage to be named", || {
        node.server.admin_get("/readyz").json()["damaged_chunks"] == json!(1)
    });
    // What is sound of it is served, and so is all else.
    let sound = node.server.get_range("damaged", "bytes=0-999999").expect_status(206);
    assert!(sound.body == body[..1_000_000]);
    node.archive("sound");
    assert!(node.server.get("sound").expect_status(200).body == body);
    node.server.restart();
    node.wait_tidy();
    assert_eq!(node.store.objects().len(), 1);
    // Once it is good again, it goes.
    flip(&file, (3 << 20) + 7);
    node.server.restart();
    node.archive("damaged");
    assert!(node.server.get("damaged").expect_status(200).body == body);
}

#[test]
fn a_copy_that_was_damaged_after_it_came_back_is_not_dropped_before_it_is_looked_at() {
    let mut node = Node::start();
    let body = bytes(7, 5 * MIB);
    let file = put_both(&node, "file", &body);
    let puts = node.proxy.asked("PUT");
    assert!(node.server.terminate().success());
    flip(&file, 4 << 20);
    node.server.start_again();
    // It is damaged, and that is said; or it was repaired from the store first. Never is it uploaded.
    let ended = node.run(&["archive", "file", "--json"]);
    let report = ended.json();
    assert_eq!(ended.status.success(), report["good"] == json!(true), "{report}");
    assert_eq!(node.proxy.asked("PUT"), puts);
    assert!(node.server.get("file").expect_status(200).body == body);
    wait_until(DEADLINE, "the file to be good or gone", || !file.exists() || is_whole(&file, &body));
    node.server.restart();
    node.archive("file");
    assert_eq!(node.places("file"), ["archived"]);
    assert!(node.server.get("file").expect_status(200).body == body);
}

#[test]
fn checksums_that_are_damaged_in_a_database_are_made_anew_from_the_archive() {
    let mut node = Node::start();
    let body = bytes(8, 5 * MIB);
    node.put_archived("sums", &body);
    assert!(node.server.terminate().success());
    let database = slot_dir(node.server.data(), "sums").join("meta.sqlite3");
    let db = rusqlite::Connection::open(database).unwrap();
    // Of the second part, the first granule's.
    let second = "key & 0xffffff = 1";
    let sums = db.query_row(&format!("SELECT sums FROM parts WHERE {second}"), [], |row| row.get(0));
    let mut sums: Vec<u8> = sums.unwrap();
    sums[0] ^= 1;
    assert_eq!(db.execute(&format!("UPDATE parts SET sums = ?1 WHERE {second}"), [sums]).unwrap(), 1);
    drop(db);
    node.server.start_again();
    let range = format!("bytes={}-{}", 2 << 20, (2 << 20) + 1000);
    assert_error(&node.server.get_range("sums", &range), 503, "SlotUnavailable");
    node.restore("sums");
    assert_eq!(sha256_hex(&fs::read(node.file("sums")).unwrap()), sha256_hex(&body));
    assert!(node.server.get("sums").expect_status(200).body == body);
    let report = scrub(&node).expect_code(0).json();
    assert_eq!((&report["chunks"], &report["damaged"]), (&json!(1), &json!(0)), "{report}");
}

#[test]
fn damage_waits_for_a_store_that_is_away() {
    let mut node = Node::start();
    let body = bytes(9, 3 * MIB);
    let file = put_both(&node, "file", &body);
    assert!(node.server.terminate().success());
    flip(&file, 100);
    let damaged = fs::read(&file).unwrap();
    node.proxy.down();
    node.server.start_again();
    let answer = node.server.get("file");
    assert!(answer.status >= 500, "{answer:?}");
    let report = scrub(&node).expect_code(1).json();
    assert_eq!((&report["damaged"], &report["unrepaired"]), (&json!(1), &json!(1)), "{report}");
    assert!(fs::read(&file).unwrap() == damaged, "it is left as it was");
    let ready = node.server.admin_get("/readyz").expect_status(200).json();
    assert_eq!(ready["damaged_chunks"], 1, "{ready}");
    node.proxy.heal();
    assert!(node.server.get("file").expect_status(200).body == body);
    scrub(&node).expect_code(0);
    wait_repaired(&node, &file, &body);
}

#[test]
fn where_both_copies_are_damaged_nothing_wrong_is_sent_and_nothing_is_thrown_away() {
    let mut node = Node::start();
    let body = bytes(10, 3 * MIB);
    let file = put_both(&node, "file", &body);
    let key = node.store.only_key();
    assert!(node.server.terminate().success());
    for at in [100, (2 << 20) + 500_000] {
        flip(&file, at);
    }
    // The same granule, and another one.
    node.store.flip(&key, 200);
    node.store.flip(&key, (2 << 20) + 900_000);
    let (here, there) = (fs::read(&file).unwrap(), node.store.object(&key));
    node.server.start_again();
    let answer = node.server.get("file");
    assert!(answer.status >= 500, "{answer:?}");
    let tail = node.server.get_range("file", &format!("bytes={}-", 2 << 20)).expect_status(206);
    assert!(tail.body == body[2 << 20..], "each granule is good in one place");
    scrub(&node).expect_code(1);
    assert!(fs::read(&file).unwrap() == here && node.store.object(&key) == there);
    let ready: Value = node.server.admin_get("/readyz").expect_status(200).json();
    assert_eq!(ready["damaged_chunks"], 1, "{ready}");
}

#[test]
fn an_inventory_names_what_is_missing_and_what_nobody_needs() {
    let node = Node::start();
    for (number, path) in ["a", "b"].into_iter().enumerate() {
        node.put_archived(path, &bytes(900 + number as u64, 300_000));
    }
    let check = || node.ask("POST", "/archive?check").json();
    let report = check();
    let found = &report["inventory"];
    assert_eq!((&report["good"], &found["named"], &found["objects"]), (&json!(true), &json!(2), &json!(2)));
    assert_eq!(found["slots"], 2048);

    // What was stored just now may be about to be named.
    let stranger = format!("{PREFIX}0007/01ARZ3NDEKTSV4RRFFQ69G5FAV.chunk");
    node.store.add(&stranger, b"whose is this?");
    assert_eq!((&check()["good"], &check()["inventory"]["young"]), (&json!(true), &json!(1)));
    node.store.age(&stranger, Duration::from_secs(2 * 3600));
    let report = check();
    let unnamed = &report["inventory"]["unnamed"];
    assert_eq!((&report["good"], &unnamed["count"]), (&json!(false), &json!(1)), "{report}");
    assert_eq!(unnamed["first"][0]["object"], format!("s3://{BUCKET}/{stranger}"));
    assert!(node.store.objects().contains_key(&stranger), "it reports, and deletes nothing");

    let lost = node.named().into_keys().next().unwrap();
    node.store.remove(&lost);
    let report = check();
    let missing = &report["inventory"]["missing"];
    assert_eq!(missing["count"], 1, "{report}");
    assert_eq!(missing["first"][0]["object"], format!("s3://{BUCKET}/{lost}"));
    assert_eq!((&missing["first"][0]["version"], &missing["first"][0]["dropped"]), (&json!(1), &json!(true)));
    let cut = node.named().into_keys().find(|key| *key != lost).unwrap();
    node.store.add(&cut, b"short");
    assert_eq!(check()["inventory"]["short"]["count"], 1);

    let told = node.run(&["archive", "--check"]);
    assert!(!told.status.success(), "{told:?}");
    for part in ["1 objects that no row names", "1 objects are missing", "1 objects are too short", &lost] {
        assert!(told.stdout.contains(part), "{part}: {told:?}");
    }
    node.proxy.down();
    let report = check();
    assert_eq!(report["inventory"]["unchecked"]["count"], 1, "with a store that is away it ends: {report}");
}
