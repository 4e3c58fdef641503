//! Estimators of KL(π‖ref) from the log-probabilities of sampled tokens, each with its derivative.
//!
//! The names are verl's; `kl`, `mse` and `low_var_kl` are k1, k2 and k3 of J. Schulman, "Approximating KL Divergence".

use serde::{Deserialize, Serialize};

use super::Loss;

/// Bounds on ref − logprob, so that its exponential is finite, and on the low-variance estimate.
const DIFFERENCE: f64 = 20.0;
const ESTIMATE: f64 = 10.0;

/// How the divergence is estimated from one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// logprob − ref: unbiased, of high variance.
    Kl,
    /// |logprob − ref|.
    Abs,
    /// (logprob − ref)²/2.
    Mse,
    /// exp(d) − d − 1 with d = ref − logprob: unbiased, never negative; at most 10, and flat there.
    LowVarKl,
}

/// The estimate for one token and its derivative with respect to `logprob`.
pub fn kl_penalty(logprob: f32, reference: f32, estimator: KlEstimator) -> (f32, f32) {
    let difference = f64::from(logprob) - f64::from(reference);
    let (value, derivative) = match estimator {
        KlEstimator::Kl => (difference, 1.0),
        KlEstimator::Abs if difference == 0.0 => (0.0, 0.0),
        KlEstimator::Abs => (difference.abs(), difference.signum()),
        KlEstimator::Mse => (0.5 * difference * difference, difference),
        KlEstimator::LowVarKl => low_variance(-difference),
    };
    (value as f32, derivative as f32)
}

/// The value for d = ref − logprob and its derivative with respect to logprob.
fn low_variance(difference: f64) -> (f64, f64) {
    let d = difference.clamp(-DIFFERENCE, DIFFERENCE);
    let value = d.exp_m1() - d;
    if value > ESTIMATE { (ESTIMATE, 0.0) } else { (value, -d.exp_m1()) }
}

/// Adds `coefficient`·Σ weight·KL to `loss` and its derivative; gives Σ weight·KL, for the record.
///
/// # Panics
///
/// If the slices and the loss's derivative differ in length.
pub fn add_kl(
    loss: &mut Loss,
    logprob: &[f32],
    reference: &[f32],
    weight: &[f32],
    coefficient: f32,
    estimator: KlEstimator,
) -> f32 {
    let n = loss.d_logprob.len();
    let lengths = [logprob.len(), reference.len(), weight.len()];
    assert!(lengths.iter().all(|&length| length == n), "{n} derivatives, but {lengths:?} of the others");
    let mut total = 0.0;
    for (i, d_logprob) in loss.d_logprob.iter_mut().enumerate() {
        let (value, derivative) = kl_penalty(logprob[i], reference[i], estimator);
        total += f64::from(weight[i]) * f64::from(value);
        *d_logprob += coefficient * weight[i] * derivative;
    }
    loss.value += (f64::from(coefficient) * total) as f32;
    total as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [KlEstimator; 4] =
        [KlEstimator::Kl, KlEstimator::Abs, KlEstimator::Mse, KlEstimator::LowVarKl];

    #[test]
    fn equal_log_probabilities_diverge_by_nothing() {
        for estimator in ALL {
            assert_eq!(kl_penalty(-1.5, -1.5, estimator).0, 0.0);
        }
    }

    #[test]
    fn low_variance_estimate_is_flat_where_it_is_clamped() {
        for (logprob, reference) in [(-30.0, -1.0), (-4.0, -1.0), (0.0, -12.0), (0.0, -40.0)] {
            assert_eq!(kl_penalty(logprob, reference, KlEstimator::LowVarKl), (10.0, 0.0));
        }
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        for estimator in ALL {
            assert!(kl_penalty(f32::NAN, -1.0, estimator).0.is_nan());
        }
    }

    #[test]
    fn the_penalty_adds_to_value_and_derivative() {
        let mut loss = Loss { value: 1.0, d_logprob: vec![0.5, 0.5], ..Loss::default() };
        let kl = add_kl(&mut loss, &[-1.0, -2.0], &[-2.0, -2.0], &[0.25, 0.75], 0.5, KlEstimator::Mse);
        assert_eq!((kl, loss.value, loss.d_logprob), (0.125, 1.0625, vec![0.625, 0.5]));
    }

    proptest! {
        #[test]
        fn derivatives_agree_with_finite_differences(logprob in -6.0f64..0.0, reference in -6.0f64..0.0) {
            let by = 1.0 / 128.0;
            let (logprob, reference) = (logprob as f32, reference as f32);
            for estimator in ALL {
                let at = |by: f32| kl_penalty(logprob + by, reference, estimator);
                let (low, high) = (at(-by), at(by));
                let kink = low.0.max(high.0) >= 10.0 || (logprob - reference).abs() <= by;
                if !kink {
                    let expected = (high.0 - low.0) / (2.0 * by);
                    prop_assert!((at(0.0).1 - expected).abs() < 1e-2, "{:?} {} {}", estimator, at(0.0).1, expected);
                }
            }
        }

        #[test]
        fn low_variance_estimate_is_never_negative(logprob in -50.0f32..0.0, reference in -50.0f32..0.0) {
            let (value, _) = kl_penalty(logprob, reference, KlEstimator::LowVarKl);
            prop_assert!((0.0..=10.0).contains(&value));
        }
    }
}
