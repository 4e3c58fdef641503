//! Some rows of an activation, so that the head computes logits only where somebody reads them. It moves numbers
//! without computing any, so no error enters here.

use burn_tensor::Tensor;

use super::{embedding::add_rows, parallel, primitive, tensor};
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
    B::upload(B::host_rows(x, rows), [rows.len(), width], x)
}

/// The rows of `x` `[height, width]` that `rows` names, every element `widened`.
pub(crate) fn rows_of<T: Copy + Sync>(
    x: &[T],
    width: usize,
    rows: &[u32],
    widened: impl Fn(T) -> f32 + Sync,
) -> Vec<f32> {
    // SAFETY: every row is written.
    unsafe {
        parallel::written(
            rows.len() * width,
            parallel::chunk_rows(width) * width,
            #[inline(always)]
            |first, y| {
                for (y, row) in y.chunks_exact_mut(width).zip(&rows[first / width..]) {
                    let row = &x[*row as usize * width..][..width];
                    y.iter_mut().zip(row).for_each(|(y, x)| _ = y.write(widened(*x)));
                }
            },
        )
    }
}

/// Every gradient row goes back to where its row came from.
pub fn backward<B: NoisyBackend>(grad: &Primitive<B>, rows: &[u32], height: usize) -> Primitive<B> {
    let [_, width] = B::shape(grad);
    let mut dx = vec![0.0; height * width];
    add_rows(&B::host(grad), rows, width, &mut dx);
    B::upload(dx, [height, width], grad)
}
