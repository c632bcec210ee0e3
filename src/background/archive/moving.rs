//! Chunks of a version move to the store.
//!
//! Order, for each chunk: the key is noted, so that a crash leaves no object that nobody knows of; the object is stored, while its
//! file is compared with its checksums; a row names it; the store tells its size and SHA-256; a row says that there is no file;
//! the file goes. Whatever ends this in between leaves the file, and perhaps an object, which the next order goes on with, or
//! which is a leftover.
//!
//! In a cluster the store is asked before the row, too: rows are pushed to the other replicas whatever becomes of their order, and
//! one that has dropped its file must not be moved to an object that the store only says it took.

mod asking;
mod letting_go;
mod packing;
mod uploading;

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::report::Running;
use super::source::Fault;
use super::{Archiver, Order};
use crate::base::error::{Code, Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::slot::Slot;
use crate::limits::{ARCHIVE_READ_TIME, ARCHIVE_RETRY_PAUSE, ARCHIVE_TRIES, SCRUB_CHUNKS};
use crate::meta::archives::Archived;
use crate::meta::types::BlobMeta;
use crate::meta::whole::Whole;
use crate::shard::archive::desk::Working;
use crate::shard::repair::damage::{Damage, Place};

pub(super) const BUSY: &str = "it is being archived or restored by another request";
const LACKING: &str = "its chunks are still on their way to this node: ask again";
pub(super) const GONE: &str = "this version was deleted meanwhile";

/// How long an order waits for another one that works on its blob: a blob of a few chunks is through by then.
const PATIENCE: Duration = ARCHIVE_READ_TIME.saturating_mul(4);

/// A live version whose chunks are moved.
struct Version {
    slot: Slot,
    whole: Whole,
    /// Whether no further step is wanted: another chunk has met what ends the order.
    ended: Cell<bool>,
    /// Whether a chunk has a file still that should have none.
    left: Cell<bool>,
}

/// A chunk that has a file.
struct Chunk {
    number: u64,
    id: ChunkId,
    len: u64,
}

/// What became of a chunk.
enum Moved {
    /// There is no file of it any more.
    Dropped,
    /// There was none before.
    Already,
}

/// Where a chunk is in the store.
#[derive(Clone)]
struct Object {
    target: String,
    range: Range<u64>,
}

impl From<Archived> for Object {
    fn from(archived: Archived) -> Self {
        Self { target: archived.target, range: archived.range }
    }
}

/// Which object the row of a chunk names once another one was stored.
enum Stored {
    /// That one.
    Named(Object),
    /// One that another node was faster with.
    Another(Object),
}

/// What replicas know of the object that has a chunk.
enum Known {
    /// There is one replica.
    Here,
    /// A write quorum knows it.
    Everywhere,
    /// Another object has taken its place.
    Another,
    /// One of them will never name it.
    Condemned,
}

/// Why a chunk did not move.
enum Trouble {
    /// Something is wrong with this one.
    Chunk(String),
    /// It would be the same with every other one.
    Ends(String),
    /// Its version is gone.
    Gone,
    /// The order has ended.
    Over,
}

type Step<T> = std::result::Result<T, Trouble>;

/// Number of a chunk, its bytes, and what became of it.
type Ended = (u64, u64, Step<Moved>);

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Ends(error.message.into_owned())
    }
}

impl Version {
    fn new(slot: Slot, whole: Whole) -> Self {
        Self { slot, whole, ended: Cell::new(false), left: Cell::new(false) }
    }

    fn go_on(&self) -> Step<()> {
        if self.ended.get() { Err(Trouble::Over) } else { Ok(()) }
    }
}

/// The chunks of a version on their way, and what became of those before.
struct Outcomes<'a> {
    running: &'a Running,
    version: &'a Version,
    moving: JoinSet<Ended>,
}

impl Outcomes<'_> {
    /// Waits until less than `most` are on their way.
    async fn settle(&mut self, most: usize) {
        while self.moving.len() >= most.max(1) {
            match self.moving.join_next().await {
                Some(ended) => self.take(ended),
                None => return,
            }
        }
    }

    fn take(&self, ended: std::result::Result<Ended, JoinError>) {
        if !matches!(ended, Ok((_, _, Ok(_)))) {
            self.version.left.set(true);
        }
        let fail = |chunk: Option<u64>, why: String| {
            let whole = &self.version.whole;
            self.running.note(|report| report.fail(&whole.path, whole.version, chunk, why));
        };
        match ended {
            Ok((_, len, Ok(Moved::Dropped))) => self.running.note(|report| {
                report.chunks += 1;
                report.bytes += len;
            }),
            Ok((_, _, Ok(Moved::Already))) => self.running.note(|report| report.already += 1),
            Ok((_, _, Err(Trouble::Over))) => {}
            Ok((number, _, Err(Trouble::Chunk(why)))) => fail(Some(number), why),
            Ok((number, _, Err(Trouble::Ends(why)))) => {
                self.version.ended.set(true);
                fail(Some(number), why);
            }
            Ok((_, _, Err(Trouble::Gone))) => {
                if !self.version.ended.replace(true) {
                    fail(None, GONE.to_owned());
                }
            }
            Err(error) => fail(None, error.to_string()),
        }
    }
}

impl Archiver {
    /// A live version of a path.
    ///
    /// # Errors
    /// `BlobNotFound` where there is none.
    pub(super) async fn find(&self, path: &str, version: Option<u64>) -> Result<(Slot, BlobMeta)> {
        let slot = Slot::of(path);
        let found = self.node.readers.find(slot, path, version).await?.record;
        let missing = |why: String| Err(Error::new(Code::BlobNotFound, why));
        match (found, version) {
            (Some(record), _) if record.tombstoned_at.is_none() => Ok((slot, record)),
            (Some(record), _) => missing(format!("version {} of '{path}' was deleted", record.version)),
            (None, Some(version)) => missing(format!("there is no version {version} of '{path}'")),
            (None, None) => missing(format!("there is no blob '{path}'")),
        }
    }

    /// A version with its chunks; where they are on their way from another replica they are waited for. Else why it has none.
    async fn whole(
        &self,
        slot: Slot,
        path: &str,
        record: &BlobMeta,
    ) -> Result<std::result::Result<Whole, &'static str>> {
        let until = Instant::now() + ARCHIVE_READ_TIME;
        loop {
            if let Some(whole) = self.node.readers.whole(slot, record.row).await? {
                return Ok(Ok(whole));
            }
            let found = self.node.readers.find(slot, path, Some(record.version)).await?.record;
            if !found.is_some_and(|found| found.hollow && found.tombstoned_at.is_none()) {
                return Ok(Err(GONE));
            }
            if Instant::now() >= until {
                return Ok(Err(LACKING));
            }
            sleep(ARCHIVE_RETRY_PAUSE).await;
        }
    }

    /// Makes a blob one that this order works on; none: it is still worked on by another one after a while.
    pub(super) async fn work_on(&self, blob: BlobId) -> Option<Working> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.desk.work_on(blob) {
                None if Instant::now() < until => sleep(ARCHIVE_RETRY_PAUSE).await,
                working => return working,
            }
        }
    }

    /// Moves the chunks of a version.
    ///
    /// # Errors
    /// `BlobNotFound`; what goes wrong later stands in the report.
    pub(super) async fn archive(
        self: &Rc<Self>,
        path: &str,
        version: Option<u64>,
        running: &Running,
    ) -> Result<()> {
        let (slot, record) = self.find(path, version).await?;
        let fail = |why: String| running.note(|report| report.fail(path, record.version, None, why));
        let Some(working) = self.work_on(record.blob_id).await else {
            fail(BUSY.to_owned());
            return Ok(());
        };
        let whole = match self.whole(slot, path, &record).await? {
            Ok(whole) => whole,
            Err(why) => {
                fail(why.to_owned());
                return Ok(());
            }
        };
        running
            .note(|report| (report.versions, report.version) = (report.versions + 1, Some(record.version)));
        let version = Rc::new(Version::new(slot, whole));
        let moved = match self.move_all(&version, running).await {
            Ok(()) if !version.left.get() => {
                self.node.writers.set_archived_whole(slot, version.whole.row).await
            }
            moved => moved,
        };
        if let Err(error) = moved {
            fail(error.message.into_owned());
        }
        // Who has the files open keeps their space.
        self.node.damages.note_replaced();
        drop(working);
        Ok(())
    }

    /// Moves the chunks of a version by itself, unless the node stops first; how many went, or none if not all did that should.
    pub(super) async fn pick(self: &Rc<Self>, path: &str, version: u64) -> Option<u64> {
        let order = Order::Archive { path: path.to_owned(), version: Some(version) };
        let shown = self.board.show(order);
        let done = tokio::select! {
            done = self.archive(path, Some(version), &shown.running) => done,
            () = self.until_stopping() => return None,
        };
        match done {
            // It was deleted in the meantime.
            Err(error) if error.code == Code::BlobNotFound => Some(0),
            Err(error) => {
                tracing::warn!(path, version, %error, "a version cannot be archived");
                None
            }
            Ok(()) => shown.running.note(|report| report.is_good().then_some(report.chunks)),
        }
    }

    /// All chunks of a version that are files, several at once; equal ones are one file, and one chunk.
    async fn move_all(self: &Rc<Self>, version: &Rc<Version>, running: &Running) -> Result<()> {
        let mut outcomes = Outcomes { running, version, moving: JoinSet::new() };
        let listed = self.move_listed(version, &mut outcomes).await;
        // What was begun comes to its end: nothing of it goes on behind the order.
        outcomes.settle(1).await;
        match listed {
            Err(_) if self.node.readers.whole(version.slot, version.whole.row).await?.is_none() => {
                outcomes.take(Ok((0, 0, Err(Trouble::Gone))));
                Ok(())
            }
            listed => listed,
        }
    }

    async fn move_listed(self: &Rc<Self>, version: &Rc<Version>, outcomes: &mut Outcomes<'_>) -> Result<()> {
        let whole = &version.whole;
        let mut seen = HashSet::new();
        let mut first = 0;
        while first < whole.chunks() {
            let count = SCRUB_CHUNKS.min(whole.chunks() - first);
            let ids = self.node.readers.chunk_ids(version.slot, whole.row, first, count).await?;
            for (number, id) in (first..).zip(ids) {
                if whole.is_inline(number) {
                    outcomes.running.note(|report| report.kept += 1);
                    continue;
                }
                if !seen.insert(id) {
                    continue;
                }
                outcomes.settle(self.settings.uploads).await;
                if version.ended.get() {
                    return Ok(());
                }
                let chunk = Chunk { number, id, len: whole.chunk_len(number) };
                let (archiver, version) = (Rc::clone(self), Rc::clone(version));
                outcomes.moving.spawn_local(async move {
                    (number, chunk.len, archiver.move_chunk(&version, &chunk).await)
                });
            }
            first += count;
        }
        Ok(())
    }

    async fn move_chunk(&self, version: &Version, chunk: &Chunk) -> Step<Moved> {
        let _place = self.budget.place().await.ok_or(Trouble::Over)?;
        version.go_on()?;
        let (slot, row) = (version.slot, version.whole.row);
        let found = self.node.readers.archived_chunk(slot, row, chunk.number).await?;
        if let Some(found) = found.as_ref().filter(|found| found.dropped) {
            return self.let_go_again(version, chunk, found.clone().into()).await;
        }
        let source = self.source(version, chunk).await?;
        let mut named: Option<Object> = found.map(Object::from);
        // Whether the store was asked about that one when it was stored.
        let mut was_there = false;
        let (mut uploads, mut looked) = (0, 0);
        loop {
            if let Some(object) = named.clone() {
                // An upload compares what it sends.
                if uploads == 0
                    && let Err(fault) = source.compare().await
                {
                    return Err(self.damaged(version, chunk, &fault).await);
                }
                if std::mem::take(&mut was_there) || self.has(&object, chunk).await? {
                    match self.spread(version, chunk, &object.target).await? {
                        Known::Here => return self.let_go(version, chunk, object.target).await,
                        // Asked right before the file goes.
                        Known::Everywhere if self.has(&object, chunk).await? => {
                            return self.let_go(version, chunk, object.target).await;
                        }
                        Known::Everywhere | Known::Condemned => {}
                        Known::Another => {
                            look_again(&mut looked)?;
                            let found = self.node.readers.archived_chunk(slot, row, chunk.number).await?;
                            named = found.map(Object::from);
                            continue;
                        }
                    }
                }
                tracing::warn!(
                    object = %object.target,
                    "the archive does not have what it should, or a replica has given it up: it is stored again"
                );
            }
            version.go_on()?;
            if uploads == ARCHIVE_TRIES {
                let target = named.map(|object| object.target).unwrap_or_default();
                return Err(Trouble::Ends(format!(
                    "PUT {target}: the archive says that it has stored it, and then that it has not: see to the store"
                )));
            }
            let before = named.map(|object| object.target);
            named = Some(match self.upload(version, chunk, &source, before).await? {
                Stored::Named(object) => {
                    was_there = self.node.cluster.is_some();
                    object
                }
                Stored::Another(other) => {
                    look_again(&mut looked)?;
                    other
                }
            });
            uploads += 1;
        }
    }

    /// Why a row did not change as wanted.
    async fn changed(&self, version: &Version) -> Trouble {
        match self.node.readers.whole(version.slot, version.whole.row).await {
            Ok(None) => Trouble::Gone,
            Ok(Some(_)) => Trouble::Chunk("its row has changed meanwhile: ask again".to_owned()),
            Err(error) => error.into(),
        }
    }

    /// Enters a damaged file, unless its version is gone.
    async fn damaged(&self, version: &Version, chunk: &Chunk, fault: &Fault) -> Trouble {
        let (slot, whole) = (version.slot, &version.whole);
        if !fault.is_damage() {
            return Trouble::Chunk(format!("its file cannot be looked at now: {fault}"));
        }
        match self.node.readers.whole(slot, whole.row).await {
            Ok(None) => Trouble::Gone,
            Err(error) => error.into(),
            Ok(Some(_)) => {
                let what = format!("chunk {}: {fault}", chunk.id);
                let place = Place { slot, row: whole.row, number: chunk.number };
                self.node.damages.enter(Damage { place, blob: whole.blob, what });
                Trouble::Chunk(format!("its file is damaged: {fault}: see /readyz"))
            }
        }
    }
}

/// Counts that another object has taken the place of the one that was looked at.
fn look_again(looked: &mut u32) -> Step<()> {
    if *looked == ARCHIVE_TRIES {
        return Err(Trouble::Chunk("other nodes archive it at the same time: ask again".to_owned()));
    }
    *looked += 1;
    Ok(())
}
