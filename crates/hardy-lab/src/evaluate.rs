//! Evaluation: answers to the same problems at every level and under every draw of its error, greedy ones or several that
//! are sampled, scored strictly and flexibly and by whatever graders are asked for, each level with the plan it ran under
//! and the receipts of what was injected.

mod level;

use std::fmt;

use hardy_model::{Generation, Sample, Sampler, generate};
use hardy_ops::{BoundPlan, NoisyBackend, Phase, Plan, Receipt, Site};
use hardy_train::{
    data::Problem,
    error::Error,
    reward::{Extraction, Judge, Response, extract, score},
    trainer::sum_receipts,
    workers::Workers,
};

use crate::{
    error::LabError,
    record::{
        Conditions, DrawRecord, EvalRecord, LevelRecord, Metric, ProblemRecord, SampleRecord,
        data_fingerprint, draw_of, text_hash,
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
    /// What answers are judged by.
    pub metric: &'a Metric,
    /// The graders of that metric.
    pub judge: &'a Judge,
    /// How answers are drawn.
    pub sampling: Sampling,
    /// Who shares the problems.
    pub workers: &'a Workers,
}

/// How answers are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Answers to every problem; at least 1.
    pub samples: usize,
    /// 0 always takes the most probable token.
    pub temperature: f32,
    /// The nucleus; 1 keeps all tokens.
    pub top_p: f32,
}

impl Sampling {
    /// One answer of the most probable tokens.
    pub const GREEDY: Self = Self { samples: 1, temperature: 0.0, top_p: 1.0 };

    /// Refuses several answers that would all be the same.
    ///
    /// # Errors
    /// They would.
    pub fn check(self) -> Result<(), LabError> {
        if self.samples <= 1 || self.temperature > 0.0 {
            return Ok(());
        }
        Err(Error::config(format!(
            "{} samples of the most probable tokens are all the same; give a temperature above 0, such as 0.6",
            self.samples
        ))
        .into())
    }

    fn sampler(self) -> Sampler {
        if self.temperature == 0.0 {
            return Sampler::GREEDY;
        }
        Sampler { temperature: self.temperature, top_p: self.top_p, ..Sampler::GREEDY }
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.temperature == 0.0 {
            return f.write_str("greedy");
        }
        write!(f, "temperature {}, top-p {}, {} a problem", self.temperature, self.top_p, self.samples)
    }
}

impl<B: NoisyBackend> Evaluation<'_, B> {
    /// Evaluates every level. `progress` is told the level and how many of its answers are finished, over all draws.
    ///
    /// # Errors
    /// A plan that does not fit the model, or whose noise never fired.
    pub fn run(
        &self,
        levels: &[Level],
        mut progress: impl FnMut(&Level, usize) + Send,
    ) -> Result<EvalRecord, LabError> {
        let level = |level: &Level| self.level(level, |done| progress(level, done));
        let records = levels.iter().map(level).collect::<Result<_, _>>()?;
        let record = EvalRecord {
            metric: self.metric.clone(),
            conditions: Some(self.conditions()),
            ..EvalRecord::new(self.model.to_owned(), self.data.to_owned(), self.seed, self.step, records)
        };
        record.check()?;
        Ok(record)
    }

    /// Answers at a level, over all draws of its error.
    pub fn answers(&self, level: &Level) -> usize {
        self.setting.problems.len() * self.sampling.samples * self.draws_of(level)
    }

    /// A level without rules has nothing that could be drawn again.
    fn draws_of(&self, level: &Level) -> usize {
        if level.plan.rules.is_empty() { 1 } else { self.draws.max(1) }
    }

    fn conditions(&self) -> Conditions {
        let Setting { policy, problems, wording } = self.setting;
        Conditions {
            wording: wording.to_owned(),
            system: policy.system.clone(),
            chat_template: policy.template.as_ref().map(|template| text_hash([template.source()])),
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.to_string(),
            precision: policy.decoder.blueprint.precision.to_string(),
            data_fingerprint: data_fingerprint(problems),
            graders: self.graders(),
        }
    }

    /// The graders of a score.
    fn graders(&self) -> Option<String> {
        let score = matches!(self.metric, Metric::Score(_));
        score.then(|| serde_json::to_string(self.judge.rewards()).unwrap_or_default())
    }

    fn level(&self, level: &Level, mut progress: impl FnMut(usize) + Send) -> Result<LevelRecord, LabError> {
        let mut draws = Vec::new();
        for draw in 0..self.draws_of(level) {
            let before = draw * self.setting.problems.len() * self.sampling.samples;
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
    fn draw(
        &self,
        level: &Level,
        draw: usize,
        mut progress: impl FnMut(usize) + Send,
    ) -> Result<DrawRecord, LabError> {
        let Setting { policy, problems: all, wording } = self.setting;
        let problems = &all[self.workers.share(all.len())];
        let progress = |done: usize| progress((done * all.len()).div_ceil(problems.len().max(1)));
        let plan = draw_of(&level.plan, draw);
        let bound = bind(&level.label, &plan, &policy.decoder.blueprint.sites)?;
        // A program that died is better noticed before the answers are made.
        self.judge.check()?;
        let prompts = policy.prompts(problems, wording, self.sampling.samples)?;
        let how = Generation {
            max_new_tokens: self.max_new_tokens,
            stop: policy.stop(),
            sampler: self.sampling.sampler(),
            batch: self.batch,
            key: Generation::key(plan.seed, Phase::Eval.name(), EVAL_STEP),
        };
        let noise = bound.noise(Phase::Eval, EVAL_STEP);
        let samples = generate(&policy.decoder, &prompts, &how, &noise, progress);
        let answers = problems.iter().zip(&samples).map(|(problem, samples)| self.judged(problem, samples));
        let problems = answers.collect::<Result<Vec<_>, LabError>>()?;
        self.judge.check()?;
        let problems = self.of_all(problems)?;
        bound.restore(&sum_receipts(self.workers, &bound)?);
        Ok(DrawRecord { draw, seed: plan.seed, problems, receipts: receipts(&bound)? })
    }

    /// The answers of all workers, in the order of the problems.
    fn of_all(&self, own: Vec<ProblemRecord>) -> Result<Vec<ProblemRecord>, LabError> {
        Ok(self.workers.gather_records(own)?.concat())
    }

    fn judged(&self, problem: &Problem, samples: &[Sample]) -> Result<ProblemRecord, LabError> {
        let asked = self.setting.policy.prompt_text(problem, self.setting.wording)?;
        let mut answers = samples.iter().map(|sample| self.answer(problem, &asked, sample));
        let nothing = || LabError::Empty { what: format!("problem {}", problem.id) };
        let first = answers.next().ok_or_else(nothing)??;
        let samples = answers.collect::<Result<_, LabError>>()?;
        Ok(ProblemRecord { id: problem.id, truth: problem.truth.clone(), first, samples })
    }

    fn answer(&self, problem: &Problem, asked: &str, sample: &Sample) -> Result<SampleRecord, LabError> {
        let response = self.setting.policy.tokenizer.decode(&sample.ids, true).map_err(Error::from)?;
        let (tokens, truth, extra) = (sample.ids.len(), &problem.truth, &problem.extra);
        let right = |how| score(&response, truth, how) == 1.0;
        let earned = match self.metric {
            Metric::Score(_) => {
                let response = Response { prompt: asked, text: &response, tokens, truth, extra };
                Some(self.judge.score(&response)?)
            }
            Metric::Strict | Metric::Flexible => None,
        };
        Ok(SampleRecord {
            strict: right(Extraction::Strict),
            flexible: right(Extraction::Flexible),
            answer: extract(&response, Extraction::Strict)
                .or_else(|| extract(&response, Extraction::Flexible)),
            tokens,
            non_finite: sample.non_finite,
            truncated: Some(!sample.stopped),
            score: earned.as_ref().map(|earned| earned.reward.into()),
            metrics: earned.map(|earned| earned.named).unwrap_or_default(),
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
