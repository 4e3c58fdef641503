//! Arithmetic that is rounded as IEEE 754 says, whatever the device's compiler does. What one compiler leaves apart,
//! another fuses (NVRTC) or simplifies (Mesa takes `(a + b) - a` for `b`), and Vulkan promises neither a fused
//! multiply-add nor a division that is rounded right.
//!
//! A number is kept from the compiler by `xor` with a zero that it can not know, an argument of the launch. Where the
//! device has no fused multiply-add, or no rounded division, they are computed from what it has.

use cubecl::prelude::*;

/// What a device's own arithmetic is worth, as [`crate::device`] found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    /// Whether `fma` rounds once.
    pub fused: bool,
    /// Whether divisions and square roots are rounded to nearest.
    pub rounded: bool,
}

/// The device's arithmetic, and the zero that its compiler does not know.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Exact {
    zero: u32,
    #[cube(comptime)]
    arithmetic: Arithmetic,
}

#[cube]
impl Exact {
    /// `x`, of which the compiler knows nothing.
    pub fn apart(&self, x: f32) -> f32 {
        f32::reinterpret(u32::reinterpret(x) ^ self.zero)
    }

    /// The rounded product, which no sum takes in.
    pub fn product(&self, a: f32, b: f32) -> f32 {
        self.apart(a * b)
    }

    /// The rounded sum, which is taken apart by nobody.
    pub fn sum(&self, a: f32, b: f32) -> f32 {
        self.apart(a + b)
    }

    /// `a·b + c`, rounded once; without a fused multiply-add of the device's own once but for rare cases, and then
    /// within one unit in the last place.
    pub fn fma(&self, a: f32, b: f32, c: f32) -> f32 {
        if comptime!(self.arithmetic.fused) { fma(a, b, c) } else { self.sum_of_parts(a, b, c) }
    }

    /// A term of a product's chain: `a·b + c`, rounded once where the device can, else twice, for there are many.
    pub fn mul_add(&self, a: f32, b: f32, c: f32) -> f32 {
        if comptime!(self.arithmetic.fused) { fma(a, b, c) } else { a * b + c }
    }

    /// `a·b + c` by error-free transformations (T. J. Dekker, "A floating-point technique for extending the available
    /// precision", 1971): both parts of the product, then both parts of the sum.
    fn sum_of_parts(&self, a: f32, b: f32, c: f32) -> f32 {
        let product = self.product(a, b);
        let (a_high, b_high) = (upper_half(a), upper_half(b));
        let (a_low, b_low) = (self.apart(a - a_high), self.apart(b - b_high));
        let rest = self.apart(self.product(a_high, b_high) - product);
        let rest = self.apart(self.product(a_high, b_low) + rest);
        let rest = self.apart(self.product(a_low, b_high) + rest);
        let rest = self.apart(self.product(a_low, b_low) + rest);
        let sum = self.apart(product + c);
        let part = self.apart(sum - product);
        let lost = self.apart(product - self.apart(sum - part)) + self.apart(c - part);
        sum + self.apart(self.apart(lost) + rest)
    }

    /// The rounded sum, and what it lacks (D. E. Knuth).
    pub fn two_sum(&self, a: f32, b: f32) -> (f32, f32) {
        let sum = self.apart(a + b);
        let part = self.apart(sum - a);
        let rest = self.apart(a - self.apart(sum - part)) + self.apart(b - part);
        (sum, rest)
    }

    /// `a / b`, rounded to nearest.
    pub fn quotient(&self, a: f32, b: f32) -> f32 {
        if comptime!(self.arithmetic.rounded) { a / b } else { long_division(a, b) }
    }

    /// `√x`, rounded to nearest.
    pub fn root(&self, x: f32) -> f32 {
        if comptime!(self.arithmetic.rounded) { x.sqrt() } else { long_root(x) }
    }
}

/// `x` without the lower half of its mantissa.
#[cube]
fn upper_half(x: f32) -> f32 {
    f32::reinterpret(u32::reinterpret(x) & 0xFFFF_F000u32)
}

/// Whether `x` is NaN, by its bits.
#[cube]
pub fn is_nan(x: f32) -> bool {
    (u32::reinterpret(x) & 0x7FFF_FFFFu32) > 0x7F80_0000u32
}

/// Whether `x` is neither NaN nor infinite, by its bits.
#[cube]
pub fn is_finite(x: f32) -> bool {
    (u32::reinterpret(x) & 0x7F80_0000u32) != 0x7F80_0000u32
}

/// `|x|`, by its bits.
#[cube]
pub fn magnitude(x: f32) -> f32 {
    f32::reinterpret(u32::reinterpret(x) & 0x7FFF_FFFFu32)
}

/// `a`, which is not negative, with the sign of `x`.
#[cube]
pub fn with_sign(a: f32, x: f32) -> f32 {
    f32::reinterpret(u32::reinterpret(a) | (u32::reinterpret(x) & 0x8000_0000u32))
}

/// A word as the nearest number: both halves are exact, and their sum is rounded once.
#[cube]
pub fn nearest(word: u32) -> f32 {
    f32::cast_from(word >> 16u32) * 65536.0f32 + f32::cast_from(word & 0xFFFFu32)
}

/// The exponent and the mantissa, of 24 bits, of a magnitude that is finite and not 0, with a bias of 127.
#[cube]
fn normalised(bits: u32) -> (i32, u32) {
    let mut exponent = i32::cast_from(bits >> 23u32);
    let mut mantissa = bits & 0x7F_FFFFu32;
    if exponent == 0i32 {
        exponent = 1i32;
        while mantissa < 0x80_0000u32 {
            mantissa = mantissa << 1u32;
            exponent -= 1i32;
        }
    } else {
        mantissa = mantissa | 0x80_0000u32;
    }
    (exponent, mantissa)
}

/// `a / b` digit by digit, which is exact until it is rounded.
#[cube]
fn long_division(a: f32, b: f32) -> f32 {
    let a_bits = u32::reinterpret(a) & 0x7FFF_FFFFu32;
    let b_bits = u32::reinterpret(b) & 0x7FFF_FFFFu32;
    let sign = (u32::reinterpret(a) ^ u32::reinterpret(b)) & 0x8000_0000u32;
    let mut bits = u32::new(0);
    if a_bits > 0x7F80_0000u32
        || b_bits > 0x7F80_0000u32
        || (a_bits == b_bits && (a_bits == 0u32 || a_bits == 0x7F80_0000u32))
    {
        bits = u32::new(0x7FC0_0000);
    } else if b_bits == 0u32 || a_bits == 0x7F80_0000u32 {
        bits = u32::new(0x7F80_0000);
    } else if a_bits != 0u32 && b_bits != 0x7F80_0000u32 {
        let (a_exponent, a_mantissa) = normalised(a_bits);
        let (b_exponent, divisor) = normalised(b_bits);
        let mut exponent = a_exponent - b_exponent + 127i32;
        let mut rest = a_mantissa;
        if rest < divisor {
            rest = rest << 1u32;
            exponent -= 1i32;
        }
        let mut digits = u32::new(0);
        for _ in 0u32..26u32 {
            digits = digits << 1u32;
            if rest >= divisor {
                rest -= divisor;
                digits = digits | 1u32;
            }
            rest = rest << 1u32;
        }
        bits = rounded_digits(digits, rest != 0u32, exponent);
    }
    f32::reinterpret(bits | sign)
}

/// The number with 26 `digits`, the first of them 1, rounded to nearest even; `more` follow, or none.
#[cube]
fn rounded_digits(digits: u32, more: bool, exponent: i32) -> u32 {
    let mut bits = u32::new(0);
    if exponent >= 255i32 {
        bits = u32::new(0x7F80_0000);
    } else {
        let mut dropped = u32::new(2);
        if exponent < 1i32 {
            dropped = u32::cast_from(3i32 - exponent);
        }
        if dropped <= 26u32 {
            let half = 1u32 << (dropped - 1u32);
            let kept = digits >> dropped;
            let rest = digits & ((1u32 << dropped) - 1u32);
            let up = rest > half || (rest == half && (more || (kept & 1u32) == 1u32));
            bits = kept;
            if exponent >= 1i32 {
                bits += (u32::cast_from(exponent) - 1u32) << 23u32;
            }
            if up {
                bits += 1u32;
            }
        }
    }
    bits
}

/// `√x` digit by digit.
#[cube]
fn long_root(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    let mut out = x;
    if bits > 0x8000_0000u32 {
        out = f32::reinterpret(u32::new(0x7FC0_0000));
    } else if bits != 0u32 && bits < 0x7F80_0000u32 {
        let (biased, mantissa) = normalised(bits);
        // x = radicand·2^(exponent), with an even exponent.
        let mut exponent = biased - 127i32 - 23i32;
        let mut radicand = mantissa;
        if (exponent & 1i32) == 0i32 {
            radicand = radicand << 1u32;
            exponent -= 1i32;
        }
        let mut root = u32::new(0);
        let mut rest = u32::new(0);
        for pair in 0u32..25u32 {
            let mut digits = u32::new(0);
            if pair < 12u32 {
                digits = (radicand >> (23u32 - 2u32 * pair)) & 3u32;
            } else if pair == 12u32 {
                digits = (radicand & 1u32) << 1u32;
            }
            rest = (rest << 2u32) | digits;
            let trial = (root << 2u32) | 1u32;
            root = root << 1u32;
            if rest >= trial {
                rest -= trial;
                root = root | 1u32;
            }
        }
        // The root has 25 digits, the last of them to round by; it is never half way.
        let rounded = (root >> 1u32) + (root & 1u32);
        let half = (exponent - 25i32) / 2i32;
        out = f32::reinterpret((u32::cast_from(half + 24i32 + 127i32) << 23u32) + (rounded - 0x80_0000u32));
    }
    out
}
