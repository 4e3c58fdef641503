//! FP8 with one f32 scale for the tensor: a saturating cast of x/s with s = amax/448 (E4M3) or amax/57344 (E5M2)
//! (OCP 8-bit Floating Point Specification v1.0, table 1).

use super::bits::{at_most, image, magnitude};
use super::round::{Minifloat, Round};

/// The scale of a tensor whose largest magnitude is `amax`, 1 where that would be 0.
pub(crate) fn tensor_scale<E: Minifloat>(amax: f32) -> f32 {
    let s = amax / E::MAX;
    if s == 0.0 { 1.0 } else { s }
}

/// Replaces values by their images under the scale `s`.
#[inline(always)]
pub(crate) fn quantize<E: Minifloat, R: Round>(x: &mut [f32], s: f32, r: R) {
    for (i, v) in x.iter_mut().enumerate() {
        let q = E::round(r, i, at_most(magnitude(*v) / s, E::MAX));
        *v = image(*v, q * s);
    }
}
