//! Reading what a run left behind: its configuration, its evaluations, its metrics and its receipts. A run that was
//! cut off while writing a line of metrics is still readable; anything else that is broken is named with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hardy_ops::Receipt;

use crate::error::LabError;
use crate::record::EvalRecord;

/// The numbers of one training step by name, from one line of `metrics.jsonl`; values that are no numbers are absent.
pub type Metrics = BTreeMap<String, f64>;

/// What one run directory holds.
#[derive(Debug, Clone)]
pub struct RunRecords {
    /// The directory.
    pub directory: PathBuf,
    /// The configuration's `name`, else the directory's.
    pub name: String,
    /// The resolved configuration.
    pub config: toml::Table,
    /// The same as it stands in `config.toml`.
    pub config_text: String,
    /// The evaluations, by step; at least one.
    pub evaluations: BTreeMap<u64, EvalRecord>,
    /// The metrics in order of step; of a step that was repeated after a resume, the last.
    pub metrics: Vec<Metrics>,
    /// What the first steps warned of.
    pub warnings: Vec<String>,
    /// The entries of `receipts.json`; empty where there is no such file.
    pub receipts: Vec<Receipt>,
}

impl RunRecords {
    /// The last evaluation and its step.
    ///
    /// # Panics
    ///
    /// When `evaluations` was emptied after reading.
    #[must_use]
    pub fn last(&self) -> (u64, &EvalRecord) {
        let (step, record) =
            self.evaluations.last_key_value().expect("a run that was read has an evaluation");
        (*step, record)
    }
}

/// Reads the run directory `directory`.
///
/// # Errors
///
/// When it is not a run directory (it has no `config.toml`), holds no evaluation, or one of its files is broken.
pub fn read_run(directory: &Path) -> Result<RunRecords, LabError> {
    let (config, config_text) = read_config(directory)?;
    let name = match config.get("name").and_then(toml::Value::as_str) {
        Some(name) => name.to_owned(),
        None => directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned(),
    };
    let (metrics, warnings) = read_metrics(&directory.join("metrics.jsonl"))?;
    Ok(RunRecords {
        directory: directory.into(),
        name,
        config,
        config_text,
        evaluations: read_evaluations(directory)?,
        metrics,
        warnings,
        receipts: read_receipts(&directory.join("receipts.json"))?,
    })
}

/// Names for several runs that tell them apart: a name that occurs twice is followed by its directory.
#[must_use]
pub fn distinct_names(runs: &[RunRecords]) -> Vec<String> {
    let occurs = |name: &str| runs.iter().filter(|run| run.name == name).count();
    let told_apart = |run: &RunRecords| match occurs(&run.name) {
        1 => run.name.clone(),
        _ => format!("{} ({})", run.name, run.directory.display()),
    };
    runs.iter().map(told_apart).collect()
}

fn read_config(directory: &Path) -> Result<(toml::Table, String), LabError> {
    let path = directory.join("config.toml");
    let Some(text) = read_if_there(&path)? else {
        return Err(LabError::NotARun { path: directory.into(), missing: "config.toml" });
    };
    let config = text.parse().map_err(|e: toml::de::Error| LabError::Toml { path, reason: e.to_string() })?;
    Ok((config, text))
}

fn read_evaluations(directory: &Path) -> Result<BTreeMap<u64, EvalRecord>, LabError> {
    let folder = directory.join("eval");
    let nothing = || LabError::NoEvaluation { path: directory.into() };
    if !folder.is_dir() {
        return Err(nothing());
    }
    let mut evaluations = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).map_err(LabError::file(&folder))? {
        let path = entry.map_err(LabError::file(&folder))?.path();
        if let Some(step) = step_of(&path) {
            evaluations.insert(step, EvalRecord::read(&path)?);
        }
    }
    if evaluations.is_empty() { Err(nothing()) } else { Ok(evaluations) }
}

/// The step in `step-NNNNNN.json`; `None` for any other name.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok()
}

/// The metrics of every step, and what the early ones warned of.
fn read_metrics(path: &Path) -> Result<(Vec<Metrics>, Vec<String>), LabError> {
    let text = read_if_there(path)?.unwrap_or_default();
    let mut by_step = BTreeMap::new();
    let mut warnings: Vec<String> = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<BTreeMap<String, serde_json::Value>>(line) {
            Ok(values) => {
                let told = values.get("warnings").and_then(serde_json::Value::as_array).into_iter().flatten();
                warnings.extend(told.filter_map(|warning| warning.as_str().map(str::to_owned)));
                let numbers: Metrics =
                    values.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect();
                by_step.insert(numbers.get("step").map_or(i as u64, |step| *step as u64), numbers);
            }
            // The run was cut off, or is still writing: a line without its end is not yet a line.
            Err(_) if !line.ends_with('\n') => {}
            Err(e) => return Err(LabError::json(path, i + 1, &e)),
        }
    }
    Ok((by_step.into_values().collect(), warnings))
}

fn read_receipts(path: &Path) -> Result<Vec<Receipt>, LabError> {
    let Some(text) = read_if_there(path)? else { return Ok(vec![]) };
    serde_json::from_str(&text).map_err(|e| LabError::json(path, e.line(), &e))
}

fn read_if_there(path: &Path) -> Result<Option<String>, LabError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(LabError::file(path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::made_up::{level, record};
    use std::fs::{create_dir, write};

    /// A run directory with a configuration and evaluations at steps 0 and 20.
    fn run() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        write(path.join("config.toml"), "name = \"e5b\"\n[train]\nepochs = 2\n").unwrap();
        create_dir(path.join("eval")).unwrap();
        for step in [0, 20] {
            let record = record(vec![level(0.0, 5, |i| i < step)]);
            record.write(&path.join(format!("eval/step-{step:06}.json"))).unwrap();
        }
        directory
    }

    #[test]
    fn a_run_is_read_with_its_last_evaluation() {
        let directory = run();
        write(directory.path().join("eval/notes.txt"), "not a record").unwrap();
        let run = read_run(directory.path()).unwrap();
        assert_eq!((run.name.as_str(), run.last().0, run.evaluations.len()), ("e5b", 20, 2));
        assert!(run.metrics.is_empty() && run.receipts.is_empty());
    }

    #[test]
    fn metrics_survive_a_run_that_was_cut_off_or_resumed() {
        let directory = run();
        let lines = "{\"step\":1,\"kl\":0.1,\"note\":\"x\"}\n{\"step\":2,\"kl\":null}\n{\"step\":2,\"kl\":0.3}\n{\"st";
        write(directory.path().join("metrics.jsonl"), lines).unwrap();
        let metrics = read_run(directory.path()).unwrap().metrics;
        assert_eq!(metrics.iter().map(|line| line["kl"]).collect::<Vec<_>>(), [0.1, 0.3]);
    }

    #[test]
    fn broken_files_are_named_with_their_line() {
        let directory = run();
        write(directory.path().join("metrics.jsonl"), "{\"step\":1}\nnonsense\n{\"step\":3}\n").unwrap();
        let message = read_run(directory.path()).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl:2:"), "{message}");
        std::fs::remove_file(directory.path().join("metrics.jsonl")).unwrap();
        write(directory.path().join("receipts.json"), "[\n\n{]").unwrap();
        let message = read_run(directory.path()).unwrap_err().to_string();
        assert!(message.contains("receipts.json:3:"), "{message}");
    }

    #[test]
    fn what_is_no_run_is_said_to_be_none() {
        let empty = tempfile::tempdir().unwrap();
        let message = read_run(empty.path()).unwrap_err().to_string();
        assert!(message.contains("is not a run directory"), "{message}");
        assert!(
            read_run(&empty.path().join("absent"))
                .unwrap_err()
                .to_string()
                .contains("is not a run directory")
        );
        write(empty.path().join("config.toml"), "name = \"x\"\n").unwrap();
        let message = read_run(empty.path()).unwrap_err().to_string();
        assert!(message.contains("holds no evaluation"), "{message}");
        write(empty.path().join("config.toml"), "name = \n").unwrap();
        let message = read_run(empty.path()).unwrap_err().to_string();
        assert!(message.contains("config.toml") && message.contains("line 1"), "{message}");
    }

    #[test]
    fn runs_of_one_name_are_told_apart_by_directory() {
        let (one, other) = (run(), run());
        let runs = [read_run(one.path()).unwrap(), read_run(other.path()).unwrap()];
        let names = distinct_names(&runs);
        assert!(names[0] != names[1] && names[0].starts_with("e5b ("));
        assert_eq!(distinct_names(&runs[..1]), ["e5b"]);
    }
}
