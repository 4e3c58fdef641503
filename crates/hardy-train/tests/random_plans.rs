//! Whatever a plan asks for, nothing that is computed or counted depends on how the work is split: fifty random plans,
//! on a small model, with every kind of error.

mod common;

use burn_flex::Flex;
use hardy_model::Decoder;
use hardy_numerics::{NoiseKey, Row};
use hardy_ops::{NoisyBackend, Pass, Phase, Plan, Receipt, Rule, Streams};
use hardy_train::{gradients::Gradients, recording::Recording, sequence::parts};

use common::{decoder, sequences};

const PLANS: u64 = 50;

const ERRORS: [&str; 25] = [
    "kind = 'relative_gaussian', scale = 0.05",
    "kind = 'absolute_gaussian', scale = 0.01",
    "kind = 'systematic_bias', scale = 0.01",
    "kind = 'systematic_bias', scale = 0.02, relative = true",
    "kind = 'truncation', step = 0.03125",
    "kind = 'dead_zone', scale = 0.05, sparsity = 0.5",
    "kind = 'saturation', scale = 0.5, sparsity = 0.5",
    "kind = 'spike', scale = 0.5, rate = 0.1, sparsity = 0.4",
    "kind = 'bias', scale = 0.05, sparsity = 0.3",
    "kind = 'stuck', value = 0.25, sparsity = 0.1",
    "kind = 'bit_flip', rate = 0.0001",
    "kind = 'bit_flip', rate = 0.001, bits = 'exponent'",
    "kind = 'bit_flip', rate = 0.02, bits = 'mantissa', image = 'bf16'",
    "kind = 'accumulate_bf16', chunk = 8",
    "kind = 'accumulate_fp16', chunk = 3",
    "kind = 'mxfp4'",
    "kind = 'mxfp4', rounding = 'stochastic', clip_gradient = true",
    "kind = 'mxfp8_e4m3', blocks = '2d'",
    "kind = 'nvfp4', clip_gradient = true",
    "kind = 'nvfp4', blocks = '2d'",
    "kind = 'fp8_e4m3', rounding = 'stochastic'",
    "kind = 'hif4'",
    "kind = 'int8'",
    "kind = 'int4_g32'",
    "kind = 'bf16'",
];
const OPS: [&str; 9] = [
    "'all'",
    "['linear', 'matmul']",
    "['linear']",
    "['matmul']",
    "['softmax']",
    "['rms_norm']",
    "['silu']",
    "['embedding']",
    "['rms_norm', 'silu', 'embedding']",
];
const POINTS: [&str; 5] = ["output", "input", "weight", "grad_input", "grad_weight"];
const PASSES: [&str; 4] = ["['forward', 'backward']", "['forward']", "['forward']", "['backward']"];
const PHASES: [&str; 3] = ["['train']", "['rollout', 'train']", "['rollout', 'train', 'eval']"];

/// Random choices, by their number.
struct Choices(u64, u32);

impl Choices {
    fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        self.1 += 1;
        let key = NoiseKey::new(self.0, "random plans", 0, "");
        of[(key.bits(Row { sequence: 0, position: self.1 }, 0) as usize) % of.len()]
    }

    fn rule(&mut self) -> Rule {
        let text = format!(
            "error = {{ {} }}\nops = {}\nat = '{}'\npass = {}\nduring = {}\nlayers = {}",
            self.one_of(&ERRORS),
            self.one_of(&OPS),
            self.one_of(&POINTS),
            self.one_of(&PASSES),
            self.one_of(&PHASES),
            self.one_of(&["'all'", "'all'", "[1]"]),
        );
        toml::from_str(&text).unwrap_or_else(|wrong| panic!("{text}\n{wrong}"))
    }

    /// One to three rules that fit the model and act in training.
    fn plan(&mut self, decoder: &Decoder<Flex>) -> Plan {
        let count = self.one_of(&["1", "2", "3"]).len() + usize::from(self.one_of(&["a", "b"]) == "a");
        let streams = if self.one_of(&["a", "b"]) == "a" { Streams::Shared } else { Streams::PerPhase };
        let mut plan = Plan { rules: Vec::new(), seed: self.0, streams };
        while plan.rules.len() < count {
            plan.rules.push(self.rule());
            if plan.bind(&decoder.blueprint.sites, &[]).is_err() {
                plan.rules.pop();
            }
        }
        plan
    }
}

#[derive(Clone, Copy, Debug)]
struct Way {
    limit: usize,
    share: bool,
    checkpointing: bool,
    threads: usize,
}

const WHOLE: Way = Way { limit: 10_000, share: true, checkpointing: false, threads: 1 };

struct Outcome {
    log_probs: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    receipts: Vec<Receipt>,
}

fn run(decoder: &Decoder<Flex>, plan: &Plan, way: Way) -> Outcome {
    let bound = plan.bind(&decoder.blueprint.sites, &[]).unwrap();
    let noise = bound.noise(Phase::Train, 2).gathering(decoder.blueprint.sites.len());
    let (tracked, mut log_probs) = (decoder.tracked(), Vec::new());
    let sequences = sequences(2, 3);
    for (_, packed) in parts(&sequences, way.limit, way.share && !noise.acts_backward()) {
        let pass = Recording::forward(&tracked, &packed, &noise, 0.9, way.checkpointing);
        let [now, entropy] = pass.scores();
        let derivative = |i: usize| ((log_probs.len() + i) as f32 * 0.7).sin() / 50.0;
        let d_log_prob: Vec<f32> = (0..now.len()).map(derivative).collect();
        pass.backward(&d_log_prob, Some(&vec![0.003; entropy.len()]));
        log_probs.extend(now);
    }
    let gradients = Gradients::gathered(decoder, &noise).clipped(0.0, 0.0);
    let host = |g: burn_tensor::Tensor<Flex, 2>| Flex::host(&g.into_primitive().tensor()).to_vec();
    Outcome { log_probs, gradients: gradients.into_iter().map(host).collect(), receipts: bound.receipts() }
}

/// NaN as NaN, everything else to the bit.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// ‖a − b‖/‖b‖ over all that is finite.
fn difference(a: &Outcome, b: &Outcome) -> f64 {
    let pairs = a.gradients.iter().flatten().zip(b.gradients.iter().flatten());
    let pairs = pairs.filter(|(a, b)| a.is_finite() && b.is_finite());
    let (error, norm) = pairs.fold((0.0, 0.0), |(error, norm), (a, b)| {
        let [a, b] = [a, b].map(|x| f64::from(*x));
        (error + (a - b) * (a - b), norm + b * b)
    });
    if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

#[test]
fn what_fifty_random_plans_do_depends_on_no_way_of_splitting_the_work() {
    let (decoder, mut not_finite, mut backward) = (decoder(), 0, 0);
    for seed in 0..PLANS {
        let plan = Choices(seed, 0).plan(&decoder);
        let go = |way: Way| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(way.threads).build().unwrap();
            pool.install(|| run(&decoder, &plan, way))
        };
        let whole = go(WHOLE);
        let whole_is_finite = whole.gradients.iter().flatten().all(|x| x.is_finite());
        not_finite += usize::from(!whole_is_finite);
        // Each response then computes its own prompt, and there is one order of adding.
        let alone = whole.receipts.iter().any(|receipt| receipt.pass == Pass::Backward);
        backward += u64::from(alone);
        for (limit, share, checkpointing, threads) in [
            (10_000, true, true, 2),
            (10_000, false, false, 1),
            (1, true, false, 2),
            (30, true, true, 1),
            (30, false, false, 2),
        ] {
            let way = Way { limit, share, checkpointing, threads };
            let name = format!("plan {seed}, {way:?}: {:#?}", plan.rules);
            let other = go(way);
            assert!(bits(&whole.log_probs) == bits(&other.log_probs), "log-probabilities: {name}");
            let same_order = alone || (limit == WHOLE.limit && share);
            if same_order {
                for (whole, other) in whole.gradients.iter().zip(&other.gradients) {
                    assert!(bits(whole) == bits(other), "gradients: {name}");
                }
            } else {
                let difference = difference(&whole, &other);
                assert!(difference < 1e-6, "{difference:e}: {name}");
            }
            agree(&whole.receipts, &other.receipts, &name);
        }
    }
    let cases = format!("{not_finite} not finite, {backward} with errors backward");
    assert!(not_finite > 2 && (10..PLANS - 10).contains(&backward), "{cases}");
}

fn agree(whole: &[Receipt], other: &[Receipt], name: &str) {
    assert_eq!(whole.len(), other.len());
    for (a, b) in whole.iter().zip(other) {
        assert_eq!((a.calls, a.elements), (b.calls, b.elements), "{b:?}: {name}");
        assert_eq!(a.non_finite, b.non_finite, "{b:?}: {name}");
        for (a, b) in [(a.error_energy, b.error_energy), (a.signal_energy, b.signal_energy)] {
            let close = a == b || (a - b).abs() <= 1e-6 * a.abs();
            assert!(close, "{a} and {b}: {name}");
        }
    }
}
