//! Damaged files that were replaced are kept for a while, for whoever wants to look at them: until their time is over, or until
//! their disk has no room.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::chunk::mend::empty_quarantine;
use crate::limits::SWEEP_TICK;
use crate::metrics::DiskLabels;
use crate::shard::node::Node;

/// Looks after the quarantines of all disks for as long as the node runs.
pub(super) async fn keep(node: Arc<Node>, time: Duration) {
    let tick = (time / 4).clamp(Duration::from_millis(200), SWEEP_TICK);
    loop {
        for disk in &node.disks {
            let keep = if disk.has_room(0) { time } else { Duration::ZERO };
            let root = disk.root().to_path_buf();
            let label = DiskLabels { disk: root.display().to_string() };
            match spawn_blocking(move || empty_quarantine(&root, keep)).await {
                Ok(Ok(left)) => {
                    let metrics = &node.metrics;
                    metrics.quarantined.get_or_create(&label).set(left.files.cast_signed());
                    metrics.quarantined_bytes.get_or_create(&label).set(left.bytes.cast_signed());
                }
                Ok(Err(error)) => {
                    tracing::warn!(disk = label.disk, %error, "cannot remove what is in quarantine");
                }
                Err(error) => tracing::warn!(disk = label.disk, %error, "cannot look at the quarantine"),
            }
        }
        sleep(tick).await;
    }
}
