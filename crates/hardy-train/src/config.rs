//! The configuration of a run, as TOML writes it: unknown keys are errors, everything else has a safe default.

mod aqn;
mod checkpoint;
mod data;
mod reward;
mod scale;
pub mod settings;
mod train;

use std::path::Path;

use hardy_model::Lora;
use hardy_ops::{Plan, Rule, Streams};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{
    error::{Error, Result},
    presets,
    scan_file::ScanFile,
    toml_errors::{self, TomlError},
};

pub use aqn::{AUTO, AqnSchedule, AqnSection, AqnTarget, Guide, Learning};
pub use checkpoint::{Best, CheckpointSection, Kept};
pub use data::{DataSection, Overlong};
pub use hardy_numerics::Precision;
pub use reward::{RewardKind, RewardSection, WHOLE_REWARD, graders_of, parse_rewards};
pub use scale::SCALES;
use settings::{Checked, Kind};
pub use train::{KlReference, OldLogProbs, OnNonfinite, TrainSection};

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
    /// The arithmetic of every pass.
    #[serde(default)]
    pub precision: Precision,
    /// The scale whose values lie under these: `tiny`, or `1.5b` for the published setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<String>,
    /// What the scale has for some experiments only, `dapo` and `lora`, laid between it and these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipe: Vec<String>,
    /// The model to start from.
    #[serde(default)]
    pub model: ModelSection,
    /// The problems.
    #[serde(default)]
    pub data: DataSection,
    /// How to train.
    #[serde(default)]
    pub train: TrainSection,
    /// What responses are rewarded for; `train.reward` where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reward: Vec<RewardSection>,
    /// The rules of the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Rule>,
    /// Adaptive quantisation noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aqn: Option<AqnSection>,
    /// Low-rank adapters: with this section they are trained, and the model's own weights are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How to evaluate.
    #[serde(default)]
    pub eval: EvalSection,
    /// How often to save, and what to keep.
    #[serde(default)]
    pub checkpoint: CheckpointSection,
    /// Runs that share everything above but what they say themselves; each has a `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arm: Vec<Table>,
    /// What wrote a resolved configuration; ignored when read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Table>,
}

/// The model to start from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// `builtin:tiny` or a Hugging Face directory.
    pub path: String,
    /// The longest sequence, in tokens; the model's `max_position_embeddings` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
}

/// Tokens of a step or an evaluation, at most, so that sizes in bytes can be computed.
const MOST_TOKENS: usize = 1 << 36;

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
    /// Independent draws of the error at every level that has one; intervals doubt them as they doubt the problems.
    pub draws: usize,
    /// Answers to every problem, of which the mean counts and the chances pass@k are told; several need a temperature.
    pub samples: usize,
    /// Sampling temperature of the answers; 0 always takes the most probable token.
    pub temperature: f32,
    /// Nucleus of the answers; 1 keeps all tokens.
    pub top_p: f32,
    /// What answers are judged by where one number is wanted: `strict`, `flexible`, `math`, `multiple_choice`, the name of a
    /// `[[reward]]`, or `reward` for all of them; what is rewarded where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            every: 20,
            n: 200,
            noise_levels: vec![0.0, 0.05, 0.10],
            max_new_tokens: None,
            batch: 256,
            draws: 1,
            samples: 1,
            temperature: 0.0,
            top_p: 1.0,
            metric: None,
        }
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

    /// The plan, with the rules of AQN last, for a run of `total_steps` of a model with so many `layers`; `scan` is what
    /// a guided AQN asks for.
    ///
    /// # Errors
    /// An AQN section that makes no schedule, or whose guide lacks its scan.
    pub fn plan(
        &self,
        total_steps: usize,
        steps_per_epoch: usize,
        layers: usize,
        scan: Option<&ScanFile>,
    ) -> Result<Plan> {
        let mut rules = self.noise.clone();
        match &self.aqn {
            None => {}
            Some(aqn) if aqn.learning().is_some() => rules.extend(aqn.learned_rules(layers)),
            Some(aqn) => rules.extend(aqn.rules(&aqn.sigmas(total_steps, steps_per_epoch)?, layers, scan)?),
        }
        Ok(Plan { rules, seed: self.seed, streams: self.streams })
    }

    /// What responses are rewarded for: the `[[reward]]`s, else `train.reward`.
    pub fn rewards(&self) -> Vec<RewardSection> {
        match &self.reward[..] {
            [] => vec![RewardSection::of(self.train.reward.unwrap_or_default())],
            rewards => rewards.to_vec(),
        }
    }

    /// What answers are judged by in evaluation: what is rewarded, unless `eval.metric` says otherwise.
    pub fn metric(&self) -> String {
        match (&self.eval.metric, &self.rewards()[..]) {
            (Some(metric), _) => {
                RewardKind::plain(metric).map_or_else(|| metric.clone(), |kind| kind.name().to_owned())
            }
            (None, [only]) => only.name().to_owned(),
            (None, _) => WHOLE_REWARD.to_owned(),
        }
    }

    /// Tokens after which an answer is cut off in evaluation.
    pub fn eval_max_new_tokens(&self) -> usize {
        self.eval.max_new_tokens.unwrap_or(self.train.max_new_tokens)
    }

    /// The configuration with everything said that it leaves to its algorithm.
    pub fn resolved(&self) -> Self {
        let eval = EvalSection { metric: Some(self.metric()), ..self.eval.clone() };
        let mut train = self.train.resolved();
        if self.reward.is_empty() {
            train.reward.get_or_insert_default();
        }
        let aqn = self.aqn.as_ref().map(AqnSection::resolved);
        Self { train, eval, aqn, ..self.clone() }
    }

    /// The configuration, resolved, as TOML.
    ///
    /// # Panics
    /// Never: every field has a TOML form.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.resolved())
            .unwrap_or_else(|error| panic!("the configuration is TOML: {error}"))
    }

    /// Checks that the tokens of a step and of an evaluation can be counted.
    fn check_tokens(&self) -> Result<()> {
        let train = &self.train;
        let most = |count: usize, tokens: usize| count.checked_mul(tokens).is_some_and(|n| n <= MOST_TOKENS);
        let responses = train.prompts_per_step.saturating_mul(train.samples_per_prompt);
        if !most(responses, train.max_new_tokens) {
            return Err(Error::config(format!(
                "`train.prompts_per_step` × `train.samples_per_prompt` × `train.max_new_tokens` is {} × {} × {}, but a \
                 step must have at most {MOST_TOKENS} tokens",
                train.prompts_per_step, train.samples_per_prompt, train.max_new_tokens
            )));
        }
        let new_tokens = self.eval.max_new_tokens.unwrap_or(train.max_new_tokens);
        if !most(self.eval.n, new_tokens) {
            return Err(Error::config(format!(
                "`eval.n` × `eval.max_new_tokens` is {} × {new_tokens}, but an evaluation must have at most {MOST_TOKENS} \
                 tokens",
                self.eval.n
            )));
        }
        Ok(())
    }

    /// Checks what is rewarded and judged by.
    fn check_rewards(&self) -> Result<()> {
        reward::check(&self.reward)?;
        if !self.reward.is_empty() && self.train.reward.is_some() {
            return Err(Error::config(
                "`train.reward` and [[reward]] both say what is rewarded, and one of them must go",
            ));
        }
        if let Some(kind) = self.train.reward.filter(|kind| RewardKind::plain(kind.name()).is_none()) {
            let kind = kind.name();
            return Err(Error::config(format!(
                "`train.reward` is \"{kind}\", which needs more than its name: write [[reward]] with kind = \"{kind}\""
            )));
        }
        graders_of(&self.rewards(), &self.metric())
            .map_err(|error| Error::config(format!("`eval.metric`: {error}")))?;
        Ok(())
    }

    fn checked(self) -> Result<Self> {
        if self.model.path.is_empty() {
            return Err(Error::config(
                "`model.path` is missing: write `builtin:tiny`, or the directory of a Hugging Face model",
            ));
        }
        self.data.check(true)?;
        self.train.check()?;
        self.aqn.as_ref().map_or(Ok(()), AqnSection::check)?;
        self.check_rewards()?;
        self.check_tokens()?;
        if self.eval.noise_levels.is_empty() {
            return Err(Error::config("`eval.noise_levels` is empty; 0.0 is the clean model"));
        }
        for (index, rule) in self.noise.iter().enumerate() {
            rule.validate().map_err(|error| Error::config(format!("[[noise]] {}: {error}", index + 1)))?;
        }
        Ok(self)
    }
}

impl Checked for RunConfig {
    const KIND: Kind = Kind::Run;
}

/// Reads a preset or file, with `key=value` changes, and checks every number in it.
pub(crate) fn read_with_changes<T: DeserializeOwned + Checked>(spec: &str, set: &[String]) -> Result<T> {
    let (text, source) = presets::read(spec)?;
    let mut table: Table = toml_errors::parse(&text, &source)?;
    T::KIND.check_text(&table, &text, &source)?;
    let unchanged: T = toml_errors::parse(&text, &source)?;
    for change in set {
        apply_change(&mut table, change)?;
        T::KIND.check_change(&table, change)?;
    }
    let laid = scale::lay_under(&table)?;
    if set.is_empty() && laid == table {
        return Ok(unchanged);
    }
    from_table(&laid, if set.is_empty() { &source } else { "--set" })
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
