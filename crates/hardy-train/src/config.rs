//! The configuration of a run, as TOML writes it: unknown keys are errors, everything else has a safe default.

use std::path::Path;

use hardy_ops::{Plan, Rule, Streams};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{
    error::{Error, Result},
    learning_rate::{Decay, LearningRate},
    objective::{Clip, KlEstimator},
    presets,
    reward::Extraction,
    schedule::Schedule,
    toml_errors::{self, TomlError},
};

/// A run: one model, trained under one plan, evaluated at some noise levels. Or several such runs, as `arm`s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Names the run and, unless `--out` says otherwise, its directory `runs/NAME`.
    pub name: String,
    /// The seed of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Whether rollout and training see the same noise for the same tokens.
    #[serde(default)]
    pub streams: Streams,
    /// The model to start from.
    pub model: ModelSection,
    /// The problems.
    #[serde(default)]
    pub data: DataSection,
    /// How to train.
    #[serde(default)]
    pub train: TrainSection,
    /// The rules of the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Rule>,
    /// Adaptive quantisation noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aqn: Option<AqnSection>,
    /// How to evaluate.
    #[serde(default)]
    pub eval: EvalSection,
    /// Runs that share everything above but what they say themselves; each has a `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arm: Vec<Table>,
    /// What wrote a resolved configuration; ignored when read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Table>,
}

/// The model to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// `builtin:tiny` or a Hugging Face directory.
    pub path: String,
}

/// The problems to learn from and to be judged by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// `builtin:arith`, or a GSM8K-style `.jsonl` file.
    pub train: String,
    /// The same, for evaluation.
    pub eval: String,
    /// Problems of an epoch; a file's first ones, or all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_problems: Option<usize>,
    /// What is asked, with `{question}` for the problem's text.
    pub prompt: String,
}

impl Default for DataSection {
    fn default() -> Self {
        let arith = "builtin:arith".to_owned();
        Self { train: arith.clone(), eval: arith, train_problems: None, prompt: "{question}".to_owned() }
    }
}

/// The algorithms of reinforcement learning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Group-relative policy optimisation (arXiv:2402.03300).
    #[default]
    Grpo,
}

/// Where the log-probabilities under the old policy come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogProbs {
    /// Computed again in the train phase, under its noise: the first minibatch's ratio is exactly 1.
    #[default]
    Recompute,
    /// Those that the tokens were drawn with.
    Rollout,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Passes over the training problems; where neither this nor `steps` is given, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Steps in all; where both are given this wins over `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Prompts of a step.
    pub prompts_per_step: usize,
    /// Responses to every prompt: the group within which advantages are normalised.
    pub samples_per_prompt: usize,
    /// Optimizer steps a step, each on its share of the prompts.
    pub minibatches: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps until it is reached.
    pub warmup_steps: usize,
    /// How it falls afterwards.
    pub decay: Decay,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// Gradients are scaled down to this norm; 0 never.
    pub max_grad_norm: f64,
    /// The clip of the ratio below 1.
    pub clip_low: f32,
    /// The clip of the ratio above 1.
    pub clip_high: f32,
    /// The dual clip: the largest loss of a token with negative advantage is this times |advantage|.
    pub dual_clip: f32,
    /// Weight of the KL divergence from the starting model; 0 leaves it out.
    pub kl_coefficient: f32,
    /// Its estimator.
    pub kl_estimator: KlEstimator,
    /// `token-mean`, `seq-mean-token-sum`, `seq-mean-token-mean` or `seq-mean-token-sum-norm`.
    pub aggregation: String,
    /// Where the old log-probabilities come from.
    pub old_log_probs: OldLogProbs,
    /// Which answers are rewarded.
    pub reward: Extraction,
    /// Sampling temperature of rollouts.
    pub temperature: f32,
    /// Nucleus of rollouts; 1 keeps all tokens.
    pub top_p: f32,
    /// Most probable tokens of rollouts; 0 keeps all.
    pub top_k: usize,
    /// Tokens after which a response is cut off.
    pub max_new_tokens: usize,
    /// Sequences that are generated at once.
    pub rollout_batch: usize,
    /// Tokens of a forward and backward pass.
    pub micro_batch_tokens: usize,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Grpo,
            epochs: None,
            steps: None,
            prompts_per_step: 32,
            samples_per_prompt: 8,
            minibatches: 1,
            learning_rate: 1e-6,
            warmup_steps: 0,
            decay: Decay::Constant,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            max_grad_norm: 1.0,
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: 3.0,
            kl_coefficient: 0.0,
            kl_estimator: KlEstimator::LowVarKl,
            aggregation: "token-mean".to_owned(),
            old_log_probs: OldLogProbs::Recompute,
            reward: Extraction::Strict,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            max_new_tokens: 256,
            rollout_batch: 256,
            micro_batch_tokens: 4096,
        }
    }
}

impl TrainSection {
    /// The bounds of the ratio.
    pub fn clip(&self) -> Clip {
        Clip { low: self.clip_low, high: self.clip_high, dual: self.dual_clip }
    }

    /// The learning rate over `total_steps`.
    pub fn learning_rate(&self, total_steps: usize) -> LearningRate {
        let (peak, warmup_steps, decay) = (self.learning_rate, self.warmup_steps, self.decay);
        LearningRate { peak, warmup_steps, decay, total_steps, floor_ratio: 0.0 }
    }
}

/// The kinds of AQN schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AqnSchedule {
    /// One sigma.
    Constant,
    /// Falling in stages over the run (QeRL, arXiv:2510.11696).
    Staged,
    /// Falling in stages in every epoch.
    EpochAware,
}

/// Adaptive quantisation noise: noise on RMSNorm weights in rollouts whose scale follows a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AqnSection {
    /// The kind.
    pub schedule: AqnSchedule,
    /// Sigma at the start; the only one where it is constant.
    #[serde(alias = "sigma")]
    pub sigma_start: f64,
    /// Sigma at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_end: Option<f64>,
    /// Stages of the run, the first without noise (staged).
    #[serde(default = "ten")]
    pub stages: usize,
    /// Stages with noise in an epoch (epoch-aware).
    #[serde(default = "five")]
    pub stages_per_epoch: usize,
}

fn ten() -> usize {
    10
}

fn five() -> usize {
    5
}

impl AqnSection {
    /// Sigma at every step of a run.
    ///
    /// # Errors
    /// Sigmas, stages or epochs that make no schedule.
    pub fn sigmas(&self, total_steps: usize, steps_per_epoch: usize) -> Result<Vec<f64>> {
        let sigma_start = self.sigma_start;
        let end = || {
            self.sigma_end.ok_or_else(|| {
                Error::config("`aqn.sigma_end` is missing; only a constant schedule does without")
            })
        };
        let schedule = match self.schedule {
            AqnSchedule::Constant => Schedule::Constant { sigma: sigma_start, total_steps },
            AqnSchedule::Staged => {
                Schedule::Staged { sigma_start, sigma_end: end()?, stages: self.stages, total_steps }
            }
            AqnSchedule::EpochAware => Schedule::EpochAware {
                sigma_start,
                sigma_end: end()?,
                epochs: total_steps.div_ceil(steps_per_epoch),
                steps_per_epoch,
                stages_per_epoch: self.stages_per_epoch,
            },
        };
        schedule.validate().map_err(|error| Error::config(format!("[aqn]: {error}")))?;
        Ok(schedule.sigmas())
    }
}

/// How to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Steps between evaluations; step 0 and the last step are always evaluated. 0 evaluates only those.
    pub every: usize,
    /// Problems.
    pub n: usize,
    /// Relative Gaussian error on the outputs of linear layers and matmuls, one evaluation each.
    pub noise_levels: Vec<f64>,
    /// Tokens after which an answer is cut off; that of training where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Sequences at once.
    pub batch: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self { every: 20, n: 200, noise_levels: vec![0.0, 0.05, 0.10], max_new_tokens: None, batch: 256 }
    }
}

impl RunConfig {
    /// Reads a configuration: a file, or the name of a preset; `set` holds `key=value` changes.
    ///
    /// # Errors
    /// What can not be read or understood, with the line or key.
    pub fn load(spec: &str, set: &[String]) -> Result<Self> {
        read_with_changes::<Self>(spec, set)?.checked()
    }

    /// The runs that this configuration stands for: itself, or its arms, named `NAME/ARM`.
    ///
    /// # Errors
    /// An arm without a name, twice the same name, or a key that is unknown.
    pub fn arms(&self) -> Result<Vec<Self>> {
        if self.arm.is_empty() {
            return Ok(vec![self.clone()]);
        }
        let base = Self { arm: Vec::new(), ..self.clone() };
        let base = Table::try_from(&base).map_err(|error| Error::config(error.to_string()))?;
        let mut arms: Vec<Self> = Vec::new();
        for (index, changes) in self.arm.iter().enumerate() {
            let Some(Value::String(name)) = changes.get("name") else {
                return Err(Error::config(format!("[[arm]] {} has no `name`", index + 1)));
            };
            let mut table = base.clone();
            merge(&mut table, changes);
            let mut arm: Self = from_table::<Self>(&table, &format!("[[arm]] {name}"))?.checked()?;
            if arms.iter().any(|other| other.name == *name) {
                return Err(Error::config(format!("two [[arm]]s are called `{name}`")));
            }
            arm.name.clone_from(name);
            arms.push(arm);
        }
        Ok(arms)
    }

    /// The plan, with AQN as one more rule, for a run of `total_steps`.
    ///
    /// # Errors
    /// An AQN section that makes no schedule.
    pub fn plan(&self, total_steps: usize, steps_per_epoch: usize) -> Result<Plan> {
        let mut rules = self.noise.clone();
        if let Some(aqn) = &self.aqn {
            rules.push(Rule::aqn(aqn.sigmas(total_steps, steps_per_epoch)?));
        }
        Ok(Plan { rules, seed: self.seed, streams: self.streams })
    }

    /// The configuration as TOML.
    ///
    /// # Panics
    /// Never: every field has a TOML form.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|error| panic!("the configuration is TOML: {error}"))
    }

    fn checked(self) -> Result<Self> {
        let train = &self.train;
        let counts = [
            ("train.prompts_per_step", train.prompts_per_step),
            ("train.samples_per_prompt", train.samples_per_prompt),
            ("train.minibatches", train.minibatches),
            ("train.max_new_tokens", train.max_new_tokens),
            ("train.rollout_batch", train.rollout_batch),
            ("train.micro_batch_tokens", train.micro_batch_tokens),
            ("eval.n", self.eval.n),
            ("eval.batch", self.eval.batch),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::config(format!("`{key}` is 0, but must be at least 1")));
        }
        if train.minibatches > train.prompts_per_step {
            return Err(Error::config("`train.minibatches` exceeds `train.prompts_per_step`"));
        }
        if !(train.learning_rate > 0.0 && train.learning_rate.is_finite()) {
            return Err(Error::config(format!(
                "`train.learning_rate` is {}, but must be above 0",
                train.learning_rate
            )));
        }
        if !(train.temperature > 0.0 && train.temperature.is_finite()) {
            return Err(Error::config(format!(
                "`train.temperature` is {}, but must be above 0",
                train.temperature
            )));
        }
        if crate::objective::Mean::named(&train.aggregation, 1).is_none() {
            return Err(Error::config(format!(
                "`train.aggregation` is \"{}\", but must be token-mean, seq-mean-token-sum, seq-mean-token-mean or seq-mean-token-sum-norm",
                train.aggregation
            )));
        }
        if self.eval.noise_levels.iter().any(|level| !(*level >= 0.0 && level.is_finite())) {
            return Err(Error::config("`eval.noise_levels` must be numbers of at least 0"));
        }
        if self.eval.noise_levels.is_empty() {
            return Err(Error::config("`eval.noise_levels` is empty; 0.0 is the clean model"));
        }
        for (index, rule) in self.noise.iter().enumerate() {
            rule.validate().map_err(|error| Error::config(format!("[[noise]] {}: {error}", index + 1)))?;
        }
        Ok(self)
    }
}

/// Reads a preset or file, with `key=value` changes.
pub(crate) fn read_with_changes<T: DeserializeOwned>(spec: &str, set: &[String]) -> Result<T> {
    let (text, source) = presets::read(spec)?;
    let unchanged: T = toml_errors::parse(&text, &source)?;
    if set.is_empty() {
        return Ok(unchanged);
    }
    let mut table: Table = toml_errors::parse(&text, &source)?;
    set.iter().try_for_each(|change| apply_change(&mut table, change))?;
    from_table(&table, "--set")
}

fn from_table<T: DeserializeOwned>(table: &Table, source: &str) -> Result<T> {
    let text = toml::to_string(table).map_err(|error| Error::config(error.to_string()))?;
    // The lines of a table that was put together are nobody's lines.
    Ok(toml_errors::parse(&text, source).map_err(|error| TomlError { line: None, ..error })?)
}

/// Lays `changes` over `base`: tables are merged, everything else is replaced.
fn merge(base: &mut Table, changes: &Table) {
    for (key, value) in changes {
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(changes)) => merge(base, changes),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Applies one `--set`: `train.learning_rate=1e-4`; a value that is not TOML is a string.
fn apply_change(table: &mut Table, change: &str) -> Result<()> {
    let wrong = || Error::config(format!("--set {change}: write key=value, as in train.steps=10"));
    let (path, text) = change.split_once('=').ok_or_else(wrong)?;
    let value = format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    let value = value.unwrap_or_else(|| Value::String(text.to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(wrong)?;
    let mut at = table;
    for key in keys {
        let next = at.entry(key).or_insert_with(|| Value::Table(Table::new()));
        at = next
            .as_table_mut()
            .ok_or_else(|| Error::config(format!("--set {change}: `{key}` is not a table")))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Refuses a directory that exists and is not empty.
///
/// # Errors
/// It does.
pub fn refuse_existing(dir: &Path) -> Result<()> {
    let occupied = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file();
    if occupied {
        return Err(Error::Exists(dir.to_owned()));
    }
    Ok(())
}
