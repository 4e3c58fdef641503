//! `[checkpoint]`: how often a run is saved, in which type, and what of it is kept.

use hardy_model::Dtype;
use serde::{Deserialize, Serialize};

/// How often a run is saved, and what is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSection {
    /// Steps between checkpoints, of which the last step always has one; 0 keeps only that, and where it is left out there
    /// is one at every evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<usize>,
    /// The last so many checkpoints are kept; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// By which number of its evaluation the best checkpoint is kept besides; none where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Which checkpoints hold what it takes to go on from them: f32 masters and the optimizer's moments.
    pub optimizer: Kept,
    /// The type of their weights. Evaluations judge the weights as they are saved.
    pub dtype: Dtype,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self { every: None, keep: None, best: None, optimizer: Kept::Last, dtype: Dtype::Bf16 }
    }
}

/// Which checkpoints hold what it takes to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// The last one.
    Last,
    /// All.
    All,
}

/// The number of an evaluation by which one is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Best {
    /// Its score at the first noise level.
    First,
    /// The mean of its scores over the noise levels.
    Mean,
    /// Its score at the level where that is lowest.
    Worst,
}

impl Best {
    /// The number, from the score at every level.
    pub fn of(self, scores: &[f64]) -> f64 {
        match self {
            Self::First => scores.first().copied().unwrap_or_default(),
            Self::Mean => scores.iter().sum::<f64>() / scores.len().max(1) as f64,
            Self::Worst => scores.iter().copied().fold(f64::INFINITY, f64::min),
        }
    }
}

impl CheckpointSection {
    /// Whether there is a checkpoint after `step` of `total` steps, after which the policy was `evaluated` or not.
    pub fn is_due(&self, step: u64, total: u64, evaluated: bool) -> bool {
        step == total
            || match self.every {
                None => evaluated,
                Some(every) => every > 0 && step.is_multiple_of(every as u64),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> CheckpointSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_last_step_always_has_a_checkpoint_and_the_others_as_they_are_asked_for() {
        let due = |text: &str| {
            let section = section(text);
            (0..=7).filter(|&step| section.is_due(step, 7, step % 4 == 0)).collect::<Vec<u64>>()
        };
        assert_eq!(due(""), [0, 4, 7]);
        assert_eq!(due("every = 3"), [0, 3, 6, 7]);
        assert_eq!(due("every = 0"), [7]);
    }

    #[test]
    fn the_best_is_by_the_first_the_mean_or_the_worst_level() {
        let scores = [0.75, 0.5, 0.25];
        assert_eq!([Best::First, Best::Mean, Best::Worst].map(|best| best.of(&scores)), [0.75, 0.5, 0.25]);
    }
}
