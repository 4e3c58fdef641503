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
    /// Places in `sequences` of every block: neighbouring groups that are computed by themselves, whoever computes others.
    /// What is summed over a minibatch is summed over each block, then over blocks in the order of a fixed tree.
    pub(super) blocks: Vec<Range<usize>>,
}

impl Minibatch {
    /// Lays out `rollouts`, with one advantage each. Tokens are averaged by `mean`, without those of responses that
    /// were cut off if `filter_truncated`. There are at most `blocks` blocks.
    pub(super) fn new(
        rollouts: &[Rollout],
        advantages: &[f32],
        mean: Mean,
        filter_truncated: bool,
        blocks: usize,
    ) -> Self {
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
            blocks: blocks_of(rollouts, blocks),
        }
    }

    /// The sequences of a block and their tokens in parts of at most `limit` tokens, prompts included; see [`parts`].
    pub(super) fn parts(
        &self,
        block: usize,
        limit: usize,
        share: bool,
    ) -> impl Iterator<Item = (Part, Packed)> {
        let Range { start: first, end } = self.blocks[block].clone();
        let mut tokens = self.lengths[..first].iter().sum::<usize>();
        parts(&self.sequences[first..end], limit, share).map(move |(sequences, packed)| {
            let (start, sequences) = (tokens, first + sequences.start..first + sequences.end);
            tokens += self.lengths[sequences.clone()].iter().sum::<usize>();
            (Part { sequences, tokens: start..tokens }, packed)
        })
    }
}

/// Up to `most` blocks of whole groups, as places among the responses that have a token.
fn blocks_of(rollouts: &[Rollout], most: usize) -> Vec<Range<usize>> {
    let mut groups = rollouts.chunk_by(|a, b| a.group == b.group);
    let answered = |group: &[Rollout]| group.iter().filter(|r| r.sequence.response_length() > 0).count();
    let block = |groups_of_block: usize| groups.by_ref().take(groups_of_block).map(answered).sum::<usize>();
    let sizes = shares(crate::rollout::groups(rollouts), most).map(block);
    let place = |end: &mut usize, size: usize| {
        let start = std::mem::replace(end, *end + size);
        Some(start..*end)
    };
    sizes.scan(0, place).collect()
}

/// How many of `groups` each of up to `parts` minibatches takes: every one at least one group, and none more than one
/// more than another.
pub(crate) fn shares(groups: usize, parts: usize) -> impl Iterator<Item = usize> {
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

    fn rollout(group: usize, length: usize) -> Rollout {
        Rollout {
            group,
            sequence: Sequence { ids: vec![7; 3 + length], prompt_length: 3, prompt: 0, sample: 1 },
            text: String::new(),
            log_probs: vec![-1.0; length],
            stopped: length > 0,
            non_finite: length == 0,
            scores: [0.0; 2],
            score: 0.0,
            named: Default::default(),
            penalty: 0.0,
        }
    }

    #[test]
    fn responses_without_a_token_are_set_aside_and_weigh_nothing() {
        let rollouts = [rollout(0, 2), rollout(0, 0), rollout(0, 4)];
        let minibatch = Minibatch::new(&rollouts, &[1.0, -3.0, 2.0], Mean::SeqMeanTokenSum, false, 8);
        assert_eq!((minibatch.sequences.len(), minibatch.unanswered.len()), (2, 1));
        assert_eq!(minibatch.lengths, [2, 4]);
        assert_eq!(minibatch.advantage, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        assert_eq!(minibatch.weight, [0.5; 6]);
        assert!(minibatch.parts(0, 100, true).map(|(part, _)| part.tokens).eq(std::iter::once(0..6)));
    }

    #[test]
    fn blocks_are_whole_groups_and_cover_every_answered_response_once() {
        let groups = [(0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (2, 0), (3, 2), (3, 2), (4, 1)];
        let rollouts: Vec<Rollout> = groups.iter().map(|&(group, length)| rollout(group, length)).collect();
        let blocks = |most| Minibatch::new(&rollouts, &[0.0; 9], Mean::TokenMean, false, most).blocks;
        assert_eq!(blocks(8), [0..2, 2..3, 3..3, 3..5, 5..6]);
        assert_eq!(blocks(2), [0..3, 3..6]);
        assert!(blocks(1).into_iter().eq(std::iter::once(0..6)));
    }
}
