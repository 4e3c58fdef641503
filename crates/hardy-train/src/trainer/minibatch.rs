//! The share of a step's responses that one update learns from: whole groups, laid out token by token.

use std::ops::Range;

use crate::{
    objective::Mean,
    rollout::Rollout,
    sequence::{Packed, Sequence, parts},
};

/// What an update learns from; all but `sequences` and `lengths` hold one value for every response token.
pub(super) struct Minibatch {
    /// Prompts and responses of at least one token.
    pub(super) sequences: Vec<Sequence>,
    /// The prompts to which no token was drawn, because its logits were not finite.
    pub(super) unanswered: Vec<Sequence>,
    /// Response tokens of every sequence.
    pub(super) lengths: Vec<usize>,
    /// The advantage of the token's response.
    pub(super) advantage: Vec<f32>,
    /// What the token's loss counts.
    pub(super) weight: Vec<f32>,
    /// The log-probability with which the token was drawn.
    pub(super) drawn: Vec<f32>,
    /// That under the policy before the step's updates; `None` where the first pass gives it.
    pub(super) old: Option<Vec<f32>>,
}

impl Minibatch {
    /// Lays out `rollouts`, with one advantage each. Tokens are averaged by `mean`, without those of responses that
    /// were cut off if `filter_truncated`.
    pub(super) fn new(rollouts: &[Rollout], advantages: &[f32], mean: Mean, filter_truncated: bool) -> Self {
        let length = |rollout: &Rollout| rollout.sequence.response_length();
        let all: Vec<usize> = rollouts.iter().map(length).collect();
        let spread = |(&advantage, &length): (&f32, &usize)| std::iter::repeat_n(advantage, length);
        let of = |empty: bool| rollouts.iter().filter(move |rollout| (length(rollout) == 0) == empty);
        let sequences = |empty: bool| of(empty).map(|rollout| rollout.sequence.clone()).collect();
        Self {
            advantage: advantages.iter().zip(&all).flat_map(spread).collect(),
            weight: mean.weights_without(&all, |i| filter_truncated && !rollouts[i].stopped),
            drawn: rollouts.iter().flat_map(|rollout| &rollout.log_probs).copied().collect(),
            old: None,
            sequences: sequences(false),
            unanswered: sequences(true),
            lengths: of(false).map(length).collect(),
        }
    }

    /// Its sequences and their tokens in parts of at most `limit` tokens, prompts included; see [`parts`].
    pub(super) fn parts(&self, limit: usize, share: bool) -> impl Iterator<Item = (Part, Packed)> {
        let mut end = 0;
        parts(&self.sequences, limit, share).map(move |(sequences, packed)| {
            let start = end;
            end += self.lengths[sequences.clone()].iter().sum::<usize>();
            (Part { sequences, tokens: start..end }, packed)
        })
    }
}

/// How many of `groups` each of up to `parts` minibatches takes: every one at least one group, and none more than one
/// more than another.
pub(super) fn shares(groups: usize, parts: usize) -> impl Iterator<Item = usize> {
    let parts = parts.min(groups);
    (0..parts).map(move |part| groups / parts + usize::from(part < groups % parts))
}

/// What goes through the model at once.
#[derive(Clone)]
pub(super) struct Part {
    /// Places in `sequences` and `lengths`.
    pub(super) sequences: Range<usize>,
    /// Places in everything else.
    pub(super) tokens: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_minibatches_is_honoured_and_their_sizes_differ_by_at_most_one_group() {
        for (groups, parts, expected) in [
            (32, 4, vec![8; 4]),
            (10, 4, vec![3, 3, 2, 2]),
            (9, 8, vec![2, 1, 1, 1, 1, 1, 1, 1]),
            (3, 8, vec![1, 1, 1]),
            (0, 4, vec![]),
        ] {
            assert_eq!(shares(groups, parts).collect::<Vec<_>>(), expected, "{groups} groups in {parts}");
        }
    }

    #[test]
    fn responses_without_a_token_are_set_aside_and_weigh_nothing() {
        let rollout = |length: usize| Rollout {
            group: 0,
            sequence: Sequence { ids: vec![7; 3 + length], prompt_length: 3, prompt: 0, sample: 1 },
            text: String::new(),
            log_probs: vec![-1.0; length],
            stopped: length > 0,
            non_finite: length == 0,
            scores: [0.0; 2],
            score: 0.0,
            named: Default::default(),
            penalty: 0.0,
        };
        let rollouts = [rollout(2), rollout(0), rollout(4)];
        let minibatch = Minibatch::new(&rollouts, &[1.0, -3.0, 2.0], Mean::SeqMeanTokenSum, false);
        assert_eq!((minibatch.sequences.len(), minibatch.unanswered.len()), (2, 1));
        assert_eq!(minibatch.lengths, [2, 4]);
        assert_eq!(minibatch.advantage, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        assert_eq!(minibatch.weight, [0.5; 6]);
        assert!(minibatch.parts(100, true).map(|(part, _)| part.tokens).eq(std::iter::once(0..6)));
    }
}
