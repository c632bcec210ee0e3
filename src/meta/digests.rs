//! The digests of all slots (RFC 0004), in memory.
//!
//! A slot's writer makes its digest by going through the rows, a stretch at a time, and from then on adds what each
//! transaction changed. What always holds: a digest covers the rows up to some row number, all of them once it is whole; it
//! changes after the commit is on disk and before anybody is told; and only the writer of the slot changes it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Result};

use super::query::corrupt;
use super::replica;
use super::types::Row;
use crate::antientropy::digest;
use crate::base::slot::Slot;
use crate::limits::SLOTS;
use crate::wire::peer::sync::Digest;

/// What a transaction changed in a row.
pub(super) type Change = (Row, Digest);

/// That of one slot.
#[derive(Clone, Copy, Default)]
struct Kept {
    digest: Digest,
    /// The last row number that it covers, while it is not whole.
    upto: i64,
    whole: bool,
}

/// Those of all slots.
pub(super) struct Digests(Vec<Mutex<Kept>>);

impl Default for Digests {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::default()).collect())
    }
}

impl Digests {
    fn lock(&self, slot: Slot) -> MutexGuard<'_, Kept> {
        self.0[slot.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a slot, once it is whole.
    pub(super) fn get(&self, slot: Slot) -> Option<Digest> {
        let kept = self.lock(slot);
        kept.whole.then_some(kept.digest)
    }

    /// The slot's database is another one, or not known any more.
    pub(super) fn forget(&self, slot: Slot) {
        *self.lock(slot) = Kept::default();
    }

    /// The slot's database was just made.
    pub(super) fn begin(&self, slot: Slot) {
        *self.lock(slot) = Kept { whole: true, ..Kept::default() };
    }

    /// Takes in what a transaction changed, which is on disk.
    pub(super) fn change(&self, slot: Slot, changes: &[Change]) {
        let mut kept = self.lock(slot);
        for (row, change) in changes {
            if kept.whole || row.0 <= kept.upto {
                kept.digest.merge(*change);
            }
        }
    }

    /// Takes in the next `most` rows of the slot's database; true: that was all.
    pub(super) fn scan(&self, slot: Slot, db: &Connection, most: usize) -> Result<bool> {
        let from = {
            let kept = self.lock(slot);
            if kept.whole {
                return Ok(true);
            }
            kept.upto
        };
        let rows = replica::rows_after(db, from, most)?;
        let mut kept = self.lock(slot);
        for (row, held) in &rows {
            kept.digest.add_all(&digest::items(held).map_err(|_| corrupt("row"))?);
            kept.upto = row.0;
        }
        kept.whole = rows.len() < most;
        Ok(kept.whole)
    }
}

#[cfg(test)]
mod tests;
