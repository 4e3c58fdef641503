//! A number format as an error: a value's image is the number of the format next to it.
//!
//! Of an activation, every row is a tensor by itself: the scale of `nvfp4`, `fp8_*` and `int8` is that of the row, so that
//! an image does not depend on the batch. Of a weight `[out, in]`, the scale of the tensor is that of the whole.

use crate::address::{NoiseKey, Row};
use crate::energy::ErrorEnergy;
use crate::formats::Format;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Which of the two neighbours a value goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// The nearest one; ties as the format says.
    #[default]
    Nearest,
    /// One of the two, so that the mean of the image is the value; addressed like all noise.
    Stochastic,
}

/// The shape of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blocks {
    /// Along the last axis.
    #[default]
    #[serde(rename = "1d")]
    OneD,
    /// Squares, so that a weight and its transpose have the same image; for weights in MX formats and NVFP4.
    #[serde(rename = "2d")]
    TwoD,
}

/// A number format with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// The format.
    pub format: Format,
    /// How it rounds.
    pub rounding: Rounding,
    /// The shape of its blocks.
    pub blocks: Blocks,
    /// Whether the gradient is 0 where the value lay beyond the range of its block.
    pub clip_gradient: bool,
}

impl From<Format> for Quantization {
    fn from(format: Format) -> Self {
        Self { format, rounding: Rounding::Nearest, blocks: Blocks::OneD, clip_gradient: false }
    }
}

impl Quantization {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.blocks == Blocks::OneD || self.format.side_2d().is_some() {
            return Ok(());
        }
        let square: Vec<&str> =
            Format::ALL.iter().filter(|f| f.side_2d().is_some()).map(Format::name).collect();
        let (name, square) = (self.format.name(), square.join(", "));
        Err(format!("blocks is \"2d\", but {name} has no square blocks; only {square} have them"))
    }

    /// Replaces a row, or the part of one that an operator hands over, by its image.
    pub(super) fn row(self, key: NoiseKey, row: Row, first_element: u64, x: &mut [f32]) -> ErrorEnergy {
        let before = x.to_vec();
        match self.rounding {
            Rounding::Nearest => self.format.fake_quantize_row(x),
            Rounding::Stochastic => self.format.fake_quantize_row_stochastic(key, row, first_element, x),
        }
        ErrorEnergy::between(&before, x)
    }

    /// Replaces a weight `[rows, width]` by its image.
    pub(super) fn weight(self, key: NoiseKey, width: usize, x: &mut [f32]) -> ErrorEnergy {
        let before = x.to_vec();
        match (self.blocks, self.rounding) {
            (Blocks::OneD, Rounding::Nearest) => self.format.fake_quantize(x, width),
            (Blocks::OneD, Rounding::Stochastic) => {
                self.format.fake_quantize_weight_stochastic(key, x, width);
            }
            (Blocks::TwoD, Rounding::Nearest) => self.format.fake_quantize_2d(x, width),
            (Blocks::TwoD, Rounding::Stochastic) => self.format.fake_quantize_2d_stochastic(key, x, width),
        }
        ErrorEnergy::between(&before, x)
    }

    /// Where the option says so, sets `grad` to 0 where the values of `x` [rows, `width`], each row a tensor by itself,
    /// lie beyond the range of their block.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of rows or `grad` has another length.
    pub fn clip_rows(&self, width: usize, x: &[f32], grad: &mut [f32]) {
        if self.clip_gradient {
            assert_eq!(x.len(), grad.len(), "one gradient a value");
            let rows = x.par_chunks(width.max(1)).zip(grad.par_chunks_mut(width.max(1)));
            rows.for_each(|(x, grad)| self.format.clip_saturated(x, width, grad));
        }
    }

    /// As [`Quantization::clip_rows`] for a weight.
    ///
    /// # Panics
    ///
    /// As [`Quantization::clip_rows`].
    pub fn clip_weight(&self, width: usize, x: &[f32], grad: &mut [f32]) {
        match self.blocks {
            _ if !self.clip_gradient => {}
            Blocks::OneD => self.format.clip_saturated(x, width, grad),
            Blocks::TwoD => self.format.clip_saturated_2d(x, width, grad),
        }
    }
}
