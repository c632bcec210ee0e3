//! Paths: decoded once, bounded, never a way into the file system; and how they differ from queries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use support::{Server, assert_error, assert_never_written, encode_path, error_code, object, plain_files};

/// The path that a PUT to `target` was stored under.
#[track_caller]
fn stored_as(server: &Server, target: &str) -> String {
    let put = server.request("PUT", target, &[], target.as_bytes()).expect_status(201);
    let got = server.request("GET", target, &[], b"").expect_status(200);
    assert_eq!(got.body, target.as_bytes());
    put.json_str("path")
}

#[test]
fn a_path_is_decoded_once() {
    let server = Server::shared();
    let cases = [
        ("/objects/dec/a%20b", "dec/a b"),
        ("/objects/dec/a%2520b", "dec/a%20b"),
        ("/objects/dec/a%252520b", "dec/a%2520b"),
        ("/objects/dec/a+b", "dec/a+b"),
        ("/objects/dec/a%2Bc", "dec/a+c"),
        ("/objects/dec/%41%62", "dec/Ab"),
        ("/objects/dec/x%2Fy", "dec/x/y"),
        ("/objects/dec/x%2fz", "dec/x/z"),
        ("/objects/dec/%e6%97%a5%E6%9C%AC", "dec/日本"),
        ("/objects/dec/%F0%90%80%80", "dec/\u{10000}"),
        ("/objects/dec/q%3Fx=1", "dec/q?x=1"),
        ("/objects/dec/h%23x", "dec/h#x"),
        ("/objects/dec/%22%5C%3C%3E", "dec/\"\\<>"),
        ("/objects/dec/a;b=c,d", "dec/a;b=c,d"),
        ("/objects/dec/a:b@c!$&'()*", "dec/a:b@c!$&'()*"),
        ("/objects/dec/~-._", "dec/~-._"),
        ("/objects/dec/...", "dec/..."),
        ("/objects/dec/.hidden", "dec/.hidden"),
        ("/objects/dec/..x", "dec/..x"),
        ("/objects/dec/x..", "dec/x.."),
        ("/objects/dec/%2E%2E%2E", "dec/..."),
        ("/objects/dec/%C2%A0", "dec/\u{a0}"),
    ];
    for (target, path) in cases {
        assert_eq!(stored_as(server, target), path, "{target}");
        let other = server.get(path).expect_status(200);
        assert_eq!(other.body, target.as_bytes(), "{target}: another spelling of the same path");
        let listed = server.list(&format!("prefix={}", encode_path(path))).json();
        assert!(
            listed["objects"].as_array().unwrap().iter().any(|row| row["path"] == path),
            "{path}: {listed}"
        );
        server.delete(path).expect_status(200);
    }
}

#[test]
fn a_wrong_path_is_refused_by_every_method() {
    let server = Server::shared();
    let wrong = [
        "/objects//bad",
        "/objects/bad//x",
        "/objects/bad/",
        "/objects/bad/x/",
        "/objects/.",
        "/objects/..",
        "/objects/./bad",
        "/objects/../bad",
        "/objects/bad/.",
        "/objects/bad/..",
        "/objects/bad/./x",
        "/objects/bad/../x",
        "/objects/bad/../../x",
        "/objects/%2E%2E/bad",
        "/objects/bad/%2e",
        "/objects/bad/%2e%2e/x",
        "/objects/bad/.%2e",
        "/objects/bad%2F..%2Fx",
        "/objects/bad%2F%2Fx",
        "/objects/%2Fbad",
        "/objects/bad%2F",
        "/objects/%2Fetc%2Fpasswd",
        "/objects/bad%00",
        "/objects/%00",
        "/objects/bad%01x",
        "/objects/bad%0A",
        "/objects/bad%0D%0Ax",
        "/objects/bad%09",
        "/objects/bad%1F",
        "/objects/bad%7F",
        "/objects/bad%",
        "/objects/bad%4",
        "/objects/bad%zz",
        "/objects/bad%4g",
        "/objects/%",
        "/objects/bad%%41",
        "/objects/bad%+1",
        "/objects/bad%FF",
        "/objects/bad%C3",
        "/objects/bad%C3x",
        "/objects/bad%80",
        "/objects/bad%C0%AE",
        "/objects/bad%C0%80",
        "/objects/bad%E0%80%AF",
        "/objects/bad%ED%A0%80",
        "/objects/bad%F5%80%80%80",
        "/objects/bad%F4%90%80%80",
    ];
    for target in wrong {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = server.request(method, target, &[], b"");
            assert_eq!(
                (answer.status, error_code(&answer).as_str()),
                (400, "InvalidPath"),
                "{method} {target}"
            );
        }
        assert_eq!(server.request("HEAD", target, &[], b"").status, 400, "HEAD {target}");
        for view in ["versions", "chunks", "version=1"] {
            let answer = server.request("GET", &format!("{target}?{view}"), &[], b"");
            assert_eq!(
                (answer.status, error_code(&answer).as_str()),
                (400, "InvalidPath"),
                "{target}?{view}"
            );
        }
    }
    let listed = server.list("prefix=bad&include_tombstoned=true").json();
    assert_eq!(listed["objects"].as_array().map(Vec::len), Some(0), "{listed}");
    assert!(server.request("PUT", "/objects/", &[], b"x").status >= 400, "an empty path");
}

#[test]
fn a_path_has_at_most_1024_bytes_once_decoded() {
    let server = Server::shared();
    let longest = [
        "x".repeat(1024),
        "é".repeat(512),
        "日".repeat(341) + "x",
        "\u{10000}".repeat(256),
        format!("{}y", "ab/".repeat(341)),
        " ".repeat(1024),
    ];
    for path in longest {
        assert_eq!(path.len(), 1024);
        let escaped: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for target in [object(&path), format!("/objects/{escaped}")] {
            assert_eq!(stored_as(server, &target), path);
        }
        let too_long = path.clone() + "z";
        for method in ["PUT", "GET", "DELETE"] {
            assert_error(&server.request(method, &object(&too_long), &[], b""), 400, "InvalidPath");
        }
        let escaped: String = too_long.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_error(&server.request("PUT", &format!("/objects/{escaped}"), &[], b""), 400, "InvalidPath");
    }
    let far_too_long = "x".repeat(7000);
    assert_error(&server.get(&far_too_long), 400, "InvalidPath");
}

#[test]
fn paths_that_look_alike_are_different() {
    let server = Server::shared();
    let paths = [
        "alike/é",
        "alike/e\u{301}",
        "alike/E",
        "alike/e",
        "alike/ e",
        "alike/e ",
        "alike/e.",
        "alike/%65",
        "alike/e/e",
    ];
    for path in paths {
        assert_never_written(server, path);
        assert_eq!(server.put(path, path.as_bytes()).expect_status(201).json_u64("version"), 1, "{path:?}");
    }
    for path in paths {
        assert_eq!(server.get(path).expect_status(200).body, path.as_bytes(), "{path:?}");
    }
}

#[test]
fn a_path_never_reaches_the_file_system() {
    let server = Server::start();
    let outside = server.home().join("marker-outside");
    let absolute = outside.to_string_lossy().into_owned();
    let paths = [
        absolute.trim_start_matches('/').to_owned(),
        "marker-name".to_owned(),
        "marker-dir/marker-file".to_owned(),
        "slots/0/meta.sqlite3".to_owned(),
        "slots/marker-slot/blobs".to_owned(),
        "~/marker-home".to_owned(),
        "$HOME/marker-env".to_owned(),
        "marker' OR '1'='1".to_owned(),
        "marker\"; DROP TABLE blobs; --".to_owned(),
    ];
    for path in &paths {
        let data = support::bytes(50, 100_000);
        server.put(path, &data).expect_status(201);
        assert!(server.get(path).expect_status(200).body == data, "{path}");
    }
    for target in
        ["/objects/../marker-up", "/objects/%2e%2e%2f%2e%2e%2fmarker-up", "/objects/..%5c..%5cmarker-up"]
    {
        let status = server.request("PUT", target, &[], b"x").status;
        assert!([201, 400].contains(&status), "{target}");
    }
    assert!(!outside.exists());
    for file in plain_files(server.home()).into_keys() {
        let inside = file.strip_prefix(server.home()).unwrap().to_string_lossy().into_owned();
        assert!(!inside.contains("marker"), "a path has become a file: {inside}");
    }
    assert!(server.list("").json()["objects"].as_array().map_or(0, Vec::len) >= paths.len());
    for target in ["/etc/passwd", "/../../etc/passwd", "/objects/../../../etc/passwd", "//etc/passwd"] {
        let answer = server.request("GET", target, &[], b"");
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
        error_code(&answer);
    }
}

#[test]
fn a_query_is_not_part_of_the_path() {
    let server = Server::shared();
    let put = server.request("PUT", "/objects/query/name?", &[], b"empty query").expect_status(201);
    assert_eq!(put.json_str("path"), "query/name");
    let put =
        server.request("PUT", "/objects/query/name?version=9&x=/../..", &[], b"nine").expect_status(201);
    assert_eq!((put.json_str("path"), put.json_u64("version")), ("query/name".to_owned(), 9));
    assert_eq!(server.get("query/name").body, b"nine");
    assert_never_written(server, "query/name?version=9");
}

#[test]
fn a_wrong_escape_in_a_query_is_refused() {
    let server = Server::shared();
    for query in ["version=%", "version=%3", "version=%zz", "version=%ff"] {
        let answer = server.request("PUT", &format!("/objects/query/escape?{query}"), &[], b"x");
        assert_error(&answer, 400, "BadRequest");
    }
    assert_never_written(server, "query/escape");
}
