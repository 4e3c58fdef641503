//! Group relative policy optimisation (GRPO, arXiv:2402.03300), under the noise of a plan: sample a group of
//! responses to every prompt, score them, normalise the rewards within each group, and take the clipped step.

use std::{ops::Range, time::Instant};

use burn::tensor::Tensor;
use hardy_model::{Decoder, Generation, Sample, Sampler, generate};
use hardy_ops::{BoundPlan, Noise, NoisyBackend, Phase};
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamW,
    advantage,
    config::{DataSection, OldLogProbs, RunConfig, TrainSection},
    data::{self, Problem, Split},
    diagnosis::not_finite,
    error::{Error, Result},
    gradients::Gradients,
    learning_rate::LearningRate,
    objective::{Loss, Mean, Tokens, add_kl, clipped_surrogate},
    policy::{Policy, log_probs, prompt_sequence, sample_sequence},
    reward::{Extraction, score},
    sampler::{prompts_at_step, steps_per_epoch},
    sequence::{Packed, Sequence, micro_batches},
};

/// A response to a problem, with what it was worth.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The problem's place among the step's prompts.
    pub group: usize,
    /// Prompt and response.
    pub sequence: Sequence,
    /// The response's text.
    pub text: String,
    /// The log-probability of every response token when it was drawn.
    pub log_probs: Vec<f32>,
    /// Whether it ended by itself.
    pub stopped: bool,
    /// Strict and flexible score.
    pub scores: [f32; 2],
}

/// One line of `metrics.jsonl`. Keys of durations and rates end in `_seconds` and `_per_second`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step, from 1: so many updates have been made.
    pub step: u64,
    /// Epochs of the training problems begun.
    pub epoch: u64,
    /// Mean reward of the step's responses.
    pub reward_mean: f64,
    /// Its standard deviation.
    pub reward_std: f64,
    /// Share of responses that are right in the rewarded form.
    pub strict_accuracy: f64,
    /// Share that are right in any form.
    pub flexible_accuracy: f64,
    /// Share of groups whose responses all have the same reward, and so teach nothing.
    pub uniform_groups: f64,
    /// Mean tokens of a response.
    pub response_length_mean: f64,
    /// Share of responses that were cut off.
    pub truncated_share: f64,
    /// The objective's loss, the mean over the minibatches.
    pub loss: f64,
    /// Estimated KL divergence from the starting model; absent where the coefficient is 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl: Option<f64>,
    /// Estimated KL divergence from the old policy.
    pub ppo_kl: f64,
    /// Share of tokens whose ratio was clipped.
    pub clip_share: f64,
    /// Mean ratio to the old policy in the first minibatch; exactly 1 where the old log-probabilities are recomputed.
    pub first_ratio_mean: f64,
    /// Largest |ratio − 1| there.
    pub first_ratio_deviation: f64,
    /// Mean ratio over all minibatches.
    pub ratio_mean: f64,
    /// Largest ratio over all minibatches.
    pub ratio_max: f64,
    /// Mean |log-probability in training − in the rollout| before the first update.
    pub logprob_mismatch: f64,
    /// Mean entropy of the token distributions, in nats.
    pub entropy: f64,
    /// Norm of the gradient before clipping, the mean over the minibatches.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Scale of the adaptive quantisation noise.
    pub aqn_sigma: f64,
    /// Prompt and response tokens of the step.
    pub tokens: u64,
    /// Seconds of sampling.
    pub rollout_seconds: f64,
    /// Seconds of learning.
    pub train_seconds: f64,
    /// Seconds of the step.
    pub step_seconds: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
}

/// A policy in training.
#[derive(Debug)]
pub struct Trainer<B: NoisyBackend> {
    /// The policy.
    pub policy: Policy<B>,
    /// The optimizer.
    pub optimizer: AdamW<B>,
    /// The plan, bound to the policy's sites.
    pub plan: BoundPlan,
    /// Updates made.
    pub steps: u64,
    /// Updates to make.
    pub total_steps: u64,
    reference: Option<Decoder<B>>,
    problems: Vec<Problem>,
    train: TrainSection,
    data: DataSection,
    learning_rate: LearningRate,
    seed: u64,
}

impl<B: NoisyBackend> Trainer<B> {
    /// Makes ready what `config` asks for: its data, its plan bound to the policy's sites, its optimizer.
    ///
    /// # Errors
    /// Data that can not be read, or a plan that does not fit the model.
    pub fn new(
        config: &RunConfig,
        policy: Policy<B>,
        plan: BoundPlan,
        problems: Vec<Problem>,
    ) -> Result<Self> {
        let train = config.train.clone();
        let (total_steps, _) = step_counts(config, problems.len())?;
        let optimizer = AdamW::new(&policy.decoder.parameters, train.betas, train.weight_decay);
        Ok(Self {
            reference: (train.kl_coefficient != 0.0).then(|| policy.decoder.clone()),
            learning_rate: train.learning_rate(total_steps),
            data: config.data.clone(),
            seed: config.seed,
            steps: 0,
            total_steps: total_steps as u64,
            policy,
            optimizer,
            plan,
            problems,
            train,
        })
    }

    /// One step: rollouts, rewards, advantages, and an update for every minibatch. `progress` is told how many of
    /// the step's responses are finished.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; the policy is then as it was before the failing update.
    pub fn step(&mut self, progress: impl FnMut(usize, usize)) -> Result<StepRecord> {
        let started = Instant::now();
        let rollouts = self.rollouts(progress)?;
        let rollout_seconds = started.elapsed().as_secs_f64();
        let advantages = self.advantages(&rollouts);
        let noise = self.plan.noise(Phase::Train, self.steps);
        let sequences: Vec<Sequence> = rollouts.iter().map(|rollout| rollout.sequence.clone()).collect();
        let minibatches = self.minibatches(&rollouts);
        let old = self.old_log_probs(&rollouts, &sequences, &minibatches, &noise);
        let mut record = self.describe(&rollouts);
        for (index, minibatch) in minibatches.iter().enumerate() {
            let old = old.as_ref().map(|old| &old[index][..]);
            let update = self.update(minibatch, &sequences, &advantages, old, &rollouts, &noise)?;
            update.add_to(&mut record, index, minibatches.len());
        }
        self.steps += 1;
        record.rollout_seconds = rollout_seconds;
        record.step_seconds = started.elapsed().as_secs_f64();
        record.train_seconds = record.step_seconds - rollout_seconds;
        record.tokens_per_second = record.tokens as f64 / record.step_seconds;
        Ok(record)
    }

    /// Samples a group of responses to each of the step's prompts, and scores them.
    fn rollouts(&self, mut progress: impl FnMut(usize, usize)) -> Result<Vec<Rollout>> {
        let train = &self.train;
        let chosen =
            prompts_at_step(self.problems.len(), train.prompts_per_step, self.seed, self.steps as usize);
        let problems: Vec<&Problem> = chosen.iter().map(|&index| &self.problems[index]).collect();
        let prompts =
            self.policy.prompts(problems.iter().copied(), &self.data.prompt, train.samples_per_prompt)?;
        let how = Generation {
            max_new_tokens: train.max_new_tokens,
            stop: self.policy.stop(),
            sampler: Sampler { temperature: train.temperature, top_p: train.top_p, top_k: train.top_k },
            batch: train.rollout_batch,
            key: Generation::key(self.seed, Phase::Rollout.name(), self.steps),
        };
        let noise = self.plan.noise(Phase::Rollout, self.steps);
        let total = prompts.len() * train.samples_per_prompt;
        let samples = generate(&self.policy.decoder, &prompts, &how, &noise, |done| progress(done, total));
        let mut rollouts = Vec::with_capacity(total);
        for (group, ((prompt, samples), problem)) in prompts.iter().zip(samples).zip(problems).enumerate() {
            for (index, sample) in samples.into_iter().enumerate() {
                rollouts.push(self.rollout(group, problem, &prompt.ids, index, sample)?);
            }
        }
        Ok(rollouts)
    }

    fn rollout(
        &self,
        group: usize,
        problem: &Problem,
        prompt: &[u32],
        index: usize,
        sample: Sample,
    ) -> Result<Rollout> {
        let text = self.policy.tokenizer.decode(&sample.ids, true)?;
        let truth = problem.truth();
        let scores = [Extraction::Strict, Extraction::Flexible].map(|how| score(&text, &truth, how));
        let sequence = Sequence {
            ids: [prompt, &sample.ids].concat(),
            prompt_length: prompt.len(),
            prompt: prompt_sequence(problem.id),
            sample: sample_sequence(problem.id, index),
        };
        Ok(Rollout { group, sequence, text, log_probs: sample.log_probs, stopped: sample.stopped, scores })
    }

    fn reward(&self, rollout: &Rollout) -> f32 {
        rollout.scores[usize::from(self.train.reward == Extraction::Flexible)]
    }

    /// One advantage a response.
    fn advantages(&self, rollouts: &[Rollout]) -> Vec<f32> {
        let rewards: Vec<f32> = rollouts.iter().map(|rollout| self.reward(rollout)).collect();
        let groups: Vec<usize> = rollouts.iter().map(|rollout| rollout.group).collect();
        advantage::grpo(&rewards, &groups, advantage::EPSILON)
    }

    /// The step's responses in as many parts as there are updates, whole groups each.
    fn minibatches(&self, rollouts: &[Rollout]) -> Vec<Range<usize>> {
        let size =
            self.train.prompts_per_step.div_ceil(self.train.minibatches) * self.train.samples_per_prompt;
        let ends = |start| start..rollouts.len().min(start + size);
        (0..rollouts.len()).step_by(size).map(ends).collect()
    }

    /// The old log-probabilities of every minibatch; `None` where the first pass over the only one gives them.
    fn old_log_probs(
        &self,
        rollouts: &[Rollout],
        sequences: &[Sequence],
        minibatches: &[Range<usize>],
        noise: &Noise,
    ) -> Option<Vec<Vec<f32>>> {
        let of_rollout = |range: &Range<usize>| {
            rollouts[range.clone()].iter().flat_map(|rollout| rollout.log_probs.iter().copied()).collect()
        };
        match self.train.old_log_probs {
            OldLogProbs::Rollout => Some(minibatches.iter().map(of_rollout).collect()),
            OldLogProbs::Recompute if minibatches.len() == 1 => None,
            // The same parts as in the update, so that equal parameters give equal bits.
            OldLogProbs::Recompute => Some(
                minibatches
                    .iter()
                    .map(|range| self.current_log_probs(&sequences[range.clone()], noise))
                    .collect(),
            ),
        }
    }

    fn current_log_probs(&self, sequences: &[Sequence], noise: &Noise) -> Vec<f32> {
        let parts = micro_batches(sequences, self.train.micro_batch_tokens).into_iter();
        let part = |range: Range<usize>| {
            let packed = Packed::new(&sequences[range]);
            let (log_probs, _) = log_probs(&self.policy.decoder, &packed, noise, self.train.temperature);
            host(&log_probs)
        };
        parts.flat_map(part).collect()
    }

    /// One update of the policy on a minibatch.
    fn update(
        &mut self,
        minibatch: &Range<usize>,
        sequences: &[Sequence],
        advantages: &[f32],
        old: Option<&[f32]>,
        rollouts: &[Rollout],
        noise: &Noise,
    ) -> Result<Update> {
        let (sequences, rollouts) = (&sequences[minibatch.clone()], &rollouts[minibatch.clone()]);
        let advantages = &advantages[minibatch.clone()];
        let lengths: Vec<usize> = sequences.iter().map(Sequence::response_length).collect();
        let weights = self.mean().weights(&lengths);
        let mut update = Update::default();
        let mut gradients = Gradients::zeros(&self.policy.decoder);
        let tracked = self.policy.decoder.tracked();
        let mut first_token = 0;
        for part in micro_batches(sequences, self.train.micro_batch_tokens) {
            let packed = Packed::new(&sequences[part.clone()]);
            let tokens = first_token..first_token + packed.targets.len();
            first_token = tokens.end;
            let (log_probs, entropy) = log_probs(&tracked, &packed, noise, self.train.temperature);
            let current = host(&log_probs);
            let old = old.map_or(&current[..], |old| &old[tokens.clone()]);
            let advantage: Vec<f32> =
                part.clone().flat_map(|i| std::iter::repeat_n(advantages[i], lengths[i])).collect();
            let weight = &weights[tokens];
            let mut loss = clipped_surrogate(
                &Tokens {
                    logprob: &current,
                    old_logprob: old,
                    advantage: &advantage,
                    weight,
                    rollout_weight: None,
                },
                self.train.clip(),
            );
            let kl = self.add_reference(&mut loss, &current, weight, &packed);
            let drawn = rollouts[part].iter().flat_map(|rollout| &rollout.log_probs);
            update.add_part(&loss, kl, &current, old, drawn, &entropy);
            if !loss.value.is_finite() {
                return Err(not_finite(&self.policy.decoder, &packed, noise, self.steps + 1, "loss"));
            }
            gradients.backward(&tracked, log_probs, &loss.d_logprob);
        }
        update.grad_norm = gradients.norm();
        if !update.grad_norm.is_finite() {
            let packed = Packed::new(sequences);
            return Err(not_finite(&self.policy.decoder, &packed, noise, self.steps + 1, "gradient"));
        }
        let gradients = gradients.clipped(update.grad_norm, self.train.max_grad_norm);
        let rate = self.learning_rate.at(self.steps as usize);
        drop(tracked);
        self.optimizer.step(&mut self.policy.decoder.parameters, gradients, rate);
        Ok(update)
    }

    /// Adds the divergence from the starting model to `loss`; gives Σ w·KL.
    fn add_reference(
        &self,
        loss: &mut Loss,
        current: &[f32],
        weight: &[f32],
        packed: &Packed,
    ) -> Option<f32> {
        let reference = self.reference.as_ref()?;
        let (log_probs, _) = log_probs(reference, packed, &Noise::clean(), self.train.temperature);
        let (coefficient, estimator) = (self.train.kl_coefficient, self.train.kl_estimator);
        Some(add_kl(loss, current, &host(&log_probs), weight, coefficient, estimator))
    }

    fn mean(&self) -> Mean {
        // The name was checked when the configuration was read.
        Mean::named(&self.train.aggregation, self.train.max_new_tokens).unwrap_or(Mean::TokenMean)
    }

    /// What can be said of the rollouts alone.
    fn describe(&self, rollouts: &[Rollout]) -> StepRecord {
        let n = rollouts.len() as f64;
        let mean = |of: &dyn Fn(&Rollout) -> f64| rollouts.iter().map(of).sum::<f64>() / n;
        let reward_mean = mean(&|rollout| f64::from(self.reward(rollout)));
        let variance = mean(&|rollout| (f64::from(self.reward(rollout)) - reward_mean).powi(2));
        let groups = rollouts.chunk_by(|a, b| a.group == b.group);
        let uniform =
            groups.clone().filter(|g| g.iter().all(|r| self.reward(r) == self.reward(&g[0]))).count();
        let per_epoch = steps_per_epoch(self.problems.len(), self.train.prompts_per_step) as u64;
        let sigma =
            |rule: &hardy_ops::Rule| rule.schedule.as_ref().and_then(|s| s.get(self.steps as usize).copied());
        StepRecord {
            step: self.steps + 1,
            epoch: self.steps / per_epoch + 1,
            reward_mean,
            reward_std: variance.sqrt(),
            strict_accuracy: mean(&|rollout| f64::from(rollout.scores[0])),
            flexible_accuracy: mean(&|rollout| f64::from(rollout.scores[1])),
            uniform_groups: uniform as f64 / groups.count() as f64,
            response_length_mean: mean(&|rollout| rollout.sequence.response_length() as f64),
            truncated_share: mean(&|rollout| f64::from(u8::from(!rollout.stopped))),
            learning_rate: self.learning_rate.at(self.steps as usize),
            aqn_sigma: self.plan.plan().rules.iter().find_map(sigma).unwrap_or(0.0),
            tokens: rollouts.iter().map(|rollout| rollout.sequence.ids.len() as u64).sum(),
            ..StepRecord::default()
        }
    }
}

/// What one update says of itself, summed over its tokens.
#[derive(Default)]
struct Update {
    loss: f64,
    kl: Option<f64>,
    tokens: f64,
    clipped: f64,
    kl_old: f64,
    ratio: f64,
    ratio_max: f64,
    ratio_deviation: f64,
    mismatch: f64,
    entropy: f64,
    grad_norm: f64,
}

impl Update {
    fn add_part<'a>(
        &mut self,
        loss: &Loss,
        kl: Option<f32>,
        current: &[f32],
        old: &[f32],
        drawn: impl Iterator<Item = &'a f32>,
        entropy: &[f32],
    ) {
        let n = current.len() as f64;
        self.loss += f64::from(loss.value);
        if let Some(kl) = kl {
            *self.kl.get_or_insert_default() += f64::from(kl);
        }
        self.tokens += n;
        self.clipped += f64::from(loss.clipped) * n;
        self.kl_old += f64::from(loss.kl_old) * n;
        for (current, old) in current.iter().zip(old) {
            let ratio = f64::from(current - old).exp();
            self.ratio += ratio;
            self.ratio_max = self.ratio_max.max(ratio);
            self.ratio_deviation = self.ratio_deviation.max((ratio - 1.0).abs());
        }
        self.mismatch += current.iter().zip(drawn).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        self.entropy += entropy.iter().map(|&h| f64::from(h)).sum::<f64>();
    }

    /// Adds the share of one of `count` updates to the step's record.
    fn add_to(&self, record: &mut StepRecord, index: usize, count: usize) {
        let share = |sum: f64| sum / self.tokens.max(1.0) / count as f64;
        record.loss += self.loss / count as f64;
        if let Some(kl) = self.kl {
            *record.kl.get_or_insert_default() += kl / count as f64;
        }
        record.clip_share += share(self.clipped);
        record.ppo_kl += share(self.kl_old);
        record.ratio_mean += share(self.ratio);
        record.ratio_max = record.ratio_max.max(self.ratio_max);
        record.entropy += share(self.entropy);
        record.grad_norm += self.grad_norm / count as f64;
        if index == 0 {
            record.first_ratio_mean = self.ratio / self.tokens.max(1.0);
            record.first_ratio_deviation = self.ratio_deviation;
            record.logprob_mismatch = self.mismatch / self.tokens.max(1.0);
        }
    }
}

/// Steps of the run and of an epoch, for `problems` training problems.
///
/// # Errors
/// A run without a step.
pub fn step_counts(config: &RunConfig, problems: usize) -> Result<(usize, usize)> {
    let per_epoch = steps_per_epoch(problems, config.train.prompts_per_step);
    let total = config.train.steps.unwrap_or(per_epoch * config.train.epochs.unwrap_or(1));
    if total == 0 {
        return Err(Error::config("the run has no step: `train.steps` or `train.epochs` is 0"));
    }
    Ok((total, per_epoch))
}

/// The training problems that `config` names.
///
/// # Errors
/// A data set that can not be read.
pub fn training_problems(config: &RunConfig) -> Result<Vec<Problem>> {
    Ok(data::load(&config.data.train, Split::Train, config.seed, config.data.train_problems)?)
}

fn host<B: NoisyBackend>(x: &Tensor<B, 2>) -> Vec<f32> {
    B::host(&x.clone().into_primitive().tensor()).to_vec()
}
