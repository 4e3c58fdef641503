//! Causal attention with grouped key-value heads: `softmax(q·kᵀ/√d)·v` within every sequence of a packed batch.
//! Three sites: the scores (a matmul), the softmax, and the values (a matmul), each with errors at its inputs, its
//! output and, backward, at the gradients of its inputs.
//!
//! The probabilities are not kept for the backward pass but computed again; addressed noise comes out the same.

use std::{ops::Range, sync::Arc};

use burn::tensor::Tensor;
use hardy_numerics::simd::dispatch;
use rayon::prelude::*;

use super::{
    gemm::{Mat, product},
    parallel, primitive,
    rms_norm::dot,
    softmax::softmax_row,
    tensor,
};
use crate::{
    Row,
    at::{At, ByRow, Operand, Sums},
    backend::{NoisyBackend, Primitive, shape_of},
    site::Point,
};

/// Queries that are worked on together.
const BLOCK: usize = 64;
/// Up to so many new queries, as in decoding, are worked on one by one.
const FEW: usize = 4;
/// The element of key `j` in the scores of head `h` is `h·2²⁰ + j`: independent of the length so far.
const HEAD_SHIFT: u32 = 20;

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key-value heads; divides `query`.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Heads {
    fn query_width(self) -> usize {
        self.query * self.dim
    }

    fn kv_width(self) -> usize {
        self.kv * self.dim
    }

    /// The columns of the key-value head that query head `head` reads.
    fn kv_columns(self, head: usize) -> usize {
        head / (self.query / self.kv) * self.dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Where the sequences of a packed batch begin and end: `[sequences + 1]` rows, from 0 to the number of tokens.
#[derive(Clone, Debug)]
pub struct Segments(Arc<[usize]>);

impl Segments {
    /// The segments of sequences with these lengths.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        offsets.extend(lengths.into_iter().map(|length| {
            end += length;
            end
        }));
        Self(offsets.into())
    }

    /// The rows of every sequence.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.0.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// Splits `x` `[tokens, width]` into the rows of every sequence.
    fn split<'a>(&self, mut x: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let take = |range: Range<usize>| {
            let (head, tail) = std::mem::take(&mut x).split_at_mut(range.len() * width);
            x = tail;
            head
        };
        self.ranges().map(take).collect()
    }
}

/// The errors of an attention layer's three sites.
#[derive(Clone, Debug)]
pub struct AttentionAt {
    /// `q·kᵀ`.
    pub scores: At,
    /// The softmax of the scaled scores.
    pub softmax: At,
    /// The probabilities times the values.
    pub values: At,
}

impl AttentionAt {
    fn again(&self) -> Self {
        Self { scores: self.scores.again(), softmax: self.softmax.again(), values: self.values.again() }
    }
}

/// The keys and values of one sequence in one layer, `[length, kv_heads·head_dim]` each, as the products see them.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Attends within every sequence: `q` `[tokens, heads·d]`, `k` and `v` `[tokens, kv_heads·d]`; gives the shape of `q`.
pub fn attention<B: NoisyBackend>(
    q: Tensor<B, 2>,
    k: Tensor<B, 2>,
    v: Tensor<B, 2>,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Tensor<B, 2> {
    tensor(B::noisy_attention([&primitive(q), &primitive(k), &primitive(v)], heads, segments, at))
}

/// The same for new tokens that follow what the caches hold, one cache a sequence; their keys and values are added
/// to the caches. Not differentiable.
///
/// # Panics
/// If there is not one cache a sequence.
pub fn cached_attention<B: NoisyBackend>(
    q: Tensor<B, 2>,
    k: Tensor<B, 2>,
    v: Tensor<B, 2>,
    caches: &mut [&mut LayerCache],
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Tensor<B, 2> {
    tensor(B::noisy_cached_attention(
        [&primitive(q), &primitive(k), &primitive(v)],
        caches,
        heads,
        segments,
        at,
    ))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    let (q_host, k_host, v_host) = (B::host(q), B::host(k), B::host(v));
    let q_seen = at.scores.input(Operand::Lhs, heads.query_width(), &q_host);
    let k_seen = at.scores.input(Operand::Rhs, heads.kv_width(), &k_host);
    let v_seen = at.values.input(Operand::Rhs, heads.kv_width(), &v_host);
    let sequences: Vec<Sequence> =
        segments.ranges().map(|rows| Sequence::packed(&q_seen, &k_seen, &v_seen, rows, heads, at)).collect();
    let y = attend(&sequences, heads, segments, at);
    B::upload(y, shape_of::<B>(q), q)
}

/// The cached forward pass on host slices.
///
/// # Panics
/// If there is not one cache a sequence.
pub fn forward_cached<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    caches: &mut [&mut LayerCache],
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    let (q_host, k_host, v_host) = (B::host(q), B::host(k), B::host(v));
    let q_seen = at.scores.input(Operand::Lhs, heads.query_width(), &q_host);
    let k_seen = at.scores.input(Operand::Rhs, heads.kv_width(), &k_host);
    let v_seen = at.values.input(Operand::Rhs, heads.kv_width(), &v_host);
    assert_eq!(caches.len(), segments.ranges().len(), "one cache a sequence");
    let width = heads.kv_width();
    for (cache, rows) in caches.iter_mut().zip(segments.ranges()) {
        cache.keys.extend_from_slice(&k_seen[rows.start * width..rows.end * width]);
        cache.values.extend_from_slice(&v_seen[rows.start * width..rows.end * width]);
    }
    let mut sequences = Vec::with_capacity(caches.len());
    for (cache, rows) in caches.iter().zip(segments.ranges()) {
        let width = heads.query_width();
        let q = &q_seen[rows.start * width..rows.end * width];
        sequences.push(Sequence { q, k: &cache.keys, v: &cache.values, rows: &at.scores.rows()[rows] });
    }
    let y = attend(&sequences, heads, segments, at);
    B::upload(y, shape_of::<B>(q), q)
}

/// One sequence: its new queries, and all its keys and values, as the products see them.
struct Sequence<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// The addresses of the queries.
    rows: &'a [Row],
}

impl<'a> Sequence<'a> {
    fn packed(
        q: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
        rows: Range<usize>,
        heads: Heads,
        at: &'a AttentionAt,
    ) -> Self {
        let of = |x: &'a [f32], width: usize| &x[rows.start * width..rows.end * width];
        Self {
            q: of(q, heads.query_width()),
            k: of(k, heads.kv_width()),
            v: of(v, heads.kv_width()),
            rows: &at.scores.rows()[rows.clone()],
        }
    }

    /// The blocks of queries.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let queries = self.rows.len();
        (0..queries).step_by(BLOCK).map(move |first| first..queries.min(first + BLOCK))
    }

    /// How many keys precede the first query.
    fn offset(&self, heads: Heads) -> usize {
        self.k.len() / heads.kv_width() - self.rows.len()
    }

    fn queries(&self, block: &Range<usize>, head: usize, heads: Heads) -> Mat<'a> {
        Mat::new(self.query(block.start, head, heads), block.len(), heads.dim, heads.query_width())
    }

    /// From one query's head on.
    fn query(&self, index: usize, head: usize, heads: Heads) -> &'a [f32] {
        &self.q[index * heads.query_width() + head * heads.dim..]
    }

    fn keys(&self, count: usize, head: usize, heads: Heads) -> Mat<'a> {
        Mat::new(&self.k[heads.kv_columns(head)..], count, heads.dim, heads.kv_width())
    }

    fn values(&self, count: usize, head: usize, heads: Heads) -> Mat<'a> {
        Mat::new(&self.v[heads.kv_columns(head)..], count, heads.dim, heads.kv_width())
    }
}

/// What was injected forward into one sequence.
#[derive(Default)]
struct ForwardSums {
    scores: Sums,
    softmax_input: Sums,
    softmax_output: Sums,
    probabilities: Sums,
}

impl ForwardSums {
    fn count(all: &[Self], at: &AttentionAt) {
        let AttentionAt { scores, softmax, values } = at;
        scores.by_row(Point::Output, Operand::Lhs).count(all.iter().map(|sums| &sums.scores));
        softmax.by_row(Point::Input, Operand::Lhs).count(all.iter().map(|sums| &sums.softmax_input));
        softmax.by_row(Point::Output, Operand::Lhs).count(all.iter().map(|sums| &sums.softmax_output));
        values.by_row(Point::Input, Operand::Lhs).count(all.iter().map(|sums| &sums.probabilities));
    }
}

/// All sequences, in parallel.
fn attend(sequences: &[Sequence], heads: Heads, segments: &Segments, at: &AttentionAt) -> Vec<f32> {
    let tokens: usize = sequences.iter().map(|sequence| sequence.rows.len()).sum();
    let mut y = vec![0.0; tokens * heads.query_width()];
    let work: Vec<_> = sequences.iter().zip(segments.split(&mut y, heads.query_width())).collect();
    let one = |(sequence, y): (&Sequence, &mut [f32])| {
        dispatch(
            #[inline(always)]
            || attend_one(sequence, y, heads, at),
        )
    };
    let sums: Vec<ForwardSums> = work.into_par_iter().map(one).collect();
    ForwardSums::count(&sums, at);
    at.values.output(heads.query_width(), &mut y);
    y
}

#[inline(always)]
fn attend_one(sequence: &Sequence, y: &mut [f32], heads: Heads, at: &AttentionAt) -> ForwardSums {
    if sequence.rows.len() <= FEW {
        return attend_by_query(sequence, y, heads, at);
    }
    let (mut sums, mut p) = (ForwardSums::default(), Vec::new());
    let width = heads.query_width();
    for head in 0..heads.query {
        for block in sequence.blocks() {
            let keys = probabilities(sequence, &block, head, heads, at, &mut p, &mut sums);
            perturb_probabilities(sequence, &block, head, keys, at, &mut p, &mut sums);
            let out = &mut y[block.start * width + head * heads.dim..];
            let seen = Mat::new(&p, block.len(), keys, keys);
            product(out, width, seen, sequence.values(keys, head, heads), false);
        }
    }
    sums
}

/// The same, query by query, the query heads that share keys and values together.
#[inline(always)]
fn attend_by_query(sequence: &Sequence, y: &mut [f32], heads: Heads, at: &AttentionAt) -> ForwardSums {
    let (mut sums, mut p) = (ForwardSums::default(), Vec::new());
    let (group, dim) = (heads.query / heads.kv, heads.dim);
    for (query, (row, y)) in sequence.rows.iter().zip(y.chunks_exact_mut(heads.query_width())).enumerate() {
        let keys = sequence.offset(heads) + query + 1;
        p.resize(group * keys, 0.0);
        for (first, y) in (0..heads.query).step_by(group).zip(y.chunks_exact_mut(group * dim)) {
            let q = Mat::new(sequence.query(query, first, heads), group, dim, dim);
            product(&mut p, keys, q, sequence.keys(keys, first, heads).t(), false);
            for (head, p) in (first..).zip(p.chunks_exact_mut(keys)) {
                softmax_of_scores(*row, head, heads, at, p, &mut sums);
                perturb_row(*row, head, at, p, &mut sums);
            }
            let p = Mat::new(&p, group, keys, keys);
            product(y, dim, p, sequence.values(keys, first, heads), false);
        }
    }
    sums
}

/// The probabilities `p` of a block of queries over the keys that its last query sees, `[block, keys]`, zero above
/// the diagonal, as the softmax makes them; gives the number of keys.
#[inline(always)]
fn probabilities(
    sequence: &Sequence,
    block: &Range<usize>,
    head: usize,
    heads: Heads,
    at: &AttentionAt,
    p: &mut Vec<f32>,
    sums: &mut ForwardSums,
) -> usize {
    let offset = sequence.offset(heads);
    let keys = offset + block.end;
    p.resize(block.len() * keys, 0.0);
    product(p, keys, sequence.queries(block, head, heads), sequence.keys(keys, head, heads).t(), false);
    for (i, p) in p.chunks_exact_mut(keys).enumerate() {
        let (visible, hidden) = p.split_at_mut(offset + block.start + i + 1);
        hidden.fill(0.0);
        softmax_of_scores(sequence.rows[block.start + i], head, heads, at, visible, sums);
    }
    keys
}

/// Makes of the scores that a query sees its probabilities.
#[inline(always)]
fn softmax_of_scores(
    row: Row,
    head: usize,
    heads: Heads,
    at: &AttentionAt,
    visible: &mut [f32],
    sums: &mut ForwardSums,
) {
    let first = first_score(head);
    at.scores.by_row(Point::Output, Operand::Lhs).apply(row, first, visible, &mut sums.scores);
    at.scores.note_magnitude(visible);
    visible.iter_mut().for_each(|s| *s *= heads.scale());
    at.softmax.by_row(Point::Input, Operand::Lhs).apply(row, first, visible, &mut sums.softmax_input);
    softmax_row(visible);
}

/// Makes of the probabilities of a block what the product with the values sees.
#[inline(always)]
fn perturb_probabilities(
    sequence: &Sequence,
    block: &Range<usize>,
    head: usize,
    keys: usize,
    at: &AttentionAt,
    p: &mut [f32],
    sums: &mut ForwardSums,
) {
    for (i, p) in p.chunks_exact_mut(keys).enumerate() {
        let visible = keys - block.len() + i + 1;
        perturb_row(sequence.rows[block.start + i], head, at, &mut p[..visible], sums);
    }
}

#[inline(always)]
fn perturb_row(row: Row, head: usize, at: &AttentionAt, visible: &mut [f32], sums: &mut ForwardSums) {
    let first = first_score(head);
    at.softmax.by_row(Point::Output, Operand::Lhs).apply(row, first, visible, &mut sums.softmax_output);
    at.softmax.note_magnitude(visible);
    at.values.by_row(Point::Input, Operand::Lhs).apply(row, first, visible, &mut sums.probabilities);
}

/// The element of a head's first score.
fn first_score(head: usize) -> u64 {
    (head as u64) << HEAD_SHIFT
}

/// What was injected backward into one sequence.
#[derive(Default)]
struct BackwardSums {
    probabilities: Sums,
    softmax: Sums,
}

/// The errors of a site's `∂x`.
fn grad_input(at: &At, operand: Operand) -> ByRow<'_> {
    at.by_row(Point::GradInput, operand)
}

/// With `p` the probabilities and `p̃` what the values saw of them: `∂v = p̃ᵀ·∂y`, `∂p = ∂y·vᵀ`,
/// `∂s = p·(∂p − Σ ∂p·p)/√d`, `∂q = ∂s·k`, `∂k = ∂sᵀ·q`. The gradients of a shared key-value head are computed, and
/// perturbed, for every query head by itself, and then summed.
pub fn backward<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    grad: &Primitive<B>,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> [Primitive<B>; 3] {
    let (q_host, k_host, v_host, grad_host) = (B::host(q), B::host(k), B::host(v), B::host(grad));
    let again = at.again();
    let q_seen = again.scores.input(Operand::Lhs, heads.query_width(), &q_host);
    let k_seen = again.scores.input(Operand::Rhs, heads.kv_width(), &k_host);
    let v_seen = again.values.input(Operand::Rhs, heads.kv_width(), &v_host);
    let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![0.0; q_host.len()]);
    let [qs, ks, vs] = [&mut dq, &mut dk, &mut dv].map(|x| segments.split(x, heads.query_width()));
    let outputs = qs.into_iter().zip(ks).zip(vs).map(|((dq, dk), dv)| [dq, dk, dv]);
    let work: Vec<_> = segments.ranges().zip(outputs).collect();
    let one = |(rows, outputs): (Range<usize>, [&mut [f32]; 3])| {
        let dy = &grad_host[rows.start * heads.query_width()..rows.end * heads.query_width()];
        let sequence = Sequence::packed(&q_seen, &k_seen, &v_seen, rows, heads, at);
        dispatch(
            #[inline(always)]
            || backward_one(&sequence, dy, outputs, heads, at, &again),
        )
    };
    let sums: Vec<BackwardSums> = work.into_par_iter().map(one).collect();
    let of = |at: &At, operand, pick: fn(&BackwardSums) -> &Sums| {
        grad_input(at, operand).count(sums.iter().map(pick));
    };
    of(&at.values, Operand::Lhs, |sums| &sums.probabilities);
    of(&at.softmax, Operand::Lhs, |sums| &sums.softmax);
    let width = heads.query_width();
    at.values.perturb_rows(Point::GradInput, Operand::Rhs, width, &mut dv);
    at.scores.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut dq);
    at.scores.perturb_rows(Point::GradInput, Operand::Rhs, width, &mut dk);
    [
        B::upload(dq, shape_of::<B>(q), q),
        B::upload(sum_groups(dk, heads), shape_of::<B>(k), k),
        B::upload(sum_groups(dv, heads), shape_of::<B>(v), v),
    ]
}

/// The sum over the query heads that share a key-value head: from `[tokens, heads·d]` to `[tokens, kv_heads·d]`.
fn sum_groups(x: Vec<f32>, heads: Heads) -> Vec<f32> {
    let group = heads.query / heads.kv;
    if group == 1 {
        return x;
    }
    let mut sum = vec![0.0; x.len() / group];
    parallel::for_chunks(
        &mut sum,
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
    );
    sum
}

#[inline(always)]
fn backward_one(
    sequence: &Sequence,
    dy: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
    heads: Heads,
    at: &AttentionAt,
    again: &AttentionAt,
) -> BackwardSums {
    let mut sums = BackwardSums::default();
    let mut uncounted = ForwardSums::default();
    let (width, dim) = (heads.query_width(), heads.dim);
    let (mut p, mut seen, mut ds) = (Vec::new(), Vec::new(), Vec::new());
    for head in 0..heads.query {
        let column = head * dim;
        for block in sequence.blocks() {
            let keys = probabilities(sequence, &block, head, heads, again, &mut p, &mut uncounted);
            seen.clone_from(&p);
            perturb_probabilities(sequence, &block, head, keys, again, &mut seen, &mut uncounted);
            let dy = Mat::new(&dy[block.start * width + column..], block.len(), dim, width);
            product(&mut dv[column..], width, Mat::new(&seen, block.len(), keys, keys).t(), dy, true);
            ds.resize(block.len() * keys, 0.0);
            product(&mut ds, keys, dy, sequence.values(keys, head, heads).t(), false);
            for (i, (ds, p)) in ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys)).enumerate() {
                let (row, last) = (sequence.rows[block.start + i], block.start + i + 1);
                let (visible, hidden) = ds.split_at_mut(last);
                hidden.fill(0.0);
                let first = first_score(head);
                grad_input(&at.values, Operand::Lhs).apply(row, first, visible, &mut sums.probabilities);
                let mean = dot(visible, &p[..last]);
                visible.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean));
                grad_input(&at.softmax, Operand::Lhs).apply(row, first, visible, &mut sums.softmax);
                visible.iter_mut().for_each(|ds| *ds *= heads.scale());
            }
            let ds = Mat::new(&ds, block.len(), keys, keys);
            let out = &mut dq[block.start * width + column..];
            product(out, width, ds, sequence.keys(keys, head, heads), false);
            product(&mut dk[column..], width, ds.t(), sequence.queries(&block, head, heads), true);
        }
    }
    sums
}
