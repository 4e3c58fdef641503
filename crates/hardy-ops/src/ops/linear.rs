//! Linear layer, `y = x·Wᵀ + b`. Errors enter at the input, the weight and the output; backward, separately at ∂x
//! and at ∂W.
//!
//! Errors are passed straight through: ∂x uses the weight that the product saw, ∂W the input that it saw, and
//! neither sees a derivative of the error itself.

use burn::tensor::Tensor;

use super::{
    gemm::{Mat, product},
    parallel, primitive, tensor,
};
use crate::{
    at::{At, Operand},
    backend::{Grads, NoisyBackend, Primitive, shape_of},
    site::Point,
};

/// Applies the layer to `x` `[tokens, in]` with `weight` `[out, in]` and `bias` `[1, out]`; gives `[tokens, out]`.
pub fn linear<B: NoisyBackend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 2>>,
    at: &At,
) -> Tensor<B, 2> {
    tensor(B::noisy_linear(&primitive(x), &primitive(weight), bias.map(primitive).as_ref(), at))
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    b: Option<&Primitive<B>>,
    at: &At,
) -> Primitive<B> {
    let ([tokens, inner], [outer, _]) = (shape_of::<B>(x), shape_of::<B>(w));
    let (x_host, w_host) = (B::host(x), B::host(w));
    let (seen_x, seen_w) = (at.input(Operand::Lhs, &x_host), at.weight(&w_host));
    let mut y = Vec::with_capacity(tokens * outer);
    match b {
        Some(b) => (0..tokens).for_each(|_| y.extend_from_slice(&B::host(b))),
        None => y.resize(tokens * outer, 0.0),
    }
    let weight = Mat::new(&seen_w, outer, inner, inner);
    product(&mut y, outer, Mat::new(&seen_x, tokens, inner, inner), weight.t(), b.is_some(), true);
    at.output(&mut y);
    B::upload(y, [tokens, outer], x)
}

/// `∂x = ∂y·W`, `∂W = ∂yᵀ·x` and `∂b = Σ ∂y`, each only where it is needed.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    needs: [bool; 3],
    at: &At,
) -> Grads<B, 3> {
    let ([tokens, inner], [outer, _]) = (shape_of::<B>(x), shape_of::<B>(w));
    let (at_again, grad_host) = (at.again(), B::host(grad));
    let dy = Mat::new(&grad_host, tokens, outer, outer);
    let dx = needs[0].then(|| {
        let w_host = B::host(w);
        let seen_w = at_again.weight(&w_host);
        let mut dx = vec![0.0; tokens * inner];
        product(&mut dx, inner, dy, Mat::new(&seen_w, outer, inner, inner), false, true);
        at.perturb_rows(Point::GradInput, Operand::Lhs, &mut dx);
        B::upload(dx, [tokens, inner], x)
    });
    let dw = needs[1].then(|| {
        let x_host = B::host(x);
        let seen_x = at_again.input(Operand::Lhs, &x_host);
        let mut dw = vec![0.0; outer * inner];
        product(&mut dw, inner, dy.t(), Mat::new(&seen_x, tokens, inner, inner), false, true);
        at.perturb_flat(Point::GradWeight, &mut dw);
        B::upload(dw, [outer, inner], x)
    });
    let db = needs[2].then(|| B::upload(column_sums(&grad_host, outer), [1, outer], x));
    [dx, dw, db]
}

/// The sum of the rows of `x` `[rows, width]`.
pub(crate) fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    parallel::sum_over_chunks(x.len() / width, width, width, #[inline(always)] |first, last, sum| {
        for row in x[first * width..last * width].chunks_exact(width) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    })
}
