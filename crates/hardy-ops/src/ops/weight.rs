//! A weight as products see it: with the errors that enter there, or as it is stored. One that is stored in 16 bits stays so
//! where no error enters, and is widened within the product; where products are in bfloat16, every one is so read.

use burn_tensor::bf16;
use hardy_numerics::Precision;

use super::gemm::{Factor, Mat};
use crate::{
    backend::{NoisyBackend, Primitive},
    errors::Errors,
    narrow::rounded,
    site::Point,
};

/// A weight on the host.
pub(crate) enum Weight<'w, B: NoisyBackend> {
    /// As it is.
    Stored(B::Host),
    /// With its errors.
    Perturbed(Vec<f32>),
    /// As it is, in 16 bits.
    Narrow(&'w [bf16]),
    /// With its errors, rounded to 16 bits.
    Rounded(Vec<bf16>),
}

impl<'w, B: NoisyBackend> Weight<'w, B> {
    /// `w` under `errors`, which are counted.
    pub fn seen(w: &'w Primitive<B>, errors: &Errors) -> Self {
        let is_clean = errors.injections(Point::Weight).is_empty();
        let [_, width] = B::shape(w);
        match errors.precision() {
            Precision::F32 if is_clean => Self::stored(w),
            Precision::F32 => Self::Perturbed(errors.weight(width, &B::host(w)).into_owned()),
            Precision::Bf16 => match B::narrow(w).filter(|_| is_clean) {
                Some(narrow) => Self::Narrow(narrow),
                None => Self::Rounded(rounded(&errors.weight(width, &B::host(w)))),
            },
        }
    }

    /// `w` as it is.
    pub fn stored(w: &'w Primitive<B>) -> Self {
        B::narrow(w).map_or_else(|| Self::Stored(B::host(w)), Self::Narrow)
    }

    /// It as a right factor `[rows, cols]`.
    ///
    /// # Panics
    /// If it has another size.
    pub fn factor(&self, rows: usize, cols: usize) -> Factor<'_> {
        match self {
            Self::Stored(x) => Factor::Wide(Mat::new(x, rows, cols, cols)),
            Self::Perturbed(x) => Factor::Wide(Mat::new(x, rows, cols, cols)),
            Self::Narrow(x) => Factor::Narrow(Mat::new(x, rows, cols, cols)),
            Self::Rounded(x) => Factor::Narrow(Mat::new(x, rows, cols, cols)),
        }
    }
}
