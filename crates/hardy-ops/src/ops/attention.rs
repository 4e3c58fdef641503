//! Causal attention with grouped key-value heads: `softmax(q·kᵀ/√d)·v` within every sequence of a packed batch.
//! Three sites: the scores (a matmul), the softmax, and the values (a matmul), each with errors at its inputs, its
//! output and, backward, at the gradients of its inputs. Queries and keys are turned to their positions on the way in.
//!
//! The probabilities are not kept for the backward pass but computed again; addressed noise comes out the same.
//! All forward products are chained, so that a token's result is the same to the bit in a full pass and from a cache.

mod backward;
mod buffer;
mod cache;
mod cached;
mod forward;
mod host_cache;
mod mix;
mod places;
mod rotary;
mod segments;
mod sequence;
mod side_by_side;

use burn_tensor::Tensor;

use super::{primitive, tensor};
use crate::{at::At, backend::NoisyBackend};

pub use backward::backward;
pub use buffer::{KvBuffer, KvLayer, KvPass, KvSequence, Slots};
pub use cached::forward_cached;
pub use forward::forward;
pub use host_cache::HostCache;
pub use places::{Held, Places};
pub use rotary::Angles;
pub use segments::Segments;

/// Queries that are worked on together.
const BLOCK: usize = 64;
/// The element of key `j` in the scores of head `h` is `h·2²⁰ + j`: independent of the length so far.
const HEAD_SHIFT: u32 = 20;
/// Keys that a query can see at most; of more, the noise of two heads would be the same.
pub const MOST_KEYS: usize = 1 << HEAD_SHIFT;

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
    pub(crate) fn again(&self) -> Self {
        self.map(At::again)
    }

    /// Every site's as `change` makes it.
    pub(crate) fn map(&self, change: impl Fn(&At) -> At) -> Self {
        let [scores, softmax, values] = [&self.scores, &self.softmax, &self.values].map(change);
        Self { scores, softmax, values }
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
    cache: KvLayer<B>,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Tensor<B, 2> {
    let qkv = [q, k, v].map(primitive);
    let cache = cache.grow(segments.ranges().map(|rows| rows.len()), heads.kv_width(), &qkv[1]);
    tensor(B::noisy_cached_attention(qkv.each_ref(), cache, angles, heads, segments, at))
}
