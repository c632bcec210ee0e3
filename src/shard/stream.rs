//! A blob's bytes on their way out: read ahead through the block cache, sent from the blocks.
//!
//! A block is held only while a send moves. When the client stops reading, the send is taken back, the block let go,
//! and the connection waits with nothing in hand; so slow clients cost no memory and delay nobody.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use monoio::buf::IoBuf;
use monoio::task::JoinHandle;

use super::answers::Answer;
use super::connection::Connection;
use super::core::Core;
use super::reply::Failure;
use crate::base::error::{Code, Error};
use crate::base::parts::Parts;
use crate::base::slot::Slot;
use crate::chunk::read::Source;
use crate::io::budget::Share;
use crate::io::cache::BlockSlice;
use crate::limits::{PART_SIZE, PARTS_PER_QUESTION, READ_AHEAD, SEND_PATIENCE, SMALL_BLOCK};

/// A live version that is being read.
pub(super) struct Blob {
    core: Rc<Core>,
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

    fn advance(&mut self, n: usize) {
        match self {
            Self::Block(block, _) => block.advance(n),
            Self::Inline(bytes) => drop(bytes.split_to(n)),
        }
    }
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: both kinds are shares of memory that neither moves nor changes while they are held.
unsafe impl IoBuf for Piece {
    fn read_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.bytes().len()
    }
}

impl Blob {
    pub(super) fn new(core: &Rc<Core>, slot: Slot, answer: &Rc<Answer>) -> Rc<Self> {
        Rc::new(Self { core: Rc::clone(core), slot, answer: Rc::clone(answer) })
    }

    /// The bytes `range`, or the first of them.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Piece, Error> {
        let share = self.core.blocks.take(cost(&range)).await;
        self.read_with(share, range).await
    }

    async fn read_with(&self, share: Share, range: Range<u64>) -> Result<Piece, Error> {
        let number = range.start / PART_SIZE;
        let start = number * PART_SIZE;
        let within = range.start - start..(range.end - start).min(PART_SIZE);
        let parts = self.parts(number).await?;
        let missing = || Error::new(Code::Internal, "the metadata has no such part; see the server's log");
        if let Some(bytes) = parts.inline(number) {
            let within = within.start as usize..within.end as usize;
            return bytes.get(within.clone()).map(|_| Piece::Inline(bytes.slice(within))).ok_or_else(missing);
        }
        let part = parts.get(number).ok_or_else(missing)?;
        let node = &self.core.node;
        let source = Source {
            blob: self.answer.record.blob_id,
            slot_dir: node.slot_dir(self.slot),
            direct: node.disk(self.slot).direct(),
            size: self.answer.record.size,
        };
        let block = source.read(&node.cache, number, part, within).await;
        block.map(|block| Piece::Block(block, share)).map_err(|error| {
            node.metrics.read_failures.inc();
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

    /// Sends the bytes `range`, of which `first` may be at hand.
    ///
    /// # Errors
    /// `Gone` whatever fails: the head is out, so a response that cannot be finished is cut off.
    pub(super) async fn send(
        self: &Rc<Self>,
        connection: &mut Connection,
        mut first: Option<Piece>,
        range: Range<u64>,
    ) -> Result<(), Failure> {
        let mut ahead = ReadAhead::new(self, &range);
        let mut at = range.start;
        // What is taken at a time: a client that does not keep up gets small pieces, and larger ones when it does again.
        let mut stride = PART_SIZE;
        while at < range.end {
            if stride == PART_SIZE {
                ahead.fill();
            }
            let mut piece = match first.take() {
                Some(first) => first,
                None => ahead.take(at, stride).await.map_err(|_| Failure::Gone)?,
            };
            let begun = Instant::now();
            stride = (stride * 2).min(PART_SIZE);
            while !piece.bytes().is_empty() {
                let patience = SEND_PATIENCE.saturating_sub(begun.elapsed());
                let (sent, rest) = connection.send_some(piece, patience).await?;
                piece = rest;
                piece.advance(sent);
                at += sent as u64;
                self.core.node.metrics.sent.inc_by(sent as u64);
                if !piece.bytes().is_empty() && begun.elapsed() >= SEND_PATIENCE {
                    // Let go of everything, and read it again when the client does.
                    drop(piece);
                    ahead.forget(at);
                    stride = SMALL_BLOCK;
                    connection.wait_writable().await?;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of the block that a range is read as.
fn cost(range: &Range<u64>) -> usize {
    (if range.end - range.start > PART_SIZE / 4 { PART_SIZE } else { SMALL_BLOCK }) as usize
}

/// Reads of the parts that come next, begun before they are sent.
struct ReadAhead<'a> {
    blob: &'a Rc<Blob>,
    end: u64,
    /// Where the next read begins.
    next: u64,
    /// Where each read begins, and its outcome.
    reads: VecDeque<(u64, JoinHandle<Result<Piece, Error>>)>,
}

impl<'a> ReadAhead<'a> {
    fn new(blob: &'a Rc<Blob>, range: &Range<u64>) -> Self {
        Self { blob, end: range.end, next: part_end(range.start), reads: VecDeque::new() }
    }

    /// Begins the reads that come next, as far as there is room for their blocks.
    fn fill(&mut self) {
        while self.next < self.end && self.reads.len() <= READ_AHEAD {
            let (blob, range) = (Rc::clone(self.blob), self.next..part_end(self.next).min(self.end));
            let Some(share) = self.blob.core.blocks.try_take(cost(&range)) else { return };
            let (start, end) = (range.start, range.end);
            self.reads.push_back((start, monoio::spawn(async move { blob.read_with(share, range).await })));
            self.next = end;
        }
    }

    /// The piece that begins at `at`, of `stride` bytes if it was not read ahead.
    async fn take(&mut self, at: u64, stride: u64) -> Result<Piece, Error> {
        if let Some((_, read)) = self.reads.pop_front_if(|(start, _)| *start == at) {
            return read.await;
        }
        // The first part, or the rest of one whose last piece was not all of it.
        self.next = self.next.max(part_end(at));
        let range = at..(at + stride).min(part_end(at)).min(self.end);
        let blocks = &self.blob.core.blocks;
        let share = if let Some(share) = blocks.try_take(cost(&range)) {
            share
        } else {
            // Who waits for room holds none, or all could wait for each other.
            self.forget(at);
            blocks.take(cost(&range)).await
        };
        self.blob.read_with(share, range).await
    }

    /// Lets go of everything that was read ahead of `at`.
    fn forget(&mut self, at: u64) {
        if !self.reads.is_empty() {
            self.reads.clear();
            self.next = part_end(at);
        }
    }
}

/// Where the part with byte `at` ends.
fn part_end(at: u64) -> u64 {
    at - at % PART_SIZE + PART_SIZE
}
