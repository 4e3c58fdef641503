//! Floating-point formats without a scale: BF16 and TF32, which are f32 with a shorter mantissa, and FP16 (IEEE 754
//! binary16). Values beyond the range become infinite, infinity stays.

use super::bits::{at_most, image};
use super::round::{E5m10, Minifloat, Round};

/// Mantissa bits of f32 that BF16 drops.
pub(crate) const BF16_DROPPED: u32 = 16;
/// Mantissa bits of f32 that TF32 drops.
pub(crate) const TF32_DROPPED: u32 = 13;

/// Rounds `v` to a number whose `dropped` low bits are 0.
#[inline(always)]
pub(crate) fn round_bits<R: Round>(r: R, i: usize, v: f32, dropped: u32) -> f32 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(r.carry(i, bits, dropped)) & (u32::MAX << dropped);
    if v.is_nan() || v.is_infinite() { v } else { f32::from_bits(rounded) }
}

/// Replaces values by f32 without `dropped` bits.
#[inline(always)]
pub(crate) fn quantize_bits<R: Round>(x: &mut [f32], dropped: u32, r: R) {
    for (i, v) in x.iter_mut().enumerate() {
        *v = round_bits(r, i, *v, dropped);
    }
}

/// Rounds `v` to FP16.
#[inline(always)]
pub(crate) fn fp16<R: Round>(r: R, i: usize, v: f32) -> f32 {
    let q = E5m10::round(r, i, at_most(v.abs(), 65536.0));
    image(v, if q > E5m10::MAX { f32::INFINITY } else { q })
}

/// Replaces values by FP16.
#[inline(always)]
pub(crate) fn quantize_fp16<R: Round>(x: &mut [f32], r: R) {
    for (i, v) in x.iter_mut().enumerate() {
        *v = fp16(r, i, *v);
    }
}
