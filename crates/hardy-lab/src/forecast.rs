//! What a run will take, before it is started: steps, tokens, memory and disk from its configuration, and time from a short
//! probe of this machine. Tokens and time are those of a run in which every response has all the tokens that it may have;
//! most end earlier.

mod probe;

use hardy_ops::NoisyBackend;
use hardy_train::{
    config::{Kept, OldLogProbs, RunConfig},
    machine,
    memory::MemoryEstimate,
    trainer::Trainer,
};
use serde::Serialize;

use crate::{error::LabError, evaluate::Level};

pub use probe::Rates;

/// What a run will take.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// Its steps.
    pub steps: u64,
    /// Responses of a step.
    pub responses_per_step: u64,
    /// Its evaluations, that of step 0 among them.
    pub evaluations: u64,
    /// Answers of an evaluation, over all its levels.
    pub answers_per_evaluation: u64,
    /// Tokens of the longest prompt of some.
    pub prompt_tokens: u64,
    /// Prompt and response tokens of a step, at most.
    pub tokens_per_step: u64,
    /// Prompt and response tokens of the run, evaluations included, at most.
    pub tokens: u64,
    /// Memory.
    pub memory: MemoryEstimate,
    /// The machine's memory that is free, in bytes, where it says so.
    pub available_bytes: Option<u64>,
    /// What the run directory will hold in checkpoints, in bytes, at most.
    pub disk_bytes: u64,
    /// Time; `None` where the run does not fit into this machine's memory, so that nothing was measured.
    pub time: Option<Time>,
}

/// How long a run will take here, at most, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    /// What was measured.
    pub rates: Rates,
    /// Rollouts of a step.
    pub rollout_seconds: f64,
    /// Old log-probabilities and those of the reference of a step.
    pub log_probs_seconds: f64,
    /// Forward and backward passes of a step.
    pub update_seconds: f64,
    /// The optimizer's steps of a step.
    pub optimizer_seconds: f64,
    /// An evaluation.
    pub evaluation_seconds: f64,
    /// The run.
    pub total_seconds: f64,
}

impl Forecast {
    /// Forecasts the run of `config` with `trainer`, evaluated at `levels` on so many problems.
    ///
    /// # Errors
    /// A model or data that can not be read.
    pub(crate) fn new<B: NoisyBackend>(
        config: &RunConfig,
        trainer: &Trainer<B>,
        levels: &[Level],
        problems: usize,
    ) -> Result<Self, LabError> {
        let (train, eval) = (&config.train, &config.eval);
        let memory = MemoryEstimate::new(config).map_err(LabError::from)?;
        let available_bytes = machine::memory("MemAvailable");
        let draws = |level: &Level| if level.plan.rules.is_empty() { 1 } else { eval.draws };
        let rounds: usize = levels.iter().map(draws).sum();
        // A step has no problem twice.
        let prompts = train.prompts_per_step.min(trainer.problems().len());
        let responses = prompts * train.samples_per_prompt;
        let answers = rounds * problems * eval.samples;
        let prompt = memory.longest_prompt;
        let per_step = prompts * prompt + responses * train.max_new_tokens;
        let per_evaluation = rounds * problems * prompt + answers * config.eval_max_new_tokens();
        let evaluations = evaluations(trainer.total_steps, eval.every as u64);
        let fits = available_bytes.is_none_or(|bytes| {
            // The policy is in memory already.
            memory.peak as u64 <= bytes + memory.parameters as u64
        });
        let sizes = Sizes { responses, answers, per_step, rounds, problems, prompt };
        let time = fits.then(|| Rates::measure(config, trainer, prompt)).transpose()?;
        let time = time.map(|rates| Time::new(config, &sizes, rates, (trainer.total_steps, evaluations)));
        Ok(Self {
            steps: trainer.total_steps,
            responses_per_step: responses as u64,
            evaluations,
            answers_per_evaluation: answers as u64,
            prompt_tokens: prompt as u64,
            tokens_per_step: per_step as u64,
            tokens: trainer.total_steps * per_step as u64 + evaluations * per_evaluation as u64,
            disk_bytes: disk(config, &memory, (trainer.total_steps, evaluations)),
            memory,
            available_bytes,
            time,
        })
    }
}

/// What the checkpoints of a run hold at most: for a moment the one that goes and the next one.
fn disk(config: &RunConfig, memory: &MemoryEstimate, (steps, evaluations): (u64, u64)) -> u64 {
    let how = &config.checkpoint;
    let count = match how.every {
        None => evaluations,
        Some(0) => 1,
        Some(every) => 1 + steps.div_ceil(every as u64),
    };
    let kept = how.keep.map_or(count, |keep| count.min(keep as u64 + u64::from(how.best.is_some())));
    let (weights, resuming) = (memory.saved_bytes as u64, memory.resume_bytes as u64);
    match how.optimizer {
        Kept::All => (kept + 1).min(count) * (weights + resuming),
        Kept::Last => (kept + 1).min(count) * weights + count.min(2) * resuming,
    }
}

/// Evaluations of a run: at step 0, every so many steps, and at the last.
fn evaluations(steps: u64, every: u64) -> u64 {
    match every {
        0 => 2,
        every => 1 + steps.div_ceil(every),
    }
}

/// What a step and an evaluation consist of.
struct Sizes {
    responses: usize,
    answers: usize,
    per_step: usize,
    rounds: usize,
    problems: usize,
    prompt: usize,
}

impl Time {
    fn new(config: &RunConfig, sizes: &Sizes, rates: Rates, (steps, evaluations): (u64, u64)) -> Self {
        let train = &config.train;
        let batch = train.rollout_batch.min(sizes.responses);
        let prefill = (train.prompts_per_step * sizes.prompt) as f64 * rates.prefill_seconds_per_token;
        let rollout_seconds = prefill + rates.decoding(sizes.responses, train.max_new_tokens, batch);
        let rounds = train.updates_per_rollout as f64;
        let several = train.minibatches > 1 || train.updates_per_rollout > 1;
        let old = train.old_log_probs == OldLogProbs::Recompute && several;
        let of_reference = if train.kl_coefficient != 0.0 { rounds } else { 0.0 };
        let of_sampler = f64::from(u8::from(train.score_centering));
        let passes = f64::from(u8::from(old)) + of_reference + of_sampler;
        let log_probs_seconds = passes * sizes.per_step as f64 * rates.forward_seconds_per_token;
        let update_seconds = rounds * sizes.per_step as f64 * rates.update_seconds_per_token;
        let optimizer_seconds = rounds * train.minibatches as f64 * rates.optimizer_seconds;
        let at_once = config.eval.batch.min(sizes.problems * config.eval.samples);
        let prefill = (sizes.rounds * sizes.problems * sizes.prompt) as f64 * rates.prefill_seconds_per_token;
        let evaluation_seconds =
            prefill + rates.decoding(sizes.answers, config.eval_max_new_tokens(), at_once);
        let step_seconds = rollout_seconds + log_probs_seconds + update_seconds + optimizer_seconds;
        let total_seconds = steps as f64 * step_seconds + evaluations as f64 * evaluation_seconds;
        Self {
            rates,
            rollout_seconds,
            log_probs_seconds,
            update_seconds,
            optimizer_seconds,
            evaluation_seconds,
            total_seconds,
        }
    }

    /// Seconds of a step.
    #[must_use]
    pub fn step_seconds(&self) -> f64 {
        self.rollout_seconds + self.log_probs_seconds + self.update_seconds + self.optimizer_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_zero_and_the_last_are_always_evaluated() {
        let counted =
            [(80, 20), (80, 0), (81, 20), (1, 20), (3, 1)].map(|(steps, every)| evaluations(steps, every));
        assert_eq!(counted, [5, 2, 6, 2, 4]);
    }

    #[test]
    fn the_disk_is_that_of_the_checkpoints_that_are_kept() {
        let gib = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            let config = RunConfig::load("baseline", &set).unwrap();
            let memory =
                MemoryEstimate { saved_bytes: 1, resume_bytes: 6, ..MemoryEstimate::new(&config).unwrap() };
            disk(&config, &memory, (80, 5))
        };
        assert_eq!(gib(&[]), 5 + 12);
        assert_eq!(gib(&["checkpoint.every=0"]), 1 + 6);
        assert_eq!(gib(&["checkpoint.every=10", "checkpoint.keep=2"]), 3 + 12);
        assert_eq!(gib(&["checkpoint.every=10", "checkpoint.keep=2", "checkpoint.best=first"]), 4 + 12);
        assert_eq!(gib(&["checkpoint.optimizer=all"]), 5 * 7);
    }
}
