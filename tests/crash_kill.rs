//! SIGKILL at random moments under mixed load: nothing acknowledged is lost or changed, nothing unacknowledged is half
//! there, and nothing is left lying on the disk.
//!
//! `AMBERBLOB_KILL_ROUNDS` sets the number of rounds, `AMBERBLOB_KILL_SEED` what happens in them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/audit.rs"]
mod audit;
#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/load.rs"]
mod load;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use audit::{Depth, audit};
use ledger::{Ask, Blob, Entry, Ledger, Row, Told, Which};
use load::{FRESH_PATHS, Hint, PATHS, path_of, understand};
use support::{Connection, Random, Request, Server, encode_path, object, plain_files, slot_dir, wait_until};

/// What the live versions may weigh when a round begins; the largest go first.
const LIVE_BYTES: usize = 96 << 20;
/// Rounds between two waits for the space of deleted versions.
const ROUNDS_OF_SPACE: u64 = 25;
/// The space of deleted versions and of broken uploads comes back within this.
const SWEEP_DEADLINE: Duration = Duration::from_secs(60);
/// Versions read back in each round beside those that it touched.
const SAMPLE: usize = 20;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// All versions of a path, by pages.
fn rows(link: &mut Connection, path: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let target = format!("{}?versions&limit=500{cursor}", object(path));
        let answer = link.exchange(&Request::new("GET", &target)).expect("an answer");
        if answer.status == 404 && rows.is_empty() {
            return rows;
        }
        let page = answer.expect_status(200).json();
        for row in page["versions"].as_array().expect("a list of versions") {
            rows.push(Row {
                version: row["version"].as_u64().expect("a version"),
                blob_id: row["blob_id"].as_str().expect("a blob_id").to_owned(),
                size: row["size"].as_u64().expect("a size"),
                tombstoned: row["tombstoned_at"].is_string(),
            });
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_path(next)),
            None => break,
        }
    }
    assert!(
        rows.windows(2).all(|pair| pair[0].version > pair[1].version),
        "{path}: not newest first: {rows:?}"
    );
    rows
}

fn read(link: &mut Connection, path: &str, version: u64) -> Result<(String, Blob), String> {
    let target = format!("{}?version={version}", object(path));
    let answer =
        link.exchange(&Request::new("GET", &target)).map_err(|error| format!("GET {target}: {error}"))?;
    match understand(&Ask::Get(Some(version)), &answer)? {
        Told::Read { version: told, blob_id, blob } if told == version => Ok((blob_id, blob)),
        told => Err(format!("GET {target}: {told:?}")),
    }
}

/// Holds what the server shows against the ledger and the journals of a round.
fn verify(
    server: &Server,
    ledger: &mut Ledger,
    journal: &[Entry],
    random: &mut Random,
) -> Result<(), String> {
    let mut by_path: BTreeMap<String, Vec<Entry>> =
        (0..PATHS).map(|index| (path_of(0, index), Vec::new())).collect();
    for entry in journal {
        by_path.entry(entry.path.clone()).or_default().push(entry.clone());
    }
    let mut link = server.connect();
    for (path, journal) in &by_path {
        let rows = rows(&mut link, path);
        ledger.settle(path, journal, &rows, &mut |path, version| read(&mut link, path, version))?;
    }
    verify_listing(server, ledger)?;
    let touched: BTreeSet<&str> =
        by_path.iter().filter(|(_, journal)| !journal.is_empty()).map(|(path, _)| path.as_str()).collect();
    let told: BTreeSet<(&str, u64)> =
        journal.iter().filter_map(|entry| Some((entry.path.as_str(), number(entry)?))).collect();
    let live: Vec<_> = ledger.live().collect();
    let (first, others): (Vec<_>, Vec<_>) = live.into_iter().partition(|(path, version, _)| {
        told.contains(&(path, *version))
            || (touched.contains(path)
                && ledger.newest(path).is_some_and(|newest| newest.version == *version))
    });
    let sample = (0..SAMPLE.min(others.len())).map(|_| others[random.below(others.len() as u64) as usize]);
    for (path, version, known) in first.into_iter().chain(sample) {
        verify_content(&mut link, path, version, known)?;
    }
    Ok(())
}

/// The version that a request named or was told of.
fn number(entry: &Entry) -> Option<u64> {
    match (&entry.told, &entry.ask) {
        (Told::Stored { version, .. } | Told::Read { version, .. } | Told::Deleted { version }, _) => {
            Some(*version)
        }
        (_, Ask::Put { version, .. } | Ask::Get(version)) => *version,
        (_, Ask::Delete(Which::Version(version))) => Some(*version),
        _ => None,
    }
}

fn verify_content(
    link: &mut Connection,
    path: &str,
    version: u64,
    known: &ledger::Known,
) -> Result<(), String> {
    let (blob_id, blob) = read(link, path, version)?;
    let same = blob_id == known.blob_id && (blob == known.blob || (blob.len, known.blob.len) == (0, 0));
    if same {
        Ok(())
    } else {
        Err(format!("{path} version {version} was {known:?} and is {blob_id} with {blob:?}"))
    }
}

/// The listing shows the newest version of each path, whatever the crash did to its index.
fn verify_listing(server: &Server, ledger: &Ledger) -> Result<(), String> {
    let mut listed = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page =
            server.list(&format!("limit=1000&include_tombstoned=true{cursor}")).expect_status(200).json();
        for row in page["objects"].as_array().expect("a list of objects") {
            let text = |key: &str| row[key].as_str().expect(key).to_owned();
            let number = |key: &str| row[key].as_u64().expect(key);
            let tombstoned = row["tombstoned_at"].is_string();
            let (version, size) = (number("version"), number("size"));
            let twice =
                listed.insert(text("path"), Row { version, blob_id: text("blob_id"), size, tombstoned });
            assert!(twice.is_none(), "listed twice: {row}");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_path(next)),
            None => break,
        }
    }
    for path in ledger.paths().chain(listed.keys().map(String::as_str)) {
        let (told, known) = (listed.get(path), ledger.newest(path));
        if told != known.as_ref() {
            return Err(format!("the listing has {told:?} for {path} instead of {known:?}"));
        }
    }
    Ok(())
}

/// Deletes the largest versions until the rest is small enough; the ledger learns of it as of a round.
fn trim(server: &Server, ledger: &mut Ledger) -> Result<(), String> {
    let mut link = server.connect();
    while ledger.live_bytes() > LIVE_BYTES {
        let (path, version, _) =
            ledger.live().max_by_key(|(_, _, known)| known.blob.len).expect("it has bytes");
        let (path, ask) = (path.to_owned(), Ask::Delete(Which::Version(version)));
        let request = Request::new("DELETE", &format!("{}?version={version}", object(&path)));
        let told = understand(&ask, &link.exchange(&request).expect("an answer"))?;
        let entry = Entry { path: path.clone(), ask, asked: 1, told, answered: 2 };
        let rows = rows(&mut link, &path);
        ledger.settle(&path, &[entry], &rows, &mut |path, version| {
            Err(format!("{path} has a new version {version}"))
        })?;
    }
    Ok(())
}

/// Bytes in chunk files and whatever else lies beside the databases.
fn weight(server: &Server) -> u64 {
    server.disks().iter().flat_map(|disk| plain_files(&disk.join("slots")).into_values()).sum()
}

fn audit_all(server: &Server, depth: Depth) -> Vec<String> {
    server.disks().iter().flat_map(|disk| audit(disk, depth)).collect()
}

#[test]
fn kills_at_random_moments_lose_nothing_acknowledged_and_leave_nothing_half_done() {
    let rounds = from_env("AMBERBLOB_KILL_ROUNDS", 100);
    let seed = from_env("AMBERBLOB_KILL_SEED", 0x5eed);
    println!("{rounds} rounds, AMBERBLOB_KILL_SEED={seed}");
    let started = Instant::now();
    let mut random = Random::new(seed);
    let mut server = Server::builder().disks(2).config("[storage]\ntombstone_grace = \"1s\"\n").start();
    let mut ledger = Ledger::default();
    let mut hints: Vec<Hint> = (0..PATHS + FRESH_PATHS).map(|_| Mutex::default()).collect();
    let seeds = AtomicU64::new(1);
    let (mut asked, mut told, mut in_flight) = (0, 0, 0);
    for round in 1..=rounds {
        let journal = load::load(&mut server, &mut random, round, &seeds, &mut hints);
        server.start_again();
        asked += journal.len();
        told +=
            journal.iter().filter(|entry| !matches!(entry.told, Told::Nothing | Told::Refused(_))).count();
        in_flight += journal.iter().filter(|entry| entry.told == Told::Nothing).count();
        verify(&server, &mut ledger, &journal, &mut random)
            .and_then(|()| trim(&server, &mut ledger))
            .unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        if round % ROUNDS_OF_SPACE == 0 {
            println!("round {round} after {:?}: {} live bytes", started.elapsed(), ledger.live_bytes());
            let bound = (ledger.live_bytes() + (32 << 20)) as u64;
            wait_until(
                SWEEP_DEADLINE,
                "the space of deleted versions and broken uploads to come back",
                || weight(&server) <= bound,
            );
        }
    }
    println!("{asked} requests, {told} done, {in_flight} in flight at a kill, {:?}", started.elapsed());
    assert!(told > asked / 3 && in_flight as u64 >= rounds / 2, "the load was not what this test is about");
    let mut last = Vec::new();
    wait_until(SWEEP_DEADLINE, "the orphans to be swept", || {
        let found = audit_all(&server, Depth::Names);
        if found != last {
            last = found;
            println!("{} findings, such as {:?}", last.len(), last.first());
        }
        last.is_empty()
    });
    let mut link = server.connect();
    for (path, version, known) in ledger.live() {
        verify_content(&mut link, path, version, known).unwrap_or_else(|wrong| panic!("at the end: {wrong}"));
    }
    drop(link);
    assert!(server.terminate().success());
    assert_eq!(audit_all(&server, Depth::Bytes), [""; 0]);
}

#[test]
fn a_kill_in_the_birth_of_a_slot_resolves_by_itself() {
    let mut server = Server::start();
    let path = |number: usize| format!("birth/{number}");
    server.put(&path(0), b"before").expect_status(201);
    assert!(server.terminate().success());
    // What a kill may leave between the making of a slot's directory and its first commit.
    for number in 1..=4 {
        let slot = slot_dir(server.data(), &path(number));
        assert!(!slot.exists(), "each has a slot of its own");
        std::fs::create_dir(&slot).unwrap();
        // A database is made under another name, and has its own only once it is whole.
        let database = slot.join("meta.sqlite3.new");
        match number {
            1 => {}
            2 => std::fs::write(&database, b"").unwrap(),
            3 => {
                let empty = rusqlite::Connection::open(&database).unwrap();
                empty.pragma_update(None, "journal_mode", "WAL").unwrap();
            }
            _ => {
                std::fs::write(&database, b"").unwrap();
                std::fs::write(slot.join("meta.sqlite3.new-wal"), b"").unwrap();
            }
        }
    }
    server.start_again();
    for number in 0..=4 {
        let expected = if number == 0 { 2 } else { 1 };
        let put = server.put(&path(number), b"after").expect_status(201);
        assert_eq!(put.json_u64("version"), expected, "kind {number}");
        assert_eq!(server.get(&path(number)).expect_status(200).body, b"after");
    }
    assert_eq!(audit_all(&server, Depth::Bytes), [""; 0]);
}

/// A journal whose rules are easy to see through, for the tests of the judge.
fn judged(journal: &[(Ask, Told)], rows: &[(u64, &str, u64, bool)]) -> Result<(), String> {
    let mut ledger = Ledger::default();
    let put = |version, seed| {
        let blob = Blob { seed, len: 20 };
        let ask = Ask::Put { version: None, tag: None, if_absent: false, blob };
        (ask, Told::Stored { version, blob_id: format!("id{version}"), created: true })
    };
    let entries = |pairs: &[(Ask, Told)]| {
        let mut moment = 0;
        let mut entry = |(ask, told): &(Ask, Told)| {
            moment += 2;
            let answered = if *told == Told::Nothing { u64::MAX } else { moment + 1 };
            Entry { path: "p".to_owned(), ask: ask.clone(), asked: moment, told: told.clone(), answered }
        };
        pairs.iter().map(&mut entry).collect::<Vec<_>>()
    };
    let rows_of = |rows: &[(u64, &str, u64, bool)]| {
        let row = |&(version, blob_id, size, tombstoned): &(u64, &str, u64, bool)| Row {
            version,
            blob_id: blob_id.to_owned(),
            size,
            tombstoned,
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    // Before the round there are 1 and 2, and 1 is deleted.
    let first =
        entries(&[put(1, 1), put(2, 2), (Ask::Delete(Which::Version(1)), Told::Deleted { version: 1 })]);
    let shown = rows_of(&[(2, "id2", 20, false), (1, "id1", 20, true)]);
    ledger.settle("p", &first, &shown, &mut |_, _| Err("nothing is new".to_owned())).unwrap();
    let mut read = |_: &str, version| Ok((format!("id{version}"), Blob { seed: version, len: 20 }));
    ledger.settle("p", &entries(journal), &rows_of(rows), &mut read)
}

/// What is said of a round, the round, and what is there after it.
type Case<'a> = (&'a str, &'a [(Ask, Told)], &'a [(u64, &'a str, u64, bool)]);

#[test]
fn the_judge_sees_every_way_to_break_a_promise() {
    let put = |seed| Ask::Put { version: None, tag: None, if_absent: false, blob: Blob { seed, len: 20 } };
    let guarded = |seed| Ask::Put {
        version: None,
        tag: Some("id2".to_owned()),
        if_absent: false,
        blob: Blob { seed, len: 20 },
    };
    let stored = |version: u64| Told::Stored { version, blob_id: format!("id{version}"), created: true };
    let got = |version: u64| Told::Read {
        version,
        blob_id: format!("id{version}"),
        blob: Blob { seed: version, len: 20 },
    };
    let old = [(2, "id2", 20, false), (1, "id1", 20, true)];
    let three = [(3, "id3", 20, false), old[0], old[1]];
    let deleted = [(2, "id2", 20, true), old[1]];
    let good: [Case<'_>; 8] = [
        ("nothing happened", &[], &old),
        ("a write", &[(put(3), stored(3))], &three),
        ("a write in flight that came to nothing", &[(put(3), Told::Nothing)], &old),
        ("a write in flight that is there", &[(put(3), Told::Nothing)], &three),
        ("a delete", &[(Ask::Delete(Which::Newest), Told::Deleted { version: 2 })], &deleted),
        ("a delete in flight", &[(Ask::Delete(Which::Newest), Told::Nothing)], &deleted),
        ("a delete in flight that came to nothing", &[(Ask::Delete(Which::All), Told::Nothing)], &old),
        ("a read", &[(Ask::Get(None), got(2)), (Ask::Get(Some(1)), Told::Refused(404))], &old),
    ];
    for (name, journal, rows) in good {
        assert_eq!(judged(journal, rows), Ok(()), "{name}");
    }
    let bad: [Case<'_>; 17] = [
        ("version 2 was acknowledged and is lost", &[], &old[1..]),
        ("version 3 was acknowledged and is lost", &[(put(3), stored(3))], &old),
        ("version 2 was id2", &[], &[(2, "other", 20, false), old[1]]),
        ("version 2 was id2", &[], &[(2, "id2", 19, false), old[1]]),
        ("version 1 was deleted and is back", &[], &[old[0], (1, "id1", 20, false)]),
        (
            "version 2 was deleted and is back",
            &[(Ask::Delete(Which::Newest), Told::Deleted { version: 2 })],
            &old,
        ),
        (
            "version 2 was deleted and is back",
            &[(Ask::Delete(Which::All), Told::Deleted { version: 2 })],
            &old,
        ),
        ("nobody deleted version 2", &[], &deleted),
        ("nobody wrote", &[], &three),
        ("nobody wrote", &[(put(4), Told::Nothing)], &three),
        ("nobody wrote", &[(put(3), Told::Refused(412))], &three),
        ("version 2 was given twice", &[(put(2), stored(2))], &old),
        ("version 3 was given twice", &[(put(3), stored(3)), (put(3), stored(3))], &three),
        (
            "not above those",
            &[(put(4), stored(4)), (put(3), stored(3))],
            &[(4, "id4", 20, false), three[0], old[0], old[1]],
        ),
        ("a wrong answer", &[(Ask::Get(None), Told::Refused(404))], &old),
        ("a wrong answer", &[(Ask::Get(None), got(3))], &old),
        (
            "replaced the same",
            &[(guarded(3), stored(3)), (guarded(4), stored(4))],
            &[(4, "id4", 20, false), three[0], old[0], old[1]],
        ),
    ];
    for (name, journal, rows) in bad {
        let said = judged(journal, rows).expect_err(name);
        assert!(said.contains(name), "{said} instead of {name}");
    }
}

#[test]
fn a_blob_of_these_tests_knows_itself() {
    let blob = Blob { seed: 7, len: 1000 };
    let content = blob.content();
    assert_eq!(Blob::of(&content), Ok(blob));
    assert_eq!(Blob::of(b""), Ok(Blob { seed: 0, len: 0 }));
    assert!(Blob::of(&content[..999]).is_err(), "one that is cut off");
    let mut mixed = content.clone();
    mixed[500..].copy_from_slice(&Blob { seed: 8, len: 1000 }.content()[500..]);
    assert!(Blob::of(&mixed).is_err(), "one made of two");
}
