//! Microscaling: small elements in blocks of 32 under one power-of-two scale (OCP Microscaling Formats v1.0, §5 and
//! §6.3).
//!
//! The scale is E8M0, 2^k with −127 ≤ k ≤ 127. A block of zeros has k = −127. Where the scale rule rounds up
//! (`rceil`), a block beyond 3.5·2^126 may have an image of 2^128, which is infinity in f32.

use super::bits::{MANTISSA_BITS, amax_bits, at_most, exp2, image, magnitude};
use super::round::{Minifloat, Round};

/// Elements under one scale.
pub const BLOCK: usize = 32;

/// Stored bits for an element and its share of the scale.
pub(crate) fn bits_per_value<E: Minifloat>() -> f64 {
    f64::from(1 + E::EXPONENT + E::MANTISSA) + 8.0 / BLOCK as f64
}

/// How the exponent of the scale follows from the largest magnitude of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleRule {
    /// floor(log2 amax) − the exponent of the largest element (§6.3).
    Floor,
    /// The smallest power of two ≥ amax/6; for E2M1.
    Ceil,
}

/// The exponent k of a block whose largest magnitude has these bits.
#[inline(always)]
pub(crate) fn exponent<E: Minifloat>(amax_bits: u32, rule: ScaleRule) -> i32 {
    // 6 = 1.5·2²: the quotient is above its power of two where the mantissa of amax is above 1.5.
    let bits = match rule {
        ScaleRule::Floor => amax_bits,
        ScaleRule::Ceil => amax_bits + 0x3F_FFFF,
    };
    ((bits >> MANTISSA_BITS) as i32 - 127 - E::MAX_EXPONENT).max(-127)
}

/// The magnitude of the element of `v`, where `down` is 2^−k.
#[inline(always)]
pub(crate) fn element<E: Minifloat, R: Round>(r: R, i: usize, v: f32, down: f32) -> f32 {
    at_most(E::round(r, i, magnitude(v) * down), E::MAX)
}

/// Replaces a block by its image.
#[inline(always)]
pub(crate) fn quantize<E: Minifloat, R: Round>(block: &mut [f32], rule: ScaleRule, r: R) {
    let k = exponent::<E>(amax_bits(block), rule);
    let (down, up) = (exp2(-k), exp2(k));
    for (i, v) in block.iter_mut().enumerate() {
        *v = image(*v, element::<E, R>(r, i, *v, down) * up);
    }
}
