//! What a replica stores of the two-phase commit, as [`Rows`] of a slot's database, inside of the writer's transaction.
//!
//! A yes is a row in `prepared`, which keeps the row number under which its parts are; a refusal is one in `refusals`. A commit moves the
//! former into `blobs`. Parts that were staged or prepared and came to nothing stay in `uploads` for another try, and go with
//! the upload, at the sweep, or at the next start.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Result, Row as SqlRow};

use super::apply::{self, Moment};
use super::archives;
use super::op::Changes;
use super::query::{self, corrupt};
use super::schema::part_keys;
use super::types::{BlobMeta, Row};
use crate::antientropy::digest;
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{Parts, content};
use crate::limits::INLINE_MAX;
use crate::replication::participant::{EVERY_BALLOT, Rows};
use crate::wire::peer::archive::ArchiveRow;
use crate::wire::peer::sync::{Digest, Items, Range};
use crate::wire::peer::{self, Attempt, Held, InDoubt, Proposal, Query, decode, encode};

/// A blob whose chunks are on this replica's disk, or are in here.
#[derive(Debug)]
pub struct Uploaded {
    /// Its identity.
    pub blob_id: BlobId,
    /// Bytes.
    pub size: u64,
    /// All chunks in order.
    pub chunks: Vec<ChunkId>,
    /// Parts that were not staged before.
    pub parts: Parts,
}

impl Uploaded {
    /// What the bytes are.
    pub fn content(&self) -> peer::Content {
        content(self.size, &self.chunks)
    }
}

/// A slot's database while a request is answered.
pub(super) struct Replica<'a> {
    pub(super) db: &'a Connection,
    pub(super) moment: Moment,
    /// The data of a proposal.
    pub(super) data: Option<&'a Arc<Uploaded>>,
    pub(super) changes: Changes,
}

/// The columns that [`held`] reads, and the rest of the question.
macro_rules! select_held {
    ($rest:literal) => {
        concat!(
            "SELECT path, version, blob_id, ballot, size, content, created_at, headers, tombstoned_at, hollow FROM blobs ",
            $rest
        )
    };
}

fn held(row: &SqlRow<'_>) -> Result<Held> {
    let blob_id = row.get_ref(2)?.as_str()?.parse().map_err(|_| corrupt("blob_id"))?;
    let content: Option<Vec<u8>> = row.get(5)?;
    Ok(Held {
        row: peer::Row {
            path: row.get(0)?,
            version: row.get(1)?,
            attempt: Attempt { blob_id, ballot: row.get(3)? },
            size: row.get(4)?,
            content: content.unwrap_or_default().try_into().unwrap_or_default(),
            created_at: query::time(row.get_ref(6)?.as_str()?)?,
            headers: row.get(7)?,
        },
        tombstoned_at: row.get_ref(8)?.as_str_or_null()?.map(query::time).transpose()?,
        hollow: row.get(9)?,
    })
}

fn proposal(row: &SqlRow<'_>) -> Result<Proposal> {
    decode(row.get_ref(0)?.as_blob()?).map_err(|_| corrupt("proposal"))
}

/// When the oldest try without an outcome was voted for.
pub(super) fn oldest_prepared(db: &Connection) -> Result<Option<Timestamp>> {
    let oldest: Option<i64> =
        db.prepare_cached("SELECT min(prepared_at) FROM prepared")?.query_row([], |row| row.get(0))?;
    Ok(oldest.map(Timestamp))
}

/// Tries without an outcome that were voted for at or before `until`, with their paths.
pub(super) fn in_doubt(db: &Connection, until: Timestamp, limit: usize) -> Result<Vec<(String, InDoubt)>> {
    let proposals: Vec<Proposal> = db
        .prepare_cached(
            "SELECT proposal FROM prepared WHERE prepared_at <= ?1 ORDER BY prepared_at LIMIT ?2",
        )?
        .query_map((until.0, limit), proposal)?
        .collect::<Result<_>>()?;
    let in_doubt = |proposal: Proposal| {
        let Proposal { row, coordinator, basis, .. } = proposal;
        (row.path, InDoubt { attempt: row.attempt, version: row.version, coordinator, basis })
    };
    Ok(proposals.into_iter().map(in_doubt).collect())
}

/// Committed versions with row numbers above `after`, with the last one's.
pub(super) fn page(db: &Connection, after: i64, limit: usize) -> Result<(Vec<Held>, Option<i64>)> {
    let rows = rows_after(db, after, limit)?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(row, _)| row.0);
    Ok((rows.into_iter().map(|(_, held)| held).collect(), next))
}

/// Committed versions with row numbers above `after`.
pub(super) fn rows_after(db: &Connection, after: i64, limit: usize) -> Result<Vec<(Row, Held)>> {
    db.prepare_cached(
        "SELECT path, version, blob_id, ballot, size, content, created_at, headers, tombstoned_at, hollow, pk
         FROM blobs WHERE pk > ?1 ORDER BY pk LIMIT ?2",
    )?
    .query_map((after, limit), |row| Ok((Row(row.get(10)?), held(row)?)))?
    .collect()
}

/// The items of up to `limit` blobs of a range, in order.
pub(super) fn items(db: &Connection, range: Range, limit: usize) -> Result<Vec<Items>> {
    let Range { first, last } = range;
    let items = |row: &SqlRow<'_>| digest::items(&held(row)?).map_err(|_| corrupt("row"));
    db.prepare_cached(select_held!("WHERE blob_id BETWEEN ?1 AND ?2 ORDER BY blob_id LIMIT ?3"))?
        .query_map((first.to_string(), last.to_string(), limit), items)?
        .collect()
}

/// The versions of these blobs, as far as they are committed.
pub(super) fn of_blobs(db: &Connection, blobs: &[BlobId]) -> Result<Vec<Held>> {
    let mut statement = db.prepare_cached(select_held!("WHERE blob_id = ?1"))?;
    let of_blob = |blob: &BlobId| statement.query_row([blob.to_string()], held).optional().transpose();
    blobs.iter().filter_map(of_blob).collect()
}

/// How many live versions lack their chunks.
pub(super) fn count_hollow(db: &Connection) -> Result<u64> {
    db.prepare_cached("SELECT count(*) FROM blobs WHERE hollow = 1 AND tombstoned_at IS NULL")?
        .query_row([], |row| row.get(0))
}

/// Live versions whose chunks are not here.
pub(super) fn hollow(db: &Connection, limit: usize) -> Result<Vec<Held>> {
    db.prepare_cached(select_held!("WHERE hollow = 1 AND tombstoned_at IS NULL ORDER BY pk LIMIT ?1"))?
        .query_map([limit], held)?
        .collect()
}

/// Versions tombstoned at or before `until` whose chunks were not dropped.
pub(super) fn buried(db: &Connection, until: Timestamp, limit: usize) -> Result<Vec<(Row, Held)>> {
    db.prepare_cached(
        "SELECT path, version, blob_id, ballot, size, content, created_at, headers, tombstoned_at, hollow, pk
         FROM blobs WHERE tombstoned_at IS NOT NULL AND dropped_at IS NULL AND tombstoned_at <= ?1
         ORDER BY tombstoned_at LIMIT ?2",
    )?
    .query_map((until.to_string(), limit), |row| Ok((Row(row.get(10)?), held(row)?)))?
    .collect()
}

/// Whether anything names a blob: a version or a try.
pub(super) fn is_named(db: &Connection, blob: BlobId) -> Result<bool> {
    Ok(query::is_known(db, blob)?
        || db.prepare_cached("SELECT 1 FROM prepared WHERE blob_id = ?1")?.exists([blob.to_string()])?)
}

/// The staged parts of a blob.
fn staged(db: &Connection, blob: BlobId) -> Result<Option<Row>> {
    db.prepare_cached("SELECT pk FROM uploads WHERE blob_id = ?1")?
        .query_row([blob.to_string()], |row| row.get(0).map(Row))
        .optional()
}

/// Whether those parts of a blob are here that were staged: another database may have taken the place of the one that had them.
pub(super) fn has_staged(db: &Connection, data: &Uploaded) -> Result<bool> {
    if data.parts.first == 0 {
        return Ok(true);
    }
    let Some(row) = staged(db, data.blob_id)? else { return Ok(false) };
    let count: u64 = db
        .prepare_cached("SELECT count(*) FROM parts WHERE key BETWEEN ?1 AND ?2")?
        .query_row(part_keys(row), |row| row.get(0))?;
    Ok(count >= data.parts.first)
}

/// Forgets what was staged of a blob.
pub(super) fn discard(db: &Connection, blob: BlobId) -> Result<()> {
    apply::abandon(db, staged(db, blob)?)
}

/// Gives a hollow version its chunks; false: it is not hollow any more, or deleted, or what was staged of them is gone.
pub(super) fn fill(db: &Connection, data: &Uploaded, seq: u64) -> Result<bool> {
    let row: Option<i64> = db
        .prepare_cached(
            "SELECT pk FROM blobs WHERE blob_id = ?1 AND hollow = 1 AND tombstoned_at IS NULL AND content = ?2",
        )?
        .query_row((data.blob_id.to_string(), &data.content()[..]), |row| row.get(0))
        .optional()?;
    let Some(row) = row.map(Row) else { return Ok(false) };
    if !has_staged(db, data)? {
        return Ok(false);
    }
    if let Some(from) = staged(db, data.blob_id)? {
        apply::move_parts(db, from, row)?;
        apply::abandon(db, Some(from))?;
    }
    apply::insert_parts(db, row, &data.parts)?;
    db.prepare_cached("UPDATE blobs SET hollow = 0, chunks = ?1, seq = ?2 WHERE pk = ?3")?.execute((
        apply::chunk_list(&data.chunks, data.size),
        seq,
        row.0,
    ))?;
    Ok(true)
}

impl<'a> Replica<'a> {
    pub(super) fn new(db: &'a Connection, moment: Moment, data: Option<&'a Arc<Uploaded>>) -> Self {
        Self { db, moment, data, changes: Changes::default() }
    }

    fn insert(&mut self, pk: Row, row: &peer::Row, chunks: &str, hollow: bool) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO blobs (pk, path, version, blob_id, ballot, size, content, created_at, seq, headers, hollow, chunks)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute((
                pk.0,
                &row.path,
                row.version,
                row.attempt.blob_id.to_string(),
                row.attempt.ballot,
                row.size,
                &row.content[..],
                row.created_at.to_string(),
                self.moment.seq,
                &row.headers,
                hollow,
                chunks,
            ))?;
        let mut change = Digest::default();
        change.add(digest::version(row).map_err(|_| corrupt("row"))?);
        self.changes.digest.push((pk, change));
        self.changes.paths.push(row.path.clone());
        self.changes.hollow += i64::from(hollow);
        Ok(())
    }
}

impl Rows for Replica<'_> {
    type Error = rusqlite::Error;

    fn versions(&mut self, path: &str, query: Query) -> Result<Vec<Held>> {
        let (below, limit) = match query {
            Query::At(version) => {
                return self
                    .db
                    .prepare_cached(select_held!("WHERE path = ?1 AND version = ?2"))?
                    .query_map((path, version), held)?
                    .collect();
            }
            Query::Newest => (i64::MAX.cast_unsigned(), 1),
            Query::Below { version, limit } => (version, limit),
        };
        self.db
            .prepare_cached(select_held!("WHERE path = ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3"))?
            .query_map((path, below, limit), held)?
            .collect()
    }

    fn committed(&mut self, blob: BlobId) -> Result<Option<Held>> {
        self.db
            .prepare_cached(select_held!("WHERE blob_id = ?1"))?
            .query_row([blob.to_string()], held)
            .optional()
    }

    fn prepared(&mut self, blob: BlobId) -> Result<Option<Proposal>> {
        self.db
            .prepare_cached("SELECT proposal FROM prepared WHERE blob_id = ?1")?
            .query_row([blob.to_string()], proposal)
            .optional()
    }

    fn prepared_on(&mut self, path: &str) -> Result<Vec<Proposal>> {
        self.db
            .prepare_cached("SELECT proposal FROM prepared WHERE path = ?1")?
            .query_map([path], proposal)?
            .collect()
    }

    fn is_refused(&mut self, attempt: Attempt) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM refusals WHERE blob_id = ?1 AND ballot IN (?2, ?3)")?.exists((
            attempt.blob_id.to_string(),
            attempt.ballot,
            EVERY_BALLOT,
        ))
    }

    fn prepare(&mut self, proposal: &Proposal) -> Result<()> {
        let row = &proposal.row;
        let data = self.data.ok_or_else(|| corrupt("a vote without data"))?;
        let pk = match staged(self.db, row.attempt.blob_id)? {
            Some(pk) => {
                self.db.prepare_cached("DELETE FROM uploads WHERE pk = ?1")?.execute([pk.0])?;
                pk
            }
            None => query::next_row(self.db)?,
        };
        apply::insert_parts(self.db, pk, &data.parts)?;
        let encoded = encode(proposal).map_err(|_| corrupt("proposal"))?;
        self.db
            .prepare_cached(
                "INSERT INTO prepared (pk, path, version, blob_id, ballot, prepared_at, chunks, proposal)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute((
                pk.0,
                &row.path,
                row.version,
                row.attempt.blob_id.to_string(),
                row.attempt.ballot,
                self.moment.now.0,
                apply::chunk_list(&data.chunks, data.size),
                encoded,
            ))?;
        Ok(())
    }

    fn forget(&mut self, attempt: Attempt) -> Result<()> {
        let (blob, ballot) = (attempt.blob_id.to_string(), attempt.ballot);
        let small = self.prepared(attempt.blob_id)?.is_some_and(|proposal| proposal.row.size <= INLINE_MAX);
        if small {
            // The next try brings its bytes again.
            let pk: Option<i64> = self
                .db
                .prepare_cached("SELECT pk FROM prepared WHERE blob_id = ?1 AND ballot = ?2")?
                .query_row((&blob, ballot), |row| row.get(0))
                .optional()?;
            apply::abandon(self.db, pk.map(Row))?;
            self.db
                .prepare_cached("DELETE FROM prepared WHERE blob_id = ?1 AND ballot = ?2")?
                .execute((blob, ballot))?;
            return Ok(());
        }
        // Its parts may serve another try.
        self.db
            .prepare_cached(
                "INSERT INTO uploads (pk, blob_id) SELECT pk, blob_id FROM prepared WHERE blob_id = ?1 AND ballot = ?2",
            )?
            .execute((&blob, ballot))?;
        self.db
            .prepare_cached("DELETE FROM prepared WHERE blob_id = ?1 AND ballot = ?2")?
            .execute((blob, ballot))?;
        Ok(())
    }

    fn refuse(&mut self, attempt: Attempt) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO refusals (blob_id, ballot) VALUES (?1, ?2)")?
            .execute((attempt.blob_id.to_string(), attempt.ballot))?;
        Ok(())
    }

    fn commit(&mut self, attempt: Attempt) -> Result<()> {
        let blob = attempt.blob_id.to_string();
        let (pk, proposal, chunks): (i64, Proposal, String) = self
            .db
            .prepare_cached("SELECT proposal, pk, chunks FROM prepared WHERE blob_id = ?1 AND ballot = ?2")?
            .query_row((&blob, attempt.ballot), |row| Ok((row.get(1)?, proposal(row)?, row.get(2)?)))?;
        self.db.prepare_cached("DELETE FROM prepared WHERE pk = ?1")?.execute([pk])?;
        self.insert(Row(pk), &proposal.row, &chunks, false)
    }

    fn commit_hollow(&mut self, row: &peer::Row) -> Result<()> {
        let pk = query::next_row(self.db)?;
        self.insert(pk, row, "[]", true)
    }

    fn tombstone(&mut self, row: &peer::Row, at: Timestamp) -> Result<()> {
        let blob = row.attempt.blob_id;
        let found: Option<(Row, Option<Timestamp>, bool)> = self
            .db
            .prepare_cached("SELECT pk, tombstoned_at, hollow FROM blobs WHERE blob_id = ?1")?
            .query_row([blob.to_string()], |row| {
                let before = row.get_ref(1)?.as_str_or_null()?.map(query::time).transpose()?;
                Ok((Row(row.get(0)?), before, row.get(2)?))
            })
            .optional()?;
        let Some((pk, before, hollow)) = found else { return Ok(()) };
        if before.is_some_and(|before| before <= at) {
            return Ok(());
        }
        self.db.prepare_cached("UPDATE blobs SET tombstoned_at = ?1, seq = ?2 WHERE pk = ?3")?.execute((
            at.to_string(),
            self.moment.seq,
            pk.0,
        ))?;
        let mut change = Digest::default();
        if let Some(before) = before {
            change.remove(digest::tombstone(blob, before));
        }
        change.add(digest::tombstone(blob, at));
        self.changes.digest.push((pk, change));
        self.changes.paths.push(row.path.clone());
        if before.is_none() && hollow {
            self.changes.hollow -= 1;
        }
        Ok(())
    }

    fn archived(&mut self, blob: BlobId, chunk: ChunkId) -> Result<Option<ArchiveRow>> {
        archives::row_of_chunk(self.db, blob, chunk)
    }

    fn archive(&mut self, path: &str, row: &ArchiveRow) -> Result<()> {
        self.changes.paths.push(path.to_owned());
        archives::take(self.db, path, row, self.moment)
    }

    fn naming(&mut self, target: &str) -> Result<Vec<BlobId>> {
        archives::naming(self.db, target)
    }

    fn unname(&mut self, blob: BlobId, target: &str) -> Result<()> {
        archives::unname(self.db, blob, target, self.moment.now)
    }

    fn is_condemned(&mut self, target: &str) -> Result<bool> {
        archives::is_condemned(self.db, target)
    }

    fn condemn(&mut self, target: &str) -> Result<()> {
        archives::condemn(self.db, target)
    }
}

/// A version as all replicas know it, as one node's own reads know it.
pub fn as_meta(held: &Held, row: Row) -> BlobMeta {
    BlobMeta {
        row,
        version: held.row.version,
        blob_id: held.row.attempt.blob_id,
        size: held.row.size,
        created_at: held.row.created_at,
        tombstoned_at: held.tombstoned_at,
        headers: held.row.headers.clone(),
        hollow: held.hollow,
    }
}
