//! A live version that is being read: pieces of it, from the block cache, its chunk files, or the metadata.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::answers::Answer;
use super::archive::{self, heat};
use super::core::Core;
use super::repair::{self, damage::Place};
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::parts::{Part, Parts};
use crate::base::slot::Slot;
use crate::chunk::layout;
use crate::chunk::read::{self, ReadError, Source};
use crate::io::budget::{Budget, Share};
use crate::io::bulk::memory::{Gather, Region};
use crate::io::cache::BlockSlice;
use crate::limits::{CHUNK_SIZE, PART_SIZE, PARTS_PER_QUESTION};

/// Where bytes of a version may come from that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// From other replicas, and the archive.
    All,
    /// From the archive: the request was passed on as often as may be.
    Archive,
    /// From nowhere: another replica asks, and goes on to ask others.
    Here,
}

/// A live version.
pub(super) struct Blob {
    pub(super) core: Rc<Core>,
    slot: Slot,
    answer: Rc<Answer>,
    reach: Reach,
    /// Whether some of its chunks were found to be in the archive alone.
    away: Cell<bool>,
    /// The last two of them, by number: reads go on in one before those of the other have ended.
    lately: Cell<[Option<u64>; 2]>,
}

/// Some consecutive bytes of a blob.
pub(super) enum Piece {
    /// From the block cache, with its share of what the core's responses may hold.
    Block(BlockSlice, #[expect(dead_code, reason = "held until the piece is dropped")] Share),
    /// From the metadata.
    Inline(Bytes),
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Block(block, _) => block.bytes(),
            Self::Inline(bytes) => bytes,
        }
    }
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: both kinds are shares of memory that neither moves nor changes while they are held.
unsafe impl Gather for Piece {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        match self {
            Self::Block(block, _) => block.regions(name),
            Self::Inline(bytes) => bytes.regions(name),
        }
    }
}

impl Blob {
    pub(super) fn new(core: &Rc<Core>, slot: Slot, answer: &Rc<Answer>, reach: Reach) -> Rc<Self> {
        Rc::new(Self {
            core: Rc::clone(core),
            slot,
            answer: Rc::clone(answer),
            reach,
            away: Cell::new(false),
            lately: Cell::default(),
        })
    }

    /// Whether it was found to be in the archive, all of it or some.
    pub(super) fn is_away(&self) -> bool {
        self.away.get()
    }

    /// What its blocks are taken from.
    pub(super) fn blocks(&self) -> &Budget {
        if self.is_away() { &self.core.archived_blocks } else { &self.core.blocks }
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.answer.record.size
    }

    /// Its name.
    pub(super) fn id(&self) -> BlobId {
        self.answer.record.blob_id
    }

    /// Bytes of memory that the block of a piece takes.
    pub(super) fn cost(&self, piece: &Range<u64>) -> usize {
        read::piece_cost(&self.core.node.cache, self.id(), piece)
    }

    /// A piece whose block is in the cache.
    pub(super) fn peek(&self, piece: &Range<u64>) -> Option<BlockSlice> {
        read::peek(&self.core.node.cache, self.answer.record.blob_id, piece)
    }

    /// A piece, as [`read::piece_end`] cuts it.
    pub(super) async fn read(&self, share: Share, piece: Range<u64>) -> Result<Piece, Error> {
        let number = piece.start / PART_SIZE;
        let parts = self.parts(number).await?;
        let missing = || Error::new(Code::Internal, "the metadata has no such part; see the server's log");
        if let Some(bytes) = parts.inline(number) {
            let start = number * PART_SIZE;
            let within = (piece.start - start) as usize..(piece.end - start) as usize;
            return bytes.get(within.clone()).map(|_| Piece::Inline(bytes.slice(within))).ok_or_else(missing);
        }
        let part = parts.get(number).ok_or_else(missing)?;
        if parts.damaged.contains(&number) {
            return self.read_damaged(part, number, piece).await;
        }
        let node = &self.core.node;
        let source = Source {
            blob: self.answer.record.blob_id,
            slot_dir: node.slot_dir(self.slot),
            direct: node.disk(self.slot).direct(),
            size: self.size(),
        };
        let rescue = async |failure: &ReadError, range: Range<u64>, sums: &[u32]| {
            if let ReadError::Io { error, .. } = failure {
                if error.kind() == io::ErrorKind::NotFound
                    && let Some(away) = Box::pin(self.away(part, range.clone(), sums)).await
                {
                    return away.map_err(Some);
                }
                node.disk(self.slot).health().note_read(error);
            }
            self.rescue(failure.to_string(), range, sums).await.ok_or(None)
        };
        let block = source.read(&node.cache, &self.core.files, part, piece, rescue).await;
        block.map(|block| Piece::Block(block, share)).map_err(|error| {
            let path = source.slot_dir.display();
            if let ReadError::Away { .. } = error {
                // It is known of the archive that it fails; nothing is wrong here.
                tracing::debug!(slot = %self.slot, %path, %error, "cannot read an archived blob");
                return Error::new(Code::SlotUnavailable, error.to_string());
            }
            tracing::error!(slot = %self.slot, %path, %error, "cannot read a blob");
            Error::new(Code::Internal, error.to_string())
        })
    }

    /// Bytes of a chunk that the archive alone has; none: it should have a file here.
    async fn away(&self, part: &Part, range: Range<u64>, sums: &[u32]) -> Option<Result<Vec<u8>, String>> {
        let (node, id) = (&self.core.node, self.id());
        let file = layout::chunk_file(node.slot_dir(self.slot), id, part.chunk);
        let place = Place { slot: self.slot, row: self.answer.record.row, number: range.start / CHUNK_SIZE };
        let mut object = match archive::object_of(node, place, file.clone()).await? {
            Ok(object) => object,
            Err(why) => return Some(Err(why)),
        };
        if self.reach == Reach::Here {
            return Some(Err("another replica asks for what is on the disks here".to_owned()));
        }
        self.away.set(true);
        if self.is_new(place.number) {
            heat::note(&self.core, place, id);
        }
        if self.reach == Reach::All
            && let Some(bytes) = archive::read_elsewhere(&self.core, place, id, &range, sums).await
        {
            return Some(Ok(bytes));
        }
        let mut read = archive::read(&self.core, self.slot, &object, &range, sums).await;
        // Another object may have taken the place of this one.
        if read.is_err()
            && let Some(Ok(now)) = archive::object_of(node, place, file).await
            && now.target != object.target
        {
            object = now;
            read = archive::read(&self.core, self.slot, &object, &range, sums).await;
        }
        if read.is_err() {
            self.forget_parts(range.start / PART_SIZE);
        }
        Some(read)
    }

    /// Whether a chunk that is read from the archive is another one than the last two.
    fn is_new(&self, number: u64) -> bool {
        let lately = self.lately.get();
        let is_new = !lately.contains(&Some(number));
        if is_new {
            self.lately.set([Some(number), lately[0]]);
        }
        is_new
    }

    /// Has the checksums of a part asked for again: it may be they that are damaged.
    fn forget_parts(&self, number: u64) {
        self.core.answers.forget_parts(self.id(), number - number % PARTS_PER_QUESTION);
    }

    /// A piece of a chunk that lives in the database and is damaged there.
    async fn read_damaged(&self, part: &Part, number: u64, piece: Range<u64>) -> Result<Piece, Error> {
        let (row, start) = (self.answer.record.row, number * PART_SIZE);
        let what = format!("row {} is damaged: the checksum of its part {number} is wrong", row.0);
        let good = self.rescue(what.clone(), start..self.size(), &part.sums).await;
        let within = (piece.start - start) as usize..(piece.end - start) as usize;
        let good = good.map(Bytes::from).filter(|bytes| bytes.get(within.clone()).is_some());
        let good = good.ok_or_else(|| Error::new(Code::Internal, what))?;
        Ok(Piece::Inline(good.slice(within)))
    }

    /// Bytes that are damaged here, from another replica or the archive.
    async fn rescue(&self, what: String, range: Range<u64>, sums: &[u32]) -> Option<Vec<u8>> {
        self.forget_parts(range.start / PART_SIZE);
        let version = (self.slot, self.answer.record.row);
        Box::pin(repair::rescue(&self.core, version, self.reach, what, range, sums)).await
    }

    /// The parts among which number `number` is.
    async fn parts(&self, number: u64) -> Result<Arc<Parts>, Error> {
        if let Some(parts) = &self.answer.parts {
            return Ok(Arc::clone(parts));
        }
        let record = &self.answer.record;
        let first = number - number % PARTS_PER_QUESTION;
        if let Some(parts) = self.core.answers.parts(record.blob_id, first) {
            return Ok(parts);
        }
        let count = (record.parts() - first).min(PARTS_PER_QUESTION);
        let parts = Arc::new(self.core.node.readers.parts(self.slot, record.row, first, count).await?);
        if parts.damaged.is_empty() {
            self.core.answers.insert_parts(record.blob_id, &parts);
        }
        Ok(parts)
    }
}
