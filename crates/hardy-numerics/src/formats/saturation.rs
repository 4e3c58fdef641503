//! Where values lie beyond the range of their format, so that their image is the largest number of the block whatever
//! they are. There the image does not follow the value, and a straight-through gradient may be clipped to 0.
//!
//! MX formats with the floor rule, NVFP4 and HiF4 saturate, for their scales are rounded; a scale that is the largest
//! magnitude itself (`fp8_*`, `int*`) leaves nothing beyond it. Formats without a scale end at their largest number.

use super::{Format, check_rows};
use rayon::prelude::*;

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
        let (clip, scale) = (self.methods().clip, self.tensor_scale(x));
        let block = self.block();
        x.par_chunks(width).zip(grad.par_chunks_mut(width)).for_each(|(x, grad)| {
            x.chunks(block).zip(grad.chunks_mut(block)).for_each(|(x, grad)| clip(x, scale, grad));
        });
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
        let (clip, scale) = (self.methods().clip, self.tensor_scale(x));
        x.par_chunks(side * width).zip(grad.par_chunks_mut(side * width)).for_each(|(x, grad)| {
            for first in (0..width).step_by(side) {
                let columns = first..width.min(first + side);
                let square = |x: &[f32]| -> Vec<f32> {
                    x.chunks(width).flat_map(|row| row[columns.clone()].to_vec()).collect()
                };
                let mut clipped = square(grad);
                clip(&square(x), scale, &mut clipped);
                for (grad, clipped) in grad.chunks_mut(width).zip(clipped.chunks(columns.len())) {
                    grad[columns.clone()].copy_from_slice(clipped);
                }
            }
        });
    }
}

/// Sets gradients to 0 where `beyond(i, x[i])`.
pub(super) fn clip(x: &[f32], grad: &mut [f32], beyond: impl Fn(usize, f32) -> bool) {
    for (i, (&v, grad)) in x.iter().zip(grad).enumerate() {
        if beyond(i, v) {
            *grad = 0.0;
        }
    }
}
