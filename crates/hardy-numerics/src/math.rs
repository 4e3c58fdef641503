//! Elementary functions in f32 without branches or calls, so that loops over them vectorise.
//!
//! They use only operations that IEEE 754 rounds exactly, in a fixed order and fused only where that is written, so a
//! value is the same to the bit at every SIMD level.

use std::f32::consts::{LN_2, LOG2_E, SQRT_2, TAU};

/// Adding and subtracting 1.5·2²³ rounds to the nearest integer; in between, the low bits hold that integer.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; multiples of the first by small integers are exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// The polynomial with these coefficients, highest power first, by Horner's rule.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for c in &coefficients[1..] {
        sum = sum * x + c;
    }
    sum
}

/// The same with fused multiply-adds.
#[inline(always)]
fn fused_polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for c in &coefficients[1..] {
        sum = sum.mul_add(x, *c);
    }
    sum
}

/// eˣ to about 1 ulp, by the polynomial of the Cephes library (S. L. Moshier). Results below the smallest normal number are 0; large `x` gives ∞, NaN gives NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.722_83;
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let p = polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5]);
    let mantissa = (p * (r * r) + r) + 1.0;
    let y = f32::from_bits(mantissa.to_bits().wrapping_add(rounded.to_bits() << 23));
    let y = if x < LOWEST { 0.0 } else { y };
    let y = if x > HIGHEST { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// ln u for a normal `u` in (0, 1] (and up to the largest finite number), to about 1 ulp.
#[inline(always)]
pub fn ln_unit(u: f32) -> f32 {
    const HALF_SQRT_2: u32 = (0.5 * SQRT_2).to_bits();
    // u = 2^n · m with m in [√½, √2).
    let n = (u.to_bits().wrapping_sub(HALF_SQRT_2) as i32) >> 23;
    let m = f32::from_bits(u.to_bits().wrapping_sub((n << 23) as u32));
    let f = m - 1.0;
    let p = fused_polynomial(
        f,
        [
            0.089_178_81,
            -0.143_501_96,
            0.148_769_55,
            -0.165_656_35,
            0.199_653_99,
            -0.250_017_47,
            0.333_338_6,
            -0.5,
        ],
    );
    (n as f32).mul_add(LN_2, (f * f).mul_add(p, f))
}

/// (sin 2πt, cos 2πt) for `t` in [-1/4, 1/4], to about 1e-7.
#[inline(always)]
pub fn sin_cos_of_half_turn(t: f32) -> (f32, f32) {
    let z = t * t;
    let s = fused_polynomial(z, [39.761_616, -76.581_4, 81.602_486, -41.341_682, TAU]);
    let c = fused_polynomial(z, [56.344_578, -85.254_51, 64.935_24, -19.739_182, 1.0]);
    (t * s, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of `got` in units of the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let place = f64::from(f32::from_bits((want as f32).abs().to_bits() + 1) - (want as f32).abs());
        (f64::from(got) - want).abs() / place
    }

    #[test]
    fn exp_is_within_two_ulp_of_the_exact_value() {
        let mut worst = 0.0_f64;
        for i in 0..2_000_000 {
            let x = -87.3 + 176.0 * (i as f32 / 2_000_000.0);
            worst = worst.max(ulps(exp(x), f64::from(x).exp()));
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_has_the_right_limits() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(-87.5), 0.0);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.722_83).is_finite());
        assert!(exp(-87.336_54) >= f32::MIN_POSITIVE);
    }

    #[test]
    fn ln_is_within_two_ulp_of_the_exact_value() {
        let mut worst = 0.0_f64;
        for bits in (2.0_f32.powi(-33).to_bits()..1.0_f32.to_bits()).step_by(97) {
            let u = f32::from_bits(bits);
            worst = worst.max(ulps(ln_unit(u), f64::from(u).ln()));
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(ln_unit(1.0), 0.0);
    }

    #[test]
    fn sine_and_cosine_are_within_2e_7_over_half_a_turn() {
        let mut worst = 0.0_f64;
        for i in -1_000_000..=1_000_000 {
            let t = i as f32 / 4_000_000.0;
            let (s, c) = sin_cos_of_half_turn(t);
            let (sin, cos) = (f64::from(t) * std::f64::consts::TAU).sin_cos();
            worst = worst.max((f64::from(s) - sin).abs()).max((f64::from(c) - cos).abs());
        }
        assert!(worst <= 2e-7, "{worst}");
        assert_eq!(sin_cos_of_half_turn(0.0), (0.0, 1.0));
    }

    #[test]
    fn values_are_the_same_at_every_simd_level() {
        let x: Vec<f32> = (0..4096).map(|i| -90.0 + 0.044 * i as f32).collect();
        let plain: Vec<u32> =
            x.iter().map(|&v| std::hint::black_box(exp(std::hint::black_box(v))).to_bits()).collect();
        let mut vectorised = vec![0; x.len()];
        crate::simd::dispatch(
            #[inline(always)]
            || vectorised.iter_mut().zip(&x).for_each(|(y, &v)| *y = exp(v).to_bits()),
        );
        assert_eq!(vectorised, plain);
    }
}
