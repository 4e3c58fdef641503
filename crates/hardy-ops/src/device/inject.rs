//! Errors between the primitives: on the rows of an activation, on a weight, on the gradient of one. A rule without a kernel
//! is injected on the host, into that tensor alone.

use burn_tensor::{Tensor, TensorPrimitive, ops::IntTensor};
use hardy_numerics::ErrorEnergy;

use super::kernels::{Kernels, Place};
use crate::{
    at::{At, Operand},
    backend::Primitive,
    errors::{Errors, Injection},
    site::Point,
};

/// `x`, `[rows, width]`, with the errors of `point`, shown to a tap that wants it.
pub(super) fn rows<B: Kernels>(at: &At, point: Point, operand: Operand, x: Primitive<B>) -> Primitive<B> {
    rows_after::<B>(at, point, operand, x, 0)
}

/// The same where `x` has the first `done` of the errors already; of them a device has a kernel for all.
pub(super) fn rows_after<B: Kernels>(
    at: &At,
    point: Point,
    operand: Operand,
    x: Primitive<B>,
    done: usize,
) -> Primitive<B> {
    let x = injected::<B>(at, point, operand, x, done);
    if at.keeps_rows(point, operand) {
        at.keep_rows(point, operand, 0, B::shape(&x)[1], &B::host(&x));
    }
    x
}

fn injected<B: Kernels>(
    at: &At,
    point: Point,
    operand: Operand,
    x: Primitive<B>,
    done: usize,
) -> Primitive<B> {
    let (shape @ [_, width], errors) = (B::shape(&x), &at.injections(point)[done..]);
    if errors.is_empty() {
        return x;
    }
    if !errors.iter().all(|error| B::injects(&error.perturbation, Place::Rows)) {
        let mut host = B::host(&x).to_vec();
        at.unwatched().perturb_rows(point, operand, width, &mut host);
        return B::upload(host, shape, &x);
    }
    let device = B::float_device(&x);
    errors.iter().fold(x, |x, error| {
        let (addresses, tally) = addressed::<B>(at, error, point, width, operand, &device);
        B::perturb_rows(x, &addresses, (error.perturbation, error.keys[operand as usize]), tally.as_ref())
    })
}

/// The addresses of the rows that an error falls on, each `width` wide, and its tally, in which they are counted.
pub(super) fn addressed<B: Kernels>(
    at: &At,
    error: &Injection,
    point: Point,
    width: usize,
    operand: Operand,
    device: &B::Device,
) -> (IntTensor<B>, Option<Primitive<B>>) {
    let tally = tally::<B>(at, error, point, device);
    if tally.is_some() {
        let elements = at.rows().counted(point.pass()) * width as u64;
        let calls = at.calls(point, operand);
        error.tally.add(calls, elements, error.perturbation.scale(), ErrorEnergy::default());
    }
    (at.rows().table::<B>(point.pass(), device), tally)
}

/// `x`, a weight or the gradient of one, with the errors of `point`.
pub(super) fn flat<B: Kernels>(errors: &Errors, point: Point, x: Primitive<B>) -> Primitive<B> {
    let (shape @ [rows, width], all) = (B::shape(&x), errors.injections(point));
    if all.is_empty() {
        return x;
    }
    if !all.iter().all(|error| B::injects(&error.perturbation, Place::Weight)) {
        let mut host = B::host(&x).to_vec();
        errors.perturb_flat(point, width, &mut host);
        return B::upload(host, shape, &x);
    }
    let device = B::float_device(&x);
    all.iter().fold(x, |x, error| {
        let tally = tally::<B>(errors, error, point, &device);
        if tally.is_some() {
            let elements = (rows * width) as u64;
            error.tally.add(1, elements, error.perturbation.scale(), ErrorEnergy::default());
        }
        B::perturb_flat(x, (error.perturbation, error.keys[0]), tally.as_ref())
    })
}

/// Where the energy of an error is added up, where it is counted.
pub(super) fn tally<B: Kernels>(
    errors: &Errors,
    error: &Injection,
    point: Point,
    device: &B::Device,
) -> Option<Primitive<B>> {
    errors.counts(error, point).then(|| error.tally.on_device::<B>(device))
}

/// The product of two tensors, element by element.
pub(super) fn times<B: Kernels>(a: Primitive<B>, b: Primitive<B>) -> Primitive<B> {
    let tensor = |x| Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(x));
    (tensor(a) * tensor(b)).into_primitive().tensor()
}
