//! Layer normalisation, `y = (x − mean)·r·w + b` with `r = 1/√(var + ε)` (arXiv:1607.06450). Errors enter at the
//! input, the weight and the output; backward, at ∂x and at ∂w.

use burn_tensor::Tensor;

use super::{
    linear::add_columns,
    parallel, primitive,
    rms_norm::{RUN, dot},
    softmax::sum,
    tensor,
};
use crate::{
    at::{At, Operand},
    backend::{Grads, NoisyBackend, Primitive},
    site::Point,
    weight_sums::Sum,
};

/// Normalises every row of `x` `[tokens, width]`, then scales by `weight` and shifts by `bias`, both `[1, width]`.
pub fn layer_norm<B: NoisyBackend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Tensor<B, 2>,
    epsilon: f32,
    at: &At,
) -> Tensor<B, 2> {
    tensor(B::noisy_layer_norm(&primitive(x), &primitive(weight), &primitive(bias), epsilon, at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    b: &Primitive<B>,
    epsilon: f32,
    at: &At,
) -> Primitive<B> {
    let (x_host, w_host, b_host) = (B::host(x), B::host(w), B::host(b));
    let w_seen = at.weight(w_host.len(), &w_host);
    let width = w_seen.len();
    let mut y = at.input(Operand::Lhs, width, &x_host).into_owned();
    parallel::for_chunks(
        &mut y,
        width,
        #[inline(always)]
        |_, y| {
            for y in y.chunks_exact_mut(width) {
                standardise(y, epsilon);
                y.iter_mut().zip(&*w_seen).zip(&*b_host).for_each(|((y, w), b)| *y = *y * w + b);
            }
        },
    );
    at.output(width, &mut y);
    B::upload(y, B::shape(x), x)
}

/// With `z = (x − mean)·r` and `g = ∂y·w`: `∂x = r·(g − mean(g) − z·mean(g·z))`, `∂w = Σ ∂y·z`, `∂b = Σ ∂y`, the last
/// two where they are needed, and not gathered.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    epsilon: f32,
    needs: [bool; 2],
    at: &At,
) -> Grads<B, 3> {
    let (x_host, w_host, grad_host) = (B::host(x), B::host(w), B::host(grad));
    let ([_, width], at_again) = (B::shape(x), at.again());
    let (x_seen, w_seen) =
        (at_again.input(Operand::Lhs, width, &x_host), at_again.weight(w_host.len(), &w_host));
    let n = width as f32;
    let mut dx = parallel::from_zeros(
        x_seen.len(),
        width,
        #[inline(always)]
        |first, dx| {
            let rows = first * width..;
            let (x, grad) = (x_seen[rows.clone()].chunks_exact(width), grad_host[rows].chunks_exact(width));
            let mut z = vec![0.0; width];
            for ((dx, x), dy) in dx.chunks_exact_mut(width).zip(x).zip(grad) {
                z.copy_from_slice(x);
                let r = standardise(&mut z, epsilon);
                dx.iter_mut().zip(dy).zip(&*w_seen).for_each(|((dx, dy), w)| *dx = dy * w);
                let (mean, along) = (sum(dx) / n, dot(dx, &z) / n);
                dx.iter_mut().zip(&z).for_each(|(dx, z)| *dx = r * (*dx - mean - z * along));
            }
        },
    );
    at.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut dx);
    let add = |sum: &mut Sum| add_gradient(at, [&x_seen, &grad_host], epsilon, &mut sum.total);
    let dw = needs[0].then(|| at.weight_gradient([width, width], add)).flatten();
    let add = |sum: &mut [f32]| add_columns(at, &grad_host, width, sum);
    let db = needs[1].then(|| at.bias_gradient(width, add)).flatten();
    let [dw, db] = [dw, db].map(|sum| sum.map(|grad| B::upload(grad, [1, width], x)));
    [Some(B::upload(dx, B::shape(x), x)), dw, db]
}

/// Adds `Σ ∂y·z` to `total` `[width]`.
fn add_gradient(at: &At, [x, grad]: [&[f32]; 2], epsilon: f32, total: &mut [f32]) {
    let width = total.len();
    parallel::sum_over_runs(
        &at.rows().runs(RUN),
        total,
        #[inline(always)]
        |run, total| {
            let part = run.start * width..run.end * width;
            let mut z = vec![0.0; width];
            for (x, dy) in x[part.clone()].chunks_exact(width).zip(grad[part].chunks_exact(width)) {
                z.copy_from_slice(x);
                standardise(&mut z, epsilon);
                total.iter_mut().zip(dy).zip(&z).for_each(|((total, dy), z)| *total += dy * z);
            }
        },
    );
}

/// Takes away the mean and divides by the deviation; gives 1/deviation.
#[inline(always)]
fn standardise(x: &mut [f32], epsilon: f32) -> f32 {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    x.iter_mut().for_each(|x| *x -= mean);
    let r = 1.0 / (dot(x, x) / n + epsilon).sqrt();
    x.iter_mut().for_each(|x| *x *= r);
    r
}
