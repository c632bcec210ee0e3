//! Any node answers: what goes through a node that is no replica of a path is answered as by a replica, streamed both ways, in
//! bounded memory; and what fails on the way is told.
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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::links::Mode;
use cluster::{Cluster, Shape};
use support::{
    Connection, Request, Response, assert_error, bytes, error_code, object, poll_until, process,
    sha256_base64, sha256_hex, wait_until,
};

const NODES: usize = 5;
/// What is there after this is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The nodes by their place in the slot's order: three replicas, the first of which is asked first, and two others.
fn ranked(path: &str) -> Vec<usize> {
    let slot = (support::slot_of(path) as u16).to_le_bytes();
    let weight = |node: &usize| {
        let name = format!("node-{}", node + 1);
        xxhash_rust::xxh3::xxh3_64(&[&slot[..], name.as_bytes()].concat())
    };
    let mut nodes: Vec<usize> = (0..NODES).collect();
    nodes.sort_by_key(|node| std::cmp::Reverse(weight(node)));
    nodes
}

/// A node that is no replica.
fn outsider(path: &str) -> usize {
    ranked(path)[3]
}

/// Name and value.
type Field = (String, Vec<u8>);

/// What an answer says that does not change from one time to the next: status, fields, body.
fn said(answer: &Response) -> (u16, Vec<Field>, Vec<u8>) {
    let multipart = answer.header("content-type").is_some_and(|value| value.starts_with("multipart/"));
    let mut fields: Vec<Field> = answer
        .headers
        .0
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .filter(|(name, _)| name != "date" && !(multipart && name == "content-type"))
        .collect();
    fields.sort();
    let mut body = answer.body.clone();
    if answer.status >= 400 {
        // The identity of the request in an error has no fixed length.
        fields.retain(|(name, _)| name != "content-length");
    }
    if answer.status >= 400 && !body.is_empty() {
        body = format!("{}: {}", error_code(answer), answer.json()["error"]["message"]).into_bytes();
    }
    if multipart {
        // The boundary is another one each time.
        let boundary = answer.header("content-type").unwrap().split("boundary=").nth(1).unwrap().to_owned();
        body = String::from_utf8_lossy(&body).replace(boundary.trim_matches('"'), "boundary").into_bytes();
    }
    (answer.status, fields, body)
}

#[track_caller]
fn assert_same(cluster: &Cluster, path: &str, request: &Request, what: &str) -> u16 {
    let nodes = ranked(path);
    let direct = cluster.send(nodes[0], request);
    for node in &nodes[3..] {
        let forwarded = cluster.send(*node, request);
        let (a, b) = (said(&direct), said(&forwarded));
        assert!(a == b, "{what} through {}: {direct:?}\nis not\n{forwarded:?}", node + 1);
    }
    direct.status
}

#[test]
fn a_node_that_is_no_replica_reads_like_one() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(NODES));
    for (path, len) in [("read/small", 700), ("read/mid\u{e9} %&+", 100_000), ("read/large", 5 << 20)] {
        let (old, body) = (bytes(1, 3000), bytes(2, len));
        let put = |body: &[u8]| {
            let request = Request::new("PUT", &object(path))
                .header("Content-Type", "text/x-thing; charset=utf-8")
                .header("x-amber-meta-colour", b"gr\xfcn")
                .header("Cache-Control", "max-age=9")
                .body(body);
            cluster.send(outsider(path), &request).expect_status(201)
        };
        put(&old);
        let etag = put(&body).header("etag").unwrap().to_owned();
        let target = object(path);
        let request = |method: &str, query: &str| Request::new(method, &format!("{target}{query}"));
        let get = |name: &str, value: &str| request("GET", "").header(name, value);
        let last = len - 1;
        for (what, status, request) in [
            ("GET", 200, request("GET", "")),
            ("HEAD", 200, request("HEAD", "")),
            ("version", 200, request("GET", "?version=1")),
            ("HEAD of a version", 200, request("HEAD", "?version=1")),
            ("no version", 404, request("GET", "?version=7")),
            ("HEAD of none", 404, request("HEAD", "?version=7")),
            ("range", 206, get("Range", "bytes=10-600")),
            ("suffix", 206, get("Range", "bytes=-5")),
            ("open range", 206, get("Range", "bytes=99-")),
            ("one byte", 206, get("Range", &format!("bytes={last}-{last}"))),
            ("ranges", 206, get("Range", "bytes=0-9,50-99,300-301")),
            ("no range", 416, get("Range", "bytes=99999999-")),
            ("start and end", 206, request("GET", "?start=5&end=15")),
            ("bad query", 400, request("GET", "?start=15&end=5")),
            ("twice", 400, request("GET", "?version=1&version=1")),
            ("not modified", 304, get("If-None-Match", &etag)),
            ("modified", 200, get("If-None-Match", "\"x\"")),
            ("failed", 412, get("If-Match", "\"x\"")),
            ("If-Range", 206, get("Range", "bytes=1-2").header("If-Range", &etag)),
            ("If-Range of another", 200, get("Range", "bytes=1-2").header("If-Range", "\"x\"")),
            ("versions", 200, request("GET", "?versions")),
            ("chunks", 200, request("GET", "?chunks")),
            ("both", 400, request("GET", "?chunks&versions")),
            ("POST", 405, request("POST", "")),
            ("OPTIONS", 204, request("OPTIONS", "")),
        ] {
            assert_eq!(assert_same(&cluster, path, &request, &format!("{path}: {what}")), status, "{what}");
        }
        let whole = cluster.send(outsider(path), &request("GET", ""));
        assert!(whole.body == body && whole.header("x-amber-version") == Some("2"), "{whole:?}");
        assert_eq!(whole.headers.get_bytes("x-amber-meta-colour"), Some(&b"gr\xfcn"[..]));
    }
    // As many fields as can be stored pass both ways, and so does the longest target.
    let long = format!("read/{}", "l".repeat(1000));
    let fields: Vec<(String, String)> =
        (0..95).map(|number| (format!("x-amber-meta-{number}"), "v".repeat(100))).collect();
    let mut request = Request::new("PUT", &object(&long)).body("x");
    for (name, value) in &fields {
        request = request.header(name, value);
    }
    cluster.send(outsider(&long), &request).expect_status(201);
    let padded = format!("{}?{}", object(&long), "p".repeat(8192 - object(&long).len() - 15));
    assert_eq!(assert_same(&cluster, &long, &Request::new("GET", &padded), "the longest target"), 200);
    // What only nodes say to one another means nothing from a client.
    let pretending = Request::new("GET", &object("read/small"))
        .header("x-amber-hops", "9")
        .header("x-amber-node", "node-1")
        .header("x-amber-to", "node-1");
    assert_eq!(assert_same(&cluster, "read/small", &pretending, "fields of nodes"), 200);
}

#[test]
fn a_node_that_is_no_replica_writes_like_one() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(NODES));
    let reads = |path: &str, body: &[u8]| {
        for node in 0..NODES {
            let answer = cluster.send(node, &Request::new("GET", &object(path))).expect_status(200);
            assert!(answer.body == body, "{path} through {}", node + 1);
        }
    };
    // On one connection, so that every answer must end where it ends.
    let path = "write/one";
    let node = outsider(path);
    let mut link = Connection::open(cluster.nodes[node].public);
    let mut send = |request: &Request| link.exchange(request).expect("an answer");
    let put = |version: &str| Request::new("PUT", &format!("{}{version}", object(path)));
    for (at, len) in [0, 1, 1000, 70_000, 3 << 20].into_iter().enumerate() {
        let body = bytes(at as u64, len);
        let answer = send(&put("").body(&body)).expect_status(201);
        assert_eq!((answer.json_u64("version"), answer.json_u64("size")), (at as u64 + 1, len as u64));
        reads(path, &body);
    }
    let body = bytes(9, 3 << 20);
    let pieces: Vec<&[u8]> = body.chunks(99_999).collect();
    let digest = format!("sha-256=:{}:", sha256_base64(&body));
    let chunked = put("").chunked(&pieces, &[("Repr-Digest", &digest), ("x-else", "y")]);
    assert_eq!(send(&chunked).expect_status(201).json_u64("version"), 6);
    reads(path, &body);
    let wrong = put("")
        .chunked(&pieces, &[("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:")]);
    assert_error(&send(&wrong), 400, "DigestMismatch");
    let mut link = Connection::open(cluster.nodes[node].public);
    let mut send = |request: &Request| link.exchange(request).expect("an answer");
    let at = |version: u64, body: &[u8]| put(&format!("?version={version}")).body(body);
    let again = send(&at(6, &body)).expect_status(200);
    assert_eq!(again.json_u64("version"), 6);
    let empty = send(&put("")).expect_status(201);
    assert_eq!(empty.json_u64("size"), 0);
    let newest = empty.json_u64("version");
    let gone = send(&Request::new("DELETE", &object(path)).header("If-Match", "\"x\""));
    assert_error(&gone, 412, "PreconditionFailed");
    let gone = send(&Request::new("DELETE", &object(path))).expect_status(200);
    assert_eq!(gone.json_u64("version"), newest);
    let gone = send(&Request::new("DELETE", &object(path)));
    assert_error(&gone, 404, "BlobNotFound");
    send(&Request::new("DELETE", &format!("{}?version=6", object(path)))).expect_status(200);
    assert_error(&send(&at(6, &body)), 409, "VersionConflict");
    // A client of HTTP/1.0.
    let raw = format!("PUT {} HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", object("write/old"));
    let answer = Connection::open(cluster.nodes[outsider("write/old")].public).answer_to(raw.as_bytes());
    assert!(answer.expect_status(201).interim.is_empty());
    reads("write/old", b"hello");
    // A client that breaks off leaves nothing.
    for (path, head) in [
        ("write/cut", "Content-Length: 9000000"),
        ("write/cut/chunked", "Transfer-Encoding: chunked\r\n\r\n7a1200"),
    ] {
        let mut link = Connection::open(cluster.nodes[outsider(path)].public);
        let head = format!("PUT {} HTTP/1.1\r\nHost: h\r\n{head}\r\n", object(path));
        let end: &[u8] = if path.ends_with("cut") { b"\r\n" } else { b"" };
        link.send_raw(&[head.as_bytes(), end, &bytes(1, 5_000_000)].concat()).unwrap();
        drop(link);
        reads("write/old", b"hello");
        assert_error(&cluster.send(outsider(path), &Request::new("GET", &object(path))), 404, "BlobNotFound");
    }
}

#[test]
fn what_is_refused_from_the_head_alone_is_refused_before_the_body() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(NODES));
    let path = "expect";
    let node = outsider(path);
    let put = |fields: &str| {
        format!(
            "PUT {} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n{fields}\r\n",
            object(path)
        )
    };
    for _ in 0..2 {
        let mut link = Connection::open(cluster.nodes[node].public);
        link.send_raw(put("").as_bytes()).unwrap();
        assert_eq!(link.read_interim().unwrap().status, 100);
        link.send_raw(b"hello").unwrap();
        link.read_response("PUT").unwrap().expect_status(201);
    }
    let mut link = Connection::open(cluster.nodes[node].public);
    let answer = link.answer_to(put("If-None-Match: *\r\n").as_bytes());
    assert_error(&answer, 412, "PreconditionFailed");
    assert!(answer.interim.is_empty() && answer.says_close(), "{answer:?}");
    // One that does not wait gets the same, however much it sends.
    let body = bytes(1, 40 << 20);
    let eager = Request::new("PUT", &object(path)).header("If-None-Match", "*").body(&body);
    assert_error(&cluster.send(node, &eager), 412, "PreconditionFailed");
    let sent = cluster.links().passed(node, ranked(path)[0]);
    assert!(sent < 1 << 20, "{sent} bytes were passed on for nothing");
    let unknown =
        format!("PUT {} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: more\r\n\r\n", object(path));
    let answer = Connection::open(cluster.nodes[node].public).answer_to(unknown.as_bytes());
    assert_error(&answer, 417, "ExpectationFailed");
}

#[test]
fn another_replica_is_asked_where_one_fails_before_it_answers() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(NODES));
    let path = "fail/over";
    let (nodes, target) = (ranked(path), object(path));
    let node = nodes[3];
    cluster.send(node, &Request::new("PUT", &target).body("one")).expect_status(201);
    for mode in [Mode::Cut, Mode::CutAfter(50), Mode::BlackHole] {
        cluster.links().set(node, nodes[0], mode);
        let began = Instant::now();
        assert_eq!(cluster.send(node, &Request::new("GET", &target)).expect_status(200).body, b"one");
        cluster.send(node, &Request::new("PUT", &target).body("one")).expect_status(201);
        cluster.send(node, &Request::new("HEAD", &target)).expect_status(200);
        assert!(began.elapsed() < PATIENCE, "{mode:?}: {:?}", began.elapsed());
        cluster.links().heal();
        cluster.wait_ready(PATIENCE);
    }
    for replica in &nodes[..3] {
        cluster.links().set(node, *replica, Mode::Cut);
    }
    for method in ["GET", "PUT", "DELETE"] {
        let answer = cluster.send(node, &Request::new(method, &target).body("x"));
        assert_error(&answer, 503, "SlotUnavailable");
        assert!(answer.header("retry-after").is_some(), "{method}: {answer:?}");
    }
    cluster.links().heal();
    assert_eq!(cluster.send(node, &Request::new("GET", &target)).expect_status(200).body, b"one");
    // Two nodes do not pass a request to and fro.
    let looping = Request::new("GET", &target)
        .header("x-amber-protocol", "5")
        .header("x-amber-cluster", "test")
        .header("x-amber-node", format!("node-{}", nodes[4] + 1))
        .header("x-amber-to", format!("node-{}", node + 1))
        .header("x-amber-hops", "2");
    let mut link = Connection::open(cluster.nodes[node].peer);
    assert_error(&link.exchange(&looping).unwrap(), 503, "SlotUnavailable");
}

#[test]
fn an_answer_that_breaks_off_cuts_the_client_off() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(NODES));
    let (path, body) = ("break/off", bytes(3, 24 << 20));
    let (nodes, target) = (ranked(path), object(path));
    let node = nodes[3];
    cluster.send(node, &Request::new("PUT", &target).body(&body)).expect_status(201);
    for killed in [false, true] {
        // Whichever is asked: one that broke off is not asked first again at once.
        let passed = |cluster: &Cluster| [0, 1, 2].map(|at| cluster.links().passed(node, nodes[at]));
        for replica in &nodes[..3] {
            cluster.links().set(node, *replica, Mode::Throttle(8 << 20));
        }
        let before = passed(&cluster);
        let mut link = Connection::open(cluster.nodes[node].public);
        link.send(&Request::new("GET", &target)).unwrap();
        let head = link.read_head("GET").unwrap().expect_status(200);
        assert_eq!(head.header("content-length"), Some(&*body.len().to_string()));
        let mut seen = Vec::new();
        link.read_exactly(2 << 20, &mut |piece| seen.extend_from_slice(piece)).unwrap();
        let after = passed(&cluster);
        let asked = nodes[(0..3).max_by_key(|at| after[*at] - before[*at]).unwrap()];
        if killed {
            cluster.nodes[asked].kill();
        } else {
            cluster.links().set(node, asked, Mode::Cut);
        }
        let error =
            link.read_exactly(body.len() as u64 - (2 << 20), &mut |piece| seen.extend_from_slice(piece));
        assert!(error.is_err() && seen.len() < body.len(), "{} bytes", seen.len());
        assert!(body.starts_with(&seen), "what came is right");
        let next = cluster.send(node, &Request::new("GET", &target)).expect_status(200);
        assert!(next.body == body, "another replica has it");
        cluster.heal();
        cluster.wait_ready(PATIENCE);
    }
    // An upload that breaks off in the middle is told, and leaves nothing.
    let path = "break/upload";
    let nodes = ranked(path);
    for replica in &nodes[..3] {
        cluster.links().set(nodes[3], *replica, Mode::CutAfter(3 << 20));
    }
    let answer = cluster.send(nodes[3], &Request::new("PUT", &object(path)).body(&body));
    assert_error(&answer, 503, "SlotUnavailable");
    assert!(answer.header("retry-after").is_some());
    cluster.links().heal();
    cluster.wait_ready(PATIENCE);
    for node in 0..NODES {
        assert_error(&cluster.send(node, &Request::new("GET", &object(path))), 404, "BlobNotFound");
    }
}

#[test]
fn bodies_stream_while_they_come() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(NODES));
    let path = "stream";
    let nodes = ranked(path);
    let (node, first) = (nodes[3], nodes[0]);
    let body = bytes(5, 64 << 20);
    let mut link = Connection::open(cluster.nodes[node].public);
    let head = format!("PUT {} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", object(path), body.len());
    link.send_raw(head.as_bytes()).unwrap();
    let (one, two) = body.split_at(20 << 20);
    link.send_raw(one).unwrap();
    poll_until(PATIENCE, "what was sent has been passed on", || {
        (cluster.links().passed(node, first) >= one.len() as u64).then_some(())
    });
    link.send_raw(two).unwrap();
    link.read_response("PUT").unwrap().expect_status(201);
    // A client that reads slowly holds the other node up.
    let before = cluster.links().passed(node, first);
    let mut link = Connection::open(cluster.nodes[node].public);
    link.send(&Request::new("GET", &object(path))).unwrap();
    link.read_head("GET").unwrap().expect_status(200);
    let mut last = (0, Instant::now());
    let held = || {
        let passed = cluster.links().passed(node, first) - before;
        // Heartbeats go on.
        if passed > last.0 + (64 << 10) {
            last = (passed, Instant::now());
        }
        (passed > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(passed)
    };
    let held = poll_until(PATIENCE, "nothing moves for a client that does not read", held);
    assert!(held < 48 << 20, "{held} bytes are on the way");
    let mut digest = Vec::new();
    link.read_exactly(body.len() as u64, &mut |piece| digest.extend_from_slice(piece)).unwrap();
    assert_eq!(sha256_hex(&digest), sha256_hex(&body));
}

#[test]
fn a_hundred_clients_at_once_take_bounded_memory() {
    let _alone = alone();
    let cluster = Cluster::start(Shape::of(NODES));
    let path = "many/large";
    let (node, target) = (outsider(path), object(path));
    let body = bytes(6, 40 << 20);
    cluster.send(node, &Request::new("PUT", &target).body(&body)).expect_status(201);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..100 {
            let (cluster, done) = (&cluster, &done);
            scope.spawn(move || {
                let path = format!("many/{client}");
                let node = outsider(&path);
                for round in 0..3 {
                    let body = bytes(client * 10 + round, 1 + (client as usize * 7919) % 300_000);
                    cluster.send(node, &Request::new("PUT", &object(&path)).body(&body)).expect_status(201);
                    let got = cluster.send(node, &Request::new("GET", &object(&path))).expect_status(200);
                    assert!(got.body == body, "{path}: other bytes");
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(done.into_inner(), 100);
    // A hundred that ask for much and read nothing.
    let before = process::rss_bytes(cluster.nodes[node].pid());
    let mut links: Vec<Connection> = (0..100)
        .map(|_| {
            let mut link = Connection::open(cluster.nodes[node].public);
            link.send(&Request::new("GET", &target)).unwrap();
            link.read_head("GET").unwrap().expect_status(200);
            link
        })
        .collect();
    let peak = process::peak_rss_bytes(cluster.nodes[node].pid());
    let grown = peak.saturating_sub(before) >> 20;
    eprintln!("100 stalled clients: {} MiB before, at most {} MiB", before >> 20, peak >> 20);
    assert!(grown < 224, "it grew by {grown} MiB");
    // They keep nobody off, and get it all when they read.
    wait_until(PATIENCE, "others are served meanwhile", || {
        cluster.send(node, &Request::new("GET", &object("many/1"))).status == 200
    });
    let mut seen = 0;
    let all = links.pop().unwrap().read_exactly(body.len() as u64, &mut |piece| {
        assert!(piece == &body[seen..seen + piece.len()]);
        seen += piece.len();
    });
    all.unwrap();
}

#[test]
fn a_cluster_that_redirects_sends_readers_to_a_replica() {
    let _alone = alone();
    let mut cluster = Cluster::prepare(Shape::of(NODES));
    for node in &mut cluster.nodes {
        node.config = node.config.replacen("[cluster]\n", "[cluster]\nredirect = true\n", 1);
    }
    cluster.spawn_all();
    cluster.wait_ready(PATIENCE);
    let path = "redirect/a b";
    let (nodes, target) = (ranked(path), object(path));
    let node = nodes[3];
    cluster.send(node, &Request::new("PUT", &target).body("hello")).expect_status(201);
    for method in ["GET", "HEAD"] {
        let answer =
            cluster.send(node, &Request::new(method, &format!("{target}?version=1"))).expect_status(307);
        let place = format!("http://{}{target}?version=1", cluster.nodes[nodes[0]].public);
        assert_eq!(answer.header("location"), Some(&*place));
        assert_eq!((answer.header("vary"), answer.header("preference-applied")), (Some("Prefer"), None));
    }
    let prefers = Request::new("GET", &target).header("Prefer", "wait=5, Redirect");
    let answer = cluster.send(node, &prefers).expect_status(307);
    assert_eq!(answer.header("preference-applied"), Some("redirect"));
    // The first replica is away: the next one.
    cluster.links().set(node, nodes[0], Mode::Cut);
    let second = format!("http://{}", cluster.nodes[nodes[1]].public);
    wait_until(PATIENCE, "the second replica is named", || {
        let answer = cluster.send(node, &prefers);
        answer.header("location").is_some_and(|place| place.starts_with(&second))
    });
    for replica in &nodes[..3] {
        let answer = cluster.send(*replica, &Request::new("GET", &target)).expect_status(200);
        assert_eq!(answer.body, b"hello", "a replica answers itself");
    }
    cluster.send(node, &Request::new("DELETE", &target)).expect_status(200);
}
