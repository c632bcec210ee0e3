//! Archive rows as replicas tell each other of them, and objects that none of them names any more.

use rusqlite::{Connection, OptionalExtension as _, Result, Row as SqlRow};

use super::{Place, write};
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::meta::apply::Moment;
use crate::meta::query::corrupt;
use crate::meta::schema::{self, has_archives};
use crate::wire::peer::archive::ArchiveRow;

/// The columns that [`row_of_version`] reads.
macro_rules! select_rows {
    ($rest:literal) => {
        concat!(
            "SELECT archive.pk, path, version, archive.blob_id, chunk_id, length, target_path, target_range_start, \
               target_range_end, generation
             FROM archive_states AS state JOIN blob_chunk_archives AS archive USING (pk)
             JOIN blobs ON blobs.blob_id = archive.blob_id
             WHERE tombstoned_at IS NULL AND ",
            $rest
        )
    };
}

/// A row's number, the path of its version, and the row.
fn row_of_version(row: &SqlRow<'_>) -> Result<(i64, String, ArchiveRow)> {
    let archived = ArchiveRow {
        version: row.get(2)?,
        blob: row.get_ref(3)?.as_str()?.parse().map_err(|_| corrupt("blob_id"))?,
        chunk: row.get_ref(4)?.as_str()?.parse().map_err(|_| corrupt("chunk_id"))?,
        length: row.get(5)?,
        target: row.get(6)?,
        start: row.get(7)?,
        end: row.get(8)?,
        generation: row.get(9)?,
    };
    Ok((row.get(0)?, row.get(1)?, archived))
}

/// Rows of live versions that not all replicas hold, as far as is known, with numbers above `after`.
pub(in crate::meta) fn unspread(
    db: &Connection,
    after: i64,
    limit: usize,
) -> Result<Vec<(i64, String, ArchiveRow)>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    db.prepare_cached(select_rows!("spread = 0 AND state.pk > ?1 ORDER BY state.pk LIMIT ?2"))?
        .query_map((after, limit), row_of_version)?
        .collect()
}

/// Rows of live versions with numbers above `after`, with their paths, and where to go on.
pub(in crate::meta) fn page(db: &Connection, after: i64, limit: usize) -> Result<Told> {
    if !has_archives(db)? {
        return Ok((Vec::new(), None));
    }
    let rows: Vec<(i64, String, ArchiveRow)> = db
        .prepare_cached(select_rows!("state.pk > ?1 ORDER BY state.pk LIMIT ?2"))?
        .query_map((after, limit), row_of_version)?
        .collect::<Result<_>>()?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(pk, ..)| *pk);
    Ok((rows.into_iter().map(|(_, path, row)| (path, row)).collect(), next))
}

/// Rows with their paths, and where to go on.
pub type Told = (Vec<(String, ArchiveRow)>, Option<i64>);

/// Notes that all replicas hold these rows, as far as they are the ones here.
pub(in crate::meta) fn mark_spread(db: &Connection, rows: &[ArchiveRow]) -> Result<()> {
    if !has_archives(db)? {
        return Ok(());
    }
    for row in rows {
        db.prepare_cached(
            "UPDATE archive_states SET spread = 1 WHERE generation = ?1 AND pk =
               (SELECT pk FROM blob_chunk_archives WHERE blob_id = ?2 AND chunk_id = ?3 AND target_path = ?4)",
        )?
        .execute((row.generation, row.blob.to_string(), row.chunk.to_string(), &row.target))?;
    }
    Ok(())
}

/// The row of a chunk of a blob.
pub(in crate::meta) fn row_of_chunk(
    db: &Connection,
    blob: BlobId,
    chunk: ChunkId,
) -> Result<Option<ArchiveRow>> {
    if !has_archives(db)? {
        return Ok(None);
    }
    db.prepare_cached(
        "SELECT archive.pk, path, version, archive.blob_id, chunk_id, length, target_path, target_range_start,
           target_range_end, generation
         FROM blob_chunk_archives AS archive JOIN archive_states USING (pk)
         JOIN blobs ON blobs.blob_id = archive.blob_id
         WHERE archive.blob_id = ?1 AND chunk_id = ?2",
    )?
    .query_row((blob.to_string(), chunk.to_string()), row_of_version)
    .optional()
    .map(|found| found.map(|(_, _, row)| row))
}

/// Blobs with rows that name an object.
pub(in crate::meta) fn naming(db: &Connection, target: &str) -> Result<Vec<BlobId>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    db.prepare_cached("SELECT DISTINCT blob_id FROM blob_chunk_archives WHERE target_path = ?1")?
        .query_map([target], |row| row.get_ref(0)?.as_str()?.parse().map_err(|_| corrupt("blob_id")))?
        .collect()
}

/// Removes the rows of a blob that name an object. It is a leftover then: whoever has it condemned may not live to delete it.
pub(in crate::meta) fn unname(db: &Connection, blob: BlobId, target: &str, now: Timestamp) -> Result<()> {
    let blob = blob.to_string();
    db.prepare_cached(
        "INSERT OR IGNORE INTO archive_leftovers (target_path, since, path)
         SELECT target_path, ?3, path FROM blob_chunk_archives JOIN blobs USING (blob_id)
         WHERE blob_id = ?1 AND target_path = ?2",
    )?
    .execute((&blob, target, now.to_string()))?;
    db.prepare_cached(
        "DELETE FROM archive_states WHERE pk IN
           (SELECT pk FROM blob_chunk_archives WHERE blob_id = ?1 AND target_path = ?2)",
    )?
    .execute((&blob, target))?;
    db.prepare_cached("DELETE FROM blob_chunk_archives WHERE blob_id = ?1 AND target_path = ?2")?
        .execute((&blob, target))
        .map(drop)
}

/// Whether no row may name an object.
pub(in crate::meta) fn is_condemned(db: &Connection, target: &str) -> Result<bool> {
    Ok(has_archives(db)?
        && db.prepare_cached("SELECT 1 FROM condemned WHERE target_path = ?1")?.exists([target])?)
}

/// Notes that no row may name an object from now on.
pub(in crate::meta) fn condemn(db: &Connection, target: &str) -> Result<()> {
    if !has_archives(db)? {
        schema::add_archives(db)?;
    }
    db.prepare_cached("INSERT OR IGNORE INTO condemned (target_path) VALUES (?1)")?
        .execute([target])
        .map(drop)
}

/// Takes a row over that another replica holds, of a version that is committed here.
pub(in crate::meta) fn take(db: &Connection, path: &str, row: &ArchiveRow, moment: Moment) -> Result<()> {
    if !has_archives(db)? {
        schema::add_archives(db)?;
    }
    let ArchiveRow { chunk, length, start, end, .. } = *row;
    let place = Place { chunk, length, target: row.target.clone(), range: start..end };
    write(db, &row.blob.to_string(), &place, row.generation, path, moment)?;
    db.prepare_cached("UPDATE blobs SET seq = ?1 WHERE blob_id = ?2")?
        .execute((moment.seq, row.blob.to_string()))
        .map(drop)
}
