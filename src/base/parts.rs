//! The parts of a blob: for each stretch of 2 MiB its chunk and its checksums.

use bytes::Bytes;

use super::ids::ChunkId;
use super::sha256::Sha256;
use crate::limits::CHUNK_SIZE;

/// A chunk of a blob: its hash and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// SHA-256 of its bytes.
    pub id: ChunkId,
    /// Bytes.
    pub len: u64,
}

/// The chunks of a blob of `size` bytes, of which the first in `ids` has number `first`.
pub fn chunk_refs(ids: &[ChunkId], first: u64, size: u64) -> impl Iterator<Item = ChunkRef> {
    (first..).zip(ids).map(move |(number, id)| {
        let len = size.saturating_sub(number * CHUNK_SIZE).min(CHUNK_SIZE);
        ChunkRef { id: *id, len }
    })
}

/// SHA-256 over a blob's size and the ids of its chunks: equal for equal bytes, whatever the blob is called.
pub fn content(size: u64, chunks: &[ChunkId]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(8 + chunks.len() * 32);
    bytes.extend(size.to_le_bytes());
    bytes.extend(chunks.iter().flat_map(|chunk| chunk.0));
    Sha256::digest(&bytes)
}

/// One stretch of a blob ([`PART_SIZE`](crate::limits::PART_SIZE) bytes, the last of a chunk may be shorter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chunk it lies in.
    pub chunk: ChunkId,
    /// CRC32C of each granule.
    pub sums: Vec<u32>,
}

/// Consecutive parts of a blob.
#[derive(Debug, Default)]
pub struct Parts {
    /// Number of the first, counted from the blob's start.
    pub first: u64,
    /// The parts.
    pub parts: Vec<Part>,
    /// Chunks kept in the database instead of a file: number of the chunk's first part, bytes.
    pub inline: Vec<(u64, Bytes)>,
    /// Chunks among those whose bytes are damaged: number of the first part.
    pub damaged: Vec<u64>,
}

impl Parts {
    /// The part with this number.
    pub fn get(&self, number: u64) -> Option<&Part> {
        self.parts.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The bytes of the chunk that begins with this part, if the database holds them.
    pub fn inline(&self, number: u64) -> Option<&Bytes> {
        self.inline.iter().find(|(first, _)| *first == number).map(|(_, bytes)| bytes)
    }
}
