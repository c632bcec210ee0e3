//! When versions were read: noted by each core for itself, and written down now and then. What a crash takes makes a version look
//! as if it had not been read for a little longer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use lru::LruCache;
use monoio::time::sleep;

use crate::base::clock::Timestamp;
use crate::base::slot::Slot;
use crate::limits::{READS_NOTED, READS_PAUSE};
use crate::meta::types::Row;
use crate::shard::core::Core;

/// Times of reading of one core.
pub(in crate::shard) struct Reads {
    /// Seconds, less than which make no difference.
    step: i64,
    /// When, and whether that was not written down yet. Of too many, those that were read longest ago are forgotten.
    noted: RefCell<LruCache<(Slot, Row), (i64, bool)>>,
}

impl Reads {
    pub(in crate::shard) fn new(step: Duration) -> Self {
        let room = NonZeroUsize::new(READS_NOTED).unwrap_or(NonZeroUsize::MIN);
        Self {
            step: i64::try_from(step.as_secs()).unwrap_or(i64::MAX),
            noted: RefCell::new(LruCache::new(room)),
        }
    }

    /// A version is read.
    pub(in crate::shard) fn note(&self, slot: Slot, row: Row, now: Timestamp) {
        let now = now.seconds();
        let mut noted = self.noted.borrow_mut();
        let noted = noted.get_or_insert_mut((slot, row), || (i64::MIN, false));
        if now.saturating_sub(noted.0) >= self.step {
            *noted = (now, true);
        }
    }

    /// What is to be written down, by slot.
    fn take(&self) -> HashMap<Slot, Vec<(Row, i64)>> {
        let mut taken: HashMap<Slot, Vec<(Row, i64)>> = HashMap::new();
        for ((slot, row), (at, is_new)) in self.noted.borrow_mut().iter_mut() {
            if std::mem::take(is_new) {
                taken.entry(*slot).or_default().push((*row, *at));
            }
        }
        taken
    }
}

/// Writes times of reading down for as long as the core runs.
pub(in crate::shard) async fn run(core: Rc<Core>, step: Duration) {
    loop {
        sleep(step.min(READS_PAUSE)).await;
        write_down(&core).await;
    }
}

/// Writes down what was noted.
pub(in crate::shard) async fn write_down(core: &Core) {
    let Some(reads) = &core.reads else { return };
    for (slot, reads) in reads.take() {
        if let Err(error) = core.node.writers.note_reads(slot, reads).await {
            tracing::debug!(%slot, %error, "when versions were read could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_down_once_in_a_while() {
        let reads = Reads::new(Duration::from_mins(1));
        let (slot, other) = (Slot::new(1).unwrap(), Slot::new(2).unwrap());
        let at = |seconds: i64| Timestamp(seconds * 1000);
        reads.note(slot, Row(1), at(1000));
        reads.note(slot, Row(1), at(1059));
        reads.note(other, Row(1), at(1010));
        let taken = reads.take();
        assert_eq!((&taken[&slot], &taken[&other]), (&vec![(Row(1), 1000)], &vec![(Row(1), 1010)]));
        reads.note(slot, Row(1), at(1059));
        assert!(reads.take().is_empty(), "that was written down a short while ago");
        reads.note(slot, Row(1), at(1060));
        assert_eq!(reads.take()[&slot], [(Row(1), 1060)]);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let reads = Reads::new(Duration::from_secs(1));
        for row in 0..=READS_NOTED as u32 {
            reads.note(Slot::new(1).unwrap(), Row(row.into()), Timestamp(5000));
        }
        assert_eq!(reads.noted.borrow().len(), READS_NOTED);
    }
}
