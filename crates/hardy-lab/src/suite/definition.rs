//! What a suite's TOML says: presets, seeds, the baseline, and the hypotheses that the suite decides.

use std::{collections::BTreeSet, path::Path};

use hardy_train::{error::Error, toml_errors};
use serde::{Deserialize, Serialize};

use super::{criterion::Hypothesis, shipped};
use crate::error::LabError;

/// Presets × seeds and the one that the others are held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Names the suite and, unless `--out` says otherwise, its directory `runs/NAME`.
    pub name: String,
    /// Names of presets, or TOML files beside the suite's.
    pub presets: Vec<String>,
    /// The seeds of every preset.
    pub seeds: Vec<u64>,
    /// The preset that the others are held against, as in `presets`.
    pub baseline: String,
    /// Changes to every configuration, `key=value`, as with `hardy run --set`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    /// What the suite decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hypothesis: Vec<Hypothesis>,
}

impl Suite {
    /// Reads a suite: a shipped one's name, or a file, whose presets may be files beside it.
    ///
    /// # Errors
    /// Neither; what is no suite; presets or seeds that are missing or named twice; a baseline that is not a preset.
    pub fn load(spec: &str) -> Result<Self, LabError> {
        if let Some((name, text)) = shipped::ALL.iter().find(|(name, _)| *name == spec) {
            return Self::parse(text, &format!("suite {name}"));
        }
        let text = std::fs::read_to_string(spec).map_err(|error| {
            let names: Vec<&str> = shipped::ALL.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            Error::config(format!("{spec}: {error}; give a TOML file, or one of the suites {names}"))
        })?;
        let mut suite = Self::parse(&text, spec)?;
        let beside = Path::new(spec).parent().unwrap_or(Path::new(""));
        for preset in suite.presets.iter_mut().chain([&mut suite.baseline]) {
            let file = beside.join(&preset);
            if file.is_file() {
                *preset = file.display().to_string();
            }
        }
        Ok(suite)
    }

    /// Reads the text of a suite, which messages call `source`.
    ///
    /// # Errors
    /// As [`Suite::load`].
    pub fn parse(text: &str, source: &str) -> Result<Self, LabError> {
        let suite: Self = toml_errors::parse(text, source).map_err(Error::from)?;
        suite.check().map_err(|wrong| Error::config(format!("{source}: {wrong}")))?;
        Ok(suite)
    }

    fn check(&self) -> Result<(), String> {
        if !is_a_directory_name(&self.name) {
            return Err(format!("`name` is \"{}\", but must be usable as a directory's name", self.name));
        }
        if self.presets.is_empty() || self.seeds.is_empty() {
            return Err("`presets` and `seeds` must each name at least one".to_owned());
        }
        if let Some(twice) = repeated(&self.presets) {
            return Err(format!(
                "`presets` names {twice} twice: two runs can not share a directory; name it once"
            ));
        }
        if let Some(twice) = repeated(&self.seeds) {
            return Err(format!(
                "`seeds` names {twice} twice: two runs can not share a directory; name it once"
            ));
        }
        if !self.presets.contains(&self.baseline) {
            let (baseline, presets) = (&self.baseline, self.presets.join(", "));
            return Err(format!("`baseline` is \"{baseline}\", but must be one of the presets {presets}"));
        }
        if self.set.iter().any(|change| change.split('=').next().is_some_and(|key| key.trim() == "seed")) {
            return Err("`set` changes `seed`; list it in `seeds`".to_owned());
        }
        self.hypothesis.iter().try_for_each(Hypothesis::check)
    }
}

/// Whether `name` is one plain part of a path.
pub(super) fn is_a_directory_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

fn repeated<T: Ord + std::fmt::Display>(values: &[T]) -> Option<String> {
    let mut seen = BTreeSet::new();
    values.iter().find(|value| !seen.insert(*value)).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "name = \"s\"\npresets = [\"baseline\", \"e5\"]\nseeds = [0, 1]\nbaseline = \"baseline\"\n";

    fn message(text: &str) -> String {
        Suite::parse(text, "s.toml").unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_with_a_suite_is_said_in_one_sentence() {
        assert!(Suite::parse(SMALL, "s.toml").is_ok());
        assert!(message(&SMALL.replace("[0, 1]", "[1, 1]")).contains("names 1 twice"));
        assert!(message(&SMALL.replace("\"e5\"", "\"baseline\"")).contains("names baseline twice"));
        assert!(
            message(&SMALL.replace("baseline = \"baseline\"", "baseline = \"e9\"")).contains("baseline, e5")
        );
        assert!(message(&SMALL.replace("[0, 1]", "[]")).contains("at least one"));
        assert!(message(&SMALL.replace("\"s\"", "\"../s\"")).contains("directory's name"));
        let unknown = message(&SMALL.replace("seeds", "seedz"));
        assert!(unknown.starts_with("s.toml:3: unknown key `seedz`"), "{unknown}");
    }
}
