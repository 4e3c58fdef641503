//! From logits to a token: greedy at temperature 0, otherwise the inverse of the cumulative distribution at a given
//! uniform number, after top-k and top-p.
//!
//! Top-k and top-p only choose: the log-probability that is kept is the policy's own, over all tokens, because that is
//! what training computes. So the mismatch of the two, and every importance weight, speaks of numerics and never of a
//! truncation, which no weight corrects. verl and TRL keep what vLLM calls `processed_logprobs`, renormalised over the
//! tokens left, and compare it with a training side that knows only the temperature; without truncation all agree.

use std::cmp::Ordering;

use burn_tensor::Tensor;
use hardy_numerics::{NoiseKey, Row, simd::dispatch};
use rayon::prelude::*;

use super::{log_prob::Weighed, primitive};
use crate::backend::{NoisyBackend, Primitive};

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

/// The same, drawn on the device and not waited for; `None` where the host has to draw.
///
/// # Panics
/// If there is not one address a row.
pub fn sample_there<B: NoisyBackend>(
    logits: Tensor<B, 2>,
    rows: &[Row],
    how: &Sampler,
    key: NoiseKey,
) -> Option<B::Underway> {
    assert_eq!(logits.dims()[0], rows.len(), "an address for every row");
    B::sample_there(&primitive(logits), rows, how, key)
}

/// [`sample`] on host slices.
pub fn draw<B: NoisyBackend>(
    logits: &Primitive<B>,
    rows: &[Row],
    how: &Sampler,
    key: NoiseKey,
) -> Vec<Option<Drawn>> {
    let ([_, vocab], host) = (B::shape(logits), B::host(logits));
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
        let is_greedy = self.temperature == 0.0;
        let row = Weighed::new(logits, if is_greedy { 1.0 } else { self.temperature })?;
        let id = match self {
            _ if is_greedy => greedy(logits),
            Self { top_k: 0, top_p: 1.0.., .. } => pick(&row.weights, uniform),
            _ => {
                let (kept, weights): (Vec<usize>, Vec<f32>) = self.truncate(&row.weights).into_iter().unzip();
                kept[pick(&weights, uniform) as usize] as u32
            }
        };
        Some((id, row.log_prob(logits[id as usize])))
    }

    /// The weights that top-k and top-p leave, the most probable first. Little more is sorted than is kept.
    fn truncate(&self, weights: &[f32]) -> Vec<(usize, f32)> {
        let mut kept: Vec<(usize, f32)> = weights.iter().copied().enumerate().collect();
        let mut sorted = 0;
        let mut total = sum(weights);
        if self.top_k > 0 {
            sorted = self.top_k.min(kept.len());
            sort_first(&mut kept, 0, sorted);
            kept.truncate(sorted);
            total = kept.iter().map(|&(_, weight)| f64::from(weight)).sum();
        }
        let (mut count, mut reached) = (0, 0.0);
        while count < kept.len() && (count == 0 || reached < f64::from(self.top_p) * total) {
            if count == sorted {
                sorted = (2 * sorted).max(FIRST).min(kept.len());
                sort_first(&mut kept, count, sorted);
            }
            reached += f64::from(kept[count].1);
            count += 1;
        }
        kept.truncate(count);
        kept
    }
}

/// Larger first; NaN last; equal ones in the order of their index.
fn descending(a: (usize, f32), b: (usize, f32)) -> Ordering {
    let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
}

/// Tokens that are sorted at first.
const FIRST: usize = 64;

/// Puts the most probable tokens of those from `first` on, as many as lie before `end`, there in their order.
fn sort_first(tokens: &mut [(usize, f32)], first: usize, end: usize) {
    let tokens = &mut tokens[first..];
    let count = end - first;
    if count > 0 && count < tokens.len() {
        tokens.select_nth_unstable_by(count - 1, |&a, &b| descending(a, b));
    }
    tokens[..count].sort_unstable_by(|&a, &b| descending(a, b));
}

fn greedy(logits: &[f32]) -> u32 {
    logits.iter().enumerate().fold(0, |best, (i, z)| if *z > logits[best] { i } else { best }) as u32
}

/// Weights that are added up together.
const BLOCK: usize = 256;

/// The sum of weights, in blocks, so that [`pick`] finds a token without adding them one by one.
fn sum(weights: &[f32]) -> f64 {
    block_sums(weights).iter().sum()
}

/// The sums of all blocks of weights, each in eight lanes.
fn block_sums(weights: &[f32]) -> Vec<f64> {
    const LANES: usize = 8;
    let mut sums = Vec::with_capacity(weights.len().div_ceil(BLOCK));
    dispatch(
        #[inline(always)]
        || {
            for block in weights.chunks(BLOCK) {
                let (groups, rest) = block.as_chunks::<LANES>();
                let mut lanes = [0.0_f64; LANES];
                for group in groups {
                    for lane in 0..LANES {
                        lanes[lane] += f64::from(group[lane]);
                    }
                }
                sums.push(
                    lanes.iter().sum::<f64>() + rest.iter().map(|&weight| f64::from(weight)).sum::<f64>(),
                );
            }
        },
    );
    sums
}

/// The token at which the sum of the weights passes `uniform` of the whole.
fn pick(weights: &[f32], uniform: f32) -> u32 {
    let sums = block_sums(weights);
    let target = f64::from(uniform) * sums.iter().sum::<f64>();
    let mut before = 0.0;
    let passes = |sum: &f64| {
        let within = before + sum > target;
        before += if within { 0.0 } else { *sum };
        within
    };
    // Rounding may leave all sums at or below the target; then it is the last token that has any weight.
    let block = sums.iter().position(passes).unwrap_or(sums.len()) * BLOCK;
    let end = weights.len().min(block + BLOCK);
    let mut chosen = weights[..end].iter().rposition(|&weight| weight > 0.0).unwrap_or_default();
    for (index, &weight) in weights[..end].iter().enumerate().skip(block) {
        before += f64::from(weight);
        if before > target && weight > 0.0 {
            chosen = index;
            break;
        }
    }
    chosen as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::log_prob::token_log_prob;
    use proptest::prelude::*;

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

    /// The definition, by a full sort.
    fn sorted_and_cut(sampler: Sampler, weights: &[f32]) -> Vec<(usize, f32)> {
        let mut all: Vec<(usize, f32)> = weights.iter().copied().enumerate().collect();
        all.sort_by(|&a, &b| descending(a, b));
        if sampler.top_k > 0 {
            all.truncate(sampler.top_k);
        }
        let total: f64 = all.iter().map(|&(_, w)| f64::from(w)).sum();
        let mut sum = 0.0;
        let kept = all.iter().take_while(|&&(_, w)| {
            let before = sum;
            sum += f64::from(w);
            before < f64::from(sampler.top_p) * total
        });
        let count = kept.count().max(1);
        all.truncate(count);
        all
    }

    proptest! {
        #[test]
        fn truncation_keeps_what_a_full_sort_keeps(
            // Multiples of 1/64, so that sums are exact in any order, and many are equal.
            weights in prop::collection::vec((0..65_u8).prop_map(|w| f32::from(w) / 64.0), 1..700),
            top_k in 0..300_usize,
            top_p in 0.01..1.0_f32,
        ) {
            let sampler = Sampler { temperature: 1.0, top_p, top_k };
            prop_assert_eq!(sampler.truncate(&weights), sorted_and_cut(sampler, &weights));
        }

        #[test]
        fn a_pick_is_where_the_sum_of_weights_passes_its_share(
            weights in prop::collection::vec((0..5_u8).prop_map(|w| f32::from(w.saturating_sub(2))), 1..1500),
            uniform in 0.0..1.0_f32,
        ) {
            prop_assume!(weights.iter().any(|&w| w > 0.0));
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let mut sum = 0.0;
            let passes = |&w: &f32| {
                sum += f64::from(w);
                sum > f64::from(uniform) * total
            };
            prop_assert_eq!(pick(&weights, uniform) as usize, weights.iter().position(passes).unwrap());
        }
    }
}
