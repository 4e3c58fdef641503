//! SplitMix64, the finaliser and generator of Steele, Lea and Flood (OOPSLA 2014): for choosing and ordering problems.
//!
//! Numerical noise does not come from here.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes `x` into 64 well distributed bits; a bijection.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A 64-bit hash of a short list of words, order counting.
pub fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |state, &word| mix((state ^ word).wrapping_add(GOLDEN_GAMMA)))
}

/// The top 53 bits of `bits` as a number in [0, 1).
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// `bits` scaled to `0..bound` (Lemire's multiplication; the bias is below `bound`/2⁶⁴).
pub fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_value_of_seed_zero_is_the_published_one() {
        assert_eq!(mix(GOLDEN_GAMMA), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn scaled_values_stay_below_their_bound() {
        assert!((0..1000).all(|i| below(hash(&[i]), 7) < 7 && unit(hash(&[i])) < 1.0));
        assert_eq!(below(u64::MAX, 7), 6);
    }
}
