//! A writer's thread: what is waiting is taken at once, and the changes of one slot are one transaction (group commit).
//!
//! PUTs of many slots go through the journal ([`super::batch`]). What stands here commits to a slot's own database, synced
//! before it is answered; the database first gets what the journal has of its slot. A commit that fails may or may not be
//! on disk: the slot is then out of service until a restart has read its database again.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_channel::Receiver;
use rusqlite::Connection;

use super::absent::Absent;
use super::apply::{self, Moment};
use super::databases::Databases;
use super::index::{Change, Indexes};
use super::journal::{Journal, Journals, Recovered};
use super::op::{Answer, Changes, Op, Told, stopped};
use super::pending::Pending;
use super::record::Record;
use super::schema::{self, Durability, is_full};
use super::slots::{Slots, State};
use super::types::Failure;
use super::writer::{Rules, refusal};
use super::{query, replica};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::limits::{COMMIT_BATCH, SYNC_SCAN, VACUUM_PAGES};
use crate::replication::participant::Context;

/// A transaction that did not come to pass.
enum Aborted {
    /// Before its commit: nothing of it is on disk.
    Before(rusqlite::Error),
    /// In its commit: all of it may be on disk, or nothing.
    InCommit(rusqlite::Error),
}

/// A slot's connection, and whether its commits are synced one by one.
pub(super) struct Opened {
    db: Connection,
    synced: Cell<bool>,
}

impl Opened {
    pub(super) fn db(&self) -> &Connection {
        &self.db
    }
}

/// The next free numbers of a slot.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    pub seq: u64,
    pub row: i64,
}

/// A writer's thread.
pub(super) struct Writer {
    pub(super) slots: Arc<Slots>,
    pub(super) indexes: Indexes,
    pub(super) rules: Rules,
    pub(super) databases: Databases<Opened>,
    /// By disk.
    pub(super) journals: Vec<Journal>,
    pub(super) pending: Pending,
    /// Slots that are in service and have nothing but records in the journal.
    pub(super) unborn: HashSet<Slot>,
    pub(super) cursors: HashMap<Slot, Cursor>,
    pub(super) absent: Absent,
    /// What the last run left in the journals, of slots that were not looked at yet.
    pub(super) recovered: HashMap<Slot, Vec<Recovered>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.recovered.values().flatten().for_each(|found| found.segment.keep());
    }
}

impl Writer {
    pub(super) fn new(
        slots: &Arc<Slots>,
        indexes: &Indexes,
        rules: &Rules,
        journals: &Journals,
        recovered: HashMap<Slot, Vec<Recovered>>,
    ) -> Self {
        Self {
            slots: Arc::clone(slots),
            indexes: indexes.clone(),
            rules: rules.clone(),
            databases: Databases::new(rules.open_databases),
            journals: (0..indexes.disks()).map(|disk| journals.of(disk)).collect(),
            pending: Pending::default(),
            unborn: HashSet::new(),
            cursors: HashMap::new(),
            absent: Absent::default(),
            recovered,
        }
    }

    /// Takes batches until all askers are gone, and brings what is in the journal to the databases when nobody asks.
    pub(super) fn run(&mut self, ops: &Receiver<(Slot, Op)>) {
        while let Some(first) = self.next(ops) {
            let mut batch = vec![first];
            while batch.len() < COMMIT_BATCH
                && let Ok(next) = ops.try_recv()
            {
                batch.push(next);
            }
            batch.sort_by_key(|(slot, _)| *slot);
            let groups = into_groups(batch);
            let (before, rest) = (groups.len(), self.journal(groups));
            let journaled = rest.len() < before;
            self.bear_together(&rest);
            for (slot, ops) in rest {
                self.group(slot, ops);
            }
            self.relieve(journaled);
        }
        self.settle_all();
    }

    /// Looks at a slot's database after the start: its identity, what a crash left staged, what the index lacks.
    pub(super) fn check(&mut self, slot: Slot) {
        let is_known = self.indexes.applied(slot) > 0 || self.recovered.contains_key(&slot);
        let outcome = match self.slots.state(slot) {
            State::Unborn | State::Unchecked if is_known && !schema::exists(self.slots.dir(slot)) => {
                match self.take_over(slot, None) {
                    // A power cut without syncs took all of it.
                    Ok(()) if self.pending.of(slot).is_empty() => return self.slots.set_unborn(slot),
                    taken => taken,
                }
            }
            State::Unchecked => {
                self.slots.digests.forget(slot);
                self.try_check(slot)
            }
            _ => return,
        };
        match outcome {
            Ok(()) => self.slots.set_ready(slot),
            Err(error) => {
                self.databases.close(slot);
                // One that is not damaged is looked at again.
                refusal(&self.slots, slot, &error);
            }
        }
    }

    fn try_check(&mut self, slot: Slot) -> rusqlite::Result<()> {
        if self.rules.sync_logs
            && let Err(error) = schema::sync_log(self.slots.dir(slot))
        {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            return Err(rusqlite::Error::SqliteFailure(code, Some(error.to_string())));
        }
        let db = &self.open(slot, true)?.db;
        let staged = query::staged(db)?;
        if !staged.is_empty() {
            db.execute_batch("BEGIN IMMEDIATE")?;
            for row in staged {
                apply::abandon(db, Some(row))?;
            }
            db.execute_batch("COMMIT")?;
        }
        let oldest = query::oldest_undropped(db)?;
        let prepared = replica::oldest_prepared(db)?;
        let hollow = replica::count_hollow(db)?;
        let known = Cursor { seq: query::last_seq(db)?, row: query::next_row(db)?.0 };
        self.slots.set_oldest_tombstone(slot, oldest);
        self.slots.set_oldest_prepared(slot, prepared);
        self.slots.set_hollow(slot, hollow);
        self.take_over(slot, Some(known))
    }

    /// After the start: takes over what the journal has beyond the slot's database, and tells the index what it lacks.
    /// Without a database `known` is none.
    fn take_over(&mut self, slot: Slot, known: Option<Cursor>) -> rusqlite::Result<()> {
        let known_seq = known.map_or(0, |known| known.seq);
        let mut new: Vec<&Recovered> = self.recovered.get(&slot).into_iter().flatten().collect();
        new.retain(|found| found.record.seq > known_seq);
        // Without syncs a power cut may have taken some of them.
        let whole = (known_seq + 1..).zip(&new).take_while(|(seq, found)| found.record.seq == *seq).count();
        if whole < new.len() && self.rules.durability == Durability::Full {
            return Err(query::corrupt(&format!(
                "the journal goes on at {} after {known_seq}",
                new[0].record.seq
            )));
        }
        new.truncate(whole);
        let last = new.last().map_or(known_seq, |found| found.record.seq);
        let applied = self.indexes.applied(slot);
        if applied > last {
            return Err(query::corrupt(&format!(
                "it ends with transaction {last}, and the listing index has seen {applied}: it is older than it was, or gone"
            )));
        }
        if applied < last {
            let mut entries = match known {
                Some(known) if applied < known.seq => {
                    query::entries_since(&self.open(slot, true)?.db, applied)?
                }
                _ => Vec::new(),
            };
            let new = self.recovered.get(&slot).into_iter().flatten().map(|found| &found.record);
            let lacking = new.filter(|record| record.seq > applied.max(known_seq) && record.seq <= last);
            entries.extend(lacking.map(Record::entry));
            let change = Change { slot, seq: last, reset: false, entries };
            self.indexes.apply(self.slots.disk(slot), vec![change]);
        }
        let mut row = known.map_or(1, |known| known.row);
        let mut done = Vec::new();
        for found in self.recovered.remove(&slot).unwrap_or_default() {
            if found.record.seq > known_seq && found.record.seq <= last {
                row = row.max(found.record.row.0 + 1);
                self.pending.push(found.record, found.segment);
            } else {
                done.push(found.segment);
            }
        }
        self.journals[self.slots.disk(slot)].release(done.into_iter());
        if last > known_seq {
            if known.is_none() {
                self.unborn.insert(slot);
            }
            self.cursors.insert(slot, Cursor { seq: last, row });
            self.slots.journaled(slot);
        }
        Ok(())
    }

    /// Makes the changes of one slot, and answers them; what waits for them, when all others are answered.
    fn group(&mut self, slot: Slot, ops: Vec<Op>) {
        let (asides, ops): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| matches!(op, Op::PutAside(..)));
        for op in asides {
            let Op::PutAside(database, _) = op else { continue };
            let replaced = self.put_aside(slot, database);
            op.answer(replaced.map(|()| Answer::Done));
        }
        let waits = |op: &Op| matches!(op, Op::Barrier(_) | Op::Digest(_));
        let (waiting, ops): (Vec<_>, Vec<_>) = ops.into_iter().partition(waits);
        if !ops.is_empty() {
            self.put_through(slot, ops);
        }
        for op in waiting {
            let answer = if let Op::Digest(_) = op { self.digest(slot) } else { Ok(Answer::Done) };
            op.answer(answer);
        }
    }

    /// Takes the next rows into a slot's digest.
    fn digest(&mut self, slot: Slot) -> Result<Answer> {
        self.check(slot);
        self.slots.admit(slot)?;
        if self.slots.state(slot) == State::Unborn {
            return Ok(Answer::Is(true));
        }
        let slots = Arc::clone(&self.slots);
        let scanned =
            self.open(slot, true).and_then(|opened| slots.digests.scan(slot, opened.db(), SYNC_SCAN));
        scanned.map(Answer::Is).map_err(|error| {
            self.databases.close(slot);
            refusal(&self.slots, slot, &error)
        })
    }

    fn put_through(&mut self, slot: Slot, ops: Vec<Op>) {
        if let Err(error) = self.bring_up(slot).and_then(|()| self.settle(slot)) {
            return ops.into_iter().for_each(|op| op.answer(Err(error.clone())));
        }
        let (settled, ops): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| matches!(op, Op::Settle(_)));
        for op in settled {
            op.answer(Ok(Answer::Done));
        }
        if !ops.is_empty() {
            self.change(slot, ops);
        }
    }

    /// Makes the changes of a slot that is in service.
    fn change(&mut self, slot: Slot, ops: Vec<Op>) {
        // They change in ways that the cursor does not follow.
        self.cursors.remove(&slot);
        ops.iter().filter_map(Op::path).for_each(|path| self.absent.note(slot, path));
        match self.transaction(slot, &ops) {
            Ok(results) => ops.into_iter().zip(results).for_each(|(op, result)| op.answer(result)),
            Err(Aborted::Before(error) | Aborted::InCommit(error)) if is_full(&error) => {
                for op in ops {
                    let result = self.alone(slot, &op);
                    op.answer(result);
                }
            }
            Err(Aborted::Before(error)) => {
                self.databases.close(slot);
                let error = refusal(&self.slots, slot, &error);
                for op in ops {
                    op.answer(Err(error.clone()));
                }
            }
            Err(Aborted::InCommit(error)) => {
                let unknown = self.in_doubt(slot, &error);
                for op in ops {
                    op.answer(Err(unknown.clone()));
                }
            }
        }
    }

    /// After a commit that may be on disk or not: nobody reads or writes the slot until a restart has read its log.
    pub(super) fn in_doubt(&mut self, slot: Slot, error: &dyn std::fmt::Display) -> Error {
        self.databases.close(slot);
        self.slots.suspect(slot);
        self.slots.fail(slot, format!("a commit failed: {error}; restart the server to read it again"));
        Error::new(
            Code::OutcomeUnknown,
            format!("slot {slot}: the commit failed and may or may not be on disk: {error}"),
        )
    }

    /// Makes one change by itself, on a disk that is full; what gives space back gets the ballast.
    fn alone(&mut self, slot: Slot, op: &Op) -> Result<Answer> {
        let frees = op.may_use_ballast();
        loop {
            match self.transaction(slot, std::slice::from_ref(op)) {
                Ok(mut results) => return results.pop().unwrap_or_else(|| Err(stopped())),
                Err(Aborted::Before(error) | Aborted::InCommit(error)) if is_full(&error) => {
                    if frees && self.rules.ballast[self.slots.disk(slot)].give_up() {
                        continue;
                    }
                    return Err(refusal(&self.slots, slot, &error));
                }
                Err(Aborted::Before(error)) => {
                    self.databases.close(slot);
                    return Err(refusal(&self.slots, slot, &error));
                }
                Err(Aborted::InCommit(error)) => return Err(self.in_doubt(slot, &error)),
            }
        }
    }

    /// Makes an unborn slot, and refuses one that is out of service.
    fn bring_up(&mut self, slot: Slot) -> Result<()> {
        match self.slots.state(slot) {
            State::Unchecked => self.check(slot),
            State::Unborn => {
                self.bear_one(slot)?;
                self.slots.set_ready(slot);
            }
            State::Ready | State::Failed => {}
        }
        self.slots.admit(slot)
    }

    /// The slot's connection, with commits that are synced one by one, or not. Opening one may need space for the
    /// log's index, and then gets the ballast.
    pub(super) fn open(&mut self, slot: Slot, synced: bool) -> rusqlite::Result<&Opened> {
        let ballast = &self.rules.ballast[self.slots.disk(slot)];
        let (dir, durability) = (self.slots.dir(slot), self.rules.durability);
        let synced = synced && durability == Durability::Full;
        let opened = self.databases.get(slot, || {
            let db = ballast.lend(|| schema::open_writer(dir, durability))?;
            Ok(Opened { db, synced: Cell::new(durability == Durability::Full) })
        })?;
        if opened.synced.replace(synced) != synced {
            schema::set_synced(&opened.db, synced)?;
        }
        Ok(opened)
    }

    /// The slot's connection, if it is open.
    pub(super) fn opened(&self, slot: Slot) -> Option<&Connection> {
        self.databases.peek(slot).map(Opened::db)
    }

    pub(super) fn close(&mut self, slot: Slot) {
        self.databases.close(slot);
    }

    /// One transaction for all of `ops`; a refused one changes nothing and does not stop the others.
    fn transaction(&mut self, slot: Slot, ops: &[Op]) -> std::result::Result<Vec<Result<Answer>>, Aborted> {
        let keep_versions = self.rules.keep_versions;
        self.open(slot, true).map_err(Aborted::Before)?;
        let Some(db) = self.opened(slot) else {
            return Err(Aborted::Before(query::corrupt("table of databases")));
        };
        let context = self.rules.roster.as_ref();
        let context = context.map(|roster| roster.context(slot, self.slots.is_recovering(slot)));
        let made = prepare(db, ops, keep_versions, context.as_ref());
        let Made { results, moment, changes } = match made {
            Ok(made) => made,
            Err(error) => {
                roll_back(db);
                return Err(Aborted::Before(error));
            }
        };
        // Readers may see the commit before this thread knows of it.
        self.slots.step_generation(slot);
        let committed = db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if committed.is_err() {
            roll_back(db);
        }
        self.slots.step_generation(slot);
        committed.map_err(Aborted::InCommit)?;
        self.slots.digests.change(slot, &changes.digest);
        self.slots.change_hollow(slot, changes.hollow);
        if !changes.paths.is_empty() {
            if moment.keep_versions > 0 || ops.iter().any(Op::buries) {
                self.slots.note_tombstone(slot, moment.now);
            }
            let disk = self.slots.disk(slot);
            match query::entries(db, &changes.paths) {
                Ok(entries) => {
                    self.indexes.apply(disk, vec![Change { slot, seq: moment.seq, reset: false, entries }]);
                }
                Err(error) => self.indexes.miss(disk, &error),
            }
        }
        if ops.iter().any(Op::changes_tries) {
            match replica::oldest_prepared(db) {
                Ok(oldest) => self.slots.set_oldest_prepared(slot, oldest),
                Err(error) => tracing::warn!(%slot, %error, "cannot look for tries without an outcome"),
            }
        }
        if ops.iter().any(|op| matches!(op, Op::Dropped { .. })) {
            shrink(db, &self.slots, &self.rules, slot);
        }
        Ok(results)
    }
}

/// After chunks went from the database: gives their pages back to the file system. Nothing depends on it.
fn shrink(db: &Connection, slots: &Slots, rules: &Rules, slot: Slot) {
    let shrink = || {
        slots.set_oldest_tombstone(slot, query::oldest_undropped(db)?);
        // Each row is one page that went: the statement must be run to its end.
        let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        drop(pages);
        db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
    };
    if let Err(error) = rules.ballast[slots.disk(slot)].lend(shrink) {
        tracing::warn!(%slot, %error, "a database cannot be made smaller for now");
    }
}

/// Everything of a transaction but its commit.
struct Made {
    results: Vec<Result<Answer>>,
    moment: Moment,
    changes: Changes,
}

fn prepare(
    db: &Connection,
    ops: &[Op],
    keep_versions: u64,
    context: Option<&Context>,
) -> rusqlite::Result<Made> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let moment = Moment { seq: query::last_seq(db)? + 1, now: Timestamp::now(), keep_versions };
    let mut changes = Changes::default();
    let mut results = Vec::with_capacity(ops.len());
    for op in ops {
        results.push(match op.apply(db, Told { moment, context }) {
            Ok(Answer::Peer(reply, more)) => {
                changes.paths.extend(more.paths);
                changes.hollow += more.hollow;
                changes.digest.extend(more.digest);
                Ok(Answer::Peer(reply, Changes::default()))
            }
            Ok(answer) => {
                if answer.changes_versions() {
                    changes.paths.extend(op.path().map(str::to_owned));
                }
                if let Answer::Changed(path) = &answer {
                    changes.paths.extend(path.clone());
                }
                if let (Op::Fill(..), Answer::Is(true)) = (op, &answer) {
                    changes.hollow -= 1;
                }
                Ok(answer)
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Sql(error)) => return Err(error),
        });
    }
    changes.paths.sort_unstable();
    changes.paths.dedup();
    Ok(Made { results, moment, changes })
}

pub(super) fn roll_back(db: &Connection) {
    if !db.is_autocommit()
        && let Err(error) = db.execute_batch("ROLLBACK")
    {
        tracing::warn!(%error, "rollback failed");
    }
}

/// Cuts a batch sorted by slot into one group per slot.
pub(super) fn into_groups(batch: Vec<(Slot, Op)>) -> Vec<(Slot, Vec<Op>)> {
    let mut groups: Vec<(Slot, Vec<Op>)> = Vec::new();
    for (slot, op) in batch {
        match groups.last_mut() {
            Some((last, ops)) if *last == slot => ops.push(op),
            _ => groups.push((slot, vec![op])),
        }
    }
    groups
}
