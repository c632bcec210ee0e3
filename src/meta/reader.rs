//! The metadata readers: one thread per core with read-only connections, for the slots of that core.
//!
//! A reader sees what is committed and synced, never what a writer is in the middle of: what the journal has of a slot is
//! brought to its database first. A database that turns out damaged takes its slot out of service.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;

use super::apply::Moment;
use super::archives::{self, Archived, Candidate, Leftover, Member, Named, Told};
use super::databases::Databases;
use super::replica::{self, Replica};
use super::schema;
use super::slots::{Slots, State};
use super::types::{BlobMeta, Failure, Reply, Row};
use super::whole::{self, Whole};
use super::writer::{Writers, refusal};
use super::{apply, query};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Parts;
use crate::base::slot::Slot;
use crate::io::ballast::Ballast;
use crate::limits::READER_QUEUE;
use crate::replication::participant::{self, Context, Surroundings};
use crate::replication::roster::Roster;
use crate::wire::condition::Conditions;
use crate::wire::peer::archive::ArchiveRow;
use crate::wire::peer::sync::{Items, Range};
use crate::wire::peer::{self, Held, InDoubt};

/// A version that was asked for.
#[derive(Clone, Debug)]
pub struct Found {
    /// The version, if there is one; it may be a tombstone.
    pub record: Option<BlobMeta>,
    /// Its parts, when it has at most one.
    pub parts: Option<Parts1>,
    /// SHA-256 of its only chunk, when it has one.
    pub only_chunk: Option<ChunkId>,
    /// The slot's generation at which this is true; none if a write was under way.
    pub generation: Option<u64>,
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
    Chunks { blob_id: BlobId, reply: Reply<Option<Vec<ChunkId>>> },
    Staged { reply: Reply<Vec<BlobId>> },
    Undropped { until: Timestamp, limit: usize, reply: Reply<Vec<(Row, BlobId)>> },
    Peer { request: Box<peer::Request>, reply: Reply<peer::Response> },
    InDoubt { until: Timestamp, limit: usize, reply: Reply<Vec<(String, InDoubt)>> },
    Page { after: i64, limit: usize, reply: Reply<Handed> },
    Items { range: Range, limit: usize, reply: Reply<Vec<Items>> },
    Blobs { blobs: Vec<BlobId>, reply: Reply<Vec<Held>> },
    Hollow { limit: usize, reply: Reply<Vec<Held>> },
    Buried { until: Timestamp, limit: usize, reply: Reply<Vec<(Row, Held)>> },
    WholeAbove { after: Row, limit: usize, reply: Reply<Vec<Whole>> },
    Whole { row: Row, reply: Reply<Option<Whole>> },
    Archive(Asked),
}

/// A question about the archive.
enum Asked {
    Of { row: Row, reply: Reply<Vec<Archived>> },
    DroppedAmong { row: Row, ids: Vec<ChunkId>, reply: Reply<HashSet<ChunkId>> },
    Chunk { row: Row, number: u64, reply: Reply<Option<Archived>> },
    Leftovers { after: String, limit: usize, reply: Reply<Vec<Leftover>> },
    Unspread { after: i64, limit: usize, reply: Reply<Vec<(i64, String, ArchiveRow)>> },
    Page { after: i64, limit: usize, reply: Reply<Told> },
    Named { after: i64, limit: usize, reply: Reply<(Vec<Named>, Option<i64>)> },
    Knows { target: String, reply: Reply<Option<bool>> },
    Sparse { after: String, limit: usize, reply: Reply<Vec<String>> },
    Members { target: String, reply: Reply<Vec<Member>> },
    Candidates { after: i64, limit: usize, reply: Reply<Vec<Candidate>> },
    LastRow { reply: Reply<i64> },
}

/// Versions of a slot, and where to go on.
pub type Handed = (Vec<Held>, Option<i64>);

/// The readers of all cores.
#[derive(Clone)]
pub struct Readers {
    slots: Arc<Slots>,
    writers: Writers,
    queues: Vec<Sender<(Slot, Question)>>,
}

impl Readers {
    /// Starts a reader thread for each of `cores` cores.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        slots: &Arc<Slots>,
        writers: &Writers,
        ballast: &Arc<Vec<Ballast>>,
        open_databases: usize,
        roster: Option<&Arc<Roster>>,
        cores: usize,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let start = |core| {
            let (queue, questions) = async_channel::bounded(READER_QUEUE);
            let databases = Databases::new(open_databases);
            let (slots, roster) = (Arc::clone(slots), roster.map(Arc::clone));
            let reader = Reader { slots, roster, ballast: Arc::clone(ballast), databases };
            let thread = thread::Builder::new().name(format!("meta-read-{core}"));
            Ok((queue, thread.spawn(move || reader.run(&questions))?))
        };
        let started: std::io::Result<Vec<_>> = (0..cores).map(start).collect();
        let (queues, threads) = started?.into_iter().unzip();
        Ok((Self { slots: Arc::clone(slots), writers: writers.clone(), queues }, threads))
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
        self.writers.settle(slot).await?;
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

    /// Answers a coordinator's read.
    pub async fn peer(&self, slot: Slot, request: peer::Request) -> Result<peer::Response> {
        self.ask(slot, |reply| Question::Peer { request: Box::new(request), reply }).await
    }

    /// Tries without an outcome that were voted for at or before `until`, with their paths.
    pub async fn in_doubt(
        &self,
        slot: Slot,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(String, InDoubt)>> {
        self.ask(slot, |reply| Question::InDoubt { until, limit, reply }).await
    }

    /// Versions of a slot in the order of their row numbers, above `after`.
    pub async fn page(&self, slot: Slot, after: i64, limit: usize) -> Result<Handed> {
        self.ask(slot, |reply| Question::Page { after, limit, reply }).await
    }

    /// The items of up to `limit` blobs of a range, in order.
    pub async fn items(&self, slot: Slot, range: Range, limit: usize) -> Result<Vec<Items>> {
        self.ask(slot, |reply| Question::Items { range, limit, reply }).await
    }

    /// The versions of these blobs, as far as they are committed here.
    pub async fn of_blobs(&self, slot: Slot, blobs: Vec<BlobId>) -> Result<Vec<Held>> {
        self.ask(slot, |reply| Question::Blobs { blobs, reply }).await
    }

    /// Live versions whose chunks are not here.
    pub async fn hollow(&self, slot: Slot, limit: usize) -> Result<Vec<Held>> {
        self.ask(slot, |reply| Question::Hollow { limit, reply }).await
    }

    /// Versions tombstoned at or before `until` whose chunks are still there, as other replicas know them.
    pub async fn buried(&self, slot: Slot, until: Timestamp, limit: usize) -> Result<Vec<(Row, Held)>> {
        self.ask(slot, |reply| Question::Buried { until, limit, reply }).await
    }

    /// Live versions whose chunks are here, in the order of their row numbers, above `after`.
    pub async fn whole_above(&self, slot: Slot, after: Row, limit: usize) -> Result<Vec<Whole>> {
        self.ask(slot, |reply| Question::WholeAbove { after, limit, reply }).await
    }

    /// The version of a row, if it is live and its chunks are here.
    pub async fn whole(&self, slot: Slot, row: Row) -> Result<Option<Whole>> {
        self.ask(slot, |reply| Question::Whole { row, reply }).await
    }

    /// Whether a blob has a row, tombstoned or not.
    pub async fn is_known(&self, slot: Slot, blob_id: BlobId) -> Result<bool> {
        self.ask(slot, |reply| Question::IsKnown { blob_id, reply }).await
    }

    /// The archived chunks of a live version, each once; none of most.
    pub async fn archived(&self, slot: Slot, row: Row) -> Result<Vec<Archived>> {
        self.ask(slot, |reply| Question::Archive(Asked::Of { row, reply })).await
    }

    /// Those of some chunks of a version that this node keeps no files of.
    pub async fn dropped_among(&self, slot: Slot, row: Row, ids: Vec<ChunkId>) -> Result<HashSet<ChunkId>> {
        self.ask(slot, |reply| Question::Archive(Asked::DroppedAmong { row, ids, reply })).await
    }

    /// One chunk of a version, if it is archived. That of a tombstone is told until its chunks go, or its object is condemned, for reads
    /// that began before.
    pub async fn archived_chunk(&self, slot: Slot, row: Row, number: u64) -> Result<Option<Archived>> {
        self.ask(slot, |reply| Question::Archive(Asked::Chunk { row, number, reply })).await
    }

    /// Objects of the archive above `after`, in order, that no row names.
    pub async fn leftovers(&self, slot: Slot, after: String, limit: usize) -> Result<Vec<Leftover>> {
        self.ask(slot, |reply| Question::Archive(Asked::Leftovers { after, limit, reply })).await
    }

    /// Archive rows of live versions that not all replicas hold, as far as is known: their numbers, above `after`, and their paths.
    pub async fn unspread(
        &self,
        slot: Slot,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, String, ArchiveRow)>> {
        self.ask(slot, |reply| Question::Archive(Asked::Unspread { after, limit, reply })).await
    }

    /// Archive rows of live versions with numbers above `after`, with their paths, and where to go on.
    pub async fn archive_page(&self, slot: Slot, after: i64, limit: usize) -> Result<Told> {
        self.ask(slot, |reply| Question::Archive(Asked::Page { after, limit, reply })).await
    }

    /// What archive rows with numbers above `after` name, also those of deleted versions, and where to go on.
    pub async fn named(&self, slot: Slot, after: i64, limit: usize) -> Result<(Vec<Named>, Option<i64>)> {
        self.ask(slot, |reply| Question::Archive(Asked::Named { after, limit, reply })).await
    }

    /// Whether a row names an object; false: it is a leftover; none: nothing is known of it.
    pub async fn knows_object(&self, slot: Slot, target: String) -> Result<Option<bool>> {
        self.ask(slot, |reply| Question::Archive(Asked::Knows { target, reply })).await
    }

    /// Objects above `after`, in order, that some rows do not name any more, and others do.
    pub async fn sparse(&self, slot: Slot, after: String, limit: usize) -> Result<Vec<String>> {
        self.ask(slot, |reply| Question::Archive(Asked::Sparse { after, limit, reply })).await
    }

    /// The chunks of live versions that an object holds, by where they are in it.
    pub async fn members(&self, slot: Slot, target: String) -> Result<Vec<Member>> {
        self.ask(slot, |reply| Question::Archive(Asked::Members { target, reply })).await
    }

    /// Live versions with row numbers above `after` of which files may go to the archive, as far as is known.
    pub async fn candidates(&self, slot: Slot, after: i64, limit: usize) -> Result<Vec<Candidate>> {
        self.ask(slot, |reply| Question::Archive(Asked::Candidates { after, limit, reply })).await
    }

    /// The greatest row number of a version.
    pub async fn last_row(&self, slot: Slot) -> Result<i64> {
        self.ask(slot, |reply| Question::Archive(Asked::LastRow { reply })).await
    }

    /// The chunks of a live version that has them all, but for those that only the archive has; none: the blob is no such version.
    pub async fn chunks_of(&self, slot: Slot, blob_id: BlobId) -> Result<Option<Vec<ChunkId>>> {
        self.ask(slot, |reply| Question::Chunks { blob_id, reply }).await
    }

    /// Blobs of which parts are staged.
    pub async fn staged(&self, slot: Slot) -> Result<Vec<BlobId>> {
        self.ask(slot, |reply| Question::Staged { reply }).await
    }

    /// Versions tombstoned at or before `until` whose chunks are still there.
    pub async fn undropped(&self, slot: Slot, until: Timestamp, limit: usize) -> Result<Vec<(Row, BlobId)>> {
        self.ask(slot, |reply| Question::Undropped { until, limit, reply }).await
    }
}

struct Reader {
    slots: Arc<Slots>,
    roster: Option<Arc<Roster>>,
    ballast: Arc<Vec<Ballast>>,
    /// With the incarnation of the slot that each belongs to.
    databases: Databases<(u32, Connection)>,
}

impl Reader {
    /// The thread: answers until the queue is closed.
    fn run(mut self, questions: &Receiver<(Slot, Question)>) {
        while let Ok((slot, question)) = questions.recv_blocking() {
            self.answer(slot, question);
        }
    }

    fn answer(&mut self, slot: Slot, question: Question) {
        match question {
            Question::Find { path, version, reply } => {
                // In this order: what was journaled since has raised the generation, and is not in the database.
                let generation = self.slots.generation(slot);
                let generation = generation.filter(|_| !self.slots.is_pending(slot));
                self.reply(slot, reply, |db| {
                    let Some(db) = db else {
                        return Ok(Found { record: None, parts: None, only_chunk: None, generation });
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
                    db.map_or_else(|| Ok(Vec::new()), |db| query::chunk_ids(db, row, first, count))
                });
            }
            Question::Admit { path, version, conditions, reply } => {
                self.reply(slot, reply, |db| match db {
                    Some(db) => apply::admit(db, &path, version, &conditions),
                    None => apply::check(&conditions, None),
                });
            }
            Question::IsKnown { blob_id, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(false), |db| replica::is_named(db, blob_id))?));
            }
            Question::Chunks { blob_id, reply } => {
                self.reply(slot, reply, |db| db.map_or(Ok(None), |db| query::chunks_of(db, blob_id)));
            }
            Question::Staged { reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(Vec::new()), query::staged_blobs)?));
            }
            Question::Peer { request, reply } => {
                let slots = Arc::clone(&self.slots);
                let database = slots.incarnation(slot);
                let recovering = slots.is_recovering(slot);
                let context = self.roster.as_ref().map(|roster| roster.context(slot, recovering));
                self.reply(slot, reply, |db| {
                    let answer = answer_peer(db, context.as_ref(), &request)?;
                    // Its database may have been lost and replaced meanwhile: an empty one must not speak for the one before.
                    if !recovering && (slots.is_recovering(slot) || slots.incarnation(slot) != database) {
                        let message = format!("slot {slot} has lost what it had: try again");
                        return Err(Error::new(Code::SlotUnavailable, message).into());
                    }
                    Ok(answer)
                });
            }
            Question::InDoubt { until, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| replica::in_doubt(db, until, limit))?)
                });
            }
            Question::Page { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok((Vec::new(), None)), |db| replica::page(db, after, limit))?)
                });
            }
            Question::Items { range, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| replica::items(db, range, limit))?)
                });
            }
            Question::Blobs { blobs, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| replica::of_blobs(db, &blobs))?)
                });
            }
            Question::Hollow { limit, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(Vec::new()), |db| replica::hollow(db, limit))?));
            }
            Question::Buried { until, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| replica::buried(db, until, limit))?)
                });
            }
            Question::WholeAbove { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| whole::above(db, after, limit))?)
                });
            }
            Question::Whole { row, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(None), |db| whole::at(db, row))?));
            }
            Question::Undropped { until, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| query::undropped(db, until, limit))?)
                });
            }
            Question::Archive(asked) => self.answer_of_archive(slot, asked),
        }
    }

    fn answer_of_archive(&mut self, slot: Slot, asked: Asked) {
        match asked {
            Asked::Of { row, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(Vec::new()), |db| archives::of(db, row))?));
            }
            Asked::DroppedAmong { row, ids, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(HashSet::new()), |db| archives::dropped_among(db, row, &ids))?)
                });
            }
            Asked::Chunk { row, number, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(None), |db| archives::chunk(db, row, number))?));
            }
            Asked::Leftovers { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| archives::leftovers(db, &after, limit))?)
                });
            }
            Asked::Unspread { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| archives::unspread(db, after, limit))?)
                });
            }
            Asked::Page { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok((Vec::new(), None)), |db| archives::page(db, after, limit))?)
                });
            }
            Asked::Named { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok((Vec::new(), None)), |db| archives::named(db, after, limit))?)
                });
            }
            Asked::Knows { target, reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(None), |db| archives::knows(db, &target))?));
            }
            Asked::Sparse { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| archives::sparse(db, &after, limit))?)
                });
            }
            Asked::Members { target, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| archives::members(db, &target))?)
                });
            }
            Asked::Candidates { after, limit, reply } => {
                self.reply(slot, reply, |db| {
                    Ok(db.map_or(Ok(Vec::new()), |db| archives::candidates(db, after, limit))?)
                });
            }
            Asked::LastRow { reply } => {
                self.reply(slot, reply, |db| Ok(db.map_or(Ok(0), archives::last_row)?));
            }
        }
    }

    /// The slot's connection. Opening one may need space for the log's index, and then gets the ballast.
    fn open(&mut self, slot: Slot, incarnation: u32) -> rusqlite::Result<&Connection> {
        let (slots, ballast) = (&self.slots, &self.ballast[self.slots.disk(slot)]);
        if self.databases.peek(slot).is_some_and(|(of, _)| *of != incarnation) {
            self.databases.close(slot);
        }
        let opened = self
            .databases
            .get(slot, || Ok((incarnation, ballast.lend(|| schema::open_reader(slots.dir(slot)))?)));
        opened.map(|(_, db)| db)
    }

    /// Whether the slot got its first versions, in the journal, after the asker looked whether it has any there: then its
    /// database may be still to be made, and what the asker is owed is what was there before.
    fn is_unmade(&self, slot: Slot) -> bool {
        // In this order: a slot is pending before it is ready, and its database is made before it is pending no more.
        self.slots.is_pending(slot)
            && matches!(self.slots.dir(slot).join(schema::FILE).try_exists(), Ok(false))
    }

    /// Answers by the slot's database; an unborn slot has none.
    fn reply<T>(
        &mut self,
        slot: Slot,
        reply: Reply<T>,
        answer: impl FnOnce(Option<&Connection>) -> std::result::Result<T, Failure>,
    ) {
        let incarnation = self.slots.incarnation(slot);
        let result = match self.slots.state(slot) {
            State::Unborn => answer(None),
            State::Ready if self.is_unmade(slot) => answer(None),
            _ => match self.open(slot, incarnation) {
                Ok(db) => answer(Some(db)),
                Err(error) => Err(error.into()),
            },
        };
        let result = result.map_err(|failure| match failure {
            Failure::Refused(error) => error,
            Failure::Sql(error) => {
                self.databases.close(slot);
                if self.slots.incarnation(slot) != incarnation {
                    // What is wrong with the one before is known.
                    let message = format!("slot {slot} has another database now: try again");
                    return Error::new(Code::SlotUnavailable, message);
                }
                refusal(&self.slots, slot, &error)
            }
        });
        // An asker that is gone needs no answer.
        let _ = reply.send(result);
    }
}

/// What a coordinator reads.
fn answer_peer(
    db: Option<&Connection>,
    context: Option<&Context>,
    request: &peer::Request,
) -> std::result::Result<peer::Response, Failure> {
    let (Some(context), peer::Request::Read { .. }) = (context, request) else {
        return Err(Error::new(Code::BadRequest, "not a read of a cluster").into());
    };
    let Some(db) = db else {
        let reply = if context.recovering {
            peer::Reply::Recovering
        } else {
            peer::Reply::Known { held: Vec::new(), complete: true, highest: 0, in_doubt: Vec::new() }
        };
        return Ok(peer::Response { members: context.members.clone(), reply });
    };
    let moment = Moment { seq: 0, now: Timestamp(0), keep_versions: 0 };
    let mut rows = Replica::new(db, moment, None);
    let around = Surroundings { has_data: false, has_room: false, is_live: false };
    Ok(participant::answer(&mut rows, context, around, request)?)
}

fn find(
    db: &Connection,
    path: &str,
    version: Option<u64>,
    generation: Option<u64>,
) -> std::result::Result<Found, Failure> {
    let record = match version {
        Some(version) => query::at_version(db, path, version)?,
        None => query::newest(db, path)?,
    };
    // A hollow one has neither parts nor chunks.
    let here = record.as_ref().filter(|record| record.tombstoned_at.is_none() && !record.hollow);
    let small = here.filter(|record| record.parts() <= 1);
    let parts =
        small.map(|record| query::parts(db, record.row, 0, record.parts())).transpose()?.map(Arc::new);
    let single = here.filter(|record| record.chunks() == 1);
    let only_chunk = single.map(|record| query::chunk_ids(db, record.row, 0, 1)).transpose()?;
    Ok(Found { record, parts, only_chunk: only_chunk.and_then(|ids| ids.first().copied()), generation })
}

/// Reads a slot's whole database on a connection of its own; damage takes the slot out of service. Blocking.
pub fn verify(slots: &Slots, slot: Slot) {
    let check = || {
        let db = schema::open_reader(slots.dir(slot))?;
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict == "ok" { Ok(()) } else { Err(query::corrupt(&verdict.replace('\n', "; "))) }
    };
    let database = slots.incarnation(slot);
    if let Err(error) = check()
        && slots.incarnation(slot) == database
    {
        refusal(slots, slot, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_whose_database_is_not_made_yet_has_what_it_had_before() {
        let root = tempfile::tempdir().unwrap();
        let dir = |slot: Slot| root.path().join(slot.to_string());
        let slots = Arc::new(Slots::new(Slot::all().map(|slot| (0, dir(slot), State::Unborn))));
        let ballast = Arc::new(vec![Ballast::new(root.path(), 0)]);
        let databases = Databases::new(2);
        let mut reader = Reader { slots: Arc::clone(&slots), roster: None, ballast, databases };
        let slot = Slot::of("p");
        let mut versions = || {
            let (reply, mut answer) = oneshot::channel();
            reader.answer(slot, Question::Versions { path: "p".to_owned(), below: 9, limit: 9, reply });
            answer.try_recv().unwrap().expect("an answer").map(|found| found.len())
        };
        assert_eq!(versions().unwrap(), 0, "unborn");
        // Its first version is in the journal, since the question was put in the queue.
        slots.journaled(slot);
        slots.set_ready(slot);
        assert_eq!(versions().unwrap(), 0, "not made yet");
        slots.settled(slot);
        assert!(versions().is_err(), "a database that was made and is gone is missed");
    }
}
