//! A client that is slow, on purpose or not, holds a connection only for so long. These tests take as long as the deadlines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use support::http::Ending;
use support::program::amberblob;
use support::{
    Connection, Request, Server, assert_never_written, bytes, error_code, object, process, wait_until,
};

/// Waits `pause` for something to come, and says whether the server has answered or closed.
fn ended_within(connection: &mut Connection, pause: Duration) -> bool {
    connection.set_read_timeout(pause);
    let mut byte = [0];
    match connection.stream().peek(&mut byte) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// Sends `bytes` one at a time with `pause` between them, until the server answers or closes; how long that took.
fn dribble(
    connection: &mut Connection,
    bytes: &[u8],
    pause: Duration,
    at_most: Duration,
) -> Option<Duration> {
    let started = Instant::now();
    for byte in bytes.iter().cycle() {
        if connection.send_raw(&[*byte]).is_err() || ended_within(connection, pause) {
            return Some(started.elapsed());
        }
        if started.elapsed() > at_most {
            return None;
        }
    }
    None
}

/// Panics unless what the server sent is nothing or a 408, and it closed.
fn assert_timed_out(mut connection: Connection, what: &str) {
    connection.set_read_timeout(Duration::from_secs(5));
    if let Ok(answer) = connection.read_response("PUT") {
        assert_eq!((answer.status, error_code(&answer).as_str()), (408, "RequestTimeout"), "{what}");
    }
    assert_ne!(connection.wait_closed(Duration::from_secs(5)), Ending::Open, "{what}");
}

fn header_deadline(server: &Server, what: &str, start: &[u8], dribbled: &[u8]) {
    let mut connection = server.connect();
    connection.send_raw(start).unwrap();
    let took = dribble(&mut connection, dribbled, Duration::from_millis(250), Duration::from_secs(16));
    let took = took.unwrap_or_else(|| panic!("{what}: still open after 16 s"));
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(15)).contains(&took),
        "{what}: ended after {took:?}"
    );
    assert_timed_out(connection, what);
}

#[test]
fn a_head_that_is_not_complete_in_ten_seconds_ends_the_connection() {
    let server = Server::start();
    std::thread::scope(|scope| {
        let server = &server;
        let second = Request::new("GET", "/health").encode();
        let dribbled: &[u8] = b"x: y\r\n";
        scope.spawn(|| {
            header_deadline(server, "a dribbled header", b"GET /health HTTP/1.1\r\nHost: a\r\n", dribbled)
        });
        scope.spawn(|| header_deadline(server, "a dribbled request line", b"GET /health?", b"x"));
        scope.spawn(move || {
            let mut connection = server.connect();
            assert_eq!(connection.exchange(&Request::new("GET", "/health")).unwrap().status, 200);
            connection.send_raw(&second[..second.len() - 2]).unwrap();
            let started = Instant::now();
            while !ended_within(&mut connection, Duration::from_millis(250)) {
                assert!(
                    started.elapsed() < Duration::from_secs(16),
                    "the second head on a connection has no deadline"
                );
            }
            assert!(started.elapsed() > Duration::from_secs(9), "ended after {:?}", started.elapsed());
            assert_timed_out(connection, "the second head");
        });
        scope.spawn(move || {
            let mut idle = server.connect();
            assert_eq!(idle.exchange(&Request::new("GET", "/health")).unwrap().status, 200);
            assert!(
                !ended_within(&mut idle, Duration::from_secs(16)),
                "an idle connection is not one with half a head"
            );
            assert_eq!(idle.exchange(&Request::new("GET", "/health")).unwrap().status, 200);
        });
    });
    server.assert_alive();
}

#[test]
fn a_body_slower_than_a_kibibyte_a_second_ends_the_connection() {
    let server = Server::start();
    let cases: [(&str, &str, &[u8]); 3] = [
        ("slow/length", "Content-Length: 1000000", b"xxxxxxxxxx"),
        ("slow/chunked", "Transfer-Encoding: chunked", b"1\r\nx\r\n"),
        ("slow/silent", "Content-Length: 1000000", b""),
    ];
    std::thread::scope(|scope| {
        for (path, framing, piece) in cases {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                let head = format!("PUT /objects/{path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
                connection.send_raw(head.as_bytes()).unwrap();
                let started = Instant::now();
                loop {
                    assert!(started.elapsed() < Duration::from_secs(25), "{path}: 100 B/s is taken for 25 s");
                    let sent = connection.send_raw(piece);
                    if sent.is_err() || ended_within(&mut connection, Duration::from_millis(100)) {
                        break;
                    }
                }
                assert_timed_out(connection, path);
            });
        }
        let server = &server;
        scope.spawn(move || {
            let data = bytes(70, 60_000);
            let mut connection = server.connect();
            let request = Request::new("PUT", "/objects/slow/enough").body(&data);
            connection.send_raw(&request.encode_head()).unwrap();
            for piece in data.chunks(500) {
                connection.send_raw(piece).unwrap();
                assert!(
                    !ended_within(&mut connection, Duration::from_millis(100))
                        || piece.as_ptr_range().end == data.as_ptr_range().end
                );
            }
            connection.set_read_timeout(Duration::from_secs(10));
            assert_eq!(connection.read_response("PUT").unwrap().status, 201, "5 KB/s is fast enough");
            assert!(server.get("slow/enough").body == data);
        });
    });
    for (path, ..) in cases {
        assert_never_written(&server, path);
    }
}

#[test]
fn idle_connections_to_the_admin_listener_are_let_go_and_it_answers_again() {
    const IDLE: usize = 100;
    /// Of these the listener takes at a time; the others wait until it lets the first ones go.
    const TAKEN: usize = 64;
    let server = Server::start();
    // The scrub has a thread of its own, which need not have opened its files when the server answers.
    amberblob(&["scrub", "--admin", &format!("http://{}", server.admin())]).expect_code(0);
    let before = process::open_files(server.pid());
    let mut idle: Vec<Connection> = (0..IDLE).map(|_| Connection::open(server.admin())).collect();
    wait_until(Duration::from_secs(5), "the server to have taken connections", || {
        process::open_files(server.pid()) >= before + TAKEN / 2
    });
    for (number, link) in idle.iter_mut().take(TAKEN).enumerate() {
        let ending = link.wait_closed(Duration::from_secs(15));
        assert_ne!(ending, Ending::Open, "idle connection {number} is kept beyond the deadline of a head");
    }
    // Those that were let go are still held open by this side: nothing but the server can have closed them.
    wait_until(Duration::from_secs(5), "the descriptors of those let go to be closed", || {
        process::open_files(server.pid()) <= before + (IDLE - TAKEN) + 8
    });
    drop(idle.split_off(TAKEN));
    wait_until(Duration::from_secs(5), "/readyz to answer", || server.admin_get("/readyz").status == 200);
    wait_until(Duration::from_secs(5), "all descriptors to be closed", || {
        process::open_files(server.pid()) <= before + 8
    });
}

#[test]
fn uploads_that_begin_fast_and_then_drip_leave_room_for_others() {
    const UPLOADS: u64 = 70;
    const SIZE: usize = 8 << 20;
    let server = Server::builder().cores(1).start();
    let data = bytes(71, SIZE);
    let mut dripping: Vec<(Connection, usize)> = (0..UPLOADS)
        .map(|number| {
            let mut link = server.connect();
            let put = Request::new("PUT", &object(&format!("drip/{number}")));
            link.send_raw(&put.header("Content-Length", SIZE.to_string()).encode_head()).unwrap();
            link.send_raw(&data[..SIZE / 2]).unwrap();
            (link, SIZE / 2)
        })
        .collect();
    let started = Instant::now();
    for (number, len) in [1000, 60_000, 300_000, 5 << 20].into_iter().enumerate() {
        for (link, at) in &mut dripping {
            link.send_raw(&data[*at..*at + 500]).unwrap();
            *at += 500;
        }
        let path = format!("drip/beside/{number}");
        server.put(&path, &data[..len]).expect_status(201);
        assert!(server.get(&path).expect_status(200).body == data[..len]);
    }
    assert!(started.elapsed() < Duration::from_secs(15), "4 PUTs took {:?}", started.elapsed());
    // One that goes on is stored as ever.
    let (mut link, at) = dripping.swap_remove(0);
    link.send_raw(&data[at..]).unwrap();
    link.read_response("PUT").unwrap().expect_status(201);
    assert!(server.get("drip/0").expect_status(200).body == data);
    drop(dripping);
    for number in [1, UPLOADS - 1] {
        assert_never_written(&server, &format!("drip/{number}"));
    }
}
