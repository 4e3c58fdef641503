//! The share of a step's responses that one update learns from: whole groups, laid out token by token.

use std::ops::Range;

use crate::{
    objective::Mean,
    rollout::Rollout,
    sequence::{Packed, Sequence, parts},
};

/// What an update learns from; all but `sequences` and `lengths` hold one value for every response token.
pub(super) struct Minibatch {
    /// Prompts and responses.
    pub(super) sequences: Vec<Sequence>,
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
        let sequences: Vec<Sequence> = rollouts.iter().map(|rollout| rollout.sequence.clone()).collect();
        let lengths: Vec<usize> = sequences.iter().map(Sequence::response_length).collect();
        let spread = |(&advantage, &length): (&f32, &usize)| std::iter::repeat_n(advantage, length);
        Self {
            advantage: advantages.iter().zip(&lengths).flat_map(spread).collect(),
            weight: mean.weights_without(&lengths, |i| filter_truncated && !rollouts[i].stopped),
            drawn: rollouts.iter().flat_map(|rollout| &rollout.log_probs).copied().collect(),
            old: None,
            sequences,
            lengths,
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

/// What goes through the model at once.
#[derive(Clone)]
pub(super) struct Part {
    /// Places in `sequences` and `lengths`.
    pub(super) sequences: Range<usize>,
    /// Places in everything else.
    pub(super) tokens: Range<usize>,
}
