//! How the losses of tokens become one number: a weight per token, loss = Σ wₜ·ℓₜ.
//!
//! The names are verl's (`loss_agg_mode`).

use serde::{Deserialize, Serialize};

/// What verl adds to a sequence's token count before it divides.
const EPSILON: f64 = 1e-8;

/// How the token losses of a minibatch are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mean {
    /// The mean over all tokens (DAPO): long responses weigh more.
    TokenMean,
    /// The mean over sequences of the sum over tokens.
    SeqMeanTokenSum,
    /// The mean over sequences of the mean over tokens (GRPO).
    SeqMeanTokenMean,
    /// The sum over all tokens divided by a constant length (Dr. GRPO).
    SeqMeanTokenSumNorm {
        /// T, the longest response there can be.
        length: usize,
    },
}

impl Mean {
    /// The aggregation called `name`, with `length` for the one that needs it.
    pub fn named(name: &str, length: usize) -> Option<Self> {
        let all = [
            Self::TokenMean,
            Self::SeqMeanTokenSum,
            Self::SeqMeanTokenMean,
            Self::SeqMeanTokenSumNorm { length },
        ];
        all.into_iter().find(|mean| mean.name() == name)
    }

    /// verl's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TokenMean => "token-mean",
            Self::SeqMeanTokenSum => "seq-mean-token-sum",
            Self::SeqMeanTokenMean => "seq-mean-token-mean",
            Self::SeqMeanTokenSumNorm { .. } => "seq-mean-token-sum-norm",
        }
    }

    /// The weight of every token of a minibatch whose sequences have `lengths` response tokens, Σ`lengths` values.
    ///
    /// Sequences without tokens do not count in the mean over sequences.
    pub fn weights(&self, lengths: &[usize]) -> Vec<f32> {
        self.weights_without(lengths, |_| false)
    }

    /// The same where the sequences that are `filtered`, by their place, are left out: they do not count in any mean,
    /// and their tokens weigh 0.
    pub fn weights_without(&self, lengths: &[usize], filtered: impl Fn(usize) -> bool) -> Vec<f32> {
        let counted = |(i, &length): (usize, &usize)| if filtered(i) { 0 } else { length };
        let counted: Vec<usize> = lengths.iter().enumerate().map(counted).collect();
        let tokens: usize = counted.iter().sum();
        let sequences = counted.iter().filter(|&&length| length > 0).count() as f64;
        let weight = |length: usize| match *self {
            Self::TokenMean => 1.0 / tokens as f64,
            Self::SeqMeanTokenSum => 1.0 / sequences,
            Self::SeqMeanTokenMean => 1.0 / (sequences * (length as f64 + EPSILON)),
            Self::SeqMeanTokenSumNorm { length } => 1.0 / length as f64,
        };
        let of_sequence = |(&length, counted): (&usize, usize)| {
            std::iter::repeat_n(if counted > 0 { weight(counted) as f32 } else { 0.0 }, length)
        };
        lengths.iter().zip(counted).flat_map(of_sequence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_definitions() {
        let lengths = [1, 0, 3];
        assert_eq!(Mean::TokenMean.weights(&lengths), [0.25; 4]);
        assert_eq!(Mean::SeqMeanTokenSum.weights(&lengths), [0.5; 4]);
        assert_eq!(Mean::SeqMeanTokenMean.weights(&lengths), [0.5, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0]);
        assert_eq!(Mean::SeqMeanTokenSumNorm { length: 8 }.weights(&lengths), [0.125; 4]);
    }

    #[test]
    fn filtered_sequences_weigh_nothing_and_do_not_count() {
        let lengths = [1, 2, 3];
        let weights = |mean: Mean| mean.weights_without(&lengths, |i| i == 1);
        assert_eq!(weights(Mean::TokenMean), [0.25, 0.0, 0.0, 0.25, 0.25, 0.25]);
        assert_eq!(weights(Mean::SeqMeanTokenSum), [0.5, 0.0, 0.0, 0.5, 0.5, 0.5]);
        assert_eq!(Mean::TokenMean.weights_without(&lengths, |_| true), [0.0; 6]);
    }

    #[test]
    fn an_empty_minibatch_has_no_weights() {
        assert!(Mean::TokenMean.weights(&[]).is_empty());
        assert!(Mean::SeqMeanTokenMean.weights(&[0, 0]).is_empty());
    }

    #[test]
    fn names_are_found_and_are_the_serialised_ones() {
        for name in ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"] {
            let mean = Mean::named(name, 5).unwrap();
            assert_eq!(mean.name(), name);
            assert!(serde_json::to_string(&mean).unwrap().contains(&format!("\"{name}\"")));
        }
        assert_eq!(Mean::named("mean", 5), None);
    }
}
