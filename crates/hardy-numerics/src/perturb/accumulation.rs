//! Accumulation error: the partial sums of a product kept in a narrow format, as matrix units with a short accumulator
//! keep them. It needs the product itself, so that it acts at linear layers and matmuls and on no tensor alone.

use crate::formats::float::{BF16_DROPPED, fp16, round_bits};
use crate::formats::round::Nearest;

/// The format of partial sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// BF16.
    Bf16,
    /// IEEE 754 binary16.
    Fp16,
}

/// The sum of a product, rounded to `partial`, to nearest even, after every `chunk` terms and at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accumulation {
    /// What holds the partial sum.
    pub partial: Partial,
    /// Terms that are summed in f32 before they are added to the partial sum; at least 1.
    pub chunk: usize,
}

impl Accumulation {
    /// `accumulate_bf16` or `accumulate_fp16`.
    pub fn name(&self) -> &'static str {
        match self.partial {
            Partial::Bf16 => "accumulate_bf16",
            Partial::Fp16 => "accumulate_fp16",
        }
    }

    /// Rounds partial sums.
    #[inline(always)]
    pub fn round(&self, sums: &mut [f32]) {
        match self.partial {
            Partial::Bf16 => sums.iter_mut().for_each(|s| *s = round_bits(Nearest, 0, *s, BF16_DROPPED)),
            Partial::Fp16 => sums.iter_mut().for_each(|s| *s = fp16(Nearest, 0, *s)),
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        if self.chunk > 0 { Ok(()) } else { Err("chunk is 0, but must be at least 1".to_owned()) }
    }
}
