//! The order in which a write becomes durable, watched on the real server.
//!
//! A kill leaves the page cache alone, so killing the server cannot show a sync that is missing. Here its file steps are
//! traced instead and held against the rules of `order`. That the rules bite is shown on the same trace: with any of its
//! syncs taken out, or with two steps exchanged, it is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/order.rs"]
mod order;
mod support;
#[path = "support/trace.rs"]
mod trace;

use std::path::{Path, PathBuf};

use order::{Deed, Event, What, violations};
use support::{CHUNK, Response, SMALL_CHUNK, Server, bytes, sha256_hex, slot_of};
use trace::{Exchange, Stamp, Step, Tracer, parse};

/// Does something with the server, and notes when it was asked and when it was answered.
fn noted(act: impl FnOnce() -> Response, deed: impl FnOnce(&Response) -> Deed) -> Exchange<Deed> {
    let asked = Stamp::now();
    let answer = act();
    let answered = Stamp::now();
    Exchange { asked, answered, deed: deed(&answer) }
}

fn slot_dir(server: &Server, path: &str) -> PathBuf {
    let root = server.data().canonicalize().expect("the data directory");
    root.join("slots").join(slot_of(path).to_string())
}

fn put(server: &Server, name: &str, path: &str, body: &[u8]) -> Exchange<Deed> {
    noted(
        || server.put(path, body).expect_status(201),
        |answer| Deed {
            name: name.to_owned(),
            what: if body.len() <= SMALL_CHUNK {
                What::PutInline
            } else {
                What::PutFiles {
                    blob_id: answer.json_str("blob_id"),
                    chunks: body.chunks(CHUNK).map(sha256_hex).collect(),
                }
            },
            slot: slot_dir(server, path),
        },
    )
}

fn delete(server: &Server, name: &str, path: &str) -> Exchange<Deed> {
    noted(
        || server.delete(path).expect_status(200),
        |_| Deed { name: name.to_owned(), what: What::Delete, slot: slot_dir(server, path) },
    )
}

/// What a server did for a few writes, one after another; nothing where nothing can be traced.
fn traced() -> Option<Vec<Event>> {
    let server = Server::start();
    let tracer = match Tracer::attach(server.pid(), server.home()) {
        Ok(tracer) => tracer,
        Err(why) => {
            support::skipped(&format!("the order of durable writes was not checked: {why}"));
            return None;
        }
    };
    assert_ne!(slot_of("order/file"), slot_of("order/small"), "each has a slot to be born");
    let exchanges = [
        put(&server, "a file in a new slot", "order/file", &bytes(1, 3_000_001)),
        put(&server, "a file in an old slot", "order/file", &bytes(2, 200_000)),
        put(&server, "a file of whole blocks", "order/file", &bytes(3, 1 << 20)),
        put(&server, "two chunks", "order/file", &bytes(4, CHUNK + 100_001)),
        put(&server, "a small blob in a new slot", "order/small", &bytes(5, 1000)),
        put(&server, "a small blob in an old slot", "order/small", &bytes(6, SMALL_CHUNK)),
        put(&server, "an empty blob", "order/small", b""),
        delete(&server, "a delete of a file", "order/file"),
        delete(&server, "a delete of a small blob", "order/small"),
    ];
    let lines = tracer.finish();
    if let Some(kept) = std::env::var_os("AMBERBLOB_KEEP_TRACE") {
        std::fs::write(kept, &lines).expect("keep the trace");
    }
    server.assert_alive();
    Some(parse(&lines, &exchanges))
}

/// The deeds of a trace, each with where it was asked for and answered.
fn deeds(events: &[Event]) -> Vec<(Deed, usize, usize)> {
    let mut asked = 0;
    let mut found = Vec::new();
    for event in events {
        match &event.step {
            Step::Asked => asked = event.done,
            Step::Answered(deed) => found.push((deed.clone(), asked, event.done)),
            _ => {}
        }
    }
    found
}

/// Everything whose sync a deed rests on.
fn foundations(events: &[Event], deed: &Deed, asked: usize) -> Vec<PathBuf> {
    let mut paths = vec![deed.slot.join("meta.sqlite3-wal")];
    let is_new = |dir: &Path| {
        events.iter().any(|event| event.step == Step::MakeDir && event.path == dir && event.begun > asked)
    };
    if let What::PutFiles { blob_id, chunks } = &deed.what {
        let blobs = deed.slot.join("blobs");
        let dir = blobs.join(blob_id).join("chunks");
        for chunk in chunks {
            let at = naming(events, &dir.join(chunk)).expect("each chunk gets its name");
            paths.push(events[at].path.clone());
        }
        paths.extend([dir, blobs.join(blob_id), blobs]);
    }
    if is_new(&deed.slot) {
        paths.push(deed.slot.clone());
        paths.extend(deed.slot.parent().map(Path::to_owned));
    }
    paths
}

fn naming(events: &[Event], named: &Path) -> Option<usize> {
    events.iter().position(|event| matches!(&event.step, Step::Rename { to } if to == named))
}

/// The last step of a kind on `path` before a moment.
fn last(events: &[Event], path: &Path, step: &Step<Deed>, before: usize) -> usize {
    let is_it = |event: &Event| event.path == path && event.step == *step && event.done < before;
    events.iter().rposition(is_it).unwrap_or_else(|| panic!("no {step:?} of {}", path.display()))
}

/// The trace as it would be if two steps had come in the other order.
fn exchanged(events: &[Event], one: usize, other: usize) -> Vec<Event> {
    let mut events = events.to_vec();
    let (first, second) = ((events[one].begun, events[one].done), (events[other].begun, events[other].done));
    (events[one].begun, events[one].done) = second;
    (events[other].begun, events[other].done) = first;
    events
}

/// Panics unless each sync that a deed rests on is missed when it is not there, and each exchange is noticed.
fn assert_every_step_counts(events: &[Event]) {
    for (deed, asked, answered) in deeds(events) {
        for path in foundations(events, &deed, asked) {
            let is_its = |event: &&Event| {
                event.step == Step::Sync && event.path == path && event.begun > asked && event.done < answered
            };
            assert!(
                events.iter().any(|event| is_its(&event)),
                "{}: {} has no sync",
                deed.name,
                path.display()
            );
            let without: Vec<Event> = events.iter().filter(|event| !is_its(event)).cloned().collect();
            let said = violations(&without);
            assert!(
                said.iter().any(|said| said.starts_with(&format!("{}: ", deed.name))),
                "{}: nobody missed the sync of {}: {said:?}",
                deed.name,
                path.display()
            );
        }
        let wal = deed.slot.join("meta.sqlite3-wal");
        let frame = last(events, &wal, &Step::Write, answered);
        let synced = last(events, &wal, &Step::Sync, answered);
        let answer = events.iter().position(|event| event.step == Step::Answered(deed.clone())).unwrap();
        let mut swaps = vec![(synced, answer, "was not synced between the commit and the answer")];
        if let What::PutFiles { blob_id, chunks } = &deed.what {
            let dir = deed.slot.join("blobs").join(blob_id).join("chunks");
            for chunk in chunks {
                let named = naming(events, &dir.join(chunk)).unwrap();
                let data = last(events, &events[named].path, &Step::Sync, events[named].done);
                swaps.push((named, frame, "got its name after the commit"));
                swaps.push((named, data, "was not synced between its last shaping and its name"));
            }
        }
        for (one, other, expected) in swaps {
            let said = violations(&exchanged(events, one, other));
            assert!(
                said.iter()
                    .any(|said| said.starts_with(&format!("{}: ", deed.name)) && said.contains(expected)),
                "{}: nobody noticed that {:?} and {:?} were exchanged: {said:?}",
                deed.name,
                events[one],
                events[other]
            );
        }
    }
}

#[test]
fn an_acknowledged_write_is_on_disk_in_an_order_that_survives_a_power_cut() {
    let Some(events) = traced() else { return };
    assert_eq!(deeds(&events).len(), 9);
    let found = violations(&events);
    assert!(found.is_empty(), "the order of the server's file steps is wrong:\n{}", found.join("\n"));
    assert_every_step_counts(&events);
}

const SLOT: &str = "/d/slots/7";

/// A trace as a server with nothing wrong makes it: a slot is born for a PUT of one chunk, then comes a DELETE.
const GOOD: &str = "\
100 1700000000.000001 mkdir(\"/d/slots/7\", 0777) = 0 <0.000001>
100 1700000000.000002 openat(AT_FDCWD</>, \"/d/slots\", O_RDONLY|O_CLOEXEC) = 9</d/slots> <0.000001>
100 1700000000.000003 fsync(9</d/slots>) = 0 <0.000001>
100 1700000000.000004 openat(AT_FDCWD</>, \"/d/slots/7/meta.sqlite3\", O_RDWR|O_CREAT, 0644) = 9</d/slots/7/meta.sqlite3> <0.000001>
100 1700000000.000005 openat(AT_FDCWD</>, \"/d/slots/7/meta.sqlite3-wal\", O_RDWR|O_CREAT, 0644) = 10</d/slots/7/meta.sqlite3-wal> <0.000001>
100 1700000000.000006 pwrite64(10</d/slots/7/meta.sqlite3-wal>, \"schema\"..., 4096, 0) = 4096 <0.000001>
100 1700000000.000007 fdatasync(10</d/slots/7/meta.sqlite3-wal>) = 0 <0.000001>
100 1700000000.000008 fsync(11</d/slots/7>) = 0 <0.000001>
200 1700000000.000010 mkdirat(12</d/slots/7>, \"blobs\", 0777) = 0 <0.000001>
200 1700000000.000011 mkdir(\"/d/slots/7/blobs/B\", 0777) = 0 <0.000001>
200 1700000000.000012 mkdir(\"/d/slots/7/blobs/B/chunks\", 0777) = 0 <0.000001>
200 1700000000.000013 openat(AT_FDCWD</>, \"/d/slots/7/blobs/B/chunks/t\", O_WRONLY|O_CREAT|O_EXCL|O_DIRECT, 0666) = 13</d/slots/7/blobs/B/chunks/t> <0.000001>
200 1700000000.000014 fallocate(13</d/slots/7/blobs/B/chunks/t>, 0, 0, 8192) = 0 <0.000001>
200 1700000000.000020 ftruncate(13</d/slots/7/blobs/B/chunks/t>, 7000) = 0 <0.000001>
200 1700000000.000021 fdatasync(13</d/slots/7/blobs/B/chunks/t> <unfinished ...>
100 1700000000.000025 write(5<anon_inode:[eventfd]>, \"\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8 <0.000001>
200 1700000000.000030 <... fdatasync resumed>) = 0 <0.000009>
200 1700000000.000031 renameat2(AT_FDCWD</>, \"/d/slots/7/blobs/B/chunks/t\", AT_FDCWD</>, \"/d/slots/7/blobs/B/chunks/C\", RENAME_NOREPLACE) = 0 <0.000001>
200 1700000000.000032 fsync(14</d/slots/7/blobs/B/chunks>) = 0 <0.000001>
200 1700000000.000033 fsync(14</d/slots/7/blobs/B>) = 0 <0.000001>
200 1700000000.000034 fsync(14</d/slots/7/blobs>) = 0 <0.000001>
200 1700000000.000035 fsync(14</d/slots/7>) = 0 <0.000001>
100 1700000000.000040 pwrite64(10</d/slots/7/meta.sqlite3-wal>, \"row\"..., 4096, 4096) = 4096 <0.000001>
100 1700000000.000041 fdatasync(10</d/slots/7/meta.sqlite3-wal>) = 0 <0.000003>
100 1700000000.000060 pwrite64(10</d/slots/7/meta.sqlite3-wal>, \"tombstone\"..., 4096, 8192) = 4096 <0.000001>
100 1700000000.000061 fdatasync(10</d/slots/7/meta.sqlite3-wal>) = 0 <0.000001>
100 1700000000.000062 openat(AT_FDCWD</>, \"/d/slots/7/nothing\", O_RDWR|O_CREAT, 0644) = -1 ENOSPC (No space left on device) <0.000001>
100 1700000000.000099 +++ exited with 0 +++
";

fn good_exchanges() -> [Exchange<Deed>; 2] {
    let at = |micros: u64| Stamp(1_700_000_000_000_000 + micros);
    let deed = |name: &str, what| Deed { name: name.to_owned(), what, slot: PathBuf::from(SLOT) };
    let put = What::PutFiles { blob_id: "B".to_owned(), chunks: vec!["C".to_owned()] };
    [
        Exchange { asked: at(0), answered: at(50), deed: deed("put", put) },
        Exchange { asked: at(51), answered: at(70), deed: deed("delete", What::Delete) },
    ]
}

/// What the rules say of [`GOOD`] after `change`.
fn said_of(change: impl Fn(&str) -> String) -> Vec<String> {
    violations(&parse(&change(GOOD), &good_exchanges()))
}

#[test]
fn the_rules_accept_a_good_order() {
    let events = parse(GOOD, &good_exchanges());
    assert_eq!(events.len(), 28, "{events:#?}");
    assert_eq!(violations(&events), [""; 0]);
    assert_every_step_counts(&events);
}

#[test]
fn the_rules_miss_every_single_sync() {
    let syncs: Vec<usize> = (0..)
        .zip(GOOD.lines())
        .filter(|(_, line)| line.contains("sync("))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(syncs.len(), 10);
    for number in syncs {
        let line = GOOD.lines().nth(number).unwrap();
        let without = |text: &str| {
            let kept = (0..).zip(text.lines()).filter(|(other, _): &(usize, _)| *other != number);
            kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
        };
        let said = said_of(without);
        // What came before is covered by the later sync of the same file, or directory.
        let spare = line.contains(".000007 ") || line.contains(".000008 ");
        assert_eq!(said.is_empty(), spare, "without {line}: {said:?}");
    }
}

#[test]
fn the_rules_want_a_sync_to_succeed_and_to_end_in_time() {
    for (from, to, expected) in [
        (
            "<... fdatasync resumed>) = 0 ",
            "<... fdatasync resumed>) = -1 EIO (Input/output error) ",
            "the data of chunk C",
        ),
        (
            "meta.sqlite3-wal>) = 0 <0.000003>",
            "meta.sqlite3-wal>) = 0 <0.000010>",
            "between the commit and the answer",
        ),
        ("fsync(14</d/slots/7/blobs/B/chunks>)", "fsync(14</d/slots/7/blobs/B>)", "the name of chunk C"),
        ("renameat2(AT_FDCWD", "nonsense(AT_FDCWD", "chunks/C did not get its name"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let said = said_of(|text| text.replacen(from, to, 1));
        assert!(said.iter().any(|said| said.contains(expected)), "{to}: {said:?}");
    }
}

#[test]
fn the_rules_want_the_answer_last() {
    let mut early = good_exchanges();
    early[0].answered = Stamp(early[0].answered.0 - 8);
    let said = violations(&parse(GOOD, &early));
    assert!(said.iter().any(|said| said.contains("between the commit and the answer")), "{said:?}");
    let mut none = good_exchanges();
    none[1].answered = Stamp(none[1].asked.0 + 1);
    let said = violations(&parse(GOOD, &none));
    assert_eq!(said, [format!("delete: nothing was written to {SLOT}/meta.sqlite3-wal for it")]);
}
