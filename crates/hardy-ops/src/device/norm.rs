//! Root-mean-square normalisation and its gradients.

use super::{inject, is_for_host, kernels::Kernels};
use crate::{
    at::{At, Operand},
    backend::{Grads, Primitive},
    ops::rms_norm::{self, RUN},
    site::Point,
    weight_sums::Of,
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
    let [dx, heads] = B::norm_backward(&x, &w, grad, epsilon);
    let dx = inject::rows::<B>(at, Point::GradInput, Operand::Lhs, dx);
    let dw = needs_weight.then(|| {
        let runs = at.rows().runs_on::<B>(RUN, &B::float_device(grad));
        at.gradient_there::<B>(Of::Weight, |sum| B::norm_weight(&x, grad, &heads, &runs, sum))
    });
    [Some(dx), dw.flatten()]
}
