//! The linear layer and its gradients.

use super::{
    inject, is_for_host,
    kernels::{Kernels, Layout},
};
use crate::{
    at::{At, Operand},
    backend::{Grads, Primitive, shape_of},
    errors::Errors,
    ops::linear,
    site::Point,
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
    product::<B>(x, &inject::flat::<B>(at, Point::Weight, w.clone()), b, at)
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
    product::<B>(x, frozen, b, at)
}

/// `x·wᵀ + b` with the errors of input and output, the weight having its own.
fn product<B: Kernels>(
    x: &Primitive<B>,
    w: &Primitive<B>,
    b: Option<&Primitive<B>>,
    at: &At,
) -> Primitive<B> {
    let x = inject::rows::<B>(at, Point::Input, Operand::Lhs, x.clone());
    let mut y = B::matmul(&x, w, Layout::Nt, None);
    if let Some(b) = b {
        y = B::float_add(y, b.clone());
    }
    inject::rows::<B>(at, Point::Output, Operand::Lhs, y)
}

/// `∂x = ∂y·W`, `∂W = ∂yᵀ·x` and `∂b = Σ ∂y`.
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
        let dx = B::matmul(grad, &w, Layout::Nn, None);
        inject::rows::<B>(at, Point::GradInput, Operand::Lhs, dx)
    });
    let dw = needs[1].then(|| {
        let x = inject::rows::<B>(&again, Point::Input, Operand::Lhs, x.clone());
        weight_gradient::<B>(at, B::matmul(grad, &x, Layout::Tn, None))
    });
    let db = needs[2].then(|| {
        let db = B::add_columns(grad);
        let [_, width] = shape_of::<B>(&db);
        let gathered = at.bias_gradient(width, |sum| add(sum, &B::host(&db)));
        gathered.map(|sum| B::upload(sum, [1, width], &db))
    });
    [dx, dw.flatten(), db.flatten()]
}

/// The gradient of a weight with its errors, or, where such are summed up, nothing.
pub(super) fn weight_gradient<B: Kernels>(at: &At, dw: Primitive<B>) -> Option<Primitive<B>> {
    if at.gathering.is_none() {
        return Some(inject::flat::<B>(at, Point::GradWeight, dw));
    }
    let shape @ [height, width] = shape_of::<B>(&dw);
    let sum = at.weight_gradient([height * width, width], |sum| add(&mut sum.total, &B::host(&dw)));
    sum.map(|sum| B::upload(sum, shape, &dw))
}

fn add(sum: &mut [f32], x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}
