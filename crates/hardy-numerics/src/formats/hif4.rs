//! HiFloat4: sign and magnitude in quarters, in groups of 64 under a scale of three levels (arXiv:2602.11287).
//!
//! The base scale is E6M2 of BF16(amax·BF16(1/7)), in [2⁻⁴⁸, 49152]; each 8 elements have one more bit of exponent, and
//! each 4 another. Elements have the step 1/4 and at most 1.75; ties go away from zero.

use super::bits::{amax, at_most, image, magnitude, magnitude_bits};
use super::float::{BF16_DROPPED, round_bits};
use super::round::{Nearest, Round};

/// Elements under one base scale.
pub const BLOCK: usize = 64;
const SMALLEST_SCALE: f32 = 1.0 / 281_474_976_710_656.0;
const LARGEST_SCALE: f32 = 49152.0;
/// The largest element.
pub(crate) const LARGEST: f32 = 1.75;
/// Mantissa bits that E6M2 drops from f32.
const E6M2_DROPPED: u32 = 21;

#[inline(always)]
fn bf16(x: f32) -> f32 {
    round_bits(Nearest, 0, x, BF16_DROPPED)
}

/// The base scale of a group whose largest magnitude is `amax`.
#[inline(always)]
pub(crate) fn base_scale(amax: f32) -> f32 {
    let seventh = bf16(1.0 / 7.0);
    round_bits(Nearest, 0, bf16(amax * seventh), E6M2_DROPPED).clamp(SMALLEST_SCALE, LARGEST_SCALE)
}

/// What values are multiplied by, before the exponents of their eight and four.
#[inline(always)]
pub(crate) fn reciprocal(base: f32) -> f32 {
    bf16(1.0 / base)
}

/// The exponents, 0 or 1, of the 8 eights and of the 16 fours, from the largest magnitude of each four.
#[inline(always)]
pub(crate) fn exponents(largest: &[f32; 16], reciprocal: f32) -> ([u32; 8], [u32; 16]) {
    let (mut coarse, mut fine) = ([0; 8], [0; 16]);
    for j in 0..8 {
        let (a, b) = (largest[2 * j] * reciprocal, largest[2 * j + 1] * reciprocal);
        let doubled = (a >= 4.0) | (b >= 4.0);
        let threshold = if doubled { 4.0 } else { 2.0 };
        coarse[j] = u32::from(doubled);
        fine[2 * j] = u32::from(a >= threshold);
        fine[2 * j + 1] = u32::from(b >= threshold);
    }
    (coarse, fine)
}

/// The largest magnitude of each 4 of a group, 0 beyond its end.
#[inline(always)]
pub(crate) fn largest_of_fours(group: &[f32]) -> [f32; 16] {
    if let Ok(whole) = group.try_into() {
        return fours(whole);
    }
    let mut padded = [0.0; BLOCK];
    padded[..group.len()].copy_from_slice(group);
    fours(&padded)
}

#[inline(always)]
fn fours(group: &[f32; BLOCK]) -> [f32; 16] {
    let mut largest = [0.0; 16];
    for j in 0..16 {
        let (a, b) = (magnitude_bits(group[4 * j]), magnitude_bits(group[4 * j + 1]));
        let (c, d) = (magnitude_bits(group[4 * j + 2]), magnitude_bits(group[4 * j + 3]));
        largest[j] = f32::from_bits(a.max(b).max(c.max(d)));
    }
    largest
}

/// The power of two that exponents give the elements of a four.
#[inline(always)]
pub(crate) fn factor(coarse: u32, fine: u32) -> f32 {
    f32::from_bits((127 + coarse + fine) << 23)
}

/// The magnitude of the element of `v`.
#[inline(always)]
pub(crate) fn element<R: Round>(r: R, i: usize, v: f32, down: f32) -> f32 {
    r.to_quarter_half_up(i, at_most(magnitude(v) * down, LARGEST))
}

/// Replaces a group by its image.
#[inline(always)]
pub(crate) fn quantize<R: Round>(group: &mut [f32], r: R) {
    let base = base_scale(amax(group));
    let reciprocal = reciprocal(base);
    let (coarse, fine) = exponents(&largest_of_fours(group), reciprocal);
    let (mut down, mut up) = ([0.0; BLOCK], [0.0; BLOCK]);
    for j in 0..16 {
        let factor = factor(coarse[j / 2], fine[j]);
        for i in 4 * j..4 * j + 4 {
            // The factor is 1, 2 or 4, so that its reciprocal is exact.
            down[i] = reciprocal * f32::from_bits((254 << 23) - factor.to_bits());
            up[i] = base * factor;
        }
    }
    for (i, v) in group.iter_mut().enumerate() {
        let image = image(*v, element(r, i, *v, down[i]) * up[i]);
        *v = if *v == 0.0 { 0.0 } else { image };
    }
}
