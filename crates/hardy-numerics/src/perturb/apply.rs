//! How a perturbation is applied: to part of a row, to rows in parallel, to weights. An image depends on the value's own
//! address, and where a format has scales on the row, but never on how rows are batched or on threads.

use super::noise::{each, each_with_noise, truncate};
use super::{Perturbation, fault};
use crate::address::{Keys, Row};
use crate::energy::ErrorEnergy;
use crate::simd::dispatch;
use rayon::prelude::*;

/// Elements that one task of the thread pool perturbs. It is fixed, so that sums do not depend on the thread count.
const TASK: usize = 16 * 1024;
/// Up to so many elements the calling thread does the work alone.
const ALONE: usize = 2 * TASK;

/// Neighbouring values of a row.
pub(super) struct Piece<'a> {
    pub keys: Keys,
    pub row: Row,
    /// The address of the first value's noise.
    pub element: u64,
    /// The channel of the first value.
    pub channel: u64,
    pub x: &'a mut [f32],
}

impl Perturbation {
    /// Perturbs `x` in place: the values of elements `first_element ..` of one row. Returns the energy of the error.
    ///
    /// `keys` and `row` matter only where [`Perturbation::is_random`]. The image of a value depends on its own address
    /// and on nothing else, so a row may be split anywhere; the energies then agree up to rounding in f64. Not so a
    /// number format with scales: there `x` is what the scales are made from, blocks beginning at its first value.
    ///
    /// # Panics
    ///
    /// For an [`Accumulation`](super::Accumulation), which is no error of values.
    pub fn apply(&self, keys: impl Into<Keys>, row: Row, first_element: u64, x: &mut [f32]) -> ErrorEnergy {
        self.apply_parts(keys, std::iter::once((row, first_element, x)))
    }

    /// Perturbs parts of rows in place, each given by its row, the address of its first element and its values, as
    /// [`Perturbation::apply`] does; many short parts cost less so than one by one.
    ///
    /// # Panics
    ///
    /// As [`Perturbation::apply`].
    pub fn apply_parts<'a>(
        &self,
        keys: impl Into<Keys>,
        parts: impl Iterator<Item = (Row, u64, &'a mut [f32])>,
    ) -> ErrorEnergy {
        let keys = keys.into();
        dispatch(
            #[inline(always)]
            || {
                self.kernel(parts.map(
                    #[inline(always)]
                    |(row, element, x)| Piece { keys, row, element, channel: element, x },
                ))
            },
        )
    }

    /// Perturbs the rows of `x` [rows.len(), width] in place, each as [`Perturbation::apply`] does.
    ///
    /// # Panics
    ///
    /// Where the length of `x` is not `rows.len() * width`; as [`Perturbation::apply`].
    pub fn apply_rows(
        &self,
        keys: impl Into<Keys>,
        rows: &[Row],
        first_element: u64,
        width: usize,
        x: &mut [f32],
    ) -> ErrorEnergy {
        assert_eq!(x.len(), rows.len() * width, "x must be [{}, {width}]", rows.len());
        let keys = keys.into();
        in_rows(rows, width, x, |rows, x| {
            let parts = rows.iter().zip(x.chunks_exact_mut(width)).map(
                #[inline(always)]
                |(&row, x)| (row, first_element, x),
            );
            self.apply_parts(keys, parts)
        })
    }

    /// Perturbs a weight, or the gradient of one, in place: `x` [rows, width], at [`Row::WEIGHT`] from element 0. Its
    /// channels are its columns; a scale of the tensor is that of all of `x`.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows; as [`Perturbation::apply`].
    pub fn apply_flat(&self, keys: impl Into<Keys>, width: usize, x: &mut [f32]) -> ErrorEnergy {
        let keys = keys.into();
        match self {
            Self::Quantization(quantization) => quantization.weight(keys.noise, width, x),
            Self::Fault { .. } => self.apply_to_columns(keys, width, x),
            _ => {
                let task = |(i, x): (usize, &mut [f32])| self.apply(keys, Row::WEIGHT, (i * TASK) as u64, x);
                if x.len() <= ALONE {
                    return x.chunks_mut(TASK).enumerate().map(task).sum();
                }
                x.par_chunks_mut(TASK).enumerate().map(task).collect::<Vec<_>>().into_iter().sum()
            }
        }
    }

    /// Perturbs a weight whose columns are channels.
    fn apply_to_columns(&self, keys: Keys, width: usize, x: &mut [f32]) -> ErrorEnergy {
        let starts: Vec<u64> = (0..x.len()).step_by(width.max(1)).map(|start| start as u64).collect();
        assert_eq!(x.len(), starts.len() * width, "x must be rows of {width}");
        in_rows(&starts, width, x, |starts, x| {
            dispatch(
                #[inline(always)]
                || {
                    self.kernel(starts.iter().zip(x.chunks_exact_mut(width)).map(
                        #[inline(always)]
                        |(&element, x)| Piece { keys, row: Row::WEIGHT, element, channel: 0, x },
                    ))
                },
            )
        })
    }

    /// Perturbs pieces of rows, one after the other, and adds up their energies.
    #[inline(always)]
    pub(super) fn kernel<'a>(&self, pieces: impl Iterator<Item = Piece<'a>>) -> ErrorEnergy {
        if self.is_off() {
            return each(
                pieces,
                #[inline(always)]
                |x| x,
            );
        }
        match *self {
            Self::RelativeGaussian { scale } => each_with_noise(
                pieces,
                #[inline(always)]
                |x, noise| x + (noise * scale as f32) * x.abs(),
            ),
            Self::AbsoluteGaussian { scale } => each_with_noise(
                pieces,
                #[inline(always)]
                |x, noise| x + noise * scale as f32,
            ),
            Self::SystematicBias { scale, relative: false } => each(
                pieces,
                #[inline(always)]
                |x| if x == 0.0 { x } else { x + (scale as f32).copysign(x) },
            ),
            Self::SystematicBias { scale, relative: true } => each(
                pieces,
                #[inline(always)]
                |x| x + x * scale as f32,
            ),
            Self::Truncation { scale } => each(
                pieces,
                #[inline(always)]
                |x| truncate(x, scale as f32),
            ),
            Self::Fault { fault, sparsity } => fault::strike(fault, sparsity, pieces),
            Self::Quantization(quantization) => {
                pieces.map(|p| quantization.row(p.keys.noise, p.row, p.element, p.x)).sum()
            }
            Self::Accumulation(_) => panic!("{} needs a product", self.kind_name()),
        }
    }
}

/// Sums `kernel(addresses, rows)` over tasks of rows of `x` `[addresses.len(), width]`, in their order.
fn in_rows<A: Sync>(
    addresses: &[A],
    width: usize,
    x: &mut [f32],
    kernel: impl Fn(&[A], &mut [f32]) -> ErrorEnergy + Sync,
) -> ErrorEnergy {
    if x.is_empty() {
        return ErrorEnergy::default();
    }
    let rows = (TASK / width).max(1);
    let task = |(addresses, x): (&[A], &mut [f32])| kernel(addresses, x);
    if x.len() <= ALONE {
        return addresses.chunks(rows).zip(x.chunks_mut(rows * width)).map(task).sum();
    }
    let tasks = addresses.par_chunks(rows).zip(x.par_chunks_mut(rows * width));
    tasks.map(task).collect::<Vec<_>>().into_iter().sum()
}
