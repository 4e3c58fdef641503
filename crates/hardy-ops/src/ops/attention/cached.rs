//! The forward pass of tokens that follow what a cache holds, query by query.

use std::borrow::Cow;

use hardy_numerics::simd::Level;

use super::{
    super::gemm::Kernels,
    Angles, AttentionAt, Heads, HostCache, KvPass, Segments,
    cache::{Cached, Growing, Piece},
    forward::{ForwardSums, attend, attend_in_blocks, perturb_probabilities, softmax_of_scores, turned},
    sequence::{Seen, Sequence},
};
use crate::{
    at::Operand,
    backend::{NoisyBackend, Primitive},
    site::Point,
};

/// The cached forward pass on host slices.
///
/// # Panics
/// If the angles are not those of these rows and heads.
pub fn forward_cached<B: NoisyBackend>(
    [q, k, v]: [&Primitive<B>; 3],
    cache: KvPass<HostCache>,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    let v_host = B::host(v);
    let [q_seen, k_seen] = turned::<B>([q, k], angles, heads, at);
    let v_seen = at.values.factor(Operand::Rhs, heads.kv_width(), &v_host);
    let seen = [&*q_seen, &*k_seen, &*v_seen];
    let one = |(index, places)| (Sequence::packed(seen, segments, index, heads), places);
    let y = attend(
        cache.pieces().into_iter().enumerate().map(one).collect(),
        heads,
        segments,
        at,
        #[inline(always)]
        |(sequence, places), y| attend_cached(sequence, places, y, heads, at),
    );
    B::upload(y, B::shape(q), q)
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
    let (group, kernels) = (heads.query / heads.kv, Kernels::of(Level::current()));
    let before = cached.len() - sequence.rows.len();
    for (query, y) in y.chunks_exact_mut(heads.query_width()).enumerate() {
        let keys = before + query + 1;
        p.resize(heads.query * keys, 0.0);
        cached.fetch_keys();
        for (kv, p) in p.chunks_exact_mut(group * keys).enumerate() {
            cached.fetch_values(kv, heads.kv);
            let q = &sequence.query(query, kv * group, heads)[..group * heads.dim];
            cached.scores(kernels, (q, heads.dim), kv * heads.dim, (p, keys));
        }
        let (row, window) = (sequence.rows.start + query, sequence.window);
        let seen = Seen { row, queries: 1, head: 0, shortest: keys, keys, window };
        seen.hide(&mut p);
        softmax_of_scores(seen, heads, at, &mut p, &mut sums);
        perturb_probabilities(seen, at, &mut p, &mut sums);
        let together = p.chunks_exact(group * keys).zip(y.chunks_exact_mut(group * heads.dim));
        for (kv, (p, y)) in together.enumerate() {
            cached.mix(kernels, (p, keys), kv * heads.dim, (y, heads.dim));
        }
    }
    sums
}
