//! The configuration of a supervised run, as TOML writes it.

use hardy_model::{Dtype, Lora};
use hardy_numerics::Precision;
use hardy_ops::Rule;
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        CheckpointSection, DataSection, Kept, read_with_changes,
        settings::{Checked, Kind},
    },
    error::{Error, Result},
    learning_rate::Decay,
};

/// A supervised run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Names the run and, unless `--out` says otherwise, its directory `runs/NAME`.
    pub name: String,
    /// The seed of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// The arithmetic of every product.
    #[serde(default)]
    pub precision: Precision,
    /// The model to start from.
    pub model: SftModel,
    /// The problems and how they are asked.
    #[serde(default)]
    pub data: DataSection,
    /// The share of answers that end in the rewarded `#### N`, the rest in other styles; left out, answers stay as
    /// they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewarded_share: Option<f64>,
    /// How to train.
    #[serde(default)]
    pub train: SftTrain,
    /// The rules of the plan; they act in the train phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Rule>,
    /// Greedy evaluation at the end, on this many problems.
    #[serde(default = "two_hundred")]
    pub eval_problems: usize,
    /// The type in which weights are saved: `float32`, `bfloat16` or `float16`.
    #[serde(default = "float32")]
    pub dtype: String,
    /// Low-rank adapters: with this section they are trained, and the model's own weights are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How often to save on the way, and what to keep.
    #[serde(default)]
    pub checkpoint: SftCheckpoint,
}

/// How often a supervised run is saved on the way, and what is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftCheckpoint {
    /// Steps between checkpoints; 0 for none but the model at the end.
    pub every: usize,
    /// The last so many are kept; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// Which of them hold what it takes to go on.
    pub optimizer: Kept,
}

impl Default for SftCheckpoint {
    fn default() -> Self {
        Self { every: 0, keep: None, optimizer: Kept::Last }
    }
}

fn two_hundred() -> usize {
    200
}

fn float32() -> String {
    Dtype::F32.name().to_owned()
}

/// The model to start from: a directory, or sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftModel {
    /// `builtin:tiny` or a Hugging Face directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The longest sequence, in tokens; the model's `max_position_embeddings` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// A Qwen2 decoder from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
}

/// The sizes of a Qwen2 decoder from nothing; embeddings are tied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Tokens that its byte-level BPE tokenizer may have.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// How a question becomes a prompt, in Jinja.
    pub chat_template: String,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftTrain {
    /// Steps.
    pub steps: usize,
    /// Problems of a step.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps until it is reached.
    pub warmup_steps: usize,
    /// How it falls afterwards.
    pub decay: Decay,
    /// What it falls to, as a share of the highest.
    pub floor_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// Gradients are scaled down to this norm; 0 never.
    pub max_grad_norm: f64,
    /// Tokens of a forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Blocks of problems into which a step is cut, at most. Gradients are summed within each, then over blocks in a fixed
    /// tree; so many workers can share a step.
    pub gradient_blocks: usize,
}

impl Default for SftTrain {
    fn default() -> Self {
        Self {
            steps: 100,
            batch: 64,
            learning_rate: 1e-5,
            warmup_steps: 10,
            decay: Decay::Cosine,
            floor_ratio: 0.0,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            max_grad_norm: 1.0,
            micro_batch_tokens: 4096,
            gradient_blocks: 1,
        }
    }
}

impl Checked for SftConfig {
    const KIND: Kind = Kind::Sft;
}

impl SftConfig {
    /// Reads a configuration: a file, or the name of a preset; `set` holds `key=value` changes.
    ///
    /// # Errors
    /// What can not be read or understood, with the line or key.
    pub fn load(spec: &str, set: &[String]) -> Result<Self> {
        let config: Self = read_with_changes(spec, set)?;
        let wrong = |message: String| Err(Error::config(format!("{spec}: {message}")));
        if config.model.path.is_some() == config.model.new.is_some() {
            return wrong("[model] needs either `path` or the sizes of a `new` model".to_owned());
        }
        if config.model.new.is_some() && config.model.max_positions.is_some() {
            return wrong("`model.max_positions` is for `model.path`; a `new` model says its own".to_owned());
        }
        if config.model.new.is_some() && config.lora.is_some() {
            return wrong(
                "[lora] is for `model.path`; a `new` model has no weights to freeze yet".to_owned(),
            );
        }
        config.data.check(config.eval_problems > 0)?;
        if Dtype::from_name(&config.dtype).is_none() {
            return wrong(format!(
                "`dtype` is \"{}\", but must be float32, bfloat16 or float16",
                config.dtype
            ));
        }
        Ok(config)
    }

    /// How checkpoints are saved.
    pub fn checkpoint(&self) -> CheckpointSection {
        let SftCheckpoint { every, keep, optimizer } = self.checkpoint;
        CheckpointSection { every: Some(every), keep, best: None, optimizer, dtype: self.save_dtype() }
    }

    /// The type in which weights are saved.
    pub fn save_dtype(&self) -> Dtype {
        Dtype::from_name(&self.dtype).unwrap_or_default()
    }
}
