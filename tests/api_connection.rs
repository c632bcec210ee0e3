//! The life of a connection: keep-alive, pipelining, HTTP/1.0, early errors, clients that go away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::time::Duration;

use support::http::Ending;
use support::{Connection, Framing, Request, Server, assert_error, assert_never_written, bytes};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn an_http_1_0_client_is_served_without_host_and_then_closed() {
    let server = Server::shared();
    server.put("wire/http10", &bytes(60, 3000)).expect_status(201);
    let mut connection = server.connect();
    let got = connection.answer_to(b"GET /objects/wire/http10 HTTP/1.0\r\n\r\n").expect_status(200);
    assert!(got.body == bytes(60, 3000));
    assert_ne!(got.framing, Framing::Chunked, "HTTP/1.0 knows no chunked coding");
    assert_eq!(connection.wait_closed(SOON), Ending::Closed);

    let mut connection = server.connect();
    let list = connection.answer_to(b"GET /objects HTTP/1.0\r\n\r\n").expect_status(200);
    assert_ne!(list.framing, Framing::Chunked);
    assert_eq!(connection.wait_closed(SOON), Ending::Closed);

    let mut connection = server.connect();
    for _ in 0..3 {
        let raw = b"GET /objects/wire/http10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let got = connection.answer_to(raw).expect_status(200);
        assert!(
            got.headers.has_token("connection", "keep-alive"),
            "a 1.0 client must be told: {:?}",
            got.headers
        );
        assert_eq!(got.framing, Framing::Length);
    }
    let last = connection.answer_to(b"GET /objects/wire/http10 HTTP/1.0\r\n\r\n").expect_status(200);
    assert!(last.body == bytes(60, 3000));
    assert_eq!(connection.wait_closed(SOON), Ending::Closed);
}

#[test]
fn a_client_that_says_close_is_answered_and_closed() {
    let server = Server::shared();
    for value in ["close", "Close", "foo, close"] {
        let mut connection = server.connect();
        let answer =
            connection.exchange(&Request::new("GET", "/health").header("Connection", value)).unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.says_close(), "{value}");
        assert_eq!(connection.wait_closed(SOON), Ending::Closed, "{value}");
    }
}

#[test]
fn a_client_that_ends_its_side_after_a_request_still_gets_the_answer() {
    let server = Server::shared();
    let data = bytes(61, 300_000);
    let mut connection = server.connect();
    connection.send(&Request::new("PUT", "/objects/wire/half-closed").body(&data)).unwrap();
    connection.finish_sending().unwrap();
    assert_eq!(connection.read_response("PUT").unwrap().status, 201);
    let mut connection = server.connect();
    connection.send(&Request::new("GET", "/objects/wire/half-closed")).unwrap();
    connection.finish_sending().unwrap();
    assert!(connection.read_response("GET").unwrap().body == data);
    assert_eq!(connection.wait_closed(SOON), Ending::Closed);
}

#[test]
fn a_connection_goes_on_after_an_error_that_was_read_to_the_end() {
    let server = Server::shared();
    server.put_at("wire/keep", 1, b"0123456789").expect_status(201);
    let mut connection = server.connect();
    let steps: [(Request, u16); 9] = [
        (Request::new("GET", "/objects/wire/absent"), 404),
        (Request::new("DELETE", "/objects/wire/absent"), 404),
        (Request::new("HEAD", "/objects/wire/absent"), 404),
        (Request::new("GET", "/nope"), 404),
        (Request::new("GET", "/objects/wire/keep").header("Range", "bytes=10-"), 416),
        (Request::new("GET", "/objects/wire/keep").header("If-Match", "\"x\""), 412),
        (Request::new("GET", "/objects/wire/keep").header("If-None-Match", "*"), 304),
        (Request::new("GET", "/objects/wire/keep?version=7"), 404),
        (Request::new("GET", "/objects/wire/keep"), 200),
    ];
    for (request, status) in steps {
        let answer = connection.exchange(&request).unwrap();
        assert_eq!(answer.status, status, "{request:?}");
        assert!(!answer.says_close(), "{request:?}");
    }
}

#[test]
fn requests_written_at_once_are_answered_in_their_order() {
    const ROUNDS: usize = 40;
    let server = Server::shared();
    let mut raw = Vec::new();
    let mut expected: Vec<(&str, u16, Option<Vec<u8>>)> = Vec::new();
    for round in 0..ROUNDS {
        let path = format!("/objects/wire/pipelined/{round}");
        let data = bytes(round as u64, [0, 1, 300, 70_000][round % 4]);
        let put = Request::new("PUT", &path);
        let put = if round % 2 == 0 {
            put.body(&data)
        } else {
            put.chunked(&[&data[..data.len() / 2], &data[data.len() / 2..]], &[("x-trailer", "1")])
        };
        raw.extend(put.encode());
        expected.push(("PUT", 201, None));
        raw.extend(Request::new("GET", &path).encode());
        expected.push(("GET", 200, Some(data)));
        raw.extend(Request::new("HEAD", &path).encode());
        expected.push(("HEAD", 200, None));
        raw.extend(Request::new("GET", &format!("{path}/absent")).encode());
        expected.push(("GET", 404, None));
        raw.extend(Request::new("DELETE", &path).encode());
        expected.push(("DELETE", 200, None));
        raw.extend(Request::new("GET", &path).encode());
        expected.push(("GET", 404, None));
    }
    let mut connection = server.connect();
    let mut writer = connection.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut writer, &raw).unwrap());
        for (number, (method, status, body)) in expected.into_iter().enumerate() {
            let answer =
                connection.read_response(method).unwrap_or_else(|error| panic!("answer {number}: {error}"));
            assert_eq!(answer.status, status, "answer {number} to {method}: {answer:?}");
            if let Some(body) = body {
                assert!(answer.body == body, "answer {number} has another's bytes");
            }
        }
    });
    assert_eq!(connection.exchange(&Request::new("GET", "/health")).unwrap().status, 200);
}

#[test]
fn an_early_error_reaches_a_client_that_is_still_sending() {
    let server = Server::shared();
    let heads: [(&str, &str, u16, &str); 4] = [
        ("/objects/wire/../early", "x: y", 400, "InvalidPath"),
        ("/objects/wire/early", "Content-Range: bytes 0-1/2", 400, "BadRequest"),
        ("/objects/wire/early", "Transfer-Encoding: gzip", 501, "NotImplemented"),
        ("/objects/wire/early", "Bad Header: 1", 400, "BadRequest"),
    ];
    let body = vec![b'x'; 64 << 20];
    for (target, header, status, code) in heads {
        let length = if header.starts_with("Transfer") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("PUT {target} HTTP/1.1\r\nHost: a\r\n{header}\r\n{length}\r\n");
        let mut connection = server.connect();
        let mut writer = connection.stream().try_clone().unwrap();
        let answer = std::thread::scope(|scope| {
            let body = &body;
            scope.spawn(move || {
                // The server may have had enough before all of it is sent.
                let _ = std::io::Write::write_all(&mut writer, head.as_bytes());
                let _ = std::io::Write::write_all(&mut writer, body);
            });
            let answer =
                connection.read_response("PUT").unwrap_or_else(|error| panic!("{target} {header}: {error}"));
            let ending = connection.wait_closed(Duration::from_secs(15));
            assert_ne!(ending, Ending::Open, "{target} {header}");
            let _ = connection.stream().shutdown(std::net::Shutdown::Both);
            answer
        });
        assert_error(&answer, status, code);
        assert!(answer.says_close(), "{target} {header}");
    }
    assert_never_written(server, "wire/early");
    server.assert_alive();
}

#[test]
fn after_an_early_error_the_server_half_closes_and_reads_on_for_a_while() {
    let server = Server::shared();
    let body = vec![b'x'; 64 << 10];
    let head = format!(
        "PUT /objects/wire/../early HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        4 * body.len()
    );
    let mut connection = server.connect();
    assert_error(&connection.answer_to(head.as_bytes()), 400, "InvalidPath");
    assert_eq!(
        connection.wait_closed(SOON),
        Ending::Closed,
        "the answer ends while the client still has much to send"
    );
    for turn in 0..4 {
        let sent = connection.send_raw(&body);
        assert!(sent.is_ok(), "reset after {turn} pieces, which may cost a client the answer: {sent:?}");
    }
    // So a client that reads only once it has sent everything finds the answer as well.
    for _ in 0..20 {
        let answer = server.request("PUT", "/objects/wire/../early", &[], &body);
        assert_error(&answer, 400, "InvalidPath");
    }
}

#[test]
fn a_client_that_goes_away_while_it_is_answered_hurts_nobody() {
    let server = Server::shared();
    server.put("wire/away", &bytes(62, 8 << 20)).expect_status(201);
    for turn in 0..30 {
        let mut connection = server.connect();
        connection.send(&Request::new("GET", "/objects/wire/away")).unwrap();
        if turn % 2 == 0 {
            connection.read_head("GET").unwrap();
        }
    }
    server.assert_alive();
    assert!(server.get("wire/away").expect_status(200).body == bytes(62, 8 << 20));
}

#[test]
fn an_answer_is_the_same_over_many_connections_at_once() {
    let server = Server::shared();
    let data = bytes(63, 400_000);
    server.put("wire/many", &data).expect_status(201);
    let mut connections: Vec<Connection> = (0..200).map(|_| server.connect()).collect();
    for connection in &mut connections {
        connection.send(&Request::new("GET", "/objects/wire/many")).unwrap();
    }
    for connection in &mut connections {
        assert!(connection.read_response("GET").unwrap().expect_status(200).body == data);
    }
}
