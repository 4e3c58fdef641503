//! What differs between the layers of one decoder: how far a token sees, whether positions turn queries and keys, and
//! whether the MLP is a mixture of experts. The defaults are those of `transformers`' configuration classes.

use serde_json::Value;

use super::{Architecture, experts::sparse_layers, fields::Fields};
use crate::error::Result;

/// What one layer has that others may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKind {
    /// How many positions a token sees, its own among them; all up to its own where this is `None`.
    pub window: Option<usize>,
    /// Whether queries and keys are turned to their positions.
    pub rotary: bool,
    /// Whether the MLP is a mixture of experts.
    pub sparse: bool,
}

/// The window where `sliding_window` is absent.
const DEFAULT_WINDOW: usize = 4096;
/// The first layer with a window (Qwen2 and Qwen3), where `max_window_layers` is absent.
const DEFAULT_WINDOW_LAYERS: usize = 28;
/// Every so many layers one is not rotary (SmolLM3), where `no_rope_layer_interval` is absent.
const DEFAULT_STILL_INTERVAL: usize = 4;

impl LayerKind {
    /// Those of all `layers`.
    pub(super) fn read(fields: &Fields<'_>, architecture: Architecture, layers: usize) -> Result<Vec<Self>> {
        let rotary = rotary_layers(fields, architecture, layers)?;
        let windows = windows(fields, architecture, &rotary)?;
        let sparse = match architecture {
            Architecture::Qwen2Moe | Architecture::Qwen3Moe => sparse_layers(fields, layers)?,
            _ => vec![false; layers],
        };
        let one = |((window, rotary), sparse)| Self { window, rotary, sparse };
        Ok(windows.into_iter().zip(rotary).zip(sparse).map(one).collect())
    }
}

/// Which layers turn queries and keys: all, but for the zeros of SmolLM3's `no_rope_layers`.
fn rotary_layers(fields: &Fields<'_>, architecture: Architecture, layers: usize) -> Result<Vec<bool>> {
    if architecture != Architecture::SmolLm3 {
        return Ok(vec![true; layers]);
    }
    let interval = fields.optional_size("no_rope_layer_interval")?.unwrap_or(DEFAULT_STILL_INTERVAL);
    let Some(given) = fields.get("no_rope_layers") else {
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    let flags = given.as_array().filter(|flags| flags.len() >= layers).into_iter().flatten();
    let flags: Vec<bool> = flags.map_while(Value::as_u64).map(|flag| flag != 0).take(layers).collect();
    if flags.len() < layers {
        return Err(fields.wrong("no_rope_layers", &format!("a list of 0 or 1 for each of {layers} layers")));
    }
    Ok(flags)
}

/// The window of every layer, by `layer_types` where the file has it.
fn windows(fields: &Fields<'_>, architecture: Architecture, rotary: &[bool]) -> Result<Vec<Option<usize>>> {
    let window = window(fields, architecture)?;
    let first = fields.optional_layer("max_window_layers")?.unwrap_or(DEFAULT_WINDOW_LAYERS);
    let slides = |layer: usize| match architecture {
        Architecture::Qwen2 | Architecture::Qwen3 => layer >= first,
        Architecture::Qwen2Moe => layer.is_multiple_of(2) && layer < first,
        Architecture::SmolLm3 => !rotary[layer],
        _ => true,
    };
    let by_rule: Vec<Option<usize>> =
        (0..rotary.len()).map(|layer| window.filter(|_| slides(layer))).collect();
    match fields.get("layer_types") {
        None => Ok(by_rule),
        Some(types) => by_types(fields, architecture, types, window, &by_rule),
    }
}

/// The window that some layers have.
fn window(fields: &Fields<'_>, architecture: Architecture) -> Result<Option<usize>> {
    const KEY: &str = "sliding_window";
    let used = match architecture {
        Architecture::Llama | Architecture::Gemma => return Ok(None),
        Architecture::Mistral => true,
        _ => fields.flag("use_sliding_window")?,
    };
    match fields.get(KEY) {
        _ if !used => Ok(None),
        // Null is none; only an absent key has a default.
        None if fields.contains(KEY) || architecture == Architecture::SmolLm3 => Ok(None),
        None => Ok(Some(DEFAULT_WINDOW)),
        Some(_) => fields.optional_size(KEY),
    }
}

fn by_types(
    fields: &Fields<'_>,
    architecture: Architecture,
    types: &Value,
    window: Option<usize>,
    by_rule: &[Option<usize>],
) -> Result<Vec<Option<usize>>> {
    let wrong = |wanted: &str| fields.wrong("layer_types", wanted);
    let one = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => Err(wrong("full_attention for every layer where no window is in use")),
        _ => Err(wrong("a list of full_attention and sliding_attention")),
    };
    let given: Vec<_> = types.as_array().into_iter().flatten().map(one).collect::<Result<_>>()?;
    if given.len() != by_rule.len() {
        return Err(wrong(&format!("a list of one type for each of {} layers", by_rule.len())));
    }
    let only_one_kind = matches!(architecture, Architecture::Mistral | Architecture::Qwen3Moe);
    if only_one_kind && given != by_rule {
        return Err(wrong("the same for all layers, as `sliding_window` says"));
    }
    Ok(given)
}
