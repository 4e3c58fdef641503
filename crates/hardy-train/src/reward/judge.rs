//! What a response earns: the weighted sum of what the graders of a configuration say, with the score of each by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use regex::Regex;
use serde_json::Value;

use super::{Extraction, command, length, math, multiple_choice, pattern, score};
use crate::{
    config::{RewardKind, RewardSection, graders_of},
    error::{Error, Result},
};

/// How long a line that nobody asked for may be under way at the end of a batch of responses.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// A response and what it answers.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The prompt, as the model was asked.
    pub prompt: &'a str,
    /// What it wrote.
    pub text: &'a str,
    /// Its tokens.
    pub tokens: usize,
    /// The true answer.
    pub truth: &'a str,
    /// What else the data set says of the problem.
    pub extra: &'a Value,
}

/// What a response earns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The weighted sum.
    pub reward: f32,
    /// Where there are several graders, the score of each before its weight; and `GRADER/METRIC`, whatever a program
    /// said beside its reward.
    pub named: BTreeMap<String, f64>,
}

/// The graders of a configuration, programs running.
#[derive(Clone, Debug)]
pub struct Judge {
    rewards: Vec<RewardSection>,
    graders: Vec<Grader>,
}

#[derive(Clone, Debug)]
enum Grader {
    Gsm8k(Extraction),
    Math,
    MultipleChoice,
    Pattern(Regex),
    Length(usize, usize),
    /// One process, shared by all who ask.
    Command(Arc<Mutex<command::Grader>>),
}

impl Judge {
    /// Makes every grader ready, and starts the programs among them.
    ///
    /// # Errors
    /// A program that can not be started, or a pattern that is none.
    pub fn new(rewards: &[RewardSection]) -> Result<Self> {
        let graders = rewards.iter().map(Grader::new).collect::<Result<_>>()?;
        Ok(Self { rewards: rewards.to_vec(), graders })
    }

    /// The judge of an evaluation by `metric`; it shares the programs of this one.
    ///
    /// # Errors
    /// A metric that nobody knows.
    pub fn by_metric(&self, metric: &str) -> Result<Self> {
        let rewards = graders_of(&self.rewards, metric)?;
        let held = |wanted: &RewardSection| {
            let at =
                self.rewards.iter().position(|own| own.name() == wanted.name() && own.kind == wanted.kind);
            at.map_or_else(|| Grader::new(wanted), |at| Ok(self.graders[at].clone()))
        };
        let graders = rewards.iter().map(held).collect::<Result<_>>()?;
        Ok(Self { rewards, graders })
    }

    /// The graders as configurations write them.
    pub fn rewards(&self) -> &[RewardSection] {
        &self.rewards
    }

    /// What `response` earns.
    ///
    /// # Errors
    /// A program that does not answer as it should, with the response.
    pub fn score(&self, response: &Response<'_>) -> Result<Score> {
        let mut total = Score::default();
        for (section, grader) in self.rewards.iter().zip(&self.graders) {
            let (own, metrics) = grader.score(response)?;
            total.reward += section.weight * own;
            let name = section.name();
            if self.rewards.len() > 1 {
                total.named.insert(name.to_owned(), own.into());
            }
            total.named.extend(metrics.into_iter().map(|(metric, x)| (format!("{name}/{metric}"), x)));
        }
        Ok(total)
    }

    /// Checks that every program still runs and has said nothing unasked, as before and after a batch of responses.
    ///
    /// # Errors
    /// One that does not.
    pub fn check(&self) -> Result<()> {
        let programs = self.graders.iter().filter_map(|grader| match grader {
            Grader::Command(program) => Some(program),
            _ => None,
        });
        for program in programs {
            let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
            program.check(UNDER_WAY).map_err(Error::Reward)?;
        }
        Ok(())
    }
}

impl Grader {
    fn new(section: &RewardSection) -> Result<Self> {
        Ok(match section.kind {
            RewardKind::Strict => Self::Gsm8k(Extraction::Strict),
            RewardKind::Flexible => Self::Gsm8k(Extraction::Flexible),
            RewardKind::Math => Self::Math,
            RewardKind::MultipleChoice => Self::MultipleChoice,
            RewardKind::Regex => {
                let text = section.pattern.as_deref().unwrap_or_default();
                Self::Pattern(pattern::parse(text).map_err(Error::config)?)
            }
            RewardKind::Length => {
                let (target, falls_over) = section.lengths();
                Self::Length(target, falls_over)
            }
            RewardKind::Command => {
                let command = section.command.as_deref().unwrap_or_default();
                let limit = Duration::from_secs_f64(section.time_limit());
                let program = command::Grader::start(command, limit).map_err(Error::config)?;
                Self::Command(Arc::new(Mutex::new(program)))
            }
        })
    }

    /// The score of a response, and whatever a program said beside it.
    fn score(&self, response: &Response<'_>) -> Result<(f32, BTreeMap<String, f64>)> {
        let Response { prompt, text, tokens, truth, extra } = *response;
        let score = match self {
            Self::Gsm8k(how) => score(text, truth, *how),
            Self::Math => math::score(text, truth),
            Self::MultipleChoice => multiple_choice::score(text, truth),
            Self::Pattern(regex) => pattern::score(text, truth, regex),
            Self::Length(target, falls_over) => length::score(tokens, *target, *falls_over),
            Self::Command(program) => {
                let question = command::Question { id: 0, prompt, response: text, truth, extra };
                let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
                let command::Answer { reward, metrics } = program.ask(question).map_err(Error::Reward)?;
                return Ok((reward, metrics));
            }
        };
        Ok((score, BTreeMap::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response<'a>(text: &'a str, truth: &'a str) -> Response<'a> {
        Response { prompt: "p", text, tokens: 15, truth, extra: &Value::Null }
    }

    fn section(kind: RewardKind, weight: f32) -> RewardSection {
        RewardSection { weight, ..RewardSection::of(kind) }
    }

    #[test]
    fn a_reward_is_the_weighted_sum_and_every_grader_is_named() {
        let length = RewardSection { target: Some(10), ..section(RewardKind::Length, 0.5) };
        let judge =
            Judge::new(&[section(RewardKind::Strict, 2.0), section(RewardKind::Math, 1.0), length]).unwrap();
        let score = judge.score(&response(r"\boxed{5} #### 4", "4")).unwrap();
        assert!((score.reward - (2.0 + 0.0 + 0.25)).abs() < 1e-6, "{score:?}");
        let named = [("length", 0.5), ("math", 0.0), ("strict", 1.0)].map(|(name, x)| (name.to_owned(), x));
        assert_eq!(score.named, BTreeMap::from(named));
        let math = judge.by_metric("math").unwrap();
        assert_eq!(
            math.score(&response(r"\boxed{5}", "5")).unwrap(),
            Score { reward: 1.0, named: BTreeMap::new() }
        );
    }

    #[test]
    fn one_process_serves_rewards_and_evaluations() {
        let script = r#"while read -r line; do n=$((n+1)); echo "{\"reward\": $n, \"lines\": $n}"; done"#;
        let command = Some(["sh", "-c", script].map(str::to_owned).to_vec());
        let judge = Judge::new(&[RewardSection { command, ..section(RewardKind::Command, 1.0) }]).unwrap();
        assert_eq!(judge.score(&response("a", "")).unwrap().reward, 1.0);
        let score = judge.by_metric("reward").unwrap().score(&response("b", "")).unwrap();
        assert_eq!((score.reward, score.named["command/lines"]), (2.0, 2.0));
        judge.check().unwrap();
    }

    #[test]
    fn a_program_that_can_not_be_started_is_input_and_one_that_fails_later_is_not() {
        let of = |words: &[&str]| RewardSection {
            command: Some(words.iter().map(|&word| word.to_owned()).collect()),
            ..section(RewardKind::Command, 1.0)
        };
        assert!(Judge::new(&[of(&["no-such-program-at-all"])]).unwrap_err().is_input());
        let judge = Judge::new(&[of(&["false"])]).unwrap();
        let error = judge.score(&response("a", "")).unwrap_err();
        assert!(!error.is_input() && error.to_string().contains("exit status: 1"), "{error}");
    }
}
