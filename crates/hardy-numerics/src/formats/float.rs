//! Floating-point formats without a scale: BF16 and TF32, which are f32 with a shorter mantissa, and FP16 (IEEE 754
//! binary16). Values beyond the range become infinite, infinity stays.

use super::bits::{at_most, image};
use super::definition::Definition;
use super::round::{E5m10, Minifloat, Round};
use super::saturation;

/// Mantissa bits of f32 that BF16 drops.
pub(crate) const BF16_DROPPED: u32 = 16;
/// Mantissa bits of f32 that TF32 drops.
pub(crate) const TF32_DROPPED: u32 = 13;

/// f32 whose mantissa is `DROPPED` bits shorter: BF16, TF32.
pub(crate) struct Shortened<const DROPPED: u32>;

impl<const DROPPED: u32> Definition for Shortened<DROPPED> {
    const BITS: f64 = (32 - DROPPED) as f64;
    const LARGEST: f64 = f32::from_bits(0x7F7F_FFFF >> DROPPED << DROPPED) as f64;

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], _: f32, r: R) {
        for (i, v) in x.iter_mut().enumerate() {
            *v = round_bits(r, i, *v, DROPPED);
        }
    }

    fn clip(x: &[f32], _: f32, grad: &mut [f32]) {
        saturation::clip(x, grad, |_, v| v.abs() > Self::LARGEST as f32);
    }
}

/// IEEE 754 binary16.
pub(crate) struct Fp16;

impl Definition for Fp16 {
    const BITS: f64 = 16.0;
    const LARGEST: f64 = E5m10::MAX as f64;

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], _: f32, r: R) {
        for (i, v) in x.iter_mut().enumerate() {
            *v = fp16(r, i, *v);
        }
    }

    fn clip(x: &[f32], _: f32, grad: &mut [f32]) {
        saturation::clip(x, grad, |_, v| v.abs() > Self::LARGEST as f32);
    }
}

/// Rounds `v` to a number whose `dropped` low bits are 0.
#[inline(always)]
pub(crate) fn round_bits<R: Round>(r: R, i: usize, v: f32, dropped: u32) -> f32 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(r.carry(i, bits, dropped)) & (u32::MAX << dropped);
    if v.is_nan() || v.is_infinite() { v } else { f32::from_bits(rounded) }
}

/// Rounds `v` to FP16.
#[inline(always)]
pub(crate) fn fp16<R: Round>(r: R, i: usize, v: f32) -> f32 {
    let q = E5m10::round(r, i, at_most(v.abs(), 65536.0));
    image(v, if q > E5m10::MAX { f32::INFINITY } else { q })
}
