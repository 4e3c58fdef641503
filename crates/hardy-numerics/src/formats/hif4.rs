//! HiFloat4: sign and magnitude in quarters, in groups of 64 under a scale of three levels (arXiv:2602.11287).
//!
//! The base scale is E6M2 of BF16(amax·BF16(1/7)), in [2⁻⁴⁸, 49152]; each 8 elements have one more bit of exponent, and
//! each 4 another. Elements have the step 1/4 and at most 1.75; ties go away from zero.

use super::bits::{MANTISSA_BITS, amax, at_most, image, magnitude, magnitude_bits};
use super::definition::{Definition, blocks};
use super::float::{BF16_DROPPED, round_bits};
use super::pack::{Bits, codes, signed};
use super::round::{Nearest, Round};
use super::saturation;

/// Elements under one base scale.
pub const BLOCK: usize = 64;
const SMALLEST_SCALE: f32 = 1.0 / 281_474_976_710_656.0;
const LARGEST_SCALE: f32 = 49152.0;
/// The largest element.
const LARGEST: f32 = 1.75;
/// Mantissa bits that E6M2 drops from f32.
const E6M2_DROPPED: u32 = 21;
/// E6M2 has the bias 48 and no sign.
const E6M2_BIAS: u32 = 48;

/// HiFloat4.
pub(crate) struct Hif4;

impl Definition for Hif4 {
    const BLOCK: usize = BLOCK;
    const BITS: f64 = 4.5;
    const LARGEST: f64 = 1.75 * 4.0 * 49152.0;
    const PACKED: usize = 36;

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], _: f32, r: R) {
        blocks::<BLOCK, R>(
            x,
            r,
            #[inline(always)]
            |group, r| quantize(group, r),
        );
    }

    fn clip(x: &[f32], _: f32, grad: &mut [f32]) {
        let reciprocal = reciprocal(base_scale(amax(x)));
        let (coarse, fine) = exponents(&largest_of_fours(x), reciprocal);
        saturation::clip(x, grad, |i, v| {
            let down = reciprocal / factor(coarse[i / 8], fine[i / 4]);
            magnitude(v) * down > LARGEST
        });
    }

    fn encode(group: &[f32], _: f32, out: &mut Bits) {
        let base = base_scale(amax(group));
        out.bytes.push(((base.to_bits() >> (MANTISSA_BITS - 2)) - ((127 - E6M2_BIAS) << 2)) as u8);
        let reciprocal = reciprocal(base);
        let (coarse, fine) = exponents(&largest_of_fours(group), reciprocal);
        out.bytes.push(coarse.iter().rev().fold(0, |bits, &bit| bits << 1 | bit as u8));
        out.bytes.extend(fine.iter().rev().fold(0, |bits, &bit| bits << 1 | bit as u16).to_le_bytes());
        for (i, &v) in group.iter().enumerate() {
            let factor = factor(coarse[i / 8], fine[i / 4]);
            let q = element(Nearest, i, v, reciprocal / factor);
            let v = if v == 0.0 { 0.0 } else { v };
            out.element(v, (q * 4.0) as u32, 3);
        }
    }

    fn decode(bytes: &[u8], _: f32, x: &mut Vec<f32>) {
        let base = match bytes[0] {
            255 => f32::NAN,
            code => f32::from_bits((u32::from(code) + ((127 - E6M2_BIAS) << 2)) << (MANTISSA_BITS - 2)),
        };
        let (coarse, fine) = (u32::from(bytes[1]), u32::from(u16::from_le_bytes([bytes[2], bytes[3]])));
        x.extend(codes(&bytes[4..], 4).enumerate().map(|(i, code)| {
            let factor = factor(coarse >> (i / 8) & 1, fine >> (i / 4) & 1);
            signed(code, 3, |q| q as f32 * 0.25 * (base * factor))
        }));
    }
}

#[inline(always)]
fn bf16(x: f32) -> f32 {
    round_bits(Nearest, 0, x, BF16_DROPPED)
}

/// The base scale of a group whose largest magnitude is `amax`.
#[inline(always)]
fn base_scale(amax: f32) -> f32 {
    let seventh = bf16(1.0 / 7.0);
    round_bits(Nearest, 0, bf16(amax * seventh), E6M2_DROPPED).clamp(SMALLEST_SCALE, LARGEST_SCALE)
}

/// What values are multiplied by, before the exponents of their eight and four.
#[inline(always)]
fn reciprocal(base: f32) -> f32 {
    bf16(1.0 / base)
}

/// The exponents, 0 or 1, of the 8 eights and of the 16 fours, from the largest magnitude of each four.
#[inline(always)]
fn exponents(largest: &[f32; 16], reciprocal: f32) -> ([u32; 8], [u32; 16]) {
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
fn largest_of_fours(group: &[f32]) -> [f32; 16] {
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
fn factor(coarse: u32, fine: u32) -> f32 {
    f32::from_bits((127 + coarse + fine) << 23)
}

/// The magnitude of the element of `v`.
#[inline(always)]
fn element<R: Round>(r: R, i: usize, v: f32, down: f32) -> f32 {
    r.to_quarter_half_up(i, at_most(magnitude(v) * down, LARGEST))
}

/// Replaces a group by its image.
#[inline(always)]
fn quantize<R: Round>(group: &mut [f32], r: R) {
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
