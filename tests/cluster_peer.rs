//! What reaches the peer listener of a node and does not come from a peer: it is refused, changes nothing, and the node goes on.
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

use std::io;
use std::time::Duration;

use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Shape};
use support::{
    CHUNK, Connection, Random, Request, bytes, object, plain_files, sha256, sha256_hex, wait_until,
};

/// An answer, or the end of the connection, comes within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `raw` and ends our side: the status of the answer, or nothing where the node just closed.
fn throw(cluster: &Cluster, node: usize, raw: &[u8]) -> Option<u16> {
    let mut link = Connection::open(cluster.nodes[node].peer);
    link.set_read_timeout(PATIENCE);
    let _ = link.send_raw(raw);
    let _ = link.finish_sending();
    match link.read_response("GET") {
        Ok(answer) => Some(answer.status),
        Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
            panic!(
                "no answer and no end within {PATIENCE:?} to {:?}",
                String::from_utf8_lossy(&raw[..raw.len().min(80)])
            )
        }
        Err(_) => None,
    }
}

/// A request with the fields of a peer, some of them changed; nothing leaves a field out.
fn request(cluster: &Cluster, method: &str, target: &str, change: &[(&str, Option<&str>)]) -> Request {
    let fields = [
        ("x-amber-protocol", "5"),
        ("x-amber-cluster", "test"),
        ("x-amber-node", "node-2"),
        ("x-amber-to", "node-1"),
    ];
    let mut request = Request::new(method, target);
    for (name, value) in fields {
        let changed = change.iter().find(|(key, _)| *key == name).map_or(Some(value), |(_, value)| *value);
        if let Some(value) = changed {
            request = request.header(name, value);
        }
    }
    assert!(cluster.len() > 1);
    request
}

#[track_caller]
fn assert_refused(told: Option<u16>, what: &str) {
    assert!(told.is_none_or(|status| (400..=503).contains(&status) && status != 500), "{what}: {told:?}");
}

#[track_caller]
fn assert_goes_on(cluster: &mut Cluster, what: &str) {
    for node in 0..cluster.len() {
        assert!(cluster.nodes[node].ended().is_none(), "{what}: node {} ended", node + 1);
        let put = cluster.send(node, &Request::new("PUT", &object("peer/alive")).body(what));
        assert_eq!(put.status, 201, "{what}: {put:?}");
    }
}

#[test]
fn rubbish_on_the_peer_listener_is_refused() {
    let mut cluster = Cluster::start(Shape::of(3));
    let mut random = Random::new(5);
    for round in 0..200 {
        let mut rubbish = vec![0; random.below(5000) as usize];
        random.fill(&mut rubbish);
        // Some begin like what is expected.
        if round % 3 == 0 {
            rubbish.splice(0..0, b"POST / HTTP/1.1\r\n".iter().copied());
        }
        assert_refused(throw(&cluster, round % 3, &rubbish), "rubbish");
    }
    assert_goes_on(&mut cluster, "rubbish");
    let endless = [b"POST / HTTP/1.1\r\nx-amber-cluster: ".to_vec(), vec![b'a'; 1 << 20]].concat();
    assert_refused(throw(&cluster, 0, &endless), "an endless head");
    assert_refused(throw(&cluster, 0, b""), "nothing at all");
    assert_refused(throw(&cluster, 0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "a TLS hello");
    assert_goes_on(&mut cluster, "endless");
}

#[test]
fn strangers_are_refused() {
    let mut cluster = Cluster::start(Shape::of(3));
    cluster.send(0, &Request::new("PUT", &object("peer/kept")).body("kept")).expect_status(201);
    // A client of the public listener that has the wrong port.
    for (method, target) in
        [("GET", "/objects/peer/kept"), ("DELETE", "/objects/peer/kept"), ("PUT", "/objects/peer/new")]
    {
        let raw = Request::new(method, target).body("x").encode();
        let told = throw(&cluster, 0, &raw);
        assert_refused(told, method);
    }
    let strange = [
        ("x-amber-protocol", Some("999")),
        ("x-amber-protocol", Some("one")),
        ("x-amber-protocol", None),
        ("x-amber-cluster", Some("another")),
        ("x-amber-cluster", None),
        ("x-amber-node", Some("node-9")),
        ("x-amber-node", None),
    ];
    for target in ["/", "/cluster", "/objects/peer/kept", "/objects/peer/kept?version=1"] {
        for (name, value) in strange {
            let raw = request(&cluster, "POST", target, &[(name, value)]).body(bytes(1, 100)).encode();
            assert_refused(throw(&cluster, 0, &raw), &format!("{name} {value:?} {target}"));
        }
        // And one that names itself rightly, and says nothing that can be read.
        for len in [0, 1, 100, 100_000] {
            let raw = request(&cluster, "POST", target, &[]).body(bytes(len as u64, len)).encode();
            assert_refused(throw(&cluster, 0, &raw), &format!("{len} bytes to {target}"));
        }
    }
    for node in 0..3 {
        let kept = cluster.send(node, &Request::new("GET", &object("peer/kept"))).expect_status(200);
        assert_eq!(kept.body, b"kept");
        cluster.send(node, &Request::new("GET", &object("peer/new"))).expect_status(404);
    }
    assert_goes_on(&mut cluster, "strangers");
}

#[test]
fn many_silent_connections_hold_nobody_up() {
    let mut cluster = Cluster::start(Shape::of(3));
    let silent: Vec<Connection> = (0..300).map(|at| Connection::open(cluster.nodes[at % 3].peer)).collect();
    assert_goes_on(&mut cluster, "silence");
    drop(silent);
    assert_goes_on(&mut cluster, "after silence");
}

/// The bytes of a chunk as its coordinator sends them: with its seal.
fn sealed(chunk: &[u8]) -> Vec<u8> {
    let (id, granules) = (sha256(chunk), chunk.chunks(16 << 10));
    let sums: Vec<u8> = granules.flat_map(|granule| crc32c::crc32c(granule).to_le_bytes()).collect();
    [chunk, &id, &sha256(&[&id[..], &sums].concat())].concat()
}

#[test]
fn bytes_that_are_not_those_that_were_hashed_are_refused() {
    let mut cluster = Cluster::start(Shape::of(3));
    let chunk = bytes(9, 1_000_000);
    let good = sealed(&chunk);
    let files = |cluster: &Cluster| plain_files(&cluster.disks()[0][0].join("slots")).into_keys();
    let upload = |cluster: &Cluster, number: u32, size: usize, body: &[u8]| {
        let target = format!("/peer/upload/7/01ARZ3NDEKTSV4RRFFQ69G5F{number:02}/{size}");
        throw(cluster, 0, &request(cluster, "PUT", &target, &[]).body(body).encode())
    };
    let len = chunk.len();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (number, at) in
        [0, 16 << 10, len / 2, len - 1, len, len + 31, len + 32, len + 63].into_iter().enumerate()
    {
        let told = upload(&cluster, number as u32, len, &flipped(at));
        assert_eq!(told, Some(400), "a flipped bit in byte {at}");
    }
    let shifted = [&chunk[1..], &chunk[..1], &good[len..]].concat();
    assert_eq!(upload(&cluster, 20, len, &shifted), Some(400), "other bytes");
    for (number, size, body) in
        [(21, len, &good[..len]), (22, len, &good[..len + 63]), (23, len + 64, &good[..]), (24, 0, &good[..])]
    {
        assert_eq!(upload(&cluster, number, size, body), Some(400), "{} bytes for {size}", body.len());
    }
    assert_refused(upload(&cluster, 25, usize::MAX, &good), "more than there can be");
    assert_eq!(files(&cluster).filter(|file| file.to_string_lossy().contains("01ARZ3")).count(), 0);
    assert_eq!(upload(&cluster, 30, len, &good), Some(200));
    assert!(files(&cluster).any(|file| file.ends_with(sha256_hex(&chunk))));
    // Two chunks, the second of which lives in the database.
    let [large, small] = [bytes(10, CHUNK), bytes(11, 1000)];
    let (one, two) = (sealed(&large), sealed(&small));
    let swapped = [&large, &two[1000..], &small, &one[CHUNK..]].concat();
    assert_refused(upload(&cluster, 31, CHUNK + 1000, &swapped), "seals that are swapped");
    assert_eq!(files(&cluster).filter(|file| file.to_string_lossy().contains("G5F31")).count(), 0);
    assert_eq!(upload(&cluster, 32, CHUNK + 1000, &[one, two].concat()), Some(200));
    assert!(files(&cluster).any(|file| file.ends_with(sha256_hex(&large))));
    assert_goes_on(&mut cluster, "broken seals");
}

#[test]
fn an_upload_that_came_to_nothing_is_refused_before_its_files_go() {
    let mut cluster = Cluster::start(Shape::of(3));
    let (blob, chunk) = ("01ARZ3NDEKTSV4RRFFQ69G5FAV", bytes(12, 100_000));
    let target = format!("/peer/upload/7/{blob}/{}", chunk.len());
    let raw = request(&cluster, "PUT", &target, &[]).body(sealed(&chunk)).encode();
    assert_eq!(throw(&cluster, 0, &raw), Some(200));
    let slot = cluster.disks()[0][0].join("slots/7");
    assert!(slot.join("blobs").join(blob).is_dir());
    // Nobody votes about it, and who has it forgets it.
    cluster.nodes[0].kill();
    cluster.heal();
    cluster.wait_ready(READY_DEADLINE);
    wait_until(4 * PATIENCE, "the files to go", || !slot.join("blobs").join(blob).exists());
    assert!(cluster.nodes[0].terminate().success());
    let db = rusqlite::Connection::open(slot.join("meta.sqlite3")).unwrap();
    let refused = db.query_row("SELECT count(*) FROM refusals WHERE blob_id = ?1", [blob], |row| row.get(0));
    assert_eq!(refused, Ok(1), "a late vote must find that it was refused");
}
