//! The listing index of a disk: one row per path with its newest version, in byte order of path.
//!
//! It is derived from the slots' databases and holds, for each slot, the number of the last transaction it has seen,
//! in the same transaction as that change. So it needs no sync of its own: after a power cut it is older, never
//! wrong, and catches up from the slots. A damaged index is thrown away and made again.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Result, ToSql};

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
}

/// A place in the order of paths: everything at or above these bytes comes after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seek(pub Vec<u8>);

impl Seek {
    /// Right after a path.
    pub fn after_path(path: &str) -> Self {
        Self([path.as_bytes(), &[0]].concat())
    }

    /// Right after all paths that begin with `prefix`; 0xFF is in no UTF-8.
    pub fn after_prefix(prefix: &str) -> Self {
        Self([prefix.as_bytes(), &[0xff]].concat())
    }
}

impl ToSql for Seek {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A path.
    Path(Entry),
    /// The common prefix of one or more paths.
    Prefix(String),
}

impl Item {
    /// The text it is sorted by.
    pub fn key(&self) -> &str {
        match self {
            Self::Path(entry) => &entry.path,
            Self::Prefix(prefix) => prefix,
        }
    }

    /// The place right after it.
    pub fn after(&self) -> Seek {
        match self {
            Self::Path(entry) => Seek::after_path(&entry.path),
            Self::Prefix(prefix) => Seek::after_prefix(prefix),
        }
    }
}

/// A stretch of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Lines in byte order.
    pub items: Vec<Item>,
    /// Where the listing goes on; none: this was the end.
    pub next: Option<Seek>,
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
    let mut items: Vec<Item> = Vec::new();
    let mut looked_at = 0;
    let mut select = db.prepare_cached(
        "SELECT path, version, blob_id, size, created_at, tombstoned_at FROM newest
         WHERE path >= ?1 AND path < ?2 ORDER BY path",
    )?;
    'seek: loop {
        let mut rows = select.query((&from, &end))?;
        while let Some(row) = rows.next()? {
            if items.len() > listing.limit || looked_at == steps {
                let path = row.get_ref(0)?.as_str()?;
                return Ok(Page { items, next: Some(Seek(path.as_bytes().to_vec())) });
            }
            looked_at += 1;
            if !listing.include_tombstoned && row.get_ref(5)? != ValueRef::Null {
                continue;
            }
            let path = row.get_ref(0)?.as_str()?;
            if let Some(prefix) = common_prefix(listing, path) {
                from = Seek::after_prefix(prefix);
                items.push(Item::Prefix(prefix.to_owned()));
                continue 'seek;
            }
            items.push(Item::Path(Entry {
                path: path.to_owned(),
                version: row.get(1)?,
                blob_id: row.get(2)?,
                size: row.get(3)?,
                created_at: row.get(4)?,
                tombstoned_at: row.get(5)?,
            }));
        }
        return Ok(Page { items, next: None });
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
        }
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.items.iter().map(Item::key).collect()
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
    fn a_scan_that_ends_early_goes_on_where_it_stopped() {
        let (_dir, db) = index(&["a!", "b!", "c!", "d", "e!", "f"]);
        let mut listing = listing("", None, 99);
        let mut seen = Vec::new();
        for _ in 0..9 {
            let page = list(&db, &listing, 2).unwrap();
            seen.extend(page.items.iter().map(|item| item.key().to_owned()));
            match page.next {
                Some(next) => listing.from = next,
                None => break,
            }
        }
        assert_eq!(seen, ["d", "f"]);
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
