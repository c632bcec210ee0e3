//! `GET ?versions` and `GET ?chunks`: what a path consists of, in pages.

use serde::Serialize;

use super::core::Core;
use super::get::find;
use super::list::limit;
use super::reply::{Failure, Handled, Reply, refuse, room_for_page};
use crate::base::error::{Code, Error};
use crate::base::parts::{ChunkRef, chunk_refs};
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::limits::NUMBER_MAX;
use crate::meta::slots::State;
use crate::wire::query::{Key, Query};

#[derive(Serialize)]
struct VersionEntry {
    version: u64,
    blob_id: String,
    size: u64,
    created_at: String,
    tombstoned_at: Option<String>,
}

#[derive(Serialize)]
struct VersionsAnswer<'a> {
    path: &'a str,
    versions: Vec<VersionEntry>,
    next_cursor: Option<String>,
}

/// A cursor of these pages is a number.
fn cursor(query: &Query, first: u64) -> Result<u64, Failure> {
    let Some(text) = query.text(Key::Cursor) else { return Ok(first) };
    let number = text.parse::<u64>().ok().filter(|number| *number <= NUMBER_MAX);
    number.ok_or_else(|| Error::new(Code::BadRequest, "the cursor is not one of this listing").into())
}

/// Versions, newest first, tombstones marked.
pub(super) async fn versions(core: &Core, path: &BlobPath, query: &Query) -> Handled {
    let limit = limit(query)?;
    let below = cursor(query, NUMBER_MAX + 1)?;
    let slot = Slot::of(path);
    let share = room_for_page(core, limit).await?;
    let mut records = match core.node.slots.state(slot) {
        State::Unborn => Vec::new(),
        _ => core.node.readers.versions(slot, path, below, limit + 1).await?,
    };
    if records.is_empty() && query.text(Key::Cursor).is_none() {
        return refuse(Code::BlobNotFound, format!("there is no blob '{path}'"));
    }
    let more = records.len() > limit;
    records.truncate(limit);
    let next_cursor = records.last().filter(|_| more).map(|last| last.version.to_string());
    let entry = |record: crate::meta::types::BlobMeta| VersionEntry {
        version: record.version,
        blob_id: record.blob_id.to_string(),
        size: record.size,
        created_at: record.created_at.to_string(),
        tombstoned_at: record.tombstoned_at.map(|time| time.to_string()),
    };
    let versions = records.into_iter().map(entry).collect();
    Ok(Reply::page(&VersionsAnswer { path, versions, next_cursor }, share))
}

#[derive(Serialize)]
struct ChunkEntry {
    id: String,
    len: u64,
    location: &'static str,
}

#[derive(Serialize)]
struct ChunksAnswer<'a> {
    path: &'a str,
    version: u64,
    blob_id: String,
    chunks: Vec<ChunkEntry>,
    next_cursor: Option<String>,
}

/// The chunks of one version, in order.
pub(super) async fn chunks(core: &Core, path: &BlobPath, query: &Query) -> Handled {
    let limit = limit(query)? as u64;
    let first = cursor(query, 0)?;
    let answer = find(core, path, query.version()?).await?;
    let record = &answer.record;
    let total = record.chunks();
    let count = total.saturating_sub(first).min(limit);
    let share = room_for_page(core, count as usize).await?;
    let ids = core.node.readers.chunk_ids(Slot::of(path), record.row, first, count).await?;
    let entry = |chunk: ChunkRef| ChunkEntry { id: chunk.id.to_string(), len: chunk.len, location: "local" };
    let next = first.saturating_add(count);
    let answer = ChunksAnswer {
        path,
        version: record.version,
        blob_id: record.blob_id.to_string(),
        chunks: chunk_refs(&ids, first, record.size).map(entry).collect(),
        next_cursor: (next < total).then(|| next.to_string()),
    };
    Ok(Reply::page(&answer, share))
}
