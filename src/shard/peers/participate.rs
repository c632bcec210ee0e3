//! A replica's part: what the pure participant needs to know of this node, and the slot's writer to ask it in one transaction.

use std::rc::Rc;
use std::sync::Arc;

use super::cluster::Cluster;
use crate::base::error::{Code, Error};
use crate::base::hashes::Hashes;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{Part, Parts};
use crate::base::slot::Slot;
use crate::limits::{ARCHIVE_TARGET_MAX, DELETE_PAGE, GRANULE_SIZE, INLINE_MAX, PAGE_MAX, SPREAD_ROWS};
use crate::meta::replica::Uploaded;
use crate::replication::participant::Surroundings;
use crate::shard::core::Core;
use crate::wire::peer::{Proposal, Query, Reply, Request, Response, Standing, archive};

/// Answers a request of a coordinator; none: it cannot be answered now.
pub(super) async fn participate(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    request: Request,
) -> Option<Response> {
    match try_participate(core, cluster, request).await {
        Ok(reply) => Some(reply),
        Err(error) => {
            tracing::debug!(%error, "this replica cannot answer");
            None
        }
    }
}

pub(super) async fn try_participate(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    mut request: Request,
) -> Result<Response, Error> {
    let slot = Slot::of(request.path());
    let node = &core.node;
    if !cluster.topology().is_mine(slot) {
        return Err(Error::new(Code::BadRequest, format!("this node is no replica of slot {slot}")));
    }
    // Its writer would make the slot, and then it looks like the data of a node that ran alone.
    cluster.group(slot)?;
    check(&request)?;
    let mut around = Surroundings { has_data: false, has_room: false, is_live: false };
    let mut data = None;
    let mut blob = None;
    match &mut request {
        Request::Read { .. } => {
            node.slots.admit(slot)?;
            return node.readers.peer(slot, request).await;
        }
        Request::Prepare { proposal, inline } => {
            super::membership::learn(cluster, slot, &proposal.members).await?;
            data = match inline.take() {
                Some(bytes) => Some(Arc::new(inline_upload(proposal.row.attempt.blob_id, bytes))),
                None => cluster.uploads.get(proposal.row.attempt.blob_id),
            };
            around.has_data = data.as_ref().is_some_and(|data| is_proposed(data, proposal));
            around.has_room = node.disk(slot).has_room(0);
        }
        Request::Ask { attempt, .. } => around.is_live = cluster.coordinating.contains(attempt.blob_id),
        Request::Commit { row, .. } => blob = Some(row.attempt.blob_id),
        Request::Abort { .. } | Request::Finish { .. } | Request::Archive(_) => {}
    }
    let asked_about = match &request {
        Request::Ask { attempt, .. } => Some(*attempt),
        _ => None,
    };
    let brings_rows = matches!(request, Request::Archive(archive::Request::Rows { .. }));
    let response = node.writers.peer(slot, request, data, around).await?;
    if brings_rows && let Some(desk) = &node.archive {
        // Those who told of a row may go; and the row that it replaced leaves an object.
        desk.note_unspread(slot);
        desk.note_leftovers(slot);
    }
    let reply = &response.reply;
    if let (Some(blob), Reply::Done { .. }) = (blob, reply) {
        // A row that came before its vote gets the bytes that are here.
        if !cluster.coordinating.contains(blob)
            && let Some(data) = cluster.uploads.get(blob)
            && let Err(error) = node.writers.fill(slot, data).await
        {
            tracing::debug!(%slot, %blob, %error, "bytes that are here will be fetched");
        }
        // One that is still coming in stays live until it is here.
        let was_here = cluster.uploads.remove(blob);
        if was_here && !cluster.coordinating.contains(blob) {
            node.live.remove(blob);
        }
    }
    if let (Some(attempt), Reply::Standing(Standing::Refused)) = (asked_about, reply) {
        tracing::debug!(blob = %attempt.blob_id, ballot = attempt.ballot, "a try is refused for good");
    }
    Ok(response)
}

/// Bounds of what a peer may ask for.
fn check(request: &Request) -> Result<(), Error> {
    let good = match request {
        Request::Read { query: Query::Below { limit, .. }, .. } => *limit as usize <= PAGE_MAX + 1,
        Request::Prepare { inline: Some(bytes), .. } => bytes.len() as u64 <= INLINE_MAX,
        Request::Archive(archive::Request::Rows { rows, .. }) => {
            rows.len() <= SPREAD_ROWS && rows.iter().all(archive::ArchiveRow::is_sound)
        }
        Request::Archive(archive::Request::Condemn { targets, .. }) => {
            targets.len() <= SPREAD_ROWS && targets.iter().all(|target| target.len() <= ARCHIVE_TARGET_MAX)
        }
        Request::Finish { versions, .. } => versions.len() <= (DELETE_PAGE as usize).max(PAGE_MAX + 1),
        _ => true,
    };
    if good { Ok(()) } else { Err(Error::new(Code::BadRequest, "a peer asks for more than there can be")) }
}

fn is_proposed(data: &Uploaded, proposal: &Proposal) -> bool {
    (data.size, data.content()) == (proposal.row.size, proposal.row.content)
}

/// The data of a blob that makes no file.
pub(in crate::shard) fn inline_upload(blob_id: BlobId, bytes: bytes::Bytes) -> Uploaded {
    let size = bytes.len() as u64;
    if bytes.is_empty() {
        return Uploaded { blob_id, size, chunks: Vec::new(), parts: Parts::default() };
    }
    let granules = bytes.len() - bytes.len() % GRANULE_SIZE as usize;
    let mut hashes = Hashes::new(false);
    hashes.update(&bytes[..granules]);
    let ended = hashes.end_chunk(&bytes[granules..]);
    let chunk = ChunkId(ended.id);
    let parts = vec![Part { chunk, sums: ended.sums }];
    let parts = Parts { parts, inline: vec![(0, bytes)], ..Parts::default() };
    Uploaded { blob_id, size, chunks: vec![chunk], parts }
}
