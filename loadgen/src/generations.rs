//! Which contents of an overwritten object a reader may see.
//!
//! An object that is written again gets another generation of bytes (see `payload`). What always holds: at any moment an object has at
//! most two possible contents, the generation that was last acknowledged and the next one. For that, a PUT of an object that has an
//! unanswered PUT sends the same generation again instead of a newer one; and a PUT that never gets a clear answer is held to be under
//! way for ever, since it may still arrive. So a read that began after an acknowledgement and brings an older generation is a stale
//! read, without any doubt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Generations of one run; a second later they are all higher.
const RUN_BITS: u32 = 20;
/// Bits of an object's state: how many PUTs are unanswered, whether the generation was acknowledged, the generation.
const PENDING: u64 = (1 << 31) - 1;
const ACKNOWLEDGED: u64 = 1 << 31;
const GENERATION_SHIFT: u32 = 32;

/// The generations of all objects that a run may overwrite.
#[derive(Debug)]
pub(crate) struct Generations {
    /// Higher than all generations of earlier runs.
    base: u64,
    /// Empty where nobody verifies.
    objects: Vec<AtomicU64>,
    untracked: AtomicU64,
}

impl Generations {
    /// For a run that begins at `now` and, if it verifies what it overwrites, for objects `0..tracked`.
    pub(crate) fn new(now: SystemTime, tracked: usize) -> Self {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let objects = (0..tracked).map(|_| AtomicU64::new(ACKNOWLEDGED)).collect();
        Self { base: (seconds & u64::from(u32::MAX)) << RUN_BITS, objects, untracked: AtomicU64::new(0) }
    }

    /// The generation to send in a PUT of `object` that begins now.
    pub(crate) fn begin(&self, object: u64) -> u64 {
        let Some(state) = self.state(object) else {
            return self.base + 1 + self.untracked.fetch_add(1, Ordering::Relaxed);
        };
        let next = |old: u64| match old & PENDING {
            0 => (((old >> GENERATION_SHIFT) + 1) << GENERATION_SHIFT) + 1,
            _ => old + 1,
        };
        // The closure never declines, so both arms hold the old state.
        let old = state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(next(old)))
            .unwrap_or_else(|old| old);
        self.base + (next(old) >> GENERATION_SHIFT)
    }

    /// A PUT of `object` was answered with success.
    pub(crate) fn acknowledge(&self, object: u64) {
        if let Some(state) = self.state(object) {
            // The closure never declines.
            let _ = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                debug_assert!(old & PENDING > 0, "an answer to nothing");
                Some((old | ACKNOWLEDGED) - 1)
            });
        }
    }

    /// The oldest generation that a read of `object` which begins now may bring.
    pub(crate) fn oldest(&self, object: u64) -> u64 {
        let Some(state) = self.state(object) else { return 0 };
        let state = state.load(Ordering::Acquire);
        match ((state >> GENERATION_SHIFT), state & ACKNOWLEDGED != 0) {
            // Never written in this run: whatever earlier ones left.
            (0, _) | (1, false) => 0,
            (generation, true) => self.base + generation,
            (generation, false) => self.base + generation - 1,
        }
    }

    fn state(&self, object: u64) -> Option<&AtomicU64> {
        self.objects.get(usize::try_from(object).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::MAX_GENERATION;
    use std::time::Duration;

    fn tracked() -> Generations {
        Generations::new(SystemTime::UNIX_EPOCH, 3)
    }

    #[test]
    fn a_read_may_be_old_until_the_new_is_acknowledged() {
        let generations = tracked();
        assert_eq!(generations.oldest(1), 0);
        assert_eq!(generations.begin(1), 1);
        assert_eq!(generations.oldest(1), 0, "not acknowledged yet");
        generations.acknowledge(1);
        assert_eq!(generations.oldest(1), 1);
        assert_eq!(generations.begin(1), 2);
        assert_eq!(generations.oldest(1), 1);
        generations.acknowledge(1);
        assert_eq!(generations.oldest(1), 2);
        assert_eq!(generations.oldest(2), 0, "another object");
    }

    #[test]
    fn overlapping_puts_carry_the_same_bytes() {
        let generations = tracked();
        assert_eq!((generations.begin(0), generations.begin(0)), (1, 1));
        generations.acknowledge(0);
        assert_eq!(generations.oldest(0), 1, "whichever of the two came first");
        assert_eq!(generations.begin(0), 1, "one is still under way");
    }

    #[test]
    fn a_put_in_doubt_never_makes_a_right_read_stale() {
        let generations = tracked();
        assert_eq!(generations.begin(0), 1);
        // No answer ever came. Whatever follows, there is nothing newer that the late PUT could undo.
        for _ in 0..5 {
            assert_eq!(generations.begin(0), 1);
            generations.acknowledge(0);
            assert_eq!(generations.oldest(0), 1);
        }
    }

    #[test]
    fn later_runs_have_higher_generations_within_what_a_payload_can_carry() {
        let at = |seconds| Generations::new(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), 1);
        assert!(at(1_800_000_001).begin(0) > at(1_800_000_000).begin(0));
        assert!(at(u64::from(u32::MAX)).begin(0) < MAX_GENERATION);
    }

    #[test]
    fn what_is_not_tracked_differs_every_time_and_is_never_stale() {
        let generations = Generations::new(SystemTime::UNIX_EPOCH, 0);
        assert_ne!(generations.begin(5), generations.begin(5));
        generations.acknowledge(5);
        assert_eq!(generations.oldest(5), 0);
    }
}
