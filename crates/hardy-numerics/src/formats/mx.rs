//! Microscaling: small elements in blocks of 32 under one power-of-two scale (OCP Microscaling Formats v1.0, §5 and
//! §6.3).
//!
//! The scale is E8M0, 2^k with −127 ≤ k ≤ 127. A block of zeros has k = −127. Where the scale rule rounds up
//! (`rceil`), a block beyond 3.5·2^126 may have an image of 2^128, which is infinity in f32.

use super::bits::{MANTISSA_BITS, amax_bits, at_most, exp2, image, magnitude};
use super::definition::{Definition, blocks};
use super::pack::{Bits, code, codes, signed, value};
use super::round::{Minifloat, Nearest, Round};
use super::saturation;
use std::marker::PhantomData;

/// Elements under one scale.
pub const BLOCK: usize = 32;

/// How the exponent of the scale follows from the largest magnitude of the block.
pub(crate) trait ScaleRule {
    /// What is added to the bits of the largest magnitude before its exponent is taken.
    const CARRY: u32;
}

/// floor(log2 amax) − the exponent of the largest element (§6.3).
pub(crate) struct Down;

impl ScaleRule for Down {
    const CARRY: u32 = 0;
}

/// The smallest power of two ≥ amax/6; for E2M1.
pub(crate) struct Up;

impl ScaleRule for Up {
    // 6 = 1.5·2²: the quotient is above its power of two where the mantissa of amax is above 1.5.
    const CARRY: u32 = 0x3F_FFFF;
}

/// Elements `E` under scales by the rule `S`.
pub(crate) struct Mx<E, S>(PhantomData<(E, S)>);

/// Scales rounded down.
pub(crate) type Floor<E> = Mx<E, Down>;
/// Scales rounded up.
pub(crate) type Ceil<E> = Mx<E, Up>;

impl<E: Minifloat, S: ScaleRule> Definition for Mx<E, S> {
    const BLOCK: usize = BLOCK;
    const SQUARE: bool = true;
    const BITS: f64 = (1 + E::EXPONENT + E::MANTISSA) as f64 + 8.0 / BLOCK as f64;
    /// Times the largest scale, 2¹²⁷.
    const LARGEST: f64 = E::MAX as f64 * (1_u128 << 127) as f64;
    const PACKED: usize = 1 + BLOCK * (1 + E::EXPONENT + E::MANTISSA) as usize / 8;

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], t: f32, r: R) {
        blocks::<BLOCK, R>(
            x,
            r,
            #[inline(always)]
            |block, r| Self::square(block, t, r),
        );
    }

    #[inline(always)]
    fn square<R: Round>(x: &mut [f32], _: f32, r: R) {
        let k = exponent::<E, S>(amax_bits(x));
        let (down, up) = (exp2(-k), exp2(k));
        for (i, v) in x.iter_mut().enumerate() {
            *v = image(*v, element::<E, R>(r, i, *v, down) * up);
        }
    }

    fn clip(x: &[f32], _: f32, grad: &mut [f32]) {
        let largest = E::MAX * exp2(exponent::<E, S>(amax_bits(x)));
        saturation::clip(x, grad, |_, v| v.abs() > largest);
    }

    fn encode(block: &[f32], _: f32, out: &mut Bits) {
        let k = exponent::<E, S>(amax_bits(block));
        out.bytes.push((k + 127) as u8);
        for &v in block {
            out.element(v, code::<E>(element::<E, _>(Nearest, 0, v, exp2(-k))), E::EXPONENT + E::MANTISSA);
        }
    }

    fn decode(bytes: &[u8], _: f32, x: &mut Vec<f32>) {
        let up = if bytes[0] == 255 { f32::NAN } else { exp2(i32::from(bytes[0]) - 127) };
        let magnitude = E::EXPONENT + E::MANTISSA;
        x.extend(
            codes(&bytes[1..], magnitude + 1).map(|code| signed(code, magnitude, |q| value::<E>(q) * up)),
        );
    }
}

/// The exponent k of a block whose largest magnitude has these bits.
#[inline(always)]
fn exponent<E: Minifloat, S: ScaleRule>(amax_bits: u32) -> i32 {
    (((amax_bits + S::CARRY) >> MANTISSA_BITS) as i32 - 127 - E::MAX_EXPONENT).max(-127)
}

/// The magnitude of the element of `v`, where `down` is 2^−k.
#[inline(always)]
fn element<E: Minifloat, R: Round>(r: R, i: usize, v: f32, down: f32) -> f32 {
    at_most(E::round(r, i, magnitude(v) * down), E::MAX)
}
