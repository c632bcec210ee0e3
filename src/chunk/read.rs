//! Reading pieces of blobs: from the block cache, else from the chunk's file, every granule checked before anyone sees
//! it, and fetched from elsewhere if it is damaged and somebody has it.
//!
//! Large pieces take a block of the size of a part, small ones of 64 KiB; of either only the granules they touch are read.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::files::OpenFiles;
use super::layout;
use crate::base::checksum;
use crate::base::ids::BlobId;
use crate::base::parts::Part;
use crate::io::arena::Size;
use crate::io::cache::{BlockCache, BlockSlice, Key, Loading};
use crate::limits::{CHUNK_SIZE, GRANULE_SIZE, PART_SIZE, SMALL_BLOCK, SMALL_RANGE};

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
    /// The bytes are kept elsewhere, and cannot be had from there now.
    #[error("chunk {chunk} of blob {blob} is not on this node: {why}")]
    Away {
        /// The chunk.
        chunk: String,
        /// The blob.
        blob: BlobId,
        /// What keeps it from being had.
        why: String,
    },
}

/// Bytes from elsewhere; else why they cannot be had from where they are kept, or none if they should be here and nobody else
/// has them.
pub type Rescued = Result<Vec<u8>, Option<String>>;

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

/// A block of the cache and some of its bytes.
struct Place {
    size: Size,
    key: Key,
    /// Of the block.
    within: Range<usize>,
}

/// Where the piece that begins at byte `at` of a blob ends, when the bytes up to `end` are wanted: a small range of a
/// part is read by blocks of 64 KiB, a larger one in one piece.
pub fn piece_end(at: u64, end: u64) -> u64 {
    let stop = end.min(at - at % PART_SIZE + PART_SIZE);
    if is_small(&(at..stop)) { stop.min(at - at % SMALL_BLOCK + SMALL_BLOCK) } else { stop }
}

/// Bytes of memory that the block of a piece of `blob` takes: a small piece of a part that is in the cache holds all of
/// that part's block.
pub fn piece_cost(cache: &BlockCache, blob: BlobId, piece: &Range<u64>) -> usize {
    match places(blob.to_u128(), piece) {
        (whole, Some(small)) if !cache.has(whole.size, &whole.key) => small.size.bytes(),
        (whole, _) => whole.size.bytes(),
    }
}

fn is_small(range: &Range<u64>) -> bool {
    range.end - range.start <= SMALL_RANGE
}

/// The places where a piece may be: in its part's block, or, if it is small, in one of its own.
fn places(owner: u128, piece: &Range<u64>) -> (Place, Option<Place>) {
    let place = |size: Size| {
        let start = piece.start - piece.start % size.bytes() as u64;
        let within = (piece.start - start) as usize..(piece.end - start) as usize;
        Place { size, key: Key { owner, start }, within }
    };
    (place(Size::Part), is_small(piece).then(|| place(Size::Small)))
}

/// A piece of `blob` that is in the cache.
pub fn peek(cache: &BlockCache, blob: BlobId, piece: &Range<u64>) -> Option<BlockSlice> {
    let look = |place: &Place| cache.peek(place.size, &place.key, &place.within);
    let (part, small) = places(blob.to_u128(), piece);
    look(&part).or_else(|| small.as_ref().and_then(look))
}

impl Source<'_> {
    /// A piece of the blob, which lies in `part`: from the cache, else the granules it touches are read. Those that are
    /// damaged, or not here, come from `rescue`, which is asked for a stretch of them by its place in the blob and its checksums.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged, and there was no rescue; `Away` when it is not meant to be here.
    pub async fn read(
        &self,
        cache: &BlockCache,
        files: &OpenFiles,
        part: &Part,
        piece: Range<u64>,
        rescue: impl AsyncFn(&ReadError, Range<u64>, &[u32]) -> Rescued,
    ) -> Result<BlockSlice, ReadError> {
        let place = match places(self.blob.to_u128(), &piece) {
            (whole, Some(small)) if !cache.has(whole.size, &whole.key) => small,
            (whole, _) => whole,
        };
        let Place { size, key, within } = place;
        cache.get(size, key, within, |loading| self.load(files, part, key.start, loading, &rescue)).await
    }

    /// Reads and checks granules of the block that begins at byte `start` of the blob.
    async fn load(
        &self,
        files: &OpenFiles,
        part: &Part,
        start: u64,
        loading: Loading,
        rescue: &impl AsyncFn(&ReadError, Range<u64>, &[u32]) -> Rescued,
    ) -> Result<(), ReadError> {
        let at = start + loading.range().start as u64;
        let number = at / CHUNK_SIZE;
        let in_chunk = at % CHUNK_SIZE;
        // The last granule of a chunk may be short.
        let len = (loading.range().len() as u64).min(self.size - at) as usize;
        let path = || (layout::chunk_file(self.slot_dir, self.blob, part.chunk), self.direct);
        let (result, mut loading) = match files.get(self.blob, number, path).await {
            Ok(file) => file.read(loading, in_chunk, len).await,
            Err(error) => (Err(error), loading),
        };
        let first = (at % PART_SIZE / GRANULE_SIZE) as usize;
        let sums = part.sums.get(first..).unwrap_or_default();
        let (failure, bad) = match result {
            Ok(()) => {
                let bad = checksum::mismatches(loading.bytes(len), sums);
                let Some(granule) = bad.first().map(|run| run.start) else {
                    loading.commit();
                    return Ok(());
                };
                (self.damaged(part, in_chunk + granule as u64 * GRANULE_SIZE), bad)
            }
            Err(error) => {
                let whole = std::iter::once(0..len.div_ceil(GRANULE_SIZE as usize)).collect();
                (ReadError::Io { chunk: part.chunk.to_string(), blob: self.blob, error }, whole)
            }
        };
        files.forget(self.blob, number);
        for run in bad {
            let bytes = run.start * GRANULE_SIZE as usize..len.min(run.end * GRANULE_SIZE as usize);
            let range = at + bytes.start as u64..at + bytes.end as u64;
            let good = match rescue(&failure, range, sums.get(run).unwrap_or_default()).await {
                Ok(good) => good,
                Err(None) => return Err(failure),
                Err(Some(why)) => {
                    let chunk = part.chunk.to_string();
                    return Err(ReadError::Away { chunk, blob: self.blob, why });
                }
            };
            loading.overwrite(bytes.start, &good);
        }
        if checksum::first_mismatch(loading.bytes(len), sums).is_some() {
            return Err(failure);
        }
        loading.commit();
        Ok(())
    }

    fn damaged(&self, part: &Part, at: u64) -> ReadError {
        ReadError::Damaged { chunk: part.chunk.to_string(), blob: self.blob, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(range: Range<u64>) -> Vec<Range<u64>> {
        let mut at = range.start;
        std::iter::from_fn(|| {
            let piece = (at < range.end).then(|| at..piece_end(at, range.end))?;
            at = piece.end;
            Some(piece)
        })
        .collect()
    }

    #[test]
    fn a_small_range_is_cut_into_small_blocks_and_a_large_one_into_parts() {
        assert_eq!(pieces(10..20), std::slice::from_ref(&(10..20)));
        assert_eq!(
            pieces(SMALL_BLOCK - 1..2 * SMALL_BLOCK + 1),
            [
                SMALL_BLOCK - 1..SMALL_BLOCK,
                SMALL_BLOCK..2 * SMALL_BLOCK,
                2 * SMALL_BLOCK..2 * SMALL_BLOCK + 1
            ]
        );
        let (start, end) = (PART_SIZE - SMALL_RANGE - 1, 2 * PART_SIZE + 5);
        assert_eq!(pieces(start..end), [start..PART_SIZE, PART_SIZE..2 * PART_SIZE, 2 * PART_SIZE..end]);
        for piece in pieces(PART_SIZE - 3 * SMALL_BLOCK..PART_SIZE + 9) {
            assert!(places(1, &piece).1.is_some_and(|place| place.size == Size::Small));
        }
    }
}
