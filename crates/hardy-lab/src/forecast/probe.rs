//! A short probe of a model on this machine: a few tokens decoded at two batch sizes, and one pass of training.

use std::time::Instant;

use burn_tensor::Tensor;
use hardy_model::{Generation, Prompt, Sampler, generate};
use hardy_ops::{NoisyBackend, Phase};
use hardy_train::{
    adamw::AdamW,
    config::RunConfig,
    encode::{prompt_sequence, sample_sequence},
    error::Result,
    gradients::{Gradients, digests},
    policy::log_probs,
    recording::Recording,
    sequence::{Packed, Sequence},
    trainer::Trainer,
};
use serde::Serialize;

/// Sequences of the smaller and the larger batch that are decoded.
const BATCHES: [usize; 2] = [2, 8];
/// Tokens that they are decoded for, after the first.
const TOKENS: usize = 8;
/// Tokens of the pass of training, at most.
const PASS: usize = 512;

/// Elements on which the optimizer makes a step, at most.
const ELEMENTS: usize = 1 << 22;

/// What a probe measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// A token of a prompt.
    pub prefill_seconds_per_token: f64,
    /// A step of decoding, whatever the batch.
    pub decode_seconds: f64,
    /// As much again for every sequence in the batch.
    pub decode_seconds_per_sequence: f64,
    /// A token's log-probability.
    pub forward_seconds_per_token: f64,
    /// A token's forward and backward pass.
    pub update_seconds_per_token: f64,
    /// A step of the optimizer on all that is trained, digests of gradients and weights included.
    pub optimizer_seconds: f64,
    /// How long the probe took.
    pub probe_seconds: f64,
}

impl Rates {
    /// Measures the policy of `trainer` under the errors of its plan, with prompts of `prompt` tokens.
    pub(super) fn measure<B: NoisyBackend>(
        config: &RunConfig,
        trainer: &Trainer<B>,
        prompt: usize,
    ) -> Result<Self> {
        let started = Instant::now();
        let token = trainer.policy.prompt_ids(&trainer.problems()[0], &config.data.prompt)?[0];
        let prompt = vec![token; prompt.min(PASS)];
        // The first pass of a process pays for its memory.
        decode(config, trainer, &prompt, (BATCHES[0], 1));
        let at = |batch: usize, tokens: usize| decode(config, trainer, &prompt, (batch, tokens));
        let prefill = at(BATCHES[0], 1);
        let [few, many] =
            BATCHES.map(|batch| (at(batch, 1 + TOKENS) - at(batch, 1)).max(0.0) / TOKENS as f64);
        let per_sequence = (many - few).max(0.0) / (BATCHES[1] - BATCHES[0]) as f64;
        let (forward, update) = passes(config, trainer, &prompt);
        Ok(Self {
            prefill_seconds_per_token: prefill / prompt.len() as f64,
            decode_seconds: (few - BATCHES[0] as f64 * per_sequence).max(0.0),
            decode_seconds_per_sequence: per_sequence,
            forward_seconds_per_token: forward,
            update_seconds_per_token: update,
            optimizer_seconds: optimizer(trainer),
            probe_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Seconds in which `sequences` of so many `tokens` each are decoded, `batch` at once.
    #[must_use]
    pub fn decoding(&self, sequences: usize, tokens: usize, batch: usize) -> f64 {
        let steps = (sequences * tokens) as f64 / batch.max(1) as f64;
        steps * (self.decode_seconds + batch as f64 * self.decode_seconds_per_sequence)
    }
}

/// Seconds in which a batch of answers of so many tokens to one prompt is made.
fn decode<B: NoisyBackend>(
    config: &RunConfig,
    trainer: &Trainer<B>,
    prompt: &[u32],
    (batch, tokens): (usize, usize),
) -> f64 {
    let samples = (0..batch).map(|sample| sample_sequence(0, sample)).collect();
    let prompt = Prompt { ids: prompt.to_vec(), sequence: prompt_sequence(0), samples };
    let how = Generation {
        max_new_tokens: tokens,
        stop: Vec::new(),
        sampler: Sampler { temperature: config.train.temperature, ..Sampler::GREEDY },
        batch,
        key: Generation::key(config.seed, "probe", 0),
    };
    let noise = trainer.plan.noise(Phase::Rollout, 0);
    let started = Instant::now();
    generate(&trainer.policy.decoder, &[prompt], &how, &noise, |_| {});
    started.elapsed().as_secs_f64()
}

/// Seconds of a step of the optimizer, from one on [`ELEMENTS`] elements.
fn optimizer<B: NoisyBackend>(trainer: &Trainer<B>) -> f64 {
    let trained = trainer.policy.decoder.trained();
    let total: usize = trained.iter().map(|p| p.dims().iter().product::<usize>()).sum();
    let Some(device) = trained.first().map(Tensor::device) else { return 0.0 };
    let measured = total.min(ELEMENTS);
    let [mut parameter, gradient] = [0, 1].map(|_| [Tensor::<B, 2>::ones([1, measured], &device)]);
    let mut adamw = AdamW::new(&parameter, [0.9, 0.999], 0.0);
    let started = Instant::now();
    adamw.step(&mut parameter, gradient.to_vec(), 1e-3);
    digests(&gradient);
    digests(&parameter);
    started.elapsed().as_secs_f64() * total as f64 / measured.max(1) as f64
}

/// Seconds of a token in a forward pass, and in a forward and backward pass.
fn passes<B: NoisyBackend>(config: &RunConfig, trainer: &Trainer<B>, prompt: &[u32]) -> (f64, f64) {
    let decoder = &trainer.policy.decoder;
    let length = (prompt.len() + config.train.max_new_tokens).clamp(2, PASS);
    let most = config.train.micro_batch_tokens.min(PASS).max(length);
    let sequence = |sample: usize| Sequence {
        ids: vec![prompt[0]; length],
        prompt_length: prompt.len().min(length - 1),
        prompt: prompt_sequence(sample as u64),
        sample: sample_sequence(sample as u64, 0),
    };
    let sequences: Vec<Sequence> = (0..most / length).map(sequence).collect();
    let tokens = (sequences.len() * length) as f64;
    let packed = Packed::new(&sequences, false);
    let started = Instant::now();
    log_probs(decoder, &packed, &trainer.plan.noise(Phase::Train, 0), config.train.temperature);
    let forward = started.elapsed().as_secs_f64() / tokens;
    let noise = trainer.plan.noise(Phase::Train, 0).gathering(decoder.blueprint.sites.len());
    let tracked = decoder.tracked();
    let started = Instant::now();
    let checkpointing = config.train.activation_checkpointing;
    let pass = Recording::forward(&tracked, &packed, &noise, config.train.temperature, checkpointing);
    pass.backward(&vec![1e-3; packed.targets.len()], None);
    drop(Gradients::gathered(decoder, &noise));
    (forward, started.elapsed().as_secs_f64() / tokens)
}
