//! How far a mean may be off because its columns are few: half of Student's interval over them. It is added, as a length
//! at right angles, to the half that the problems bring (Zou & Donner 2008, Statistics in Medicine 27: 1693–1702). Each
//! half by itself keeps its confidence, so that neither two columns that agree by chance nor few problems pass for
//! certainty. Rules that give the sum of the variances one number of degrees of freedom (Satterthwaite 1946) are shorter,
//! and cover 89 to 93 % where two or three columns scatter.

use super::{scores::variance, student::two_sided_quantile};

/// The means of the columns, as a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Doubt {
    /// The variance of their mean; 0 of a single column.
    variance: f64,
    /// Their number minus 1.
    degrees: f64,
}

impl Doubt {
    pub fn of(columns: &[f64]) -> Self {
        let count = columns.len() as f64;
        Self { variance: variance(columns) / count, degrees: count - 1.0 }
    }

    /// Half of the interval whose ends are missed together with chance `tail`.
    pub fn half(self, tail: f64) -> f64 {
        if self.variance > 0.0 { two_sided_quantile(tail, self.degrees) * self.variance.sqrt() } else { 0.0 }
    }

    /// The lower and upper half around a proportion `p`. The columns of a proportion scatter less near 0 and 1, about as
    /// `p(1 − p)` does where their log-odds scatter alike, so that each end is where the scatter *there* explains what was
    /// seen: `|p − x| = k·x(1 − x)`, as Wilson's interval takes the variance of its ends and not of its middle.
    pub fn around(self, p: f64, tail: f64) -> [f64; 2] {
        let half = self.half(tail);
        let k = half / (p * (1.0 - p));
        if half == 0.0 || !k.is_finite() {
            return [half; 2];
        }
        let low = ((1.0 + k) - ((1.0 + k).powi(2) - 4.0 * k * p).sqrt()) / (2.0 * k);
        let high = ((k - 1.0) + ((1.0 - k).powi(2) + 4.0 * k * p).sqrt()) / (2.0 * k);
        [p - low, high - p]
    }
}
