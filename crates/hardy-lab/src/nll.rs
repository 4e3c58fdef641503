//! Evaluation by likelihood: the mean negative log-likelihood of the worked answers at every noise level, a finer
//! measure than accuracy where few answers change.

use hardy_ops::{NoisyBackend, Phase, Receipt};
use hardy_train::{
    data::Problem,
    error::Error,
    policy::{columns, log_probs},
    sequence::{Sequence, parts},
};
use serde::Serialize;

use crate::{
    error::LabError,
    evaluate::{EVAL_STEP, Evaluation, Level, receipts, rules_toml},
    statistics::Interval,
};

/// Tokens of a forward pass.
const TOKENS: usize = 4096;
/// The normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// The likelihood of the worked answers at one level.
#[derive(Clone, Debug, Serialize)]
pub struct NllLevel {
    /// What tables call it.
    pub label: String,
    /// The relative scale of the noise.
    pub noise: Option<f64>,
    /// The rules that were bound.
    pub plan: String,
    /// Mean negative log-likelihood of an answer's token, averaged over the problems, in nats.
    pub nll: f64,
    /// Its 95 % interval over problems.
    pub interval: Interval,
    /// The mean paired difference from the first level, and its 95 % interval.
    pub degradation: Option<(f64, Interval)>,
    /// The mean over the tokens of each problem's answer, in the order of the problems.
    pub problems: Vec<f64>,
    /// What was injected.
    pub receipts: Vec<Receipt>,
}

/// Measures every level on the same worked answers.
///
/// # Errors
/// A plan that does not fit the model, or whose noise never fired.
pub fn nll<B: NoisyBackend>(what: &Evaluation<'_, B>, levels: &[Level]) -> Result<Vec<NllLevel>, LabError> {
    let sequences = sequences(what)?;
    let mut measured: Vec<NllLevel> = Vec::new();
    for level in levels {
        let plan =
            level.plan.bind(&what.policy.decoder.blueprint.sites, &[Phase::Eval]).map_err(Error::from)?;
        let noise = plan.noise(Phase::Eval, EVAL_STEP);
        let mut problems = Vec::with_capacity(sequences.len());
        for (part, packed) in parts(&sequences, TOKENS, true) {
            let [log_probs, _] = columns(&log_probs(&what.policy.decoder, &packed, &noise, 1.0));
            let mut rest = &log_probs[..];
            for sequence in &sequences[part] {
                let (own, after) = rest.split_at(sequence.response_length());
                rest = after;
                problems.push(-own.iter().map(|&x| f64::from(x)).sum::<f64>() / own.len() as f64);
            }
        }
        let (nll, interval) = mean_with_interval(&problems);
        let degradation = measured.first().map(|first| {
            let differences: Vec<f64> = problems.iter().zip(&first.problems).map(|(a, b)| a - b).collect();
            mean_with_interval(&differences)
        });
        let (label, receipts) = (level.label.clone(), receipts(&plan)?);
        let plan = rules_toml(&level.plan);
        measured.push(NllLevel {
            label,
            noise: level.noise,
            plan,
            nll,
            interval,
            degradation,
            problems,
            receipts,
        });
    }
    Ok(measured)
}

/// Every problem with its worked answer.
pub(crate) fn sequences<B: NoisyBackend>(what: &Evaluation<'_, B>) -> Result<Vec<Sequence>, LabError> {
    let sequence = |problem: &Problem| what.policy.worked(problem, &problem.answer, what.wording);
    Ok(what.problems.iter().map(sequence).collect::<Result<_, Error>>()?)
}

fn mean_with_interval(values: &[f64]) -> (f64, Interval) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let half = Z * (variance / n).sqrt();
    (mean, Interval { low: mean - half, high: mean + half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_normal_one() {
        let (mean, interval) = mean_with_interval(&[1.0, 2.0, 3.0, 4.0]);
        let half = Z * (5.0_f64 / 3.0 / 4.0).sqrt();
        assert!((mean - 2.5).abs() < 1e-12);
        assert!((interval.low - (2.5 - half)).abs() < 1e-12 && (interval.high - (2.5 + half)).abs() < 1e-12);
    }
}
