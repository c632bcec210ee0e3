//! Chunks of versions come back from the store.
//!
//! Each is written by the core of its slot, several at once; those that are back stay, so that a second order goes on where the first
//! one ended.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::Archiver;
use super::moving::{BUSY, GONE};
use super::report::Running;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::ChunkId;
use crate::base::slot::Slot;
use crate::limits::{ARCHIVE_RESTORES, PAGE_DEFAULT, SCRUB_CHUNKS};
use crate::meta::index::{Listing, Seek};
use crate::meta::types::BlobMeta;
use crate::meta::whole::Whole;
use crate::shard::archive::desk::Brought;
use crate::shard::repair::damage::Place;

/// What became of a chunk, by its number.
type Outcome = (u64, Result<Brought>);

impl Archiver {
    /// Brings the chunks of a version back.
    ///
    /// # Errors
    /// `BlobNotFound`; what goes wrong later stands in the report.
    pub(super) async fn restore(
        self: &Rc<Self>,
        path: &str,
        version: Option<u64>,
        running: &Running,
    ) -> Result<()> {
        let (slot, record) = self.find(path, version).await?;
        if let Err(error) = self.bring_version(slot, path, &record, true, running).await {
            let why = error.message.into_owned();
            running.note(|report| report.fail(path, record.version, None, why));
        }
        Ok(())
    }

    /// Brings the newest versions of all paths back that begin with `prefix`, until the store or a disk fails.
    pub(super) async fn restore_prefix(self: &Rc<Self>, prefix: &str, running: &Running) {
        for disk in 0..self.node.indexes.disks() {
            let mut from = Seek::default();
            loop {
                let listing = Listing {
                    prefix: prefix.to_owned(),
                    delimiter: None,
                    from,
                    limit: PAGE_DEFAULT,
                    include_tombstoned: false,
                    merged: false,
                    bytes: usize::MAX,
                };
                let page = match self.node.indexes.list(disk, listing).await {
                    Ok(page) => page,
                    Err(error) => return running.note(|report| report.end(error.message.into_owned())),
                };
                for line in 0..page.len() {
                    if !self.bring_listed(page.key(line), page.version(line), running).await {
                        return;
                    }
                }
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
    }

    /// Brings a version back that was listed, and may have gone since; false: the order ends.
    async fn bring_listed(self: &Rc<Self>, path: &str, version: u64, running: &Running) -> bool {
        let brought = match self.find(path, Some(version)).await {
            Ok((slot, record)) => self.bring_version(slot, path, &record, false, running).await,
            Err(error) if error.code == Code::BlobNotFound => return true,
            Err(error) => Err(error),
        };
        let Err(error) = brought else { return true };
        let ends = self.ends(&error);
        running.note(|report| report.fail(path, version, None, error.message.into_owned()));
        !ends
    }

    /// Brings the chunks of a version back. One that goes meanwhile counts as failed where it was `named`.
    ///
    /// # Errors
    /// What ends it; of chunks that cannot come back the report says why.
    async fn bring_version(
        self: &Rc<Self>,
        slot: Slot,
        path: &str,
        record: &BlobMeta,
        named: bool,
        running: &Running,
    ) -> Result<()> {
        let readers = &self.node.readers;
        let fail = |chunk: Option<u64>, why: String| {
            running.note(|report| report.fail(path, record.version, chunk, why));
        };
        // Most versions of a prefix may have nothing there.
        if readers.archived(slot, record.row).await?.iter().all(|archived| !archived.dropped) {
            running.note(|report| {
                report.versions += 1;
                report.version = Some(record.version);
                report.already += record.chunks();
            });
            return Ok(());
        }
        let Some(working) = self.work_on(record.blob_id).await else {
            fail(None, BUSY.to_owned());
            return Ok(());
        };
        let Some(whole) = readers.whole(slot, record.row).await? else {
            if named {
                fail(None, GONE.to_owned());
            }
            return Ok(());
        };
        running
            .note(|report| (report.versions, report.version) = (report.versions + 1, Some(record.version)));
        // Only now: what is worked on has just the rows that this order gives it.
        let archived = readers.archived(slot, record.row).await?;
        let away: HashSet<ChunkId> =
            archived.into_iter().filter(|archived| archived.dropped).map(|archived| archived.chunk).collect();
        let brought = self.bring_chunks(slot, &whole, away, running).await;
        drop(working);
        brought
    }

    async fn bring_chunks(
        self: &Rc<Self>,
        slot: Slot,
        whole: &Whole,
        mut away: HashSet<ChunkId>,
        running: &Running,
    ) -> Result<()> {
        let mut coming = JoinSet::new();
        let mut ended = Ok(());
        let mut first = 0;
        'chunks: while first < whole.chunks() {
            let count = SCRUB_CHUNKS.min(whole.chunks() - first);
            let ids = match self.node.readers.chunk_ids(slot, whole.row, first, count).await {
                Ok(ids) => ids,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            };
            for (number, id) in (first..).zip(ids) {
                // Equal chunks are one file: the first of them brings it.
                if !away.remove(&id) {
                    running.note(|report| report.already += 1);
                    continue;
                }
                ended = self.settle(&mut coming, ARCHIVE_RESTORES, whole, running).await;
                if ended.is_err() {
                    break 'chunks;
                }
                let (desk, place) = (Arc::clone(&self.desk), Place { slot, row: whole.row, number });
                coming.spawn_local(async move { (number, desk.bring_back(place).await) });
            }
            first += count;
        }
        // What was begun comes to its end: nothing of it goes on behind the order.
        let settled = self.settle(&mut coming, 1, whole, running).await;
        ended.and(settled)
    }

    /// Waits until less than `most` are on their way.
    ///
    /// # Errors
    /// The first one that ends the order.
    async fn settle(
        &self,
        coming: &mut JoinSet<Outcome>,
        most: usize,
        whole: &Whole,
        running: &Running,
    ) -> Result<()> {
        let mut ended = Ok(());
        while coming.len() >= most.max(1) {
            let Some(outcome) = coming.join_next().await else { break };
            let outcome = outcome.map_err(|error| Error::new(Code::Internal, error.to_string()));
            match outcome {
                Ok((_, Ok(Brought::Back(bytes)))) => running.note(|report| {
                    report.chunks += 1;
                    report.bytes += bytes;
                }),
                Ok((_, Ok(Brought::Needless))) => running.note(|report| report.already += 1),
                Ok((_, Err(error))) if self.ends(&error) => ended = ended.and(Err(error)),
                Ok((number, Err(error))) => {
                    let why = error.message.into_owned();
                    running.note(|report| report.fail(&whole.path, whole.version, Some(number), why));
                }
                Err(error) => ended = ended.and(Err(error)),
            }
        }
        ended
    }

    /// Whether what a chunk met would be the same with every other one.
    fn ends(&self, error: &Error) -> bool {
        error.code == Code::DiskFull || self.desk.health.failing().is_some()
    }
}
