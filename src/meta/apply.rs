//! Changes to a slot, each inside the writer's transaction: a refused one has changed nothing.

use std::fmt::Write as _;

use rusqlite::Connection;

use super::schema::{part_key, part_keys};
use super::types::{BlobMeta, Failure, NewBlob, Row, Stored, Which};
use super::{archives, query};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{ChunkRef, Parts, chunk_refs};
use crate::limits::NUMBER_MAX;
use crate::wire::condition::{Conditions, Current, Verdict};

type Result<T> = std::result::Result<T, Failure>;

/// What a transaction knows of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Its number.
    pub seq: u64,
    /// Its time.
    pub now: Timestamp,
    /// Live versions a path keeps; 0: all.
    pub keep_versions: u64,
}

fn refuse<T>(code: Code, message: impl Into<std::borrow::Cow<'static, str>>) -> Result<T> {
    Err(Error::new(code, message).into())
}

fn live(record: Option<&BlobMeta>) -> Option<&BlobMeta> {
    record.filter(|record| record.tombstoned_at.is_none())
}

pub(super) fn check(conditions: &Conditions, current: Option<&BlobMeta>) -> Result<()> {
    if conditions.is_empty() {
        return Ok(());
    }
    let etag = current.map(|record| record.blob_id.to_string());
    let current = current
        .zip(etag.as_deref())
        .map(|(record, etag)| Current { etag, modified: record.created_at.seconds() });
    match conditions.evaluate_write(current) {
        Verdict::Proceed => Ok(()),
        _ => refuse(
            Code::PreconditionFailed,
            "a condition of the request does not hold for the current version",
        ),
    }
}

/// The answer to a PUT without a version after the last one.
pub(super) fn no_version_left(path: &str) -> Error {
    Error::new(Code::VersionConflict, format!("'{path}' has the highest version there can be"))
}

/// What a PUT will be refused for whatever its bytes are.
pub(super) fn admit(
    db: &Connection,
    path: &str,
    version: Option<u64>,
    conditions: &Conditions,
) -> Result<()> {
    let current = match version {
        Some(version) => query::at_version(db, path, version)?,
        None => query::newest(db, path)?,
    };
    match (version, &current) {
        (Some(version), Some(record)) if record.tombstoned_at.is_some() => refuse(
            Code::VersionConflict,
            format!(
                "version {version} of '{path}' was deleted and its number is not given again: use a higher one"
            ),
        ),
        (None, Some(record)) if record.version >= NUMBER_MAX => Err(no_version_left(path).into()),
        _ => check(conditions, live(current.as_ref())),
    }
}

/// Makes a blob visible.
pub(super) fn put(db: &Connection, new: &NewBlob, moment: Moment) -> Result<Stored> {
    admit(db, &new.path, new.version, &new.conditions)?;
    if let Some(version) = new.version
        && let Some(record) = query::at_version(db, &new.path, version)?
    {
        let same =
            record.size == new.size && query::chunk_ids(db, record.row, 0, record.chunks())? == new.chunks;
        return if same {
            abandon(db, new.staged)?;
            Ok(Stored { record, created: false })
        } else {
            refuse(
                Code::VersionConflict,
                format!("version {version} of '{}' exists with other bytes: use another version", new.path),
            )
        };
    }
    let version = match new.version {
        Some(version) => version,
        None => query::newest(db, &new.path)?.map_or(1, |newest| newest.version + 1),
    };
    let row = match new.staged {
        Some(row) => {
            db.prepare_cached("DELETE FROM uploads WHERE pk = ?1")?.execute([row.0])?;
            row
        }
        None => query::next_row(db)?,
    };
    let record = BlobMeta {
        row,
        version,
        blob_id: new.blob_id,
        size: new.size,
        created_at: moment.now,
        tombstoned_at: None,
        headers: new.headers.clone(),
        hollow: false,
    };
    insert(db, &record, new, moment.seq)?;
    if moment.keep_versions > 0 {
        tombstone_old(db, &new.path, row, moment)?;
    }
    Ok(Stored { record, created: true })
}

/// The rows of a version whose number and place are chosen.
pub(super) fn insert(db: &Connection, record: &BlobMeta, new: &NewBlob, seq: u64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO blobs (pk, path, version, blob_id, size, created_at, seq, headers, chunks)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute((
        record.row.0,
        &new.path,
        record.version,
        record.blob_id.to_string(),
        record.size,
        record.created_at.to_string(),
        seq,
        &record.headers,
        chunk_list(&new.chunks, new.size),
    ))?;
    insert_parts(db, record.row, &new.parts)
}

/// `[{"id": sha256, "len": bytes}, ...]`
pub(super) fn chunk_list(chunks: &[ChunkId], size: u64) -> String {
    let mut json = String::with_capacity(chunks.len() * 96 + 2);
    json.push('[');
    for (index, chunk) in chunk_refs(chunks, 0, size).enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_chunk(&mut json, chunk);
    }
    json.push(']');
    json
}

/// `{"id": sha256, "len": bytes}`, as it stands in the list.
pub(super) fn push_chunk(json: &mut String, ChunkRef { id, len }: ChunkRef) {
    // Writing to a String cannot fail.
    let _ = write!(json, "{{\"id\":\"{id}\",\"len\":{len}}}");
}

pub(super) fn insert_parts(db: &Connection, row: Row, parts: &Parts) -> rusqlite::Result<()> {
    let mut insert =
        db.prepare_cached("INSERT OR REPLACE INTO parts (key, chunk_id, sums) VALUES (?1, ?2, ?3)")?;
    for (number, part) in (parts.first..).zip(&parts.parts) {
        let sums: Vec<u8> = part.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        insert.execute((part_key(row, number), &part.chunk.0[..], sums))?;
    }
    if parts.inline.is_empty() {
        return Ok(());
    }
    let mut insert =
        db.prepare_cached("INSERT OR REPLACE INTO inline_chunks (key, bytes) VALUES (?1, ?2)")?;
    for (number, bytes) in &parts.inline {
        insert.execute((part_key(row, *number), &bytes[..]))?;
    }
    Ok(())
}

/// Stores parts of an upload that is still running; invisible until its PUT.
pub(super) fn stage(db: &Connection, staged: Option<Row>, blob_id: BlobId, parts: &Parts) -> Result<Row> {
    let row = if let Some(row) = staged {
        if !db.prepare_cached("SELECT 1 FROM uploads WHERE pk = ?1")?.exists([row.0])? {
            return refuse(
                Code::SlotUnavailable,
                "the slot has another database than the one the upload began with: send the blob again",
            );
        }
        row
    } else {
        let row = query::next_row(db)?;
        db.prepare_cached("INSERT INTO uploads (pk, blob_id) VALUES (?1, ?2)")?
            .execute((row.0, blob_id.to_string()))?;
        row
    };
    insert_parts(db, row, parts)?;
    Ok(row)
}

/// Forgets what an upload staged.
pub(super) fn abandon(db: &Connection, staged: Option<Row>) -> rusqlite::Result<()> {
    if let Some(row) = staged {
        delete_parts(db, row)?;
        db.prepare_cached("DELETE FROM uploads WHERE pk = ?1")?.execute([row.0])?;
    }
    Ok(())
}

/// Gives parts to another row.
pub(super) fn move_parts(db: &Connection, from: Row, to: Row) -> rusqlite::Result<()> {
    let (first, last) = part_keys(from);
    let shift = part_key(to, 0) - first;
    db.prepare_cached("UPDATE parts SET key = key + ?1 WHERE key BETWEEN ?2 AND ?3")?
        .execute((shift, first, last))?;
    db.prepare_cached("UPDATE inline_chunks SET key = key + ?1 WHERE key BETWEEN ?2 AND ?3")?
        .execute((shift, first, last))?;
    Ok(())
}

fn delete_parts(db: &Connection, row: Row) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM parts WHERE key BETWEEN ?1 AND ?2")?.execute(part_keys(row))?;
    db.prepare_cached("DELETE FROM inline_chunks WHERE key BETWEEN ?1 AND ?2")?.execute(part_keys(row))?;
    Ok(())
}

/// Tombstones versions of a path; answers with the highest of them.
pub(super) fn delete(
    db: &Connection,
    path: &str,
    which: Which,
    conditions: &Conditions,
    moment: Moment,
) -> Result<BlobMeta> {
    let newest = query::newest(db, path)?;
    let target = match which {
        Which::Newest => newest,
        Which::Version(version) => query::at_version(db, path, version)?,
        Which::All => newest_live(db, path)?,
    };
    let Some(target) = target.filter(|record| record.tombstoned_at.is_none()) else {
        return refuse(Code::BlobNotFound, format!("'{path}' has no such version to delete"));
    };
    check(conditions, Some(&target))?;
    let now = moment.now.to_string();
    if which == Which::All {
        db.prepare_cached(
            "UPDATE blobs SET tombstoned_at = ?1, seq = ?2 WHERE path = ?3 AND tombstoned_at IS NULL",
        )?
        .execute((now, moment.seq, path))?;
    } else {
        db.prepare_cached("UPDATE blobs SET tombstoned_at = ?1, seq = ?2 WHERE pk = ?3")?.execute((
            now,
            moment.seq,
            target.row.0,
        ))?;
    }
    Ok(target)
}

fn newest_live(db: &Connection, path: &str) -> Result<Option<BlobMeta>> {
    let version: Option<u64> = db
        .prepare_cached("SELECT max(version) FROM blobs WHERE path = ?1 AND tombstoned_at IS NULL")?
        .query_row([path], |row| row.get(0))?;
    Ok(version.map(|version| query::at_version(db, path, version)).transpose()?.flatten())
}

/// Tombstones all but the newest `keep_versions` live versions, and never the one just put.
fn tombstone_old(db: &Connection, path: &str, put: Row, moment: Moment) -> Result<()> {
    db.prepare_cached(
        "UPDATE blobs SET tombstoned_at = ?1, seq = ?2 WHERE path = ?3 AND tombstoned_at IS NULL AND pk <> ?5 AND version <
           (SELECT version FROM blobs WHERE path = ?3 AND tombstoned_at IS NULL ORDER BY version DESC LIMIT 1 OFFSET ?4)",
    )?
    .execute((moment.now.to_string(), moment.seq, path, moment.keep_versions - 1, put.0))?;
    Ok(())
}

/// Records that the chunks of tombstoned versions are gone; the rows stay, so that their numbers are never given again. What the
/// archive has of them is to go, too.
pub(super) fn dropped(db: &Connection, rows: &[Row], moment: Moment) -> Result<()> {
    for row in rows {
        delete_parts(db, *row)?;
        archives::leave_all(db, *row, moment.now)?;
        db.prepare_cached(
            "UPDATE blobs SET dropped_at = ?1, chunks = '[]' WHERE pk = ?2 AND tombstoned_at IS NOT NULL",
        )?
        .execute((moment.now.to_string(), row.0))?;
    }
    Ok(())
}
