//! What is done with the keys of a `config.json` that nobody reads. Those that can not change what the decoder computes
//! are left alone; every other key is refused, for a model that is silently another would be worse than none.

use serde_json::Value;

use super::{Architecture, fields::Fields};
use crate::error::Result;

/// Keys that say nothing about what a decoder computes.
const HARMLESS: &[&str] = &[
    // Of the file.
    "auto_map",
    "custom_pipelines",
    "is_llama_config",
    "model_name",
    "tokenizer_class",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    // Of training, and of how a result is handed out.
    "gradient_checkpointing",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pretraining_tp",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    // Of generation.
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    // Of other kinds of model, which every old file has.
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "finetuning_task",
    "id2label",
    "label2id",
    "prefix",
    "problem_type",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
];

/// Keys that change nothing at one value.
const NEUTRAL: &[(&str, f64)] = &[
    ("attention_dropout", 0.0),
    ("embd_pdrop", 0.0),
    ("embedding_multiplier", 1.0),
    ("hidden_dropout", 0.0),
    ("logits_scaling", 1.0),
    ("resid_pdrop", 0.0),
    ("residual_multiplier", 1.0),
    ("rope_scaling_factor", 1.0),
];

/// Refuses the first key that nobody has read and that may change what the decoder computes. `null`, `false` and what is
/// empty ask for nothing, and keys that begin with an underscore are notes.
pub(super) fn refuse_unread(fields: &Fields<'_>, architecture: Architecture) -> Result<()> {
    for (key, value) in fields.unread() {
        let harmless = HARMLESS.contains(&key) || key.starts_with('_') || asks_for_nothing(value);
        if harmless || (architecture, key) == (Architecture::Qwen3Moe, "max_window_layers") {
            continue;
        }
        return match NEUTRAL.iter().find(|(neutral, _)| *neutral == key) {
            Some((_, right)) if value.as_f64() == Some(*right) => continue,
            Some((_, right)) => Err(fields.wrong(key, &format!("{right}: nothing else is supported"))),
            None => {
                let wanted = format!("absent: no {} with it is supported", architecture.class_name());
                Err(fields.wrong(key, &wanted))
            }
        };
    }
    Ok(())
}

/// Refuses the first key of an inner object that nobody has read.
pub(super) fn refuse_unread_inside(fields: &Fields<'_>) -> Result<()> {
    match fields.unread().find(|(_, value)| !asks_for_nothing(value)) {
        None => Ok(()),
        Some((key, _)) => Err(fields.wrong(key, "absent: it is not supported here")),
    }
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
