//! Many blocks at a time with the vectors of x86-64. A round waits for its products longer than it takes to start them,
//! so that the blocks of four counters go through the rounds side by side.

use super::{BLOCKS, MULTIPLIER, ROUNDS, Words, round_keys};
use std::arch::x86_64::*;

/// Counters that are taken together.
const TOGETHER: usize = 4;
/// The operation of [`_mm512_ternarylogic_epi64`] that is `a ^ b ^ c`.
const XOR: i32 = 0x96;

/// What the blocks of a counter have in common, in the order of its use. They differ in word 0 only, so that in the
/// first round one product is the same for all, and with it in the second the other.
struct Start {
    /// Word 0 of the first block.
    first: u32,
    /// Of the first round: word 2 is the high half of the product and this.
    first_2: u32,
    /// Of the second: word 0, of the same kind.
    second_0: u32,
    /// Word 2 is what the first round left as word 3, and this.
    second_2: u32,
    /// Word 3.
    second_3: u32,
}

impl Start {
    #[inline(always)]
    fn new(keys: &[[u32; 2]; ROUNDS], [first, b, c, d]: [u32; 4]) -> Self {
        let [first_keys, second_keys, ..] = keys;
        let product = u64::from(c) * u64::from(MULTIPLIER[1]);
        let word_0 = (product >> 32) as u32 ^ b ^ first_keys[0];
        let next = u64::from(word_0) * u64::from(MULTIPLIER[0]);
        Self {
            first,
            first_2: d ^ first_keys[1],
            second_0: product as u32 ^ second_keys[0],
            second_2: (next >> 32) as u32 ^ second_keys[1],
            second_3: next as u32,
        }
    }
}

/// One level's [`super::fill`], by its kernel for a number of counters.
macro_rules! fill {
    ($name:ident, $kernel:ident, $features:literal) => {
        /// As [`super::fill`].
        #[target_feature(enable = $features)]
        pub fn $name(key: [u32; 2], counters: &[[u32; 4]], words: &mut [Words]) {
            let keys = round_keys(key);
            let (fours, rest) = counters.as_chunks::<TOGETHER>();
            let (words, rest_words) = words.as_chunks_mut::<TOGETHER>();
            for (counters, words) in fours.iter().zip(words) {
                $kernel(&keys, counters, words);
            }
            for (counter, words) in rest.iter().zip(rest_words) {
                $kernel(&keys, &[*counter], std::array::from_mut(words));
            }
        }
    };
}

fill!(fill_avx512, avx512, "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma");
fill!(fill_avx2, avx2, "avx2,fma");

/// A block to a lane of 64 bits, of which the upper halves may hold anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
fn avx512<const N: usize>(keys: &[[u32; 2]; ROUNDS], counters: &[[u32; 4]; N], words: &mut [Words; N]) {
    let all = |word: u32| _mm512_set1_epi64(i64::from(word));
    let multiplier = MULTIPLIER.map(all);
    let lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    let mut c = counters.map(|counter| {
        let start = Start::new(keys, counter);
        let p0 = _mm512_mul_epu32(_mm512_add_epi64(lanes, all(start.first)), multiplier[0]);
        let word_2 = _mm512_xor_si512(_mm512_srli_epi64::<32>(p0), all(start.first_2));
        let p1 = _mm512_mul_epu32(word_2, multiplier[1]);
        let word_0 = _mm512_xor_si512(_mm512_srli_epi64::<32>(p1), all(start.second_0));
        [word_0, p1, _mm512_xor_si512(p0, all(start.second_2)), all(start.second_3)]
    });
    for keys in &keys[2..] {
        let keys = keys.map(all);
        for c in &mut c {
            let (p0, p1) = (_mm512_mul_epu32(c[0], multiplier[0]), _mm512_mul_epu32(c[2], multiplier[1]));
            c[0] = _mm512_ternarylogic_epi64::<XOR>(_mm512_srli_epi64::<32>(p1), c[1], keys[0]);
            c[2] = _mm512_ternarylogic_epi64::<XOR>(_mm512_srli_epi64::<32>(p0), c[3], keys[1]);
            (c[1], c[3]) = (p1, p0);
        }
    }
    for (words, c) in words.iter_mut().zip(c) {
        let [a, b, c, d]: [[u32; BLOCKS]; 4] = c.map(|lanes| pulp::cast(_mm512_cvtepi64_epi32(lanes)));
        *words = pulp::cast([[a, c], [b, d]]);
    }
}

/// A block to a lane of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn avx2<const N: usize>(keys: &[[u32; 2]; ROUNDS], counters: &[[u32; 4]; N], words: &mut [Words; N]) {
    let all = |word: u32| _mm256_set1_epi32(word as i32);
    let multiplier = MULTIPLIER.map(all);
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mut c = counters.map(|counter| {
        let start = Start::new(keys, counter);
        let (low0, high0) = avx2_product(_mm256_add_epi32(lanes, all(start.first)), multiplier[0]);
        let (low1, high1) = avx2_product(_mm256_xor_si256(high0, all(start.first_2)), multiplier[1]);
        let word_0 = _mm256_xor_si256(high1, all(start.second_0));
        [word_0, low1, _mm256_xor_si256(low0, all(start.second_2)), all(start.second_3)]
    });
    for keys in &keys[2..] {
        let keys = keys.map(all);
        for c in &mut c {
            let (low0, high0) = avx2_product(c[0], multiplier[0]);
            let (low1, high1) = avx2_product(c[2], multiplier[1]);
            c[0] = _mm256_xor_si256(high1, _mm256_xor_si256(c[1], keys[0]));
            c[2] = _mm256_xor_si256(high0, _mm256_xor_si256(c[3], keys[1]));
            (c[1], c[3]) = (low1, low0);
        }
    }
    for (words, c) in words.iter_mut().zip(c) {
        let [a, b, c, d]: [[u32; BLOCKS]; 4] = c.map(pulp::cast);
        *words = pulp::cast([[a, c], [b, d]]);
    }
}

/// The low and the high halves of the products of 32-bit lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn avx2_product(x: __m256i, multiplier: __m256i) -> (__m256i, __m256i) {
    const ODD: i32 = 0b1010_1010;
    let even = _mm256_mul_epu32(x, multiplier);
    let odd = _mm256_mul_epu32(_mm256_shuffle_epi32::<0xF5>(x), multiplier);
    let low = _mm256_blend_epi32::<ODD>(even, _mm256_shuffle_epi32::<0xA0>(odd));
    let high = _mm256_blend_epi32::<ODD>(_mm256_shuffle_epi32::<0xF5>(even), odd);
    (low, high)
}
