//! Root-mean-square normalisation, `y = x·r·w` with `r = 1/√(mean(x²) + ε)` (arXiv:1910.07467). Errors enter at the
//! input, the weight and the output; backward, at ∂x and at ∂w. Adaptive quantisation noise enters at the weight.

use burn_tensor::Tensor;

use super::{parallel, primitive, tensor};
use crate::{
    at::{At, Operand},
    backend::{Grads, NoisyBackend, Primitive},
    site::Point,
    weight_sums::Sum,
};

/// Rows whose share of ∂w is added up together.
pub(crate) const RUN: usize = 128;

/// Normalises every row of `x` `[tokens, width]` and scales it by `weight` `[1, width]`. A row may also hold several
/// heads, `width` being a multiple of the weight's: then each head is normalised by itself (Qwen3's q and k norms).
pub fn rms_norm<B: NoisyBackend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    epsilon: f32,
    at: &At,
) -> Tensor<B, 2> {
    tensor(B::noisy_rms_norm(&primitive(x), &primitive(weight), epsilon, at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(x: &Primitive<B>, w: &Primitive<B>, epsilon: f32, at: &At) -> Primitive<B> {
    let (x_host, w_host) = (B::host(x), B::host(w));
    let [_, row] = B::shape(x);
    let (x_seen, w_seen) = (at.input(Operand::Lhs, row, &x_host), at.weight(w_host.len(), &w_host));
    let width = w_seen.len();
    // SAFETY: `x_seen` has as many whole rows, and each is as wide as the weight.
    let mut y = unsafe {
        parallel::written(
            x_seen.len(),
            parallel::chunk_rows(width) * width,
            #[inline(always)]
            |first, y| {
                for (y, x) in y.chunks_exact_mut(width).zip(x_seen[first..].chunks_exact(width)) {
                    let r = reciprocal_rms(x, epsilon);
                    y.iter_mut().zip(x).zip(&*w_seen).for_each(|((y, x), w)| _ = y.write(w * (x * r)));
                }
            },
        )
    };
    at.output(row, &mut y);
    B::upload(y, B::shape(x), x)
}

/// `∂x = r·(∂y·w) − x·r³/n·Σ(∂y·w·x)`, `∂w = Σ ∂y·x·r` where it is needed, and not gathered.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    epsilon: f32,
    needs_weight: bool,
    at: &At,
) -> Grads<B, 2> {
    let (x_host, w_host, grad_host) = (B::host(x), B::host(w), B::host(grad));
    let ([_, row], at_again) = (B::shape(x), at.again());
    let (x_seen, w_seen) =
        (at_again.input(Operand::Lhs, row, &x_host), at_again.weight(w_host.len(), &w_host));
    let width = w_seen.len();
    let mut dx = parallel::from_zeros(
        x_seen.len(),
        width,
        #[inline(always)]
        |first, dx| {
            let rows = first * width..;
            let (x, grad) = (x_seen[rows.clone()].chunks_exact(width), grad_host[rows].chunks_exact(width));
            for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x).zip(grad) {
                let r = reciprocal_rms(x, epsilon);
                dx.iter_mut().zip(dy).zip(&*w_seen).for_each(|((dx, dy), w)| *dx = dy * w);
                let pull = dot(dx, x) * r * r * r / width as f32;
                dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = *dx * r - x * pull);
            }
        },
    );
    at.perturb_rows(Point::GradInput, Operand::Lhs, row, &mut dx);
    let add = |sum: &mut Sum| add_gradient(at, row, [&x_seen, &grad_host], epsilon, &mut sum.total);
    let dw = needs_weight.then(|| at.weight_gradient([width, width], add)).flatten();
    [Some(B::upload(dx, B::shape(x), x)), dw.map(|dw| B::upload(dw, [1, width], x))]
}

/// Adds `Σ ∂y·x·r` to `sum` `[width]`, the rows of `x` and `∂y` being `row` wide.
fn add_gradient(at: &At, row: usize, [x, grad]: [&[f32]; 2], epsilon: f32, sum: &mut [f32]) {
    let width = sum.len();
    parallel::sum_over_runs(
        &at.rows().runs(RUN),
        sum,
        #[inline(always)]
        |run, sum| {
            let part = run.start * row..run.end * row;
            for (x, dy) in x[part.clone()].chunks_exact(width).zip(grad[part].chunks_exact(width)) {
                let r = reciprocal_rms(x, epsilon);
                sum.iter_mut().zip(dy).zip(x).for_each(|((sum, dy), x)| *sum += dy * x * r);
            }
        },
    );
}

#[inline(always)]
fn reciprocal_rms(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + epsilon).sqrt()
}

/// A dot product in sixteen lanes, the same at every SIMD level.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0] + tail
}
