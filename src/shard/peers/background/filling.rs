//! Fetching the chunks of versions that were committed here without them, from a replica that has them.
//!
//! The bytes come like those of an upload, are hashed and written like them, and count only if they are the ones that the
//! version was decided with. Until then reads of the version go to another replica.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::{sleep, timeout};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Pauses, each};
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{CHORE_PAUSE_MAX, CHORES, CLUSTER_TIME, FILL_BATCH, FILLS, INLINE_MAX};
use crate::meta::replica::Uploaded;
use crate::shard::body::Body;
use crate::shard::connection::Plane;
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::link::{HOPS_FIELD, Link};
use crate::shard::peers::upload::Streams;
use crate::shard::reply::Failure;
use crate::shard::upload::{Upload, discard_files};
use crate::wire::head::Framing;
use crate::wire::peer::Held;

/// What stands in a path as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Fetches what this core's slots lack for as long as it runs.
pub(super) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let pauses: Rc<RefCell<Pauses<BlobId>>> = Rc::new(RefCell::new(Pauses::new(CHORE_PAUSE_MAX)));
    let mut slot_pauses: Pauses<Slot> = Pauses::new(CHORE_PAUSE_MAX);
    loop {
        sleep(CHORES).await;
        let lacking = lacking(&core, &pauses, &mut slot_pauses).await;
        let (core, cluster, pauses) = (Rc::clone(&core), Arc::clone(&cluster), Rc::clone(&pauses));
        each(lacking, FILLS, move |(slot, held): (Slot, Held)| {
            let (core, cluster, pauses) = (Rc::clone(&core), Arc::clone(&cluster), Rc::clone(&pauses));
            async move {
                let blob = held.row.attempt.blob_id;
                match fill(&core, &cluster, slot, &held).await {
                    Ok(()) => pauses.borrow_mut().end(&blob),
                    Err(error) => {
                        tracing::debug!(%slot, %blob, %error, "the chunks of a version cannot be fetched yet");
                        pauses.borrow_mut().lengthen(blob);
                    }
                }
            }
        })
        .await;
    }
}

/// Versions to be fetched now. A slot in which there are only such as failed just now is left alone for longer and longer.
async fn lacking(
    core: &Rc<Core>,
    pauses: &RefCell<Pauses<BlobId>>,
    slot_pauses: &mut Pauses<Slot>,
) -> Vec<(Slot, Held)> {
    let slots = &core.node.slots;
    let mut found = Vec::new();
    for slot in Slot::all().filter(|slot| core.owns(*slot)) {
        if found.len() >= FILL_BATCH {
            break;
        }
        if !slot_pauses.is_over(&slot) || !slots.take_hollow(slot) {
            continue;
        }
        let hollow = match core.node.readers.hollow(slot, FILL_BATCH).await {
            Ok(hollow) => hollow,
            Err(error) => {
                tracing::debug!(%slot, %error, "cannot look for versions without chunks");
                slots.set_hollow(slot);
                slot_pauses.lengthen(slot);
                continue;
            }
        };
        if hollow.is_empty() {
            slot_pauses.end(&slot);
            continue;
        }
        // It is looked at again until there are none.
        slots.set_hollow(slot);
        let before = found.len();
        let due = |held: &Held| pauses.borrow().is_over(&held.row.attempt.blob_id);
        found.extend(hollow.into_iter().filter(due).map(|held| (slot, held)));
        if found.len() > before {
            slot_pauses.end(&slot);
        } else {
            slot_pauses.lengthen(slot);
        }
    }
    found
}

/// Gives a version its chunks.
async fn fill(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot, held: &Held) -> Result<()> {
    let (node, blob) = (&core.node, held.row.attempt.blob_id);
    // They may have come here by themselves, only too late for the vote.
    if let Some(data) = cluster.uploads.get(blob)
        && data.content() == held.row.content
    {
        node.writers.fill(slot, data).await?;
        cluster.uploads.remove(blob);
        node.live.remove(blob);
        return Ok(());
    }
    if held.row.size > INLINE_MAX && !node.disk(slot).has_room(held.row.size) {
        return Err(Error::new(Code::DiskFull, "the disk has no room for it"));
    }
    if !node.live.insert(blob) {
        return Err(Error::new(Code::SlotUnavailable, "an upload of the blob is under way"));
    }
    // It may have got them since it was looked at; from here on nobody else writes them.
    let filled = match is_hollow(core, slot, held).await {
        Ok(true) => fetch_from_any(core, cluster, slot, held).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    node.live.remove(blob);
    filled
}

/// Whether a version still lacks its chunks.
async fn is_hollow(core: &Rc<Core>, slot: Slot, held: &Held) -> Result<bool> {
    let found = core.node.readers.find(slot, &held.row.path, Some(held.row.version)).await?;
    Ok(found.record.is_some_and(|record| record.hollow && record.tombstoned_at.is_none()))
}

async fn fetch_from_any(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot, held: &Held) -> Result<()> {
    let mut why = Error::new(Code::QuorumUnavailable, "there is no other replica");
    for from in cluster.others(slot).into_iter().filter(|node| cluster.is_reachable(*node)) {
        let mut upload = Upload::new(core, slot, held.row.attempt.blob_id, Streams::default());
        // What an attempt that a crash cut off has left is in the way.
        discard_files(core, slot, upload.blob).await;
        match fetch(core, cluster, from, held, &mut upload).await {
            Ok(data) => match core.node.writers.fill(slot, Arc::new(data)).await {
                // Or deleted meanwhile, and they go with the sweep; or not hollow any more, and they are needed.
                Ok(_) => return Ok(()),
                // It may be on disk: then the files are needed.
                Err(error) if error.code == Code::OutcomeUnknown => return Err(error),
                Err(error) => {
                    upload.discard().await;
                    why = error;
                }
            },
            Err(error) => {
                upload.discard().await;
                why = Error::new(
                    Code::SlotUnavailable,
                    format!("node '{}': {error}", cluster.topology().name(from)),
                );
            }
        }
    }
    Err(why)
}

/// Fetches a version's bytes from another replica to the disk.
async fn fetch(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    from: NodeId,
    wanted: &Held,
    upload: &mut Upload<'_>,
) -> io::Result<Uploaded> {
    let row = &wanted.row;
    let other = |what: &str| io::Error::other(what.to_owned());
    let path = utf8_percent_encode(&row.path, &PLAIN);
    let target = format!("/objects/{path}?version={}&consistency=local", row.version);
    let question = Link::head(core, from, "GET", &target).header(HOPS_FIELD, 1).write();
    let mut link = Link::open(core, from, false).await?;
    link.connection.send(question).await?;
    let answered = timeout(CLUSTER_TIME, link.answer()).await;
    let head = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    if head.status != 200 {
        return Err(io::Error::other(format!("it answers {}", head.status)));
    }
    if head.headers.get_str("etag") != Some(&format!("\"{}\"", row.attempt.blob_id)) {
        return Err(other("it has another blob of that version"));
    }
    if head.framing != Framing::Length(row.size) {
        return Err(other("its blob has another size"));
    }
    if row.size > INLINE_MAX {
        let birth = core.node.writers.birth(Slot::of(&row.path)).await;
        birth.map_err(|error| io::Error::other(error.message))?;
    }
    let mut body = Body::of_length(row.size, Plane::Peer(Some(from)));
    let received =
        upload.run(&mut link.connection, &mut body, false).await.map_err(|failure| match failure {
            Failure::Refused(error, _) => io::Error::other(error.message),
            _ => io::ErrorKind::UnexpectedEof.into(),
        })?;
    if head.keep_alive {
        link.keep(core);
    }
    let data = Uploaded {
        blob_id: row.attempt.blob_id,
        size: received.size,
        chunks: received.chunks,
        parts: received.parts,
    };
    if data.content() == row.content {
        Ok(data)
    } else {
        tracing::error!(node = cluster.topology().name(from), blob = %data.blob_id, "a replica sent other bytes");
        Err(other("its bytes are not those of the version"))
    }
}
