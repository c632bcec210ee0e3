//! A peer that talks nonsense about what differs, asked or unasked: nothing is taken over, nothing is lost, the node goes on, and
//! becomes equal once it is told the truth.
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

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amberblob::base::clock::Timestamp;
use amberblob::base::ids::BlobId;
use amberblob::base::slot::Slot;
use amberblob::wire::peer::sync::{Answer, Digest, Items, Question, Range};
use amberblob::wire::peer::{Attempt, Held, Row, decode, encode};
use cluster::equal::wait_equal;
use cluster::formation::READY_DEADLINE;
use cluster::{Cluster, Shape};
use support::{Connection, Random, Request, bytes, object, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

fn shape() -> Shape {
    let sections = "[sync]\ninterval = \"1s\"\n".to_owned();
    Shape { sections, ..Shape::of(3) }
}

fn put(cluster: &Cluster, node: usize, path: &str) {
    let body = bytes(path.len() as u64, 3000);
    cluster.send(node, &Request::new("PUT", &object(path)).body(body)).expect_status(201);
}

/// Asks as the second node asks the first: the status and the body of the answer.
fn ask(cluster: &Cluster, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request = Request::new("POST", "/peer/sync")
        .header("x-amber-protocol", "5")
        .header("x-amber-cluster", "test")
        .header("x-amber-node", "node-2")
        .header("x-amber-to", "node-1");
    let mut link = Connection::open(cluster.nodes[0].peer);
    link.set_read_timeout(DEADLINE);
    let answer = link.exchange(&request.body(body)).expect("an answer");
    (answer.status, answer.body)
}

fn blob(number: u128) -> BlobId {
    BlobId::from_u128(number)
}

#[test]
fn questions_that_cannot_be_one_are_refused() {
    let mut cluster = Cluster::start(shape());
    (0..10).for_each(|number| put(&cluster, 0, &format!("kept/{number}")));
    wait_equal(&cluster, DEADLINE);
    let mut random = Random::new(7);
    for len in [0, 1, 2, 10, 1000, 1 << 20] {
        let mut rubbish = vec![0; len];
        random.fill(&mut rubbish);
        // A question by chance is answered as one.
        let (status, _) = ask(&cluster, rubbish);
        assert!(status == 400 || (len <= 10 && status == 200), "{len}: {status}");
    }
    let everything = Range { first: blob(0), last: blob(u128::MAX) };
    let backwards = Range { first: blob(9), last: blob(1) };
    let ranges = |firsts: Vec<u128>, last| {
        let firsts = firsts.into_iter().map(blob).collect();
        Question::Ranges { slot: 1, firsts, last: blob(last) }
    };
    for question in [
        Question::Digests(vec![9999]),
        Question::Digests((0..5000).map(|number| number % 2048).collect()),
        ranges(vec![], 9),
        ranges(vec![3, 2], 9),
        ranges(vec![2, 2], 9),
        ranges(vec![5], 4),
        ranges((0..1000).collect(), 2000),
        Question::Items { slot: 2048, range: everything },
        Question::Rows { slot: 1, blobs: (0..5000).map(blob).collect() },
        Question::Chunks { slot: 5000, blob: blob(1), first: u64::MAX },
        Question::Nudge(vec![2048]),
        Question::Nudge(vec![1; 5000]),
    ] {
        let (status, answer) = ask(&cluster, encode(&question).unwrap());
        let answer: Answer = decode(&answer).expect("an answer");
        assert!(status == 200 && matches!(answer, Answer::No(_)), "{question:?}: {answer:?}");
    }
    let (_, answer) = ask(&cluster, encode(&Question::Items { slot: 1, range: backwards }).unwrap());
    assert_eq!(decode::<Answer>(&answer).unwrap(), Answer::Items { items: Vec::new(), next: None });
    let (_, answer) =
        ask(&cluster, encode(&Question::Chunks { slot: 1, blob: blob(1), first: u64::MAX }).unwrap());
    assert_eq!(decode::<Answer>(&answer).unwrap(), Answer::Chunks(Vec::new()));
    assert_eq!(wait_equal(&cluster, DEADLINE), 10);
    for node in 0..3 {
        assert!(cluster.nodes[node].ended().is_none());
        put(&cluster, node, "alive");
    }
}

/// What the liar was asked, by kind, and whether it tells the truth, of what differs and in bytes of blobs.
struct Liar {
    asked: Mutex<BTreeMap<&'static str, u64>>,
    honest: AtomicBool,
    honest_bytes: AtomicBool,
}

impl Liar {
    fn new(honest: bool, honest_bytes: bool) -> Arc<Self> {
        let (honest, honest_bytes) = (AtomicBool::new(honest), AtomicBool::new(honest_bytes));
        Arc::new(Self { asked: Mutex::default(), honest, honest_bytes })
    }

    /// Starts the first node again, with this between it and the others.
    fn start_behind(self: &Arc<Self>, cluster: &mut Cluster) {
        for other in [1, 2] {
            let honest = cluster.links().addr(0, other).to_string();
            let lying = self.before(cluster.links().addr(0, other)).to_string();
            cluster.nodes[0].config = cluster.nodes[0].config.replace(&honest, &lying);
        }
        cluster.nodes[0].spawn();
        cluster.wait_ready(READY_DEADLINE);
    }

    /// Waits until it has told so many lies of a kind.
    fn wait_for(&self, kind: &'static str, least: u64) {
        wait_until(DEADLINE, kind, || {
            self.asked.lock().unwrap().get(kind).is_some_and(|count| *count >= least)
        });
    }

    /// Stands before a node's peer listener.
    fn before(self: &Arc<Self>, node: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let liar = Arc::clone(self);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let liar = Arc::clone(&liar);
                std::thread::spawn(move || liar.serve(client, node));
            }
        });
        address
    }

    fn serve(&self, mut client: TcpStream, node: SocketAddr) -> Option<()> {
        let mut upstream = TcpStream::connect(node).ok()?;
        loop {
            let (head, body) = message(&mut client)?;
            if head.starts_with(b"POST /peer/sync ") && !self.honest.load(Ordering::SeqCst) {
                let lie = self.lie(decode(&body).ok()?);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", lie.len());
                client.write_all(&[head.as_bytes(), &lie].concat()).ok()?;
                continue;
            }
            let asks_for_bytes = head.starts_with(b"GET /objects/");
            upstream.write_all(&[head, body].concat()).ok()?;
            let (head, mut body) = message(&mut upstream)?;
            if asks_for_bytes
                && !self.honest_bytes.load(Ordering::SeqCst)
                && let Some(last) = body.last_mut()
            {
                *last ^= 1;
                self.count("bytes");
            }
            client.write_all(&[head, body].concat()).ok()?;
        }
    }

    fn count(&self, kind: &'static str) -> u64 {
        let mut asked = self.asked.lock().unwrap();
        let count = asked.entry(kind).or_default();
        *count += 1;
        *count
    }

    fn lie(&self, question: Question) -> Vec<u8> {
        let items = |number: u128| Items { blob: blob(number), version: 1, tombstone: Some(2) };
        let answer = match question {
            Question::Digests(slots) => match self.count("digests") % 4 {
                0 => Answer::Digests(vec![Some(Digest { count: 1, sum: 1 })]),
                1 => return vec![0xff; 70_000],
                _ => Answer::Digests(slots.iter().map(|_| Some(Digest { count: 500, sum: 7 })).collect()),
            },
            Question::Ranges { firsts, .. } => {
                self.count("ranges");
                Answer::Ranges(vec![Digest { count: 5, sum: 5 }; firsts.len() + 1])
            }
            Question::Items { .. } => match self.count("items") % 5 {
                0 => Answer::Items { items: vec![items(9), items(3)], next: None },
                1 => Answer::Items { items: vec![items(3), items(9)], next: Some(blob(2)) },
                2 => Answer::Nudged,
                _ => Answer::Items { items: vec![items(3), items(9)], next: None },
            },
            Question::Rows { slot, .. } => {
                let held = |path: &str, number| {
                    let attempt = Attempt { blob_id: blob(number), ballot: 0 };
                    let (path, headers) = (path.to_owned(), "[]".to_owned());
                    let row = Row {
                        path,
                        version: 1,
                        attempt,
                        size: 0,
                        content: [0; 32],
                        created_at: Timestamp(1),
                        headers,
                    };
                    Held { row, tombstoned_at: Some(Timestamp(i64::MAX)), hollow: false }
                };
                let elsewhere = (0..).map(|number| format!("lie/{number}"));
                let (mut elsewhere, mut here) = (elsewhere.clone(), elsewhere);
                let elsewhere = elsewhere.find(|path| Slot::of(path).index() != usize::from(slot)).unwrap();
                let here = here.find(|path| Slot::of(path).index() == usize::from(slot)).unwrap();
                match self.count("rows") % 4 {
                    // Of another slot, not asked for, of a disk that nobody knows, and nothing.
                    0 => Answer::Rows { identity: 1, held: vec![held(&elsewhere, 3)] },
                    1 => Answer::Rows { identity: 1, held: vec![held(&here, 4)] },
                    2 => Answer::Rows { identity: 1, held: vec![held(&here, 3)] },
                    _ => Answer::Rows { identity: 1, held: Vec::new() },
                }
            }
            Question::Chunks { .. } => Answer::Chunks(Vec::new()),
            Question::Nudge(_) => Answer::No("no".to_owned()),
        };
        encode(&answer).unwrap()
    }
}

/// A head and a body of the length that it says.
fn message(from: &mut TcpStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let len = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; len.unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    Some((head, body))
}

#[test]
fn answers_that_cannot_be_true_change_nothing() {
    let mut cluster = Cluster::start(shape());
    (0..100).for_each(|number| put(&cluster, number % 3, &format!("old/{number}")));
    wait_equal(&cluster, DEADLINE);
    cluster.nodes[0].kill();
    (0..30).for_each(|number| put(&cluster, 1 + number % 2, &format!("new/{number}")));
    let liar = Liar::new(false, true);
    liar.start_behind(&mut cluster);
    for (kind, least) in [("digests", 8), ("items", 200), ("rows", 50)] {
        liar.wait_for(kind, least);
    }
    assert!(cluster.nodes[0].ended().is_none());
    for number in 0..100 {
        let target = format!("{}?consistency=local", object(&format!("old/{number}")));
        cluster.send(0, &Request::new("GET", &target)).expect_status(200);
    }
    let listing = cluster.send(0, &Request::new("GET", "/objects?prefix=lie&include_tombstoned=true"));
    assert!(!listing.text().contains("lie/"), "{}", listing.text());
    liar.honest.store(true, Ordering::SeqCst);
    assert_eq!(wait_equal(&cluster, DEADLINE), 130);
}

#[test]
fn bytes_that_are_not_the_versions_fill_nothing() {
    let mut cluster = Cluster::start(shape());
    (0..10).for_each(|number| put(&cluster, number % 3, &format!("old/{number}")));
    wait_equal(&cluster, DEADLINE);
    cluster.nodes[0].kill();
    let sizes = [50_000, 200_000];
    for (number, size) in sizes.into_iter().enumerate() {
        let put = Request::new("PUT", &object(&format!("fill/{number}"))).body(bytes(number as u64, size));
        cluster.send(1, &put).expect_status(201);
    }
    let liar = Liar::new(true, false);
    liar.start_behind(&mut cluster);
    liar.wait_for("bytes", 6);
    liar.honest_bytes.store(true, Ordering::SeqCst);
    wait_equal(&cluster, DEADLINE);
    for (number, size) in sizes.into_iter().enumerate() {
        let target = format!("{}?consistency=local", object(&format!("fill/{number}")));
        let read = cluster.send(0, &Request::new("GET", &target)).expect_status(200);
        assert!(read.body == bytes(number as u64, size), "fill/{number}");
    }
}
