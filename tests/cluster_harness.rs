//! The tests of what breaks the cluster: links do what they are told, and a single node under load, faults and all, passes every
//! judge that the cluster has to pass, while one whose disk was tampered with does not.
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

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use cluster::nemesis::{self, Fault};
use cluster::round::{Round, judge_all};
use cluster::workload::Load;
use cluster::{Cluster, Links, Mode, Shape, ports, replicas};
use support::Random;

/// A server that sends back what it gets, behind a link.
fn echo() -> (Links, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut reader, &mut stream);
                let _ = stream.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    let addr = ports::free();
    (Links::of(&[((0, 1), addr, target)]), addr)
}

fn dial(addr: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends bytes and reads them back.
fn there_and_back(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut sender = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || sender.write_all(bytes));
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back)?;
        assert!(back == bytes, "other bytes came back");
        sent.join().unwrap()
    })
}

#[test]
fn a_link_passes_everything_and_counts_it() {
    let (links, addr) = echo();
    let mut streams: Vec<TcpStream> = (0..20).map(|_| dial(addr)).collect();
    let bytes = support::bytes(1, 3 << 20);
    for stream in &mut streams {
        there_and_back(stream, &bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "the end arrives as well");
    }
    assert_eq!(links.passed(0, 1), 20 * 2 * bytes.len() as u64);
}

#[test]
fn a_cut_link_refuses_and_resets_until_it_is_healed() {
    let (links, addr) = echo();
    let mut stream = dial(addr);
    there_and_back(&mut stream, b"before").unwrap();
    links.set(0, 1, Mode::Cut);
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    links.heal();
    there_and_back(&mut dial(addr), b"after").unwrap();
}

#[test]
fn a_black_hole_swallows_until_it_is_healed() {
    let (links, addr) = echo();
    let mut old = dial(addr);
    there_and_back(&mut old, b"before").unwrap();
    links.set(0, 1, Mode::BlackHole);
    let before = links.passed(0, 1);
    let mut new = dial(addr);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"late").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    assert_eq!(links.passed(0, 1), before);
    links.heal();
    for stream in [&mut old, &mut new] {
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"late");
    }
}

#[test]
fn a_slow_link_delays_or_throttles() {
    let (links, addr) = echo();
    let mut stream = dial(addr);
    links.set(0, 1, Mode::Delay(Duration::from_millis(60)));
    let started = Instant::now();
    there_and_back(&mut stream, &[7; 1 << 20]).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
    links.set(0, 1, Mode::Throttle(1_000_000));
    let started = Instant::now();
    there_and_back(&mut stream, &[7; 250_000]).unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(350), "half a megabyte in {took:?}");
    links.heal();
    let started = Instant::now();
    there_and_back(&mut stream, &[7; 250_000]).unwrap();
    assert!(started.elapsed() < Duration::from_millis(350), "{:?}", started.elapsed());
}

#[test]
fn a_link_that_breaks_off_in_the_middle() {
    let (links, addr) = echo();
    links.set(0, 1, Mode::CutAfter(100_000));
    let mut stream = dial(addr);
    there_and_back(&mut stream, &[1; 40_000]).unwrap();
    let error = there_and_back(&mut stream, &[1; 40_000]).unwrap_err();
    assert!(error.kind() != std::io::ErrorKind::WouldBlock, "{error}");
    assert_eq!(links.passed(0, 1), 100_000);
}

#[test]
fn plans_are_the_same_for_a_seed_and_lose_one_disk_at_most() {
    for nodes in [1, 3, 5] {
        let plan = |seed| nemesis::plan(&mut Random::new(seed), nodes, true);
        assert_eq!(plan(7), plan(7));
        let lost =
            |seed: &u64| plan(*seed).iter().filter(|step| matches!(step.fault, Fault::Lose(_))).count();
        assert!((0..500).all(|seed| lost(&seed) <= 1));
        assert!((0..500).any(|seed| lost(&seed) == 1));
    }
}

#[test]
fn a_single_node_that_is_killed_and_stopped_keeps_its_promises() {
    let seed = cluster::from_env("CLUSTER_SEED", 1);
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start(Shape::of(1));
    let mut history = Vec::new();
    for number in 0..2 {
        let load = Load { clients: 8, prefix: format!("one/{number}/"), paths: 3, most: 1000 };
        let plan = nemesis::plan(&mut random, 1, false);
        let round = Round { load, plan, what: format!("seed {seed}, round {number}") };
        let told = round.run(&mut cluster, &mut random);
        assert!(told.answered() > 500, "{}", told.summary());
        history.extend(told.history);
    }
    cluster.terminate_all();
    let disks = cluster.disks();
    assert_eq!(replicas::check(&disks, &history, 1), [""; 0]);
    // The judges are awake: on disk, and in the history.
    let found = replicas::check(&disks, &history, 2);
    assert!(!found.is_empty(), "one node is no quorum of two");
    let stored = history.iter().rposition(|op| op.shows().is_some_and(|shown| shown.2 < 60_000)).unwrap();
    let mut tampered = history.clone();
    if let cluster::Told::Stored { blob_id, .. } | cluster::Told::Read { blob_id, .. } =
        &mut tampered[stored].told
    {
        *blob_id = "another".to_owned();
    }
    assert!(!judge_all(&tampered, &Default::default()).wrong.is_empty());
    let files = support::chunk_files(&disks[0][0]);
    files.iter().for_each(|(_, file)| flip_a_bit(file));
    let wrong = replicas::check(&disks, &history, 1);
    assert!(wrong.iter().any(|wrong| wrong.contains("other bytes")), "{} files: {wrong:?}", files.len());
}

fn flip_a_bit(file: &std::path::Path) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(file, bytes).unwrap();
}
