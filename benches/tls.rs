//! What TLS between nodes costs: bytes through a plain TCP connection, and through two relays and one.
//!
//! `cargo bench --bench tls [-- MiB]` prints the median of interleaved rounds: GB/s from end to end, and milliseconds of CPU time
//! per GB of each relay's thread (one seals, one opens). A relay's GB/s per core is 1000 over that; on machines with fewer
//! than four free cores it says more than the first number.
#![allow(clippy::unwrap_used, clippy::pedantic, reason = "a bench")]

#[path = "../tests/support/tls.rs"]
mod tls;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Instant;

use tls::{Authority, Node, Wallet, connect};

const MIB: usize = 1 << 20;
const ROUNDS: usize = 7;

/// CPU time of the threads whose name begins so, in nanoseconds, by thread.
fn cpu_time(name: &str) -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let is_named = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with(name))
    };
    let mut named: Vec<_> = tasks.filter(is_named).collect();
    named.sort();
    let time = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).unwrap();
    named.into_iter().map(|path| time(path).split(' ').next().unwrap().parse().unwrap()).collect()
}

/// Moves so many bytes from one end to the other; seconds.
fn transfer(from: OwnedFd, to: OwnedFd, bytes: usize) -> f64 {
    let mut from = std::fs::File::from(from);
    let mut to = std::fs::File::from(to);
    let begun = Instant::now();
    let sender = thread::spawn(move || {
        let piece = vec![7; 4 * MIB];
        (0..bytes / piece.len()).for_each(|_| from.write_all(&piece).unwrap());
    });
    let mut piece = vec![0; 2 * MIB];
    let mut left = bytes;
    while left > 0 {
        match to.read(&mut piece) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => left -= received.unwrap(),
        }
    }
    let took = begun.elapsed().as_secs_f64();
    sender.join().unwrap();
    took
}

fn plain() -> (OwnedFd, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near.into(), listener.accept().unwrap().0.into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mib = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1024);
    let bytes: usize = mib * MIB / (4 * MIB) * (4 * MIB);
    let gb = bytes as f64 / 1e9;
    let authority = Authority::new();
    let one = Node::start_with(&Wallet::of(&authority, "node-1"), "node-1", 1);
    let two = Node::start_with(&Wallet::of(&authority, "node-2"), "node-2", 1);
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let (from, to) = plain();
        rounds[0].push(gb / transfer(from, to, bytes));
        let from = connect(&one.relay.connector(), two.address, "node-2").unwrap();
        let to = two.accept().0;
        let before = cpu_time("tls-");
        rounds[1].push(gb / transfer(from.into(), to.into(), bytes));
        let after = cpu_time("tls-");
        let mut spent = after.iter().zip(&before).map(|(after, before)| (after - before) as f64 / 1e6 / gb);
        rounds[2].push(spent.next().unwrap());
        rounds[3].push(spent.next().unwrap());
    }
    let [plain, relayed, seals, opens] = rounds.map(median);
    println!("plain TCP     {plain:.2} GB/s");
    println!("TLS           {relayed:.2} GB/s");
    println!("  the relay that seals: {seals:.0} ms of CPU per GB, {:.2} GB/s per core", 1000.0 / seals);
    println!("  the relay that opens: {opens:.0} ms of CPU per GB, {:.2} GB/s per core", 1000.0 / opens);
}
