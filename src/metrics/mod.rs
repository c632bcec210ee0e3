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

impl Metrics {
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
        list
    }
}
