//! What all threads share of the slots: where each lives, whether it is in service, and its generation.
//!
//! A slot's generation is odd while a commit is under way, in which readers may already see it, and even otherwise. An
//! answer read at an even generation is good while the generation is the same (a sequence lock, Lameter 2005).
//!
//! A slot whose database has lost what it promised is out of service; where other replicas can give it back, another database
//! takes its place, which makes another incarnation of the slot: what was opened or read of the former is of no use any more.
//!
//! A slot is pending while its database lacks versions that the journal has: whoever wants to know what the slot holds
//! has its writer bring them there first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::digests::Digests;
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::wire::peer::sync::Digest;

/// Whether a slot can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On disk, not looked at since the start.
    Unchecked,
    /// Has never held a blob; nothing is on disk.
    Unborn,
    /// In service.
    Ready,
    /// Out of service, for a reason that `/readyz` names.
    Failed,
}

const STATES: [State; 4] = [State::Unchecked, State::Unborn, State::Ready, State::Failed];

/// Never, as a time at which chunks are due to be dropped.
const NEVER: i64 = i64::MAX;

struct Entry {
    dir: PathBuf,
    disk: usize,
    state: AtomicU8,
    generation: AtomicU64,
    pending: AtomicBool,
    oldest_tombstone: AtomicI64,
    oldest_prepared: AtomicI64,
    recovering: AtomicBool,
    hollow: AtomicU64,
    lost: AtomicBool,
    incarnation: AtomicU32,
    reason: Mutex<String>,
}

/// The table of all slots.
pub struct Slots {
    entries: Vec<Entry>,
    pub(super) digests: Digests,
    /// Disks that something went wrong on, by number.
    suspected: Vec<AtomicBool>,
}

impl Slots {
    /// The table, from each slot's disk, directory and first state, in order.
    pub fn new(slots: impl Iterator<Item = (usize, PathBuf, State)>) -> Self {
        let entry = |(disk, dir, state): (usize, PathBuf, State)| Entry {
            dir,
            disk,
            state: AtomicU8::new(state as u8),
            generation: AtomicU64::new(0),
            pending: AtomicBool::new(false),
            oldest_tombstone: AtomicI64::new(NEVER),
            oldest_prepared: AtomicI64::new(NEVER),
            recovering: AtomicBool::new(false),
            hollow: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            incarnation: AtomicU32::new(0),
            reason: Mutex::default(),
        };
        let entries: Vec<Entry> = slots.map(entry).collect();
        let disks = entries.iter().map(|entry| entry.disk + 1).max().unwrap_or(0);
        let suspected = (0..disks).map(|_| AtomicBool::new(false)).collect();
        Self { entries, digests: Digests::default(), suspected }
    }

    fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot.index()]
    }

    /// The slot's directory.
    pub fn dir(&self, slot: Slot) -> &Path {
        &self.entry(slot).dir
    }

    /// Index of the slot's disk.
    pub fn disk(&self, slot: Slot) -> usize {
        self.entry(slot).disk
    }

    /// Whether the slot can be used.
    pub fn state(&self, slot: Slot) -> State {
        STATES[usize::from(self.entry(slot).state.load(Ordering::Acquire))]
    }

    /// The slot's generation; none while a commit is under way.
    pub fn generation(&self, slot: Slot) -> Option<u64> {
        let generation = self.entry(slot).generation.load(Ordering::SeqCst);
        generation.is_multiple_of(2).then_some(generation)
    }

    /// A commit begins, or has ended.
    pub(super) fn step_generation(&self, slot: Slot) {
        self.entry(slot).generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Versions were made that are in the journal and not in the slot's database: the journal is synced, nobody was told.
    /// In this order, so that whoever finds the new generation also finds that the database does not have it all.
    pub(super) fn journaled(&self, slot: Slot) {
        self.entry(slot).pending.store(true, Ordering::SeqCst);
        self.entry(slot).generation.fetch_add(2, Ordering::SeqCst);
    }

    /// The slot's database has all that the journal has.
    pub(super) fn settled(&self, slot: Slot) {
        self.entry(slot).pending.store(false, Ordering::SeqCst);
    }

    /// Whether the slot's database lacks what the journal has.
    pub fn is_pending(&self, slot: Slot) -> bool {
        self.entry(slot).pending.load(Ordering::SeqCst)
    }

    /// The slot is in service, unless its disk has failed meanwhile.
    pub(super) fn set_ready(&self, slot: Slot) {
        let ready = |state| (state != State::Failed as u8).then_some(State::Ready as u8);
        let _ = self.entry(slot).state.fetch_update(Ordering::AcqRel, Ordering::Acquire, ready);
    }

    /// The slot has no database, and nothing is known of it.
    pub(super) fn set_unborn(&self, slot: Slot) {
        self.entry(slot).state.store(State::Unborn as u8, Ordering::Release);
    }

    /// The slot has no database, and yet something may be known of it: its writer looks first.
    pub(super) fn set_unchecked(&self, slot: Slot) {
        self.entry(slot).state.store(State::Unchecked as u8, Ordering::Release);
    }

    /// Takes a slot out of service whose database is gone, damaged, or older than it was.
    pub fn lose(&self, slot: Slot, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%slot, %reason, "slot out of service");
        let entry = self.entry(slot);
        let mut why = entry.reason.lock().unwrap_or_else(PoisonError::into_inner);
        *why = reason;
        entry.lost.store(true, Ordering::Release);
        entry.state.store(State::Failed as u8, Ordering::Release);
    }

    /// Whether the slot is out of service for that reason.
    pub fn is_lost(&self, slot: Slot) -> bool {
        self.state(slot) == State::Failed && self.entry(slot).lost.load(Ordering::Acquire)
    }

    /// Another database has taken the place of the one that was lost.
    pub(super) fn replaced(&self, slot: Slot) {
        let entry = self.entry(slot);
        // Not in the middle of somebody's report that it is lost.
        let _why = entry.reason.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_oldest_tombstone(slot, None);
        self.set_oldest_prepared(slot, None);
        entry.hollow.store(0, Ordering::Release);
        entry.incarnation.fetch_add(1, Ordering::AcqRel);
        entry.generation.fetch_add(2, Ordering::SeqCst);
        entry.lost.store(false, Ordering::Release);
        entry.state.store(State::Ready as u8, Ordering::Release);
    }

    /// Which database the slot has: how many were lost before it, in this run.
    pub fn incarnation(&self, slot: Slot) -> u32 {
        self.entry(slot).incarnation.load(Ordering::Acquire)
    }

    /// Takes a slot out of service.
    pub fn fail(&self, slot: Slot, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%slot, %reason, "slot out of service");
        *self.entry(slot).reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.entry(slot).state.store(State::Failed as u8, Ordering::Release);
    }

    /// Takes all slots of a disk out of service.
    pub fn fail_all(&self, disk: usize, reason: &str) {
        for entry in self.entries.iter().filter(|entry| entry.disk == disk) {
            reason.clone_into(&mut entry.reason.lock().unwrap_or_else(PoisonError::into_inner));
            entry.state.store(State::Failed as u8, Ordering::Release);
        }
    }

    /// Something went wrong that the slot's disk may be to blame for.
    pub(super) fn suspect(&self, slot: Slot) {
        self.suspected[self.disk(slot)].store(true, Ordering::Release);
    }

    /// Whether something did on a disk; from then on it did not.
    pub fn take_suspicion(&self, disk: usize) -> bool {
        self.suspected
            .get(disk)
            .is_some_and(|it| it.load(Ordering::Acquire) && it.swap(false, Ordering::AcqRel))
    }

    /// Why a slot is out of service.
    pub fn reason(&self, slot: Slot) -> String {
        self.entry(slot).reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses a request for a slot that is not in service.
    ///
    /// # Errors
    /// `SlotUnavailable`.
    pub fn admit(&self, slot: Slot) -> Result<()> {
        let message = match self.state(slot) {
            State::Ready | State::Unborn => return Ok(()),
            State::Unchecked => {
                format!("slot {slot} is being checked after the start: try again in a second")
            }
            State::Failed => format!("slot {slot} is out of service: {}; see /readyz", self.reason(slot)),
        };
        Err(Error::new(Code::SlotUnavailable, message))
    }

    /// Whether this replica has lost its memory and does not have it back yet.
    pub fn is_recovering(&self, slot: Slot) -> bool {
        self.entry(slot).recovering.load(Ordering::Acquire)
    }

    /// Notes whether it has.
    pub fn set_recovering(&self, slot: Slot, recovering: bool) {
        self.entry(slot).recovering.store(recovering, Ordering::Release);
    }

    /// Whether this replica can vote: it has its memory, and its database is in service.
    pub fn votes(&self, slot: Slot) -> bool {
        !self.is_recovering(slot) && self.state(slot) != State::Failed
    }

    /// Notes how many live versions lack their chunks.
    pub(super) fn set_hollow(&self, slot: Slot, versions: u64) {
        self.entry(slot).hollow.store(versions, Ordering::Release);
    }

    /// Notes that so many more of them do, or fewer.
    pub(super) fn change_hollow(&self, slot: Slot, versions: i64) {
        self.entry(slot).hollow.fetch_add(versions.cast_unsigned(), Ordering::AcqRel);
    }

    /// Live versions that lack their chunks.
    pub fn hollow(&self, slot: Slot) -> u64 {
        if self.state(slot) == State::Ready { self.entry(slot).hollow.load(Ordering::Acquire) } else { 0 }
    }

    /// The digest of what is on disk of the slot; none while it is not known.
    pub fn digest(&self, slot: Slot) -> Option<Digest> {
        match self.state(slot) {
            State::Unborn => Some(Digest::default()),
            State::Ready => self.digests.get(slot),
            State::Unchecked | State::Failed => None,
        }
    }

    /// Notes when the slot's oldest try without an outcome was voted for.
    pub(super) fn set_oldest_prepared(&self, slot: Slot, time: Option<Timestamp>) {
        self.entry(slot).oldest_prepared.store(time.map_or(NEVER, |time| time.0), Ordering::Release);
    }

    /// Whether the slot has tries without an outcome that were voted for at or before `until`.
    pub fn has_prepared(&self, slot: Slot, until: Timestamp) -> bool {
        self.state(slot) == State::Ready
            && self.entry(slot).oldest_prepared.load(Ordering::Acquire) <= until.0
    }

    /// Notes that the slot's oldest tombstone with chunks is now this one.
    pub(super) fn set_oldest_tombstone(&self, slot: Slot, time: Option<Timestamp>) {
        self.entry(slot).oldest_tombstone.store(time.map_or(NEVER, |time| time.0), Ordering::Release);
    }

    /// Notes a new tombstone.
    pub(super) fn note_tombstone(&self, slot: Slot, time: Timestamp) {
        self.entry(slot).oldest_tombstone.fetch_min(time.0, Ordering::AcqRel);
    }

    /// Whether the slot has chunks of versions tombstoned at or before `until`.
    pub fn has_tombstones(&self, slot: Slot, until: Timestamp) -> bool {
        self.state(slot) == State::Ready
            && self.entry(slot).oldest_tombstone.load(Ordering::Acquire) <= until.0
    }
}
