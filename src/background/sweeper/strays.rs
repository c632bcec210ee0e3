//! Files in the directories of live versions that these do not name, and rows of tries that nothing works on.
//!
//! Uploads, fills and repairs write files under temporary names first, and a fill that was cut off leaves whole ones, as does a chunk
//! that went to the archive or came back from there; they go with the next attempt, or here. A file goes when it was seen by two looks, a
//! long time apart by the monotonic clock, and then no upload of this process works on its blob and the version, which has all of its
//! chunks, does not name it. Versions that still lack chunks are left alone, and those that are on their way to or from the archive:
//! what is there of them is wanted.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::blocking;
use crate::base::error::Result;
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::chunk::sweep;
use crate::limits::{STRAY_INTERVAL, STRAYS_MAX, VERIFY_PAUSE};
use crate::meta::slots::State;
use crate::metrics::SweptLabels;
use crate::shard::node::Node;

type Stray = (BlobId, OsString);

/// Looks for as long as the node runs.
pub(super) async fn run(node: Arc<Node>) {
    let interval = node.tombstone_grace.clamp(Duration::from_millis(500), STRAY_INTERVAL);
    let mut known: HashMap<Stray, Instant> = HashMap::new();
    loop {
        let mut seen = HashMap::new();
        for slot in Slot::all() {
            if node.slots.state(slot) != State::Ready {
                continue;
            }
            if let Err(error) = look(&node, slot, interval, &known, &mut seen).await {
                tracing::debug!(%slot, %error, "cannot look for files that nothing names");
            }
            sleep(VERIFY_PAUSE).await;
        }
        known = seen;
        sleep(interval).await;
    }
}

/// Counts what was removed.
pub(super) fn count(node: &Node, kind: &'static str) {
    node.metrics.swept.get_or_create(&SweptLabels { kind }).inc();
}

async fn look(
    node: &Arc<Node>,
    slot: Slot,
    grace: Duration,
    known: &HashMap<Stray, Instant>,
    seen: &mut HashMap<Stray, Instant>,
) -> Result<()> {
    forget_tries(node, slot).await?;
    let slot_dir = node.slot_dir(slot).to_path_buf();
    let listed = slot_dir.clone();
    for blob in blocking(move || sweep::blobs_on_disk(&listed)).await? {
        if node.live.contains(blob) || is_worked_on(node, blob) {
            continue;
        }
        let listed = slot_dir.clone();
        let files = blocking(move || sweep::files_of(&listed, blob)).await?;
        // After the files: what is named by then was there by then.
        let Some(named) = named(node, slot, blob).await? else { continue };
        for name in files.into_iter().filter(|name| !named.contains(name)) {
            let stray = (blob, name);
            let Some(since) = known.get(&stray).filter(|since| since.elapsed() >= grace) else {
                if seen.len() < STRAYS_MAX {
                    let since = known.get(&stray).copied().unwrap_or_else(Instant::now);
                    seen.insert(stray, since);
                }
                continue;
            };
            tracing::info!(%slot, %blob, file = ?stray.1, after = ?since.elapsed(), "a file that nothing names");
            // Nobody begins to write its files meanwhile.
            if !node.live.insert(blob) {
                continue;
            }
            let kind = if stray.1.to_string_lossy().ends_with(".tmp") { "temporary" } else { "chunk" };
            let removed = remove(node, slot, stray).await;
            node.live.remove(blob);
            if removed? {
                count(node, kind);
            }
        }
    }
    Ok(())
}

fn is_worked_on(node: &Node, blob: BlobId) -> bool {
    node.archive.as_ref().is_some_and(|desk| desk.is_worked_on(blob))
}

/// The files that a live version names; none: it lacks chunks, or is gone.
async fn named(node: &Node, slot: Slot, blob: BlobId) -> Result<Option<HashSet<OsString>>> {
    let chunks = node.readers.chunks_of(slot, blob).await?;
    Ok(chunks.map(|chunks| chunks.iter().map(|chunk| chunk.to_string().into()).collect()))
}

/// Removes a file that is still not named now that nobody else writes files of its blob: it may have been brought back in between.
async fn remove(node: &Node, slot: Slot, (blob, name): Stray) -> Result<bool> {
    let is_stray = named(node, slot, blob).await?.is_some_and(|named| !named.contains(&name));
    if !is_stray || is_worked_on(node, blob) {
        return Ok(false);
    }
    let dir = node.slot_dir(slot).to_path_buf();
    blocking(move || sweep::remove_file(&dir, blob, &name)).await
}

/// Rows of tries that came to nothing and were not forgotten then. On a node that runs alone they go at its start.
async fn forget_tries(node: &Arc<Node>, slot: Slot) -> Result<()> {
    if node.cluster.is_none() || node.slots.is_recovering(slot) {
        return Ok(());
    }
    for blob in node.readers.staged(slot).await? {
        // In this order: what is staged now belongs to an upload that is live by now, or to none.
        if !node.live.contains(blob) && node.writers.sweep(slot, blob).await? {
            count(node, "try");
        }
    }
    Ok(())
}
