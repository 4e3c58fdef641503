//! A mean over seeds with an interval that doubts both the seeds and the problems: the union of Student's over seeds and
//! the one over problems, so that neither few seeds that agree by chance nor few problems pass for certainty.

use serde::{Deserialize, Serialize};

use crate::statistics::{CONFIDENCE, Interval, student, wilson};

/// A mean over seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// Its 95 % interval; `None` where there is nothing to make it from.
    pub interval: Option<Interval>,
    /// The value of every seed, in their order.
    pub seeds: Vec<f64>,
}

impl Spread {
    /// The mean of `seeds` with Student's interval over them.
    #[must_use]
    pub fn of_seeds(seeds: Vec<f64>) -> Self {
        let interval = student(&seeds, CONFIDENCE);
        Self { mean: mean(&seeds), interval, seeds }
    }

    /// The mean of accuracies in [0, 1], each on the same `n` problems: Student's interval over seeds and Wilson's over
    /// problems, united and cut to [0, 1].
    #[must_use]
    pub fn of_accuracies(seeds: Vec<f64>, n: u64) -> Self {
        let right = (mean(&seeds) * n as f64).round() as u64;
        let over_problems = wilson(right.min(n), n, CONFIDENCE);
        let plain = Self::of_seeds(seeds);
        let both = union(plain.interval.unwrap_or(over_problems), over_problems);
        let interval = Interval { low: both.low.max(0.0), high: both.high.min(1.0) };
        Self { interval: Some(interval), ..plain }
    }
}

/// The arithmetic mean; 0 of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The smallest interval that holds both.
pub(super) fn union(one: Interval, other: Interval) -> Interval {
    Interval { low: one.low.min(other.low), high: one.high.max(other.high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_agree_leave_the_doubt_of_the_problems() {
        let spread = Spread::of_accuracies(vec![0.5, 0.5, 0.5], 400);
        assert_eq!(spread.interval, Some(wilson(200, 400, CONFIDENCE)));
    }

    #[test]
    fn seeds_that_differ_widen_the_interval_within_its_bounds() {
        let interval = Spread::of_accuracies(vec![0.2, 0.9], 400).interval.unwrap();
        assert_eq!((interval.low, interval.high), (0.0, 1.0));
        assert_eq!(Spread::of_seeds(vec![0.4]).interval, None);
    }
}
