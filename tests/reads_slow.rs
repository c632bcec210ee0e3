//! Many clients that read slowly but never stop hold a bounded share of the server's memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{Connection, Request, Server, bytes, object};

/// How long they read.
const LOAD: Duration = Duration::from_secs(6);
const READERS: usize = 150;
const MIB: u64 = 1 << 20;
const CORES: u64 = 1;
const CACHE: u64 = 64 * MIB;
/// What the responses of one core may hold.
const HELD: u64 = 256 * MIB;
/// All else.
const REST: u64 = 128 * MIB;
const SIZE: u64 = 600 * MIB;

/// Differs in every MiB.
fn block(number: u64) -> Vec<u8> {
    let mut block = bytes(90, MIB as usize);
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

/// A client that reads a little at a time.
struct Reader {
    link: Connection,
    at: u64,
}

impl Reader {
    fn open(server: &Server, from: u64) -> Self {
        let mut link = server.connect();
        rustix::net::sockopt::set_socket_recv_buffer_size(link.stream(), 16 << 10).unwrap();
        let get = Request::new("GET", &object("large")).header("Range", format!("bytes={from}-"));
        link.send(&get).unwrap();
        link.set_read_timeout(Duration::from_secs(20));
        Self { link, at: from }
    }

    /// Reads at most `scratch.len()` bytes if there are any, and checks them.
    fn turn(&mut self, expected: &[u8], scratch: &mut [u8]) -> usize {
        let mut stream: &TcpStream = self.link.stream();
        let got = match stream.read(scratch) {
            Ok(0) => panic!("the response at {} ends early", self.at),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
            Err(error) => panic!("reading at {}: {error}", self.at),
        };
        for (offset, byte) in scratch[..got].iter().enumerate() {
            let at = self.at + offset as u64;
            let within = (at % MIB) as usize;
            let right = if within < 8 { (at / MIB).to_le_bytes()[within] } else { expected[within] };
            assert_eq!(*byte, right, "the byte at {at}");
        }
        self.at += got as u64;
        got
    }
}

#[test]
fn readers_that_are_slow_but_steady_hold_a_bounded_share_of_memory() {
    let server = Server::builder().cores(CORES as usize).config("[storage]\ncache = \"64MiB\"\n").start();
    let mut link = server.connect();
    let put = Request::new("PUT", &object("large")).header("Content-Length", SIZE.to_string());
    link.send_raw(&put.encode_head()).unwrap();
    for number in 0..SIZE / MIB {
        link.send_raw(&block(number)).unwrap();
    }
    link.read_response("PUT").unwrap().expect_status(201);
    let step = SIZE / READERS as u64;
    let mut readers: Vec<Reader> =
        (0..READERS).map(|number| Reader::open(&server, number as u64 * step)).collect();
    for reader in &mut readers {
        assert_eq!(reader.link.read_head("GET").unwrap().status, 206);
        // What came with the head counts as well.
        reader.at += reader.link.unread().len() as u64;
        reader.link.stream().set_nonblocking(true).unwrap();
    }
    let (expected, mut scratch) = (block(0), vec![0; 4 << 10]);
    let (mut peak, mut read) = (0, 0);
    let until = Instant::now() + LOAD;
    while Instant::now() < until {
        for reader in &mut readers {
            read += reader.turn(&expected, &mut scratch);
        }
        peak = peak.max(server.rss_bytes());
    }
    println!("{READERS} readers read {} MiB, {} MiB resident at most", read >> 20, peak / MIB);
    assert!(read > READERS * (64 << 10), "{read} bytes read show nothing");
    let allowed = CACHE + CORES * HELD + REST;
    assert!(peak <= allowed, "{READERS} slow readers take {} of {} MiB", peak / MIB, allowed / MIB);
    // Whoever reads fast is not held up by them.
    let started = Instant::now();
    let fast = server.get_range("large", &format!("bytes={MIB}-{}", 9 * MIB - 1)).expect_status(206);
    assert!(fast.body == (1..9).flat_map(block).collect::<Vec<u8>>());
    assert!(started.elapsed() < Duration::from_secs(15), "8 MiB beside them took {:?}", started.elapsed());
}
