//! The listing index of a disk: one row per path with its newest version, in byte order of path.
//!
//! It is derived from the slots' databases and holds, for each slot, the number of the last transaction it has seen,
//! in the same transaction as that change. So it needs no sync of its own: after a power cut it is older, never
//! wrong, and catches up from the slots. A damaged index is thrown away and made again.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Result, ToSql};

use super::page::{Listed, Page, Seek};
use super::schema::{is_damaged, plan_once};
use super::types::Entry;
use crate::base::slot::Slot;

const FILES: [&str; 3] = ["index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"];
/// "AmBi": this is a listing index of AmberBlob.
const APPLICATION_ID: i32 = 0x416d_4269;
const VERSION: i32 = 1;
const CACHE_KIB: i32 = 16 << 10;

const TABLES: &str = "
CREATE TABLE newest (
    path TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    blob_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    tombstoned_at TEXT
) WITHOUT ROWID;
CREATE TABLE applied (
    slot INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL
);
";

/// What a listing asks for.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Only paths that begin so.
    pub prefix: String,
    /// Paths that have this after the prefix are rolled up into one common prefix.
    pub delimiter: Option<String>,
    /// Where to begin.
    pub from: Seek,
    /// Entries at most, paths and common prefixes together.
    pub limit: usize,
    /// Whether paths whose newest version is a tombstone are named.
    pub include_tombstoned: bool,
    /// Whether other nodes know of these paths too: then tombstones are named in any case, since one of them may hide what another
    /// node takes for the newest version. What was rolled up into a common prefix cannot be compared: only live paths make one.
    pub merged: bool,
    /// Bytes of lines after which the page ends.
    pub bytes: usize,
}

impl ToSql for Seek {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

/// Opens the index of the disk at `root`, and makes it where it is missing or damaged.
pub(super) fn open(root: &Path) -> Result<Connection> {
    match try_open(root) {
        Err(error) if is_damaged(&error) => {
            tracing::warn!(disk = %root.display(), %error, "the listing index is damaged and is made again");
            discard(root);
            try_open(root)
        }
        result => result,
    }
}

/// Removes the index; the next opening makes it again.
pub(super) fn discard(root: &Path) {
    for file in FILES {
        if let Err(error) = std::fs::remove_file(root.join(file))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(file = %root.join(file).display(), %error, "cannot remove the damaged listing index");
        }
    }
}

fn try_open(root: &Path) -> Result<Connection> {
    let db = Connection::open(root.join(FILES[0]))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "journal_size_limit", 16 << 20)?;
    plan_once(&db)?;
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    match (application, version) {
        (APPLICATION_ID, VERSION) => {}
        (0, 0) => db.execute_batch(&format!(
            "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        ))?,
        _ => return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB), None)),
    }
    Ok(db)
}

/// The last transaction seen of each slot.
pub(super) fn applied(db: &Connection) -> Result<HashMap<u16, u64>> {
    db.prepare("SELECT slot, seq FROM applied")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Takes over the newest versions of changed paths; what it has seen already it passes over.
pub(super) fn apply(db: &Connection, slot: Slot, seq: u64, entries: &[Entry]) -> Result<()> {
    let seen = db
        .prepare_cached("SELECT 1 FROM applied WHERE slot = ?1 AND seq >= ?2")?
        .exists((slot.index(), seq))?;
    if seen {
        return Ok(());
    }
    let mut upsert = db.prepare_cached("INSERT OR REPLACE INTO newest VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for entry in entries {
        let Entry { path, version, blob_id, size, created_at, tombstoned_at } = entry;
        upsert.execute((path, version, blob_id, size, created_at, tombstoned_at))?;
    }
    db.prepare_cached("INSERT OR REPLACE INTO applied VALUES (?1, ?2)")?.execute((slot.index(), seq))?;
    Ok(())
}

/// Forgets all paths of a slot.
pub(super) fn reset(db: &Connection, slot: Slot) -> Result<()> {
    let mut select = db.prepare("SELECT path FROM newest")?;
    let mut delete = db.prepare("DELETE FROM newest WHERE path = ?1")?;
    let paths: Vec<String> = select
        .query_map([], |row| row.get::<_, String>(0))?
        .filter(|path| path.as_ref().map_or(true, |path| Slot::of(path) == slot))
        .collect::<Result<_>>()?;
    paths.iter().try_for_each(|path| delete.execute([path]).map(drop))?;
    db.execute("DELETE FROM applied WHERE slot = ?1", [slot.index()]).map(drop)
}

/// A stretch of a listing, after at most `steps` rows looked at; then it may end early, with a place to go on.
pub(super) fn list(db: &Connection, listing: &Listing, steps: usize) -> Result<Page> {
    let end = Seek::after_prefix(&listing.prefix);
    let mut from = listing.from.clone().max(Seek(listing.prefix.clone().into_bytes()));
    let mut page = Page::default();
    let mut looked_at = 0;
    let mut select = db.prepare_cached(
        "SELECT path, version, blob_id, size, created_at, tombstoned_at FROM newest
         WHERE path >= ?1 AND path < ?2 ORDER BY path",
    )?;
    'seek: loop {
        let mut rows = select.query((&from, &end))?;
        while let Some(row) = rows.next()? {
            let path = row.get_ref(0)?.as_str()?;
            if page.len() > listing.limit || page.bytes() >= listing.bytes || looked_at == steps {
                page.next = Some(Seek(path.as_bytes().to_vec()));
                return Ok(page);
            }
            looked_at += 1;
            let tombstoned_at = row.get_ref(5)?.as_str_or_null()?;
            if !listing.include_tombstoned
                && tombstoned_at.is_some()
                && (!listing.merged || common_prefix(listing, path).is_some())
            {
                continue;
            }
            if let Some(prefix) = common_prefix(listing, path) {
                from = Seek::after_prefix(prefix);
                page.push_prefix(prefix);
                continue 'seek;
            }
            page.push_path(&Listed {
                path,
                version: row.get(1)?,
                blob_id: row.get_ref(2)?.as_str()?,
                size: row.get(3)?,
                created_at: row.get_ref(4)?.as_str()?,
                tombstoned_at,
            });
        }
        return Ok(page);
    }
}

fn common_prefix<'a>(listing: &Listing, path: &'a str) -> Option<&'a str> {
    let delimiter = listing.delimiter.as_deref()?;
    let at = path.get(listing.prefix.len()..)?.find(delimiter)?;
    path.get(..listing.prefix.len() + at + delimiter.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, tombstoned: bool) -> Entry {
        let tombstoned_at = tombstoned.then(|| "2026-01-01T00:00:00.000Z".to_owned());
        let created_at = "2026-01-01T00:00:00.000Z".to_owned();
        Entry {
            path: path.to_owned(),
            version: 1,
            blob_id: "x".to_owned(),
            size: 0,
            created_at,
            tombstoned_at,
        }
    }

    fn index(paths: &[&str]) -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path()).unwrap();
        let entries: Vec<Entry> =
            paths.iter().map(|path| entry(path.trim_end_matches('!'), path.ends_with('!'))).collect();
        apply(&db, Slot::of("a"), 7, &entries).unwrap();
        (dir, db)
    }

    fn listing(prefix: &str, delimiter: Option<&str>, limit: usize) -> Listing {
        Listing {
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            from: Seek::default(),
            limit,
            include_tombstoned: false,
            merged: false,
            bytes: usize::MAX,
        }
    }

    fn keys(page: &Page) -> Vec<&str> {
        (0..page.len()).map(|line| page.key(line)).collect()
    }

    #[test]
    fn common_prefixes_are_rolled_up_and_dead_ones_left_out() {
        let (_dir, db) = index(&["a", "a/b/1", "a/b/2", "a/c", "b/x!", "b0", "\u{10ffff}", "\u{10ffff}z"]);
        assert_eq!(
            keys(&list(&db, &listing("", Some("/"), 99), 99).unwrap()),
            ["a", "a/", "b0", "\u{10ffff}", "\u{10ffff}z"]
        );
        assert_eq!(keys(&list(&db, &listing("a/", Some("/"), 99), 99).unwrap()), ["a/b/", "a/c"]);
        assert_eq!(
            keys(&list(&db, &listing("\u{10ffff}", None, 99), 99).unwrap()),
            ["\u{10ffff}", "\u{10ffff}z"]
        );
        let mut dead = listing("b", None, 99);
        dead.include_tombstoned = true;
        assert_eq!(keys(&list(&db, &dead, 99).unwrap()), ["b/x", "b0"]);
    }

    #[test]
    fn other_nodes_are_told_of_tombstones_but_not_of_dead_prefixes() {
        let (_dir, db) = index(&["a/1!", "a/2!", "b/1!", "b/2", "c!", "d"]);
        let merged = Listing { merged: true, ..listing("", Some("/"), 99) };
        let page = list(&db, &merged, 99).unwrap();
        assert_eq!(keys(&page), ["b/", "c", "d"]);
        assert_eq!((0..3).map(|line| page.is_tombstone(line)).collect::<Vec<_>>(), [false, true, false]);
        let all = Listing { include_tombstoned: true, ..merged };
        assert_eq!(keys(&list(&db, &all, 99).unwrap()), ["a/", "b/", "c", "d"]);
    }

    #[test]
    fn a_page_of_long_paths_ends_early_and_goes_on() {
        let (_dir, db) = index(&["a", "b", "c"]);
        let mut listing = Listing { bytes: 1, ..listing("", None, 99) };
        let mut seen = Vec::new();
        loop {
            let page = list(&db, &listing, 99).unwrap();
            assert_eq!(page.len(), 1);
            seen.push(page.key(0).to_owned());
            let Some(next) = page.next else { break };
            listing.from = next;
        }
        assert_eq!(seen, ["a", "b", "c"]);
    }

    #[test]
    fn a_scan_that_ends_early_goes_on_where_it_stopped() {
        let (_dir, db) = index(&["a!", "b!", "c!", "d", "e!", "f"]);
        let mut listing = listing("", None, 99);
        let mut seen = Vec::new();
        for _ in 0..9 {
            let page = list(&db, &listing, 2).unwrap();
            seen.extend(keys(&page).into_iter().map(str::to_owned));
            match page.next {
                Some(next) => listing.from = next,
                None => break,
            }
        }
        assert_eq!(seen, ["d", "f"]);
    }

    #[test]
    fn a_line_is_the_json_of_its_row() {
        let odd = "a\"b\\c\u{7}\u{e4}";
        let (_dir, db) = index(&[odd, "z!"]);
        let page = list(&db, &Listing { include_tombstoned: true, ..listing("", None, 9) }, 9).unwrap();
        let line = |line| serde_json::from_slice::<serde_json::Value>(page.json(line)).unwrap();
        let time = "2026-01-01T00:00:00.000Z";
        let expected = serde_json::json!({ "path": odd, "version": 1, "blob_id": "x", "size": 0, "created_at": time, "tombstoned_at": null });
        assert_eq!(line(0), expected);
        assert_eq!(line(1)["tombstoned_at"], time);
        let order = String::from_utf8(page.json(1).to_vec()).unwrap();
        assert!(
            order.starts_with(r#"{"path":"z","version":1,"blob_id":"x","size":0,"created_at":"#),
            "{order}"
        );
    }

    #[test]
    fn a_damaged_index_is_made_again() {
        let (dir, db) = index(&["a"]);
        drop(db);
        std::fs::write(dir.path().join(FILES[0]), "rubbish, and a lot of it".repeat(1000)).unwrap();
        let db = open(dir.path()).unwrap();
        assert!(applied(&db).unwrap().is_empty());
    }

    #[test]
    fn a_reset_forgets_one_slot_only() {
        let (_dir, db) = index(&["a", "b", "c"]);
        reset(&db, Slot::of("b")).unwrap();
        assert_eq!(keys(&list(&db, &listing("", None, 9), 9).unwrap()), ["a", "c"]);
        assert_eq!(applied(&db).unwrap()[&(Slot::of("a").index() as u16)], 7);
    }

    #[test]
    fn a_change_that_comes_late_changes_nothing() {
        let (_dir, db) = index(&["a"]);
        apply(&db, Slot::of("a"), 6, &[entry("a", true)]).unwrap();
        assert_eq!(keys(&list(&db, &listing("", None, 9), 9).unwrap()), ["a"]);
        apply(&db, Slot::of("a"), 8, &[entry("a", true)]).unwrap();
        assert_eq!(keys(&list(&db, &listing("", None, 9), 9).unwrap()), [""; 0]);
    }
}
