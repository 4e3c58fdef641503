//! How the model of an evaluation is asked and its answers are judged: what was given, then what the checkpoint's run says,
//! then the usual.

use std::path::Path;

use hardy_lab::{
    Metric,
    evaluate::{Level, Sampling},
};
use hardy_train::{
    config::{RewardKind, RewardSection, RunConfig, WHOLE_REWARD, graders_of, parse_rewards},
    data::Columns,
};

use super::{AS_REWARDED, Arguments, NLL};
use crate::{checkpoint_run::CheckpointRun, failure::Failure, output::note};

/// How the model is asked: what was given, then what its run says, then the usual.
#[derive(Debug)]
pub struct Asked {
    pub data: String,
    pub n: usize,
    pub columns: Columns,
    pub wording: String,
    pub system: Option<String>,
    pub max_new_tokens: usize,
    pub draws: usize,
    pub sampling: Sampling,
    pub metric: Metric,
    pub rewards: Vec<RewardSection>,
}

impl Asked {
    /// All of it, a line each, for workers to agree on.
    pub fn lines(&self, seed: u64, levels: &[Level]) -> String {
        let Self { data, n, columns, wording, system, max_new_tokens, draws, sampling, metric, rewards } =
            self;
        let mut lines = format!(
            "--data {data}\n--n {n}\n{columns:?}\n--prompt {wording:?}\n--system {system:?}\n--max-new-tokens \
             {max_new_tokens}\n--draws {draws}\n{sampling:?}\n--metric {metric:?}\n{rewards:?}\n--seed {seed}\n"
        );
        for level in levels {
            lines += &format!("level {:?}: {:?}\n", level.label, level.plan);
        }
        lines
    }
}

impl Arguments {
    /// What is asked; what comes from the run of a checkpoint is said on standard error.
    pub(super) fn asked(&self) -> Result<Asked, Failure> {
        let run = CheckpointRun::of(&self.model.directory()?)?;
        let config = run.as_ref().map(|run| &run.config);
        let no_data =
            || Failure::input("--data is missing: give `builtin:arith`, or a file of JSON lines or Parquet");
        let rewards = match &self.rewards {
            Some(path) => read_rewards(path)?,
            None => config.map(RunConfig::rewards).unwrap_or_default(),
        };
        let own = |flag: &Option<String>, of: fn(&RunConfig) -> Option<String>| {
            flag.clone().or_else(|| config.and_then(of))
        };
        let asked = Asked {
            data: self.data.clone().or_else(|| config.map(|c| c.data.eval.clone())).ok_or_else(no_data)?,
            n: self.n.or_else(|| config.map(|c| c.eval.n)).unwrap_or(200),
            columns: Columns {
                question: own(&self.question, |c| c.data.question.clone()),
                answer: own(&self.answer, |c| c.data.answer.clone()),
            },
            system: own(&self.system, |c| c.data.system.clone()),
            wording: self
                .prompt
                .clone()
                .or_else(|| config.map(|c| c.data.prompt.clone()))
                .unwrap_or_else(question),
            max_new_tokens: self
                .max_new_tokens
                .or_else(|| config.map(RunConfig::eval_max_new_tokens))
                .unwrap_or(256),
            draws: self.draws.or_else(|| config.map(|c| c.eval.draws)).unwrap_or(1),
            sampling: self.sampling(config)?,
            metric: self.judged_by(config, &rewards)?,
            rewards,
        };
        if let Some(run) = run {
            self.tell(&run, &asked);
        }
        Ok(asked)
    }

    /// How answers are drawn.
    fn sampling(&self, config: Option<&RunConfig>) -> Result<Sampling, Failure> {
        let run = config.map(|config| &config.eval);
        let sampling = Sampling {
            samples: self.samples.or_else(|| run.map(|eval| eval.samples)).unwrap_or(1),
            temperature: self
                .temperature
                .map(|x| x as f32)
                .or_else(|| run.map(|eval| eval.temperature))
                .unwrap_or(0.0),
            top_p: self.top_p.map(|x| x as f32).or_else(|| run.map(|eval| eval.top_p)).unwrap_or(1.0),
        };
        sampling.check()?;
        Ok(sampling)
    }

    /// What answers are judged by.
    fn judged_by(&self, config: Option<&RunConfig>, rewards: &[RewardSection]) -> Result<Metric, Failure> {
        let name = match (self.metric.as_str(), config, rewards) {
            (NLL, ..) => return Ok(Metric::Strict),
            (AS_REWARDED, Some(config), _) if self.rewards.is_none() => config.metric(),
            (AS_REWARDED, _, []) => return Ok(Metric::Strict),
            (AS_REWARDED, _, [only]) => only.name().to_owned(),
            (AS_REWARDED, ..) => WHOLE_REWARD.to_owned(),
            (given, ..) => {
                RewardKind::plain(given).map_or_else(|| given.to_owned(), |kind| kind.name().to_owned())
            }
        };
        if name == WHOLE_REWARD && rewards.is_empty() {
            return Err(Failure::input(
                "--metric reward needs rewards: give --rewards FILE.toml with [[reward]] tables, or a run's checkpoint",
            ));
        }
        graders_of(rewards, &name).map_err(|error| Failure::input(format!("--metric: {error}")))?;
        Ok(Metric::from(name))
    }

    /// Says what was taken from the run.
    fn tell(&self, run: &CheckpointRun, asked: &Asked) {
        let taken = [
            (self.data.is_none(), format!("data {}", asked.data)),
            (self.n.is_none(), format!("{} problems", asked.n)),
            (self.prompt.is_none(), format!("wording {:?}", asked.wording)),
            (self.max_new_tokens.is_none(), format!("at most {} tokens", asked.max_new_tokens)),
            (self.draws.is_none(), format!("draws {}", asked.draws)),
            (self.metric == AS_REWARDED && self.rewards.is_none(), asked.metric.to_string()),
        ];
        let taken: Vec<String> =
            taken.into_iter().filter(|(from_run, _)| *from_run).map(|(_, what)| what).collect();
        if !taken.is_empty() {
            note(&format!("as the run {}: {}", run.directory.display(), taken.join(", ")));
        }
    }
}

/// The `[[reward]]` tables of a file.
fn read_rewards(path: &Path) -> Result<Vec<RewardSection>, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Failure::input(format!("{name}: {error}")))?;
    Ok(parse_rewards(&text, &name)?)
}

fn question() -> String {
    "{question}".to_owned()
}
