//! Where values lie beyond the range of their format, so that their image is the largest number of the block whatever
//! they are. There the image does not follow the value, and a straight-through gradient may be clipped to 0.
//!
//! MX formats with the floor rule, NVFP4 and HiF4 saturate, for their scales are rounded; a scale that is the largest
//! magnitude itself (`fp8_*`, `int*`) leaves nothing beyond it. Formats without a scale end at their largest number.

use super::bits::{amax, amax_bits, exp2, magnitude};
use super::mx::ScaleRule;
use super::round::{E2m1, E2m3, E3m2, E4m3, E5m2, Minifloat};
use super::{Format, Kernel, check_rows, hif4, mx, nvfp4};

/// What is beyond the range by no more than this, relative, is there by rounding of the scale's products.
const ROUNDING: f32 = 1.0 + 1.0 / 1_048_576.0;

impl Format {
    /// Sets `grad` to 0 where `x` [rows, `width`], a tensor, lies beyond the range of its block.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows or `grad` has another length.
    pub fn clip_saturated(&self, x: &[f32], width: usize, grad: &mut [f32]) {
        assert_eq!(x.len(), grad.len(), "one gradient a value");
        if x.is_empty() {
            return;
        }
        check_rows(x.len(), width);
        let kernel = Kernel::new(*self, x);
        for (x, grad) in x.chunks(width).zip(grad.chunks_mut(width)) {
            let block = self.block();
            x.chunks(block).zip(grad.chunks_mut(block)).for_each(|(x, grad)| kernel.clip(x, grad));
        }
    }

    /// As [`Format::clip_saturated`] for square blocks.
    ///
    /// # Panics
    ///
    /// As [`Format::clip_saturated`], and if the format has no square blocks.
    pub fn clip_saturated_2d(&self, x: &[f32], width: usize, grad: &mut [f32]) {
        let Some(side) = self.side_2d() else { panic!("{} has no square blocks", self.name()) };
        assert_eq!(x.len(), grad.len(), "one gradient a value");
        if x.is_empty() {
            return;
        }
        check_rows(x.len(), width);
        let kernel = Kernel::new(*self, x);
        for (x, grad) in x.chunks(side * width).zip(grad.chunks_mut(side * width)) {
            for first in (0..width).step_by(side) {
                let columns = first..width.min(first + side);
                let square = |x: &[f32]| -> Vec<f32> {
                    x.chunks(width).flat_map(|row| row[columns.clone()].to_vec()).collect()
                };
                let mut clipped = square(grad);
                kernel.clip(&square(x), &mut clipped);
                for (grad, clipped) in grad.chunks_mut(width).zip(clipped.chunks(columns.len())) {
                    grad[columns.clone()].copy_from_slice(clipped);
                }
            }
        }
    }
}

impl Kernel {
    /// Clips the gradients of one block.
    fn clip(self, x: &[f32], grad: &mut [f32]) {
        use ScaleRule::{Ceil, Floor};
        match self.format {
            Format::Mxfp4 => clip_mx::<E2m1>(x, Floor, grad),
            Format::Mxfp4Rceil => clip_mx::<E2m1>(x, Ceil, grad),
            Format::Mxfp6E2m3 => clip_mx::<E2m3>(x, Floor, grad),
            Format::Mxfp6E3m2 => clip_mx::<E3m2>(x, Floor, grad),
            Format::Mxfp8E4m3 => clip_mx::<E4m3>(x, Floor, grad),
            Format::Mxfp8E5m2 => clip_mx::<E5m2>(x, Floor, grad),
            Format::Nvfp4 if self.scale == 0.0 => {}
            Format::Nvfp4 | Format::Nvfp4Block => {
                let down = nvfp4::down(nvfp4::block_scale(amax(x), self.scale), self.scale);
                clip(x, grad, |_, v| magnitude(v) * down > E2m1::MAX * ROUNDING);
            }
            Format::Hif4 => {
                let reciprocal = hif4::reciprocal(hif4::base_scale(amax(x)));
                let (coarse, fine) = hif4::exponents(&hif4::largest_of_fours(x), reciprocal);
                clip(x, grad, |i, v| {
                    let down = reciprocal / hif4::factor(coarse[i / 8], fine[i / 4]);
                    magnitude(v) * down > hif4::LARGEST
                });
            }
            Format::Bf16 | Format::Fp16 | Format::Tf32 => {
                let largest = self.format.largest() as f32;
                clip(x, grad, |_, v| v.abs() > largest);
            }
            Format::Fp8E4m3 | Format::Fp8E5m2 | Format::Int8 | Format::Int4G32 => {}
        }
    }
}

fn clip_mx<E: Minifloat>(x: &[f32], rule: ScaleRule, grad: &mut [f32]) {
    let largest = E::MAX * exp2(mx::exponent::<E>(amax_bits(x), rule));
    clip(x, grad, |_, v| v.abs() > largest);
}

/// Sets gradients to 0 where `beyond(i, x[i])`.
fn clip(x: &[f32], grad: &mut [f32], beyond: impl Fn(usize, f32) -> bool) {
    for (i, (&v, grad)) in x.iter().zip(grad).enumerate() {
        if beyond(i, v) {
            *grad = 0.0;
        }
    }
}
