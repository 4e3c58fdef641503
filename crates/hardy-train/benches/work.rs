//! A training step, generation, a GRPO step and the plain matrix products. On a terminal each is done three times and its
//! seconds are printed; from a pipe it reads the name of a work a line, does it once and answers with its seconds, so
//! that benches/peers/compare.py can let two programs take turns on one machine. Asked for `simd` it names its SIMD level,
//! for `tensor_cores` whether products in bfloat16 run there.
//!
//! Sizes: hidden 256, MLP 704, 6 layers, 8 heads, 4 key-value heads, vocabulary 512, f32. `HARDY_BENCH_SIZE=1.5b` is a
//! Qwen2.5-1.5B, `HARDY_BENCH_SIZE=layers=12,hidden=512,sequences=1,tokens=2048` is what differs from the small one (a head of
//! 32, an MLP of 11/4 of the width), one micro-batch a step; `HARDY_BENCH_DEVICE=cuda` or `vulkan` computes there, where the build has it,
//! `HARDY_BENCH_PRECISION=bf16` in that precision.

use std::{
    env,
    hint::black_box,
    io::{BufRead, IsTerminal, Write, stdin, stdout},
    slice,
    time::Instant,
};

use burn_flex::Flex;
use burn_tensor::Tensor;
use hardy_model::{
    Blueprint, Decoder, Generation, ModelConfig, Prompt, Qwen2Sizes, Sample, Sampler, generate,
};
use hardy_numerics::Precision;
#[cfg(feature = "cuda")]
use hardy_ops::device::Cuda;
#[cfg(any(feature = "cuda", feature = "vulkan"))]
use hardy_ops::device::Kernels;
#[cfg(feature = "vulkan")]
use hardy_ops::device::Vulkan;
use hardy_ops::{
    Address, At, Noise, NoisyBackend, Pass, Phase, Plan, Primitive, Row, Rule,
    ops::linear::{freeze, frozen_linear},
};
use hardy_train::{
    adamw::AdamW,
    advantage,
    gradients::{Gradients, digests},
    objective::{Clip, Mean, Tokens, clipped_surrogate},
    recording::Recording,
    sequence::{Sequence, parts},
    sft::initial_weights,
};

#[path = "../../hardy/src/allocator.rs"]
#[expect(dead_code, reason = "the binary returns pages of large models")]
mod allocator;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SAMPLES: usize = 8;
/// Prompts of a GRPO step.
const PROMPTS: usize = 32;

/// How large the model and the works are.
#[derive(Clone, Copy)]
struct Sizes {
    model: Qwen2Sizes,
    /// Of a training step.
    sequences: usize,
    tokens: usize,
    micro_batch: usize,
    checkpointing: bool,
    /// Of generation.
    prompt: usize,
    new: usize,
}

const TINY: Sizes = Sizes {
    model: Qwen2Sizes {
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
    },
    sequences: 32,
    tokens: 128,
    micro_batch: 4096,
    checkpointing: false,
    prompt: 64,
    new: 64,
};

const LARGE: Sizes = Sizes {
    model: Qwen2Sizes {
        vocab_size: 151_936,
        hidden_size: 1536,
        intermediate_size: 8960,
        layers: 28,
        heads: 12,
        kv_heads: 2,
        max_positions: 4096,
        rope_theta: 1_000_000.0,
        tied_embeddings: true,
        initializer_range: 0.02,
    },
    sequences: 8,
    tokens: 1024,
    micro_batch: 8192,
    checkpointing: true,
    prompt: 128,
    new: 256,
};

impl Sizes {
    /// Those that `HARDY_BENCH_SIZE` names.
    fn asked() -> Self {
        match env::var("HARDY_BENCH_SIZE") {
            Err(_) => TINY,
            Ok(size) if size == "1.5b" => LARGE,
            Ok(size) => size.split(',').fold(TINY, Self::with).in_one_micro_batch(),
        }
    }

    /// With one size changed, as `name=number` says.
    fn with(mut self, change: &str) -> Self {
        let (name, value) = change.split_once('=').expect("a size as `name=number`");
        let value = value.parse().expect("a number");
        let model = &mut self.model;
        match name {
            "layers" => model.layers = value,
            "hidden" => {
                (model.hidden_size, model.intermediate_size) = (value, value * 11 / 4);
                (model.heads, model.kv_heads) = (value / 32, value / 64);
            }
            "sequences" => self.sequences = value,
            "tokens" => (self.tokens, model.max_positions) = (value, value + 1),
            _ => panic!("`{name}` is not one of layers, hidden, sequences, tokens"),
        }
        self
    }

    fn in_one_micro_batch(self) -> Self {
        Self { micro_batch: self.sequences * self.tokens, ..self }
    }
}

fn main() {
    // Pages kept, on a thread of the pool, as the binary has it.
    allocator::keep_freed_pages();
    rayon::scope(|_| on_device());
}

fn on_device() {
    match &env::var("HARDY_BENCH_DEVICE").unwrap_or_else(|_| "cpu".to_owned())[..] {
        "cpu" => serve::<Flex>(&Default::default(), || false),
        #[cfg(feature = "cuda")]
        "cuda" => {
            let device = hardy_ops::device::open_cuda(None).expect("a CUDA device");
            serve::<Cuda>(&device, || <Cuda>::uses_tensor_cores(&device));
        }
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            let device = hardy_ops::device::open_vulkan(None).expect("a Vulkan device");
            serve::<Vulkan>(&device, || <Vulkan>::uses_tensor_cores(&device));
        }
        other => eprintln!("this build has no device `{other}`"),
    }
}

/// The works, as the other program names them.
const WORKS: [&str; 14] = [
    "train",
    "train_noisy",
    "generate_1",
    "generate_32",
    "generate_64",
    "generate_256",
    "grpo",
    "grpo_noisy",
    "grpo_hashed",
    "hashes",
    "products",
    "products_32",
    "products_256",
    "products_grpo",
];

fn serve<B: NoisyBackend>(device: &B::Device, tensor_cores: impl Fn() -> bool) {
    let mut bench = Bench::<B>::new(Sizes::asked(), device);
    if stdin().is_terminal() {
        for work in WORKS {
            let seconds = [0; 3].map(|_| format!("{:.3}", bench.seconds(work)));
            println!("{work:<13} {} s", seconds.join(", "));
        }
        return;
    }
    for work in stdin().lock().lines().map_while(Result::ok) {
        match work.as_str() {
            "simd" => println!("{}", hardy_numerics::simd::level()),
            "tensor_cores" => println!("{}", tensor_cores()),
            _ => println!("{}", bench.seconds(&work)),
        }
        stdout().flush().expect("someone reads");
    }
}

/// The precision that `HARDY_BENCH_PRECISION` names.
fn precision() -> Precision {
    let name = env::var("HARDY_BENCH_PRECISION");
    name.map_or(Precision::F32, |name| name.parse().expect("f32 or bf16"))
}

struct Bench<B: NoisyBackend> {
    sizes: Sizes,
    device: B::Device,
    decoder: Decoder<B>,
    optimizer: AdamW<B>,
    /// Whether an update is hashed, as that of a run is.
    hashing: bool,
    /// Weights of every linear layer of the model, as a generation has them, for its products alone.
    frozen: Vec<Tensor<B, 2>>,
}

impl<B: NoisyBackend> Bench<B> {
    fn new(sizes: Sizes, device: &B::Device) -> Self {
        let config = ModelConfig::qwen2(&sizes.model);
        let blueprint = Blueprint::new(&config.expect("sizes that fit"));
        let weights = initial_weights(&blueprint, 0);
        let decoder = Decoder::from_host(blueprint, weights, device).in_precision(precision());
        let optimizer = AdamW::new(&decoder.parameters, [0.9, 0.999], 0.01);
        Self { sizes, device: device.clone(), decoder, optimizer, hashing: false, frozen: Vec::new() }
    }

    /// Does one piece of work.
    fn seconds(&mut self, work: &str) -> f64 {
        self.hashing = work == "grpo_hashed";
        let started = Instant::now();
        match work {
            "train" => self.train(&Noise::clean()),
            "train_noisy" => self.train(&self.noise()),
            "generate_1" => drop(self.generate(1, 1)),
            "generate_32" => drop(self.generate(32, 1)),
            "generate_64" => drop(self.generate(64, 1)),
            "generate_256" => drop(self.generate(256, 1)),
            "grpo" | "grpo_hashed" => self.grpo(&Noise::clean()),
            // What the hashes of an update take: its gradients are as many numbers as the weights.
            "hashes" => [0; 2].into_iter().for_each(|_| drop(black_box(digests(&self.decoder.parameters)))),
            "grpo_noisy" => self.grpo(&self.noise()),
            "products" => self.products(),
            "products_32" => self.products_of_generation(32, 32),
            "products_256" => self.products_of_generation(256, 256),
            "products_grpo" => self.products_of_generation(PROMPTS, PROMPTS * SAMPLES),
            _ => eprintln!("unknown work `{work}`; there are {}", WORKS.join(", ")),
        }
        B::sync(&self.device).expect("a device that is there");
        started.elapsed().as_secs_f64()
    }

    /// Five per cent on every linear and matmul, forward and backward.
    fn noise(&self) -> Noise {
        let rule = Rule { pass: vec![Pass::Forward, Pass::Backward], ..Rule::noise(0.05) };
        let plan = Plan { rules: vec![rule], ..Plan::default() };
        let bound = plan.bind(&self.decoder.blueprint.sites, &[Phase::Train]);
        bound.expect("a plan that fits").noise(Phase::Train, 0)
    }

    /// Forward, backward, clipping and AdamW.
    fn train(&mut self, noise: &Noise) {
        let Sizes { sequences: count, tokens, .. } = self.sizes;
        let sequence = |i: usize| Sequence {
            ids: (0..=tokens).map(|t| ((i * 31 + t * 7) % 512) as u32).collect(),
            prompt_length: 1,
            prompt: 2 * i as u64,
            sample: 2 * i as u64 + 1,
        };
        let sequences: Vec<Sequence> = (0..count).map(sequence).collect();
        self.update(&sequences, noise, |current| vec![-1.0 / (count * tokens) as f32; current.len()]);
    }

    /// One update; `derivative` is given the log-probabilities of a part.
    fn update(
        &mut self,
        sequences: &[Sequence],
        noise: &Noise,
        mut derivative: impl FnMut(&[f32]) -> Vec<f32>,
    ) {
        let tracked = self.decoder.tracked();
        let noise = noise.clone().gathering(self.decoder.blueprint.sites.len());
        for (_, packed) in parts(sequences, self.sizes.micro_batch, !noise.acts_backward()) {
            let pass = Recording::forward(&tracked, &packed, &noise, 1.0, self.sizes.checkpointing);
            let [current, _] = pass.scores();
            pass.backward(&derivative(&current), None);
        }
        let gradients = Gradients::gathered(&self.decoder, &noise);
        let norm = gradients.norm();
        drop(tracked);
        if self.hashing {
            black_box(gradients.digests());
        }
        self.optimizer.step(&mut self.decoder.parameters, gradients.clipped(norm, 1.0), 1e-4);
        if self.hashing {
            black_box(digests(&self.decoder.parameters));
        }
    }

    fn prompt(&self, index: usize) -> Vec<u32> {
        (0..self.sizes.prompt).map(|t| ((index * 31 + t * 7) % 512) as u32).collect()
    }

    /// New tokens after prompt tokens: greedy with one sample a prompt, sampled with several.
    fn generate(&self, prompts: usize, samples: usize) -> Vec<Vec<Sample>> {
        let prompt = |i: usize| Prompt {
            ids: self.prompt(i),
            sequence: (i as u64) << 16,
            samples: (1..=samples as u64).map(|sample| ((i as u64) << 16) + sample).collect(),
        };
        let prompts: Vec<Prompt> = (0..prompts).map(prompt).collect();
        let sampler = Sampler { temperature: if samples > 1 { 1.0 } else { 0.0 }, ..Sampler::GREEDY };
        let key = Generation::key(0, "bench", 0);
        let how = Generation { max_new_tokens: self.sizes.new, stop: Vec::new(), sampler, batch: 256, key };
        generate(&self.decoder, &prompts, &how, &Noise::clean(), |_| {})
    }

    /// 32 prompts × 8 samples and one update of the clipped surrogate under `noise`.
    fn grpo(&mut self, noise: &Noise) {
        let samples: Vec<Sample> = self.generate(PROMPTS, SAMPLES).into_iter().flatten().collect();
        let sequence = |(i, sample): (usize, &Sample)| Sequence {
            ids: [self.prompt(i / SAMPLES), sample.ids.clone()].concat(),
            prompt_length: self.sizes.prompt,
            prompt: (i / SAMPLES) as u64,
            sample: i as u64,
        };
        let sequences: Vec<Sequence> = samples.iter().enumerate().map(sequence).collect();
        let rewards: Vec<f32> = samples.iter().map(|sample| (sample.ids[0] % 2) as f32).collect();
        let groups: Vec<usize> = (0..samples.len()).map(|i| i / SAMPLES).collect();
        let advantages = advantage::grpo(&rewards, &groups, advantage::EPSILON);
        let new = self.sizes.new;
        let weights = Mean::TokenMean.weights(&vec![new; samples.len()]);
        let mut first = 0;
        self.update(&sequences, noise, |current| {
            let tokens = first..first + current.len();
            first = tokens.end;
            let advantage: Vec<f32> = tokens.clone().map(|token| advantages[token / new]).collect();
            let tokens = Tokens {
                logprob: current,
                old_logprob: current,
                advantage: &advantage,
                weight: &weights[tokens],
                rollout_weight: None,
            };
            clipped_surrogate(&tokens, Clip { low: 0.2, high: 0.2, dual: 3.0 }).d_logprob
        });
    }

    /// The linear layers of the model: how many there are of every size, in and out; the head is the last.
    fn linears(&self) -> [(usize, usize, usize); 5] {
        let Sizes { model, .. } = self.sizes;
        let (layers, hidden, mlp) = (model.layers, model.hidden_size, model.intermediate_size);
        let kv = hidden / model.heads * model.kv_heads;
        [
            (2 * layers, hidden, hidden),
            (2 * layers, hidden, kv),
            (2 * layers, hidden, mlp),
            (layers, mlp, hidden),
            (1, hidden, model.vocab_size),
        ]
    }

    fn ones(&self, rows: usize, columns: usize) -> Primitive<B> {
        Tensor::<B, 2>::ones([rows, columns], &self.device).into_primitive().tensor()
    }

    /// What is at a linear layer without errors, for so many tokens in sequences of the training step's length.
    fn clean(&self, tokens: usize) -> At {
        let address = |token: usize| {
            let row = Row { sequence: 0, position: token as u32 };
            Address { group: (token / self.sizes.tokens) as u32, ..row.into() }
        };
        At::clean(&(0..tokens).map(address).collect()).in_precision(precision())
    }

    /// The matrix products of a training step alone, without attention's: three for every linear layer.
    fn products(&self) {
        let tokens = self.sizes.sequences * self.sizes.tokens;
        let at = self.clean(tokens);
        for (count, inner, outer) in self.linears() {
            let (x, w, dy) = (self.ones(tokens, inner), self.ones(outer, inner), self.ones(tokens, outer));
            for _ in 0..count {
                drop(B::noisy_linear(&x, &w, None, &at));
                drop(B::noisy_linear_backward(&x, &w, &dy, [true, true, false], &at));
            }
        }
    }

    /// The matrix products of a generation alone: those of the prompts, and of every new token but the last of so many samples,
    /// each with the weights of its own layer.
    fn products_of_generation(&mut self, prompts: usize, samples: usize) {
        if self.frozen.is_empty() {
            let layers = self.linears().map(|(count, inner, outer)| vec![[outer, inner]; count]);
            // Not a bfloat16, which would be stored in 16 bits.
            let freeze = |shape| freeze(Tensor::full(shape, 0.1, &self.device), &self.clean(1));
            self.frozen = layers.concat().into_iter().map(freeze).collect();
        }
        let Sizes { prompt, new, .. } = self.sizes;
        let (head, layers) = self.frozen.split_last().expect("a head");
        self.products_of(prompts * prompt, layers);
        self.products_of(prompts, slice::from_ref(head));
        (1..new).for_each(|_| self.products_of(samples, &self.frozen));
    }

    fn products_of(&self, rows: usize, weights: &[Tensor<B, 2>]) {
        let at = self.clean(rows);
        let mut factors: Vec<Tensor<B, 2>> = Vec::new();
        for weight in weights {
            let [inner, _] = weight.dims();
            if factors.last().is_none_or(|x| x.dims()[1] != inner) {
                factors.push(Tensor::ones([rows, inner], &self.device));
            }
            let x = factors.last().expect("one was made").clone();
            drop(frozen_linear(x, weight.clone(), None, &at));
        }
    }
}
