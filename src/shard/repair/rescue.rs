//! Read repair: bytes that are damaged here, fetched from another replica or the archive while somebody waits for them.
//!
//! The chunk is entered as damaged, and repaired behind the read. Bounded in time, and in memory by a budget of the core.

use std::ops::Range;
use std::rc::Rc;

use monoio::time::timeout;

use super::damage::{Damage, Place};
use super::fetch::Others;
use crate::base::slot::Slot;
use crate::limits::{CHUNK_SIZE, READ_REPAIR_TIME};
use crate::meta::types::Row;
use crate::shard::core::Core;

/// Bytes `range` of a version, which lie in one chunk and begin on a granule, good by `sums`; none: nobody else has them. Other
/// replicas are asked only where one `may_ask` them, the archive in any case.
pub(in crate::shard) async fn rescue(
    core: &Rc<Core>,
    (slot, row): (Slot, Row),
    may_ask: bool,
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
    let cluster = node.cluster.as_ref().filter(|_| may_ask);
    if cluster.is_none() && node.archive.is_none() {
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
