//! How much memory a run will take, from its configuration alone: what lives as long as the run, and what the larger
//! of its two phases, rollout and training, needs beside it. Values are f32, four bytes each.

use hardy_model::{
    ChatTemplate, Dtype, Experts, ModelConfig, Tokenizer,
    files::{is_adapter, read_adapter_config},
};
use hardy_numerics::Precision;
use hardy_ops::{Point, ops::attention::Places};
use serde::Serialize;

use crate::{
    builtin,
    config::{AqnTarget, RunConfig},
    encode::prompt_text,
    error::Result,
    policy::base_dir,
    trainer::training_problems,
};

/// Problems whose prompts are measured.
const MEASURED: usize = 256;
/// Bytes of a value.
const VALUE: usize = 4;
/// A phase up to this size finds room for what it takes in what another freed.
const FITTING: usize = 128 << 20;
/// The share of what is above that for which it does not, in full training and under adapters; measured: 0.17 to 0.25 with 39 M
/// parameters, 0.4 under adapters on 494 M.
const KEPT: [f64; 2] = [0.27, 0.45];
/// Code, tokenizer and thread stacks.
const BASE: usize = 72 << 20;

/// The memory of a run, in bytes; an upper bound where responses end before they are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// The policy's parameters, and the starting model's where a KL divergence needs them; in 16 bits those that nobody
    /// trains, of a model in bfloat16.
    pub parameters: usize,
    /// AdamW's two moments.
    pub optimizer: usize,
    /// Rollout: weights laid out for decoding.
    pub frozen_weights: usize,
    /// Evaluation: the weights as they are saved.
    pub saved_weights: usize,
    /// Rollout: keys and values of the prompts and of the sequences in the batch.
    pub kv_cache: usize,
    /// Rollout: activations of the largest prefill.
    pub prefill: usize,
    /// Training: gradients, of the parts so far and of the part at hand.
    pub gradients: usize,
    /// Training: what the forward pass keeps for the backward pass.
    pub activations: usize,
    /// Training: intermediate results of the widest operators.
    pub scratch: usize,
    /// What one phase has freed and the other does not fit into: the allocator keeps its pages.
    pub kept_pages: usize,
    /// The whole process.
    pub base: usize,
    /// The most at any moment.
    pub peak: usize,
    /// Tokens of the longest of the measured prompts.
    pub longest_prompt: usize,
    /// On disk: a checkpoint for use.
    pub saved_bytes: usize,
    /// On disk: what it takes beside it to go on.
    pub resume_bytes: usize,
}

impl MemoryEstimate {
    /// Estimates the memory of a run.
    ///
    /// # Errors
    /// A model or data that can not be read.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let mut dir = builtin::resolve(&config.model.path)?;
        let mut lora = config.lora.clone();
        if is_adapter(&dir) {
            lora = Some(read_adapter_config(&dir)?.lora);
            dir = base_dir(&dir)?;
        }
        let mut sizes = Sizes::new(&ModelConfig::from_dir(&dir)?);
        if let Some(lora) = lora {
            sizes.trained = sizes.adapter_parameters(lora.rank);
            sizes.frozen = sizes.parameters;
        }
        let longest_prompt = longest_prompt(config, &dir)?;
        Ok(Self::of(config, &sizes, longest_prompt))
    }

    fn of(config: &RunConfig, sizes: &Sizes, longest_prompt: usize) -> Self {
        let train = &config.train;
        let reference = usize::from(train.kl_coefficient != 0.0);
        let samples = train.prompts_per_step * train.samples_per_prompt;
        let in_batch = samples.min(train.rollout_batch).max(config.eval.n.min(config.eval.batch));
        let prompts = in_batch.div_ceil(train.samples_per_prompt).max(config.eval.n.min(config.eval.batch));
        let sequence = longest_prompt + train.max_new_tokens;
        // A group shares its prompt; responses may end before they are cut off.
        let step = train.prompts_per_step * longest_prompt + samples * train.max_new_tokens;
        // A pass goes over prompts of one block.
        let in_update = train.prompts_per_step.div_ceil(train.minibatches);
        let blocks = train.gradient_blocks.min(in_update).max(1);
        let block = in_update.div_ceil(blocks) * (step / train.prompts_per_step);
        let tokens = train.micro_batch_tokens.min(block).max(sequence);
        let kept = if train.activation_checkpointing {
            sizes.layers * sizes.hidden + sizes.per_layer()
        } else {
            sizes.layers * sizes.per_layer()
        };
        // Sums that the tree over blocks holds at once.
        let sums = 1 + blocks.ilog2() as usize;
        let bytes = |values: usize| VALUE * values;
        let mut estimate = Self {
            parameters: bytes(sizes.trained)
                + sizes.untrained_bytes(sizes.frozen + reference * sizes.trained),
            optimizer: bytes(2 * sizes.trained),
            frozen_weights: decoding_weights(config, sizes),
            saved_weights: saved_weights(config, sizes),
            kv_cache: bytes(kv_cache(config, sizes, longest_prompt)),
            prefill: bytes(prompts * longest_prompt * sizes.widest() + 2 * in_batch * sizes.vocab),
            gradients: bytes(sums * sizes.gradients()),
            activations: bytes(tokens * (kept + 3 * sizes.hidden)),
            scratch: bytes(tokens * sizes.widest() + sizes.head()),
            kept_pages: 0,
            base: BASE,
            peak: 0,
            longest_prompt,
            saved_bytes: sizes.checkpoint(config.checkpoint.dtype),
            resume_bytes: sizes.resuming(config.checkpoint.dtype),
        };
        let rollout = estimate.frozen_weights + estimate.saved_weights + estimate.kv_cache + estimate.prefill;
        let training = estimate.gradients + estimate.activations + estimate.scratch;
        let phase = rollout.max(training);
        let kept = KEPT[usize::from(sizes.frozen > 0)];
        estimate.kept_pages = (kept * phase.saturating_sub(FITTING) as f64) as usize;
        estimate.peak = estimate.parameters + estimate.optimizer + BASE + phase + estimate.kept_pages;
        estimate
    }
}

/// Bytes of the weights laid out for decoding: in 16 bits those of a bfloat16 model that nobody trains, where no error changes
/// them, and all where products are in bfloat16.
fn decoding_weights(config: &RunConfig, sizes: &Sizes) -> usize {
    if config.precision == Precision::Bf16 {
        return VALUE / 2 * sizes.parameters;
    }
    let by_rule = config.noise.iter().any(|rule| rule.at == Point::Weight);
    let by_aqn = config.aqn.as_ref().is_some_and(|aqn| aqn.target == AqnTarget::Linear);
    let base = if by_rule || by_aqn { VALUE * sizes.frozen } else { sizes.untrained_bytes(sizes.frozen) };
    base + VALUE * sizes.trained
}

/// Bytes of a copy of the weights in the type in which they are saved; adapters are judged as they are.
fn saved_weights(config: &RunConfig, sizes: &Sizes) -> usize {
    match config.checkpoint.dtype {
        _ if sizes.frozen > 0 => 0,
        Dtype::F32 => 0,
        Dtype::Bf16 => VALUE / 2 * sizes.parameters,
        Dtype::F16 => VALUE * sizes.parameters,
    }
}

/// Values of the larger key-value cache: a rollout's, or an evaluation's, whose problems have one sample each.
fn kv_cache(config: &RunConfig, sizes: &Sizes, longest_prompt: usize) -> usize {
    let (train, eval) = (&config.train, &config.eval);
    let cache = |prompts: usize, samples: usize, new_tokens: usize| {
        let places = |count, tokens| Places { count, tokens, layers: sizes.layers, width: sizes.keys };
        places(prompts.min(samples), longest_prompt).elements() + places(samples, new_tokens).elements()
    };
    let samples = (train.prompts_per_step * train.samples_per_prompt).min(train.rollout_batch);
    let rollout = cache(train.prompts_per_step, samples, train.max_new_tokens);
    let new_tokens = eval.max_new_tokens.unwrap_or(train.max_new_tokens);
    rollout.max(cache(eval.n, eval.n.min(eval.batch), new_tokens))
}

/// Logits of a chunk of the head, about, and its rows at least.
const HEAD_CHUNK: usize = 1 << 18;
const HEAD_ROWS: usize = 256;

/// The widths that count.
struct Sizes {
    parameters: usize,
    /// Those that are trained, adapters where there are any.
    trained: usize,
    /// Those under adapters.
    frozen: usize,
    /// Whether the model is stored in bfloat16.
    narrow: bool,
    vocab: usize,
    tied: bool,
    layers: usize,
    hidden: usize,
    /// Inner widths of what a token goes through in a layer.
    mlp: usize,
    /// Inputs and inner widths of all MLPs of a layer.
    mlps: usize,
    queries: usize,
    keys: usize,
    qk_norm: bool,
}

impl Sizes {
    fn new(config: &ModelConfig) -> Self {
        let hidden = config.hidden_size;
        let (mlp, mlps) = match config.experts {
            None => (config.intermediate_size, hidden + config.intermediate_size),
            Some(Experts { count, per_token, width, shared_width, .. }) => {
                let shared = shared_width.unwrap_or(0);
                (per_token * width + shared, count * (hidden + width) + hidden + shared)
            }
        };
        Self {
            parameters: config.parameter_count(),
            trained: config.parameter_count(),
            frozen: 0,
            narrow: config.dtype == Dtype::Bf16,
            vocab: config.vocab_size,
            tied: config.tied_embeddings,
            layers: config.layers,
            hidden,
            mlp,
            mlps,
            queries: config.heads * config.head_dim,
            keys: config.kv_heads * config.head_dim,
            qk_norm: config.qk_norm,
        }
    }

    /// Bytes of a checkpoint for use; adapters are saved alone, in f32.
    fn checkpoint(&self, dtype: Dtype) -> usize {
        match dtype {
            _ if self.frozen > 0 => VALUE * self.trained,
            Dtype::F32 => VALUE * self.parameters,
            Dtype::Bf16 | Dtype::F16 => VALUE / 2 * self.parameters,
        }
    }

    /// Bytes of two moments, and of masters where weights are not saved in f32.
    fn resuming(&self, dtype: Dtype) -> usize {
        let masters = if self.frozen > 0 || dtype == Dtype::F32 { 0 } else { self.trained };
        VALUE * (2 * self.trained + masters)
    }

    /// Bytes of so many parameters that nobody trains.
    fn untrained_bytes(&self, count: usize) -> usize {
        if self.narrow { VALUE / 2 * count } else { VALUE * count }
    }

    /// Gradients of the whole model; a tied table has one from the embedding and one from the head.
    fn gradients(&self) -> usize {
        let twice = self.tied && self.frozen == 0;
        self.trained + if twice { self.vocab * self.hidden } else { 0 }
    }

    /// What the head holds at once: logits of a chunk, which become their gradients.
    fn head(&self) -> usize {
        HEAD_CHUNK.max(HEAD_ROWS * self.vocab)
    }

    /// Parameters of adapters in every linear layer, the most that there can be.
    fn adapter_parameters(&self, rank: usize) -> usize {
        let sums = 3 * self.hidden + 2 * self.keys + self.queries + self.hidden + self.queries;
        self.layers * rank * (sums + 3 * self.mlps)
    }

    /// Values that the tape keeps for a token in a layer: the inputs of its norms, linear layers, attention and gate.
    fn per_layer(&self) -> usize {
        let before_norm = if self.qk_norm { self.queries + self.keys } else { 0 };
        4 * self.hidden + 2 * self.queries + 2 * self.keys + before_norm + 3 * self.mlp
    }

    /// Values of a token in the operators that hold most at once: attention's gradients, or those of the MLP.
    fn widest(&self) -> usize {
        (5 * self.queries + self.keys + 4 * self.hidden).max(4 * self.mlp + 2 * self.hidden)
    }
}

fn longest_prompt(config: &RunConfig, dir: &std::path::Path) -> Result<usize> {
    let (tokenizer, template) = (Tokenizer::from_dir(dir)?, ChatTemplate::from_dir(dir)?);
    let problems = training_problems(config)?;
    let step = problems.len().div_ceil(MEASURED).max(1);
    let mut longest = 1;
    for problem in problems.iter().step_by(step) {
        let system = config.data.system.as_deref();
        let text = prompt_text(template.as_ref(), system, problem, &config.data.prompt)?;
        longest = longest.max(tokenizer.encode(&text)?.len());
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(set: &[&str]) -> MemoryEstimate {
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        MemoryEstimate::new(&RunConfig::load("baseline", &set).unwrap()).unwrap()
    }

    #[test]
    fn what_asks_for_more_takes_more() {
        let plain = estimate(&["train.micro_batch_tokens=1024"]);
        let larger = |set: &[&str]| estimate(&[&["train.micro_batch_tokens=2048"], set].concat());
        assert!(larger(&[]).activations > plain.activations);
        assert!(larger(&["train.activation_checkpointing=true"]).activations < plain.activations);
        // A pass is within a block of prompts.
        assert_eq!(
            larger(&["train.gradient_blocks=32"]).activations,
            estimate(&["train.gradient_blocks=32"]).activations
        );
        // The tiny model is stored in bfloat16, and nobody trains the reference.
        assert_eq!(2 * estimate(&["train.kl_coefficient=0.1"]).parameters, 3 * plain.parameters);
        let lora = estimate(&["lora.rank=4"]);
        assert!(lora.parameters < plain.parameters && lora.gradients < plain.gradients / 10);
        assert_eq!(plain.saved_weights, 0);
        assert_eq!(2 * estimate(&["checkpoint.dtype=bfloat16"]).saved_weights, plain.parameters);
        assert!(estimate(&["train.max_new_tokens=1000"]).kv_cache > plain.kv_cache);
        assert!(plain.peak > plain.parameters + plain.optimizer + plain.activations);
    }
}
