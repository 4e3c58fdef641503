//! Score centering (M. Marek and M. Ryabinin, "Score Centering Stabilizes Off-policy Reinforcement Learning", 2026;
//! arXiv:2609.20807): the drift of a policy p whose tokens another one, q, draws, cancelled.
//!
//! For the token y that was drawn a policy gradient weighs its score, A·m(y)·∇log p(y), with m(y) = 1, or what corrects for q
//! (TIS, IcePop). Under q the score alone has the mean s̄ = Σ_v q(v)·m(v)·∇log p(v), which is zero where p = q and m = 1. Else
//! A·s̄ pulls p towards or away from q, whatever is rewarded, and from step to step this adds up. Centering subtracts A·s̄.
//! The published code sums over the sampler's k most probable tokens and models the others; here s̄ runs over the whole
//! vocabulary, for q is at hand: the errors of a rollout come out of their addresses once more.

use super::importance::{LOG_RATIO, masked, truncated};

/// What corrects for rollouts under other errors than training: the weight m of a token by w = p/q.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Correction {
    /// 1.
    None,
    /// min(w, C).
    Truncated(f32),
    /// w within [1/C, C], else 0.
    Masked(f32),
}

impl Correction {
    /// m of a token whose log-probability is by `difference` higher in training than in the rollout.
    fn weight(self, difference: f64) -> f64 {
        let weight = difference.clamp(-LOG_RATIO, LOG_RATIO).exp();
        match self {
            Self::None => 1.0,
            Self::Truncated(cap) => truncated(weight, cap),
            Self::Masked(bound) => masked(weight, bound),
        }
    }
}

/// The loss's derivatives in what a token's logits say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Derivatives {
    /// The token that was drawn.
    pub target: u32,
    /// In its log-probability.
    pub log_prob: f32,
    /// In the entropy of its distribution.
    pub entropy: f32,
    /// In m(y)·log p(y), whichever y was drawn: −A times the token's weight in the mean.
    pub score: f32,
}

/// Turns the logits of a token `[vocab]` into the loss's derivatives in them, with the score centered; gives the length
/// ‖s̄‖₁ of the mean score in the logits, times the temperature. `sampler` holds the logits of the rollout.
///
/// # Panics
/// If the two differ in length, or the token is not among them.
pub fn centered(
    logits: &mut [f32],
    sampler: &[f32],
    temperature: f32,
    correction: Correction,
    of: Derivatives,
) -> f64 {
    assert_eq!(logits.len(), sampler.len(), "two distributions over one vocabulary");
    let (log_p, log_q) = (log_softmax(logits, temperature), log_softmax(sampler, temperature));
    let mean = |v: usize| log_q[v].exp() * correction.weight(log_p[v] - log_q[v]);
    let total: f64 = (0..log_p.len()).map(mean).sum();
    let entropy: f64 = log_p.iter().map(|&x| plogp(x)).sum::<f64>();
    let [d_log_prob, d_entropy, d_score] = [of.log_prob, of.entropy, of.score].map(f64::from);
    let mut drift = 0.0;
    for (v, logit) in logits.iter_mut().enumerate() {
        let p = log_p[v].exp();
        let hit = f64::from(u8::from(v == of.target as usize));
        let centre = mean(v) - total * p;
        drift += centre.abs();
        let slope = d_log_prob * (hit - p) - d_score * centre - d_entropy * (plogp(log_p[v]) - p * entropy);
        *logit = (slope / f64::from(temperature)) as f32;
    }
    assert!((of.target as usize) < log_p.len(), "a token of the vocabulary");
    drift
}

/// p·log p; 0 where p is.
fn plogp(log_p: f64) -> f64 {
    if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * log_p }
}

fn log_softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let scaled = || logits.iter().map(|&x| f64::from(x) / f64::from(temperature));
    let most = scaled().fold(f64::NEG_INFINITY, f64::max);
    let total = scaled().map(|x| (x - most).exp()).sum::<f64>().ln() + most;
    scaled().map(|x| x - total).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Correction; 3] = [Correction::None, Correction::Truncated(1.5), Correction::Masked(2.0)];

    fn derivatives(target: u32, score: f32, m: f64) -> Derivatives {
        Derivatives { target, log_prob: (f64::from(score) * m) as f32, entropy: 0.0, score }
    }

    fn logits() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        prop::collection::vec((-3f32..3.0, -0.7f32..0.7), 2..12)
            .prop_map(|all| (all.iter().map(|x| x.0).collect(), all.iter().map(|x| x.0 + x.1).collect()))
    }

    proptest! {
        #[test]
        fn tokens_that_are_all_worth_the_same_move_nothing_on_average((p, q) in logits(), temperature in 0.5f32..2.0) {
            for correction in ALL {
                let (log_p, log_q) = (log_softmax(&p, temperature), log_softmax(&q, temperature));
                let mut mean = vec![0.0; p.len()];
                for y in 0..p.len() {
                    let mut z = p.clone();
                    let m = correction.weight(log_p[y] - log_q[y]);
                    centered(&mut z, &q, temperature, correction, derivatives(y as u32, -0.8, m));
                    mean.iter_mut().zip(&z).for_each(|(mean, z)| *mean += log_q[y].exp() * f64::from(*z));
                }
                prop_assert!(mean.iter().all(|x| x.abs() < 1e-6), "{correction:?}: {mean:?}");
            }
        }

        #[test]
        fn where_rollouts_and_training_agree_nothing_drifts((p, _) in logits()) {
            for correction in ALL {
                let mut z = p.clone();
                let drift = centered(&mut z, &p, 1.0, correction, derivatives(0, 1.0, 1.0));
                prop_assert!(drift < 1e-12, "{drift}");
                for (v, (z, log_p)) in z.iter().zip(log_softmax(&p, 1.0)).enumerate() {
                    let slope = f64::from(u8::from(v == 0)) - log_p.exp();
                    prop_assert!((f64::from(*z) - slope).abs() < 1e-6);
                }
            }
        }

        #[test]
        fn the_derivative_in_a_logit_is_that_of_the_centered_loss((p, q) in logits(), temperature in 0.5f32..2.0) {
            let of = Derivatives { target: 1, log_prob: 0.7, entropy: -0.4, score: -0.9 };
            for correction in ALL {
                // The weights of the mean are constants.
                let (log_p, log_q) = (log_softmax(&p, temperature), log_softmax(&q, temperature));
                let c: Vec<f64> =
                    log_q.iter().zip(&log_p).map(|(q, p)| q.exp() * correction.weight(p - q)).collect();
                let loss = |z: &[f32]| {
                    let log_p = log_softmax(z, temperature);
                    let mean: f64 = c.iter().zip(&log_p).map(|(c, x)| c * x).sum();
                    let entropy: f64 = -log_p.iter().map(|&x| plogp(x)).sum::<f64>();
                    f64::from(of.log_prob) * log_p[1] + f64::from(of.entropy) * entropy - f64::from(of.score) * mean
                };
                let mut found = p.clone();
                centered(&mut found, &q, temperature, correction, of);
                for (v, found) in found.iter().enumerate() {
                    let moved = |by: f32| loss(&(0..p.len()).map(|i| p[i] + if i == v { by } else { 0.0 }).collect::<Vec<_>>());
                    let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                    prop_assert!((slope - f64::from(*found)).abs() < 1e-3, "{correction:?}: {slope}, {found}");
                }
            }
        }
    }

    #[test]
    fn without_a_correction_the_policy_moves_from_the_rollouts_distribution() {
        // REINFORCE's 1 − p becomes 1 − q.
        let (mut z, q) = (vec![0.0, 0.0], vec![0.75f32.ln(), 0.25f32.ln()]);
        let drift = centered(&mut z, &q, 1.0, Correction::None, derivatives(0, 1.0, 1.0));
        assert!((z[0] - 0.25).abs() < 1e-6 && (z[1] + 0.25).abs() < 1e-6, "{z:?}");
        assert!((drift - 0.5).abs() < 1e-6);
    }
}
