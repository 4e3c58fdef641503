//! Where a noise value lives. A value has an address instead of a place in a stream of draws: the [`NoiseKey`] names
//! the run, the stream, the step and the place in the model, the [`Row`] names the token, and an element index names
//! the number within the token's vector.
//!
//! The address maps to Philox4x32-10 so:
//!
//! | Philox | holds |
//! |---|---|
//! | key, 2 words | [`NoiseKey`] |
//! | counter word 0 | `element / 4`, low 32 bits |
//! | counter word 1 | position, xor the high 32 bits of `element / 4` |
//! | counter words 2, 3 | sequence, low and high 32 bits |
//! | lane of the result | `element % 4` |
//!
//! Only weights have more than 2³⁴ elements, and their position is 0, so the xor never mixes two addresses.
//! The mapping is part of the record of a run and never changes.

use crate::gaussian::box_muller;
use crate::philox::{BLOCKS, GROUP, philox4x32_10};

/// The part of an address that is the same for a whole tensor: seed, stream, step and place, hashed to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseKey(pub [u32; 2]);

/// The part of an address that names a token: its sequence and the position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Row {
    /// The sequence: of a prompt's tokens the prompt's, of generated tokens the sample's.
    pub sequence: u64,
    /// The position in the sequence, from 0.
    pub position: u32,
}

impl Row {
    /// The row of weights and their gradients, which have no sequence and no position.
    pub const WEIGHT: Self = Self { sequence: 0, position: 0 };
}

/// The keys of one place: of its noise, which is new in every step, and of what stays the same through steps, phases and
/// rows, such as which channels are faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    /// The key of noise.
    pub noise: NoiseKey,
    /// The key of the faulty channels.
    pub channels: NoiseKey,
}

impl From<NoiseKey> for Keys {
    /// One key for both, where there is but one step.
    fn from(key: NoiseKey) -> Self {
        Self { noise: key, channels: key }
    }
}

impl NoiseKey {
    /// The key of one tensor in one step of a run.
    ///
    /// `stream` is the phase's name or the name that phases share; `place` is the text that names the site, such as
    /// `model.layers.3.mlp.down_proj/linear/output/forward/0`.
    ///
    /// The hash starts from 0 and absorbs 64-bit words `w` by `h ← mix((h ⊕ w) + γ)`, with the finaliser of SplitMix64
    /// as `mix` and its γ: the seed, the step, then each text as its length in bytes followed by its bytes, eight to a
    /// word, little-endian, the last word padded with zeros. The key is the low half, then the high half.
    pub fn new(seed: u64, stream: &str, step: u64, place: &str) -> Self {
        let hash = absorb(absorb(0, seed), step);
        let hash = absorb_text(absorb_text(hash, stream), place);
        Self([hash as u32, (hash >> 32) as u32])
    }

    /// The 32 random bits at an address.
    #[inline(always)]
    pub fn bits(self, row: Row, element: u64) -> u32 {
        self.block(row, element / 4)[(element % 4) as usize]
    }

    /// The value at an address, uniform in [0, 1), a multiple of 2⁻²⁴.
    #[inline(always)]
    pub fn uniform(self, row: Row, element: u64) -> f32 {
        (self.bits(row, element) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// The value at an address, of the standard normal distribution: the scalar reference of
    /// [`fill_gaussian`](crate::gaussian::fill_gaussian).
    #[inline(always)]
    pub fn gaussian(self, row: Row, element: u64) -> f32 {
        box_muller(self.block(row, element / 4))[(element % 4) as usize]
    }

    /// The 4 words of elements `4·block .. 4·block + 4`.
    #[inline(always)]
    fn block(self, row: Row, block: u64) -> [u32; 4] {
        philox4x32_10(row.counter(block).map(|word| word as u32), self.0)
    }
}

impl Row {
    /// The Philox counter of a block of 4 elements, in the low halves of 64-bit words.
    #[inline(always)]
    pub(crate) fn counter(self, block: u64) -> [u64; 4] {
        [block, u64::from(self.position) ^ (block >> 32), self.sequence, self.sequence >> 32]
    }

    /// How many elements from `first` on have words that so many counters give, see [`Row::counters`]: up to where the low
    /// word of a block's number would carry.
    #[inline(always)]
    pub(crate) fn together(self, first: u64, counters: usize) -> usize {
        let until_carry = (1_u64 << 34) - first % (1 << 34);
        let words = GROUP * counters - (first % 4) as usize;
        words.min(usize::try_from(until_carry).unwrap_or(usize::MAX))
    }

    /// The counters from that of element `first` on, each [`BLOCKS`] blocks after the one before.
    #[inline(always)]
    pub(crate) fn counters(self, first: u64, counters: &mut [[u32; 4]]) {
        let counter = self.counter(first / 4).map(|word| word as u32);
        for (i, to) in counters.iter_mut().enumerate() {
            *to = counter;
            to[0] = to[0].wrapping_add((i * BLOCKS) as u32);
        }
    }
}

fn absorb(hash: u64, word: u64) -> u64 {
    let mut z = (hash ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn absorb_text(hash: u64, text: &str) -> u64 {
    text.as_bytes().chunks(8).fold(absorb(hash, text.len() as u64), |hash, bytes| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        absorb(hash, u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const PLACE: &str = "model.layers.3.mlp.down_proj/linear/output/forward/0";

    #[test]
    fn keys_of_different_addresses_differ() {
        let mut seen = HashSet::new();
        let mut addresses = 0;
        for seed in 0..3 {
            for stream in ["rollout", "train", "eval", ""] {
                for step in 0..50 {
                    for layer in 0..50 {
                        for place in ["linear/output", "linear/weight", "silu/input"] {
                            let place = format!("model.layers.{layer}.{place}/forward/0");
                            seen.insert(NoiseKey::new(seed, stream, step, &place));
                            addresses += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), addresses);
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        assert_ne!(NoiseKey::new(0, "ab", 0, "c"), NoiseKey::new(0, "a", 0, "bc"));
        assert_ne!(NoiseKey::new(0, "a", 0, ""), NoiseKey::new(0, "", 0, "a"));
        assert_ne!(NoiseKey::new(0, "a", 0, "b\0"), NoiseKey::new(0, "a", 0, "b"));
        assert_ne!(NoiseKey::new(0, "a", 1, "b"), NoiseKey::new(1, "a", 0, "b"));
    }

    /// Every bit of the key changes with probability one half when one character, the step or the seed changes.
    #[test]
    fn near_addresses_have_unlike_keys() {
        let flips: u32 = (0..4000_u64)
            .map(|step| {
                let [a, b] = NoiseKey::new(0, "train", step, PLACE).0;
                let [c, d] = NoiseKey::new(0, "train", step + 1, PLACE).0;
                (a ^ c).count_ones() + (b ^ d).count_ones()
            })
            .sum();
        assert!((f64::from(flips) / 4000.0 - 32.0).abs() < 0.3, "{flips}");
    }

    #[test]
    fn uniform_values_lie_in_the_unit_interval_and_fill_it() {
        let key = NoiseKey::new(1, "rollout", 0, "sample");
        let values: Vec<f32> =
            (0..100_000).map(|e| key.uniform(Row { sequence: 9, position: 4 }, e)).collect();
        assert!(values.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = values.iter().map(|&u| f64::from(u)).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.004, "{mean}");
    }

    #[test]
    fn every_part_of_the_address_counts() {
        let key = NoiseKey([1, 2]);
        let row = Row { sequence: 3, position: 4 };
        let base = key.bits(row, 5);
        assert_ne!(base, NoiseKey([1, 3]).bits(row, 5));
        assert_ne!(base, NoiseKey([0, 2]).bits(row, 5));
        assert_ne!(base, key.bits(Row { position: 5, ..row }, 5));
        assert_ne!(base, key.bits(Row { sequence: 4, ..row }, 5));
        assert_ne!(base, key.bits(Row { sequence: 3 | 1 << 40, ..row }, 5));
        assert_ne!(base, key.bits(row, 6));
        assert_ne!(key.bits(Row::WEIGHT, 5), key.bits(Row::WEIGHT, 5 + (1 << 34)));
    }

    /// Computed by an independent program from the definition, the Gaussian values in f64.
    #[test]
    fn address_gives_the_same_noise_for_ever() {
        let key = NoiseKey::new(42, "rollout", 7, PLACE);
        assert_eq!(key, NoiseKey([0x2ab8_13ca, 0xe5e0_53d3]));
        let row = Row { sequence: (5 << 32) + 6, position: 9 };
        for (row, element, bits, gaussian) in [
            (row, 0, 0x3ce7_c114, -0.923_538_443_535_415_8),
            (row, 1, 0x577b_c434, 1.420_841_850_689_399_2),
            (row, 2, 0x37c5_22a8, 1.237_608_529_944_692),
            (row, 3, 0x1fe5_87df, 1.231_343_038_594_631_1),
            (row, 1000, 0x0707_8193, 2.264_517_484_025_466_5),
            (Row::WEIGHT, (1 << 34) + 1, 0xe2e0_3fa5, -0.995_604_528_880_337_5),
        ] {
            assert_eq!(key.bits(row, element), bits);
            assert_eq!(key.uniform(row, element), (bits >> 8) as f32 / 16_777_216.0);
            assert!((f64::from(key.gaussian(row, element)) - gaussian).abs() < 1e-6, "element {element}");
        }
    }
}
