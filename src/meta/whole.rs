//! Live versions whose chunks are here: what the scrub goes through, and what a repair is about; and chunks that live in the
//! database, compared with their names and put right.

use rusqlite::{Connection, OptionalExtension as _, Result, Row as SqlRow};

use super::apply::insert_parts;
use super::query::corrupt;
use super::schema::part_key;
use super::types::Row;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Parts;
use crate::base::sha256::Sha256;
use crate::limits::{CHUNK_SIZE, INLINE_MAX, PARTS_PER_CHUNK};

/// A live version whose chunks are here.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its row.
    pub row: Row,
    /// Its path.
    pub path: String,
    /// Version number.
    pub version: u64,
    /// Identity.
    pub blob: BlobId,
    /// Bytes.
    pub size: u64,
    /// Whether its last chunk is the one that it is named as; none: the database does not have that.
    pub inline: Option<bool>,
}

impl Whole {
    /// Chunks of the blob.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK_SIZE)
    }

    /// Bytes of a chunk.
    pub fn chunk_len(&self, number: u64) -> u64 {
        self.size.saturating_sub(number * CHUNK_SIZE).min(CHUNK_SIZE)
    }

    /// Whether a chunk lives in the database.
    pub fn is_inline(&self, number: u64) -> bool {
        self.inline.is_some() && number + 1 == self.chunks()
    }
}

macro_rules! select_whole {
    ($rest:literal) => {
        concat!(
            "SELECT pk, path, version, blob_id, size FROM blobs WHERE tombstoned_at IS NULL AND hollow = 0 AND ",
            $rest
        )
    };
}

fn whole(row: &SqlRow<'_>) -> Result<Whole> {
    Ok(Whole {
        row: Row(row.get(0)?),
        path: row.get(1)?,
        version: row.get(2)?,
        blob: row.get_ref(3)?.as_str()?.parse().map_err(|_| corrupt("blob_id"))?,
        size: row.get(4)?,
        inline: None,
    })
}

/// Versions with row numbers above `after`, in their order.
pub(super) fn above(db: &Connection, after: Row, limit: usize) -> Result<Vec<Whole>> {
    let found: Vec<Whole> = db
        .prepare_cached(select_whole!("pk > ?1 ORDER BY pk LIMIT ?2"))?
        .query_map((after.0, limit), whole)?
        .collect::<Result<_>>()?;
    found.into_iter().map(|found| checked(db, found)).collect()
}

/// The version of a row.
pub(super) fn at(db: &Connection, row: Row) -> Result<Option<Whole>> {
    let found = db.prepare_cached(select_whole!("pk = ?1"))?.query_row([row.0], whole).optional()?;
    found.map(|found| checked(db, found)).transpose()
}

/// Compares the chunk that lives in the database with its name.
fn checked(db: &Connection, mut whole: Whole) -> Result<Whole> {
    let last = whole.chunks().saturating_sub(1);
    if whole.size == 0 || whole.chunk_len(last) > INLINE_MAX {
        return Ok(whole);
    }
    let key = part_key(whole.row, last * PARTS_PER_CHUNK);
    whole.inline = db
        .prepare_cached("SELECT bytes, chunk_id FROM inline_chunks JOIN parts USING (key) WHERE key = ?1")?
        .query_row([key], |row| {
            let named = row.get_ref(1)?.as_blob()?;
            Ok(Sha256::digest(row.get_ref(0)?.as_blob()?)[..] == *named)
        })
        .optional()?;
    Ok(whole)
}

/// Gives a version the bytes of a chunk that lives in the database; false: they are not that chunk's, or the version is gone.
pub(super) fn mend(db: &Connection, row: Row, number: u64, bytes: &[u8]) -> Result<bool> {
    if at(db, row)?.is_none_or(|whole| number + 1 != whole.chunks()) {
        return Ok(false);
    }
    let key = part_key(row, number * PARTS_PER_CHUNK);
    let named: Option<Vec<u8>> = db
        .prepare_cached("SELECT chunk_id FROM parts WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    if named.is_none_or(|named| named != ChunkId(Sha256::digest(bytes)).0) {
        return Ok(false);
    }
    db.prepare_cached("INSERT OR REPLACE INTO inline_chunks (key, bytes) VALUES (?1, ?2)")?
        .execute((key, bytes))?;
    Ok(true)
}

/// Gives a version other checksums, of some of its parts; false: it is gone.
pub(super) fn resum(db: &Connection, row: Row, parts: &Parts) -> Result<bool> {
    let is_there = at(db, row)?.is_some();
    if is_there {
        insert_parts(db, row, parts)?;
    }
    Ok(is_there)
}
