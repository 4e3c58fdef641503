//! From logits to the log-probability of one token a row, `log p = (z_target − max)/T − log Σ exp((z − max)/T)`, and
//! the entropy of the row's distribution. A reduction for the loss, not an operator of the decoder: no site.

use burn::tensor::Tensor;
use hardy_numerics::{math, simd::dispatch};

use super::{
    parallel, primitive,
    rms_norm::dot,
    softmax::{exp_row, maximum, sum},
    tensor,
};
use crate::backend::{NoisyBackend, Primitive, shape_of};

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
    let mut scratch = vec![0.0; 2 * logits.len()];
    dispatch(
        #[inline(always)]
        || row_log_prob(logits, target as usize, temperature, &mut scratch).0,
    )
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    logits: &Primitive<B>,
    targets: &[u32],
    temperature: f32,
) -> [Primitive<B>; 2] {
    let [tokens, vocab] = shape_of::<B>(logits);
    let host = B::host(logits);
    // Log-probability and entropy of a row side by side, so that one pass fills both.
    let mut both = vec![0.0; 2 * tokens];
    let rows_per_chunk = parallel::chunk_rows(vocab);
    parallel::for_chunks_of(
        &mut both,
        2 * rows_per_chunk,
        #[inline(always)]
        |first, both| {
            let mut scratch = vec![0.0; 2 * vocab];
            for (i, pair) in both.chunks_exact_mut(2).enumerate() {
                let row = first / 2 + i;
                let z = &host[row * vocab..][..vocab];
                (pair[0], pair[1]) = row_log_prob(z, targets[row] as usize, temperature, &mut scratch);
            }
        },
    );
    let entropy = both.iter().skip(1).step_by(2).copied().collect();
    let log_probs = both.into_iter().step_by(2).collect();
    [log_probs, entropy].map(|column| B::upload(column, [tokens, 1], logits))
}

/// The log-probability of `target` and the entropy of a row `z` `[vocab]`; `scratch` is `[2·vocab]`.
#[inline(always)]
pub(super) fn row_log_prob(z: &[f32], target: usize, temperature: f32, scratch: &mut [f32]) -> (f32, f32) {
    let (scaled, weights) = scratch.split_at_mut(z.len());
    let Tempered { max, total, mean } = temper(z, temperature, scaled, weights);
    let log_total = total.ln();
    // H = log Σ − Σ p·s.
    ((z[target] - max) / temperature - log_total, log_total - mean)
}

/// What a row has in all.
struct Tempered {
    /// The largest logit.
    max: f32,
    /// Σ exp(s).
    total: f32,
    /// Σ p·s.
    mean: f32,
}

/// Fills `scaled` with s = (z − max)/T and `weights` with exp(s).
#[inline(always)]
fn temper(z: &[f32], temperature: f32, scaled: &mut [f32], weights: &mut [f32]) -> Tempered {
    let max = maximum(z);
    for ((scaled, weight), z) in scaled.iter_mut().zip(&mut *weights).zip(z) {
        let s = (z - max) / temperature;
        *weight = math::exp(s);
        // A weight of zero contributes nothing to the entropy, whatever its logit.
        *scaled = if s > -1e30 { s } else { -1e30 };
    }
    let total = sum(weights);
    Tempered { max, total, mean: dot(scaled, weights) / total }
}

/// Replaces logits by the gradient of a loss whose derivatives in the row's log-probability and entropy are `grad`.
#[inline(always)]
pub(super) fn row_gradient(
    z: &mut [f32],
    target: usize,
    temperature: f32,
    grad: [f32; 2],
    scratch: &mut [f32],
) {
    let (scaled, weights) = scratch.split_at_mut(z.len());
    let Tempered { total, mean, .. } = temper(z, temperature, scaled, weights);
    let [by_log_prob, by_entropy] = grad.map(|grad| -grad / temperature / total);
    for ((z, s), weight) in z.iter_mut().zip(&*scaled).zip(&*weights) {
        *z = weight * (by_log_prob + by_entropy * (s - mean));
    }
    z[target] += grad[0] / temperature;
}

/// `∂z = ∂y·(1[target] − p)/T`.
pub fn backward<B: NoisyBackend>(
    logits: &Primitive<B>,
    targets: &[u32],
    temperature: f32,
    grad: &Primitive<B>,
) -> Primitive<B> {
    let [tokens, vocab] = shape_of::<B>(logits);
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
    let [tokens, vocab] = shape_of::<B>(logits);
    let grad_host = B::host(grad);
    let mut dz = B::host(logits).to_vec();
    parallel::for_chunks(
        &mut dz,
        vocab,
        #[inline(always)]
        |first, dz| {
            let mut scratch = vec![0.0; 2 * vocab];
            let (scaled, weights) = scratch.split_at_mut(vocab);
            for (i, z) in dz.chunks_exact_mut(vocab).enumerate() {
                let Tempered { total, mean, .. } = temper(z, temperature, scaled, weights);
                let scale = -grad_host[first + i] / temperature / total;
                for ((z, s), weight) in z.iter_mut().zip(&*scaled).zip(&*weights) {
                    *z = scale * weight * (s - mean);
                }
            }
        },
    );
    B::upload(dz, [tokens, vocab], logits)
}
