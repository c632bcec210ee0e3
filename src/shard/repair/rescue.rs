//! Read repair: bytes that are damaged here, fetched from another replica or the archive while somebody waits for them.
//!
//! The chunk is entered as damaged, and repaired behind the read. Bounded in time, and in memory by a budget of the core.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;

use super::damage::{Damage, Place};
use super::fetch::Others;
use crate::base::slot::Slot;
use crate::limits::{CHUNK_SIZE, ELSEWHERE_TIME, READ_REPAIR_TIME};
use crate::meta::types::Row;
use crate::shard::blob::Reach;
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;

/// Bytes `range` of a version, which lie in one chunk and begin on a granule, good by `sums`; none: nobody within `reach` has them.
pub(in crate::shard) async fn rescue(
    core: &Rc<Core>,
    (slot, row): (Slot, Row),
    reach: Reach,
    what: String,
    range: Range<u64>,
    sums: &[u32],
) -> Option<Vec<u8>> {
    let node = &core.node;
    node.metrics.read_failures.inc();
    // The files of one that was deleted meanwhile may be gone.
    let whole = node.readers.whole(slot, row).await.ok()??;
    let place = Place { slot, row, number: range.start / CHUNK_SIZE };
    node.damages.enter(Damage { place, blob: whole.blob, what });
    let cluster = node.cluster.as_ref().filter(|_| reach == Reach::All);
    if reach == Reach::Here || cluster.is_none() && node.archive.is_none() {
        return None;
    }
    let fetch = async {
        let _share = core.rescues.take((range.end - range.start) as usize).await;
        Others::new(core, cluster, slot, &whole).fetch(range, sums).await
    };
    let fetched = timeout(READ_REPAIR_TIME, fetch).await.ok().flatten();
    if fetched.is_some() {
        node.metrics.read_repairs.inc();
    } else {
        node.metrics.read_repair_failures.inc();
    }
    fetched
}

/// Bytes `range` of a version, which lie in one chunk and begin on a granule, good by `sums`, from the files of one other replica
/// that answers; none: no such one has them all.
pub(in crate::shard) async fn from_files(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    (slot, row): (Slot, Row),
    range: Range<u64>,
    sums: &[u32],
) -> Option<Vec<u8>> {
    let whole = core.node.readers.whole(slot, row).await.ok()??;
    let others = Others::new(core, Some(cluster), slot, &whole);
    let fetch = async {
        let _share = core.archived_reads.take((range.end - range.start) as usize).await;
        others.fetch_from_one(cluster, range, sums).await
    };
    timeout(ELSEWHERE_TIME, fetch).await.ok().flatten()
}
