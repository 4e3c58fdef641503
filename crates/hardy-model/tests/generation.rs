//! Generation gives every sample what it would be alone, however few places the cache has for prompts and samples.

mod common;

use burn_flex::Flex;
use burn_tensor::{DType, Tensor};
use hardy_model::{
    Batch, Decoder, Dtype, Frozen, Generation, Prompt, Sample, Sampler, generate, sequence_rows,
};
use hardy_numerics::{Bits, Fault, Image, Perturbation, Precision};
use hardy_ops::{Noise, NoisyBackend, Op, Ops, Phase, Plan, Point, Rule, ops::attention::KvBuffer};

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

fn how(batch: usize, max_new_tokens: usize, temperature: f32) -> Generation {
    Generation {
        max_new_tokens,
        stop: vec![1, 4, 9],
        sampler: Sampler { temperature, ..Sampler::GREEDY },
        batch,
        key: Generation::key(0, "eval", 0),
    }
}

fn in_batches_of(batch: usize, max_new_tokens: usize, precision: Precision) -> Vec<Vec<Sample>> {
    let how = how(batch, max_new_tokens, 1.0);
    generate(&decoder(23, |_| 0).in_precision(precision), &prompts(), &how, &Noise::clean(), |_| {})
}

#[test]
fn a_sample_whose_next_logits_are_not_finite_is_marked_and_ends() {
    let mut broken = decoder(23, |_| 0);
    let norm = broken.blueprint.parameters.iter().position(|spec| spec.name == "model.norm.weight").unwrap();
    for (value, temperature) in [(f32::NAN, 0.0), (f32::NAN, 1.0), (f32::INFINITY, 0.0), (f32::INFINITY, 0.7)]
    {
        broken.parameters[norm] = broken.parameters[norm].full_like(value);
        let how = how(7, 20, temperature);
        let samples = generate(&broken, &prompts(), &how, &Noise::clean(), |_| {});
        let marked = Sample { non_finite: true, ..Sample::default() };
        assert!(samples.iter().flatten().all(|sample| *sample == marked), "{value} at {temperature}");
    }
}

#[test]
fn samples_do_not_depend_on_how_many_share_the_cache() {
    for (max_new_tokens, precision) in [(1, Precision::F32), (20, Precision::F32), (20, Precision::Bf16)] {
        let alone = in_batches_of(1, max_new_tokens, precision);
        let counts = |all: &[Vec<Sample>]| all.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts(&alone), prompts().iter().map(|p| p.samples.len()).collect::<Vec<_>>());
        let stopped = alone.iter().flatten().filter(|sample| sample.stopped).count();
        assert!(stopped > 5, "samples leave the batch at different times");
        for batch in [2, 3, 7, 100] {
            assert_eq!(alone, in_batches_of(batch, max_new_tokens, precision), "batches of {batch}");
        }
    }
}

/// NaN as NaN, everything else to the bit.
fn bits(x: Tensor<Flex, 2>) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    Flex::host(&x.into_primitive().tensor()).iter().map(bits).collect()
}

#[test]
fn tokens_from_the_cache_are_those_of_a_full_pass_also_after_bits_flip_to_nan() {
    let decoder = decoder(23, |_| 0);
    let ids: Vec<u32> = (0..90).map(|token| token * 7 % 23).collect();
    let rows = sequence_rows(0, 1, 40, ids.len());
    let every = |count: usize| (0..count as u32).collect::<Vec<u32>>();
    let mut spoilt = 0;
    for seed in 0..12 {
        let decoder = decoder.clone().in_precision(Precision::ALL[seed as usize % 2]);
        let fault = Fault::BitFlip { rate: 2e-4, bits: Bits::Exponent, image: Image::F32 };
        let error = Perturbation::Fault { fault, sparsity: 1.0 };
        let plan =
            Plan { rules: vec![Rule { ops: Ops::All, error, ..Rule::noise(0.0) }], seed, ..Plan::default() };
        let plan = plan.bind(&decoder.blueprint.sites, &[Phase::Eval]).unwrap();
        let noise = plan.noise(Phase::Eval, 0);
        let batch = Batch::pack([(&ids[..], &rows[..])]);
        let full = bits(decoder.logits(decoder.hidden(&batch, &noise), &batch, every(ids.len()), &noise));
        spoilt += full.iter().filter(|bits| !f32::from_bits(**bits).is_finite()).count();
        let frozen = Frozen::new(&decoder, &noise);
        let mut cache = KvBuffer::for_sequences(decoder.kv_places(1, ids.len()));
        let (cached, mut ours) = ([cache.sample(None)], Vec::new());
        for step in std::iter::once(0..40).chain((40..ids.len()).map(|i| i..i + 1)) {
            let part = Batch::pack([(&ids[step.clone()], &rows[step.clone()])]);
            let hidden = frozen.hidden(&part, &mut cache, &cached);
            ours.extend(bits(frozen.logits(hidden, &part, every(step.len()))));
        }
        assert!(full == ours, "seed {seed}");
    }
    assert!(spoilt > 23, "{spoilt} logits are not finite");
}

#[test]
fn a_generation_perturbs_the_embedding_once() {
    let decoder = decoder(23, |_| 0);
    let rule = Rule { ops: Ops::Some(vec![Op::Embedding]), at: Point::Weight, ..Rule::noise(0.05) };
    let plan = Plan { rules: vec![rule], ..Plan::default() };
    let plan = plan.bind(&decoder.blueprint.sites, &[Phase::Eval]).unwrap();
    let how = Generation {
        max_new_tokens: 8,
        stop: Vec::new(),
        sampler: Sampler::GREEDY,
        batch: 3,
        key: Generation::key(0, "eval", 0),
    };
    let noise = plan.noise(Phase::Eval, 0);
    let samples = generate(&decoder, &prompts(), &how, &noise, |_| {});
    let receipt = &plan.receipts()[0];
    let table = 23 * decoder.blueprint.config.hidden_size as u64;
    assert_eq!((receipt.calls, receipt.elements), (1, table));
    // Greedy, every token is the likeliest of a full pass.
    for (prompt, samples) in prompts().iter().zip(&samples) {
        for sample in samples {
            let ids = [&prompt.ids[..], &sample.ids].concat();
            let rows = sequence_rows(prompt.sequence, prompt.samples[0], prompt.ids.len(), ids.len());
            let batch = Batch::pack([(&ids[..], &rows[..])]);
            let last: Vec<u32> = (prompt.ids.len() as u32 - 1..ids.len() as u32 - 1).collect();
            let logits = decoder.logits(decoder.hidden(&batch, &noise), &batch, &last, &noise);
            let likeliest =
                logits.argmax(1).into_data().iter::<i64>().map(|id| id as u32).collect::<Vec<_>>();
            assert_eq!(likeliest, sample.ids);
        }
    }
    assert_eq!(plan.receipts()[0].calls, 1, "nor is it counted again");
}

#[test]
fn a_checkpoint_that_is_read_as_it_is_stored_generates_the_same_in_half_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let trained = decoder(23, |_| 0);
    trained.blueprint.config.save(dir.path()).unwrap();
    trained.write_parameters(&dir.path().join("model.safetensors"), Dtype::Bf16).unwrap();
    let wide = Decoder::<Flex>::from_dir(dir.path(), &Default::default()).unwrap();
    let stored = Decoder::<Flex>::as_stored(dir.path(), &Default::default()).unwrap();
    for (spec, tensor) in stored.blueprint.parameters.iter().zip(&stored.parameters) {
        let expected = if spec.shape.len() == 1 { DType::F32 } else { DType::BF16 };
        assert_eq!(tensor.dtype(), expected, "{}", spec.name);
    }
    let of = |decoder| generate(decoder, &prompts(), &how(7, 20, 1.0), &Noise::clean(), |_| {});
    assert_eq!(of(&stored), of(&wide));
}

#[test]
fn lanes_give_the_samples_and_the_receipts_of_one_batch_on_any_number_of_threads() {
    let decoder = decoder(23, |_| 0);
    let prompt =
        |prompt: Prompt| Prompt { samples: (1..=14).map(|i| prompt.sequence + i).collect(), ..prompt };
    let prompts: Vec<Prompt> = prompts().into_iter().map(prompt).collect();
    let run = |batch, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let plan = Plan { rules: vec![Rule::noise(0.05)], ..Plan::default() };
        let plan = plan.bind(&decoder.blueprint.sites, &[Phase::Eval]).unwrap();
        let (noise, mut told) = (plan.noise(Phase::Eval, 0), Vec::new());
        let samples = pool
            .install(|| generate(&decoder, &prompts, &how(batch, 5, 1.0), &noise, |done| told.push(done)));
        assert_eq!(told, (1..=30 * 14).collect::<Vec<_>>());
        (samples, plan.receipts())
    };
    for batch in [40, 300] {
        let one = run(batch, 1);
        assert!(one == run(batch, 2) && one == run(batch, 3), "batches of {batch}");
        let (samples, receipts) = run(7, 2);
        assert_eq!(samples, one.0);
        for (ours, other) in one.1.iter().zip(&receipts) {
            assert_eq!((ours.calls, ours.elements), (other.calls, other.elements));
            assert!((ours.measured - other.measured).abs() < 1e-12);
        }
    }
}
