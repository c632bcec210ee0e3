//! Which methods a place answers, and how a place may be spelled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use support::{Server, assert_error, error_code};

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
