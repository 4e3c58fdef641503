//! What happens by chance: a probability as a threshold of 64 random bits. The word of the value's own address holds the
//! upper bits and decides nearly always; only where it lies on the threshold is a second word looked at, so that
//! probabilities far below 2⁻³² are met exactly at no cost.

use crate::address::{NoiseKey, Row};

/// The smallest probability above 0 that 64 bits tell from it, 2⁻⁶³ where one of them is spent on a sign.
pub(super) const SMALLEST: f64 = 1.0 / (1_u64 << 63) as f64;

/// A probability, to 2⁻⁶⁴: what has the words (w, v) happens where (w, v) lies below (`high`, `low`).
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    high: u64,
    low: u64,
}

impl Chance {
    /// The `probability` of words of 32 bits.
    pub fn new(probability: f64) -> Self {
        Self::of_bits(probability, 32)
    }

    /// That of words of which only so many upper `bits` decide.
    pub fn of_bits(probability: f64, bits: u32) -> Self {
        let scaled = probability * (1_u64 << bits) as f64;
        let high = scaled.floor();
        // Exact: the fraction of an f64 keeps all of its digits.
        Self { high: high as u64, low: ((scaled - high) * 4_294_967_296.0).floor() as u64 }
    }

    /// The threshold in two words, the upper one first: what has the words (w, v) happens where w·2³² + v lies below it.
    /// Certainty is short of it by 2⁻⁶⁴.
    pub fn threshold(self) -> [u32; 2] {
        u32::try_from(self.high).map_or([u32::MAX; 2], |high| [high, self.low as u32])
    }

    /// Whether it may happen to `word`; where not, the second word need not be known.
    #[inline(always)]
    pub fn may(self, word: u32) -> bool {
        u64::from(word) <= self.high
    }

    /// Whether it happens to `word`.
    pub fn does(self, word: u32, second: impl FnOnce() -> u32) -> bool {
        let word = u64::from(word);
        word < self.high || (word == self.high && u64::from(second()) < self.low)
    }

    /// What the upper bits of settled words must lie below; see [`Chance::settle`].
    #[inline(always)]
    pub fn bound(self) -> u64 {
        if self.low == 0 { self.high } else { self.high.max(1) }
    }

    /// Settles the words whose upper 32 − `shift` bits lie on the threshold, by a second word each, so that it happens
    /// exactly to those whose upper bits are below [`Chance::bound`]; the lower bits stay.
    #[inline(always)]
    pub fn settle(self, shift: u32, words: &mut [u32], second: impl Fn(usize) -> u32) {
        let high = self.high as u32;
        if self.low != 0 && words.iter().fold(false, |any, word| any | (word >> shift == high)) {
            self.settle_each(shift, words, second);
        }
    }

    #[cold]
    fn settle_each(self, shift: u32, words: &mut [u32], second: impl Fn(usize) -> u32) {
        let rest = (1 << shift) - 1;
        let on_threshold =
            words.iter_mut().enumerate().filter(|(_, word)| u64::from(**word >> shift) == self.high);
        for (i, word) in on_threshold {
            let upper = if u64::from(second(i)) < self.low { 0 } else { !rest };
            *word = upper | *word & rest;
        }
    }
}

/// A second word at an address.
pub(super) fn second_word(NoiseKey([low, high]): NoiseKey, row: Row, element: u64) -> u32 {
    NoiseKey([low ^ 0x3C6E_F372, high ^ 0xA54F_F53A]).bits(row, element)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NoiseKey = NoiseKey([5, 6]);

    /// The share of a hundred thousand words that it happens to, all of them `word`.
    fn share(chance: Chance, shift: u32, word: u32) -> f64 {
        let n = 100_000;
        let mut words = vec![word; n];
        chance.settle(shift, &mut words, |i| second_word(KEY, Row::WEIGHT, i as u64));
        assert!(
            words.iter().all(|settled| (settled ^ word) & ((1 << shift) - 1) == 0),
            "the lower bits stay"
        );
        let settled = words.iter().filter(|word| u64::from(**word >> shift) < chance.bound()).count();
        let second = |i: usize| second_word(KEY, Row::WEIGHT, i as u64);
        let one_by_one = (0..n).filter(|&i| chance.does(word >> shift, || second(i))).count();
        assert_eq!(settled, one_by_one);
        settled as f64 / n as f64
    }

    #[test]
    fn a_word_on_the_threshold_is_settled_by_the_fraction_that_is_left() {
        // 2^32·p = h + f: it happens to all words below h, to h with the probability f, and to no other.
        for (high, fraction) in [(0, 0.25), (0, 0.003), (7, 0.5), (u32::MAX, 0.75)] {
            let p = (f64::from(high) + fraction) / 4_294_967_296.0;
            let share = |word| share(Chance::new(p), 0, word);
            assert!((share(high) - fraction).abs() < 0.01, "{high} + {fraction}: {}", share(high));
            assert!(high == 0 || share(high - 1) == 1.0, "{high}");
            assert!(high == u32::MAX || share(high + 1) == 0.0, "{high}");
        }
    }

    #[test]
    fn a_bit_that_is_spent_on_a_sign_stays_and_leaves_the_probability() {
        for (high, fraction, word) in [(0, 0.25, 0), (0, 0.25, 1), (3, 0.5, 6), (3, 0.5, 7)] {
            let p = (f64::from(high) + fraction) / 2_147_483_648.0;
            assert!((share(Chance::of_bits(p, 31), 1, word) - fraction).abs() < 0.01, "{word}");
        }
    }

    #[test]
    fn certainty_and_the_smallest_probability_are_met() {
        assert_eq!(share(Chance::new(1.0), 0, u32::MAX), 1.0);
        assert_eq!(share(Chance::of_bits(1.0, 31), 1, u32::MAX), 1.0);
        let smallest = Chance::of_bits(SMALLEST, 31);
        assert!(smallest.does(0, || 0) && !smallest.does(0, || 1) && !smallest.does(1, || 0));
    }
}
