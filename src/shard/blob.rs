//! A live version that is being read: pieces of it, from the block cache, its chunk files, or the metadata.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::answers::Answer;
use super::core::Core;
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::parts::Parts;
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
    pub(super) fn new(core: &Rc<Core>, slot: Slot, answer: &Rc<Answer>) -> Rc<Self> {
        Rc::new(Self { core: Rc::clone(core), slot, answer: Rc::clone(answer) })
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
        let node = &self.core.node;
        let source = Source {
            blob: self.answer.record.blob_id,
            slot_dir: node.slot_dir(self.slot),
            direct: node.disk(self.slot).direct(),
            size: self.size(),
        };
        let block = source.read(&node.cache, &self.core.files, part, piece).await;
        block.map(|block| Piece::Block(block, share)).map_err(|error| {
            node.metrics.read_failures.inc();
            if let ReadError::Io { error, .. } = &error {
                node.disk(self.slot).health().note_read(error);
            }
            tracing::error!(slot = %self.slot, path = %source.slot_dir.display(), %error, "cannot read a blob");
            Error::new(Code::Internal, error.to_string())
        })
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
        self.core.answers.insert_parts(record.blob_id, &parts);
        Ok(parts)
    }
}
