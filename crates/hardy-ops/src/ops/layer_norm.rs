//! Layer normalisation, `y = (x − mean)·r·w + b` with `r = 1/√(var + ε)` (arXiv:1607.06450). Errors enter at the
//! input, the weight and the output; backward, at ∂x and at ∂w.

use burn::tensor::Tensor;

use super::{linear::column_sums, parallel, primitive, rms_norm::dot, softmax::sum, tensor};
use crate::{
    at::{At, Operand},
    backend::{NoisyBackend, Primitive, shape_of},
    site::Point,
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
    B::upload(y, shape_of::<B>(x), x)
}

/// With `z = (x − mean)·r` and `g = ∂y·w`: `∂x = r·(g − mean(g) − z·mean(g·z))`, `∂w = Σ ∂y·z`, `∂b = Σ ∂y`.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    epsilon: f32,
    at: &At,
) -> [Primitive<B>; 3] {
    let (x_host, w_host, grad_host) = (B::host(x), B::host(w), B::host(grad));
    let ([_, width], at_again) = (shape_of::<B>(x), at.again());
    let (x_seen, w_seen) =
        (at_again.input(Operand::Lhs, width, &x_host), at_again.weight(w_host.len(), &w_host));
    let n = width as f32;
    let mut dx = vec![0.0; x_seen.len()];
    parallel::for_chunks(
        &mut dx,
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
    let mut dw = parallel::sum_over_chunks(
        dx.len() / width,
        width,
        width,
        #[inline(always)]
        |first, last, total| {
            let rows = first * width..last * width;
            let mut z = vec![0.0; width];
            for (x, dy) in x_seen[rows.clone()].chunks_exact(width).zip(grad_host[rows].chunks_exact(width)) {
                z.copy_from_slice(x);
                standardise(&mut z, epsilon);
                total.iter_mut().zip(dy).zip(&z).for_each(|((total, dy), z)| *total += dy * z);
            }
        },
    );
    at.perturb_rows(Point::GradInput, Operand::Lhs, width, &mut dx);
    at.perturb_flat(Point::GradWeight, width, &mut dw);
    let db = column_sums(&grad_host, width);
    [B::upload(dx, shape_of::<B>(x), x), B::upload(dw, [1, width], x), B::upload(db, [1, width], x)]
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
