//! The disks of all nodes, held against what was acknowledged.
//!
//! A version names one blob on every disk; whatever was acknowledged is in the databases of a write quorum of replicas, its chunks
//! too unless it is deleted, and so are acknowledged tombstones; and nothing stays in doubt. Rows that are still in a journal are
//! not seen: stop the nodes in good order before [`check`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::audit::chunks_inside;
use super::history::{Ask, Op, Told};
use super::support::{poll, sha256_hex, slot_of};

/// One replica's row of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub node: usize,
    pub blob_id: String,
    pub size: u64,
    pub tombstoned: bool,
    /// Whether the replica says that it has the chunks.
    pub hollow: bool,
    /// What is missing or wrong of its chunks.
    pub lacks: Option<String>,
}

/// What was acknowledged of a version.
#[derive(Debug, Default)]
struct Owed {
    blob_id: Option<String>,
    deleted: bool,
    /// Somebody tried to delete it: its chunks may be gone.
    may_be_deleted: bool,
}

type Copies = BTreeMap<(String, u64), Vec<Copy>>;

/// All copies of all versions of these paths, their chunks looked at or not.
pub fn copies(disks: &[Vec<PathBuf>], paths: &BTreeSet<String>, chunks: bool) -> Result<Copies, String> {
    let mut found = Copies::new();
    for (node, disk, slot) in slots(disks, paths) {
        let dir = disk.join("slots").join(slot.to_string());
        let failed = |error: rusqlite::Error| format!("node {}, {}: {error}", node + 1, dir.display());
        for (path, version, copy) in rows(node, &dir, chunks).map_err(failed)? {
            if paths.contains(&path) {
                found.entry((path, version)).or_default().push(copy);
            }
        }
    }
    Ok(found)
}

/// The slots of these paths that are on a disk.
fn slots(disks: &[Vec<PathBuf>], paths: &BTreeSet<String>) -> Vec<(usize, PathBuf, u64)> {
    let numbers: BTreeSet<u64> = paths.iter().map(|path| slot_of(path)).collect();
    let mut found = Vec::new();
    for (node, disks) in disks.iter().enumerate() {
        for disk in disks {
            let there = |slot: &u64| disk.join(format!("slots/{slot}/meta.sqlite3")).is_file();
            found.extend(numbers.iter().copied().filter(there).map(|slot| (node, disk.clone(), slot)));
        }
    }
    found
}

fn open(dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(dir.join("meta.sqlite3"), flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    Ok(db)
}

fn has(db: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let mut asked = db.prepare("SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2")?;
    asked.query_row([table, column], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

fn rows(node: usize, dir: &Path, look: bool) -> rusqlite::Result<Vec<(String, u64, Copy)>> {
    let db = open(dir)?;
    let hollow = if has(&db, "blobs", "hollow")? { "hollow" } else { "0" };
    let mut all = db.prepare(&format!(
        "SELECT path, version, blob_id, size, tombstoned_at IS NOT NULL, {hollow}, chunks FROM blobs"
    ))?;
    let mut inside = None;
    let mut rows = all.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (path, version): (String, i64) = (row.get(0)?, row.get(1)?);
        let (blob_id, size): (String, i64) = (row.get(2)?, row.get(3)?);
        let (tombstoned, hollow): (bool, bool) = (row.get(4)?, row.get(5)?);
        let mut lacks = None;
        if look && !tombstoned && !hollow {
            if inside.is_none() {
                inside = Some(chunks_inside(dir)?);
            }
            let chunks = row.get::<_, String>(6)?;
            lacks =
                missing(&dir.join("blobs").join(&blob_id), &chunks, size as u64, inside.as_ref().unwrap());
        }
        let copy = Copy { node, blob_id, size: size as u64, tombstoned, hollow, lacks };
        found.push((path, version as u64, copy));
    }
    Ok(found)
}

/// What is wrong with the chunks of a blob, each of which is a file or in the database.
fn missing(blob: &Path, chunks: &str, size: u64, inside: &BTreeSet<String>) -> Option<String> {
    let chunks: Vec<serde_json::Value> = match serde_json::from_str(chunks) {
        Ok(chunks) => chunks,
        Err(error) => return Some(format!("chunks {chunks}: {error}")),
    };
    let sum: u64 = chunks.iter().map(|chunk| chunk["len"].as_u64().unwrap_or(0)).sum();
    if sum != size {
        return Some(format!("chunks of {sum} bytes instead of {size}"));
    }
    chunks.iter().find_map(|chunk| {
        let id = chunk["id"].as_str().unwrap_or_default();
        match std::fs::read(blob.join("chunks").join(id)) {
            Ok(bytes) if sha256_hex(&bytes) == id => None,
            Ok(bytes) => Some(format!("chunk {id} holds {} other bytes", bytes.len())),
            Err(_) if inside.contains(id) => None,
            Err(error) => Some(format!("chunk {id}: {error}")),
        }
    })
}

/// Rows in doubt, by node.
pub fn prepared(disks: &[Vec<PathBuf>], paths: &BTreeSet<String>) -> Vec<String> {
    let look = |node: usize, dir: &Path| -> rusqlite::Result<Vec<String>> {
        let db = open(dir)?;
        if !has(&db, "prepared", "blob_id")? {
            return Ok(Vec::new());
        }
        let mut all = db.prepare("SELECT path, version, blob_id FROM prepared")?;
        let shown = all.query_map([], |row| {
            let (path, version): (String, i64) = (row.get(0)?, row.get(1)?);
            Ok(format!("node {}: {path} version {version} {}", node + 1, row.get::<_, String>(2)?))
        })?;
        shown.collect()
    };
    let mut found = Vec::new();
    for (node, disk, slot) in slots(disks, paths) {
        match look(node, &disk.join("slots").join(slot.to_string())) {
            Ok(rows) => found.extend(rows),
            Err(error) => found.push(format!("node {}, slot {slot}: {error}", node + 1)),
        }
    }
    found
}

/// Waits until nothing is in doubt, while the nodes run; panics otherwise, and says whether it is stuck or only slow.
#[track_caller]
pub fn wait_settled(disks: &[Vec<PathBuf>], paths: &BTreeSet<String>, within: Duration) {
    let wait = |within| {
        let mut left = Vec::new();
        let settled = poll(within, || {
            left = prepared(disks, paths);
            left.is_empty().then_some(())
        });
        if settled.is_some() { Ok(()) } else { Err(left) }
    };
    let Err(left) = wait(within) else { return };
    let later = wait(3 * within).err().unwrap_or_default();
    panic!(
        "{} rows in doubt after {within:?}, {} after four times as long; first:\n  {}\nthen:\n  {}",
        left.len(),
        later.len(),
        left.join("\n  "),
        later.join("\n  ")
    );
}

/// Waits until every version of these paths is on so many replicas, with chunks unless it is deleted; else says which is not.
pub fn wait_whole(
    disks: &[Vec<PathBuf>],
    paths: &BTreeSet<String>,
    count: usize,
    within: Duration,
) -> Result<(), String> {
    let mut thin = String::new();
    let whole = poll(within, || {
        let copies = copies(disks, paths, false).map_err(|error| thin = error).ok()?;
        let lacking = copies.iter().find(|(_, copies)| {
            let full = copies
                .iter()
                .filter(|copy| copy.tombstoned == copies[0].tombstoned && (copy.tombstoned || !copy.hollow));
            full.count() < count
        });
        match lacking {
            None => Some(()),
            Some(((path, version), copies)) => {
                thin = format!("{path} version {version}: {copies:?}");
                None
            }
        }
    });
    whole.ok_or(thin)
}

/// What is owed of each version, by a history of any paths.
fn owed(history: &[Op]) -> BTreeMap<(String, u64), Owed> {
    let mut owed: BTreeMap<(String, u64), Owed> = BTreeMap::new();
    for op in history {
        match (&op.ask, &op.told) {
            (_, Told::Deleted { version }) => {
                owed.entry((op.path.clone(), *version)).or_default().deleted = true;
            }
            (Ask::Put { .. }, Told::Stored { version, blob_id, .. }) => {
                owed.entry((op.path.clone(), *version)).or_default().blob_id = Some(blob_id.clone());
            }
            _ => {}
        }
    }
    for op in history.iter().filter(|op| matches!(op.ask, Ask::Delete { .. })) {
        if op.told == Told::Unknown || matches!(op.told, Told::Deleted { .. }) {
            let of_path = owed.iter_mut().filter(|((path, _), _)| *path == op.path);
            of_path.for_each(|(_, owed)| owed.may_be_deleted = true);
        }
    }
    owed
}

/// Everything that the disks owe to a history and do not have. All nodes are stopped.
pub fn check(disks: &[Vec<PathBuf>], history: &[Op], write_quorum: usize) -> Vec<String> {
    let paths: BTreeSet<String> = history.iter().map(|op| op.path.clone()).collect();
    let mut wrong: Vec<String> =
        prepared(disks, &paths).into_iter().map(|row| format!("in doubt: {row}")).collect();
    let copies = match copies(disks, &paths, true) {
        Ok(copies) => copies,
        Err(error) => return vec![error],
    };
    for ((path, version), copies) in &copies {
        if copies.iter().any(|copy| (&copy.blob_id, copy.size) != (&copies[0].blob_id, copies[0].size)) {
            wrong.push(format!("{path} version {version} is several blobs: {copies:?}"));
        }
        for copy in copies {
            if let Some(lacks) = &copy.lacks {
                wrong.push(format!("node {}: {path} version {version}: {lacks}", copy.node + 1));
            }
        }
    }
    for ((path, version), owed) in owed(history) {
        let none = Vec::new();
        let copies = copies.get(&(path.clone(), version)).unwrap_or(&none);
        let mut demand = |what: &str, fits: &dyn Fn(&Copy) -> bool| {
            let nodes: BTreeSet<usize> =
                copies.iter().filter(|copy| fits(copy)).map(|copy| copy.node).collect();
            if nodes.len() < write_quorum {
                wrong.push(format!("{path} version {version}: {what} on {nodes:?} only: {copies:?}"));
            }
        };
        if let Some(blob_id) = &owed.blob_id {
            demand("the row is", &|copy| copy.blob_id == *blob_id);
        }
        if owed.deleted {
            demand("the tombstone is", &|copy| copy.tombstoned);
        } else if owed.blob_id.is_some() {
            let deleted = owed.may_be_deleted && copies.iter().any(|copy| copy.tombstoned);
            demand("the chunks are", &|copy| deleted || (!copy.hollow && copy.lacks.is_none()));
        }
    }
    wrong
}
