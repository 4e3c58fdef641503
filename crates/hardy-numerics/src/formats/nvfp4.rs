//! NVFP4: E2M1 elements in blocks of 16 under one E4M3 scale, and one f32 scale t for the tensor (NVIDIA, "Pretraining
//! Large Language Models with NVFP4", arXiv:2509.25149, §2 and appendix C).
//!
//! Block scale s = E4M3 of (block amax/6)/t, at least 2⁻⁶ and at most 448; element q = E2M1 of x·((1/t)/s), at most 6;
//! value q·(s·t). Where t would be subnormal it is the smallest normal f32. The image of a tensor of zeros is 0, whatever
//! their signs.

use super::bits::{amax, at_most, image, magnitude};
use super::definition::{Definition, blocks};
use super::pack::{Bits, code, codes, signed, value};
use super::round::{E2m1, E4m3, Minifloat, Nearest, Round};
use super::saturation;

/// Elements under one block scale.
pub const BLOCK: usize = 16;
/// The smallest block scale, 2⁻⁶.
const SMALLEST_SCALE: f32 = 0.015625;
/// What is beyond the range by no more than this, relative, is there by rounding of the scale's products.
const ROUNDING: f32 = 1.0 + 1.0 / 1_048_576.0;

/// NVFP4; `SCALED` has the scale of the tensor, without it t is 1.
pub(crate) struct Nvfp4<const SCALED: bool>;

/// With the scale of the tensor.
pub(crate) type Scaled = Nvfp4<true>;
/// With scales of blocks alone.
pub(crate) type Block = Nvfp4<false>;

impl<const SCALED: bool> Definition for Nvfp4<SCALED> {
    const BLOCK: usize = BLOCK;
    const SQUARE: bool = true;
    const SCALES_TENSOR: bool = SCALED;
    const BITS: f64 = 4.5;
    const LARGEST: f64 = (E2m1::MAX * E4m3::MAX) as f64;
    const PACKED: usize = 9;

    fn tensor_scale(amax: f32) -> f32 {
        tensor_scale(amax)
    }

    #[inline(always)]
    fn row<R: Round>(x: &mut [f32], t: f32, r: R) {
        if t == 0.0 {
            return quantize_zeros(x);
        }
        blocks::<BLOCK, R>(
            x,
            r,
            #[inline(always)]
            |block, r| quantize(block, t, r),
        );
    }

    #[inline(always)]
    fn square<R: Round>(x: &mut [f32], t: f32, r: R) {
        if t == 0.0 { quantize_zeros(x) } else { quantize(x, t, r) }
    }

    fn clip(x: &[f32], t: f32, grad: &mut [f32]) {
        if t == 0.0 {
            return;
        }
        let down = down(block_scale(amax(x), t), t);
        saturation::clip(x, grad, |_, v| magnitude(v) * down > E2m1::MAX * ROUNDING);
    }

    fn encode(block: &[f32], t: f32, out: &mut Bits) {
        let s = if t == 0.0 { SMALLEST_SCALE } else { block_scale(amax(block), t) };
        out.bytes.push(code::<E4m3>(s) as u8);
        for &v in block {
            out.element(v, code::<E2m1>(element(Nearest, 0, v, down(s, t))), 3);
        }
    }

    fn decode(bytes: &[u8], t: f32, x: &mut Vec<f32>) {
        if t == 0.0 {
            return x.extend([0.0; BLOCK]);
        }
        let up = value::<E4m3>(u32::from(bytes[0] & 0x7F)) * t;
        x.extend(codes(&bytes[1..], 4).map(|code| signed(code, 3, |q| value::<E2m1>(q) * up)));
    }
}

/// The scale t of a tensor whose largest magnitude is `amax`; 0 for a tensor of zeros.
fn tensor_scale(amax: f32) -> f32 {
    if amax == 0.0 {
        return 0.0;
    }
    (amax / (E4m3::MAX * E2m1::MAX)).max(f32::MIN_POSITIVE)
}

/// The block scale s; scales are rounded to nearest even whatever the elements are.
#[inline(always)]
fn block_scale(amax: f32, t: f32) -> f32 {
    let s = amax / E2m1::MAX / t;
    E4m3::round(Nearest, 0, s.clamp(SMALLEST_SCALE, E4m3::MAX))
}

/// Replaces a tensor of zeros by its image: every value but NaN becomes 0.
fn quantize_zeros(x: &mut [f32]) {
    x.iter_mut().filter(|v| !v.is_nan()).for_each(|v| *v = 0.0);
}

/// What values are multiplied by under the scales `s` and `t`.
#[inline(always)]
fn down(s: f32, t: f32) -> f32 {
    at_most(1.0 / t / s, f32::MAX)
}

/// The magnitude of the element of `v`.
#[inline(always)]
fn element<R: Round>(r: R, i: usize, v: f32, down: f32) -> f32 {
    E2m1::round(r, i, at_most(magnitude(v) * down, E2m1::MAX))
}

/// Replaces a block by its image.
#[inline(always)]
fn quantize<R: Round>(block: &mut [f32], t: f32, r: R) {
    let s = block_scale(amax(block), t);
    let (down, up) = (down(s, t), s * t);
    for (i, v) in block.iter_mut().enumerate() {
        *v = image(*v, element(r, i, *v, down) * up);
    }
}
