//! The interval of a difference between two accuracies measured on the same problems: Newcombe's hybrid score
//! interval for paired data (Newcombe 1998, Statistics in Medicine 17: 2635–2650, method 10). It joins two Wilson
//! intervals through their correlation and, unlike Wald's, does not shrink to a point when nothing is discordant.

use serde::{Deserialize, Serialize};

use super::{Interval, wilson};

/// How two sides fared on the same problems: the cells of the paired 2 × 2 table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairedCounts {
    /// Problems that both sides get right.
    pub both: u64,
    /// Problems that only the first side gets right: b.
    pub only_first: u64,
    /// Problems that only the second side gets right: c.
    pub only_second: u64,
    /// Problems that neither side gets right.
    pub neither: u64,
}

impl PairedCounts {
    /// Counts pairs of (first right, second right).
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => counts.both += 1,
                (true, false) => counts.only_first += 1,
                (false, true) => counts.only_second += 1,
                (false, false) => counts.neither += 1,
            }
        }
        counts
    }

    /// All problems.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.both + self.only_first + self.only_second + self.neither
    }

    /// The first side's accuracy minus the second's, a fraction in [−1, 1].
    ///
    /// # Panics
    ///
    /// When there is no problem.
    #[must_use]
    pub fn difference(&self) -> f64 {
        assert!(self.n() > 0, "no problems to compare");
        (self.only_first as f64 - self.only_second as f64) / self.n() as f64
    }

    /// The two sides exchanged.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self { only_first: self.only_second, only_second: self.only_first, ..self }
    }

    /// The correlation φ of the two sides' outcomes, Newcombe's method 10: the numerator `both·neither − b·c` is
    /// drawn toward 0 by n/2 where it is positive; 0 where a side is all right or all wrong.
    fn correlation(&self) -> f64 {
        let [e, f, g, h] = [self.both, self.only_first, self.only_second, self.neither].map(|x| x as f64);
        let margins = (e + f) * (g + h) * (e + g) * (f + h);
        let covariance = e * h - f * g;
        let corrected =
            if covariance > 0.0 { (covariance - self.n() as f64 / 2.0).max(0.0) } else { covariance };
        if margins == 0.0 { 0.0 } else { corrected / margins.sqrt() }
    }
}

/// The interval of the first side's accuracy minus the second's at a two-sided `confidence`; fractions in [−1, 1].
///
/// # Panics
///
/// When there is no problem, or `confidence` is not in (0, 1).
#[must_use]
pub fn paired_difference(counts: &PairedCounts, confidence: f64) -> Interval {
    let n = counts.n();
    let (right_first, right_second) = (counts.both + counts.only_first, counts.both + counts.only_second);
    let (first, second) = (wilson(right_first, n, confidence), wilson(right_second, n, confidence));
    let (p1, p2) = (right_first as f64 / n as f64, right_second as f64 / n as f64);
    let (difference, phi) = (counts.difference(), counts.correlation());
    Interval {
        low: (difference - joined(p1 - first.low, second.high - p2, phi)).max(-1.0),
        high: (difference + joined(p2 - second.low, first.high - p1, phi)).min(1.0),
    }
}

/// The length of the difference of two deviations with correlation `phi`: `√(x² − 2φxy + y²)`.
fn joined(x: f64, y: f64, phi: f64) -> f64 {
    (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(both: u64, only_first: u64, only_second: u64, neither: u64) -> PairedCounts {
        PairedCounts { both, only_first, only_second, neither }
    }

    #[test]
    fn agrees_with_published_intervals() {
        // (20, 12, 2, 16) stands in Newcombe 1998; the other two in Fagerland, Lydersen & Laake, *Statistical
        // Analysis of Contingency Tables*, chapter 8 (Bentur et al. 2009; Cavo et al. 2012).
        for (table, low, high) in [
            (counts(20, 12, 2, 16), 0.0562, 0.3292),
            (counts(1, 1, 7, 12), -0.5069, -0.0256),
            (counts(59, 6, 16, 80), -0.1186, -0.0046),
        ] {
            let interval = paired_difference(&table, 0.95);
            assert!((interval.low - low).abs() < 6e-5 && (interval.high - high).abs() < 6e-5, "{interval:?}");
        }
    }

    #[test]
    fn equal_answers_still_leave_some_doubt() {
        let interval = paired_difference(&counts(150, 0, 0, 50), 0.95);
        assert!(interval.low < -0.005 && interval.high > 0.005, "{interval:?}");
    }

    proptest! {
        #[test]
        fn interval_contains_the_difference_and_turns_with_the_sides(
            e in 0u64..300, f in 0u64..300, g in 0u64..300, h in 0u64..300,
        ) {
            prop_assume!(e + f + g + h > 0);
            let table = counts(e, f, g, h);
            let (there, back) = (paired_difference(&table, 0.95), paired_difference(&table.swapped(), 0.95));
            prop_assert!(there.low <= table.difference() + 1e-12 && table.difference() - 1e-12 <= there.high);
            prop_assert!((there.low + back.high).abs() < 1e-12 && (there.high + back.low).abs() < 1e-12);
        }
    }
}
