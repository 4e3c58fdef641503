//! Some rows of an activation, so that the head computes logits only where somebody reads them. It moves numbers
//! without computing any, so no error enters here.

use burn_tensor::Tensor;

use super::{embedding::add_rows, primitive, tensor};
use crate::{
    backend::{NoisyBackend, Primitive},
    indices::Indices,
};

/// The rows of `x` `[tokens, width]` that `rows` names, in that order.
///
/// # Panics
/// If a row does not exist.
pub fn gather_rows<B: NoisyBackend>(x: Tensor<B, 2>, rows: impl Into<Indices>) -> Tensor<B, 2> {
    tensor(B::gather_rows(&primitive(x), &rows.into()))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, rows: &[u32]) -> Primitive<B> {
    let [_, width] = B::shape(x);
    let x_host = B::host(x);
    let mut y = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        y.extend_from_slice(&x_host[row as usize * width..][..width]);
    }
    B::upload(y, [rows.len(), width], x)
}

/// Every gradient row goes back to where its row came from.
pub fn backward<B: NoisyBackend>(grad: &Primitive<B>, rows: &[u32], height: usize) -> Primitive<B> {
    let [_, width] = B::shape(grad);
    let mut dx = vec![0.0; height * width];
    add_rows(&B::host(grad), rows, width, &mut dx);
    B::upload(dx, [height, width], grad)
}
