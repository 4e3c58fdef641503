//! The rows of a table, and of an activation.

use super::{inject, is_for_host, kernels::Kernels};
use crate::{
    at::{At, Operand},
    backend::Primitive,
    errors::Errors,
    indices::Indices,
    ops::embedding,
    site::Point,
    weight_sums::Of,
};

/// See [`embedding::embedding`].
pub fn forward<B: Kernels>(w: &Primitive<B>, ids: &Indices, at: &At) -> Primitive<B> {
    if is_for_host(at) {
        return embedding::forward::<B>(w, ids, at);
    }
    let w = inject::flat::<B>(at, Point::Weight, w.clone());
    inject::rows::<B>(at, Point::Output, Operand::Lhs, gather::<B>(&w, ids))
}

/// The table with its errors.
pub fn frozen_table<B: Kernels>(w: &Primitive<B>, errors: &Errors) -> Primitive<B> {
    inject::flat::<B>(errors, Point::Weight, w.clone())
}

/// The gradient of the table.
pub fn backward<B: Kernels>(
    w: &Primitive<B>,
    ids: &Indices,
    grad: &Primitive<B>,
    at: &At,
) -> Option<Primitive<B>> {
    if is_for_host(at) {
        return embedding::backward::<B>(w, ids, grad, at);
    }
    let height = B::shape(w)[0];
    let order = ids.order::<B>(height, &B::float_device(grad));
    at.gradient_there::<B>(Of::Weight, |sum| B::scatter(grad, &order, height, sum))
}

/// The rows of `x` that `rows` names.
///
/// # Panics
/// If a row does not exist.
pub fn gather<B: Kernels>(x: &Primitive<B>, rows: &Indices) -> Primitive<B> {
    let [height, _] = B::shape(x);
    assert!(rows.iter().all(|&row| (row as usize) < height), "a row below {height}");
    B::gather(x, &rows.table::<B>(&B::float_device(x)))
}

/// `[height, width]`, every row of `x` added to the one that `rows` names.
pub fn scatter<B: Kernels>(x: &Primitive<B>, rows: &Indices, height: usize) -> Primitive<B> {
    B::scatter(x, &rows.order::<B>(height, &B::float_device(x)), height, None)
}
