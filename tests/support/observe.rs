//! What can be seen of a server's state from outside: over HTTP, and on its disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::http::{assert_error, encode_path};
use super::server::Server;
use super::slot_of;

/// The numbers of all versions of `path`, tombstoned ones too, newest first; none if the path was never written.
#[track_caller]
pub fn versions(server: &Server, path: &str) -> Vec<u64> {
    let answer = server.get_query(path, "versions");
    if answer.status == 404 {
        return Vec::new();
    }
    let json = answer.expect_status(200).json();
    let rows = json["versions"].as_array().unwrap_or_else(|| panic!("no list of versions in {json}"));
    rows.iter().map(|row| row["version"].as_u64().unwrap_or_else(|| panic!("no version in {row}"))).collect()
}

/// Panics if anything can be seen of `path`, which no write was ever acknowledged for.
#[track_caller]
pub fn assert_never_written(server: &Server, path: &str) {
    assert_error(&server.get(path), 404, "BlobNotFound");
    assert_eq!(versions(server, path), [0_u64; 0], "{path} has versions");
    let listing = server.list(&format!("include_tombstoned=true&prefix={}", encode_path(path)));
    let listing = listing.expect_status(200).json();
    let listed = listing["objects"].as_array().expect("a list of objects");
    assert!(listed.iter().all(|row| row["path"] != path), "{path} is listed");
}

/// Every file under `dir` that is not SQLite's, with its length.
pub fn plain_files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries.map_while(Result::ok) {
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(plain_files(&path)),
            Ok(meta) if !path.to_string_lossy().contains(".sqlite3") => {
                found.insert(path, meta.len());
            }
            _ => {}
        }
    }
    found
}

/// The chunk files under `dir` as (name, path).
pub fn chunk_files(dir: &Path) -> Vec<(String, PathBuf)> {
    let in_chunks = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("chunks"));
    let named = |path: PathBuf| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path);
    plain_files(dir).into_keys().filter(in_chunks).map(named).collect()
}

/// Where `disk` keeps the slot of `path`.
pub fn slot_dir(disk: &Path, path: &str) -> PathBuf {
    disk.join("slots").join(slot_of(path).to_string())
}
