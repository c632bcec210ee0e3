//! The metadata writers: one thread per core, the only one that changes the databases of that core's slots.
//!
//! Group commit: a writer takes what is waiting, and makes the changes of one slot in one transaction. Whoever asked
//! is answered after the commit is on disk, the slot's generation is raised and the change is on its way to the
//! listing index. A commit that fails may or may not be on disk: the slot is then out of service until a restart has
//! read its database again.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;

use super::apply::{self, Moment};
use super::databases::Databases;
use super::index::{Change, Indexes};
use super::op::{Answer, Op, stopped};
use super::query;
use super::schema::{self, CreateError, Durability, is_damaged, is_full};
use super::slots::{Slots, State};
use super::types::{BlobMeta, Failure, NewBlob, Reply, Row, Stored, Which};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::parts::Parts;
use crate::base::slot::Slot;
use crate::io::ballast::Ballast;
use crate::io::steps::create_dir_synced;
use crate::limits::{COMMIT_BATCH, VACUUM_PAGES, WRITER_QUEUE};
use crate::wire::condition::Conditions;

/// What all writers go by.
#[derive(Clone)]
pub struct Rules {
    /// How much a commit promises.
    pub durability: Durability,
    /// Whether logs may hold what a killed process left unsynced.
    pub sync_logs: bool,
    /// Live versions a path keeps; 0: all.
    pub keep_versions: u64,
    /// Each disk's ballast, given up when a delete finds no space.
    pub ballast: Arc<Vec<Ballast>>,
    /// Databases that one thread keeps open.
    pub open_databases: usize,
}

/// The writers of all cores.
#[derive(Clone)]
pub struct Writers {
    slots: Arc<Slots>,
    queues: Vec<Sender<(Slot, Op)>>,
}

impl Writers {
    /// Starts a writer thread for each of `cores` cores; each first checks its slots' databases.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        slots: &Arc<Slots>,
        indexes: &Indexes,
        rules: &Rules,
        cores: usize,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let start = |core: usize| {
            let (queue, ops) = async_channel::bounded(WRITER_QUEUE);
            let mut writer = Writer {
                slots: Arc::clone(slots),
                indexes: indexes.clone(),
                rules: rules.clone(),
                databases: Databases::new(rules.open_databases),
            };
            let thread = thread::Builder::new().name(format!("meta-write-{core}")).spawn(move || {
                Slot::all().filter(|slot| slot.core(cores) == core).for_each(|slot| writer.check(slot));
                writer.run(&ops);
            })?;
            Ok((queue, thread))
        };
        let started: std::io::Result<Vec<_>> = (0..cores).map(start).collect();
        let (queues, threads) = started?.into_iter().unzip();
        Ok((Self { slots: Arc::clone(slots), queues }, threads))
    }

    /// Takes nothing more; the threads finish what waits and end.
    pub fn close(&self) {
        for queue in &self.queues {
            queue.close();
        }
    }

    async fn send(&self, slot: Slot, op: Op) -> Result<()> {
        self.slots.admit(slot)?;
        let queue = &self.queues[slot.core(self.queues.len())];
        queue.send((slot, op)).await.map_err(|_| stopped())
    }

    async fn ask<T>(&self, slot: Slot, op: impl FnOnce(Reply<T>) -> Op) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(slot, op(reply)).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Makes sure that the slot is on disk.
    pub async fn birth(&self, slot: Slot) -> Result<()> {
        if self.slots.state(slot) == State::Unborn {
            self.ask(slot, Op::Birth).await
        } else {
            self.slots.admit(slot)
        }
    }

    /// Looks again at a slot that could not be checked after the start.
    pub async fn recheck(&self, slot: Slot) {
        let (reply, checked) = oneshot::channel();
        // The outcome is the slot's state.
        if self.queues[slot.core(self.queues.len())].send((slot, Op::Birth(reply))).await.is_ok() {
            let _ = checked.await;
        }
    }

    /// Makes a blob visible; its chunks are on disk.
    pub async fn put(&self, slot: Slot, blob: NewBlob) -> Result<Stored> {
        self.ask(slot, |reply| Op::Put(Box::new(blob), reply)).await
    }

    /// Stores parts of a running upload, invisible until its PUT.
    pub async fn stage(&self, slot: Slot, staged: Option<Row>, blob_id: BlobId, parts: Parts) -> Result<Row> {
        self.ask(slot, |reply| Op::Stage { staged, blob_id, parts, reply }).await
    }

    /// Forgets what an upload staged.
    pub async fn abandon(&self, slot: Slot, staged: Row) -> Result<()> {
        self.send(slot, Op::Abandon(staged)).await
    }

    /// Tombstones versions; answers with the highest of them.
    pub async fn delete(
        &self,
        slot: Slot,
        path: &str,
        which: Which,
        conditions: Conditions,
    ) -> Result<BlobMeta> {
        let path = path.to_owned();
        self.ask(slot, |reply| Op::Delete { path, which, conditions, reply }).await
    }

    /// Records that the chunks of tombstoned versions are gone.
    pub async fn dropped(&self, slot: Slot, rows: Vec<Row>) -> Result<()> {
        self.ask(slot, |reply| Op::Dropped { rows, reply }).await
    }
}

/// Turns a failure of SQLite into what the client is told, and takes a damaged slot out of service.
pub(super) fn refusal(slots: &Slots, slot: Slot, error: &rusqlite::Error) -> Error {
    if is_full(error) {
        return Error::new(Code::DiskFull, "the disk is full: delete blobs or add space, then try again");
    }
    if is_damaged(error) {
        slots.fail(slot, format!("{}: {error}", slots.dir(slot).join(schema::FILE).display()));
        return Error::new(
            Code::SlotUnavailable,
            format!("slot {slot} is out of service: {error}; see /readyz"),
        );
    }
    tracing::warn!(%slot, %error, "a slot cannot be reached for now");
    Error::new(Code::SlotUnavailable, format!("slot {slot} cannot be reached for now: {error}: try again"))
}

/// A transaction that did not come to pass.
enum Aborted {
    /// Before its commit: nothing of it is on disk.
    Before(rusqlite::Error),
    /// In its commit: all of it may be on disk, or nothing.
    InCommit(rusqlite::Error),
}

struct Writer {
    slots: Arc<Slots>,
    indexes: Indexes,
    rules: Rules,
    databases: Databases,
}

impl Writer {
    /// Takes batches until all askers are gone.
    fn run(&mut self, ops: &Receiver<(Slot, Op)>) {
        while let Ok(first) = ops.recv_blocking() {
            let mut batch = vec![first];
            while batch.len() < COMMIT_BATCH
                && let Ok(next) = ops.try_recv()
            {
                batch.push(next);
            }
            batch.sort_by_key(|(slot, _)| *slot);
            for group in into_groups(batch) {
                self.group(group.0, group.1);
            }
        }
    }

    /// Looks at a slot's database after the start: its identity, what a crash left staged, what the index lacks.
    fn check(&mut self, slot: Slot) {
        if self.slots.state(slot) != State::Unchecked {
            return;
        }
        match self.try_check(slot) {
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
        let applied = self.indexes.applied(slot);
        let db = open(&mut self.databases, &self.slots, &self.rules, slot)?;
        let staged = query::staged(db)?;
        if !staged.is_empty() {
            db.execute_batch("BEGIN IMMEDIATE")?;
            for row in staged {
                apply::abandon(db, Some(row))?;
            }
            db.execute_batch("COMMIT")?;
        }
        let oldest = query::oldest_undropped(db)?;
        let change = Change::since(db, slot, applied)?;
        self.slots.set_oldest_tombstone(slot, oldest);
        if let Some(change) = change {
            self.indexes.apply(self.slots.disk(slot), change);
        }
        Ok(())
    }

    /// Makes the changes of one slot, and answers them.
    fn group(&mut self, slot: Slot, ops: Vec<Op>) {
        if let Err(error) = self.bring_up(slot) {
            return ops.into_iter().for_each(|op| op.answer(Err(error.clone())));
        }
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
    fn in_doubt(&mut self, slot: Slot, error: &rusqlite::Error) -> Error {
        self.databases.close(slot);
        self.slots.fail(slot, format!("a commit failed: {error}; restart the server to read it again"));
        Error::new(
            Code::OutcomeUnknown,
            format!("slot {slot}: the commit failed and may or may not be on disk: {error}"),
        )
    }

    /// Makes one change by itself, on a disk that is full; what gives space back gets the ballast.
    fn alone(&mut self, slot: Slot, op: &Op) -> Result<Answer> {
        let frees = matches!(op, Op::Delete { .. } | Op::Dropped { .. } | Op::Abandon(_));
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
                let dir = self.slots.dir(slot);
                let made =
                    create_dir_synced(dir).map_err(CreateError::from).and_then(|()| schema::create(dir));
                if let Err(error) = made {
                    let code = if error.is_full() { Code::DiskFull } else { Code::SlotUnavailable };
                    return Err(Error::new(code, format!("slot {slot} cannot be made: {error}")));
                }
                self.slots.set_ready(slot);
            }
            State::Ready | State::Failed => {}
        }
        self.slots.admit(slot)
    }

    /// One transaction for all of `ops`; a refused one changes nothing and does not stop the others.
    fn transaction(&mut self, slot: Slot, ops: &[Op]) -> std::result::Result<Vec<Result<Answer>>, Aborted> {
        let db = open(&mut self.databases, &self.slots, &self.rules, slot).map_err(Aborted::Before)?;
        let made = prepare(db, ops, self.rules.keep_versions);
        let (results, change) = match made {
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
        if let Some((moment, paths)) = change {
            if moment.keep_versions > 0 || ops.iter().any(|op| matches!(op, Op::Delete { .. })) {
                self.slots.note_tombstone(slot, moment.now);
            }
            let disk = self.slots.disk(slot);
            match query::entries(db, &paths) {
                Ok(entries) => {
                    self.indexes.apply(disk, Change { slot, seq: moment.seq, reset: false, entries });
                }
                Err(error) => self.indexes.miss(disk, &error),
            }
        }
        if ops.iter().any(|op| matches!(op, Op::Dropped { .. })) {
            shrink(db, &self.slots, &self.rules, slot);
        }
        Ok(results)
    }
}

/// The slot's connection. Opening one may need space for the log's index, and then gets the ballast.
fn open<'a>(
    databases: &'a mut Databases,
    slots: &Slots,
    rules: &Rules,
    slot: Slot,
) -> rusqlite::Result<&'a Connection> {
    let ballast = &rules.ballast[slots.disk(slot)];
    databases.get(slot, || ballast.lend(|| schema::open_writer(slots.dir(slot), rules.durability)))
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

type Prepared = (Vec<Result<Answer>>, Option<(Moment, Vec<String>)>);

/// Everything of a transaction but its commit: the answers, and which paths changed.
fn prepare(db: &Connection, ops: &[Op], keep_versions: u64) -> rusqlite::Result<Prepared> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let moment = Moment { seq: query::last_seq(db)? + 1, now: Timestamp::now(), keep_versions };
    let mut changed = Vec::new();
    let mut results = Vec::with_capacity(ops.len());
    for op in ops {
        results.push(match op.apply(db, moment) {
            Ok(answer) => {
                if answer.changes_versions() {
                    changed.extend(op.path().map(str::to_owned));
                }
                Ok(answer)
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Sql(error)) => return Err(error),
        });
    }
    changed.sort_unstable();
    changed.dedup();
    Ok((results, (!changed.is_empty()).then_some((moment, changed))))
}

fn roll_back(db: &Connection) {
    if !db.is_autocommit()
        && let Err(error) = db.execute_batch("ROLLBACK")
    {
        tracing::warn!(%error, "rollback failed");
    }
}

/// Cuts a batch sorted by slot into one group per slot.
fn into_groups(batch: Vec<(Slot, Op)>) -> Vec<(Slot, Vec<Op>)> {
    let mut groups: Vec<(Slot, Vec<Op>)> = Vec::new();
    for (slot, op) in batch {
        match groups.last_mut() {
            Some((last, ops)) if *last == slot => ops.push(op),
            _ => groups.push((slot, vec![op])),
        }
    }
    groups
}
