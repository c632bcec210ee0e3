//! A bounded set of open databases: the least recently used one is closed when another slot is needed.

use std::num::NonZeroUsize;

use lru::LruCache;
use rusqlite::Connection;

use crate::base::slot::Slot;

/// Open connections of one thread.
pub(super) struct Databases {
    open: LruCache<Slot, Connection>,
}

impl Databases {
    /// At most `limit` of them.
    pub(super) fn new(limit: usize) -> Self {
        Self { open: LruCache::new(NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN)) }
    }

    /// The connection of a slot, opened by `open` if it is not at hand.
    pub(super) fn get(
        &mut self,
        slot: Slot,
        open: impl FnOnce() -> rusqlite::Result<Connection>,
    ) -> rusqlite::Result<&Connection> {
        self.open.try_get_or_insert(slot, open)
    }

    /// Closes a slot's connection.
    pub(super) fn close(&mut self, slot: Slot) {
        self.open.pop(&slot);
    }
}
