//! Embedding, `y[t] = W[id[t]]`. Errors enter at the weight and the output; backward, at ∂W.

use burn::tensor::Tensor;

use super::{primitive, tensor};
use crate::{
    at::At,
    backend::{NoisyBackend, Primitive, shape_of},
    site::Point,
};

/// The rows `ids` of `weight` `[vocab, width]`; gives `[tokens, width]`.
///
/// # Panics
/// If an id is not below `vocab`.
pub fn embedding<B: NoisyBackend>(weight: Tensor<B, 2>, ids: &[u32], at: &At) -> Tensor<B, 2> {
    tensor(B::noisy_embedding(&primitive(weight), ids, at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(w: &Primitive<B>, ids: &[u32], at: &At) -> Primitive<B> {
    let [_, width] = shape_of::<B>(w);
    let w_host = B::host(w);
    let w_seen = at.weight(width, &w_host);
    let mut y = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        y.extend_from_slice(&w_seen[id as usize * width..][..width]);
    }
    at.output(width, &mut y);
    B::upload(y, [ids.len(), width], w)
}

/// `∂W[id] = Σ ∂y[t]` over the tokens with that id, in their order.
pub fn backward<B: NoisyBackend>(
    w: &Primitive<B>,
    ids: &[u32],
    grad: &Primitive<B>,
    at: &At,
) -> Primitive<B> {
    let [vocab, width] = shape_of::<B>(w);
    let mut dw = scatter(&B::host(grad), ids, vocab, width);
    at.perturb_flat(Point::GradWeight, width, &mut dw);
    B::upload(dw, [vocab, width], w)
}

/// Adds every row of `x` to the row of a table `[height, width]` that `rows` names.
pub(crate) fn scatter(x: &[f32], rows: &[u32], height: usize, width: usize) -> Vec<f32> {
    let mut table = vec![0.0; height * width];
    for (&row, x) in rows.iter().zip(x.chunks_exact(width)) {
        table[row as usize * width..][..width].iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
    table
}
