//! The sizes and switches of a decoder, from the `config.json` of a Hugging Face directory. Both dialects are read,
//! that of `transformers` 4 (`rope_theta`, `torch_dtype`) and of 5 (`rope_parameters`, `dtype`), and what a file says
//! beyond the decoder's needs is kept and written back.

mod architecture;
mod experts;
mod fields;
mod keys;
mod layers;
mod parameters;
mod rope;
mod write;

use std::path::Path;

use hardy_ops::ops::attention::MOST_KEYS;
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::files::{Dtype, read_json, read_json_if_present};
pub use architecture::Architecture;
pub use experts::Experts;
use fields::Fields;
use keys::refuse_unread;
pub use layers::LayerKind;
pub use parameters::ParameterSpec;
pub use rope::{Rope, RopeScaling, Yarn};

/// The nonlinearity of the MLP's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x·σ(x)`; `silu` or `swish`.
    Silu,
    /// `x·Φ(x)` by the error function; `gelu`.
    Gelu,
    /// The approximation of GELU by a hyperbolic tangent; `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`.
    GeluTanh,
}

/// Everything that says which decoder a directory holds. Read it, do not build it: [`ModelConfig::from_dir`] and
/// [`ModelConfig::qwen2`] check what the fields promise.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding; at least the number of tokens of the tokenizer.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key and value heads of a layer; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even; `heads × head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// The longest sequence that the model was made for, in tokens; at most [`MOST_KEYS`].
    pub max_positions: usize,
    /// Nonlinearity of the MLP.
    pub activation: Activation,
    /// What RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys go through an RMSNorm per head.
    pub qk_norm: bool,
    /// Whether an RMSNorm multiplies by one more than its weight.
    pub unit_offset_norms: bool,
    /// What the embedding is multiplied by, where it is.
    pub embedding_scale: Option<f32>,
    /// What differs between layers, one entry for each.
    pub per_layer: Vec<LayerKind>,
    /// The mixture of experts of the layers that have one.
    pub experts: Option<Experts>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f32,
    /// The type in which the weights are, or are to be, stored.
    pub dtype: Dtype,
    /// The token that begins a text, where there is one.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text: those of `generation_config.json` where it names any, as in `transformers`,
    /// else those of `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// The token that fills up a batch, where there is one.
    pub pad_token_id: Option<u32>,
    /// `config.json` as it was read.
    source: Map<String, Value>,
    /// `generation_config.json` as it was read.
    generation: Option<Map<String, Value>>,
}

/// The sizes of a Qwen2 decoder that is made from nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Qwen2Sizes {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream, a multiple of `heads`.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key and value heads of a layer; divides `heads`.
    pub kv_heads: usize,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Standard deviation of the fresh weights.
    pub initializer_range: f64,
}

impl ModelConfig {
    /// Reads `config.json`, and `generation_config.json` where there is one, in the directory `dir`.
    ///
    /// # Errors
    /// The file, the key, what it holds and what would be right: see [`Error`].
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let (path, generation_path) = (dir.join("config.json"), dir.join("generation_config.json"));
        let mut config = Self::from_json(read_json(&path)?, &path)?;
        config.generation = read_json_if_present(&generation_path)?;
        config.eos_token_ids = config.eos_in_files(&path, &generation_path)?;
        Ok(config)
    }

    /// Reads the object of a `config.json`; `path` is for messages only.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn from_json(source: Map<String, Value>, path: &Path) -> Result<Self> {
        let fields = Fields::new(path, &source);
        let config = Self::from_fields(&fields)?;
        refuse_unread(&fields, config.architecture)?;
        Ok(Self { source, ..config })
    }

    /// All but the source.
    fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let architecture = Architecture::read(fields)?;
        if fields.get("quantization_config").is_some() {
            return Err(
                fields.wrong("quantization_config", "absent: weights are read in f32, bf16 or f16 only")
            );
        }
        let hidden_size = fields.size("hidden_size")?;
        let (heads, kv_heads) = attention_heads(fields, architecture)?;
        let [qkv_bias, o_bias, mlp_bias] = biases(fields, architecture)?;
        let (layers, gemma) = (fields.layers()?, architecture == Architecture::Gemma);
        Ok(Self {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim: head_dim(fields, architecture, hidden_size, heads)?,
            max_positions: fields.optional_size("max_position_embeddings")?.unwrap_or(2048).min(MOST_KEYS),
            activation: activation(fields, architecture)?,
            rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: Rope::read(fields, architecture)?,
            tied_embeddings: fields.flag_or("tie_word_embeddings", architecture.ties_by_default())?,
            qkv_bias,
            o_bias,
            mlp_bias,
            qk_norm: matches!(architecture, Architecture::Qwen3 | Architecture::Qwen3Moe),
            unit_offset_norms: gemma,
            embedding_scale: gemma.then(|| (hidden_size as f64).sqrt() as f32),
            per_layer: LayerKind::read(fields, architecture, layers)?,
            experts: Experts::read(fields, architecture)?,
            initializer_range: fields.positive("initializer_range")?.unwrap_or(0.02) as f32,
            dtype: dtype(fields)?,
            bos_token_id: fields.token_id("bos_token_id")?,
            eos_token_ids: fields.token_ids("eos_token_id")?,
            pad_token_id: fields.token_id("pad_token_id")?,
            generation: None,
            source: Map::new(),
        })
    }

    /// A Qwen2 decoder of the given sizes, stored in f32 and without special tokens; set those in the fields.
    ///
    /// # Errors
    /// [`Error::Value`] when the sizes do not fit each other, as if they had stood in a `config.json`.
    pub fn qwen2(sizes: &Qwen2Sizes) -> Result<Self> {
        let source = json!({
            "architectures": [Architecture::Qwen2.class_name()],
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": null,
            "hidden_act": "silu",
            "hidden_size": sizes.hidden_size,
            "initializer_range": sizes.initializer_range,
            "intermediate_size": sizes.intermediate_size,
            "max_position_embeddings": sizes.max_positions,
            "max_window_layers": sizes.layers,
            "model_type": Architecture::Qwen2.model_type(),
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_key_value_heads": sizes.kv_heads,
            "pad_token_id": null,
            "rms_norm_eps": 1e-6,
            "rope_theta": sizes.rope_theta,
            "sliding_window": null,
            "tie_word_embeddings": sizes.tied_embeddings,
            "torch_dtype": Dtype::F32.name(),
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": sizes.vocab_size,
        });
        let Value::Object(source) = source else { unreachable!("the literal above is an object") };
        Self::from_json(source, Path::new("config.json"))
    }

    /// The `head_dim / 2` rotary frequencies of a head, in radians per position, as `transformers` computes them in
    /// f32.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        self.rope.inverse_frequencies(self.head_dim)
    }

    /// What the queries and keys of a rotary layer are multiplied by as they are turned; 1 but for YaRN.
    pub fn rotary_scale(&self) -> f32 {
        self.rope.scaling.magnitude()
    }
}

/// Query heads, and key and value heads.
fn attention_heads(fields: &Fields<'_>, architecture: Architecture) -> Result<(usize, usize)> {
    let heads = fields.size("num_attention_heads")?;
    // Null means as many as `heads` everywhere; an absent key has another default in every other family.
    if architecture != Architecture::Llama && !fields.contains("num_key_value_heads") {
        return Err(fields.missing("num_key_value_heads", "a positive integer"));
    }
    let kv_heads = fields.optional_size("num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let wanted = format!("a divisor of `num_attention_heads`, which is {heads}");
        return Err(fields.wrong("num_key_value_heads", &wanted));
    }
    Ok((heads, kv_heads))
}

fn head_dim(
    fields: &Fields<'_>,
    architecture: Architecture,
    hidden_size: usize,
    heads: usize,
) -> Result<usize> {
    let given = match (fields.optional_size("head_dim")?, architecture) {
        // Absent and null are not the same here: `transformers` gives Qwen3 128 where the key is absent.
        (None, Architecture::Qwen3) if !fields.contains("head_dim") => Some(128),
        (None, Architecture::Gemma) if !fields.contains("head_dim") => Some(256),
        (given, _) => given,
    };
    match given {
        Some(width) if width % 2 == 1 => Err(fields.wrong("head_dim", "even, for rotary pairs")),
        Some(width) => Ok(width),
        None if !hidden_size.is_multiple_of(2 * heads) => {
            let wanted =
                format!("an even multiple of `num_attention_heads`, which is {heads}, or `head_dim` given");
            Err(fields.wrong("hidden_size", &wanted))
        }
        None => Ok(hidden_size / heads),
    }
}

/// Whether the query, key and value projections, the attention's output and the MLP have biases.
fn biases(fields: &Fields<'_>, architecture: Architecture) -> Result<[bool; 3]> {
    Ok(match architecture {
        Architecture::Qwen2 => [true, false, false],
        Architecture::Qwen2Moe => [fields.flag_or("qkv_bias", true)?, false, false],
        Architecture::Mistral => [false; 3],
        Architecture::Llama | Architecture::SmolLm3 => {
            let attention = fields.flag("attention_bias")?;
            [attention, attention, fields.flag("mlp_bias")?]
        }
        Architecture::Qwen3 | Architecture::Qwen3Moe | Architecture::Gemma => {
            let attention = fields.flag("attention_bias")?;
            [attention, attention, false]
        }
    })
}

/// The first released files of Gemma say `gelu` and mean its approximation, as `transformers` knows; some say so again
/// under a second key.
fn activation(fields: &Fields<'_>, architecture: Architecture) -> Result<Activation> {
    if architecture != Architecture::Gemma {
        return Ok(named_activation(fields, "hidden_act")?.unwrap_or(Activation::Silu));
    }
    for key in ["hidden_act", "hidden_activation"] {
        if named_activation(fields, key)? == Some(Activation::Silu) {
            return Err(fields.wrong(key, "gelu_pytorch_tanh for Gemma"));
        }
    }
    Ok(Activation::GeluTanh)
}

fn named_activation(fields: &Fields<'_>, key: &str) -> Result<Option<Activation>> {
    match fields.text(key)? {
        None => Ok(None),
        Some("silu" | "swish") => Ok(Some(Activation::Silu)),
        Some("gelu") => Ok(Some(Activation::Gelu)),
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Some(Activation::GeluTanh)),
        Some(_) => Err(fields.wrong(key, "silu, gelu, gelu_new or gelu_pytorch_tanh")),
    }
}

fn dtype(fields: &Fields<'_>) -> Result<Dtype> {
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match fields.text(key)? {
        None => Ok(Dtype::F32),
        Some(name) => Dtype::from_name(name).ok_or_else(|| fields.wrong(key, "float32, bfloat16 or float16")),
    }
}

#[cfg(test)]
mod tests;
