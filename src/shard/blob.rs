//! A live version that is being read: pieces of it, from the block cache, its chunk files, or the metadata.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::answers::Answer;
use super::core::Core;
use super::repair;
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::parts::{Part, Parts};
use crate::base::slot::Slot;
use crate::chunk::read::{self, ReadError, Source};
use crate::io::budget::Share;
use crate::io::bulk::memory::{Gather, Region};
use crate::io::cache::BlockSlice;
use crate::limits::{PART_SIZE, PARTS_PER_QUESTION};

/// A live version.
pub(super) struct Blob {
    pub(super) core: Rc<Core>,
    slot: Slot,
    answer: Rc<Answer>,
    /// Whether other replicas may be asked for what is damaged here.
    may_ask: bool,
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
    pub(super) fn new(core: &Rc<Core>, slot: Slot, answer: &Rc<Answer>, may_ask: bool) -> Rc<Self> {
        Rc::new(Self { core: Rc::clone(core), slot, answer: Rc::clone(answer), may_ask })
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
                node.disk(self.slot).health().note_read(error);
            }
            self.rescue(failure.to_string(), range, sums).await
        };
        let block = source.read(&node.cache, &self.core.files, part, piece, rescue).await;
        block.map(|block| Piece::Block(block, share)).map_err(|error| {
            tracing::error!(slot = %self.slot, path = %source.slot_dir.display(), %error, "cannot read a blob");
            Error::new(Code::Internal, error.to_string())
        })
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

    /// Bytes that are damaged here, from another replica.
    async fn rescue(&self, what: String, range: Range<u64>, sums: &[u32]) -> Option<Vec<u8>> {
        let part = range.start / PART_SIZE;
        self.core.answers.forget_parts(self.answer.record.blob_id, part - part % PARTS_PER_QUESTION);
        let version = (self.slot, self.answer.record.row);
        Box::pin(repair::rescue(&self.core, version, self.may_ask, what, range, sums)).await
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
