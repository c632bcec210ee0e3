//! The metadata writers as others see them: one thread per core, the only one that changes the databases of that
//! core's slots. What the threads do stands in `commit.rs` and `batch.rs`.
//!
//! Whoever asked is answered after the change is on disk, the slot's generation is raised and the change is on its way
//! to the listing index.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use async_channel::Sender;
use bytes::Bytes;
use futures_channel::oneshot;

use super::archives::Place;
use super::births::Births;
use super::commit::Writer;
use super::index::Indexes;
use super::journal::{Journals, Recovered};
use super::op::{Op, stopped};
use super::replica::Uploaded;
use super::schema::{self, Durability, is_damaged, is_disks, is_full, is_lost};
use super::slots::{Slots, State};
use super::types::{BlobMeta, NewBlob, Reply, Row, Stored, Which};
use crate::base::error::{Code, Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Parts;
use crate::base::slot::Slot;
use crate::io::ballast::Ballast;
use crate::limits::WRITER_QUEUE;
use crate::replication::participant::Surroundings;
use crate::replication::roster::Roster;
use crate::wire::condition::Conditions;
use crate::wire::peer;
use crate::wire::peer::archive::ArchiveRow;

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
    /// Which slots were born on each disk.
    pub births: Arc<Births>,
    /// The replicas of all slots, in a cluster.
    pub roster: Option<Arc<Roster>>,
}

/// The writers of all cores.
#[derive(Clone)]
pub struct Writers {
    slots: Arc<Slots>,
    queues: Vec<Sender<(Slot, Op)>>,
}

impl Writers {
    /// Starts a writer thread for each of `cores` cores; each first checks its slots' databases and takes over what
    /// was `recovered` from the journals.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        slots: &Arc<Slots>,
        indexes: &Indexes,
        rules: &Rules,
        journals: &Journals,
        recovered: Vec<Recovered>,
        cores: usize,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let mut shares: Vec<HashMap<Slot, Vec<Recovered>>> = (0..cores).map(|_| HashMap::new()).collect();
        for found in recovered {
            let slot = found.record.slot;
            shares[slot.core(cores)].entry(slot).or_default().push(found);
        }
        // A slot without a database is in service from the start, but not where a journal or an index knows of it.
        for slot in Slot::all().filter(|slot| slots.state(*slot) == State::Unborn) {
            if indexes.applied(slot) > 0 || shares[slot.core(cores)].contains_key(&slot) {
                slots.set_unchecked(slot);
            }
        }
        let start = |(core, recovered)| {
            let (queue, ops) = async_channel::bounded(WRITER_QUEUE);
            let mut writer = Writer::new(slots, indexes, rules, journals, recovered);
            let thread = thread::Builder::new().name(format!("meta-write-{core}")).spawn(move || {
                Slot::all().filter(|slot| slot.core(cores) == core).for_each(|slot| writer.check(slot));
                writer.run(&ops);
            })?;
            Ok((queue, thread))
        };
        let started: std::io::Result<Vec<_>> = shares.into_iter().enumerate().map(start).collect();
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
        // One that has all it knows from the journal may not be there yet.
        if self.slots.state(slot) == State::Unborn || self.slots.is_pending(slot) {
            self.ask(slot, Op::Settle).await
        } else {
            self.slots.admit(slot)
        }
    }

    /// Waits until everything of the slot that was asked for before has been done, or refused. Gives birth to nothing.
    pub async fn barrier(&self, slot: Slot) -> Result<()> {
        self.ask(slot, Op::Barrier).await
    }

    /// Takes the next rows into the slot's digest; true: it is whole.
    pub async fn digest(&self, slot: Slot) -> Result<bool> {
        self.ask(slot, Op::Digest).await
    }

    /// Makes sure that the slot's database has everything that was acknowledged.
    pub(super) async fn settle(&self, slot: Slot) -> Result<()> {
        if self.slots.is_pending(slot) { self.ask(slot, Op::Settle).await } else { Ok(()) }
    }

    /// Looks again at a slot that could not be checked after the start.
    pub async fn recheck(&self, slot: Slot) {
        let (reply, checked) = oneshot::channel();
        // The outcome is the slot's state.
        if self.queues[slot.core(self.queues.len())].send((slot, Op::Settle(reply))).await.is_ok() {
            let _ = checked.await;
        }
    }

    /// Puts the database of a slot aside that has lost what it promised, and makes an empty one. Only of a slot that recovers:
    /// nothing of it counts until it has everything again.
    /// `database` is the [incarnation](Slots::incarnation) that was lost; a later one stays.
    pub async fn put_aside(&self, slot: Slot, database: u32) -> Result<()> {
        let (reply, done) = oneshot::channel();
        let queue = &self.queues[slot.core(self.queues.len())];
        queue.send((slot, Op::PutAside(database, reply))).await.map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())?
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

    /// Answers a coordinator's request; `data` is that of a proposal.
    pub async fn peer(
        &self,
        slot: Slot,
        request: peer::Request,
        data: Option<Arc<Uploaded>>,
        around: Surroundings,
    ) -> Result<peer::Response> {
        self.ask(slot, |reply| Op::Peer { request: Box::new(request), data, around, reply }).await
    }

    /// Whether the files of a blob may go: nothing names it, and from now on nothing will.
    pub async fn sweep(&self, slot: Slot, blob: BlobId) -> Result<bool> {
        self.ask(slot, |reply| Op::Sweep(blob, reply)).await
    }

    /// Gives a version the chunks that it lacks; false: it does not lack them any more.
    pub async fn fill(&self, slot: Slot, data: Arc<Uploaded>) -> Result<bool> {
        self.ask(slot, |reply| Op::Fill(data, reply)).await
    }

    /// Gives a version the bytes of a damaged chunk that lives in the database; false: they are not that chunk's, or the
    /// version is gone.
    pub async fn mend(&self, slot: Slot, row: Row, number: u64, bytes: Bytes) -> Result<bool> {
        self.ask(slot, |reply| Op::Mend { row, number, bytes, reply }).await
    }

    /// Gives a version the checksums that its bytes have, of some of its parts; false: it is gone.
    pub async fn resum(&self, slot: Slot, row: Row, parts: Parts) -> Result<bool> {
        self.ask(slot, |reply| Op::Resum(row, parts, reply)).await
    }

    /// Notes an object of the archive that is about to be stored: a leftover until a row names it.
    pub async fn begin_object(&self, slot: Slot, target: String, path: String) -> Result<()> {
        self.ask(slot, |reply| Op::BeginObject { target, path, reply }).await
    }

    /// Notes where the archive has a chunk of a live version that has its chunks. The row may be another one's successor, which keeps
    /// what is known of the chunk's file: the object before is a leftover then. It is one generation up. False: there is no such
    /// version or chunk, its row does not name `expected` (without that it must have no row), or the object is condemned.
    pub async fn archive(
        &self,
        slot: Slot,
        row: Row,
        place: Place,
        expected: Option<String>,
    ) -> Result<bool> {
        self.ask(slot, |reply| Op::Archive { row, place, expected, reply }).await
    }

    /// Notes that this node keeps no file of a chunk; false: its version is not live, or lacks chunks, or has no row that names
    /// `target`.
    pub async fn drop_chunk(&self, slot: Slot, row: Row, chunk: ChunkId, target: String) -> Result<bool> {
        self.ask(slot, |reply| Op::DropChunk { row, chunk, target, reply }).await
    }

    /// Notes that the file of a chunk is here again.
    pub async fn brought_back(&self, slot: Slot, row: Row, chunk: ChunkId) -> Result<()> {
        self.ask(slot, |reply| Op::BroughtBack(row, chunk, reply)).await
    }

    /// Notes that all replicas hold these archive rows; of a chunk that has another one by now nothing is noted.
    pub async fn mark_spread(&self, slot: Slot, rows: Vec<ArchiveRow>) -> Result<()> {
        self.ask(slot, |reply| Op::MarkSpread(rows, reply)).await
    }

    /// Notes when live versions were read, in seconds since 1970; of several times the last counts.
    pub async fn note_reads(&self, slot: Slot, reads: Vec<(Row, i64)>) -> Result<()> {
        self.ask(slot, |reply| Op::NoteReads(reads, reply)).await
    }

    /// Notes that nothing more of a version can go to the archive, until a chunk of it comes back.
    pub async fn set_archived_whole(&self, slot: Slot, row: Row) -> Result<()> {
        self.ask(slot, |reply| Op::SetArchivedWhole(row, reply)).await
    }

    /// Forgets an object that is deleted in the store.
    pub async fn forget_object(&self, slot: Slot, target: String) -> Result<()> {
        self.ask(slot, |reply| Op::ForgetObject(target, reply)).await
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
    if is_disks(error) {
        slots.suspect(slot);
    }
    if is_damaged(error) {
        let reason = format!("{}: {error}", slots.dir(slot).join(schema::FILE).display());
        if is_lost(error) {
            slots.lose(slot, reason);
        } else {
            slots.fail(slot, reason);
        }
        return Error::new(
            Code::SlotUnavailable,
            format!("slot {slot} is out of service: {error}; see /readyz"),
        );
    }
    tracing::warn!(%slot, %error, "a slot cannot be reached for now");
    Error::new(Code::SlotUnavailable, format!("slot {slot} cannot be reached for now: {error}: try again"))
}
