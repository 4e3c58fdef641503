//! From logits to a token: greedy at temperature 0, otherwise the inverse of the cumulative distribution at a given
//! uniform number, after top-k and top-p.
//!
//! Top-k and top-p only choose: the log-probability that is kept is the policy's own, over all tokens, because that is
//! what training computes. So the mismatch of the two, and every importance weight, speaks of numerics and never of a
//! truncation, which no weight corrects. verl and TRL keep what vLLM calls `processed_logprobs`, renormalised over the
//! tokens left, and compare it with a training side that knows only the temperature; without truncation all agree.

use std::cmp::Ordering;

use burn::tensor::Tensor;
use hardy_numerics::{NoiseKey, Row, math, simd::dispatch};
use rayon::prelude::*;

use super::{log_prob::token_log_prob, primitive};
use crate::backend::{NoisyBackend, Primitive, shape_of};

/// A token that was drawn, and its log-probability.
pub type Drawn = (u32, f32);

/// The next token of every row of `logits` `[rows, vocab]`, whose addresses are `rows`: the one that `how` chooses for the
/// random number of `key` at that address; see [`Sampler::choose`].
///
/// # Panics
/// If there is not one address a row.
pub fn sample<B: NoisyBackend>(
    logits: Tensor<B, 2>,
    rows: &[Row],
    how: &Sampler,
    key: NoiseKey,
) -> Vec<Option<Drawn>> {
    assert_eq!(logits.dims()[0], rows.len(), "an address for every row");
    B::sample(&primitive(logits), rows, how, key)
}

/// The same on host slices.
pub fn draw<B: NoisyBackend>(
    logits: &Primitive<B>,
    rows: &[Row],
    how: &Sampler,
    key: NoiseKey,
) -> Vec<Option<Drawn>> {
    let ([_, vocab], host) = (shape_of::<B>(logits), B::host(logits));
    let one = |(row, logits): (&Row, &[f32])| how.choose(logits, key.uniform(*row, 0));
    rows.par_iter().zip(host.par_chunks_exact(vocab)).map(one).collect()
}

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Only the most probable tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Only this many of the most probable tokens; 0 keeps all.
    pub top_k: usize,
}

impl Sampler {
    /// Always the most probable token, the first of equals.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };

    /// The token for `uniform` in [0, 1) and its log-probability among all tokens (at temperature 1 when greedy), which
    /// is to the bit what training computes from the same logits. `None` where the logits are no distribution: one is
    /// NaN or +∞, or all are −∞. A single −∞ is a probability of 0.
    pub fn choose(&self, logits: &[f32], uniform: f32) -> Option<(u32, f32)> {
        if !is_distribution(logits) {
            return None;
        }
        if self.temperature == 0.0 {
            let id = greedy(logits);
            return Some((id, token_log_prob(logits, id, 1.0)));
        }
        let weights = self.weights(logits);
        let id = if self.top_k == 0 && self.top_p >= 1.0 {
            pick(weights.iter().copied().enumerate(), uniform)
        } else {
            pick(self.truncate(weights).into_iter(), uniform)
        };
        Some((id, token_log_prob(logits, id, self.temperature)))
    }

    /// What is proportional to the probabilities, 1 for the largest.
    fn weights(&self, logits: &[f32]) -> Vec<f32> {
        let mut weights = vec![0.0; logits.len()];
        dispatch(
            #[inline(always)]
            || {
                let max = maximum(logits);
                for (weight, z) in weights.iter_mut().zip(logits) {
                    *weight = math::exp((z - max) / self.temperature);
                }
            },
        );
        weights
    }

    /// The weights that top-k and top-p leave, the most probable first.
    fn truncate(&self, weights: Vec<f32>) -> Vec<(usize, f32)> {
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mut kept: Vec<(usize, f32)> = weights.into_iter().enumerate().collect();
        kept.sort_by(|&a, &b| descending(a, b));
        if self.top_k > 0 {
            kept.truncate(self.top_k);
        }
        let total = if self.top_k > 0 { kept.iter().map(|&(_, w)| f64::from(w)).sum() } else { total };
        let mut sum = 0.0;
        let needed = kept.iter().take_while(|&&(_, w)| {
            let before = sum;
            sum += f64::from(w);
            before < f64::from(self.top_p) * total
        });
        let count = needed.count().max(1);
        kept.truncate(count);
        kept
    }
}

/// Larger first; NaN last; equal ones in the order of their index.
fn descending(a: (usize, f32), b: (usize, f32)) -> Ordering {
    let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
}

fn greedy(logits: &[f32]) -> u32 {
    logits.iter().enumerate().fold(0, |best, (i, z)| if *z > logits[best] { i } else { best }) as u32
}

/// Whether the largest logit is finite and none is NaN.
fn is_distribution(logits: &[f32]) -> bool {
    dispatch(
        #[inline(always)]
        || {
            let wrong = logits.iter().fold(false, |wrong, z| wrong | z.is_nan());
            !wrong && maximum(logits).is_finite()
        },
    )
}

/// The token at which the sum of the weights passes `uniform` of the whole.
fn pick(weights: impl Iterator<Item = (usize, f32)> + Clone, uniform: f32) -> u32 {
    let total: f64 = weights.clone().map(|(_, w)| f64::from(w)).sum();
    let target = f64::from(uniform) * total;
    let mut sum = 0.0;
    let mut chosen = 0;
    for (index, weight) in weights {
        if weight > 0.0 {
            chosen = index;
            sum += f64::from(weight);
        }
        if sum > target {
            break;
        }
    }
    chosen as u32
}

#[inline(always)]
fn maximum(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, 3.0];

    fn shares(sampler: Sampler) -> [f32; 4] {
        let mut counts = [0.0; 4];
        (0..10_000)
            .for_each(|i| counts[sampler.choose(&LOGITS, i as f32 / 10_000.0).unwrap().0 as usize] += 1e-4);
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let (id, log_prob) = Sampler::GREEDY.choose(&LOGITS, 0.9).unwrap();
        let total: f32 = LOGITS.iter().map(|z| (z - 3.0).exp()).sum();
        assert_eq!(id, 1);
        assert!((log_prob + total.ln()).abs() < 1e-5);
    }

    #[test]
    fn sampling_follows_the_softmax_at_its_temperature() {
        for temperature in [0.5, 1.0, 2.0] {
            let shares = shares(Sampler { temperature, top_p: 1.0, top_k: 0 });
            let total: f32 = LOGITS.iter().map(|z| (z / temperature).exp()).sum();
            for (share, z) in shares.iter().zip(LOGITS) {
                assert!((share - (z / temperature).exp() / total).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_most_probable() {
        let top_k = shares(Sampler { temperature: 1.0, top_p: 1.0, top_k: 1 });
        assert!((top_k[1] - 1.0).abs() < 1e-3);
        let top_p = shares(Sampler { temperature: 1.0, top_p: 0.5, top_k: 0 });
        assert!(top_p[0] == 0.0 && top_p[2] == 0.0 && (top_p[1] - 0.5).abs() < 1e-3);
    }

    #[test]
    fn truncation_chooses_and_leaves_the_log_probability_as_training_computes_it() {
        for (top_p, top_k) in [(0.5, 0), (1.0, 1), (0.6, 3)] {
            let (id, log_prob) = Sampler { temperature: 0.7, top_p, top_k }.choose(&LOGITS, 0.3).unwrap();
            assert_eq!(log_prob.to_bits(), token_log_prob(&LOGITS, id, 0.7).to_bits());
        }
    }

    #[test]
    fn logits_that_are_no_distribution_choose_no_token() {
        let samplers = [
            Sampler::GREEDY,
            Sampler { temperature: 1.0, top_p: 1.0, top_k: 0 },
            Sampler { temperature: 0.5, top_p: 0.9, top_k: 2 },
        ];
        for sampler in samplers {
            for wrong in [f32::NAN, -f32::NAN, f32::INFINITY] {
                for place in 0..4 {
                    let mut logits = LOGITS;
                    logits[place] = wrong;
                    assert_eq!(sampler.choose(&logits, 0.5), None, "{sampler:?} {logits:?}");
                }
            }
            assert_eq!(sampler.choose(&[f32::NEG_INFINITY; 4], 0.5), None);
            let (id, log_prob) =
                sampler.choose(&[f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 1.0], 0.5).unwrap();
            assert!(id == 1 && log_prob.is_finite(), "a probability of 0 is none to choose, and no more");
        }
    }
}
