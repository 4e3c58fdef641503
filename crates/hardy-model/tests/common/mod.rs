//! A small decoder with the weights of no training.

use burn_flex::Flex;
use hardy_model::{Blueprint, Decoder, HostTensor, ModelConfig, ParameterSpec, Qwen2Sizes};

/// Two layers; the [`values`] of every parameter begin at its `seed`.
pub fn decoder(vocab_size: usize, seed: impl Fn(&ParameterSpec) -> u64) -> Decoder<Flex> {
    let config = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size,
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        max_positions: 64,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.2,
    });
    let blueprint = Blueprint::new(&config.unwrap());
    let tensor = |spec: &ParameterSpec| HostTensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        data: values(spec.shape.iter().product(), seed(spec)),
    };
    let tensors = blueprint.parameters.iter().map(tensor).collect();
    Decoder::from_host(blueprint, tensors, &Default::default())
}

/// `n` values in [-0.3, 0.3).
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let value = |i: usize| ((i as f64 * 0.7548 + seed as f64 * 0.5698).fract() - 0.5) as f32 * 0.6;
    (0..n).map(value).collect()
}
