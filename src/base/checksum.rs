//! CRC32C (Castagnoli) of every 16 KiB granule: made at PUT, checked when a granule is read from a disk.

use std::ops::Range;

use crate::limits::GRANULE_SIZE;

const GRANULE: usize = GRANULE_SIZE as usize;

/// Checksums the granules of a stream that arrives in pieces of any length.
#[derive(Debug, Default)]
pub struct GranuleSums {
    sums: Vec<u32>,
    filled: usize,
}

impl GranuleSums {
    /// Takes the next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == 0 {
                self.sums.push(0);
            }
            let (now, rest) = bytes.split_at(bytes.len().min(GRANULE - self.filled));
            if let Some(last) = self.sums.last_mut() {
                *last = crc32c::crc32c_append(*last, now);
            }
            self.filled = (self.filled + now.len()) % GRANULE;
            bytes = rest;
        }
    }

    /// The sums so far, the last one of a granule that may be short; the next stream starts afresh.
    pub fn take(&mut self) -> Vec<u32> {
        self.filled = 0;
        std::mem::take(&mut self.sums)
    }
}

/// The first granule of `bytes` that does not have its sum, as an index; `bytes` starts on a granule.
pub fn first_mismatch(bytes: &[u8], sums: &[u32]) -> Option<usize> {
    let granules = bytes.chunks(GRANULE);
    if granules.len() > sums.len() {
        return Some(sums.len());
    }
    granules.zip(sums).position(|(granule, sum)| crc32c::crc32c(granule) != *sum)
}

/// The granules of `bytes` that do not have their sums, in runs; `bytes` starts on a granule.
pub fn mismatches(bytes: &[u8], sums: &[u32]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, granule) in bytes.chunks(GRANULE).enumerate() {
        if sums.get(index).is_some_and(|sum| crc32c::crc32c(granule) == *sum) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_change_the_sums() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        for piece in [1, 7, 4096, GRANULE, GRANULE + 1, bytes.len()] {
            let mut sums = GranuleSums::default();
            bytes.chunks(piece).for_each(|p| sums.update(p));
            let sums = sums.take();
            assert_eq!(sums.len(), 7);
            assert_eq!(first_mismatch(&bytes, &sums), None);
        }
    }

    #[test]
    fn a_flipped_bit_is_found_in_its_granule() {
        let mut bytes = vec![3u8; 3 * GRANULE + 5];
        let mut sums = GranuleSums::default();
        sums.update(&bytes);
        let sums = sums.take();
        bytes[2 * GRANULE + 1] ^= 4;
        assert_eq!(first_mismatch(&bytes, &sums), Some(2));
        assert_eq!(mismatches(&bytes, &sums), std::slice::from_ref(&(2..3)));
        bytes[3 * GRANULE] ^= 4;
        bytes[0] ^= 4;
        assert_eq!(mismatches(&bytes, &sums), [0..1, 2..4]);
        assert_eq!(
            mismatches(&bytes[..2 * GRANULE], &[]),
            std::slice::from_ref(&(0..2)),
            "nothing is good without sums"
        );
        bytes[0] ^= 4;
        assert_eq!(first_mismatch(&bytes[..GRANULE], &[]), Some(0), "a granule without a sum is not good");
    }
}
