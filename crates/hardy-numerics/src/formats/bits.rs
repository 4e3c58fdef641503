//! The bits of f32 and the largest magnitude of a slice.

/// Bits of the mantissa of f32.
pub(crate) const MANTISSA_BITS: u32 = 23;
/// The exponent field, which is also infinity.
pub(crate) const EXPONENT: u32 = 0x7F80_0000;

/// Elements that [`amax_bits`] takes at a time, at most the smallest block.
const LANES: usize = 16;

/// The bits of the magnitude of `v` as they count in a scale: of NaN 0, of infinity those of the largest finite number.
#[inline(always)]
pub(crate) fn magnitude_bits(v: f32) -> u32 {
    let bits = v.to_bits() & 0x7FFF_FFFF;
    if bits > EXPONENT { 0 } else { bits.min(EXPONENT - 1) }
}

/// The largest [`magnitude_bits`] of a slice. Integers, whose maximum may be taken in any order.
#[inline(always)]
pub(crate) fn amax_bits(x: &[f32]) -> u32 {
    let mut lanes = [0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for i in 0..LANES {
            lanes[i] = magnitude_bits(chunk[i]).max(lanes[i]);
        }
    }
    let mut largest = 0;
    for lane in lanes {
        largest = lane.max(largest);
    }
    for &v in rest {
        largest = magnitude_bits(v).max(largest);
    }
    largest
}

/// As [`amax_bits`], as a number.
#[inline(always)]
pub(crate) fn amax(x: &[f32]) -> f32 {
    f32::from_bits(amax_bits(x))
}

/// 2^`k` for −149 ≤ `k` ≤ 127.
#[inline(always)]
pub(crate) fn exp2(k: i32) -> f32 {
    if k >= -126 {
        f32::from_bits(((k + 127) as u32) << MANTISSA_BITS)
    } else {
        f32::from_bits(1 << (k + 149))
    }
}

/// The magnitude of `v`, infinity as the largest finite number, NaN as NaN.
#[inline(always)]
pub(crate) fn magnitude(v: f32) -> f32 {
    let a = v.abs();
    if a == f32::INFINITY { f32::MAX } else { a }
}

/// `a` with the sign of `v`; NaN stays what it is.
#[inline(always)]
pub(crate) fn image(v: f32, a: f32) -> f32 {
    if v.is_nan() { v } else { a.copysign(v) }
}

/// The smaller of two numbers by one comparison; `a` may be NaN.
#[inline(always)]
pub(crate) fn at_most(a: f32, bound: f32) -> f32 {
    if a < bound { a } else { bound }
}
