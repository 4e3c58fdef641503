//! SiLU, `y = x·σ(x)` (arXiv:1702.03118). Errors enter at the input and the output; backward, at ∂x.

use burn::tensor::Tensor;
use hardy_numerics::math;

use super::{parallel, primitive, tensor};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive, shape_of},
    site::Point,
};

/// Applies SiLU to every element of `x` `[tokens, width]`.
pub fn silu<B: NoisyBackend>(x: Tensor<B, 2>, at: &At) -> Tensor<B, 2> {
    tensor(B::noisy_silu(&primitive(x), at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, at: &At) -> Primitive<B> {
    let shape = shape_of::<B>(x);
    let mut y = at.input(Operand::Lhs, &B::host(x)).into_owned();
    parallel::for_chunks(&mut y, shape[1], #[inline(always)] |_, y| y.iter_mut().for_each(|y| *y *= sigmoid(*y)));
    at.output(&mut y);
    B::upload(y, shape, x)
}

/// `∂y/∂x = σ(x)·(1 + x·(1 − σ(x)))`.
pub fn backward<B: NoisyBackend>(x: &Primitive<B>, grad: &Primitive<B>, at: &At) -> Primitive<B> {
    let shape = shape_of::<B>(x);
    let grad_host = B::host(grad);
    let mut dx = at.again().input(Operand::Lhs, &B::host(x)).into_owned();
    parallel::for_chunks(&mut dx, shape[1], #[inline(always)] |first, dx| {
        for (dx, dy) in dx.iter_mut().zip(&grad_host[first * shape[1]..]) {
            let s = sigmoid(*dx);
            *dx = dy * s * (1.0 + *dx * (1.0 - s));
        }
    });
    at.perturb_rows(Point::GradInput, Operand::Lhs, &mut dx);
    B::upload(dx, shape, x)
}

/// `σ(x) = 1/(1 + e⁻ˣ)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}
