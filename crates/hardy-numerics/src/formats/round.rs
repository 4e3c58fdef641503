//! Rounding of a magnitude to a multiple of a power of two, and of a number to a small floating-point grid.

use super::bits::{EXPONENT, MANTISSA_BITS};

/// A rule that rounds a magnitude to one of the two multiples of the step next to it.
pub(crate) trait Round: Copy {
    /// The multiple of the step for element `i`. `step` holds the bits of a power of two, `0 ≤ a < 2²³·step`, and
    /// `step·2²³` and `1/step` are normal numbers.
    fn to_multiple(self, i: usize, a: f32, step: u32) -> f32;

    /// The multiple of 1/4 next to `a` in HiF4, whose nearest rounding takes ties up.
    fn to_quarter_half_up(self, i: usize, a: f32) -> f32;

    /// What is added to the bits of a number before `dropped` low bits are cut off.
    fn carry(self, i: usize, bits: u32, dropped: u32) -> u32;

    /// The rule for the elements from `offset` on.
    fn from(self, offset: usize) -> Self;
}

/// Round to nearest, ties to even.
#[derive(Clone, Copy)]
pub(crate) struct Nearest;

impl Round for Nearest {
    /// At 2²³ steps the spacing of f32 is the step, so that adding and taking away that much rounds.
    #[inline(always)]
    fn to_multiple(self, _: usize, a: f32, step: u32) -> f32 {
        let magic = f32::from_bits(step + (MANTISSA_BITS << MANTISSA_BITS));
        (a + magic) - magic
    }

    #[inline(always)]
    fn to_quarter_half_up(self, _: usize, a: f32) -> f32 {
        (a * 4.0 + 0.5).floor() * 0.25
    }

    #[inline(always)]
    fn carry(self, _: usize, bits: u32, dropped: u32) -> u32 {
        (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    }

    #[inline(always)]
    fn from(self, _: usize) -> Self {
        self
    }
}

/// Round up with the probability that makes the mean of the image the value: where the noise, uniform in [0, 1), lies
/// below the share of the step that would be cut off.
#[derive(Clone, Copy)]
pub(crate) struct Stochastic<'a>(pub &'a [f32]);

impl Round for Stochastic<'_> {
    #[inline(always)]
    fn to_multiple(self, i: usize, a: f32, step: u32) -> f32 {
        let steps = a * f32::from_bits((254 << MANTISSA_BITS) - step);
        let below = steps.floor();
        let up = if self.0[i] < steps - below { 1.0 } else { 0.0 };
        (below + up) * f32::from_bits(step)
    }

    #[inline(always)]
    fn to_quarter_half_up(self, i: usize, a: f32) -> f32 {
        self.to_multiple(i, a, 0.25_f32.to_bits())
    }

    #[inline(always)]
    fn carry(self, i: usize, _: u32, dropped: u32) -> u32 {
        (self.0[i] * (1_u32 << dropped) as f32) as u32
    }

    #[inline(always)]
    fn from(self, offset: usize) -> Self {
        Self(&self.0[offset..])
    }
}

/// A grid of floating-point numbers without its sign.
pub(crate) trait Minifloat {
    /// Bits of the mantissa.
    const MANTISSA: u32;
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// Exponent of the smallest normal number; below it the grid is even.
    const MIN_EXPONENT: i32;
    /// Exponent of the largest number.
    const MAX_EXPONENT: i32;
    /// The largest finite number.
    const MAX: f32;

    /// Rounds the magnitude `a < 2^127` to the grid continued beyond `MAX` with the same number of digits.
    #[inline(always)]
    fn round<R: Round>(r: R, i: usize, a: f32) -> f32 {
        let smallest = ((Self::MIN_EXPONENT + 127) as u32) << MANTISSA_BITS;
        let exponent = (a.to_bits() & EXPONENT).max(smallest);
        r.to_multiple(i, a, exponent - (Self::MANTISSA << MANTISSA_BITS))
    }
}

macro_rules! minifloat {
    ($($(#[$doc:meta])* $name:ident: $exponent:literal, $mantissa:literal, $min:literal ..= $max:literal, $largest:literal;)*) => {
        $($(#[$doc])*
        pub(crate) struct $name;
        impl Minifloat for $name {
            const MANTISSA: u32 = $mantissa;
            const EXPONENT: u32 = $exponent;
            const MIN_EXPONENT: i32 = $min;
            const MAX_EXPONENT: i32 = $max;
            const MAX: f32 = $largest;
        })*
    };
}

minifloat! {
    /// FP4 (OCP MX v1.0, §5.3.3).
    E2m1: 2, 1, 0..=2, 6.0;
    /// FP6 (OCP MX v1.0, §5.3.2).
    E2m3: 2, 3, 0..=2, 7.5;
    /// FP6 (OCP MX v1.0, §5.3.2).
    E3m2: 3, 2, -2..=4, 28.0;
    /// FP8 (OCP OFP8 v1.0, table 1): no infinity, NaN at S.1111.111.
    E4m3: 4, 3, -6..=8, 448.0;
    /// FP8 (OCP OFP8 v1.0, table 1): infinity and NaN as in IEEE 754.
    E5m2: 5, 2, -14..=15, 57344.0;
    /// IEEE 754 binary16.
    E5m10: 5, 10, -14..=15, 65504.0;
}
