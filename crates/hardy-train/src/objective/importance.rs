//! Importance weights between the policy as training computes it and as the rollout did, w = π_train/π_rollout: how far
//! the two are apart, and two corrections: truncated importance sampling with min(w, C), and IcePop, which leaves out the
//! tokens whose w is outside [1/C, C].
//!
//! The two differ wherever rollouts run under other numerics than training. The correction is that of F. Yao et al.,
//! "Your efficient RL framework secretly brings you off-policy RL training" (2025): a constant factor on the token's
//! loss, through which no gradient goes.

use serde::{Deserialize, Serialize};

/// Bounds on the difference of two log-probabilities.
pub(super) const LOG_RATIO: f64 = 20.0;

/// trained − drawn, within ±20.
fn difference(trained: f32, drawn: f32) -> f64 {
    (f64::from(trained) - f64::from(drawn)).clamp(-LOG_RATIO, LOG_RATIO)
}

/// exp(trained − drawn), bounded to e^±20.
fn weight(trained: f32, drawn: f32) -> f64 {
    difference(trained, drawn).exp()
}

/// min(w, `cap`) of every token, from its log-probability in training before the first update and when it was drawn.
///
/// # Panics
///
/// If the slices differ in length.
pub fn truncated_weights(trained: &[f32], drawn: &[f32], cap: f32) -> Vec<f32> {
    assert_eq!(trained.len(), drawn.len(), "two log-probabilities per token");
    trained.iter().zip(drawn).map(|(&t, &d)| truncated(weight(t, d), cap) as f32).collect()
}

/// min(w, `cap`).
pub(super) fn truncated(weight: f64, cap: f32) -> f64 {
    weight.clamp(0.0, f64::from(cap))
}

/// w where it is within [1/`bound`, `bound`], else 0.
pub(super) fn masked(weight: f64, bound: f32) -> f64 {
    let bound = f64::from(bound);
    if (1.0 / bound..=bound).contains(&weight) { weight } else { 0.0 }
}

/// w of every token where it is within [1/`bound`, `bound`], else 0: IcePop (X. Zhao et al., "Small leak can sink a great
/// ship", 2025; arXiv:2510.18855), whose bounds α and β are here each other's reciprocals. Arguments as in
/// [`truncated_weights`].
///
/// # Panics
///
/// If the slices differ in length.
pub fn masked_weights(trained: &[f32], drawn: &[f32], bound: f32) -> Vec<f32> {
    assert_eq!(trained.len(), drawn.len(), "two log-probabilities per token");
    trained.iter().zip(drawn).map(|(&t, &d)| masked(weight(t, d), bound) as f32).collect()
}

/// How far rollout and training are apart, as sums over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mismatch {
    tokens: f64,
    difference: f64,
    weight: f64,
    square: f64,
    largest: f64,
}

impl Mismatch {
    /// Adds tokens by their log-probabilities in training before the first update and when they were drawn.
    ///
    /// # Panics
    ///
    /// If the slices differ in length.
    pub fn add(&mut self, trained: &[f32], drawn: &[f32]) {
        assert_eq!(trained.len(), drawn.len(), "two log-probabilities per token");
        for (&trained, &drawn) in trained.iter().zip(drawn) {
            let weight = weight(trained, drawn);
            self.tokens += 1.0;
            self.difference += difference(trained, drawn).abs();
            self.weight += weight;
            self.square += weight * weight;
            self.largest = self.largest.max(weight);
        }
    }

    /// Adds other tokens.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.difference += other.difference;
        self.weight += other.weight;
        self.square += other.square;
        self.largest = self.largest.max(other.largest);
    }

    /// Mean |Δ log-probability|, of which a token's is at most 20: errors can make a drawn token impossible.
    pub fn mean_difference(&self) -> f64 {
        self.difference / self.tokens.max(1.0)
    }

    /// The effective sample size (Σw)²/Σw² as a share of the tokens (L. Kish, "Survey Sampling", §11.7): 1 where all
    /// weights are equal, 1/n where one token has all the weight; 0 without tokens.
    pub fn effective_sample_size(&self) -> f64 {
        if self.tokens == 0.0 { 0.0 } else { self.weight * self.weight / (self.tokens * self.square) }
    }

    /// The largest weight, before it is truncated.
    pub fn largest_weight(&self) -> f64 {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mismatch(trained: &[f32], drawn: &[f32]) -> Mismatch {
        let mut mismatch = Mismatch::default();
        mismatch.add(trained, drawn);
        mismatch
    }

    #[test]
    fn weights_are_the_ratio_up_to_the_cap() {
        let weights = truncated_weights(&[-1.0, -1.0, -2.0, 0.0], &[-1.0, -2.0, -1.0, -90.0], 2.0);
        assert_eq!(weights[..2], [1.0, 2.0]);
        assert!((weights[2] - (-1.0_f32).exp()).abs() < 1e-7);
        assert_eq!(weights[3], 2.0);
    }

    #[test]
    fn tokens_outside_the_bounds_are_left_out_and_the_others_weigh_their_ratio() {
        let weights =
            masked_weights(&[-1.0, -1.0, -2.0, 0.0, f32::NAN], &[-1.0, -1.5, -1.0, -90.0, -1.0], 2.0);
        assert_eq!(weights[0], 1.0);
        assert!((weights[1] - 0.5_f32.exp()).abs() < 1e-6);
        // e⁻¹ is below ½, e²⁰ above 2, and what is not a number is outside.
        assert_eq!(weights[2..], [0.0; 3]);
    }

    #[test]
    fn the_same_numerics_leave_every_token_its_weight() {
        let same = mismatch(&[-1.0, -3.0], &[-1.0, -3.0]);
        assert_eq!(
            (same.mean_difference(), same.effective_sample_size(), same.largest_weight()),
            (0.0, 1.0, 1.0)
        );
        assert_eq!(Mismatch::default().effective_sample_size(), 0.0);
    }

    #[test]
    fn the_effective_sample_size_is_the_definition() {
        // Weights 1 and 3: (1 + 3)²/(1 + 9) = 1.6 of 2 tokens.
        let found = mismatch(&[-2.0, -2.0 + 3.0_f32.ln()], &[-2.0, -2.0]);
        assert!((found.effective_sample_size() - 0.8).abs() < 1e-6);
        assert!((found.mean_difference() - 3.0_f64.ln() / 2.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn parts_add_up(tokens in prop::collection::vec((-8.0f32..0.0, -8.0f32..0.0), 2..30), cut in 0.0f64..1.0) {
            let (trained, drawn): (Vec<f32>, Vec<f32>) = tokens.into_iter().unzip();
            let cut = (trained.len() as f64 * cut) as usize;
            let mut parts = mismatch(&trained[..cut], &drawn[..cut]);
            parts.merge(&mismatch(&trained[cut..], &drawn[cut..]));
            let whole = mismatch(&trained, &drawn);
            prop_assert!((parts.effective_sample_size() - whole.effective_sample_size()).abs() < 1e-9);
            prop_assert!((parts.mean_difference() - whole.mean_difference()).abs() < 1e-9);
            prop_assert!(whole.effective_sample_size() <= 1.0 + 1e-12);
        }
    }
}
