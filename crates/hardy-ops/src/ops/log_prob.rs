//! From logits to the log-probability of one token a row, `log p = (z_target − max)/T − log Σ exp((z − max)/T)`, and
//! the entropy of the row's distribution. A reduction for the loss, not an operator of the decoder: no site.

use burn::tensor::Tensor;
use hardy_numerics::math;

use super::{
    parallel, primitive,
    rms_norm::dot,
    softmax::{exp_row, maximum, sum},
    tensor,
};
use crate::backend::{NoisyBackend, Primitive, shape_of};

/// The log-probability of `targets` `[tokens]` under `logits` `[tokens, vocab]` at `temperature`, as `[tokens, 1]`,
/// and the entropy of every row in nats.
///
/// # Panics
/// If a target is not below `vocab`.
pub fn log_prob<B: NoisyBackend>(
    logits: Tensor<B, 2>,
    targets: &[u32],
    temperature: f32,
) -> (Tensor<B, 2>, Vec<f32>) {
    let (y, entropy) = B::log_prob(&primitive(logits), targets, temperature);
    (tensor(y), entropy)
}

/// The forward pass on host slices.
pub fn forward<B: NoisyBackend>(
    logits: &Primitive<B>,
    targets: &[u32],
    temperature: f32,
) -> (Primitive<B>, Vec<f32>) {
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
    (B::upload(log_probs, [tokens, 1], logits), entropy)
}

#[inline(always)]
fn row_log_prob(z: &[f32], target: usize, temperature: f32, scratch: &mut [f32]) -> (f32, f32) {
    let (scaled, weights) = scratch.split_at_mut(z.len());
    let max = maximum(z);
    for ((scaled, weight), z) in scaled.iter_mut().zip(&mut *weights).zip(z) {
        let s = (z - max) / temperature;
        *weight = math::exp(s);
        // A weight of zero contributes nothing to the entropy, whatever its logit.
        *scaled = if s > -1e30 { s } else { -1e30 };
    }
    let total = sum(weights);
    let log_total = total.ln();
    // H = log Σ − Σ p·z.
    ((z[target] - max) / temperature - log_total, log_total - dot(scaled, weights) / total)
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
