//! Generation gives every sample what it would be alone, however few places the cache has for prompts and samples.

mod common;

use hardy_model::{Generation, Prompt, Sample, Sampler, generate};
use hardy_ops::Noise;

use common::decoder;

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
    generate(&decoder(23, |_| 0), &prompts(), &how, &Noise::clean(), |_| {})
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
