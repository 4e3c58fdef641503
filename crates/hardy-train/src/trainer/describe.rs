//! What can be said of a step from its rollouts alone.

use hardy_ops::NoisyBackend;

use super::Trainer;
use crate::{
    rollout::{Rollout, Sampled, groups, is_uniform},
    sampler::steps_per_epoch,
    step_record::StepRecord,
};

impl<B: NoisyBackend> Trainer<B> {
    /// The record of a step that has been sampled but not yet learned from.
    pub(super) fn describe(&self, sampled: &Sampled) -> StepRecord {
        let mean = |of: &dyn Fn(&Rollout) -> f64| mean(sampled.all(), of);
        let reward_mean = mean(&|rollout| rollout.reward().into());
        let variance = mean(&|rollout| (f64::from(rollout.reward()) - reward_mean).powi(2));
        let dropping = self.train.dropping_rounds().is_some() && !sampled.kept.is_empty();
        let of_kept = |of: &dyn Fn(&Rollout) -> f64| dropping.then(|| self::mean(sampled.kept.iter(), of));
        let penalised = self.train.overlong_tokens() > 0;
        let per_epoch = steps_per_epoch(self.problems.len(), self.train.prompts_per_step) as u64;
        StepRecord {
            step: self.steps + 1,
            epoch: self.steps / per_epoch + 1,
            reward_mean,
            reward_std: variance.sqrt(),
            strict_accuracy: mean(&|rollout| rollout.scores[0].into()),
            flexible_accuracy: mean(&|rollout| rollout.scores[1].into()),
            overlong_penalty_mean: penalised.then(|| mean(&|rollout| rollout.penalty.into())),
            kept_reward_mean: of_kept(&|rollout| rollout.reward().into()),
            kept_strict_accuracy: of_kept(&|rollout| rollout.scores[0].into()),
            generation_rounds: sampled.rounds as u64,
            groups_sampled: (groups(&sampled.kept) + groups(&sampled.dropped)) as u64,
            groups_dropped: groups(&sampled.dropped) as u64,
            uniform_groups: uniform_share(sampled),
            response_length_mean: mean(&|rollout| rollout.sequence.response_length() as f64),
            truncated_share: mean(&|rollout| f64::from(u8::from(!rollout.stopped))),
            learning_rate: self.learning_rate.at(self.steps as usize),
            aqn_sigma: self.aqn_sigma(),
            tokens: sampled.all().map(|rollout| rollout.sequence.ids.len() as u64).sum(),
            ..StepRecord::default()
        }
    }

    fn aqn_sigma(&self) -> f64 {
        let sigma =
            |rule: &hardy_ops::Rule| rule.schedule.as_ref().and_then(|s| s.get(self.steps as usize).copied());
        self.plan.plan().rules.iter().find_map(sigma).unwrap_or(0.0)
    }
}

fn mean<'a>(rollouts: impl Iterator<Item = &'a Rollout>, of: &dyn Fn(&Rollout) -> f64) -> f64 {
    let (sum, n) = rollouts.fold((0.0, 0.0), |(sum, n), rollout| (sum + of(rollout), n + 1.0));
    sum / n
}

fn uniform_share(sampled: &Sampled) -> f64 {
    let parts = [&sampled.kept, &sampled.dropped];
    let all = || parts.into_iter().flat_map(|part| part.chunk_by(|a, b| a.group == b.group));
    all().filter(|group| is_uniform(group)).count() as f64 / all().count() as f64
}
