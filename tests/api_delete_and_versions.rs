//! The newest version decides; a tombstone only hides; a number is given once; versions and chunks come in pages.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::collections::BTreeSet;

use support::{
    CHUNK, Server, assert_error, assert_never_written, bytes, encode_path, error_code, object, sha256_hex,
    versions,
};

#[track_caller]
fn assert_gone(server: &Server, path: &str) {
    assert_error(&server.get(path), 404, "BlobNotFound");
    assert_eq!(server.head(path).status, 404);
    assert_error(&server.delete(path), 404, "BlobNotFound");
}

fn write(server: &Server, path: &str, count: u64) {
    for version in 1..=count {
        let put = server.put(path, format!("v{version}").as_bytes()).expect_status(201);
        assert_eq!(put.json_u64("version"), version);
    }
}

/// All pages of a list under `key`, asked for with `query` and the cursor of the page before.
fn pages(server: &Server, path: &str, query: &str, key: &str) -> Vec<Vec<serde_json::Value>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get_query(path, &format!("{query}{cursor}")).expect_status(200).json();
        pages.push(page[key].as_array().unwrap_or_else(|| panic!("no {key} in {page}")).clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_path(next)),
            None => return pages,
        }
        assert!(pages.len() < 1000, "pages without an end");
    }
}

#[test]
fn a_delete_hides_the_newest_version_and_a_retry_deletes_nothing_more() {
    let server = Server::shared();
    let path = "delete/newest";
    write(server, path, 3);
    let answer = server.delete(path).expect_status(200).json();
    assert_eq!(answer, serde_json::json!({"deleted": true, "path": path, "version": 3, "tombstoned": true}));
    for _ in 0..3 {
        assert_gone(server, path);
    }
    assert_error(&server.get_at(path, 3), 404, "BlobNotFound");
    assert_eq!(server.get_at(path, 2).expect_status(200).body, b"v2");
    assert_eq!(server.get_at(path, 1).expect_status(200).body, b"v1");
    assert_eq!(server.request("HEAD", &format!("{}?version=2", object(path)), &[], b"").status, 200);
}

#[test]
fn a_delete_by_number_hides_just_that_version() {
    let server = Server::shared();
    let path = "delete/by-number";
    write(server, path, 3);
    let answer = server.delete_at(path, 1).expect_status(200).json();
    assert_eq!(answer, serde_json::json!({"deleted": true, "path": path, "version": 1, "tombstoned": true}));
    assert_error(&server.get_at(path, 1), 404, "BlobNotFound");
    assert_error(&server.delete_at(path, 1), 404, "BlobNotFound");
    assert_eq!(server.get(path).expect_status(200).body, b"v3");
    assert_eq!(server.get_at(path, 2).expect_status(200).body, b"v2");
    server.delete_at(path, 3).expect_status(200);
    assert_gone(server, path);
    assert_eq!(server.get_at(path, 2).expect_status(200).body, b"v2");
}

#[test]
fn there_is_nothing_to_delete_where_nothing_was_written() {
    let server = Server::shared();
    assert_error(&server.delete("delete/never"), 404, "BlobNotFound");
    assert_error(&server.delete_at("delete/never", 1), 404, "BlobNotFound");
    let all = server.request("DELETE", "/objects/delete/never?versions", &[], b"");
    assert_error(&all, 404, "BlobNotFound");
    assert_never_written(server, "delete/never");
    write(server, "delete/one", 1);
    assert_error(&server.delete_at("delete/one", 2), 404, "BlobNotFound");
    assert_eq!(server.get("delete/one").expect_status(200).body, b"v1");
    assert_eq!(
        server.put("delete/one", b"v2").expect_status(201).json_u64("version"),
        2,
        "no number was used up"
    );
}

#[test]
fn a_version_number_is_never_given_twice() {
    let mut server = Server::start();
    let path = "reborn";
    write(&server, path, 2);
    let ids: BTreeSet<String> =
        [1, 2].map(|version| server.get_at(path, version).header("etag").unwrap().to_owned()).into();
    server.delete(path).expect_status(200);
    assert_eq!(server.put(path, b"v3").expect_status(201).json_u64("version"), 3);
    assert_eq!(server.get(path).expect_status(200).body, b"v3");
    assert_error(&server.get_at(path, 2), 404, "BlobNotFound");
    server.request("DELETE", "/objects/reborn?versions", &[], b"").expect_status(200);
    for version in 1..=3 {
        assert_error(&server.get_at(path, version), 404, "BlobNotFound");
        assert_error(&server.put_at(path, version, format!("v{version}").as_bytes()), 409, "VersionConflict");
    }
    assert_gone(&server, path);
    server.restart();
    assert_gone(&server, path);
    assert_error(&server.put_at(path, 3, b"v3"), 409, "VersionConflict");
    let fourth = server.put(path, b"v4").expect_status(201);
    assert_eq!(fourth.json_u64("version"), 4);
    assert!(!ids.contains(fourth.header("etag").unwrap()));
    server.kill9();
    server.start_again();
    assert_eq!(server.get(path).expect_status(200).body, b"v4");
    assert_eq!(versions(&server, path), [4, 3, 2, 1]);
}

#[test]
fn all_versions_can_be_deleted_at_once() {
    let server = Server::shared();
    let path = "delete/all";
    write(server, path, 4);
    server.delete_at(path, 2).expect_status(200);
    let target = format!("{}?versions", object(path));
    server.request("DELETE", &target, &[], b"").expect_status(200);
    for version in 1..=4 {
        assert_error(&server.get_at(path, version), 404, "BlobNotFound");
    }
    assert_gone(server, path);
    assert_error(&server.request("DELETE", &target, &[], b""), 404, "BlobNotFound");
    assert_eq!(versions(server, path), [4, 3, 2, 1], "tombstones stay");

    write(server, "delete/all-behind-a-tombstone", 2);
    server.delete("delete/all-behind-a-tombstone").expect_status(200);
    server.request("DELETE", "/objects/delete/all-behind-a-tombstone?versions", &[], b"").expect_status(200);
    assert_error(&server.get_at("delete/all-behind-a-tombstone", 1), 404, "BlobNotFound");
}

#[test]
fn a_delete_under_a_failed_condition_deletes_nothing() {
    let server = Server::shared();
    let path = "delete/conditions";
    write(server, path, 2);
    let old = server.get_at(path, 1).header("etag").unwrap().to_owned();
    let new = server.get(path).header("etag").unwrap().to_owned();
    let weak = format!("W/{new}");
    let delete = |headers: &[(&str, &str)]| server.request("DELETE", &object(path), headers, b"");
    let failing =
        [("If-Match", old.as_str()), ("If-Match", &weak), ("If-None-Match", "*"), ("If-None-Match", &new)];
    for condition in failing {
        let answer = delete(&[condition]);
        assert_eq!(
            (answer.status, error_code(&answer).as_str()),
            (412, "PreconditionFailed"),
            "{condition:?}"
        );
        assert_eq!(server.get(path).expect_status(200).body, b"v2", "{condition:?}");
    }
    let by_number = |version: u64, tag: &str| {
        server.request("DELETE", &format!("{}?version={version}", object(path)), &[("If-Match", tag)], b"")
    };
    assert_error(&by_number(1, &new), 412, "PreconditionFailed");
    by_number(1, &old).expect_status(200);
    assert_eq!(delete(&[("If-Match", &new)]).expect_status(200).json_u64("version"), 2);
    assert_gone(server, path);
}

#[test]
fn exactly_one_of_many_deletes_of_a_version_wins() {
    let server = Server::shared();
    for round in 0..5 {
        let path = format!("delete/race/{round}");
        write(server, &path, 2);
        let deleted: usize = std::thread::scope(|scope| {
            let delete = || {
                let answer = server.delete_at(&path, 2);
                if answer.status != 200 {
                    assert_error(&answer, 404, "BlobNotFound");
                }
                usize::from(answer.status == 200)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(delete)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(deleted, 1);
        assert_eq!(server.get_at(&path, 1).expect_status(200).body, b"v1");
    }
}

#[test]
fn versions_are_told_newest_first_with_their_tombstones() {
    let server = Server::shared();
    let path = "versions/told";
    let ids: Vec<String> = (1..=5)
        .map(|size| server.put(path, &bytes(40, size)).expect_status(201).json_str("blob_id"))
        .collect();
    server.delete_at(path, 2).expect_status(200);
    server.delete(path).expect_status(200);
    let all = pages(server, path, "versions", "versions");
    assert_eq!(all.len(), 1);
    let rows = &all[0];
    assert_eq!(rows.iter().map(|row| row["version"].as_u64().unwrap()).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    for row in rows {
        let version = row["version"].as_u64().unwrap();
        assert_eq!(row["blob_id"], ids[version as usize - 1].as_str());
        assert_eq!(row["size"], version);
        assert!(row["created_at"].as_str().is_some_and(|created| !created.is_empty()), "{row}");
        let marked = row["tombstoned_at"].as_str().is_some_and(|when| !when.is_empty());
        assert_eq!(marked, [2, 5].contains(&version), "{row}");
    }
    let paged = pages(server, path, "versions&limit=2", "versions");
    assert!(paged.iter().all(|page| page.len() <= 2), "{paged:?}");
    assert!(paged.len() >= 3);
    assert_eq!(&paged.concat(), rows);
    let single = pages(server, path, "limit=1&versions", "versions");
    assert_eq!(&single.concat(), rows);
}

#[test]
fn a_path_and_its_neighbours_keep_their_versions_apart() {
    let server = Server::shared();
    write(server, "versions/near", 1);
    write(server, "versions/near/below", 2);
    write(server, "versions/nearer", 3);
    assert_eq!(versions(server, "versions/near"), [1]);
    assert_eq!(versions(server, "versions/near/below"), [2, 1]);
    server.delete("versions/near").expect_status(200);
    assert_eq!(server.get("versions/near/below").expect_status(200).body, b"v2");
    assert_eq!(server.get("versions/nearer").expect_status(200).body, b"v3");
}

#[test]
fn wrong_pages_are_refused() {
    let server = Server::shared();
    let path = "versions/wrong";
    write(server, path, 2);
    for view in ["versions", "chunks"] {
        for query in [
            "limit=abc",
            "limit=-1",
            "limit=1&limit=1",
            "limit=9007199254740992",
            "cursor=%00rubbish%ff",
            "cursor=a&cursor=a",
        ] {
            let answer = server.get_query(path, &format!("{view}&{query}"));
            assert_eq!((answer.status, error_code(&answer).as_str()), (400, "BadRequest"), "{view}&{query}");
        }
    }
    assert_eq!(server.get(path).expect_status(200).body, b"v2");
}

#[test]
fn chunks_are_told_in_order_and_in_pages() {
    let server = Server::shared();
    let path = "versions/chunks";
    let data = bytes(41, 2 * CHUNK + 77);
    server.put(path, b"small").expect_status(201);
    server.put(path, &data).expect_status(201);
    let expected: Vec<serde_json::Value> = data
        .chunks(CHUNK)
        .map(|chunk| serde_json::json!({"id": sha256_hex(chunk), "len": chunk.len(), "location": "local"}))
        .collect();
    for query in ["chunks", "chunks&limit=1", "chunks&limit=2", "chunks&version=2&limit=1"] {
        assert_eq!(pages(server, path, query, "chunks").concat(), expected, "{query}");
    }
    assert!(pages(server, path, "chunks&limit=1", "chunks").iter().all(|page| page.len() <= 1));
    let small = pages(server, path, "chunks&version=1", "chunks").concat();
    assert_eq!(small, [serde_json::json!({"id": sha256_hex(b"small"), "len": 5, "location": "local"})]);
    assert_error(&server.get_query("versions/no-such", "chunks"), 404, "BlobNotFound");
    assert_error(&server.get_query(path, "chunks&version=3"), 404, "BlobNotFound");
    server.delete(path).expect_status(200);
    assert_error(&server.get_query(path, "chunks"), 404, "BlobNotFound");
}
