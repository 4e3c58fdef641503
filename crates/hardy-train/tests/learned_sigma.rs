//! Learned sigmas: their gradient against finite differences, and that it does not depend on how an update is split.

mod common;

use burn_flex::Flex;
use hardy_model::{Decoder, Lora};
use hardy_ops::{BoundPlan, Phase, Plan, Streams};
use hardy_train::{
    config::AqnSection,
    learned_sigma::LearnedSigma,
    policy::{columns, log_probs},
    recording::Recording,
    sequence::{Sequence, parts},
};

use common::{decoder, sequences};

const TARGETS: [&str; 4] = ["rms_norm", "linear", "post_attention_norm", "hidden_states"];
const TEMPERATURE: f32 = 0.9;
const STEP: u64 = 3;

fn aqn(target: &str) -> AqnSection {
    let text = format!("schedule = 'learned'\nsigma = 0.05\nlearning_rate = 0.5\ntarget = '{target}'");
    toml::from_str(&text).unwrap()
}

/// Other noise too, of which the derivative must know nothing.
fn plan(decoder: &Decoder<Flex>, target: &str) -> BoundPlan {
    let other = "ops = ['linear']\nat = 'weight'\nduring = ['train']\nerror = { kind = 'absolute_gaussian', scale = 0.01 }";
    let mut rules = vec![toml::from_str(other).unwrap()];
    rules.extend(aqn(target).learned_rules(2));
    let plan = Plan { rules, seed: 7, streams: Streams::PerPhase };
    decoder.blueprint.bind(&plan, &[]).unwrap()
}

/// The derivative of the loss in the log-probability of token `i`.
fn derivative(i: usize) -> f32 {
    (i as f32 * 0.7).sin() / 8.0
}

fn loss(decoder: &Decoder<Flex>, plan: &BoundPlan, sequences: &[Sequence]) -> f64 {
    let noise = plan.noise(Phase::Train, STEP);
    let of = |(_, packed)| columns(&log_probs(decoder, &packed, &noise, TEMPERATURE))[0].clone();
    let all = parts(sequences, 10_000, true).flat_map(of).enumerate();
    all.map(|(i, x)| f64::from(x) * f64::from(derivative(i))).sum()
}

/// How a pass is made: its token limit, whether prompts are shared, whether layers are computed again.
type Way = (usize, bool, bool);

fn gradients(
    decoder: &Decoder<Flex>,
    plan: &BoundPlan,
    sequences: &[Sequence],
    (limit, share, again): Way,
) -> Vec<f64> {
    let noise = plan.noise(Phase::Train, STEP).gathering(decoder.blueprint.sites.len());
    let (tracked, mut token) = (decoder.tracked(), 0);
    for (_, packed) in parts(sequences, limit, share) {
        let pass = Recording::forward(&tracked, &packed, &noise, TEMPERATURE, again);
        let tokens = pass.scores()[0].len();
        pass.backward(&(token..token + tokens).map(derivative).collect::<Vec<_>>(), None);
        token += tokens;
    }
    let (outputs, sums) = (noise.take_scales(), noise.take_sums());
    plan.scale_gradients(&noise.clone().with_sums(sums), &outputs)
}

fn assert_slopes(decoder: &Decoder<Flex>, target: &str) {
    let (sequences, mut plan) = (sequences(2, 3), plan(decoder, target));
    let found = gradients(decoder, &plan, &sequences, (10_000, true, false));
    let rules = plan.learned();
    assert_eq!(found.len(), rules.len());
    let largest = found.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (rule, found) in rules.into_iter().zip(found) {
        let mut at = |sigma: f64| {
            plan.set_scale(rule, sigma);
            loss(decoder, &plan, &sequences)
        };
        let slope = (at(0.05 + 5e-4) - at(0.05 - 5e-4)) / 1e-3;
        at(0.05);
        assert!(
            (slope - found).abs() < 0.01 * slope.abs().max(0.1 * largest),
            "{target}, rule {rule}: slope {slope}, gradient {found}"
        );
    }
}

#[test]
fn sigmas_have_the_gradient_of_the_loss() {
    for target in TARGETS {
        assert_slopes(&decoder(), target);
    }
}

#[test]
fn above_a_frozen_base_sigmas_of_hidden_states_have_the_gradient_of_the_loss() {
    // Adapters of the last projection alone: nothing below the first of them is on a tape.
    for modules in ["all-linear", "down_proj"] {
        let lora: Lora = toml::from_str(&format!("rank = 2\ntarget_modules = ['{modules}']")).unwrap();
        assert_slopes(&decoder().with_lora(&lora, "base", 5).unwrap(), "hidden_states");
    }
}

#[test]
fn weights_of_a_frozen_base_teach_no_sigma() {
    let lora: Lora = toml::from_str("rank = 2").unwrap();
    let decoder = decoder().with_lora(&lora, "base", 5).unwrap();
    let rules = aqn("rms_norm").learned_rules(2);
    let refused = decoder.blueprint.bind(&Plan { rules, ..Plan::default() }, &[]).unwrap_err().to_string();
    assert!(refused.contains("frozen") && refused.contains("hidden_states"), "{refused}");
}

#[test]
fn the_gradient_of_a_sigma_does_not_depend_on_how_an_update_is_split() {
    let (decoder, sequences) = (decoder(), sequences(3, 3));
    for target in TARGETS {
        let plan = plan(&decoder, target);
        let of = |way| gradients(&decoder, &plan, &sequences, way);
        let whole = of((10_000, true, false));
        let size = whole.iter().map(|x| x * x).sum::<f64>().sqrt();
        let differs = |one: &[f64], other: &[f64]| {
            one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / size
        };
        for way in [(40, true, false), (40, false, true), (10_000, false, false), (25, true, true)] {
            let other = of(way);
            // The sum is one in f64; what differs is the f32 gradients of rows that responses share, which cancel in what
            // arrives at hidden states: one part in 1e6 of the sum is one in 1e7 of its terms.
            let most = if target == "hidden_states" { 3e-6 } else { 1e-6 };
            assert!(differs(&whole, &other) <= most, "{target}, {way:?}: {whole:?}, not {other:?}");
        }
        // Where no rows are shared there is nothing that could differ.
        let alone = [(40, false, true), (10_000, false, false), (1, true, false)].map(of);
        assert!(alone.iter().all(|other| differs(&alone[0], other) < 1e-13), "{target}: {alone:?}");
    }
}

#[test]
fn a_sigma_moves_against_its_gradient_and_stays_within_its_bounds() {
    let decoder = decoder();
    let mut plan = plan(&decoder, "hidden_states");
    let mut sigma = LearnedSigma::new(Some(&aqn("hidden_states")), &plan, [0.9, 0.999]).unwrap();
    let scale = |plan: &BoundPlan, i: usize| plan.plan().rules[plan.learned()[i]].error.scale().unwrap();
    sigma.step(&[1.0, -1.0], &mut plan);
    let [down, up] = [0, 1].map(|i| scale(&plan, i));
    // Adam's first step is as long as its rate, whatever the gradient.
    assert!(
        (down / 0.05 - (-0.5f64).exp()).abs() < 1e-6 && (up / 0.05 - 0.5f64.exp()).abs() < 1e-6,
        "{down} {up}"
    );
    for _ in 0..20_000 {
        sigma.step(&[1.0, -1.0], &mut plan);
    }
    let [floor, ceiling] = [0, 1].map(|i| scale(&plan, i));
    assert!((floor / 1e-6 - 1.0).abs() < 1e-9 && (ceiling / 0.1 - 1.0).abs() < 1e-9, "{floor} {ceiling}");
}
