//! Reading a stretch of a part: from the block cache, else from the chunk's file or the bytes that came with the
//! metadata, every granule checked before anyone sees it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::layout;
use crate::base::checksum;
use crate::base::ids::BlobId;
use crate::base::parts::Part;
use crate::io::buffer::Buffer;
use crate::io::cache::{Block, BlockCache, BlockSlice, Key};
use crate::io::file::{RingFile, on_storage_thread};
use crate::io::steps;
use crate::limits::{CHUNK_SIZE, GRANULE_SIZE, PART_SIZE, SMALL_BLOCK};

/// Why a stretch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("chunk {chunk} of blob {blob}: {error}")]
    Io {
        /// The chunk.
        chunk: String,
        /// The blob.
        blob: BlobId,
        /// What the file system said.
        error: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("chunk {chunk} of blob {blob} is damaged: the checksum of the 16 KiB at byte {at} is wrong")]
    Damaged {
        /// The chunk.
        chunk: String,
        /// The blob.
        blob: BlobId,
        /// Offset in the chunk.
        at: u64,
    },
}

/// Where the parts of one blob are read from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The blob.
    pub blob: BlobId,
    /// Its slot's directory.
    pub slot_dir: &'a Path,
    /// Whether its files are read around the page cache.
    pub direct: bool,
    /// The blob's size in bytes.
    pub size: u64,
}

impl Source<'_> {
    /// Bytes of part `number`.
    pub fn part_len(&self, number: u64) -> u64 {
        (self.size - number * PART_SIZE).min(PART_SIZE)
    }

    /// The bytes `range` of part `number`, or the first of them: a large range is read as the whole part, a small one
    /// as the 64 KiB blocks it touches, one at a time.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub async fn read(
        &self,
        cache: &BlockCache,
        number: u64,
        part: &Part,
        range: Range<u64>,
    ) -> Result<BlockSlice, ReadError> {
        let whole = Key { owner: self.owner(), start: number * PART_SIZE, class: PART_SIZE as u32 };
        if range.end - range.start > PART_SIZE / 4 {
            let block = cache.get(whole, || self.load(number, part, 0..self.part_len(number))).await?;
            return Ok(slice(block, 0, &range));
        }
        if let Some(block) = cache.peek(&whole) {
            return Ok(slice(block, 0, &range));
        }
        let start = range.start / SMALL_BLOCK * SMALL_BLOCK;
        let end = (start + SMALL_BLOCK).min(self.part_len(number));
        let key = Key { owner: self.owner(), start: number * PART_SIZE + start, class: SMALL_BLOCK as u32 };
        let block = cache.get(key, || self.load(number, part, start..end)).await?;
        Ok(slice(block, start, &range))
    }

    fn owner(&self) -> u128 {
        self.blob.to_u128()
    }

    /// Reads and checks a stretch of a part that begins on a granule.
    async fn load(&self, number: u64, part: &Part, range: Range<u64>) -> Result<Buffer, ReadError> {
        let path = layout::chunk_file(self.slot_dir, self.blob, part.chunk);
        let in_chunk = number * PART_SIZE % CHUNK_SIZE + range.start;
        let len = (range.end - range.start) as usize;
        let direct = self.direct;
        let read = async {
            let file = RingFile::new(on_storage_thread(move || steps::open_file(&path, direct)).await?)?;
            let (result, buffer) = file.read(Buffer::new(len), in_chunk, len).await;
            result.map(|()| buffer)
        };
        let buffer = read.await.map_err(|error| ReadError::Io {
            chunk: part.chunk.to_string(),
            blob: self.blob,
            error,
        })?;
        let first = (range.start / GRANULE_SIZE) as usize;
        match checksum::first_mismatch(&buffer, part.sums.get(first..).unwrap_or_default()) {
            None => Ok(buffer),
            Some(granule) => Err(ReadError::Damaged {
                chunk: part.chunk.to_string(),
                blob: self.blob,
                at: in_chunk + granule as u64 * GRANULE_SIZE,
            }),
        }
    }
}

/// What a block that begins at `start` has of `range`.
fn slice(block: Arc<Block>, start: u64, range: &Range<u64>) -> BlockSlice {
    let end = ((range.end - start) as usize).min(block.bytes().len());
    BlockSlice::new(block, (range.start - start) as usize, end)
}
