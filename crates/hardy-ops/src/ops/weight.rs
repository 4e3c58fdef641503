//! A weight as products see it: with the errors that enter there, or as it is stored. One that is stored in 16 bits stays so
//! where no error enters, and is widened within the product; where products are in bfloat16, every one is so read.

use burn_tensor::bf16;
use hardy_numerics::Precision;

use super::gemm::{Element, Factor, LaidOut, Mat, Right};
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

    /// It as a right factor `[rows, cols]`, of elements that lie so.
    ///
    /// # Panics
    /// If it has another size.
    pub fn factor(&self, rows: usize, cols: usize, layout: Layout) -> Factor<'_> {
        match self {
            Self::Stored(x) => Factor::Wide(layout.of(x, rows, cols)),
            Self::Perturbed(x) => Factor::Wide(layout.of(x, rows, cols)),
            Self::Narrow(x) => Factor::Narrow(layout.of(x, rows, cols)),
            Self::Rounded(x) => Factor::Narrow(layout.of(x, rows, cols)),
        }
    }
}

/// How the elements of a right factor lie in memory.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    /// Row by row.
    Rows,
    /// Column by column.
    Columns,
    /// As [`laid_out`](super::gemm::laid_out) has them.
    Panels,
}

impl Layout {
    fn of<T: Element>(self, x: &[T], rows: usize, cols: usize) -> Right<'_, T> {
        match self {
            Self::Rows => Mat::new(x, rows, cols, cols).into(),
            Self::Columns => Mat::new(x, cols, rows, rows).t().into(),
            Self::Panels => Right::LaidOut(LaidOut::new(x, rows, cols)),
        }
    }
}
