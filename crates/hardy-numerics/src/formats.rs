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
mod definition;
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
use definition::Methods;
use rayon::prelude::*;
use round::{E2m1, E2m3, E3m2, E4m3, E5m2};
use serde::{Deserialize, Serialize};

/// Elements that one task of the thread pool quantises, a multiple of every block.
const TASK: usize = 16 * 1024;
/// Up to so many elements the calling thread does the work alone.
const ALONE: usize = 2 * TASK;

/// Makes [`Format`] of lines that give a variant, its name in files, and the type that defines it.
macro_rules! registry {
    ($($(#[$doc:meta])* $variant:ident $name:literal: $definition:ty;)*) => {
        /// A number format. Names in files are those of [`Format::NAMES`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Format {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Format {
            /// Every format, in the order of the table above.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The names of all formats, in the order of [`Format::ALL`].
            pub const NAMES: &[&str] = &[$($name),*];

            /// What defines it.
            fn methods(self) -> &'static Methods {
                const ALL: &[Methods] = &[$(Methods::of::<$definition>()),*];
                &ALL[self as usize]
            }
        }
    };
}

// A new format is a definition in a file of its own and a line here.
registry! {
    /// E2M1 in blocks of 32 under E8M0, exponent floor(log2 amax) − 2.
    Mxfp4 "mxfp4": mx::Floor<E2m1>;
    /// E2M1 in blocks of 32 under the smallest power of two ≥ amax/6.
    Mxfp4Rceil "mxfp4_rceil": mx::Ceil<E2m1>;
    /// E2M3 in blocks of 32 under E8M0.
    Mxfp6E2m3 "mxfp6_e2m3": mx::Floor<E2m3>;
    /// E3M2 in blocks of 32 under E8M0.
    Mxfp6E3m2 "mxfp6_e3m2": mx::Floor<E3m2>;
    /// E4M3 in blocks of 32 under E8M0.
    Mxfp8E4m3 "mxfp8_e4m3": mx::Floor<E4m3>;
    /// E5M2 in blocks of 32 under E8M0.
    Mxfp8E5m2 "mxfp8_e5m2": mx::Floor<E5m2>;
    /// E2M1 in blocks of 16 under E4M3, and f32 for the tensor.
    Nvfp4 "nvfp4": nvfp4::Scaled;
    /// E2M1 in blocks of 16 under E4M3.
    Nvfp4Block "nvfp4_block": nvfp4::Block;
    /// HiFloat4, groups of 64.
    Hif4 "hif4": hif4::Hif4;
    /// E4M3 with a scale for the tensor.
    Fp8E4m3 "fp8_e4m3": fp8::Fp8<E4m3>;
    /// E5M2 with a scale for the tensor.
    Fp8E5m2 "fp8_e5m2": fp8::Fp8<E5m2>;
    /// 8-bit integers with a scale for each row.
    Int8 "int8": int::Int8;
    /// 4-bit integers with a scale for each 32.
    Int4G32 "int4_g32": int::Int4G32;
    /// 8 bits of exponent, 7 of mantissa.
    Bf16 "bf16": float::Shortened<{ float::BF16_DROPPED }>;
    /// IEEE 754 binary16.
    Fp16 "fp16": float::Fp16;
    /// 8 bits of exponent, 10 of mantissa.
    Tf32 "tf32": float::Shortened<{ float::TF32_DROPPED }>;
}

impl Format {
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
        self.methods().block
    }

    /// Stored bits for a value, those of block scales included, those of row and tensor scales not.
    pub fn bits_per_value(&self) -> f64 {
        self.methods().bits
    }

    /// The largest finite magnitude of the format; where a scale is f32 (`nvfp4`, `fp8_*`, `int*`), in units of it.
    pub fn largest(&self) -> f64 {
        self.methods().largest
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
        let (methods, scale) = (self.methods(), self.tensor_scale(x));
        let flat = !methods.scales_rows && width.is_multiple_of(methods.block);
        let (span, task) = if flat { (TASK, TASK) } else { (width, width * (TASK / width).max(1)) };
        let work = |part: &mut [f32]| (methods.rows)(part, span, scale);
        if x.len() <= ALONE {
            work(x);
        } else {
            x.par_chunks_mut(task).for_each(work);
        }
    }

    /// Side of the square blocks of [`Format::fake_quantize_2d`]; `None` where there are none.
    pub fn side_2d(&self) -> Option<usize> {
        let methods = self.methods();
        methods.square.map(|_| methods.block)
    }

    /// As [`Format::fake_quantize`] with one scale for each square of [`Format::side_2d`] rows and columns, so that a
    /// weight and its transpose have the same image.
    ///
    /// # Panics
    ///
    /// If the format has no square blocks or `x` is no whole number of rows.
    pub fn fake_quantize_2d(&self, x: &mut [f32], width: usize) {
        let scale = self.tensor_scale(x);
        self.squares(x, width, |quantize, _, square| quantize(square, scale, None));
    }

    /// As [`Format::fake_quantize_2d`] with stochastic rounding, the noise addressed by the index in the tensor.
    ///
    /// # Panics
    ///
    /// As [`Format::fake_quantize_2d`].
    pub fn fake_quantize_2d_stochastic(&self, key: NoiseKey, x: &mut [f32], width: usize) {
        let scale = self.tensor_scale(x);
        self.squares(x, width, |quantize, rows, square| {
            let mut noise = vec![0.0; square.len()];
            let columns = square.len() / rows.len();
            for (&first, noise) in rows.iter().zip(noise.chunks_mut(columns)) {
                fill_uniform(key, Row::WEIGHT, first, noise);
            }
            quantize(square, scale, Some(&noise));
        });
    }

    /// Replaces each square block; `replace` is given how, where in the tensor each of its rows begins, and its values.
    fn squares(
        &self,
        x: &mut [f32],
        width: usize,
        replace: impl Fn(definition::Square, &[u64], &mut [f32]) + Sync,
    ) {
        let Some(quantize) = self.methods().square else { panic!("{} has no square blocks", self.name()) };
        let side = self.block();
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
                replace(quantize, &rows, &mut square);
                for (row, image) in band.chunks_mut(width).zip(square.chunks(columns.len())) {
                    row[columns.clone()].copy_from_slice(image);
                }
            }
        });
    }

    /// Replaces one row, a tensor by itself, by its image, rounding to nearest, on the calling thread.
    pub fn fake_quantize_row(&self, x: &mut [f32]) {
        (self.methods().rows)(x, x.len().max(1), self.tensor_scale(x));
    }

    /// As [`Format::fake_quantize_row`] with stochastic rounding; the noise is that of elements `first_element ..` of
    /// `row`.
    pub fn fake_quantize_row_stochastic(&self, key: NoiseKey, row: Row, first_element: u64, x: &mut [f32]) {
        (self.methods().stochastic)(x, self.tensor_scale(x), key, row, first_element);
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
        let (stochastic, scale) = (self.methods().stochastic, self.tensor_scale(x));
        x.par_chunks_mut(width).zip(rows).for_each(|(x, &row)| stochastic(x, scale, key, row, 0));
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
        let (stochastic, scale) = (self.methods().stochastic, self.tensor_scale(x));
        x.par_chunks_mut(width)
            .enumerate()
            .for_each(|(row, x)| stochastic(x, scale, key, Row::WEIGHT, (row * width) as u64));
    }

    /// The scale of a tensor, 1 where the format has none.
    fn tensor_scale(self, x: &[f32]) -> f32 {
        self.methods().tensor_scale.map_or(1.0, |scale| scale(tensor_amax(x)))
    }
}

fn check_rows(length: usize, width: usize) {
    assert!(
        width > 0 && length.is_multiple_of(width),
        "{length} values are no whole number of rows of {width}"
    );
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
