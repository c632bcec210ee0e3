//! The schema of a slot's database, and how it is opened.
//!
//! `blobs` and `blob_chunk_archives` are the public tables. `blobs.chunks` stands last, so that no other column has
//! to be read across the pages of a long chunk list; ranged reads never touch it, they find chunk and checksums of
//! each 2 MiB part in `parts`, keyed by `blobs.pk << 24 | part`, in one page each.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rusqlite::config::DbConfig;
use rusqlite::ffi::{
    SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC, SQLITE_IOERR_READ, SQLITE_IOERR_SHMSIZE,
    SQLITE_IOERR_SHORT_READ, SQLITE_MISMATCH,
};
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::types::Row;
use crate::io::steps;

/// File name of a slot's database.
pub const FILE: &str = "meta.sqlite3";

/// Its name while it is made.
pub(super) const NEW_FILE: &str = "meta.sqlite3.new";

/// What the names of databases begin with that were put aside.
pub(super) const DAMAGED: &str = "meta.sqlite3.damaged-";

/// "AmBr" in the file's header: this is a slot of AmberBlob.
const APPLICATION_ID: i32 = 0x416d_4272;
const VERSION: i32 = 4;
/// The oldest format that is read: it has no archive.
const OLDEST: i32 = 2;
/// Pages of log at which it is written back: the most that an opening has to read.
const CHECKPOINT_PAGES: i32 = 100;
/// KiB of page cache per connection.
const CACHE_KIB: i32 = 64;

const TABLES: &str = "
CREATE TABLE blobs (
    pk INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL,
    version INTEGER NOT NULL,
    blob_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    tombstoned_at TEXT,
    dropped_at TEXT,            -- when the chunks of a tombstoned version went
    seq INTEGER NOT NULL,       -- number of the transaction that last changed the row
    headers TEXT NOT NULL,      -- JSON: [[name, value], ...]
    ballot INTEGER NOT NULL DEFAULT 0,  -- which try of its upload made it
    content BLOB,               -- SHA-256 of size and chunk ids, where replicas compare it
    hollow INTEGER NOT NULL DEFAULT 0,  -- 1: this replica lacks its chunks
    chunks TEXT NOT NULL,       -- JSON: [{\"id\": sha256, \"len\": bytes}, ...]
    UNIQUE (path, version)
);
CREATE UNIQUE INDEX idx_blobs_blob_id ON blobs (blob_id);
CREATE INDEX idx_blobs_seq ON blobs (seq);
CREATE INDEX idx_blobs_hollow ON blobs (pk) WHERE hollow = 1;
CREATE INDEX idx_blobs_undropped ON blobs (tombstoned_at) WHERE tombstoned_at IS NOT NULL AND dropped_at IS NULL;
CREATE TABLE blob_chunk_archives (
    pk INTEGER PRIMARY KEY AUTOINCREMENT,
    blob_id TEXT NOT NULL,
    chunk_id TEXT NOT NULL,
    length INTEGER NOT NULL,
    archived_at TEXT NOT NULL,
    target_path TEXT NOT NULL,
    target_version INTEGER,
    target_range_start INTEGER NOT NULL,
    target_range_end INTEGER NOT NULL,
    UNIQUE (blob_id, chunk_id)
);
-- One row per 2 MiB of a blob: blobs.pk << 24 | part.
CREATE TABLE parts (
    key INTEGER PRIMARY KEY,
    chunk_id BLOB NOT NULL,     -- 32 bytes
    sums BLOB NOT NULL          -- CRC32C of each 16 KiB, little-endian
);
-- Chunks of at most 64 KiB: key of the chunk's first part.
CREATE TABLE inline_chunks (
    key INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
);
-- Tries that this replica voted yes for and whose outcome it does not know.
CREATE TABLE prepared (
    pk INTEGER PRIMARY KEY,     -- the row its parts are under, and its version will be
    path TEXT NOT NULL,
    version INTEGER NOT NULL,
    blob_id TEXT NOT NULL UNIQUE,
    ballot INTEGER NOT NULL,
    prepared_at INTEGER NOT NULL,   -- milliseconds since 1970
    chunks TEXT NOT NULL,
    proposal BLOB NOT NULL,     -- as it came
    UNIQUE (path, version)
);
-- Tries that this replica has refused for good.
CREATE TABLE refusals (
    blob_id TEXT NOT NULL,
    ballot INTEGER NOT NULL,    -- 4294967295: all of them
    PRIMARY KEY (blob_id, ballot)
) WITHOUT ROWID;
-- Uploads that have staged parts and no row in blobs yet.
CREATE TABLE uploads (
    pk INTEGER PRIMARY KEY,
    blob_id TEXT NOT NULL
);
";

const ARCHIVE_TABLES: &str = "
-- What this node keeps of archived chunks; none: their files.
CREATE TABLE archive_states (
    pk INTEGER PRIMARY KEY,     -- of the archive row
    dropped INTEGER NOT NULL    -- 1: no file
);
-- Objects of the archive that are to be deleted, but for those that an archive row names.
CREATE TABLE archive_leftovers (
    target_path TEXT PRIMARY KEY,
    since TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX idx_blob_chunk_archives_target_path ON blob_chunk_archives (target_path);
";

/// What came with format 4.
const SPREAD_TABLES: &str = "
ALTER TABLE archive_states ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;    -- of rows of a chunk the greatest holds
ALTER TABLE archive_states ADD COLUMN spread INTEGER NOT NULL DEFAULT 0;        -- 1: all replicas hold the row
ALTER TABLE archive_leftovers ADD COLUMN path TEXT;     -- of the version that it was stored for
INSERT OR IGNORE INTO archive_states (pk, dropped) SELECT pk, 0 FROM blob_chunk_archives;
CREATE INDEX idx_archive_states_unspread ON archive_states (pk) WHERE spread = 0;
-- Objects of the archive that no archive row may name any more.
CREATE TABLE condemned (
    target_path TEXT PRIMARY KEY
) WITHOUT ROWID;
-- When versions were read last, roughly.
CREATE TABLE reads (
    pk INTEGER PRIMARY KEY,     -- of the version
    at INTEGER NOT NULL         -- seconds since 1970
);
-- Versions of which nothing more can go to the archive.
CREATE TABLE archived_whole (
    pk INTEGER PRIMARY KEY      -- of the version
);
";

const PART_BITS: u32 = 24;
const _: () = assert!(
    crate::limits::BLOB_MAX / crate::limits::PART_SIZE <= 1 << PART_BITS,
    "part numbers fit their bits"
);

/// The key of a part of the version in `row`.
pub(super) fn part_key(row: Row, part: u64) -> i64 {
    row.0 << PART_BITS | part.cast_signed()
}

/// The keys of all parts of the version in `row`: first and last.
pub(super) fn part_keys(row: Row) -> (i64, i64) {
    (part_key(row, 0), part_key(row, (1 << PART_BITS) - 1))
}

/// The part number in a key.
pub(super) fn part_of(key: i64) -> u64 {
    key.cast_unsigned() & ((1 << PART_BITS) - 1)
}

/// How much a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is on disk before it is answered.
    Full,
    /// The last commits may be lost in a power cut.
    Relaxed,
}

/// What a slot's directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or what a birth that a crash cut off left, or databases that were put aside.
    Nothing,
    /// A database.
    Database,
    /// Blobs or logs of a database that is not there.
    Remains,
}

/// Whether there is a database in a slot's directory.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Looks into a slot's directory.
///
/// # Errors
/// Those of readdir(3).
pub fn find(dir: &Path) -> io::Result<Found> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let mut found = Found::Nothing;
    for entry in entries {
        let name = entry?.file_name();
        if name == FILE {
            return Ok(Found::Database);
        }
        let name = name.to_string_lossy();
        if !name.starts_with(NEW_FILE) && !name.starts_with(DAMAGED) {
            found = Found::Remains;
        }
    }
    Ok(found)
}

/// Removes what a birth that a crash cut off left.
///
/// # Errors
/// Those of unlink(2).
pub fn clear(dir: &Path) -> io::Result<()> {
    for ending in ["", "-journal", "-wal", "-shm"] {
        match fs::remove_file(dir.join(format!("{NEW_FILE}{ending}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes an empty database in a new file, not synced.
pub(super) fn make(new: &Path) -> rusqlite::Result<()> {
    let db = Connection::open(new)?;
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // It is synced as a whole later; the log is written back and removed at the close.
    db.pragma_update(None, "synchronous", "OFF")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.execute_batch(&format!(
        "BEGIN; {TABLES} {ARCHIVE_TABLES} {SPREAD_TABLES}
         PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))?;
    db.close().map_err(|(_, error)| error)
}

/// Why a database cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CreateError {
    /// SQLite failed.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// A file step failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl CreateError {
    /// Whether the disk has no space.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Sql(error) => is_full(error),
            Self::Io(error) => error.raw_os_error() == Some(libc::ENOSPC),
        }
    }
}

/// Whether SQLite failed because the disk has no space; for its shared memory it has a code of its own.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || error.sqlite_extended_error_code() == Some(SQLITE_IOERR_SHMSIZE)
}

/// Whether the database cannot be used, as opposed to out of reach for now.
pub(super) fn is_damaged(error: &rusqlite::Error) -> bool {
    is_lost(error) || is_failed_sync(error) || error.sqlite_error_code() == Some(ErrorCode::TypeMismatch)
}

/// Whether the database does not have any more what it had: bytes of it are others, or cannot be read.
pub(super) fn is_lost(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        || error
            .sqlite_extended_error_code()
            .is_some_and(|code| [SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ].contains(&code))
}

/// Whether the disk may be to blame.
pub(super) fn is_disks(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Syncs the log that a killed process left: what a reader of it will see must be on disk.
///
/// # Errors
/// Those of fsync(2).
pub(super) fn sync_log(dir: &Path) -> io::Result<()> {
    match fs::File::open(dir.join(format!("{FILE}-wal"))) {
        Ok(log) => {
            log.sync_all()?;
            // After a sync that failed in the last run, memory may say what the disk does not.
            rustix::fs::fadvise(&log, 0, None, rustix::fs::Advice::DontNeed)?;
            steps::sync_dir(dir)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens the database in `dir` for its writer.
pub(super) fn open_writer(dir: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(dir.join(FILE), flags)?;
    prepare_writer(&mut db, durability)?;
    check_identity(&db)?;
    upgrade(&db)?;
    Ok(db)
}

/// Opens the database in `dir` for reading.
pub(super) fn open_reader(dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(dir.join(FILE), flags)?;
    // The last one to close would remove the log by its name, which another database may have by then.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    plan_once(&db)?;
    check_identity(&db)?;
    db.set_prepared_statement_cache_capacity(16);
    Ok(db)
}

/// Statements are planned once, whatever is bound to them: this SQLite otherwise plans again and again, for a tenth of
/// the time of a small transaction.
pub(super) fn plan_once(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Whether each commit is synced before it returns. Without, the database stays whole, and a power cut takes the last
/// commits: checkpoints are synced either way.
pub(super) fn set_synced(db: &Connection, synced: bool) -> rusqlite::Result<()> {
    db.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })
}

fn prepare_writer(db: &mut Connection, durability: Durability) -> rusqlite::Result<()> {
    // First of all, since a database that cannot be opened is closed, too: nobody knows then what its log would do to it.
    // And closing one to make room for another must not cost syncs; its log is read at the next opening.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    set_synced(db, durability == Durability::Full)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // A transaction of many rows holds its pages until its commit, instead of writing some of them twice.
    db.pragma_update(None, "cache_spill", false)?;
    plan_once(db)?;
    db.pragma_update(None, "journal_size_limit", 1 << 20)?;
    write_back_when_due(db)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// After a commit that leaves a long log, writes it back. SQLite would do so by itself and ignore failures; but after a
/// sync that failed, the next one succeeds and has synced nothing, so this failure is one of the commit.
fn write_back_when_due(db: &mut Connection) -> rusqlite::Result<()> {
    db.wal_hook(Some(|log: &mut Wal, pages| {
        if pages < CHECKPOINT_PAGES {
            return Ok(());
        }
        match log.checkpoint() {
            Err(error) if is_failed_sync(&error) => Err(error),
            // The log stays longer, for want of space or because of a reader.
            _ => Ok(()),
        }
    }))
}

fn is_failed_sync(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_extended_error_code();
    code.is_some_and(|code| [SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC].contains(&code))
}

/// Whether a database has the tables of the archive. One of the oldest format is read as it is, and its writer adds them; nobody
/// reads one of the format between before its writer has.
pub(super) fn has_archives(db: &Connection) -> rusqlite::Result<bool> {
    Ok(format_of(db)? == VERSION)
}

/// Brings a database of an older format to this one, inside of a transaction.
pub(super) fn add_archives(db: &Connection) -> rusqlite::Result<()> {
    let archive = if format_of(db)? == OLDEST { ARCHIVE_TABLES } else { "" };
    db.execute_batch(&format!("{archive} {SPREAD_TABLES} PRAGMA user_version = {VERSION};"))
}

/// Brings a database of an older format to this one. A full disk leaves one of the oldest as it is: deletes need no archive. One of
/// the format between has chunks that only the archive has, and is of no use without what is added.
pub(super) fn upgrade(db: &Connection) -> rusqlite::Result<()> {
    if has_archives(db)? {
        return Ok(());
    }
    let is_oldest = format_of(db)? == OLDEST;
    let add = || {
        let transaction = db.unchecked_transaction()?;
        add_archives(&transaction)?;
        transaction.commit()
    };
    match add() {
        Err(error) if is_oldest && is_full(&error) => Ok(()),
        added => added,
    }
}

fn format_of(db: &Connection) -> rusqlite::Result<i32> {
    db.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))
}

/// Refuses a database that is not a slot of this format, or of one before.
fn check_identity(db: &Connection) -> rusqlite::Result<()> {
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = format_of(db)?;
    if application == APPLICATION_ID && (OLDEST..=VERSION).contains(&version) {
        return Ok(());
    }
    let (code, what) = if application == APPLICATION_ID {
        let what =
            format!("written by another release (format {version}, this one reads {OLDEST} to {VERSION})");
        (SQLITE_MISMATCH, what)
    } else {
        (rusqlite::ffi::SQLITE_NOTADB, format!("not a slot database (application {application:#x})"))
    };
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(what)))
}
