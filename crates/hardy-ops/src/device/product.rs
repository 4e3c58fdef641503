//! A product of activations and a weight, with a bias and with the errors that fall on what it computes: as it is stored
//! where the device can, else in passes after it.

use burn_tensor::ops::IntTensor;
use hardy_numerics::{Keys, Perturbation};

use super::{
    inject,
    kernels::{Kernels, Layout, Place},
};
use crate::{
    at::{At, Operand},
    backend::Primitive,
    site::Point,
};

/// What becomes of a product as it is stored.
#[derive(Debug)]
pub struct Ending<'a, B: Kernels> {
    /// Is added to every row, `[1, width]`.
    pub bias: Option<&'a Primitive<B>>,
    /// Falls on what there is then.
    pub noise: Option<Noise<B>>,
}

/// An error that falls on the rows of a product.
#[derive(Debug)]
pub struct Noise<B: Kernels> {
    /// What it is, and where its randomness lies.
    pub error: (Perturbation, Keys),
    /// Of every row its position, the low and the high half of its sequence, and whether it counts in the tally.
    pub rows: IntTensor<B>,
    /// Where its energy goes, where it is counted.
    pub tally: Option<Primitive<B>>,
}

impl<B: Kernels> Ending<'_, B> {
    /// Nothing.
    pub const NOTHING: Self = Self { bias: None, noise: None };
}

/// `a·b` and `bias`, with the errors of `point`, in the precision of `at`, shown to a tap that wants it.
pub(super) fn product<B: Kernels>(
    at: &At,
    point: Point,
    [a, b]: [&Primitive<B>; 2],
    layout: Layout,
    bias: Option<&Primitive<B>>,
) -> Primitive<B> {
    let errors = at.injections(point);
    let all_there = errors.iter().all(|error| B::injects(&error.perturbation, Place::Rows));
    let fused = errors.first().filter(|error| all_there && B::fuses(&error.perturbation, a));
    let noise = fused.map(|error| {
        let width = B::shape(b)[usize::from(layout == Layout::Nn)];
        let (rows, tally) =
            inject::addressed::<B>(at, error, point, width, Operand::Lhs, &B::float_device(a));
        Noise { error: (error.perturbation, error.keys[Operand::Lhs as usize]), rows, tally }
    });
    let done = usize::from(noise.is_some());
    let y = B::matmul(a, b, layout, at.precision(), &Ending { bias, noise });
    inject::rows_after::<B>(at, point, Operand::Lhs, y, done)
}
