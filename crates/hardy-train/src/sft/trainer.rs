//! The supervised training loop: the likelihood of worked answers under the errors of a plan.

use std::{ops::Range, path::Path, time::Instant};

use burn_autodiff::Autodiff;
use hardy_model::{Decoder, Dropout};
use hardy_ops::{BoundPlan, Noise, NoisyBackend, Phase, Plan, Streams};
use rayon::prelude::*;

use super::{SftConfig, SftRecord, fresh::fresh};
use crate::{
    adamw::AdamW,
    admission::Asking,
    builtin,
    checkpoint::{self, Counts, Learner, Restoring},
    data::{self, Answers, Problem, Split, styled_answer},
    diagnosis::not_finite,
    error::{Error, Result},
    gradients::Gradients,
    learning_rate::LearningRate,
    policy::Policy,
    recording::Recording,
    sampler::prompts_at_step,
    sequence::{Sequence, parts},
    trainer::{follow, gather_receipts, shares},
    tree::Tree,
    workers::{Workers, reduce},
};

/// A model in supervised training.
#[derive(Debug)]
pub struct SftTrainer<B: NoisyBackend> {
    /// The model.
    pub policy: Policy<B>,
    /// The plan, bound to its sites.
    pub plan: BoundPlan,
    /// Steps taken.
    pub steps: u64,
    /// What should be said before the first step.
    pub warnings: Vec<String>,
    /// Who shares the steps.
    pub workers: Workers,
    config: SftConfig,
    problems: Vec<Problem>,
    optimizer: AdamW<B>,
    learning_rate: LearningRate,
}

impl<B: NoisyBackend> SftTrainer<B> {
    /// Reads or makes the model, and reads the data.
    ///
    /// # Errors
    /// Files that can not be used, or a plan that does not fit.
    pub fn new(config: SftConfig, device: &B::Device) -> Result<Self> {
        let data = &config.data;
        // Only a closing line in another style needs to know the number.
        let answers = if config.rewarded_share.is_some() { Answers::Numbered } else { Answers::Text };
        let source = data.source(&data.train, answers);
        let problems = data::load(&source, Split::Train, config.seed, data.train_problems)?;
        let policy = match (&config.model.new, &config.model.path) {
            (Some(sizes), _) => fresh(sizes, &config, &problems, device)?,
            (None, path) => {
                Policy::from_dir(&builtin::resolve(path.as_deref().unwrap_or_default())?, device)?
                    .with_max_positions(config.model.max_positions)
                    .with_system(data.system.clone())
            }
        };
        let admitted = policy.admit(problems, &Asking::new(data, &data.train, 1))?;
        let mut warnings = admitted.warnings;
        let problems = admitted.problems;
        refuse_unreadable(&policy, &config, &problems)?;
        let policy = with_adapters(policy, &config)?.in_precision(config.precision);
        let plan = Plan { rules: config.noise.clone(), seed: config.seed, streams: Streams::PerPhase };
        let plan = policy.decoder.blueprint.bind(&plan, &[Phase::Train])?;
        let train = &config.train;
        let optimizer = AdamW::new(policy.decoder.trained(), train.betas, train.weight_decay);
        let learning_rate = LearningRate {
            peak: train.learning_rate,
            warmup_steps: train.warmup_steps,
            decay: train.decay,
            total_steps: train.steps,
            floor_ratio: train.floor_ratio,
        };
        warnings.extend(learning_rate.never_reached());
        let workers = Workers::alone();
        Ok(Self { policy, plan, steps: 0, warnings, workers, config, problems, optimizer, learning_rate })
    }

    /// The problems that are learned from.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What a checkpoint is made of.
    pub fn learner(&self) -> Learner<'_, B> {
        let counts = Counts { step: self.steps, ..Counts::default() };
        Learner { policy: &self.policy, optimizer: &self.optimizer, plan: &self.plan, counts, sigma: None }
    }

    /// Goes back to the checkpoint in `dir`.
    ///
    /// # Errors
    /// A checkpoint that is not whole, or belongs to another model.
    pub fn restore(&mut self, dir: &Path) -> Result<()> {
        let Self { policy, optimizer, plan, .. } = self;
        let to = Restoring { policy, optimizer, plan, sigma: None };
        self.steps = checkpoint::restore(dir, to)?.0.step;
        Ok(())
    }

    /// Takes over the first worker's weights, moments and steps.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn follow_first(&mut self) -> Result<()> {
        if self.workers.size() == 1 {
            return Ok(());
        }
        [self.steps, self.optimizer.steps] = self.workers.of_first([self.steps, self.optimizer.steps])?;
        follow(&self.workers, self.policy.decoder.trained_mut())?;
        follow(&self.workers, self.optimizer.moments.iter_mut().flatten())
    }

    /// Sums the receipts of all workers up in those of the first; the others begin anew.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn gather_receipts(&self) -> Result<()> {
        gather_receipts(&self.workers, &self.plan)
    }

    /// One step, each worker's blocks by itself and all in the order of a fixed tree.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, or a worker that is gone.
    pub fn step(&mut self) -> Result<SftRecord> {
        let started = Instant::now();
        let train = &self.config.train;
        let chosen = prompts_at_step(self.problems.len(), train.batch, self.config.seed, self.steps as usize);
        let sequences = chosen.iter().map(|&i| self.sequence(i)).collect::<Result<Vec<_>>>()?;
        let targets: usize = sequences.iter().map(Sequence::response_length).sum();
        let noise = self.plan.noise(Phase::Train, self.steps);
        let (loss, gradients) = self.gradients(&sequences, targets, &noise)?;
        let grad_norm = gradients.norm();
        if !grad_norm.is_finite() {
            return Err(self.not_finite(&sequences, &noise, "gradient"));
        }
        let gradients = gradients.clipped(grad_norm, train.max_grad_norm);
        let learning_rate = self.learning_rate.at(self.steps as usize);
        self.optimizer.step(self.policy.decoder.trained_mut(), gradients, learning_rate);
        self.steps += 1;
        let tokens = sequences.iter().map(|sequence| sequence.ids.len() as u64).sum();
        let step_seconds = started.elapsed().as_secs_f64();
        Ok(SftRecord { step: self.steps, loss, grad_norm, learning_rate, tokens, step_seconds })
    }

    /// The mean loss over `targets` tokens, and its gradients.
    fn gradients(
        &self,
        sequences: &[Sequence],
        targets: usize,
        noise: &Noise,
    ) -> Result<(f64, Gradients<B>)> {
        let decoder = &self.policy.decoder;
        let blocks = blocks(sequences.len(), self.config.train.gradient_blocks);
        let (mut losses, mut sums) = (Vec::new(), Tree::default());
        let tracked = decoder.tracked();
        for block in self.workers.share(blocks.len()) {
            let noise = noise.clone().gathering(decoder.blueprint.sites.len());
            losses.push(self.block(&tracked, &sequences[blocks[block].clone()], targets, &noise));
            sums.term(block, noise.take_sums());
        }
        drop(tracked);
        let loss: f64 = self.workers.concat(losses)?.into_iter().sum();
        if !loss.is_finite() {
            return Err(self.not_finite(sequences, noise, "loss"));
        }
        let noise = noise.clone().with_sums(reduce(&self.workers, sums)?);
        Ok((loss, Gradients::gathered(decoder, &noise)))
    }

    /// A block forward and backward, part by part: its share of the mean loss. Where that is not finite the sums that `noise`
    /// gathers mean nothing.
    fn block(
        &self,
        tracked: &Decoder<Autodiff<B>>,
        sequences: &[Sequence],
        targets: usize,
        noise: &Noise,
    ) -> f64 {
        let dropout = Dropout { seed: self.config.seed, step: self.steps };
        let mut loss = 0.0;
        for (_, mut packed) in parts(sequences, self.config.train.micro_batch_tokens, !noise.acts_backward())
        {
            packed.batch.dropout = self.config.lora.is_some().then_some(dropout);
            let pass = Recording::forward(tracked, &packed, noise, 1.0, false);
            let [log_probs, _] = pass.scores();
            loss -= log_probs.iter().map(|&x| f64::from(x)).sum::<f64>() / targets as f64;
            if !loss.is_finite() {
                break;
            }
            pass.backward(&vec![-1.0 / targets as f32; log_probs.len()], None);
        }
        loss
    }

    /// Says where the `what` of this step stopped being finite.
    fn not_finite(&self, sequences: &[Sequence], noise: &Noise, what: &str) -> Error {
        let parts = parts(sequences, self.config.train.micro_batch_tokens, true).map(|(_, packed)| packed);
        not_finite(&self.policy.decoder, parts, noise, self.steps + 1, what)
    }

    /// A problem with its worked answer.
    fn sequence(&self, index: usize) -> Result<Sequence> {
        let problem = &self.problems[index];
        let answer = worked_answer(&self.config, problem, index);
        self.policy.worked(problem, &answer, &self.config.data.prompt)
    }
}

/// Up to `most` blocks of neighbours among `n`, whose sizes differ by one at most.
fn blocks(n: usize, most: usize) -> Vec<Range<usize>> {
    let place = |end: &mut usize, size: usize| {
        let start = std::mem::replace(end, *end + size);
        Some(start..*end)
    };
    shares(n, most).scan(0, place).collect()
}

/// The policy with the adapters that the configuration asks for.
fn with_adapters<B: NoisyBackend>(policy: Policy<B>, config: &SftConfig) -> Result<Policy<B>> {
    let (Some(lora), Some(base)) = (&config.lora, &config.model.path) else { return Ok(policy) };
    let decoder = policy.decoder.with_lora(lora, base, config.seed)?;
    Ok(Policy { decoder, ..policy })
}

/// Refuses worked answers that the policy can not read, before the first step.
fn refuse_unreadable<B: NoisyBackend>(
    policy: &Policy<B>,
    config: &SftConfig,
    problems: &[Problem],
) -> Result<()> {
    problems.par_iter().enumerate().try_for_each(|(index, problem)| {
        let answer = worked_answer(config, problem, index);
        policy.worked(problem, &answer, &config.data.prompt).map(drop)
    })
}

/// The answer that is learned from the problem at `index`.
pub(super) fn worked_answer(config: &SftConfig, problem: &Problem, index: usize) -> String {
    match config.rewarded_share {
        Some(share) => styled_answer(problem, index as u64, share, config.seed),
        None => problem.answer.clone(),
    }
}
