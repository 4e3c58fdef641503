//! Evaluation: greedy answers to the same problems at every level and under every draw of its error, scored strictly and
//! flexibly, each level with the plan it ran under and the receipts of what was injected.

mod level;

use hardy_model::{Generation, Sample, Sampler, generate};
use hardy_ops::{BoundPlan, NoisyBackend, Phase, Plan, Receipt, Site};
use hardy_train::{
    data::Problem,
    error::Error,
    reward::{Extraction, extract, score},
};

use crate::{
    error::LabError,
    record::{
        Conditions, DrawRecord, EvalRecord, LevelRecord, Metric, ProblemRecord, data_fingerprint, draw_of,
        text_hash,
    },
    setting::Setting,
};

pub use level::{Level, rules_toml};

/// The step whose noise evaluations see: always the same, so that a checkpoint's numbers can be had again.
pub const EVAL_STEP: u64 = 0;
/// The seed of generated evaluation problems: runs with other seeds are judged by the same ones.
pub const EVAL_DATA_SEED: u64 = 0;

/// What is evaluated, and how.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a, B: NoisyBackend> {
    /// The model and its problems.
    pub setting: Setting<'a, B>,
    /// What the record calls the model.
    pub model: &'a str,
    /// What the record calls the data.
    pub data: &'a str,
    /// The training step, in a run.
    pub step: Option<u64>,
    /// The seed of the noise.
    pub seed: u64,
    /// Tokens after which an answer is cut off.
    pub max_new_tokens: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Draws of the error at every level that has one; at least 1.
    pub draws: usize,
    /// Which answers count as right.
    pub metric: Metric,
}

impl<B: NoisyBackend> Evaluation<'_, B> {
    /// Evaluates every level. `progress` is told the level and how many of its answers are finished, over all draws.
    ///
    /// # Errors
    /// A plan that does not fit the model, or whose noise never fired.
    pub fn run(
        &self,
        levels: &[Level],
        mut progress: impl FnMut(&Level, usize),
    ) -> Result<EvalRecord, LabError> {
        let level = |level: &Level| self.level(level, |done| progress(level, done));
        let records = levels.iter().map(level).collect::<Result<_, _>>()?;
        let record = EvalRecord {
            metric: self.metric,
            conditions: Some(self.conditions()),
            ..EvalRecord::new(self.model.to_owned(), self.data.to_owned(), self.seed, self.step, records)
        };
        record.check()?;
        Ok(record)
    }

    /// Answers at a level, over all draws of its error.
    pub fn answers(&self, level: &Level) -> usize {
        self.setting.problems.len() * self.draws_of(level)
    }

    /// A level without rules has nothing that could be drawn again.
    fn draws_of(&self, level: &Level) -> usize {
        if level.plan.rules.is_empty() { 1 } else { self.draws.max(1) }
    }

    fn conditions(&self) -> Conditions {
        let Setting { policy, problems, wording } = self.setting;
        Conditions {
            wording: wording.to_owned(),
            chat_template: policy.template.as_ref().map(|template| text_hash([template.source()])),
            max_new_tokens: self.max_new_tokens,
            sampling: "greedy".to_owned(),
            precision: "f32".to_owned(),
            data_fingerprint: data_fingerprint(problems),
        }
    }

    fn level(&self, level: &Level, mut progress: impl FnMut(usize)) -> Result<LevelRecord, LabError> {
        let mut draws = Vec::new();
        for draw in 0..self.draws_of(level) {
            let before = draw * self.setting.problems.len();
            draws.push(self.draw(level, draw, |done| progress(before + done))?);
        }
        let mut draws = draws.into_iter();
        let first = draws.next().ok_or_else(|| LabError::Empty { what: format!("level {}", level.label) })?;
        let record = LevelRecord {
            added: Some(rules_toml(&level.added)),
            draws: draws.collect(),
            ..LevelRecord::new(
                level.label.clone(),
                level.noise,
                rules_toml(&level.plan.rules),
                first.problems,
                first.receipts,
            )
        };
        Ok(record.counted())
    }

    /// The answers under one draw of a level's error.
    fn draw(&self, level: &Level, draw: usize, progress: impl FnMut(usize)) -> Result<DrawRecord, LabError> {
        let Setting { policy, problems, wording } = self.setting;
        let plan = draw_of(&level.plan, draw);
        let bound = bind(&level.label, &plan, &policy.decoder.blueprint.sites)?;
        let prompts = policy.prompts(problems, wording, 1)?;
        let how = Generation {
            max_new_tokens: self.max_new_tokens,
            stop: policy.stop(),
            sampler: Sampler::GREEDY,
            batch: self.batch,
            key: Generation::key(plan.seed, Phase::Eval.name(), EVAL_STEP),
        };
        let noise = bound.noise(Phase::Eval, EVAL_STEP);
        let samples = generate(&policy.decoder, &prompts, &how, &noise, progress);
        let answers =
            problems.iter().zip(&samples).map(|(problem, samples)| self.judge(problem, &samples[0]));
        let problems = answers.collect::<Result<Vec<_>, LabError>>()?;
        Ok(DrawRecord { draw, seed: plan.seed, problems, receipts: receipts(&bound)? })
    }

    fn judge(&self, problem: &Problem, sample: &Sample) -> Result<ProblemRecord, LabError> {
        let response = self.setting.policy.tokenizer.decode(&sample.ids, true).map_err(Error::from)?;
        let truth = problem.truth();
        let right = |how| score(&response, &truth, how) == 1.0;
        Ok(ProblemRecord {
            id: problem.id,
            strict: right(Extraction::Strict),
            flexible: right(Extraction::Flexible),
            answer: extract(&response, Extraction::Strict)
                .or_else(|| extract(&response, Extraction::Flexible)),
            tokens: sample.ids.len(),
            non_finite: sample.non_finite,
            truncated: Some(!sample.stopped),
            truth,
            response,
        })
    }
}

/// Binds a level's plan, which must act in evaluation where it has rules.
pub(crate) fn bind(label: &str, plan: &Plan, sites: &[Site]) -> Result<BoundPlan, LabError> {
    let bound = plan.bind(sites, &[Phase::Eval]).map_err(Error::from)?;
    if !plan.rules.is_empty() && !bound.acts_in(Phase::Eval) {
        return Err(LabError::NotInEval { level: label.to_owned() });
    }
    Ok(bound)
}

/// The receipts of a plan, after a check that everything it asked for happened.
pub(crate) fn receipts(plan: &BoundPlan) -> Result<Vec<Receipt>, LabError> {
    if let Some(silent) = plan.unfired().into_iter().next() {
        return Err(Error::Unfired(silent).into());
    }
    Ok(plan.receipts())
}
