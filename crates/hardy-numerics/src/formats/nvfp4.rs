//! NVFP4: E2M1 elements in blocks of 16 under one E4M3 scale, and one f32 scale t for the tensor (NVIDIA, "Pretraining
//! Large Language Models with NVFP4", arXiv:2509.25149, §2 and appendix C).
//!
//! Block scale s = E4M3 of (block amax/6)/t, at least 2⁻⁶ and at most 448; element q = E2M1 of x·((1/t)/s), at most 6;
//! value q·(s·t). Where t would be subnormal it is the smallest normal f32. The image of a tensor of zeros is 0, whatever
//! their signs.

use super::bits::{amax, at_most, image, magnitude};
use super::round::{E2m1, E4m3, Minifloat, Nearest, Round};

/// Elements under one block scale.
pub const BLOCK: usize = 16;
/// The smallest block scale, 2⁻⁶.
pub(crate) const SMALLEST_SCALE: f32 = 0.015625;

/// The scale t of a tensor whose largest magnitude is `amax`; 0 for a tensor of zeros.
pub(crate) fn tensor_scale(amax: f32) -> f32 {
    if amax == 0.0 {
        return 0.0;
    }
    (amax / (E4m3::MAX * E2m1::MAX)).max(f32::MIN_POSITIVE)
}

/// The block scale s; scales are rounded to nearest even whatever the elements are.
#[inline(always)]
pub(crate) fn block_scale(amax: f32, t: f32) -> f32 {
    let s = amax / E2m1::MAX / t;
    E4m3::round(Nearest, 0, s.clamp(SMALLEST_SCALE, E4m3::MAX))
}

/// Replaces a tensor of zeros by its image: every value but NaN becomes 0.
pub(crate) fn quantize_zeros(x: &mut [f32]) {
    x.iter_mut().filter(|v| !v.is_nan()).for_each(|v| *v = 0.0);
}

/// What values are multiplied by under the scales `s` and `t`.
#[inline(always)]
pub(crate) fn down(s: f32, t: f32) -> f32 {
    at_most(1.0 / t / s, f32::MAX)
}

/// The magnitude of the element of `v`.
#[inline(always)]
pub(crate) fn element<R: Round>(r: R, i: usize, v: f32, down: f32) -> f32 {
    E2m1::round(r, i, at_most(magnitude(v) * down, E2m1::MAX))
}

/// Replaces a block by its image.
#[inline(always)]
pub(crate) fn quantize<R: Round>(block: &mut [f32], t: f32, r: R) {
    let s = block_scale(amax(block), t);
    let (down, up) = (down(s, t), s * t);
    for (i, v) in block.iter_mut().enumerate() {
        *v = image(*v, element(r, i, *v, down) * up);
    }
}
