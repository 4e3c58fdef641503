//! Number formats, equal to the bit to those of [`hardy_numerics::formats`]: one thread replaces one block, after a look
//! at its largest magnitude; what has one scale for a row or a tensor is given that magnitude.

mod float;
mod fp8;
mod hif4;
mod int;
mod mx;
mod nvfp4;
#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests;

use crate::exact::{Exact, is_finite, is_nan, magnitude, with_sign};
use crate::philox::{Address, uniform, word};
use crate::tally::Sums;
use cubecl::prelude::*;
use hardy_numerics::Format;

/// A grid of floating-point numbers without its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Grid {
    mantissa: u32,
    /// Exponent of the smallest normal number; below it the grid is even.
    min_exponent: i32,
    max_exponent: i32,
    /// The bits of the largest number.
    largest: u32,
}

const fn grid(mantissa: u32, min_exponent: i32, max_exponent: i32, largest: f32) -> Grid {
    Grid { mantissa, min_exponent, max_exponent, largest: largest.to_bits() }
}

const E2M1: Grid = grid(1, 0, 2, 6.0);
const E2M3: Grid = grid(3, 0, 2, 7.5);
const E3M2: Grid = grid(2, -2, 4, 28.0);
const E4M3: Grid = grid(3, -6, 8, 448.0);
const E5M2: Grid = grid(2, -14, 15, 57344.0);
const E5M10: Grid = grid(10, -14, 15, 65504.0);

/// How the values of a block become their images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// Under a power of two, rounded down or, with `up`, so that nothing saturates.
    Mx { grid: Grid, up: bool },
    /// Under E4M3 and the f32 of the tensor, which is 1 unless `tensor`.
    Nvfp4 { tensor: bool },
    /// Under three levels of scales.
    Hif4,
    /// Under the f32 of the tensor.
    Fp8(Grid),
    /// Integers under an f32 of the block, or of the row.
    Int { levels: u32, row: bool },
    /// f32 without its lowest bits.
    Short(u32),
    /// IEEE 754 binary16.
    Fp16,
}

/// A format as kernels take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    pub scheme: Scheme,
    pub stochastic: bool,
    /// Values that one thread replaces: a block, or where there are none, 16.
    pub block: u32,
    /// Whether the errors are measured.
    pub counts: bool,
}

impl Stored {
    pub fn new(format: Format, stochastic: bool, counts: bool) -> Self {
        let mx = |grid, up| Scheme::Mx { grid, up };
        let scheme = match format {
            Format::Mxfp4 => mx(E2M1, false),
            Format::Mxfp4Rceil => mx(E2M1, true),
            Format::Mxfp6E2m3 => mx(E2M3, false),
            Format::Mxfp6E3m2 => mx(E3M2, false),
            Format::Mxfp8E4m3 => mx(E4M3, false),
            Format::Mxfp8E5m2 => mx(E5M2, false),
            Format::Nvfp4 => Scheme::Nvfp4 { tensor: true },
            Format::Nvfp4Block => Scheme::Nvfp4 { tensor: false },
            Format::Hif4 => Scheme::Hif4,
            Format::Fp8E4m3 => Scheme::Fp8(E4M3),
            Format::Fp8E5m2 => Scheme::Fp8(E5M2),
            Format::Int8 => Scheme::Int { levels: 127, row: true },
            Format::Int4G32 => Scheme::Int { levels: 7, row: false },
            Format::Bf16 => Scheme::Short(16),
            Format::Fp16 => Scheme::Fp16,
            Format::Tf32 => Scheme::Short(13),
        };
        let block = if format.block() == 1 { 16 } else { format.block() as u32 };
        Self { scheme, stochastic, block, counts }
    }

    /// Whether it is given the largest magnitude of a row or of a tensor.
    pub fn wants_largest(self) -> bool {
        matches!(self.scheme, Scheme::Nvfp4 { tensor: true } | Scheme::Fp8(_) | Scheme::Int { row: true, .. })
    }

    /// Whether that is the row's even of a weight.
    pub fn is_by_row(self) -> bool {
        matches!(self.scheme, Scheme::Int { .. })
    }
}

/// Neighbours under one scale: `count` values from `start` on, in rows of `columns` that are `stride` apart, the noise of
/// the first at `element`.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Block {
    pub start: u32,
    pub columns: u32,
    pub stride: u32,
    pub count: u32,
    pub element: u32,
    /// 1 where it enters the tally.
    pub counted: u32,
}

#[cube]
impl Block {
    /// How far from the first value `i` lies.
    fn offset(&self, i: u32) -> u32 {
        let mut offset = i;
        if self.columns < self.count {
            offset = i / self.columns * self.stride + i % self.columns;
        }
        offset
    }

    /// Where value `i` lies.
    fn place(&self, i: u32) -> usize {
        (self.start + self.offset(i)) as usize
    }
}

/// Replaces value `i`, and measures what that did.
#[cube]
fn put(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    i: u32,
    after: f32,
    sums: &mut Sums,
    #[comptime] cast: Stored,
) {
    let place = block.place(i);
    if comptime!(cast.counts) {
        if block.counted == 1u32 {
            sums.count(e, x[place], after);
        }
    }
    x[place] = after;
}

/// The bits of the magnitude of `v` as they count in a scale: of NaN 0, of infinity those of the largest finite number.
#[cube]
pub(crate) fn magnitude_bits(v: f32) -> u32 {
    let bits = u32::reinterpret(v) & 0x7FFF_FFFFu32;
    select(bits > 0x7F80_0000u32, 0u32, select(bits == 0x7F80_0000u32, 0x7F7F_FFFFu32, bits))
}

/// The largest [`magnitude_bits`] of values `first .. end` of a block.
#[cube]
fn largest_bits(x: &Array<f32>, block: &Block, first: u32, end: u32) -> u32 {
    let mut largest = u32::new(0);
    for i in first..end {
        let bits = magnitude_bits(x[block.place(i)]);
        largest = select(bits > largest, bits, largest);
    }
    largest
}

/// 2^`k` for −149 ≤ `k` ≤ 127.
#[cube]
fn exp2(k: i32) -> f32 {
    let mut bits = u32::cast_from(k + 127i32) << 23u32;
    if k < -126i32 {
        bits = 1u32 << u32::cast_from(k + 149i32);
    }
    f32::reinterpret(bits)
}

/// The magnitude of `v`, infinity as the largest finite number, NaN as 0.
#[cube]
fn finite_magnitude(v: f32) -> f32 {
    f32::reinterpret(magnitude_bits(v))
}

/// `a` with the sign of `v`; NaN stays what it is.
#[cube]
fn signed(v: f32, a: f32) -> f32 {
    select(is_nan(v), v, with_sign(a, v))
}

/// Replaces a block of `x` by its image. `row_largest` is the largest magnitude of its row or tensor, in bits.
#[cube]
pub(crate) fn quantize(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] cast: Stored,
    #[comptime] scheme: Scheme,
) {
    match scheme {
        Scheme::Mx { grid, up } => mx::quantize_mx(e, x, block, address, sums, grid, up, cast),
        Scheme::Nvfp4 { tensor } => {
            nvfp4::quantize_nvfp4(e, x, block, address, sums, row_largest, tensor, cast)
        }
        Scheme::Hif4 => hif4::quantize_hif4(e, x, block, address, sums, cast),
        Scheme::Fp8(grid) => fp8::quantize_fp8(e, x, block, address, sums, row_largest, grid, cast),
        Scheme::Int { levels, row } => {
            int::quantize_int(e, x, block, address, sums, row_largest, levels, row, cast)
        }
        Scheme::Short(dropped) => float::quantize_short(e, x, block, address, sums, dropped, cast),
        Scheme::Fp16 => float::quantize_fp16(e, x, block, address, sums, cast),
    }
}

/// The noise of value `i`, uniform in [0, 1); 0 where rounding is to nearest.
#[cube]
fn chance(address: &Address, block: &Block, i: u32, #[comptime] stochastic: bool) -> f32 {
    if comptime!(stochastic) {
        uniform(word(address, block.element + block.offset(i)))
    } else {
        f32::new(0.0)
    }
}

/// The multiple of a power of two, `step` in bits, next to the magnitude `a < 2²³·step`.
#[cube]
fn to_multiple(e: &Exact, a: f32, step: u32, noise: f32, #[comptime] stochastic: bool) -> f32 {
    if comptime!(stochastic) {
        let steps = e.apart(a * f32::reinterpret(0x7F00_0000u32 - step));
        let below = steps.floor();
        let up = select(noise < steps - below, 1.0f32, 0.0f32);
        (below + up) * f32::reinterpret(step)
    } else {
        // At 2²³ steps the spacing of f32 is the step, so that adding and taking away that much rounds.
        let magic = f32::reinterpret(step + 0x0B80_0000u32);
        e.apart(a + magic) - magic
    }
}

/// The magnitude `a` on a grid continued beyond its largest number.
#[cube]
fn to_grid(e: &Exact, a: f32, noise: f32, #[comptime] grid: Grid, #[comptime] stochastic: bool) -> f32 {
    let smallest = comptime!(((grid.min_exponent + 127) as u32) << 23);
    let mut exponent = u32::reinterpret(a) & 0x7F80_0000u32;
    if exponent < smallest {
        exponent = smallest.runtime();
    }
    to_multiple(e, a, exponent - comptime!(grid.mantissa << 23), noise, stochastic)
}

/// What is added to the bits of a number before `dropped` low bits are cut off, and the cut; `noise` is a multiple of
/// 2⁻²⁴ times 2^`dropped`, cut to an integer.
#[cube]
pub(crate) fn round_bits(v: f32, noise: u32, #[comptime] dropped: u32, #[comptime] stochastic: bool) -> f32 {
    let bits = u32::reinterpret(v);
    let mut carry = noise;
    if comptime!(!stochastic) {
        carry = comptime!((1u32 << (dropped - 1)) - 1) + ((bits >> dropped) & 1u32);
    }
    let rounded = (bits + carry) & comptime!(u32::MAX << dropped);
    select(is_finite(v), f32::reinterpret(rounded), v)
}

/// The scale under which `levels` is the largest magnitude, 1 where that would be 0.
#[cube]
fn scale(e: &Exact, largest_bits: u32, levels: f32) -> f32 {
    let s = e.quotient(f32::reinterpret(largest_bits), levels);
    select(u32::reinterpret(s) == 0u32, 1.0f32, s)
}
