//! PUTs of many slots at once: one frame in the journal and one sync make them durable, and they are answered then. The
//! slots' databases get them later, many rows in one transaction, without a sync of their own.
//!
//! What always holds: a record is in its database or in [`Pending`](super::pending::Pending), and in the journal until the
//! database is on disk; a slot is marked pending before anybody hears of a record; what is decided here is what the
//! database would have decided, because its rows and the pending ones are all there is. Whatever is not a plain PUT, and
//! every PUT while few slots are written to, goes to the database at once ([`super::commit`]).

use super::commit::{Cursor, Opened, Writer};
use super::index::Change;
use super::journal::Failed;
use super::op::Op;
use super::record::Record;
use super::slots::State;
use super::types::{Reply, Row, Stored};
use super::writer::refusal;
use super::{apply, query};
use crate::base::clock::Timestamp;
use crate::base::error::Result;
use crate::base::slot::Slot;
use crate::io::health::is_full;
use crate::io::steps;
use crate::limits::{JOURNAL_FREE, JOURNAL_SLOTS, NUMBER_MAX, RECORD_MAX};

type Group = (Slot, Vec<Op>);

/// A PUT, and what becomes of it.
struct Judged {
    reply: Reply<Stored>,
    outcome: Result<Record>,
}

impl Writer {
    /// Takes what the journal can take of a batch, and answers it; gives back the rest.
    pub(super) fn journal(&mut self, groups: Vec<Group>) -> Vec<Group> {
        if groups.len() < JOURNAL_SLOTS || self.pending.is_full() || self.rules.keep_versions > 0 {
            return groups;
        }
        let mut by_disk: Vec<Vec<Group>> = self.journals.iter().map(|_| Vec::new()).collect();
        let mut rest = Vec::new();
        for (slot, ops) in groups {
            if self.is_plain(slot, &ops) {
                by_disk[self.slots.disk(slot)].push((slot, ops));
            } else {
                rest.push((slot, ops));
            }
        }
        for (disk, groups) in by_disk.into_iter().enumerate() {
            if !groups.is_empty() && self.takes(disk) {
                rest.extend(self.journal_on(disk, groups));
            } else {
                rest.extend(groups);
            }
        }
        rest
    }

    /// Whether all of a slot's commands are PUTs that need nothing but the next version.
    fn is_plain(&self, slot: Slot, ops: &[Op]) -> bool {
        let plain = |op: &Op| match op {
            Op::Put(blob, _) => blob.is_plain() && Record::weight_of(blob) <= RECORD_MAX,
            _ => false,
        };
        matches!(self.slots.state(slot), State::Ready | State::Unborn)
            && !self.pending.is_full_of(slot)
            && ops.iter().all(plain)
    }

    /// Whether a disk's journal takes records: what it holds must fit the databases, and an index that is behind looks
    /// for what it missed in the databases alone.
    fn takes(&self, disk: usize) -> bool {
        let journal = &self.journals[disk];
        let has_room = || steps::space(journal.disk()).is_ok_and(|space| space.free >= JOURNAL_FREE);
        journal.is_open() && !self.indexes.is_behind(disk) && has_room()
    }

    /// One frame for the groups of one disk; gives them back if the journal does not take them.
    fn journal_on(&mut self, disk: usize, groups: Vec<Group>) -> Vec<Group> {
        let now = Timestamp::now();
        let mut judged: Vec<(Slot, Cursor, Vec<Judged>)> = Vec::with_capacity(groups.len());
        for (slot, ops) in groups {
            match self.cursor(slot) {
                Ok(cursor) => judged.push(self.judge(slot, cursor, now, ops)),
                Err(error) => {
                    self.close(slot);
                    let error = refusal(&self.slots, slot, &error);
                    for op in ops {
                        op.answer(Err(error.clone()));
                    }
                }
            }
        }
        let records =
            judged.iter().flat_map(|(_, _, puts)| puts.iter().filter_map(|put| put.outcome.as_ref().ok()));
        if records.clone().next().is_none() {
            answer(judged);
            return Vec::new();
        }
        match self.journals[disk].append(records) {
            Ok(segment) => {
                let mut changes = Vec::with_capacity(judged.len());
                let mut stored = Vec::new();
                for (slot, cursor, puts) in judged {
                    let mut entries = Vec::with_capacity(puts.len());
                    for Judged { reply, outcome } in puts {
                        stored.push((reply, outcome.as_ref().map(Record::stored).map_err(Clone::clone)));
                        if let Ok(record) = outcome {
                            entries.push(record.entry());
                            self.pending.push(record, segment.clone());
                        }
                    }
                    if !entries.is_empty() {
                        self.cursors.insert(slot, cursor);
                        self.slots.journaled(slot);
                        if self.slots.state(slot) == State::Unborn {
                            self.unborn.insert(slot);
                            self.slots.set_ready(slot);
                        }
                        changes.push(Change { slot, seq: cursor.seq, reset: false, entries });
                    }
                }
                self.indexes.apply(disk, changes);
                for (reply, outcome) in stored {
                    // An asker that is gone needs no answer.
                    let _ = reply.send(outcome);
                }
                Vec::new()
            }
            Err(Failed::Unavailable(error)) => {
                tracing::warn!(%error, "the journal cannot be written: small writes are committed one by one");
                if !is_full(&error)
                    && let Some((slot, ..)) = judged.first()
                {
                    self.slots.suspect(*slot);
                }
                give_back(judged)
            }
            Err(Failed::InDoubt(error)) => {
                for (slot, _, puts) in judged {
                    let unknown = self.in_doubt(slot, &error);
                    self.pending.give_up(slot);
                    for Judged { reply, outcome } in puts {
                        let _ = reply.send(Err(outcome.err().unwrap_or_else(|| unknown.clone())));
                    }
                }
                Vec::new()
            }
        }
    }

    /// The next free numbers of a slot.
    fn cursor(&mut self, slot: Slot) -> rusqlite::Result<Cursor> {
        if let Some(cursor) = self.cursors.get(&slot) {
            return Ok(*cursor);
        }
        if self.slots.state(slot) == State::Unborn {
            return Ok(Cursor { seq: 0, row: 1 });
        }
        let db = self.open(slot, false)?.db();
        let cursor = Cursor { seq: query::last_seq(db)?, row: query::next_row(db)?.0 };
        self.cursors.insert(slot, cursor);
        Ok(cursor)
    }

    /// Chooses versions, as the database would.
    fn judge(
        &mut self,
        slot: Slot,
        mut cursor: Cursor,
        now: Timestamp,
        ops: Vec<Op>,
    ) -> (Slot, Cursor, Vec<Judged>) {
        let mut judged: Vec<Judged> = Vec::with_capacity(ops.len());
        for op in ops {
            let Op::Put(blob, reply) = op else { continue };
            let earlier = judged.iter().rev().filter_map(|put| put.outcome.as_ref().ok());
            let newest = earlier
                .clone()
                .find(|record| record.blob.path == blob.path)
                .map(|record| record.version)
                .or_else(|| self.pending.newest(slot, &blob.path));
            let newest = match newest {
                Some(newest) => Ok(Some(newest)),
                None => self.stored_version(slot, &blob.path),
            };
            let outcome = match newest {
                Ok(Some(newest)) if newest >= NUMBER_MAX => Err(apply::no_version_left(&blob.path)),
                Ok(newest) => {
                    cursor.seq += 1;
                    cursor.row += 1;
                    let (row, version) = (Row(cursor.row - 1), newest.map_or(1, |newest| newest + 1));
                    Ok(Record { slot, seq: cursor.seq, row, version, now, blob })
                }
                Err(error) => {
                    self.close(slot);
                    Err(refusal(&self.slots, slot, &error))
                }
            };
            judged.push(Judged { reply, outcome });
        }
        (slot, cursor, judged)
    }

    /// The newest version of a path in the slot's database.
    fn stored_version(&mut self, slot: Slot, path: &str) -> rusqlite::Result<Option<u64>> {
        let on_disk = self.slots.state(slot) != State::Unborn && !self.unborn.contains(&slot);
        if !self.absent.knows(slot) {
            if on_disk {
                self.open(slot, false)?;
            }
            let db = self.databases.peek(slot).map(Opened::db).filter(|_| on_disk);
            self.absent.learn(slot, db)?;
            self.pending.of(slot).iter().for_each(|held| self.absent.note(slot, &held.record.blob.path));
        }
        let is_new = self.absent.is_absent(slot, path);
        self.absent.note(slot, path);
        if is_new || !on_disk {
            return Ok(None);
        }
        query::newest_version(self.open(slot, false)?.db(), path)
    }
}

fn answer(judged: Vec<(Slot, Cursor, Vec<Judged>)>) {
    for Judged { reply, outcome } in judged.into_iter().flat_map(|(_, _, puts)| puts) {
        if let Err(error) = outcome {
            let _ = reply.send(Err(error));
        }
    }
}

/// Commands as they came; those that were refused are answered.
fn give_back(judged: Vec<(Slot, Cursor, Vec<Judged>)>) -> Vec<Group> {
    let back = |Judged { reply, outcome }| match outcome {
        Ok(Record { blob, .. }) => Some(Op::Put(blob, reply)),
        Err(error) => {
            let _ = Reply::send(reply, Err(error));
            None
        }
    };
    judged
        .into_iter()
        .map(|(slot, _, puts)| (slot, puts.into_iter().filter_map(back).collect()))
        .filter(|(_, ops): &Group| !ops.is_empty())
        .collect()
}
