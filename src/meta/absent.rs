//! What a slot's database does not have for sure: a PUT of a new path need not look for its newest version there.
//!
//! Of a slot with few versions it remembers a hash of every path; then a path whose hash is not among them is new. A hash that
//! is there says nothing, since paths may share one. Every path that is written to a slot must be noted, whether the
//! write comes to pass or not.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::query;
use crate::base::slot::Slot;
use crate::limits::REMEMBERED_PATHS;

/// Another one than that of the slots, which is the same in its lowest bits for all paths of a slot.
const SEED: u64 = 1;

/// Hashes of the paths of slots; none for a slot that has too many.
#[derive(Default)]
pub(super) struct Absent {
    slots: HashMap<Slot, Option<HashSet<u64>>>,
}

impl Absent {
    /// Whether a slot is remembered, or known to have too much.
    pub(super) fn knows(&self, slot: Slot) -> bool {
        self.slots.contains_key(&slot)
    }

    /// Remembers what a slot's database has; without one it has nothing.
    pub(super) fn learn(&mut self, slot: Slot, db: Option<&Connection>) -> rusqlite::Result<()> {
        let paths = db.map_or(Ok(Vec::new()), |db| query::some_paths(db, REMEMBERED_PATHS + 1))?;
        let few = paths.len() <= REMEMBERED_PATHS;
        self.slots.insert(slot, few.then(|| paths.iter().map(|path| hash(path)).collect()));
        Ok(())
    }

    /// Remembers nothing of a slot.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }

    /// A path is about to be written.
    pub(super) fn note(&mut self, slot: Slot, path: &str) {
        if let Some(known) = self.slots.get_mut(&slot)
            && let Some(paths) = known
        {
            paths.insert(hash(path));
            if paths.len() > REMEMBERED_PATHS {
                *known = None;
            }
        }
    }

    /// Whether a path has no version in a slot's database.
    pub(super) fn is_absent(&self, slot: Slot, path: &str) -> bool {
        self.slots
            .get(&slot)
            .is_some_and(|known| known.as_ref().is_some_and(|paths| !paths.contains(&hash(path))))
    }
}

fn hash(path: &str) -> u64 {
    xxh3_64_with_seed(path.as_bytes(), SEED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_remembered_is_absent() {
        let slot = Slot::of("a");
        let mut absent = Absent::default();
        assert!(!absent.knows(slot) && !absent.is_absent(slot, "a"), "nobody looked");
        absent.learn(slot, None).unwrap();
        assert!(absent.knows(slot) && absent.is_absent(slot, "a"));
        absent.note(slot, "a");
        assert!(!absent.is_absent(slot, "a") && absent.is_absent(slot, "b"));
        for number in 0..REMEMBERED_PATHS {
            absent.note(slot, &number.to_string());
        }
        assert!(absent.knows(slot) && !absent.is_absent(slot, "b"), "too many to remember");
    }

    #[test]
    fn what_a_database_has_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(super::super::birth::bear(&[&dir.path().join("7")]).iter().all(Result::is_ok));
        let db =
            super::super::schema::open_writer(&dir.path().join("7"), super::super::schema::Durability::Full)
                .unwrap();
        let record = super::super::record::tests::record("a", 1, b"x");
        super::super::apply::insert(&db, &record.meta(), &record.blob, 1).unwrap();
        let mut absent = Absent::default();
        absent.learn(record.slot, Some(&db)).unwrap();
        assert!(!absent.is_absent(record.slot, "a") && absent.is_absent(record.slot, "b"));
    }
}
