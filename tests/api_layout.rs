//! What lies on disk, for whoever looks there with `sqlite3` and `sha256sum`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use support::{CHUNK, SMALL_CHUNK, Server, assert_error, bytes, chunk_files, sha256_hex, slot_dir, slot_of};

fn open(slot: &Path) -> Connection {
    let file = slot.join("meta.sqlite3");
    Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The columns of `table` as (name, (type, not null, primary key)).
fn columns(connection: &Connection, table: &str) -> BTreeMap<String, (String, bool, bool)> {
    let mut statement = connection.prepare(&format!("PRAGMA table_info({table})")).unwrap();
    let rows = statement.query_map([], |row| {
        let not_null: i64 = row.get("notnull")?;
        let key: i64 = row.get("pk")?;
        Ok((row.get("name")?, (row.get("type")?, not_null != 0, key != 0)))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// The column lists of the UNIQUE constraints and indexes of `table`.
fn unique_columns(connection: &Connection, table: &str) -> Vec<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA index_list({table})")).unwrap();
    let names: Vec<String> = statement
        .query_map([], |row| Ok((row.get::<_, String>("name")?, row.get::<_, i64>("unique")?)))
        .unwrap()
        .map(Result::unwrap)
        .filter_map(|(name, unique)| (unique != 0).then_some(name))
        .collect();
    let columns = |name: &String| {
        let mut statement = connection.prepare(&format!("PRAGMA index_info('{name}')")).unwrap();
        statement.query_map([], |row| row.get("name")).unwrap().map(Result::unwrap).collect()
    };
    names.iter().map(columns).collect()
}

/// A row of `blobs`.
#[derive(Debug)]
struct Row {
    version: i64,
    blob_id: String,
    size: i64,
    chunks: String,
    created_at: String,
    tombstoned_at: Option<String>,
}

fn rows(slot: &Path, path: &str) -> Vec<Row> {
    let connection = open(slot);
    let sql = "SELECT version, blob_id, size, chunks, created_at, tombstoned_at FROM blobs WHERE path = ?1 ORDER BY version";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([path], |row| {
        Ok(Row {
            version: row.get(0)?,
            blob_id: row.get(1)?,
            size: row.get(2)?,
            chunks: row.get(3)?,
            created_at: row.get(4)?,
            tombstoned_at: row.get(5)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_tables_have_the_columns_that_were_promised() {
    let server = Server::start();
    server.put("schema", b"x").expect_status(201);
    let connection = open(&slot_dir(server.data(), "schema"));
    let integer = |not_null| ("INTEGER".to_owned(), not_null, false);
    let text = |not_null| ("TEXT".to_owned(), not_null, false);
    let promised = [
        (
            "blobs",
            vec![
                ("path", text(true)),
                ("version", integer(true)),
                ("blob_id", text(true)),
                ("size", integer(true)),
                ("chunks", text(true)),
                ("created_at", text(true)),
                ("tombstoned_at", text(false)),
            ],
            ["path", "version"],
        ),
        (
            "blob_chunk_archives",
            vec![
                ("blob_id", text(true)),
                ("chunk_id", text(true)),
                ("length", integer(true)),
                ("archived_at", text(true)),
                ("target_path", text(true)),
                ("target_version", integer(false)),
                ("target_range_start", integer(true)),
                ("target_range_end", integer(true)),
            ],
            ["blob_id", "chunk_id"],
        ),
    ];
    for (table, wanted, unique) in promised {
        let found = columns(&connection, table);
        for (name, column) in wanted {
            assert_eq!(found.get(name), Some(&column), "{table}.{name}");
        }
        let key = found.get("pk").unwrap_or_else(|| panic!("{table} has no pk"));
        assert_eq!((key.0.as_str(), key.2), ("INTEGER", true), "{table}.pk");
        assert!(
            unique_columns(&connection, table).contains(&unique.map(str::to_owned).into()),
            "UNIQUE of {table}"
        );
        let sql: String = connection
            .query_row("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table], |row| {
                row.get(0)
            })
            .unwrap();
        assert!(sql.to_uppercase().contains("AUTOINCREMENT"), "{sql}");
    }
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn a_row_says_what_the_answer_said() {
    let server = Server::start();
    let path = "rows/ä b";
    let data = bytes(80, CHUNK + 5);
    let first = server.put(path, &data).expect_status(201);
    let second = server.put_at(path, 9, b"small").expect_status(201);
    server.delete(path).expect_status(200);
    let rows = rows(&slot_dir(server.data(), path), path);
    assert_eq!(rows.len(), 2);
    let chunks = |data: &[u8]| -> serde_json::Value {
        data.chunks(CHUNK)
            .map(|chunk| serde_json::json!({"id": sha256_hex(chunk), "len": chunk.len()}))
            .collect()
    };
    for (row, put, data, tombstoned) in
        [(&rows[0], &first, &data[..], false), (&rows[1], &second, b"small", true)]
    {
        assert_eq!(row.version, put.json_u64("version") as i64);
        assert_eq!(row.blob_id, put.json_str("blob_id"));
        assert!(ulid::Ulid::from_string(&row.blob_id).is_ok(), "{row:?}");
        assert_eq!(row.size, data.len() as i64);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&row.chunks).unwrap(), chunks(data));
        assert!(!row.created_at.is_empty());
        assert_eq!(row.tombstoned_at.is_some(), tombstoned, "{row:?}");
    }
    assert!(rows[0].blob_id < rows[1].blob_id, "ULIDs sort by time");
}

#[test]
fn every_chunk_file_is_named_by_its_bytes_and_lies_in_its_slot() {
    let server = Server::builder().disks(2).start();
    let mut sizes = vec![1, 4096, SMALL_CHUNK, SMALL_CHUNK + 1, 200_000, 1_000_001, CHUNK + 70_000];
    sizes.extend((0..12).map(|step| SMALL_CHUNK + 1 + step * 1013));
    let mut expected = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let path = format!("files/{number}/größe");
        let data = bytes(number as u64, size);
        let blob_id = server.put(&path, &data).expect_status(201).json_str("blob_id");
        let disk = server.disks().iter().find(|disk| slot_dir(disk, &path).join("meta.sqlite3").exists());
        let slot = slot_dir(disk.unwrap_or_else(|| panic!("no slot {} for {path}", slot_of(&path))), &path);
        assert_eq!(rows(&slot, &path).len(), 1, "{path} is in slot {}", slot.display());
        let chunks = slot.join("blobs").join(&blob_id).join("chunks");
        for chunk in data.chunks(CHUNK).filter(|chunk| chunk.len() > SMALL_CHUNK) {
            let file = chunks.join(sha256_hex(chunk));
            let found = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(found == chunk, "{} holds something else than the chunk", file.display());
            expected.push(file);
        }
    }
    let mut found: Vec<(String, PathBuf)> =
        server.disks().iter().flat_map(|disk| chunk_files(disk)).collect();
    for (name, file) in &found {
        assert_eq!(name, &sha256_hex(&std::fs::read(file).unwrap()), "{}", file.display());
    }
    found.retain(|(_, file)| file.metadata().unwrap().len() > SMALL_CHUNK as u64);
    let mut found: Vec<PathBuf> = found.into_iter().map(|(_, file)| file).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_path_lies_in_the_slot_of_its_hash_and_in_no_other() {
    let server = Server::start();
    let paths: Vec<String> = (0..60).map(|number| format!("slot/{number}/日本")).collect();
    for path in &paths {
        server.put(path, b"x").expect_status(201);
    }
    let mut found = Vec::new();
    for slot in std::fs::read_dir(server.data().join("slots")).unwrap().map(Result::unwrap) {
        let number: u64 = slot.file_name().to_string_lossy().parse().expect("a slot is named by its number");
        assert!(number < support::SLOTS);
        if !slot.path().join("meta.sqlite3").exists() {
            continue;
        }
        let connection = open(&slot.path());
        let mut statement = connection.prepare("SELECT path FROM blobs").unwrap();
        for path in statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap) {
            assert_eq!(slot_of(&path), number, "{path}");
            found.push(path);
        }
    }
    found.sort();
    let mut paths = paths;
    paths.sort();
    assert_eq!(found, paths);
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let mut server = Server::builder().disks(2).start();
    let data: Vec<Vec<u8>> =
        [0, 1, 5000, SMALL_CHUNK + 1, 3 << 20].iter().map(|&len| bytes(len as u64, len)).collect();
    let put = |server: &Server, number: usize| {
        server.put(&format!("kept/{number}"), &data[number]).expect_status(201)
    };
    let tags: Vec<String> =
        (0..data.len()).map(|number| put(&server, number).header("etag").unwrap().to_owned()).collect();
    server.put("kept/gone", b"x").expect_status(201);
    server.delete("kept/gone").expect_status(200);
    server.kill9();
    server.start_again();
    for (number, data) in data.iter().enumerate() {
        let got = server.get(&format!("kept/{number}")).expect_status(200);
        assert!(got.body == *data, "kept/{number}");
        assert_eq!(got.header("etag"), Some(tags[number].as_str()));
        assert_eq!(put(&server, number).json_u64("version"), 2);
    }
    assert_error(&server.get("kept/gone"), 404, "BlobNotFound");
    assert_eq!(server.put("kept/gone", b"y").expect_status(201).json_u64("version"), 2);
}
