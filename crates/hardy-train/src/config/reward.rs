//! `[[reward]]`: what responses are rewarded for, each grader with its weight. What one grader needs is refused where
//! another stands, so that a limit or pattern is never written in vain.

use serde::{Deserialize, Serialize};

use super::settings::Kind;
use crate::{
    error::{Error, Result},
    reward::{gsm8k, pattern},
    toml_errors,
};

/// The name of the weighted sum of all rewards, as an evaluation's metric.
pub const WHOLE_REWARD: &str = "reward";
/// Words that stand for something else where metrics are named.
const RESERVED: [&str; 3] = [WHOLE_REWARD, "accuracy", "nll"];
/// Seconds that a program may take for an answer where no other limit is given.
const TIME_LIMIT: f64 = 60.0;

/// A grader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// GSM8K: the number after `#### `.
    #[default]
    #[serde(alias = "gsm8k_strict")]
    Strict,
    /// GSM8K: the last number there is.
    #[serde(alias = "gsm8k_flexible")]
    Flexible,
    /// The last `\boxed{…}`, in a normal form.
    Math,
    /// The letter that the response settles on.
    MultipleChoice,
    /// The last match of a pattern.
    Regex,
    /// Full up to a length, then falling.
    Length,
    /// A program of the user's.
    Command,
}

/// One grader and its weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardSection {
    /// The grader.
    pub kind: RewardKind,
    /// What metrics call it; its kind where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What its score is multiplied by in the reward; 0 only logs it.
    #[serde(default = "one")]
    pub weight: f32,
    /// The regular expression whose last match, or its first group, must be the truth (`regex`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Tokens up to which the reward is full (`length`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<usize>,
    /// Tokens over which it then falls to 0; as many as `target` where left out (`length`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub falls_over: Option<usize>,
    /// The program and its arguments (`command`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Seconds that it may take for an answer; 60 where left out (`command`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<f64>,
}

fn one() -> f32 {
    1.0
}

impl RewardKind {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Flexible => "flexible",
            Self::Math => "math",
            Self::MultipleChoice => "multiple_choice",
            Self::Regex => "regex",
            Self::Length => "length",
            Self::Command => "command",
        }
    }

    /// The grader of that name, if it needs nothing but its name.
    pub fn plain(name: &str) -> Option<Self> {
        match name {
            "strict" | "gsm8k_strict" => Some(Self::Strict),
            "flexible" | "gsm8k_flexible" => Some(Self::Flexible),
            "math" => Some(Self::Math),
            "multiple_choice" => Some(Self::MultipleChoice),
            _ => None,
        }
    }

    /// Whether it is one of GSM8K's, which compare bare numbers.
    pub fn is_gsm8k(self) -> bool {
        matches!(self, Self::Strict | Self::Flexible)
    }

    /// Whether some response could earn its score for `truth`.
    pub fn can_match(self, truth: &str) -> bool {
        let truth = truth.trim();
        match self {
            Self::Strict | Self::Flexible => gsm8k::can_match(truth),
            Self::Math | Self::Regex => !truth.is_empty(),
            Self::MultipleChoice => {
                truth.trim_start_matches('(').starts_with(|c: char| c.is_ascii_uppercase())
            }
            Self::Length | Self::Command => true,
        }
    }

    /// What a truth must look like.
    pub fn wants(self) -> &'static str {
        match self {
            Self::Strict | Self::Flexible => {
                "the reward compares numbers such as 38, -7 or 1.5 to the character"
            }
            Self::MultipleChoice => "the reward compares letters such as B or (B)",
            _ => "the reward compares answers, and there is none",
        }
    }
}

impl RewardSection {
    /// A grader that needs nothing but its name, with weight 1.
    pub fn of(kind: RewardKind) -> Self {
        Self { kind, weight: one(), ..Self::default() }
    }

    /// What metrics call it.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.kind.name())
    }

    /// Tokens up to which the reward is full, and those over which it falls.
    pub fn lengths(&self) -> (usize, usize) {
        let target = self.target.unwrap_or(0);
        (target, self.falls_over.unwrap_or(target))
    }

    /// Seconds that a program may take for an answer.
    pub fn time_limit(&self) -> f64 {
        self.time_limit.unwrap_or(TIME_LIMIT)
    }

    /// Checks that everything is there that its grader needs, and nothing else.
    fn check(&self) -> Result<()> {
        let kind = self.kind;
        let foreign = [
            ("pattern", self.pattern.is_some(), RewardKind::Regex),
            ("target", self.target.is_some(), RewardKind::Length),
            ("falls_over", self.falls_over.is_some(), RewardKind::Length),
            ("command", self.command.is_some(), RewardKind::Command),
            ("time_limit", self.time_limit.is_some(), RewardKind::Command),
        ];
        if let Some((key, _, of)) = foreign.iter().find(|(_, said, of)| *said && *of != kind) {
            let (of, kind) = (of.name(), kind.name());
            return Err(Error::config(format!("`{key}` is for kind = \"{of}\", but the kind is \"{kind}\"")));
        }
        let missing = |key: &str, example: &str| {
            let kind = kind.name();
            Err(Error::config(format!("kind = \"{kind}\" needs `{key}`, as in {example}")))
        };
        match kind {
            RewardKind::Regex => match self.pattern.as_deref() {
                None => return missing("pattern", r"pattern = 'answer: (\w+)'"),
                Some(text) => drop(pattern::parse(text).map_err(Error::config)?),
            },
            RewardKind::Length if self.target.is_none() => return missing("target", "target = 256"),
            RewardKind::Command if self.command.as_ref().is_none_or(Vec::is_empty) => {
                return missing("command", "command = [\"python\", \"my_reward.py\"]");
            }
            _ => {}
        }
        self.check_name()
    }

    fn check_name(&self) -> Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::config(format!(
                "`name` is {name:?}, but must be of letters, digits, _, - and ."
            )));
        }
        if RESERVED.contains(&name.as_str()) || RewardKind::plain(name).is_some_and(|kind| kind != self.kind)
        {
            return Err(Error::config(format!("`name` is \"{name}\", which stands for another metric")));
        }
        Ok(())
    }
}

/// Checks a list of rewards.
///
/// # Errors
/// The first that can not be used, with its number; two of one name; or weights that are all 0.
pub(super) fn check(rewards: &[RewardSection]) -> Result<()> {
    for (index, reward) in rewards.iter().enumerate() {
        reward.check().map_err(|error| Error::config(format!("[[reward]] {}: {error}", index + 1)))?;
        if let Some(other) = rewards[..index].iter().find(|other| other.name() == reward.name()) {
            let name = other.name();
            return Err(Error::config(format!("two [[reward]]s are called `{name}`; give one a `name`")));
        }
    }
    if !rewards.is_empty() && rewards.iter().all(|reward| reward.weight == 0.0) {
        return Err(Error::config("every [[reward]] has weight 0, so that nothing is rewarded"));
    }
    Ok(())
}

/// The `[[reward]]` tables of a file, which holds nothing else.
///
/// # Errors
/// What can not be understood or used, with the line where that is known.
pub fn parse_rewards(text: &str, source: &str) -> Result<Vec<RewardSection>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rewards {
        reward: Vec<RewardSection>,
    }
    let table: toml::Table = toml_errors::parse(text, source)?;
    Kind::Run.check_text(&table, text, source)?;
    let Rewards { reward } = toml_errors::parse(text, source)?;
    check(&reward).map_err(|error| Error::config(format!("{source}: {error}")))?;
    Ok(reward)
}

/// The graders that `metric` stands for: `reward` for all of them, the name of one, or that of a grader that needs nothing
/// but its name.
///
/// # Errors
/// None of these.
pub fn graders_of(rewards: &[RewardSection], metric: &str) -> Result<Vec<RewardSection>> {
    if metric == WHOLE_REWARD {
        return Ok(rewards.to_vec());
    }
    if let Some(own) = rewards.iter().find(|reward| reward.name() == metric) {
        // A metric shows a score as it is, whatever it weighs.
        return Ok(vec![RewardSection { weight: one(), ..own.clone() }]);
    }
    if let Some(kind) = RewardKind::plain(metric) {
        return Ok(vec![RewardSection::of(kind)]);
    }
    let plain = ["strict", "flexible", "math", "multiple_choice", WHOLE_REWARD];
    let own = rewards.iter().map(RewardSection::name).filter(|name| !plain.contains(name));
    let known: Vec<&str> = own.chain(plain).collect();
    Err(Error::config(format!("unknown metric \"{metric}\"; there are {}", known.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> std::result::Result<(), String> {
        #[derive(Deserialize)]
        struct List {
            reward: Vec<RewardSection>,
        }
        let list: List = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        check(&list.reward).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_grader_needs_must_be_there_and_nothing_else() {
        for (text, part) in [
            ("[[reward]]\nkind = 'regex'", "[[reward]] 1: kind = \"regex\" needs `pattern`"),
            ("[[reward]]\nkind = 'regex'\npattern = '('", "unclosed group"),
            (
                "[[reward]]\nkind = 'math'\npattern = 'x'",
                "`pattern` is for kind = \"regex\", but the kind is \"math\"",
            ),
            ("[[reward]]\nkind = 'length'", "needs `target`"),
            ("[[reward]]\nkind = 'command'\ncommand = []", "needs `command`"),
            ("[[reward]]\nkind = 'math'\ntime_limit = 3.0", "`time_limit` is for kind = \"command\""),
            ("[[reward]]\nkind = 'maths'", "unknown variant `maths`"),
            ("[[reward]]\nkind = 'math'\n[[reward]]\nkind = 'math'", "two [[reward]]s are called `math`"),
            ("[[reward]]\nkind = 'math'\nname = 'reward'", "stands for another metric"),
            ("[[reward]]\nkind = 'math'\nname = 'a b'", "must be of letters"),
            ("[[reward]]\nkind = 'math'\nweight = 0.0", "nothing is rewarded"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let good = "[[reward]]\nkind = 'gsm8k_flexible'\n[[reward]]\nkind = 'length'\ntarget = 9\nweight = 0.1\n\
            [[reward]]\nkind = 'command'\ncommand = ['true']\n[[reward]]\nkind = 'regex'\npattern = 'a'";
        assert_eq!(checked(good), Ok(()));
    }

    #[test]
    fn a_metric_is_all_rewards_one_of_them_or_a_plain_grader() {
        let rewards = [
            RewardSection { weight: 0.5, name: Some("form".into()), ..RewardSection::of(RewardKind::Strict) },
            RewardSection::of(RewardKind::Math),
        ];
        assert_eq!(graders_of(&rewards, "reward").unwrap(), rewards);
        assert_eq!(graders_of(&rewards, "form").unwrap()[0].weight, 1.0);
        assert_eq!(graders_of(&rewards, "gsm8k_flexible").unwrap()[0].kind, RewardKind::Flexible);
        let error = graders_of(&rewards, "bleu").unwrap_err().to_string();
        assert!(error.contains("\"bleu\"; there are form, strict, flexible, math"), "{error}");
    }
}
