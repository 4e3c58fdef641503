//! The elementary functions of [`hardy_numerics::math`], operation for operation.

use crate::exact::{Exact, is_nan};
use cubecl::prelude::*;
use std::f32::consts::{LN_2, LOG2_E};

/// eˣ: the bits of [`hardy_numerics::math::exp`].
#[cube]
pub fn exp(e: &Exact, x: f32) -> f32 {
    let rounded = e.sum(e.product(x, f32::new(LOG2_E)), 12_582_912.0f32);
    let n = e.sum(rounded, -12_582_912.0f32);
    let r = e.sum(e.sum(x, -e.product(n, 0.693_359_4f32)), -e.product(n, -2.121_944_4e-4f32));
    let p = e.sum(e.product(1.987_569_1e-4f32, r), 1.398_199_9e-3f32);
    let p = e.sum(e.product(p, r), 8.333_452e-3f32);
    let p = e.sum(e.product(p, r), 4.166_579_6e-2f32);
    let p = e.sum(e.product(p, r), 0.166_666_65f32);
    let p = e.sum(e.product(p, r), 0.5f32);
    let mantissa = e.sum(e.sum(e.product(p, e.product(r, r)), r), 1.0f32);
    let bits = u32::reinterpret(mantissa) + (u32::reinterpret(rounded) << 23u32);
    let mut y = f32::reinterpret(bits);
    if x < -87.336_54f32 {
        y = 0.0f32;
    }
    if x > 88.722_83f32 {
        y = f32::reinterpret(u32::new(0x7F80_0000));
    }
    if is_nan(x) {
        y = x;
    }
    y
}

/// ln u for a normal `u` from 2⁻¹²⁶ to the largest number: the bits of [`hardy_numerics::math::ln_unit`].
#[cube]
pub fn ln(e: &Exact, u: f32) -> f32 {
    let bits = u32::reinterpret(u);
    // The exponent, 128 too large, so that it is not negative.
    let shifted = (bits - 0x3F35_04F3u32 + 0x4000_0000u32) >> 23u32;
    let m = f32::reinterpret(bits - ((shifted - 128u32) << 23u32));
    let n = f32::cast_from(shifted) - 128.0f32;
    let f = m - 1.0f32;
    let p = e.fma(0.089_178_81f32, f, -0.143_501_96f32);
    let p = e.fma(p, f, 0.148_769_55f32);
    let p = e.fma(p, f, -0.165_656_35f32);
    let p = e.fma(p, f, 0.199_653_99f32);
    let p = e.fma(p, f, -0.250_017_47f32);
    let p = e.fma(p, f, 0.333_338_6f32);
    let p = e.fma(p, f, -0.5f32);
    e.fma(n, f32::new(LN_2), e.fma(e.product(f, f), p, f))
}

/// (sin 2πt, cos 2πt) for `t` in [-1/4, 1/4].
#[cube]
pub fn sin_cos_of_half_turn(e: &Exact, t: f32) -> (f32, f32) {
    let z = e.product(t, t);
    let s = e.fma(39.761_616f32, z, -76.581_4f32);
    let s = e.fma(s, z, 81.602_486f32);
    let s = e.fma(s, z, -41.341_682f32);
    let s = e.fma(s, z, 6.283_185_5f32);
    let c = e.fma(56.344_578f32, z, -85.254_51f32);
    let c = e.fma(c, z, 64.935_24f32);
    let c = e.fma(c, z, -19.739_182f32);
    let c = e.fma(c, z, 1.0f32);
    (t * s, c)
}

/// `σ(x) = 1/(1 + e⁻ˣ)`.
#[cube]
pub fn sigmoid(e: &Exact, x: f32) -> f32 {
    e.quotient(1.0f32, 1.0f32 + exp(e, -x))
}

#[cfg(test)]
#[cube(launch)]
fn exp_kernel(e: &Exact, x: &Array<f32>, out: &mut Array<f32>) {
    if ABSOLUTE_POS < x.len() {
        out[ABSOLUTE_POS] = exp(e, x[ABSOLUTE_POS]);
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::device::{array, empty, exact, threads};
    use crate::testing::*;
    use hardy_numerics::math;

    #[test]
    fn exponentials_are_those_of_the_cpu_to_the_bit() {
        let client = client();
        let n = 1 << 20;
        let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 88.8, -87.5, 1e-30];
        let x: Vec<f32> = (0..n).map(|i| -90.0 + 180.0 * (i as f32 / n as f32)).chain(special).collect();
        let wanted: Vec<f32> = x.iter().map(|&x| math::exp(x)).collect();
        let (handle, out) = (upload(&client, &x), empty(&client, x.len()));
        let (count, dim) = threads(x.len());
        let [arg, out_arg] = [&handle, &out].map(|handle| array(handle, x.len()));
        exp_kernel::launch(&client, count, dim, exact(&client), arg, out_arg);
        assert_bits(&download(&client, out, x.len()), &wanted, "exp");
    }
}
