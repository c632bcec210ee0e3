//! The databases that a writer makes: those of slots that are written to for the first time, and empty ones in the place of
//! those that were lost.
//!
//! A database is on disk, and then on its disk's list of births, before anything is committed in it.

use std::path::Path;

use super::commit::Writer;
use super::op::Op;
use super::slots::State;
use super::{aside, birth, query};
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;

impl Writer {
    /// Puts slots on disk, and then on their disks' lists: only then may anything be committed in them.
    pub(super) fn bear(&mut self, slots: &[Slot]) -> Vec<Result<()>> {
        if slots.is_empty() {
            return Vec::new();
        }
        let dirs: Vec<&Path> = slots.iter().map(|slot| self.slots.dir(*slot)).collect();
        let refused = |slot: Slot, full: bool, why: &dyn std::fmt::Display| {
            let code = if full { Code::DiskFull } else { Code::SlotUnavailable };
            Error::new(code, format!("slot {slot} cannot be made: {why}"))
        };
        let made = slots.iter().zip(birth::bear(&dirs));
        let mut outcomes: Vec<Result<()>> =
            made.map(|(slot, made)| made.map_err(|error| refused(*slot, error.is_full(), &error))).collect();
        for disk in 0..self.journals.len() {
            let made = slots
                .iter()
                .zip(&outcomes)
                .filter(|(slot, outcome)| outcome.is_ok() && self.slots.disk(**slot) == disk);
            let made: Vec<Slot> = made.map(|(slot, _)| *slot).collect();
            if made.is_empty() {
                continue;
            }
            if let Err(error) = self.rules.births.add(disk, &made) {
                let full = error.raw_os_error() == Some(libc::ENOSPC);
                for (slot, outcome) in slots.iter().zip(&mut outcomes).filter(|(slot, _)| made.contains(slot))
                {
                    *outcome = Err(refused(*slot, full, &error));
                }
            }
        }
        for (slot, _) in slots.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            self.unborn.remove(slot);
            self.slots.digests.begin(*slot);
        }
        outcomes
    }

    pub(super) fn bear_one(&mut self, slot: Slot) -> Result<()> {
        self.bear(&[slot]).pop().unwrap_or(Ok(()))
    }

    /// Puts all those slots of a batch on disk that will need it. Those that cannot be made say so when it is their turn.
    pub(super) fn bear_together(&mut self, groups: &[(Slot, Vec<Op>)]) {
        let is_born = |(slot, ops): &&(Slot, Vec<Op>)| {
            self.slots.state(*slot) == State::Unborn
                && ops.iter().any(|op| !matches!(op, Op::Barrier(_) | Op::PutAside(..) | Op::Digest(_)))
        };
        let unborn: Vec<Slot> = groups.iter().filter(is_born).map(|(slot, _)| *slot).collect();
        for (slot, outcome) in unborn.iter().zip(self.bear(&unborn)) {
            if outcome.is_ok() {
                self.slots.set_ready(*slot);
            }
        }
    }

    /// Gives a slot that has lost its database an empty one. All that it promised is forgotten, so that this is for slots only of
    /// which nothing counts; a crash on the way leaves one that is found to be lost again.
    pub(super) fn put_aside(&mut self, slot: Slot, database: u32) -> Result<()> {
        if !self.slots.is_lost(slot) || self.slots.incarnation(slot) != database {
            return Ok(());
        }
        let unavailable = |why: String| Error::new(Code::SlotUnavailable, format!("slot {slot}: {why}"));
        if !self.slots.is_recovering(slot) {
            return Err(unavailable("its vote counts: its database stays where it is".to_owned()));
        }
        let last_row = self.opened(slot).and_then(|db| query::next_row(db).ok()).map_or(0, |row| row.0);
        self.databases.close(slot);
        self.cursors.remove(&slot);
        self.absent.forget(slot);
        self.pending.give_up(slot);
        for found in self.recovered.remove(&slot).unwrap_or_default() {
            found.segment.keep();
        }
        aside::put_aside(self.slots.dir(slot))
            .map_err(|error| unavailable(format!("its database cannot be put aside: {error}")))?;
        self.bear_one(slot)?;
        let begun = self.open(slot, true).and_then(|opened| query::begin_rows(opened.db(), last_row));
        begun.map_err(|error| unavailable(format!("its new database cannot be used: {error}")))?;
        self.indexes.forget(self.slots.disk(slot), slot);
        self.slots.replaced(slot);
        tracing::warn!(%slot, dir = %self.slots.dir(slot).display(),
            "the database was put aside: the slot recovers from the other replicas");
        Ok(())
    }
}
