//! One run that is followed: its metrics line by line, of its evaluations every record once, its receipts when they are
//! written anew.

use std::{
    collections::btree_map::Entry,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hardy_train::sampler::steps_per_epoch;

use crate::{
    error::LabError,
    metrics_file::MetricsFile,
    record::EvalRecord,
    run_records::{RunRecords, evaluation_files, read_begun, read_receipts},
};

/// Evaluations that are read of a run, spread over its steps; a curve shows no more, and every record is large.
pub(super) const MOST_EVALUATIONS: usize = 40;
/// A run that has written nothing for so long, or for so many of its steps, has stopped.
const SILENCE: Duration = Duration::from_secs(600);
const SILENT_STEPS: f64 = 20.0;

/// A run directory, as far as it has been read.
#[derive(Debug)]
pub struct Followed {
    directory: PathBuf,
    records: Option<RunRecords>,
    metrics: MetricsFile,
    /// When the receipts that were read were written.
    receipts: Option<SystemTime>,
    /// What could not be read.
    problem: Option<String>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It writes.
    Running,
    /// Its last step is made, evaluated and reported.
    Finished,
    /// It has written nothing for long.
    Silent,
}

impl Followed {
    /// The run in `directory`, of which nothing has been read.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            records: None,
            metrics: MetricsFile::new(&directory.join("metrics.jsonl")),
            receipts: None,
            problem: None,
        }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What could not be read, in a sentence.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What was read; `None` before its configuration could be.
    #[must_use]
    pub fn records(&self) -> Option<&RunRecords> {
        self.records.as_ref()
    }

    /// Its records, where it has been evaluated.
    pub(super) fn judged(&self) -> Option<&RunRecords> {
        self.records.as_ref().filter(|records| !records.evaluations.is_empty())
    }

    /// Steps in all; `None` where the configuration does not say, because it names a file and takes all its problems.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let config = &self.records.as_ref()?.config;
        let number = |section: &str, key: &str| {
            let value = config.get(section)?.get(key)?.as_integer()?;
            usize::try_from(value).ok().filter(|number| *number > 0)
        };
        let by_epochs = || {
            let per_epoch =
                steps_per_epoch(number("data", "train_problems")?, number("train", "prompts_per_step")?);
            Some(per_epoch * number("train", "epochs").unwrap_or(1))
        };
        number("train", "steps").or_else(by_epochs).map(|steps| steps as u64)
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Status {
        let Some(records) = &self.records else { return Status::Running };
        if self.reported() {
            return Status::Finished;
        }
        let step = Duration::try_from_secs_f64(
            SILENT_STEPS * records.metrics.recent("step_seconds", 20).unwrap_or(0.0),
        );
        let patience = SILENCE.max(step.unwrap_or(SILENCE));
        let silent = |written: SystemTime| now.duration_since(written).is_ok_and(|since| since > patience);
        if self.written().is_some_and(silent) { Status::Silent } else { Status::Running }
    }

    /// Seconds until its last step, at the pace of the last 20; without the evaluations to come.
    #[must_use]
    pub fn seconds_left(&self) -> Option<f64> {
        let metrics = &self.records.as_ref()?.metrics;
        let left = self.total()?.saturating_sub(metrics.last_step().unwrap_or(0));
        Some(left as f64 * metrics.recent("step_seconds", 20)?)
    }

    /// Whether its report, the last thing that a run writes, is there and of this run.
    fn reported(&self) -> bool {
        let report = self.written_at("report.html");
        report.is_some() && report >= self.written_at("metrics.jsonl")
    }

    /// When one of its files was last written.
    fn written(&self) -> Option<SystemTime> {
        ["metrics.jsonl", "eval", "config.toml"].iter().filter_map(|file| self.written_at(file)).max()
    }

    fn written_at(&self, file: &str) -> Option<SystemTime> {
        fs::metadata(self.directory.join(file)).ok()?.modified().ok()
    }

    /// Reads what is new; says whether anything is.
    pub fn refresh(&mut self) -> bool {
        self.refresh_with(MOST_EVALUATIONS)
    }

    /// The same with at most so many evaluations, and the last.
    pub(super) fn refresh_with(&mut self, most: usize) -> bool {
        let before = self.problem.take();
        let changed = self.read(most).unwrap_or_else(|reason| {
            self.problem = Some(reason.to_string());
            false
        });
        changed || self.problem != before
    }

    fn read(&mut self, most: usize) -> Result<bool, LabError> {
        let begun = self.records.is_none();
        if begun {
            self.records = Some(read_begun(&self.directory)?);
        }
        let Some(records) = &mut self.records else { return Ok(false) };
        let evaluated = read_evaluations(&self.directory, records, most)?;
        let receipts =
            fs::metadata(self.directory.join("receipts.json")).and_then(|file| file.modified()).ok();
        let injected = receipts.is_some() && receipts != self.receipts;
        if injected {
            records.receipts = read_receipts(&self.directory)?;
            self.receipts = receipts;
        }
        let stepped = self.metrics.read_new(&mut records.metrics)?;
        Ok(begun || evaluated || injected || stepped)
    }
}

/// Reads the records that are wanted and not yet there, `most` of them and the last.
fn read_evaluations(directory: &Path, records: &mut RunRecords, most: usize) -> Result<bool, LabError> {
    let files = evaluation_files(directory)?;
    let stride = files.len().div_ceil(most.max(1)).max(1);
    let last = files.len().saturating_sub(1);
    let wanted = files.into_iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last);
    let wanted: Vec<(u64, PathBuf)> = wanted.map(|(_, file)| file).collect();
    let known = records.evaluations.len();
    records.evaluations.retain(|step, _| wanted.iter().any(|(kept, _)| kept == step));
    let mut changed = records.evaluations.len() != known;
    let ends = [wanted.first(), wanted.last()].map(|end| end.map(|(step, _)| *step));
    for (step, path) in wanted {
        if let Entry::Vacant(place) = records.evaluations.entry(step) {
            let mut record = EvalRecord::read(&path)?;
            if !ends.contains(&Some(step)) {
                lighten(&mut record);
            }
            place.insert(record);
            changed = true;
        }
    }
    if changed {
        // What was the last may no longer be.
        let between = records.evaluations.iter_mut().filter(|(step, _)| !ends.contains(&Some(**step)));
        between.for_each(|(_, record)| lighten(record));
    }
    Ok(changed)
}

/// Drops the texts of a record: nothing shows them but those of the first and the last evaluation, and they are most of it.
fn lighten(record: &mut EvalRecord) {
    for level in &mut record.levels {
        level.receipts = Vec::new();
        let draws = level.draws.iter_mut().flat_map(|draw| &mut draw.problems);
        for problem in level.problems.iter_mut().chain(draws) {
            problem.truth = String::new();
            for answer in std::iter::once(&mut problem.first).chain(&mut problem.samples) {
                (answer.response, answer.answer) = (String::new(), None);
            }
        }
        level.problems.shrink_to_fit();
    }
}
