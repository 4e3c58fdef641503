//! Plans outside of run configurations: files of `[[noise]]` rules, and the environment variable `HARDY_NOISE`, which
//! holds the same TOML for processes that someone else starts.

use std::path::Path;

use hardy_ops::{Rule, Streams};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    error::{Error, Result},
    toml_errors::{self, TomlError, line_of},
};

/// The environment variable that holds a plan.
pub const VARIABLE: &str = "HARDY_NOISE";

/// What a plan file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanFile {
    /// The seed of the noise, where the file has one.
    pub seed: Option<u64>,
    /// Whether phases share their noise, where the file says so.
    pub streams: Option<Streams>,
    /// The rules, all valid by themselves.
    pub noise: Vec<Rule>,
}

/// The same with the place of every rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    seed: Option<u64>,
    streams: Option<Streams>,
    #[serde(default)]
    noise: Vec<Spanned<Rule>>,
}

/// Reads a plan file.
///
/// # Errors
/// A file that can not be read, or as [`parse_plan`].
pub fn read_plan(path: &Path) -> Result<PlanFile> {
    let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
    parse_plan(&text, &path.display().to_string())
}

/// The plan in `HARDY_NOISE`; `None` where the variable is not set or blank.
///
/// # Errors
/// As [`parse_plan`].
pub fn from_environment() -> Result<Option<PlanFile>> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let text = text.to_str().ok_or_else(|| Error::config(format!("{VARIABLE} is not UTF-8")))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    parse_plan(text, VARIABLE).map(Some)
}

/// Reads the text of a plan file, which messages call `source_name`.
///
/// # Errors
/// What is no TOML, an unknown key, or a rule that is wrong by itself, such as one with a negative scale; each with
/// its line.
pub fn parse_plan(text: &str, source_name: &str) -> Result<PlanFile> {
    let raw: Raw = toml_errors::parse(text, source_name)?;
    for rule in &raw.noise {
        rule.get_ref().validate().map_err(|problem| TomlError {
            source_name: source_name.to_owned(),
            line: Some(line_of(text, rule.span().start)),
            message: format!("[[noise]]: {problem}"),
        })?;
    }
    let noise = raw.noise.into_iter().map(Spanned::into_inner).collect();
    Ok(PlanFile { seed: raw.seed, streams: raw.streams, noise })
}

impl PlanFile {
    /// Adds the rules of `other`, and its seed and streams where there are none yet.
    pub fn append(&mut self, other: Self) {
        self.seed = self.seed.or(other.seed);
        self.streams = self.streams.or(other.streams);
        self.noise.extend(other.noise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_PERCENT: &str = "[[noise]]\nerror = { kind = \"relative_gaussian\", scale = 0.05 }\n";

    fn message(text: &str) -> String {
        parse_plan(text, "plan.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_plan_file_holds_rules_a_seed_and_streams() {
        let plan =
            parse_plan(&format!("seed = 7\nstreams = \"shared\"\n{FIVE_PERCENT}"), "plan.toml").unwrap();
        assert_eq!((plan.seed, plan.streams, plan.noise.len()), (Some(7), Some(Streams::Shared), 1));
        assert_eq!(plan.noise[0].error, Rule::noise(0.05).error);
    }

    #[test]
    fn appended_rules_come_last_and_what_was_said_stands() {
        let mut plan = parse_plan(&format!("seed = 7\n{FIVE_PERCENT}"), "plan.toml").unwrap();
        let other = format!("seed = 8\nstreams = \"shared\"\n{FIVE_PERCENT}ops = [\"softmax\"]\n");
        plan.append(parse_plan(&other, "HARDY_NOISE").unwrap());
        assert_eq!((plan.seed, plan.streams, plan.noise.len()), (Some(7), Some(Streams::Shared), 2));
        assert_ne!(plan.noise[0], plan.noise[1]);
    }

    #[test]
    fn a_wrong_rule_is_named_with_its_line() {
        for scale in ["-0.05", "nan", "inf"] {
            let bad = FIVE_PERCENT.replace("0.05", scale);
            let message = message(&format!("seed = 1\n{FIVE_PERCENT}\n{bad}"));
            assert!(message.starts_with("plan.toml:5: [[noise]]: error scale is "), "{message}");
        }
        let unknown = message(&format!("{FIVE_PERCENT}layerz = 1\n"));
        assert_eq!(unknown, "plan.toml:3: unknown key `layerz` in [[noise]]; did you mean `layers`?");
        let kind = message(&FIVE_PERCENT.replace("relative_gaussian", "relative_gausian"));
        assert!(
            kind.starts_with("plan.toml:2:") && kind.ends_with("did you mean `relative_gaussian`?"),
            "{kind}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let message = read_plan(Path::new("no/such/plan.toml")).unwrap_err().to_string();
        assert!(message.starts_with("no/such/plan.toml: "), "{message}");
    }
}
