//! From the journal to the slots' databases: all pending records of a slot in one transaction, many slots in one round.
//!
//! It happens when a bound of [`Pending`](super::pending::Pending) is reached, when somebody wants to know what a slot
//! holds, and when nobody asks for anything. These transactions are not synced: until the journal's segment is recycled,
//! the journal has the records too. A round runs on several threads, since it waits for the syncs of SQLite's checkpoints.
//!
//! A slot that cannot be written to for now (a full disk) keeps its records, in memory and in the journal; one that turns
//! out damaged is out of service, and its segments are kept for the next start.

use std::thread;

use async_channel::{Receiver, TryRecvError};
use rusqlite::Connection;

use super::commit::{Opened, Writer, roll_back};
use super::op::Op;
use super::pending::Held;
use super::queue::recv_within;
use super::schema::is_full;
use super::slots::State;
use super::writer::refusal;
use super::{apply, query};
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::limits::{QUIET, SETTLE_ROUND, SETTLERS};

impl Writer {
    /// The next command. While there is none, pending records go to their databases.
    pub(super) fn next(&mut self, ops: &Receiver<(Slot, Op)>) -> Option<(Slot, Op)> {
        let mut patience = QUIET;
        while !self.pending.is_empty() {
            match recv_within(ops, patience) {
                Ok(Some(op)) => return Some(op),
                Err(_) => return None,
                Ok(None) => {}
            }
            loop {
                // On a full disk there is no hurry.
                patience = if self.settle_round(SETTLERS) { QUIET } else { QUIET * 100 };
                match ops.try_recv() {
                    Ok(op) => return Some(op),
                    Err(TryRecvError::Empty) if patience == QUIET && !self.pending.is_empty() => {}
                    Err(_) => break,
                }
            }
        }
        ops.recv_blocking().ok()
    }

    /// After a batch: keeps what is pending within its bounds, and lets it shrink while the journal is not in use.
    pub(super) fn relieve(&mut self, journaled: bool) {
        if !journaled && !self.pending.is_empty() {
            self.settle_round(1);
        }
        while self.pending.is_full() && self.settle_round(SETTLE_ROUND) {}
    }

    /// At the end: all that can be brought to its database; the rest stays in the journal.
    pub(super) fn settle_all(&mut self) {
        let slots: Vec<Slot> = self.pending.slots().collect();
        for round in slots.chunks(SETTLE_ROUND) {
            self.settle_slots(round);
        }
    }

    /// Brings the records of those slots that waited longest to their databases; false if that failed for any.
    fn settle_round(&mut self, slots: usize) -> bool {
        let slots: Vec<Slot> = self.pending.slots().take(slots).collect();
        self.settle_slots(&slots)
    }

    fn settle_slots(&mut self, slots: &[Slot]) -> bool {
        let unborn: Vec<Slot> = slots.iter().copied().filter(|slot| self.unborn.contains(slot)).collect();
        let born = self.bear(&unborn).iter().all(Result::is_ok);
        // Those that could not be made say so once more.
        let mut opened = Vec::with_capacity(slots.len());
        let mut all = born;
        for slot in slots {
            match self.take_out(*slot) {
                Ok(connection) => opened.push((*slot, connection)),
                Err(error) => {
                    all = false;
                    self.defer(*slot, &error.to_string());
                }
            }
        }
        let pending = &self.pending;
        let write = |(slot, opened): (Slot, Opened)| {
            let outcome = write(opened.db(), pending.of(slot));
            (slot, opened, outcome)
        };
        let written: Vec<_> = if opened.len() == 1 {
            opened.into_iter().map(write).collect()
        } else {
            let share = opened.len().div_ceil(SETTLERS).max(1);
            let mut shares = Vec::new();
            while !opened.is_empty() {
                shares.push(opened.split_off(opened.len().saturating_sub(share)));
            }
            thread::scope(|scope| {
                let write = &write;
                let threads: Vec<_> = shares
                    .into_iter()
                    .map(|share| scope.spawn(move || share.into_iter().map(write).collect::<Vec<_>>()))
                    .collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
            })
        };
        for (slot, opened, outcome) in written {
            self.databases.put(slot, opened);
            if let Err(error) = self.finish(slot, outcome) {
                all = false;
                self.defer(slot, &error.to_string());
            }
        }
        all
    }

    fn defer(&mut self, slot: Slot, error: &str) {
        tracing::warn!(%slot, error, "what the journal has of a slot cannot be written to its database for now");
        self.pending.defer(slot);
    }

    fn take_out(&mut self, slot: Slot) -> Result<Opened> {
        self.slots.admit(slot)?;
        if self.unborn.contains(&slot) {
            return Err(Error::new(Code::SlotUnavailable, format!("slot {slot} cannot be made for now")));
        }
        let opened = self.open(slot, false).map(drop);
        let opened = opened.and_then(|()| self.databases.take(slot).ok_or_else(|| query::corrupt("table")));
        opened.map_err(|error| self.refuse(slot, &error))
    }

    /// Brings the records of a slot to its database.
    pub(super) fn settle(&mut self, slot: Slot) -> Result<()> {
        if self.pending.of(slot).is_empty() {
            return Ok(());
        }
        self.slots.admit(slot)?;
        if self.unborn.contains(&slot) {
            self.bear_one(slot)?;
        }
        let opened = self.take_out(slot)?;
        let outcome = write(opened.db(), self.pending.of(slot));
        self.databases.put(slot, opened);
        self.finish(slot, outcome)
    }

    fn finish(&mut self, slot: Slot, mut outcome: rusqlite::Result<()>) -> Result<()> {
        let disk = self.slots.disk(slot);
        if outcome.as_ref().is_err_and(is_full)
            && self.rules.ballast[disk].give_up()
            && let Some(db) = self.opened(slot)
        {
            outcome = write(db, self.pending.of(slot));
        }
        outcome.map_err(|error| self.refuse(slot, &error))?;
        let held = self.pending.remove(slot);
        self.slots.settled(slot);
        self.journals[disk].release(held.into_iter().map(|held| held.segment));
        Ok(())
    }

    fn refuse(&mut self, slot: Slot, error: &rusqlite::Error) -> Error {
        self.databases.close(slot);
        let error = refusal(&self.slots, slot, error);
        if self.slots.state(slot) == State::Failed {
            self.pending.give_up(slot);
        }
        error
    }
}

/// One transaction for records of one slot.
fn write(db: &Connection, held: &[Held]) -> rusqlite::Result<()> {
    let write = || {
        db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        // An attempt that failed at its end may have left them there.
        let known = query::last_seq(db)?;
        for Held { record, .. } in held.iter().filter(|held| held.record.seq > known) {
            apply::insert(db, &record.meta(), &record.blob, record.seq)?;
        }
        db.prepare_cached("COMMIT")?.execute([]).map(drop)
    };
    let written = write();
    if written.is_err() {
        roll_back(db);
    }
    written
}
