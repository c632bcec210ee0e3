//! Chunks of a version move to the store.
//!
//! Order, for each chunk: the key is noted, so that a crash leaves no object that nobody knows of; the object is stored, while its
//! file is compared with its checksums; a row names it; the store tells its size and SHA-256; a row says that there is no file;
//! the file goes. Whatever ends this in between leaves the file, and perhaps an object, which the next order goes on with, or
//! which is a leftover.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::Archiver;
use super::report::Running;
use super::source::{Fault, Source};
use super::store::pause;
use crate::archive::failure::{Failure, Kind};
use crate::archive::location::Location;
use crate::archive::target::Target;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Part;
use crate::base::sha256::Sha256;
use crate::base::slot::Slot;
use crate::chunk::{kept, layout};
use crate::limits::{
    ARCHIVE_READ_TIME, ARCHIVE_RETRY_PAUSE, ARCHIVE_TRIES, PART_SIZE, PARTS_PER_CHUNK, SCRUB_CHUNKS,
};
use crate::meta::archives;
use crate::meta::types::BlobMeta;
use crate::meta::whole::Whole;
use crate::shard::archive::desk::Working;
use crate::shard::repair::damage::{Damage, Place};

pub(super) const BUSY: &str = "it is being archived or restored by another request";
pub(super) const GONE: &str = "this version was deleted meanwhile";

/// How long an order waits for another one that works on its blob: a blob of a few chunks is through by then.
const PATIENCE: Duration = ARCHIVE_READ_TIME.saturating_mul(4);

/// A live version whose chunks are moved.
struct Version {
    slot: Slot,
    whole: Whole,
    /// Whether no further step is wanted: another chunk has met what ends the order.
    ended: Cell<bool>,
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
        let Some(whole) = self.node.readers.whole(slot, record.row).await? else {
            fail(GONE.to_owned());
            return Ok(());
        };
        running.note(|report| report.versions += 1);
        let version = Rc::new(Version { slot, whole, ended: Cell::new(false) });
        if let Err(error) = self.move_all(&version, running).await {
            fail(error.message.into_owned());
        }
        // Who has the files open keeps their space.
        self.node.damages.note_replaced();
        drop(working);
        Ok(())
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
            return self.let_go_again(version, chunk, &found.target).await;
        }
        let source = self.source(version, chunk).await?;
        let mut named = found.map(|found| found.target);
        let mut uploads = 0;
        loop {
            if let Some(target) = &named {
                // An upload compares what it sends.
                if uploads == 0
                    && let Err(fault) = source.compare().await
                {
                    return Err(self.damaged(version, chunk, &fault).await);
                }
                if self.has(target, chunk).await? {
                    return self.let_go(version, chunk, target.clone()).await;
                }
                tracing::warn!(object = %target, "the archive does not have what it should: it is stored again");
            }
            version.go_on()?;
            if uploads == ARCHIVE_TRIES {
                let target = named.unwrap_or_default();
                return Err(Trouble::Ends(format!(
                    "PUT {target}: the archive says that it has stored it, and then that it has not: see to the store"
                )));
            }
            named = Some(self.upload(version, chunk, &source, named).await?);
            uploads += 1;
        }
    }

    /// The file of a chunk, and its checksums.
    async fn source(&self, version: &Version, chunk: &Chunk) -> Step<Source> {
        let (slot, whole) = (version.slot, &version.whole);
        let first = chunk.number * PARTS_PER_CHUNK;
        let count = chunk.len.div_ceil(PART_SIZE);
        let parts: Vec<Part> = match self.node.readers.parts(slot, whole.row, first, count).await {
            Ok(parts) => parts.parts,
            // Its chunks may be gone.
            Err(error) if error.code == Code::BlobNotFound => return Err(Trouble::Gone),
            Err(error) => return Err(error.into()),
        };
        let path = layout::chunk_file(self.node.slot_dir(slot), whole.blob, chunk.id);
        Ok(Source::new(path, chunk.len, parts))
    }

    /// Stores a chunk's object under a key of its own, and has a row name it, in place of `expected`.
    async fn upload(
        &self,
        version: &Version,
        chunk: &Chunk,
        source: &Source,
        expected: Option<String>,
    ) -> Step<String> {
        let mut tried = 0;
        loop {
            version.go_on()?;
            let at = Location::of_chunk(&self.settings.bucket, &self.settings.prefix, version.slot);
            let target = at.to_string();
            let held = self.keys.hold(&self.desk, version.slot, target.clone());
            self.node.writers.begin_object(version.slot, target.clone()).await?;
            self.budget.begin(chunk.len).await;
            let (credentials, store) = self.store.target();
            let (sender, body) = mpsc::channel(1);
            let mut feeding = pin!(source.feed(sender, &self.budget));
            let mut storing = pin!(store.put(&at, chunk.len, chunk.id.0, body));
            let (fed, stored) = tokio::select! {
                fed = &mut feeding => (Some(fed), storing.await),
                // A store that has answered may take no more, and nobody waits for it to.
                stored = &mut storing => (timeout(Duration::ZERO, feeding).await.ok(), stored),
            };
            let stored = match fed {
                Some(Err(fault)) => return Err(self.damaged(version, chunk, &fault).await),
                Some(Ok(true)) => stored,
                Some(Ok(false)) | None => stored.and_then(|()| Err(not_all(&at))),
            };
            self.store.note("put", &at.bucket, &stored);
            let Err(failure) = stored else {
                self.node.metrics.archive.uploaded_bytes.inc_by(chunk.len);
                let replaces = expected.is_some();
                self.name(version, chunk, target.clone(), expected).await?;
                held.named();
                if replaces {
                    // The object before is named by nothing any more.
                    self.desk.note_leftovers(version.slot);
                }
                return Ok(target);
            };
            if failure.kind == Kind::Wrong
                && let Some(trouble) = self.blame(version, chunk).await
            {
                return Err(trouble);
            }
            tried += 1;
            if !self.store.is_worth_a_try(&failure, credentials).await || tried >= ARCHIVE_TRIES {
                return Err(Trouble::Ends(failure.message));
            }
            drop(held);
            sleep(pause(tried)).await;
        }
    }

    /// Makes the row that names an object.
    async fn name(
        &self,
        version: &Version,
        chunk: &Chunk,
        target: String,
        expected: Option<String>,
    ) -> Step<()> {
        let range = 0..chunk.len;
        let place = archives::Place { chunk: chunk.id, length: chunk.len, target, range };
        if self.node.writers.archive(version.slot, version.whole.row, place, expected).await? {
            self.node.metrics.archive.chunks_archived.inc();
            Ok(())
        } else {
            Err(self.changed(version).await)
        }
    }

    /// Whether the file is what is wrong where the store got other bytes than it should: its checksums in the database may be, too.
    async fn blame(&self, version: &Version, chunk: &Chunk) -> Option<Trouble> {
        let slot_dir = self.node.slot_dir(version.slot).to_path_buf();
        let (blob, id, len) = (version.whole.blob, chunk.id, chunk.len);
        let verified = spawn_blocking(move || kept::verify(&slot_dir, blob, id, len, false)).await;
        match verified {
            Ok(Ok(Some(_))) => None,
            Ok(Ok(None) | Err(_)) => Some(self.damaged(version, chunk, &Fault::Hash).await),
            Err(_) => Some(Trouble::Over),
        }
    }

    /// Whether the store has a chunk, by what it says of its object.
    async fn has(&self, target: &str, chunk: &Chunk) -> Step<bool> {
        let Ok(at) = target.parse::<Location>() else { return Ok(false) };
        match self.is_at(&at, chunk).await {
            Ok(has) => Ok(has),
            Err(Failure { kind: Kind::Missing | Kind::Wrong, .. }) => Ok(false),
            // It is from a time with another config.
            Err(Failure { kind: Kind::Denied, .. }) if at.bucket != self.settings.bucket => Ok(false),
            Err(failure) => Err(Trouble::Ends(failure.message)),
        }
    }

    /// Whether an object has the length and the SHA-256 of a chunk.
    async fn is_at(&self, at: &Location, chunk: &Chunk) -> std::result::Result<bool, Failure> {
        let stat = async |store: Target| store.stat(at).await;
        let stat = self.store.ask("stat", &at.bucket, ARCHIVE_TRIES, stat).await?;
        if stat.size != chunk.len {
            return Ok(false);
        }
        let hash = match stat.sha256 {
            Some(hash) => hash,
            None => self.hash(at, chunk.len).await?,
        };
        Ok(hash == chunk.id.0)
    }

    /// SHA-256 of an object of `len` bytes.
    async fn hash(&self, at: &Location, len: u64) -> std::result::Result<[u8; 32], Failure> {
        let (mut hash, mut from) = (Sha256::default(), 0);
        loop {
            let range = from..len.min(from + PART_SIZE);
            from = range.end;
            let get = async |store: Target| store.get(at, range.clone()).await;
            let asked = self.store.ask("get", &at.bucket, ARCHIVE_TRIES, get);
            let Ok(got) = timeout(ARCHIVE_READ_TIME, asked).await else {
                let message = format!("GET {at}: a part of it was not had within {ARCHIVE_READ_TIME:?}");
                return Err(Failure { kind: Kind::Unavailable, message });
            };
            let bytes = got?;
            self.node.metrics.archive.fetched_bytes.inc_by(bytes.len() as u64);
            if from >= len {
                return Ok(hash.finish(&bytes));
            }
            hash.update(bytes.as_chunks().0);
        }
    }

    /// Notes that there is no file of a chunk, then removes it.
    async fn let_go(&self, version: &Version, chunk: &Chunk, target: String) -> Step<Moved> {
        let (slot, whole) = (version.slot, &version.whole);
        if !self.node.writers.drop_chunk(slot, whole.row, chunk.id, target).await? {
            return Err(self.changed(version).await);
        }
        self.node.metrics.archive.chunks_dropped.inc();
        self.remove_file(version, chunk).await?;
        self.node.damages.found_good(Place { slot, row: whole.row, number: chunk.number });
        Ok(Moved::Dropped)
    }

    /// Removes the file of a chunk that has none by its row, as a crash between the two leaves it.
    async fn let_go_again(&self, version: &Version, chunk: &Chunk, target: &str) -> Step<Moved> {
        let path = layout::chunk_file(self.node.slot_dir(version.slot), version.whole.blob, chunk.id);
        if matches!(spawn_blocking(move || path.try_exists()).await, Ok(Ok(true))) {
            if !self.has(target, chunk).await? {
                return Err(Trouble::Chunk(format!(
                    "the archive does not have {target} any more, and a file of the chunk is still here: restore it"
                )));
            }
            self.remove_file(version, chunk).await?;
        }
        Ok(Moved::Already)
    }

    async fn remove_file(&self, version: &Version, chunk: &Chunk) -> Step<()> {
        let path = layout::chunk_file(self.node.slot_dir(version.slot), version.whole.blob, chunk.id);
        let removed = spawn_blocking(move || std::fs::remove_file(path)).await;
        match removed.unwrap_or_else(|error| Err(io::Error::other(error.to_string()))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Trouble::Chunk(format!(
                "the archive has it, and its file cannot be removed: {error}: see to the disk"
            ))),
            _ => Ok(()),
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

/// The store has not taken all, and says that it has.
fn not_all(at: &Location) -> Failure {
    Failure { kind: Kind::Wrong, message: format!("PUT {at}: the store says it is done before it has all") }
}
