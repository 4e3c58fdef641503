//! The families of decoders, and how a `config.json` names one.

use super::fields::Fields;
use crate::error::{Error, Result};

/// The families of decoders that can be built. They share attention and the residual stream, and differ in biases,
/// norms, windows and MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Qwen 2 and 2.5: biases on the query, key and value projections.
    Qwen2,
    /// Llama 2 and 3, SmolLM 1 and 2, and models of their shape.
    Llama,
    /// Qwen 3: an RMSNorm on every head of the queries and keys, no biases.
    Qwen3,
    /// Mistral: Llama with a sliding window in every layer.
    Mistral,
    /// Gemma 1: norms that multiply by one more than their weight, a scaled embedding, GELU.
    Gemma,
    /// SmolLM 3: Llama with layers that do not turn queries and keys to their positions.
    SmolLm3,
    /// Qwen 1.5 and 2 with a mixture of experts, one of which every token shares.
    Qwen2Moe,
    /// Qwen 3 with a mixture of experts.
    Qwen3Moe,
}

impl Architecture {
    /// Every architecture, for messages and lists.
    pub const ALL: [Self; 8] = [
        Self::Qwen2,
        Self::Llama,
        Self::Qwen3,
        Self::Mistral,
        Self::Gemma,
        Self::SmolLm3,
        Self::Qwen2Moe,
        Self::Qwen3Moe,
    ];

    /// The `model_type` of a `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
            Self::Mistral => "mistral",
            Self::Gemma => "gemma",
            Self::SmolLm3 => "smollm3",
            Self::Qwen2Moe => "qwen2_moe",
            Self::Qwen3Moe => "qwen3_moe",
        }
    }

    /// The entry of `architectures` in a `config.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::SmolLm3 => "SmolLM3ForCausalLM",
            Self::Qwen2Moe => "Qwen2MoeForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }

    /// By the first of `architectures`, or by `model_type` where there is none; they must not disagree.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        let class = fields.first_text("architectures")?;
        let family = fields.text("model_type")?;
        let unknown = |found: &str| Error::UnknownArchitecture {
            path: fields.path.to_owned(),
            found: found.to_owned(),
            known: Self::ALL.map(Self::class_name).join(", "),
        };
        let known = |found: &str, name: fn(Self) -> &'static str| {
            Self::ALL.into_iter().find(|known| name(*known) == found).ok_or_else(|| unknown(found))
        };
        match (class, family) {
            (None, None) => Err(fields.missing("architectures", r#"a list such as ["Qwen2ForCausalLM"]"#)),
            (None, Some(family)) => known(family, Self::model_type),
            (Some(class), None) => known(class, Self::class_name),
            (Some(class), Some(family)) => {
                let architecture = known(class, Self::class_name)?;
                if family != architecture.model_type() {
                    return Err(
                        fields.wrong("model_type", &format!("\"{}\" for {class}", architecture.model_type()))
                    );
                }
                Ok(architecture)
            }
        }
    }

    /// Whether an absent `tie_word_embeddings` means that the output projection is the embedding.
    pub(super) fn ties_by_default(self) -> bool {
        matches!(self, Self::Gemma | Self::SmolLm3)
    }
}
