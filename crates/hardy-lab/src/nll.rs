//! Evaluation by likelihood: the mean negative log-likelihood of the worked answers at every noise level, a finer
//! measure than accuracy where few answers change.

use hardy_ops::{NoisyBackend, Phase, Plan, Receipt};
use hardy_train::{
    data::Problem,
    policy::{columns, log_probs},
    sequence::{Sequence, parts},
};
use serde::Serialize;

use crate::{
    error::LabError,
    evaluate::{EVAL_STEP, Level, bind, receipts, rules_toml},
    record::draw_of,
    run::Crew,
    setting::Setting,
    statistics::{CONFIDENCE, Interval, Scores, mean_interval},
};

/// Tokens of a forward pass.
const TOKENS: usize = 4096;

/// The negative log-likelihood of a token where the model gives none: that of the smallest f32, in nats.
const HOPELESS: f64 = 103.3;

/// A negative log-likelihood, or [`HOPELESS`] where the model gives none.
pub(crate) fn finite(nll: f64) -> f64 {
    if nll.is_finite() { nll } else { HOPELESS }
}

/// Refuses a model that gives a worked answer no likelihood without error.
pub(crate) fn refuse_broken(clean: &[f64], problems: &[Problem]) -> Result<(), LabError> {
    let broken = problems.iter().zip(clean).find(|(_, nll)| !nll.is_finite());
    broken.map_or(Ok(()), |(problem, _)| {
        Err(LabError::NotFinite { what: format!("{}: the likelihood of the worked answer", problem.place) })
    })
}

/// The likelihood of the worked answers at one level.
#[derive(Clone, Debug, Serialize)]
pub struct NllLevel {
    /// What tables call it.
    pub label: String,
    /// The relative scale of the noise.
    pub noise: Option<f64>,
    /// The rules that were bound.
    pub plan: String,
    /// Mean negative log-likelihood of an answer's token, averaged over the problems, in nats. An answer that is given none
    /// counts as 103.3, that of the smallest f32.
    pub nll: f64,
    /// How many answers are given none, over all draws.
    pub non_finite: usize,
    /// Its 95 % interval, in doubt of problems and, where there are several, of draws.
    pub interval: Interval,
    /// The mean paired difference from the first level, and its 95 % interval.
    pub degradation: Option<(f64, Interval)>,
    /// The mean over the tokens of each problem's answer, in the order of the problems, for every draw of the error.
    pub draws: Vec<Vec<f64>>,
    /// What was injected, draw by draw.
    pub receipts: Vec<Vec<Receipt>>,
}

/// What one plan leaves of the likelihood.
#[derive(Clone, Debug)]
pub(crate) struct Likelihood {
    /// The mean over the tokens of each problem's answer.
    pub problems: Vec<f64>,
    /// What was injected.
    pub receipts: Vec<Receipt>,
}

/// Measures every level on the same worked answers, under `draws` draws of its error where it has one. Every draw of a level is
/// a cell, and the cells are shared out among the workers of `crew`.
///
/// # Errors
/// A plan that does not fit the model, or whose noise never fired; a model that gives no likelihood without error; a worker
/// that is gone.
pub fn nll<B: NoisyBackend>(
    what: &Setting<'_, B>,
    levels: &[Level],
    draws: usize,
    crew: &Crew,
) -> Result<Vec<NllLevel>, LabError> {
    let sequences = what.worked()?;
    let draws_of = |level: &Level| if level.plan.rules.is_empty() { 1 } else { draws.max(1) };
    let cells = levels.iter().flat_map(|level| (0..draws_of(level)).map(move |draw| (level, draw)));
    let one = |(level, draw): (&Level, usize)| {
        let found = likelihood(what, &sequences, &level.label, &draw_of(&level.plan, draw))?;
        // As bits: a model that gives no likelihood has NaN, which JSON has not.
        Ok((found.problems.into_iter().map(f64::to_bits).collect(), found.receipts))
    };
    let own = crew
        .select(cells)
        .into_iter()
        .map(one)
        .collect::<Result<Vec<(Vec<u64>, Vec<Receipt>)>, LabError>>()?;
    let mut found = crew.join_records(own)?.into_iter();
    let mut measured: Vec<NllLevel> = Vec::new();
    for level in levels {
        let draws = found.by_ref().take(draws_of(level));
        let draws = draws.map(|(bits, receipts)| (bits.into_iter().map(f64::from_bits).collect(), receipts));
        let (draws, receipts): (Vec<Vec<f64>>, _) = draws.unzip();
        if level.plan.rules.is_empty() {
            draws.iter().try_for_each(|draw| refuse_broken(draw, what.problems))?;
        }
        let row = NllLevel::new(level, draws, receipts, measured.first());
        measured.push(row);
    }
    Ok(measured)
}

/// The likelihood of every worked answer under one plan.
pub(crate) fn likelihood<B: NoisyBackend>(
    what: &Setting<'_, B>,
    sequences: &[Sequence],
    label: &str,
    plan: &Plan,
) -> Result<Likelihood, LabError> {
    let decoder = &what.policy.decoder;
    let bound = bind(label, plan, &decoder.blueprint.sites)?;
    let noise = bound.noise(Phase::Eval, EVAL_STEP);
    let mut problems = Vec::with_capacity(sequences.len());
    for (part, packed) in parts(sequences, TOKENS, true) {
        let [log_probs, _] = columns(&log_probs(decoder, &packed, &noise, 1.0));
        let mut rest = &log_probs[..];
        for sequence in &sequences[part] {
            let (own, after) = rest.split_at(sequence.response_length());
            rest = after;
            problems.push(-own.iter().map(|&x| f64::from(x)).sum::<f64>() / own.len() as f64);
        }
    }
    Ok(Likelihood { problems, receipts: receipts(&bound)? })
}

impl NllLevel {
    fn new(
        level: &Level,
        mut draws: Vec<Vec<f64>>,
        receipts: Vec<Vec<Receipt>>,
        first: Option<&Self>,
    ) -> Self {
        let non_finite = draws.iter().flatten().filter(|nll| !nll.is_finite()).count();
        draws.iter_mut().flatten().for_each(|nll| *nll = finite(*nll));
        let (nll, interval) = mean_with_interval(&draws);
        let degradation = first.map(|first| mean_with_interval(&differences(&draws, &first.draws)));
        let (label, plan) = (level.label.clone(), rules_toml(&level.plan.rules));
        Self { label, noise: level.noise, plan, nll, non_finite, interval, degradation, draws, receipts }
    }
}

/// Problem by problem and draw by draw; a side of one draw is the same in all of the other's.
pub(crate) fn differences(these: &[Vec<f64>], those: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let at = |side: &'_ [Vec<f64>], draw: usize| side[draw.min(side.len() - 1)].clone();
    let pairs = |draw| at(these, draw).into_iter().zip(at(those, draw));
    (0..these.len().max(those.len())).map(|draw| pairs(draw).map(|(a, b)| a - b).collect()).collect()
}

pub(crate) fn mean_with_interval(draws: &[Vec<f64>]) -> (f64, Interval) {
    let scores = Scores::of(draws);
    (scores.mean(), mean_interval(&scores, CONFIDENCE))
}

#[cfg(test)]
mod tests {
    use hardy_train::data::Place;

    use super::*;

    #[test]
    fn answers_without_a_likelihood_are_counted_and_cost_much() {
        let level = Level::noise(0.1, 0);
        let clean = NllLevel::new(&Level::noise(0.0, 0), vec![vec![1.0, 2.0]], vec![], None);
        let broken = vec![vec![f64::NAN, 2.0], vec![f64::INFINITY, 2.5]];
        let found = NllLevel::new(&level, broken, vec![], Some(&clean));
        assert_eq!(found.non_finite, 2);
        assert!(found.nll > 50.0 && found.interval.high.is_finite());
        let (lost, interval) = found.degradation.unwrap();
        assert!((lost - (HOPELESS - 1.0 + 0.25) / 2.0).abs() < 1e-9 && interval.low.is_finite(), "{lost}");
    }

    #[test]
    fn a_model_that_is_broken_without_error_is_refused_with_the_problem() {
        let problem = |id| {
            Problem::new(id, "?".into(), "#### 1".into(), Place::Line("a.jsonl".into(), 1 + id as usize))
        };
        let problems = [problem(0), problem(7)];
        assert!(refuse_broken(&[1.0, 2.0], &problems).is_ok());
        let error = refuse_broken(&[1.0, f64::NAN], &problems).unwrap_err();
        assert!(
            error.to_string().starts_with("a.jsonl:8: the likelihood of the worked answer is not finite")
                && !error.is_input()
        );
    }
}
