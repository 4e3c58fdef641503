//! How a batch is cut and packed changes nothing: responses that share their prompt's rows, and gradients summed over
//! micro-batches, give the update of the plain pass over everything at once.

mod common;

use burn_flex::Flex;
use hardy_model::Decoder;
use hardy_ops::{BoundPlan, Noise, NoisyBackend, Ops, Pass, Phase, Plan, Point, Rule};
use hardy_train::{
    gradients::Gradients,
    recording::Recording,
    sequence::{Packed, Sequence, parts},
};

use common::{decoder, sequences};

/// How a batch is worked through.
#[derive(Clone, Copy, Debug)]
struct Way {
    limit: usize,
    share: bool,
    checkpointing: bool,
}

const WHOLE: Way = Way { limit: 10_000, share: true, checkpointing: false };

/// Log-probabilities and gradients of a loss with a derivative of its own for every token.
fn pass(
    decoder: &Decoder<Flex>,
    sequences: &[Sequence],
    noise: &Noise,
    way: Way,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let tracked = decoder.tracked();
    let noise = noise.clone().gathering(decoder.blueprint.sites.len());
    let mut all = Vec::new();
    for (_, packed) in parts(sequences, way.limit, way.share && !noise.acts_backward()) {
        let pass = Recording::forward(&tracked, &packed, &noise, 0.9, way.checkpointing);
        let [log_probs, entropy] = pass.scores();
        let derivative = |i: usize| ((all.len() + i) as f32 * 0.7).sin() / 50.0;
        let d_log_prob: Vec<f32> = (0..log_probs.len()).map(derivative).collect();
        let d_entropy: Vec<f32> = entropy.iter().map(|_| 0.003).collect();
        pass.backward(&d_log_prob, Some(&d_entropy));
        all.extend(log_probs);
    }
    let gradients = Gradients::gathered(decoder, &noise).clipped(0.0, 0.0);
    let host = gradients.into_iter().map(|g| Flex::host(&g.into_primitive().tensor()).to_vec());
    (all, host.collect())
}

fn go(decoder: &Decoder<Flex>, sequences: &[Sequence], way: Way) -> (Vec<f32>, Vec<Vec<f32>>) {
    pass(decoder, sequences, &Noise::clean(), way)
}

fn relative_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let error: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = pairs().map(|(a, _)| f64::from(*a).powi(2)).sum();
    (error / norm).sqrt()
}

#[test]
fn a_shared_prompt_gives_the_log_probabilities_to_the_bit_and_the_gradient_of_the_plain_pass() {
    let (decoder, sequences) = (decoder(), sequences(3, 4));
    let tokens = |share| Packed::new(&sequences, share).batch.ids.len();
    assert!(tokens(true) < tokens(false));
    let ((log_probs, gradients), (plain_log_probs, plain_gradients)) =
        (go(&decoder, &sequences, WHOLE), go(&decoder, &sequences, Way { share: false, ..WHOLE }));
    assert!(log_probs == plain_log_probs, "log-probabilities differ");
    let difference = relative_difference(&gradients, &plain_gradients);
    assert!(difference < 1e-6, "{difference:e}");
}

#[test]
fn gradients_summed_over_micro_batches_are_those_of_one_batch() {
    let (decoder, sequences) = (decoder(), sequences(3, 4));
    let (log_probs, whole) = go(&decoder, &sequences, WHOLE);
    for limit in [1, 30, 60] {
        let (cut_log_probs, cut) = go(&decoder, &sequences, Way { limit, ..WHOLE });
        assert!(log_probs == cut_log_probs, "at most {limit} tokens");
        let difference = relative_difference(&whole, &cut);
        assert!(difference < 1e-6, "at most {limit} tokens: {difference:e}");
    }
}

#[test]
fn without_sharing_gradients_are_the_same_to_the_bit_wherever_a_batch_is_cut() {
    let (decoder, sequences) = (decoder(), sequences(3, 4));
    let way = Way { share: false, ..WHOLE };
    let whole = go(&decoder, &sequences, way);
    for limit in [1, 30, 60] {
        assert!(whole == go(&decoder, &sequences, Way { limit, ..way }), "at most {limit} tokens");
    }
}

/// Five per cent at every point of every operator, in both passes.
fn everywhere(decoder: &Decoder<Flex>) -> BoundPlan {
    let rules = [Point::Input, Point::Weight, Point::Output].map(|at| Rule {
        at,
        ops: Ops::All,
        pass: vec![Pass::Forward, Pass::Backward],
        ..Rule::noise(0.05)
    });
    let plan = Plan { rules: rules.to_vec(), ..Plan::default() };
    plan.bind(&decoder.blueprint.sites, &[Phase::Train]).unwrap()
}

#[test]
fn noise_in_both_passes_depends_on_neither_micro_batches_nor_sharing_nor_checkpointing() {
    let (decoder, sequences) = (decoder(), sequences(3, 4));
    let run = |way| {
        let plan = everywhere(&decoder);
        let (log_probs, gradients) = pass(&decoder, &sequences, &plan.noise(Phase::Train, 1), way);
        (log_probs, gradients, plan.receipts())
    };
    let whole = run(WHOLE);
    for limit in [1, 30, 60] {
        for (share, checkpointing) in [(true, false), (false, true)] {
            let way = Way { limit, share, checkpointing };
            let cut = run(way);
            assert!(whole.0 == cut.0, "log-probabilities: {way:?}");
            assert!(whole.1 == cut.1, "gradients: {way:?}");
            for (whole, cut) in whole.2.iter().zip(&cut.2) {
                assert_eq!((whole.calls, whole.elements), (cut.calls, cut.elements), "{way:?}: {cut:?}");
                assert!((whole.error_energy / cut.error_energy - 1.0).abs() < 1e-9, "{way:?}: {cut:?}");
            }
        }
    }
}

#[test]
fn receipts_count_every_address_once() {
    let (decoder, sequences) = (decoder(), sequences(3, 4));
    for (backward, share) in [(false, true), (false, false), (true, true)] {
        let plan = if backward { everywhere(&decoder) } else { forward_outputs(&decoder) };
        pass(&decoder, &sequences, &plan.noise(Phase::Train, 1), Way { limit: 40, share, ..WHOLE });
        let calls = |site: &str, point| {
            let receipts = plan.receipts();
            receipts.iter().find(|r| r.site == site && r.point == point).map(|r| r.calls)
        };
        let prompts = 9 + 10 + 11;
        let inputs: usize = sequences.iter().map(|s| s.ids.len() - 1).sum();
        let own: usize = sequences.iter().map(|s| s.response_length() - 1).sum();
        // The head reads a prompt's last row once for all responses.
        let predicted = 3 + own;
        let q = "model.layers.1.self_attn.q_proj";
        assert_eq!(calls(q, Point::Output), Some((prompts + own) as u64));
        assert_eq!(calls("model.layers.1.self_attn.scores", Point::Output), Some((prompts + own) as u64));
        assert_eq!(calls("lm_head", Point::Output), Some(predicted as u64));
        if backward {
            assert_eq!(calls(q, Point::Weight), Some(1));
            assert_eq!(calls(q, Point::GradWeight), Some(1));
            assert_eq!(calls(q, Point::GradInput), Some(inputs as u64));
        }
    }
}

fn forward_outputs(decoder: &Decoder<Flex>) -> BoundPlan {
    let rule = Rule { ops: Ops::All, ..Rule::noise(0.05) };
    let plan = Plan { rules: vec![rule], ..Plan::default() };
    plan.bind(&decoder.blueprint.sites, &[Phase::Train]).unwrap()
}
