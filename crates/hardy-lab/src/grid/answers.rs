//! Answers under an error that acts late. The clean answer is a draft: one pass over it under the error shows whether every
//! token is still the most probable one, and addressed noise makes that pass the same as decoding, so that an answer for which
//! it shows this need not be written again. Only the others are.

use std::ops::RangeInclusive;

use hardy_model::{Decoder, Generation, Sample, Sampler, generate};
use hardy_ops::{BoundPlan, NoisyBackend, Phase, Plan, Receipt};
use hardy_train::{
    data::Problem,
    encode::{prompt_sequence, sample_sequence},
    error::Error,
    reward::{Extraction, score},
    sequence::Sequence,
};

use super::{Grid, GridMetric, TOKENS, prefix::Prefix};
use crate::{
    error::LabError,
    evaluate::{EVAL_STEP, bind, receipts},
    setting::Setting,
};

/// The answers to all problems without error, and what is kept of the pass over them.
pub(crate) struct Answering<'a, B: NoisyBackend> {
    writer: Writer<'a, B>,
    drafts: Vec<Sequence>,
    /// The problem of every draft; an answer without a token is none.
    problem_of: Vec<usize>,
    prefix: Prefix<'a, B>,
    clean: Vec<bool>,
}

impl<'a, B: NoisyBackend> Answering<'a, B> {
    /// Answers all problems of `grid` without error.
    pub fn new(grid: &Grid<'a, B>) -> Result<Self, LabError> {
        Self::cut(grid, |decoder, drafts| Prefix::new(decoder, drafts, TOKENS))
    }

    /// The same with passes over `size` answers each.
    pub fn in_groups(grid: &Grid<'a, B>, size: usize) -> Result<Self, LabError> {
        Self::cut(grid, |decoder, drafts| Prefix::in_groups(decoder, drafts, size))
    }

    fn cut(
        grid: &Grid<'a, B>,
        passes: impl FnOnce(&'a Decoder<B>, &[Sequence]) -> Prefix<'a, B>,
    ) -> Result<Self, LabError> {
        let writer = Writer {
            setting: grid.setting,
            how: match grid.metric {
                GridMetric::Accuracy(how) => how,
                GridMetric::Nll => Extraction::Strict,
            },
            max_new_tokens: grid.max_new_tokens,
            batch: grid.batch,
        };
        let problems = grid.setting.problems;
        let plan = Plan { seed: grid.seed, ..Plan::default() };
        let bound = bind("clean", &plan, &grid.setting.policy.decoder.blueprint.sites)?;
        let samples = writer.samples(problems, &bound)?;
        if let Some((problem, _)) = problems.iter().zip(&samples).find(|(_, sample)| sample.non_finite) {
            let what = format!("{}: the distribution of an answer's next token", problem.place);
            return Err(LabError::NotFinite { what });
        }
        let clean = writer.right(problems, &samples)?;
        let (mut drafts, mut problem_of) = (Vec::new(), Vec::new());
        for (place, (problem, sample)) in problems.iter().zip(&samples).enumerate() {
            if let Some(draft) = draft(&grid.setting, problem, sample)? {
                drafts.push(draft);
                problem_of.push(place);
            }
        }
        let prefix = passes(&grid.setting.policy.decoder, &drafts);
        Ok(Self { writer, drafts, problem_of, prefix, clean })
    }

    /// Which answers are right without error.
    pub fn clean(&self) -> &[bool] {
        &self.clean
    }

    /// Goes on to what goes into `stage`.
    pub fn advance_to(&mut self, stage: usize) {
        self.prefix.advance_to(stage);
    }

    /// How many passes there are.
    pub fn groups(&self) -> usize {
        self.prefix.len()
    }

    /// Which answers are right under `plan`, which acts in `stages` alone, and what was injected in the pass over the drafts.
    pub fn under(
        &self,
        label: &str,
        plan: &Plan,
        stages: &RangeInclusive<usize>,
    ) -> Result<(Vec<bool>, Vec<Receipt>), LabError> {
        let checking = bind(label, plan, &self.writer.setting.policy.decoder.blueprint.sites)?;
        let mut changed = vec![true; self.clean.len()];
        for part in 0..self.prefix.len() {
            for (problem, same) in self.agreement(part, &checking, stages) {
                changed[problem] = !same;
            }
        }
        let anew: Vec<usize> = (0..changed.len()).filter(|&problem| changed[problem]).collect();
        let mut right = self.clean.clone();
        for (problem, found) in self.write(&anew, label, plan)? {
            right[problem] = found;
        }
        Ok((right, if self.drafts.is_empty() { Vec::new() } else { receipts(&checking)? }))
    }

    /// The same of the problems of one pass alone, with their numbers.
    pub fn look(
        &self,
        part: usize,
        label: &str,
        plan: &Plan,
        stages: &RangeInclusive<usize>,
    ) -> Result<Vec<(usize, bool)>, LabError> {
        if part >= self.prefix.len() {
            return Ok(Vec::new());
        }
        let checking = bind(label, plan, &self.writer.setting.policy.decoder.blueprint.sites)?;
        let (same, changed): (Vec<_>, Vec<_>) =
            self.agreement(part, &checking, stages).into_iter().partition(|(_, same)| *same);
        let mut found: Vec<(usize, bool)> =
            same.into_iter().map(|(problem, _)| (problem, self.clean[problem])).collect();
        let anew: Vec<usize> = changed.into_iter().map(|(problem, _)| problem).collect();
        found.extend(self.write(&anew, label, plan)?);
        Ok(found)
    }

    /// Of every problem of a pass, whether its answer is still the draft.
    fn agreement(
        &self,
        part: usize,
        checking: &BoundPlan,
        stages: &RangeInclusive<usize>,
    ) -> Vec<(usize, bool)> {
        let noise = checking.noise(Phase::Eval, EVAL_STEP);
        let same = self.prefix.agrees(part, &self.drafts, &noise, stages);
        self.problem_of[self.prefix.sequences(part)].iter().copied().zip(same).collect()
    }

    /// Writes the answers to some problems under `plan`, and says which are right.
    fn write(&self, problems: &[usize], label: &str, plan: &Plan) -> Result<Vec<(usize, bool)>, LabError> {
        if problems.is_empty() {
            return Ok(Vec::new());
        }
        let setting = self.writer.setting;
        let bound = bind(label, plan, &setting.policy.decoder.blueprint.sites)?;
        let chosen: Vec<Problem> =
            problems.iter().map(|&problem| setting.problems[problem].clone()).collect();
        let samples = self.writer.samples(&chosen, &bound)?;
        Ok(problems.iter().copied().zip(self.writer.right(&chosen, &samples)?).collect())
    }
}

/// Writes answers, and says which are right.
struct Writer<'a, B: NoisyBackend> {
    setting: Setting<'a, B>,
    how: Extraction,
    max_new_tokens: usize,
    batch: usize,
}

impl<B: NoisyBackend> Writer<'_, B> {
    /// Greedy answers to `problems` under a plan.
    fn samples(&self, problems: &[Problem], bound: &BoundPlan) -> Result<Vec<Sample>, LabError> {
        let Setting { policy, wording, .. } = self.setting;
        let prompts = policy.prompts(problems, wording, 1)?;
        let how = Generation {
            max_new_tokens: self.max_new_tokens,
            stop: policy.stop(),
            sampler: Sampler::GREEDY,
            batch: self.batch,
            key: Generation::key(bound.plan().seed, Phase::Eval.name(), EVAL_STEP),
        };
        let noise = bound.noise(Phase::Eval, EVAL_STEP);
        let samples = generate(&policy.decoder, &prompts, &how, &noise, |_| {});
        Ok(samples.into_iter().flatten().collect())
    }

    /// Which of the answers to `problems` are right.
    fn right(&self, problems: &[Problem], samples: &[Sample]) -> Result<Vec<bool>, LabError> {
        let right = |(problem, sample): (&Problem, &Sample)| {
            let response = self.setting.policy.tokenizer.decode(&sample.ids, true).map_err(Error::from)?;
            Ok(score(&response, &problem.truth, self.how) == 1.0)
        };
        problems.iter().zip(samples).map(right).collect()
    }
}

/// An answer as the pass over it sees it; `None` where it has no token or its logits were no distribution.
fn draft<B: NoisyBackend>(
    setting: &Setting<'_, B>,
    problem: &Problem,
    sample: &Sample,
) -> Result<Option<Sequence>, LabError> {
    if sample.ids.is_empty() || sample.non_finite {
        return Ok(None);
    }
    let mut ids = setting.policy.prompt_ids(problem, setting.wording).map_err(LabError::from)?;
    let prompt_length = ids.len();
    ids.extend(&sample.ids);
    let (prompt, sample) = (prompt_sequence(problem.id), sample_sequence(problem.id, 0));
    Ok(Some(Sequence { ids, prompt_length, prompt, sample }))
}
