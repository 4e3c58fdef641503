//! Embedding, `y[t] = W[id[t]]`. Errors enter at the weight and the output; backward, at ∂W.

use burn_tensor::Tensor;

use super::{gather::rows_of, primitive, tensor};
use crate::{
    at::At,
    backend::{NoisyBackend, Primitive},
    errors::Errors,
    indices::Indices,
    site::Point,
    weight_sums::Sum,
};

/// The rows `ids` of `weight` `[vocab, width]`; gives `[tokens, width]`.
///
/// # Panics
/// If an id is not below `vocab`.
pub fn embedding<B: NoisyBackend>(weight: Tensor<B, 2>, ids: impl Into<Indices>, at: &At) -> Tensor<B, 2> {
    tensor(B::noisy_embedding(&primitive(weight), &ids.into(), at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(w: &Primitive<B>, ids: &[u32], at: &At) -> Primitive<B> {
    let [_, width] = B::shape(w);
    let mut y = if at.injections(Point::Weight).is_empty() {
        B::host_rows(w, ids)
    } else {
        let w_host = B::host(w);
        let w_seen = at.weight(width, &w_host);
        rows_of(&w_seen, width, ids, |x| x)
    };
    at.output(width, &mut y);
    B::upload(y, [ids.len(), width], w)
}

/// The table with its errors, as the whole of a generation sees it.
pub fn freeze<B: NoisyBackend>(weight: Tensor<B, 2>, errors: &Errors) -> Tensor<B, 2> {
    if errors.injections(Point::Weight).is_empty() {
        return weight;
    }
    tensor(B::freeze_table(&primitive(weight), errors))
}

/// [`embedding`] from a table that [`freeze`] made: the same result, to the bit. Not differentiable.
///
/// # Panics
/// If an id is not below `vocab`.
pub fn frozen_embedding<B: NoisyBackend>(
    frozen: Tensor<B, 2>,
    ids: impl Into<Indices>,
    at: &At,
) -> Tensor<B, 2> {
    embedding(frozen, ids, &at.after_weight())
}

/// The rows of a `frozen` table for tokens that were drawn on the device and nobody has seen, of the rows `chosen`; without the
/// errors of the output. Not differentiable.
pub fn embedding_of_drawn<B: NoisyBackend>(
    frozen: Tensor<B, 2>,
    drawn: &B::Underway,
    chosen: &[u32],
) -> Tensor<B, 2> {
    tensor(B::rows_of_drawn(&primitive(frozen), drawn, chosen))
}

/// The table `w` `[vocab, width]` with its errors.
pub fn frozen_table<B: NoisyBackend>(w: &Primitive<B>, errors: &Errors) -> Primitive<B> {
    let shape @ [_, width] = B::shape(w);
    B::upload(errors.weight(width, &B::host(w)).into_owned(), shape, w)
}

/// `∂W[id] = Σ ∂y[t]` over the tokens with that id, in their order, where it is not gathered.
pub fn backward<B: NoisyBackend>(
    w: &Primitive<B>,
    ids: &[u32],
    grad: &Primitive<B>,
    at: &At,
) -> Option<Primitive<B>> {
    let [vocab, width] = B::shape(w);
    let add = |sum: &mut Sum| add_rows(&B::host(grad), ids, width, &mut sum.total);
    let dw = at.weight_gradient([vocab * width, width], add);
    dw.map(|dw| B::upload(dw, [vocab, width], w))
}

/// Adds every row of `x` to the row of a table `[height, width]` that `rows` names.
pub(crate) fn add_rows(x: &[f32], rows: &[u32], width: usize, table: &mut [f32]) {
    for (&row, x) in rows.iter().zip(x.chunks_exact(width)) {
        table[row as usize * width..][..width].iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
}
