//! What `[train]` can not be: one sentence for every value that makes no sense.

use super::{OldLogProbs, TrainSection};
use crate::{
    error::{Error, Result},
    objective::Mean,
};

impl TrainSection {
    /// Checks every value and those that exclude each other.
    ///
    /// # Errors
    /// A value that can not be used, named with what would be right.
    pub(in crate::config) fn check(&self) -> Result<()> {
        self.check_counts()?;
        self.check_numbers()?;
        if Mean::named(self.aggregation_name(), 1).is_none() {
            return Err(Error::config(format!(
                "`train.aggregation` is \"{}\", but must be token-mean, seq-mean-token-sum, seq-mean-token-mean or \
                 seq-mean-token-sum-norm",
                self.aggregation_name()
            )));
        }
        if self.tis_cap.is_some() && self.old_log_probs == OldLogProbs::Rollout {
            return Err(Error::config(
                "`train.tis_cap` corrects old log-probabilities that are recomputed; with `train.old_log_probs` = \
                 \"rollout\" the ratio itself is to the rollout, and one of the two must go",
            ));
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<()> {
        let counts = [
            ("prompts_per_step", self.prompts_per_step),
            ("samples_per_prompt", self.samples_per_prompt),
            ("minibatches", self.minibatches),
            ("max_new_tokens", self.max_new_tokens),
            ("rollout_batch", self.rollout_batch),
            ("micro_batch_tokens", self.micro_batch_tokens),
            ("generation_rounds", self.generation_rounds),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::config(format!("`train.{key}` is 0, but must be at least 1")));
        }
        if self.minibatches > self.prompts_per_step {
            return Err(Error::config("`train.minibatches` exceeds `train.prompts_per_step`"));
        }
        if self.dropping_rounds().is_some() && self.samples_per_prompt == 1 {
            return Err(Error::config(
                "`train.samples_per_prompt` is 1, but dynamic sampling drops every group of one; take at least 2, or \
                 set `train.dynamic_sampling` to false",
            ));
        }
        if self.overlong_tokens() > self.max_new_tokens {
            return Err(Error::config(format!(
                "`train.overlong_buffer` is {}, but must be at most `train.max_new_tokens`, {}",
                self.overlong_tokens(),
                self.max_new_tokens
            )));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<()> {
        let clip = self.clip();
        let above_0 = |x: f64| (x, "above 0", x > 0.0);
        let at_least_0 = |x: f32| (x.into(), "at least 0", x >= 0.0);
        let checks: [(&str, (f64, &str, bool)); 9] = [
            ("learning_rate", above_0(self.learning_rate)),
            ("temperature", above_0(self.temperature.into())),
            ("clip_low", (clip.low.into(), "from 0 to 1", (0.0..=1.0).contains(&clip.low))),
            ("clip_high", at_least_0(clip.high)),
            ("dual_clip", (clip.dual.into(), "above 1", clip.dual > 1.0)),
            ("kl_coefficient", at_least_0(self.kl_coefficient)),
            ("entropy_coefficient", at_least_0(self.entropy_coefficient)),
            ("overlong_factor", at_least_0(self.overlong_factor)),
            ("tis_cap", above_0(self.tis_cap.unwrap_or(1.0).into())),
        ];
        match checks.into_iter().find(|(_, (x, _, right))| !(*right && x.is_finite())) {
            None => Ok(()),
            // As f32, which is how most of them were given: 0.1 and not 0.10000000149.
            Some((key, (x, right, _))) => {
                Err(Error::config(format!("`train.{key}` is {}, but must be {right}", x as f32)))
            }
        }
    }
}
