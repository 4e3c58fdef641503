//! Attention and its gradients.

use burn_tensor::ops::IntTensor;

use super::{inject, is_for_host, kernels::Kernels, tables::table};
use crate::{
    at::{At, Operand},
    backend::Primitive,
    ops::attention::{self, Angles, AttentionAt, Heads, KvPass, Segments},
    rows::Rows,
    scatter::Scatter,
    site::Point,
};

/// Whether the host has to compute it.
fn stays_on_host<B: Kernels>(at: &AttentionAt) -> bool {
    [&at.scores, &at.softmax, &at.values].into_iter().any(is_for_host) || !B::attends(at)
}

/// A kernel shows nobody what is within it: where a tap wants it, the host computes it once more, from what the device has.
fn look_within<T>(at: &AttentionAt, on_host: impl FnOnce(&AttentionAt) -> T) {
    if at.scores.watch().tap().is_some() {
        on_host(&at.map(At::second_look));
    }
}

/// Queries, keys and values as the products see them: turned, with the errors of inputs.
fn seen<B: Kernels>([q, k, v]: [&Primitive<B>; 3], angles: &Angles, at: &AttentionAt) -> [Primitive<B>; 3] {
    let table = angles.table::<B>(&B::float_device(q));
    let turned = |x: &Primitive<B>, operand| {
        let turned = B::rotary(x.clone(), &table, angles.half(), false);
        inject::rows::<B>(&at.scores, Point::Input, operand, turned)
    };
    let v = inject::rows::<B>(&at.values, Point::Input, Operand::Rhs, v.clone());
    [turned(q, Operand::Lhs), turned(k, Operand::Rhs), v]
}

/// See [`attention::attention`].
pub fn forward<B: Kernels>(
    qkv: [&Primitive<B>; 3],
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    if stays_on_host::<B>(at) {
        return attention::forward::<B>(qkv, angles, heads, segments, at);
    }
    let seen = seen::<B>(qkv, angles, at);
    let y = B::attend(seen.each_ref(), heads, segments, at);
    look_within(at, |again| attention::forward::<B>(qkv, angles, heads, segments, again));
    inject::rows::<B>(&at.values, Point::Output, Operand::Lhs, y)
}

/// See [`attention::cached_attention`].
pub fn forward_cached<B: Kernels>(
    qkv: [&Primitive<B>; 3],
    cache: KvPass<B::Cache>,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> Primitive<B> {
    if stays_on_host::<B>(at) {
        return attention::forward_cached::<B>(qkv, B::host_cache(cache), angles, heads, segments, at);
    }
    let seen = seen::<B>(qkv, angles, at);
    let y = B::attend_cached(seen.each_ref(), cache, heads, segments, at);
    inject::rows::<B>(&at.values, Point::Output, Operand::Lhs, y)
}

/// The rows of keys that segments see, segment by segment.
#[derive(Clone)]
struct Expanded<B: Kernels> {
    /// Those of a pass.
    of: Rows,
    rows: Rows,
    /// How their gradients are added up.
    order: IntTensor<B>,
}

/// Computed once for all layers of a pass over `of`.
fn expanded<B: Kernels>(segments: &Segments, of: &Rows, device: &B::Device) -> Expanded<B> {
    let new = || {
        let order = table::<B>(Scatter::new(&segments.keys(), of.len()).into_table(), device);
        Expanded {
            of: of.clone(),
            rows: of.select(segments.keys().into_iter().map(|row| row as usize)),
            order,
        }
    };
    let kept = segments.expanded_on_device().get(device, new);
    if kept.of.are(of) { kept } else { new() }
}

/// Gradients with respect to queries, keys and values.
pub fn backward<B: Kernels>(
    qkv: [&Primitive<B>; 3],
    grad: &Primitive<B>,
    angles: &Angles,
    heads: Heads,
    segments: &Segments,
    at: &AttentionAt,
) -> [Primitive<B>; 3] {
    if stays_on_host::<B>(at) {
        return attention::backward::<B>(qkv, grad, angles, heads, segments, at);
    }
    let again = at.again();
    let seen = seen::<B>(qkv, angles, &again);
    let [dq, dk, dv] = B::attend_backward(seen.each_ref(), grad, heads, segments, at);
    look_within(at, |again| attention::backward::<B>(qkv, grad, angles, heads, segments, again));
    let dq = inject::rows::<B>(&at.scores, Point::GradInput, Operand::Lhs, dq);
    let (device, tokens) = (B::float_device(&dq), B::shape(&dq)[0]);
    let Expanded { rows, order, .. } = expanded::<B>(segments, at.scores.rows(), &device);
    let add_up = |x: Primitive<B>, of: &At| {
        let x = inject::rows::<B>(&of.for_rows(&rows), Point::GradInput, Operand::Rhs, x);
        B::add_heads(&x, heads, &order, tokens)
    };
    let (dk, dv) = (add_up(dk, &at.scores), add_up(dv, &at.values));
    let table = angles.table::<B>(&device);
    let back = |x| B::rotary(x, &table, angles.half(), true);
    [back(dq), back(dk), dv]
}
