//! Symmetric integers under an f32 scale s = amax/`LEVELS`: INT8 with one scale for a row, INT4 with one for each
//! group of 32. Value s·round(x/s), half to even.

use super::bits::{amax, at_most, image, magnitude};
use super::definition::{Definition, blocks};
use super::pack::{Bits, codes, signed};
use super::round::{Nearest, Round};

/// Elements under one scale of `int4_g32`.
pub const GROUP: usize = 32;
/// The largest magnitude of `int8`.
const INT8: f32 = 127.0;
/// The largest magnitude of `int4_g32`.
const INT4: f32 = 7.0;

/// 8 bits, one scale for a row.
pub(crate) struct Int8;

impl Definition for Int8 {
    const SCALES_ROWS: bool = true;
    const BITS: f64 = 8.0;
    const LARGEST: f64 = INT8 as f64;

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], _: f32, r: R) {
        quantize(x, INT8, r);
    }
}

/// 4 bits, one scale for each group.
pub(crate) struct Int4G32;

impl Definition for Int4G32 {
    const BLOCK: usize = GROUP;
    const BITS: f64 = 5.0;
    const LARGEST: f64 = INT4 as f64;
    const PACKED: usize = 20;

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], _: f32, r: R) {
        blocks::<GROUP, R>(
            x,
            r,
            #[inline(always)]
            |block, r| quantize(block, INT4, r),
        );
    }

    fn encode(block: &[f32], _: f32, out: &mut Bits) {
        let s = scale(amax(block), INT4);
        out.bytes.extend(s.to_le_bytes());
        for &v in block {
            out.element(v, element(Nearest, 0, v, s, INT4) as u32, 3);
        }
    }

    fn decode(bytes: &[u8], _: f32, x: &mut Vec<f32>) {
        let (scale, elements) = bytes.split_at(4);
        let s = scale.try_into().map_or(f32::NAN, f32::from_le_bytes);
        x.extend(codes(elements, 4).map(|code| signed(code, 3, |q| q as f32 * s)));
    }
}

/// The scale of values whose largest magnitude is `amax`, 1 where that would be 0.
#[inline(always)]
fn scale(amax: f32, levels: f32) -> f32 {
    let s = amax / levels;
    if s == 0.0 { 1.0 } else { s }
}

/// The magnitude of the element of `v` under the scale `s`.
#[inline(always)]
fn element<R: Round>(r: R, i: usize, v: f32, s: f32, levels: f32) -> f32 {
    r.to_multiple(i, at_most(magnitude(v) / s, levels), 1.0_f32.to_bits())
}

/// Replaces the values under one scale by their images.
#[inline(always)]
fn quantize<R: Round>(x: &mut [f32], levels: f32, r: R) {
    let s = scale(amax(x), levels);
    for (i, v) in x.iter_mut().enumerate() {
        *v = image(*v, element(r, i, *v, s, levels) * s);
    }
}
