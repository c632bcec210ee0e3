//! The listing index is derived: damaged, lost or old, it is made again or catches up, and a listing lacks nothing.
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

use serde_json::Value;
use support::{Request, Server, bytes, object, wait_until};

/// The index must be whole again within this.
const REPAIR_DEADLINE: Duration = Duration::from_secs(15);

fn index(server: &Server) -> PathBuf {
    server.data().join("index.sqlite3")
}

/// The index and its log, as far as they are there.
fn files(server: &Server) -> Vec<PathBuf> {
    let file = index(server).display().to_string();
    let named = ["", "-wal", "-shm"].map(|ending| PathBuf::from(format!("{file}{ending}")));
    named.into_iter().filter(|file| file.exists()).collect()
}

fn listed(server: &Server) -> Option<Vec<(String, u64, bool)>> {
    let answer = server.list("include_tombstoned=true&limit=10000");
    if answer.status != 200 {
        return None;
    }
    let row = |row: &Value| {
        let path = row["path"].as_str().unwrap().to_owned();
        (path, row["version"].as_u64().unwrap(), !row["tombstoned_at"].is_null())
    };
    Some(answer.json()["objects"].as_array().unwrap().iter().map(row).collect())
}

/// PUTs `count` paths, overwrites every third and deletes every fifth.
fn write(server: &Server, name: &str, count: u64) {
    let mut link = server.connect();
    let mut send = |method: &str, number: u64, body: &[u8]| {
        let request = Request::new(method, &object(&format!("{name}/{number}")));
        let request = if body.is_empty() { request } else { request.body(body) };
        let answer = link.exchange(&request).unwrap();
        assert!([200, 201].contains(&answer.status), "{method} {number}: {answer:?}");
    };
    for number in 0..count {
        send("PUT", number, &bytes(number, 100));
        if number % 3 == 0 {
            send("PUT", number, &bytes(number + 1, 100));
        }
        if number % 5 == 0 {
            send("DELETE", number, b"");
        }
    }
}

#[track_caller]
fn assert_repaired(server: &Server, expected: &[(String, u64, bool)], what: &str) {
    wait_until(REPAIR_DEADLINE, &format!("{what}: the listing to be whole"), || {
        listed(server).is_some_and(|listed| listed == expected)
    });
    wait_until(REPAIR_DEADLINE, &format!("{what}: the node to be ready"), || {
        server.admin_get("/readyz").status == 200
    });
}

fn rubbish(file: &Path, from: usize, to: usize) {
    let mut content = fs::read(file).unwrap();
    let to = to.min(content.len());
    content[from..to].copy_from_slice(&bytes(7, to - from));
    fs::write(file, content).unwrap();
}

type Damage = (&'static str, fn(&Path));

const PAGE: usize = 4096;

/// What is done to the file.
const DAMAGES: [Damage; 9] = [
    ("rubbish everywhere", |file| rubbish(file, 0, usize::MAX)),
    ("rubbish in the first page", |file| rubbish(file, 100, PAGE)),
    ("rubbish in all but the first page", |file| rubbish(file, PAGE, usize::MAX)),
    ("rubbish in the second page", |file| rubbish(file, PAGE, 2 * PAGE)),
    ("rubbish in the third page", |file| rubbish(file, 2 * PAGE, 3 * PAGE)),
    ("rubbish in the last pages", |file| {
        rubbish(file, fs::metadata(file).unwrap().len() as usize / 2, usize::MAX)
    }),
    ("cut off", |file| fs::File::options().write(true).open(file).unwrap().set_len(PAGE as u64).unwrap()),
    ("empty", |file| fs::write(file, b"").unwrap()),
    ("gone", |file| fs::remove_file(file).unwrap()),
];

#[test]
fn a_damaged_or_lost_index_is_made_again_and_lists_everything() {
    let mut server = Server::start();
    write(&server, "damage", 150);
    let expected = listed(&server).expect("a listing");
    assert_eq!(expected.len(), 150);
    for (what, damage) in DAMAGES {
        assert!(server.terminate().success());
        // Everything into the file itself, so that no log repairs it.
        let db = rusqlite::Connection::open(index(&server)).unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(db);
        damage(&index(&server));
        println!("{what}");
        server.reconfigure(|builder| builder.wait_ready(false));
        server.start_again();
        assert_repaired(&server, &expected, what);
    }
    // What is written after all this is listed with the rest.
    server.put("damage/later", b"later").expect_status(201);
    assert_eq!(listed(&server).expect("a listing").len(), 151);
}

#[test]
fn an_index_that_cannot_be_read_makes_the_node_ready_again_without_anyone_listing() {
    let mut server = Server::start();
    write(&server, "quiet", 40);
    let expected = listed(&server).expect("a listing");
    assert!(server.terminate().success());
    for file in files(&server) {
        fs::remove_file(file).unwrap();
    }
    // A directory in its place is an obstacle that goes away later, as a disk that is full does.
    fs::create_dir(index(&server)).unwrap();
    server.reconfigure(|builder| builder.wait_ready(false));
    server.start_again();
    wait_until(REPAIR_DEADLINE, "a PUT to succeed after the start", || {
        server.put("quiet/0", b"new").status == 201
    });
    assert_eq!(server.get("quiet/0").expect_status(200).body, b"new", "only listings need the index");
    assert!(listed(&server).is_none());
    fs::remove_dir(index(&server)).unwrap();
    wait_until(REPAIR_DEADLINE, "the node to be ready again", || server.admin_get("/readyz").status == 200);
    let mut now = expected;
    now[0] = ("quiet/0".to_owned(), 3, false);
    assert_eq!(listed(&server).expect("a listing"), now);
}

#[test]
fn an_index_that_is_behind_catches_up_at_the_start() {
    let mut server = Server::start();
    write(&server, "early", 60);
    assert!(server.terminate().success());
    let copies: Vec<(PathBuf, Vec<u8>)> =
        files(&server).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    server.start_again();
    write(&server, "late", 60);
    write(&server, "early", 30);
    let expected = listed(&server).expect("a listing");
    assert_eq!(expected.len(), 120);
    assert!(server.terminate().success());
    for file in files(&server) {
        fs::remove_file(file).unwrap();
    }
    for (file, content) in copies {
        fs::write(file, content).unwrap();
    }
    server.start_again();
    assert_eq!(listed(&server).expect("a listing"), expected, "from the first listing on");
}

#[test]
fn a_log_of_the_index_that_is_rubbish_or_lost_after_a_kill_costs_nothing() {
    let mut server = Server::start();
    write(&server, "kill", 60);
    let mut expected = listed(&server).expect("a listing");
    for lose in [false, true] {
        server.kill9();
        for file in files(&server).into_iter().skip(1) {
            if lose {
                fs::remove_file(file).unwrap();
            } else {
                rubbish(&file, 0, usize::MAX);
            }
        }
        server.reconfigure(|builder| builder.wait_ready(false));
        server.start_again();
        assert_repaired(&server, &expected, "a log that is rubbish or lost");
        let put = server.put("kill/0", b"again").expect_status(201);
        expected[0] = ("kill/0".to_owned(), put.json_u64("version"), false);
    }
    assert_eq!(listed(&server).expect("a listing"), expected);
}
