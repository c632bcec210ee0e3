//! SIGTERM: running requests finish, no new ones begin, idle connections do not hold the node up, and nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::time::{Duration, Instant};

use support::http::Ending;
use support::{Connection, Request, Server, assert_never_written, bytes, poll_until, process};

/// Sends SIGTERM and waits until the listener is closed: from then on the server is stopping.
fn begin_to_stop(server: &Server) {
    process::signal(server.pid(), libc::SIGTERM);
    let address = server.public();
    poll_until(Duration::from_secs(10), "the listener to close", || Connection::try_open(address).err());
}

#[test]
fn an_upload_under_way_is_finished_and_kept() {
    let mut server = Server::start();
    let data = bytes(90, 3 << 20);
    let request = Request::new("PUT", "/objects/stop/upload").header("Expect", "100-continue").body(&data);
    let mut connection = server.connect();
    connection.send_raw(&request.encode_head()).unwrap();
    assert_eq!(connection.read_interim().unwrap().status, 100, "the request is running");
    connection.send_raw(&data[..1 << 20]).unwrap();
    begin_to_stop(&server);
    connection.send_raw(&data[1 << 20..]).unwrap();
    let answer = connection.read_response("PUT").unwrap().expect_status(201);
    assert!(answer.says_close(), "{answer:?}");
    assert_eq!(connection.wait_closed(Duration::from_secs(5)), Ending::Closed);
    assert!(server.wait_gone(Duration::from_secs(10)).success());
    server.start_again();
    assert!(server.get("stop/upload").expect_status(200).body == data);
}

#[test]
fn a_download_under_way_is_finished() {
    let mut server = Server::start();
    let data = bytes(91, 32 << 20);
    server.put("stop/download", &data).expect_status(201);
    let mut connection = server.connect();
    connection.send(&Request::new("GET", "/objects/stop/download")).unwrap();
    let head = connection.read_head("GET").unwrap().expect_status(200);
    assert_eq!(head.header("content-length"), Some(data.len().to_string().as_str()));
    begin_to_stop(&server);
    let mut got = Vec::new();
    connection.read_exactly(data.len() as u64, &mut |piece| got.extend_from_slice(piece)).unwrap();
    assert!(got == data);
    assert_eq!(connection.wait_closed(Duration::from_secs(5)), Ending::Closed);
    assert!(server.wait_gone(Duration::from_secs(10)).success());
}

#[test]
fn idle_connections_do_not_hold_the_node_up() {
    let mut server = Server::start();
    server.put("stop/idle", b"x").expect_status(201);
    let mut used = server.connect();
    assert_eq!(used.exchange(&Request::new("GET", "/objects/stop/idle")).unwrap().status, 200);
    let unused = server.connect();
    let started = Instant::now();
    assert!(server.terminate().success());
    assert!(started.elapsed() < Duration::from_secs(8), "it took {:?} to stop", started.elapsed());
    for mut connection in [used, unused] {
        assert_ne!(connection.wait_closed(Duration::from_secs(1)), Ending::Open);
    }
}

#[test]
fn readers_that_stall_do_not_keep_the_process_from_ending() {
    let mut server = Server::start();
    server.put("stop/stalled", &bytes(93, 32 << 20)).expect_status(201);
    let mut stalled: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    for connection in &mut stalled {
        connection.send(&Request::new("GET", "/objects/stop/stalled")).unwrap();
        connection.read_head("GET").unwrap().expect_status(200);
    }
    assert!(server.terminate().success(), "what is cut off by the bound is no failure of the stop");
    for connection in &mut stalled {
        assert_ne!(connection.wait_closed(Duration::from_secs(5)), Ending::Open);
    }
    server.start_again();
    server.head("stop/stalled").expect_status(200);
}

#[test]
fn a_client_that_does_not_finish_does_not_hold_the_node_up_for_ever() {
    let mut server = Server::start();
    let mut connection = server.connect();
    let request = Request::new("PUT", "/objects/stop/never").body(bytes(92, 1 << 20));
    connection.send_raw(&request.encode_head()).unwrap();
    connection.send_raw(&request.encode_body()[..1000]).unwrap();
    server.assert_alive();
    assert!(server.terminate().success(), "a stop that ran into its bound is still one in good order");
    server.start_again();
    assert_never_written(&server, "stop/never");
}
