//! The gated activation of an MLP and its gradients.

use super::{inject, is_for_host, kernels::Kernels};
use crate::{
    at::{At, Operand},
    backend::Primitive,
    ops::silu,
    site::Point,
};

/// See [`silu::silu_up`].
pub fn forward<B: Kernels>(gate: &Primitive<B>, up: &Primitive<B>, at: &At) -> Primitive<B> {
    if is_for_host(at) {
        return silu::forward_up::<B>(gate, up, at);
    }
    if at.is_clean() {
        return B::swiglu(gate, up);
    }
    inject::times::<B>(activated::<B>(at, gate), up.clone())
}

/// What the product sees of SiLU.
fn activated<B: Kernels>(at: &At, gate: &Primitive<B>) -> Primitive<B> {
    let seen = inject::rows::<B>(at, Point::Input, Operand::Lhs, gate.clone());
    inject::rows::<B>(at, Point::Output, Operand::Lhs, B::silu(&seen))
}

/// Gradients with respect to both inputs.
pub fn backward<B: Kernels>(
    gate: &Primitive<B>,
    up: &Primitive<B>,
    grad: &Primitive<B>,
    at: &At,
) -> [Primitive<B>; 2] {
    if is_for_host(at) {
        return silu::backward_up::<B>(gate, up, grad, at);
    }
    let again = at.again();
    let seen = inject::rows::<B>(&again, Point::Input, Operand::Lhs, gate.clone());
    let [d_gate, d_up] = B::swiglu_backward(&seen, up, grad);
    let d_gate = inject::rows::<B>(at, Point::GradInput, Operand::Lhs, d_gate);
    if again.injections(Point::Output).is_empty() {
        return [d_gate, d_up];
    }
    [d_gate, inject::times::<B>(activated::<B>(&again, gate), grad.clone())]
}
