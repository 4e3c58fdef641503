//! From logits to the log-probability of one token a row and the entropy of the row, `log p = (z − max)/T − log Σ`, and
//! the gradient of both. A cube works on a row; a row of `vocab` logits is read twice, `8·vocab` bytes, and `12·vocab`
//! backward. A caller with many rows goes by chunks of them, so that the logits of all never exist at once.

use crate::device::{Client, THREADS, array, cubes, empty, exact, owned, threads};
use crate::exact::Exact;
use crate::math::{exp, ln};
use cubecl::prelude::*;
use cubecl::server::Handle;

/// The log-probability of `targets` `[rows]` under `z` `[rows, vocab]` at `temperature`, and the entropy of every row in
/// nats, `[rows, 2]`. NaN where a target is not below `vocab`.
///
/// # Panics
/// If a handle is too short.
pub fn log_probs<R: Runtime>(
    client: &Client<R>,
    z: &Handle,
    [rows, vocab]: [usize; 2],
    targets: &Handle,
    temperature: f32,
) -> Handle {
    let (out, _) = tempered(client, z, [rows, vocab], targets, temperature);
    out
}

/// What [`log_probs`] gives, and what every row has in all, `[rows, 3]`: the largest logit, Σ exp(s) and Σ p·s with
/// s = (z − max)/T.
fn tempered<R: Runtime>(
    client: &Client<R>,
    z: &Handle,
    [rows, vocab]: [usize; 2],
    targets: &Handle,
    temperature: f32,
) -> (Handle, Handle) {
    let (out, all) = (empty(client, 2 * rows), empty(client, 3 * rows));
    if rows > 0 {
        tempered_kernel::launch(
            client,
            cubes(rows),
            CubeDim::new_1d(THREADS),
            exact(client),
            array(z, rows * vocab),
            array(targets, rows),
            array(&out, 2 * rows),
            array(&all, 3 * rows),
            rows as u32,
            vocab as u32,
            temperature,
        );
    }
    (out, all)
}

/// The gradient of a loss in the logits `z` `[rows, vocab]`, in their place, `grad` `[rows, 2]` being that in the results
/// of [`log_probs`].
///
/// # Panics
/// As [`log_probs`].
pub fn log_probs_backward<R: Runtime>(
    client: &Client<R>,
    z: Handle,
    [rows, vocab]: [usize; 2],
    targets: &Handle,
    temperature: f32,
    grad: &Handle,
) -> Handle {
    let (_, all) = tempered(client, &z, [rows, vocab], targets, temperature);
    let out = owned(client, z, rows * vocab);
    if rows * vocab > 0 {
        let (count, dim) = threads(rows * vocab);
        gradient_kernel::launch(
            client,
            count,
            dim,
            exact(client),
            array(&out, rows * vocab),
            array(targets, rows),
            array(&all, 3 * rows),
            array(grad, 2 * rows),
            vocab as u32,
            temperature,
        );
    }
    out
}

/// s = (z − max)/T, but not below −10³⁰: a weight of zero contributes nothing to the entropy, whatever its logit.
#[cube]
fn bounded(s: f32) -> f32 {
    select(s > -1e30f32, s, -1e30f32)
}

/// The largest of a row, found by all threads of a cube.
#[cube]
pub(crate) fn largest(z: &Array<f32>, first: usize, vocab: u32) -> f32 {
    let mut shared = SharedMemory::<f32>::new(256usize);
    let me = UNIT_POS as usize;
    let mut found = f32::reinterpret(u32::new(0xFF80_0000i64));
    let mut i = UNIT_POS;
    while i < vocab {
        let value = z[first + i as usize];
        found = select(value > found, value, found);
        i += 256u32;
    }
    shared[me] = found;
    sync_cube();
    let mut half = 128usize.runtime();
    while half > 0usize {
        if me < half {
            let other = shared[me + half];
            if other > shared[me] {
                shared[me] = other;
            }
        }
        sync_cube();
        half = half / 2usize;
    }
    shared[0]
}

#[cube(launch)]
fn tempered_kernel(
    e: &Exact,
    z: &Array<f32>,
    targets: &Array<u32>,
    out: &mut Array<f32>,
    all: &mut Array<f32>,
    rows: u32,
    vocab: u32,
    temperature: f32,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let first = row * vocab as usize;
        let me = UNIT_POS;
        let max = largest(z, first, vocab);
        let whole = vocab / 16u32 * 16u32;
        // 1,024 weights and their products with s at a time, added up by two groups of sixteen lanes.
        let mut weights = SharedMemory::<f32>::new(2048usize);
        let mut lanes = SharedMemory::<f32>::new(32usize);
        let mut own = f32::new(0.0);
        let mut begin = u32::new(0);
        while begin < whole {
            #[unroll]
            for turn in 0u32..4u32 {
                let within = turn * 256u32 + me;
                let i = begin + within;
                if i < whole {
                    let s = e.quotient(z[first + i as usize] - max, temperature);
                    let weight = exp(e, s);
                    weights[within as usize] = weight;
                    weights[within as usize + 1024usize] = e.product(bounded(s), weight);
                }
            }
            sync_cube();
            if me < 32u32 {
                let end = min(1024u32, whole - begin);
                let half = me / 16u32 * 1024u32;
                let mut within = me % 16u32;
                while within < end {
                    own += weights[(half + within) as usize];
                    within += 16u32;
                }
            }
            sync_cube();
            begin += 1024u32;
        }
        if me < 32u32 {
            lanes[me as usize] = own;
        }
        sync_cube();
        if me == 0u32 {
            let mut total = tree(&mut lanes, 0usize);
            let mut mixed = tree(&mut lanes, 16usize);
            let mut rest = f32::new(0.0);
            let mut mixed_rest = f32::new(0.0);
            for i in whole..vocab {
                let s = e.quotient(z[first + i as usize] - max, temperature);
                let weight = exp(e, s);
                rest = select(i == whole, weight, rest + weight);
                let term = e.product(bounded(s), weight);
                mixed_rest = select(i == whole, term, mixed_rest + term);
            }
            if whole < vocab {
                total += rest;
                mixed += mixed_rest;
            }
            let mean = e.quotient(mixed, total);
            let log_total = ln(e, total);
            let mut found = f32::reinterpret(u32::new(0x7FC0_0000));
            if targets[row] < vocab {
                found = e.quotient(z[first + targets[row] as usize] - max, temperature) - log_total;
            }
            out[2 * row] = found;
            out[2 * row + 1] = log_total - mean;
            all[3 * row] = max;
            all[3 * row + 1] = total;
            all[3 * row + 2] = mean;
        }
    }
}

/// Adds up sixteen lanes in a tree, in one thread.
#[cube]
fn tree(lanes: &mut SharedMemory<f32>, first: usize) -> f32 {
    let mut half = 8usize.runtime();
    while half > 0usize {
        for lane in 0usize..half {
            lanes[first + lane] = lanes[first + lane] + lanes[first + lane + half];
        }
        half = half / 2usize;
    }
    lanes[first]
}

#[cube(launch)]
fn gradient_kernel(
    e: &Exact,
    z: &mut Array<f32>,
    targets: &Array<u32>,
    all: &Array<f32>,
    grad: &Array<f32>,
    vocab: u32,
    temperature: f32,
) {
    if ABSOLUTE_POS < z.len() {
        let row = ABSOLUTE_POS / vocab as usize;
        let column = (ABSOLUTE_POS % vocab as usize) as u32;
        let (max, total, mean) = (all[3 * row], all[3 * row + 1], all[3 * row + 2]);
        let by_log_prob = e.quotient(e.quotient(-grad[2 * row], temperature), total);
        let by_entropy = e.quotient(e.quotient(-grad[2 * row + 1], temperature), total);
        let s = e.quotient(z[ABSOLUTE_POS] - max, temperature);
        let weight = exp(e, s);
        let mut gradient = e.product(weight, by_log_prob + e.product(by_entropy, bounded(s) - mean));
        if targets[row] == column {
            gradient += e.quotient(grad[2 * row], temperature);
        }
        z[ABSOLUTE_POS] = gradient;
    }
}

#[cfg(all(test, any(feature = "vulkan", feature = "cuda")))]
mod tests {
    use super::*;
    use crate::testing::*;
    use hardy_numerics::math;

    /// Log-probability and entropy, and the gradient of a row.
    fn row(z: &[f32], target: usize, temperature: f32, grad: [f32; 2]) -> ([f32; 2], Vec<f32>) {
        let max = plain::largest(z);
        let s: Vec<f32> = z.iter().map(|z| (z - max) / temperature).collect();
        let weights: Vec<f32> = s.iter().map(|&s| math::exp(s)).collect();
        let bounded: Vec<f32> = s.iter().map(|&s| if s > -1e30 { s } else { -1e30 }).collect();
        let total = plain::sum(&weights);
        let mean = plain::dot(&bounded, &weights) / total;
        let log_total = math::ln_unit(total);
        let [by_log_prob, by_entropy] = grad.map(|grad| -grad / temperature / total);
        let gradient = |(weight, s): (&f32, &f32)| weight * (by_log_prob + by_entropy * (s - mean));
        let mut dz: Vec<f32> = weights.iter().zip(&bounded).map(gradient).collect();
        dz[target] += grad[0] / temperature;
        ([s[target] - log_total, log_total - mean], dz)
    }

    /// To the bit but for the logarithm, which is that of hardy-numerics here and the platform's on the CPU: within 1e-6.
    #[test]
    fn rows_of_logits_give_the_log_probabilities_and_gradients_of_the_cpu() {
        let client = client();
        for ([rows, vocab], temperature) in [([9, 50], 1.0), ([3, 2500], 0.7), ([2, 1024], 1.3)] {
            let mut z: Vec<f32> = numbers(1, rows * vocab).iter().map(|z| 4.0 * z).collect();
            z[3] = f32::NEG_INFINITY;
            let targets: Vec<u32> = (0..rows).map(|row| (row * 17 % vocab) as u32).collect();
            let grad = numbers(2, 2 * rows);
            let (mut wanted, mut gradients) = (Vec::new(), Vec::new());
            for (i, z) in z.chunks(vocab).enumerate() {
                let (found, dz) = row(z, targets[i] as usize, temperature, [grad[2 * i], grad[2 * i + 1]]);
                wanted.extend(found);
                gradients.extend(dz);
                let exact: f64 =
                    z.iter().map(|&z| (f64::from(z) / f64::from(temperature)).exp()).sum::<f64>().ln();
                let exact = f64::from(z[targets[i] as usize]) / f64::from(temperature) - exact;
                assert!((f64::from(found[0]) - exact).abs() < 1e-5);
            }
            let (z, targets) = (upload(&client, &z), upload_words(&client, &targets));
            let found = log_probs(&client, &z, [rows, vocab], &targets, temperature);
            let found = download(&client, found, 2 * rows);
            assert!(largest_difference(&found, &wanted) <= if fused(&client) { 0.0 } else { 1e-6 });
            let grad = upload(&client, &grad);
            let found = log_probs_backward(&client, z, [rows, vocab], &targets, temperature, &grad);
            assert_bits(&download(&client, found, rows * vocab), &gradients, "gradients");
        }
    }
}
