//! What a writer has in the journal and not yet in the slots' databases.
//!
//! Slots stand in the order in which they got their first record, so that the oldest segments of the journal come free
//! first. Bounded in records, bytes and records of a slot; who is over a bound brings slots to their databases first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::journal::Segment;
use super::record::Record;
use crate::base::slot::Slot;
use crate::limits::{PENDING_BYTES, PENDING_PER_SLOT, PENDING_RECORDS};

/// A record and the segment that holds it.
pub(super) struct Held {
    pub record: Record,
    pub segment: Arc<Segment>,
}

/// Records by slot.
#[derive(Default)]
pub(super) struct Pending {
    slots: HashMap<Slot, Vec<Held>>,
    order: VecDeque<Slot>,
    records: usize,
    bytes: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether a bound is reached.
    pub(super) fn is_full(&self) -> bool {
        self.records >= PENDING_RECORDS || self.bytes >= PENDING_BYTES
    }

    /// Whether a slot has as many as it may.
    pub(super) fn is_full_of(&self, slot: Slot) -> bool {
        self.of(slot).len() >= PENDING_PER_SLOT
    }

    /// The records of a slot, oldest first.
    pub(super) fn of(&self, slot: Slot) -> &[Held] {
        self.slots.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// The newest version of a path among them.
    pub(super) fn newest(&self, slot: Slot, path: &str) -> Option<u64> {
        let newest = self.of(slot).iter().rev().find(|held| held.record.blob.path == path);
        newest.map(|held| held.record.version)
    }

    /// Slots that have records, the longest waiting first.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.order.iter().copied()
    }

    pub(super) fn push(&mut self, record: Record, segment: Arc<Segment>) {
        let slot = record.slot;
        self.records += 1;
        self.bytes += record.weight();
        let held = self.slots.entry(slot).or_default();
        if held.is_empty() {
            self.order.push_back(slot);
        }
        held.push(Held { record, segment });
    }

    /// Takes a slot's records out: they are in its database.
    pub(super) fn remove(&mut self, slot: Slot) -> Vec<Held> {
        let held = self.slots.remove(&slot).unwrap_or_default();
        // It is the first one, or one of the first, but for slots that were asked for.
        if let Some(at) = self.order.iter().position(|other| *other == slot) {
            self.order.remove(at);
        }
        self.records -= held.len();
        self.bytes -= held.iter().map(|held| held.record.weight()).sum::<usize>();
        held
    }

    /// Lets the other slots go first.
    pub(super) fn defer(&mut self, slot: Slot) {
        if self.order.front() == Some(&slot) {
            self.order.rotate_left(1);
        }
    }

    /// Lets go of the records of a slot that is out of service; their segments stay for the next start.
    pub(super) fn give_up(&mut self, slot: Slot) {
        self.remove(slot).iter().for_each(|held| held.segment.keep());
    }
}

impl Drop for Pending {
    /// What is still here when the writer ends could not be brought to its database.
    fn drop(&mut self) {
        self.slots.values().flatten().for_each(|held| held.segment.keep());
    }
}
