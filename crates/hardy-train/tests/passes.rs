//! How a batch is cut and packed changes nothing: responses that share their prompt's rows, and gradients summed over
//! micro-batches, give the update of the plain pass over everything at once.

use burn_flex::Flex;
use hardy_model::{Blueprint, Decoder, ModelConfig, Qwen2Sizes};
use hardy_ops::{Noise, NoisyBackend, Ops, Pass, Phase, Plan, Point, Rule};
use hardy_train::{
    gradients::Gradients,
    recording::Recording,
    sequence::{Packed, Sequence, micro_batches},
    sft::initial_weights,
};

fn decoder() -> Decoder<Flex> {
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

/// Three groups of four responses; where not `shared`, every response has a prompt of its own with the same tokens.
fn sequences(shared: bool) -> Vec<Sequence> {
    let sequence = |i: usize| {
        let (group, prompt_length, response) = (i / 4, 9 + i / 4, 1 + i * 5 % 13);
        let ids = (0..prompt_length).map(|t| ((group * 31 + t * 7) % 40) as u32);
        let ids = ids.chain((0..response).map(|t| ((i * 17 + t * 11) % 40) as u32)).collect();
        let prompt = if shared { group } else { i } as u64;
        Sequence { ids, prompt_length, prompt, sample: 100 + i as u64 }
    };
    (0..12).map(sequence).collect()
}

/// Log-probabilities and gradients of a loss with a derivative of its own for every token.
fn pass(
    decoder: &Decoder<Flex>,
    sequences: &[Sequence],
    limit: usize,
    noise: &Noise,
    checkpointing: bool,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let tracked = decoder.tracked();
    let mut gradients = Gradients::zeros(decoder);
    let mut all = Vec::new();
    for part in micro_batches(sequences, limit) {
        let packed = Packed::new(&sequences[part]);
        let pass = Recording::forward(&tracked, &packed, noise, 0.9, checkpointing);
        let [log_probs, entropy] = pass.scores();
        let derivative = |i: usize| ((all.len() + i) as f32 * 0.7).sin() / 50.0;
        let d_log_prob: Vec<f32> = (0..log_probs.len()).map(derivative).collect();
        let d_entropy: Vec<f32> = entropy.iter().map(|_| 0.003).collect();
        pass.backward(&mut gradients, &d_log_prob, Some(&d_entropy));
        all.extend(log_probs);
    }
    let host =
        gradients.clipped(0.0, 0.0).into_iter().map(|g| Flex::host(&g.into_primitive().tensor()).to_vec());
    (all, host.collect())
}

fn go(decoder: &Decoder<Flex>, sequences: &[Sequence], limit: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    pass(decoder, sequences, limit, &Noise::clean(), false)
}

fn relative_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let error: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = pairs().map(|(a, _)| f64::from(*a).powi(2)).sum();
    (error / norm).sqrt()
}

#[test]
fn a_shared_prompt_gives_the_log_probabilities_to_the_bit_and_the_gradient_of_the_plain_pass() {
    let decoder = decoder();
    let (shared, plain) = (sequences(true), sequences(false));
    assert!(Packed::new(&shared).batch.ids.len() < Packed::new(&plain).batch.ids.len());
    let ((log_probs, gradients), (plain_log_probs, plain_gradients)) =
        (go(&decoder, &shared, 10_000), go(&decoder, &plain, 10_000));
    assert!(log_probs == plain_log_probs, "log-probabilities differ");
    let difference = relative_difference(&gradients, &plain_gradients);
    assert!(difference < 1e-6, "{difference:e}");
}

#[test]
fn gradients_summed_over_micro_batches_are_those_of_one_batch() {
    let (decoder, sequences) = (decoder(), sequences(true));
    let (log_probs, whole) = go(&decoder, &sequences, 10_000);
    for limit in [1, 30, 60] {
        let (cut_log_probs, cut) = go(&decoder, &sequences, limit);
        assert!(log_probs == cut_log_probs, "at most {limit} tokens");
        let difference = relative_difference(&whole, &cut);
        assert!(difference < 1e-6, "at most {limit} tokens: {difference:e}");
    }
}

#[test]
fn activation_checkpointing_changes_nothing_under_noise_and_is_counted_once() {
    let (decoder, sequences) = (decoder(), sequences(true));
    let rules = [Point::Input, Point::Weight, Point::Output].map(|at| Rule {
        at,
        ops: Ops::All,
        pass: vec![Pass::Forward, Pass::Backward],
        ..Rule::noise(0.05)
    });
    let run = |checkpointing| {
        let plan = Plan { rules: rules.to_vec(), ..Plan::default() };
        let plan = plan.bind(&decoder.blueprint.sites, &[Phase::Train]).unwrap();
        let result = pass(&decoder, &sequences, 60, &plan.noise(Phase::Train, 1), checkpointing);
        (result, plan.receipts())
    };
    let ((plain, receipts), (recomputed, counted)) = (run(false), run(true));
    assert!(plain.0 == recomputed.0, "log-probabilities differ");
    // The two gradients of the tied table are added in another order.
    let difference = relative_difference(&plain.1, &recomputed.1);
    assert!(difference < 1e-6, "{difference:e}");
    assert_eq!(receipts, counted);
}
