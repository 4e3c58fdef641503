//! Symmetric integers under an f32 scale s = amax/`LEVELS`: INT8 with one scale for a row, INT4 with one for each
//! group of 32. Value s·round(x/s), half to even.

use super::bits::{amax, at_most, image, magnitude};
use super::round::Round;

/// Elements under one scale of `int4_g32`.
pub const GROUP: usize = 32;
/// The largest magnitude of `int8`.
pub(crate) const INT8: f32 = 127.0;
/// The largest magnitude of `int4_g32`.
pub(crate) const INT4: f32 = 7.0;

/// The scale of values whose largest magnitude is `amax`, 1 where that would be 0.
#[inline(always)]
pub(crate) fn scale(amax: f32, levels: f32) -> f32 {
    let s = amax / levels;
    if s == 0.0 { 1.0 } else { s }
}

/// The magnitude of the element of `v` under the scale `s`.
#[inline(always)]
pub(crate) fn element<R: Round>(r: R, i: usize, v: f32, s: f32, levels: f32) -> f32 {
    r.to_multiple(i, at_most(magnitude(v) / s, levels), 1.0_f32.to_bits())
}

/// Replaces the values under one scale by their images.
#[inline(always)]
pub(crate) fn quantize<R: Round>(x: &mut [f32], levels: f32, r: R) {
    let s = scale(amax(x), levels);
    for (i, v) in x.iter_mut().enumerate() {
        *v = image(*v, element(r, i, *v, s, levels) * s);
    }
}
