//! Number formats, equal to the bit to those of [`hardy_numerics::formats`]: one thread replaces one block, after a look
//! at its largest magnitude; what has one scale for a row or a tensor is given that magnitude.

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
        Scheme::Mx { grid, up } => quantize_mx(e, x, block, address, sums, grid, up, cast),
        Scheme::Nvfp4 { tensor } => quantize_nvfp4(e, x, block, address, sums, row_largest, tensor, cast),
        Scheme::Hif4 => quantize_hif4(e, x, block, address, sums, cast),
        Scheme::Fp8(grid) => quantize_fp8(e, x, block, address, sums, row_largest, grid, cast),
        Scheme::Int { levels, row } => {
            quantize_int(e, x, block, address, sums, row_largest, levels, row, cast)
        }
        Scheme::Short(dropped) => quantize_short(e, x, block, address, sums, dropped, cast),
        Scheme::Fp16 => quantize_fp16(e, x, block, address, sums, cast),
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

/// Microscaling: see [`hardy_numerics::formats::mx`].
#[cube]
fn quantize_mx(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] grid: Grid,
    #[comptime] up: bool,
    #[comptime] cast: Stored,
) {
    let mut bits = largest_bits(x, block, 0u32, block.count);
    if comptime!(up) {
        bits += 0x3F_FFFFu32;
    }
    let mut k = i32::cast_from(bits >> 23u32) - comptime!(127 + grid.max_exponent);
    if k < -127i32 {
        k = -127i32;
    }
    let (down, up) = (exp2(-k), exp2(k));
    let largest = f32::reinterpret(comptime!(grid.largest).runtime());
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = to_grid(
            e,
            finite_magnitude(v) * down,
            chance(address, block, i, cast.stochastic),
            grid,
            cast.stochastic,
        );
        put(e, x, block, i, signed(v, select(a < largest, a, largest) * up), sums, cast);
    }
}

/// NVFP4: see [`hardy_numerics::formats::nvfp4`].
#[cube]
fn quantize_nvfp4(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] tensor: bool,
    #[comptime] cast: Stored,
) {
    let mut t = f32::new(1.0);
    if comptime!(tensor) {
        t = e.quotient(f32::reinterpret(row_largest), 2688.0f32);
        if u32::reinterpret(t) < 0x0080_0000u32 {
            t = f32::reinterpret(u32::new(0x0080_0000));
        }
    }
    let amax = f32::reinterpret(largest_bits(x, block, 0u32, block.count));
    let s = e.quotient(e.quotient(amax, 6.0f32), t);
    let s = select(s < 0.015_625f32, 0.015_625f32, s);
    let s = to_grid(e, select(s > 448.0f32, 448.0f32, s), 0.0f32, E4M3, false);
    let down = e.quotient(e.quotient(1.0f32, t), s);
    let down = select(u32::reinterpret(down) < 0x7F80_0000u32, down, f32::reinterpret(u32::new(0x7F7F_FFFF)));
    let up = e.product(s, t);
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = finite_magnitude(v) * down;
        let a = select(a < 6.0f32, a, 6.0f32);
        let q = to_grid(e, a, chance(address, block, i, cast.stochastic), E2M1, cast.stochastic);
        let mut image = signed(v, q * up);
        if comptime!(tensor) {
            // The image of a tensor of zeros is 0, whatever their signs.
            if row_largest == 0u32 && !is_nan(v) {
                image = f32::new(0.0);
            }
        }
        put(e, x, block, i, image, sums, cast);
    }
}

/// HiFloat4: see [`hardy_numerics::formats::hif4`].
#[cube]
fn quantize_hif4(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] cast: Stored,
) {
    let amax = f32::reinterpret(largest_bits(x, block, 0u32, block.count));
    let seventh = f32::reinterpret(u32::new(0x3E12_0000));
    let base = round_bits(round_bits(e.product(amax, seventh), 0u32, 16u32, false), 0u32, 21u32, false);
    let base = select(base < 3.552_713_7e-15f32, 3.552_713_7e-15f32, base);
    let base = select(base > 49152.0f32, 49152.0f32, base);
    let reciprocal = round_bits(e.quotient(1.0f32, base), 0u32, 16u32, false);
    let mut eight = u32::new(0);
    while eight < block.count {
        let middle = min(eight + 4u32, block.count);
        let end = min(eight + 8u32, block.count);
        let a = e.apart(f32::reinterpret(largest_bits(x, block, eight, middle)) * reciprocal);
        let b = e.apart(f32::reinterpret(largest_bits(x, block, middle, end)) * reciprocal);
        let doubled = a >= 4.0f32 || b >= 4.0f32;
        let threshold = select(doubled, 4.0f32, 2.0f32);
        let coarse = select(doubled, 1u32, 0u32);
        for i in eight..end {
            let four = select(i < middle, a, b);
            let exponent = coarse + select(four >= threshold, 1u32, 0u32);
            let down = reciprocal * f32::reinterpret((127u32 - exponent) << 23u32);
            let up = base * f32::reinterpret((127u32 + exponent) << 23u32);
            let v = x[block.place(i)];
            let size = e.apart(finite_magnitude(v) * down);
            let size = select(size < 1.75f32, size, 1.75f32);
            let q = if comptime!(cast.stochastic) {
                to_multiple(e, size, 0x3E80_0000u32, chance(address, block, i, cast.stochastic), true)
            } else {
                (size * 4.0f32 + 0.5f32).floor() * 0.25f32
            };
            put(e, x, block, i, select(magnitude(v) == 0.0f32, 0.0f32, signed(v, q * up)), sums, cast);
        }
        eight += 8u32;
    }
}

/// FP8: see [`hardy_numerics::formats::fp8`].
#[cube]
fn quantize_fp8(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] grid: Grid,
    #[comptime] cast: Stored,
) {
    let largest = f32::reinterpret(comptime!(grid.largest).runtime());
    let s = scale(e, row_largest, largest);
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = e.quotient(finite_magnitude(v), s);
        let a = select(a < largest, a, largest);
        let q = to_grid(e, a, chance(address, block, i, cast.stochastic), grid, cast.stochastic);
        put(e, x, block, i, signed(v, q * s), sums, cast);
    }
}

/// The scale under which `levels` is the largest magnitude, 1 where that would be 0.
#[cube]
fn scale(e: &Exact, largest_bits: u32, levels: f32) -> f32 {
    let s = e.quotient(f32::reinterpret(largest_bits), levels);
    select(u32::reinterpret(s) == 0u32, 1.0f32, s)
}

/// Integers: see [`hardy_numerics::formats::int`].
#[cube]
fn quantize_int(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    row_largest: u32,
    #[comptime] levels: u32,
    #[comptime] row: bool,
    #[comptime] cast: Stored,
) {
    let levels = f32::cast_from(levels.runtime());
    let mut bits = row_largest;
    if comptime!(!row) {
        bits = largest_bits(x, block, 0u32, block.count);
    }
    let s = scale(e, bits, levels);
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = e.quotient(finite_magnitude(v), s);
        let a = select(a < levels, a, levels);
        let q =
            to_multiple(e, a, 0x3F80_0000u32, chance(address, block, i, cast.stochastic), cast.stochastic);
        put(e, x, block, i, signed(v, q * s), sums, cast);
    }
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

#[cube]
fn quantize_short(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] dropped: u32,
    #[comptime] cast: Stored,
) {
    for i in 0u32..block.count {
        let mut noise = u32::new(0);
        if comptime!(cast.stochastic) {
            // The 24 upper bits of the word, of which the uppermost decide.
            noise = word(address, block.element + block.offset(i)) >> comptime!(32 - dropped);
        }
        put(e, x, block, i, round_bits(x[block.place(i)], noise, dropped, cast.stochastic), sums, cast);
    }
}

#[cube]
fn quantize_fp16(
    e: &Exact,
    x: &mut Array<f32>,
    block: &Block,
    address: &Address,
    sums: &mut Sums,
    #[comptime] cast: Stored,
) {
    for i in 0u32..block.count {
        let v = x[block.place(i)];
        let a = finite_magnitude(v);
        let a = select(a < 65536.0f32, a, 65536.0f32);
        let q = to_grid(e, a, chance(address, block, i, cast.stochastic), E5M10, cast.stochastic);
        put(
            e,
            x,
            block,
            i,
            signed(v, select(q > 65504.0f32, f32::reinterpret(u32::new(0x7F80_0000)), q)),
            sums,
            cast,
        );
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use crate::perturb::perturb_flat;
    use crate::rule::Error;
    use crate::testing::*;
    use hardy_numerics::Format;
    use safetensors::SafeTensors;
    use std::path::PathBuf;

    fn values(tensors: &SafeTensors, name: &str) -> Option<(Vec<f32>, usize)> {
        let tensor = tensors.tensor(name).ok()?;
        let width = *tensor.shape().last()?;
        let values =
            tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Some((values, width))
    }

    #[test]
    fn golden_images_are_equal_to_the_bit() {
        let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
        let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join(named)
            .join("formats.safetensors");
        let Ok(bytes) = std::fs::read(&file) else {
            println!("skipped: there is no {}", file.display());
            return;
        };
        let tensors = SafeTensors::deserialize(&bytes).expect("formats.safetensors is valid");
        let (client, mut compared) = (client(), 0);
        for case in tensors.names().iter().filter_map(|name| name.strip_prefix("x/")) {
            for &format in Format::ALL {
                let (x, width) = values(&tensors, &format!("x/{case}")).expect("x is there");
                let name = format!("{}/{case}", format.name());
                let Some((expected, _)) = values(&tensors, &name) else { continue };
                let error = Error { what: format.into(), keys: KEY.into() };
                let shape = [x.len() / width, width];
                let found = perturb_flat(&client, upload(&client, &x), shape, &error, None);
                assert_bits(&download(&client, found, x.len()), &expected, &name);
                compared += x.len();
            }
        }
        assert!(compared > 0);
    }
}
