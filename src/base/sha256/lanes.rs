//! Several SHA-256 streams interleaved in the SHA instructions of x86-64.
//!
//! The rounds are those of FIPS 180-4 (section 6.2.2) in the form of Intel's "SHA Extensions" (2013): the eight working
//! variables stand as ABEF and CDGH, `sha256rnds2` makes two rounds, `sha256msg1` and `sha256msg2` extend the message.
//! `sha256rnds2` takes four cycles and depends on the one before it, but one can begin every other cycle: with the
//! streams interleaved, those cycles are not lost. The loops over lanes and the calls of `quad` are unrolled by the
//! compiler, and without that most of the gain is gone: measure after a change.
#![expect(unsafe_code, reason = "instructions that the processor may lack, and unaligned loads")]

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_loadu_si128, _mm_set_epi32,
    _mm_set_epi64x, _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
    _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use super::{BLOCK, Blocks};

/// The cube roots of the first 64 primes: FIPS 180-4, section 4.2.2.
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Whether the processor has what [`compress`] needs.
pub(super) fn is_able() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

/// Takes the blocks of every stream into its state, and says whether: not on a processor that cannot. All streams have
/// equally many blocks.
pub(super) fn compress<const N: usize>(states: [&mut [u32; 8]; N], blocks: [&Blocks; N]) -> bool {
    if !is_able() {
        return false;
    }
    // SAFETY: the processor has the instructions.
    unsafe { compress_with_sha(states, blocks) };
    true
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[expect(clippy::needless_range_loop, reason = "all lanes take the block of the same number")]
fn compress_with_sha<const N: usize>(states: [&mut [u32; 8]; N], blocks: [&Blocks; N]) {
    let (mut abef, mut cdgh) = ([_mm_setzero_si128(); N], [_mm_setzero_si128(); N]);
    for lane in 0..N {
        (abef[lane], cdgh[lane]) = load_state(states[lane]);
    }
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for block in 0..count {
        let before = (abef, cdgh);
        let mut w = [[_mm_setzero_si128(); 4]; N];
        for lane in 0..N {
            w[lane] = load_block(&blocks[lane][block]);
        }
        quad::<0, N>(&mut abef, &mut cdgh, &mut w);
        quad::<1, N>(&mut abef, &mut cdgh, &mut w);
        quad::<2, N>(&mut abef, &mut cdgh, &mut w);
        quad::<3, N>(&mut abef, &mut cdgh, &mut w);
        quad::<4, N>(&mut abef, &mut cdgh, &mut w);
        quad::<5, N>(&mut abef, &mut cdgh, &mut w);
        quad::<6, N>(&mut abef, &mut cdgh, &mut w);
        quad::<7, N>(&mut abef, &mut cdgh, &mut w);
        quad::<8, N>(&mut abef, &mut cdgh, &mut w);
        quad::<9, N>(&mut abef, &mut cdgh, &mut w);
        quad::<10, N>(&mut abef, &mut cdgh, &mut w);
        quad::<11, N>(&mut abef, &mut cdgh, &mut w);
        quad::<12, N>(&mut abef, &mut cdgh, &mut w);
        quad::<13, N>(&mut abef, &mut cdgh, &mut w);
        quad::<14, N>(&mut abef, &mut cdgh, &mut w);
        quad::<15, N>(&mut abef, &mut cdgh, &mut w);
        for lane in 0..N {
            abef[lane] = _mm_add_epi32(abef[lane], before.0[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], before.1[lane]);
        }
    }
    for (lane, state) in states.into_iter().enumerate() {
        store_state(state, abef[lane], cdgh[lane]);
    }
}

/// Rounds 4Q to 4Q + 3 of every lane. `w` holds the last 16 words of the message schedule, four to a register.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn quad<const Q: usize, const N: usize>(
    abef: &mut [__m128i; N],
    cdgh: &mut [__m128i; N],
    w: &mut [[__m128i; 4]; N],
) {
    let word = |i: usize| K[4 * Q + i].cast_signed();
    let k = _mm_set_epi32(word(3), word(2), word(1), word(0));
    for lane in 0..N {
        let w = &mut w[lane];
        if Q >= 4 {
            let (new, second, third, last) = (Q % 4, (Q + 1) % 4, (Q + 2) % 4, (Q + 3) % 4);
            let sum =
                _mm_add_epi32(_mm_sha256msg1_epu32(w[new], w[second]), _mm_alignr_epi8(w[last], w[third], 4));
            w[new] = _mm_sha256msg2_epu32(sum, w[last]);
        }
        let wk = _mm_add_epi32(w[Q % 4], k);
        cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], wk);
        abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32(wk, 0x0E));
    }
}

/// A block as sixteen big-endian words.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn load_block(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0C0D_0E0F_0809_0A0B, 0x0405_0607_0001_0203);
    let (quarters, _) = block.as_chunks::<16>();
    [0, 1, 2, 3].map(|i| {
        // SAFETY: 16 bytes; the load needs no alignment.
        let words = unsafe { _mm_loadu_si128(quarters[i].as_ptr().cast()) };
        _mm_shuffle_epi8(words, swap)
    })
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
#[expect(clippy::many_single_char_names, reason = "the names of the standard")]
fn load_state(state: &[u32; 8]) -> (__m128i, __m128i) {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
#[expect(clippy::many_single_char_names, reason = "the names of the standard")]
fn store_state(state: &mut [u32; 8], abef: __m128i, cdgh: __m128i) {
    let (a, b) = (_mm_extract_epi32::<3>(abef), _mm_extract_epi32::<2>(abef));
    let (e, f) = (_mm_extract_epi32::<1>(abef), _mm_extract_epi32::<0>(abef));
    let (c, d) = (_mm_extract_epi32::<3>(cdgh), _mm_extract_epi32::<2>(cdgh));
    let (g, h) = (_mm_extract_epi32::<1>(cdgh), _mm_extract_epi32::<0>(cdgh));
    *state = [a, b, c, d, e, f, g, h].map(i32::cast_unsigned);
}
