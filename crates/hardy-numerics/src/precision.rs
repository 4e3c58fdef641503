//! The arithmetic of products: what their operands are rounded to before they are multiplied.

use std::{borrow::Cow, fmt, str::FromStr};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    formats::{
        float::{BF16_DROPPED, round_bits},
        round::Nearest,
    },
    simd::dispatch,
};

/// Elements that one task rounds.
const PART: usize = 1 << 14;

/// What the operands of every product are, in linear layers, the head, scores and values, forward and backward, ∂x and
/// ∂W. Sums and everything else are f32 (IEEE 754 binary32): master weights, AdamW, norms, softmax, activations, residuals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are; no product is rounded to TF32 on the way.
    #[default]
    F32,
    /// The nearest bfloat16, ties to even. NaN stays NaN, what is beyond the format becomes infinite. A straight-through
    /// estimator ignores the rounding.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// `x` as a product sees it.
    #[inline(always)]
    #[must_use]
    pub fn operand(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::Bf16 => round_bits(Nearest, 0, x, BF16_DROPPED),
        }
    }

    /// Makes of `x` what a product sees of it, on all threads.
    pub fn round(self, x: &mut [f32]) {
        if self == Self::Bf16 {
            x.par_chunks_mut(PART).for_each(|part| {
                dispatch(
                    #[inline(always)]
                    || self.round_here(part),
                );
            });
        }
    }

    /// The same on the calling thread.
    #[inline(always)]
    pub fn round_here(self, x: &mut [f32]) {
        if self == Self::Bf16 {
            x.iter_mut().for_each(|x| *x = self.operand(*x));
        }
    }

    /// `x` as a product sees it; in f32 that is itself.
    #[must_use]
    pub fn operands(self, x: Cow<'_, [f32]>) -> Cow<'_, [f32]> {
        match x {
            x if self == Self::F32 => x,
            Cow::Borrowed(x) => Cow::Owned(self.rounded(x)),
            Cow::Owned(mut x) => {
                self.round(&mut x);
                Cow::Owned(x)
            }
        }
    }

    /// A rounded copy, written once.
    fn rounded(self, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::with_capacity(x.len());
        let parts = y.spare_capacity_mut()[..x.len()].par_chunks_mut(PART).zip(x.par_chunks(PART));
        parts.for_each(|(y, x)| {
            dispatch(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        y.write(self.operand(*x));
                    }
                },
            );
        });
        // SAFETY: the parts are of the same length in both, and each element was written.
        unsafe { y.set_len(x.len()) };
        y
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|precision| precision.name() == text);
        named.ok_or_else(|| format!("`{text}` is no precision; f32 and bf16 are"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_the_nearest_bfloat16_with_ties_to_even() {
        let seen = |bits: u32| Precision::Bf16.operand(f32::from_bits(bits)).to_bits();
        for (bits, nearest) in [
            (0x3f80_0000, 0x3f80_0000),
            (0x3f80_7fff, 0x3f80_0000),
            (0x3f80_8000, 0x3f80_0000),
            (0x3f80_8001, 0x3f81_0000),
            (0x3f81_8000, 0x3f82_0000),
            (0xbf81_8000, 0xbf82_0000),
            (0x0000_8001, 0x0001_0000),
            (0x7f7f_8000, 0x7f80_0000),
            (0xff7f_7fff, 0xff7f_0000),
            (0xff80_0000, 0xff80_0000),
        ] {
            assert_eq!(seen(bits), nearest, "{bits:#x}");
        }
        assert!(Precision::Bf16.operand(f32::from_bits(0x7f80_0001)).is_nan());
        assert_eq!(Precision::F32.operand(f32::from_bits(0x3f80_0001)).to_bits(), 0x3f80_0001);
    }

    #[test]
    fn a_copy_is_rounded_like_each_of_its_elements_and_what_is_owned_in_its_place() {
        let x: Vec<f32> = (0..3 * PART + 5).map(|i| (i as f32).sin() * 1e3).collect();
        let each: Vec<f32> = x.iter().map(|x| Precision::Bf16.operand(*x)).collect();
        assert_eq!(*Precision::Bf16.operands(Cow::Borrowed(&x)), each);
        assert_eq!(*Precision::Bf16.operands(Cow::Owned(x.clone())), each);
        assert!(matches!(Precision::F32.operands(Cow::Borrowed(&x)), Cow::Borrowed(same) if same == x));
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(Precision::ALL.map(|precision| precision.name().parse()), Precision::ALL.map(Ok));
        assert!("tf32".parse::<Precision>().is_err_and(|said| said.contains("f32 and bf16")));
    }
}
