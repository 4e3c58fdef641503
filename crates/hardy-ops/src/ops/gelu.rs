//! GELU, `y = x·Φ(x)`, exact or by the tanh approximation (arXiv:1606.08415). Errors enter at the input and the
//! output; backward, at ∂x.

use burn_tensor::Tensor;
use hardy_numerics::math;

use super::{parallel, primitive, tensor};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive},
    site::Point,
};

/// How Φ is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approximation {
    /// By the error function: `gelu` in Hugging Face files.
    Exact,
    /// By a hyperbolic tangent: `gelu_new` and `gelu_pytorch_tanh`.
    Tanh,
}

/// √(2/π).
const ROOT: f32 = 0.797_884_6;
/// The cubic coefficient of the tanh form.
const CUBIC: f32 = 0.044_715;

/// Applies GELU to every element of `x` `[tokens, width]`.
pub fn gelu<B: NoisyBackend>(x: Tensor<B, 2>, approximation: Approximation, at: &At) -> Tensor<B, 2> {
    tensor(B::noisy_gelu(&primitive(x), approximation, at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, approximation: Approximation, at: &At) -> Primitive<B> {
    let (x_host, [rows, width]) = (B::host(x), B::shape(x));
    let x_seen = at.input(Operand::Lhs, width, &x_host);
    let mut y = match approximation {
        Approximation::Exact => parallel::map(
            &x_seen,
            #[inline(always)]
            |x| x * exact(x).0,
        ),
        Approximation::Tanh => parallel::map(
            &x_seen,
            #[inline(always)]
            |x| x * by_tanh(x).0,
        ),
    };
    at.output(width, &mut y);
    B::upload(y, [rows, width], x)
}

/// `∂y/∂x = Φ(x) + x·Φ'(x)`.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    grad: &Primitive<B>,
    approximation: Approximation,
    at: &At,
) -> Primitive<B> {
    let (x_host, grad_host) = (B::host(x), B::host(grad));
    let ([rows, width], at_again) = (B::shape(x), at.again());
    let x_seen = at_again.input(Operand::Lhs, width, &x_host);
    let mut dx = match approximation {
        Approximation::Exact => parallel::map2(
            &x_seen,
            &grad_host,
            #[inline(always)]
            |x, dy| slope(exact(x), dy),
        ),
        Approximation::Tanh => parallel::map2(
            &x_seen,
            &grad_host,
            #[inline(always)]
            |x, dy| slope(by_tanh(x), dy),
        ),
    };
    at.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut dx);
    B::upload(dx, [rows, width], x)
}

#[inline(always)]
fn slope((phi, x_density): (f32, f32), dy: f32) -> f32 {
    dy * (phi + x_density)
}

/// Φ(x) and x·Φ'(x).
#[inline(always)]
fn exact(x: f32) -> (f32, f32) {
    /// 1/√(2π).
    const DENSITY: f32 = 0.398_942_3;
    let density = DENSITY * math::exp(-0.5 * x * x);
    (0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)), x * density)
}

/// The same in the tanh form.
#[inline(always)]
fn by_tanh(x: f32) -> (f32, f32) {
    let t = tanh(ROOT * (x + CUBIC * x * x * x));
    let inner = ROOT * (1.0 + 3.0 * CUBIC * x * x);
    (0.5 * (1.0 + t), 0.5 * x * (1.0 - t * t) * inner)
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (math::exp(2.0 * x) + 1.0)
}

/// The error function, absolute error below 1.5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let poly =
        ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    (1.0 - poly * math::exp(-x * x)).copysign(x)
}
