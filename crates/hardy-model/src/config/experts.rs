//! The sizes of a mixture of experts, and which layers have one.

use serde_json::Value;

use super::{Architecture, fields::Fields};
use crate::error::Result;

/// A mixture of experts: a router sends every token to the few that it finds most probable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token goes to.
    pub per_token: usize,
    /// Inner width of an expert.
    pub width: usize,
    /// Inner width of the expert that every token goes to, where there is one.
    pub shared_width: Option<usize>,
    /// Whether the probabilities of a token's experts are divided by their sum.
    pub normalised: bool,
}

impl Experts {
    /// The mixture of a family that has one.
    pub(super) fn read(fields: &Fields<'_>, architecture: Architecture) -> Result<Option<Self>> {
        let shared = match architecture {
            Architecture::Qwen2Moe => true,
            Architecture::Qwen3Moe => false,
            _ => return Ok(None),
        };
        // `transformers` 5 writes the second name for Qwen3.
        let key = if fields.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
        let count = fields.optional_size(key)?.ok_or_else(|| fields.missing("num_experts", "at least 1"))?;
        let per_token = fields.size("num_experts_per_tok")?;
        if per_token > count {
            return Err(fields.wrong("num_experts_per_tok", &format!("at most `{key}`, which is {count}")));
        }
        let shared_width = if shared { Some(fields.size("shared_expert_intermediate_size")?) } else { None };
        let width = fields.size("moe_intermediate_size")?;
        let normalised = fields.flag("norm_topk_prob")?;
        Ok(Some(Self { count, per_token, width, shared_width, normalised }))
    }
}

/// Which of the layers have the mixture: every `decoder_sparse_step`th, but for `mlp_only_layers`.
pub(super) fn sparse_layers(fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>> {
    let step = fields.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let wrong = || fields.wrong("mlp_only_layers", "a list of layers");
    let dense: Vec<u64> = match fields.get("mlp_only_layers") {
        None => Vec::new(),
        Some(Value::Array(list)) => {
            list.iter().map(|layer| layer.as_u64().ok_or_else(wrong)).collect::<Result<_>>()?
        }
        Some(_) => return Err(wrong()),
    };
    let sparse = |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as u64));
    Ok((0..layers).map(sparse).collect())
}
