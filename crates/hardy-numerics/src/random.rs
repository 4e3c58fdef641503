//! Random words at addresses, many at a time: the bits of [`NoiseKey::bits`](crate::NoiseKey::bits).

use crate::address::{NoiseKey, Row};
use crate::{philox, simd::dispatch};

/// Philox blocks computed at a time, one to a SIMD lane.
const LANES: usize = 16;
/// Words computed at a time.
pub(crate) const CHUNK: usize = 4 * LANES;

/// Writes the words of elements `first_element ..` of a row.
#[inline(always)]
pub(crate) fn fill_bits(key: NoiseKey, row: Row, first_element: u64, out: &mut [u32]) {
    let mut block = first_element / 4;
    let mut skip = (first_element % 4) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let part = rest.split_off_mut(..rest.len().min(CHUNK - skip)).unwrap_or_default();
        let words = bits_chunk(key, row, block);
        part.copy_from_slice(&words[skip..skip + part.len()]);
        block = block.wrapping_add(LANES as u64);
        skip = 0;
    }
}

/// Writes uniform values in [0, 1) for elements `first_element ..` of a row, those of
/// [`NoiseKey::uniform`](crate::NoiseKey::uniform).
pub fn fill_uniform(key: NoiseKey, row: Row, first_element: u64, out: &mut [f32]) {
    dispatch(
        #[inline(always)]
        || fill_uniform_inline(key, row, first_element, out),
    );
}

/// The same within a kernel.
#[inline(always)]
pub(crate) fn fill_uniform_inline(key: NoiseKey, row: Row, first_element: u64, out: &mut [f32]) {
    let (mut words, mut element) = ([0; CHUNK], first_element);
    for part in out.chunks_mut(CHUNK) {
        fill_bits(key, row, element, &mut words[..part.len()]);
        for (value, word) in part.iter_mut().zip(words) {
            *value = (word >> 8) as f32 * (1.0 / 16_777_216.0);
        }
        element = element.wrapping_add(CHUNK as u64);
    }
}

/// The words of elements `4·block .. 4·block + CHUNK`.
#[inline(always)]
fn bits_chunk(key: NoiseKey, row: Row, block: u64) -> [u32; CHUNK] {
    let mut words = [[0_u32; LANES]; 4];
    for i in 0..LANES {
        let random = philox::bijection(row.counter(block.wrapping_add(i as u64)), key.0);
        for (lanes, word) in words.iter_mut().zip(random) {
            lanes[i] = word as u32;
        }
    }
    std::array::from_fn(|element| words[element % 4][element / 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_scalar_reference() {
        let (key, row) = (NoiseKey([3, 4]), Row { sequence: 5, position: 6 });
        for first in [0, 1, 2, 3, 77, (1 << 34) - 9] {
            let (mut words, mut uniform) = ([0; 203], [0.0; 203]);
            fill_bits(key, row, first, &mut words);
            fill_uniform(key, row, first, &mut uniform);
            for (i, (word, uniform)) in words.into_iter().zip(uniform).enumerate() {
                let element = first + i as u64;
                assert_eq!((word, uniform), (key.bits(row, element), key.uniform(row, element)));
            }
        }
    }
}
