//! The clipped surrogate of PPO as GRPO and DAPO use it (arXiv:2402.03300 eq. 3; arXiv:2503.14476 eq. 8), with dual clip.
//!
//! With ρ = exp(clamp(logprob − old, ±20)) a token loses max(−A·ρ, −A·clip(ρ, 1 − low, 1 + high)), and where A < 0 at
//! most −A·dual (arXiv:1912.09729 eq. 5), so that a token that became likely by accident does not take over the batch.

use serde::{Deserialize, Serialize};

/// Bounds on logprob − old.
const LOG_RATIO: f64 = 20.0;

/// The tokens of a batch, all slices of one length.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Under the policy that is being trained.
    pub logprob: &'a [f32],
    /// Under the policy before this step's updates.
    pub old_logprob: &'a [f32],
    /// The advantage of the token's response.
    pub advantage: &'a [f32],
    /// What the token's loss counts, from [`Mean::weights`](super::Mean::weights).
    pub weight: &'a [f32],
    /// An importance weight that corrects for sampling under other numerics.
    pub rollout_weight: Option<&'a [f32]>,
}

impl Tokens<'_> {
    pub(super) fn check_lengths(&self) {
        let n = self.logprob.len();
        let lengths = [self.old_logprob.len(), self.advantage.len(), self.weight.len()];
        assert!(
            lengths.iter().all(|&length| length == n),
            "{n} log-probabilities, but {lengths:?} of the others"
        );
        assert!(
            self.rollout_weight.is_none_or(|weights| weights.len() == n),
            "one importance weight per token"
        );
    }

    /// What the loss of token `i` counts, importance weight included.
    pub(super) fn weight_of(&self, i: usize) -> f64 {
        f64::from(self.weight[i]) * self.rollout_weight.map_or(1.0, |weights| f64::from(weights[i]))
    }
}

/// How far the ratio may move before it stops to matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// The ratio is clipped below at 1 − `low`.
    pub low: f32,
    /// The ratio is clipped above at 1 + `high`.
    pub high: f32,
    /// The loss of a token with negative advantage is at most −A·`dual`.
    pub dual: f32,
}

impl Default for Clip {
    /// 0.2 on both sides and 3, as in PPO and verl.
    fn default() -> Self {
        Self { low: 0.2, high: 0.2, dual: 3.0 }
    }
}

/// A loss, its derivative, and what the clipping did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loss {
    /// Σ weight·ℓ.
    pub value: f32,
    /// ∂value/∂logprob of every token.
    pub d_logprob: Vec<f32>,
    /// The share of tokens whose loss is the clipped one.
    pub clipped: f32,
    /// The share of tokens whose loss is held at −A·dual.
    pub clipped_dual: f32,
    /// The mean over tokens of old − logprob, an estimate of KL(old‖new).
    pub kl_old: f32,
}

/// The loss of `tokens` and its derivative with respect to their log-probabilities.
///
/// A log-probability that is not finite gives a loss that is not finite.
///
/// # Panics
///
/// If the slices differ in length.
pub fn clipped_surrogate(tokens: &Tokens, clip: Clip) -> Loss {
    tokens.check_lengths();
    let n = tokens.logprob.len();
    let (mut value, mut clipped, mut clipped_dual, mut kl_old) = (0.0, 0usize, 0usize, 0.0);
    let mut d_logprob = Vec::with_capacity(n);
    for i in 0..n {
        let token = token_loss(tokens.logprob[i], tokens.old_logprob[i], tokens.advantage[i], clip);
        let weight = tokens.weight_of(i);
        value += weight * token.value;
        d_logprob.push((weight * token.d_logprob) as f32);
        clipped += usize::from(token.clipped);
        clipped_dual += usize::from(token.clipped_dual);
        kl_old -= token.log_ratio;
    }
    let tokens = n.max(1) as f64;
    Loss {
        value: value as f32,
        d_logprob,
        clipped: (clipped as f64 / tokens) as f32,
        clipped_dual: (clipped_dual as f64 / tokens) as f32,
        kl_old: (kl_old / tokens) as f32,
    }
}

struct TokenLoss {
    value: f64,
    d_logprob: f64,
    clipped: bool,
    clipped_dual: bool,
    log_ratio: f64,
}

fn token_loss(logprob: f32, old_logprob: f32, advantage: f32, clip: Clip) -> TokenLoss {
    let advantage = f64::from(advantage);
    let difference = f64::from(logprob) - f64::from(old_logprob);
    let log_ratio = difference.clamp(-LOG_RATIO, LOG_RATIO);
    let ratio = log_ratio.exp();
    // The clamp is flat outside its bounds; the comparison lets NaN through to the derivative.
    let d_ratio = if difference.abs() > LOG_RATIO { 0.0 } else { ratio };

    let plain = -advantage * ratio;
    let bounded = -advantage * ratio.clamp(1.0 - f64::from(clip.low), 1.0 + f64::from(clip.high));
    let clipped = bounded > plain;
    let (value, d_logprob) = if clipped { (bounded, 0.0) } else { (plain, -advantage * d_ratio) };

    let most = -advantage * f64::from(clip.dual);
    let clipped_dual = advantage < 0.0 && value > most;
    let (value, d_logprob) = if clipped_dual { (most, 0.0) } else { (value, d_logprob) };
    TokenLoss { value, d_logprob, clipped, clipped_dual, log_ratio }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIP: Clip = Clip { low: 0.2, high: 0.28, dual: 3.0 };

    fn loss_of(logprob: f32, old_logprob: f32, advantage: f32) -> Loss {
        let tokens = Tokens {
            logprob: &[logprob],
            old_logprob: &[old_logprob],
            advantage: &[advantage],
            weight: &[1.0],
            rollout_weight: None,
        };
        clipped_surrogate(&tokens, CLIP)
    }

    #[test]
    fn at_ratio_one_the_derivative_is_minus_the_advantage() {
        let loss = loss_of(-1.5, -1.5, 0.75);
        assert_eq!((loss.value, loss.d_logprob[0], loss.clipped, loss.kl_old), (-0.75, -0.75, 0.0, 0.0));
    }

    #[test]
    fn moves_in_the_wanted_direction_stop_at_the_bounds_and_others_do_not() {
        for (move_by, advantage, clipped) in
            [(0.5, 1.0, true), (-0.5, 1.0, false), (-0.5, -1.0, true), (0.5, -1.0, false)]
        {
            let loss = loss_of(-1.0 + move_by, -1.0, advantage);
            assert_eq!(loss.clipped, f32::from(u8::from(clipped)));
            assert_eq!(loss.d_logprob[0] == 0.0, clipped);
        }
    }

    #[test]
    fn dual_clip_bounds_the_loss_of_negative_advantages() {
        let loss = loss_of(0.0, -5.0, -0.5);
        assert_eq!((loss.value, loss.d_logprob[0], loss.clipped_dual), (1.5, 0.0, 1.0));
        assert_eq!(loss_of(-5.0, 0.0, 0.5).clipped_dual, 0.0);
    }

    #[test]
    fn a_log_probability_that_is_not_a_number_is_not_hidden() {
        for advantage in [1.0, -1.0] {
            let loss = loss_of(f32::NAN, -1.0, advantage);
            assert!(loss.value.is_nan() && loss.d_logprob[0].is_nan());
        }
    }

    #[test]
    fn no_tokens_give_no_loss() {
        let tokens =
            Tokens { logprob: &[], old_logprob: &[], advantage: &[], weight: &[], rollout_weight: None };
        assert_eq!(clipped_surrogate(&tokens, CLIP), Loss::default());
    }

    prop_compose! {
        fn token()(old in -8.0f32..0.0, by in -1.5f32..1.5, advantage in -2.0f32..2.0, weight in 0.0f32..1.0,
                   rollout in 0.0f32..2.0) -> [f32; 5] {
            [old + by, old, advantage, weight, rollout]
        }
    }

    /// The loss in f64 at one token moved by `by`, straight from the formula.
    fn formula([logprob, old, advantage, weight, rollout]: [f32; 5], by: f64) -> f64 {
        let (a, ratio) = (f64::from(advantage), (f64::from(logprob) + by - f64::from(old)).exp());
        let loss =
            (-a * ratio).max(-a * ratio.min(1.0 + f64::from(CLIP.high)).max(1.0 - f64::from(CLIP.low)));
        let loss = if a < 0.0 { loss.min(-a * f64::from(CLIP.dual)) } else { loss };
        loss * f64::from(weight) * f64::from(rollout)
    }

    /// A kink, where the derivative jumps, lies within `by` of the token's ratio.
    fn near_kink([logprob, old, ..]: [f32; 5], by: f64) -> bool {
        let log_ratio = f64::from(logprob) - f64::from(old);
        [1.0 - CLIP.low, 1.0 + CLIP.high, CLIP.dual]
            .iter()
            .any(|&kink| (log_ratio - f64::from(kink).ln()).abs() < 2.0 * by)
    }

    fn column(tokens: &[[f32; 5]], i: usize) -> Vec<f32> {
        tokens.iter().map(|token| token[i]).collect()
    }

    fn loss_of_all(all: &[[f32; 5]]) -> Loss {
        let columns: [Vec<f32>; 5] = std::array::from_fn(|i| column(all, i));
        let tokens = Tokens {
            logprob: &columns[0],
            old_logprob: &columns[1],
            advantage: &columns[2],
            weight: &columns[3],
            rollout_weight: Some(&columns[4]),
        };
        clipped_surrogate(&tokens, CLIP)
    }

    proptest! {
        #[test]
        fn derivative_agrees_with_finite_differences(all in prop::collection::vec(token(), 1..20)) {
            let by = 1e-5;
            let loss = loss_of_all(&all);
            let value: f64 = all.iter().map(|&token| formula(token, 0.0)).sum();
            prop_assert!((f64::from(loss.value) - value).abs() < 1e-5 * (1.0 + value.abs()));
            for (&token, &derivative) in all.iter().zip(&loss.d_logprob) {
                if !near_kink(token, by) {
                    let expected = (formula(token, by) - formula(token, -by)) / (2.0 * by);
                    prop_assert!((f64::from(derivative) - expected).abs() < 1e-5 * (1.0 + expected.abs()));
                }
            }
        }

        #[test]
        fn parts_of_a_batch_add_up(all in prop::collection::vec(token(), 2..20), cut in 0.0f64..1.0) {
            let whole = loss_of_all(&all);
            let (first, second) = all.split_at((all.len() as f64 * cut) as usize);
            let (first, second) = (loss_of_all(first), loss_of_all(second));
            prop_assert!((first.value + second.value - whole.value).abs() < 1e-4);
            prop_assert_eq!([first.d_logprob, second.d_logprob].concat(), whole.d_logprob);
        }
    }
}
