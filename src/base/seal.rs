//! What the node that hashed a chunk tells the others of it: that theirs have the same checksums, which they make anyway, they
//! see by themselves; for the name they take its word (RFC 0003).

use super::ids::ChunkId;
use super::sha256::Sha256;
use crate::limits::CHUNK_SIZE;

/// Stands behind the bytes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// SHA-256 of the chunk.
    pub chunk: ChunkId,
    /// SHA-256 over that and the CRC32C of its granules.
    check: [u8; 32],
}

impl Seal {
    /// Bytes that it takes.
    pub const LEN: usize = 64;

    /// That of a chunk with these checksums.
    pub fn new(chunk: ChunkId, sums: &[u32]) -> Self {
        Self { chunk, check: check(chunk, sums) }
    }

    /// Whether it is whole, and that of bytes with these checksums.
    pub fn fits(&self, sums: &[u32]) -> bool {
        self.check == check(self.chunk, sums)
    }

    /// As it is sent.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(&self.chunk.0);
        bytes[32..].copy_from_slice(&self.check);
        bytes
    }

    /// From what was sent; none: it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunk, check) = bytes.split_first_chunk::<32>()?;
        Some(Self { chunk: ChunkId(*chunk), check: check.try_into().ok()? })
    }
}

/// The length of a blob of `size` bytes with a seal behind each of its chunks.
pub fn sealed_len(size: u64) -> u64 {
    size + size.div_ceil(CHUNK_SIZE) * Seal::LEN as u64
}

fn check(chunk: ChunkId, sums: &[u32]) -> [u8; 32] {
    let mut bytes = chunk.0.to_vec();
    bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    Sha256::digest(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_fits_its_own_checksums_alone_and_survives_the_way() {
        let seal = Seal::new(ChunkId([7; 32]), &[1, 2, 3]);
        assert_eq!(Seal::from_bytes(&seal.to_bytes()), Some(seal));
        assert!(seal.fits(&[1, 2, 3]));
        for other in [&[1, 2][..], &[1, 2, 3, 0], &[2, 1, 3], &[]] {
            assert!(!seal.fits(other), "{other:?}");
        }
        for at in 0..Seal::LEN {
            let mut flipped = seal.to_bytes();
            flipped[at] ^= 1;
            assert!(!Seal::from_bytes(&flipped).unwrap().fits(&[1, 2, 3]), "byte {at}");
        }
        assert_eq!(Seal::from_bytes(&seal.to_bytes()[1..]), None);
        assert_eq!(Seal::from_bytes(&[0; Seal::LEN + 1]), None);
    }

    #[test]
    fn every_chunk_has_one() {
        let with = |size, seals| assert_eq!(sealed_len(size), size + seals * Seal::LEN as u64);
        with(0, 0);
        with(1, 1);
        with(CHUNK_SIZE, 1);
        with(CHUNK_SIZE + 1, 2);
    }
}
