//! Root-mean-square normalisation and its gradients.

use super::{inject, is_for_host, kernels::Kernels, linear::weight_gradient};
use crate::{
    at::{At, Operand},
    backend::{Grads, Primitive},
    ops::rms_norm,
    site::Point,
};

/// See [`rms_norm::rms_norm`].
pub fn forward<B: Kernels>(x: &Primitive<B>, w: &Primitive<B>, epsilon: f32, at: &At) -> Primitive<B> {
    if is_for_host(at) {
        return rms_norm::forward::<B>(x, w, epsilon, at);
    }
    let x = inject::rows::<B>(at, Point::Input, Operand::Lhs, x.clone());
    let w = inject::flat::<B>(at, Point::Weight, w.clone());
    inject::rows::<B>(at, Point::Output, Operand::Lhs, B::norm(&x, &w, epsilon))
}

/// Gradients with respect to input and weight.
pub fn backward<B: Kernels>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    epsilon: f32,
    needs_weight: bool,
    at: &At,
) -> Grads<B, 2> {
    if is_for_host(at) {
        return rms_norm::backward::<B>(x, w, grad, epsilon, needs_weight, at);
    }
    let again = at.again();
    let x = inject::rows::<B>(&again, Point::Input, Operand::Lhs, x.clone());
    let w = inject::flat::<B>(&again, Point::Weight, w.clone());
    let [dx, dw] = B::norm_backward(&x, &w, grad, epsilon);
    let dx = inject::rows::<B>(at, Point::GradInput, Operand::Lhs, dx);
    [Some(dx), needs_weight.then(|| weight_gradient::<B>(at, dw)).flatten()]
}
