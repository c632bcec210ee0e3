//! What comes through TLS between nodes: every byte, each end in its own time, and never a stream that looks whole and is
//! not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/tls.rs"]
mod tls;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::IntoRawFd as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use amberblob::tls::Relay;
use sha2::{Digest as _, Sha256};
use tls::{Authority, DEADLINE, Node, Wallet, connect, fragile_wire, linked, rest, two_nodes};

const MIB: usize = 1 << 20;

/// Sends `len` bytes that a seed determines, in pieces of uneven sizes; their hash.
fn send(mut stream: &UnixStream, seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 300_000];
    let mut left = len;
    while left > 0 {
        for word in piece.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        let size = (state as usize % piece.len() + 1).min(left);
        stream.write_all(&piece[..size]).unwrap();
        hash.update(&piece[..size]);
        left -= size;
    }
    hash.finalize().to_vec()
}

/// Receives `len` bytes; their hash.
fn receive(mut stream: &UnixStream, len: usize) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 100_000];
    let mut left = len;
    while left > 0 {
        let size = piece.len().min(left);
        let received = match stream.read(&mut piece[..size]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            received => received.unwrap(),
        };
        assert_ne!(received, 0, "an end {left} bytes too early");
        hash.update(&piece[..received]);
        left -= received;
    }
    hash.finalize().to_vec()
}

#[test]
fn a_hundred_mebibytes_go_both_ways_at_once() {
    let (one, two) = two_nodes();
    let (ours, theirs) = linked(&one, &two, "node-2");
    let begun = Instant::now();
    thread::scope(|scope| {
        let sent = [scope.spawn(|| send(&ours, 1, 100 * MIB)), scope.spawn(|| send(&theirs, 2, 100 * MIB))];
        let back = scope.spawn(|| receive(&ours, 100 * MIB));
        let forth = receive(&theirs, 100 * MIB);
        let [sent_forth, sent_back] = sent.map(|sent| sent.join().unwrap());
        assert_eq!(forth, sent_forth);
        assert_eq!(back.join().unwrap(), sent_back);
    });
    println!("100 MiB both ways in {:?}", begun.elapsed());
}

#[test]
fn each_direction_ends_by_itself() {
    let (one, two) = two_nodes();
    let (mut ours, mut theirs) = linked(&one, &two, "node-2");
    ours.write_all(b"a question").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&theirs), b"a question");
    // The other direction is open still.
    let answer = vec![7; 3 * MIB];
    thread::scope(|scope| {
        scope.spawn(|| {
            theirs.write_all(&answer).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
        });
        assert!(rest(&ours) == answer);
    });
}

#[test]
fn what_was_sent_before_a_close_arrives() {
    let (one, two) = two_nodes();
    for direction in 0..2 {
        let (ours, theirs) = linked(&one, &two, "node-2");
        let (mut sends, receives) = if direction == 0 { (ours, theirs) } else { (theirs, ours) };
        // Unread bytes the other way do not harm what is on its way.
        (&receives).write_all(&[1; 1000]).unwrap();
        let sent = vec![3; 2 * MIB];
        thread::scope(|scope| {
            scope.spawn(|| {
                sends.write_all(&sent).unwrap();
                drop(sends);
            });
            let received = rest(&receives);
            assert!(received == sent, "{} bytes arrived", received.len());
        });
    }
}

#[test]
fn a_core_that_closes_ends_the_peer_that_is_still_sending() {
    let (one, two) = two_nodes();
    let (ours, mut theirs) = linked(&one, &two, "node-2");
    drop(ours);
    assert_eq!(rest(&theirs), b"");
    let begun = Instant::now();
    let piece = vec![0; MIB];
    while theirs.write_all(&piece).is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it can send for ever");
    }
}

#[test]
fn a_cut_wire_ends_both_directions_early() {
    let (one, two) = two_nodes();
    for (forth, back) in [(5 * MIB as u64 + 77, u64::MAX), (u64::MAX, 5 * MIB as u64 + 77)] {
        let wire = fragile_wire(two.address, forth, back);
        let ours = connect(&one.relay.connector(), wire, "node-2").unwrap();
        let theirs = two.accept().0;
        let (mut sends, receives) = if back == u64::MAX { (&ours, &theirs) } else { (&theirs, &ours) };
        thread::scope(|scope| {
            scope.spawn(move || {
                // More than the wire lasts for: at the latest then, the sender sees it too.
                let piece = vec![9; MIB];
                let begun = Instant::now();
                while sends.write_all(&piece).is_ok() {
                    assert!(begun.elapsed() < DEADLINE, "a cut wire takes everything");
                }
            });
            let received = rest(receives).len();
            assert!(received < 5 * MIB + 77, "{received} bytes of a wire that was cut before");
            assert!((&*receives).write_all(b"x").is_err(), "the other direction goes on");
        });
    }
}

#[test]
fn many_connections_at_once() {
    const CONNECTIONS: usize = 200;
    let (one, two) = two_nodes();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CONNECTIONS {
                let (stream, name) = two.accept();
                assert_eq!(name, "node-1");
                // An echo.
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream).unwrap());
            }
        });
        let connector = one.relay.connector();
        let streams: Vec<_> =
            (0..CONNECTIONS).map(|_| connect(&connector, two.address, "node-2").unwrap()).collect();
        for (number, stream) in streams.iter().enumerate() {
            let sent = send(stream, number as u64, 50_000);
            assert_eq!(receive(stream, 50_000), sent, "connection {number}");
        }
    });
}

#[test]
fn a_stop_lets_the_last_bytes_out() {
    let authority = Authority::new();
    let wallet = Wallet::of(&authority, "node-1");
    let one: Relay = tls::start(&wallet, "node-1").unwrap();
    let two = Node::start(&Wallet::of(&authority, "node-2"), "node-2");
    let mut ours = connect(&one.connector(), two.address, "node-2").unwrap();
    let theirs = two.accept().0;
    let sent = vec![5; 150_000];
    ours.write_all(&sent).unwrap();
    // A core that has ended may leave its descriptors open: this one is not closed.
    let receiving = thread::spawn(move || rest(&theirs));
    let begun = Instant::now();
    one.stop();
    let took = begun.elapsed();
    assert!(receiving.join().unwrap() == sent);
    println!("stopped in {took:?}");
    assert!(took < Duration::from_secs(3), "it waited for a core that is gone: {took:?}");
    drop(ours);
}

/// The very calls that the data path makes.
#[test]
fn a_core_uses_its_end_like_a_socket_of_tcp() {
    use amberblob::io::buffer::Buffer;
    use amberblob::io::bulk::registry::Registry;
    use amberblob::io::bulk::socket::Socket;
    use amberblob::io::bulk::{Bulk, Counts};
    use amberblob::io::receive::{LowWater, receive, wait_readable};
    use amberblob::io::send::Sender;
    use amberblob::io::send_mode::Mode;
    use std::os::fd::FromRawFd as _;
    use std::rc::Rc;
    use std::sync::Arc;
    let (one, two) = two_nodes();
    let (ours, theirs) = linked(&one, &two, "node-2");
    ours.set_read_timeout(None).unwrap();
    let echo = thread::spawn(move || std::io::copy(&mut &theirs, &mut &theirs).unwrap());
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build().unwrap();
    runtime.block_on(async {
        #[expect(unsafe_code, reason = "as a core takes a connection over")]
        // SAFETY: the descriptor has just been given up by its owner.
        let stream = unsafe { std::net::TcpStream::from_raw_fd(ours.into_raw_fd()) };
        let stream = monoio::net::TcpStream::from_std(stream).unwrap();
        let _ = stream.set_nodelay(true);
        let bulk = Bulk::start(&Arc::new(Registry::none()), Counts::default()).unwrap();
        let mut sender = Sender::new(Mode::Auto, &stream);
        let socket = Socket::new(stream);
        let parts = Rc::new((0..8 * MIB).map(|at| (at / 1000) as u8).collect::<Vec<u8>>());
        let (mut sent, mut low_water) = (0, LowWater::default());
        let mut received = Vec::new();
        let mut buffer = Buffer::new(2 * MIB);
        while received.len() < parts.len() {
            if sent < parts.len() {
                let patience = Duration::from_millis(20);
                sent += sender.send(&bulk, &socket, &parts, sent, patience).await.unwrap().bytes;
            }
            low_water.raise(&socket, 2 * MIB, (sent - received.len()) as u64);
            if received.len() < sent {
                wait_readable(&socket).await.unwrap();
            }
            buffer.set_len(0);
            match receive(&socket, &mut buffer, 2 * MIB) {
                Ok(0) => panic!("an end"),
                Ok(_) => received.extend_from_slice(&buffer),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        assert!(received == *parts);
        drop(socket);
        // The closing is an operation of the ring, like all others.
        let begun = Instant::now();
        while !echo.is_finished() {
            assert!(begun.elapsed() < DEADLINE, "the peer sees no end");
            monoio::time::sleep(Duration::from_millis(5)).await;
        }
        bulk.close(DEADLINE).await;
    });
    assert_eq!(echo.join().unwrap(), 8 * MIB as u64);
}
