//! The record of an evaluation: for every noise level the plan that was really bound, what was really injected, and
//! the outcome of every problem. It is what `eval/step-NNNNNN.json` and `hardy eval --json` hold, and all that later
//! comparisons read.

mod conditions;
mod level;
mod metric;
mod sample;

use std::path::Path;

use hardy_model::files::write_atomically;
use hardy_train::error::Error;
use serde::{Deserialize, Serialize};

use crate::{error::LabError, statistics::scores};

pub use conditions::{CONDITIONS, Conditions, data_fingerprint, text_hash};
pub use level::{DrawRecord, LevelRecord, draw_of};
pub use metric::Metric;
pub use sample::{ProblemRecord, SampleRecord};

/// The layout that this version writes. Schema 1, without conditions, draws and what was cut off, is still read.
pub const SCHEMA: u32 = 2;

/// One evaluation of one model at one or several noise levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// The layout of the record; [`SCHEMA`].
    pub schema: u32,
    /// The version of Hardy that wrote it.
    pub hardy_version: String,
    /// The training step that was evaluated; `None` outside a run.
    #[serde(default)]
    pub step: Option<u64>,
    /// The model, as given on the command line or in the configuration.
    pub model: String,
    /// The data, as given.
    pub data: String,
    /// Problems per level.
    pub n: usize,
    /// The seed of the noise.
    pub seed: u64,
    /// What answers are judged by.
    pub metric: Metric,
    /// What else decides an answer; records of schema 1 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    /// One entry per noise level, in the order asked for.
    pub levels: Vec<LevelRecord>,
}

impl EvalRecord {
    /// The place of a record that another worker has read.
    pub(crate) fn unread() -> Self {
        Self::new(String::new(), String::new(), 0, None, Vec::new())
    }

    /// A record of this version, judged strictly, under conditions that it does not say; `n` is the largest number of problems of a level.
    #[must_use]
    pub fn new(model: String, data: String, seed: u64, step: Option<u64>, levels: Vec<LevelRecord>) -> Self {
        Self {
            schema: SCHEMA,
            hardy_version: env!("CARGO_PKG_VERSION").into(),
            step,
            model,
            data,
            n: levels.iter().map(|level| level.problems.len()).max().unwrap_or(0),
            seed,
            metric: Metric::Strict,
            conditions: None,
            levels,
        }
    }

    /// Reads a record from a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not such a record (with the line), or has a newer layout.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path).map_err(LabError::file(path))?;
        let invalid = |e: serde_json::Error| LabError::json(path, e.line(), &e);
        let read: Result<Self, _> = serde_json::from_str(&text);
        // A newer layout may not be readable at all, and is still named as such.
        let found = match &read {
            Ok(record) => record.schema,
            Err(_) => serde_json::from_str::<Head>(&text).map_err(invalid)?.schema,
        };
        if found > SCHEMA {
            return Err(LabError::NewerSchema { what: path.display().to_string(), found, known: SCHEMA });
        }
        read.map_err(invalid)
    }

    /// Writes the record as indented JSON, whole or not at all.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LabError> {
        let mut text = serde_json::to_string_pretty(self).map_err(|e| LabError::file(path)(e.into()))?;
        text.push('\n');
        Ok(write_atomically(path, text.as_bytes()).map_err(Error::from)?)
    }

    /// The level that others are held against: the first of noise 0, else the first.
    #[must_use]
    pub fn clean_level(&self) -> Option<&LevelRecord> {
        self.levels.iter().find(|level| level.noise == Some(0.0)).or_else(|| self.levels.first())
    }

    /// What an evaluation comes to, as `METRIC/LEVEL` with its value: both accuracies, the score where there is one, and
    /// where problems were answered several times the chances `pass@K/LEVEL`.
    #[must_use]
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let of_level = |level: &LevelRecord| {
            let mut found =
                vec![("strict".to_owned(), level.accuracy), ("flexible".to_owned(), level.flexible_accuracy)];
            if let Metric::Score(name) = &self.metric {
                found.push((name.clone(), scores(&vec![level.values(&self.metric)]).mean()));
            }
            let chances = level.pass_at(&self.metric).into_iter();
            found.extend(chances.map(|(k, chance)| (format!("pass@{k}"), chance)));
            found
                .into_iter()
                .map(|(name, value)| (format!("{name}/{}", level.label), value))
                .collect::<Vec<_>>()
        };
        self.levels.iter().flat_map(of_level).collect()
    }

    /// Checks what a judgement relies on: at least one level, no empty one, no problem twice, and receipts wherever
    /// noise was asked for.
    ///
    /// # Errors
    ///
    /// The first of these that does not hold.
    pub fn check(&self) -> Result<(), LabError> {
        if self.levels.is_empty() {
            return Err(LabError::Empty { what: format!("the evaluation of {}", self.model) });
        }
        self.levels.iter().try_for_each(LevelRecord::check)
    }
}

/// What every layout says.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

#[cfg(test)]
pub(crate) mod made_up {
    //! Records for tests.

    use hardy_ops::{Receipt, Rule};

    use super::*;
    use crate::evaluate::rules_toml;

    /// A level whose problem `i` is right where `right(i)`.
    pub fn level(noise: f64, n: u64, right: impl Fn(u64) -> bool) -> LevelRecord {
        let label = if noise == 0.0 { "clean".into() } else { format!("{} %", 100.0 * noise) };
        let problems = (0..n).map(|id| problem(id, right(id))).collect();
        let receipts = if noise == 0.0 { vec![] } else { vec![receipt(noise)] };
        let rules = if noise == 0.0 { String::new() } else { rules_toml(&[Rule::noise(noise)]) };
        LevelRecord::new(label, Some(noise), rules, problems, receipts)
    }

    pub fn problem(id: u64, right: bool) -> ProblemRecord {
        let first = SampleRecord {
            strict: right,
            flexible: right,
            answer: Some(if right { id } else { id + 1 }.to_string()),
            response: format!("#### {id}"),
            tokens: 3,
            truncated: Some(false),
            ..SampleRecord::default()
        };
        ProblemRecord { id, truth: id.to_string(), first, samples: Vec::new() }
    }

    pub fn record(levels: Vec<LevelRecord>) -> EvalRecord {
        EvalRecord::new("m".into(), "d".into(), 0, Some(20), levels)
    }

    fn receipt(noise: f64) -> Receipt {
        let text = r#"{ "site": "model.layers.0.mlp.up_proj", "op": "linear", "point": "output", "phase": "eval",
            "pass": "forward", "rule": 1, "kind": "relative_gaussian", "calls": 10, "elements": 640 }"#;
        let receipt: Receipt = serde_json::from_str(text).unwrap();
        Receipt { asked: Some(noise), measured: noise, ..receipt }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::{level, problem, record};
    use super::*;

    #[test]
    fn a_record_survives_being_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step-000020.json");
        let written = record(vec![level(0.0, 7, |i| i % 3 == 0), level(0.05, 7, |i| i == 1)]);
        written.write(&path).unwrap();
        assert_eq!(EvalRecord::read(&path).unwrap(), written);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_record_of_the_first_schema_is_read_and_says_what_it_does_not_know() {
        let mut old = serde_json::to_value(record(vec![level(0.0, 2, |_| true)])).unwrap();
        old["schema"] = 1.into();
        old["metric"] = "accuracy".into();
        old["levels"][0].as_object_mut().unwrap().remove("added");
        for problem in old["levels"][0]["problems"].as_array_mut().unwrap() {
            problem.as_object_mut().unwrap().remove("truncated");
        }
        let read: EvalRecord = serde_json::from_value(old).unwrap();
        assert_eq!((read.metric, read.conditions.is_none()), (Metric::Strict, true));
        assert_eq!(read.levels[0].cut_off(&Metric::Strict), None);
        assert_eq!(read.levels[0].added(), "");
    }

    #[test]
    fn accuracy_is_counted_from_the_problems() {
        let level = level(0.0, 8, |i| i < 6);
        assert_eq!((level.accuracy, level.flexible_accuracy), (0.75, 0.75));
        assert_eq!(level.values(&Metric::Strict)[0].iter().sum::<f64>(), 6.0);
    }

    #[test]
    fn a_broken_record_is_reported_with_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step-000000.json");
        std::fs::write(&path, "{\n  \"schema\": 1,\n  \"model\": 3\n}\n").unwrap();
        let message = EvalRecord::read(&path).unwrap_err().to_string();
        assert!(message.contains("step-000000.json:") && message.contains("expected a string"), "{message}");
        std::fs::write(&path, "{\"schema\": 99, \"what\": []}").unwrap();
        let message = EvalRecord::read(&path).unwrap_err().to_string();
        assert!(message.contains("schema 99"), "{message}");
    }

    #[test]
    fn noise_without_a_receipt_is_an_error_not_a_number() {
        let mut silent = level(0.05, 5, |_| true);
        silent.receipts.clear();
        let message = record(vec![level(0.0, 5, |_| true), silent]).check().unwrap_err().to_string();
        assert!(message.contains("5 %") && message.contains("receipts"), "{message}");
    }

    #[test]
    fn a_problem_counted_twice_is_refused() {
        let problems = vec![problem(4, true), problem(4, true)];
        let twice = LevelRecord::new("clean".into(), Some(0.0), String::new(), problems, vec![]);
        assert!(record(vec![twice]).check().unwrap_err().to_string().contains("problem 4 occurs twice"));
        assert!(record(vec![]).check().is_err() && record(vec![level(0.0, 0, |_| true)]).check().is_err());
    }
}
