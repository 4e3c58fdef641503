//! The learning rate over a run: a linear warm-up, then constant, or falling linearly or as a cosine to a floor.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays at the peak.
    Constant,
    /// It falls in a straight line.
    Linear,
    /// It falls as half a period of a cosine.
    Cosine,
}

/// The learning rate at every step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// How many steps it takes to get there; 0 for none.
    pub warmup_steps: usize,
    /// How it falls.
    pub decay: Decay,
    /// How many steps the run has.
    pub total_steps: usize,
    /// What it falls to, as a share of the peak.
    pub floor_ratio: f64,
}

impl LearningRate {
    /// The rate at `step`, counted from 0.
    ///
    /// The warm-up gives `peak`·(step + 1)/`warmup_steps`, so that the first step is not wasted and the last of the
    /// warm-up has the peak; the floor is reached at `total_steps`, just past the end, and kept.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / steps as f64).min(1.0);
        let height = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        };
        self.peak * (self.floor_ratio + (1.0 - self.floor_ratio) * height)
    }

    /// What should be said of a warm-up that is longer than the run.
    pub fn never_reached(&self) -> Option<String> {
        let Self { peak, warmup_steps, total_steps, .. } = *self;
        (total_steps < warmup_steps).then(|| {
            let last = self.at(total_steps.saturating_sub(1));
            format!(
                "`train.warmup_steps` is {warmup_steps}, and the run has {total_steps} steps: its learning rate ends at \
                 {last:.3e} and never reaches `train.learning_rate`, {peak:e}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(decay: Decay) -> LearningRate {
        LearningRate { peak: 2.0, warmup_steps: 4, decay, total_steps: 14, floor_ratio: 0.1 }
    }

    #[test]
    fn warm_up_is_linear_and_starts_above_zero() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            let start: Vec<f64> = (0..5).map(|step| rate(decay).at(step)).collect();
            assert_eq!(start, [0.5, 1.0, 1.5, 2.0, 2.0]);
        }
    }

    #[test]
    fn decay_meets_its_middle_and_its_floor() {
        for decay in [Decay::Linear, Decay::Cosine] {
            assert!((rate(decay).at(9) - 1.1).abs() < 1e-12);
            assert!((rate(decay).at(14) - 0.2).abs() < 1e-12);
            assert!((rate(decay).at(99) - 0.2).abs() < 1e-12);
        }
        assert_eq!(rate(Decay::Constant).at(99), 2.0);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_is_told() {
        let run = |total_steps| LearningRate { total_steps, ..rate(Decay::Constant) };
        assert_eq!(run(4).never_reached(), None);
        let told = run(2).never_reached().unwrap();
        assert!(told.contains("is 4, and the run has 2 steps: its learning rate ends at 1.000e0"), "{told}");
    }

    proptest! {
        #[test]
        fn the_rate_stays_between_floor_and_peak(
            warmup_steps in 0usize..50, total_steps in 1usize..50, step in 0usize..100, cosine: bool,
        ) {
            let decay = if cosine { Decay::Cosine } else { Decay::Linear };
            let rate = LearningRate { peak: 1e-3, warmup_steps, decay, total_steps, floor_ratio: 0.1 };
            let at = rate.at(step);
            prop_assert!(at > 0.0 && at <= 1e-3 * (1.0 + 1e-12));
            prop_assert!(step < warmup_steps || at >= 1e-4 * (1.0 - 1e-12));
        }
    }
}
