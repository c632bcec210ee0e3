//! The pieces of a range in their order, the reads of those to come begun before they are wanted.
//!
//! Within a range nothing is guessed: all of it was asked for. The window begins small and doubles whenever the disk was
//! waited for, so that one client alone can keep the disk busy, and one that reads what is in the cache causes no work. Of a blob
//! that is in the archive it is large at once: a store answers late, and many requests as soon as one.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use monoio::task::JoinHandle;

use super::blob::{Blob, Piece};
use crate::base::error::Error;
use crate::base::ids::BlobId;
use crate::chunk::read::piece_end;
use crate::limits::{READ_AHEAD_AWAY, READ_AHEAD_MAX, READ_AHEAD_MIN};

enum Read {
    Ready(Piece),
    Coming(JoinHandle<Result<Piece, Error>>),
}

/// A range that is being read.
pub(super) struct ReadAhead {
    blob: Rc<Blob>,
    /// What was not taken yet.
    left: Range<u64>,
    /// Where the next read begins.
    next: u64,
    window: u64,
    /// Where each read begins, and its outcome.
    reads: VecDeque<(u64, Read)>,
}

impl ReadAhead {
    /// Begins to read bytes `range`, at least one, of a blob; the first piece is there when this returns.
    pub(super) async fn begin(blob: &Rc<Blob>, range: Range<u64>) -> Result<Self, Error> {
        let next = range.start;
        let window = READ_AHEAD_MIN;
        let mut reading = Self { blob: Rc::clone(blob), left: range, next, window, reads: VecDeque::new() };
        let start = reading.left.start;
        if let Some(piece) = reading.take(u64::MAX, false).await? {
            reading.left.start = start;
            reading.reads.push_front((start, Read::Ready(piece)));
        }
        Ok(reading)
    }

    /// The blob.
    pub(super) fn blob(&self) -> &Rc<Blob> {
        &self.blob
    }

    /// The bytes that were not taken yet.
    pub(super) fn left(&self) -> Range<u64> {
        self.left.clone()
    }

    /// How many they are.
    pub(super) fn rest(&self) -> u64 {
        self.left.end - self.left.start
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Whether the next piece can be taken, about `stride` bytes at a time, without waiting for the disk.
    pub(super) fn is_ready(&mut self, stride: u64) -> bool {
        if stride >= READ_AHEAD_MIN {
            self.fill();
        }
        match self.reads.front() {
            Some((_, Read::Ready(_))) => true,
            Some((_, Read::Coming(read))) => read.is_finished(),
            None => false,
        }
    }

    /// The next piece, of about `stride` bytes if it was not read ahead. None: there is no room for its block, and since
    /// the caller `holds` other pieces, these must go first.
    pub(super) async fn take(&mut self, stride: u64, holds: bool) -> Result<Option<Piece>, Error> {
        let at = self.left.start;
        if stride >= READ_AHEAD_MIN {
            self.fill();
        }
        let piece = match self.reads.pop_front() {
            Some((_, Read::Ready(piece))) => piece,
            Some((_, Read::Coming(read))) => {
                if !read.is_finished() {
                    self.window = (self.window * 2).min(READ_AHEAD_MAX);
                }
                read.await?
            }
            None => {
                let range = at..piece_end(at, self.left.end.min(at.saturating_add(stride)));
                let blocks = self.blob.blocks();
                let cost = self.blob.cost(&range);
                let share = match blocks.try_take(cost) {
                    Some(share) => share,
                    None if holds => return Ok(None),
                    // Who waits for room holds none, or all could wait for each other.
                    None => blocks.take(cost).await,
                };
                self.next = range.end;
                self.blob.read(share, range).await?
            }
        };
        self.left.start += piece.bytes().len() as u64;
        Ok(Some(piece))
    }

    /// The last `n` bytes that were taken, and all that comes after them, will be read again.
    pub(super) fn go_back(&mut self, n: u64) {
        self.left.start -= n;
        self.next = self.left.start;
        self.window = READ_AHEAD_MIN;
        self.reads.clear();
    }

    /// Begins the reads that come next, as far as there is room for their blocks.
    fn fill(&mut self) {
        let window = if self.blob.is_away() { self.window.max(READ_AHEAD_AWAY) } else { self.window };
        while self.next < self.left.end && self.next < self.left.start + window {
            let range = self.next..piece_end(self.next, self.left.end);
            let Some(share) = self.blob.blocks().try_take(self.blob.cost(&range)) else { return };
            let (start, end) = (range.start, range.end);
            let read = if let Some(block) = self.blob.peek(&range) {
                Read::Ready(Piece::Block(block, share))
            } else {
                let blob = Rc::clone(&self.blob);
                Read::Coming(monoio::spawn(async move { blob.read(share, range).await }))
            };
            self.reads.push_back((start, read));
            self.next = end;
        }
    }
}

/// Whether a connection reads one range after the other, and what it will read next if it goes on.
///
/// Reads go beyond what was asked for only after two ranges that followed on one another.
#[derive(Default)]
pub(super) struct Sequence {
    /// Its name only: a connection that idles holds nothing.
    blob: Option<BlobId>,
    /// Where the last range ended.
    end: u64,
    hits: u32,
    /// Where what was read ahead ends.
    ahead: u64,
    window: u64,
}

impl Sequence {
    /// A range begins to be sent.
    pub(super) fn follow(&mut self, blob: &Rc<Blob>, range: &Range<u64>) {
        let follows = self.end == range.start && self.blob == Some(blob.id());
        if !follows {
            *self = Self { window: READ_AHEAD_MIN, ..Self::default() };
        }
        self.hits += u32::from(follows);
        self.end = range.end;
        self.blob = Some(blob.id());
        if self.hits < 2 {
            return;
        }
        let mut at = self.ahead.max(range.end);
        let end = (range.end + self.window).min(blob.size());
        // In steps of half a window, so that reads stay large.
        if at >= end || (end < blob.size() && end - at < self.window / 2) {
            return;
        }
        while at < end {
            let piece = at..piece_end(at, blob.size());
            at = piece.end;
            if blob.peek(&piece).is_some() {
                continue;
            }
            let Some(share) = blob.blocks().try_take(blob.cost(&piece)) else { return };
            let blob = Rc::clone(blob);
            // What cannot be read is reported to who asks for it.
            monoio::spawn(async move { drop(blob.read(share, piece).await) });
        }
        self.ahead = at;
        self.window = (self.window * 2).min(READ_AHEAD_MAX);
    }
}
