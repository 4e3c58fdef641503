//! Philox4x32-10, a counter-based generator: 128 random bits are a pure function of a counter and a key.
//!
//! J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::simd::Level;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The 4 words of Philox4x32-10 for one counter.
#[inline(always)]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    bijection(counter.map(u64::from), key).map(|word| word as u32)
}

/// The generator on words held in the low halves of 64-bit lanes.
///
/// A 32 × 32 → 64 bit product needs such lanes anyway. The upper halves may hold anything, on entry and on return:
/// products mask them, which costs nothing because the multiply instruction reads only the low halves.
#[inline(always)]
pub(crate) fn bijection(mut c: [u64; 4], key: [u32; 2]) -> [u64; 4] {
    for key in round_keys(key) {
        let p0 = (c[0] & 0xFFFF_FFFF) * u64::from(MULTIPLIER[0]);
        let p1 = (c[2] & 0xFFFF_FFFF) * u64::from(MULTIPLIER[1]);
        c = [(p1 >> 32) ^ c[1] ^ u64::from(key[0]), p1, (p0 >> 32) ^ c[3] ^ u64::from(key[1]), p0];
    }
    c
}

/// The key of every round.
#[inline(always)]
fn round_keys(key: [u32; 2]) -> [[u32; 2]; ROUNDS] {
    let key_of = |round, i: usize| key[i].wrapping_add(WEYL[i].wrapping_mul(round));
    std::array::from_fn(|round| [key_of(round as u32, 0), key_of(round as u32, 1)])
}

/// Blocks whose words are computed together.
pub(crate) const BLOCKS: usize = 8;
/// Words of so many blocks.
pub(crate) const GROUP: usize = 4 * BLOCKS;

/// Of `BLOCKS` blocks, words 0 and 2, then words 1 and 3: of every word those of all blocks side by side.
pub(crate) type Words = [[u32; 2 * BLOCKS]; 2];

/// For every counter the words of `BLOCKS` blocks, that of the counter and the next: word 0 counts them, and wraps.
///
/// # Panics
///
/// Where the lengths differ.
pub(crate) fn fill(key: [u32; 2], counters: &[[u32; 4]], words: &mut [Words]) {
    assert_eq!(counters.len(), words.len(), "a group of words for every counter");
    match Level::current().0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has this level.
        pulp::Arch::V4(_) => unsafe { x86::fill_avx512(key, counters, words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as before.
        pulp::Arch::V3(_) => unsafe { x86::fill_avx2(key, counters, words) },
        _ => counters.iter().zip(words).for_each(|(counter, words)| fill_one(key, *counter, words)),
    }
}

/// The words of one counter's blocks.
fn fill_one(key: [u32; 2], counter: [u32; 4], [even, odd]: &mut Words) {
    for i in 0..BLOCKS {
        let [a, b, c, d] = counter.map(u64::from);
        let random = bijection([a + i as u64, b, c, d], key);
        let [a, b, c, d] = random.map(|word| word as u32);
        (even[i], odd[i]) = (a, b);
        (even[BLOCKS + i], odd[BLOCKS + i]) = (c, d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_many_blocks_are_those_of_each() {
        let key = [5, 6];
        for count in 0..=9 {
            let counters: Vec<_> =
                (0..count).map(|i| [u32::MAX - 3 - 100 * i, i, 7 * i, u32::MAX - i]).collect();
            let mut words = vec![[[0; 2 * BLOCKS]; 2]; counters.len()];
            fill(key, &counters, &mut words);
            for ([first, b, c, d], [even, odd]) in counters.into_iter().zip(words) {
                for i in 0..BLOCKS {
                    let found = [even[i], odd[i], even[BLOCKS + i], odd[BLOCKS + i]];
                    assert_eq!(found, philox4x32_10([first.wrapping_add(i as u32), b, c, d], key));
                }
            }
        }
    }

    /// `kat_vectors` of Random123, the lines `philox4x32 10`.
    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn upper_halves_of_the_lanes_do_not_matter() {
        let clean = bijection([1, 2, 3, 4], [5, 6]).map(|word| word as u32);
        let dirty = bijection([1, 2, 3, 4].map(|word: u64| word | 0xDEAD_BEEF << 32), [5, 6]);
        assert_eq!(dirty.map(|word| word as u32), clean);
    }
}
