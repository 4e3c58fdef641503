//! Everything that is said about one difference on the same problems, computed together so that a difference is never
//! printed without its interval, its p-value and the sample size it would take.

use serde::{Deserialize, Serialize};

use super::{Interval, PairedCounts, mcnemar_exact, mcnemar_sample_size, paired_difference};

/// The confidence of every interval that Hardy prints.
pub const CONFIDENCE: f64 = 0.95;
/// The level below which a p-value counts as resolved.
pub const ALPHA: f64 = 0.05;
/// The power for which sample sizes are given.
pub const POWER: f64 = 0.8;

/// One difference in accuracy, first side minus second, judged on the same problems.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// Problems that both sides answered.
    pub n: u64,
    /// Problems that only the first side gets right.
    pub b: u64,
    /// Problems that only the second side gets right.
    pub c: u64,
    /// The first side's accuracy minus the second's, in points.
    pub difference_points: f64,
    /// Newcombe's 95 % interval of that difference, in points.
    pub interval_points: Interval,
    /// The exact two-sided McNemar p-value.
    pub p: f64,
    /// Problems needed to resolve a difference as large as the one seen, at 5 % and power 0.8; `None` when it is 0.
    pub needed: Option<u64>,
    /// Whether p is below 5 %.
    pub resolved: bool,
}

impl PairedTest {
    /// Judges `counts`.
    ///
    /// # Panics
    ///
    /// When there is no problem.
    #[must_use]
    pub fn of(counts: &PairedCounts) -> Self {
        let (b, c, n) = (counts.only_first, counts.only_second, counts.n());
        let p = mcnemar_exact(b, c);
        Self {
            n,
            b,
            c,
            difference_points: 100.0 * counts.difference(),
            interval_points: paired_difference(counts, CONFIDENCE).scaled(100.0),
            p,
            needed: mcnemar_sample_size(b, c, n, ALPHA, POWER),
            resolved: p < ALPHA,
        }
    }
}
