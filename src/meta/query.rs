//! Questions to a slot's database: plain SQL, by either kind of connection.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, Row as SqlRow};

use super::archives;
use super::schema::{part_key, part_of};
use super::types::{BlobMeta, Entry, Failure, Row};
use crate::base::checksum::first_mismatch;
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{Part, Parts};
use crate::limits::{CHUNK_SIZE, PARTS_PER_CHUNK};

/// What row numbers grow by from one database of a slot to the next, at least.
const ROWS_PER_SECOND: i64 = 128;

/// The columns that [`record`] reads, and the rest of the question.
macro_rules! select_record {
    ($rest:literal) => {
        concat!(
            "SELECT pk, version, blob_id, size, created_at, tombstoned_at, headers, hollow FROM blobs ",
            $rest
        )
    };
}

pub(super) fn corrupt(what: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(format!("damaged: {what}")),
    )
}

/// A slot's database does not have everything yet; its writer is bringing it there.
pub(super) fn busy() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
        Some("writes are on their way to the slots' databases".to_owned()),
    )
}

pub(super) fn time(text: &str) -> Result<Timestamp> {
    Timestamp::parse(text).ok_or_else(|| corrupt("time"))
}

fn record(row: &SqlRow<'_>) -> Result<BlobMeta> {
    Ok(BlobMeta {
        row: Row(row.get(0)?),
        version: row.get(1)?,
        blob_id: row.get_ref(2)?.as_str()?.parse().map_err(|_| corrupt("blob_id"))?,
        size: row.get(3)?,
        created_at: time(row.get_ref(4)?.as_str()?)?,
        tombstoned_at: row.get_ref(5)?.as_str_or_null()?.map(time).transpose()?,
        headers: row.get(6)?,
        hollow: row.get(7)?,
    })
}

/// The newest version of a path.
pub(super) fn newest(db: &Connection, path: &str) -> Result<Option<BlobMeta>> {
    db.prepare_cached(select_record!("WHERE path = ?1 ORDER BY version DESC LIMIT 1"))?
        .query_row([path], record)
        .optional()
}

/// Number of the newest version of a path, tombstoned or not.
pub(super) fn newest_version(db: &Connection, path: &str) -> Result<Option<u64>> {
    db.prepare_cached("SELECT version FROM blobs WHERE path = ?1 ORDER BY version DESC LIMIT 1")?
        .query_row([path], |row| row.get(0))
        .optional()
}

/// The paths of up to `limit` versions.
pub(super) fn some_paths(db: &Connection, limit: usize) -> Result<Vec<String>> {
    db.prepare_cached("SELECT path FROM blobs INDEXED BY sqlite_autoindex_blobs_1 LIMIT ?1")?
        .query_map([limit], |row| row.get(0))?
        .collect()
}

/// One version of a path.
pub(super) fn at_version(db: &Connection, path: &str, version: u64) -> Result<Option<BlobMeta>> {
    db.prepare_cached(select_record!("WHERE path = ?1 AND version = ?2"))?
        .query_row((path, version), record)
        .optional()
}

/// Versions of a path below `below`, newest first.
pub(super) fn versions(db: &Connection, path: &str, below: u64, limit: usize) -> Result<Vec<BlobMeta>> {
    db.prepare_cached(select_record!("WHERE path = ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3"))?
        .query_map((path, below, limit), record)?
        .collect()
}

/// The newest versions of some paths as the listing index keeps them.
pub(super) fn entries(db: &Connection, paths: &[String]) -> Result<Vec<Entry>> {
    let entry = |path: &String| {
        let entry = |newest: BlobMeta| Entry {
            path: path.clone(),
            version: newest.version,
            blob_id: newest.blob_id.to_string(),
            size: newest.size,
            created_at: newest.created_at.to_string(),
            tombstoned_at: newest.tombstoned_at.map(|time| time.to_string()),
        };
        Ok(newest(db, path)?.map(entry))
    };
    paths.iter().filter_map(|path| entry(path).transpose()).collect()
}

/// The newest versions of all paths that changed after transaction `seq`.
pub(super) fn entries_since(db: &Connection, seq: u64) -> Result<Vec<Entry>> {
    entries(db, &changed_since(db, seq)?)
}

/// `count` parts from `first` on, with the bytes of those chunks that live in the database.
///
/// # Errors
/// Refused when the version was deleted and its chunks dropped meanwhile.
pub(super) fn parts(
    db: &Connection,
    row: Row,
    first: u64,
    count: u64,
) -> std::result::Result<Parts, Failure> {
    if count == 0 {
        return Ok(Parts { first, ..Parts::default() });
    }
    let mut statement =
        db.prepare_cached("SELECT chunk_id, sums FROM parts WHERE key BETWEEN ?1 AND ?2 ORDER BY key")?;
    let range = (part_key(row, first), part_key(row, first + count - 1));
    let parts = statement
        .query_map(range, |row| {
            let chunk = row.get_ref(0)?.as_blob()?.try_into().map_err(|_| corrupt("chunk_id"))?;
            let sums = row.get_ref(1)?.as_blob()?.chunks_exact(4);
            let sums = sums.map(|s| u32::from_le_bytes([s[0], s[1], s[2], s[3]])).collect();
            Ok(Part { chunk: ChunkId(chunk), sums })
        })?
        .collect::<Result<Vec<_>>>()?;
    if parts.len() as u64 != count {
        return Err(missing_parts(db, row)?);
    }
    let mut statement =
        db.prepare_cached("SELECT key, bytes FROM inline_chunks WHERE key BETWEEN ?1 AND ?2 ORDER BY key")?;
    let mut inline = statement
        .query_map(range, |row| {
            Ok((part_of(row.get(0)?), Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?)))
        })?
        .collect::<Result<Vec<_>>>()?;
    let mut damaged = Vec::new();
    inline.retain(|(number, bytes)| {
        let sums = parts.get((number - first) as usize).map_or(&[][..], |part| &part.sums);
        let good = first_mismatch(bytes, sums).is_none();
        if !good {
            damaged.push(*number);
        }
        good
    });
    Ok(Parts { first, parts, inline, damaged })
}

fn missing_parts(db: &Connection, row: Row) -> Result<Failure> {
    let live =
        db.prepare_cached("SELECT 1 FROM blobs WHERE pk = ?1 AND dropped_at IS NULL")?.exists([row.0])?;
    Ok(if live {
        corrupt("list of parts: some are missing").into()
    } else {
        Error::new(Code::BlobNotFound, "this version was deleted and its bytes are gone").into()
    })
}

/// Up to `count` chunk ids from chunk `first` on.
///
/// # Errors
/// Refused when the version was deleted and its chunks dropped meanwhile.
pub(super) fn chunk_ids(
    db: &Connection,
    row: Row,
    first: u64,
    count: u64,
) -> std::result::Result<Vec<ChunkId>, Failure> {
    let mut statement = db.prepare_cached("SELECT chunk_id FROM parts WHERE key = ?1")?;
    (first..first + count)
        .map(|chunk| {
            let id = statement.query_row([part_key(row, chunk * PARTS_PER_CHUNK)], |row| {
                row.get_ref(0)?.as_blob()?.try_into().map(ChunkId).map_err(|_| corrupt("chunk_id"))
            });
            match id.optional()? {
                Some(id) => Ok(id),
                None => Err(missing_parts(db, row)?),
            }
        })
        .collect()
}

/// The chunk ids of a live version that has its chunks, but for those that only the archive has; none: the blob is no such version.
pub(super) fn chunks_of(
    db: &Connection,
    blob_id: BlobId,
) -> std::result::Result<Option<Vec<ChunkId>>, Failure> {
    let found: Option<(i64, u64)> = db
        .prepare_cached(
            "SELECT pk, size FROM blobs WHERE blob_id = ?1 AND tombstoned_at IS NULL AND hollow = 0",
        )?
        .query_row([blob_id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((row, size)) = found else { return Ok(None) };
    let mut chunks = chunk_ids(db, Row(row), 0, size.div_ceil(CHUNK_SIZE))?;
    let dropped = archives::dropped_of(db, blob_id)?;
    chunks.retain(|chunk| !dropped.contains(chunk));
    Ok(Some(chunks))
}

/// Whether a blob has a row, tombstoned or not.
pub(super) fn is_known(db: &Connection, blob_id: BlobId) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM blobs WHERE blob_id = ?1")?.exists([blob_id.to_string()])
}

/// Versions tombstoned at or before `until` whose chunks are still there.
pub(super) fn undropped(db: &Connection, until: Timestamp, limit: usize) -> Result<Vec<(Row, BlobId)>> {
    db.prepare_cached(
        "SELECT pk, blob_id FROM blobs WHERE tombstoned_at IS NOT NULL AND dropped_at IS NULL AND tombstoned_at <= ?1
         ORDER BY tombstoned_at LIMIT ?2",
    )?
    .query_map((until.to_string(), limit), |row| {
        Ok((Row(row.get(0)?), row.get_ref(1)?.as_str()?.parse().map_err(|_| corrupt("blob_id"))?))
    })?
    .collect()
}

/// When the oldest tombstone whose chunks are still there was made.
pub(super) fn oldest_undropped(db: &Connection) -> Result<Option<Timestamp>> {
    let oldest: Option<String> = db
        .prepare_cached(
            "SELECT min(tombstoned_at) FROM blobs WHERE tombstoned_at IS NOT NULL AND dropped_at IS NULL",
        )?
        .query_row([], |row| row.get(0))?;
    oldest.as_deref().map(time).transpose()
}

/// Number of the last transaction.
pub(super) fn last_seq(db: &Connection) -> Result<u64> {
    Ok(db
        .prepare_cached("SELECT max(seq) FROM blobs")?
        .query_row([], |row| row.get::<_, Option<u64>>(0))?
        .unwrap_or(0))
}

/// Paths changed after transaction `seq`.
fn changed_since(db: &Connection, seq: u64) -> Result<Vec<String>> {
    db.prepare_cached("SELECT DISTINCT path FROM blobs WHERE seq > ?1")?
        .query_map([seq], |row| row.get(0))?
        .collect()
}

/// Rows of uploads that never came to a commit.
pub(super) fn staged(db: &Connection) -> Result<Vec<Row>> {
    db.prepare_cached("SELECT pk FROM uploads")?.query_map([], |row| row.get(0).map(Row))?.collect()
}

/// Has the row numbers of an empty database begin where none was given by the one whose place it takes: whoever still has one of
/// those finds nothing under it, instead of another blob. `given`: the highest that is known.
pub(super) fn begin_rows(db: &Connection, given: i64) -> Result<()> {
    // No slot gets more than a hundred versions a second for long; 39 bits are enough for a century.
    let by_time = Timestamp::now().seconds().saturating_mul(ROWS_PER_SECOND);
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('blobs', ?1)", [by_time.max(given)]).map(drop)
}

/// Blobs of uploads that never came to a commit, or have not yet.
pub(super) fn staged_blobs(db: &Connection) -> Result<Vec<BlobId>> {
    db.prepare_cached("SELECT blob_id FROM uploads")?
        .query_map([], |row| row.get_ref(0)?.as_str()?.parse().map_err(|_| corrupt("blob_id")))?
        .collect()
}

/// A row number that no version and no upload has had.
pub(super) fn next_row(db: &Connection) -> Result<Row> {
    db.prepare_cached(
        "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'blobs'), 0),
                    coalesce((SELECT max(pk) FROM uploads), 0),
                    coalesce((SELECT max(pk) FROM prepared), 0)) + 1",
    )?
    .query_row([], |row| row.get(0).map(Row))
}
