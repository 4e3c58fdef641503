//! One training step (32 × 128 tokens: forward, backward, clipping, AdamW), clean and under 5 % error, and greedy
//! generation (64 prompt + 64 new tokens), at hidden 256, MLP 704, 6 layers, 8 heads, 4 key-value heads, vocabulary 512.

use burn_flex::Flex;
use divan::{Bencher, counter::ItemsCount};
use hardy_model::{Blueprint, Decoder, Generation, ModelConfig, Prompt, Qwen2Sizes, Sampler, generate};
use hardy_ops::{Noise, Pass, Phase, Plan, Rule};
use hardy_train::{
    adamw::AdamW,
    gradients::Gradients,
    recording::Recording,
    sequence::{Packed, Sequence, micro_batches},
    sft::initial_weights,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEQUENCES: usize = 32;
const TOKENS: usize = 128;
const NEW: usize = 64;

fn main() {
    // On a thread of the pool, as the binary is.
    rayon::scope(|_| divan::main());
}

fn decoder() -> Decoder<Flex> {
    let config = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: 512,
        hidden_size: 256,
        intermediate_size: 704,
        layers: 6,
        heads: 8,
        kv_heads: 4,
        max_positions: 512,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.02,
    })
    .expect("sizes that fit");
    let blueprint = Blueprint::new(&config);
    let weights = initial_weights(&blueprint, 0);
    Decoder::from_host(blueprint, weights, &Default::default())
}

fn sequences() -> Vec<Sequence> {
    let sequence = |i: usize| Sequence {
        ids: (0..=TOKENS).map(|t| ((i * 31 + t * 7) % 512) as u32).collect(),
        prompt_length: 1,
        prompt: 2 * i as u64,
        sample: 2 * i as u64 + 1,
    };
    (0..SEQUENCES).map(sequence).collect()
}

/// Five per cent on every linear and matmul, forward and backward.
fn noise(decoder: &Decoder<Flex>, scale: f64) -> Noise {
    if scale == 0.0 {
        return Noise::clean();
    }
    let rule = Rule { pass: vec![Pass::Forward, Pass::Backward], ..Rule::noise(scale) };
    let plan = Plan { rules: vec![rule], ..Plan::default() };
    plan.bind(&decoder.blueprint.sites, &[Phase::Train]).expect("a plan that fits").noise(Phase::Train, 0)
}

#[divan::bench(args = [0.0, 0.05], sample_count = 10)]
fn training_step(bencher: Bencher, scale: f64) {
    let mut decoder = decoder();
    let mut optimizer = AdamW::new(&decoder.parameters, [0.9, 0.999], 0.01);
    let sequences = sequences();
    let noise = noise(&decoder, scale);
    let targets = SEQUENCES * TOKENS;
    bencher.counter(ItemsCount::new(targets)).bench_local(|| {
        let tracked = decoder.tracked();
        let mut gradients = Gradients::zeros(&decoder);
        for part in micro_batches(&sequences, 4096) {
            let packed = Packed::new(&sequences[part]);
            let pass = Recording::forward(&tracked, &packed, &noise, 1.0, false);
            pass.backward(&mut gradients, &vec![-1.0 / targets as f32; packed.targets.len()], None);
        }
        let norm = gradients.norm();
        drop(tracked);
        optimizer.step(&mut decoder.parameters, gradients.clipped(norm, 1.0), 1e-4);
    });
}

#[divan::bench(args = [1, 32, 256], sample_count = 5)]
fn generation(bencher: Bencher, batch: usize) {
    let decoder = decoder();
    let prompt = |i: usize| Prompt {
        ids: (0..NEW).map(|t| ((i * 31 + t * 7) % 512) as u32).collect(),
        sequence: 2 * i as u64,
        samples: vec![2 * i as u64 + 1],
    };
    let prompts: Vec<Prompt> = (0..batch).map(prompt).collect();
    let key = Generation::key(0, "bench", 0);
    let how = Generation { max_new_tokens: NEW, stop: Vec::new(), sampler: Sampler::GREEDY, batch, key };
    bencher
        .counter(ItemsCount::new(batch * NEW))
        .bench_local(|| generate(&decoder, &prompts, &how, &Noise::clean(), |_| {}));
}
