//! Philox4x32-10, a counter-based generator: 128 random bits are a pure function of a counter and a key.
//!
//! J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

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
pub(crate) fn bijection(mut c: [u64; 4], mut key: [u32; 2]) -> [u64; 4] {
    for _ in 0..ROUNDS {
        let p0 = (c[0] & 0xFFFF_FFFF) * u64::from(MULTIPLIER[0]);
        let p1 = (c[2] & 0xFFFF_FFFF) * u64::from(MULTIPLIER[1]);
        c = [(p1 >> 32) ^ c[1] ^ u64::from(key[0]), p1, (p0 >> 32) ^ c[3] ^ u64::from(key[1]), p0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

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
