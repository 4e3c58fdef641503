//! The backward pass: the gradients of queries, keys and values, from probabilities that are computed again.

use std::{
    borrow::Cow,
    cell::LazyCell,
    ops::{Deref, Range},
};

use hardy_numerics::simd::dispatch;
use rayon::prelude::*;

use super::{
    super::{
        accumulation::{Rounded, Sums as Products, add_rounded},
        gemm::Mat,
        parallel,
        rms_norm::dot,
    },
    Angles, AttentionAt, Heads, Segments,
    forward::{ForwardSums, perturb_probabilities, probabilities, turned},
    sequence::{Sequence, not_finite},
    side_by_side,
};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive},
    by_row::{ByRow, Sums, add_sums},
    rows::Rows,
    site::Point,
};

/// What was injected backward into one sequence.
#[derive(Default)]
struct BackwardSums {
    probabilities: Sums,
    softmax: Sums,
    /// Of the sums of ∂p, ∂v, ∂q and ∂k.
    rounded: [Rounded; 4],
}

impl BackwardSums {
    /// Adds those of the heads that come next.
    fn add(&mut self, next: &Self) {
        add_sums(&mut self.probabilities, &next.probabilities);
        add_sums(&mut self.softmax, &next.softmax);
        self.rounded.iter_mut().zip(&next.rounded).for_each(|(sum, part)| add_rounded(sum, part));
    }
}

/// The sums of the backward products: ∂p, ∂v, ∂q and ∂k. Where they sum over queries, chunks end with each block too.
fn gradient_sums(at: &AttentionAt) -> [Products<'_>; 4] {
    [
        (&at.values, Operand::Lhs),
        (&at.values, Operand::Rhs),
        (&at.scores, Operand::Lhs),
        (&at.scores, Operand::Rhs),
    ]
    .map(|(at, operand)| Products::new(at, Point::GradInput, operand))
}

/// The errors of a site's `∂x`.
fn grad_input(at: &At, operand: Operand) -> ByRow<'_> {
    at.by_row(Point::GradInput, operand)
}

/// With `p` the probabilities and `p̃` what the values saw of them: `∂v = p̃ᵀ·∂y`, `∂p = ∂y·vᵀ`,
/// `∂s = p·(∂p − Σ ∂p·p)/√d`, `∂q = ∂s·k`, `∂k = ∂sᵀ·q`. The gradients of a shared key-value head are computed, and
/// perturbed, for every query head by itself, and then summed. Those of queries and keys are turned back last.
///
/// # Panics
/// If the angles are not those of these rows and heads.
pub fn backward<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    grad: &Primitive<B>,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> [Primitive<B>; 3] {
    let (v_host, grad_host) = (B::host(v), B::host(grad));
    let again = at.again();
    let grad_seen = at.values.precision().operands(Cow::Borrowed(&grad_host));
    let [q_seen, k_seen] = turned::<B>([q, k], angles, heads, &again);
    let v_seen = again.values.factor(Operand::Rhs, heads.kv_width(), &v_host);
    let mut dq = parallel::zeros(q_seen.len());
    let parts: Vec<_> = segments.split(&mut dq, heads.query_width()).into_iter().enumerate().collect();
    let one = |(index, dq): (usize, &mut [f32])| {
        let rows = segments.rows(index);
        let dy = &grad_seen[rows.start * heads.query_width()..rows.end * heads.query_width()];
        let sequence = Sequence::packed([&q_seen, &k_seen, &v_seen], segments, index, heads);
        backward_one(&sequence, dy, dq, heads, at, &again)
    };
    let parts: Vec<(BackwardSums, [Vec<f32>; 2])> = parts.into_par_iter().map(one).collect();
    let (sums, grads): (Vec<BackwardSums>, Vec<[Vec<f32>; 2]>) = parts.into_iter().unzip();
    let of = |at: &At, operand, pick: fn(&BackwardSums) -> &Sums| {
        grad_input(at, operand).count(sums.iter().map(pick));
    };
    of(&at.values, Operand::Lhs, |sums| &sums.probabilities);
    of(&at.softmax, Operand::Lhs, |sums| &sums.softmax);
    for (i, rounded) in gradient_sums(at).into_iter().enumerate() {
        rounded.count(sums.iter().map(|sums| &sums.rounded[i]));
    }
    at.scores.perturb_rows(Point::GradInput, Operand::Lhs, heads.query_width(), &mut dq);
    let (dk, dv): (Vec<_>, Vec<_>) = grads.into_iter().map(|[dk, dv]| (dk, dv)).unzip();
    let keys = LazyCell::new(|| at.scores.rows().select(segments.keys().into_iter().map(|row| row as usize)));
    let mut dk = gather_grads(&dk, &keys, segments, heads, &at.scores);
    let dv = gather_grads(&dv, &keys, segments, heads, &at.values);
    angles.turn_back(&mut dq, heads.dim, heads.query_width());
    angles.turn_back(&mut dk, heads.dim, heads.kv_width());
    [B::upload(dq, B::shape(q), q), B::upload(dk, B::shape(k), k), B::upload(dv, B::shape(v), v)]
}

/// The gradient of keys or values `[tokens, kv_heads·d]` from those that every segment gave, `[keys, heads·d]` each:
/// perturbs them, and sums over the query heads and the segments that share a key.
fn gather_grads(
    parts: &[Vec<f32>],
    keys: &impl Deref<Target = Rows>,
    segments: &Segments,
    heads: Heads,
    at: &At,
) -> Vec<f32> {
    let mut parts = parallel::concat(parts);
    if !at.is_clean() {
        at.for_rows(keys).perturb_rows(Point::GradInput, Operand::Rhs, heads.query_width(), &mut parts);
    }
    let summed = sum_groups(parts, heads);
    let Some(sharing) = segments.sharing() else { return summed };
    let width = heads.kv_width();
    parallel::from_zeros(
        sharing.height() * width,
        width,
        #[inline(always)]
        |first, total| {
            for (total, keys) in total.chunks_exact_mut(width).zip(sharing.rows_from(first)) {
                for key in keys {
                    let part = &summed[*key as usize * width..][..width];
                    total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
                }
            }
        },
    )
}

/// The sum over the query heads that share a key-value head: from `[tokens, heads·d]` to `[tokens, kv_heads·d]`.
fn sum_groups(x: Vec<f32>, heads: Heads) -> Vec<f32> {
    let group = heads.query / heads.kv;
    if group == 1 {
        return x;
    }
    parallel::from_zeros(
        x.len() / group,
        heads.kv_width(),
        #[inline(always)]
        |first, sum| {
            let parts = x[first * heads.query_width()..].chunks_exact(group * heads.dim);
            for (sum, parts) in sum.chunks_exact_mut(heads.dim).zip(parts) {
                for part in parts.chunks_exact(heads.dim) {
                    sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                }
            }
        },
    )
}

/// One sequence: head after head, or side by side. Gives the gradients of keys and values too, `[keys, heads·d]` each.
fn backward_one(
    sequence: &Sequence,
    dy: &[f32],
    dq: &mut [f32],
    heads: Heads,
    at: &AttentionAt,
    again: &AttentionAt,
) -> (BackwardSums, [Vec<f32>; 2]) {
    let finite = [sequence.q, &sequence.k, dy].map(|x| !not_finite(x));
    let some = |of: Range<usize>, dq: &mut [f32]| {
        dispatch(
            #[inline(always)]
            || backward_heads(sequence, of, dy, dq, heads, [at, again], finite),
        )
    };
    if !side_by_side::worth(sequence, heads) {
        return some(0..heads.query, dq);
    }
    let one = |head| {
        let mut dq = vec![0.0; sequence.rows.len() * heads.dim];
        let (sums, [dk, dv]) = some(head..head + 1, &mut dq);
        (sums, (dq, (dk, dv)))
    };
    let parts: Vec<_> = (0..heads.query).into_par_iter().map(one).collect();
    let (sums, (dqs, (dks, dvs))): (Vec<BackwardSums>, (Vec<_>, (Vec<_>, Vec<_>))) =
        parts.into_iter().unzip();
    side_by_side::lay(&dqs, heads, dq);
    let both = [dks, dvs].map(|parts| {
        let mut all = vec![0.0; parts.iter().map(Vec::len).sum()];
        side_by_side::lay(&parts, heads, &mut all);
        all
    });
    let mut sum = BackwardSums::default();
    sums.iter().for_each(|part| sum.add(part));
    (sum, both)
}

/// The heads `of` one sequence: writes ∂q, `dq` `[rows, of.len()·d]`, and gives ∂k and ∂v, `[keys, of.len()·d]` each.
#[inline(always)]
fn backward_heads(
    sequence: &Sequence,
    of: Range<usize>,
    dy: &[f32],
    dq: &mut [f32],
    heads: Heads,
    [at, again]: [&AttentionAt; 2],
    [q_finite, k_finite, dy_finite]: [bool; 3],
) -> (BackwardSums, [Vec<f32>; 2]) {
    let mut sums = BackwardSums::default();
    let mut uncounted = ForwardSums::default();
    let (all, width, dim) = (heads.query_width(), of.len() * heads.dim, heads.dim);
    let offset = sequence.offset(heads);
    let [mut dk, mut dv] = std::array::from_fn(|_| vec![0.0; (offset + sequence.rows.len()) * width]);
    let (mut p, mut perturbed, mut ds) = (Vec::new(), Vec::new(), Vec::new());
    let [ds_sums, dv_sums, dq_sums, dk_sums] = gradient_sums(at);
    let mut exact = [dv_sums.exact(dv.len()), dq_sums.exact(dq.len()), dk_sums.exact(dk.len())];
    let [dv_exact, dq_exact, dk_exact] = &mut exact;
    for head in of.clone() {
        let column = (head - of.start) * dim;
        for block in sequence.blocks() {
            let seen = probabilities(sequence, &block, head, heads, again, &mut p, &mut uncounted);
            let keys = seen.keys;
            perturbed.clone_from(&p);
            perturb_probabilities(seen, again, &mut perturbed, &mut uncounted);
            let dy = Mat::new(&dy[block.start * all + head * dim..], block.len(), dim, all);
            let factors = [Mat::new(&perturbed, block.len(), keys, keys), dy];
            seen.spread(dv_sums, [&mut dv, dv_exact], (column, width), factors, dy_finite);
            ds.resize(block.len() * keys, 0.0);
            let mut ds_exact = ds_sums.exact(ds.len());
            let factors = [dy, sequence.values(keys, head, heads).t()];
            ds_sums.product([&mut ds, &mut ds_exact], 0, keys, factors, false);
            seen.mask(ds_sums, [&mut ds_exact, &mut ds], &mut sums.rounded[0]);
            seen.inject(grad_input(&at.values, Operand::Lhs), &mut ds, &mut sums.probabilities);
            seen.keep(&at.values, Point::GradInput, &ds);
            for (i, (ds, p)) in ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys)).enumerate() {
                let (ds, p) = (&mut ds[seen.range(i)], &p[seen.range(i)]);
                let mean = dot(ds, p);
                ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean));
            }
            seen.inject(grad_input(&at.softmax, Operand::Lhs), &mut ds, &mut sums.softmax);
            seen.keep(&at.softmax, Point::GradInput, &ds);
            for visible in seen.visible(&mut ds) {
                visible.iter_mut().for_each(|ds| *ds *= heads.scale());
            }
            at.scores.precision().round_here(&mut ds);
            let ds = Mat::new(&ds, block.len(), keys, keys);
            let (first, factors) = (block.start * width + column, [ds, sequence.keys(keys, head, heads)]);
            seen.mix(dq_sums, [dq, dq_exact], (first, width), factors, k_finite);
            let factors = [ds, sequence.queries(&block, head, heads)];
            seen.spread(dk_sums, [&mut dk, dk_exact], (column, width), factors, q_finite);
        }
    }
    let keys = 0..offset + sequence.rows.len();
    dv_sums.measure(keys.clone(), width, [dv_exact, &dv], &mut sums.rounded[1]);
    dk_sums.measure(keys, width, [dk_exact, &dk], &mut sums.rounded[3]);
    dq_sums.measure(sequence.rows.clone(), width, [dq_exact, dq], &mut sums.rounded[2]);
    (sums, [dk, dv])
}
