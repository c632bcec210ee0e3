//! Damage on the disks of a cluster: nobody reads a wrong byte, no read fails, and everything comes back whole by itself.
//!
//! `REPAIR_FLIPS`, `REPAIR_DELETIONS` and `REPAIR_SEED` make the damage larger, or the same again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Shape, from_env};
use support::damage::{flip, flip_in_database, try_flip};
use support::program::{Ended, amberblob, metric};
use support::{
    CHUNK, Connection, Random, Request, Response, assert_error, bytes, chunk_files, object, sha256_hex,
    slot_dir, wait_until,
};

const GRANULE: u64 = 16 << 10;
const DEADLINE: Duration = Duration::from_secs(120);

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three nodes with a quarantine of so long.
fn start(quarantine: &str) -> Cluster {
    start_nodes(3, quarantine)
}

fn start_nodes(nodes: usize, quarantine: &str) -> Cluster {
    let storage = format!("cache = \"64MiB\"\n[scrub]\nquarantine = \"{quarantine}\"");
    Cluster::start(Shape { storage, ..Shape::of(nodes) })
}

fn put(cluster: &Cluster, path: &str, body: &[u8]) {
    cluster.send(0, &Request::new("PUT", &object(path)).body(body)).expect_status(201);
}

/// What a node's own replica answers.
fn local(cluster: &Cluster, node: usize, path: &str) -> Response {
    cluster.send(node, &Request::new("GET", &format!("{}?consistency=local", object(path))))
}

fn scrub(cluster: &Cluster, node: usize) -> Ended {
    amberblob(&["scrub", "--json", "--admin", &format!("http://{}", cluster.nodes[node].admin)])
}

fn metrics(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].admin_page("/metrics").unwrap().1
}

/// The chunk files of a node, by path below its disk.
fn chunks_of(cluster: &Cluster, node: usize) -> BTreeMap<PathBuf, (String, PathBuf)> {
    let disk = &cluster.nodes[node].disks[0];
    let below = |path: &Path| path.strip_prefix(disk).unwrap().to_owned();
    chunk_files(&disk.join("slots")).into_iter().map(|(name, path)| (below(&path), (name, path))).collect()
}

fn quarantined(cluster: &Cluster, node: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.nodes[node].disks[0].join("quarantine")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Waits until every replica has these versions, committed and whole. One that missed a write hears of it from a read.
fn wait_whole(cluster: &Cluster, paths: &[&str]) {
    for path in paths {
        for node in 0..3 {
            wait_until(DEADLINE, "a replica to have a version", || {
                cluster.send(node, &Request::new("HEAD", &object(path))).expect_status(200);
                let mine = Request::new("HEAD", &format!("{}?consistency=local", object(path)));
                cluster.send(node, &mine).status == 200 && !chunk_files_of(cluster, node, path).is_empty()
            });
        }
    }
}

/// Of the blob of a path, which has files.
fn chunk_files_of(cluster: &Cluster, node: usize, path: &str) -> Vec<(String, PathBuf)> {
    let files = chunk_files(&slot_dir(&cluster.nodes[node].disks[0], path));
    files.into_iter().filter(|(name, _)| name.len() == 64).collect()
}

/// Reads at random, from every node, for as long as `going`; any answer but the right bytes is a failure.
fn read_on(nodes: &[SocketAddr], blobs: &BTreeMap<String, Vec<u8>>, seed: u64, going: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut reads = 0;
    let blobs: Vec<_> = blobs.iter().collect();
    let mut links: Vec<Option<Connection>> = nodes.iter().map(|_| None).collect();
    while going.load(Ordering::Relaxed) {
        let (path, body) = blobs[random.below(blobs.len() as u64) as usize];
        let node = random.below(nodes.len() as u64) as usize;
        let from = random.below(body.len() as u64) as usize;
        let longest = if random.below(4) == 0 { body.len() } else { 100_000 };
        let to = (from + 1 + random.below(longest as u64) as usize).min(body.len());
        let local = if random.below(2) == 0 { "?consistency=local" } else { "" };
        let what = format!("{path}{local} {from}..{to} through {node}");
        let request = Request::new("GET", &format!("{}{local}", object(path)))
            .header("Range", format!("bytes={from}-{}", to - 1));
        let mut link = links[node].take().unwrap_or_else(|| Connection::try_open(nodes[node]).unwrap());
        link.set_read_timeout(Duration::from_secs(60));
        let answer = link.exchange(&request).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, 206, "{what}: {answer:?}");
        assert!(answer.body == body[from..to], "{what}: other bytes");
        links[node] = Some(link);
        reads += 1;
    }
    reads
}

/// Damage that leaves every granule good on at least one replica.
enum Blow {
    Flip(usize, PathBuf, u64),
    Delete(usize, PathBuf),
}

fn blows(cluster: &Cluster, random: &mut Random, flips: u64, deletions: u64) -> Vec<Blow> {
    let files: Vec<(PathBuf, u64)> = chunks_of(cluster, 0)
        .into_iter()
        .map(|(below, (_, path))| (below, fs::metadata(path).unwrap().len()))
        .collect();
    let mut pick = |below: u64| random.below(below);
    let mut deleted: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut flipped: BTreeMap<(&Path, u64), BTreeSet<usize>> = BTreeMap::new();
    let mut blows = Vec::new();
    while (deleted.len() as u64) < deletions.min(files.len() as u64) {
        let (file, node) = (&files[pick(files.len() as u64) as usize].0, pick(3) as usize);
        if !deleted.contains_key(file.as_path()) {
            deleted.insert(file, node);
            blows.push(Blow::Delete(node, file.clone()));
        }
    }
    for _ in 0..flips {
        let (file, len) = &files[pick(files.len() as u64) as usize];
        let (node, at) = (pick(3) as usize, pick(*len));
        let hurt = flipped.entry((file, at / GRANULE)).or_default();
        let gone = deleted.get(file.as_path()).copied();
        let would: BTreeSet<usize> = hurt.iter().copied().chain([node]).chain(gone).collect();
        if would.len() < 3 {
            hurt.insert(node);
            blows.push(Blow::Flip(node, file.clone(), at));
        }
    }
    // In any order.
    for at in (1..blows.len()).rev() {
        blows.swap(at, pick(at as u64 + 1) as usize);
    }
    blows
}

#[test]
fn bits_flip_and_files_vanish_on_all_nodes_and_nobody_notices() {
    let _alone = alone();
    let (flips, deletions) = (from_env("REPAIR_FLIPS", 150), from_env("REPAIR_DELETIONS", 20));
    let seed = from_env("REPAIR_SEED", 7);
    let cluster = start("7d");
    let mut blobs = BTreeMap::new();
    for number in 0..30.max(deletions + 10) {
        blobs.insert(format!("blob/{number}"), bytes(number, (3 << 20) + number as usize * 1001));
    }
    blobs.insert("large".to_owned(), bytes(1000, CHUNK + (1 << 20)));
    for (path, body) in &blobs {
        put(&cluster, path, body);
    }
    let chunks = blobs.len() + 1;
    let paths: Vec<&str> = blobs.keys().map(String::as_str).collect();
    wait_whole(&cluster, &paths);
    wait_until(DEADLINE, "all chunks", || (0..3).all(|node| chunks_of(&cluster, node).len() == chunks));
    let blows = blows(&cluster, &mut Random::new(seed), flips, deletions);
    let (going, reads) = (AtomicBool::new(true), AtomicU64::new(0));
    let publics = cluster.publics();
    std::thread::scope(|scope| {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        let stop = Stop(&going);
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (publics, blobs, going, reads) = (&publics, &blobs, &going, &reads);
                scope.spawn(move || {
                    let _stop = Stop(going);
                    reads.fetch_add(read_on(publics, blobs, seed + reader, going), Ordering::Relaxed);
                })
            })
            .collect();
        for blow in &blows {
            match blow {
                // One that was deleted has no bits to flip, unless it is back.
                Blow::Flip(node, file, at) => drop(try_flip(&cluster.nodes[*node].disks[0].join(file), *at)),
                Blow::Delete(node, file) => drop(fs::remove_file(cluster.nodes[*node].disks[0].join(file))),
            }
            assert!(going.load(Ordering::Relaxed), "a reader failed");
        }
        let mut damaged = 0;
        for node in 0..3 {
            let report = scrub(&cluster, node).expect_code(0).json();
            assert_eq!(report["unrepaired"], 0, "{report}");
            assert_eq!(report["repaired"], report["damaged"], "{report}");
            damaged += report["damaged"].as_u64().unwrap();
        }
        assert!(damaged > 0, "there was damage for the scrub to find");
        drop(stop);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
    });
    // Files that were open are read no more.
    for node in 0..3 {
        let rescues = || metric(&metrics(&cluster, node), "amberblob_read_repairs_total");
        let before = rescues();
        for (path, body) in &blobs {
            assert!(local(&cluster, node, path).expect_status(200).body == *body, "{path} of {node}");
        }
        assert_eq!(rescues(), before, "node {node} reads a file that was replaced");
    }
    let (mut repaired, mut rescued) = (0, 0);
    for node in 0..3 {
        let files = chunks_of(&cluster, node);
        assert_eq!(files.len(), chunks, "node {node}");
        for (name, path) in files.values() {
            assert_eq!(sha256_hex(&fs::read(path).unwrap()), *name, "node {node}: {}", path.display());
        }
        let text = metrics(&cluster, node);
        repaired += metric(&text, "amberblob_repaired_total");
        rescued += metric(&text, "amberblob_read_repairs_total");
        assert_eq!(metric(&text, "amberblob_damaged_chunks"), 0);
        let again = scrub(&cluster, node).expect_code(0).json();
        assert_eq!(again["damaged"], 0, "{again}");
        for path in quarantined(&cluster, node) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let chunk = name.split_once('-').unwrap().1;
            assert_ne!(sha256_hex(&fs::read(&path).unwrap()), chunk, "a good file is in quarantine");
        }
    }
    assert!(repaired > 0 && reads.load(Ordering::Relaxed) > 0);
    eprintln!(
        "{} blows, {} reads, {repaired} chunks repaired, {rescued} stretches repaired while read",
        blows.len(),
        reads.load(Ordering::Relaxed)
    );
}

#[test]
fn a_read_over_damage_goes_on_with_another_replicas_bytes() {
    let _alone = alone();
    const LEN: usize = 20 << 20;
    let mut cluster = start("7d");
    let body = bytes(5, LEN);
    put(&cluster, "file", &body);
    wait_whole(&cluster, &["file"]);
    // Restarted, so that nothing is in memory.
    assert!(cluster.nodes[1].terminate().success());
    let (_, file) = chunks_of(&cluster, 1).into_values().next().unwrap();
    // In the first piece, in further ones, and in two of a part.
    for at in [10, (5 << 20) + 1, (5 << 20) + 900_000, LEN - 5] {
        flip(&file, at as u64);
    }
    // Another replica is damaged in the same part, at another place.
    let (_, other) = chunks_of(&cluster, 0).into_values().next().unwrap();
    flip(&other, (5 << 20) + 300_000);
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    assert!(local(&cluster, 1, "file").expect_status(200).body == body);
    let text = metrics(&cluster, 1);
    assert!(metric(&text, "amberblob_read_repairs_total") >= 3, "{text}");
    // And the chunk is repaired behind it, without anybody's asking.
    wait_until(DEADLINE, "the repair", || fs::read(&file).is_ok_and(|now| now == body));
    wait_until(DEADLINE, "its end", || metric(&metrics(&cluster, 1), "amberblob_damaged_chunks") == 0);
    assert!(cluster.nodes[1].terminate().success());
    fs::remove_file(&file).unwrap();
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    assert!(local(&cluster, 1, "file").expect_status(200).body == body, "read of a file that is gone");
    wait_until(DEADLINE, "the file to come back", || fs::read(&file).is_ok_and(|now| now == body));
}

#[test]
fn a_read_that_is_passed_on_to_damaged_replicas_goes_on_too() {
    let _alone = alone();
    let mut cluster = start_nodes(4, "7d");
    let body = bytes(9, 12 << 20);
    put(&cluster, "file", &body);
    let replicas = |cluster: &Cluster| -> Vec<usize> {
        (0..4).filter(|node| !chunks_of(cluster, *node).is_empty()).collect()
    };
    wait_until(DEADLINE, "three replicas", || {
        // One that missed the write hears of it from a read.
        (0..4).for_each(|node| drop(cluster.send(node, &Request::new("HEAD", &object("file")))));
        let found = replicas(&cluster);
        let mine = |node: &&usize| local(&cluster, **node, "file").status == 200;
        found.iter().filter(mine).count() == 3
    });
    let replicas = replicas(&cluster);
    let other = (0..4).find(|node| !replicas.contains(node)).unwrap();
    for (at, node) in replicas.iter().enumerate() {
        assert!(cluster.nodes[*node].terminate().success());
        let (_, file) = chunks_of(&cluster, *node).into_values().next().unwrap();
        flip(&file, 100 + at as u64 * GRANULE);
        flip(&file, (9 << 20) + at as u64 * GRANULE);
    }
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    let answer = cluster.send(other, &Request::new("GET", &object("file"))).expect_status(200);
    assert!(answer.body == body);
    let rescued: u64 =
        replicas.iter().map(|node| metric(&metrics(&cluster, *node), "amberblob_read_repairs_total")).sum();
    assert!(rescued >= 2, "{rescued}");
}

#[test]
fn the_damaged_file_is_in_quarantine_for_a_while() {
    let _alone = alone();
    let cluster = start("8s");
    let body = bytes(6, 3 << 20);
    put(&cluster, "file", &body);
    wait_whole(&cluster, &["file"]);
    let (name, file) = chunks_of(&cluster, 2).into_values().next().unwrap();
    flip(&file, 1 << 20);
    let damaged = fs::read(&file).unwrap();
    let report = scrub(&cluster, 2).expect_code(0).json();
    assert_eq!((&report["damaged"], &report["repaired"]), (&1.into(), &1.into()), "{report}");
    assert!(fs::read(&file).unwrap() == body);
    let kept = quarantined(&cluster, 2);
    assert_eq!(kept.len(), 1);
    assert!(kept[0].file_name().unwrap().to_str().unwrap().ends_with(&name));
    assert!(fs::read(&kept[0]).unwrap() == damaged, "as it was found");
    wait_until(DEADLINE, "the quarantine to end", || quarantined(&cluster, 2).is_empty());
}

#[test]
fn a_small_blob_in_a_database_is_repaired_there() {
    let _alone = alone();
    let mut cluster = start("7d");
    let bodies: Vec<Vec<u8>> = (0..3).map(|number| bytes(number, 50_000)).collect();
    for (number, body) in bodies.iter().enumerate() {
        put(&cluster, &format!("small/{number}"), body);
    }
    let whole = |cluster: &Cluster, node: usize| {
        let read = |number| cluster.send(node, &Request::new("HEAD", &object(&format!("small/{number}"))));
        (0..3).all(|number| {
            read(number).expect_status(200);
            local(cluster, node, &format!("small/{number}")).status == 200
        })
    };
    wait_until(DEADLINE, "all replicas", || (0..3).all(|node| whole(&cluster, node)));
    assert!(cluster.nodes[0].terminate().success());
    for (number, body) in bodies.iter().enumerate() {
        let slot = slot_dir(&cluster.nodes[0].disks[0], &format!("small/{number}"));
        flip_in_database(&slot, body, 20_000 + number * 1000);
    }
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    // The others are away: what is damaged here is damaged.
    cluster.nodes[1].pause();
    cluster.nodes[2].pause();
    assert_error(&local(&cluster, 0, "small/0"), 500, "Internal");
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    wait_until(DEADLINE, "a read over the damage", || local(&cluster, 0, "small/1").status == 200);
    assert!(local(&cluster, 0, "small/1").expect_status(200).body == bodies[1]);
    scrub(&cluster, 0).expect_code(0);
    let report = scrub(&cluster, 0).expect_code(0).json();
    assert_eq!((&report["chunks"], &report["damaged"]), (&3.into(), &0.into()), "{report}");
    assert!(metric(&metrics(&cluster, 0), "amberblob_repaired_total") >= 3);
    // Nobody else is needed any more.
    cluster.nodes[1].pause();
    cluster.nodes[2].pause();
    for (number, body) in bodies.iter().enumerate() {
        assert!(local(&cluster, 0, &format!("small/{number}")).expect_status(200).body == *body);
    }
}

#[test]
fn checksums_that_are_damaged_in_a_database_are_made_anew() {
    let _alone = alone();
    let mut cluster = start("7d");
    let body = bytes(3, 5 << 20);
    put(&cluster, "sums", &body);
    wait_whole(&cluster, &["sums"]);
    assert!(cluster.nodes[0].terminate().success());
    let database = slot_dir(&cluster.nodes[0].disks[0], "sums").join("meta.sqlite3");
    let db = rusqlite::Connection::open(database).unwrap();
    // Of the second part, the first granule's.
    let second = "key & 0xffffff = 1";
    let sums = db.query_row(&format!("SELECT sums FROM parts WHERE {second}"), [], |row| row.get(0));
    let mut sums: Vec<u8> = sums.unwrap();
    sums[0] ^= 1;
    let damaged = db.execute(&format!("UPDATE parts SET sums = ?1 WHERE {second}"), [sums]);
    assert_eq!(damaged.unwrap(), 1);
    drop(db);
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    let target = format!("{}?consistency=local&start={}&end={}", object("sums"), 2 << 20, (2 << 20) + 1000);
    wait_until(DEADLINE, "a read over damaged checksums", || {
        cluster.send(0, &Request::new("GET", &target)).status == 206
    });
    assert!(local(&cluster, 0, "sums").expect_status(200).body == body);
    assert!(metric(&metrics(&cluster, 0), "amberblob_repaired_total") >= 1);
    assert_eq!(quarantined(&cluster, 0), Vec::<PathBuf>::new(), "the file was good");
}

#[test]
fn without_another_replica_nothing_is_moved_and_with_one_all_is_well() {
    let _alone = alone();
    let mut cluster = start("7d");
    let body = bytes(8, 5 << 20);
    put(&cluster, "file", &body);
    wait_whole(&cluster, &["file"]);
    let (_, file) = chunks_of(&cluster, 0).into_values().next().unwrap();
    assert!(cluster.nodes[0].terminate().success());
    flip(&file, 100);
    let damaged = fs::read(&file).unwrap();
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let report = scrub(&cluster, 0).expect_code(1).json();
    assert_eq!((&report["damaged"], &report["unrepaired"]), (&1.into(), &1.into()), "{report}");
    assert_error(&local(&cluster, 0, "file"), 500, "Internal");
    assert!(fs::read(&file).unwrap() == damaged && quarantined(&cluster, 0).is_empty());
    // The read has begun another attempt, whose temporary file goes.
    wait_until(DEADLINE, "no temporary file", || chunks_of(&cluster, 0).len() == 1);
    let (_, ready) = cluster.nodes[0].admin_page("/readyz").unwrap();
    assert!(ready.contains("\"damaged_chunks\":1"), "{ready}");
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    assert!(local(&cluster, 0, "file").expect_status(200).body == body);
    scrub(&cluster, 0).expect_code(0);
    assert!(fs::read(&file).unwrap() == body);
}
