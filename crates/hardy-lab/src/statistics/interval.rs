//! A closed interval of a proportion or of a difference of proportions.

use serde::{Deserialize, Serialize};

/// A closed interval `[low, high]`; `low ≤ high`. The unit is that of whoever returns it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// The interval in another unit: both ends times `factor ≥ 0`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { low: self.low * factor, high: self.high * factor }
    }

    /// Whether `value` lies in the interval, its ends included.
    #[must_use]
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// The part of the interval between `least` and `most`.
    #[must_use]
    pub fn within(self, least: f64, most: f64) -> Self {
        Self { low: self.low.max(least), high: self.high.min(most) }
    }
}
