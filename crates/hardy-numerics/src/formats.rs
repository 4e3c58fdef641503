//! Number formats: what a value becomes when it is stored in fewer bits. [`Format::fake_quantize`] replaces f32 values
//! by the nearest ones that the format holds, as f32 again, so that a model can be run as if its numbers were stored so.
//!
//! | name | element | scale |
//! |---|---|---|
//! | `mxfp4`, `mxfp4_rceil` | E2M1 | 2^k for each 32; floor rule, or the smallest 2^k ≥ amax/6 |
//! | `mxfp6_e2m3`, `mxfp6_e3m2`, `mxfp8_e4m3`, `mxfp8_e5m2` | as named | 2^k for each 32, floor rule |
//! | `nvfp4` | E2M1 | E4M3 for each 16, f32 for the tensor |
//! | `nvfp4_block` | E2M1 | E4M3 for each 16 |
//! | `hif4` | sign, 3 bits in quarters | E6M2 for each 64, 1 bit for each 8 and each 4 |
//! | `fp8_e4m3`, `fp8_e5m2` | as named | f32 for the tensor |
//! | `int8` | −127..=127 | f32 for the row |
//! | `int4_g32` | −7..=7 | f32 for each 32 |
//! | `bf16`, `fp16`, `tf32` | as named | none |
//!
//! Blocks run along the last axis; a short last block behaves as if padded with zeros. Rounding is to nearest, ties to
//! even (`hif4`: away from zero), or stochastic.
//!
//! **Not finite.** A NaN stays in its place and counts as absent where a scale is made. An infinity counts as the
//! largest finite f32, in formats with a scale; in the others it stays. Numbers beyond the range saturate in formats
//! with a scale and become infinite in the others.
//!
//! **What theory promises.** Every format is odd. Within a block images are in the order of the values (`hif4`: within
//! each 4). Scaling by a power of two commutes with the MX formats. Quantising twice is quantising once in the MX
//! formats, `bf16`, `fp16` and `tf32`; elsewhere the scale is rounded and the second one may be another.

pub(crate) mod bits;
pub mod float;
pub mod fp8;
pub mod hif4;
pub mod int;
pub mod mx;
pub mod nvfp4;
pub mod pack;
pub(crate) mod round;
mod saturation;

use crate::address::{NoiseKey, Row};
use crate::random::fill_uniform_inline as fill_uniform;
use crate::simd::dispatch;
use mx::ScaleRule;
use rayon::prelude::*;
use round::{E2m1, E2m3, E3m2, E4m3, E5m2, Minifloat, Nearest, Round, Stochastic};
use serde::{Deserialize, Serialize};

/// Elements that one task of the thread pool quantises, a multiple of every block.
const TASK: usize = 16 * 1024;
/// Up to so many elements the calling thread does the work alone.
const ALONE: usize = 2 * TASK;

/// A number format. Names in files are those of [`Format::NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// E2M1 in blocks of 32 under E8M0, exponent floor(log2 amax) − 2.
    Mxfp4,
    /// E2M1 in blocks of 32 under the smallest power of two ≥ amax/6.
    Mxfp4Rceil,
    /// E2M3 in blocks of 32 under E8M0.
    Mxfp6E2m3,
    /// E3M2 in blocks of 32 under E8M0.
    Mxfp6E3m2,
    /// E4M3 in blocks of 32 under E8M0.
    Mxfp8E4m3,
    /// E5M2 in blocks of 32 under E8M0.
    Mxfp8E5m2,
    /// E2M1 in blocks of 16 under E4M3, and f32 for the tensor.
    Nvfp4,
    /// E2M1 in blocks of 16 under E4M3.
    Nvfp4Block,
    /// HiFloat4, groups of 64.
    Hif4,
    /// E4M3 with a scale for the tensor.
    Fp8E4m3,
    /// E5M2 with a scale for the tensor.
    Fp8E5m2,
    /// 8-bit integers with a scale for each row.
    Int8,
    /// 4-bit integers with a scale for each 32.
    Int4G32,
    /// 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE 754 binary16.
    Fp16,
    /// 8 bits of exponent, 10 of mantissa.
    Tf32,
}

impl Format {
    /// Every format, in the order of the table above.
    pub const ALL: &[Self] = &[
        Self::Mxfp4,
        Self::Mxfp4Rceil,
        Self::Mxfp6E2m3,
        Self::Mxfp6E3m2,
        Self::Mxfp8E4m3,
        Self::Mxfp8E5m2,
        Self::Nvfp4,
        Self::Nvfp4Block,
        Self::Hif4,
        Self::Fp8E4m3,
        Self::Fp8E5m2,
        Self::Int8,
        Self::Int4G32,
        Self::Bf16,
        Self::Fp16,
        Self::Tf32,
    ];

    /// The names of all formats, in the order of [`Format::ALL`].
    pub const NAMES: &[&str] = &[
        "mxfp4",
        "mxfp4_rceil",
        "mxfp6_e2m3",
        "mxfp6_e3m2",
        "mxfp8_e4m3",
        "mxfp8_e5m2",
        "nvfp4",
        "nvfp4_block",
        "hif4",
        "fp8_e4m3",
        "fp8_e5m2",
        "int8",
        "int4_g32",
        "bf16",
        "fp16",
        "tf32",
    ];

    /// The format of a name; `None` for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        let index = Self::NAMES.iter().position(|&known| known == name)?;
        Some(Self::ALL[index])
    }

    /// The name, one of [`Format::NAMES`].
    pub fn name(&self) -> &'static str {
        Self::NAMES[*self as usize]
    }

    /// Elements under one scale along the last axis: 1 where there is none or it is the row's or the tensor's.
    pub fn block(&self) -> usize {
        match self {
            Self::Mxfp4
            | Self::Mxfp4Rceil
            | Self::Mxfp6E2m3
            | Self::Mxfp6E3m2
            | Self::Mxfp8E4m3
            | Self::Mxfp8E5m2 => mx::BLOCK,
            Self::Nvfp4 | Self::Nvfp4Block => nvfp4::BLOCK,
            Self::Hif4 => hif4::BLOCK,
            Self::Int4G32 => int::GROUP,
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Int8 | Self::Bf16 | Self::Fp16 | Self::Tf32 => 1,
        }
    }

    /// Stored bits for a value, those of block scales included, those of row and tensor scales not.
    pub fn bits_per_value(&self) -> f64 {
        match self {
            Self::Mxfp4 | Self::Mxfp4Rceil => mx::bits_per_value::<E2m1>(),
            Self::Mxfp6E2m3 => mx::bits_per_value::<E2m3>(),
            Self::Mxfp6E3m2 => mx::bits_per_value::<E3m2>(),
            Self::Mxfp8E4m3 => mx::bits_per_value::<E4m3>(),
            Self::Mxfp8E5m2 => mx::bits_per_value::<E5m2>(),
            Self::Nvfp4 | Self::Nvfp4Block | Self::Hif4 => 4.5,
            Self::Int4G32 => 5.0,
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Int8 => 8.0,
            Self::Bf16 | Self::Fp16 => 16.0,
            Self::Tf32 => 19.0,
        }
    }

    /// The largest finite magnitude of the format; where a scale is f32 (`nvfp4`, `fp8_*`, `int*`), in units of it.
    pub fn largest(&self) -> f64 {
        let mx = |element: f32| f64::from(element) * 2.0_f64.powi(127);
        match self {
            Self::Mxfp4 | Self::Mxfp4Rceil => mx(E2m1::MAX),
            Self::Mxfp6E2m3 => mx(E2m3::MAX),
            Self::Mxfp6E3m2 => mx(E3m2::MAX),
            Self::Mxfp8E4m3 => mx(E4m3::MAX),
            Self::Mxfp8E5m2 => mx(E5m2::MAX),
            Self::Nvfp4 | Self::Nvfp4Block => f64::from(E2m1::MAX * E4m3::MAX),
            Self::Hif4 => 1.75 * 4.0 * 49152.0,
            Self::Fp8E4m3 => f64::from(E4m3::MAX),
            Self::Fp8E5m2 => f64::from(E5m2::MAX),
            Self::Int8 => f64::from(int::INT8),
            Self::Int4G32 => f64::from(int::INT4),
            Self::Bf16 => f64::from(f32::from_bits(0x7F7F_0000)),
            Self::Fp16 => 65504.0,
            Self::Tf32 => f64::from(f32::from_bits(0x7F7F_E000)),
        }
    }

    /// Replaces `x` [rows, `width`] by its image, rounding to nearest. Blocks run along `width`.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows.
    pub fn fake_quantize(&self, x: &mut [f32], width: usize) {
        if x.is_empty() {
            return;
        }
        check_rows(x.len(), width);
        let kernel = Kernel::new(*self, x);
        let flat = *self != Self::Int8 && width.is_multiple_of(self.block());
        let (span, task) = if flat { (TASK, TASK) } else { (width, width * (TASK / width).max(1)) };
        let work = |part: &mut [f32]| {
            dispatch(
                #[inline(always)]
                || {
                    for row in part.chunks_mut(span) {
                        kernel.apply(row, Nearest);
                    }
                },
            );
        };
        if x.len() <= ALONE {
            work(x);
        } else {
            x.par_chunks_mut(task).for_each(work);
        }
    }

    /// Side of the square blocks of [`Format::fake_quantize_2d`]; `None` where there are none.
    pub fn side_2d(&self) -> Option<usize> {
        match self {
            Self::Mxfp4
            | Self::Mxfp4Rceil
            | Self::Mxfp6E2m3
            | Self::Mxfp6E3m2
            | Self::Mxfp8E4m3
            | Self::Mxfp8E5m2 => Some(mx::BLOCK),
            Self::Nvfp4 | Self::Nvfp4Block => Some(nvfp4::BLOCK),
            _ => None,
        }
    }

    /// As [`Format::fake_quantize`] with one scale for each square of [`Format::side_2d`] rows and columns, so that a
    /// weight and its transpose have the same image.
    ///
    /// # Panics
    ///
    /// If the format has no square blocks or `x` is no whole number of rows.
    pub fn fake_quantize_2d(&self, x: &mut [f32], width: usize) {
        let kernel = Kernel::new(*self, x);
        self.squares(x, width, |_, square| kernel.square(square, Nearest));
    }

    /// As [`Format::fake_quantize_2d`] with stochastic rounding, the noise addressed by the index in the tensor.
    ///
    /// # Panics
    ///
    /// As [`Format::fake_quantize_2d`].
    pub fn fake_quantize_2d_stochastic(&self, key: NoiseKey, x: &mut [f32], width: usize) {
        let kernel = Kernel::new(*self, x);
        self.squares(x, width, |rows, square| {
            let mut noise = vec![0.0; square.len()];
            let columns = square.len() / rows.len();
            for (&first, noise) in rows.iter().zip(noise.chunks_mut(columns)) {
                fill_uniform(key, Row::WEIGHT, first, noise);
            }
            kernel.square(square, Stochastic(&noise));
        });
    }

    /// Replaces each square block; `quantize` is given where in the tensor each of its rows begins, and its values.
    fn squares(&self, x: &mut [f32], width: usize, quantize: impl Fn(&[u64], &mut [f32]) + Sync) {
        let Some(side) = self.side_2d() else { panic!("{} has no square blocks", self.name()) };
        if x.is_empty() {
            return;
        }
        check_rows(x.len(), width);
        x.par_chunks_mut(side * width).enumerate().for_each(|(index, band)| {
            let mut square = Vec::with_capacity(side * side);
            for first in (0..width).step_by(side) {
                let columns = first..width.min(first + side);
                let start = index * side * width + first;
                let rows: Vec<u64> =
                    (0..band.len() / width).map(|row| (start + row * width) as u64).collect();
                square.clear();
                band.chunks(width).for_each(|row| square.extend_from_slice(&row[columns.clone()]));
                quantize(&rows, &mut square);
                for (row, image) in band.chunks_mut(width).zip(square.chunks(columns.len())) {
                    row[columns.clone()].copy_from_slice(image);
                }
            }
        });
    }

    /// Replaces one row, a tensor by itself, by its image, rounding to nearest, on the calling thread.
    pub fn fake_quantize_row(&self, x: &mut [f32]) {
        let kernel = Kernel::new(*self, x);
        dispatch(
            #[inline(always)]
            || kernel.apply(x, Nearest),
        );
    }

    /// As [`Format::fake_quantize_row`] with stochastic rounding; the noise is that of elements `first_element ..` of
    /// `row`.
    pub fn fake_quantize_row_stochastic(&self, key: NoiseKey, row: Row, first_element: u64, x: &mut [f32]) {
        Kernel::new(*self, x).stochastic(x, key, row, first_element);
    }

    /// As [`Format::fake_quantize`] with stochastic rounding: a value goes to one of its two neighbours so that the
    /// mean of its image is the value. Scales are made as ever. `rows` are the addresses of the rows of `x`
    /// [rows.len(), `width`]; the noise of a value is the uniform number of its column.
    ///
    /// # Panics
    ///
    /// If `x` is not `rows.len()` rows of `width`.
    pub fn fake_quantize_stochastic(&self, key: NoiseKey, rows: &[Row], x: &mut [f32], width: usize) {
        assert_eq!(x.len(), rows.len() * width, "x must be {} rows of {width}", rows.len());
        if x.is_empty() {
            return;
        }
        let kernel = Kernel::new(*self, x);
        x.par_chunks_mut(width).zip(rows).for_each(|(x, &row)| kernel.stochastic(x, key, row, 0));
    }

    /// As [`Format::fake_quantize_stochastic`] for a weight [rows, `width`], whose noise is addressed by the index in
    /// the tensor.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows.
    pub fn fake_quantize_weight_stochastic(&self, key: NoiseKey, x: &mut [f32], width: usize) {
        if x.is_empty() {
            return;
        }
        check_rows(x.len(), width);
        let kernel = Kernel::new(*self, x);
        x.par_chunks_mut(width)
            .enumerate()
            .for_each(|(row, x)| kernel.stochastic(x, key, Row::WEIGHT, (row * width) as u64));
    }
}

fn check_rows(length: usize, width: usize) {
    assert!(
        width > 0 && length.is_multiple_of(width),
        "{length} values are no whole number of rows of {width}"
    );
}

/// A format with the scale of the tensor, where it has one.
#[derive(Clone, Copy)]
struct Kernel {
    format: Format,
    scale: f32,
}

impl Kernel {
    fn new(format: Format, x: &[f32]) -> Self {
        let scale = match format {
            Format::Nvfp4 => nvfp4::tensor_scale(tensor_amax(x)),
            Format::Fp8E4m3 => fp8::tensor_scale::<E4m3>(tensor_amax(x)),
            Format::Fp8E5m2 => fp8::tensor_scale::<E5m2>(tensor_amax(x)),
            _ => 1.0,
        };
        Self { format, scale }
    }

    /// Quantises a row, or a part of one that begins with a block.
    #[inline(always)]
    fn apply<R: Round>(self, x: &mut [f32], r: R) {
        use ScaleRule::{Ceil, Floor};
        let scale = self.scale;
        match self.format {
            Format::Mxfp4 => mx_blocks::<E2m1, R>(x, Floor, r),
            Format::Mxfp4Rceil => mx_blocks::<E2m1, R>(x, Ceil, r),
            Format::Mxfp6E2m3 => mx_blocks::<E2m3, R>(x, Floor, r),
            Format::Mxfp6E3m2 => mx_blocks::<E3m2, R>(x, Floor, r),
            Format::Mxfp8E4m3 => mx_blocks::<E4m3, R>(x, Floor, r),
            Format::Mxfp8E5m2 => mx_blocks::<E5m2, R>(x, Floor, r),
            Format::Nvfp4 if scale == 0.0 => nvfp4::quantize_zeros(x),
            Format::Nvfp4 | Format::Nvfp4Block => blocks::<{ nvfp4::BLOCK }, R>(
                x,
                r,
                #[inline(always)]
                |block, r| nvfp4::quantize(block, scale, r),
            ),
            Format::Hif4 => blocks::<{ hif4::BLOCK }, R>(
                x,
                r,
                #[inline(always)]
                |group, r| hif4::quantize(group, r),
            ),
            Format::Fp8E4m3 => fp8::quantize::<E4m3, R>(x, scale, r),
            Format::Fp8E5m2 => fp8::quantize::<E5m2, R>(x, scale, r),
            Format::Int8 => int::quantize(x, int::INT8, r),
            Format::Int4G32 => blocks::<{ int::GROUP }, R>(
                x,
                r,
                #[inline(always)]
                |block, r| int::quantize(block, int::INT4, r),
            ),
            Format::Bf16 => float::quantize_bits(x, float::BF16_DROPPED, r),
            Format::Fp16 => float::quantize_fp16(x, r),
            Format::Tf32 => float::quantize_bits(x, float::TF32_DROPPED, r),
        }
    }

    /// Quantises the values of a square block under one scale.
    fn square<R: Round>(self, x: &mut [f32], r: R) {
        use ScaleRule::{Ceil, Floor};
        dispatch(
            #[inline(always)]
            || match self.format {
                Format::Mxfp4 => mx::quantize::<E2m1, _>(x, Floor, r),
                Format::Mxfp4Rceil => mx::quantize::<E2m1, _>(x, Ceil, r),
                Format::Mxfp6E2m3 => mx::quantize::<E2m3, _>(x, Floor, r),
                Format::Mxfp6E3m2 => mx::quantize::<E3m2, _>(x, Floor, r),
                Format::Mxfp8E4m3 => mx::quantize::<E4m3, _>(x, Floor, r),
                Format::Mxfp8E5m2 => mx::quantize::<E5m2, _>(x, Floor, r),
                Format::Nvfp4 if self.scale == 0.0 => nvfp4::quantize_zeros(x),
                _ => nvfp4::quantize(x, self.scale, r),
            },
        );
    }

    fn stochastic(self, x: &mut [f32], key: NoiseKey, row: Row, first_element: u64) {
        dispatch(
            #[inline(always)]
            || {
                let mut noise = vec![0.0; x.len()];
                fill_uniform(key, row, first_element, &mut noise);
                self.apply(x, Stochastic(&noise));
            },
        );
    }
}

#[inline(always)]
fn mx_blocks<E: Minifloat, R: Round>(x: &mut [f32], rule: ScaleRule, r: R) {
    blocks::<{ mx::BLOCK }, R>(
        x,
        r,
        #[inline(always)]
        |block, r| mx::quantize::<E, R>(block, rule, r),
    );
}

/// Runs `quantize` on each block of `x`; whole ones have a length that the compiler knows. `quantize` must be a closure
/// marked `#[inline(always)]`, for a plain function would not be compiled for the SIMD level.
#[inline(always)]
fn blocks<const BLOCK: usize, R: Round>(x: &mut [f32], r: R, quantize: impl Fn(&mut [f32], R)) {
    let (whole, rest) = x.as_chunks_mut::<BLOCK>();
    let used = whole.len() * BLOCK;
    for (j, block) in whole.iter_mut().enumerate() {
        quantize(block, r.from(j * BLOCK));
    }
    if !rest.is_empty() {
        quantize(rest, r.from(used));
    }
}

/// The largest magnitude of a tensor, by tasks.
fn tensor_amax(x: &[f32]) -> f32 {
    let largest = |part: &[f32]| {
        dispatch(
            #[inline(always)]
            || bits::amax_bits(part),
        )
    };
    let found =
        if x.len() <= ALONE { largest(x) } else { x.par_chunks(TASK).map(largest).max().unwrap_or_default() };
    f32::from_bits(found)
}
