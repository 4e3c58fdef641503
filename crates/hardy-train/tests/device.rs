//! Passes, gradients and generation on a device are those of the CPU: the same errors at the same addresses, and receipts
//! that count the same. The device is CUDA's in a build that has it, else Vulkan's, and without a GPU llvmpipe.
#![cfg(any(feature = "vulkan", feature = "cuda"))]

mod common;

use burn_flex::Flex;
use hardy_model::{Decoder, Generation, Prompt, Sample, Sampler, generate, sequence_rows};
use hardy_numerics::{Format, Perturbation, Precision};
#[cfg(feature = "cuda")]
use hardy_ops::device::{Cuda as There, open_cuda as open, uploads};
#[cfg(not(feature = "cuda"))]
use hardy_ops::device::{Vulkan as There, open_vulkan as open, uploads};
use hardy_ops::{
    BoundPlan, Noise, NoisyBackend, Ops, Pass, Phase, Plan, Point, Receipt, Rule, ops::attention::KvBuffer,
};
use hardy_train::{adamw::AdamW, gradients::Gradients, recording::Recording, sequence::parts};

use common::{decoder, sequences};

/// The same decoder on the device.
fn on_device() -> Decoder<There> {
    let (cpu, device) = (decoder(), open(None).expect("a device"));
    Decoder::from_host((*cpu.blueprint).clone(), cpu.to_host(), &device)
}

fn everywhere(decoder: &Decoder<Flex>, rules: Vec<Rule>) -> BoundPlan {
    let plan = Plan { rules, seed: 7, ..Plan::default() };
    plan.bind(&decoder.blueprint.sites, &Phase::ALL).expect("rules that match")
}

/// Plans that together use every point of every operator, noise, faults and formats.
fn plans() -> Vec<(&'static str, Vec<Rule>)> {
    let both = vec![Pass::Forward, Pass::Backward];
    let at = |at| Rule { at, ops: Ops::All, pass: both.clone(), ..Rule::noise(0.05) };
    let format = |at, format: Format| Rule { at, error: format.into(), ..Rule::noise(0.0) };
    let bias = Perturbation::SystematicBias { scale: 0.01, relative: true };
    vec![
        ("clean", Vec::new()),
        ("outputs", vec![at(Point::Output)]),
        ("inputs and weights", vec![at(Point::Input), at(Point::Weight)]),
        ("formats", vec![format(Point::Input, Format::Mxfp4), format(Point::Weight, Format::Nvfp4)]),
        ("two rules", vec![at(Point::Output), Rule { error: bias, ..at(Point::Output) }]),
    ]
}

/// What one pass gives: log-probabilities, gradients and receipts.
struct Outcome {
    log_probs: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    receipts: Vec<Receipt>,
}

/// In parts of at most `limit` tokens.
fn pass<B: NoisyBackend>(
    decoder: &Decoder<B>,
    plan: &BoundPlan,
    limit: usize,
    checkpointing: bool,
) -> Outcome {
    let (tracked, sequences) = (decoder.tracked(), sequences(2, 3));
    let noise = plan.noise(Phase::Train, 1).gathering(decoder.blueprint.sites.len());
    let mut log_probs: Vec<f32> = Vec::new();
    for (_, packed) in parts(&sequences, limit, !noise.acts_backward()) {
        let pass = Recording::forward(&tracked, &packed, &noise, 0.9, checkpointing);
        let [scores, entropy] = pass.scores();
        let derivative = |i: usize| ((log_probs.len() + i) as f32 * 0.7).sin() / 50.0;
        let derivative: Vec<f32> = (0..scores.len()).map(derivative).collect();
        pass.backward(&derivative, Some(&vec![0.003; entropy.len()]));
        log_probs.extend(scores);
    }
    let host = |gradient: burn_tensor::Tensor<B, 2>| B::host(&gradient.into_primitive().tensor()).to_vec();
    let gradients = Gradients::gathered(decoder, &noise).clipped(0.0, 0.0).into_iter().map(host);
    Outcome { log_probs, gradients: gradients.collect(), receipts: plan.receipts() }
}

/// ‖a − b‖/‖a‖.
fn difference<'a>(a: impl Iterator<Item = &'a f32>, b: impl Iterator<Item = &'a f32>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (a, b) in a.zip(b) {
        error += f64::from(a - b).powi(2);
        norm += f64::from(*a).powi(2);
    }
    if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

/// How far log-probabilities and gradients in bfloat16 are apart at most. Products of bfloat16 are exact in f32: on llvmpipe
/// nothing was apart, and what differs has to stay within the bounds of f32. Tensor cores cut sums off: about one operand in
/// 2¹³ then becomes its neighbour, 2⁻⁸ away, some 10⁻⁵ to 10⁻⁴ a product; this bound was not measured.
const NARROW: [f64; 2] = if cfg!(feature = "cuda") { [1e-3, 1e-2] } else { [1e-5, 1e-4] };

#[test]
fn a_pass_forward_and_backward_is_that_of_the_cpu_and_its_receipts_count_the_same() {
    let (cpu, device) = (decoder(), on_device());
    for (name, rules) in plans() {
        for (precision, checkpointing, [score, gradient]) in [
            (Precision::F32, false, [1e-5, 1e-4]),
            (Precision::F32, true, [1e-5, 1e-4]),
            (Precision::Bf16, true, NARROW),
        ] {
            if precision == Precision::Bf16 && !["clean", "two rules"].contains(&name) {
                continue;
            }
            let [here, there] = [(); 2].map(|()| everywhere(&cpu, rules.clone()));
            let (cpu, device) = (cpu.clone().in_precision(precision), device.clone().in_precision(precision));
            let (ours, theirs) =
                (pass(&cpu, &here, 60, checkpointing), pass(&device, &there, 60, checkpointing));
            let apart = difference(ours.log_probs.iter(), theirs.log_probs.iter());
            assert!(apart < score, "{name}: log-probabilities are {apart:e} apart");
            let mut most = 0.0_f64;
            for (index, (ours, theirs)) in ours.gradients.iter().zip(&theirs.gradients).enumerate() {
                let apart = difference(ours.iter(), theirs.iter());
                assert!(apart < gradient, "{name}: gradient {index} is {apart:e} apart in {precision}");
                most = most.max(apart);
            }
            println!("{name} in {precision}: log-probabilities are {apart:e} apart, gradients {most:e}");
            assert_eq!(ours.receipts.len(), theirs.receipts.len(), "{name}");
            for (ours, theirs) in ours.receipts.iter().zip(&theirs.receipts) {
                let counts =
                    |r: &Receipt| (r.site.clone(), r.point, r.calls, r.elements, r.non_finite, r.asked);
                assert_eq!(counts(ours), counts(theirs), "{name}");
                let apart = (ours.measured / theirs.measured - 1.0).abs();
                assert!(apart < 10.0 * score, "{name}: {ours:?} measured, on the device {}", theirs.measured);
            }
        }
    }
}

#[test]
fn tables_of_a_batch_are_uploaded_once_however_often_passes_go_over_it() {
    let device = on_device();
    let plan = everywhere(&decoder(), plans().remove(1).1);
    let noise = plan.noise(Phase::Train, 1).gathering(device.blueprint.sites.len());
    let (tracked, sequences) = (device.tracked(), sequences(2, 3));
    let (_, packed) = parts(&sequences, 10_000, false).next().expect("a part");
    let uploads_of_a_pass = || {
        let before = uploads();
        let pass = Recording::forward(&tracked, &packed, &noise, 1.0, true);
        let count = pass.scores()[0].len();
        pass.backward(&vec![0.01; count], None);
        uploads() - before
    };
    // Ids, chosen rows, the orders of both, targets; addresses both ways of the batch and of what the head sees, and of keys
    // backward; runs of linear layers, norms and the head; segments, their blocks and the order of their keys; angles.
    let counts = [(); 3].map(|()| uploads_of_a_pass());
    assert_eq!(counts, [17, 0, 0]);
}

#[test]
fn gradients_on_the_device_are_the_same_to_the_bit_wherever_a_batch_is_cut() {
    let (cpu, device) = (decoder(), on_device());
    let run = |limit, precision| {
        let plan = everywhere(&cpu, plans().remove(1).1);
        let outcome = pass(&device.clone().in_precision(precision), &plan, limit, false);
        (outcome.log_probs, outcome.gradients)
    };
    for precision in Precision::ALL {
        let whole = run(10_000, precision);
        for limit in [1, 30] {
            assert!(whole == run(limit, precision), "at most {limit} tokens in {precision}");
        }
    }
}

#[test]
fn cached_decoding_on_the_device_is_its_full_pass_to_the_bit() {
    let device = on_device();
    let narrow = plans().into_iter().skip(1).take(1).map(|plan| (Precision::Bf16, plan));
    for (precision, (name, rules)) in plans().into_iter().map(|plan| (Precision::F32, plan)).chain(narrow) {
        let device = device.clone().in_precision(precision);
        let plan = everywhere(&decoder(), rules);
        let noise = plan.noise(Phase::Eval, 0);
        let ids: Vec<u32> = (0..70).map(|token| token * 7 % 40).collect();
        let rows = sequence_rows(5, 6, 20, ids.len());
        let bits = |x: burn_tensor::Tensor<There, 2>| -> Vec<u32> {
            <There as NoisyBackend>::host(&x.into_primitive().tensor()).iter().map(|x| x.to_bits()).collect()
        };
        let every = |count: usize| (0..count as u32).collect::<Vec<u32>>();
        let whole = hardy_model::Batch::pack([(&ids[..], &rows[..])]);
        let full = device.logits(device.hidden(&whole, &noise), &whole, every(ids.len()), &noise);
        let frozen = hardy_model::Frozen::new(&device, &noise);
        let mut cache = KvBuffer::for_sequences(device.kv_places(1, ids.len()));
        let (sequence, mut ours) = ([cache.sample(None)], Vec::new());
        for step in std::iter::once(0..40).chain((40..ids.len()).map(|token| token..token + 1)) {
            let part = hardy_model::Batch::pack([(&ids[step.clone()], &rows[step.clone()])]);
            let hidden = frozen.hidden(&part, &mut cache, &sequence);
            ours.extend(bits(frozen.logits(hidden, &part, every(step.len()))));
        }
        assert!(bits(full) == ours, "{name} in {precision}");
    }
}

fn samples<B: NoisyBackend>(
    decoder: &Decoder<B>,
    batch: usize,
    temperature: f32,
    noise: &Noise,
) -> Vec<Vec<Sample>> {
    let prompt = |i: u64| Prompt {
        ids: (0..3 + i * 5 % 11).map(|token| ((i * 13 + token * 3) % 40) as u32).collect(),
        sequence: i << 8,
        samples: (1..=i * 3 % 4).map(|sample| (i << 8) + sample).collect(),
    };
    let how = Generation {
        max_new_tokens: 12,
        stop: vec![1, 4],
        sampler: Sampler { temperature, ..Sampler::GREEDY },
        batch,
        key: Generation::key(0, "eval", 0),
    };
    let prompts: Vec<Prompt> = (0..6).map(prompt).collect();
    generate(decoder, &prompts, &how, noise, |_| {})
}

#[test]
fn generation_on_the_device_draws_the_tokens_of_the_cpu_whatever_shares_the_batch() {
    let (cpu, device) = (decoder(), on_device());
    let plan = everywhere(&cpu, plans().remove(1).1);
    for noise in [Noise::clean(), plan.noise(Phase::Eval, 3)] {
        for temperature in [0.0, 1.0] {
            let theirs = samples(&device, 3, temperature, &noise);
            assert_eq!(theirs, samples(&device, 100, temperature, &noise), "temperature {temperature}");
            let tokens = |all: Vec<Vec<Sample>>| -> Vec<Vec<u32>> {
                all.into_iter().flatten().map(|s| s.ids).collect()
            };
            assert_eq!(
                tokens(theirs),
                tokens(samples(&cpu, 3, temperature, &noise)),
                "temperature {temperature}"
            );
        }
    }
}

#[test]
fn a_step_of_adamw_on_the_device_is_that_of_the_cpu() {
    fn stepped<B: NoisyBackend>(mut decoder: Decoder<B>) -> Vec<f32> {
        let mut adam = AdamW::new(decoder.trained(), [0.9, 0.95], 0.1);
        let gradients = || decoder.parameters.iter().map(|p| p.clone() * 0.3).collect::<Vec<_>>();
        let (first, second) = (gradients(), gradients());
        adam.step(decoder.trained_mut(), first, 0.01);
        adam.step(decoder.trained_mut(), second, 0.01);
        decoder.to_host().into_iter().flat_map(|tensor| tensor.data).collect()
    }
    let (ours, theirs) = (stepped(decoder()), stepped(on_device()));
    let apart = difference(ours.iter(), theirs.iter());
    assert!(apart < 1e-6, "{apart:e}");
}
