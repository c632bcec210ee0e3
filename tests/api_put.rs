//! PUT: identities, version numbers, conditions and the headers that are stored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Barrier;

use support::{
    Request, SMALL_CHUNK, Server, assert_error, assert_never_written, bytes, error_code, object, versions,
};

/// The largest number that a query may carry.
const MAX_NUMBER: u64 = (1 << 53) - 1;

fn etag_of(blob_id: &str) -> String {
    format!("\"{blob_id}\"")
}

#[test]
fn a_put_answers_with_the_identity_it_gave() {
    let server = Server::shared();
    let first = server.put("put/identity", b"one").expect_status(201);
    assert_eq!(first.json_str("path"), "put/identity");
    assert_eq!(first.json_u64("version"), 1);
    assert_eq!(first.json_u64("size"), 3);
    assert_eq!(first.json_u64("chunks_stored"), 1);
    let first_id = first.json_str("blob_id");
    assert!(first_id.len() == 26 && ulid::Ulid::from_string(&first_id).is_ok(), "{first_id} is not a ULID");
    assert_eq!(first.header("etag"), Some(etag_of(&first_id).as_str()));

    let second = server.put("put/identity", b"one").expect_status(201);
    assert_eq!(second.json_u64("version"), 2, "without a number the same bytes are a new version");
    assert_ne!(second.json_str("blob_id"), first_id);

    let third = server.put("put/identity", b"three").expect_status(201);
    assert_eq!(third.json_u64("version"), 3);
    let newest = server.get("put/identity").expect_status(200);
    assert_eq!(newest.body, b"three");
    assert_eq!(newest.header("etag"), Some(etag_of(&third.json_str("blob_id")).as_str()));
    let oldest = server.get_at("put/identity", 1).expect_status(200);
    assert_eq!(oldest.body, b"one");
    assert_eq!(oldest.header("etag"), Some(etag_of(&first_id).as_str()));
}

#[test]
fn a_number_given_by_the_client_is_kept_and_the_next_one_counts_from_the_highest() {
    let server = Server::shared();
    let path = "put/explicit";
    assert_eq!(server.put_at(path, 7, b"seven").expect_status(201).json_u64("version"), 7);
    assert_eq!(server.put(path, b"eight").expect_status(201).json_u64("version"), 8);
    assert_eq!(server.put_at(path, 3, b"three").expect_status(201).json_u64("version"), 3);
    assert_eq!(
        server.get(path).expect_status(200).body,
        b"eight",
        "an older number does not become the newest"
    );
    assert_eq!(server.put(path, b"nine").expect_status(201).json_u64("version"), 9);
    assert_eq!(versions(server, path), [9, 8, 7, 3]);
    assert_eq!(server.get_at(path, 3).body, b"three");
    assert_error(&server.get_at(path, 4), 404, "BlobNotFound");
}

#[test]
fn a_version_that_is_no_number_is_refused_and_changes_nothing() {
    let server = Server::shared();
    let path = "put/numbers";
    let beyond = (MAX_NUMBER + 1).to_string();
    let wrong = [
        "version=",
        "version=abc",
        "version=-1",
        "version=+1",
        "version=1.0",
        "version=1e3",
        "version=0x1",
        "version=%201",
        "version=1%00",
        "version=18446744073709551616",
        "version=18446744073709551617",
        "version=99999999999999999999999999999999999999",
        "version=1&version=1",
        "version=1&version=2",
    ];
    for query in wrong.into_iter().map(str::to_owned).chain([format!("version={beyond}")]) {
        for method in ["PUT", "GET", "DELETE"] {
            let answer = server.request(method, &format!("{}?{query}", object(path)), &[], b"");
            assert_eq!(
                (answer.status, error_code(&answer).as_str()),
                (400, "BadRequest"),
                "{method} {query}"
            );
        }
    }
    assert_never_written(server, path);
    let escaped =
        server.request("PUT", &format!("{}?v%65rsion=%35&other=1&other=2", object(path)), &[], b"x");
    assert_eq!(
        escaped.expect_status(201).json_u64("version"),
        5,
        "queries are decoded, unknown keys ignored"
    );
}

#[test]
fn after_the_last_version_number_there_is_no_next_one() {
    let server = Server::shared();
    let path = "put/last-number";
    assert_eq!(server.put_at(path, MAX_NUMBER, b"last").expect_status(201).json_u64("version"), MAX_NUMBER);
    let answer = server.put(path, b"one more");
    assert!(answer.status >= 400, "a number was given beyond the last one: {answer:?}");
    error_code(&answer);
    assert_eq!(versions(server, path), [MAX_NUMBER]);
    assert_eq!(server.get(path).expect_status(200).body, b"last");
}

#[test]
fn the_same_version_again_is_the_same_blob_or_a_conflict() {
    let server = Server::shared();
    for (path, len) in [("put/again/small", 100), ("put/again/file", SMALL_CHUNK + 100)] {
        let data = bytes(1, len);
        let mut other = data.clone();
        *other.last_mut().unwrap() ^= 1;
        let first = server.put_at(path, 5, &data).expect_status(201);
        let again = server.put_at(path, 5, &data).expect_status(200);
        assert_eq!(again.json_str("blob_id"), first.json_str("blob_id"));
        assert_eq!(again.json_u64("version"), 5);
        assert_eq!(again.json_u64("size"), len as u64);
        assert_eq!(again.header("etag"), first.header("etag"));
        let chunked = Request::new("PUT", &format!("{}?version=5", object(path)))
            .chunked(&[&data[..40], &data[40..]], &[]);
        assert_eq!(server.send(&chunked).expect_status(200).json_str("blob_id"), first.json_str("blob_id"));

        for wrong in [&other[..], &data[..len - 1], b""] {
            assert_error(&server.put_at(path, 5, wrong), 409, "VersionConflict");
        }
        let kept = server.get_at(path, 5).expect_status(200);
        assert!(kept.body == data, "{path} changed");
        assert_eq!(kept.header("etag"), first.header("etag"));
        assert_eq!(versions(server, path), [5]);

        server.delete_at(path, 5).expect_status(200);
        assert_error(&server.put_at(path, 5, &data), 409, "VersionConflict");
        assert_error(&server.put_at(path, 5, &other), 409, "VersionConflict");
        assert_error(&server.get_at(path, 5), 404, "BlobNotFound");
    }
}

#[test]
fn writers_without_a_number_at_once_each_get_one_of_their_own() {
    const WRITERS: usize = 8;
    const EACH: usize = 6;
    let server = Server::shared();
    let path = "put/many-writers";
    let barrier = Barrier::new(WRITERS);
    let given: Vec<(u64, Vec<u8>)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let one = |turn| {
                        let data = format!("writer {writer} turn {turn}").into_bytes();
                        (server.put(path, &data).expect_status(201).json_u64("version"), data)
                    };
                    (0..EACH).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let numbers: BTreeSet<u64> = given.iter().map(|(version, _)| *version).collect();
    assert_eq!(
        numbers,
        (1..=(WRITERS * EACH) as u64).collect(),
        "each number is given once, none is left out"
    );
    for (version, data) in given {
        assert_eq!(server.get_at(path, version).expect_status(200).body, data, "version {version}");
    }
}

#[test]
fn if_none_match_any_lets_exactly_one_of_many_create() {
    const WRITERS: usize = 8;
    let server = Server::shared();
    for round in 0..5 {
        let path = format!("put/create/{round}");
        let barrier = Barrier::new(WRITERS);
        let write = |writer: usize| {
            barrier.wait();
            let answer = server.put_with(&path, &[("If-None-Match", "*")], format!("{writer}").as_bytes());
            if answer.status != 201 {
                assert_error(&answer, 412, "PreconditionFailed");
            }
            answer.status
        };
        let write = &write;
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winner = statuses.iter().position(|&status| status == 201).expect("one creates it");
        assert_eq!(statuses.iter().filter(|&&status| status == 201).count(), 1, "{statuses:?}");
        assert_eq!(server.get(&path).expect_status(200).text(), winner.to_string());
        assert_eq!(versions(server, &path), [1]);
    }
}

#[test]
fn if_match_lets_exactly_one_of_many_replace() {
    const WRITERS: usize = 8;
    let server = Server::shared();
    for round in 0..5 {
        let path = format!("put/replace/{round}");
        let etag = server.put(&path, b"old").expect_status(201).header("etag").unwrap().to_owned();
        let barrier = Barrier::new(WRITERS);
        let wins: usize = std::thread::scope(|scope| {
            let write = || {
                barrier.wait();
                let answer = server.put_with(&path, &[("If-Match", &etag)], b"new");
                if answer.status != 201 {
                    assert_error(&answer, 412, "PreconditionFailed");
                }
                usize::from(answer.status == 201)
            };
            let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
        assert_eq!(versions(server, &path), [2, 1]);
    }
}

#[test]
fn conditions_decide_whether_a_put_happens() {
    let server = Server::shared();
    let path = "put/conditions";
    let absent = [("If-Match", "*"), ("If-Match", "\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"")];
    for condition in absent {
        assert_error(&server.put_with(path, &[condition], b"x"), 412, "PreconditionFailed");
    }
    assert_never_written(server, path);

    let etag = server.put(path, b"one").expect_status(201).header("etag").unwrap().to_owned();
    let weak = format!("W/{etag}");
    let list = format!("\"other\", {etag}");
    let refused = [
        ("If-None-Match", "*"),
        ("If-None-Match", &etag),
        ("If-None-Match", &list),
        ("If-Match", "\"other\""),
        ("If-Match", &weak),
    ];
    for condition in refused {
        let answer = server.put_with(path, &[condition], b"two");
        assert_eq!(
            (answer.status, error_code(&answer).as_str()),
            (412, "PreconditionFailed"),
            "{condition:?}"
        );
        assert_eq!(versions(server, path), [1], "{condition:?}");
    }
    assert_eq!(server.get(path).body, b"one");

    assert_eq!(
        server.put_with(path, &[("If-Match", &list)], b"two").expect_status(201).json_u64("version"),
        2
    );
    assert_eq!(
        server.put_with(path, &[("If-Match", "*")], b"three").expect_status(201).json_u64("version"),
        3
    );
    let unlike = server.put_with(path, &[("If-None-Match", &etag)], b"four");
    assert_eq!(unlike.expect_status(201).json_u64("version"), 4, "the newest version is another one by now");

    server.delete(path).expect_status(200);
    assert_error(&server.put_with(path, &[("If-Match", "*")], b"x"), 412, "PreconditionFailed");
    let reborn = server.put_with(path, &[("If-None-Match", "*")], b"five").expect_status(201);
    assert_eq!(reborn.json_u64("version"), 5, "a tombstone is nothing to match");
}

#[test]
fn headers_given_with_the_bytes_come_back_with_them() {
    let mut server = Server::start();
    let path = "put/headers";
    let stored: [(&str, &[u8]); 9] = [
        ("Content-Type", b"text/html; charset=iso-8859-1"),
        ("Content-Encoding", b"gzip"),
        ("Content-Language", b"de, en"),
        ("Content-Disposition", b"attachment; filename=\"a b.html\""),
        ("Cache-Control", b"public, max-age=60"),
        ("x-amber-meta-owner", b"somebody, else; \"quoted\" = \\ %41"),
        ("X-AMBER-META-Mixed-Case", b"kept"),
        ("x-amber-meta-latin", b"caf\xe9 \xff\x80"),
        ("x-amber-meta-utf8", "größe 日本".as_bytes()),
    ];
    let mut request = Request::new("PUT", &object(path)).body(b"not really gzip");
    for (name, value) in stored {
        request = request.header(name, value);
    }
    let request =
        request.header("x-other", "not ours").header("Server", "not ours").header("Set-Cookie", "a=b");
    server.send(&request).expect_status(201);
    server.put(path, b"plain").expect_status(201);

    for round in ["before", "after"] {
        let get = server.get_at(path, 1).expect_status(200);
        assert_eq!(get.body, b"not really gzip", "nothing is encoded or decoded on the way");
        let head =
            server.request("HEAD", &format!("{}?version=1", object(path)), &[], b"").expect_status(200);
        let part =
            server.request("GET", &format!("{}?version=1", object(path)), &[("Range", "bytes=4-9")], b"");
        assert_eq!(part.clone().expect_status(206).body, b"really");
        for answer in [&get, &head, &part] {
            for (name, value) in stored {
                assert_eq!(answer.headers.get_bytes(name), Some(value), "{name} {round} a restart");
            }
            for name in ["x-other", "set-cookie"] {
                assert_eq!(answer.headers.get_bytes(name), None, "{name}");
            }
            assert_ne!(answer.headers.get_bytes("server"), Some(&b"not ours"[..]));
        }
        let plain = server.get(path).expect_status(200);
        assert_eq!(
            plain.header("content-type"),
            Some("application/octet-stream"),
            "each version has its own headers"
        );
        assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(plain.header("cache-control"), Some("no-cache"));
        for name in ["content-encoding", "content-language", "content-disposition", "x-amber-meta-owner"] {
            assert_eq!(plain.headers.get_bytes(name), None, "{name}");
        }
        server.restart();
    }
}

#[test]
fn a_partial_put_is_refused() {
    let server = Server::shared();
    let path = "put/content-range";
    for range in ["bytes 0-3/10", "bytes */10", "rubbish"] {
        let answer = server.put_with(path, &[("Content-Range", range)], b"data");
        assert_error(&answer, 400, "BadRequest");
        assert!(answer.says_close(), "refused from the head alone: {answer:?}");
    }
    assert_never_written(server, path);
    server.put(path, b"whole").expect_status(201);
    assert_error(&server.put_with(path, &[("Content-Range", "bytes 0-3/5")], b"part"), 400, "BadRequest");
    assert_eq!(server.get(path).body, b"whole");
    assert_eq!(versions(server, path), [1]);
}
