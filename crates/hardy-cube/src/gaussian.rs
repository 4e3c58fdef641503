//! Gaussian noise by Box-Muller, operation for operation as [`hardy_numerics::gaussian`]: four words become four
//! independent standard normal values, by some 70 operations in f32.

use crate::exact::{Exact, nearest};
use crate::math::{ln, sin_cos_of_half_turn};
use crate::philox::Words;
use cubecl::prelude::*;

/// The values of four neighbours.
#[derive(CubeType, Clone, Copy)]
pub struct Normals {
    /// That of element 4·block.
    pub a: f32,
    /// The next.
    pub b: f32,
    /// The next.
    pub c: f32,
    /// That of element 4·block + 3.
    pub d: f32,
}

#[cube]
impl Normals {
    /// One of the four.
    pub fn get(&self, lane: u32) -> f32 {
        select(lane < 2u32, select(lane == 0u32, self.a, self.b), select(lane == 2u32, self.c, self.d))
    }
}

/// 4 random words to 4 standard normal values, by pairs.
#[cube]
pub fn box_muller(e: &Exact, words: &Words) -> Normals {
    let (a, b) = pair(e, words.a, words.b);
    let (c, d) = pair(e, words.c, words.d);
    Normals { a, b, c, d }
}

/// √(−2 ln u)·(cos 2πt, sin 2πt) with u = (radius + 1)·2⁻³² in (0, 1] and t = angle·2⁻³².
#[cube]
fn pair(e: &Exact, radius: u32, angle: u32) -> (f32, f32) {
    let unit = f32::new(2.328_306_4e-10);
    let u = e.fma(nearest(radius), unit, unit);
    let r = e.root(-2.0f32 * ln(e, u));
    // All but the angle's highest bit, as signed, are an angle of at most a quarter turn; the rest is the sign.
    let turned = angle << 1u32;
    let negative = turned >> 31u32 == 1u32;
    let size = select(negative, !turned + 1u32, turned);
    let t = nearest(size) * 1.164_153_2e-10f32;
    let t = select(negative, -t, t);
    let (sin, cos) = sin_cos_of_half_turn(e, t);
    let r = f32::reinterpret(u32::reinterpret(r) ^ ((angle ^ turned) & 0x8000_0000u32));
    (r * cos, r * sin)
}

/// The words and values of `count` blocks of four.
#[cfg(test)]
#[cube(launch)]
fn fill_kernel(
    e: &Exact,
    words: &mut Array<u32>,
    values: &mut Array<f32>,
    key_low: u32,
    key_high: u32,
    position: u32,
    sequence_low: u32,
    sequence_high: u32,
) {
    let block = ABSOLUTE_POS;
    if 4 * block < words.len() {
        let address = crate::philox::Address { key_low, key_high, position, sequence_low, sequence_high };
        let random = crate::philox::words(&address, block as u32);
        let normal = box_muller(e, &random);
        #[unroll]
        for lane in 0u32..4u32 {
            words[4 * block + lane as usize] = random.get(lane);
            values[4 * block + lane as usize] = normal.get(lane);
        }
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::device::{array, empty, exact, threads};
    use crate::testing::*;
    use hardy_numerics::{NoiseKey, Row, fill_gaussian};

    /// Integers are equal to the bit; normals within one unit in the last place of their magnitude, on a device with a
    /// fused multiply-add to the bit.
    #[test]
    fn words_are_equal_and_normals_within_one_unit_in_the_last_place() {
        let client = client();
        let length = 1 << 20;
        for (seed, sequence, position) in [(0, 0, 0), (1, (5 << 32) + 6, 9), (2, u64::MAX, u32::MAX)] {
            let (key, row) = (NoiseKey([seed, !seed]), Row { sequence, position });
            let (words, values) = (empty(&client, length), empty(&client, length));
            let (count, dim) = threads(length / 4);
            fill_kernel::launch(
                &client,
                count,
                dim,
                exact(&client),
                array(&words, length),
                array(&values, length),
                key.0[0],
                key.0[1],
                position,
                sequence as u32,
                (sequence >> 32) as u32,
            );
            let found = download_words(&client, words, length);
            assert!(found.iter().zip(0..).all(|(&word, element)| word == key.bits(row, element)));
            let mut wanted = vec![0.0; length];
            fill_gaussian(key, row, 0, &mut wanted);
            let found = download(&client, values, length);
            let apart = |(a, b): (&f32, &f32)| (a.to_bits() as i32).abs_diff(b.to_bits() as i32);
            let all: Vec<u32> = found.iter().zip(&wanted).map(apart).collect();
            let differ = all.iter().filter(|&&apart| apart > 0).count();
            eprintln!("{differ} of {length} normals differ, by up to {} ulp", all.iter().max().unwrap());
            assert!(all.iter().all(|&apart| apart <= 1));
            assert!(differ == 0 || !fused(&client));
        }
    }
}
