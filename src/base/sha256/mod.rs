//! SHA-256 (FIPS 180-4) of streams that come in whole blocks, several streams at once where the processor can.
//!
//! `sha2` hashes a lone stream, and everything on a processor without SHA instructions. These instructions wait for each
//! other within a stream, so two to [`LANES`] independent streams interleaved get through nearly as fast as one: see
//! `lanes`. What a stream holds is the same either way, so the two may alternate.

#[cfg(target_arch = "x86_64")]
mod lanes;

use sha2::block_api::compress256;

/// Bytes of a block.
pub const BLOCK: usize = 64;
/// Streams that gain from being hashed together.
pub const LANES: usize = 4;

/// Some whole blocks of a stream.
pub type Blocks = [[u8; BLOCK]];

/// The square roots of the first eight primes: FIPS 180-4, section 5.3.3.
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The hash of a stream so far, between two blocks.
#[derive(Clone, Debug)]
pub struct Sha256 {
    state: [u32; 8],
    bytes: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { state: START, bytes: 0 }
    }
}

impl Sha256 {
    /// Takes the next blocks.
    pub fn update(&mut self, blocks: &Blocks) {
        compress256(&mut self.state, blocks);
        self.bytes += blocks.as_flattened().len() as u64;
    }

    /// The hash of everything, the last bytes being `rest`, of any length.
    pub fn finish(mut self, rest: &[u8]) -> [u8; 32] {
        let (blocks, tail) = rest.as_chunks();
        self.update(blocks);
        let bits = (self.bytes + tail.len() as u64) * 8;
        let mut last = [0; 2 * BLOCK];
        last[..tail.len()].copy_from_slice(tail);
        last[tail.len()] = 0x80;
        let end = if tail.len() < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        last[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        self.update(last[..end].as_chunks().0);
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        hash
    }

    /// The hash of `bytes`.
    pub fn digest(bytes: &[u8]) -> [u8; 32] {
        Self::default().finish(bytes)
    }
}

/// The next blocks of a stream.
pub type Next<'a> = (&'a mut Sha256, &'a Blocks);

/// Takes the next blocks of several streams, [`LANES`] at a time.
pub fn update_all(streams: &mut [Next<'_>]) {
    for group in streams.chunks_mut(LANES) {
        match group {
            [a, b] => together([a, b]),
            [a, b, c] => together([a, b, c]),
            [a, b, c, d] => together([a, b, c, d]),
            _ => {}
        }
        for (hash, blocks) in group {
            hash.update(blocks);
        }
    }
}

/// Takes as many blocks as all of the streams have, if the processor can, and leaves the others to be taken.
fn together<const N: usize>(mut streams: [&mut Next<'_>; N]) {
    let count = streams.iter().map(|(_, blocks)| blocks.len()).min().unwrap_or(0);
    let blocks = streams.each_ref().map(|(_, blocks)| &blocks[..count]);
    #[cfg(target_arch = "x86_64")]
    if lanes::compress(streams.each_mut().map(|(hash, _)| &mut hash.state), blocks) {
        for (hash, blocks) in streams {
            hash.bytes += (count * BLOCK) as u64;
            *blocks = &blocks[count..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;
    use crate::base::ids::ChunkId;

    fn reference(bytes: &[u8]) -> [u8; 32] {
        sha2::Sha256::digest(bytes).into()
    }

    #[test]
    fn the_examples_of_the_standard_come_out() {
        let million = vec![b'a'; 1_000_000];
        for (message, hash) in [
            (&b""[..], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
            ),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ] {
            assert_eq!(ChunkId(Sha256::digest(message)).to_string(), hash);
        }
    }

    /// Every stream is fed in the same rounds, its share of a round cut by `cuts`; so lanes of equal and of different
    /// lengths come together, and streams that are over.
    fn fed_together(messages: &[Vec<u8>], cuts: &[Vec<usize>]) -> Vec<[u8; 32]> {
        let mut hashes = vec![Sha256::default(); messages.len()];
        let mut rest: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        for round in cuts {
            let mut streams = Vec::new();
            for (stream, hash) in hashes.iter_mut().enumerate() {
                let blocks = rest[stream].as_chunks().0;
                let now = round[stream].min(blocks.len());
                rest[stream] = &rest[stream][now * BLOCK..];
                streams.push((hash, &blocks[..now]));
            }
            update_all(&mut streams);
        }
        hashes.into_iter().zip(rest).map(|(hash, rest)| hash.finish(rest)).collect()
    }

    proptest! {
        #[test]
        fn lanes_of_any_number_lengths_and_cuts_hash_as_the_reference(
            (messages, cuts) in (1usize..=2 * LANES + 1).prop_flat_map(|streams| (
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), streams),
                prop::collection::vec(prop::collection::vec(0usize..12, streams), 0..6),
            ))
        ) {
            let expected: Vec<_> = messages.iter().map(|message| reference(message)).collect();
            prop_assert_eq!(fed_together(&messages, &cuts), expected);
        }
    }

    #[test]
    fn messages_around_the_ends_of_blocks_are_padded_as_the_reference() {
        let bytes: Vec<u8> = (0..300u32).map(|i| (i * 7 % 251) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(Sha256::digest(&bytes[..len]), reference(&bytes[..len]), "{len} bytes");
        }
    }

    #[test]
    fn a_processor_with_sha_instructions_hashes_lanes_together() {
        let blocks = [[7u8; BLOCK]; 3];
        let (mut a, mut b) = (Sha256::default(), Sha256::default());
        let (mut first, mut second): (Next<'_>, Next<'_>) = ((&mut a, &blocks), (&mut b, &blocks));
        together([&mut first, &mut second]);
        let left = (first.1.len(), second.1.len());
        #[cfg(target_arch = "x86_64")]
        let able = lanes::is_able();
        #[cfg(not(target_arch = "x86_64"))]
        let able = false;
        assert_eq!(left, if able { (0, 0) } else { (3, 3) });
    }
}
