//! Slots: the fixed shards of the name space.

use std::fmt;

use crate::limits::SLOTS;

/// A slot's number, `0..SLOTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a path: `xxh3_64(path) mod 2048`.
    pub fn of(path: &str) -> Self {
        Self((xxhash_rust::xxh3::xxh3_64(path.as_bytes()) % u64::from(SLOTS)) as u16)
    }

    /// The slot with this number, if there is one.
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// All slots in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }

    /// As an index into a table of all slots.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The core whose writer owns the slot, of `cores`.
    pub fn core(self, cores: usize) -> usize {
        self.index() % cores
    }

    /// The disk the slot lives on, of `disks`, by rendezvous hashing (Thaler and Ravishankar 1998): the disk with
    /// the highest hash of (slot, disk).
    pub fn disk(self, disks: usize) -> usize {
        let weight = |disk: &usize| {
            let mut key = [0u8; 10];
            key[..2].copy_from_slice(&self.0.to_le_bytes());
            key[2..].copy_from_slice(&(*disk as u64).to_le_bytes());
            xxhash_rust::xxh3::xxh3_64(&key)
        };
        (0..disks).max_by_key(weight).unwrap_or(0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_slot() {
        assert_eq!(Slot::of("").index(), 0x2d06_8005_38d3_94c2_usize % 2048, "the published XXH3 of nothing");
        assert_eq!(Slot::of("a/b"), Slot::of("a/b"));
    }

    #[test]
    fn a_new_disk_only_takes_slots_for_itself() {
        for slot in Slot::all() {
            let (before, after) = (slot.disk(3), slot.disk(4));
            assert!(after == before || after == 3, "slot {slot} moved between old disks");
        }
        let share = Slot::all().filter(|s| s.disk(4) == 3).count();
        assert!((400..650).contains(&share), "uneven share {share}");
    }
}
