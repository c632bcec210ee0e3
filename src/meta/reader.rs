//! The metadata readers: one thread per core with read-only connections, for the slots of that core.
//!
//! A reader sees what is committed and synced, never what a writer is in the middle of. A database that turns out
//! damaged takes its slot out of service.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;

use super::databases::Databases;
use super::schema;
use super::slots::{Slots, State};
use super::types::{BlobMeta, Failure, Reply, Row};
use super::writer::refusal;
use super::{apply, query};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Parts;
use crate::base::slot::Slot;
use crate::limits::READER_QUEUE;
use crate::wire::condition::Conditions;

/// A version that was asked for.
#[derive(Clone, Debug)]
pub struct Found {
    /// The version, if there is one; it may be a tombstone.
    pub record: Option<BlobMeta>,
    /// Its parts, when it has at most one.
    pub parts: Option<Parts1>,
    /// The slot's generation at which this is true.
    pub generation: u64,
}

/// The parts of a blob of at most one part, shared between its readers.
pub type Parts1 = Arc<Parts>;

enum Question {
    Find { path: String, version: Option<u64>, reply: Reply<Found> },
    Parts { row: Row, first: u64, count: u64, reply: Reply<Parts> },
    Versions { path: String, below: u64, limit: usize, reply: Reply<Vec<BlobMeta>> },
    ChunkIds { row: Row, first: u64, count: u64, reply: Reply<Vec<ChunkId>> },
    Admit { path: String, version: Option<u64>, conditions: Conditions, reply: Reply<()> },
    IsKnown { blob_id: BlobId, reply: Reply<bool> },
    Undropped { until: Timestamp, limit: usize, reply: Reply<Vec<(Row, BlobId)>> },
    Verify { reply: Reply<()> },
}

/// The readers of all cores.
#[derive(Clone)]
pub struct Readers {
    slots: Arc<Slots>,
    queues: Vec<Sender<(Slot, Question)>>,
}

impl Readers {
    /// Starts a reader thread for each of `cores` cores.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(slots: &Arc<Slots>, cores: usize) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let start = |core| {
            let (queue, questions) = async_channel::bounded(READER_QUEUE);
            let slots = Arc::clone(slots);
            let thread = thread::Builder::new().name(format!("meta-read-{core}"));
            Ok((queue, thread.spawn(move || serve(&slots, &questions))?))
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

    async fn ask<T>(&self, slot: Slot, question: impl FnOnce(Reply<T>) -> Question) -> Result<T> {
        let stopped = || Error::new(Code::Internal, "the metadata reader has stopped; see the server's log");
        self.slots.admit(slot)?;
        let (reply, answer) = oneshot::channel();
        let queue = &self.queues[slot.core(self.queues.len())];
        queue.send((slot, question(reply))).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// A version of a path; without `version` the newest.
    pub async fn find(&self, slot: Slot, path: &str, version: Option<u64>) -> Result<Found> {
        let path = path.to_owned();
        self.ask(slot, |reply| Question::Find { path, version, reply }).await
    }

    /// `count` parts of a version from `first` on.
    pub async fn parts(&self, slot: Slot, row: Row, first: u64, count: u64) -> Result<Parts> {
        self.ask(slot, |reply| Question::Parts { row, first, count, reply }).await
    }

    /// Versions of a path below `below`, newest first.
    pub async fn versions(&self, slot: Slot, path: &str, below: u64, limit: usize) -> Result<Vec<BlobMeta>> {
        let path = path.to_owned();
        self.ask(slot, |reply| Question::Versions { path, below, limit, reply }).await
    }

    /// `count` chunk ids of a version from chunk `first` on.
    pub async fn chunk_ids(&self, slot: Slot, row: Row, first: u64, count: u64) -> Result<Vec<ChunkId>> {
        self.ask(slot, |reply| Question::ChunkIds { row, first, count, reply }).await
    }

    /// Refuses a PUT that cannot succeed whatever its bytes are.
    pub async fn admit(
        &self,
        slot: Slot,
        path: &str,
        version: Option<u64>,
        conditions: &Conditions,
    ) -> Result<()> {
        let (path, conditions) = (path.to_owned(), conditions.clone());
        self.ask(slot, |reply| Question::Admit { path, version, conditions, reply }).await
    }

    /// Whether a blob has a row, tombstoned or not.
    pub async fn is_known(&self, slot: Slot, blob_id: BlobId) -> Result<bool> {
        self.ask(slot, |reply| Question::IsKnown { blob_id, reply }).await
    }

    /// Versions tombstoned at or before `until` whose chunks are still there.
    pub async fn undropped(&self, slot: Slot, until: Timestamp, limit: usize) -> Result<Vec<(Row, BlobId)>> {
        self.ask(slot, |reply| Question::Undropped { until, limit, reply }).await
    }

    /// Reads the slot's whole database; damage takes the slot out of service.
    pub async fn verify(&self, slot: Slot) -> Result<()> {
        self.ask(slot, |reply| Question::Verify { reply }).await
    }
}

/// The thread: answers until all askers are gone.
fn serve(slots: &Arc<Slots>, questions: &Receiver<(Slot, Question)>) {
    let mut reader = Reader { slots, databases: Databases::new() };
    while let Ok((slot, question)) = questions.recv_blocking() {
        reader.answer(slot, question);
    }
}

struct Reader<'a> {
    slots: &'a Slots,
    databases: Databases,
}

impl Reader<'_> {
    fn answer(&mut self, slot: Slot, question: Question) {
        match question {
            Question::Find { path, version, reply } => {
                let generation = self.slots.generation(slot);
                self.reply(slot, reply, |db| {
                    let Some(db) = db else {
                        return Ok(Found { record: None, parts: None, generation });
                    };
                    find(db, &path, version, generation)
                });
            }
            Question::Parts { row, first, count, reply } => {
                self.reply(slot, reply, |db| {
                    db.map_or_else(|| Ok(Parts::default()), |db| query::parts(db, row, first, count))
                });
            }
            Question::Versions { path, below, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| query::versions(db, &path, below, limit))?)
                });
            }
            Question::ChunkIds { row, first, count, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| query::chunk_ids(db, row, first, count))?)
                });
            }
            Question::Admit { path, version, conditions, reply } => {
                self.reply(slot, reply, |db| match db {
                    Some(db) => apply::admit(db, &path, version, &conditions),
                    None => apply::check(&conditions, None),
                });
            }
            Question::IsKnown { blob_id, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(false), |db| query::is_known(db, blob_id))?));
            }
            Question::Undropped { until, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| query::undropped(db, until, limit))?)
                });
            }
            Question::Verify { reply } => self.reply(slot, reply, |db| Ok(db.map_or(Ok(()), quick_check)?)),
        }
    }

    /// Answers by the slot's database; an unborn slot has none.
    fn reply<T>(
        &mut self,
        slot: Slot,
        reply: Reply<T>,
        answer: impl FnOnce(Option<&Connection>) -> std::result::Result<T, Failure>,
    ) {
        let result = match self.slots.state(slot) {
            State::Unborn => answer(None),
            _ => match self.databases.get(slot, || schema::open_reader(self.slots.dir(slot))) {
                Ok(db) => answer(Some(db)),
                Err(error) => Err(error.into()),
            },
        };
        let result = result.map_err(|failure| match failure {
            Failure::Refused(error) => error,
            Failure::Sql(error) => {
                self.databases.close(slot);
                refusal(self.slots, slot, &error)
            }
        });
        // An asker that is gone needs no answer.
        let _ = reply.send(result);
    }
}

fn find(
    db: &Connection,
    path: &str,
    version: Option<u64>,
    generation: u64,
) -> std::result::Result<Found, Failure> {
    let record = match version {
        Some(version) => query::at_version(db, path, version)?,
        None => query::newest(db, path)?,
    };
    let small = record.as_ref().filter(|record| record.tombstoned_at.is_none() && record.parts() <= 1);
    let parts =
        small.map(|record| query::parts(db, record.row, 0, record.parts())).transpose()?.map(Arc::new);
    Ok(Found { record, parts, generation })
}

fn quick_check(db: &Connection) -> rusqlite::Result<()> {
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(verdict.replace('\n', "; ")),
    ))
}
