//! McNemar's exact test (McNemar 1947, Psychometrika 12: 153–157, in its binomial form). Only problems on which the
//! two sides disagree say anything about which is better; if neither is, each such problem is a fair coin.

use statrs::distribution::{Binomial, DiscreteCDF};

/// The two-sided p-value for `b` problems that only the first side gets right and `c` that only the second does:
/// `min(1, 2·P(X ≤ min(b, c)))` with X ~ Binomial(b + c, ½). It is 1 when there is no such problem.
#[must_use]
pub fn mcnemar_exact(b: u64, c: u64) -> f64 {
    if b == c {
        return 1.0;
    }
    let tail = Binomial::new(0.5, b + c).map_or(0.5, |coin| coin.cdf(b.min(c)));
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sums binomial coefficients in u128, exactly.
    fn by_summation(b: u64, c: u64) -> f64 {
        let n = u128::from(b + c);
        let mut term: u128 = 1;
        let mut sum: u128 = 0;
        for k in 0..=u128::from(b.min(c)) {
            sum += term;
            term = term * (n - k) / (k + 1);
        }
        (2.0 * sum as f64 / 2f64.powi(n as i32)).min(1.0)
    }

    proptest! {
        #[test]
        fn equals_the_sum_of_binomial_coefficients(b in 0u64..60, c in 0u64..60) {
            prop_assert!((mcnemar_exact(b, c) - by_summation(b, c)).abs() < 1e-9);
        }

        #[test]
        fn does_not_depend_on_which_side_comes_first(b in 0u64..2000, c in 0u64..2000) {
            prop_assert_eq!(mcnemar_exact(b, c).to_bits(), mcnemar_exact(c, b).to_bits());
        }
    }
}
