//! The catalogue of metrics: every name, unit and help text in one list. Prometheus text format.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The method.
    pub method: &'static str,
    /// The status code.
    pub status: u16,
}

/// Labels of what belongs to a core.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CoreLabels {
    /// Its number.
    pub core: usize,
}

/// Labels of what belongs to a disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DiskLabels {
    /// Its directory.
    pub disk: String,
}

/// Labels of what the sweep removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SweptLabels {
    /// What it was: `directory`, `chunk`, `temporary` or `try`.
    pub kind: &'static str,
}

/// Labels of a request to the archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ArchiveLabels {
    /// What it was: `put`, `stat`, `get`, `list`, `delete` or `probe`.
    pub operation: &'static str,
    /// What became of it: `ok`, `missing`, `denied`, `busy`, `unavailable` or `wrong`.
    pub outcome: &'static str,
}

/// What the server counts.
#[derive(Default)]
pub struct Metrics {
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Connections open, by the core that serves them.
    pub connections: Family<CoreLabels, Gauge>,
    /// Requests under way, by core.
    pub busy: Family<CoreLabels, Gauge>,
    /// Bytes of blobs received.
    pub received: Counter,
    /// Bytes of blobs sent.
    pub sent: Counter,
    /// Bytes that the blocks of the cache take.
    pub cache_bytes: Gauge,
    /// Bytes read from disks into the block cache.
    pub cache_read: Counter,
    /// Blocks that failed their checksum or could not be read.
    pub read_failures: Counter,
    /// Such stretches that came from another replica instead.
    pub read_repairs: Counter,
    /// Such stretches that no other replica had in time.
    pub read_repair_failures: Counter,
    /// Damaged chunks that were repaired.
    pub repaired: Counter,
    /// Attempts to repair one that failed.
    pub repair_failures: Counter,
    /// Damaged chunks that are known.
    pub damaged: Gauge,
    /// Files in quarantine.
    pub quarantined: Family<DiskLabels, Gauge>,
    /// Their bytes.
    pub quarantined_bytes: Family<DiskLabels, Gauge>,
    /// What the scrub does.
    pub scrub: Scrub,
    /// What goes to the archive and comes from there.
    pub archive: Archive,
    /// Nodes of the cluster that are there.
    pub nodes_alive: Gauge,
    /// Times that the registry could not be asked.
    pub registry_failures: Counter,
    /// Directories of unfinished uploads removed.
    pub orphans_removed: Counter,
    /// What nothing named any more and was removed.
    pub swept: Family<SweptLabels, Counter>,
    /// Deleted versions whose chunks were removed.
    pub versions_dropped: Counter,
    /// Comparisons of this node's replicas with those of another node.
    pub sync_rounds: Counter,
    /// Versions taken over from other replicas.
    pub sync_versions: Counter,
    /// Tombstones taken over from other replicas.
    pub sync_tombstones: Counter,
    /// Bytes of chunks fetched from other replicas.
    pub sync_fetched: Counter,
    /// Bytes of questions about what differs, and of their answers.
    pub sync_exchanged: Counter,
    /// Replicas of other nodes that differed from this node's when they were last compared.
    pub sync_differing: Gauge,
    /// Versions that lack their chunks.
    pub hollow_versions: Gauge,
    /// Slots that have such versions.
    pub hollow_slots: Gauge,
    /// How each disk is.
    pub disk_state: Family<DiskLabels, Gauge>,
    /// What each disk's last probe took.
    pub disk_latency: Family<DiskLabels, Gauge<f64, AtomicU64>>,
    /// Databases of slots that were put aside because they had lost what they had.
    pub databases_lost: Counter,
    /// Operations of the bulk rings under way.
    pub bulk_depth: Gauge,
    /// Operations of the bulk rings begun.
    pub bulk_operations: Counter,
    /// Times that completions found a bulk ring's queue full.
    pub bulk_overflows: Counter,
    /// Zero-copy sends begun.
    pub zero_copy_sends: Counter,
    /// Notifications of zero-copy sends that the kernel copied after all.
    pub zero_copy_copied: Counter,
}

/// What the scrub counts.
#[derive(Default)]
pub struct Scrub {
    /// Chunks read and compared with their hashes.
    pub chunks: Family<DiskLabels, Counter>,
    /// Bytes of them.
    pub bytes: Family<DiskLabels, Counter>,
    /// Those that were damaged.
    pub damaged: Family<DiskLabels, Counter>,
    /// Those that were repaired.
    pub repaired: Family<DiskLabels, Counter>,
    /// Those that could not be.
    pub unrepaired: Family<DiskLabels, Counter>,
    /// When the last whole pass ended.
    pub finished: Family<DiskLabels, Gauge>,
}

/// What is counted of the archive.
#[derive(Default)]
pub struct Archive {
    /// Whether the store fails.
    pub failing: Gauge,
    /// Bytes of chunks that were stored there.
    pub uploaded_bytes: Counter,
    /// Bytes that were fetched from there.
    pub fetched_bytes: Counter,
    /// Chunks that a row names an object of.
    pub chunks_archived: Counter,
    /// Chunks whose files went.
    pub chunks_dropped: Counter,
    /// Chunks whose files came back.
    pub chunks_restored: Counter,
    /// Ranges that other replicas had as files.
    pub reads_elsewhere: Counter,
    /// Versions that were picked since they were not read for long.
    pub picked_by_age: Counter,
    /// Versions that were picked since a disk was too full.
    pub picked_by_watermark: Counter,
    /// Ranges that were wanted from there.
    pub reads: Counter,
    /// Those of them that were not had.
    pub read_failures: Counter,
    /// Objects that no row named, and that were deleted.
    pub leftovers_deleted: Counter,
    /// Requests to it.
    pub requests: Family<ArchiveLabels, Counter>,
}

impl Archive {
    fn register(&self, list: &mut Registry) {
        let list = list.sub_registry_with_prefix("archive");
        list.register("failing", "Whether the archive fails: 1 if it does", self.failing.clone());
        list.register(
            "uploaded_bytes",
            "Bytes of chunks that were stored in the archive",
            self.uploaded_bytes.clone(),
        );
        list.register(
            "fetched_bytes",
            "Bytes that were fetched from the archive",
            self.fetched_bytes.clone(),
        );
        list.register(
            "chunks_archived",
            "Chunks that were stored in the archive and noted",
            self.chunks_archived.clone(),
        );
        list.register(
            "chunks_dropped",
            "Chunks that only the archive has since",
            self.chunks_dropped.clone(),
        );
        list.register(
            "chunks_restored",
            "Chunks that came back from the archive",
            self.chunks_restored.clone(),
        );
        list.register(
            "reads_elsewhere",
            "Ranges of archived chunks that another replica had as files",
            self.reads_elsewhere.clone(),
        );
        list.register(
            "picked_by_age",
            "Versions that went to the archive since they were not read for long",
            self.picked_by_age.clone(),
        );
        list.register(
            "picked_by_watermark",
            "Versions that went to the archive since a disk was too full",
            self.picked_by_watermark.clone(),
        );
        list.register("reads", "Ranges that were wanted from the archive", self.reads.clone());
        list.register("read_failures", "Those of them that were not had", self.read_failures.clone());
        list.register(
            "leftovers_deleted",
            "Objects that nothing named any more and that were deleted in the archive",
            self.leftovers_deleted.clone(),
        );
        list.register(
            "requests",
            "Requests to the archive, by what they were and what became of them",
            self.requests.clone(),
        );
    }
}

impl Scrub {
    fn register(&self, list: &mut Registry) {
        let list = list.sub_registry_with_prefix("scrub");
        list.register("chunks", "Chunks that the scrub has compared with their hashes", self.chunks.clone());
        list.register("bytes", "Bytes of these chunks", self.bytes.clone());
        list.register("damaged", "Damaged chunks that the scrub has met", self.damaged.clone());
        list.register("repaired", "Those of them that were repaired", self.repaired.clone());
        list.register("unrepaired", "Those of them that could not be repaired then", self.unrepaired.clone());
        list.register(
            "finished_seconds",
            "When the last pass over all chunks ended, in seconds since 1970",
            self.finished.clone(),
        );
    }
}

impl Metrics {
    /// Those of damage.
    fn register_repairs(&self, list: &mut Registry) {
        list.register(
            "read_repairs",
            "Stretches of damaged chunks that came from another replica while they were read",
            self.read_repairs.clone(),
        );
        list.register(
            "read_repair_failures",
            "Stretches of damaged chunks that no other replica had in time",
            self.read_repair_failures.clone(),
        );
        list.register("repaired", "Damaged chunks that were repaired", self.repaired.clone());
        list.register(
            "repair_failures",
            "Attempts to repair a chunk that failed",
            self.repair_failures.clone(),
        );
        list.register("damaged_chunks", "Damaged chunks that are known", self.damaged.clone());
        list.register(
            "quarantined_files",
            "Damaged files that were replaced and are kept for a while",
            self.quarantined.clone(),
        );
        list.register("quarantined_bytes", "Bytes of these files", self.quarantined_bytes.clone());
    }

    fn register_disks(&self, list: &mut Registry) {
        list.register("disk_state", "How each disk is: 0 good, 1 slow, 2 failed", self.disk_state.clone());
        list.register(
            "disk_probe_seconds",
            "Time that each disk's last probe took: a small file written, synced, read and removed",
            self.disk_latency.clone(),
        );
        list.register(
            "databases_lost",
            "Databases of slots that were gone, damaged or older than they were, and were replaced from other nodes",
            self.databases_lost.clone(),
        );
    }

    fn register_sync(&self, list: &mut Registry) {
        list.register(
            "sync_rounds",
            "Times that this node's slots were compared with those of another node",
            self.sync_rounds.clone(),
        );
        list.register(
            "sync_versions",
            "Versions that were lacking here and were taken over from another replica",
            self.sync_versions.clone(),
        );
        list.register(
            "sync_tombstones",
            "Tombstones that were lacking here and were taken over from another replica",
            self.sync_tombstones.clone(),
        );
        list.register(
            "sync_fetched_bytes",
            "Bytes of chunks that were lacking here and were fetched from another replica",
            self.sync_fetched.clone(),
        );
        list.register(
            "sync_exchanged_bytes",
            "Bytes of this node's questions about what differs, and of the answers",
            self.sync_exchanged.clone(),
        );
        list.register(
            "sync_differing_slots",
            "Replicas on other nodes that differed from this node's when they were last compared",
            self.sync_differing.clone(),
        );
        list.register(
            "hollow_versions",
            "Versions whose chunks are still to be fetched from another replica",
            self.hollow_versions.clone(),
        );
        list.register("hollow_slots", "Slots that have such versions", self.hollow_slots.clone());
    }

    fn register_rings(&self, list: &mut Registry) {
        list.register(
            "bulk_ring_depth",
            "Operations of the bulk rings under way, notifications to come included",
            self.bulk_depth.clone(),
        );
        list.register(
            "bulk_ring_operations",
            "Operations that the bulk rings were given",
            self.bulk_operations.clone(),
        );
        list.register(
            "bulk_ring_overflows",
            "Times that completions found the queue of a bulk ring full and the kernel kept them",
            self.bulk_overflows.clone(),
        );
        list.register("zero_copy_sends", "Sends begun without a copy", self.zero_copy_sends.clone());
        list.register(
            "zero_copy_copied",
            "Notifications that the kernel copied what was to be sent without a copy",
            self.zero_copy_copied.clone(),
        );
    }

    /// The list that `/metrics` encodes.
    pub fn registry(&self) -> Registry {
        let mut list = Registry::with_prefix("amberblob");
        list.register("requests", "Requests answered, by method and status", self.requests.clone());
        list.register(
            "connections",
            "Connections open on the public listener, by core",
            self.connections.clone(),
        );
        list.register("busy", "Requests under way, by core", self.busy.clone());
        list.register("received_bytes", "Bytes of blobs received", self.received.clone());
        list.register("sent_bytes", "Bytes of blobs sent", self.sent.clone());
        list.register("cache_bytes", "Bytes that the blocks of the cache take", self.cache_bytes.clone());
        list.register(
            "cache_read_bytes",
            "Bytes read from disks into the block cache",
            self.cache_read.clone(),
        );
        list.register(
            "read_failures",
            "Stretches of chunks that failed their checksum or could not be read",
            self.read_failures.clone(),
        );
        self.register_repairs(&mut list);
        self.scrub.register(&mut list);
        self.archive.register(&mut list);
        list.register(
            "nodes_alive",
            "Nodes of the cluster that are there, this one included; 0 for a node on its own",
            self.nodes_alive.clone(),
        );
        list.register(
            "registry_failures",
            "Times that the registry could not be asked",
            self.registry_failures.clone(),
        );
        list.register(
            "orphans_removed",
            "Directories of unfinished uploads removed",
            self.orphans_removed.clone(),
        );
        list.register(
            "swept",
            "What nothing named any more and was removed: directories of uploads, chunks, temporary files, rows of tries",
            self.swept.clone(),
        );
        list.register(
            "versions_dropped",
            "Deleted versions whose chunks were removed",
            self.versions_dropped.clone(),
        );
        self.register_disks(&mut list);
        self.register_sync(&mut list);
        self.register_rings(&mut list);
        list
    }
}
