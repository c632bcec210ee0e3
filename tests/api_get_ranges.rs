//! GET of parts: `Range` in all its forms, `?start` and `?end`, and that no arithmetic overflows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use support::{CHUNK, Random, Response, Server, assert_error, bytes, error_code, sha256_base64};

const LEN: usize = 1000;

fn stored(server: &Server, path: &str) -> Vec<u8> {
    let data = bytes(30, LEN);
    server.put(path, &data).expect_status(201);
    data
}

/// Panics unless `answer` is a 206 with just `data[from..=to]`.
#[track_caller]
fn assert_part(answer: &Response, data: &[u8], from: usize, to: usize) {
    assert_eq!(
        answer.status,
        206,
        "{:?} {}",
        answer.headers,
        answer.text().chars().take(300).collect::<String>()
    );
    let range = format!("bytes {from}-{to}/{}", data.len());
    assert_eq!(answer.header("content-range"), Some(range.as_str()));
    assert_eq!(answer.header("content-length"), Some((to - from + 1).to_string().as_str()));
    assert!(answer.body == data[from..=to], "other bytes than {range}");
    for name in ["etag", "last-modified", "date", "x-amber-version", "cache-control"] {
        assert!(answer.header(name).is_some(), "no {name} in a 206");
    }
}

#[track_caller]
fn assert_unsatisfiable(answer: &Response, len: usize) {
    assert_error(answer, 416, "RangeNotSatisfiable");
    assert_eq!(answer.header("content-range"), Some(format!("bytes */{len}").as_str()));
}

/// The parts of a multipart/byteranges body as (Content-Range, bytes), by the grammar of RFC 2046.
#[track_caller]
fn parts(answer: &Response) -> Vec<(String, Vec<u8>)> {
    assert_eq!(answer.status, 206, "{answer:?}");
    assert_eq!(answer.header("content-range"), None, "only the parts have a Content-Range");
    let media_type = answer.header("content-type").unwrap_or_default();
    let boundary =
        media_type.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{media_type}"));
    let boundary = boundary.trim_matches('"');
    assert!((1..=70).contains(&boundary.len()), "a boundary of {} characters", boundary.len());
    let mut rest = answer.body.as_slice();
    let open = format!("--{boundary}");
    let mut found = Vec::new();
    rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    loop {
        rest = rest
            .strip_prefix(open.as_bytes())
            .unwrap_or_else(|| panic!("no boundary at part {}", found.len()));
        if let Some(end) = rest.strip_prefix(b"--") {
            assert!(end.is_empty() || end == b"\r\n", "something after the last boundary: {end:?}");
            return found;
        }
        rest = rest.strip_prefix(b"\r\n").expect("a line end after the boundary");
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("the end of a part's head");
        let head = String::from_utf8(rest[..end].to_vec()).expect("a part's head in ASCII");
        rest = &rest[end + 4..];
        let field = |name: &str| {
            let line = head.split("\r\n").find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            });
            line.unwrap_or_else(|| panic!("no {name} in a part: {head}"))
        };
        assert_eq!(field("content-type"), "application/octet-stream");
        let range = field("content-range");
        let (from, to) =
            range.strip_prefix("bytes ").and_then(|range| range.split_once('/')?.0.split_once('-')).unwrap();
        let len = to.parse::<usize>().unwrap() - from.parse::<usize>().unwrap() + 1;
        found.push((range.clone(), rest[..len].to_vec()));
        rest = rest[len..].strip_prefix(b"\r\n").expect("a line end after a part");
    }
}

#[test]
fn a_single_range_gives_exactly_its_bytes() {
    let server = Server::shared();
    let path = "range/single";
    let data = stored(server, path);
    let digest = format!("sha-256=:{}:", sha256_base64(&data));
    let cases = [
        ("bytes=0-0", 0, 0),
        ("bytes=0-999", 0, 999),
        ("bytes=0-", 0, 999),
        ("bytes=1-2", 1, 2),
        ("bytes=500-", 500, 999),
        ("bytes=999-", 999, 999),
        ("bytes=999-999", 999, 999),
        ("bytes=999-1000", 999, 999),
        ("bytes=10-5000", 10, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-999", 1, 999),
        ("bytes=-1000", 0, 999),
        ("bytes=-1001", 0, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=0007-0009", 7, 9),
        ("Bytes=3-4", 3, 4),
        // Numbers beyond 64 bits are still numbers.
        ("bytes=5-9223372036854775807", 5, 999),
        ("bytes=5-9223372036854775808", 5, 999),
        ("bytes=5-18446744073709551615", 5, 999),
        ("bytes=5-18446744073709551616", 5, 999),
        ("bytes=5-99999999999999999999999999999999999999999", 5, 999),
        ("bytes=-9223372036854775808", 0, 999),
        ("bytes=-18446744073709551615", 0, 999),
        ("bytes=-18446744073709551616", 0, 999),
    ];
    for (range, from, to) in cases {
        let answer = server.get_range(path, range);
        println!("{range}");
        assert_part(&answer, &data, from, to);
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        if let Some(given) = answer.header("repr-digest") {
            assert_eq!(given, digest, "the digest of the representation, not of the part");
        }
    }
}

#[test]
fn a_range_beyond_the_end_cannot_be_satisfied() {
    let server = Server::shared();
    let path = "range/beyond";
    stored(server, path);
    let cases = [
        "bytes=1000-",
        "bytes=1000-1000",
        "bytes=1000-2000",
        "bytes=-0",
        "bytes=2000-3000,4000-",
        "bytes=9223372036854775807-",
        "bytes=9223372036854775808-",
        "bytes=18446744073709551615-",
        "bytes=18446744073709551616-",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=18446744073709551616-18446744073709551617",
        "bytes=99999999999999999999999999999999999999999-",
    ];
    for range in cases {
        println!("{range}");
        assert_unsatisfiable(&server.get_range(path, range), LEN);
    }
}

#[test]
fn a_malformed_range_is_ignored() {
    let server = Server::shared();
    let path = "range/malformed";
    let data = stored(server, path);
    let cases = [
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=abc",
        "bytes=1",
        "bytes=5-4",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=0x1-0x2",
        "bytes=1.0-2",
        "bytes=+1-2",
        "bytes=0-1,x",
        "bytes=x,0-1",
        "bytes=0-1,5-4",
        "bytes=0-1;2-3",
        "bytes 0-1",
        "0-1",
        "lines=0-1",
        "bytes:0-1",
        "bytes=0-1 2-3",
        "bytes=18446744073709551616-0",
    ];
    for range in cases {
        let answer = server.get_range(path, range);
        assert_eq!(answer.status, 200, "{range}: {answer:?}");
        assert!(answer.body == data, "{range}");
        assert_eq!(answer.header("content-range"), None, "{range}");
    }
    let twice = server.get_with(path, &[("Range", "bytes=0-1"), ("Range", "bytes=4-5")]);
    assert!([200, 206, 400].contains(&twice.status), "two Range lines: {twice:?}");
}

#[test]
fn several_ranges_come_as_parts() {
    let server = Server::shared();
    let path = "range/several";
    let data = stored(server, path);
    let cases: [(&str, &[(usize, usize)]); 6] = [
        ("bytes=0-9,500-509", &[(0, 9), (500, 509)]),
        ("bytes=0-0, 999-999", &[(0, 0), (999, 999)]),
        ("bytes=0-9,-10", &[(0, 9), (990, 999)]),
        ("bytes=0-9,300-310,900-", &[(0, 9), (300, 310), (900, 999)]),
        ("bytes=0-9,2000-,500-509", &[(0, 9), (500, 509)]),
        ("bytes=0-9 , 500-509,5000-6000 ,\t700-799", &[(0, 9), (500, 509), (700, 799)]),
    ];
    for (range, expected) in cases {
        let answer = server.get_range(path, range);
        let expected: Vec<(String, Vec<u8>)> = expected
            .iter()
            .map(|&(from, to)| (format!("bytes {from}-{to}/{LEN}"), data[from..=to].to_vec()))
            .collect();
        assert!(parts(&answer) == expected, "{range}: {answer:?}");
        assert!(answer.header("etag").is_some() && answer.header("last-modified").is_some());
    }
}

#[test]
fn a_part_bears_the_stored_type() {
    let server = Server::shared();
    let data = bytes(31, LEN);
    server.put_with("range/type", &[("Content-Type", "video/mp4")], &data).expect_status(201);
    let answer = server.get_range("range/type", "bytes=0-1,500-501").expect_status(206);
    assert!(answer.header("content-type").unwrap().starts_with("multipart/byteranges"));
    assert_eq!(answer.text().to_ascii_lowercase().matches("content-type: video/mp4\r\n").count(), 2);
}

#[test]
fn a_single_satisfiable_one_of_several_is_a_plain_part() {
    let server = Server::shared();
    let path = "range/one-of-several";
    let data = stored(server, path);
    for range in ["bytes=0-9,2000-3000", "bytes=1000-,0-9", "bytes=5000-,-0,0-9,1000-1001"] {
        assert_part(&server.get_range(path, range), &data, 0, 9);
    }
}

#[test]
fn sixteen_ranges_are_the_most() {
    let server = Server::shared();
    let path = "range/many";
    let data = stored(server, path);
    let many = |count: usize| {
        let specs: Vec<String> = (0..count).map(|part| format!("{}-{}", part * 50, part * 50 + 4)).collect();
        server.get_range(path, &format!("bytes={}", specs.join(",")))
    };
    let sixteen = parts(&many(16));
    assert_eq!(sixteen.len(), 16);
    for (part, (range, body)) in sixteen.iter().enumerate() {
        assert_eq!(range, &format!("bytes {}-{}/{LEN}", part * 50, part * 50 + 4));
        assert!(body == &data[part * 50..part * 50 + 5]);
    }
    assert_unsatisfiable(&many(17), LEN);
    assert_unsatisfiable(&many(19), LEN);
    let thousands = format!("bytes={}0-0", "0-0,".repeat(1500));
    assert_unsatisfiable(&server.get_range(path, &thousands), LEN);
}

#[test]
fn the_same_bytes_asked_for_many_times_are_not_sent_many_times() {
    let server = Server::shared();
    let path = "range/overlap";
    stored(server, path);
    let cases = [
        format!("bytes={}0-", "0-,".repeat(9)),
        format!("bytes={}0-999", "0-999,".repeat(9)),
        format!("bytes={}-1000", "-1000,".repeat(9)),
        format!("bytes={}", (0..16).map(|from| format!("{from}-")).collect::<Vec<_>>().join(",")),
    ];
    for range in cases {
        println!("{range}");
        assert_unsatisfiable(&server.get_range(path, &range), LEN);
    }
}

#[test]
fn start_and_end_in_the_query_are_a_range() {
    let server = Server::shared();
    let path = "range/query";
    let data = stored(server, path);
    let cases = [
        ("start=0&end=10", 0, 9),
        ("start=0&end=1", 0, 0),
        ("end=1", 0, 0),
        ("end=10", 0, 9),
        ("start=990", 990, 999),
        ("start=0", 0, 999),
        ("end=1000", 0, 999),
        ("start=999&end=1000", 999, 999),
        ("start=10&end=5000", 10, 999),
        ("start=10&end=9007199254740991", 10, 999),
        ("end=10&start=5", 5, 9),
        ("start=5&version=1&end=10", 5, 9),
        ("start=%35&end=1%30", 5, 9),
    ];
    for (query, from, to) in cases {
        println!("{query}");
        let answer = server.get_query(path, query);
        assert_part(&answer, &data, from, to);
        let same = server.get_range(path, &format!("bytes={from}-{to}"));
        assert!(answer.body == same.body);
    }
    for query in [
        "start=1000",
        "start=1000&end=1001",
        "start=5000",
        "start=9007199254740991",
        "start=9007199254740990&end=9007199254740991",
    ] {
        println!("{query}");
        assert_unsatisfiable(&server.get_query(path, query), LEN);
    }
    let wrong = [
        "start=10&end=10",
        "start=11&end=10",
        "start=0&end=0",
        "end=0",
        "start=5000&end=1",
        "start=5000&end=5000",
        "start=-1",
        "end=-1",
        "start=",
        "end=",
        "start=abc",
        "end=1x",
        "start=1.5",
        "start=+1",
        "start=9007199254740992",
        "end=9007199254740992",
        "start=18446744073709551616",
        "end=18446744073709551617",
        "start=1&start=1",
        "end=5&end=6",
        "start=0&end=5&start=1",
    ];
    for query in wrong {
        let answer = server.get_query(path, query);
        assert_eq!((answer.status, error_code(&answer).as_str()), (400, "BadRequest"), "{query}");
    }
}

#[test]
fn a_range_in_the_query_and_one_in_the_header_contradict_each_other() {
    let server = Server::shared();
    let path = "range/both";
    stored(server, path);
    for query in ["start=0&end=10", "start=5", "end=5"] {
        for range in ["bytes=0-9", "bytes=5000-"] {
            let answer = server.request("GET", &format!("/objects/{path}?{query}"), &[("Range", range)], b"");
            assert_error(&answer, 400, "BadRequest");
        }
    }
}

#[test]
fn conditions_come_before_a_range_in_the_query() {
    let server = Server::shared();
    let path = "range/query-conditions";
    let data = stored(server, path);
    let etag = server.get(path).header("etag").unwrap().to_owned();
    let get = |headers: &[(&str, &str)]| {
        server.request("GET", &format!("/objects/{path}?start=1&end=3"), headers, b"")
    };
    assert_eq!(get(&[("If-None-Match", &etag)]).status, 304);
    assert_error(&get(&[("If-Match", "\"other\"")]), 412, "PreconditionFailed");
    assert_part(&get(&[("If-Match", &etag)]), &data, 1, 2);
}

#[test]
fn a_range_of_an_older_version_is_of_its_bytes() {
    let server = Server::shared();
    let path = "range/older";
    let data = stored(server, path);
    server.put(path, b"short").expect_status(201);
    let answer =
        server.request("GET", &format!("/objects/{path}?version=1"), &[("Range", "bytes=900-")], b"");
    assert_part(&answer, &data, 900, 999);
    assert_eq!(answer.header("x-amber-version"), Some("1"));
    assert_unsatisfiable(&server.get_range(path, "bytes=900-"), 5);
}

#[test]
fn ranges_across_chunks_are_seamless() {
    let server = Server::shared();
    let path = "range/chunks";
    let len = 2 * CHUNK + 4097;
    let data = bytes(32, len);
    server.put(path, &data).expect_status(201);
    let fixed = [
        (0, 0),
        (CHUNK - 1, CHUNK - 1),
        (CHUNK, CHUNK),
        (CHUNK - 1, CHUNK),
        (CHUNK - 5, CHUNK + 5),
        (2 * CHUNK - 1, 2 * CHUNK),
        (CHUNK - 1, 2 * CHUNK),
        (CHUNK, 2 * CHUNK - 1),
        (2 * CHUNK, len - 1),
        (len - 1, len - 1),
        (0, len - 1),
    ];
    for (from, to) in fixed {
        assert_part(&server.get_range(path, &format!("bytes={from}-{to}")), &data, from, to);
    }
    assert_part(&server.get_range(path, &format!("bytes=-{}", CHUNK + 4098)), &data, CHUNK - 1, len - 1);
    assert_part(
        &server.get_query(path, &format!("start={}&end={}", CHUNK - 3, CHUNK + 3)),
        &data,
        CHUNK - 3,
        CHUNK + 2,
    );
    let mut random = Random::new(33);
    for _ in 0..60 {
        let from = random.below(len as u64) as usize;
        let longest = [1, 100, 20_000, 3 << 20][random.below(4) as usize];
        let to = (from + random.below(longest) as usize).min(len - 1);
        assert_part(&server.get_range(path, &format!("bytes={from}-{to}")), &data, from, to);
    }
    let range = format!("bytes={}-{},0-9,{}-{}", CHUNK - 2, CHUNK + 1, 2 * CHUNK - 70_000, 2 * CHUNK + 70);
    let expected = [(CHUNK - 2, CHUNK + 1), (0, 9), (2 * CHUNK - 70_000, 2 * CHUNK + 70)]
        .map(|(from, to)| (format!("bytes {from}-{to}/{len}"), data[from..=to].to_vec()));
    assert!(parts(&server.get_range(path, &range)) == expected);
    assert_unsatisfiable(&server.get_range(path, &format!("bytes={len}-")), len);
}
