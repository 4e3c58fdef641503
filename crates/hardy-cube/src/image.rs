//! What an error makes of a value: the formulas of `hardy_numerics::perturb`, with the same operations in the same order.

use crate::exact::{Exact, is_nan, magnitude, with_sign};
use crate::formats::round_bits;
use crate::philox::{Address, second, word as word_of, words};
use crate::rule::{Kind, Numbers};
use cubecl::prelude::*;

/// The image of `x` under an error, given its random word and its Gaussian value where the kind takes one.
#[cube]
pub(crate) fn image(
    e: &Exact,
    numbers: &Numbers,
    later: &Array<u32>,
    address: &Address,
    element: u32,
    word: u32,
    noise: f32,
    x: f32,
    #[comptime] kind: Kind,
) -> f32 {
    let s = numbers.scale;
    if comptime!(kind == Kind::Relative) {
        x + e.product(e.product(noise, s), magnitude(x))
    } else if comptime!(kind == Kind::Absolute) {
        x + e.product(noise, s)
    } else if comptime!(kind == Kind::Bias) {
        select(magnitude(x) == 0.0f32, x, x + with_sign(s, x))
    } else if comptime!(kind == Kind::RelativeBias) {
        x + e.product(x, s)
    } else if comptime!(kind == Kind::Truncation) {
        truncate(e, x, s)
    } else if comptime!(kind == Kind::DeadZone) {
        select(magnitude(x) < s, 0.0f32, x)
    } else if comptime!(kind == Kind::Saturation) {
        select(magnitude(x) > s, with_sign(s, x), x)
    } else if comptime!(kind == Kind::Offset) {
        x + s
    } else if comptime!(kind == Kind::Stuck) {
        select(is_nan(x), x, s)
    } else if comptime!(kind == Kind::Spike) {
        spike(numbers, address, element, word, x)
    } else if comptime!(matches!(kind, Kind::Flip { .. })) {
        flip(numbers, later, address, element, word, x, comptime!(kind == Kind::Flip { bf16: true }))
    } else {
        x
    }
}

/// Whether two words lie below a threshold of two; the second one is looked for only where the first is on it.
#[cube]
pub(crate) fn happens(address: &Address, element: u32, word: u32, threshold: u32, rest: u32) -> bool {
    let mut does = word < threshold;
    if word == threshold && rest > 0u32 {
        does = word_of(&second(address), element) < rest;
    }
    does
}

/// The largest multiple of `step` that is not larger in magnitude than `x`, with its sign.
#[cube]
fn truncate(e: &Exact, x: f32, step: f32) -> f32 {
    let size = magnitude(x);
    let quotient = e.quotient(size, step);
    let whole = quotient.floor();
    let below = e.product(whole - 1.0f32, step);
    let near = e.product(whole, step);
    let above = e.product(whole + 1.0f32, step);
    let image = select(near <= size, near, below);
    let image = select(above <= size, above, image);
    select(quotient < 8_388_608.0f32, with_sign(image, x), x)
}

/// The lowest bit of the word is the sign, the others say whether.
#[cube]
fn spike(numbers: &Numbers, address: &Address, element: u32, word: u32, x: f32) -> f32 {
    let height = f32::reinterpret(u32::reinterpret(numbers.scale) | (word << 31u32));
    let mut y = x;
    if happens(address, element, word >> 1u32, numbers.chance, numbers.chance_rest) {
        y = x + height;
    }
    y
}

/// The value's two words say whether a bit flips and which is the first, words of their own whether the bits after it do.
#[cube]
fn flip(
    numbers: &Numbers,
    later: &Array<u32>,
    address: &Address,
    element: u32,
    word: u32,
    x: f32,
    #[comptime] bf16: bool,
) -> f32 {
    let mut y = x;
    if word <= numbers.chance
        && !is_nan(x)
        && happens(address, element, word, numbers.chance, numbers.chance_rest)
    {
        let mask = flipped(numbers, later, address, element, word) << numbers.first_bit;
        if comptime!(bf16) {
            y = f32::reinterpret(u32::reinterpret(round_bits(x, 0u32, 16u32, false)) ^ (mask << 16u32));
        } else {
            y = f32::reinterpret(u32::reinterpret(x) ^ mask);
        }
    }
    y
}

/// The bits to flip, given that there is one.
#[cube]
fn flipped(numbers: &Numbers, later: &Array<u32>, address: &Address, element: u32, first: u32) -> u32 {
    let rest = word_of(&second(address), element);
    let mut bit = u32::new(0);
    let mut high = later[0];
    let mut low = later[1];
    while bit + 1u32 < numbers.bits && (first > high || (first == high && rest >= low)) {
        bit += 1u32;
        high = later[2 * bit as usize];
        low = later[2 * bit as usize + 1];
    }
    let own = Address {
        key_low: address.key_low ^ 0x6A09_E667u32,
        key_high: address.key_high ^ 0xBB67_AE85u32,
        // 32 elements for one; their blocks may need more than 32 bits.
        position: address.position ^ (element >> 29u32),
        sequence_low: address.sequence_low,
        sequence_high: address.sequence_high,
    };
    let mut mask = 1u32 << bit;
    for other in bit + 1u32..numbers.bits {
        let block = (element << 3u32) + (other >> 2u32);
        let word = words(&own, block).get(other & 3u32);
        let mut flips = word < numbers.each;
        if word == numbers.each && numbers.each_rest > 0u32 {
            flips = words(&second(&own), block).get(other & 3u32) < numbers.each_rest;
        }
        if flips {
            mask = mask | (1u32 << other);
        }
    }
    mask
}
