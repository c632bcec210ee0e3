//! What replicas ask each other to find out where they differ: digests, items, rows, and a word that it is worth looking.

use serde::{Deserialize, Serialize};

use super::{Held, Identity};
use crate::base::ids::{BlobId, ChunkId};

/// What replicas must agree on of a version, or of its tombstone, as one number.
pub type Item = u128;

/// A set of items: how many, and their sum modulo 2^128 (AdHash, Bellare and Micciancio 1997).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest {
    /// Items; a difference of two sets counts modulo 2^64.
    pub count: u64,
    /// Their sum.
    pub sum: u128,
}

/// The items of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Items {
    /// The blob.
    pub blob: BlobId,
    /// That of its version.
    pub version: Item,
    /// That of its tombstone.
    pub tombstone: Option<Item>,
}

/// Blob ids from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The first one.
    pub first: BlobId,
    /// The last one.
    pub last: BlobId,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The digests of these slots.
    Digests(Vec<u16>),
    /// The digests of consecutive ranges of a slot.
    Ranges {
        /// The slot.
        slot: u16,
        /// Where each one begins; the next one begins right after its end.
        firsts: Vec<BlobId>,
        /// Where the last one ends.
        last: BlobId,
    },
    /// The items of a range.
    Items {
        /// The slot.
        slot: u16,
        /// The range.
        range: Range,
    },
    /// The versions of these blobs.
    Rows {
        /// The slot.
        slot: u16,
        /// The blobs, in order.
        blobs: Vec<BlobId>,
    },
    /// The chunks of a version that the asker lacks.
    Chunks {
        /// The slot.
        slot: u16,
        /// The blob.
        blob: BlobId,
        /// Number of the first chunk that is wanted.
        first: u64,
    },
    /// To look at these slots soon: something that the asker has did not arrive.
    Nudge(Vec<u16>),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Digests`, in the order of the question; none: it cannot be said now.
    Digests(Vec<Option<Digest>>),
    /// To `Ranges`, in the order of the question.
    Ranges(Vec<Digest>),
    /// To `Items`.
    Items {
        /// In the order of their blobs.
        items: Vec<Items>,
        /// Where the range goes on; none: that was all of it.
        next: Option<BlobId>,
    },
    /// To `Rows`: as far as they are here.
    Rows {
        /// Whose disk they are on.
        identity: Identity,
        /// The versions.
        held: Vec<Held>,
    },
    /// To `Chunks`: some at a time, none where the asker would get no bytes either.
    Chunks(Vec<ChunkId>),
    /// To `Nudge`.
    Nudged,
    /// Not now: the reason.
    No(String),
}
