//! Generation gives every sample what it would be alone, however few places the cache has for prompts and samples.

use burn_flex::Flex;
use hardy_model::{
    Blueprint, Decoder, Generation, HostTensor, ModelConfig, Prompt, Qwen2Sizes, Sample, Sampler, generate,
};
use hardy_ops::Noise;

fn decoder() -> Decoder<Flex> {
    let config = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: 23,
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
    let value = |i: usize| ((i as f64 * 0.7548).fract() - 0.5) as f32 * 0.6;
    let tensor = |spec: &hardy_model::ParameterSpec| HostTensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        data: (0..spec.shape.iter().product()).map(value).collect(),
    };
    let tensors = blueprint.parameters.iter().map(tensor).collect();
    Decoder::from_host(blueprint, tensors, &Default::default())
}

/// Prompts of 1 to 19 tokens with 0 to 4 samples.
fn prompts() -> Vec<Prompt> {
    let prompt = |i: u64| Prompt {
        ids: (0..1 + i * 7 % 19).map(|token| ((i * 5 + token * 3) % 23) as u32).collect(),
        sequence: i << 8,
        samples: (1..=i * 3 % 5).map(|sample| (i << 8) + sample).collect(),
    };
    (0..30).map(prompt).collect()
}

fn in_batches_of(batch: usize, max_new_tokens: usize) -> Vec<Vec<Sample>> {
    let how = Generation {
        max_new_tokens,
        stop: vec![1, 4, 9],
        sampler: Sampler { temperature: 1.0, ..Sampler::GREEDY },
        batch,
        key: Generation::key(0, "eval", 0),
    };
    generate(&decoder(), &prompts(), &how, &Noise::clean(), |_| {})
}

#[test]
fn samples_do_not_depend_on_how_many_share_the_cache() {
    for max_new_tokens in [1, 20] {
        let alone = in_batches_of(1, max_new_tokens);
        let counts = |all: &[Vec<Sample>]| all.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts(&alone), prompts().iter().map(|p| p.samples.len()).collect::<Vec<_>>());
        let stopped = alone.iter().flatten().filter(|sample| sample.stopped).count();
        assert!(stopped > 5, "samples leave the batch at different times");
        for batch in [2, 3, 7, 100] {
            assert_eq!(alone, in_batches_of(batch, max_new_tokens), "batches of {batch}");
        }
    }
}
