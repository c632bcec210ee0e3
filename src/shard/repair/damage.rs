//! The damaged chunks that are known, on all cores together, and those among them that wait for their repair.
//!
//! Bounded: damage that finds no place is found again, by the next pass of the scrub or the next read. An entry goes when its
//! chunk is repaired, found good, or not met by a whole pass any more.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;

use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::limits::{DAMAGES_MAX, DAMAGES_SHOWN, REPAIR_QUEUE};
use crate::meta::types::Row;

/// A chunk of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The slot.
    pub slot: Slot,
    /// The version.
    pub row: Row,
    /// Number of the chunk in it.
    pub number: u64,
}

/// A damaged chunk.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Which.
    pub place: Place,
    /// Its blob.
    pub blob: BlobId,
    /// What is wrong with it.
    pub what: String,
}

/// What became of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The chunk is good now.
    Repaired,
    /// There was nothing to repair: the chunk is good, or its version is gone.
    Needless,
    /// It is still damaged.
    Failed,
}

/// Whether damage found its place.
#[derive(Debug)]
pub enum Entered {
    /// Its repair is on its way.
    Queued(oneshot::Receiver<Outcome>),
    /// It is known; there is no other replica, and no archive.
    Known,
    /// There is no place for it now.
    NoPlace,
}

struct Known {
    blob: BlobId,
    what: String,
    met: Instant,
    queued: bool,
    waiting: Vec<oneshot::Sender<Outcome>>,
}

/// Damaged chunks.
pub struct Damages {
    known: Mutex<BTreeMap<Place, Known>>,
    /// By core; none where there is no other replica, and no archive.
    queues: Vec<(Sender<Place>, Receiver<Place>)>,
    /// Files of chunks that were replaced, for who has the old ones open.
    replaced: Arc<AtomicU64>,
}

impl Damages {
    /// Of a node with so many cores; alone, without other replicas and an archive, it has nobody to repair from.
    pub fn new(cores: usize, alone: bool) -> Self {
        let queues = if alone { 0 } else { cores };
        Self {
            known: Mutex::default(),
            queues: (0..queues).map(|_| async_channel::bounded(REPAIR_QUEUE)).collect(),
            replaced: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Place, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts files of chunks that were replaced.
    pub fn replaced(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.replaced)
    }

    /// Notes that one was, or that it was removed, so that nobody keeps it open.
    pub fn note_replaced(&self) {
        self.replaced.fetch_add(1, Ordering::AcqRel);
    }

    /// Enters damage, to be repaired if there is another replica, or an archive.
    pub fn enter(&self, damage: Damage) -> Entered {
        let Damage { place, blob, what } = damage;
        let mut known = self.known();
        let is_full = known.len() >= DAMAGES_MAX;
        let entry = match known.entry(place) {
            Entry::Vacant(_) if is_full => return Entered::NoPlace,
            Entry::Vacant(vacant) => {
                tracing::error!(slot = %place.slot, %blob, chunk = place.number, %what, "a chunk is damaged");
                let new = Known { blob, what, met: Instant::now(), queued: false, waiting: Vec::new() };
                vacant.insert(new)
            }
            Entry::Occupied(occupied) => {
                let known = occupied.into_mut();
                (known.what, known.met) = (what, Instant::now());
                known
            }
        };
        let Some((queue, _)) = self.queue(place.slot) else { return Entered::Known };
        entry.queued = entry.queued || queue.try_send(place).is_ok();
        if !entry.queued {
            return Entered::NoPlace;
        }
        let (sender, outcome) = oneshot::channel();
        entry.waiting.retain(|waiting| !waiting.is_canceled());
        entry.waiting.push(sender);
        Entered::Queued(outcome)
    }

    fn queue(&self, slot: Slot) -> Option<&(Sender<Place>, Receiver<Place>)> {
        self.queues.get(slot.core(self.queues.len().max(1)))
    }

    /// The next chunk that a core is to repair.
    pub(super) async fn next(&self, core: usize) -> Option<Place> {
        self.queues.get(core)?.1.recv().await.ok()
    }

    /// Has a core try again what failed.
    pub(super) fn try_again(&self, core: usize) {
        let Some((queue, _)) = self.queues.get(core) else { return };
        let cores = self.queues.len();
        let failed = |(place, known): &(&Place, &mut Known)| !known.queued && place.slot.core(cores) == core;
        for (place, known) in self.known().iter_mut().filter(failed) {
            known.queued = queue.try_send(*place).is_ok();
        }
    }

    /// Notes what became of a repair.
    pub(super) fn end(&self, place: Place, outcome: Outcome, why: Option<String>) {
        let mut known = self.known();
        let Some(entry) = known.get_mut(&place) else { return };
        entry.queued = false;
        if let Some(why) = why {
            entry.what = why;
        }
        for waiting in entry.waiting.drain(..) {
            // Who no longer waits is not missed.
            let _ = waiting.send(outcome);
        }
        if outcome != Outcome::Failed {
            known.remove(&place);
        }
    }

    /// Notes that a chunk was found good.
    pub fn found_good(&self, place: Place) {
        let mut known = self.known();
        if known.get(&place).is_some_and(|known| !known.queued) {
            known.remove(&place);
        }
    }

    /// After a whole pass over some slots that began at `since`: what it did not meet is there no more.
    pub fn forget_unmet(&self, since: Instant, passed: impl Fn(Slot) -> bool) {
        self.known().retain(|place, known| known.queued || known.met >= since || !passed(place.slot));
    }

    /// How many are known.
    pub fn count(&self) -> usize {
        self.known().len()
    }

    /// Some of them, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.known().iter().take(DAMAGES_SHOWN).map(|(place, known)| line(*place, known)).collect()
    }
}

fn line(place: Place, known: &Known) -> String {
    format!("slot {}, blob {}, chunk {}: {}", place.slot, known.blob, place.number, known.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(number: u64) -> Damage {
        let place = Place { slot: Slot::all().next().unwrap(), row: Row(1), number };
        Damage { place, blob: BlobId::from_u128(7), what: "its SHA-256 is wrong".to_owned() }
    }

    #[test]
    fn alone_damage_is_known_until_a_pass_does_not_meet_it() {
        let damages = Damages::new(2, true);
        assert!(matches!(damages.enter(damage(0)), Entered::Known));
        assert!(matches!(damages.enter(damage(1)), Entered::Known));
        let since = Instant::now();
        damages.enter(damage(1));
        damages.forget_unmet(since, |_| false);
        assert_eq!(damages.count(), 2, "of other slots");
        damages.forget_unmet(since, |_| true);
        assert_eq!(damages.lines().len(), 1);
        damages.found_good(damage(1).place);
        assert_eq!(damages.count(), 0);
    }

    #[test]
    fn a_repair_answers_all_who_wait_and_one_that_fails_can_be_tried_again() {
        let damages = Damages::new(1, false);
        let (Entered::Queued(mut first), Entered::Queued(mut second)) =
            (damages.enter(damage(3)), damages.enter(damage(3)))
        else {
            panic!("there is room")
        };
        let queue = damages.queues[0].1.clone();
        assert_eq!(queue.len(), 1, "it waits once");
        let place = queue.try_recv().unwrap();
        damages.end(place, Outcome::Failed, None);
        assert_eq!(first.try_recv(), Ok(Some(Outcome::Failed)));
        assert_eq!(second.try_recv(), Ok(Some(Outcome::Failed)));
        assert_eq!(damages.count(), 1);
        damages.try_again(0);
        damages.try_again(0);
        assert_eq!((queue.try_recv(), queue.try_recv().is_err()), (Ok(place), true));
        damages.end(place, Outcome::Repaired, None);
        assert_eq!(damages.count(), 0);
    }

    #[test]
    fn what_finds_no_place_is_refused() {
        let damages = Damages::new(1, false);
        for number in 0..REPAIR_QUEUE as u64 {
            assert!(matches!(damages.enter(damage(number)), Entered::Queued(_)));
        }
        assert!(matches!(damages.enter(damage(u64::MAX)), Entered::NoPlace));
    }
}
