//! Causal attention with grouped key-value heads: `softmax(q·kᵀ/√d)·v` within every sequence of a packed batch.
//! Three sites: the scores (a matmul), the softmax, and the values (a matmul), each with errors at its inputs, its
//! output and, backward, at the gradients of its inputs. Queries and keys are turned to their positions on the way in.
//!
//! The probabilities are not kept for the backward pass but computed again; addressed noise comes out the same.
//! All forward products are chained, so that a token's result is the same to the bit in a full pass and from a cache.

mod buffer;
mod cache;
mod places;
mod rotary;
mod segments;

use std::{borrow::Cow, ops::Range};

use burn::tensor::Tensor;
use hardy_numerics::simd::dispatch;
use rayon::prelude::*;

use super::{
    accumulation::{Rounded, Sums as Accumulated},
    gemm::Mat,
    parallel, primitive,
    rms_norm::dot,
    softmax::softmax_row,
    tensor,
};
use crate::{
    Row,
    at::{At, ByRow, Operand, Rows, Sums},
    backend::{NoisyBackend, Primitive, shape_of},
    site::Point,
};
use cache::{Cached, Growing, Piece};

pub use buffer::{KvBuffer, KvLayer, KvSequence};
pub use places::Places;
pub use rotary::Angles;
pub use segments::Segments;

/// Queries that are worked on together.
const BLOCK: usize = 64;
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

/// Attends within every sequence: `q` `[tokens, heads·d]`, `k` and `v` `[tokens, kv_heads·d]`; gives the shape of `q`.
/// Queries and keys come as they are and are turned by `angles`, before any error.
///
/// # Panics
/// If the angles are not those of these rows and heads.
pub fn attention<B: NoisyBackend>(
    [q, k, v]: [Tensor<B, 2>; 3],
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Tensor<B, 2> {
    tensor(B::noisy_attention([&primitive(q), &primitive(k), &primitive(v)], angles, heads, segments, at))
}

/// The same for new tokens that follow what `cache` holds of every sequence; their keys, turned, and values are added
/// to it. Not differentiable.
///
/// # Panics
/// If the cache has not as many sequences as `segments`, a place in it is too small, or the angles are not those of
/// these rows and heads.
pub fn cached_attention<B: NoisyBackend>(
    [q, k, v]: [Tensor<B, 2>; 3],
    cache: KvLayer,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Tensor<B, 2> {
    let qkv = [&primitive(q), &primitive(k), &primitive(v)];
    tensor(B::noisy_cached_attention(qkv, cache, angles, heads, segments, at))
}

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
    let v_seen = at.values.input(Operand::Rhs, heads.kv_width(), &v_host);
    let seen = [&*q_seen, &*k_seen, &*v_seen];
    let one = |index| Sequence::packed(seen, segments, index, heads, at);
    let sequences: Vec<Sequence> = (0..segments.len()).map(one).collect();
    let y = attend(
        sequences,
        heads,
        segments,
        at,
        #[inline(always)]
        |sequence, y| attend_in_blocks(&sequence, y, heads, at),
    );
    B::upload(y, shape_of::<B>(q), q)
}

/// Queries and keys at their positions, as their product sees them.
fn turned<B: NoisyBackend>(
    [q, k]: [&Primitive<B>; 2],
    angles: &Angles,
    heads: Heads,
    at: &AttentionAt,
) -> [Vec<f32>; 2] {
    [(q, Operand::Lhs, heads.query_width()), (k, Operand::Rhs, heads.kv_width())].map(
        |(x, operand, width)| {
            let mut x = angles.turned(&B::host(x), heads.dim, width);
            at.scores.perturb_rows(Point::Input, operand, width, &mut x);
            x
        },
    )
}

/// The cached forward pass on host slices.
///
/// # Panics
/// If the cache has not as many sequences as `segments`, a place in it is too small, or the angles are not those of
/// these rows and heads.
pub fn forward_cached<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    cache: KvLayer,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    let v_host = B::host(v);
    let [q_seen, k_seen] = turned::<B>([q, k], angles, heads, at);
    let v_seen = at.values.input(Operand::Rhs, heads.kv_width(), &v_host);
    let seen = [&*q_seen, &*k_seen, &*v_seen];
    assert_eq!(cache.len(), segments.len(), "one cache a sequence");
    let places = cache.grow(segments.ranges().map(|rows| rows.len()), heads.kv_width());
    let one = |(index, places)| (Sequence::packed(seen, segments, index, heads, at), places);
    let y = attend(
        places.into_iter().enumerate().map(one).collect(),
        heads,
        segments,
        at,
        #[inline(always)]
        |(sequence, places), y| attend_cached(sequence, places, y, heads, at),
    );
    B::upload(y, shape_of::<B>(q), q)
}

/// One sequence of a pass: its queries, and the keys and values up to them, as the products see them.
struct Sequence<'a> {
    q: &'a [f32],
    k: Cow<'a, [f32]>,
    v: Cow<'a, [f32]>,
    /// The addresses of the queries.
    rows: &'a [Row],
}

impl<'a> Sequence<'a> {
    fn packed(
        [q, k, v]: [&'a [f32]; 3],
        segments: &Segments,
        index: usize,
        heads: Heads,
        at: &'a AttentionAt,
    ) -> Self {
        let (rows, prefix) = (segments.rows(index), segments.prefix(index));
        let of = |x: &'a [f32], rows: &Range<usize>, width: usize| &x[rows.start * width..rows.end * width];
        let with_prefix = |x: &'a [f32]| {
            let [before, own] = [&prefix, &rows].map(|rows| of(x, rows, heads.kv_width()));
            if before.is_empty() { Cow::Borrowed(own) } else { Cow::Owned([before, own].concat()) }
        };
        Self {
            q: of(q, &rows, heads.query_width()),
            k: with_prefix(k),
            v: with_prefix(v),
            rows: &at.scores.rows()[rows],
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

    fn queries(&self, block: &Range<usize>, head: usize, heads: Heads) -> Mat<'_> {
        Mat::new(self.query(block.start, head, heads), block.len(), heads.dim, heads.query_width())
    }

    /// From one query's head on.
    fn query(&self, index: usize, head: usize, heads: Heads) -> &'a [f32] {
        &self.q[index * heads.query_width() + head * heads.dim..]
    }

    fn keys(&self, count: usize, head: usize, heads: Heads) -> Mat<'_> {
        Mat::new(&self.k[heads.kv_columns(head)..], count, heads.dim, heads.kv_width())
    }

    fn values(&self, count: usize, head: usize, heads: Heads) -> Mat<'_> {
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
    score_sums: Rounded,
    value_sums: Rounded,
}

/// The sums of a site's products, forward.
fn outputs(at: &At) -> Accumulated<'_> {
    Accumulated::new(at, Point::Output, Operand::Lhs)
}

impl ForwardSums {
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
fn attend<S: Send>(
    sequences: Vec<S>,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
    one: impl Fn(S, &mut [f32]) -> ForwardSums + Sync,
) -> Vec<f32> {
    let tokens: usize = segments.ranges().map(|rows| rows.len()).sum();
    let mut y = vec![0.0; tokens * heads.query_width()];
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

#[inline(always)]
fn attend_in_blocks(sequence: &Sequence, y: &mut [f32], heads: Heads, at: &AttentionAt) -> ForwardSums {
    let (mut sums, mut p) = (ForwardSums::default(), Vec::new());
    let (width, value_sums) = (heads.query_width(), outputs(&at.values));
    let mut exact = value_sums.exact(y.len());
    for head in 0..heads.query {
        for block in sequence.blocks() {
            let seen = probabilities(sequence, &block, head, heads, at, &mut p, &mut sums);
            perturb_probabilities(seen, at, &mut p, &mut sums);
            let (first, keys) = (block.start * width + head * heads.dim, seen.keys);
            let factors = [Mat::new(&p, block.len(), keys, keys), sequence.values(keys, head, heads)];
            value_sums.product([y, &mut exact], first, width, factors, false);
        }
    }
    value_sums.measure(&exact, y, &mut sums.value_sums);
    sums
}

/// Adds a sequence's keys and values to its place, and attends to what its prompt and its place hold.
#[inline(always)]
fn attend_cached(
    sequence: Sequence,
    (prompt, place): (Piece, Growing),
    y: &mut [f32],
    heads: Heads,
    at: &AttentionAt,
) -> ForwardSums {
    let fresh = prompt.is_empty() && place.length == 0;
    let cached = Cached::new(prompt, place.append(&sequence.k, &sequence.v));
    let rounded = [&at.scores, &at.values].into_iter().any(|at| at.accumulation(Point::Output).is_some());
    if !fresh && !rounded {
        return attend_by_query(&sequence, &cached, y, heads, at);
    }
    let [k, v] = if fresh { [sequence.k, sequence.v] } else { cached.rows().map(Cow::Owned) };
    attend_in_blocks(&Sequence { k, v, ..sequence }, y, heads, at)
}

/// The same from a cache, query by query.
#[inline(always)]
fn attend_by_query(
    sequence: &Sequence,
    cached: &Cached,
    y: &mut [f32],
    heads: Heads,
    at: &AttentionAt,
) -> ForwardSums {
    let (mut sums, mut p) = (ForwardSums::default(), Vec::new());
    let before = cached.len() - sequence.rows.len();
    for (query, y) in y.chunks_exact_mut(heads.query_width()).enumerate() {
        let keys = before + query + 1;
        p.resize(heads.query * keys, 0.0);
        for (head, p) in p.chunks_exact_mut(keys).enumerate() {
            let q = &sequence.query(query, head, heads)[..heads.dim];
            cached.scores(q, heads.kv_columns(head), p);
        }
        let seen = Seen { rows: &sequence.rows[query..=query], head: 0, shortest: keys, keys };
        softmax_of_scores(seen, heads, at, &mut p, &mut sums);
        perturb_probabilities(seen, at, &mut p, &mut sums);
        for (head, (p, y)) in p.chunks_exact(keys).zip(y.chunks_exact_mut(heads.dim)).enumerate() {
            cached.mix(p, heads.kv_columns(head), y);
        }
    }
    sums
}

/// The probabilities `p` of a block of queries over the keys that its last query sees, `[block, keys]`, zero above
/// the diagonal, as the softmax makes them.
#[inline(always)]
fn probabilities<'a>(
    sequence: &Sequence<'a>,
    block: &Range<usize>,
    head: usize,
    heads: Heads,
    at: &AttentionAt,
    p: &mut Vec<f32>,
    sums: &mut ForwardSums,
) -> Seen<'a> {
    let offset = sequence.offset(heads);
    let keys = offset + block.end;
    p.resize(block.len() * keys, 0.0);
    let score_sums = outputs(&at.scores);
    let mut exact = score_sums.exact(p.len());
    let factors = [sequence.queries(block, head, heads), sequence.keys(keys, head, heads).t()];
    score_sums.product([p, &mut exact], 0, keys, factors, false);
    let seen = Seen { rows: &sequence.rows[block.clone()], head, shortest: offset + block.start + 1, keys };
    for (i, p) in p.chunks_exact_mut(keys).enumerate() {
        let (visible, hidden) = p.split_at_mut(seen.shortest + i);
        hidden.fill(0.0);
        let exact = exact.get(i * keys..i * keys + visible.len()).unwrap_or_default();
        score_sums.measure(exact, visible, &mut sums.score_sums);
    }
    softmax_of_scores(seen, heads, at, p, sums);
    seen
}

/// What the queries of a block see, one head after another: one key more than the query before.
#[derive(Clone, Copy)]
struct Seen<'a> {
    /// The addresses of the queries.
    rows: &'a [Row],
    /// The first head.
    head: usize,
    /// How many keys the first query sees.
    shortest: usize,
    /// From one query's scores to the next one's.
    keys: usize,
}

impl Seen<'_> {
    /// Injects into what the queries see of `x` `[heads·queries, keys]`.
    #[inline(always)]
    fn inject(self, errors: ByRow, x: &mut [f32], sums: &mut Sums) {
        let part = |i: usize| {
            let (head, query) = (self.head + i / self.rows.len(), i % self.rows.len());
            (self.rows[query], (head as u64) << HEAD_SHIFT, self.shortest + query)
        };
        errors.apply_parts(self.keys, x, part, sums);
    }

    /// What every query sees of `x` `[heads·queries, keys]`.
    #[inline(always)]
    fn visible(self, x: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
        let length = move |i| self.shortest + i % self.rows.len();
        x.chunks_exact_mut(self.keys).enumerate().map(move |(i, x)| &mut x[..length(i)])
    }
}

/// Makes of the scores `p` that queries see their probabilities.
#[inline(always)]
fn softmax_of_scores(seen: Seen, heads: Heads, at: &AttentionAt, p: &mut [f32], sums: &mut ForwardSums) {
    seen.inject(at.scores.by_row(Point::Output, Operand::Lhs), p, &mut sums.scores);
    for visible in seen.visible(p) {
        at.scores.note_magnitude(visible);
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
fn perturb_probabilities(seen: Seen, at: &AttentionAt, p: &mut [f32], sums: &mut ForwardSums) {
    seen.inject(at.softmax.by_row(Point::Output, Operand::Lhs), p, &mut sums.softmax_output);
    for visible in seen.visible(p) {
        at.softmax.note_magnitude(visible);
    }
    seen.inject(at.values.by_row(Point::Input, Operand::Lhs), p, &mut sums.probabilities);
}

/// What was injected backward into one sequence.
#[derive(Default)]
struct BackwardSums {
    probabilities: Sums,
    softmax: Sums,
    /// Of the sums of ∂p, ∂v, ∂q and ∂k.
    rounded: [Rounded; 4],
}

/// The sums of the backward products: ∂p, ∂v, ∂q and ∂k. Where they sum over queries, chunks end with each block too.
fn gradient_sums(at: &AttentionAt) -> [Accumulated<'_>; 4] {
    [
        (&at.values, Operand::Lhs),
        (&at.values, Operand::Rhs),
        (&at.scores, Operand::Lhs),
        (&at.scores, Operand::Rhs),
    ]
    .map(|(at, operand)| Accumulated::new(at, Point::GradInput, operand))
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
    let [q_seen, k_seen] = turned::<B>([q, k], angles, heads, &again);
    let v_seen = again.values.input(Operand::Rhs, heads.kv_width(), &v_host);
    let mut dq = vec![0.0; q_seen.len()];
    let parts: Vec<_> = segments.split(&mut dq, heads.query_width()).into_iter().enumerate().collect();
    let one = |(index, dq): (usize, &mut [f32])| {
        let rows = segments.rows(index);
        let dy = &grad_host[rows.start * heads.query_width()..rows.end * heads.query_width()];
        let sequence = Sequence::packed([&q_seen, &k_seen, &v_seen], segments, index, heads, at);
        dispatch(
            #[inline(always)]
            || backward_one(&sequence, dy, dq, heads, at, &again),
        )
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
    let mut dk = gather_grads(&dk, segments, heads, &at.scores);
    let dv = gather_grads(&dv, segments, heads, &at.values);
    angles.turn_back(&mut dq, heads.dim, heads.query_width());
    angles.turn_back(&mut dk, heads.dim, heads.kv_width());
    [
        B::upload(dq, shape_of::<B>(q), q),
        B::upload(dk, shape_of::<B>(k), k),
        B::upload(dv, shape_of::<B>(v), v),
    ]
}

/// The gradient of keys or values `[tokens, kv_heads·d]` from those that every segment gave, `[keys, heads·d]` each:
/// perturbs them, and sums over the query heads and the segments that share a key.
fn gather_grads(parts: &[Vec<f32>], segments: &Segments, heads: Heads, at: &At) -> Vec<f32> {
    let all_rows = at.rows();
    let keys = |index| segments.prefix(index).chain(segments.rows(index));
    let rows: Rows = (0..segments.len()).flat_map(keys).map(|row| all_rows[row]).collect();
    let mut parts = parts.concat();
    at.for_rows(&rows).perturb_rows(Point::GradInput, Operand::Rhs, heads.query_width(), &mut parts);
    let summed = sum_groups(parts, heads);
    if (0..segments.len()).all(|index| segments.prefix(index).is_empty()) {
        return summed;
    }
    let width = heads.kv_width();
    let mut total = vec![0.0; all_rows.len() * width];
    for (row, part) in (0..segments.len()).flat_map(keys).zip(summed.chunks_exact(width)) {
        total[row * width..][..width].iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
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
    dq: &mut [f32],
    heads: Heads,
    at: &AttentionAt,
    again: &AttentionAt,
) -> (BackwardSums, [Vec<f32>; 2]) {
    let mut sums = BackwardSums::default();
    let mut uncounted = ForwardSums::default();
    let (width, dim, offset) = (heads.query_width(), heads.dim, sequence.offset(heads));
    let [mut dk, mut dv] = std::array::from_fn(|_| vec![0.0; (offset + sequence.rows.len()) * width]);
    let (mut p, mut perturbed, mut ds) = (Vec::new(), Vec::new(), Vec::new());
    let [ds_sums, dv_sums, dq_sums, dk_sums] = gradient_sums(at);
    let mut exact = [dv_sums.exact(dv.len()), dq_sums.exact(dq.len()), dk_sums.exact(dk.len())];
    let [dv_exact, dq_exact, dk_exact] = &mut exact;
    for head in 0..heads.query {
        let column = head * dim;
        for block in sequence.blocks() {
            let seen = probabilities(sequence, &block, head, heads, again, &mut p, &mut uncounted);
            let keys = seen.keys;
            perturbed.clone_from(&p);
            perturb_probabilities(seen, again, &mut perturbed, &mut uncounted);
            let dy = Mat::new(&dy[block.start * width + column..], block.len(), dim, width);
            let perturbed = Mat::new(&perturbed, block.len(), keys, keys).t();
            dv_sums.product([&mut dv, dv_exact], column, width, [perturbed, dy], true);
            ds.resize(block.len() * keys, 0.0);
            let mut ds_exact = ds_sums.exact(ds.len());
            let factors = [dy, sequence.values(keys, head, heads).t()];
            ds_sums.product([&mut ds, &mut ds_exact], 0, keys, factors, false);
            for (i, ds) in ds.chunks_exact_mut(keys).enumerate() {
                let (visible, hidden) = ds.split_at_mut(seen.shortest + i);
                hidden.fill(0.0);
                let exact = ds_exact.get(i * keys..i * keys + visible.len()).unwrap_or_default();
                ds_sums.measure(exact, visible, &mut sums.rounded[0]);
            }
            seen.inject(grad_input(&at.values, Operand::Lhs), &mut ds, &mut sums.probabilities);
            for (ds, p) in seen.visible(&mut ds).zip(p.chunks_exact(keys)) {
                let mean = dot(ds, &p[..ds.len()]);
                ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean));
            }
            seen.inject(grad_input(&at.softmax, Operand::Lhs), &mut ds, &mut sums.softmax);
            for visible in seen.visible(&mut ds) {
                visible.iter_mut().for_each(|ds| *ds *= heads.scale());
            }
            let ds = Mat::new(&ds, block.len(), keys, keys);
            let (first, keys) = (block.start * width + column, sequence.keys(keys, head, heads));
            dq_sums.product([dq, dq_exact], first, width, [ds, keys], false);
            let factors = [ds.t(), sequence.queries(&block, head, heads)];
            dk_sums.product([&mut dk, dk_exact], column, width, factors, true);
        }
    }
    dv_sums.measure(dv_exact, &dv, &mut sums.rounded[1]);
    dq_sums.measure(dq_exact, dq, &mut sums.rounded[2]);
    dk_sums.measure(dk_exact, &dk, &mut sums.rounded[3]);
    (sums, [dk, dv])
}
