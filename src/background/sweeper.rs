//! Gives space back: directories of uploads that came to nothing, and chunks of versions deleted long enough ago.
//!
//! A directory goes only when no upload of this process works on its blob and its slot has no row for it; in a cluster, when
//! moreover every try of its blob has been refused for good. Chunks of a tombstoned version go after the grace time: files
//! first, their removal synced, then the note in the row, so that a crash in between only does it again. The row itself stays
//! for ever. In a cluster other nodes must be asked first: there the cores do it (`shard/peers/background/sweeping.rs`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, Result};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::chunk::{incoming, layout, sweep};
use crate::io::ballast::Ballast;
use crate::io::steps;
use crate::limits::{CHECK_RETRY, DROP_BATCH, ORPHAN_INTERVAL, SWEEP_TICK, VERIFY_PAUSE};
use crate::meta::reader;
use crate::meta::slots::State;
use crate::shard::node::Node;

mod strays;

/// Reads every database once after the start; damage takes its slot out of service.
async fn verify(node: Arc<Node>) {
    for slot in Slot::all() {
        if node.slots.state(slot) == State::Ready {
            let slots = Arc::clone(&node.slots);
            let read = move || {
                reader::verify(&slots, slot);
                Ok(())
            };
            if let Err(error) = blocking(read).await {
                tracing::warn!(%slot, %error, "a database could not be read through");
            }
            sleep(VERIFY_PAUSE).await;
        }
    }
}

/// Sweeps for as long as the node runs.
pub(super) async fn run(node: Arc<Node>) {
    while !node.slots_checked() {
        sleep(CHECK_RETRY).await;
        for slot in Slot::all().filter(|slot| node.slots.state(*slot) == State::Unchecked) {
            node.writers.recheck(slot).await;
        }
    }
    tokio_uring::spawn(verify(Arc::clone(&node)));
    let tick = (node.tombstone_grace / 2).clamp(Duration::from_millis(200), SWEEP_TICK);
    let mut orphans_at = Instant::now();
    tokio_uring::spawn(strays::run(Arc::clone(&node)));
    loop {
        if orphans_at <= Instant::now() {
            orphans_at = Instant::now() + ORPHAN_INTERVAL;
            for slot in Slot::all().filter(|slot| node.slots.state(*slot) == State::Ready) {
                remove_orphans(&node, slot).await;
            }
        }
        let until = Timestamp::now().minus(node.tombstone_grace);
        let alone = node.cluster.is_none();
        for slot in Slot::all().filter(|slot| alone && node.slots.has_tombstones(*slot, until)) {
            if let Err(error) = drop_chunks(&node, slot, until).await {
                tracing::warn!(%slot, %error, "chunks of deleted versions stay until the next sweep");
            }
        }
        let with_room: Vec<_> =
            node.disks.iter().filter(|disk| disk.has_room(0)).map(|disk| disk.ballast()).collect();
        let refill = move || {
            with_room.iter().for_each(Ballast::refill);
            Ok(())
        };
        // A ballast that cannot be taken is logged there.
        let _ = blocking(refill).await;
        sleep(tick).await;
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    steps: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let failed =
        |error: &dyn std::fmt::Display| Error::new(crate::base::error::Code::Internal, error.to_string());
    spawn_blocking(steps).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

async fn remove_orphans(node: &Arc<Node>, slot: Slot) {
    let slot_dir = node.slot_dir(slot).to_path_buf();
    let listed_dir = slot_dir.clone();
    let listed = match blocking(move || sweep::blobs_on_disk(&listed_dir)).await {
        Ok(listed) => listed,
        Err(error) => return tracing::warn!(%slot, %error, "cannot look for unfinished uploads"),
    };
    for blob in listed {
        // An upload enters its blob before the directory, and leaves after its commit. Until the directory is gone the blob is
        // this sweep's: a fill would count the files that it finds.
        if !node.live.insert(blob) {
            continue;
        }
        let removed = if may_go(node, slot, blob).await {
            Some(remove(slot_dir.clone(), vec![blob]).await)
        } else {
            None
        };
        node.live.remove(blob);
        match removed {
            None => {}
            Some(Ok(())) => {
                node.metrics.orphans_removed.inc();
                strays::count(node, "directory");
                tracing::info!(%slot, %blob, "removed what an unfinished upload left");
            }
            Some(Err(error)) => {
                tracing::warn!(%slot, %blob, %error, "cannot remove what an unfinished upload left");
            }
        }
    }
}

/// Whether nothing names a blob, and nothing will.
async fn may_go(node: &Node, slot: Slot, blob: BlobId) -> bool {
    let known = node.readers.is_known(slot, blob).await;
    if !matches!(known, Ok(false)) {
        return false;
    }
    // A replica that is recovering may yet hear of it.
    node.cluster.is_none()
        || !node.slots.is_recovering(slot) && matches!(node.writers.sweep(slot, blob).await, Ok(true))
}

async fn drop_chunks(node: &Arc<Node>, slot: Slot, until: Timestamp) -> Result<()> {
    loop {
        let batch = node.readers.undropped(slot, until, DROP_BATCH).await?;
        let (rows, blobs): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        if !blobs.is_empty() {
            remove(node.slot_dir(slot).to_path_buf(), blobs).await?;
        }
        let count = rows.len();
        node.writers.dropped(slot, rows).await?;
        node.metrics.versions_dropped.inc_by(count as u64);
        if let Some(desk) = &node.archive {
            // What they had in the archive is named by nothing any more.
            desk.note_leftovers(slot);
        }
        if count < DROP_BATCH {
            return Ok(());
        }
    }
}

/// Removes blobs' directories, for good when this returns.
async fn remove(slot_dir: PathBuf, blobs: Vec<BlobId>) -> Result<()> {
    blocking(move || {
        blobs.iter().try_for_each(|blob| incoming::discard(&slot_dir, *blob))?;
        match steps::sync_dir(&layout::blobs_dir(&slot_dir)) {
            // A slot whose chunks all live in its database has no such directory.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    })
    .await
}
