//! Giving space back in a cluster: uploads that nobody voted about, and chunks of versions deleted long enough ago.
//!
//! An upload's files go only after every try of its blob is refused here for good. Chunks of a deleted version go only when a write
//! quorum has the tombstone: until then a replica that was away may still think that the version is there, and ask for them.
//! Directories that nothing names are looked for by the background plane, as on a node that runs alone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::time::sleep;

use super::Pauses;
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::chunk::{incoming, layout};
use crate::io::file::on_storage_thread;
use crate::io::steps;
use crate::limits::{CHORE_PAUSE, CHORE_PAUSE_MAX, COMMIT_TIME, DROP_BATCH, SWEEP_TICK};
use crate::replication::participant::Surroundings;
use crate::shard::core::Core;
use crate::shard::peers::ask::ask;
use crate::shard::peers::cluster::Cluster;
use crate::shard::upload::discard_files;
use crate::wire::peer::{Held, Proven, Reply, Request, Response, Signed};

/// Sweeps the slots of this core for as long as it runs.
pub(super) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let tick = (core.node.tombstone_grace / 2).clamp(Duration::from_millis(200), SWEEP_TICK);
    if core.number == 0 {
        monoio::spawn(give_up_uploads(Rc::clone(&core), Arc::clone(&cluster)));
    }
    let mut pauses = Pauses::new(CHORE_PAUSE_MAX);
    loop {
        sleep(tick).await;
        let until = Timestamp::now().minus(core.node.tombstone_grace);
        for slot in Slot::all().filter(|slot| core.owns(*slot)) {
            if !core.node.slots.has_tombstones(slot, until) || !pauses.is_over(&slot) {
                continue;
            }
            match drop_chunks(&core, &cluster, slot, until).await {
                Ok(()) => pauses.end(&slot),
                Err(error) => {
                    tracing::debug!(%slot, %error, "chunks of deleted versions stay until the next sweep");
                    pauses.lengthen(slot);
                }
            }
        }
    }
}

/// Forgets uploads that have waited for too long, and removes their files.
async fn give_up_uploads(core: Rc<Core>, cluster: Arc<Cluster>) {
    loop {
        sleep(CHORE_PAUSE).await;
        for (slot, blob) in cluster.uploads.take_expired() {
            match core.node.writers.sweep(slot, blob).await {
                Ok(true) => discard_files(&core, slot, blob).await,
                // It has been voted for, or is a version.
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%slot, %blob, %error, "an upload that came to nothing stays until the sweep");
                }
            }
            core.node.live.remove(blob);
        }
    }
}

async fn drop_chunks(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot, until: Timestamp) -> Result<()> {
    let node = &core.node;
    loop {
        let (rows, held): (Vec<_>, Vec<Held>) =
            node.readers.buried(slot, until, DROP_BATCH).await?.into_iter().unzip();
        let count = rows.len();
        if count > 0 {
            let blobs: Vec<_> = held.iter().map(|held| held.row.attempt.blob_id).collect();
            bury(core, cluster, slot, held).await?;
            let slot_dir = node.slot_dir(slot).to_path_buf();
            let remove = move || {
                blobs.iter().try_for_each(|blob| incoming::discard(&slot_dir, *blob))?;
                match steps::sync_dir(&layout::blobs_dir(&slot_dir)) {
                    // A slot whose chunks all live in its database has no such directory.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                    synced => synced,
                }
            };
            let removed = on_storage_thread(remove).await;
            removed.map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        }
        node.writers.dropped(slot, rows).await?;
        node.metrics.versions_dropped.inc_by(count as u64);
        if count < DROP_BATCH {
            return Ok(());
        }
    }
}

/// Makes sure that a write quorum has tombstones that this replica has.
async fn bury(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot, held: Vec<Held>) -> Result<()> {
    let group = cluster.group(slot)?;
    let me = cluster.topology().me();
    let on: Vec<Signed> = group.identity_of(me).map(|identity| (me, identity)).into_iter().collect();
    let Some(path) = held.first().map(|first| first.row.path.clone()) else { return Ok(()) };
    let versions = held.into_iter().map(|held| Proven { held, on: on.clone() }).collect();
    let request = Rc::new(Request::Finish { path, versions });
    let asking: Vec<_> = group
        .nodes()
        .filter(|node| *node != me && cluster.is_reachable(*node))
        .map(|node| {
            let (core, request) = (Rc::clone(core), Rc::clone(&request));
            monoio::spawn(async move { ask(&core, node, &request, COMMIT_TIME).await })
        })
        .collect();
    // Here once more, too: a replica that is recovering does not count, and its writer knows.
    let around = Surroundings { has_data: false, has_room: false, is_live: false };
    let mine = core.node.writers.peer(slot, Request::clone(&request), None, around).await?;
    let counts = |response: &Option<Response>| {
        matches!(response, Some(Response { reply: Reply::Done { counts: true, .. }, .. }))
    };
    let mut buried = usize::from(counts(&Some(mine)));
    for asked in asking {
        buried += usize::from(counts(&asked.await));
    }
    if buried >= group.write_quorum {
        Ok(())
    } else {
        Err(Error::new(Code::QuorumUnavailable, format!("{buried} replicas have the tombstones")))
    }
}
