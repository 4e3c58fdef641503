//! A run's records in the forms that other tools read: evaluations as logs of Inspect and as samples of the
//! lm-evaluation-harness, numbers over steps as a table.

mod csv;
mod inspect;
mod lm_eval;
mod questions;

use std::path::{Path, PathBuf};

use hardy_model::files::write_atomically;
use hardy_train::error::Error;
use serde_json::Value;

use crate::{
    error::LabError,
    record::{EvalRecord, LevelRecord},
    run_records::RunRecords,
};

pub use csv::csv;
pub use questions::Questions;

/// A form of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A log of Inspect for every evaluation and level.
    Inspect,
    /// Results and samples as lm-evaluation-harness keeps them, for every evaluation and level.
    LmEval,
    /// The numbers of every step in one table.
    Csv,
}

/// Writes the records of `run` into `directory`, which exists; gives the files.
///
/// # Errors
/// A file that can not be written.
pub fn write(
    run: &RunRecords,
    form: Form,
    questions: &Questions,
    directory: &Path,
) -> Result<Vec<PathBuf>, LabError> {
    if form == Form::Csv {
        let path = directory.join("metrics.csv");
        write_atomically(&path, csv(run).as_bytes()).map_err(Error::from)?;
        return Ok(vec![path]);
    }
    let mut files = Vec::new();
    for (step, record) in &run.evaluations {
        for level in &record.levels {
            let judged = Judged { run, record, level, questions, step: *step };
            for (name, text) in judged.files(form) {
                let path = directory.join(name);
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(LabError::file(folder))?;
                }
                write_atomically(&path, text.as_bytes()).map_err(Error::from)?;
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// One level of one evaluation, with what was asked.
struct Judged<'a> {
    run: &'a RunRecords,
    record: &'a EvalRecord,
    level: &'a LevelRecord,
    questions: &'a Questions,
    step: u64,
}

impl Judged<'_> {
    fn files(&self, form: Form) -> Vec<(String, String)> {
        let (task, at) = (self.task(), self.name());
        match form {
            Form::Inspect => {
                // Inspect finds logs by names that begin with a time.
                let created = inspect::created(self, "%FT%H-%M-%S+00-00");
                vec![(format!("{created}_{task}-{at}.json"), pretty(&inspect::log(self)))]
            }
            Form::LmEval => {
                // The harness reads the task out of a name up to its last `_`, and the time after it.
                let created = inspect::created(self, "%FT%H-%M-%S.000000");
                vec![
                    (format!("{at}/results_{created}.json"), pretty(&lm_eval::results(self))),
                    (format!("{at}/samples_{task}_{created}.jsonl"), lines(&lm_eval::samples(self))),
                ]
            }
            Form::Csv => Vec::new(),
        }
    }

    /// The data as a task's name: `test` for `data/test.jsonl`.
    fn task(&self) -> String {
        let data = self.record.data.strip_prefix("builtin:").unwrap_or(&self.record.data);
        plain(&Path::new(data).file_stem().unwrap_or_default().to_string_lossy())
    }

    fn name(&self) -> String {
        format!("step-{:06}-{}", self.step, plain(&self.level.label))
    }

    /// What else decides these answers, as both forms keep it.
    fn metadata(&self) -> Value {
        serde_json::json!({
            "run": self.run.name,
            "step": self.step,
            "level": self.level.label,
            "noise": self.level.noise,
            "plan": self.level.plan,
            "seed": self.record.seed,
            "conditions": self.record.conditions,
        })
    }
}

/// A name of letters, digits, dots and dashes.
fn plain(name: &str) -> String {
    let text: String = name.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let mut parts: Vec<&str> = text.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        parts.push("unnamed");
    }
    parts.join("-")
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

#[cfg(test)]
mod tests;
