//! `Expect`: 100 only for what the head does not refuse already.
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
use support::{Request, Server, assert_error, assert_never_written, object};

/// Method, target, headers; the status and code they are refused with.
type Refusal<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);

#[test]
fn a_client_that_asks_to_continue_is_told_to_once() {
    let server = Server::shared();
    for (number, expect) in ["100-continue", "100-Continue"].into_iter().enumerate() {
        let path = format!("put/expect/{number}");
        let request = Request::new("PUT", &object(&path)).header("Expect", expect).body(b"later");
        let mut connection = server.connect();
        connection.send_raw(&request.encode_head()).unwrap();
        let interim = connection.read_interim().unwrap();
        assert_eq!(interim.status, 100);
        connection.send_raw(request.encode_body()).unwrap();
        let answer = connection.read_response("PUT").unwrap().expect_status(201);
        assert_eq!(answer.interim.len(), 0, "100 was sent twice");
        assert_eq!(server.get(&path).body, b"later");
        assert_eq!(connection.exchange(&Request::new("GET", "/health")).unwrap().status, 200);
    }
    let request = Request::new("PUT", "/objects/put/expect/chunked").header("Expect", "100-continue");
    let request = request.chunked(&[b"la", b"ter"], &[]);
    let mut connection = server.connect();
    connection.send_raw(&request.encode_head()).unwrap();
    assert_eq!(connection.read_interim().unwrap().status, 100);
    connection.send_raw(request.encode_body()).unwrap();
    connection.read_response("PUT").unwrap().expect_status(201);
    assert_eq!(server.get("put/expect/chunked").body, b"later");
}

#[test]
fn what_the_head_alone_refuses_is_refused_without_100_and_closes() {
    let server = Server::shared();
    let object = "/objects/put/refused";
    let heads: [Refusal<'_>; 8] = [
        ("PUT", object, &[("Content-Range", "bytes 0-1/2")], 400, "BadRequest"),
        ("PUT", "/objects/put/../refused", &[], 400, "InvalidPath"),
        ("PUT", "/objects/put/%zz", &[], 400, "InvalidPath"),
        ("PUT", "/objects/put/refused?version=abc", &[], 400, "BadRequest"),
        ("PUT", "/objects/put/refused?version=1&version=1", &[], 400, "BadRequest"),
        ("POST", object, &[], 405, "MethodNotAllowed"),
        ("BREW", object, &[], 501, "NotImplemented"),
        ("PUT", "/objects", &[], 405, "MethodNotAllowed"),
    ];
    for (method, target, headers, status, code) in heads {
        for chunked in [false, true] {
            let framing =
                if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "1000000") };
            let request = Request::new(method, target).headers(headers);
            let request = request.headers(&[("Expect", "100-continue"), framing]);
            let mut connection = server.connect();
            connection.send(&request).unwrap();
            let answer =
                connection.read_response(method).unwrap_or_else(|error| panic!("{method} {target}: {error}"));
            assert_error(&answer, status, code);
            assert_eq!(answer.interim.len(), 0, "{method} {target}: 100 before the refusal");
            assert!(answer.says_close(), "{method} {target}: {answer:?}");
            assert_ne!(connection.wait_closed(Duration::from_secs(10)), Ending::Open, "{method} {target}");
        }
    }
    assert_never_written(server, "put/refused");
}

#[test]
fn any_other_expectation_fails() {
    let server = Server::shared();
    for expect in ["200-ok", "100-continue, something", "x"] {
        let request = Request::new("PUT", "/objects/put/expectation").header("Expect", expect);
        let mut connection = server.connect();
        connection.send(&request.header("Content-Length", "5")).unwrap();
        let answer = connection.read_response("PUT").unwrap();
        assert_error(&answer, 417, "ExpectationFailed");
        assert_eq!(answer.interim.len(), 0);
        assert!(answer.says_close(), "{answer:?}");
    }
    assert_never_written(server, "put/expectation");
}

#[test]
fn an_http_1_0_client_gets_no_100() {
    let server = Server::shared();
    let mut connection = server.connect();
    let head = b"PUT /objects/put/http10 HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    connection.send_raw(head).unwrap();
    let answer = connection.read_response("PUT").unwrap().expect_status(201);
    assert_eq!(answer.interim.len(), 0);
    assert_eq!(server.get("put/http10").body, b"hello");
}
