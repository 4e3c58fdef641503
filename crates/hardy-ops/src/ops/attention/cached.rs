//! The forward pass of tokens that follow what a cache holds, query by query.

use std::{borrow::Cow, ops::Range};

use hardy_numerics::simd::{Level, dispatch};
use rayon::prelude::*;

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

/// Keys that a query sees, each of the width of all its heads, from which on the heads are worth tasks of their own.
const LONG: usize = 1 << 18;

/// The same from a cache, query by query: all heads on one thread, or where there are many keys the heads that share
/// some on one each. Where there are many depends on sizes alone, and a head's numbers are the same either way.
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
        let one = Query { sequence, cached, query, keys, heads, at };
        if keys * heads.kv_width() < LONG {
            one.attend(0..heads.kv, &mut p, y, &mut sums);
            continue;
        }
        let some = |(kv, y)| {
            let mut sums = ForwardSums::default();
            dispatch(
                #[inline(always)]
                || one.attend(kv..kv + 1, &mut Vec::new(), y, &mut sums),
            );
            sums
        };
        let parts = y.par_chunks_exact_mut(heads.query_width() / heads.kv).enumerate().map(some);
        parts.collect::<Vec<ForwardSums>>().iter().for_each(|part| sums.add(part));
    }
    sums
}

/// A query, and the first `keys` positions of a cache, which it sees.
struct Query<'a> {
    sequence: &'a Sequence<'a>,
    cached: &'a Cached<'a>,
    query: usize,
    keys: usize,
    heads: Heads,
    at: &'a AttentionAt,
}

impl Query<'_> {
    /// The heads that share the key-value heads `of`, into `y` `[heads, d]`.
    #[inline(always)]
    fn attend(&self, of: Range<usize>, p: &mut Vec<f32>, y: &mut [f32], sums: &mut ForwardSums) {
        let Self { sequence, cached, query, keys, heads, at } = *self;
        let (group, kernels) = (heads.query / heads.kv, Kernels::of(Level::current()));
        p.resize(of.len() * group * keys, 0.0);
        cached.fetch_keys();
        for (kv, p) in of.clone().zip(p.chunks_exact_mut(group * keys)) {
            cached.fetch_values(kv, heads.kv);
            let q = &sequence.query(query, kv * group, heads)[..group * heads.dim];
            cached.scores(kernels, (q, heads.dim), kv * heads.dim, (p, keys));
        }
        let (row, window) = (sequence.rows.start + query, sequence.window);
        let seen = Seen { row, queries: 1, head: of.start * group, shortest: keys, keys, window };
        seen.hide(p);
        softmax_of_scores(seen, heads, at, p, sums);
        perturb_probabilities(seen, at, p, sums);
        let together = p.chunks_exact(group * keys).zip(y.chunks_exact_mut(group * heads.dim));
        for (kv, (p, y)) in of.zip(together) {
            cached.mix(kernels, (p, keys), kv * heads.dim, (y, heads.dim));
        }
    }
}
