//! Evaluation: greedy answers to the same problems at every noise level, scored strictly and flexibly, each level
//! with the plan it ran under and the receipt of what was injected.

use hardy_model::{Generation, Sample, Sampler, generate};
use hardy_ops::{BoundPlan, NoisyBackend, Phase, Plan, Receipt, Rule, Streams};
use hardy_train::{
    data::Problem,
    error::Error,
    policy::Policy,
    reward::{Extraction, extract, score},
};
use serde::Serialize;

use crate::{
    error::LabError,
    record::{EvalRecord, LevelRecord, ProblemRecord},
};

/// The step whose noise evaluations see: always the same, so that a checkpoint's numbers can be had again.
pub const EVAL_STEP: u64 = 0;
/// The seed of generated evaluation problems: runs with other seeds are judged by the same ones.
pub const EVAL_DATA_SEED: u64 = 0;

/// One condition of an evaluation.
#[derive(Clone, Debug)]
pub struct Level {
    /// What tables call it.
    pub label: String,
    /// The relative scale of the noise, 0 when clean; `None` for a plan without one scale.
    pub noise: Option<f64>,
    /// The rules.
    pub plan: Plan,
}

impl Level {
    /// Relative Gaussian error of `scale` on the outputs of every linear and matmul; 0 is clean.
    pub fn noise(scale: f64, seed: u64) -> Self {
        let clean = scale == 0.0;
        let label = if clean { "clean".to_owned() } else { format!("{} %", round(100.0 * scale)) };
        let rules = if clean { Vec::new() } else { vec![Rule::noise(scale)] };
        Self { label, noise: Some(scale), plan: Plan { rules, seed, streams: Streams::PerPhase } }
    }

    /// The same level on hardware that has errors of its own: those of `rules` that name the phase of evaluation, which
    /// come first and are named in the label. So a run in W4A4 is judged in W4A4.
    #[must_use]
    pub fn under(mut self, rules: &[Rule]) -> Self {
        let names_eval = |rule: &&Rule| rule.during.as_ref().is_some_and(|d| d.contains(&Phase::Eval));
        let standing = rules.iter().filter(names_eval);
        let standing = standing.map(|rule| Rule { during: Some(vec![Phase::Eval]), ..rule.clone() });
        let own = std::mem::take(&mut self.plan.rules);
        self.plan.rules = standing.collect();
        let mut kinds: Vec<&str> = self.plan.rules.iter().map(|rule| rule.error.kind_name()).collect();
        kinds.dedup();
        if !kinds.is_empty() {
            let clean = self.noise == Some(0.0);
            let label = if clean { Vec::new() } else { vec![self.label.as_str()] };
            self.label = [kinds, label].concat().join(" + ");
        }
        self.plan.rules.extend(own);
        self
    }
}

/// Ten decimals, so that 100·0.07 reads as 7.
fn round(x: f64) -> f64 {
    (x * 1e10).round() / 1e10
}

/// What is evaluated, and how.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a, B: NoisyBackend> {
    /// The model.
    pub policy: &'a Policy<B>,
    /// The problems; at least one.
    pub problems: &'a [Problem],
    /// How a question is asked, with `{question}` in it.
    pub wording: &'a str,
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
}

impl<B: NoisyBackend> Evaluation<'_, B> {
    /// Evaluates every level. `progress` is told the level and how many of its answers are finished.
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
        let record =
            EvalRecord::new(self.model.to_owned(), self.data.to_owned(), self.seed, self.step, records);
        record.check()?;
        Ok(record)
    }

    fn level(&self, level: &Level, progress: impl FnMut(usize)) -> Result<LevelRecord, LabError> {
        let plan = self.bind(level)?;
        let prompts = self.policy.prompts(self.problems, self.wording, 1)?;
        let how = Generation {
            max_new_tokens: self.max_new_tokens,
            stop: self.policy.stop(),
            sampler: Sampler::GREEDY,
            batch: self.batch,
            key: Generation::key(self.seed, Phase::Eval.name(), EVAL_STEP),
        };
        let noise = plan.noise(Phase::Eval, EVAL_STEP);
        let samples = generate(&self.policy.decoder, &prompts, &how, &noise, progress);
        let answers = self.problems.iter().zip(&samples);
        let problems = answers
            .map(|(problem, samples)| self.judge(problem, &samples[0]))
            .collect::<Result<Vec<_>, LabError>>()?;
        Ok(LevelRecord::new(
            level.label.clone(),
            level.noise,
            rules_toml(&level.plan),
            problems,
            receipts(&plan)?,
        ))
    }

    /// Binds a level's plan, which must act in evaluation where it has rules.
    pub(crate) fn bind(&self, level: &Level) -> Result<BoundPlan, LabError> {
        let sites = &self.policy.decoder.blueprint.sites;
        let plan = level.plan.bind(sites, &[Phase::Eval]).map_err(Error::from)?;
        if !level.plan.rules.is_empty() && !plan.acts_in(Phase::Eval) {
            return Err(LabError::NotInEval { level: level.label.clone() });
        }
        Ok(plan)
    }

    fn judge(&self, problem: &Problem, sample: &Sample) -> Result<ProblemRecord, LabError> {
        let response = self.policy.tokenizer.decode(&sample.ids, true).map_err(Error::from)?;
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
            truth,
            response,
        })
    }
}

/// The rules of a plan as `[[noise]]` tables.
pub fn rules_toml(plan: &Plan) -> String {
    #[derive(Serialize)]
    struct Rules<'a> {
        noise: &'a [Rule],
    }
    if plan.rules.is_empty() {
        return String::new();
    }
    toml::to_string(&Rules { noise: &plan.rules }).unwrap_or_default()
}

/// The receipts of a plan, after a check that everything it asked for happened.
pub(crate) fn receipts(plan: &BoundPlan) -> Result<Vec<Receipt>, LabError> {
    if let Some(silent) = plan.unfired().into_iter().next() {
        return Err(Error::Unfired(silent).into());
    }
    Ok(plan.receipts())
}
