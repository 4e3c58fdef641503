//! What a step says of itself, from its rollouts and its updates: the one place where its record is filled.

use std::collections::BTreeMap;

use hardy_ops::{NoisyBackend, Rule};

use super::{Trainer, tally::Updates};
use crate::{
    config::OldLogProbs,
    digest::{hex, of_digests, of_values, short_hex},
    gradients::digests,
    rollout::{Rollout, Sampled, groups, is_uniform},
    sampler::steps_per_epoch,
    step_record::{StepRecord, TensorHashes},
};

impl<B: NoisyBackend> Trainer<B> {
    /// The record of the step that was sampled and learned from last, in so many seconds.
    pub(super) fn record(
        &self,
        sampled: &Sampled,
        updates: &Updates,
        rollout_seconds: f64,
        step_seconds: f64,
    ) -> StepRecord {
        let mean = |of: &dyn Fn(&Rollout) -> f64| mean(sampled.all(), of);
        let reward_mean = mean(&|rollout| rollout.reward().into());
        let variance = mean(&|rollout| (f64::from(rollout.reward()) - reward_mean).powi(2));
        let dropping = self.train.dropping_rounds().is_some() && !sampled.kept.is_empty();
        let of_kept = |of: &dyn Fn(&Rollout) -> f64| dropping.then(|| self::mean(sampled.kept.iter(), of));
        let penalised = self.train.overlong_tokens() > 0;
        let per_epoch = steps_per_epoch(self.problems.len(), self.train.prompts_per_step) as u64;
        let recomputed = self.train.old_log_probs == OldLogProbs::Recompute;
        let mismatch = updates.mismatch(if recomputed { usize::MAX } else { 1 });
        let sigmas = self.aqn_sigmas();
        let guided = |of: fn(f64, f64) -> f64| sigmas.iter().copied().reduce(of).filter(|_| sigmas.len() > 1);
        let tokens = sampled.all().map(|rollout| rollout.sequence.ids.len() as u64).sum();
        let (gradients, weights) = (updates.digests(), digests(self.policy.decoder.trained()));
        StepRecord {
            step: self.steps + 1,
            epoch: self.steps / per_epoch + 1,
            reward_mean,
            reward_std: variance.sqrt(),
            named: named_means(sampled).into_iter().chain(self.sigmas_by_layer()).collect(),
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
            nonfinite_responses: sampled.all().filter(|rollout| rollout.non_finite).count() as u64,
            updates: updates.made(),
            skipped_updates: updates.skipped,
            loss: updates.mean(|tally| tally.loss),
            kl: updates.mean_of_some(|tally| tally.kl),
            ppo_kl: updates.mean(|tally| tally.per_token(tally.kl_old)),
            clip_share: updates.mean(|tally| tally.per_token(tally.clipped)),
            first_ratio_mean: updates.first().map_or(0.0, |tally| tally.per_token(tally.ratio)),
            first_ratio_deviation: updates.first().map_or(0.0, |tally| tally.ratio_deviation),
            ratio_mean: updates.mean(|tally| tally.per_token(tally.ratio)),
            ratio_max: updates.largest(|tally| tally.ratio_max),
            logprob_mismatch: mismatch.mean_difference(),
            effective_sample_size: mismatch.effective_sample_size(),
            importance_weight_max: mismatch.largest_weight(),
            tis_capped_share: updates.mean_of_some(|tally| Some(tally.per_token(tally.capped?))),
            icepop_masked_share: updates.mean_of_some(|tally| Some(tally.per_token(tally.masked?))),
            score_drift: updates.mean_of_some(|tally| Some(tally.per_token(tally.drift?))),
            entropy: updates.mean(|tally| tally.per_token(tally.entropy)),
            grad_norm: updates.mean(|tally| tally.grad_norm),
            learning_rate: self.learning_rate.at(self.steps as usize),
            aqn_sigma: sigmas.iter().sum::<f64>() / sigmas.len().max(1) as f64,
            aqn_sigma_min: guided(f64::min),
            aqn_sigma_max: guided(f64::max),
            tokens,
            rollouts_hash: hex(of_digests(&sampled.all().map(digest_of).collect::<Vec<_>>())),
            gradients_hash: hex(of_digests(&gradients)),
            weights_hash: hex(of_digests(&weights)),
            tensor_hashes: TensorHashes {
                step: self.steps + 1,
                gradients: short_hex(&gradients),
                weights: short_hex(&weights),
            },
            rollout_seconds,
            old_log_probs_seconds: updates.old_log_probs_seconds,
            train_seconds: step_seconds - rollout_seconds,
            step_seconds,
            tokens_per_second: tokens as f64 / step_seconds,
            warnings: Vec::new(),
        }
    }

    /// The learned scale of the adaptive quantisation noise in every layer, and in the norm after the last.
    fn sigmas_by_layer(&self) -> Vec<(String, f64)> {
        let (layers, rules) = (self.policy.decoder.layers(), &self.plan.plan().rules);
        let named = |(place, rule): (usize, usize)| {
            let layer = if place < layers { place.to_string() } else { "norm".to_owned() };
            Some((format!("aqn_sigma/{layer}"), rules[rule].error.scale()?))
        };
        self.plan.learned().into_iter().enumerate().filter_map(named).collect()
    }

    /// The scale of the adaptive quantisation noise in every group of layers, one rule each.
    fn aqn_sigmas(&self) -> Vec<f64> {
        let at = |rule: &Rule| match &rule.schedule {
            Some(schedule) => schedule.get(self.steps as usize).copied(),
            None => rule.error.scale().filter(|_| rule.learned),
        };
        self.plan.plan().rules.iter().filter_map(at).collect()
    }
}

/// The digest of a response: its tokens, and the log-probabilities with which they were drawn.
fn digest_of(rollout: &Rollout) -> u128 {
    let ids: Vec<f32> = rollout.sequence.ids.iter().map(|&id| f32::from_bits(id)).collect();
    of_digests(&[of_values(&ids), of_values(&rollout.log_probs)])
}

fn mean<'a>(rollouts: impl Iterator<Item = &'a Rollout>, of: &dyn Fn(&Rollout) -> f64) -> f64 {
    let (sum, n) = rollouts.fold((0.0, 0.0), |(sum, n), rollout| (sum + of(rollout), n + 1.0));
    sum / n
}

/// The mean of everything that graders name, over the responses of which they name it.
fn named_means(sampled: &Sampled) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (name, x) in sampled.all().flat_map(|rollout| &rollout.named) {
        let (sum, n) = sums.entry(name).or_default();
        (*sum, *n) = (*sum + x, *n + 1.0);
    }
    sums.into_iter().map(|(name, (sum, n))| (format!("reward/{name}"), sum / n)).collect()
}

fn uniform_share(sampled: &Sampled) -> f64 {
    let parts = [&sampled.kept, &sampled.dropped];
    let all = || parts.into_iter().flat_map(|part| part.chunk_by(|a, b| a.group == b.group));
    all().filter(|group| is_uniform(group)).count() as f64 / all().count() as f64
}
