//! From logits to a token: greedy at temperature 0, otherwise where the sum of the weights passes a uniform number, that
//! of the token's own address. One cube a row; the sums are pairs of f32, of 48 bits, where the CPU has f64, so that the
//! two choose differently about once in 10¹² tokens.

use crate::device::{Client, THREADS, array, cubes, empty, exact};
use crate::exact::{Exact, is_finite, is_nan};
use crate::log_prob::{largest, log_probs};
use crate::math::exp;
use crate::philox::{Address, uniform, word};
use cubecl::prelude::*;
use cubecl::server::Handle;
use hardy_numerics::NoiseKey;

/// A token for every row of `z` `[rows, vocab]`, and its log-probability and the row's entropy, `[rows, 2]`, at
/// `temperature`, where that is 0 at 1. `table` `[rows, 4]` holds the addresses of the tokens. Where logits are no
/// distribution (one is NaN or +∞, or all are −∞) the token is `u32::MAX` and its log-probability NaN.
///
/// # Panics
/// If a handle is too short.
pub fn sample<R: Runtime>(
    client: &Client<R>,
    z: &Handle,
    [rows, vocab]: [usize; 2],
    table: &Handle,
    key: NoiseKey,
    temperature: f32,
) -> (Handle, Handle) {
    let ids = empty(client, rows);
    if rows > 0 {
        sample_kernel::launch(
            client,
            cubes(rows),
            CubeDim::new_1d(THREADS),
            exact(client),
            array(z, rows * vocab),
            array(table, 4 * rows),
            array(&ids, rows),
            rows as u32,
            vocab as u32,
            temperature,
            key.0[0],
            key.0[1],
            temperature == 0.0,
        );
    }
    let temperature = if temperature == 0.0 { 1.0 } else { temperature };
    let found = log_probs(client, z, [rows, vocab], &ids, temperature);
    (ids, found)
}

#[cube(launch)]
fn sample_kernel(
    e: &Exact,
    z: &Array<f32>,
    table: &Array<u32>,
    ids: &mut Array<u32>,
    rows: u32,
    vocab: u32,
    temperature: f32,
    key_low: u32,
    key_high: u32,
    #[comptime] greedy: bool,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let first = row * vocab as usize;
        let me = UNIT_POS as usize;
        let max = largest(z, first, vocab);
        // Every thread has its own run of the row.
        let run = (vocab + 255u32) / 256u32;
        let begin = min(UNIT_POS * run, vocab);
        let end = min(begin + run, vocab);
        let mut sums = SharedMemory::<f32>::new(512usize);
        let mut firsts = SharedMemory::<u32>::new(256usize);
        let mut high = f32::new(0.0);
        let mut low = f32::new(0.0);
        let mut wrong = u32::new(0);
        let mut best = u32::new(0xFFFF_FFFFi64);
        for i in begin..end {
            let value = z[first + i as usize];
            if is_nan(value) {
                wrong = u32::new(1);
            }
            if comptime!(greedy) {
                if value == max && best == 0xFFFF_FFFFu32 {
                    best = i;
                }
            } else {
                let (sum, rest) = e.two_sum(high, exp(e, e.quotient(value - max, temperature)));
                high = sum;
                low += rest;
            }
        }
        let (sum, rest) = e.two_sum(high, low);
        sums[2 * me] = sum;
        sums[2 * me + 1] = rest;
        firsts[me] = select(wrong == 1u32, 0xFFFF_FFFEu32, best);
        sync_cube();
        if me == 0usize {
            let mut chosen = u32::new(0xFFFF_FFFFi64);
            let mut is = is_finite(max);
            for thread in 0usize..256usize {
                is = is && firsts[thread] != 0xFFFF_FFFEu32;
                if firsts[thread] < chosen {
                    chosen = firsts[thread];
                }
            }
            if is {
                if comptime!(!greedy) {
                    let address = Address {
                        key_low,
                        key_high,
                        position: table[4 * row],
                        sequence_low: table[4 * row + 1],
                        sequence_high: table[4 * row + 2],
                    };
                    chosen =
                        draw(e, z, first, vocab, run, max, temperature, &sums, uniform(word(&address, 0u32)));
                }
                ids[row] = chosen;
            } else {
                ids[row] = u32::new(0xFFFF_FFFFi64);
            }
        }
    }
}

/// The token at which the sum of the weights passes `uniform` of the whole; `sums` are those of runs.
#[cube]
fn draw(
    e: &Exact,
    z: &Array<f32>,
    first: usize,
    vocab: u32,
    run: u32,
    max: f32,
    temperature: f32,
    sums: &SharedMemory<f32>,
    uniform: f32,
) -> u32 {
    let mut high = f32::new(0.0);
    let mut low = f32::new(0.0);
    for thread in 0usize..256usize {
        let (sum, rest) = e.two_sum(high, sums[2 * thread]);
        high = sum;
        low += rest + sums[2 * thread + 1];
    }
    let product = e.product(uniform, high);
    let rest = e.fma(uniform, high, -product) + e.product(uniform, low);
    let (target_high, target_low) = e.two_sum(product, rest);
    // Whole runs as long as they do not pass the target, then token by token.
    let mut sum_high = f32::new(0.0);
    let mut sum_low = f32::new(0.0);
    let mut thread = 0usize.runtime();
    let mut passed = false.runtime();
    while thread < 256usize && !passed {
        let (sum, rest) = e.two_sum(sum_high, sums[2 * thread]);
        let (next_high, next_low) = e.two_sum(sum, rest + sum_low + sums[2 * thread + 1]);
        passed = passes(next_high, next_low, target_high, target_low);
        if !passed {
            sum_high = next_high;
            sum_low = next_low;
            thread += 1usize;
        }
    }
    let mut i = min(thread as u32 * run, vocab);
    let mut chosen = u32::new(0);
    let mut done = false.runtime();
    if i == vocab {
        // The whole does not pass, by rounding: the last token with a weight.
        while i > 0u32 && !done {
            i -= 1u32;
            done = exp(e, e.quotient(z[first + i as usize] - max, temperature)) > 0.0f32;
        }
        chosen = i;
    }
    while i < vocab && !done {
        let weight = exp(e, e.quotient(z[first + i as usize] - max, temperature));
        if weight > 0.0f32 {
            chosen = i;
            let (sum, rest) = e.two_sum(sum_high, weight);
            let (next_high, next_low) = e.two_sum(sum, rest + sum_low);
            sum_high = next_high;
            sum_low = next_low;
        }
        done = passes(sum_high, sum_low, target_high, target_low);
        i += 1u32;
    }
    chosen
}

/// Whether one sum of two parts is above another.
#[cube]
fn passes(high: f32, low: f32, target_high: f32, target_low: f32) -> bool {
    high > target_high || (high == target_high && low > target_low)
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;
    use hardy_numerics::math;

    /// The token of the CPU's sampler, without truncation.
    fn choose(z: &[f32], temperature: f32, uniform: f32) -> u32 {
        if z.iter().any(|z| z.is_nan()) || !plain::largest(z).is_finite() {
            return u32::MAX;
        }
        if temperature == 0.0 {
            return z.iter().enumerate().fold(0, |best, (i, z_i)| if *z_i > z[best] { i } else { best })
                as u32;
        }
        let max = plain::largest(z);
        let weights: Vec<f32> = z.iter().map(|z| math::exp((z - max) / temperature)).collect();
        let target = f64::from(uniform) * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let (mut sum, mut chosen) = (0.0, 0);
        for (i, &weight) in weights.iter().enumerate() {
            if weight > 0.0 {
                chosen = i;
                sum += f64::from(weight);
            }
            if sum > target {
                break;
            }
        }
        chosen as u32
    }

    #[test]
    fn tokens_are_those_of_the_cpu() {
        let client = client();
        for (vocab, temperature) in [(40, 1.0), (1000, 0.7), (777, 0.0), (300, 30.0)] {
            let rows = 400;
            let mut z: Vec<f32> = numbers(1, rows * vocab).iter().map(|z| 3.0 * z).collect();
            z[0] = f32::NAN;
            z[vocab] = f32::INFINITY;
            z[2 * vocab..3 * vocab].fill(f32::NEG_INFINITY);
            z[3 * vocab + 1..4 * vocab].fill(f32::NEG_INFINITY);
            z[4 * vocab + 5] = z[4 * vocab + 9].max(50.0);
            z[4 * vocab + 9] = z[4 * vocab + 5];
            let (addresses, table) = addresses(rows);
            let wanted: Vec<u32> = z
                .chunks(vocab)
                .zip(&addresses)
                .map(|(z, &row)| choose(z, temperature, KEY.uniform(row, 0)))
                .collect();
            let (z, table) = (upload(&client, &z), upload_words(&client, &table));
            let (ids, found) = sample(&client, &z, [rows, vocab], &table, KEY, temperature);
            assert_eq!(download_words(&client, ids, rows), wanted, "{vocab} at {temperature}");
            let found = download(&client, found, 2 * rows);
            assert!(found[..6].chunks(2).all(|row| row[0].is_nan()) && found[6] == 0.0);
            assert!(found[8..].chunks(2).all(|row| row[0].is_finite() && row[0] <= 0.0));
        }
    }
}
