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
    let (x_host, [rows, width]) = (B::host(x), shape_of::<B>(x));
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
    let (x_host, [rows, width], at_again) = (B::host(x), shape_of::<B>(x), at.again());
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

/// `σ(x) = 1/(1 + e⁻ˣ)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}
