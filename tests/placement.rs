//! Connections go to the core that has the least to do, not where a hash of addresses takes them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::time::Duration;

use support::wait::wait_until;
use support::{Connection, Request, Server, bytes};

const CORES: usize = 4;
const SOON: Duration = Duration::from_secs(10);

fn connections(server: &Server) -> Vec<usize> {
    gauge(server, "connections")
}

/// A gauge of each core.
fn gauge(server: &Server, name: &str) -> Vec<usize> {
    let metrics = server.admin_get("/metrics").text();
    let of_core = |core: usize| {
        let line_start = format!("amberblob_{name}{{core=\"{core}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&line_start));
        line.expect("a gauge for every core").parse().unwrap()
    };
    (0..CORES).map(of_core).collect()
}

fn ask(connection: &mut Connection) {
    let answer = connection.exchange(&Request::new("GET", "/objects/bulk")).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == bytes(1, 3 << 20));
}

#[test]
fn eight_bulk_connections_use_all_cores_alike() {
    let server = Server::builder().cores(CORES).start();
    server.put("bulk", &bytes(1, 3 << 20)).expect_status(201);
    for _ in 0..3 {
        wait_until(SOON, "all connections are gone", || connections(&server) == [0; CORES]);
        let mut open: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
        wait_until(SOON, "eight have come", || connections(&server).iter().sum::<usize>() == 8);
        open.iter_mut().for_each(ask);
        assert_eq!(connections(&server), [2; CORES]);
        wait_until(SOON, "all is answered", || gauge(&server, "busy") == [0; CORES]);
        // A connection stays where it is, whatever comes and goes.
        open.truncate(5);
        open.iter_mut().for_each(ask);
        wait_until(SOON, "all is answered", || gauge(&server, "busy") == [0; CORES]);
        wait_until(SOON, "three are gone", || connections(&server).iter().sum::<usize>() == 5);
        open.extend((0..3).map(|_| server.connect()));
        wait_until(SOON, "three have come", || connections(&server).iter().sum::<usize>() == 8);
        open.iter_mut().for_each(ask);
        assert_eq!(connections(&server), [2; CORES], "the new ones took the free places");
    }
}
