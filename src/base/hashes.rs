//! The hashes of a blob that is being received: SHA-256 of the current chunk, CRC32C of its granules, and SHA-256 of the
//! whole blob where that is wanted and not the same as the chunk's.
//!
//! Whole granules are taken as they come, those of several uploads together; what does not fill a granule ends a chunk.

use super::checksum::GranuleSums;
use super::sha256::{BLOCK, Next, Sha256, update_all};
use crate::limits::GRANULE_SIZE;

const GRANULE: usize = GRANULE_SIZE as usize;

/// The hashes of a blob so far.
#[derive(Debug, Default)]
pub struct Hashes {
    chunk: Sha256,
    sums: GranuleSums,
    /// From the second chunk on; before, it is the chunk's.
    whole: Option<Sha256>,
    whole_wanted: bool,
}

/// The hashes of a chunk.
#[derive(Debug)]
pub struct ChunkHashes {
    /// SHA-256.
    pub id: [u8; 32],
    /// CRC32C of each granule.
    pub sums: Vec<u32>,
    /// SHA-256 of the blob if it ends here, where that is wanted.
    pub whole: Option<[u8; 32]>,
}

impl Hashes {
    /// Those of a blob without bytes; `whole`: also of several chunks as a whole.
    pub fn new(whole: bool) -> Self {
        Self { whole_wanted: whole, ..Self::default() }
    }

    /// How many streams are hashed: one, or two.
    pub fn lanes(&self) -> usize {
        1 + usize::from(self.whole.is_some())
    }

    /// Takes the next whole granules.
    pub fn update(&mut self, granules: &[u8]) {
        update_together(&mut [(self, granules)]);
    }

    /// Takes the last bytes of a chunk, which need not fill a granule; the next chunk begins.
    pub fn end_chunk(&mut self, rest: &[u8]) -> ChunkHashes {
        self.sums.update(rest);
        let chunk = std::mem::take(&mut self.chunk);
        if self.whole_wanted && self.whole.is_none() {
            self.whole = Some(chunk.clone());
            let id = chunk.finish(rest);
            return ChunkHashes { id, sums: self.sums.take(), whole: Some(id) };
        }
        let whole = self.whole.clone().map(|whole| whole.finish(rest));
        ChunkHashes { id: chunk.finish(rest), sums: self.sums.take(), whole }
    }
}

/// Takes the next whole granules of several blobs, granule by granule: while one is in the core's cache, everything that
/// is made of it is made.
pub fn update_together(blobs: &mut [(&mut Hashes, &[u8])]) {
    let longest = blobs.iter().map(|(_, granules)| granules.len()).max().unwrap_or(0);
    for at in (0..longest).step_by(GRANULE) {
        let mut streams: Vec<Next<'_>> = Vec::with_capacity(2 * blobs.len());
        for (hashes, granules) in blobs.iter_mut() {
            let Some(granule) = granules.get(at..at + GRANULE) else { continue };
            let (blocks, _) = granule.as_chunks::<BLOCK>();
            streams.push((&mut hashes.chunk, blocks));
            streams.extend(hashes.whole.as_mut().map(|whole| (whole, blocks)));
        }
        update_all(&mut streams);
        for (hashes, granules) in blobs.iter_mut() {
            hashes.sums.update(granules.get(at..at + GRANULE).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::checksum::first_mismatch;

    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251 + seed) as u8).collect()
    }

    /// Feeds a chunk's bytes as an upload does: whole granules, then the rest.
    fn chunk(hashes: &mut Hashes, bytes: &[u8]) -> ChunkHashes {
        let (granules, rest) = bytes.split_at(bytes.len() - bytes.len() % GRANULE);
        hashes.update(granules);
        hashes.end_chunk(rest)
    }

    #[test]
    fn the_whole_is_hashed_across_chunks_and_each_chunk_by_itself() {
        let (first, last) = (bytes(3 * GRANULE, 1), bytes(2 * GRANULE + 77, 2));
        for wanted in [true, false] {
            let mut hashes = Hashes::new(wanted);
            assert_eq!(chunk(&mut hashes, &first).id, Sha256::digest(&first));
            let end = chunk(&mut hashes, &last);
            assert_eq!(end.id, Sha256::digest(&last));
            assert_eq!((end.sums.len(), first_mismatch(&last, &end.sums)), (3, None));
            let whole = [first.clone(), last.clone()].concat();
            assert_eq!(end.whole, wanted.then(|| Sha256::digest(&whole)));
        }
    }

    #[test]
    fn blobs_hashed_together_do_not_mix() {
        let blobs: Vec<Vec<u8>> = (0..6).map(|i| bytes((i * 2 % 5) * GRANULE, i)).collect();
        let mut hashes: Vec<Hashes> = blobs.iter().map(|_| Hashes::new(true)).collect();
        // Two of them are in their second chunk, so they have two streams each.
        hashes[1].end_chunk(&[]);
        hashes[3].end_chunk(&[]);
        update_together(&mut hashes.iter_mut().zip(&blobs).map(|(h, b)| (h, &b[..])).collect::<Vec<_>>());
        for (hashes, bytes) in hashes.iter_mut().zip(&blobs) {
            let end = hashes.end_chunk(b"rest");
            let all = [&bytes[..], b"rest"].concat();
            assert_eq!((end.id, end.whole), (Sha256::digest(&all), Some(Sha256::digest(&all))));
            assert_eq!(first_mismatch(&all, &end.sums), None);
        }
    }
}
