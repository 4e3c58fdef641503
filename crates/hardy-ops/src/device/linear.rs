//! The linear layer and its gradients.

use super::{
    inject, is_for_host,
    kernels::{Kernels, Layout},
    product::product,
};
use crate::{
    at::{At, Operand},
    backend::{Grads, Primitive},
    errors::Errors,
    ops::{chain::CHAIN, linear},
    site::Point,
    weight_sums::Of,
};

/// See [`linear::linear`].
pub fn forward<B: Kernels>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    b: Option<&Primitive<B>>,
    at: &At,
) -> Primitive<B> {
    if is_for_host(at) {
        return linear::forward::<B>(x, w, b, at);
    }
    layer::<B>(x, &inject::flat::<B>(at, Point::Weight, w.clone()), b, at)
}

/// The weight with its errors, as it lies: `[out, in]`.
pub fn frozen_weight<B: Kernels>(w: &Primitive<B>, errors: &Errors) -> Primitive<B> {
    inject::flat::<B>(errors, Point::Weight, w.clone())
}

/// See [`linear::frozen_linear`].
pub fn forward_frozen<B: Kernels>(
    x: &Primitive<B>,
    frozen: &Primitive<B>,
    b: Option<&Primitive<B>>,
    at: &At,
) -> Primitive<B> {
    if is_for_host(at) {
        return linear::forward::<B>(x, frozen, b, &at.after_weight());
    }
    layer::<B>(x, frozen, b, at)
}

/// `x·wᵀ + b` with the errors of input and output, the weight having its own.
fn layer<B: Kernels>(x: &Primitive<B>, w: &Primitive<B>, b: Option<&Primitive<B>>, at: &At) -> Primitive<B> {
    let x = inject::rows::<B>(at, Point::Input, Operand::Lhs, x.clone());
    product::<B>(at, Point::Output, [&x, w], Layout::Nt, b)
}

/// `∂x = ∂y·W`, `∂W = ∂yᵀ·x` and `∂b = Σ ∂y`.
///
/// # Panics
/// If there is not an address for every row.
pub fn backward<B: Kernels>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    grad: &Primitive<B>,
    needs: [bool; 3],
    at: &At,
) -> Grads<B, 3> {
    if is_for_host(at) {
        return linear::backward::<B>(x, w, grad, needs, at);
    }
    let again = at.again();
    let dx = needs[0].then(|| {
        let w = inject::flat::<B>(&again, Point::Weight, w.clone());
        product::<B>(at, Point::GradInput, [grad, &w], Layout::Nn, None)
    });
    assert_eq!(at.rows().len(), B::shape(grad)[0], "an address for every row");
    let runs = at.rows().runs_on::<B>(CHAIN, &B::float_device(grad));
    let dw = needs[1].then(|| {
        let x = inject::rows::<B>(&again, Point::Input, Operand::Lhs, x.clone());
        at.gradient_there::<B>(Of::Weight, |sum| B::add_product(grad, &x, at.precision(), &runs, sum))
    });
    let db = needs[2].then(|| at.gradient_there::<B>(Of::Bias, |sum| B::add_columns(grad, &runs, sum)));
    [dx, dw.flatten(), db.flatten()]
}
