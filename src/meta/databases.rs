//! A bounded set of open databases: the least recently used one is closed when another slot is needed.

use std::num::NonZeroUsize;

use lru::LruCache;
use rusqlite::Connection;

use crate::base::slot::Slot;
use crate::limits::OPEN_DATABASES;

/// Open connections of one thread.
pub(super) struct Databases {
    open: LruCache<Slot, Connection>,
}

impl Databases {
    pub(super) fn new() -> Self {
        Self { open: LruCache::new(NonZeroUsize::new(OPEN_DATABASES).unwrap_or(NonZeroUsize::MIN)) }
    }

    /// The connection of a slot, opened by `open` if it is not at hand.
    pub(super) fn get(
        &mut self,
        slot: Slot,
        open: impl FnOnce() -> rusqlite::Result<Connection>,
    ) -> rusqlite::Result<&Connection> {
        self.open.try_get_or_insert(slot, open)
    }

    /// Takes a connection that was just made.
    pub(super) fn insert(&mut self, slot: Slot, db: Connection) {
        self.open.put(slot, db);
    }

    /// Closes a slot's connection.
    pub(super) fn close(&mut self, slot: Slot) {
        self.open.pop(&slot);
    }
}
