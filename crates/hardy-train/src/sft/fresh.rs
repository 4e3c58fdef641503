//! A model from nothing: a tokenizer trained on the data, and weights that are a function of the seed.

use hardy_model::{
    Blueprint, ChatTemplate, Decoder, HostTensor, ModelConfig, ParameterSpec, Qwen2Sizes, Tokenizer,
};
use hardy_numerics::{NoiseKey, Row, fill_gaussian};
use hardy_ops::NoisyBackend;

use super::{NewModel, SftConfig, trainer::worked_answer};
use crate::{
    data::Problem, encode::prompt_text, error::Result, machine::refuse_beyond_memory, policy::Policy,
};

/// The special tokens of a tokenizer from nothing: end of text and padding, and those of a chat.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Values that are held for every parameter in training: itself, its gradient and AdamW's two moments.
const WORDS: u128 = 4;
/// Texts that a tokenizer from nothing is trained on.
const TOKENIZER_TEXTS: usize = 4096;

/// A policy from nothing: a tokenizer trained on the data, and normal weights, addressed like all noise.
pub(super) fn fresh<B: NoisyBackend>(
    sizes: &NewModel,
    config: &SftConfig,
    problems: &[Problem],
    device: &B::Device,
) -> Result<Policy<B>> {
    let template = ChatTemplate::new(&sizes.chat_template)?;
    let texts = problems.iter().take(TOKENIZER_TEXTS).enumerate();
    let text = |(index, problem): (usize, &Problem)| {
        let prompt = prompt_text(Some(&template), config.data.system.as_deref(), problem, "{question}")?;
        Ok(prompt + &worked_answer(config, problem, index))
    };
    let texts = texts.map(text).collect::<Result<Vec<String>>>()?;
    let mut tokenizer = Tokenizer::train(&texts, sizes.vocab_size, &SPECIAL)?;
    tokenizer.set_special(SPECIAL[0], SPECIAL[0])?;
    let mut model = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: sizes.hidden_size,
        intermediate_size: sizes.intermediate_size,
        layers: sizes.layers,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        max_positions: sizes.max_positions,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.02,
    })?;
    model.eos_token_ids = tokenizer.eos().into_iter().collect();
    model.pad_token_id = tokenizer.pad();
    let bytes = WORDS * 4 * model.parameter_count() as u128;
    refuse_beyond_memory("training a model of these sizes", bytes, "make [model.new] smaller")?;
    let blueprint = Blueprint::new(&model);
    let tensors = initial_weights(&blueprint, config.seed);
    Ok(Policy {
        decoder: Decoder::from_host(blueprint, tensors, device),
        tokenizer,
        template: Some(template),
        system: config.data.system.clone(),
        max_positions: sizes.max_positions,
    })
}

/// The weights of a model from nothing, a function of the seed and their names.
pub fn initial_weights(blueprint: &Blueprint, seed: u64) -> Vec<HostTensor> {
    let scale = blueprint.config.initializer_range;
    blueprint.parameters.iter().map(|spec| initial(spec, seed, scale)).collect()
}

/// Norms start at 1, biases at 0, everything else normal.
fn initial(spec: &ParameterSpec, seed: u64, scale: f32) -> HostTensor {
    let mut data = vec![0.0; spec.shape.iter().product()];
    if spec.name.ends_with("norm.weight") {
        data.fill(1.0);
    } else if !spec.name.ends_with(".bias") {
        fill_gaussian(NoiseKey::new(seed, "initial", 0, &spec.name), Row::WEIGHT, 0, &mut data);
        data.iter_mut().for_each(|x| *x *= scale);
    }
    HostTensor { name: spec.name.clone(), shape: spec.shape.clone(), data }
}
