//! Which versions that were committed here without their chunks get them now. How they are fetched stands in [`fetching`].
//! Until then reads of the version go to another replica.

mod fetching;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::sleep;

use super::{Pauses, each};
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::limits::{CHORE_PAUSE_MAX, CHORES, FILL_BATCH, FILLS};
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::upload::discard_files;
use crate::wire::peer::Held;

/// Fetches what this core's slots lack for as long as it runs.
pub(super) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let pauses: Rc<RefCell<Pauses<BlobId>>> = Rc::new(RefCell::new(Pauses::new(CHORE_PAUSE_MAX)));
    let mut slot_pauses: Pauses<Slot> = Pauses::new(CHORE_PAUSE_MAX);
    let mut occasion = cluster.syncing.occasion();
    loop {
        let now = cluster.syncing.occasion();
        if std::mem::replace(&mut occasion, now) != now {
            pauses.borrow_mut().end_all();
            slot_pauses.end_all();
        }
        let lacking = lacking(&core, &pauses, &mut slot_pauses).await;
        if lacking.is_empty() {
            sleep(CHORES).await;
            continue;
        }
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
        if !slot_pauses.is_over(&slot) || slots.hollow(slot) == 0 {
            continue;
        }
        let hollow = match core.node.readers.hollow(slot, FILL_BATCH).await {
            Ok(hollow) => hollow,
            Err(error) => {
                tracing::debug!(%slot, %error, "cannot look for versions without chunks");
                slot_pauses.lengthen(slot);
                continue;
            }
        };
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
    if !node.live.insert(blob) {
        return Err(Error::new(Code::SlotUnavailable, "an upload of the blob is under way"));
    }
    // It may have got them since it was looked at; from here on nobody else writes them.
    let filled = match is_hollow(core, slot, held).await {
        Ok(true) => fetching::from_any(core, cluster, slot, held).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    // Of a version that was deleted meanwhile, whose directory may have gone before the last of its chunks came, nothing may stay.
    let found = node.readers.find(slot, &held.row.path, Some(held.row.version)).await;
    if found.is_ok_and(|found| found.record.is_some_and(|record| record.tombstoned_at.is_some())) {
        discard_files(core, slot, blob).await;
    }
    node.live.remove(blob);
    filled
}

/// Whether a version still lacks its chunks.
async fn is_hollow(core: &Rc<Core>, slot: Slot, held: &Held) -> Result<bool> {
    let found = core.node.readers.find(slot, &held.row.path, Some(held.row.version)).await?;
    Ok(found.record.is_some_and(|record| record.hollow && record.tombstoned_at.is_none()))
}
