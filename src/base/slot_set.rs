//! A set of slots, written as ranges where people read it: `0-3,7,12-2047`, so that what is announced of 2048 slots stays
//! short; and as one bit for each slot where they do not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::slot::Slot;
use crate::limits::SLOTS;

const WORDS: usize = (SLOTS as usize).div_ceil(64);
/// Bytes of a set with one bit for each slot.
pub const SLOT_BYTES: usize = WORDS * 8;

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SlotSet([u64; WORDS]);

impl Default for SlotSet {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl SlotSet {
    /// Adds a slot.
    pub fn insert(&mut self, slot: Slot) {
        self.0[slot.index() / 64] |= 1 << (slot.index() % 64);
    }

    /// Whether a slot is in it.
    pub fn contains(&self, slot: Slot) -> bool {
        self.0[slot.index() / 64] & 1 << (slot.index() % 64) != 0
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: Slot) {
        self.0[slot.index() / 64] &= !(1 << (slot.index() % 64));
    }

    /// The slots in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + use<'_> {
        Slot::all().filter(|slot| self.contains(*slot))
    }

    /// Adds all slots of another set.
    pub fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    /// Whether all slots of another set are in it.
    pub fn contains_all(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(word, wanted)| wanted & !word == 0)
    }

    /// One bit for each slot, the lowest first.
    pub fn to_bytes(self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes
            .chunks_exact_mut(8)
            .zip(self.0)
            .for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// The set that was written so.
    pub fn from_bytes(bytes: &[u8; SLOT_BYTES]) -> Self {
        let mut set = Self::default();
        for (word, bytes) in set.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        set
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<T: IntoIterator<Item = Slot>>(slots: T) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = Slot::all().filter(|slot| self.contains(*slot)).map(Slot::index).peekable();
        let mut comma = "";
        while let Some(first) = slots.next() {
            let mut last = first;
            while let Some(next) = slots.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl FromStr for SlotSet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{}' is no set of slots", text.escape_debug());
        let number = |digits: &str| digits.parse().ok().and_then(Slot::new).ok_or_else(wrong);
        let mut set = Self::default();
        for range in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            Slot::all().filter(|slot| (first..=last).contains(slot)).for_each(|slot| set.insert(slot));
        }
        Ok(set)
    }
}

impl From<SlotSet> for String {
    fn from(set: SlotSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for SlotSet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_added() {
        let set = |text: &str| text.parse::<SlotSet>().unwrap();
        let mut all = set("1-3");
        assert!(all.contains_all(&set("2")) && all.contains_all(&set("")) && !all.contains_all(&set("2,4")));
        all.extend(&set("3-4,2047"));
        assert_eq!(all, set("1-4,2047"));
    }

    #[test]
    fn sets_are_read_back_as_written() {
        for text in ["", "0", "0-2047", "0-3,7,12-13,2047"] {
            let set = text.parse::<SlotSet>().unwrap();
            assert_eq!(set.to_string(), text);
            assert_eq!(SlotSet::from_bytes(&set.to_bytes()), set);
        }
        for disks in 1..20 {
            let set: SlotSet = Slot::all().filter(|slot| slot.disk(disks) == 0).collect();
            let text = set.to_string();
            assert_eq!(text.parse(), Ok(set));
            assert!(text.len() < 4 << 10, "{} bytes for one of {disks} disks", text.len());
        }
        for text in [",", "1,", "2048", "3-1", "a", "1-", "-1", "1-2-3", " 1"] {
            assert!(text.parse::<SlotSet>().is_err(), "{text}");
        }
    }
}
