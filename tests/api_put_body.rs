//! PUT: bodies in either framing and of every size, and that nothing stays of one that was cut off or refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::http::Ending;
use support::{
    CHUNK, Connection, Request, SMALL_CHUNK, Server, assert_error, assert_never_written, bytes, chunk_files,
    error_code, object, plain_files, sha256, sha256_base64, sha256_hex, versions, wait_until,
};

#[test]
fn chunked_bodies_in_every_lawful_form_are_understood() {
    let server = Server::shared();
    let lawful: [(&[u8], &[u8]); 9] = [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", b"0123456789abcdefghij"),
        (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"5;ext\r\nhello\r\n0;last=1\r\n\r\n", b"hello"),
        (b"5;a=b;c=\"d;e\"\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"1\r\nh\r\n1\r\ni\r\n0\r\nx-trailer: 1\r\nx-other: 2\r\n\r\n", b"hi"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        (b"7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n", b"0\r\n\r\n0\r"),
    ];
    for (number, (coded, plain)) in lawful.into_iter().enumerate() {
        let path = format!("put/chunked/{number}");
        let request = Request::new("PUT", &object(&path)).chunked_raw(coded);
        server.send(&request).expect_status(201);
        assert_eq!(server.get(&path).expect_status(200).body, plain, "{:?}", String::from_utf8_lossy(coded));

        let mut connection = server.connect();
        for byte in request.encode() {
            connection.send_raw(&[byte]).unwrap();
        }
        let answer = connection.read_response("PUT").unwrap().expect_status(201);
        assert_eq!(answer.json_u64("version"), 2);
        assert_eq!(
            server.get(&path).expect_status(200).body,
            plain,
            "byte by byte: {:?}",
            String::from_utf8_lossy(coded)
        );
        let next = connection.exchange(&Request::new("GET", "/health")).unwrap();
        assert_eq!(next.status, 200, "the connection goes on after the last chunk");
    }
    let upper = Request::new("PUT", "/objects/put/chunked/upper").header("Transfer-Encoding", "Chunked");
    server.send(&upper.chunked(&[b"x"], &[])).expect_status(201);
}

#[test]
fn a_broken_chunked_body_is_refused_and_closes() {
    let server = Server::shared();
    let mut long_extension = b"5;".to_vec();
    long_extension.extend(std::iter::repeat_n(b'x', 128 << 10));
    long_extension.extend(b"\r\nhello\r\n0\r\n\r\n");
    let mut long_trailer = b"5\r\nhello\r\n0\r\nx-long: ".to_vec();
    long_trailer.extend(std::iter::repeat_n(b'x', 128 << 10));
    long_trailer.extend(b"\r\n\r\n");
    let mut many_trailers = b"5\r\nhello\r\n0\r\n".to_vec();
    for number in 0..5000 {
        many_trailers.extend(format!("x-{number}: {number}\r\n").into_bytes());
    }
    many_trailers.extend(b"\r\n");
    let broken: [&[u8]; 22] = [
        b"\r\nhello\r\n0\r\n\r\n",
        b"x\r\nhello\r\n0\r\n\r\n",
        b"5x\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXY0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        b"5\r\nhello\r\n0\r\nx-bad : 1\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\x01: 1\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        &long_extension,
        &long_trailer,
        &many_trailers,
    ];
    for (number, coded) in broken.into_iter().enumerate() {
        let path = format!("put/broken/{number}");
        let shown = String::from_utf8_lossy(&coded[..coded.len().min(40)]).into_owned();
        let mut connection = server.connect();
        let answer = connection.exchange(&Request::new("PUT", &object(&path)).chunked_raw(coded));
        let answer = answer.unwrap_or_else(|error| panic!("{shown:?}: {error}"));
        let bounded = number >= 19;
        assert!(
            answer.status == 400 || (bounded && [413, 431].contains(&answer.status)),
            "{shown:?}: {answer:?}"
        );
        error_code(&answer);
        assert!(answer.says_close(), "{shown:?}: what follows cannot be told from the body");
        assert_ne!(connection.wait_closed(Duration::from_secs(5)), Ending::Open, "{shown:?}");
        assert_never_written(server, &path);
    }
}

/// Puts `data`, reads it back, and checks the chunk list against the bytes.
fn round_trip(server: &Server, path: &str, data: &[u8], chunked: bool) {
    let request = Request::new("PUT", &object(path));
    let pieces: Vec<&[u8]> = data.chunks(1_000_003).collect();
    let request = if chunked { request.chunked(&pieces, &[]) } else { request.body(data) };
    let put = server.send(&request).expect_status(201);
    assert_eq!(put.json_u64("size"), data.len() as u64);
    let expected: Vec<(String, u64)> =
        data.chunks(CHUNK).map(|chunk| (sha256_hex(chunk), chunk.len() as u64)).collect();
    if !data.is_empty() {
        assert_eq!(put.json_u64("chunks_stored"), expected.len() as u64);
    }
    let got = server.get(path).expect_status(200);
    assert_eq!(got.header("content-length"), Some(data.len().to_string().as_str()));
    assert!(got.body.len() == data.len() && sha256(&got.body) == sha256(data), "{path} came back changed");
    let chunks = server.get_query(path, "chunks").expect_status(200).json();
    let chunks: Vec<(String, u64)> = chunks["chunks"]
        .as_array()
        .expect("a list of chunks")
        .iter()
        .map(|chunk| {
            assert_eq!(chunk["location"], "local");
            (chunk["id"].as_str().unwrap().to_owned(), chunk["len"].as_u64().unwrap())
        })
        .collect();
    if !data.is_empty() {
        assert_eq!(chunks, expected, "{path}");
    }
}

#[test]
fn bodies_around_the_size_of_a_small_chunk_come_back_whole() {
    let server = Server::shared();
    let sizes = [
        0,
        1,
        2,
        4095,
        4096,
        4097,
        16_384,
        SMALL_CHUNK - 1,
        SMALL_CHUNK,
        SMALL_CHUNK + 1,
        1 << 20,
        (1 << 20) + 1,
    ];
    for len in sizes {
        for chunked in [false, true] {
            round_trip(server, &format!("put/size/{len}/{chunked}"), &bytes(len as u64, len), chunked);
        }
    }
}

#[test]
fn bodies_around_the_size_of_a_chunk_come_back_whole_and_their_files_bear_their_hash() {
    let server = Server::start();
    let sizes = [(CHUNK - 1, false), (CHUNK, true), (CHUNK, false), (CHUNK + 1, false), (130 << 20, true)];
    for (number, (len, chunked)) in sizes.into_iter().enumerate() {
        let data = bytes(1000 + number as u64, len);
        round_trip(&server, &format!("put/large/{number}"), &data, chunked);
        let files: BTreeMap<String, PathBuf> = chunk_files(server.data()).into_iter().collect();
        for chunk in data.chunks(CHUNK).filter(|chunk| chunk.len() > SMALL_CHUNK) {
            let file =
                files.get(&sha256_hex(chunk)).unwrap_or_else(|| panic!("no file for a chunk of {number}"));
            assert!(std::fs::read(file).unwrap() == chunk, "{} is not its chunk", file.display());
        }
    }
}

/// What is left of an upload that failed: nothing, soon.
fn assert_space_comes_back(server: &Server, before: &BTreeMap<PathBuf, u64>) {
    let total = |files: &BTreeMap<PathBuf, u64>| files.values().sum::<u64>();
    wait_until(Duration::from_secs(15), "the files of failed uploads to go", || {
        let now = plain_files(server.data());
        let new_chunks = now.keys().any(|file| {
            !before.contains_key(file) && file.components().any(|part| part.as_os_str() == "blobs")
        });
        !new_chunks && total(&now) <= total(before) + (1 << 16)
    });
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing() {
    let server = Server::start();
    server.put("kept", &bytes(7, 200_000)).expect_status(201);
    let before = plain_files(server.data());
    let data = bytes(8, CHUNK + (1 << 20));
    let cuts: [(&str, usize, bool); 6] = [
        ("cut/at-once", 0, false),
        ("cut/small", 1000, false),
        ("cut/middle", 5 << 20, false),
        ("cut/chunked", 5 << 20, true),
        ("cut/second-chunk", CHUNK + 4096, false),
        ("cut/one-byte-short", CHUNK + (1 << 20) - 1, false),
    ];
    for (path, sent, chunked) in cuts {
        for reset in [false, true] {
            let request = Request::new("PUT", &object(path));
            let request = if chunked { request.chunked(&[&data], &[]) } else { request.body(&data) };
            let mut connection = server.connect();
            connection.send_raw(&request.encode_head()).unwrap();
            connection.send_raw(&request.encode_body()[..sent]).unwrap();
            if reset {
                drop(connection);
            } else {
                connection.finish_sending().unwrap();
                assert_ne!(connection.wait_closed(Duration::from_secs(10)), Ending::Open, "{path}");
            }
        }
        assert_never_written(&server, path);
    }
    assert_space_comes_back(&server, &before);
    for (path, ..) in cuts {
        assert_never_written(&server, path);
        assert_eq!(server.put(path, b"now").expect_status(201).json_u64("version"), 1);
    }
    assert!(server.get("kept").body == bytes(7, 200_000));
}

#[test]
fn the_bytes_of_refused_uploads_go() {
    let server = Server::start();
    let data = bytes(9, 3 << 20);
    server.put_at("refused/conflict", 1, &data).expect_status(201);
    let before = plain_files(server.data());
    let wrong = format!("sha-256=:{}:", sha256_base64(b"other"));
    assert_error(
        &server.put_with("refused/digest", &[("Repr-Digest", &wrong)], &data),
        400,
        "DigestMismatch",
    );
    assert_error(&server.put_at("refused/conflict", 1, &data[1..]), 409, "VersionConflict");
    server.put_at("refused/conflict", 1, &data).expect_status(200);
    let broken = [b"100000\r\n", &data[..1 << 20], b"\r\nxyz\r\n"].concat();
    server.send(&Request::new("PUT", "/objects/refused/broken").chunked_raw(broken)).expect_status(400);
    assert_error(
        &server.put_with("refused/conflict", &[("If-None-Match", "*")], &data),
        412,
        "PreconditionFailed",
    );
    assert_space_comes_back(&server, &before);
    assert!(server.get("refused/conflict").body == data);
}

#[test]
fn a_reader_sees_nothing_of_an_upload_under_way() {
    let server = Server::shared();
    let data = bytes(10, 1 << 20);
    server.put("put/under-way", b"old").expect_status(201);
    let request = Request::new("PUT", "/objects/put/under-way").body(&data);
    let mut connection: Connection = server.connect();
    connection.send_raw(&request.encode_head()).unwrap();
    connection.send_raw(&data[..data.len() - 1]).unwrap();
    let during = server.get("put/under-way").expect_status(200);
    assert_eq!((during.header("x-amber-version"), &during.body[..]), (Some("1"), &b"old"[..]));
    assert_eq!(versions(server, "put/under-way"), [1]);
    connection.send_raw(&data[data.len() - 1..]).unwrap();
    assert_eq!(connection.read_response("PUT").unwrap().expect_status(201).json_u64("version"), 2);
    assert!(server.get("put/under-way").body == data);
}

/// What the only upload under way has on disk: the first `len` bytes.
fn on_disk(server: &Server, len: usize) -> Option<Vec<u8>> {
    let is_temporary = |file: &&PathBuf| file.extension().is_some_and(|extension| extension == "tmp");
    let file = plain_files(server.data()).into_keys().find(|file| is_temporary(&file))?;
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(len as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[test]
fn an_upload_that_falls_silent_gives_up_its_large_buffers_and_goes_on() {
    const FIRST_BUFFER: usize = 64 << 10;
    let server = Server::start();
    let data = bytes(11, 8 << 20);
    for chunked in [false, true] {
        let path = format!("put/silent/{chunked}");
        let digest = format!("sha-256=:{}:", sha256_base64(&data));
        let request = Request::new("PUT", &object(&path)).header("Repr-Digest", digest);
        let request = if chunked { request.chunked(&[&data], &[]) } else { request.body(&data) };
        let body = request.encode_body();
        let begin = body.windows(100).position(|window| window == &data[..100]).unwrap();
        let mut connection = server.connect();
        connection.send_raw(&request.encode_head()).unwrap();
        let mut sent = 0;
        // It is fast, so it gets large buffers, and then silent off every boundary, long before it is cut off.
        for pause in [(3 << 20) + 12_345, (3 << 20) + 12_346, (5 << 20) + 16_384, (7 << 20) + 99_999] {
            connection.send_raw(&body[sent..begin + pause]).unwrap();
            sent = begin + pause;
            wait_until(
                Duration::from_secs(8),
                "a silent upload to be written but for a small buffer",
                || {
                    let written = pause - FIRST_BUFFER;
                    on_disk(&server, written).is_some_and(|bytes| bytes == data[..written])
                },
            );
        }
        connection.send_raw(&body[sent..]).unwrap();
        connection.read_response("PUT").unwrap().expect_status(201);
        assert!(server.get(&path).expect_status(200).body == data, "{path}");
    }
}

#[test]
fn a_request_behind_a_large_upload_is_answered_at_once() {
    const LOW_WATER: usize = 256 << 10;
    let server = Server::shared();
    let mut connection = server.connect();
    let data = bytes(12, 3 << 20);
    for _ in 0..3 {
        let put = Request::new("PUT", "/objects/put/then-more").body(&data);
        // The server has caught up when the end comes, so it waits for much of it, and then has all of it at once: what it
        // asked of the socket for that must not hold for the next head.
        let (start, end) = data.split_at(data.len() - LOW_WATER - 100);
        connection.send_raw(&put.encode_head()).unwrap();
        connection.send_raw(start).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        connection.send_raw(end).unwrap();
        connection.read_response("PUT").unwrap();
        let asked = Instant::now();
        connection.exchange(&Request::new("GET", "/health")).unwrap().expect_status(200);
        assert!(asked.elapsed() < Duration::from_secs(5), "waited for {:?}", asked.elapsed());
    }
}
