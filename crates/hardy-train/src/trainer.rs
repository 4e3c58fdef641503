//! Group relative policy optimisation (GRPO, arXiv:2402.03300) and its kin, under the noise of a plan: sample a group
//! of responses to every prompt, score them, compare the rewards within each group, and take the clipped step.

mod centering;
mod describe;
mod handing;
mod minibatch;
mod rollouts;
mod tally;
mod update;
mod zero;

use std::{ops::Range, path::Path, time::Instant};

use hardy_model::{Decoder, Dropout};
use hardy_ops::{BoundPlan, Noise, NoisyBackend, Phase};

use crate::{
    adamw::AdamW,
    advantage,
    algorithm::Algorithm,
    checkpoint::{self, Counts, Learner, Restoring},
    config::{DataSection, OldLogProbs, RunConfig, TrainSection},
    data::{self, Problem, Split, answers_for},
    error::{Error, Result},
    learned_sigma::LearnedSigma,
    learning_rate::LearningRate,
    policy::{Policy, columns, log_probs},
    reward::Judge,
    rollout::{Rollout, groups},
    sampler::steps_per_epoch,
    sequence::Packed,
    step_record::StepRecord,
    workers::Workers,
};

pub use handing::sum_receipts;
pub(crate) use handing::{follow, gather_receipts};
pub(crate) use minibatch::shares;
use minibatch::{Minibatch, Part};
use tally::Updates;

/// Parameters from which on the memory of a phase is returned before the next one: each page costs a fault when it is taken
/// again, which does not count where a step takes long.
const LARGE: usize = 1 << 26;

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
    /// How many updates in a row were last left out because they were not finite.
    pub nonfinite_in_row: u64,
    /// Who shares the work.
    pub workers: Workers,
    /// Has memory that was freed returned to the system, where the allocator keeps it.
    pub return_freed_memory: fn(),
    /// The parameters whose moments are kept here, where the optimizer is shared out.
    own_parameters: Option<Range<usize>>,
    /// The policy as it started, adapters and all.
    reference: Option<Decoder<B>>,
    /// Whether adapters drop inputs in training.
    dropout: bool,
    /// What responses earn.
    pub judge: Judge,
    problems: Vec<Problem>,
    train: TrainSection,
    data: DataSection,
    learning_rate: LearningRate,
    /// The sigmas of AQN, where they are learned.
    sigma: Option<LearnedSigma>,
    seed: u64,
}

impl<B: NoisyBackend> Trainer<B> {
    /// Makes ready what `config` asks for: its data, its plan bound to the policy's sites, its optimizer.
    ///
    /// # Errors
    /// Data that can not be read, a plan that does not fit the model, or a reward program that can not be started.
    pub fn new(
        config: &RunConfig,
        policy: Policy<B>,
        mut plan: BoundPlan,
        problems: Vec<Problem>,
    ) -> Result<Self> {
        let train = config.train.clone();
        let sigma = LearnedSigma::new(config.aqn.as_ref(), &plan, train.betas);
        if let Some(sigma) = &sigma {
            sigma.apply(&mut plan);
        }
        let (total_steps, _) = step_counts(config, problems.len())?;
        let optimizer = AdamW::new(policy.decoder.trained(), train.betas, train.weight_decay);
        Ok(Self {
            reference: (train.kl_coefficient != 0.0).then(|| policy.decoder.clone().narrowed()),
            dropout: policy.decoder.blueprint.adapters.as_ref().is_some_and(|held| held.lora.dropout > 0.0),
            learning_rate: train.learning_rate(total_steps),
            sigma,
            data: config.data.clone(),
            judge: Judge::new(&config.rewards())?,
            seed: config.seed,
            steps: 0,
            nonfinite_in_row: 0,
            workers: Workers::alone(),
            return_freed_memory: || (),
            own_parameters: None,
            total_steps: total_steps as u64,
            policy,
            optimizer,
            plan,
            problems,
            train,
        })
    }

    /// The problems that are learned from.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What a checkpoint is made of.
    pub fn learner(&self) -> Learner<'_, B> {
        let counts = Counts { step: self.steps, nonfinite_in_row: self.nonfinite_in_row };
        let Self { policy, optimizer, plan, sigma, .. } = self;
        Learner { policy, optimizer, plan, counts, sigma: sigma.as_ref() }
    }

    /// Goes back to the checkpoint in `dir`; gives what the reader of its receipts should know, if anything.
    ///
    /// # Errors
    /// A checkpoint that is not whole, or belongs to another model.
    pub fn restore(&mut self, dir: &Path) -> Result<Option<String>> {
        let Self { policy, optimizer, plan, sigma, .. } = self;
        let (counts, note) =
            checkpoint::restore(dir, Restoring { policy, optimizer, plan, sigma: sigma.as_mut() })?;
        if let Some(sigma) = &self.sigma {
            sigma.apply(&mut self.plan);
        }
        (self.steps, self.nonfinite_in_row) = (counts.step, counts.nonfinite_in_row);
        Ok(note)
    }

    /// One step: rollouts, rewards, advantages, and an update for every minibatch. `progress` is told how many of
    /// a round's responses are finished. Where dynamic sampling keeps no group there is no update.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, unless such updates are left out, or too many of them in a row; the policy
    /// is then as it was before the failing update.
    pub fn step(&mut self, progress: impl FnMut(usize, usize) + Send) -> Result<StepRecord> {
        let started = Instant::now();
        let sampled = self.sample(progress)?;
        self.phase_ended();
        let rollout_seconds = started.elapsed().as_secs_f64();
        let updates = self.learn(&sampled.kept)?;
        self.phase_ended();
        let record = self.record(&sampled, &updates, rollout_seconds, started.elapsed().as_secs_f64());
        self.learn_sigma(&updates);
        self.steps += 1;
        Ok(record)
    }

    /// Returns the memory of a large model's phase, rollout, update or evaluation: the next one takes pieces of other sizes, for
    /// which what was freed has no room in one piece.
    pub fn phase_ended(&self) {
        if self.policy.decoder.blueprint.config.parameter_count() >= LARGE {
            (self.return_freed_memory)();
        }
    }

    /// An update for every minibatch of `rollouts`, as often as is asked for. All of a step's updates see the same errors,
    /// so that the ratio to the old policy is that of the weights alone.
    fn learn(&mut self, rollouts: &[Rollout]) -> Result<Updates> {
        let advantages = self.advantages(rollouts);
        let noise = self.plan.noise(Phase::Train, self.steps);
        let mut minibatches = self.minibatches(rollouts, &advantages);
        let started = Instant::now();
        self.fill_old_log_probs(&mut minibatches, &noise)?;
        let mut updates = Updates::after(started.elapsed().as_secs_f64());
        for _ in 0..self.train.updates_per_rollout {
            for minibatch in &minibatches {
                updates.add(self.update(minibatch, &noise)?);
            }
        }
        Ok(updates)
    }

    /// Moves learned sigmas by the mean of their gradients in the step's updates, all of which saw the same errors: once a
    /// step, from the next one on.
    fn learn_sigma(&mut self, updates: &Updates) {
        let Some(sigma) = self.sigma.as_mut().filter(|_| updates.made() > 0) else { return };
        let of = |rule: usize| updates.mean(|tally| tally.scales[rule]);
        let gradients: Vec<f64> = (0..self.plan.learned().len()).map(of).collect();
        sigma.step(&gradients, &mut self.plan);
    }

    /// The parts of a block of a minibatch, as this step trains on them.
    fn parts<'a>(
        &'a self,
        minibatch: &'a Minibatch,
        block: usize,
        share: bool,
    ) -> impl Iterator<Item = (Part, Packed)> + 'a {
        let dropout = self.dropout.then_some(Dropout { seed: self.seed, step: self.steps });
        minibatch.parts(block, self.train.micro_batch_tokens, share).map(move |(part, mut packed)| {
            packed.batch.dropout = dropout;
            (part, packed)
        })
    }

    /// One advantage a response.
    fn advantages(&self, rollouts: &[Rollout]) -> Vec<f32> {
        let rewards: Vec<f32> = rollouts.iter().map(Rollout::reward).collect();
        let groups: Vec<usize> = rollouts.iter().map(|rollout| rollout.group).collect();
        match self.train.algorithm {
            Algorithm::DrGrpo => advantage::dr_grpo(&rewards, &groups),
            Algorithm::Grpo | Algorithm::Dapo | Algorithm::Gspo => {
                advantage::grpo(&rewards, &groups, advantage::EPSILON)
            }
        }
    }

    /// The step's responses in as many parts as there are updates, whole groups each.
    fn minibatches(&self, rollouts: &[Rollout], advantages: &[f32]) -> Vec<Minibatch> {
        let train = &self.train;
        let mut rest = (rollouts, advantages);
        let minibatch = |groups: usize| {
            let (rollouts, others) = rest.0.split_at(groups * train.samples_per_prompt);
            let (advantages, their) = rest.1.split_at(rollouts.len());
            rest = (others, their);
            Minibatch::new(rollouts, advantages, train.mean(), train.filter_truncated, train.gradient_blocks)
        };
        shares(groups(rollouts), train.minibatches).map(minibatch).collect()
    }

    /// Gives every minibatch its old log-probabilities, unless the only pass over the only one does.
    fn fill_old_log_probs(&self, minibatches: &mut [Minibatch], noise: &Noise) -> Result<()> {
        let only_one = minibatches.len() == 1 && self.train.updates_per_rollout == 1;
        for minibatch in minibatches {
            minibatch.old = match self.train.old_log_probs {
                OldLogProbs::Rollout => Some(minibatch.drawn.clone()),
                OldLogProbs::Recompute if only_one => None,
                OldLogProbs::Recompute => Some(self.current_log_probs(minibatch, noise)?),
            };
        }
        Ok(())
    }

    fn current_log_probs(&self, minibatch: &Minibatch, noise: &Noise) -> Result<Vec<f32>> {
        let part = |(_, packed): (Part, Packed)| {
            let [log_probs, _] =
                columns(&log_probs(&self.policy.decoder, &packed, noise, self.train.temperature));
            log_probs
        };
        // A token's log-probability is the same to the bit in whatever part, with its prompt shared or not.
        let own = self.workers.share(minibatch.blocks.len());
        self.workers.concat(own.flat_map(|block| self.parts(minibatch, block, true).flat_map(part)).collect())
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
    let source = config.data.source(&config.data.train, answers_for(&config.rewards()));
    Ok(data::load(&source, Split::Train, config.seed, config.data.train_problems)?)
}
