//! The journal, which makes PUTs of many slots durable with one sync, on the real server: kills at any moment, the order
//! of its syncs, and syncs that fail. What a power cut takes is tested where databases can be put back (`meta/power_cut.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/audit.rs"]
mod audit;
#[path = "support/order.rs"]
mod order;
mod support;
#[path = "support/trace.rs"]
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use audit::{Depth, audit};
use order::{Deed, Event, What};
use support::{
    Connection, Random, Request, Response, Server, assert_error, bytes, error_code, object, slot_of,
    versions, wait_until,
};
use trace::{Exchange, Stamp, Step, Tracer, parse};

/// Enough for the writer to find many slots in each batch.
const CLIENTS: usize = 48;
const ROUNDS: u64 = 8;
const PATHS: u64 = 300;
/// A blob of a burst: a whole number of them fits a frame, so that its records can be counted.
const PIECE: usize = 60_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// What a client was told.
#[derive(Clone, Debug)]
struct Told {
    path: String,
    version: u64,
    blob_id: String,
    seed: u64,
    len: usize,
}

fn segments(server: &Server, ending: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(server.data().join("journal")).into_iter().flatten();
    let files = files.map(|file| file.expect("a file of the journal").path());
    files.filter(|file| file.extension().is_some_and(|found| found == ending)).collect()
}

/// Whether a frame was ever written to the journal that is there.
fn is_in_use(server: &Server) -> bool {
    segments(server, "journal").iter().any(|segment| {
        let mut begin = [0; 4];
        let file = std::fs::File::open(segment).expect("a segment");
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut begin, 0).is_ok() && begin == *b"AmJ1"
    })
}

/// PUTs by many clients until `enough` were acknowledged; then the server is killed in the middle of them.
fn load_and_kill(server: &mut Server, seeds: &AtomicUsize, enough: usize) -> Vec<Told> {
    let (told, killing, count) = (Mutex::new(Vec::new()), AtomicBool::new(false), AtomicUsize::new(0));
    let public = server.public();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut link = Connection::open(public);
                loop {
                    let seed = seeds.fetch_add(1, Ordering::SeqCst) as u64;
                    let mut random = Random::new(seed);
                    let path = format!("journal/{}", random.below(PATHS));
                    let len = random.below(6000) as usize;
                    let put = Request::new("PUT", &object(&path)).body(bytes(seed, len));
                    let answer = match link.exchange(&put) {
                        Ok(answer) => answer.expect_status(201),
                        Err(_) if killing.load(Ordering::SeqCst) => return,
                        Err(error) => panic!("PUT {path} while the server ran: {error}"),
                    };
                    let (version, blob_id) = (answer.json_u64("version"), answer.json_str("blob_id"));
                    told.lock().unwrap().push(Told { path, version, blob_id, seed, len });
                    if count.fetch_add(1, Ordering::SeqCst) > enough && killing.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        wait_until(DEADLINE, "enough PUTs", || count.load(Ordering::SeqCst) >= enough);
        killing.store(true, Ordering::SeqCst);
        server.kill9();
    });
    told.into_inner().unwrap()
}

fn assert_kept(server: &Server, told: &[Told]) {
    let mut link = server.connect();
    for Told { path, version, blob_id, seed, len } in told {
        let get = Request::new("GET", &format!("{}?version={version}", object(path)));
        let answer = link.exchange(&get).expect("an answer").expect_status(200);
        assert_eq!(answer.header("etag"), Some(format!("\"{blob_id}\"").as_str()), "{path} {version}");
        assert!(answer.body == bytes(*seed, *len), "{path} {version} has other bytes");
    }
}

fn assert_listed(server: &Server, told: &[Told]) {
    let mut newest = BTreeMap::<&str, u64>::new();
    for told in told {
        let version = newest.entry(&told.path).or_default();
        *version = told.version.max(*version);
    }
    let page = server.list("prefix=journal/&limit=10000").expect_status(200).json();
    let listed: BTreeMap<&str, u64> = page["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["path"].as_str().unwrap(), line["version"].as_u64().unwrap()))
        .collect();
    for (path, version) in newest {
        assert!(listed.get(path).is_some_and(|listed| *listed >= version), "{path} {version}: {listed:?}");
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_the_journal_acknowledged() {
    let mut server = Server::start();
    let (seeds, mut random) = (AtomicUsize::new(1), Random::new(7));
    let (mut all, mut used) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let told = load_and_kill(&mut server, &seeds, 200 + random.below(3000) as usize);
        used += u64::from(is_in_use(&server));
        server.start_again();
        if round % 2 == 1 {
            // Killed once more with the records of the last run still on their way to the databases.
            all.extend(load_and_kill(&mut server, &seeds, random.below(100) as usize));
            server.start_again();
        }
        // A listing first: it knows them without anybody having looked into a slot.
        assert_listed(&server, &told);
        assert_kept(&server, &told);
        all.extend(told);
    }
    assert!(used > ROUNDS / 2, "the journal was in use at {used} of {ROUNDS} kills only");
    let numbers: BTreeSet<(&str, u64)> = all.iter().map(|told| (told.path.as_str(), told.version)).collect();
    assert_eq!(numbers.len(), all.len(), "no version number was given twice");
    server.restart();
    assert!(segments(&server, "journal").is_empty(), "a stop in good order leaves no journal");
    assert_kept(&server, &all);
    assert_eq!(audit(server.data(), Depth::Names), [""; 0]);
}

/// PUTs of all clients at once, each to a slot of its own.
fn burst(server: &Server, number: usize) -> Vec<(Exchange<Deed>, Response)> {
    let start = Barrier::new(CLIENTS);
    let root = server.data().canonicalize().expect("the data directory");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (start, root) = (&start, &root);
                scope.spawn(move || {
                    let path = path_of(client);
                    let put = Request::new("PUT", &object(&path)).body(body_of(client, number));
                    let mut link = server.connect();
                    start.wait();
                    let asked = Stamp::now();
                    let answer = link.exchange(&put).expect("an answer");
                    let answered = Stamp::now();
                    let slot = root.join("slots").join(slot_of(&path).to_string());
                    let deed = Deed { name: format!("{client}/{number}"), what: What::PutInline, slot };
                    (Exchange { asked, answered, deed }, answer)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    })
}

fn path_of(client: usize) -> String {
    let mut slots = BTreeSet::new();
    let paths = (0..).map(|number| format!("burst/{number}"));
    paths.filter(|path| slots.insert(slot_of(path))).nth(client).expect("enough slots")
}

fn body_of(client: usize, number: usize) -> Vec<u8> {
    bytes((number * CLIENTS + client) as u64, PIECE)
}

/// Whether it is a segment in use: one that is being made, or that is spare, holds no records.
fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "journal")
}

/// An answer of a burst, by places in the order of all events.
struct Answered<'a> {
    deed: &'a Deed,
    /// Before any of the burst was asked.
    asked: usize,
    at: usize,
}

fn answers(events: &[Event]) -> Vec<Answered<'_>> {
    let (mut asked, mut is_asking) = (0, false);
    let mut found = Vec::new();
    for event in events {
        match &event.step {
            Step::Asked if !is_asking => (asked, is_asking) = (event.done, true),
            Step::Answered(deed) => {
                is_asking = false;
                found.push(Answered { deed, asked, at: event.done });
            }
            _ => {}
        }
    }
    // The first answers of a burst may come before its last question.
    let mut burst = (String::new(), 0);
    for answered in &mut found {
        let number = answered.deed.name.split('/').nth(1).unwrap_or_default();
        if burst.0 != number {
            burst = (number.to_owned(), answered.asked);
        }
        answered.asked = burst.1;
    }
    found
}

type Steps<'a> = BTreeMap<&'a Path, Vec<&'a Event>>;

fn of<'s, 'a>(steps: &'s Steps<'a>, path: &Path) -> &'s [&'a Event] {
    steps.get(path).map_or(&[], Vec::as_slice)
}

/// Steps of a kind, by path.
fn steps<'a>(events: &'a [Event], step: &Step<Deed>) -> Steps<'a> {
    let mut found = Steps::new();
    for event in events.iter().filter(|event| event.step == *step) {
        found.entry(&event.path).or_default().push(event);
    }
    found
}

/// Answers that came before what they rest on was synced; and how many rested on the journal.
fn early_answers(events: &[Event]) -> (Vec<String>, usize) {
    let (writes, syncs) = (steps(events, &Step::Write), steps(events, &Step::Sync));
    // Bytes in the journal, and where they were on disk for sure.
    let mut synced = Vec::new();
    for (path, writes) in writes.iter().filter(|(path, _)| is_journal(path)) {
        let syncs = of(&syncs, path);
        for write in writes {
            let sync = syncs.iter().find(|sync| sync.begun >= write.done);
            synced.extend(sync.map(|sync| (sync.done, write.bytes as usize / PIECE)));
        }
    }
    let (mut early, mut journaled) = (Vec::new(), 0);
    for Answered { deed, asked, at } in answers(events) {
        let wal = deed.slot.join("meta.sqlite3-wal");
        let wal_syncs = of(&syncs, &wal);
        let is_direct = of(&writes, &wal)
            .iter()
            .filter(|write| write.begun > asked)
            .any(|write| wal_syncs.iter().any(|sync| sync.begun >= write.done && sync.done < at));
        if !is_direct {
            journaled += 1;
            let records: usize =
                synced.iter().filter(|(done, _)| *done < at).map(|(_, records)| records).sum();
            if journaled > records {
                early.push(format!("{}: answer {journaled} with {records} records synced", deed.name));
            }
        }
    }
    (early, journaled)
}

/// Answers whose segment was given free before the database of their slot was on disk.
fn lost_answers(events: &[Event]) -> Vec<String> {
    let writes = steps(events, &Step::Write);
    let sync_alls: Vec<&Event> = events.iter().filter(|event| event.step == Step::SyncAll).collect();
    let is_freeing = |event: &&Event| matches!(&event.step, Step::Rename { to } if to.extension().is_some_and(|end| end == "spare"));
    let mut lost = Vec::new();
    for freed in events.iter().filter(is_freeing) {
        let Some(frames) = writes.get(freed.path.as_path()) else { continue };
        let (first, last) = (frames[0].done, frames[frames.len() - 1].done);
        // Those in between are in this segment for sure.
        for Answered { deed, asked, .. } in
            answers(events).into_iter().filter(|answered| answered.asked > first && answered.at < last)
        {
            let wal = deed.slot.join("meta.sqlite3-wal");
            let settled = of(&writes, &wal).iter().filter(|write| write.begun > asked);
            let is_safe = settled
                .into_iter()
                .any(|write| sync_alls.iter().any(|sync| sync.begun > write.done && sync.done < freed.begun));
            if !is_safe {
                lost.push(format!("{}: not on disk when {} was freed", deed.name, freed.path.display()));
            }
        }
    }
    lost
}

#[test]
fn nobody_is_answered_before_the_journal_is_on_disk_and_it_stays_until_the_databases_are() {
    let server = Server::start();
    let tracer = match Tracer::attach(server.pid(), server.home()) {
        Ok(tracer) => tracer,
        Err(why) => return eprintln!("SKIPPED: the order of the journal's syncs was not checked: {why}"),
    };
    let mut exchanges = Vec::new();
    for number in 0.. {
        for (exchange, answer) in burst(&server, number) {
            answer.expect_status(201);
            exchanges.push(exchange);
        }
        // That takes more than a segment holds.
        if !segments(&server, "spare").is_empty() {
            break;
        }
        assert!(exchanges.len() * PIECE < 1 << 30, "no segment ever came free");
    }
    let events = parse(&tracer.finish(), &exchanges);
    let (early, journaled) = early_answers(&events);
    assert_eq!(early, [""; 0]);
    assert!(
        journaled > exchanges.len() / 2,
        "{journaled} of {} answers rested on the journal",
        exchanges.len()
    );
    assert_eq!(lost_answers(&events), [""; 0]);
    // The rules bite.
    let without = |is_it: &dyn Fn(&Event) -> bool| -> Vec<Event> {
        events.iter().filter(|event| !is_it(event)).cloned().collect()
    };
    let unsynced = without(&|event| event.step == Step::Sync && is_journal(&event.path));
    assert_eq!(early_answers(&unsynced).0.len(), journaled);
    assert!(!lost_answers(&without(&|event| event.step == Step::SyncAll)).is_empty());
}

#[test]
fn a_sync_of_the_journal_that_fails_leaves_the_outcome_open_and_loses_nothing_older() {
    let mut server = Server::start();
    for (_, answer) in burst(&server, 0).into_iter().chain(burst(&server, 1)) {
        answer.expect_status(201);
    }
    let segment = segments(&server, "journal").pop().expect("the journal is in use");
    let failing = match Tracer::fail_syncs(server.pid(), server.home(), &segment.canonicalize().unwrap()) {
        Ok(failing) => failing,
        Err(why) => return eprintln!("SKIPPED: failing syncs of the journal: {why}"),
    };
    let mut unknown = BTreeSet::new();
    for (client, (_, answer)) in burst(&server, 2).into_iter().enumerate() {
        if answer.status != 201 {
            assert_error(&answer, 503, "OutcomeUnknown");
            assert_error(&server.get(&path_of(client)), 503, "SlotUnavailable");
            unknown.insert(client);
        }
    }
    assert!(!unknown.is_empty(), "no batch went through the journal");
    // The next ones find another segment, or a slot that is out of service.
    for (client, (_, answer)) in burst(&server, 3).into_iter().enumerate() {
        match unknown.contains(&client) {
            true => assert_eq!(error_code(&answer), "SlotUnavailable"),
            false => drop(answer.expect_status(201)),
        }
    }
    drop(failing.finish());
    server.kill9();
    server.start_again();
    for client in 0..CLIENTS {
        let found = versions(&server, &path_of(client));
        let expected: &[&[u64]] =
            if unknown.contains(&client) { &[&[2, 1], &[3, 2, 1]] } else { &[&[4, 3, 2, 1]] };
        assert!(expected.contains(&&found[..]), "client {client}: {found:?}");
        for version in found {
            let body = server.get_at(&path_of(client), version).expect_status(200).body;
            assert!(body == body_of(client, version as usize - 1), "client {client}, version {version}");
        }
    }
}

#[test]
fn a_log_that_cannot_be_synced_while_it_is_written_back_is_a_commit_in_doubt() {
    const PATH: &str = "written/back";
    let mut server = Server::start();
    server.put(PATH, b"the slot is born").expect_status(201);
    let slot = server.data().canonicalize().unwrap().join("slots").join(slot_of(PATH).to_string());
    // The log itself can be synced: only writing it back fails.
    let failing = match Tracer::fail_syncs(server.pid(), server.home(), &slot.join("meta.sqlite3")) {
        Ok(failing) => failing,
        Err(why) => return eprintln!("SKIPPED: failing syncs of a database: {why}"),
    };
    let mut known = 1;
    let refused = loop {
        let answer = server.put(PATH, &bytes(known, 4000));
        if answer.status != 201 {
            break answer;
        }
        known += 1;
        assert!(known < 1000, "no log is ever written back");
    };
    assert_error(&refused, 503, "OutcomeUnknown");
    assert_error(&server.get(PATH), 503, "SlotUnavailable");
    drop(failing.finish());
    server.kill9();
    server.start_again();
    let found = versions(&server, PATH);
    assert!(found.len() as u64 == known || found.len() as u64 == known + 1, "{known} known, {found:?}");
    for version in 2..=known {
        let body = server.get_at(PATH, version).expect_status(200).body;
        assert!(body == bytes(version - 1, 4000), "version {version}");
    }
}
