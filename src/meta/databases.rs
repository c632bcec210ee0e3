//! A bounded set of open databases: the least recently used one is closed when another slot is needed.

use std::num::NonZeroUsize;

use lru::LruCache;
use rusqlite::Connection;

use crate::base::slot::Slot;

/// Open connections of one thread, or what it makes of them.
pub(super) struct Databases<T = Connection> {
    open: LruCache<Slot, T>,
}

impl<T> Databases<T> {
    /// At most `limit` of them.
    pub(super) fn new(limit: usize) -> Self {
        Self { open: LruCache::new(NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN)) }
    }

    /// The connection of a slot, opened by `open` if it is not at hand.
    pub(super) fn get(
        &mut self,
        slot: Slot,
        open: impl FnOnce() -> rusqlite::Result<T>,
    ) -> rusqlite::Result<&T> {
        self.open.try_get_or_insert(slot, open)
    }

    /// The connection of a slot, if it is open.
    pub(super) fn peek(&self, slot: Slot) -> Option<&T> {
        self.open.peek(&slot)
    }

    /// Takes a slot's connection out, for a while or for good.
    pub(super) fn take(&mut self, slot: Slot) -> Option<T> {
        self.open.pop(&slot)
    }

    /// Puts a connection in.
    pub(super) fn put(&mut self, slot: Slot, opened: T) {
        self.open.put(slot, opened);
    }

    /// Closes a slot's connection.
    pub(super) fn close(&mut self, slot: Slot) {
        self.open.pop(&slot);
    }
}
