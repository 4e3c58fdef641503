//! Gaussian noise by Box-Muller in f32: the 4 words of a Philox block become 4 independent standard normal values.
//!
//! The radius keeps all 32 bits of its word, so tails reach √(2·32·ln 2) = 6.66 standard deviations.

use crate::address::{NoiseKey, Row};
use crate::math::{ln_unit, sin_cos_of_half_turn};
use crate::philox::{self, BLOCKS, GROUP, Words};
use crate::simd::dispatch;

/// Groups that are computed together: first the random words of all, then the radii of all, then the noise.
const GROUPS: usize = 16;

/// What begins with a line of the cache, so that no vector lies across two.
#[repr(align(64))]
struct Aligned<T>(T);

/// Neighbouring elements of a row.
pub(crate) struct Stretch<'a> {
    pub key: NoiseKey,
    pub row: Row,
    /// The address of the first.
    pub element: u64,
    pub x: &'a mut [f32],
}

/// Writes `out[i]` = the Gaussian value of element `first_element + i`: the bits of [`NoiseKey::gaussian`], whatever
/// the start, the length and the SIMD level.
pub fn fill_gaussian(key: NoiseKey, row: Row, first_element: u64, out: &mut [f32]) {
    dispatch(
        #[inline(always)]
        || fill(key, row, first_element, out),
    );
}

#[inline(always)]
fn fill(key: NoiseKey, row: Row, first_element: u64, out: &mut [f32]) {
    let stretch = Stretch { key, row, element: first_element, x: out };
    with_gaussian(
        std::iter::once(stretch),
        #[inline(always)]
        |part, noise| part.copy_from_slice(noise),
    );
}

/// Calls `f` with all parts of all stretches, in their order, and the noise of each. Short stretches are computed
/// together.
#[inline(always)]
pub(crate) fn with_gaussian<'a>(
    mut stretches: impl Iterator<Item = Stretch<'a>>,
    mut f: impl FnMut(&mut [f32], &mut [f32]),
) {
    let (mut words, mut values) = (Aligned([[[0; 2 * BLOCKS]; 2]; GROUPS]), Aligned([[0.0; GROUP]; GROUPS]));
    let (words, values) = (&mut words.0, &mut values.0);
    let mut counters = [[0; 4]; GROUPS];
    let mut parts: [(usize, &mut [f32]); GROUPS] = std::array::from_fn(|_| (0, &mut [][..]));
    let mut rest = Stretch { key: NoiseKey([0; 2]), row: Row::WEIGHT, element: 0, x: &mut [] };
    loop {
        while rest.x.is_empty() {
            let Some(next) = stretches.next() else { return };
            rest = next;
        }
        let (key, mut groups, mut count) = (rest.key, 0, 0);
        while groups < GROUPS && rest.key == key {
            if rest.x.is_empty() {
                let Some(next) = stretches.next() else { break };
                rest = next;
                continue;
            }
            let (first, part) = rest.take(&mut counters[groups..]);
            let end = groups * GROUP + first + part.len();
            parts[count] = (groups * GROUP + first, part);
            (groups, count) = (end.div_ceil(GROUP), count + 1);
        }
        philox::fill(key.0, &counters[..groups], &mut words[..groups]);
        // Radii and angles apart, for short chains of operations keep the processor busier than long ones.
        for [radii, _] in &mut words[..groups] {
            for word in radii {
                *word = radius(*word).to_bits();
            }
        }
        for (values, words) in values[..groups].iter_mut().zip(&*words) {
            normal_values(words, values);
        }
        for (first, part) in &mut parts[..count] {
            f(part, &mut values.as_flattened_mut()[*first..][..part.len()]);
        }
    }
}

impl<'a> Stretch<'a> {
    /// Takes as many elements off the front as there are `counters` for their groups, and writes these; gives the place
    /// of the first within its block.
    #[inline(always)]
    fn take(&mut self, counters: &mut [[u32; 4]]) -> (usize, &'a mut [f32]) {
        let skip = (self.element % 4) as usize;
        let count = self.x.len().min(self.row.together(self.element, counters.len()));
        let part = self.x.split_off_mut(..count).unwrap_or_default();
        self.row.counters(self.element, &mut counters[..(skip + count).div_ceil(GROUP)]);
        self.element = self.element.wrapping_add(count as u64);
        (skip, part)
    }
}

/// The values of a group, in the order of their elements.
#[inline(always)]
fn normal_values([radii, angles]: &Words, values: &mut [f32; GROUP]) {
    let (mut first, mut second) = ([0.0; 2 * BLOCKS], [0.0; 2 * BLOCKS]);
    for i in 0..2 * BLOCKS {
        (first[i], second[i]) = turn(f32::from_bits(radii[i]), angles[i]);
    }
    for i in 0..BLOCKS {
        values[4 * i] = first[i];
        values[4 * i + 1] = second[i];
        values[4 * i + 2] = first[BLOCKS + i];
        values[4 * i + 3] = second[BLOCKS + i];
    }
}

/// 4 random words to 4 standard normal values, by pairs.
#[inline(always)]
pub(crate) fn box_muller(words: [u32; 4]) -> [f32; 4] {
    let (a, b) = pair(words[0], words[1]);
    let (c, d) = pair(words[2], words[3]);
    [a, b, c, d]
}

/// A step of a word, as a part of the whole.
const UNIT: f32 = 1.0 / 4_294_967_296.0;

/// G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates" (1958):
/// √(−2 ln u)·(cos 2πt, sin 2πt) with u = (word + 1)·2⁻³² in (0, 1] and t = angle·2⁻³².
#[inline(always)]
fn pair(word: u32, angle: u32) -> (f32, f32) {
    turn(radius(word), angle)
}

/// √(−2 ln u).
#[inline(always)]
fn radius(word: u32) -> f32 {
    (-2.0 * ln_unit((word as f32).mul_add(UNIT, UNIT))).sqrt()
}

/// r·(cos 2πt, sin 2πt).
#[inline(always)]
fn turn(r: f32, angle: u32) -> (f32, f32) {
    // All but the angle's highest bit, as signed, are an angle of at most a quarter turn. What remains, half a turn or
    // none, changes the sign of both results.
    let (sin, cos) = sin_cos_of_half_turn((angle << 1) as i32 as f32 * (0.5 * UNIT));
    let r = f32::from_bits(r.to_bits() ^ ((angle ^ angle << 1) & 1 << 31));
    (r * cos, r * sin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn filled_values_are_those_of_the_scalar_reference(
            key in any::<[u32; 2]>(),
            sequence: u64,
            position: u32,
            first in prop_oneof![0..1000_u64, (1_u64 << 34) - 300..(1 << 34) + 300, Just((1_u64 << 40) + 3)],
            length in 0..300_usize,
        ) {
            let (key, row) = (NoiseKey(key), Row { sequence, position });
            let mut filled = vec![f32::NAN; length];
            fill_gaussian(key, row, first, &mut filled);
            for (i, value) in filled.iter().enumerate() {
                let reference = key.gaussian(row, first + i as u64);
                prop_assert_eq!(value.to_bits(), reference.to_bits(), "element {}", first + i as u64);
            }
        }
    }

    #[test]
    fn stretches_of_several_rows_and_keys_have_their_own_values() {
        let lengths = [0, 3, 0, 700, 32, 1, 0, 0, 97, 0].repeat(5);
        let places = (0_u32..).map(|i| {
            let key = NoiseKey([i / 7, 1]);
            (key, Row { sequence: u64::from(i) << 30, position: i }, u64::from(3 * i))
        });
        let mut rows: Vec<_> =
            places.zip(lengths).map(|(place, length)| (place, vec![f32::NAN; length])).collect();
        let stretches = rows.iter_mut().map(|((key, row, element), x)| Stretch {
            key: *key,
            row: *row,
            element: *element,
            x,
        });
        with_gaussian(stretches, |x, noise| x.copy_from_slice(noise));
        for ((key, row, first), x) in rows {
            for (element, x) in (first..).zip(x) {
                assert_eq!(x, key.gaussian(row, element), "{row:?}, element {element}");
            }
        }
    }

    #[test]
    fn values_are_the_same_at_every_simd_level() {
        let (key, row) = (NoiseKey([3, 4]), Row { sequence: 5, position: 6 });
        let (mut best, mut baseline) = (vec![0.0; 10_000], vec![0.0; 10_000]);
        fill_gaussian(key, row, 2, &mut best);
        fill(key, row, 2, &mut baseline);
        assert_eq!(best, baseline);
    }

    #[test]
    fn tails_reach_beyond_six_sigma_and_every_word_gives_a_finite_value() {
        let reach = pair(0, 0).0;
        assert!(reach > 6.6 && reach < 6.7, "{reach}");
        for word in [0, 1, 2, 1 << 31, (1 << 31) - 1, u32::MAX - 128, u32::MAX] {
            for angle in [0, 1, 1 << 30, 1 << 31, (1 << 31) - 1, u32::MAX] {
                let (a, b) = pair(word, angle);
                assert!(a.is_finite() && b.is_finite(), "{word} {angle}");
            }
        }
    }

    #[test]
    fn moments_and_tails_are_those_of_the_normal_distribution() {
        const ROWS: u32 = 1024;
        const WIDTH: usize = 1 << 15;
        let key = NoiseKey::new(0, "test", 0, "moments");
        let mut values = vec![0.0; WIDTH];
        let mut moments = [0.0_f64; 4];
        let mut beyond = [0_u32; 3];
        for position in 0..ROWS {
            fill_gaussian(key, Row { sequence: 1, position }, 0, &mut values);
            for &value in &values {
                let x = f64::from(value);
                let mut power = 1.0;
                for moment in &mut moments {
                    power *= x;
                    *moment += power;
                }
                for (count, sigma) in beyond.iter_mut().zip([3.0, 4.0, 5.0]) {
                    *count += u32::from(x.abs() > sigma);
                }
            }
        }
        let n = f64::from(ROWS) * WIDTH as f64;
        // Each within 4.5 standard errors: those of the moments are √(E x²ᵏ − (E xᵏ)²)/√n.
        let expected = [(0.0, 1.0_f64), (1.0, 2.0), (0.0, 15.0), (3.0, 96.0)];
        for (power, (sum, (mean, variance))) in moments.iter().zip(expected).enumerate() {
            let error = (sum / n - mean).abs() / (variance / n).sqrt();
            assert!(error < 4.5, "moment {}: {} is {error} standard errors off", power + 1, sum / n);
        }
        for (count, probability) in beyond.into_iter().zip([2.699_796e-3, 6.334_248e-5, 5.733_031e-7]) {
            let error = (f64::from(count) - n * probability).abs() / (n * probability).sqrt();
            assert!(error < 4.5, "{count} in the tail, not {}", n * probability);
        }
    }

    #[test]
    fn neighbouring_addresses_are_uncorrelated() {
        const N: usize = 1 << 20;
        let values = |key: NoiseKey, row: Row, first: u64| {
            let mut values = vec![0.0; N];
            fill_gaussian(key, row, first, &mut values);
            values
        };
        let key = NoiseKey::new(0, "train", 5, "model.layers.0");
        let row = Row { sequence: 7, position: 8 };
        let base = values(key, row, 0);
        let neighbours = [
            ("element", values(key, row, 1)),
            ("block", values(key, row, 4)),
            ("position", values(key, Row { position: 9, ..row }, 0)),
            ("sequence", values(key, Row { sequence: 8, ..row }, 0)),
            ("step", values(NoiseKey::new(0, "train", 6, "model.layers.0"), row, 0)),
            ("stream", values(NoiseKey::new(0, "eval", 5, "model.layers.0"), row, 0)),
            ("place", values(NoiseKey::new(0, "train", 5, "model.layers.1"), row, 0)),
            ("seed", values(NoiseKey::new(1, "train", 5, "model.layers.0"), row, 0)),
        ];
        for (name, other) in neighbours {
            for power in [1, 2] {
                let centred = |x: f32| f64::from(x).powi(power) - f64::from(power - 1);
                let product: f64 = base.iter().zip(&other).map(|(&a, &b)| centred(a) * centred(b)).sum();
                let correlation = product / N as f64 / f64::from(power);
                assert!(correlation.abs() < 4.5 / (N as f64).sqrt(), "{name}, power {power}: {correlation}");
            }
        }
    }
}
