//! Stretches of a slot's rows in the order of their blob ids: cut by what is there, or summed up as somebody else has cut them.

use crate::base::ids::BlobId;
use crate::limits::{SYNC_LEAF, SYNC_PIECES};
use crate::wire::peer::sync::{Digest, Items, Range};

/// A stretch of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins; it ends right before the next one.
    pub first: BlobId,
    /// Rows in it.
    pub rows: u64,
    /// Their digest.
    pub digest: Digest,
}

/// The blob id right after another one; none after the last.
pub fn after(blob: BlobId) -> Option<BlobId> {
    blob.to_u128().checked_add(1).map(BlobId::from_u128)
}

/// All blob ids.
pub fn everything() -> Range {
    Range { first: BlobId::from_u128(0), last: BlobId::from_u128(u128::MAX) }
}

/// The consecutive ranges that begin at `firsts`, of which the last one ends at `last`.
pub fn ranges(firsts: &[BlobId], last: BlobId) -> impl Iterator<Item = Range> {
    let ends = firsts.iter().skip(1).map(|next| BlobId::from_u128(next.to_u128().saturating_sub(1)));
    firsts.iter().zip(ends.chain([last])).map(|(first, last)| Range { first: *first, last })
}

/// Cuts a range whose rows come one after the other into at most [`SYNC_PIECES`] pieces of about as many rows, without knowing
/// how many there will be: where there are too many pieces, neighbours become one.
#[derive(Debug)]
pub struct Cutter {
    begin: BlobId,
    pieces: Vec<Piece>,
    most: u64,
}

impl Cutter {
    /// Of a range that begins here.
    pub fn new(begin: BlobId) -> Self {
        Self { begin, pieces: Vec::new(), most: SYNC_LEAF as u64 }
    }

    /// The next row.
    pub fn push(&mut self, items: &Items) {
        if self.pieces.last().is_none_or(|piece| piece.rows >= self.most) {
            if self.pieces.len() >= SYNC_PIECES {
                self.halve();
            }
            if self.pieces.last().is_none_or(|piece| piece.rows >= self.most) {
                let first = if self.pieces.is_empty() { self.begin } else { items.blob };
                self.pieces.push(Piece { first, rows: 0, digest: Digest::default() });
            }
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.rows += 1;
            piece.digest.add_all(items);
        }
    }

    fn halve(&mut self) {
        let merge = |pair: &[Piece]| {
            let mut piece = pair[0];
            for other in &pair[1..] {
                piece.rows += other.rows;
                piece.digest.merge(other.digest);
            }
            piece
        };
        self.pieces = self.pieces.chunks(2).map(merge).collect();
        self.most *= 2;
    }

    /// The pieces, which cover the whole range; an empty one is one piece.
    pub fn finish(self) -> Vec<Piece> {
        if self.pieces.is_empty() {
            return vec![Piece { first: self.begin, rows: 0, digest: Digest::default() }];
        }
        self.pieces
    }
}

/// Sums rows up as somebody else has cut them.
#[derive(Debug)]
pub struct Summer {
    firsts: Vec<BlobId>,
    digests: Vec<Digest>,
    at: usize,
}

impl Summer {
    /// For ranges that begin at `firsts`, which ascend.
    pub fn new(firsts: Vec<BlobId>) -> Self {
        Self { digests: vec![Digest::default(); firsts.len()], firsts, at: 0 }
    }

    /// The next row, in the order of the blob ids.
    pub fn push(&mut self, items: &Items) {
        while self.firsts.get(self.at + 1).is_some_and(|next| *next <= items.blob) {
            self.at += 1;
        }
        if let Some(digest) = self.digests.get_mut(self.at) {
            digest.add_all(items);
        }
    }

    /// The digests of the ranges.
    pub fn finish(self) -> Vec<Digest> {
        self.digests
    }
}
