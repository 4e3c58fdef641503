//! Philox4x32-10 and the addresses of [`hardy_numerics::address`]: 128 random bits are a pure function of where they
//! are used. A block of four elements costs 20 wide products, 40 xors and 18 sums of 32-bit integers.

use cubecl::prelude::*;

/// What of an address is the same for a row: key, sequence and position; what is left is the element.
#[derive(CubeType, Clone, Copy)]
pub struct Address {
    /// The key, two words.
    pub key_low: u32,
    /// Its second word.
    pub key_high: u32,
    /// The position in the sequence.
    pub position: u32,
    /// The sequence, low word.
    pub sequence_low: u32,
    /// Its high word.
    pub sequence_high: u32,
}

/// The words of four neighbours.
#[derive(CubeType, Clone, Copy)]
pub struct Words {
    /// That of element 4·block.
    pub a: u32,
    /// The next.
    pub b: u32,
    /// The next.
    pub c: u32,
    /// That of element 4·block + 3.
    pub d: u32,
}

#[cube]
impl Words {
    /// One of the four.
    pub fn get(&self, lane: u32) -> u32 {
        select(lane < 2u32, select(lane == 0u32, self.a, self.b), select(lane == 2u32, self.c, self.d))
    }
}

/// The words of elements `4·block .. 4·block + 4`. Bits of the block above the 32 lowest are `xor`ed to the position by
/// who has them.
#[cube]
pub fn words(address: &Address, block: u32) -> Words {
    let mut c0 = block;
    let mut c1 = address.position;
    let mut c2 = address.sequence_low;
    let mut c3 = address.sequence_high;
    let mut key_low = address.key_low;
    let mut key_high = address.key_high;
    #[unroll]
    for _ in 0u32..10u32 {
        let low0 = c0 * 0xD251_1F53u32;
        let high0 = c0.mul_hi(0xD251_1F53u32);
        let low1 = c2 * 0xCD9E_8D57u32;
        let high1 = c2.mul_hi(0xCD9E_8D57u32);
        c0 = high1 ^ c1 ^ key_low;
        c1 = low1;
        c2 = high0 ^ c3 ^ key_high;
        c3 = low0;
        key_low += 0x9E37_79B9u32;
        key_high += 0xBB67_AE85u32;
    }
    Words { a: c0, b: c1, c: c2, d: c3 }
}

/// The word of one element.
#[cube]
pub fn word(address: &Address, element: u32) -> u32 {
    words(address, element >> 2u32).get(element & 3u32)
}

/// The address of second words, of chances which the first one does not settle.
#[cube]
pub fn second(address: &Address) -> Address {
    Address {
        key_low: address.key_low ^ 0x3C6E_F372u32,
        key_high: address.key_high ^ 0xA54F_F53Au32,
        position: address.position,
        sequence_low: address.sequence_low,
        sequence_high: address.sequence_high,
    }
}

/// A word as a number, uniform in [0, 1), a multiple of 2⁻²⁴.
#[cube]
pub fn uniform(word: u32) -> f32 {
    f32::cast_from(word >> 8u32) * 5.960_464_5e-8f32
}
