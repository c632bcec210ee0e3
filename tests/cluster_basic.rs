//! What a cluster of three answers through any of its nodes, with one of them away, and with too few of them left.
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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Shape};
use support::{
    CHUNK, Connection, Random, Request, Response, assert_error, bytes, error_code, object, sha256_hex,
    wait_until,
};

/// A request that finds no quorum says so within this.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(15);

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(cluster: &Cluster, node: usize, path: &str, body: &[u8]) -> Response {
    cluster.send(node, &Request::new("PUT", &object(path)).body(body))
}

fn put_at(cluster: &Cluster, node: usize, path: &str, version: u64, body: &[u8]) -> Response {
    cluster.send(node, &Request::new("PUT", &format!("{}?version={version}", object(path))).body(body))
}

fn get(cluster: &Cluster, node: usize, target: &str) -> Response {
    cluster.send(node, &Request::new("GET", target))
}

/// 503 for want of a quorum, in time, with the time to come back.
#[track_caller]
fn assert_no_quorum(answer: &Response, since: Instant) {
    assert_error(answer, 503, "QuorumUnavailable");
    let seconds = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    assert!(seconds.is_some(), "no Retry-After: {answer:?}");
    assert!(since.elapsed() < REFUSAL_DEADLINE, "it took {:?}", since.elapsed());
}

#[test]
fn every_node_answers_everything() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(3));
    for writer in 0..3 {
        let (path, first, second) = (format!("any/{writer}"), bytes(1, 100_000), bytes(2, 500));
        let stored = put(&cluster, writer, &path, &first).expect_status(201);
        assert_eq!(stored.json_u64("version"), 1);
        let id = stored.json_str("blob_id");
        let second_id = put(&cluster, writer, &path, &second).expect_status(201).json_str("blob_id");
        for reader in 0..3 {
            let newest = get(&cluster, reader, &object(&path)).expect_status(200);
            assert!(newest.body == second, "node {reader}: other bytes");
            assert_eq!(newest.header("etag"), Some(&*format!("\"{second_id}\"")));
            let old = format!("{}?version=1", object(&path));
            assert!(get(&cluster, reader, &old).expect_status(200).body == first);
            let head = cluster.send(reader, &Request::new("HEAD", &old)).expect_status(200);
            assert_eq!(
                (head.header("content-length"), head.header("x-amber-version")),
                (Some("100000"), Some("1"))
            );
            let part = cluster.send(reader, &Request::new("GET", &old).header("Range", "bytes=70000-70999"));
            assert!(part.expect_status(206).body == first[70_000..71_000]);
            let same = Request::new("GET", &old).header("If-None-Match", format!("\"{id}\""));
            cluster.send(reader, &same).expect_status(304);
            let stale = Request::new("PUT", &object(&path)).header("If-Match", format!("\"{id}\"")).body("x");
            assert_error(&cluster.send(reader, &stale), 412, "PreconditionFailed");
            let there = Request::new("PUT", &object(&path)).header("If-None-Match", "*").body("x");
            assert_error(&cluster.send(reader, &there), 412, "PreconditionFailed");
            let versions =
                get(&cluster, reader, &format!("{}?versions", object(&path))).expect_status(200).json();
            let numbers: Vec<_> =
                versions["versions"].as_array().unwrap().iter().map(|row| row["version"].clone()).collect();
            assert_eq!(numbers, [2, 1], "newest first");
            let chunks = get(&cluster, reader, &format!("{}?chunks&version=1", object(&path))).json();
            assert_eq!(chunks["chunks"][0]["id"], sha256_hex(&first));
            let listing = get(&cluster, reader, "/objects?prefix=any/").expect_status(200).json();
            let listed = listing["objects"].as_array().unwrap().iter().find(|row| row["path"] == *path);
            assert_eq!(listed.expect("it is listed")["blob_id"], *second_id);
        }
        let deleter = (writer + 1) % 3;
        let deleted = cluster.send(deleter, &Request::new("DELETE", &object(&path))).expect_status(200);
        assert_eq!(deleted.json_u64("version"), 2);
        for reader in 0..3 {
            assert_error(&get(&cluster, reader, &object(&path)), 404, "BlobNotFound");
            let old = get(&cluster, reader, &format!("{}?version=1", object(&path)));
            assert!(old.expect_status(200).body == first, "older versions stay");
            let again = put_at(&cluster, reader, &path, 2, &second);
            assert_error(&again, 409, "VersionConflict");
            assert_error(&cluster.send(reader, &Request::new("DELETE", &object(&path))), 404, "BlobNotFound");
        }
    }
}

#[test]
fn a_large_blob_through_one_node_is_read_through_the_others() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(3));
    let body = bytes(7, 150 << 20);
    let stored = put(&cluster, 0, "large", &body).expect_status(201);
    assert_eq!(stored.json()["chunks_stored"], 3);
    let target = object("large");
    for reader in [1, 2] {
        let edges =
            [(0, 1), (CHUNK - 1, 2), (CHUNK - 70_000, 3 << 20), (2 * CHUNK - 5, 10), (body.len() - 9, 9)];
        for (from, len) in edges {
            let range = format!("bytes={from}-{}", from + len - 1);
            let part = cluster.send(reader, &Request::new("GET", &target).header("Range", &range));
            assert!(part.expect_status(206).body == body[from..from + len], "{range} through {reader}");
        }
        let whole = get(&cluster, reader, &target).expect_status(200);
        assert!(whole.body == body, "other bytes through {reader}");
        let chunks = get(&cluster, reader, &format!("{target}?chunks")).json();
        let ids: Vec<_> =
            chunks["chunks"].as_array().unwrap().iter().map(|chunk| chunk["id"].clone()).collect();
        assert_eq!(ids, body.chunks(CHUNK).map(sha256_hex).collect::<Vec<_>>());
    }
}

#[test]
fn one_node_away_stops_nobody() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    for (round, away) in [2, 0].into_iter().enumerate() {
        // Killed, so that connections are refused, or stopped, so that nobody answers.
        let killed = round == 0;
        if killed {
            cluster.nodes[away].kill()
        } else {
            cluster.nodes[away].pause()
        }
        let here: Vec<usize> = (0..3).filter(|node| *node != away).collect();
        for (at, &node) in here.iter().enumerate() {
            let (path, started) = (format!("away/{round}/{at}"), Instant::now());
            put(&cluster, node, &path, b"first").expect_status(201);
            put(&cluster, node, &path, b"second").expect_status(201);
            cluster.send(here[1 - at], &Request::new("DELETE", &object(&path))).expect_status(200);
            put(&cluster, here[1 - at], &path, b"third").expect_status(201);
            for &reader in &here {
                assert_eq!(get(&cluster, reader, &object(&path)).expect_status(200).body, b"third");
            }
            assert!(started.elapsed() < REFUSAL_DEADLINE, "it took {:?}", started.elapsed());
        }
        cluster.heal();
        cluster.wait_ready(READY_DEADLINE);
        for at in 0..2 {
            let target = object(&format!("away/{round}/{at}"));
            assert_eq!(get(&cluster, away, &target).expect_status(200).body, b"third", "it missed that");
            assert_error(&get(&cluster, away, &format!("{target}?version=2")), 404, "BlobNotFound");
            assert_eq!(get(&cluster, away, &format!("{target}?version=1")).expect_status(200).body, b"first");
        }
    }
}

#[test]
fn less_than_a_quorum_refuses_in_time_and_recovers() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    put(&cluster, 0, "few", b"before").expect_status(201);
    // What is asked for locally is the node's own: wait until it has it.
    let target = object("few");
    let local = format!("{target}?consistency=local");
    wait_until(READY_DEADLINE, "node 1 has its copy", || get(&cluster, 0, &local).status == 200);
    for stopped in [false, true] {
        for node in [1, 2] {
            if stopped { cluster.nodes[node].pause() } else { cluster.nodes[node].kill() }
        }
        // Before the node knows that the others are gone, it may have asked for votes: then nobody can tell.
        let started = Instant::now();
        let first = put(&cluster, 0, "few/first", b"first");
        assert!(["QuorumUnavailable", "OutcomeUnknown"].contains(&&*error_code(&first)), "{first:?}");
        assert!(started.elapsed() < REFUSAL_DEADLINE, "it took {:?}", started.elapsed());
        cluster.wait_unready(0, READY_DEADLINE, |why| why.contains("quorum"));
        let started = Instant::now();
        assert_no_quorum(&put(&cluster, 0, "few/new", b"new"), started);
        let started = Instant::now();
        assert_no_quorum(&get(&cluster, 0, &target), started);
        let started = Instant::now();
        assert_no_quorum(&get(&cluster, 0, &object("few/never")), started);
        let started = Instant::now();
        assert_no_quorum(&cluster.send(0, &Request::new("DELETE", &target)), started);
        assert_eq!(get(&cluster, 0, &local).expect_status(200).body, b"before");
        assert_eq!(cluster.send(0, &Request::new("HEAD", &target)).status, 503);
        cluster.heal();
        cluster.wait_ready(READY_DEADLINE);
        for node in 0..3 {
            let told = get(&cluster, node, &target);
            // The DELETE was refused for want of a quorum; where it could not be taken back it may have happened.
            assert!([200, 404].contains(&told.status), "{told:?}");
            put(&cluster, node, "few", b"before").expect_status(201);
        }
        wait_until(READY_DEADLINE, "node 1 has its copy", || get(&cluster, 0, &local).body == b"before");
    }
}

#[test]
fn a_put_is_tried_again_through_another_node() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(3));
    for (path, body) in [("again/small", bytes(3, 1000)), ("again/large", bytes(4, 5 << 20))] {
        let id = put_at(&cluster, 0, path, 12, &body).expect_status(201).json_str("blob_id");
        for node in [1, 2, 0] {
            let again = put_at(&cluster, node, path, 12, &body).expect_status(200);
            assert_eq!((again.json_str("blob_id"), again.json_u64("version")), (id.clone(), 12));
            let other = put_at(&cluster, node, path, 12, b"other bytes");
            assert_error(&other, 409, "VersionConflict");
        }
        let next = put(&cluster, 2, path, b"next").expect_status(201).json_u64("version");
        assert!(next > 12, "{next}");
    }
}

#[test]
fn who_prefers_to_be_redirected_is_sent_to_a_replica() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(5));
    for number in 0..4 {
        let path = format!("redirect/{number}");
        let body = bytes(number, 3000);
        put(&cluster, number as usize, &path, &body).expect_status(201);
        let mut redirected = 0;
        for node in 0..5 {
            assert!(get(&cluster, node, &object(&path)).expect_status(200).body == body);
            let prefers = Request::new("GET", &object(&path)).header("Prefer", "redirect");
            let answer = cluster.send(node, &prefers);
            if answer.status == 200 {
                assert!(answer.body == body);
                continue;
            }
            redirected += 1;
            let answer = answer.expect_status(307);
            let place = answer.header("location").expect("a Location").to_owned();
            let to = (0..5).find(|to| place.starts_with(&format!("http://{}/", cluster.nodes[*to].public)));
            let to = to.unwrap_or_else(|| panic!("{place} is no node"));
            let target =
                place.split_once("//").and_then(|rest| rest.1.find('/').map(|at| &rest.1[at..])).unwrap();
            let there = cluster.send(to, &Request::new("GET", target).header("Prefer", "redirect"));
            assert!(there.expect_status(200).body == body, "a replica answers itself");
        }
        assert_eq!(redirected, 2, "two of five nodes are no replicas of a path");
    }
}

/// Readers race with writers of the same few paths: a node that is behind by some milliseconds must not answer with what it had.
#[test]
fn what_was_acknowledged_is_read_while_it_is_overwritten() {
    const PATHS: usize = 5;
    const CLIENTS: u64 = 12;
    const REQUESTS: usize = 300;
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(3));
    let nodes = cluster.publics();
    // The highest version of each path that any answer told.
    let told: Vec<AtomicU64> = (0..PATHS).map(|_| AtomicU64::new(0)).collect();
    let client = &|seed: u64| {
        let mut random = Random::new(seed);
        let mut links: Vec<Connection> = nodes.iter().map(|node| Connection::open(*node)).collect();
        let (mut stored, mut read) = (0, 0);
        for _ in 0..REQUESTS {
            let (index, node) = (random.below(PATHS as u64) as usize, random.below(3) as usize);
            let path = object(&format!("overwritten/{index}"));
            let request = match random.below(10) {
                0..4 => Request::new("PUT", &path).body(vec![7; 1000]),
                4 => Request::new("PUT", &path).body(vec![7; 70_000]),
                5..8 => Request::new("GET", &path),
                _ => Request::new("HEAD", &path),
            };
            let before = told[index].load(Ordering::SeqCst);
            let answer = links[node].exchange(&request).expect("an answer");
            let version = match answer.status {
                200 | 201 => answer.header("x-amber-version").unwrap().parse::<u64>().unwrap(),
                404 if before == 0 => continue,
                // Others were always faster: nothing was said.
                503 => continue,
                _ => panic!("{} {path}: {answer:?}", request.method()),
            };
            let is_put = answer.status == 201;
            assert!(
                version > before || !is_put && version == before,
                "node-{}: {} {path} says version {version}, and {before} was told before",
                node + 1,
                request.method()
            );
            told[index].fetch_max(version, Ordering::SeqCst);
            *(if is_put { &mut stored } else { &mut read }) += 1;
        }
        (stored, read)
    };
    let (stored, read) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|seed| scope.spawn(move || client(seed))).collect();
        clients.into_iter().fold((0, 0), |(stored, read), client| {
            let (more_stored, more_read) = client.join().unwrap();
            (stored + more_stored, read + more_read)
        })
    });
    let all = CLIENTS as usize * REQUESTS;
    assert!(stored + read > all * 9 / 10, "{stored} stored and {read} read of {all}");
}

#[test]
fn errors_of_a_cluster_are_whole() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(3));
    for node in 0..3 {
        let missing = get(&cluster, node, &object("no/such"));
        assert_eq!(error_code(&missing), "BlobNotFound");
        let digest = Request::new("PUT", &object("digest"))
            .header("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:")
            .body("x");
        assert_error(&cluster.send(node, &digest), 400, "DigestMismatch");
        for other in 0..3 {
            assert_error(&get(&cluster, other, &object("digest")), 404, "BlobNotFound");
        }
    }
}
