//! Statistics of answers that are right or wrong, or that have a score. Accuracies and differences are fractions here, and
//! become points, hundredths, only where they are printed. Scores that are more than right and wrong are judged by the
//! bootstrap and the paired permutation test instead of Newcombe's interval and McNemar's test.
//!
//! The unit of evidence is a difference on the same problems: one estimate, one interval, one p-value. What could have
//! fallen out otherwise is doubted: the problems always, and beside them the *columns*, which are a preset's seeds, or the
//! draws of the error of a single run. Of one column only the problems are doubted, and what is said holds for that run.
//! A claim is resolved where Holm's correction over everything that its page claims leaves p below 5 % and the interval
//! excludes what the claim excludes; [`decide`] says so for suites, comparisons, reports and criteria alike.
//!
//! How often 95 % intervals cover the truth, and how many pages of three presets at three levels claim a difference where
//! there is none, in per cent of 10,000 made-up suites a row (`cargo bench -p hardy-lab --bench coverage`). Suites have 100,
//! 200 or 400 problems of differing difficulty. Scatter is the standard deviation of a column's score where that of an
//! answer's own part is 1: at 0.6 the accuracies of two seeds of 50 % are 17 points apart on average. Edges are accuracies
//! of 2 to 10 and 90 to 98 %.
//!
//! | columns | scatter | accuracies | accuracy | difference | retention | peak of 6 | nll lost | false pages |
//! |---|---|---|---|---|---|---|---|---|
//! | 1 | 0 | 2 to 98 % | 94.5 | 95.2 | 95.2 | 98.5 | 94.9 | 2.7 |
//! | 1 | 0 | edges | 95.2 | 96.3 | 96.2 | 98.4 | 94.9 | 1.9 |
//! | 2 | 0 | 2 to 98 % | 99.6 | 99.7 | 99.6 | 99.9 | 99.2 | 0.1 |
//! | 2 | 0 | edges | 99.3 | 99.6 | 99.7 | 99.9 | 99.2 | 0.1 |
//! | 2 | 0.1 | 2 to 98 % | 99.1 | 99.2 | 98.9 | 99.8 | 98.9 | 0.7 |
//! | 2 | 0.1 | edges | 99.2 | 99.5 | 99.4 | 99.7 | 98.9 | 0.4 |
//! | 2 | 0.3 | 2 to 98 % | 97.6 | 97.3 | 96.8 | 99.2 | 97.4 | 2.8 |
//! | 2 | 0.3 | edges | 98.2 | 98.2 | 98.0 | 99.2 | 97.4 | 2.2 |
//! | 2 | 0.6 | 2 to 98 % | 96.5 | 96.6 | 95.3 | 98.4 | 96.2 | 4.3 |
//! | 2 | 0.6 | edges | 96.7 | 97.6 | 96.6 | 97.8 | 96.2 | 3.3 |
//! | 3 | 0 | 2 to 98 % | 99.0 | 99.4 | 99.4 | 99.9 | 97.7 | 0.0 |
//! | 3 | 0 | edges | 99.3 | 99.5 | 99.6 | 99.9 | 97.7 | 0.0 |
//! | 3 | 0.1 | 2 to 98 % | 98.6 | 99.0 | 99.0 | 99.9 | 97.9 | 0.3 |
//! | 3 | 0.1 | edges | 99.1 | 99.4 | 99.4 | 99.9 | 97.9 | 0.1 |
//! | 3 | 0.3 | 2 to 98 % | 97.5 | 97.1 | 96.9 | 99.7 | 97.0 | 1.4 |
//! | 3 | 0.3 | edges | 98.3 | 97.8 | 97.4 | 99.8 | 97.0 | 0.8 |
//! | 3 | 0.6 | 2 to 98 % | 96.5 | 96.0 | 95.1 | 99.2 | 96.0 | 2.6 |
//! | 3 | 0.6 | edges | 97.2 | 97.1 | 96.4 | 99.5 | 96.0 | 1.4 |
//! | 5 | 0 | 2 to 98 % | 98.2 | 99.0 | 99.1 | 99.9 | 96.3 | 0.1 |
//! | 5 | 0 | edges | 98.8 | 99.4 | 99.4 | 99.9 | 96.3 | 0.1 |
//! | 5 | 0.1 | 2 to 98 % | 98.1 | 98.8 | 98.8 | 99.8 | 96.7 | 0.3 |
//! | 5 | 0.1 | edges | 98.5 | 99.1 | 99.2 | 99.9 | 96.7 | 0.1 |
//! | 5 | 0.3 | 2 to 98 % | 97.0 | 97.0 | 97.2 | 99.6 | 96.6 | 1.5 |
//! | 5 | 0.3 | edges | 98.0 | 97.9 | 98.0 | 99.8 | 96.6 | 0.6 |
//! | 5 | 0.6 | 2 to 98 % | 96.2 | 95.7 | 95.8 | 99.5 | 95.9 | 1.7 |
//! | 5 | 0.6 | edges | 96.9 | 96.6 | 96.6 | 99.7 | 95.9 | 0.8 |
//!
//! Of scores between right and wrong (means of four answers), one column, 1,500 suites a row, the bootstrap's intervals cover:
//!
//! | accuracies | score | difference of scores |
//! |---|---|---|
//! | 2 to 98 % | 94.7 | 95.3 |
//! | edges | 94.9 | 95.4 |

mod accuracy;
mod claim;
mod contrast;
mod difference;
mod doubt;
mod holm;
mod interval;
mod mcnemar;
mod mean;
mod paired_test;
mod peak;
mod resample;
mod retention;
mod sample_size;
mod scores;
mod student;
mod tail;
mod wilson;

pub use accuracy::accuracy;
pub use claim::{Claim, decide};
pub use difference::{difference, p_against};
pub use holm::holm;
pub use interval::Interval;
pub use mcnemar::mcnemar_exact;
pub use mean::{mean_claim, mean_interval};
pub use paired_test::{ALPHA, Answers, CONFIDENCE, POWER, PairedTest, scores};
pub use peak::peak;
pub use resample::sign_flip_test;
pub use retention::retention;
pub use sample_size::{mcnemar_sample_size, paired_mean_sample_size, two_proportion_sample_size};
pub use scores::Scores;
pub use wilson::wilson;

use statrs::distribution::{ContinuousCDF, Normal};

/// The quantile of the standard normal distribution at `probability` in (0, 1).
fn normal_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}
