//! A keyed permutation of `0..n` that can be read at any place without being stored.
//!
//! A balanced Feistel network permutes the next even power of two, and cycle walking keeps the values below `n`.

use crate::splitmix::hash;

const ROUNDS: u64 = 4;

/// A permutation of `0..n`, a function of `n` and a key.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    n: u64,
    key: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation of `0..n` under `key`, for `n ≥ 1`.
    pub fn new(n: u64, key: u64) -> Self {
        let bits = u64::BITS - (n.max(1) - 1).leading_zeros();
        Self { n, key, half_bits: bits.div_ceil(2).max(1) }
    }

    /// Where `index < n` goes.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.n, "index {index} of a permutation of {}", self.n);
        let mut value = index;
        loop {
            value = self.feistel(value);
            if value < self.n {
                return value;
            }
        }
    }

    fn feistel(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (hash(&[self.key, round, right]) & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_is_taken_once(n in 1u64..3000, key: u64) {
            let permutation = Permutation::new(n, key);
            let mut seen: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..n));
        }
    }

    #[test]
    fn keys_give_different_orders() {
        let order = |key| (0..100).map(|i| Permutation::new(100, key).at(i)).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (0..100).collect::<Vec<_>>());
    }
}
