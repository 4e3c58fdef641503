//! Softmax along a row, `p = exp(x − max)/Σ`. Errors enter at the input and the output; backward, at ∂x.

use burn_tensor::Tensor;
use hardy_numerics::math;

use super::{parallel, primitive, rms_norm::dot, tensor};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive},
    site::Point,
};

/// The softmax of every row of `x` `[tokens, width]`.
pub fn softmax<B: NoisyBackend>(x: Tensor<B, 2>, at: &At) -> Tensor<B, 2> {
    tensor(B::noisy_softmax(&primitive(x), at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, at: &At) -> Primitive<B> {
    let [rows, width] = B::shape(x);
    let mut p = at.input(Operand::Lhs, width, &B::host(x)).into_owned();
    parallel::for_chunks(
        &mut p,
        width,
        #[inline(always)]
        |_, p| {
            for p in p.chunks_exact_mut(width) {
                softmax_row(p);
            }
        },
    );
    at.output(width, &mut p);
    B::upload(p, [rows, width], x)
}

/// `∂x = p·(∂p − Σ ∂p·p)`.
pub fn backward<B: NoisyBackend>(x: &Primitive<B>, grad: &Primitive<B>, at: &At) -> Primitive<B> {
    let [rows, width] = B::shape(x);
    let grad_host = B::host(grad);
    let mut dx = at.again().input(Operand::Lhs, width, &B::host(x)).into_owned();
    parallel::for_chunks(
        &mut dx,
        width,
        #[inline(always)]
        |first, dx| {
            let grad = grad_host[first * width..].chunks_exact(width);
            for (p, dp) in dx.chunks_exact_mut(width).zip(grad) {
                softmax_row(p);
                let mean = dot(p, dp);
                p.iter_mut().zip(dp).for_each(|(p, dp)| *p *= dp - mean);
            }
        },
    );
    at.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut dx);
    B::upload(dx, [rows, width], x)
}

/// Replaces a row by its softmax.
#[inline(always)]
pub(crate) fn softmax_row(x: &mut [f32]) {
    let scale = 1.0 / exp_row(x);
    x.iter_mut().for_each(|x| *x *= scale);
}

/// Replaces a row by `exp(x − max)`; gives the sum.
#[inline(always)]
pub(crate) fn exp_row(x: &mut [f32]) -> f32 {
    let max = maximum(x);
    x.iter_mut().for_each(|x| *x = math::exp(*x - max));
    sum(x)
}

/// The largest element, in sixteen lanes.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let blocks = x.chunks_exact(16);
    let tail = blocks.remainder().iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    for block in blocks {
        for lane in 0..16 {
            lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().fold(tail, |max, &x| if x > max { x } else { max })
}

/// The sum in sixteen lanes, the same at every SIMD level.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let blocks = x.chunks_exact(16);
    let tail: f32 = blocks.remainder().iter().sum();
    for block in blocks {
        for lane in 0..16 {
            lanes[lane] += block[lane];
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0] + tail
}
