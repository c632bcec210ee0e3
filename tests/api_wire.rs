//! Request heads and framings: what is understood, what is too large, and what must not be believed.
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
use support::{Request, Server, assert_error, assert_never_written, error_code};

const SOON: Duration = Duration::from_secs(5);

/// Panics unless `raw` is refused with one of `statuses`, and the connection closed without a second answer.
#[track_caller]
fn assert_refused_and_closed(server: &Server, raw: &[u8], statuses: &[(u16, &str)]) {
    let shown = String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
    let mut connection = server.connect();
    let answer = connection.answer_to(raw);
    let got = (answer.status, error_code(&answer));
    assert!(statuses.contains(&(got.0, got.1.as_str())), "{shown:?}: {got:?}, not one of {statuses:?}");
    assert!(answer.says_close(), "{shown:?}: no Connection: close in {:?}", answer.headers);
    let mut more = 0;
    while let Ok(second) = connection.read_response("GET") {
        more += 1;
        assert!(more < 1, "{shown:?}: a second answer {second:?}");
    }
    assert_ne!(connection.wait_closed(SOON), Ending::Open, "{shown:?}: not closed");
}

#[test]
fn a_malformed_head_is_refused_and_closes() {
    let server = Server::shared();
    let wrong: Vec<&[u8]> = vec![
        // Line ends.
        b"GET /health HTTP/1.1\nHost: a\n\n",
        b"GET /health HTTP/1.1\r\nHost: a\nx: y\r\n\r\n",
        b"GET /health HTTP/1.1\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: y\rz: 1\r\n\r\n",
        b"GET /health HTTP/1.1\rHost: a\r\r",
        // Folding and spacing.
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: y\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: y\r\n\tfolded\r\n\r\n",
        b"GET /health HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx\t: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx y: z\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\xc3\xa9: not a token\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n(x): not a token\r\n\r\n",
        // Control characters.
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: a\x01b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: a\x1bb\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx: a\x7fb\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nx\x00: b\r\n\r\n",
        b"GET /hea\x00lth HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /hea\x01lth HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /hea\x7flth HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\x00T /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        // The request line.
        b"GET  /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health  HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/health\tHTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health\r\nHost: a\r\n\r\n",
        b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1 x\r\nHost: a\r\n\r\n",
        b"GET /health http/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.x\r\nHost: a\r\n\r\n",
        b"GET /health HTTX/1.1\r\nHost: a\r\n\r\n",
        b"GET health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G@T /health HTTP/1.1\r\nHost: a\r\n\r\n",
        // Host.
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        b"GET http://a/health HTTP/1.1\r\n\r\n",
    ];
    for raw in wrong {
        assert_refused_and_closed(server, raw, &[(400, "BadRequest")]);
    }
    server.assert_alive();
}

#[test]
fn a_body_whose_length_is_in_doubt_is_refused_and_nothing_behind_it_is_believed() {
    let server = Server::shared();
    let framings = [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\ncontent-length: 0",
        "Content-Length: 5, 5",
        "Content-Length: 5, 6",
        "Content-Length: 5,",
        "Content-Length: ",
        "Content-Length: abc",
        "Content-Length: -5",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 5.0",
        "Content-Length: 5;",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
    ];
    for framing in framings {
        let raw = format!(
            "PUT /objects/wire/doubt HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n\
             0\r\n\r\nPUT /objects/wire/smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        );
        let refusals = [(400, "BadRequest"), (501, "NotImplemented")];
        let accepted = if framing.ends_with("identity") { &refusals[..] } else { &refusals[..1] };
        assert_refused_and_closed(server, raw.as_bytes(), accepted);
    }
    for huge in
        ["9223372036854775808", "18446744073709551615", "18446744073709551616", "99999999999999999999999999"]
    {
        let raw =
            format!("PUT /objects/wire/doubt HTTP/1.1\r\nHost: a\r\nContent-Length: {huge}\r\n\r\nhello");
        assert_refused_and_closed(
            server,
            raw.as_bytes(),
            &[(400, "BadRequest"), (413, "TooLarge"), (507, "DiskFull")],
        );
    }
    assert_never_written(server, "wire/doubt");
    assert_never_written(server, "wire/smuggled");
}

#[test]
fn an_unknown_transfer_coding_is_not_implemented_and_closes() {
    let server = Server::shared();
    for coding in [
        "gzip",
        "gzip, chunked",
        "identity",
        "x-unknown",
        "chunkedd",
        "deflate\r\nTransfer-Encoding: chunked",
    ] {
        let raw = format!(
            "PUT /objects/wire/coding HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        assert_refused_and_closed(server, raw.as_bytes(), &[(501, "NotImplemented")]);
    }
    for coding in ["chunked, chunked", "chunked, gzip", "chunked\r\nTransfer-Encoding: chunked", ""] {
        let raw = format!(
            "PUT /objects/wire/coding HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        assert_refused_and_closed(server, raw.as_bytes(), &[(400, "BadRequest"), (501, "NotImplemented")]);
    }
    let old =
        b"PUT /objects/wire/coding HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_refused_and_closed(server, old, &[(400, "BadRequest"), (501, "NotImplemented")]);
    assert_never_written(server, "wire/coding");
}

#[test]
fn a_request_line_over_8_kib_is_too_long() {
    let server = Server::shared();
    let with_line = |len: usize| {
        let fixed = "GET /health?x= HTTP/1.1".len();
        format!("GET /health?x={} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(len - fixed)).into_bytes()
    };
    let mut connection = server.connect();
    assert_eq!(connection.answer_to(&with_line(8000)).status, 200);
    for len in [8300, 10_000, 40_000, 200_000] {
        assert_refused_and_closed(server, &with_line(len), &[(414, "UriTooLong")]);
    }
    let endless = [b"GET /".as_slice(), &vec![b'a'; 64 << 10]].concat();
    assert_refused_and_closed(server, &endless, &[(414, "UriTooLong")]);
}

#[test]
fn headers_over_32_kib_or_100_fields_are_too_large() {
    let server = Server::shared();
    let with_size = |len: usize| {
        let mut raw = b"GET /health HTTP/1.1\r\nHost: a\r\n".to_vec();
        let mut left = len;
        let mut number = 0;
        while left > 0 {
            let field = left.min(4000);
            raw.extend(format!("x-{number}: {}\r\n", "y".repeat(field.saturating_sub(9))).into_bytes());
            left -= field;
            number += 1;
        }
        raw.extend(b"\r\n");
        raw
    };
    assert_eq!(server.connect().answer_to(&with_size(31_000)).status, 200);
    for len in [34_000, 100_000, 1_000_000] {
        assert_refused_and_closed(server, &with_size(len), &[(431, "HeadersTooLarge")]);
    }
    let one_field = |len: usize| {
        format!("GET /health HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(len)).into_bytes()
    };
    assert_eq!(server.connect().answer_to(&one_field(31_000)).status, 200);
    assert_refused_and_closed(server, &one_field(34_000), &[(431, "HeadersTooLarge")]);
    let endless = [b"GET /health HTTP/1.1\r\nHost: a\r\nx: ".as_slice(), &vec![b'y'; 128 << 10]].concat();
    assert_refused_and_closed(server, &endless, &[(431, "HeadersTooLarge")]);

    let with_fields = |count: usize| {
        let fields: String = (1..count).map(|number| format!("x-{number}: 1\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    };
    assert_eq!(server.connect().answer_to(&with_fields(100)).status, 200);
    for count in [101, 150, 2000] {
        assert_refused_and_closed(server, &with_fields(count), &[(431, "HeadersTooLarge")]);
    }
}

#[test]
fn what_follows_a_refused_head_in_the_same_write_is_not_carried_out() {
    let server = Server::shared();
    let mut raw = Request::new("PUT", "/objects/wire/behind/1").body(b"x").encode();
    raw.extend(
        b"PUT /objects/wire/behind/2 HTTP/1.1\r\nHost: a\r\nBad Header: x\r\nContent-Length: 0\r\n\r\n",
    );
    raw.extend(Request::new("PUT", "/objects/wire/behind/3").body(b"x").encode());
    let mut connection = server.connect();
    connection.send_raw(&raw).unwrap();
    assert_eq!(connection.read_response("PUT").unwrap().status, 201);
    assert_error(&connection.read_response("PUT").unwrap(), 400, "BadRequest");
    assert!(connection.read_response("PUT").is_err(), "an answer after the connection should have closed");
    assert_never_written(server, "wire/behind/2");
    assert_never_written(server, "wire/behind/3");
}

#[test]
fn a_body_nobody_asked_for_is_not_taken_for_a_request() {
    let server = Server::shared();
    server.put("wire/body", b"x").expect_status(201);
    let inner = "PUT /objects/wire/inner HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for chunked in [false, true] {
            let request = Request::new(method, "/objects/wire/body");
            let request =
                if chunked { request.chunked(&[inner.as_bytes()], &[]) } else { request.body(inner) };
            let mut connection = server.connect();
            let answer = connection.exchange(&request).unwrap_or_else(|error| panic!("{method}: {error}"));
            assert!(answer.status < 500, "{method}: {answer:?}");
            if let Ok(next) = connection.exchange(&Request::new("GET", "/health")) {
                assert_eq!((next.status, next.text().contains("ok")), (200, true), "{method}: {next:?}");
            }
        }
    }
    assert_never_written(server, "wire/inner");
}

#[test]
fn a_head_may_come_byte_by_byte_and_after_an_empty_line() {
    let server = Server::shared();
    server.put("wire/slow", b"found").expect_status(201);
    let mut connection = server.connect();
    for _ in 0..2 {
        let request =
            Request::new("GET", "/objects/wire/slow").header("x-filler", "some more bytes to split");
        for byte in request.encode() {
            connection.send_raw(&[byte]).unwrap();
        }
        assert_eq!(connection.read_response("GET").unwrap().expect_status(200).body, b"found");
    }
    let after_empty_line = [b"\r\n".as_slice(), &Request::new("GET", "/objects/wire/slow").encode()].concat();
    assert_eq!(connection.answer_to(&after_empty_line).expect_status(200).body, b"found");
}

#[test]
fn header_names_have_no_case_and_values_no_outer_space() {
    let server = Server::shared();
    let raw = b"PUT /objects/wire/case HTTP/1.1\r\nhOST:a\r\ncontent-LENGTH:  \t3 \t\r\nCONTENT-TYPE:\ttext/x \r\n\r\nabc";
    let mut connection = server.connect();
    connection.send_raw(raw).unwrap();
    connection.read_response("PUT").unwrap().expect_status(201);
    let got = server.get("wire/case").expect_status(200);
    assert_eq!((got.header("content-type"), &got.body[..]), (Some("text/x"), &b"abc"[..]));
}
