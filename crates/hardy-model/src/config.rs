//! The sizes and switches of a decoder, from the `config.json` of a Hugging Face directory. Both dialects are read,
//! that of `transformers` 4 (`rope_theta`, `torch_dtype`) and of 5 (`rope_parameters`, `dtype`), and what a file says
//! beyond the decoder's needs is kept and written back.

mod fields;
mod parameters;
mod rope;
mod write;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::{Dtype, read_json, read_json_if_present};
use fields::Fields;
pub use parameters::ParameterSpec;
pub use rope::{Rope, RopeScaling};

/// The families of decoders that can be built. They share everything but biases and norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Qwen 2 and 2.5: biases on the query, key and value projections.
    Qwen2,
    /// Llama 2 and 3 and models of its shape.
    Llama,
    /// Qwen 3: an RMSNorm on every head of the queries and keys, no biases.
    Qwen3,
}

impl Architecture {
    /// Every architecture, for messages and lists.
    pub const ALL: [Self; 3] = [Self::Qwen2, Self::Llama, Self::Qwen3];

    /// The `model_type` of a `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The entry of `architectures` in a `config.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

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
    /// The longest sequence that the model was made for, in tokens.
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
#[derive(Debug, Clone, PartialEq)]
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
        let architecture = architecture(&fields)?;
        refuse_what_is_not_built(&fields, architecture)?;
        let hidden_size = fields.size("hidden_size")?;
        let (heads, kv_heads) = attention_heads(&fields)?;
        let attention_bias = architecture != Architecture::Qwen2 && fields.flag("attention_bias")?;
        Ok(Self {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            layers: fields.layers()?,
            heads,
            kv_heads,
            head_dim: head_dim(&fields, architecture, hidden_size, heads)?,
            max_positions: fields.optional_size("max_position_embeddings")?.unwrap_or(2048),
            activation: activation(&fields)?,
            rms_norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: Rope::read(&fields)?,
            tied_embeddings: fields.flag("tie_word_embeddings")?,
            qkv_bias: architecture == Architecture::Qwen2 || attention_bias,
            o_bias: attention_bias,
            mlp_bias: architecture == Architecture::Llama && fields.flag("mlp_bias")?,
            qk_norm: architecture == Architecture::Qwen3,
            initializer_range: fields.positive("initializer_range")?.unwrap_or(0.02) as f32,
            dtype: dtype(&fields)?,
            bos_token_id: fields.token_id("bos_token_id")?,
            eos_token_ids: fields.token_ids("eos_token_id")?,
            pad_token_id: fields.token_id("pad_token_id")?,
            generation: None,
            source,
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
}

/// By the first of `architectures`, or by `model_type` where there is none; they must not disagree.
fn architecture(fields: &Fields<'_>) -> Result<Architecture> {
    let class = fields.first_text("architectures")?;
    let family = fields.text("model_type")?;
    let unknown = |found: &str| Error::UnknownArchitecture {
        path: fields.path.to_owned(),
        found: found.to_owned(),
        known: Architecture::ALL.map(Architecture::class_name).join(", "),
    };
    let known = |found: &str, name: fn(Architecture) -> &'static str| {
        Architecture::ALL.into_iter().find(|known| name(*known) == found).ok_or_else(|| unknown(found))
    };
    match (class, family) {
        (None, None) => Err(fields.missing("architectures", r#"a list such as ["Qwen2ForCausalLM"]"#)),
        (None, Some(family)) => known(family, Architecture::model_type),
        (Some(class), None) => known(class, Architecture::class_name),
        (Some(class), Some(family)) => {
            let architecture = known(class, Architecture::class_name)?;
            if family != architecture.model_type() {
                return Err(
                    fields.wrong("model_type", &format!("\"{}\" for {class}", architecture.model_type()))
                );
            }
            Ok(architecture)
        }
    }
}

/// Options of these architectures that change what the decoder computes and that it does not have.
fn refuse_what_is_not_built(fields: &Fields<'_>, architecture: Architecture) -> Result<()> {
    if fields.get("quantization_config").is_some() {
        return Err(fields.wrong("quantization_config", "absent: weights are read in f32, bf16 or f16 only"));
    }
    let full_attention = "full_attention for every layer: sliding windows are not supported";
    if let Some(types) = fields.get("layer_types") {
        let full = types.as_array().is_some_and(|types| types.iter().all(|kind| kind == "full_attention"));
        return if full { Ok(()) } else { Err(fields.wrong("layer_types", full_attention)) };
    }
    if architecture == Architecture::Llama || !fields.flag("use_sliding_window")? {
        return Ok(());
    }
    let first_windowed = fields.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28);
    if fields.get("sliding_window").is_some() && first_windowed < fields.layers()? as u64 {
        return Err(fields.wrong("use_sliding_window", "false: sliding windows are not supported"));
    }
    Ok(())
}

/// Query heads, and key and value heads.
fn attention_heads(fields: &Fields<'_>) -> Result<(usize, usize)> {
    let heads = fields.size("num_attention_heads")?;
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

fn activation(fields: &Fields<'_>) -> Result<Activation> {
    match fields.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        _ => Err(fields.wrong("hidden_act", "silu, gelu, gelu_new or gelu_pytorch_tanh")),
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
