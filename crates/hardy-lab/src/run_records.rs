//! Reading what a run left behind: its configuration, its evaluations, its metrics and its receipts. A run that was
//! cut off while writing a line of metrics is still readable; anything else that is broken is named with its line.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hardy_ops::Receipt;

use crate::error::LabError;
use crate::metric_table::MetricTable;
use crate::metrics_file::MetricsFile;
use crate::record::EvalRecord;

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
    /// The numbers of every step.
    pub metrics: MetricTable,
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
    let begun = read_begun(directory)?;
    Ok(RunRecords {
        evaluations: read_evaluations(directory)?,
        metrics: read_metrics(directory)?,
        receipts: read_receipts(directory)?,
        ..begun
    })
}

/// What a run that has just begun has: its name and its configuration.
///
/// # Errors
///
/// When it is not a run directory, or its configuration is broken.
pub(crate) fn read_begun(directory: &Path) -> Result<RunRecords, LabError> {
    let (config, config_text) = read_config(directory)?;
    let name = match config.get("name").and_then(toml::Value::as_str) {
        Some(name) => name.to_owned(),
        None => directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned(),
    };
    Ok(RunRecords {
        directory: directory.into(),
        name,
        config,
        config_text,
        evaluations: BTreeMap::new(),
        metrics: MetricTable::default(),
        receipts: Vec::new(),
    })
}

/// Names for several runs that tell them apart: a name that occurs twice is followed by its directory, without the folders
/// that all runs of that name lie in.
#[must_use]
pub fn distinct_names<R: Borrow<RunRecords>>(runs: &[R]) -> Vec<String> {
    let runs = || runs.iter().map(Borrow::borrow);
    let told_apart = |run: &RunRecords| {
        let same: Vec<&Path> =
            runs().filter(|other| other.name == run.name).map(|other| other.directory.as_path()).collect();
        match same.len() {
            1 => run.name.clone(),
            _ => format!("{} ({})", run.name, below(common_folder(&same), &run.directory).display()),
        }
    };
    runs().map(told_apart).collect()
}

/// The innermost folder that all `paths` lie in; it is none of them.
pub(crate) fn common_folder<'a>(paths: &[&'a Path]) -> &'a Path {
    let first = paths.first().copied().unwrap_or(Path::new(""));
    let mut folders = first.ancestors().skip(1);
    folders
        .find(|folder| paths.iter().all(|path| path.starts_with(folder) && path != folder))
        .unwrap_or(Path::new(""))
}

/// `path` as it is called within `folder`.
pub(crate) fn below<'a>(folder: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(folder).unwrap_or(path)
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
    let files = evaluation_files(directory)?;
    if files.is_empty() {
        return Err(LabError::NoEvaluation { path: directory.into() });
    }
    files.into_iter().map(|(step, path)| Ok((step, EvalRecord::read(&path)?))).collect()
}

/// The records of evaluations by step; none where there is no such folder yet.
pub(crate) fn evaluation_files(directory: &Path) -> Result<BTreeMap<u64, PathBuf>, LabError> {
    let folder = directory.join("eval");
    if !folder.is_dir() {
        return Ok(BTreeMap::new());
    }
    let entries = std::fs::read_dir(&folder).map_err(LabError::file(&folder))?;
    let paths = entries.map(|entry| Ok(entry.map_err(LabError::file(&folder))?.path()));
    let paths = paths.collect::<Result<Vec<PathBuf>, LabError>>()?;
    Ok(paths.into_iter().filter_map(|path| Some((step_of(&path)?, path))).collect())
}

/// The step in `step-NNNNNN.json`; `None` for any other name.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok()
}

fn read_metrics(directory: &Path) -> Result<MetricTable, LabError> {
    let mut table = MetricTable::default();
    MetricsFile::new(&directory.join("metrics.jsonl")).read_new(&mut table)?;
    Ok(table)
}

pub(crate) fn read_receipts(directory: &Path) -> Result<Vec<Receipt>, LabError> {
    let path = directory.join("receipts.json");
    let Some(text) = read_if_there(&path)? else { return Ok(vec![]) };
    serde_json::from_str(&text).map_err(|e| LabError::json(&path, e.line(), &e))
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
        assert_eq!(metrics.values("kl").collect::<Vec<_>>(), [(1, 0.1), (2, 0.3)]);
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
        let folder = |run: &tempfile::TempDir| run.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(names, [one, other].each_ref().map(|run| format!("e5b ({})", folder(run))));
        assert_eq!(distinct_names(&runs[..1]), ["e5b"]);
        let paths = ["/a/b/c/d", "/a/b/e", "/a/b/c/f"].map(Path::new);
        assert_eq!(
            (common_folder(&paths), common_folder(&paths[..1])),
            (Path::new("/a/b"), Path::new("/a/b/c"))
        );
        assert_eq!(common_folder(&[Path::new("x"), Path::new("/y")]), Path::new(""));
        // A run within another's directory.
        assert_eq!(common_folder(&["/a/b", "/a/b/c"].map(Path::new)), Path::new("/a"));
    }
}
