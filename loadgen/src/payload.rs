//! The bytes of a data set: a pure function of seed, object number, generation and offset, so that any range of any object can be
//! checked without keeping it.
//!
//! Word `i` of an object is a Weyl sequence from the object's key, folded by one xor-shift. Both steps are bijections, so no two words of
//! an object are equal: a block that comes back from the wrong place never passes as the right one. There is no multiplication in the
//! loop, so the compiler turns it into vector code and the generator costs far less than sending or receiving the bytes. Being bijections
//! they can be undone: one whole word of an object tells its key, and the key tells the generation, so that a reader who does not know
//! how often an object was overwritten can still check every byte.

const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;
/// Odd, so that it has an inverse: neighbouring generations have unrelated keys.
const STRIDE: u64 = 0xD1B5_4A32_D192_ED03;
const STRIDE_INVERSE: u64 = inverse(STRIDE);
/// Generations are below this; a word that was corrupted tells a generation above it, all but once in 4096 times, and its neighbours
/// contradict it then.
pub(crate) const MAX_GENERATION: u64 = 1 << 52;
/// So many bytes, wherever they begin, hold a whole word.
pub(crate) const TELLING: usize = 15;
/// Compared at once; stays in the first-level cache.
const COMPARE_BLOCK: usize = 4096;

/// The content of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    key: u64,
}

impl Payload {
    /// The content of object `object` in the data set made from `seed`.
    pub(crate) fn new(seed: u64, object: u64) -> Self {
        Self { key: scramble(scramble(seed).wrapping_add(object)) }
    }

    /// The content after it was overwritten: generation 0 is what a data set is prepared with.
    pub(crate) fn generation(self, generation: u64) -> Self {
        Self { key: self.key.wrapping_add(generation.wrapping_mul(STRIDE)) }
    }

    /// Which generation of this object, of which this is generation 0, `bytes` at `offset` are from. None: of none, or fewer than
    /// [`TELLING`] bytes.
    pub(crate) fn generation_of(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let skip = (offset.wrapping_neg() % 8) as usize;
        let word = u64::from_le_bytes(*bytes.get(skip..)?.first_chunk()?);
        let index = (offset + skip as u64) / 8;
        let key = unfold(word).wrapping_sub(index.wrapping_mul(WEYL));
        let generation = key.wrapping_sub(self.key).wrapping_mul(STRIDE_INVERSE);
        (generation < MAX_GENERATION).then_some(generation)
    }

    /// Fills `out` with the bytes that stand at `offset` in the object.
    pub(crate) fn fill(self, offset: u64, out: &mut [u8]) {
        let mut word = offset / 8;
        let skip = (offset % 8) as usize;
        let mut rest = out;
        if skip != 0 {
            let bytes = self.word(word).to_le_bytes();
            let take = rest.len().min(8 - skip);
            rest[..take].copy_from_slice(&bytes[skip..skip + take]);
            rest = &mut rest[take..];
            word += 1;
        }
        let mut state = self.key.wrapping_add(word.wrapping_mul(WEYL));
        let (words, tail) = rest.as_chunks_mut::<8>();
        for out in words {
            *out = fold(state).to_le_bytes();
            state = state.wrapping_add(WEYL);
        }
        let last = fold(state).to_le_bytes();
        let tail_len = tail.len();
        tail.copy_from_slice(&last[..tail_len]);
    }

    /// Whether `bytes` are what stands at `offset` in the object.
    pub(crate) fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        let mut expected = [0u8; COMPARE_BLOCK];
        let mut at = offset;
        for block in bytes.chunks(COMPARE_BLOCK) {
            let expected = &mut expected[..block.len()];
            self.fill(at, expected);
            if block != expected {
                return false;
            }
            at += block.len() as u64;
        }
        true
    }

    fn word(self, index: u64) -> u64 {
        fold(self.key.wrapping_add(index.wrapping_mul(WEYL)))
    }
}

const fn fold(state: u64) -> u64 {
    state ^ (state >> 31)
}

const fn unfold(word: u64) -> u64 {
    word ^ (word >> 31) ^ (word >> 62)
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// The finaliser of splitmix64: neighbouring inputs give unrelated outputs.
pub(crate) const fn scramble(value: u64) -> u64 {
    let mut z = value.wrapping_add(WEYL);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn any_cut_of_an_object_is_the_same_bytes() {
        let payload = Payload::new(7, 3);
        let mut whole = vec![0u8; 10_000];
        payload.fill(0, &mut whole);
        for (start, len) in
            [(0, 1), (1, 6), (3, 20), (7, 1), (8, 8), (15, 4097), (4095, 5905), (9_999, 1), (5, 0)]
        {
            let mut cut = vec![0u8; len];
            payload.fill(start as u64, &mut cut);
            assert_eq!(cut, whole[start..start + len], "cut at {start}, {len} bytes");
            assert!(payload.matches(start as u64, &cut));
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_seen() {
        let payload = Payload::new(1, 1);
        let mut bytes = vec![0u8; 3 * COMPARE_BLOCK + 5];
        payload.fill(11, &mut bytes);
        for at in [0, 1, COMPARE_BLOCK - 1, COMPARE_BLOCK, bytes.len() - 1] {
            bytes[at] ^= 0x10;
            assert!(!payload.matches(11, &bytes), "flip at {at} was not seen");
            bytes[at] ^= 0x10;
        }
        assert!(payload.matches(11, &bytes));
    }

    #[test]
    fn displaced_bytes_are_seen() {
        let payload = Payload::new(1, 1);
        let mut bytes = vec![0u8; 65_536];
        payload.fill(65_536, &mut bytes);
        assert!(!payload.matches(0, &bytes));
        assert!(!Payload::new(1, 2).matches(65_536, &bytes), "another object passed as this one");
        assert!(!Payload::new(2, 1).matches(65_536, &bytes), "another seed passed as this one");
    }

    #[test]
    fn any_cut_tells_its_generation() {
        let prepared = Payload::new(3, 8);
        for generation in [0, 1, 2, 77, MAX_GENERATION - 1] {
            let payload = prepared.generation(generation);
            for offset in 0..40 {
                let mut bytes = [0; TELLING];
                payload.fill(offset, &mut bytes);
                assert_eq!(prepared.generation_of(offset, &bytes), Some(generation), "at {offset}");
            }
        }
        assert_eq!(prepared.generation(0), prepared);
    }

    #[test]
    fn bytes_of_nothing_tell_no_generation() {
        let prepared = Payload::new(3, 8);
        let mut bytes = [0; 64];
        prepared.fill(0, &mut bytes);
        assert_eq!(prepared.generation_of(8, &bytes), None, "displaced");
        assert_eq!(Payload::new(3, 9).generation_of(0, &bytes), None, "another object");
        assert_eq!(prepared.generation_of(0, &[0; 64]), None);
        assert_eq!(prepared.generation_of(0, &bytes[..7]), None, "too few");
    }

    #[test]
    fn generations_differ_in_most_bytes() {
        let prepared = Payload::new(1, 1);
        let (mut one, mut two) = ([0; 4096], [0; 4096]);
        prepared.generation(1).fill(0, &mut one);
        prepared.generation(2).fill(0, &mut two);
        assert!(one.iter().zip(&two).filter(|(a, b)| a == b).count() < 100);
    }

    #[test]
    fn words_of_an_object_do_not_repeat() {
        let payload = Payload::new(42, 0);
        let words: HashSet<u64> = (0..100_000).map(|i| payload.word(i)).collect();
        assert_eq!(words.len(), 100_000);
    }

    #[test]
    fn the_data_set_of_a_seed_never_changes() {
        let mut bytes = [0u8; 8];
        Payload::new(1, 0).fill(0, &mut bytes);
        assert_eq!(u64::from_le_bytes(bytes), Payload::new(1, 0).word(0));
        assert_eq!(scramble(0), 0xE220_A839_7B1D_CDAF, "splitmix64's published first output for state 0");
    }
}
