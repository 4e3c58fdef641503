//! Clipped straight-through gradients. A number format passes the gradient straight through its rounding; where the
//! option `clip_gradient` says so, the gradient is 0 where the value saturated in the forward pass, for there the image
//! does not follow the value: of a weight in ∂W, of an input in ∂x, of an output in ∂y before the backward products.

use std::borrow::Cow;

use hardy_numerics::{Perturbation, Quantization};

use crate::{
    at::At,
    backend::{NoisyBackend, Primitive},
    errors::{Errors, Injection},
    site::Point,
};

/// The output before its own errors, which tells where it saturates; `None` where no gradient is clipped there.
pub(crate) fn before_output<B: NoisyBackend>(
    at: &At,
    run: impl FnOnce(&At) -> Primitive<B>,
) -> Option<Primitive<B>> {
    clips(at, Point::Output).then(|| run(&at.before_output()))
}

/// `∂y`, clipped where `y`, the output before its own errors, saturated.
pub(crate) fn output<B: NoisyBackend>(at: &At, y: Option<&Primitive<B>>, grad: Primitive<B>) -> Primitive<B> {
    match y {
        Some(y) => gradient::<B>(at, Point::Output, y, grad),
        None => grad,
    }
}

/// The gradient of `x`, an operator's tensor at `point`, clipped where `x` saturated.
pub(crate) fn gradient<B: NoisyBackend>(
    at: &At,
    point: Point,
    x: &Primitive<B>,
    grad: Primitive<B>,
) -> Primitive<B> {
    if !clips(at, point) {
        return grad;
    }
    let shape @ [_, width] = B::shape(&grad);
    let mut clipped = B::host(&grad).to_vec();
    clip(at, point, width, &B::host(x), &mut clipped);
    B::upload(clipped, shape, &grad)
}

/// Whether a gradient is clipped at `point`.
pub(crate) fn clips(errors: &Errors, point: Point) -> bool {
    errors.injections(point).iter().any(is_clipping)
}

fn is_clipping(injection: &Injection) -> bool {
    match injection.perturbation {
        Perturbation::Quantization(quantization) => quantization.clip_gradient,
        _ => false,
    }
}

/// Goes through the errors of `point` as the forward pass did, up to the last that clips, so that each format sees what it
/// saw there.
fn clip(at: &At, point: Point, width: usize, x: &[f32], grad: &mut [f32]) {
    let injections = at.injections(point);
    let Some(last) = injections.iter().rposition(is_clipping) else { return };
    let of_weight = point == Point::Weight;
    let mut x = Cow::Borrowed(x);
    for (place, Injection { perturbation, keys: [keys, _], .. }) in injections[..=last].iter().enumerate() {
        if let Perturbation::Quantization(quantization) = perturbation {
            let clip = if of_weight { Quantization::clip_weight } else { Quantization::clip_rows };
            clip(quantization, width, &x, grad);
        }
        if place == last {
            return;
        }
        if of_weight {
            perturbation.apply_flat(*keys, width, x.to_mut());
        } else {
            perturbation.apply_rows(*keys, at.rows(), 0, width, x.to_mut());
        }
    }
}
