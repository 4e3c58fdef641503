//! Linear layer, `y = x·Wᵀ + b`. Errors enter at the input, the weight and the output; backward, separately at ∂x
//! and at ∂W.
//!
//! Errors are passed straight through: ∂x uses the weight that the product saw, ∂W the input that it saw, and
//! neither sees a derivative of the error itself. What a product sees of its operands its precision says, after the errors.

use std::borrow::Cow;

use burn_tensor::Tensor;

use super::{
    accumulation::{add_gradient, multiply},
    chain::CHAIN,
    gemm::{Mat, laid_out},
    parallel, primitive, tensor,
    weight::{Layout, Weight},
};
use crate::{
    at::{At, Operand},
    backend::{Grads, NoisyBackend, Primitive},
    errors::Errors,
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

/// A weight as the products of a whole generation see it, `[in, out]`: its errors are computed once, and its elements lie as
/// products read them on this backend, on the host in panels.
pub fn freeze<B: NoisyBackend>(weight: Tensor<B, 2>, errors: &Errors) -> Tensor<B, 2> {
    tensor(B::freeze_weight(&primitive(weight), errors))
}

/// [`linear`] with a weight that [`freeze`] made: the same result, to the bit. Not differentiable.
pub fn frozen_linear<B: NoisyBackend>(
    x: Tensor<B, 2>,
    frozen: Tensor<B, 2>,
    bias: Option<Tensor<B, 2>>,
    at: &At,
) -> Tensor<B, 2> {
    tensor(B::noisy_frozen_linear(&primitive(x), &primitive(frozen), bias.map(primitive).as_ref(), at))
}

/// The weight `w` `[out, in]` with its errors, `[in, out]`, laid out in panels.
pub fn frozen_weight<B: NoisyBackend>(w: &Primitive<B>, errors: &Errors) -> Primitive<B> {
    let [outer, inner] = B::shape(w);
    let w_host = B::host(w);
    let seen = errors.weight_factor(inner, &w_host);
    B::upload(laid_out(&seen, inner), [inner, outer], w)
}

/// The forward pass with a frozen weight on host slices.
pub fn forward_frozen<B: NoisyBackend>(
    x: &Primitive<B>,
    frozen: &Primitive<B>,
    b: Option<&Primitive<B>>,
    at: &At,
) -> Primitive<B> {
    let ([tokens, inner], [_, outer]) = (B::shape(x), B::shape(frozen));
    let (x_host, w_seen) = (B::host(x), Weight::<B>::stored(frozen));
    at.watch().input(inner, &x_host);
    let x_seen = at.factor(Operand::Lhs, inner, &x_host);
    let x_mat = Mat::new(&x_seen, tokens, inner, inner);
    let y = multiply(at, Point::Output, x_mat, w_seen.factor(inner, outer, Layout::Panels));
    finish::<B>(y, outer, b, x, at)
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    b: Option<&Primitive<B>>,
    at: &At,
) -> Primitive<B> {
    let ([tokens, inner], [outer, _]) = (B::shape(x), B::shape(w));
    let x_host = B::host(x);
    at.watch().input(inner, &x_host);
    let (x_seen, w_seen) = (at.factor(Operand::Lhs, inner, &x_host), Weight::<B>::seen(w, at));
    let x_mat = Mat::new(&x_seen, tokens, inner, inner);
    let y = multiply(at, Point::Output, x_mat, w_seen.factor(inner, outer, Layout::Columns));
    finish::<B>(y, outer, b, x, at)
}

/// Adds the bias and the errors of the output to the product `y` `[tokens, out]`.
fn finish<B: NoisyBackend>(
    mut y: Vec<f32>,
    outer: usize,
    b: Option<&Primitive<B>>,
    x: &Primitive<B>,
    at: &At,
) -> Primitive<B> {
    let [tokens, _] = B::shape(x);
    if let Some(b) = b {
        add_to_rows(&mut y, &B::host(b));
    }
    at.output(outer, &mut y);
    B::upload(y, [tokens, outer], x)
}

/// `∂x = ∂y·W`, `∂W = ∂yᵀ·x` and `∂b = Σ ∂y`, each only where it is needed; the last two are gathered where `at` says
/// so.
pub fn backward<B: NoisyBackend>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    needs: [bool; 3],
    at: &At,
) -> Grads<B, 3> {
    let ([tokens, inner], [outer, _]) = (B::shape(x), B::shape(w));
    let (at_again, grad_host) = (at.again(), B::host(grad));
    let grad_seen = at.precision().operands(Cow::Borrowed(&grad_host));
    let dy = Mat::new(&grad_seen, tokens, outer, outer);
    let dx = needs[0].then(|| {
        let w_seen = Weight::<B>::seen(w, &at_again);
        let mut dx = multiply(at, Point::GradInput, dy, w_seen.factor(outer, inner, Layout::Rows));
        at.perturb_rows(Point::GradInput, Operand::Lhs, inner, &mut dx);
        B::upload(dx, [tokens, inner], x)
    });
    let dw = needs[1].then(|| {
        let x_host = B::host(x);
        let x_seen = at_again.factor(Operand::Lhs, inner, &x_host);
        let x_mat = Mat::new(&x_seen, tokens, inner, inner);
        at.weight_gradient([outer * inner, inner], |sum| add_gradient(at, sum, dy, x_mat))
    });
    let dw = dw.flatten().map(|dw| B::upload(dw, [outer, inner], x));
    let db = needs[2].then(|| at.bias_gradient(outer, |sum| add_columns(at, &grad_host, outer, sum)));
    [dx, dw, db.flatten().map(|db| B::upload(db, [1, outer], x))]
}

/// Adds `bias` to every row of `y`.
fn add_to_rows(y: &mut [f32], bias: &[f32]) {
    parallel::for_chunks(
        y,
        bias.len(),
        #[inline(always)]
        |_, y| {
            for y in y.chunks_exact_mut(bias.len()) {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        },
    );
}

/// Adds the rows of `x` `[rows, width]` to `sum`.
pub(crate) fn add_columns(at: &At, x: &[f32], width: usize, sum: &mut [f32]) {
    parallel::sum_over_runs(
        &at.rows().runs(CHAIN),
        sum,
        #[inline(always)]
        |run, sum| {
            for row in x[run.start * width..run.end * width].chunks_exact(width) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        },
    );
}
