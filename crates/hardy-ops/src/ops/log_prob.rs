//! From logits to the log-probability of one token a row, `log p = (z_target − max)/T − log Σ exp((z − max)/T)`, and
//! the entropy of the row's distribution. A reduction for the loss, not an operator of the decoder: no site.

use burn_tensor::Tensor;
use hardy_numerics::{math, simd::dispatch};

use super::{
    parallel, primitive,
    softmax::{exp_row, maximum, sum},
    tensor,
};
use crate::backend::{NoisyBackend, Primitive};

/// The log-probability of `targets` `[tokens]` under `logits` `[tokens, vocab]` at `temperature`, as `[tokens, 1]`,
/// and the entropy of every row in nats, as `[tokens, 1]` too. Both can be differentiated.
///
/// # Panics
/// If a target is not below `vocab`.
pub fn log_prob<B: NoisyBackend>(
    logits: Tensor<B, 2>,
    targets: &[u32],
    temperature: f32,
) -> [Tensor<B, 2>; 2] {
    B::log_prob(&primitive(logits), targets, temperature).map(tensor)
}

/// The log-probability of one token under one row of logits, to the bit as [`log_prob`] gives it.
///
/// # Panics
/// If the token is not below `logits.len()`.
pub fn token_log_prob(logits: &[f32], target: u32, temperature: f32) -> f32 {
    dispatch(
        #[inline(always)]
        || row_log_prob(logits, target as usize, temperature).0,
    )
}

/// A row of logits with its weights `exp((z − max)/T)`, which are proportional to the probabilities; the largest is 1.
pub(super) struct Weighed {
    /// The weights, `[vocab]`.
    pub weights: Vec<f32>,
    max: f32,
    total: f32,
    temperature: f32,
}

impl Weighed {
    /// Weighs a row of logits; `None` where they are no distribution: one is NaN or +∞, or all are −∞.
    pub fn new(logits: &[f32], temperature: f32) -> Option<Self> {
        let mut weights = vec![0.0; logits.len()];
        let [max, total] = dispatch(
            #[inline(always)]
            || {
                let max = maximum(logits);
                for (weight, z) in weights.iter_mut().zip(logits) {
                    *weight = math::exp(scaled(*z, max, temperature));
                }
                [max, sum(&weights)]
            },
        );
        // Whatever is wrong makes a weight NaN, and so the sum.
        total.is_finite().then_some(Self { weights, max, total, temperature })
    }

    /// The log-probability of a token with this logit, to the bit as [`log_prob`] gives it.
    pub fn log_prob(&self, logit: f32) -> f32 {
        (logit - self.max) / self.temperature - self.total.ln()
    }
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    logits: &Primitive<B>,
    targets: &[u32],
    temperature: f32,
) -> [Primitive<B>; 2] {
    let [tokens, vocab] = B::shape(logits);
    let host = B::host(logits);
    // Log-probability and entropy of a row side by side, so that one pass fills both.
    let mut both = vec![0.0; 2 * tokens];
    let rows_per_chunk = parallel::chunk_rows(vocab);
    parallel::for_chunks_of(
        &mut both,
        2 * rows_per_chunk,
        #[inline(always)]
        |first, both| {
            for (i, pair) in both.chunks_exact_mut(2).enumerate() {
                let row = first / 2 + i;
                let z = &host[row * vocab..][..vocab];
                (pair[0], pair[1]) = row_log_prob(z, targets[row] as usize, temperature);
            }
        },
    );
    let entropy = both.iter().skip(1).step_by(2).copied().collect();
    let log_probs = both.into_iter().step_by(2).collect();
    [log_probs, entropy].map(|column| B::upload(column, [tokens, 1], logits))
}

/// The log-probability of `target` and the entropy of a row `z` `[vocab]`.
#[inline(always)]
pub(super) fn row_log_prob(z: &[f32], target: usize, temperature: f32) -> (f32, f32) {
    let Tempered { max, total, mean } = temper(
        z,
        temperature,
        #[inline(always)]
        |_, _| (),
    );
    let log_total = total.ln();
    // H = log Σ − Σ p·s.
    ((z[target] - max) / temperature - log_total, log_total - mean)
}

/// What a row has in all, with s = (z − max)/T.
struct Tempered {
    /// The largest logit.
    max: f32,
    /// Σ exp(s).
    total: f32,
    /// Σ p·s.
    mean: f32,
}

/// Logits that are added up side by side, as [`sum`] does.
const LANES: usize = 16;

/// Adds up a row in one pass; `keep` is given every block of weights exp(s), and where it begins.
#[inline(always)]
fn temper(z: &[f32], temperature: f32, mut keep: impl FnMut(usize, &[f32])) -> Tempered {
    let max = maximum(z);
    let (mut totals, mut means) = ([0.0; LANES], [0.0; LANES]);
    let (blocks, rest) = z.as_chunks::<LANES>();
    for (block, z) in blocks.iter().enumerate() {
        let (mut weights, mut terms) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let s = scaled(z[lane], max, temperature);
            weights[lane] = math::exp(s);
            terms[lane] = visible(s) * weights[lane];
        }
        for lane in 0..LANES {
            totals[lane] += weights[lane];
            means[lane] += terms[lane];
        }
        keep(block * LANES, &weights);
    }
    let (mut total, mut mean) = (-0.0, -0.0);
    for (i, z) in rest.iter().enumerate() {
        let s = scaled(*z, max, temperature);
        let weight = math::exp(s);
        total += weight;
        mean += visible(s) * weight;
        keep(blocks.len() * LANES + i, &[weight]);
    }
    let (total, mean) = (sum(&totals) + total, sum(&means) + mean);
    Tempered { max, total, mean: mean / total }
}

#[inline(always)]
fn scaled(z: f32, max: f32, temperature: f32) -> f32 {
    (z - max) / temperature
}

/// A weight of zero contributes nothing to the entropy, whatever its logit.
#[inline(always)]
fn visible(s: f32) -> f32 {
    if s > -1e30 { s } else { -1e30 }
}

/// Replaces logits by the gradient of a loss whose derivatives in the row's log-probability and entropy are `grad`;
/// `weights` is room for a row.
#[inline(always)]
pub(super) fn row_gradient(
    z: &mut [f32],
    target: usize,
    temperature: f32,
    grad: [f32; 2],
    weights: &mut [f32],
) {
    let Tempered { max, total, mean } = temper_into(z, temperature, weights);
    let [by_log_prob, by_entropy] = grad.map(|grad| -grad / temperature / total);
    for (z, weight) in z.iter_mut().zip(&*weights) {
        let s = visible(scaled(*z, max, temperature));
        *z = weight * (by_log_prob + by_entropy * (s - mean));
    }
    z[target] += grad[0] / temperature;
}

/// [`temper`] that keeps the weights.
#[inline(always)]
fn temper_into(z: &[f32], temperature: f32, weights: &mut [f32]) -> Tempered {
    temper(
        z,
        temperature,
        #[inline(always)]
        |first, block| weights[first..first + block.len()].copy_from_slice(block),
    )
}

/// `∂z = ∂y·(1[target] − p)/T`.
pub fn backward<B: NoisyBackend>(
    logits: &Primitive<B>,
    targets: &[u32],
    temperature: f32,
    grad: &Primitive<B>,
) -> Primitive<B> {
    let [tokens, vocab] = B::shape(logits);
    let grad_host = B::host(grad);
    let mut dz = B::host(logits).to_vec();
    parallel::for_chunks(
        &mut dz,
        vocab,
        #[inline(always)]
        |first, dz| {
            for (i, z) in dz.chunks_exact_mut(vocab).enumerate() {
                let row = first + i;
                z.iter_mut().for_each(|z| *z /= temperature);
                let scale = -grad_host[row] / temperature / exp_row(z);
                z.iter_mut().for_each(|p| *p *= scale);
                z[targets[row] as usize] += grad_host[row] / temperature;
            }
        },
    );
    B::upload(dz, [tokens, vocab], logits)
}

/// Of the entropy: `∂z = −∂H·p·(log p + H)/T`, where `log p + H = s − Σ p·s`.
pub fn entropy_backward<B: NoisyBackend>(
    logits: &Primitive<B>,
    temperature: f32,
    grad: &Primitive<B>,
) -> Primitive<B> {
    let [tokens, vocab] = B::shape(logits);
    let grad_host = B::host(grad);
    let mut dz = B::host(logits).to_vec();
    parallel::for_chunks(
        &mut dz,
        vocab,
        #[inline(always)]
        |first, dz| {
            let mut weights = vec![0.0; vocab];
            for (i, z) in dz.chunks_exact_mut(vocab).enumerate() {
                let Tempered { max, total, mean } = temper_into(z, temperature, &mut weights);
                let scale = -grad_host[first + i] / temperature / total;
                for (z, weight) in z.iter_mut().zip(&weights) {
                    *z = scale * weight * (visible(scaled(*z, max, temperature)) - mean);
                }
            }
        },
    );
    B::upload(dz, [tokens, vocab], logits)
}
