//! The forward pass over whole sequences, in blocks of queries.

use std::ops::Range;

use hardy_numerics::simd::dispatch;
use rayon::prelude::*;

use super::{
    super::{
        accumulation::{Rounded, Sums as Products, add_rounded},
        gemm::Mat,
        parallel,
        softmax::softmax_row,
    },
    Angles, AttentionAt, Heads, Segments,
    sequence::{Seen, Sequence, not_finite},
    side_by_side,
};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive},
    by_row::{Sums, add_sums},
    site::Point,
};

/// The forward pass on host slices.
///
/// # Panics
/// If the angles are not those of these rows and heads.
pub fn forward<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    let v_host = B::host(v);
    let [q_seen, k_seen] = turned::<B>([q, k], angles, heads, at);
    let v_seen = at.values.factor(Operand::Rhs, heads.kv_width(), &v_host);
    let seen = [&*q_seen, &*k_seen, &*v_seen];
    let y = attend(
        (0..segments.len()).collect(),
        heads,
        segments,
        at,
        #[inline(always)]
        |index, y| attend_in_blocks(&Sequence::packed(seen, segments, index, heads), y, heads, at),
    );
    B::upload(y, B::shape(q), q)
}

/// Queries and keys at their positions, as their product sees them.
pub(super) fn turned<B: NoisyBackend>(
    [q, k]: [&Primitive<B>; 2],
    angles: &Angles,
    heads: Heads,
    at: &AttentionAt,
) -> [Vec<f32>; 2] {
    [(q, Operand::Lhs, heads.query_width()), (k, Operand::Rhs, heads.kv_width())].map(
        |(x, operand, width)| {
            let mut x = angles.turned(&B::host(x), heads.dim, width);
            at.scores.perturb_rows(Point::Input, operand, width, &mut x);
            at.scores.precision().round(&mut x);
            x
        },
    )
}

/// What was injected forward into one sequence.
#[derive(Default)]
pub(super) struct ForwardSums {
    scores: Sums,
    softmax_input: Sums,
    softmax_output: Sums,
    probabilities: Sums,
    score_sums: Rounded,
    value_sums: Rounded,
}

/// The sums of a site's products, forward.
fn outputs(at: &At) -> Products<'_> {
    Products::new(at, Point::Output, Operand::Lhs)
}

impl ForwardSums {
    /// Adds those of the heads that come next.
    pub fn add(&mut self, next: &Self) {
        add_sums(&mut self.scores, &next.scores);
        add_sums(&mut self.softmax_input, &next.softmax_input);
        add_sums(&mut self.softmax_output, &next.softmax_output);
        add_sums(&mut self.probabilities, &next.probabilities);
        add_rounded(&mut self.score_sums, &next.score_sums);
        add_rounded(&mut self.value_sums, &next.value_sums);
    }

    fn count(all: &[Self], at: &AttentionAt) {
        let AttentionAt { scores, softmax, values } = at;
        outputs(scores).count(all.iter().map(|sums| &sums.score_sums));
        outputs(values).count(all.iter().map(|sums| &sums.value_sums));
        scores.by_row(Point::Output, Operand::Lhs).count(all.iter().map(|sums| &sums.scores));
        softmax.by_row(Point::Input, Operand::Lhs).count(all.iter().map(|sums| &sums.softmax_input));
        softmax.by_row(Point::Output, Operand::Lhs).count(all.iter().map(|sums| &sums.softmax_output));
        values.by_row(Point::Input, Operand::Lhs).count(all.iter().map(|sums| &sums.probabilities));
    }
}

/// All sequences, in parallel, each by `one`.
pub(super) fn attend<S: Send>(
    sequences: Vec<S>,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
    one: impl Fn(S, &mut [f32]) -> ForwardSums + Sync,
) -> Vec<f32> {
    let tokens: usize = segments.ranges().map(|rows| rows.len()).sum();
    let mut y = parallel::zeros(tokens * heads.query_width());
    let work: Vec<_> = sequences.into_iter().zip(segments.split(&mut y, heads.query_width())).collect();
    let one = |(sequence, y)| {
        dispatch(
            #[inline(always)]
            || one(sequence, y),
        )
    };
    let sums: Vec<ForwardSums> = work.into_par_iter().map(one).collect();
    ForwardSums::count(&sums, at);
    at.values.output(heads.query_width(), &mut y);
    y
}

/// One sequence in blocks of queries: head after head, or side by side.
pub(super) fn attend_in_blocks(
    sequence: &Sequence,
    y: &mut [f32],
    heads: Heads,
    at: &AttentionAt,
) -> ForwardSums {
    let finite = !not_finite(&sequence.v);
    let some = |of: Range<usize>, y: &mut [f32]| {
        dispatch(
            #[inline(always)]
            || attend_heads(sequence, of, y, heads, at, finite),
        )
    };
    if !side_by_side::worth(sequence, heads) {
        return some(0..heads.query, y);
    }
    let one = |head| {
        let mut y = vec![0.0; sequence.rows.len() * heads.dim];
        let sums = some(head..head + 1, &mut y);
        (sums, y)
    };
    let (sums, parts): (Vec<ForwardSums>, Vec<Vec<f32>>) = (0..heads.query).into_par_iter().map(one).unzip();
    side_by_side::lay(&parts, heads, y);
    let mut sum = ForwardSums::default();
    sums.iter().for_each(|part| sum.add(part));
    sum
}

/// The heads `of` one sequence, into `y` `[rows, of.len()·d]`.
#[inline(always)]
fn attend_heads(
    sequence: &Sequence,
    of: Range<usize>,
    y: &mut [f32],
    heads: Heads,
    at: &AttentionAt,
    finite: bool,
) -> ForwardSums {
    let (mut sums, mut p) = (ForwardSums::default(), Vec::new());
    let (width, value_sums) = (of.len() * heads.dim, outputs(&at.values));
    let mut exact = value_sums.exact(y.len());
    for head in of.clone() {
        for block in sequence.blocks() {
            let seen = probabilities(sequence, &block, head, heads, at, &mut p, &mut sums);
            perturb_probabilities(seen, at, &mut p, &mut sums);
            let (first, keys) = (block.start * width + (head - of.start) * heads.dim, seen.keys);
            let factors = [Mat::new(&p, block.len(), keys, keys), sequence.values(keys, head, heads)];
            seen.mix(value_sums, [y, &mut exact], (first, width), factors, finite);
        }
    }
    value_sums.measure(sequence.rows.clone(), width, [&exact, y], &mut sums.value_sums);
    sums
}

/// The probabilities `p` of a block of queries over the keys that its last query sees, `[block, keys]`, zero above
/// the diagonal, as the softmax makes them.
#[inline(always)]
pub(super) fn probabilities(
    sequence: &Sequence,
    block: &Range<usize>,
    head: usize,
    heads: Heads,
    at: &AttentionAt,
    p: &mut Vec<f32>,
    sums: &mut ForwardSums,
) -> Seen {
    let offset = sequence.offset(heads);
    let keys = offset + block.end;
    p.resize(block.len() * keys, 0.0);
    let score_sums = outputs(&at.scores);
    let mut exact = score_sums.exact(p.len());
    let factors = [sequence.queries(block, head, heads), sequence.keys(keys, head, heads).t()];
    score_sums.product([p, &mut exact], 0, keys, factors, false);
    let (row, shortest) = (sequence.rows.start + block.start, offset + block.start + 1);
    let window = sequence.window;
    let seen = Seen { row, queries: block.len(), head, shortest, keys, window };
    seen.mask(score_sums, [&mut exact, p], &mut sums.score_sums);
    softmax_of_scores(seen, heads, at, p, sums);
    seen
}

/// Makes of the scores `p` that queries see their probabilities.
#[inline(always)]
pub(super) fn softmax_of_scores(
    seen: Seen,
    heads: Heads,
    at: &AttentionAt,
    p: &mut [f32],
    sums: &mut ForwardSums,
) {
    seen.inject(at.scores.by_row(Point::Output, Operand::Lhs), p, &mut sums.scores);
    seen.keep(&at.scores, Point::Output, p);
    for visible in seen.visible(p) {
        at.scores.watch().output(visible);
        visible.iter_mut().for_each(|s| *s *= heads.scale());
    }
    seen.inject(at.softmax.by_row(Point::Input, Operand::Lhs), p, &mut sums.softmax_input);
    // A loop, for what `for_each` does here is not inlined, and then compiled without SIMD.
    for visible in seen.visible(p) {
        softmax_row(visible);
    }
}

/// Makes of the probabilities `p` what the product with the values sees.
#[inline(always)]
pub(super) fn perturb_probabilities(seen: Seen, at: &AttentionAt, p: &mut [f32], sums: &mut ForwardSums) {
    seen.inject(at.softmax.by_row(Point::Output, Operand::Lhs), p, &mut sums.softmax_output);
    seen.keep(&at.softmax, Point::Output, p);
    for visible in seen.visible(p) {
        at.softmax.watch().output(visible);
    }
    seen.inject(at.values.by_row(Point::Input, Operand::Lhs), p, &mut sums.probabilities);
    at.values.precision().round_here(p);
}
