//! What a server may need: memory for large blobs and for many connections, whoever is slow or goes away.
//!
//! `AMBERBLOB_BIG_GIB` sets the size of the large blob.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/audit.rs"]
mod audit;
mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use audit::{Depth, audit};
use support::{
    CHUNK, Connection, Request, Response, Server, bytes, object, plain_files, process, wait_until,
};

/// What a large PUT or GET may add to the memory of a server whose cache is 64 MiB.
const LARGE_GROWTH: u64 = 384 << 20;
/// What a server with 10,000 idle connections may take.
const IDLE_RSS: u64 = 256 << 20;
/// What a server with 1,000 slow connections may take.
const SLOW_RSS: u64 = 512 << 20;
/// Ordinary requests beside slow ones must all be answered within this.
const ORDINARY_DEADLINE: Duration = Duration::from_secs(60);
/// What a client left behind must be gone within this.
const SWEEP_DEADLINE: Duration = Duration::from_secs(30);

const CONFIG: &str = "[storage]\ncache = \"64MiB\"\n";

/// One test at a time: each looks at the memory of a server that should have the machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// A stream of bytes that differs in every MiB and is never in memory as a whole.
struct Stream {
    block: Vec<u8>,
    /// Which block `block` is.
    at: u64,
}

impl Stream {
    const BLOCK: usize = 1 << 20;

    fn new() -> Self {
        Self { block: bytes(90, Self::BLOCK), at: 0 }
    }

    fn block(&mut self, number: u64) -> &[u8] {
        self.at = number;
        self.block[..8].copy_from_slice(&number.to_le_bytes());
        &self.block
    }

    /// Panics unless `piece` is what stands at `from`.
    fn check(&mut self, mut from: u64, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (number, offset) = (from / Self::BLOCK as u64, (from % Self::BLOCK as u64) as usize);
            let block = &self.block(number)[offset..];
            let len = block.len().min(piece.len());
            assert!(block[..len] == piece[..len], "other bytes at {from}");
            piece = &piece[len..];
            from += len as u64;
        }
    }
}

#[test]
fn a_large_blob_does_not_pass_through_memory_as_a_whole() {
    let _alone = alone();
    let gib: u64 =
        std::env::var("AMBERBLOB_BIG_GIB").map_or(1, |text| text.parse().expect("a number of GiB"));
    let size = gib << 30;
    let server = Server::builder().config(CONFIG).start();
    server.put("warm", &bytes(91, 200_000)).expect_status(201);
    server.get("warm").expect_status(200);
    let before = server.rss_bytes();
    let mut stream = Stream::new();

    let mut link = server.connect();
    let put = Request::new("PUT", &object("large")).header("Content-Length", size.to_string());
    link.send_raw(&put.encode_head()).unwrap();
    for number in 0..size / Stream::BLOCK as u64 {
        link.send_raw(stream.block(number)).unwrap();
    }
    let stored = link.read_response("PUT").unwrap().expect_status(201);
    assert_eq!(stored.json_u64("size"), size);
    assert_eq!(stored.json_u64("chunks_stored"), size.div_ceil(CHUNK as u64));
    let put_growth = server.peak_rss_bytes().saturating_sub(before);
    println!("PUT of {gib} GiB: {} MiB more than {} MiB", mib(put_growth), mib(before));
    assert!(put_growth <= LARGE_GROWTH, "a PUT of {gib} GiB took {} MiB", mib(put_growth));

    let mut from = 0;
    link.send(&Request::new("GET", &object("large"))).unwrap();
    let read = link.read_response_with("GET", |piece| {
        stream.check(from, piece);
        from += piece.len() as u64;
    });
    assert_eq!((read.unwrap().status, from), (200, size));
    let get_growth = server.peak_rss_bytes().saturating_sub(before);
    println!("and GET: {} MiB", mib(get_growth));
    assert!(get_growth <= LARGE_GROWTH, "PUT and GET of {gib} GiB took {} MiB", mib(get_growth));
}

/// Lets this process, and servers it starts from now on, open so many files; says why not if that is refused.
fn allow_files(wanted: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let maximum = now.maximum.map_or(wanted, |maximum| maximum.max(wanted));
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if enough(now.current) {
        return Ok(());
    }
    // Raising the hard limit is for root alone.
    let first = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: Some(maximum) });
    first.map_err(|error| format!("{wanted} open files, with a limit of {:?}: {error}", now.maximum))
}

#[test]
fn ten_thousand_idle_connections_are_kept_in_little_memory() {
    const CONNECTIONS: usize = 10_000;
    let _alone = alone();
    if let Err(why) = allow_files(CONNECTIONS as u64 + 1000) {
        support::skipped(&format!("{CONNECTIONS} idle connections: {why}"));
        return;
    }
    let server = Server::builder().config(CONFIG).start();
    server.put("idle", b"small").expect_status(201);
    let before = server.rss_bytes();
    // Half of them have never spoken, the others are between two requests.
    let mut links: Vec<Connection> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let get = Request::new("GET", &object("idle"));
    for link in links.iter_mut().step_by(2) {
        assert_eq!(link.exchange(&get).unwrap().expect_status(200).body, b"small");
    }
    wait_until(Duration::from_secs(20), "the server to have accepted every connection", || {
        process::open_files(server.pid()) >= CONNECTIONS
    });
    let rss = server.rss_bytes();
    println!("{CONNECTIONS} idle connections: {} MiB, {} MiB before", mib(rss), mib(before));
    assert!(rss <= IDLE_RSS, "{CONNECTIONS} idle connections take {} MiB", mib(rss));
    for (number, link) in links.iter().enumerate() {
        link.stream().set_nonblocking(true).unwrap();
        let peeked = link.stream().peek(&mut [0]).map_err(|error| error.kind());
        assert_eq!(peeked, Err(ErrorKind::WouldBlock), "connection {number} is not idle and open");
        link.stream().set_nonblocking(false).unwrap();
    }
    for link in links.iter_mut().step_by(199) {
        assert_eq!(link.exchange(&get).unwrap().expect_status(200).body, b"small");
    }
    server.assert_alive();
}

/// How a client is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Sends its head byte by byte.
    Head,
    /// Sends the body of a large PUT piece by piece.
    Body,
    /// Reads a large GET piece by piece.
    Reader,
}

struct Slow {
    stream: TcpStream,
    manner: Manner,
    /// How often it did a little.
    turns: usize,
}

impl Slow {
    const HEAD: &[u8] = b"GET /objects/large HTTP/1.1\r\nHost: localhost\r\nX-Filler: ";

    fn open(public: SocketAddr, number: usize) -> Self {
        let manner = [Manner::Head, Manner::Body, Manner::Reader][number % 3];
        let mut stream = TcpStream::connect(public).expect("connect a slow client");
        let first = match manner {
            Manner::Head => Vec::new(),
            Manner::Body => {
                let put = Request::new("PUT", &object(&format!("slow/{number}")));
                put.header("Content-Length", (64 << 20).to_string()).encode_head()
            }
            Manner::Reader => Request::new("GET", &object("large")).encode(),
        };
        stream.write_all(&first).expect("a slow client's first bytes");
        stream.set_nonblocking(true).expect("a socket that does not block");
        Self { stream, manner, turns: 0 }
    }

    /// Does a little. A server may cut off who is too slow, so errors do not matter.
    fn turn(&mut self, scratch: &mut [u8]) {
        let _ = match self.manner {
            Manner::Head => {
                let byte = Self::HEAD.get(self.turns).copied().unwrap_or(b'x');
                self.stream.write(&[byte])
            }
            Manner::Body => self.stream.write(&scratch[..2048]),
            Manner::Reader => self.stream.read(&mut scratch[..4096]),
        };
        self.turns += 1;
    }
}

/// PUTs and reads back blobs of its own.
fn ordinary(server: &Server, client: u64) {
    let mut link = server.connect();
    for turn in 0..25 {
        let path = object(&format!("ordinary/{client}/{turn}"));
        let data = bytes(client << 32 | turn, 100_000);
        link.exchange(&Request::new("PUT", &path).body(&data))
            .expect("an answer to a PUT")
            .expect_status(201);
        let read = link.exchange(&Request::new("GET", &path)).expect("an answer to a GET").expect_status(200);
        assert!(read.body == data, "{path} reads otherwise");
    }
}

#[test]
fn a_thousand_slow_connections_hold_up_nobody_and_take_little_memory() {
    const CONNECTIONS: usize = 1000;
    let _alone = alone();
    if let Err(why) = allow_files(3 * CONNECTIONS as u64 + 1000) {
        support::skipped(&format!("{CONNECTIONS} slow connections: {why}"));
        return;
    }
    let server = Server::builder().config(CONFIG).start();
    let large = bytes(92, 48 << 20);
    server.put("large", &large).expect_status(201);
    let mut slow: Vec<Slow> = (0..CONNECTIONS).map(|number| Slow::open(server.public(), number)).collect();
    let (stop, stopped) = mpsc::channel::<()>();
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Dropped when this scope is left, in whatever way: that ends the slow clients.
        let stop = stop;
        let slow = &mut slow;
        scope.spawn(move || {
            let mut scratch = bytes(93, 4096);
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                slow.iter_mut().for_each(|slow| slow.turn(&mut scratch));
            }
        });
        let clients: Vec<_> = (0..4)
            .map(|client| (client, &server))
            .map(|(client, server)| scope.spawn(move || ordinary(server, client)))
            .collect();
        let failed =
            clients.into_iter().map(std::thread::ScopedJoinHandle::join).filter(Result::is_err).count();
        drop(stop);
        assert_eq!(failed, 0, "ordinary clients that failed");
    });
    let took = started.elapsed();
    let rss = server.peak_rss_bytes();
    println!("200 ordinary requests beside {CONNECTIONS} slow ones in {took:?}, {} MiB at most", mib(rss));
    assert!(took <= ORDINARY_DEADLINE, "200 ordinary requests took {took:?}");
    assert!(rss <= SLOW_RSS, "{CONNECTIONS} slow connections take {} MiB", mib(rss));
    for manner in [Manner::Head, Manner::Body, Manner::Reader] {
        assert!(slow.iter().any(|slow| slow.manner == manner && slow.turns > 0), "{manner:?} did nothing");
    }
    drop(slow);
    wait_until(SWEEP_DEADLINE, "what the slow uploads left to go", || {
        audit(server.data(), Depth::Names).is_empty()
    });
    assert!(server.get("large").expect_status(200).body == large);
}

/// How a client leaves in the middle of a PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Its side ends in good order, before the body does.
    Ends,
    /// The connection is reset.
    Resets,
    /// It waits for the answer to half a body.
    HalfCloses,
    /// It breaks the chunked coding.
    Breaks,
}

fn leave(mut link: Connection, leaving: Leaving) {
    match leaving {
        Leaving::Ends => {}
        Leaving::Resets => {
            let now = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(link.stream(), now).expect("a socket that resets");
        }
        Leaving::HalfCloses => {
            link.finish_sending().expect("end our side");
            let answer: std::io::Result<Response> = link.read_response("PUT");
            assert!(
                answer.as_ref().map_or(true, |answer| answer.status >= 400),
                "half a body was stored: {answer:?}"
            );
        }
        Leaving::Breaks => {
            link.send_raw(b"not a chunk size\r\n").expect("send rubbish");
            let answer = link.read_response("PUT").expect("an answer to a broken coding");
            assert_eq!(answer.status, 400, "{answer:?}");
        }
    }
}

#[test]
fn a_client_that_vanishes_in_a_put_leaves_no_files() {
    let _alone = alone();
    let server = Server::builder().config(CONFIG).start();
    let kept = bytes(94, 300_000);
    server.put("vanish/kept", &kept).expect_status(201);
    let slots = server.data().join("slots");
    let before = plain_files(&slots);
    let leavings = [Leaving::Ends, Leaving::Resets, Leaving::HalfCloses, Leaving::Breaks];
    for (leaving, sent) in
        leavings.iter().flat_map(|leaving| [(*leaving, 5 << 20), (*leaving, CHUNK + (5 << 20))])
    {
        let path = format!("vanish/{leaving:?}/{sent}");
        let mut link = server.connect();
        let put = Request::new("PUT", &object(&path));
        let part = bytes(95, sent);
        if leaving == Leaving::Breaks {
            link.send_raw(&put.header("Transfer-Encoding", "chunked").encode_head()).unwrap();
            link.send_raw(format!("{sent:x}\r\n").as_bytes()).unwrap();
            link.send_raw(&part).unwrap();
            link.send_raw(b"\r\n").unwrap();
        } else {
            link.send_raw(&put.header("Content-Length", (3 * CHUNK).to_string()).encode_head()).unwrap();
            link.send_raw(&part).unwrap();
        }
        wait_until(SWEEP_DEADLINE, "the upload to have files", || plain_files(&slots).len() > before.len());
        leave(link, leaving);
        wait_until(SWEEP_DEADLINE, &format!("the files of {path} to go"), || {
            plain_files(&slots) == before && audit(server.data(), Depth::Names).is_empty()
        });
        support::assert_never_written(&server, &path);
    }
    assert!(server.get("vanish/kept").expect_status(200).body == kept);
    server.assert_alive();
}
