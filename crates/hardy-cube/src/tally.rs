//! Energies of errors, kept on the device until they are read. Squares are added in pairs of f32, which together carry 48
//! bits, and in three ranges, so that neither the square of a flipped exponent nor that of a tiny gradient is lost.
//!
//! A tally is [`WORDS`] words: of the error and of the signal, for the middle, the upper and the lower range, the sum and
//! what it lacks, as f32; then the elements that are not finite, as u32. Zeros are an empty one.

use crate::device::{Client, array, exact};
use crate::exact::{Exact, is_finite, magnitude};
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::ErrorEnergy;

/// Words of a tally.
pub const WORDS: usize = 13;
/// Sums of a tally, each two words.
const SUMS: usize = 6;
/// Values of at least 2⁴⁰ are squared 2⁸⁰ times smaller, values below 2⁻⁴⁰ 2⁸⁴ times larger.
const UPPER: i32 = -80;
const LOWER: i32 = 84;

/// An empty tally.
pub fn new<R: Runtime>(client: &Client<R>) -> Handle {
    client.create_from_slice(&[0; 4 * WORDS])
}

/// The energy that a tally holds; waits for the device.
pub fn read<R: Runtime>(client: &Client<R>, tally: Handle) -> ErrorEnergy {
    energy(&client.read_one_unchecked(tally))
}

/// The energy in the bytes of a tally, of which there may be more than that.
///
/// # Panics
/// If there are fewer.
pub fn energy(bytes: &[u8]) -> ErrorEnergy {
    let word = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
    let number = |i: usize| f64::from(f32::from_bits(word(i)));
    let sum = |first: usize| {
        let range = |i: usize, exponent: i32| (number(i) + number(i + 1)) * 2.0_f64.powi(-2 * exponent);
        range(first, 0) + range(first + 2, UPPER) + range(first + 4, LOWER)
    };
    ErrorEnergy { error: sum(0), signal: sum(SUMS), non_finite: word(2 * SUMS).into() }
}

/// What one thread adds up.
#[derive(CubeType)]
pub(crate) struct Sums {
    pairs: Array<f32>,
    non_finite: u32,
}

#[cube]
impl Sums {
    pub fn new() -> Sums {
        let mut pairs = Array::<f32>::new(12usize);
        #[unroll]
        for i in 0usize..12usize {
            pairs[i] = 0.0f32;
        }
        Sums { pairs, non_finite: 0u32 }
    }

    /// Counts the difference of a value and its image.
    pub fn count(&mut self, e: &Exact, before: f32, after: f32) {
        let error = e.apart(after) - before;
        if is_finite(error) {
            self.square(e, 0usize, error);
            self.square(e, 6usize, before);
        } else {
            self.non_finite += 1u32;
        }
    }

    fn square(&mut self, e: &Exact, #[comptime] first: usize, v: f32) {
        let exponent = u32::reinterpret(magnitude(v)) >> 23u32;
        if exponent >= 167u32 {
            let v = v * 8.271_806e-25f32;
            self.add(e, comptime!(first + 2), v * v);
        } else if exponent < 87u32 {
            let v = v * 1.934_281_3e25f32;
            self.add(e, comptime!(first + 4), v * v);
        } else {
            self.add(e, first, v * v);
        }
    }

    fn add(&mut self, e: &Exact, #[comptime] place: usize, v: f32) {
        let (sum, rest) = e.two_sum(self.pairs[place], v);
        self.pairs[place] = sum;
        self.pairs[place + 1] += rest;
    }

    /// Adds up what the threads of a cube have, in a fixed tree, and leaves it in `out` from word `13·index` on.
    pub fn reduce(&self, e: &Exact, out: &mut Array<f32>, index: usize, #[comptime] threads: usize) {
        let mut shared = SharedMemory::<f32>::new(comptime!(threads * 12));
        let mut counts = SharedMemory::<u32>::new(threads);
        let me = UNIT_POS as usize;
        #[unroll]
        for i in 0usize..12usize {
            shared[i * threads + me] = self.pairs[i];
        }
        counts[me] = self.non_finite;
        sync_cube();
        let mut half = comptime!(threads / 2).runtime();
        while half > 0usize {
            if me < half {
                counts[me] = counts[me] + counts[me + half];
                #[unroll]
                for pair in 0usize..6usize {
                    let high = 2 * pair * threads;
                    let low = high + threads;
                    let (sum, rest) = e.two_sum(shared[high + me], shared[high + me + half]);
                    shared[high + me] = sum;
                    shared[low + me] = shared[low + me] + shared[low + me + half] + rest;
                }
            }
            sync_cube();
            half = half / 2;
        }
        if me == 0usize {
            #[unroll]
            for i in 0usize..12usize {
                out[index * 13 + i] = shared[i * threads];
            }
            out[index * 13 + 12] = f32::reinterpret(counts[0]);
        }
    }
}

/// Adds what cubes left in `parts`, in their order, to a tally.
pub(crate) fn add<R: Runtime>(client: &Client<R>, parts: &Handle, count: usize, tally: &Handle) {
    add_parts::launch(
        client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(64),
        exact(client),
        array(parts, WORDS * count),
        array(tally, WORDS),
        count as u32,
    );
}

/// One thread a sum; the last counts.
#[cube(launch)]
fn add_parts(e: &Exact, parts: &Array<f32>, tally: &mut Array<f32>, count: u32) {
    let me = UNIT_POS as usize;
    if me < 6usize {
        let mut high = tally[2 * me];
        let mut low = tally[2 * me + 1];
        for part in 0u32..count {
            let place = part as usize * 13 + 2 * me;
            let (sum, rest) = e.two_sum(high, parts[place]);
            high = sum;
            low += rest + parts[place + 1];
        }
        let (sum, rest) = e.two_sum(high, low);
        tally[2 * me] = sum;
        tally[2 * me + 1] = rest;
    } else if me == 6usize {
        let mut total = u32::reinterpret(tally[12]);
        for part in 0u32..count {
            total += u32::reinterpret(parts[part as usize * 13 + 12]);
        }
        tally[12] = f32::reinterpret(total);
    }
}
