//! A mean over seeds with an interval that doubts both the seeds and the problems (and the draws, which every seed has its
//! own of).

use serde::{Deserialize, Serialize};

use crate::statistics::{CONFIDENCE, Interval, Scores, accuracy, peak, retention};

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

/// The best evaluation of a preset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Its step.
    pub step: u64,
    /// Evaluations among which it is the best.
    pub of: usize,
    /// The accuracy there; its interval is that of the best true accuracy, and pays for having looked for it.
    #[serde(flatten)]
    pub accuracy: Spread,
}

impl Spread {
    /// An accuracy; `seeds` are its values, seed by seed.
    #[must_use]
    pub fn of_accuracy(scores: &Scores, seeds: Vec<f64>) -> Self {
        Self { mean: scores.mean(), interval: Some(accuracy(scores, CONFIDENCE)), seeds }
    }

    /// The share of `clean` that `noisy` keeps; `None` where a seed has nothing to keep.
    #[must_use]
    pub fn of_retention(noisy: &Scores, clean: &Scores, seeds: Vec<f64>) -> Option<Self> {
        let columns = noisy.columns.len().max(clean.columns.len());
        let [noisy, clean] = [noisy.spread_over(columns), clean.spread_over(columns)];
        let interval = retention(&noisy, &clean, CONFIDENCE);
        seeds.iter().all(|share| share.is_finite()).then(|| Self {
            mean: noisy.mean() / clean.mean(),
            interval,
            seeds,
        })
    }
}

impl Peak {
    /// The best of evaluations, each with its step, its scores and its seeds' accuracies.
    #[must_use]
    pub fn of(evaluations: Vec<(u64, Scores, Vec<f64>)>) -> Option<Self> {
        let scores: Vec<Scores> = evaluations.iter().map(|(_, scores, _)| scores.clone()).collect();
        let (best, interval) = peak(&scores, CONFIDENCE)?;
        let of = evaluations.len();
        let (step, scores, seeds) = evaluations.into_iter().nth(best)?;
        Some(Self { step, of, accuracy: Spread { mean: scores.mean(), interval: Some(interval), seeds } })
    }
}
