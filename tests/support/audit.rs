//! What lies on a disk, held against its databases and against the layout that users rely on.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use super::support::{SLOTS, SMALL_CHUNK, hex, sha256_hex};

/// A row of `blobs`, as far as the files beside it depend on it.
#[derive(Debug, Clone)]
pub struct Row {
    pub path: String,
    pub version: u64,
    pub blob_id: String,
    /// Names and lengths.
    pub chunks: Vec<(String, u64)>,
    pub tombstoned: bool,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Names and lengths.
    Names,
    /// And every byte.
    Bytes,
}

/// Everything under `<disk>/slots` that should not be there, or that lacks something it needs; empty for a disk in order.
pub fn audit(disk: &Path, depth: Depth) -> Vec<String> {
    let mut found = Vec::new();
    for slot in children(&disk.join("slots")) {
        let number = name_of(&slot).parse::<u64>().ok().filter(|number| *number < SLOTS);
        if number.is_none_or(|number| number.to_string() != name_of(&slot)) || !slot.is_dir() {
            found.push(format!("not a slot: {}", slot.display()));
            continue;
        }
        if let Err(error) = audit_slot(&slot, depth, &mut found) {
            found.push(format!("{}: {error}", slot.display()));
        }
    }
    found
}

fn audit_slot(slot: &Path, depth: Depth, found: &mut Vec<String>) -> rusqlite::Result<()> {
    // A kill in the birth of a slot leaves an empty directory, which the next birth takes.
    if children(slot).is_empty() {
        return Ok(());
    }
    for entry in children(slot) {
        let known = ["meta.sqlite3", "meta.sqlite3-wal", "meta.sqlite3-shm", "blobs"]
            .contains(&name_of(&entry).as_str());
        if !known {
            found.push(format!("left over: {}", entry.display()));
        }
    }
    // First what is on disk, then the rows: a blob that is written meanwhile is not taken for an orphan.
    let on_disk: Vec<(PathBuf, Vec<PathBuf>)> = children(&slot.join("blobs"))
        .into_iter()
        .map(|blob| (blob.clone(), files_of(&blob, found)))
        .collect();
    let rows = rows(slot)?;
    let by_id: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.blob_id.as_str(), row)).collect();
    for (blob, chunks) in &on_disk {
        let Some(row) = by_id.get(name_of(blob).as_str()) else {
            found.push(format!("an orphan: {}", blob.display()));
            continue;
        };
        for chunk in chunks {
            audit_file(chunk, row, depth, found);
        }
    }
    audit_rows(slot, &rows, found)
}

/// The chunk files of a blob's directory; all else in it is a finding.
fn files_of(blob: &Path, found: &mut Vec<String>) -> Vec<PathBuf> {
    for entry in children(blob) {
        if name_of(&entry) != "chunks" || !entry.is_dir() {
            found.push(format!("left over: {}", entry.display()));
        }
    }
    let (chunks, others): (Vec<PathBuf>, Vec<PathBuf>) = children(&blob.join("chunks"))
        .into_iter()
        .partition(|file| is_chunk_name(&name_of(file)) && file.is_file());
    found.extend(others.iter().map(|other| format!("left over: {}", other.display())));
    chunks
}

fn audit_file(chunk: &Path, row: &Row, depth: Depth, found: &mut Vec<String>) {
    let name = name_of(chunk);
    let Some((_, len)) = row.chunks.iter().find(|(id, _)| *id == name) else {
        return found.push(format!(
            "a chunk that {} version {} does not have: {}",
            row.path,
            row.version,
            chunk.display()
        ));
    };
    // A file that is removed meanwhile is none any more.
    if let Ok(meta) = chunk.metadata()
        && meta.len() != *len
    {
        found.push(format!("{} has {} bytes instead of {len}", chunk.display(), meta.len()));
    }
    if depth == Depth::Bytes && sha256_of(chunk) != name {
        found.push(format!("{} does not hold the bytes of its name", chunk.display()));
    }
}

/// Each chunk of a version that can be read is a file, or is in the database.
fn audit_rows(slot: &Path, rows: &[Row], found: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut inside = None;
    for row in rows.iter().filter(|row| !row.tombstoned) {
        for (chunk, len) in &row.chunks {
            if slot.join("blobs").join(&row.blob_id).join("chunks").join(chunk).is_file() {
                continue;
            }
            if inside.is_none() {
                inside = Some(chunks_inside(slot)?);
            }
            if *len > SMALL_CHUNK as u64 || !inside.as_ref().is_some_and(|inside| inside.contains(chunk)) {
                found.push(format!(
                    "{} version {} lacks its chunk {chunk} of {len} bytes",
                    row.path, row.version
                ));
            }
        }
    }
    Ok(())
}

/// The rows of a slot's `blobs`.
pub fn rows(slot: &Path) -> rusqlite::Result<Vec<Row>> {
    let db = open(slot)?;
    let mut statement =
        db.prepare("SELECT path, version, blob_id, chunks, tombstoned_at IS NOT NULL FROM blobs")?;
    let rows = statement.query_map([], |row| {
        let chunks: String = row.get(3)?;
        let chunks: Vec<serde_json::Value> = serde_json::from_str(&chunks).expect("a JSON list of chunks");
        let chunk = |chunk: &serde_json::Value| {
            (chunk["id"].as_str().expect("an id").to_owned(), chunk["len"].as_u64().expect("a length"))
        };
        let chunks = chunks.iter().map(chunk).collect();
        let version = u64::try_from(row.get::<_, i64>(1)?).expect("a version");
        Ok(Row { path: row.get(0)?, version, blob_id: row.get(2)?, chunks, tombstoned: row.get(4)? })
    })?;
    rows.collect()
}

/// The SHA-256 of every BLOB in a slot's database, in whatever table it is.
pub fn chunks_inside(slot: &Path) -> rusqlite::Result<BTreeSet<String>> {
    let db = open(slot)?;
    let mut names =
        db.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut found = BTreeSet::new();
    for name in names {
        let mut all = db.prepare(&format!("SELECT * FROM \"{name}\""))?;
        let columns = all.column_count();
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                if let ValueRef::Blob(bytes) = row.get_ref(column)? {
                    found.insert(sha256_hex(bytes));
                }
            }
        }
    }
    Ok(found)
}

fn open(slot: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(slot.join("meta.sqlite3"), flags)?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(db)
}

fn is_chunk_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn sha256_of(file: &Path) -> String {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut file = File::open(file).expect("open a chunk file");
    loop {
        match file.read(&mut buffer).expect("read a chunk file") {
            0 => return hex(&hasher.finalize()[..]),
            got => hasher.update(&buffer[..got]),
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The entries of a directory in order; none if it is not there.
pub fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
