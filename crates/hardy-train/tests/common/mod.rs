//! A small decoder, and groups of responses to it.

use burn_flex::Flex;
use hardy_model::{Blueprint, Decoder, ModelConfig, Qwen2Sizes};
use hardy_train::{sequence::Sequence, sft::initial_weights};

/// Two layers of four heads, with seeded weights.
pub fn decoder() -> Decoder<Flex> {
    let config = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: 40,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        max_positions: 128,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.2,
    });
    let blueprint = Blueprint::new(&config.unwrap());
    let weights = initial_weights(&blueprint, 3);
    Decoder::from_host(blueprint, weights, &Default::default())
}

/// So many groups of so many responses each, of different lengths.
pub fn sequences(groups: usize, responses: usize) -> Vec<Sequence> {
    let sequence = |i: usize| {
        let group = i / responses;
        let (prompt_length, response) = (9 + group, 1 + i * 5 % 13);
        let ids = (0..prompt_length).map(|t| ((group * 31 + t * 7) % 40) as u32);
        let ids = ids.chain((0..response).map(|t| ((i * 17 + t * 11) % 40) as u32)).collect();
        Sequence { ids, prompt_length, prompt: group as u64, sample: 100 + i as u64 }
    };
    (0..groups * responses).map(sequence).collect()
}
