//! SiLU, `y = x·σ(x)` (arXiv:1702.03118), alone and gating a second input as in SwiGLU (arXiv:2002.05202). Errors
//! enter at the input of SiLU and at its output, before the gated product; backward, at ∂x.

use burn_tensor::Tensor;
use hardy_numerics::math;

use super::{parallel, primitive, tensor};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive},
    site::Point,
};

/// Applies SiLU to every element of `x` `[tokens, width]`.
pub fn silu<B: NoisyBackend>(x: Tensor<B, 2>, at: &At) -> Tensor<B, 2> {
    tensor(B::noisy_silu(&primitive(x), at))
}

/// `silu(gate)·up`, both `[tokens, width]`, element by element.
pub fn silu_up<B: NoisyBackend>(gate: Tensor<B, 2>, up: Tensor<B, 2>, at: &At) -> Tensor<B, 2> {
    if at.forbids_fusion() {
        return silu(gate, at) * up;
    }
    tensor(B::noisy_silu_up(&primitive(gate), &primitive(up), at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, at: &At) -> Primitive<B> {
    let (x_host, [rows, width]) = (B::host(x), B::shape(x));
    let x_seen = at.input(Operand::Lhs, width, &x_host);
    let mut y = parallel::map(
        &x_seen,
        #[inline(always)]
        |x| x * sigmoid(x),
    );
    at.output(width, &mut y);
    B::upload(y, [rows, width], x)
}

/// `∂y/∂x = σ(x)·(1 + x·(1 − σ(x)))`.
pub fn backward<B: NoisyBackend>(x: &Primitive<B>, grad: &Primitive<B>, at: &At) -> Primitive<B> {
    let (x_host, [rows, width], at_again) = (B::host(x), B::shape(x), at.again());
    let x_seen = at_again.input(Operand::Lhs, width, &x_host);
    let mut dx = parallel::map2(
        &x_seen,
        &B::host(grad),
        #[inline(always)]
        |x, dy| {
            let s = sigmoid(x);
            dy * s * (1.0 + x * (1.0 - s))
        },
    );
    at.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut dx);
    B::upload(dx, [rows, width], x)
}

/// The forward pass of [`silu_up`] on host slices.
pub fn forward_up<B: NoisyBackend>(gate: &Primitive<B>, up: &Primitive<B>, at: &At) -> Primitive<B> {
    let (gate_host, up_host, [rows, width]) = (B::host(gate), B::host(up), B::shape(gate));
    let mut y = match gated(at, width, &gate_host) {
        Some(activated) => activated,
        None => {
            let clean = parallel::map2(
                &gate_host,
                &up_host,
                #[inline(always)]
                |x, up| x * sigmoid(x) * up,
            );
            return B::upload(clean, [rows, width], gate);
        }
    };
    parallel::zip(
        &mut y,
        &up_host,
        #[inline(always)]
        |y, up| y * up,
    );
    B::upload(y, [rows, width], gate)
}

/// What the product sees of SiLU, where errors or a watcher are about; `None` where it is clean.
fn gated(at: &At, width: usize, gate: &[f32]) -> Option<Vec<f32>> {
    if at.is_clean() {
        return None;
    }
    let seen = at.input(Operand::Lhs, width, gate);
    let mut y = parallel::map(
        &seen,
        #[inline(always)]
        |x| x * sigmoid(x),
    );
    at.output(width, &mut y);
    Some(y)
}

/// `∂gate = ∂y·up·σ(x)·(1 + x·(1 − σ(x)))`, `∂up = ∂y·silu(x)`.
pub fn backward_up<B: NoisyBackend>(
    gate: &Primitive<B>,
    up: &Primitive<B>,
    grad: &Primitive<B>,
    at: &At,
) -> [Primitive<B>; 2] {
    let (gate_host, up_host, grad_host) = (B::host(gate), B::host(up), B::host(grad));
    let ([rows, width], at_again) = (B::shape(gate), at.again());
    let seen = at_again.input(Operand::Lhs, width, &gate_host);
    let mut d_gate = parallel::map3(
        &seen,
        &up_host,
        &grad_host,
        #[inline(always)]
        |x, up, dy| {
            let s = sigmoid(x);
            dy * up * s * (1.0 + x * (1.0 - s))
        },
    );
    at.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut d_gate);
    let d_up = match gated(&at_again, width, &gate_host) {
        Some(mut activated) => {
            parallel::zip(
                &mut activated,
                &grad_host,
                #[inline(always)]
                |y, dy| y * dy,
            );
            activated
        }
        None => parallel::map2(
            &gate_host,
            &grad_host,
            #[inline(always)]
            |x, dy| x * sigmoid(x) * dy,
        ),
    };
    [B::upload(d_gate, [rows, width], gate), B::upload(d_up, [rows, width], gate)]
}

/// `σ(x) = 1/(1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}
