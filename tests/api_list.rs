//! Listing: byte order over all slots, pages, prefixes, tombstones, and stability while others write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;
use support::{Server, encode_path, error_code};

/// What one page, or all pages together, listed: paths of objects, and prefixes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Listed {
    objects: Vec<Value>,
    prefixes: Vec<String>,
}

impl Listed {
    fn paths(&self) -> Vec<&str> {
        self.objects.iter().map(|row| row["path"].as_str().unwrap()).collect()
    }
}

#[track_caller]
fn page(server: &Server, query: &str) -> (Listed, Option<String>) {
    let json = server.list(query).expect_status(200).json();
    let objects = json["objects"].as_array().unwrap_or_else(|| panic!("no objects in {json}")).clone();
    let prefixes = match &json["prefixes"] {
        Value::Null => Vec::new(),
        prefixes => {
            prefixes.as_array().unwrap().iter().map(|prefix| prefix.as_str().unwrap().to_owned()).collect()
        }
    };
    (Listed { objects, prefixes }, json["next_cursor"].as_str().map(str::to_owned))
}

/// Follows the cursors from the first page to the last, looking at each page with `each`.
#[track_caller]
fn all_pages(server: &Server, query: &str, mut each: impl FnMut(&Listed)) -> Listed {
    let mut all = Listed::default();
    let mut cursor = String::new();
    for _ in 0..20_000 {
        let (listed, next) = page(server, &format!("{query}{cursor}"));
        each(&listed);
        all.objects.extend(listed.objects);
        all.prefixes.extend(listed.prefixes);
        match next {
            Some(next) => cursor = format!("&cursor={}", encode_path(&next)),
            None => return all,
        }
    }
    panic!("pages without an end: {query}");
}

/// Writes `paths` with several connections at once.
fn put_all(server: &Server, paths: &[String]) {
    std::thread::scope(|scope| {
        for part in paths.chunks(paths.len().div_ceil(4).max(1)) {
            scope.spawn(move || {
                let mut connection = server.connect();
                for path in part {
                    let request = support::Request::new("PUT", &support::object(path)).body(path);
                    connection.exchange(&request).unwrap().expect_status(201);
                }
            });
        }
    });
}

#[test]
fn an_empty_server_lists_nothing() {
    let server = Server::start();
    for query in [
        "",
        "prefix=",
        "delimiter=/",
        "include_tombstoned=true",
        "prefix=a/&limit=5&delimiter=/&include_tombstoned=false",
    ] {
        let (listed, next) = page(&server, query);
        assert_eq!((listed, next), (Listed::default(), None), "{query}");
    }
}

#[test]
fn each_path_is_listed_with_its_newest_version() {
    let server = Server::start();
    server.put("b", b"one").expect_status(201);
    let newest = server.put("b", b"three").expect_status(201);
    let only = server.put_at("a", 7, b"").expect_status(201);
    let (listed, next) = page(&server, "");
    assert_eq!(listed.paths(), ["a", "b"]);
    assert_eq!(next, None);
    for (row, put, size) in [(&listed.objects[0], &only, 0), (&listed.objects[1], &newest, 5)] {
        for key in ["path", "version", "blob_id"] {
            assert_eq!(row[key], put.json()[key], "{key}");
        }
        assert_eq!(row["size"], size);
        assert!(row["created_at"].as_str().is_some_and(|created| !created.is_empty()), "{row}");
        assert_eq!(row["tombstoned_at"], Value::Null);
    }
    let answer = server.list("");
    assert!(answer.header("content-type").unwrap().starts_with("application/json"));
}

#[test]
fn paths_come_in_the_order_of_their_bytes_over_all_slots_and_disks() {
    let server = Server::builder().disks(2).start();
    let mut paths: Vec<String> = [
        "a",
        "a!",
        "a-b",
        "a/b",
        "a/b/c",
        "a0",
        "aa",
        "A",
        "Z",
        "z",
        "~",
        "é",
        "e\u{301}",
        "ß",
        "日本",
        "日本/語",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{10000}",
        "\u{10ffff}",
        "0",
        "00",
        "1",
        "10",
        "2",
        " ",
        "a b",
        "%",
        "a%20b",
        "+",
        "\"",
        "\\",
        "?",
        "#x",
    ]
    .map(str::to_owned)
    .into();
    paths.extend((0..150).map(|number| format!("bulk/{:x}", number * 7919)));
    put_all(&server, &paths);
    paths.sort_unstable_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
    assert_eq!(page(&server, "").0.paths(), paths);
    for limit in [1, 2, 7, 50] {
        let all = all_pages(&server, &format!("limit={limit}"), |page| assert!(page.objects.len() <= limit));
        assert_eq!(all.paths(), paths, "limit {limit}");
    }
}

#[test]
fn a_prefix_is_taken_literally_and_by_bytes() {
    let server = Server::start();
    let paths = [
        "p", "p/", "p/a", "p/b", "p/b/c", "p%", "p%a", "p_", "p_a", "p*", "pq", "q", "p a", "p+a", "é", "éa",
        "è",
    ];
    let paths: Vec<String> =
        paths.iter().filter(|path| !path.ends_with('/')).map(|path| (*path).to_owned()).collect();
    put_all(&server, &paths);
    let cases = ["p", "p/", "p/b", "p/b/", "p%", "p_", "p*", "p a", "p+", "é", "zzz", "q", "P"];
    for prefix in cases {
        let mut expected: Vec<&str> =
            paths.iter().map(String::as_str).filter(|path| path.starts_with(prefix)).collect();
        expected.sort_unstable();
        let query = format!("prefix={}", encode_path(prefix));
        assert_eq!(page(&server, &query).0.paths(), expected, "{prefix:?}");
        assert_eq!(all_pages(&server, &format!("{query}&limit=1"), |_| {}).paths(), expected, "{prefix:?}");
    }
    assert_eq!(page(&server, "prefix=p+a").0.paths(), ["p a"], "+ is a space in a query");
    assert_eq!(page(&server, "prefix=p%2Ba").0.paths(), ["p+a"]);
}

#[test]
fn a_delimiter_rolls_up_what_lies_below_it() {
    let server = Server::start();
    let paths = ["a", "a/1", "a/2", "a/b/1", "a/b/2", "a/c/d/e", "b/1", "c", "ca", "z/y/x", "日/本"]
        .map(str::to_owned);
    put_all(&server, &paths);
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("delimiter=/", &["a", "c", "ca"], &["a/", "b/", "z/", "日/"]),
        ("delimiter=/&prefix=a/", &["a/1", "a/2"], &["a/b/", "a/c/"]),
        ("delimiter=/&prefix=a/b", &[], &["a/b/"]),
        ("delimiter=/&prefix=a", &["a"], &["a/"]),
        ("delimiter=/&prefix=z/y/", &["z/y/x"], &[]),
    ];
    for (query, objects, prefixes) in cases {
        let (listed, next) = page(&server, query);
        assert_eq!(
            (listed.paths(), &listed.prefixes[..]),
            (objects.to_vec(), &prefixes.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()[..]),
            "{query}"
        );
        assert_eq!(next, None, "{query}");
        for limit in 1..=4 {
            let all = all_pages(&server, &format!("{query}&limit={limit}"), |page| {
                assert!(
                    page.objects.len() <= limit && page.prefixes.len() <= limit,
                    "{query} limit {limit}: {page:?}"
                );
            });
            assert_eq!(all, listed, "{query} limit {limit}");
        }
    }
    server.delete("b/1").expect_status(200);
    assert_eq!(
        page(&server, "delimiter=/").0.prefixes,
        ["a/", "z/", "日/"],
        "nothing but a tombstone lies below b/"
    );
    assert_eq!(page(&server, "delimiter=/&include_tombstoned=true").0.prefixes, ["a/", "b/", "z/", "日/"]);
}

#[test]
fn tombstones_are_listed_only_if_asked_for() {
    let mut server = Server::start();
    for path in ["kept", "gone", "gone-with-past", "old-gone", "back"] {
        server.put(path, b"1").expect_status(201);
    }
    server.put("gone-with-past", b"22").expect_status(201);
    server.put("old-gone", b"22").expect_status(201);
    server.delete("gone").expect_status(200);
    server.delete("gone-with-past").expect_status(200);
    server.delete_at("old-gone", 1).expect_status(200);
    server.delete("back").expect_status(200);
    server.put("back", b"22").expect_status(201);
    for round in ["before", "after"] {
        for query in ["", "include_tombstoned=false"] {
            let listed = page(&server, query).0;
            assert_eq!(listed.paths(), ["back", "kept", "old-gone"], "{query} {round} a restart");
            assert!(listed.objects.iter().all(|row| row["tombstoned_at"].is_null()));
        }
        let (listed, _) = page(&server, "include_tombstoned=true");
        assert_eq!(
            listed.paths(),
            ["back", "gone", "gone-with-past", "kept", "old-gone"],
            "{round} a restart"
        );
        let marked: Vec<bool> = listed.objects.iter().map(|row| row["tombstoned_at"].is_string()).collect();
        assert_eq!(marked, [false, true, true, false, false]);
        let newest: Vec<u64> = listed.objects.iter().map(|row| row["version"].as_u64().unwrap()).collect();
        assert_eq!(newest, [2, 1, 2, 1, 2], "the newest version of each path");
        let all = all_pages(&server, "include_tombstoned=true&limit=1", |_| {});
        assert_eq!(all, listed);
        assert_eq!(all_pages(&server, "limit=1", |_| {}).paths(), ["back", "kept", "old-gone"]);
        server.restart();
    }
}

#[test]
fn a_page_holds_a_thousand_unless_told() {
    let server = Server::start();
    let paths: Vec<String> = (0..1003).map(|number| format!("many/{number:04}")).collect();
    put_all(&server, &paths);
    let (first, next) = page(&server, "");
    assert_eq!(first.paths(), paths[..1000]);
    let next = next.expect("a cursor after the first thousand");
    let (second, end) = page(&server, &format!("cursor={}", encode_path(&next)));
    assert_eq!((second.paths(), end), (paths[1000..].iter().map(String::as_str).collect(), None));
    assert_eq!(page(&server, "limit=10000").0.paths(), paths);
    let (exact, next) = page(&server, "limit=1003");
    assert_eq!(exact.paths(), paths);
    if let Some(next) = next {
        assert_eq!(page(&server, &format!("cursor={}", encode_path(&next))), (Listed::default(), None));
    }
}

#[test]
fn a_wrong_query_is_refused() {
    let server = Server::shared();
    let wrong = [
        "cursor=rubbish",
        "cursor=%00",
        "cursor=%ff%fe",
        "cursor=AAAA",
        "limit=abc",
        "limit=-1",
        "limit=1.5",
        "limit=",
        "limit=9007199254740992",
        "limit=18446744073709551617",
        "prefix=a&prefix=a",
        "prefix=a&prefix=b",
        "limit=1&limit=1",
        "cursor=&cursor=",
        "delimiter=/&delimiter=/",
        "include_tombstoned=true&include_tombstoned=true",
        "prefix=%zz",
        "prefix=%",
        "prefix=%4",
    ];
    for query in wrong {
        let answer = server.list(query);
        assert!(answer.status == 400, "{query}: {answer:?}");
        assert_eq!(error_code(&answer), "BadRequest", "{query}");
    }
    assert_eq!(server.list("unknown=1&unknown=2").status, 200, "unknown keys are ignored");
    let (_, end) = page(server, "limit=10000");
    assert_eq!(end, None);
}

#[test]
fn a_cursor_outlives_a_restart_and_the_path_it_stands_on() {
    let mut server = Server::start();
    put_all(&server, &["a", "b", "c", "d"].map(str::to_owned));
    let (first, next) = page(&server, "limit=2");
    assert_eq!(first.paths(), ["a", "b"]);
    let cursor = encode_path(&next.unwrap());
    server.delete("b").expect_status(200);
    server.put("aa", b"behind").expect_status(201);
    server.put("bb", b"ahead").expect_status(201);
    server.restart();
    assert_eq!(page(&server, &format!("limit=10&cursor={cursor}")).0.paths(), ["bb", "c", "d"]);
}

#[test]
fn what_nobody_touches_is_listed_exactly_once_while_others_write() {
    let server = Server::start();
    let still: Vec<String> = (0..600).map(|number| format!("n/{number:04}/still")).collect();
    put_all(&server, &still);
    let stop = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for writer in 0..2_u64 {
            let (server, stop, writes) = (&server, &stop, &writes);
            scope.spawn(move || {
                let mut random = support::Random::new(writer);
                let mut connection = server.connect();
                while !stop.load(Ordering::Relaxed) {
                    let path = support::object(&format!("n/{:04}/moving{writer}", random.below(600)));
                    let request = match random.below(3) {
                        0 => support::Request::new("DELETE", &path),
                        _ => support::Request::new("PUT", &path).body(b"x"),
                    };
                    let answer = connection.exchange(&request).unwrap();
                    assert!([200, 201, 404].contains(&answer.status), "{answer:?}");
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for limit in [37, 37, 37, 100, 1, 250] {
            let before = writes.load(Ordering::Relaxed);
            let query = if limit == 1 { "prefix=n/02&limit=1".to_owned() } else { format!("limit={limit}") };
            let all = all_pages(&server, &query, |_| {});
            let paths = all.paths();
            assert!(paths.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice");
            let seen: Vec<&str> = paths.into_iter().filter(|path| path.ends_with("/still")).collect();
            let expected: Vec<&String> =
                still.iter().filter(|path| limit != 1 || path.starts_with("n/02")).collect();
            assert_eq!(seen, expected, "limit {limit}");
            support::wait_until(std::time::Duration::from_secs(10), "the writers to write meanwhile", || {
                writes.load(Ordering::Relaxed) > before
            });
        }
    });
    assert_eq!(
        all_pages(&server, "limit=100", |_| {}).paths().iter().collect::<BTreeSet<_>>().len(),
        page(&server, "limit=10000").0.objects.len()
    );
}

/// Tells the writers to stop even when an assertion fails, so that a failing test ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_listing_shows_a_write_as_soon_as_it_is_acknowledged() {
    let server = Server::shared();
    for turn in 0..50 {
        let path = format!("list/ack/{turn}");
        server.put(&path, b"x").expect_status(201);
        assert_eq!(page(server, &format!("prefix={path}")).0.paths(), [path.as_str()]);
        server.delete(&path).expect_status(200);
        assert_eq!(page(server, &format!("prefix={path}")).0.paths(), [""; 0]);
    }
}
