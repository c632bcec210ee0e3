//! Chunks of versions that the archive has too, or alone; objects of the archive that no version needs; and when versions were read.
//!
//! What always holds: an archive row belongs to a version whose chunks were not dropped, and has a state: whether this
//! node keeps a file of the chunk, its generation, and whether all replicas hold it; an object that was begun and is not forgotten
//! is named by a row, or is a leftover. One that a row names is no leftover, whatever else is written of it; one that is condemned is
//! named by no row. A database of the oldest format has none of it, and gets its
//! tables with the first object, where its opening found no space for them.

use std::collections::HashSet;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, Result, Row as SqlRow, params};

use super::apply::{Moment, push_chunk};
use super::query::corrupt;
use super::schema::{self, has_archives, part_key};
use super::types::Row;
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::ChunkRef;
use crate::limits::PARTS_PER_CHUNK;
use crate::wire::peer::archive::ArchiveRow;

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
    /// How often it was stored under another key.
    pub generation: u64,
    /// Whether all replicas hold the row, as far as is known.
    pub spread: bool,
}

impl Archived {
    /// As replicas tell each other, of a chunk of a version.
    pub fn row(&self, version: u64, blob: BlobId) -> ArchiveRow {
        let Self { chunk, length, target, range, generation, .. } = self.clone();
        ArchiveRow { version, blob, chunk, length, target, start: range.start, end: range.end, generation }
    }
}

/// An object that no row names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The object.
    pub target: String,
    /// The path that it was stored for; none of one from before that was noted.
    pub path: Option<String>,
}

/// What a row says of an object, whatever has become of its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The object.
    pub target: String,
    /// Where the chunk's bytes end in it.
    pub end: u64,
    /// The path.
    pub path: String,
    /// Its version.
    pub version: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// Whether this node keeps no file of it.
    pub dropped: bool,
}

/// A chunk of a live version that an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The version's row.
    pub row: Row,
    /// The chunk's number in it, that of the first if there are equal ones.
    pub number: u64,
    /// Where the chunk is.
    pub archived: Archived,
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
            "SELECT chunk_id, length, target_path, target_range_start, target_range_end, coalesce(dropped, 0),
               coalesce(generation, 1), coalesce(spread, 0)
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
        generation: row.get(6)?,
        spread: row.get(7)?,
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

/// One chunk of a version, if it is archived. That of a tombstone is there for reads that began before, until its chunks go or its
/// object is condemned.
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
pub(super) fn leftovers(db: &Connection, after: &str, limit: usize) -> Result<Vec<Leftover>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    db.prepare_cached(
        "SELECT target_path, path FROM archive_leftovers AS leftover WHERE target_path > ?1 AND NOT EXISTS
           (SELECT 1 FROM blob_chunk_archives AS archive WHERE archive.target_path = leftover.target_path)
         ORDER BY target_path LIMIT ?2",
    )?
    .query_map((after, limit), |row| Ok(Leftover { target: row.get(0)?, path: row.get(1)? }))?
    .collect()
}

/// What rows with numbers above `after` name, also those of deleted versions, and where to go on.
pub(super) fn named(db: &Connection, after: i64, limit: usize) -> Result<(Vec<Named>, Option<i64>)> {
    if !has_archives(db)? {
        return Ok((Vec::new(), None));
    }
    let named = |row: &SqlRow<'_>| {
        let named = Named {
            target: row.get(1)?,
            end: row.get(2)?,
            path: row.get(3)?,
            version: row.get(4)?,
            chunk: row.get_ref(5)?.as_str()?.parse().map_err(|_| corrupt("chunk_id"))?,
            dropped: row.get(6)?,
        };
        Ok((row.get(0)?, named))
    };
    let rows: Vec<(i64, Named)> = db
        .prepare_cached(
            "SELECT archive.pk, target_path, target_range_end, path, version, chunk_id, dropped
             FROM blob_chunk_archives AS archive JOIN archive_states USING (pk)
             JOIN blobs ON blobs.blob_id = archive.blob_id
             WHERE archive.pk > ?1 ORDER BY archive.pk LIMIT ?2",
        )?
        .query_map((after, limit), named)?
        .collect::<Result<_>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(pk, _)| *pk);
    Ok((rows.into_iter().map(|(_, named)| named).collect(), next))
}

/// Objects above `after`, in order, that were left by some rows, and that others of live versions name.
pub(super) fn sparse(db: &Connection, after: &str, limit: usize) -> Result<Vec<String>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    db.prepare_cached(
        "SELECT target_path FROM archive_leftovers AS leftover WHERE target_path > ?1 AND EXISTS
           (SELECT 1 FROM blob_chunk_archives AS archive JOIN blobs USING (blob_id)
            WHERE archive.target_path = leftover.target_path AND tombstoned_at IS NULL)
         ORDER BY target_path LIMIT ?2",
    )?
    .query_map((after, limit), |row| row.get(0))?
    .collect()
}

/// The chunks of live versions that an object holds.
pub(super) fn members(db: &Connection, target: &str) -> Result<Vec<Member>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    let member = |row: &SqlRow<'_>| {
        let number: i64 = row.get(9)?;
        let number = schema::part_of(number) / PARTS_PER_CHUNK;
        Ok(Member { row: Row(row.get(8)?), number, archived: archived(row)? })
    };
    db.prepare_cached(
        "SELECT chunk_id, length, target_path, target_range_start, target_range_end, dropped, generation, spread, blobs.pk,
           (SELECT min(key) FROM parts WHERE key BETWEEN blobs.pk << 24 AND (blobs.pk << 24) + 16777215
              AND lower(hex(parts.chunk_id)) = archive.chunk_id)
         FROM blob_chunk_archives AS archive JOIN archive_states ON archive_states.pk = archive.pk
         JOIN blobs ON blobs.blob_id = archive.blob_id
         WHERE target_path = ?1 AND tombstoned_at IS NULL AND hollow = 0 ORDER BY target_range_start",
    )?
    .query_map([target], member)?
    .collect()
}

/// Whether a row names an object, or else whether it is a leftover.
pub(super) fn knows(db: &Connection, target: &str) -> Result<Option<bool>> {
    if !has_archives(db)? {
        return Ok(None);
    }
    if db.prepare_cached("SELECT 1 FROM blob_chunk_archives WHERE target_path = ?1")?.exists([target])? {
        return Ok(Some(true));
    }
    let is_left =
        db.prepare_cached("SELECT 1 FROM archive_leftovers WHERE target_path = ?1")?.exists([target])?;
    Ok(is_left.then_some(false))
}

/// Notes an object that is about to be stored.
pub(super) fn begin(db: &Connection, target: &str, path: &str, now: Timestamp) -> Result<()> {
    if !has_archives(db)? {
        schema::add_archives(db)?;
    }
    leave(db, target, path, now)
}

fn leave(db: &Connection, target: &str, path: &str, now: Timestamp) -> Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO archive_leftovers (target_path, since, path) VALUES (?1, ?2, ?3)",
    )?
    .execute((target, now.to_string(), path))
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
    let before: Option<(String, u64)> = db
        .prepare_cached(
            "SELECT target_path, generation FROM blob_chunk_archives JOIN archive_states USING (pk)
             WHERE blob_id = ?1 AND chunk_id = ?2",
        )?
        .query_row((&blob, place.chunk.to_string()), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if before.as_ref().map(|(target, _)| target.as_str()) != expected || is_condemned(db, &place.target)? {
        return Ok(None);
    }
    let path = touch(db, row, moment)?;
    let generation = before.map_or(1, |(_, generation)| generation + 1);
    write(db, &blob, place, generation, &path, moment)?;
    Ok(Some(path))
}

/// Writes a row in the place of the one before it, which keeps its number, and with it what is known of the file; the object
/// before is a leftover.
fn write(
    db: &Connection,
    blob: &str,
    place: &Place,
    generation: u64,
    path: &str,
    moment: Moment,
) -> Result<()> {
    let chunk = place.chunk.to_string();
    let before: Option<String> = db
        .prepare_cached("SELECT target_path FROM blob_chunk_archives WHERE blob_id = ?1 AND chunk_id = ?2")?
        .query_row((blob, &chunk), |row| row.get(0))
        .optional()?;
    db.prepare_cached(
        "INSERT INTO blob_chunk_archives
           (blob_id, chunk_id, length, archived_at, target_path, target_range_start, target_range_end)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (blob_id, chunk_id) DO UPDATE SET
           length = excluded.length, archived_at = excluded.archived_at, target_path = excluded.target_path,
           target_version = NULL, target_range_start = excluded.target_range_start,
           target_range_end = excluded.target_range_end",
    )?
    .execute(params![
        blob,
        chunk,
        place.length,
        moment.now.to_string(),
        place.target,
        place.range.start,
        place.range.end,
    ])?;
    db.prepare_cached(
        "INSERT INTO archive_states (pk, dropped, generation, spread)
         SELECT pk, 0, ?3, 0 FROM blob_chunk_archives WHERE blob_id = ?1 AND chunk_id = ?2
         ON CONFLICT (pk) DO UPDATE SET generation = excluded.generation, spread = 0",
    )?
    .execute((blob, &chunk, generation))?;
    if let Some(before) = before.filter(|before| *before != place.target) {
        leave(db, &before, path, moment.now)?;
    }
    forget(db, &place.target)
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
            "UPDATE archive_states SET dropped = 1 WHERE pk =
               (SELECT pk FROM blob_chunk_archives WHERE blob_id = ?1 AND chunk_id = ?2 AND target_path = ?3)",
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
    if found == 0 {
        return Ok(None);
    }
    db.prepare_cached("DELETE FROM archived_whole WHERE pk = ?1")?.execute([row.0])?;
    touch(db, row, moment).map(Some)
}

/// Turns what the archive has of a tombstoned version into leftovers.
pub(super) fn leave_all(db: &Connection, row: Row, now: Timestamp) -> Result<()> {
    if !has_archives(db)? {
        return Ok(());
    }
    let blob: Option<(String, String)> = db
        .prepare_cached("SELECT blob_id, path FROM blobs WHERE pk = ?1 AND tombstoned_at IS NOT NULL")?
        .query_row([row.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((blob, path)) = blob else { return Ok(()) };
    db.prepare_cached("DELETE FROM reads WHERE pk = ?1")?.execute([row.0])?;
    db.prepare_cached("DELETE FROM archived_whole WHERE pk = ?1")?.execute([row.0])?;
    db.prepare_cached(
        "INSERT OR IGNORE INTO archive_leftovers (target_path, since, path)
         SELECT target_path, ?2, ?3 FROM blob_chunk_archives WHERE blob_id = ?1",
    )?
    .execute((&blob, now.to_string(), path))?;
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

mod reads;
mod replicas;
#[cfg(test)]
mod tests;

pub use reads::Candidate;
pub(super) use reads::{candidates, last_row, note_reads, set_whole};
pub use replicas::Told;
pub(super) use replicas::{
    condemn, is_condemned, mark_spread, naming, page, row_of_chunk, take, unname, unspread,
};
