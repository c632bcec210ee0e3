//! `Repr-Digest` and `Content-Digest` of RFC 9530 on PUT, in the header and in the trailer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use support::{
    Request, SMALL_CHUNK, Server, assert_error, assert_never_written, bytes, error_code, object,
    sha256_base64, versions,
};

#[test]
fn a_digest_that_agrees_is_accepted_and_one_that_does_not_stores_nothing() {
    let server = Server::shared();
    let data = bytes(2, 5000);
    let right = format!("sha-256=:{}:", sha256_base64(&data));
    let wrong = format!("sha-256=:{}:", sha256_base64(b"something else"));
    let sha512 =
        "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:";
    let both = format!("{sha512}, {right}");
    let accepted: [&[(&str, &str)]; 7] = [
        &[("Repr-Digest", &right)],
        &[("Content-Digest", &right)],
        &[("Repr-Digest", &right), ("Content-Digest", &right)],
        &[("Repr-Digest", sha512)],
        &[("Content-Digest", "md5=:AAAA:, unixsum=:AAA=:")],
        &[("Repr-Digest", &both)],
        &[("Want-Repr-Digest", "sha-256=1")],
    ];
    for (number, headers) in accepted.into_iter().enumerate() {
        let path = format!("put/digest/good/{number}");
        server.put_with(&path, headers, &data).expect_status(201);
        assert!(server.get(&path).body == data);
    }
    let mixed = format!("{sha512}, {wrong}");
    let refused: [&[(&str, &str)]; 6] = [
        &[("Repr-Digest", &wrong)],
        &[("Content-Digest", &wrong)],
        &[("Repr-Digest", &right), ("Content-Digest", &wrong)],
        &[("Repr-Digest", &wrong), ("Content-Digest", &right)],
        &[("Repr-Digest", &mixed)],
        &[("REPR-DIGEST", &wrong)],
    ];
    for (number, headers) in refused.into_iter().enumerate() {
        let path = format!("put/digest/bad/{number}");
        assert_error(&server.put_with(&path, headers, &data), 400, "DigestMismatch");
        assert_never_written(server, &path);
        assert_eq!(
            server.put(&path, &data).expect_status(201).json_u64("version"),
            1,
            "no number was used up"
        );
    }
    for (number, value) in
        ["sha-256=:AAAA:", "sha-256=:*:", "sha-256=::", "sha-256=abc"].into_iter().enumerate()
    {
        let path = format!("put/digest/malformed/{number}");
        let answer = server.put_with(&path, &[("Repr-Digest", value)], &data);
        assert_eq!(answer.status, 400, "{value}");
        assert!(["DigestMismatch", "BadRequest"].contains(&error_code(&answer).as_str()), "{value}");
        assert_never_written(server, &path);
    }
    let empty = format!("sha-256=:{}:", sha256_base64(b""));
    server.put_with("put/digest/empty", &[("Repr-Digest", &empty)], b"").expect_status(201);
    assert_error(
        &server.put_with("put/digest/empty", &[("Repr-Digest", &right)], b""),
        400,
        "DigestMismatch",
    );
    assert_eq!(versions(server, "put/digest/empty"), [1]);
}

#[test]
fn a_digest_in_the_trailer_counts_as_one_in_the_header() {
    let server = Server::shared();
    let data = bytes(3, SMALL_CHUNK + 5000);
    let right = format!("sha-256=:{}:", sha256_base64(&data));
    let wrong = format!("sha-256=:{}:", sha256_base64(&data[1..]));
    let put = |path: &str, headers: &[(&str, &str)], trailers: &[(&str, &str)]| {
        let request = Request::new("PUT", &object(path)).headers(headers);
        server.send(&request.chunked(&[&data[..1], &data[1..30_000], &data[30_000..]], trailers))
    };
    for (number, name) in ["Repr-Digest", "Content-Digest", "repr-digest"].into_iter().enumerate() {
        let path = format!("put/trailer/{number}");
        assert_error(&put(&path, &[("Trailer", name)], &[(name, &wrong)]), 400, "DigestMismatch");
        assert_error(&put(&path, &[], &[("x-first", "1"), (name, &wrong)]), 400, "DigestMismatch");
        assert_error(&put(&path, &[(name, &right)], &[(name, &wrong)]), 400, "DigestMismatch");
        assert_never_written(server, &path);
        put(&path, &[("Trailer", name)], &[(name, &right)]).expect_status(201);
        assert!(server.get(&path).body == data);
    }
}

#[test]
fn trailers_are_not_taken_for_headers_to_store() {
    let server = Server::shared();
    let request = Request::new("PUT", "/objects/put/trailer-meta").chunked(
        &[b"body"],
        &[("Content-Type", "text/html"), ("Content-Length", "1"), ("x-amber-meta-late", "no")],
    );
    let answer = server.send(&request);
    if answer.status != 201 {
        assert_eq!(answer.status, 400, "forbidden trailer fields may be ignored or refused");
        return;
    }
    let got = server.get("put/trailer-meta").expect_status(200);
    assert_eq!(got.body, b"body");
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
}
