//! What all cores share.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::archive::desk::Desk;
use super::connection::Plane;
use super::peers::cluster::Cluster;
use super::placement::Placement;
use super::repair::damage::Damages;
use crate::base::slot::Slot;
use crate::chunk::disk::Disk;
use crate::chunk::sweep::LiveUploads;
use crate::io::bulk::Counts;
use crate::io::bulk::registry::Registry;
use crate::io::cache::BlockCache;
use crate::io::health;
use crate::io::send_mode::Mode;
use crate::meta::index::Indexes;
use crate::meta::reader::Readers;
use crate::meta::slots::{Slots, State};
use crate::meta::writer::Writers;
use crate::metrics::Metrics;

/// A running node.
pub struct Node {
    /// Names this run in request identities.
    pub run_id: String,
    /// Its slots.
    pub slots: Arc<Slots>,
    /// Its disks, by number.
    pub disks: Vec<Arc<Disk>>,
    /// The metadata readers.
    pub readers: Readers,
    /// The metadata writers.
    pub writers: Writers,
    /// The listing indexes.
    pub indexes: Indexes,
    /// The block cache.
    pub cache: BlockCache,
    /// The memory registered with the kernel.
    pub registry: Arc<Registry>,
    /// How responses are sent.
    pub send: Mode,
    /// Uploads under way.
    pub live: LiveUploads,
    /// Damaged chunks.
    pub damages: Damages,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether chunks are synced before they are named.
    pub synced: bool,
    /// How long the chunks of a deleted version stay.
    pub tombstone_grace: Duration,
    /// Where connections are served.
    pub placement: Arc<Placement>,
    /// Chunk files that a core may keep open.
    pub open_chunks: usize,
    /// Its part in its cluster; none: it runs alone.
    pub cluster: Option<Arc<Cluster>>,
    /// What is shared with the thread that talks to the archive; none: there is no archive.
    pub archive: Option<Arc<Desk>>,
    /// Live versions a path keeps; 0: all.
    pub keep_versions: u64,
    /// Set once the node begins to stop.
    pub stopping: AtomicBool,
}

impl Node {
    /// Takes a connection of another node whose name was verified.
    pub fn take_peer(&self, socket: OwnedFd, name: &str) {
        let node = self.cluster.as_ref().and_then(|cluster| cluster.topology().find(name));
        // A connection that finds no place is closed.
        if let (Some(node), Some(placed)) = (node, self.placement.place(0)) {
            self.placement.hand_over(TcpStream::from(socket), Plane::Peer(Some(node)), placed);
        }
    }

    /// The disk of a slot.
    pub fn disk(&self, slot: Slot) -> &Arc<Disk> {
        &self.disks[self.slots.disk(slot)]
    }

    /// The directory of a slot.
    pub fn slot_dir(&self, slot: Slot) -> &Path {
        self.slots.dir(slot)
    }

    /// What each core's bulk ring counts.
    pub fn bulk_counts(&self) -> Counts {
        let metrics = &self.metrics;
        Counts {
            depth: metrics.bulk_depth.clone(),
            operations: metrics.bulk_operations.clone(),
            overflows: metrics.bulk_overflows.clone(),
            zero_copy: metrics.zero_copy_sends.clone(),
            copied: metrics.zero_copy_copied.clone(),
        }
    }

    /// Whether the node is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Why the node is not ready; empty when it is.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        if self.is_stopping() {
            troubles.push("stopping".to_owned());
        }
        let unchecked = Slot::all().filter(|slot| self.slots.state(*slot) == State::Unchecked).count();
        if unchecked > 0 {
            troubles.push(format!("recovering: {unchecked} slots are still to be checked after the start"));
        }
        for disk in self.disks.iter().filter(|disk| disk.health().has_failed()) {
            troubles.push(format!(
                "disk {} has failed: {}: its slots are out of service: replace it, and start again",
                disk.root().display(),
                disk.health().reason()
            ));
        }
        let has_others = self.cluster.as_ref().is_some_and(|cluster| cluster.topology().replica_count() > 1);
        let failed =
            |slot: &Slot| self.slots.state(*slot) == State::Failed && !self.disk(*slot).health().has_failed();
        for slot in Slot::all().filter(failed) {
            let way_out = match (self.slots.is_lost(slot), has_others) {
                (false, _) => "",
                (true, true) => ": it is put aside, and the slot recovers from other nodes",
                (true, false) => ": put back a good copy of it, and start again",
            };
            troubles.push(format!("slot {slot}: {}{way_out}", self.slots.reason(slot)));
        }
        if let Some(cluster) = &self.cluster {
            troubles.extend(cluster.troubles());
        }
        troubles.extend((0..self.disks.len()).filter_map(|disk| self.indexes.trouble(disk)));
        troubles
    }

    /// What an operator may want to know although the node is ready.
    pub fn notices(&self) -> Vec<String> {
        let slow = self.disks.iter().filter(|disk| disk.health().state() == health::State::Slow);
        let slow = slow.map(|disk| {
            format!("disk {} is slow: it took {:?} to answer", disk.root().display(), disk.health().latency())
        });
        slow.chain(self.archive.iter().flat_map(|desk| desk.notices())).collect()
    }

    /// Whether every slot has been looked at since the start.
    pub fn slots_checked(&self) -> bool {
        Slot::all().all(|slot| self.slots.state(slot) != State::Unchecked)
    }

    /// Whether requests are answered at all: some slot is in service and none is waiting to be checked.
    pub fn can_serve(&self) -> bool {
        let some_slot = Slot::all().any(|slot| self.slots.state(slot) != State::Failed);
        !self.is_stopping() && self.slots_checked() && some_slot
    }
}
