//! What a number format is made of: its sizes, and how the values under one scale are replaced, clipped and packed.

use super::pack::Bits;
use super::round::{Nearest, Round, Stochastic};
use crate::address::{NoiseKey, Row};
use crate::random::fill_uniform_inline as fill_uniform;
use crate::simd::dispatch;

/// One number format: a type, generic over its elements where several are alike.
pub(crate) trait Definition {
    /// Elements under one scale along the last axis: 1 where there is none or it is the row's or the tensor's.
    const BLOCK: usize = 1;
    /// Whether a scale may also be that of a square block, of so many rows and columns.
    const SQUARE: bool = false;
    /// Whether the scale is the row's.
    const SCALES_ROWS: bool = false;
    /// Whether the tensor has a scale.
    const SCALES_TENSOR: bool = false;
    /// Stored bits for a value, those of block scales included.
    const BITS: f64;
    /// The largest finite magnitude, in units of a scale that is f32.
    const LARGEST: f64;
    /// Bytes of a packed block; 0 where blocks are not packed.
    const PACKED: usize = 0;

    /// The scale of a tensor whose largest magnitude is `amax`.
    fn tensor_scale(_amax: f32) -> f32 {
        1.0
    }

    /// Replaces a row, or a part of one that begins with a block, by its image; `t` is the scale of the tensor.
    fn row<R: Round>(x: &mut [f32], t: f32, r: R);

    /// Replaces the values of a square block by their images under one scale.
    fn square<R: Round>(_x: &mut [f32], _t: f32, _r: R) {}

    /// Sets `grad` to 0 where a value of the block `x` lies beyond the range.
    fn clip(_x: &[f32], _t: f32, _grad: &mut [f32]) {}

    /// Packs a block, rounding to nearest.
    fn encode(_block: &[f32], _t: f32, _out: &mut Bits) {}

    /// Unpacks a block.
    fn decode(_bytes: &[u8], _t: f32, _x: &mut Vec<f32>) {}
}

/// Replaces a square block under the tensor's scale, with the noise of stochastic rounding where that is wanted.
pub(super) type Square = fn(&mut [f32], f32, Option<&[f32]>);

/// A definition as a table, compiled for every SIMD level.
pub(super) struct Methods {
    pub block: usize,
    pub scales_rows: bool,
    pub bits: f64,
    pub largest: f64,
    /// Bytes of a packed block.
    pub packed: Option<usize>,
    /// The tensor's scale from its largest magnitude.
    pub tensor_scale: Option<fn(f32) -> f32>,
    /// Replaces spans of so many values, each beginning with a block, rounding to nearest.
    pub rows: fn(&mut [f32], usize, f32),
    /// Replaces a row with stochastic rounding, its noise at the addresses from an element of a row on.
    pub stochastic: fn(&mut [f32], f32, NoiseKey, Row, u64),
    pub square: Option<Square>,
    pub clip: fn(&[f32], f32, &mut [f32]),
    pub encode: fn(&[f32], f32, &mut Bits),
    pub decode: fn(&[u8], f32, &mut Vec<f32>),
}

impl Methods {
    pub const fn of<F: Definition>() -> Self {
        Self {
            block: F::BLOCK,
            scales_rows: F::SCALES_ROWS,
            bits: F::BITS,
            largest: F::LARGEST,
            packed: if F::PACKED > 0 { Some(F::PACKED) } else { None },
            tensor_scale: if F::SCALES_TENSOR { Some(F::tensor_scale) } else { None },
            rows: rows::<F>,
            stochastic: stochastic::<F>,
            square: if F::SQUARE { Some(square::<F>) } else { None },
            clip: F::clip,
            encode: F::encode,
            decode: F::decode,
        }
    }
}

fn rows<F: Definition>(x: &mut [f32], span: usize, t: f32) {
    dispatch(
        #[inline(always)]
        || {
            for row in x.chunks_mut(span) {
                F::row(row, t, Nearest);
            }
        },
    );
}

fn stochastic<F: Definition>(x: &mut [f32], t: f32, key: NoiseKey, row: Row, first_element: u64) {
    dispatch(
        #[inline(always)]
        || {
            let mut noise = vec![0.0; x.len()];
            fill_uniform(key, row, first_element, &mut noise);
            F::row(x, t, Stochastic(&noise));
        },
    );
}

fn square<F: Definition>(x: &mut [f32], t: f32, noise: Option<&[f32]>) {
    dispatch(
        #[inline(always)]
        || match noise {
            None => F::square(x, t, Nearest),
            Some(noise) => F::square(x, t, Stochastic(noise)),
        },
    );
}

/// Runs `quantize` on each block of `x`; whole ones have a length that the compiler knows. `quantize` must be a closure
/// marked `#[inline(always)]`, for a plain function would not be compiled for the SIMD level.
#[inline(always)]
pub(super) fn blocks<const BLOCK: usize, R: Round>(x: &mut [f32], r: R, quantize: impl Fn(&mut [f32], R)) {
    let (whole, rest) = x.as_chunks_mut::<BLOCK>();
    let used = whole.len() * BLOCK;
    for (j, block) in whole.iter_mut().enumerate() {
        quantize(block, r.from(j * BLOCK));
    }
    if !rest.is_empty() {
        quantize(rest, r.from(used));
    }
}
