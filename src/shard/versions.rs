//! `GET ?versions` and `GET ?chunks`: what a path consists of, in pages.

use std::collections::HashSet;
use std::rc::Rc;

use serde::Serialize;

use super::answers::Answer;
use super::core::Core;
use super::get::{find, missing};
use super::list::limit;
use super::replicated;
use super::reply::{Failure, Handled, Reply, refuse, room_for_page};
use crate::base::error::{Code, Error};
use crate::base::parts::{ChunkRef, chunk_refs};
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::limits::{DELETE_PAGE, NUMBER_MAX};
use crate::meta::slots::State;
use crate::meta::types::BlobMeta;
use crate::wire::forward::Scope;
use crate::wire::peer::{Held, Query as PeerQuery};
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
pub(super) async fn versions(core: &Rc<Core>, path: &BlobPath, query: &Query) -> Handled {
    let limit = limit(query)?;
    let below = cursor(query, NUMBER_MAX + 1)?;
    let slot = Slot::of(path);
    let share = room_for_page(core, limit).await?;
    let mut entries = entries(core, slot, path, query, below, limit + 1).await?;
    if entries.is_empty() && query.text(Key::Cursor).is_none() {
        return refuse(Code::BlobNotFound, format!("there is no blob '{path}'"));
    }
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_cursor = entries.last().filter(|_| more).map(|last| last.version.to_string());
    Ok(Reply::page(&VersionsAnswer { path, versions: entries, next_cursor }, share))
}

/// At most `limit` versions below a number.
async fn entries(
    core: &Rc<Core>,
    slot: Slot,
    path: &BlobPath,
    query: &Query,
    below: u64,
    limit: usize,
) -> Result<Vec<VersionEntry>, Failure> {
    let local = replicated::wants_local(query) && replicated::is_here(core, slot);
    if !local && let Some(replica) = replicated::replica(core, slot)? {
        let mut entries: Vec<VersionEntry> = Vec::new();
        let mut below = below;
        // What replicas disagree about may end a page early.
        while entries.len() < limit {
            let left = ((limit - entries.len()) as u32).min(DELETE_PAGE);
            let known = replica.read(path, PeerQuery::Below { version: below, limit: left }).await?;
            below = known.held.last().map_or(0, |held| held.row.version);
            entries.extend(known.held.into_iter().map(VersionEntry::from));
            if known.complete || below == 0 {
                break;
            }
        }
        return Ok(entries);
    }
    let records = match core.node.slots.state(slot) {
        State::Unborn => Vec::new(),
        _ => core.node.readers.versions(slot, path, below, limit).await?,
    };
    Ok(records.into_iter().map(VersionEntry::from).collect())
}

impl From<BlobMeta> for VersionEntry {
    fn from(record: BlobMeta) -> Self {
        Self {
            version: record.version,
            blob_id: record.blob_id.to_string(),
            size: record.size,
            created_at: record.created_at.to_string(),
            tombstoned_at: record.tombstoned_at.map(|time| time.to_string()),
        }
    }
}

impl From<Held> for VersionEntry {
    fn from(held: Held) -> Self {
        Self {
            version: held.row.version,
            blob_id: held.row.attempt.blob_id.to_string(),
            size: held.row.size,
            created_at: held.row.created_at.to_string(),
            tombstoned_at: held.tombstoned_at.map(|time| time.to_string()),
        }
    }
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

/// The live version that is asked for, if it is on this node, chunks and all.
async fn here(core: &Rc<Core>, path: &BlobPath, query: &Query) -> Result<Rc<Answer>, Failure> {
    let (slot, version) = (Slot::of(path), query.version()?);
    let local = replicated::wants_local(query) && replicated::is_here(core, slot);
    let mut whole = None;
    if !local && let Some(replica) = replicated::replica(core, slot)? {
        let known = replica.read(path, version.map_or(PeerQuery::Newest, PeerQuery::At)).await?;
        let Some(live) = known.held.first().filter(|held| held.tombstoned_at.is_none()) else {
            return Err(missing(path, version).into());
        };
        whole = Some((live.row.attempt.blob_id, replica.others_of(known.whole), live.row.version));
    }
    let found = find(core, path, version).await;
    match (found, whole) {
        (Ok(answer), None) if !answer.record.hollow => Ok(answer),
        (Ok(answer), Some((blob, ..))) if !answer.record.hollow && answer.record.blob_id == blob => {
            Ok(answer)
        }
        (_, Some((_, others, version))) => Err(Failure::Elsewhere(others, Scope::OwnVersion(version))),
        (Ok(_), None) => replicated::elsewhere(core, slot),
        (Err(failure), None) => Err(failure),
    }
}

/// The chunks of one version, in order.
pub(super) async fn chunks(core: &Rc<Core>, path: &BlobPath, query: &Query) -> Handled {
    let limit = limit(query)? as u64;
    let first = cursor(query, 0)?;
    let answer = here(core, path, query).await?;
    let record = &answer.record;
    let total = record.chunks();
    let count = total.saturating_sub(first).min(limit);
    let share = room_for_page(core, count as usize).await?;
    let (slot, readers) = (Slot::of(path), &core.node.readers);
    let ids = readers.chunk_ids(slot, record.row, first, count).await?;
    let dropped = match core.node.archive {
        Some(_) => readers.dropped_among(slot, record.row, ids.clone()).await?,
        None => HashSet::new(),
    };
    let entry = |chunk: ChunkRef| ChunkEntry {
        id: chunk.id.to_string(),
        len: chunk.len,
        location: if dropped.contains(&chunk.id) { "archived" } else { "local" },
    };
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
