//! Wilson's score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22: 209–212). Unlike `p ± z·se` it keeps
//! its coverage near 0 and 1 and for small n, where evaluations of language models live.

use super::{Interval, normal_quantile};

/// The interval of the proportion `k / n` at a two-sided `confidence`, e.g. 0.95:
/// `(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)`. Both ends are fractions in [0, 1].
///
/// # Panics
///
/// When `n` is 0, `k > n`, or `confidence` is not in (0, 1).
#[must_use]
pub fn wilson(k: u64, n: u64, confidence: f64) -> Interval {
    assert!(n > 0 && k <= n, "a proportion needs 0 ≤ k ≤ n and n > 0, not {k} of {n}");
    assert!(confidence > 0.0 && confidence < 1.0, "confidence must be in (0, 1), not {confidence}");
    score_interval(k as f64 / n as f64, n as f64, normal_quantile(0.5 + confidence / 2.0))
}

/// The same of a proportion `p` of `n` problems, which need not be whole, at the normal quantile `z`.
pub(crate) fn score_interval(p: f64, n: f64, z: f64) -> Interval {
    let shrink = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / shrink;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / shrink;
    // At the edges the formula gives the edge exactly; rounding must not move it.
    Interval {
        low: if p <= 0.0 { 0.0 } else { (centre - half).max(0.0) },
        high: if p >= 1.0 { 1.0 } else { (centre + half).min(1.0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn interval_contains_the_proportion_and_mirrors_for_failures(n in 1u64..5000, share in 0.0f64..=1.0) {
            let k = (share * n as f64) as u64;
            let right = wilson(k, n, 0.95);
            let wrong = wilson(n - k, n, 0.95);
            prop_assert!(right.contains(k as f64 / n as f64));
            prop_assert!((right.low - (1.0 - wrong.high)).abs() < 1e-12);
            prop_assert!(right.low >= 0.0 && right.high <= 1.0);
        }
    }

    #[test]
    fn more_confidence_is_a_wider_interval() {
        let (narrow, wide) = (wilson(67, 100, 0.9), wilson(67, 100, 0.99));
        assert!(wide.low < narrow.low && narrow.high < wide.high);
    }
}
