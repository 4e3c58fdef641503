//! Random words at addresses, many at a time: the bits of [`NoiseKey::bits`](crate::NoiseKey::bits).

use crate::address::{NoiseKey, Row};
use crate::{
    philox::{self, BLOCKS, GROUP, Words},
    simd::dispatch,
};

/// Groups of blocks that are computed together.
const GROUPS: usize = 16;
/// Words computed at a time.
pub(crate) const CHUNK: usize = GROUPS * GROUP;

/// Writes the words of elements `first_element ..` of a row.
#[inline(always)]
pub(crate) fn fill_bits(key: NoiseKey, row: Row, first_element: u64, out: &mut [u32]) {
    let (mut element, mut rest) = (first_element, out);
    let (mut words, mut ordered) = ([[[0; 2 * BLOCKS]; 2]; GROUPS], [0; CHUNK]);
    while !rest.is_empty() {
        let skip = (element % 4) as usize;
        let part = rest.split_off_mut(..rest.len().min(row.together(element, GROUPS))).unwrap_or_default();
        let mut counters = [[0; 4]; GROUPS];
        let counters = &mut counters[..(skip + part.len()).div_ceil(GROUP)];
        row.counters(element, counters);
        philox::fill(key.0, counters, &mut words[..counters.len()]);
        for (ordered, words) in ordered.chunks_exact_mut(GROUP).zip(&words[..counters.len()]) {
            in_order(words, ordered);
        }
        part.copy_from_slice(&ordered[skip..skip + part.len()]);
        element = element.wrapping_add(part.len() as u64);
    }
}

/// The words of a group, element after element.
#[inline(always)]
fn in_order([even, odd]: &Words, ordered: &mut [u32]) {
    for (block, words) in ordered.chunks_exact_mut(4).enumerate() {
        let of = |words: &[u32; 2 * BLOCKS], pair: usize| words[pair * BLOCKS + block];
        words.copy_from_slice(&[of(even, 0), of(odd, 0), of(even, 1), of(odd, 1)]);
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
