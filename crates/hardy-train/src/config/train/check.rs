//! What `[train]` can not be, apart from numbers out of range: values that exclude each other.

use super::{OldLogProbs, TrainSection};
use crate::{
    algorithm::Algorithm,
    error::{Error, Result},
    objective::Mean,
};

impl TrainSection {
    /// Checks the values that depend on each other.
    ///
    /// # Errors
    /// A value that can not be used, named with what would be right.
    pub(in crate::config) fn check(&self) -> Result<()> {
        self.check_counts()?;
        if Mean::named(self.aggregation_name(), 1).is_none() {
            return Err(Error::config(format!(
                "`train.aggregation` is \"{}\", but must be token-mean, seq-mean-token-sum, seq-mean-token-mean or \
                 seq-mean-token-sum-norm",
                self.aggregation_name()
            )));
        }
        self.check_correction()?;
        self.check_centering()?;
        if self.min_learning_rate > self.learning_rate {
            return Err(Error::config(format!(
                "`train.min_learning_rate` is {:e}, but must be at most `train.learning_rate`, {:e}",
                self.min_learning_rate, self.learning_rate
            )));
        }
        Ok(())
    }

    /// Checks what corrects for rollouts under other errors than training.
    fn check_correction(&self) -> Result<()> {
        let key = match (self.tis_cap, self.icepop_bound) {
            (Some(_), Some(_)) => {
                return Err(Error::config(
                    "`train.tis_cap` truncates the weights that `train.icepop_bound` masks; one of the two must go",
                ));
            }
            (Some(_), None) => "tis_cap",
            (None, Some(_)) => "icepop_bound",
            (None, None) => return Ok(()),
        };
        if self.old_log_probs == OldLogProbs::Rollout {
            return Err(Error::config(format!(
                "`train.{key}` corrects old log-probabilities that are recomputed; with `train.old_log_probs` = \
                 \"rollout\" the ratio itself is to the rollout, and one of the two must go"
            )));
        }
        Ok(())
    }

    /// Checks what scores can not be centered with: there is one update a step, of the weights that the tokens were drawn
    /// from, and the mean is over all tokens.
    fn check_centering(&self) -> Result<()> {
        let against = [
            ("train.algorithm", "gspo, whose ratio is a whole response's", self.algorithm == Algorithm::Gspo),
            ("train.minibatches", "more than 1", self.minibatches > 1),
            ("train.updates_per_rollout", "more than 1", self.updates_per_rollout > 1),
            ("train.old_log_probs", "\"rollout\"", self.old_log_probs == OldLogProbs::Rollout),
            ("train.top_p", "below 1", self.top_p < 1.0),
            ("train.top_k", "above 0", self.top_k > 0),
        ];
        match against.into_iter().find(|(_, _, against)| self.score_centering && *against) {
            Some((key, is, _)) => Err(Error::config(format!(
                "`{key}` is {is}, but `train.score_centering` needs the whole distribution that a token was drawn from, and \
                 one update of it a step; one of the two must go"
            ))),
            None => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<()> {
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
}
