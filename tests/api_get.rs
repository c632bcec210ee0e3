//! GET and HEAD of whole blobs: the headers that describe them, and the conditions of RFC 9110, section 13.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::time::{Duration, SystemTime};

use support::{Response, Server, assert_error, bytes, object, poll_until, sha256_base64};

const LEN: usize = 1000;

/// A condition and the status it leads to.
type Case<'a> = (&'a [(&'a str, &'a str)], u16);

fn date_of(response: &Response, name: &str) -> SystemTime {
    let value = response.header(name).unwrap_or_else(|| panic!("no {name}: {response:?}"));
    let date = httpdate::parse_http_date(value).unwrap_or_else(|error| panic!("{name}: {value}: {error}"));
    assert_eq!(httpdate::fmt_http_date(date), value, "{name} is not in the form of RFC 9110");
    date
}

fn etag(response: &Response) -> String {
    response.header("etag").unwrap_or_else(|| panic!("no ETag: {response:?}")).to_owned()
}

/// Puts a blob of its own for a test, and returns what GET says of it.
fn stored(server: &Server, path: &str) -> Response {
    server.put(path, &bytes(20, LEN)).expect_status(201);
    server.get(path).expect_status(200)
}

#[test]
fn a_whole_blob_comes_with_all_that_describes_it() {
    let server = Server::shared();
    let path = "get/headers";
    let put = server.put(path, &bytes(20, LEN)).expect_status(201);
    let got = server.get(path).expect_status(200);
    assert!(got.body == bytes(20, LEN));
    assert_eq!(got.header("content-length"), Some("1000"));
    assert_eq!(etag(&got), format!("\"{}\"", put.json_str("blob_id")));
    assert_eq!(got.header("accept-ranges"), Some("bytes"));
    assert_eq!(got.header("content-type"), Some("application/octet-stream"));
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(got.header("cache-control"), Some("no-cache"));
    assert_eq!(got.header("x-amber-version"), Some("1"));
    let digest = format!("sha-256=:{}:", sha256_base64(&bytes(20, LEN)));
    assert_eq!(got.header("repr-digest"), Some(digest.as_str()));
    assert_eq!(got.header("content-range"), None);
    assert!(date_of(&got, "last-modified") <= date_of(&got, "date"));
    let age = SystemTime::now().duration_since(date_of(&got, "date")).unwrap_or_default();
    assert!(age < Duration::from_secs(5), "Date is {age:?} behind");
    let age = SystemTime::now().duration_since(date_of(&got, "last-modified")).unwrap_or_default();
    assert!(age < Duration::from_secs(30), "Last-Modified is {age:?} behind");
}

#[test]
fn the_digest_of_a_blob_of_one_chunk_is_told_whatever_its_size() {
    let server = Server::shared();
    for len in [1, 60_000, 70_000, 2 << 20, (2 << 20) + 1, 3 << 20, 9 << 20] {
        let (path, data) = (format!("get/digest/{len}"), bytes(len as u64, len));
        server.put(&path, &data).expect_status(201);
        let digest = format!("sha-256=:{}:", sha256_base64(&data));
        let got = server.get(&path).expect_status(200);
        assert!(got.body == data);
        assert_eq!(got.header("repr-digest"), Some(digest.as_str()), "GET of {len}");
        assert_eq!(server.head(&path).header("repr-digest"), Some(digest.as_str()), "HEAD of {len}");
        let part = server.get_range(&path, "bytes=0-0").expect_status(206);
        assert_eq!(part.header("repr-digest"), Some(digest.as_str()), "a part of {len}, as of the whole");
    }
}

#[test]
fn last_modified_is_never_after_date() {
    let server = Server::shared();
    for turn in 0..200 {
        let path = format!("get/fresh/{}", turn % 4);
        server.put(&path, b"x").expect_status(201);
        let got = server.get(&path).expect_status(200);
        assert!(date_of(&got, "last-modified") <= date_of(&got, "date"), "{got:?}");
    }
}

#[test]
fn last_modified_is_the_version_s_own_and_survives_a_restart() {
    let mut server = Server::start();
    let first = stored(&server, "a");
    let modified = date_of(&first, "last-modified");
    poll_until(Duration::from_secs(5), "the clock to reach another second", || {
        (date_of(&server.head("a"), "date") > modified).then_some(())
    });
    server.put("a", b"newer").expect_status(201);
    server.restart();
    assert!(date_of(&server.get("a"), "last-modified") > modified);
    let old = server.get_at("a", 1).expect_status(200);
    assert_eq!(date_of(&old, "last-modified"), modified);
    assert_eq!(etag(&old), etag(&first));
}

#[test]
fn a_head_says_what_a_get_says_and_sends_nothing() {
    let server = Server::shared();
    let path = "get/head";
    let got = stored(server, path);
    let names = [
        "content-length",
        "content-type",
        "etag",
        "last-modified",
        "accept-ranges",
        "cache-control",
        "x-amber-version",
        "x-content-type-options",
        "repr-digest",
    ];
    for headers in
        [&[][..], &[("Range", "bytes=0-9")], &[("Range", "bytes=5000-")], &[("Range", "bytes=0-1,5-6")]]
    {
        let mut connection = server.connect();
        let request = support::Request::new("HEAD", &object(path)).headers(headers);
        let head = connection.exchange(&request).unwrap().expect_status(200);
        for name in names {
            assert_eq!(head.header(name), got.header(name), "{name} with {headers:?}");
        }
        assert_eq!(head.header("content-range"), None, "Range is ignored");
        let next = connection.exchange(&support::Request::new("GET", "/health")).unwrap();
        assert_eq!(next.status, 200, "a body after the head would have been read as this answer");
    }
    let mut connection = server.connect();
    let head = connection.exchange(&support::Request::new("HEAD", "/objects/get/absent")).unwrap();
    assert_eq!(head.status, 404);
    assert_eq!(connection.exchange(&support::Request::new("GET", "/health")).unwrap().status, 200);
}

#[test]
fn what_was_never_written_is_not_found() {
    let server = Server::shared();
    for path in ["get/absent", "get", "GET/headers"] {
        assert_error(&server.get(path), 404, "BlobNotFound");
        assert_eq!(server.head(path).status, 404);
    }
    stored(server, "get/one-version");
    assert_error(&server.get_at("get/one-version", 2), 404, "BlobNotFound");
    assert_error(&server.get_query("get/absent", "version=1"), 404, "BlobNotFound");
}

#[test]
fn an_error_names_each_request_differently() {
    let server = Server::shared();
    let id = || server.get("get/absent").json()["error"]["request_id"].as_str().unwrap().to_owned();
    assert_ne!(id(), id());
}

#[test]
fn an_empty_blob_is_a_blob() {
    let server = Server::shared();
    server.put("get/empty", b"").expect_status(201);
    let got = server.get("get/empty").expect_status(200);
    assert_eq!((got.header("content-length"), got.body.len()), (Some("0"), 0));
    assert_eq!(server.head("get/empty").expect_status(200).header("content-length"), Some("0"));
    let range = server.get_range("get/empty", "bytes=0-");
    assert_error(&range, 416, "RangeNotSatisfiable");
    assert_eq!(range.header("content-range"), Some("bytes */0"));
    let query = server.get_query("get/empty", "start=0");
    assert_error(&query, 416, "RangeNotSatisfiable");
}

#[test]
fn conditions_are_weighed_in_the_order_of_rfc_9110() {
    let server = Server::shared();
    let path = "get/conditions";
    let got = stored(server, path);
    let tag = etag(&got);
    let weak = format!("W/{tag}");
    let list = format!("\"other\", {tag} ,W/\"third\"");
    let spread = format!("\"a,b\",\"\", {tag}");
    let modified = date_of(&got, "last-modified");
    let same = httpdate::fmt_http_date(modified);
    let before = httpdate::fmt_http_date(modified - Duration::from_secs(1));
    let other = "\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"";
    let cases: [Case<'_>; 34] = [
        (&[("If-Match", &tag)], 200),
        (&[("If-Match", &list)], 200),
        (&[("If-Match", &spread)], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", other)], 412),
        (&[("If-Match", &weak)], 412),
        (&[("If-None-Match", &tag)], 304),
        (&[("If-None-Match", &weak)], 304),
        (&[("If-None-Match", &list)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", other)], 200),
        (&[("If-Modified-Since", &same)], 304),
        (&[("If-Modified-Since", &before)], 200),
        (&[("If-Modified-Since", "yesterday")], 200),
        (&[("If-Unmodified-Since", &same)], 200),
        (&[("If-Unmodified-Since", &before)], 412),
        (&[("If-Unmodified-Since", "yesterday")], 200),
        // If-Match stands before If-Unmodified-Since.
        (&[("If-Match", &tag), ("If-Unmodified-Since", &before)], 200),
        (&[("If-Match", other), ("If-Unmodified-Since", &same)], 412),
        // If-None-Match stands before If-Modified-Since.
        (&[("If-None-Match", other), ("If-Modified-Since", &same)], 200),
        (&[("If-None-Match", &tag), ("If-Modified-Since", &before)], 304),
        // A failed If-Match or If-Unmodified-Since ends it.
        (&[("If-Match", other), ("If-None-Match", &tag)], 412),
        (&[("If-Match", &tag), ("If-None-Match", &tag)], 304),
        (&[("If-Unmodified-Since", &before), ("If-None-Match", other)], 412),
        (&[("If-Unmodified-Since", &before), ("If-Modified-Since", &same)], 412),
        (&[("If-Unmodified-Since", &same), ("If-Modified-Since", &same)], 304),
        (&[("If-Unmodified-Since", &same), ("If-None-Match", &tag)], 304),
        // Range comes last.
        (&[("If-None-Match", &tag), ("Range", "bytes=0-9")], 304),
        (&[("If-None-Match", &tag), ("Range", "bytes=5000-")], 304),
        (&[("If-Match", other), ("Range", "bytes=5000-")], 412),
        (&[("If-Match", &tag), ("Range", "bytes=5000-")], 416),
        (&[("If-Match", &tag), ("Range", "bytes=0-9")], 206),
        (&[("If-None-Match", other), ("Range", "bytes=0-9")], 206),
        (&[("If-Modified-Since", &same), ("Range", "bytes=0-9")], 304),
    ];
    for (headers, status) in cases {
        let answer = server.get_with(path, headers);
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        match status {
            412 => assert_error(&answer, 412, "PreconditionFailed"),
            304 => {
                assert_eq!(answer.body, b"");
                for name in ["etag", "cache-control"] {
                    assert_eq!(answer.header(name), got.header(name), "{name} of a 304");
                }
                date_of(&answer, "date");
            }
            _ => {}
        }
        let expected = if [206, 416].contains(&status) { 200 } else { status };
        assert_eq!(server.head_with(path, headers).status, expected, "HEAD {headers:?}");
    }
}

#[test]
fn the_two_old_forms_of_a_date_are_understood() {
    let server = Server::shared();
    let path = "get/old-dates";
    let modified = date_of(&stored(server, path), "last-modified");
    let fixed = httpdate::fmt_http_date(modified);
    // Sun, 06 Nov 1994 08:49:37 GMT
    let words: Vec<&str> = fixed.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [short, day, month, year, time, _] = words[..] else { panic!("{fixed}") };
    let long = match short {
        "Tue" => "Tuesday".to_owned(),
        "Wed" => "Wednesday".to_owned(),
        "Thu" => "Thursday".to_owned(),
        "Sat" => "Saturday".to_owned(),
        other => format!("{other}day"),
    };
    let rfc850 = format!("{long}, {day}-{month}-{} {time} GMT", &year[2..]);
    let asctime = format!("{short} {month} {:>2} {time} {year}", day.trim_start_matches('0'));
    for date in [rfc850, asctime] {
        assert_eq!(server.get_with(path, &[("If-Modified-Since", &date)]).status, 304, "{date}");
        assert_eq!(server.get_with(path, &[("If-Unmodified-Since", &date)]).status, 200, "{date}");
    }
}

#[test]
fn a_304_leaves_the_connection_in_step() {
    let server = Server::shared();
    let tag = etag(&stored(server, "get/not-modified"));
    let mut connection = server.connect();
    for _ in 0..3 {
        let request = support::Request::new("GET", "/objects/get/not-modified");
        assert_eq!(connection.exchange(&request.clone().header("If-None-Match", &tag)).unwrap().status, 304);
        assert_eq!(connection.exchange(&request).unwrap().expect_status(200).body.len(), LEN);
    }
}

#[test]
fn if_range_with_the_strong_tag_of_these_bytes_gives_the_range_and_else_the_whole() {
    let server = Server::shared();
    let path = "get/if-range";
    let tag = etag(&stored(server, path));
    let data = bytes(20, LEN);
    let weak = format!("W/{tag}");
    for (value, status) in
        [(tag.as_str(), 206), (weak.as_str(), 200), ("\"other\"", 200), ("W/\"other\"", 200)]
    {
        let answer = server.get_with(path, &[("If-Range", value), ("Range", "bytes=10-19")]);
        assert_eq!(answer.status, status, "{value}");
        let expected = if status == 206 { &data[10..20] } else { &data[..] };
        assert!(answer.body == expected, "{value}");
        // Without a Range it means nothing; with one that cannot be satisfied it decides first.
        server.get_with(path, &[("If-Range", value)]).expect_status(200);
        let beyond = server.get_with(path, &[("If-Range", value), ("Range", "bytes=1000-")]);
        assert_eq!(beyond.status, if status == 206 { 416 } else { 200 }, "{value}");
    }
    server.put(path, b"other bytes").expect_status(201);
    let changed = server.get_with(path, &[("If-Range", &tag), ("Range", "bytes=0-4")]).expect_status(200);
    assert_eq!(changed.body, b"other bytes", "a resumed download must not mix two versions");
}

#[test]
fn if_range_with_a_date_counts_only_if_exact_and_a_second_old() {
    let server = Server::shared();
    let path = "get/if-range-date";
    let second = Duration::from_secs(1);
    let modified = date_of(&stored(server, path), "last-modified");
    let with = |date: SystemTime| {
        server.get_with(path, &[("If-Range", &httpdate::fmt_http_date(date)), ("Range", "bytes=0-9")])
    };
    let mut statuses = Vec::new();
    poll_until(Duration::from_secs(6), "the date to become strong", || {
        let answer = with(modified);
        let strong = date_of(&answer, "date") >= modified + second;
        assert_eq!(answer.status, if strong { 206 } else { 200 }, "{answer:?}");
        statuses.push(answer.status);
        (date_of(&answer, "date") > modified + 2 * second).then_some(())
    });
    assert_eq!(statuses.last(), Some(&206));
    assert_eq!(with(modified + second).status, 200, "later than Last-Modified is not the same");
    assert_eq!(with(modified - second).status, 200);
    let answer = server.get_with(path, &[("If-Range", "rubbish"), ("Range", "bytes=0-9")]);
    assert_eq!(answer.status, 200);
}
