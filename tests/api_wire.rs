//! HTTP/1.1 on the wire: connections, pipelining, methods, limits, and heads that must not be believed.
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
use support::{
    Connection, Framing, Request, Response, Server, assert_error, assert_never_written, bytes, error_code,
};

const SOON: Duration = Duration::from_secs(5);

/// Sends `raw` and reads the one answer to it.
#[track_caller]
fn answer_to(connection: &mut Connection, raw: &[u8]) -> Response {
    let shown = String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
    // The server may stop reading before all is sent; what counts is its answer.
    let _ = connection.send_raw(raw);
    connection.read_response("GET").unwrap_or_else(|error| panic!("{shown:?}: {error}"))
}

/// Panics unless `raw` is refused with one of `statuses`, and the connection closed without a second answer.
#[track_caller]
fn assert_refused_and_closed(server: &Server, raw: &[u8], statuses: &[(u16, &str)]) {
    let shown = String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
    let mut connection = server.connect();
    let answer = answer_to(&mut connection, raw);
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
    assert_eq!(answer_to(&mut connection, &with_line(8000)).status, 200);
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
    assert_eq!(answer_to(&mut server.connect(), &with_size(31_000)).status, 200);
    for len in [34_000, 100_000, 1_000_000] {
        assert_refused_and_closed(server, &with_size(len), &[(431, "HeadersTooLarge")]);
    }
    let one_field = |len: usize| {
        format!("GET /health HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(len)).into_bytes()
    };
    assert_eq!(answer_to(&mut server.connect(), &one_field(31_000)).status, 200);
    assert_refused_and_closed(server, &one_field(34_000), &[(431, "HeadersTooLarge")]);
    let endless = [b"GET /health HTTP/1.1\r\nHost: a\r\nx: ".as_slice(), &vec![b'y'; 128 << 10]].concat();
    assert_refused_and_closed(server, &endless, &[(431, "HeadersTooLarge")]);

    let with_fields = |count: usize| {
        let fields: String = (1..count).map(|number| format!("x-{number}: 1\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    };
    assert_eq!(answer_to(&mut server.connect(), &with_fields(100)).status, 200);
    for count in [101, 150, 2000] {
        assert_refused_and_closed(server, &with_fields(count), &[(431, "HeadersTooLarge")]);
    }
}

#[test]
fn a_method_is_unknown_or_not_allowed_or_answered() {
    let server = Server::shared();
    server.put("wire/method", b"x").expect_status(201);
    for method in ["BREW", "get", "Put", "PROPFIND", "X-CUSTOM"] {
        for target in ["/objects/wire/method", "/objects", "/health"] {
            assert_error(&server.request(method, target, &[], b""), 501, "NotImplemented");
        }
    }
    let not_allowed = [
        ("POST", "/objects/wire/method", &["GET", "HEAD", "PUT", "DELETE", "OPTIONS"][..]),
        ("PUT", "/objects", &["GET"]),
        ("DELETE", "/objects", &["GET"]),
        ("POST", "/objects", &["GET"]),
        ("DELETE", "/health", &["GET"]),
        ("PUT", "/health", &["GET"]),
    ];
    for (method, target, allowed) in not_allowed {
        let answer = server.request(method, target, &[], b"");
        assert_error(&answer, 405, "MethodNotAllowed");
        for allow in allowed {
            assert!(
                answer.headers.has_token("allow", allow),
                "{method} {target}: {allow} is not in {:?}",
                answer.headers
            );
        }
        assert!(!answer.headers.has_token("allow", method), "{method} {target}");
    }
    for target in ["/objects/wire/method", "/objects/wire/absent", "/objects", "/health", "*"] {
        let answer = server.request("OPTIONS", target, &[], b"").expect_status(204);
        assert!(answer.headers.has_token("allow", "GET"), "OPTIONS {target}: {:?}", answer.headers);
        assert_eq!(answer.body, b"");
    }
    let answer = server.request("OPTIONS", "/objects/wire/method", &[], b"");
    for allow in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        assert!(answer.headers.has_token("allow", allow), "{allow} is not in {:?}", answer.headers);
    }
    assert_eq!(server.get("wire/method").expect_status(200).body, b"x");
}

#[test]
fn a_method_override_is_ignored() {
    let server = Server::shared();
    server.put("wire/override", b"x").expect_status(201);
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
        let got = server.get_with("wire/override", &[(name, "DELETE")]).expect_status(200);
        assert_eq!(got.body, b"x");
        let posted = server.request("POST", "/objects/wire/override", &[(name, "PUT")], b"y");
        assert_error(&posted, 405, "MethodNotAllowed");
        server.request("GET", "/objects/wire/override?_method=DELETE", &[], b"").expect_status(200);
    }
    assert_eq!(support::versions(server, "wire/override"), [1]);
    server.get("wire/override").expect_status(200);
}

#[test]
fn an_unknown_place_is_not_found() {
    let server = Server::shared();
    for target in
        ["/", "/nope", "/objectsx", "/object/a", "/Objects/a", "/health/x", "/metrics", "/readyz", "/slots"]
    {
        let answer = server.request("GET", target, &[], b"");
        assert_eq!(answer.status, 404, "{target}");
        error_code(&answer);
    }
}

#[test]
fn absolute_form_means_the_same_as_the_path() {
    let server = Server::shared();
    server.put("wire/absolute", b"found").expect_status(201);
    for target in [
        "http://localhost/objects/wire/absolute",
        "http://example.com:8080/objects/wire/absolute",
        "HTTP://EXAMPLE.COM/objects/wire/absolute?version=1",
        "http://[::1]:80/objects/wire/absolute",
    ] {
        assert_eq!(server.request("GET", target, &[], b"").expect_status(200).body, b"found", "{target}");
    }
    let put =
        server.request("PUT", "http://x/objects/wire/abs%20put?version=4", &[], b"y").expect_status(201);
    assert_eq!((put.json_str("path"), put.json_u64("version")), ("wire/abs put".to_owned(), 4));
    server.request("GET", "http://x/objects?prefix=wire/abs", &[], b"").expect_status(200);
    assert_error(&server.request("GET", "http://x/objects/a/../b", &[], b""), 400, "InvalidPath");
}

#[test]
fn an_http_1_0_client_is_served_without_host_and_then_closed() {
    let server = Server::shared();
    server.put("wire/http10", &bytes(60, 3000)).expect_status(201);
    let mut connection = server.connect();
    let got = answer_to(&mut connection, b"GET /objects/wire/http10 HTTP/1.0\r\n\r\n").expect_status(200);
    assert!(got.body == bytes(60, 3000));
    assert_ne!(got.framing, Framing::Chunked, "HTTP/1.0 knows no chunked coding");
    assert_eq!(connection.wait_closed(SOON), Ending::Closed);

    let mut connection = server.connect();
    let list = answer_to(&mut connection, b"GET /objects HTTP/1.0\r\n\r\n").expect_status(200);
    assert_ne!(list.framing, Framing::Chunked);
    assert_eq!(connection.wait_closed(SOON), Ending::Closed);

    let mut connection = server.connect();
    for _ in 0..3 {
        let raw = b"GET /objects/wire/http10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let got = answer_to(&mut connection, raw).expect_status(200);
        assert!(
            got.headers.has_token("connection", "keep-alive"),
            "a 1.0 client must be told: {:?}",
            got.headers
        );
        assert_eq!(got.framing, Framing::Length);
    }
    let last = answer_to(&mut connection, b"GET /objects/wire/http10 HTTP/1.0\r\n\r\n").expect_status(200);
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
    assert_eq!(answer_to(&mut connection, &after_empty_line).expect_status(200).body, b"found");
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
    let empty_host = answer_to(&mut connection, b"GET /health HTTP/1.1\r\nHost:\r\n\r\n");
    assert_eq!(empty_host.status, 200, "an empty Host is lawful");
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
    // A client that reads only after it has sent everything finds the answer of a small refused body as well.
    for _ in 0..20 {
        let answer = server.request("PUT", "/objects/wire/../early", &[], &body[..256 << 10]);
        assert_error(&answer, 400, "InvalidPath");
    }
    assert_never_written(server, "wire/early");
    server.assert_alive();
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
