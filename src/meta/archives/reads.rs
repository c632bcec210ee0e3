//! When versions were read, and which of them may go to the archive.

use rusqlite::{Connection, Result, Row as SqlRow};

use crate::base::clock::Timestamp;
use crate::base::ids::BlobId;
use crate::limits::INLINE_MAX;
use crate::meta::query::{self, corrupt};
use crate::meta::schema::has_archives;
use crate::meta::types::Row;

/// A live version that has files here, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its row.
    pub row: Row,
    /// The path.
    pub path: String,
    /// Its number.
    pub version: u64,
    /// The blob.
    pub blob: BlobId,
    /// Bytes.
    pub size: u64,
    /// When it was read last, roughly, or made.
    pub read: Timestamp,
    /// Whether the archive has a chunk of it.
    pub archived: bool,
}

/// Live versions with row numbers above `after` of which files may go: they have chunks that are files, and not all have gone.
pub(in crate::meta) fn candidates(db: &Connection, after: i64, limit: usize) -> Result<Vec<Candidate>> {
    if !has_archives(db)? {
        return Ok(Vec::new());
    }
    let candidate = |row: &SqlRow<'_>| {
        let made = query::time(row.get_ref(5)?.as_str()?)?;
        let at: Option<i64> = row.get(6)?;
        let read = at.map_or(made, |at| made.max(Timestamp(at.saturating_mul(1000))));
        Ok(Candidate {
            row: Row(row.get(0)?),
            path: row.get(1)?,
            version: row.get(2)?,
            blob: row.get_ref(3)?.as_str()?.parse().map_err(|_| corrupt("blob_id"))?,
            size: row.get(4)?,
            read,
            archived: row.get(7)?,
        })
    };
    db.prepare_cached(
        "SELECT blobs.pk, path, version, blob_id, size, created_at, at,
           EXISTS (SELECT 1 FROM blob_chunk_archives AS archive WHERE archive.blob_id = blobs.blob_id)
         FROM blobs LEFT JOIN reads USING (pk)
         WHERE blobs.pk > ?1 AND tombstoned_at IS NULL AND hollow = 0 AND size > ?2
           AND NOT EXISTS (SELECT 1 FROM archived_whole AS whole WHERE whole.pk = blobs.pk)
         ORDER BY blobs.pk LIMIT ?3",
    )?
    .query_map((after, INLINE_MAX, limit), candidate)?
    .collect()
}

/// The greatest row number of a version.
pub(in crate::meta) fn last_row(db: &Connection) -> Result<i64> {
    db.prepare_cached("SELECT coalesce(max(pk), 0) FROM blobs")?.query_row([], |row| row.get(0))
}

/// Notes when live versions were read, in seconds since 1970; the last time counts.
pub(in crate::meta) fn note_reads(db: &Connection, reads: &[(Row, i64)]) -> Result<()> {
    if !has_archives(db)? {
        return Ok(());
    }
    for (row, at) in reads {
        db.prepare_cached(
            "INSERT INTO reads (pk, at) SELECT pk, ?2 FROM blobs WHERE pk = ?1 AND tombstoned_at IS NULL
             ON CONFLICT (pk) DO UPDATE SET at = max(at, excluded.at)",
        )?
        .execute((row.0, at))?;
    }
    Ok(())
}

/// Notes that nothing more of a live version can go.
pub(in crate::meta) fn set_whole(db: &Connection, row: Row) -> Result<()> {
    if has_archives(db)? {
        db.prepare_cached(
            "INSERT OR IGNORE INTO archived_whole (pk)
             SELECT pk FROM blobs WHERE pk = ?1 AND tombstoned_at IS NULL AND hollow = 0",
        )?
        .execute([row.0])?;
    }
    Ok(())
}
