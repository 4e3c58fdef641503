//! Group sequence policy optimisation (GSPO, arXiv:2507.18071): the ratio that is clipped is the sequence's.
//!
//! With s = exp(mean over the sequence's tokens of logprob − old), the geometric mean of the tokens' ratios (eq. 7),
//! every token of the sequence loses max(−A·s, −A·clip(s, 1 − low, 1 + high)) (eq. 5). The derivative is that of
//! GSPO-token (eq. 13, 14), as in verl: a token's own weight times −A·s, or 0 where the sequence is clipped. Where the
//! tokens of a sequence weigh alike, it is the derivative of the value.

use super::{Clip, Loss, Tokens};

/// Upper bound on the mean of logprob − old.
const LOG_RATIO: f64 = 10.0;

/// The loss of `tokens`, which are those of sequences with `lengths` tokens one after another, and its derivative.
///
/// There is no dual clip; `clipped` is the share of tokens in clipped sequences.
///
/// # Panics
///
/// If the slices differ in length, or `lengths` do not sum to it.
pub fn gspo(tokens: &Tokens, lengths: &[usize], clip: Clip) -> Loss {
    tokens.check_lengths();
    let n = tokens.logprob.len();
    assert_eq!(lengths.iter().sum::<usize>(), n, "every token is in a sequence");
    let (mut value, mut clipped, mut kl_old, mut end) = (0.0, 0, 0.0, 0);
    let mut d_logprob = Vec::with_capacity(n);
    for &length in lengths {
        let range = end..end + length;
        end = range.end;
        let difference = |i: usize| f64::from(tokens.logprob[i]) - f64::from(tokens.old_logprob[i]);
        let log_ratio = range.clone().map(difference).sum::<f64>();
        let ratio = (log_ratio / length as f64).clamp(f64::NEG_INFINITY, LOG_RATIO).exp();
        kl_old -= log_ratio;
        for i in range {
            let loss = token_loss(f64::from(tokens.advantage[i]), ratio, clip);
            let weight = tokens.weight_of(i);
            value += weight * loss.value;
            d_logprob.push((weight * loss.d_logprob) as f32);
            clipped += usize::from(loss.clipped);
        }
    }
    let share = |sum: f64| (sum / n.max(1) as f64) as f32;
    Loss {
        value: value as f32,
        d_logprob,
        clipped: share(clipped as f64),
        clipped_dual: 0.0,
        kl_old: share(kl_old),
    }
}

struct TokenLoss {
    value: f64,
    d_logprob: f64,
    clipped: bool,
}

fn token_loss(advantage: f64, ratio: f64, clip: Clip) -> TokenLoss {
    let plain = -advantage * ratio;
    let bounded = -advantage * ratio.clamp(1.0 - f64::from(clip.low), 1.0 + f64::from(clip.high));
    // The comparison lets NaN through to the derivative.
    let clipped = bounded > plain;
    let (value, d_logprob) = if clipped { (bounded, 0.0) } else { (plain, plain) };
    TokenLoss { value, d_logprob, clipped }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIP: Clip = Clip { low: 0.1, high: 0.2, dual: 3.0 };

    /// A sequence: its advantage, its tokens' weight, and of every token the old log-probability and the change.
    type Sequence = (f32, f32, Vec<(f32, f32)>);

    fn loss_of(sequences: &[Sequence]) -> Loss {
        let lengths: Vec<usize> = sequences.iter().map(|(.., tokens)| tokens.len()).collect();
        let column = |of: &dyn Fn(&Sequence, &(f32, f32)) -> f32| -> Vec<f32> {
            sequences.iter().flat_map(|s| s.2.iter().map(move |token| of(s, token))).collect()
        };
        let tokens = Tokens {
            logprob: &column(&|_, (old, by)| old + by),
            old_logprob: &column(&|_, (old, _)| *old),
            advantage: &column(&|s, _| s.0),
            weight: &column(&|s, _| s.1),
            rollout_weight: None,
        };
        gspo(&tokens, &lengths, CLIP)
    }

    /// The definition in f64, with the change of one token moved.
    fn formula((advantage, weight, tokens): &Sequence, moved: usize, by: f64) -> f64 {
        let change = |(i, (old, change)): (usize, &(f32, f32))| {
            f64::from(old + change) - f64::from(*old) + if i == moved { by } else { 0.0 }
        };
        let ratio = (tokens.iter().enumerate().map(change).sum::<f64>() / tokens.len() as f64).exp();
        let (a, n) = (f64::from(*advantage), tokens.len() as f64);
        let bounded = ratio.clamp(1.0 - f64::from(CLIP.low), 1.0 + f64::from(CLIP.high));
        f64::from(*weight) * n * (-a * ratio).max(-a * bounded)
    }

    fn near_kink((.., tokens): &Sequence) -> bool {
        let mean = tokens.iter().map(|(_, by)| f64::from(*by)).sum::<f64>() / tokens.len() as f64;
        [1.0 - CLIP.low, 1.0 + CLIP.high].iter().any(|kink| (mean - f64::from(*kink).ln()).abs() < 1e-3)
    }

    #[test]
    fn the_ratio_is_the_geometric_mean_and_clips_the_whole_sequence() {
        // Ratios e^0.4 and e^-0.2: their geometric mean e^0.1 is within the bounds, though neither token is.
        let inside = loss_of(&[(1.0, 0.5, vec![(-1.0, 0.4), (-2.0, -0.2)])]);
        assert!((f64::from(inside.value) + 0.1_f64.exp()).abs() < 1e-6 && inside.clipped == 0.0);
        let outside =
            loss_of(&[(1.0, 0.5, vec![(-1.0, 0.4), (-2.0, 0.2)]), (1.0, 0.5, vec![(-1.0, 0.0); 2])]);
        assert_eq!((outside.value, outside.clipped), (-2.2, 0.5));
        assert_eq!(outside.d_logprob, [0.0, 0.0, -0.5, -0.5]);
    }

    #[test]
    fn rollout_weights_scale_the_tokens_own_loss() {
        let tokens = Tokens {
            logprob: &[-1.0, -1.0],
            old_logprob: &[-1.0, -1.0],
            advantage: &[2.0, 2.0],
            weight: &[0.5, 0.5],
            rollout_weight: Some(&[0.5, 2.0]),
        };
        let loss = gspo(&tokens, &[2], CLIP);
        assert_eq!((loss.value, loss.d_logprob), (-2.5, vec![-0.5, -2.0]));
    }

    #[test]
    fn empty_sequences_and_what_is_not_a_number_are_not_hidden() {
        assert_eq!(loss_of(&[(1.0, 1.0, vec![])]), Loss::default());
        assert!(loss_of(&[(1.0, 1.0, vec![(f32::NAN, 0.0), (-1.0, 0.0)])]).value.is_nan());
    }

    proptest! {
        #[test]
        fn derivative_agrees_with_finite_differences(
            sequences in prop::collection::vec(
                (-2.0f32..2.0, 0.0f32..1.0, prop::collection::vec((-8.0f32..0.0, -0.5f32..0.5), 1..6)), 1..5),
        ) {
            let (loss, by) = (loss_of(&sequences), 1e-5);
            let value: f64 = sequences.iter().map(|sequence| formula(sequence, 0, 0.0)).sum();
            prop_assert!((f64::from(loss.value) - value).abs() < 1e-5 * (1.0 + value.abs()));
            let mut derivatives = loss.d_logprob.iter();
            for sequence in &sequences {
                for token in 0..sequence.2.len() {
                    let found = f64::from(*derivatives.next().unwrap());
                    let expected = (formula(sequence, token, by) - formula(sequence, token, -by)) / (2.0 * by);
                    prop_assert!(near_kink(sequence) || (found - expected).abs() < 1e-5 * (1.0 + expected.abs()));
                }
            }
        }
    }
}
