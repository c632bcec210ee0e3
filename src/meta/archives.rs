//! Chunks of versions that the archive has too, or alone; and objects of the archive that no version needs.
//!
//! What always holds: an archive row belongs to a version whose chunks were not dropped, and says in `archive_states` whether this
//! node keeps a file of the chunk; an object that was begun and is not forgotten is named by a row, or is a leftover. One
//! that a row names is no leftover, whatever else is written of it. A database of the format before has none of it, and gets its
//! tables with the first object, where its opening found no space for them.

use std::collections::HashSet;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, Result, Row as SqlRow};

use super::apply::{Moment, push_chunk};
use super::query::corrupt;
use super::schema::{self, has_archives, part_key};
use super::types::Row;
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::ChunkRef;
use crate::limits::PARTS_PER_CHUNK;

/// A chunk of a version that has an archive row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The chunk.
    pub chunk: ChunkId,
    /// Bytes.
    pub length: u64,
    /// The object, `s3://<bucket>/<key>`.
    pub target: String,
    /// The chunk's bytes of the object.
    pub range: Range<u64>,
    /// Whether this node keeps no file of it.
    pub dropped: bool,
}

/// Where the archive has a chunk.
#[derive(Clone, Debug)]
pub struct Place {
    /// The chunk.
    pub chunk: ChunkId,
    /// Bytes.
    pub length: u64,
    /// The object, `s3://<bucket>/<key>`.
    pub target: String,
    /// The chunk's bytes of the object.
    pub range: Range<u64>,
}

/// The columns that [`archived`] reads, and which blob's they are.
macro_rules! select_archived {
    ($rest:literal) => {
        concat!(
            "SELECT chunk_id, length, target_path, target_range_start, target_range_end, coalesce(dropped, 0)
             FROM blob_chunk_archives LEFT JOIN archive_states USING (pk) WHERE blob_id = ",
            $rest
        )
    };
}

fn archived(row: &SqlRow<'_>) -> Result<Archived> {
    Ok(Archived {
        chunk: row.get_ref(0)?.as_str()?.parse().map_err(|_| corrupt("chunk_id"))?,
        length: row.get(1)?,
        target: row.get(2)?,
        range: row.get(3)?..row.get(4)?,
        dropped: row.get(5)?,
    })
}

/// The archived chunks of a live version, each once.
pub(super) fn of(db: &Connection, row: Row) -> Result<Vec<Archived>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    db.prepare_cached(select_archived!(
        "(SELECT blob_id FROM blobs WHERE pk = ?1 AND tombstoned_at IS NULL) ORDER BY chunk_id"
    ))?
    .query_map([row.0], archived)?
    .collect()
}

/// One chunk of a version, if it is archived. That of a tombstone is there for reads that began before, until its chunks go.
pub(super) fn chunk(db: &Connection, row: Row, number: u64) -> Result<Option<Archived>> {
    if !has_archives(db)? {
        return Ok(None);
    }
    db.prepare_cached(select_archived!(
        "(SELECT blob_id FROM blobs WHERE pk = ?1)
         AND chunk_id = (SELECT lower(hex(parts.chunk_id)) FROM parts WHERE key = ?2)"
    ))?
    .query_row((row.0, part_key(row, number * PARTS_PER_CHUNK)), archived)
    .optional()
}

/// Those of some chunks of a version that this node keeps no files of.
pub(super) fn dropped_among(db: &Connection, row: Row, ids: &[ChunkId]) -> Result<HashSet<ChunkId>> {
    if !has_archives(db)? {
        return Ok(HashSet::new());
    }
    let mut is_dropped = db.prepare_cached(
        "SELECT 1 FROM blob_chunk_archives JOIN archive_states USING (pk)
         WHERE blob_id = (SELECT blob_id FROM blobs WHERE pk = ?1) AND chunk_id = ?2 AND dropped = 1",
    )?;
    let mut dropped = HashSet::new();
    for id in ids {
        if is_dropped.exists((row.0, id.to_string()))? {
            dropped.insert(*id);
        }
    }
    Ok(dropped)
}

/// The chunks of a blob that this node keeps no files of.
pub(super) fn dropped_of(db: &Connection, blob: BlobId) -> Result<HashSet<ChunkId>> {
    if !has_archives(db)? {
        return Ok(HashSet::new());
    }
    db.prepare_cached(
        "SELECT chunk_id FROM blob_chunk_archives JOIN archive_states USING (pk) WHERE blob_id = ?1 AND dropped = 1",
    )?
    .query_map([blob.to_string()], |row| row.get_ref(0)?.as_str()?.parse().map_err(|_| corrupt("chunk_id")))?
    .collect()
}

/// Objects above `after`, in order, that no row names.
pub(super) fn leftovers(db: &Connection, after: &str, limit: usize) -> Result<Vec<String>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    db.prepare_cached(
        "SELECT target_path FROM archive_leftovers AS leftover WHERE target_path > ?1 AND NOT EXISTS
           (SELECT 1 FROM blob_chunk_archives AS archive WHERE archive.target_path = leftover.target_path)
         ORDER BY target_path LIMIT ?2",
    )?
    .query_map((after, limit), |row| row.get(0))?
    .collect()
}

/// Notes an object that is about to be stored.
pub(super) fn begin(db: &Connection, target: &str, now: Timestamp) -> Result<()> {
    if !has_archives(db)? {
        schema::add_archives(db)?;
    }
    leave(db, target, now)
}

fn leave(db: &Connection, target: &str, now: Timestamp) -> Result<()> {
    db.prepare_cached("INSERT OR IGNORE INTO archive_leftovers (target_path, since) VALUES (?1, ?2)")?
        .execute((target, now.to_string()))
        .map(drop)
}

/// Forgets an object that is not in the store any more.
pub(super) fn forget(db: &Connection, target: &str) -> Result<()> {
    if has_archives(db)? {
        db.prepare_cached("DELETE FROM archive_leftovers WHERE target_path = ?1")?.execute([target])?;
    }
    Ok(())
}

/// Notes where the archive has a chunk of a live version, in the place of `expected`; answers with the version's path. None: there
/// is no such version or chunk, or its row names another object.
pub(super) fn archive(
    db: &Connection,
    row: Row,
    place: &Place,
    expected: Option<&str>,
    moment: Moment,
) -> Result<Option<String>> {
    if !has_archives(db)? || !has_chunk(db, row, place)? {
        return Ok(None);
    }
    let Some(blob) = live_blob(db, row)? else { return Ok(None) };
    let chunk = place.chunk.to_string();
    let before: Option<String> = db
        .prepare_cached("SELECT target_path FROM blob_chunk_archives WHERE blob_id = ?1 AND chunk_id = ?2")?
        .query_row((&blob, &chunk), |row| row.get(0))
        .optional()?;
    if before.as_deref() != expected {
        return Ok(None);
    }
    // A row that is replaced keeps its number, and with it its state.
    db.prepare_cached(
        "INSERT INTO blob_chunk_archives
           (blob_id, chunk_id, length, archived_at, target_path, target_range_start, target_range_end)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (blob_id, chunk_id) DO UPDATE SET
           length = excluded.length, archived_at = excluded.archived_at, target_path = excluded.target_path,
           target_version = NULL, target_range_start = excluded.target_range_start,
           target_range_end = excluded.target_range_end",
    )?
    .execute((
        blob,
        chunk,
        place.length,
        moment.now.to_string(),
        &place.target,
        place.range.start,
        place.range.end,
    ))?;
    if let Some(before) = before {
        leave(db, &before, moment.now)?;
    }
    forget(db, &place.target)?;
    touch(db, row, moment).map(Some)
}

/// Notes that this node keeps no file of a chunk of a live version; answers with the version's path. None: there is no such
/// version, or its row does not name that object.
pub(super) fn drop_chunk(
    db: &Connection,
    row: Row,
    chunk: ChunkId,
    target: &str,
    moment: Moment,
) -> Result<Option<String>> {
    if !has_archives(db)? {
        return Ok(None);
    }
    let Some(blob) = live_blob(db, row)? else { return Ok(None) };
    let found = db
        .prepare_cached(
            "INSERT OR REPLACE INTO archive_states (pk, dropped)
             SELECT pk, 1 FROM blob_chunk_archives WHERE blob_id = ?1 AND chunk_id = ?2 AND target_path = ?3",
        )?
        .execute((blob, chunk.to_string(), target))?;
    if found == 0 { Ok(None) } else { touch(db, row, moment).map(Some) }
}

/// Notes that the file of a chunk is here again; answers with the version's path. None: there was nothing to note.
pub(super) fn brought_back(
    db: &Connection,
    row: Row,
    chunk: ChunkId,
    moment: Moment,
) -> Result<Option<String>> {
    if !has_archives(db)? {
        return Ok(None);
    }
    let found = db
        .prepare_cached(
            "UPDATE archive_states SET dropped = 0 WHERE dropped = 1 AND pk =
               (SELECT archive.pk FROM blob_chunk_archives AS archive
                WHERE archive.blob_id = (SELECT blob_id FROM blobs WHERE blobs.pk = ?1) AND archive.chunk_id = ?2)",
        )?
        .execute((row.0, chunk.to_string()))?;
    if found == 0 { Ok(None) } else { touch(db, row, moment).map(Some) }
}

/// Turns what the archive has of a tombstoned version into leftovers.
pub(super) fn leave_all(db: &Connection, row: Row, now: Timestamp) -> Result<()> {
    if !has_archives(db)? {
        return Ok(());
    }
    let blob: Option<String> = db
        .prepare_cached("SELECT blob_id FROM blobs WHERE pk = ?1 AND tombstoned_at IS NOT NULL")?
        .query_row([row.0], |row| row.get(0))
        .optional()?;
    let Some(blob) = blob else { return Ok(()) };
    db.prepare_cached(
        "INSERT OR IGNORE INTO archive_leftovers (target_path, since)
         SELECT target_path, ?2 FROM blob_chunk_archives WHERE blob_id = ?1",
    )?
    .execute((&blob, now.to_string()))?;
    db.prepare_cached(
        "DELETE FROM archive_states WHERE pk IN (SELECT pk FROM blob_chunk_archives WHERE blob_id = ?1)",
    )?
    .execute([&blob])?;
    db.prepare_cached("DELETE FROM blob_chunk_archives WHERE blob_id = ?1")?.execute([&blob])?;
    Ok(())
}

/// The blob of a live version that has its chunks.
fn live_blob(db: &Connection, row: Row) -> Result<Option<String>> {
    db.prepare_cached("SELECT blob_id FROM blobs WHERE pk = ?1 AND tombstoned_at IS NULL AND hollow = 0")?
        .query_row([row.0], |row| row.get(0))
        .optional()
}

fn has_chunk(db: &Connection, row: Row, place: &Place) -> Result<bool> {
    let mut item = String::new();
    push_chunk(&mut item, ChunkRef { id: place.chunk, len: place.length });
    db.prepare_cached("SELECT 1 FROM blobs WHERE pk = ?1 AND instr(chunks, ?2) > 0")?.exists((row.0, item))
}

/// A version has changed: a database that is put back by its older copy shows by the transaction's number.
fn touch(db: &Connection, row: Row, moment: Moment) -> Result<String> {
    db.prepare_cached("UPDATE blobs SET seq = ?1 WHERE pk = ?2")?.execute((moment.seq, row.0))?;
    db.prepare_cached("SELECT path FROM blobs WHERE pk = ?1")?.query_row([row.0], |row| row.get(0))
}

#[cfg(test)]
mod tests;
