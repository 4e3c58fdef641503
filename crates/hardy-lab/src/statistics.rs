//! Statistics of right and wrong answers. Each function takes counts and returns numbers; accuracies and differences
//! are fractions here, and become points only where they are printed.

mod holm;
mod interval;
mod mcnemar;
mod paired_difference;
mod paired_test;
mod sample_size;
mod sign_flip;
mod student;
mod wilson;

pub use holm::holm;
pub use interval::Interval;
pub use mcnemar::mcnemar_exact;
pub use paired_difference::{PairedCounts, paired_difference};
pub use paired_test::{ALPHA, CONFIDENCE, POWER, PairedTest};
pub use sample_size::{mcnemar_sample_size, two_proportion_sample_size};
pub use sign_flip::sign_flip_exact;
pub use student::student;
pub use wilson::wilson;

use statrs::distribution::{ContinuousCDF, Normal};

/// The quantile of the standard normal distribution at `probability` in (0, 1).
fn normal_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}
